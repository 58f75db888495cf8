//! A WASI 0.2 with nothing in it, for guests whose language drags it in: no files, environment, arguments, sockets or input.
//! Time and randomness are the call's own, so that a call can be repeated exactly; output goes to the plugin's log; nothing
//! can wait, because a wait would hold a thread that the deadline cannot take back.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime::{Engine, bail};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::{clocks, random, sockets, sync};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Network, OutputStream, Pollable, SocketError, SocketResult,
    StreamError, StreamResult, TcpSocket, UdpSocket, subscribe,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::limits::Limiter;
use super::types::CallContext;

const MAX_RANDOM: u64 = 64 << 10;
const MAX_LINE: usize = 500;
const MAX_HANDLES: usize = 1_000;

/// What a store holds for its guest.
pub(super) struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    pub limiter: Limiter,
    now_ms: u64,
    random: u64,
}

impl Guest {
    pub(super) fn new(memory_bytes: usize, log: &Log) -> Self {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.clone()).stderr(log.clone());
        let mut table = ResourceTable::new();
        // Handles are the host's memory: a guest that asks for its output again and again crashes.
        table.set_max_capacity(MAX_HANDLES);
        Self { wasi: wasi.build(), table, limiter: Limiter::new(memory_bytes), now_ms: 0, random: 0 }
    }

    /// Sets clock and randomness to those of the next call.
    pub(super) fn begin(&mut self, ctx: &CallContext) {
        self.now_ms = u64::try_from(ctx.now.as_ms()).unwrap_or(0);
        self.random = u64::from(ctx.random);
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        if len > MAX_RANDOM {
            bail!("a plugin can ask for at most {MAX_RANDOM} random bytes at once");
        }
        let len = usize::try_from(len)?;
        let mut out: Vec<u8> =
            std::iter::repeat_with(|| self.next_random().to_le_bytes()).take(len.div_ceil(8)).flatten().collect();
        out.truncate(len);
        Ok(out)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// WASI as the standard implementation has it, and over it what must differ.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    linker.allow_shadowing(true);
    let l = &mut linker;
    clocks::wall_clock::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    clocks::monotonic_clock::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    random::random::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    random::insecure::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    random::insecure_seed::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    sockets::tcp_create_socket::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    sync::sockets::udp_create_socket::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    sync::io::poll::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    sync::io::streams::add_to_linker::<Guest, HasSelf<Guest>>(l, |g| g)?;
    Ok(linker)
}

impl clocks::wall_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        let nanoseconds = u32::try_from(self.now_ms % 1000)? * 1_000_000;
        Ok(clocks::wall_clock::Datetime { seconds: self.now_ms / 1000, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}

impl clocks::monotonic_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now_ms.saturating_mul(1_000_000))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        bail!("a plugin cannot wait: answer with a delay instead")
    }

    fn subscribe_duration(&mut self, _duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        bail!("a plugin cannot wait: answer with a delay instead")
    }
}

impl random::random::Host for Guest {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.next_random())
    }
}

impl random::insecure::Host for Guest {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.next_random())
    }
}

impl random::insecure_seed::Host for Guest {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        // The same for all calls: seeds of hash tables outlive the call that asks for them.
        Ok((0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9))
    }
}

impl sockets::network::Host for Guest {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<sockets::network::ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        _: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<sockets::network::ErrorCode>> {
        Ok(None)
    }
}

impl sockets::network::HostNetwork for Guest {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}

impl sockets::tcp_create_socket::Host for Guest {
    fn create_tcp_socket(&mut self, _: sockets::network::IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        Err(sockets::network::ErrorCode::AccessDenied.into())
    }
}

impl sync::sockets::udp_create_socket::Host for Guest {
    fn create_udp_socket(&mut self, _: sockets::network::IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Err(sockets::network::ErrorCode::AccessDenied.into())
    }
}

// Every pollable that a plugin can get belongs to a stream of its own output or empty input, and those are always ready.
impl sync::io::poll::Host for Guest {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        Ok((0..u32::try_from(pollables.len())?).collect())
    }
}

impl sync::io::poll::HostPollable for Guest {
    fn ready(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<()> {
        Ok(())
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.table.delete(pollable)?;
        Ok(())
    }
}

impl sync::io::streams::Host for Guest {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<sync::io::streams::StreamError> {
        match error {
            StreamError::Closed => Ok(sync::io::streams::StreamError::Closed),
            StreamError::LastOperationFailed(error) => {
                Ok(sync::io::streams::StreamError::LastOperationFailed(self.table.push(error)?))
            }
            StreamError::Trap(error) => Err(error),
        }
    }
}

impl sync::io::streams::HostOutputStream for Guest {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(u64::try_from(self.table.get_mut(&stream)?.check_write()?).unwrap_or(u64::MAX))
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.table.get_mut(&stream)?.write(bytes.into())
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn write_zeroes(&mut self, _: Resource<DynOutputStream>, _: u64) -> StreamResult<()> {
        Err(StreamError::trap("a plugin's output is text"))
    }

    fn blocking_write_zeroes_and_flush(&mut self, _: Resource<DynOutputStream>, _: u64) -> StreamResult<()> {
        Err(StreamError::trap("a plugin's output is text"))
    }

    fn splice(&mut self, _: Resource<DynOutputStream>, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl sync::io::streams::HostInputStream for Guest {
    fn read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn blocking_read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

/// The latest lines that the instances of a plugin version wrote.
#[derive(Debug, Clone)]
pub(super) struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    max: usize,
}

impl Log {
    pub(super) fn new(max: usize) -> Self {
        Self { lines: Arc::default(), max }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().iter().cloned().collect()
    }

    fn append(&self, bytes: &[u8]) {
        let mut lines = self.lines.lock();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let text = String::from_utf8_lossy(piece);
            match lines.back_mut() {
                // A line that is not at its end yet goes on.
                Some(last) if !last.ends_with('\n') => {
                    let room = MAX_LINE.saturating_sub(last.len());
                    if text.len() <= room {
                        last.push_str(&text);
                    } else {
                        last.extend(text.chars().take(room / 4));
                        last.push('\n');
                    }
                }
                _ => {
                    let mut line = text.into_owned();
                    if line.len() > MAX_LINE {
                        crate::message::truncate(&mut line, MAX_LINE);
                        line.push('\n');
                    }
                    lines.push_back(line);
                }
            }
            while lines.len() > self.max {
                lines.pop_front();
            }
        }
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Log {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(4096)
    }
}

#[async_trait::async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn the_log_is_bounded_in_lines_and_in_their_length() {
        let log = Log::new(3);
        for n in 0..10 {
            log.append(format!("line {n}\n").as_bytes());
        }
        log.append(&[b'x'; 10_000]);
        log.append(b"y");
        let lines = log.lines();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|l| l.len() <= MAX_LINE + 1));
    }

    #[test]
    fn time_and_randomness_are_those_of_the_call() {
        let mut guest = Guest::new(1 << 20, &Log::new(1));
        let ctx = CallContext { config: "".into(), now: Time::from_ms(1_234), random: 7, timer: None };
        guest.begin(&ctx);
        let first = guest.random_bytes(13).unwrap();
        guest.begin(&ctx);
        assert_eq!(guest.random_bytes(13).unwrap(), first);
        assert_eq!(clocks::monotonic_clock::Host::now(&mut guest).unwrap(), 1_234_000_000);
        assert!(clocks::monotonic_clock::Host::subscribe_duration(&mut guest, 1).is_err());
        assert!(guest.random_bytes(MAX_RANDOM + 1).is_err());
    }
}

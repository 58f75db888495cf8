//! A TCP proxy between a server and a backend, for what networks do: delay, cut, swallow. It can also strike at the very
//! moment at which certain bytes pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It passes.
    Pass,
    /// Each piece is held up for so long.
    Slow(Duration),
    /// Connections are closed, new ones too.
    Cut,
    /// Nothing passes, and nobody is told.
    Swallow,
}

/// Where traffic goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the server to the backend.
    Out,
    /// From the backend to the server.
    Back,
}

/// Says `true` to the piece that is waited for, given the number of its connection.
pub type Matches = Box<dyn FnMut(u64, Way, &[u8]) -> bool + Send>;

/// Strikes once, when a piece passes of which `matches` says `true`. The piece is not passed on.
pub struct Trap {
    /// Which pieces.
    pub matches: Matches,
    /// What happens.
    pub strike: Box<dyn FnOnce() + Send>,
}

struct Shared {
    mode: watch::Sender<Mode>,
    trap: Mutex<Option<Trap>>,
    connections: AtomicU64,
}

/// A running proxy.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
        self.shared.mode.send_replace(Mode::Cut);
    }
}

impl Proxy {
    /// Starts a proxy to a port of the loopback.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Pass),
            trap: Mutex::default(),
            connections: AtomicU64::new(0),
        });
        let all = shared.clone();
        let server = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let shared = all.clone();
                tokio::spawn(async move {
                    if *shared.mode.borrow() == Mode::Cut {
                        return;
                    }
                    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = pass(number, near_in, far_out, Way::Out, &shared) => {}
                        () = pass(number, far_in, near_out, Way::Back, &shared) => {}
                    }
                });
            }
        });
        Self { port, shared, server }
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Sets a trap in the place of the one before.
    pub fn set_trap(&self, trap: Trap) {
        *self.shared.trap.lock() = Some(trap);
    }

    /// Takes the trap away.
    pub fn clear_trap(&self) {
        *self.shared.trap.lock() = None;
    }
}

/// Passes one way until either side ends or the connection is cut.
async fn pass(connection: u64, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, shared: &Shared) {
    let mut mode = shared.mode.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = mode.changed() => {
                if changed.is_err() || *mode.borrow() == Mode::Cut {
                    return;
                }
                continue;
            }
        };
        let Ok(length @ 1..) = read else { return };
        let sprung = {
            let mut trap = shared.trap.lock();
            let hit = trap.as_mut().is_some_and(|trap| (trap.matches)(connection, way, &buffer[..length]));
            if hit { trap.take() } else { None }
        };
        if let Some(trap) = sprung {
            (trap.strike)();
            return;
        }
        let now = *mode.borrow_and_update();
        match now {
            Mode::Pass => {}
            Mode::Slow(by) => tokio::time::sleep(by).await,
            Mode::Cut => return,
            // What was swallowed is gone, and a stream with a hole in it is worth nothing.
            Mode::Swallow => {
                let _ended = mode.wait_for(|mode| *mode != Mode::Swallow).await;
                return;
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

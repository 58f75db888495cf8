//! The JSON object that the bench prints.

use serde::Serialize;

use super::Args;
use super::ledger::Ledger;
use super::pacing::Summary;
use super::sink::SinkReport;
use crate::core::Core;
use crate::message::Counts;

/// Seconds per phase.
#[derive(Debug, Default, Serialize)]
pub struct Seconds {
    /// Making the devices.
    pub devices: f64,
    /// Importing the audience.
    pub import: f64,
    /// From the launch until every contact was a message (to within a tenth of a second).
    pub expand: f64,
    /// From the first begin of a message to the end of the last one. Workers are held back until everything is expanded.
    pub drain: f64,
}

/// What was spent, from some moment on.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    statements: u64,
    commands: u64,
    log_bytes: Option<u64>,
    cpu_us: Option<u64>,
}

impl Spent {
    /// Since the beginning.
    pub async fn so_far(core: &Core) -> anyhow::Result<Self> {
        Ok(Self {
            statements: core.store.statements(),
            commands: core.queue.commands(),
            log_bytes: core.store.health().await?.log_bytes,
            cpu_us: cpu_us(),
        })
    }

    /// Since an earlier moment.
    pub fn since(self, before: &Self) -> Self {
        let less = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Self {
            statements: self.statements.saturating_sub(before.statements),
            commands: self.commands.saturating_sub(before.commands),
            log_bytes: less(self.log_bytes, before.log_bytes),
            cpu_us: less(self.cpu_us, before.cpu_us),
        }
    }
}

/// What was measured. Times in milliseconds unless named otherwise.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// Whether no message was lost, doubled, overtaken or early.
    pub ok: bool,
    /// `postgres` or `sqlite`.
    pub store: &'static str,
    /// `redis`, `redis-cluster` or `memory`.
    pub queue: &'static str,
    /// `simulator` or `http`.
    pub sender: &'static str,
    /// Messages asked for.
    pub messages: u32,
    /// Messages that ended: all, unless it was stopped after some.
    pub ended: u64,
    /// Devices.
    pub devices: u32,
    /// Most sends in flight.
    pub workers: u32,
    /// The delay asked for, shortest and longest.
    pub delay_ms: [u64; 2],
    /// Processors of this machine.
    pub cpus: usize,
    /// Seconds per phase.
    pub seconds: Seconds,
    /// Messages a second while draining.
    pub msg_per_s: f64,
    /// Messages a second, expanding and draining together.
    pub msg_per_s_end_to_end: f64,
    /// From when a message's device could send it until it was sent.
    pub latency_ms: Summary,
    /// By how much devices waited longer than asked: at the sink where there is one, else from the store's times.
    pub pacing_error_ms: Summary,
    /// Sends that came sooner than asked.
    pub early: u64,
    /// Messages that arrived more than once (at the sink), or were sent more than once (in the store).
    pub duplicates: u64,
    /// Messages that were not accepted, or that the sink never saw.
    pub losses: u64,
    /// Messages that overtook an older one of their device.
    pub order_violations: u64,
    /// Messages per state.
    pub counts: Counts,
    /// The sink's own ledger, where there is one.
    pub sink: Option<SinkReport>,
    /// The most memory this process ever had, in bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Processor time of this process per message, in microseconds, from the launch to the end.
    pub cpu_us_per_message: Option<f64>,
    /// SQL statements per message, from the launch to the end.
    pub sql_per_message: f64,
    /// Redis commands per message, from the launch to the end.
    pub redis_per_message: f64,
    /// Bytes of write-ahead log per message (of the whole database server), from the launch to the end; not measured for
    /// SQLite.
    pub wal_bytes_per_message: Option<f64>,
    /// Calls of plugins.
    pub plugin_calls: Option<u64>,
    /// Microseconds per call of a plugin.
    pub plugin_us_per_call: Option<f64>,
}

impl Report {
    /// Puts together what was measured.
    pub fn new(
        args: &Args,
        core: &Core,
        seconds: Seconds,
        ledger: &Ledger,
        counts: Counts,
        sink: Option<SinkReport>,
        spent: &Spent,
    ) -> Self {
        // All of them, unless it was stopped before.
        let messages = ledger.ended();
        let per_message = |n: u64| n as f64 / messages.max(1) as f64;
        let missing = |seen: u64| messages.saturating_sub(seen);
        let losses = missing(ledger.accepted()).max(sink.as_ref().map_or(0, |s| missing(s.messages.min(s.addresses))));
        let duplicates = sink.as_ref().map_or(ledger.repeated(), |s| s.duplicates);
        let order_violations = ledger.order_violations() + sink.as_ref().map_or(0, |s| s.order_violations);
        let early = sink.as_ref().map_or(ledger.early(), |s| s.early);
        let unreadable = sink.as_ref().map_or(0, |s| s.unreadable);
        let all = u64::from(args.messages);
        let stopped = args.stop_after.is_some_and(|n| n < args.messages);
        let complete = counts.total() == all
            && messages == all - counts.open()
            && (stopped || (ledger.rows() == all && counts.open() == 0));
        let (plugin_calls, plugin_us_per_call) = plugin_calls(core);
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ok: complete && losses + duplicates + order_violations + early + unreadable == 0,
            store: core.store.kind(),
            queue: core.queue.kind(),
            sender: if sink.is_some() { "http" } else { "simulator" },
            messages: args.messages,
            ended: messages,
            devices: args.devices,
            workers: args.workers,
            delay_ms: [ms(args.delay_ms.min), ms(args.delay_ms.max)],
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            msg_per_s: rate(messages, seconds.drain),
            msg_per_s_end_to_end: rate(messages, seconds.expand + seconds.drain),
            seconds,
            latency_ms: ledger.latency(),
            pacing_error_ms: sink.as_ref().map_or_else(|| ledger.pacing_error(), |s| s.pacing_error_ms),
            early,
            duplicates,
            losses,
            order_violations,
            counts,
            sink,
            peak_rss_bytes: peak_rss(),
            cpu_us_per_message: spent.cpu_us.map(per_message),
            sql_per_message: per_message(spent.statements),
            redis_per_message: per_message(spent.commands),
            wal_bytes_per_message: spent.log_bytes.map(per_message),
            plugin_calls,
            plugin_us_per_call,
        }
    }
}

fn rate(messages: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { messages as f64 / seconds } else { 0.0 }
}

/// Calls of plugins in this process, and microseconds per call.
fn plugin_calls(core: &Core) -> (Option<u64>, Option<f64>) {
    let (mut calls, mut total_us) = (0, 0);
    for plugin in core.plugins.loaded() {
        for function in plugin.stats().functions {
            calls += function.calls;
            total_us += function.total_us;
        }
    }
    match calls {
        0 => (None, None),
        _ => (Some(calls), Some(total_us as f64 / calls as f64)),
    }
}

/// Processor time of this process, where the kernel tells.
fn cpu_us() -> Option<u64> {
    /// Of a tick: a hundredth of a second on every Linux.
    const TICK_US: u64 = 10_000;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold blanks: user and system time are the 12th and the 13th field.
    let mut times =
        stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
    Some((times.next()? + times.next()?) * TICK_US)
}

/// The most memory this process ever had, where the kernel tells.
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn linux_tells_the_peak_memory() {
        assert!(super::peak_rss().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn linux_tells_the_processor_time() {
        let before = super::cpu_us().unwrap();
        // Asking takes time, too.
        while super::cpu_us().unwrap() == before {}
    }
}

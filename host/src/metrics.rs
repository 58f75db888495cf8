//! What a server counts, for Prometheus and for its own pages. Labels are few and bounded: never an address, a device or a
//! campaign.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::message::{Settled, Settlement, took};
use crate::operations::rates::Rates;
use crate::plugins::Plugin;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    kind: &'static str,
    plugin: String,
    version: String,
    function: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fault {
    plugin: String,
    version: String,
    fault: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Part {
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
    route: String,
    status: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

/// A step of the hot path that works on many messages at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Claiming devices in the queue.
    Claim,
    /// `Store::turn`: ends and begins.
    Turn,
    /// Giving devices back to the queue.
    Release,
    /// Filling devices' queues.
    TopUp,
}

impl Group {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Turn => "turn",
            Self::Release => "release",
            Self::TopUp => "top_up",
        }
    }
}

/// A part of the cluster that can be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The SQL store.
    Store,
    /// The queue.
    Queue,
}

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    /// How fast runs send.
    pub rates: Rates,
    registry: Registry,
    messages: Family<Outcome, Counter>,
    attempts: Counter,
    attempt_seconds: Histogram,
    stale: Counter,
    batch_size: Family<Step, Histogram, fn() -> Histogram>,
    batch_seconds: Family<Step, Histogram, fn() -> Histogram>,
    errors: Family<Part, Counter>,
    active_workers: Gauge,
    http: Family<Call, Counter>,
    http_seconds: Family<Route, Histogram, fn() -> Histogram>,
}

/// 100 µs to about 50 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 20))
}

/// 1 to 1024.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("carillon");
        let metrics = Self {
            rates: Rates::default(),
            messages: Family::default(),
            attempts: Counter::default(),
            attempt_seconds: seconds(),
            stale: Counter::default(),
            batch_size: Family::new_with_constructor(sizes),
            batch_seconds: Family::new_with_constructor(seconds),
            errors: Family::default(),
            active_workers: Gauge::default(),
            http: Family::default(),
            http_seconds: Family::new_with_constructor(seconds),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("messages", "Attempts that were settled by this server, by outcome", metrics.messages.clone());
        r.register("attempts", "Messages taken to be sent by this server", metrics.attempts.clone());
        r.register("attempt_seconds", "How long attempts took", metrics.attempt_seconds.clone());
        r.register("stale_settlements", "Results that came too late to count", metrics.stale.clone());
        r.register("batch_size", "Elements handled together in a step of the hot path", metrics.batch_size.clone());
        r.register("batch_seconds", "How long a step of the hot path took", metrics.batch_seconds.clone());
        r.register("backend_errors", "Calls of store and queue that failed", metrics.errors.clone());
        r.register("active_workers", "Sends in flight on this server", metrics.active_workers.clone());
        r.register("http_requests", "Requests answered, by route and status", metrics.http.clone());
        r.register("http_request_seconds", "How long requests took, by route", metrics.http_seconds.clone());
        Self { registry, ..metrics }
    }

    /// Messages were taken to be sent.
    pub fn begun(&self, count: usize) {
        self.attempts.inc_by(count as u64);
    }

    /// Attempts ended; `applied` says which of them counted.
    pub fn settled(&self, batch: &[Settlement], applied: &[bool]) {
        let mut counts: Vec<(&'static str, u64)> = Vec::new();
        for (settlement, applied) in batch.iter().zip(applied) {
            if !applied {
                self.stale.inc();
                continue;
            }
            let outcome = match &settlement.outcome {
                Settled::Sent { delivered: false, .. } => "sent",
                Settled::Sent { delivered: true, .. } => "delivered",
                Settled::Failed(_) => "failed",
                Settled::Unknown(_) => "unknown",
                Settled::Suppressed => "suppressed",
                Settled::Expired => "expired",
                Settled::Retry { .. } => "retry",
                Settled::Released => "released",
            };
            match counts.iter_mut().find(|(known, _)| *known == outcome) {
                Some((_, count)) => *count += 1,
                None => counts.push((outcome, 1)),
            }
            self.attempt_seconds.observe(took(settlement.started_at, settlement.finished_at).as_secs_f64());
        }
        for (outcome, count) in counts {
            self.messages.get_or_create(&Outcome { outcome }).inc_by(count);
        }
    }

    /// A step of the hot path handled `size` elements together.
    pub fn batch(&self, group: Group, size: usize, took: Duration) {
        let step = Step { step: group.as_str() };
        self.batch_size.get_or_create(&step).observe(size as f64);
        self.batch_seconds.get_or_create(&step).observe(took.as_secs_f64());
    }

    /// A call of the store or the queue failed.
    pub fn backend_error(&self, backend: Backend) {
        let part = match backend {
            Backend::Store => "store",
            Backend::Queue => "queue",
        };
        self.errors.get_or_create(&Part { part }).inc();
    }

    /// Sends in flight on this server now.
    pub fn set_active_workers(&self, count: u32) {
        self.active_workers.set(i64::from(count));
    }

    /// A request was answered. `route` is the pattern of the path, not the path.
    pub fn http_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let call = Call { method: method.to_owned(), route: route.to_owned(), status: u32::from(status) };
        self.http.get_or_create(&call).inc();
        self.http_seconds.get_or_create(&Route { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// Everything in the text format of OpenMetrics, with what store, queue and plugins count themselves.
    ///
    /// # Errors
    /// Never in practice: writing to memory does not fail.
    pub fn encode(&self, statements: u64, commands: u64, plugins: &[Arc<Plugin>]) -> Result<String, std::fmt::Error> {
        let mut others = Registry::with_prefix("carillon");
        for (name, help, value) in [
            ("store_statements", "SQL statements executed by this server", statements),
            ("queue_commands", "Commands sent to the queue by this server", commands),
        ] {
            others.register(name, help, ConstCounter::new(value));
        }
        plugin_counts(&mut others, plugins);
        let mut out = String::new();
        prometheus_client::encoding::text::encode_registry(&mut out, &self.registry)?;
        prometheus_client::encoding::text::encode_registry(&mut out, &others)?;
        prometheus_client::encoding::text::encode_eof(&mut out)?;
        Ok(out)
    }
}

/// What the plugin host counts of each version.
fn plugin_counts(registry: &mut Registry, plugins: &[Arc<Plugin>]) {
    let calls = Family::<PluginLabels, Counter>::default();
    let seconds = Family::<PluginLabels, Counter<f64, AtomicU64>>::default();
    let faults = Family::<Fault, Counter>::default();
    for plugin in plugins {
        let (name, version) = (plugin.info.name.clone(), plugin.info.version.clone());
        for counts in plugin.stats().functions {
            let labels = PluginLabels {
                kind: plugin.kind.as_str(),
                plugin: name.clone(),
                version: version.clone(),
                function: counts.function,
            };
            calls.get_or_create(&labels).inc_by(counts.calls);
            seconds.get_or_create(&labels).inc_by(counts.total_us as f64 / 1e6);
            for (fault, count) in [
                ("trap", counts.traps),
                ("deadline", counts.deadlines),
                ("memory", counts.memory),
                ("invalid-output", counts.invalid_output),
                ("error", counts.errors),
            ] {
                let labels = Fault { plugin: name.clone(), version: version.clone(), fault };
                faults.get_or_create(&labels).inc_by(count);
            }
        }
    }
    registry.register("plugin_calls", "Calls of plugins", calls);
    registry.register("plugin_call_seconds", "Time that calls of plugins took together", seconds);
    registry.register("plugin_faults", "Calls of plugins that failed, by what broke", faults);
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::new();
        metrics.begun(3);
        metrics.http_request("GET", "/api/v1/campaigns/{id}", 200, Duration::from_millis(3));
        let text = metrics.encode(5, 7, &[]).unwrap();
        for line in [
            "carillon_attempts_total 3",
            "carillon_http_requests_total{method=\"GET\",route=\"/api/v1/campaigns/{id}\",status=\"200\"} 1",
            "carillon_store_statements_total 5",
            "carillon_queue_commands_total 7",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

//! What a server counts, for Prometheus and for its own pages. Labels are few and bounded: never an address, a device or a
//! campaign. Every label value that is known beforehand is there from the start, with 0, so that the first count is seen as
//! an increase.

mod figures;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::message::{Settled, Settlement, took};
use crate::operations::rates::Rates;
use crate::plugin::PluginKind;
use crate::plugins::{HealthVerdict, Plugin};
use crate::resolution::{ResolveAs, Way};
use crate::rollout::{Mode, RolloutStatus, ShadowCounts};
use crate::store::HostRow;
use crate::trial::Trial;

pub use figures::{Figures, PauseReason};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resolution {
    way: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
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
struct Denied {
    plugin: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Received {
    plugin: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tried {
    plugin: String,
    version: String,
    mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shadowed {
    plugin: String,
    version: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndedAs {
    status: &'static str,
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
struct At {
    at: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
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
    const ALL: [Self; 4] = [Self::Claim, Self::Turn, Self::Release, Self::TopUp];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Turn => "turn",
            Self::Release => "release",
            Self::TopUp => "top_up",
        }
    }
}

/// Where a suppressed address was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuppressedAt {
    /// When the campaign's audience became messages.
    Expansion,
    /// When its message was to be begun.
    Begin,
    /// Right before the first byte.
    Send,
}

impl SuppressedAt {
    const ALL: [Self; 3] = [Self::Expansion, Self::Begin, Self::Send];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Expansion => "expansion",
            Self::Begin => "begin",
            Self::Send => "send",
        }
    }
}

/// How a token that is not known to be good was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// It is unknown or revoked.
    Wrong,
    /// It was not looked at: its address was wrong too often.
    Slowed,
}

impl AuthFailure {
    const ALL: [Self; 2] = [Self::Wrong, Self::Slowed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Slowed => "slowed",
        }
    }
}

/// Every outcome of an attempt.
const OUTCOMES: [&str; 8] = ["sent", "delivered", "failed", "unknown", "suppressed", "expired", "retry", "released"];

/// What others count, for a look at everything.
pub struct Counted<'a> {
    /// SQL statements, and calls of the store that failed.
    pub store: (u64, u64),
    /// Commands of the queue, and calls of it that failed.
    pub queue: (u64, u64),
    /// The plugin versions that are loaded.
    pub plugins: &'a [Arc<Plugin>],
    /// The rollouts that are running.
    pub trials: &'a [Arc<Trial>],
    /// The servers that are alive, as this one knows them.
    pub hosts: &'a [HostRow],
    /// The time on the monotonic clock.
    pub now: Duration,
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
    unknown: Gauge,
    resolutions: Family<Resolution, Counter>,
    health_checks: Family<Verdict, Counter>,
    batch_size: Family<Step, Histogram, fn() -> Histogram>,
    batch_seconds: Family<Step, Histogram, fn() -> Histogram>,
    begin_delay: Histogram,
    suppressed: Family<At, Counter>,
    auth_failures: Family<Kind, Counter>,
    active_workers: Gauge,
    worker_share: Gauge,
    max_workers: Gauge,
    devices_leased: Gauge,
    fallbacks: Family<OfPlugin, Counter>,
    receipts: Family<Received, Counter>,
    rollouts_ended: Family<EndedAs, Counter>,
    figures: Mutex<Option<Figures>>,
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
            unknown: Gauge::default(),
            resolutions: Family::default(),
            health_checks: Family::default(),
            batch_size: Family::new_with_constructor(sizes),
            batch_seconds: Family::new_with_constructor(seconds),
            begin_delay: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            suppressed: Family::default(),
            auth_failures: Family::default(),
            active_workers: Gauge::default(),
            worker_share: Gauge::default(),
            max_workers: Gauge::default(),
            devices_leased: Gauge::default(),
            fallbacks: Family::default(),
            receipts: Family::default(),
            rollouts_ended: Family::default(),
            figures: Mutex::default(),
            http: Family::default(),
            http_seconds: Family::new_with_constructor(seconds),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("messages", "Attempts that were settled by this server, by outcome", metrics.messages.clone());
        r.register("attempts", "Messages taken to be sent by this server", metrics.attempts.clone());
        r.register("attempt_seconds", "How long attempts took", metrics.attempt_seconds.clone());
        r.register("stale_settlements", "Results that came too late to count", metrics.stale.clone());
        r.register(
            "unknown_outcomes",
            "Messages that may or may not have been sent, all runs",
            metrics.unknown.clone(),
        );
        r.register("resolutions", "Unknown outcomes resolved by this server, by way", metrics.resolutions.clone());
        let help = "Checks of whether a device can send, by what they came to";
        r.register("health_checks", help, metrics.health_checks.clone());
        r.register("batch_size", "Elements handled together in a step of the hot path", metrics.batch_size.clone());
        r.register("batch_seconds", "How long a step of the hot path took", metrics.batch_seconds.clone());
        let help = "How long after its device was allowed to send a message was begun";
        r.register("begin_delay_seconds", help, metrics.begin_delay.clone());
        let help = "Suppressed addresses that were not sent to, by where that was seen";
        r.register("suppressed", help, metrics.suppressed.clone());
        let help = "Tokens that were refused, at the API and at the log-in";
        r.register("auth_failures", help, metrics.auth_failures.clone());
        r.register("active_workers", "Sends in flight on this server", metrics.active_workers.clone());
        r.register("worker_share", "Sends that this server may have in flight", metrics.worker_share.clone());
        r.register("max_workers", "Sends that the cluster may have in flight", metrics.max_workers.clone());
        r.register("devices_leased", "Devices that this server holds", metrics.devices_leased.clone());
        let help = "Calls of a tried plugin version that failed and were made to the stable one";
        r.register("plugin_fallbacks", help, metrics.fallbacks.clone());
        let help = "What providers' webhooks reported to this server, by what came of it";
        r.register("receipts", help, metrics.receipts.clone());
        r.register("rollouts_ended", "Rollouts ended by this server, by how", metrics.rollouts_ended.clone());
        r.register("http_requests", "Requests answered, by route and status", metrics.http.clone());
        r.register("http_request_seconds", "How long requests took, by route", metrics.http_seconds.clone());
        metrics.start_at_zero();
        Self { registry, ..metrics }
    }

    fn start_at_zero(&self) {
        for outcome in OUTCOMES {
            drop(self.messages.get_or_create(&Outcome { outcome }));
        }
        for step in Group::ALL.map(Group::as_str) {
            drop(self.batch_size.get_or_create(&Step { step }));
            drop(self.batch_seconds.get_or_create(&Step { step }));
        }
        for at in SuppressedAt::ALL.map(SuppressedAt::as_str) {
            drop(self.suppressed.get_or_create(&At { at }));
        }
        for way in Way::ALL.map(Way::as_str) {
            for outcome in ResolveAs::ALL.map(ResolveAs::as_str) {
                drop(self.resolutions.get_or_create(&Resolution { way, outcome }));
            }
        }
        for verdict in HealthVerdict::WORDS {
            drop(self.health_checks.get_or_create(&Verdict { verdict }));
        }
        for kind in AuthFailure::ALL.map(AuthFailure::as_str) {
            drop(self.auth_failures.get_or_create(&Kind { kind }));
        }
        for status in RolloutStatus::ALL.into_iter().filter(|s| *s != RolloutStatus::Running) {
            drop(self.rollouts_ended.get_or_create(&EndedAs { status: status.as_str() }));
        }
        for status in [200, 503] {
            drop(self.http.get_or_create(&Call { method: "GET".to_owned(), route: "/readyz".to_owned(), status }));
        }
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
            if outcome == "suppressed" {
                self.suppressed(SuppressedAt::Send, u32::try_from(count).unwrap_or(u32::MAX));
            }
            self.messages.get_or_create(&Outcome { outcome }).inc_by(count);
        }
    }

    /// Messages whose outcome is unknown, over all runs: found by recovery, so servers without it say 0.
    pub fn set_unknown(&self, count: u64) {
        self.unknown.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Unknown outcomes were resolved.
    pub fn resolved(&self, way: Way, outcome: ResolveAs, count: u64) {
        if count > 0 {
            let labels = Resolution { way: way.as_str(), outcome: outcome.as_str() };
            self.resolutions.get_or_create(&labels).inc_by(count);
        }
    }

    /// A device was checked.
    pub fn health_check(&self, verdict: &HealthVerdict) {
        self.health_checks.get_or_create(&Verdict { verdict: verdict.as_str() }).inc();
    }

    /// A step of the hot path handled `size` elements together.
    pub fn batch(&self, group: Group, size: usize, took: Duration) {
        let step = Step { step: group.as_str() };
        self.batch_size.get_or_create(&step).observe(size as f64);
        self.batch_seconds.get_or_create(&step).observe(took.as_secs_f64());
    }

    /// A message was begun, so long after its device was allowed to send.
    pub fn begun_late(&self, by: Duration) {
        self.begin_delay.observe(by.as_secs_f64());
    }

    /// Suppressed addresses were not sent to.
    pub fn suppressed(&self, at: SuppressedAt, count: u32) {
        self.suppressed.get_or_create(&At { at: at.as_str() }).inc_by(u64::from(count));
    }

    /// A token was refused.
    pub fn auth_failure(&self, kind: AuthFailure) {
        self.auth_failures.get_or_create(&Kind { kind: kind.as_str() }).inc();
    }

    /// A tried version of a plugin failed, and the stable one took its place.
    pub fn fell_back(&self, plugin: &str) {
        self.fallbacks.get_or_create(&OfPlugin { plugin: plugin.to_owned() }).inc();
    }

    /// A webhook of a plugin reported something: `delivered`, `read` and `failed` of messages of which that was new, `reply`,
    /// `opted_out` for new entries of the suppression list, `repeated`, `early` and `dropped` for what is of no message (yet).
    pub fn received(&self, plugin: &str, kind: &'static str, count: u64) {
        if count > 0 {
            self.receipts.get_or_create(&Received { plugin: plugin.to_owned(), kind }).inc_by(count);
        }
    }

    /// A rollout was ended by this server.
    pub fn rollout_ended(&self, status: RolloutStatus) {
        self.rollouts_ended.get_or_create(&EndedAs { status: status.as_str() }).inc();
    }

    /// What the workers of this server are at: sends in flight, how many may be, and devices held.
    pub fn set_workers(&self, active: u32, share: u32, leased: usize) {
        self.active_workers.set(i64::from(active));
        self.worker_share.set(i64::from(share));
        self.devices_leased.set(i64::try_from(leased).unwrap_or(i64::MAX));
    }

    /// The cluster's limit on sends in flight.
    pub fn set_max_workers(&self, limit: u32) {
        self.max_workers.set(i64::from(limit));
    }

    /// The figures of the cluster, `None` on a server that does not look at them (any more).
    pub fn set_figures(&self, figures: Option<Figures>) {
        *self.figures.lock() = figures;
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
    pub fn encode(&self, counted: &Counted<'_>) -> Result<String, std::fmt::Error> {
        let mut others = Registry::with_prefix("carillon");
        for (name, help, value) in [
            ("store_statements", "SQL statements executed by this server", counted.store.0),
            ("queue_commands", "Commands sent to the queue by this server", counted.queue.0),
        ] {
            others.register(name, help, ConstCounter::new(value));
        }
        let errors = Family::<Part, Counter>::default();
        for (part, count) in [("store", counted.store.1), ("queue", counted.queue.1)] {
            errors.get_or_create(&Part { part }).inc_by(count);
        }
        others.register("backend_errors", "Calls of store and queue that failed", errors);
        plugin_counts(&mut others, counted.plugins);
        denial_counts(&mut others, counted.plugins);
        trial_counts(&mut others, counted.trials);
        figures::servers(&mut others, counted.hosts);
        if let Some(figures) = self.figures.lock().as_ref().filter(|figures| figures.is_fresh(counted.now)) {
            figures.register(&mut others);
        }
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

/// What senders asked for and did not get.
fn denial_counts(registry: &mut Registry, plugins: &[Arc<Plugin>]) {
    let denials = Family::<Denied, Counter>::default();
    let mut seen = std::collections::HashSet::new();
    // All versions of a plugin count together.
    for plugin in plugins.iter().filter(|p| p.kind == PluginKind::Sender && seen.insert(p.info.name.as_str())) {
        for (reason, count) in plugin.licence.refused() {
            denials.get_or_create(&Denied { plugin: plugin.info.name.clone(), reason }).inc_by(count);
        }
    }
    let help = "Requests of plugins that were refused for want of a grant, or for the sake of a private network";
    registry.register("egress_refusals", help, denials);
}

/// Which rollouts are running, and what their shadow calls came to on this server.
fn trial_counts(registry: &mut Registry, trials: &[Arc<Trial>]) {
    let running = Family::<Tried, Gauge>::default();
    let shadows = Family::<Shadowed, Counter>::default();
    for trial in trials {
        let (plugin, version) = (&trial.rollout.name, &trial.rollout.candidate.1);
        let mode = trial.rollout.spec.mode;
        let labels = Tried { plugin: plugin.clone(), version: version.clone(), mode: mode.as_str() };
        running.get_or_create(&labels).set(1);
        if mode == Mode::Shadow {
            let ShadowCounts { same, different, failed, dropped } = trial.counts().shadow;
            for (result, count) in [("same", same), ("different", different), ("failed", failed), ("dropped", dropped)]
            {
                let labels = Shadowed { plugin: plugin.clone(), version: version.clone(), result };
                shadows.get_or_create(&labels).inc_by(count);
            }
        }
    }
    registry.register("rollout_running", "Plugin versions that are being tried", running);
    registry.register("shadow_calls", "Calls made to a version that is only compared, by result", shadows);
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
        metrics.begun_late(Duration::from_millis(3));
        metrics.set_max_workers(500);
        let counted =
            Counted { store: (5, 1), queue: (7, 0), plugins: &[], trials: &[], hosts: &[], now: Duration::ZERO };
        metrics.http_request("GET", "/api/v1/campaigns/{id}", 200, Duration::from_millis(3));
        let text = metrics.encode(&counted).unwrap();
        for line in [
            "carillon_attempts_total 3",
            "carillon_http_requests_total{method=\"GET\",route=\"/api/v1/campaigns/{id}\",status=\"200\"} 1",
            "carillon_store_statements_total 5",
            "carillon_queue_commands_total 7",
            "carillon_backend_errors_total{part=\"store\"} 1",
            "carillon_begin_delay_seconds_bucket{le=\"0.004\"} 1",
            "carillon_max_workers 500",
            // Nothing has happened yet, and the first time is to be seen as an increase.
            "carillon_messages_total{outcome=\"unknown\"} 0",
            "carillon_backend_errors_total{part=\"queue\"} 0",
            "carillon_batch_size_count{step=\"top_up\"} 0",
            "carillon_suppressed_total{at=\"begin\"} 0",
            "carillon_auth_failures_total{kind=\"slowed\"} 0",
            "carillon_http_requests_total{method=\"GET\",route=\"/readyz\",status=\"503\"} 0",
            "carillon_servers{role=\"workers\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("carillon_messages_waiting"), "nobody looked: {text}");
    }
}

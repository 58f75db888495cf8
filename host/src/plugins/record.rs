//! What went into calls that failed, and into a sampled share of the others, handed to whoever keeps it (`crate::case::keep`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Plugin;
use super::types::{Answer, CallContext, HealthSubject, Outbound, PaceFacts, PluginFault, RenderJob};
use crate::id::VersionNo;

/// A call and what it was made with.
#[derive(Debug)]
pub struct Recorded {
    /// The plugin version.
    pub no: VersionNo,
    /// What the call could know besides its subject.
    pub ctx: CallContext,
    /// Its subject.
    pub input: Input,
    /// How it failed; `None` for one that was sampled.
    pub fault: Option<PluginFault>,
}

/// What a function was called with.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Input {
    NextDelay { pace: PaceFacts, state: String },
    Render(RenderJob),
    Variables,
    Start { lookup: bool, message: Arc<Outbound> },
    Resume { lookup: bool, state: String, answer: Arc<Answer> },
    StartHealth(Arc<HealthSubject>),
    ResumeHealth { state: String, answer: Arc<Answer> },
}

/// Takes calls without ever waiting: what there is no room for is not kept.
#[derive(Debug)]
pub struct Recorder {
    sender: mpsc::Sender<Recorded>,
    /// Calls whose random number is below are sampled.
    below: u32,
}

/// Calls that wait to be kept. Each may hold an answer of 1 MiB.
const WAITING: usize = 32;
/// A version gives a failed call, and a good one, no more often than this.
const EVERY: Duration = Duration::from_secs(5);

impl Recorder {
    /// A recorder that also samples one of so many good calls (none, when 0), and what it is read from.
    pub fn new(one_of: u32) -> (Self, mpsc::Receiver<Recorded>) {
        let (sender, recorded) = mpsc::channel(WAITING);
        let below = u32::MAX.checked_div(one_of).unwrap_or(0);
        (Self { sender, below }, recorded)
    }

    fn wants(&self, fault: Option<&PluginFault>, random: u32) -> bool {
        match fault {
            None => random < self.below,
            Some(PluginFault::Trap(_) | PluginFault::Deadline | PluginFault::Memory | PluginFault::Output(_)) => true,
            // What a plugin says no to is its answer.
            Some(PluginFault::InvalidConfig(_) | PluginFault::InvalidInput(_) | PluginFault::Internal(_)) => false,
        }
    }
}

/// When a version gave its last failed call and its last good one, in milliseconds since it was loaded; 0 before the first.
#[derive(Debug)]
pub(super) struct Turns {
    loaded: Instant,
    failed: AtomicU64,
    good: AtomicU64,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self { loaded: Instant::now(), failed: AtomicU64::new(0), good: AtomicU64::new(0) }
    }

    fn take(&self, failed: bool) -> bool {
        let turn = if failed { &self.failed } else { &self.good };
        let now = u64::try_from(self.loaded.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let last = turn.load(Ordering::Relaxed);
        let every = u64::try_from(EVERY.as_millis()).unwrap_or(u64::MAX);
        let is_due = last == 0 || now.saturating_sub(last) >= every;
        is_due && turn.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Plugin {
    /// Hands a call over, if it is one that is kept. A good call that is not sampled costs a comparison.
    pub(super) fn record(&self, ctx: &CallContext, fault: Option<&PluginFault>, input: impl FnOnce() -> Option<Input>) {
        let Some(recorder) = self.recorded.then(|| self.shared.recorder.get()).flatten() else { return };
        if !recorder.wants(fault, ctx.random) || !self.pool.turns.take(fault.is_some()) {
            return;
        }
        let Some(input) = input() else { return };
        let recorded = Recorded { no: self.no, ctx: ctx.clone(), input, fault: fault.cloned() };
        if recorder.sender.try_send(recorded).is_err() {
            tracing::debug!(plugin.name = self.info.name, "a call was not kept: too many wait");
        }
    }
}

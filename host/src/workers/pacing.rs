//! When a device may send next: what its delay strategy says, clamped by what no plugin can bypass. No I/O but the
//! plugins' calls.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::device::{Caps, Device, LastOutcome, Pace};
use crate::fleet::LiveRun;
use crate::id::MessageId;
use crate::plugins::{CallContext, DeviceFacts, NextDelay, PaceFacts, PluginFault};
use crate::rollout::Differences;
use crate::trial::Side;
use crate::workers::attempt::{Sending, note_fault, timed};

/// The longest state that a delay strategy may keep, in bytes.
const MAX_STATE: usize = 4096;

/// A device's pace after a send.
#[derive(Debug, Clone, PartialEq)]
pub struct Paced {
    /// How long it waits.
    pub wait: Duration,
    /// Its limiter's memory.
    pub pace: Pace,
    /// Whether the pace must reach the store with the settlement: losing it could let the device send too early.
    pub must_last: bool,
    /// The version of the delay strategy that said so.
    pub side: Side,
}

/// What the delay strategy needs to know about the send.
#[derive(Debug, Clone, Copy)]
pub struct Send<'a> {
    /// The device.
    pub device: &'a Device,
    /// What it came to.
    pub outcome: LastOutcome,
    /// Messages left on the device.
    pub backlog: u32,
    /// Characters of the message.
    pub text_length: u32,
    /// When it ended.
    pub now: Time,
    /// Uniform over all u32.
    pub random: u32,
    /// The message.
    pub message: MessageId,
    /// The version of the delay strategy that is asked.
    pub side: Side,
}

/// Counts the send and asks the run's delay strategy how long the device waits. A strategy that fails costs the campaign's
/// longest delay, not its pace: the fault is returned beside it. One that is only tried costs nothing: the stable version is asked
/// in its place.
pub async fn after_send(
    shared: &Sending,
    run: &LiveRun,
    mut pace: Pace,
    send: Send<'_>,
) -> (Paced, Option<PluginFault>) {
    let first = pace.first_day.is_none();
    note(&mut pace, send.outcome, send.now);
    let limits = &run.run.plan.delay;
    let context = CallContext { config: run.delay.config.clone(), now: send.now, random: send.random, timer: None };
    let state = pace.states.get(&run.run.key).cloned().unwrap_or_default();
    let mut side = send.side;
    let (asked, fault) = match next_delay(shared, run, &send, &mut side, context, facts(run, &pace, &send), state).await
    {
        Ok(next) => {
            if next.state.len() <= MAX_STATE {
                pace.keep_state(run.run.key, next.state);
            }
            (Duration::try_from_secs_f64(next.delay_ms / 1000.0).unwrap_or(Duration::MAX), None)
        }
        // Waiting too long does no harm; sending too early may.
        Err(fault) => (Duration::from_millis(limits.max_ms.min(FAULT_DELAY_MS)), Some(fault)),
    };
    let wait = clamp(&mut pace, asked, (limits.min_ms, limits.max_ms), &send.device.spec.caps, send.now);
    let must_last = first || must_last(wait, &send.device.spec.caps) || !pace.states.is_empty();
    // A candidate that fails ends its rollout, not the campaign.
    (Paced { wait, pace, must_last, side }, fault.filter(|_| side != Side::Candidate))
}

/// Asks the version of this side; the stable one, when the candidate fails.
async fn next_delay(
    shared: &Sending,
    run: &LiveRun,
    send: &Send<'_>,
    side: &mut Side,
    context: CallContext,
    facts: PaceFacts,
    state: String,
) -> Result<NextDelay, PluginFault> {
    let Some(trial) = &run.delay.trial else { return run.delay.plugin.next_delay(&context, facts, &state).await };
    let (timed, timer) = timed(&context);
    let asked = trial.at(*side).next_delay(&timed, facts.clone(), &state).await;
    trial.called(*side, timer.read(), asked.as_ref().err());
    if let Err(fault) = &asked
        && *side == Side::Candidate
    {
        *side = Side::Fallback;
        let again = trial.stable.next_delay(&context, facts, &state).await;
        note_fault(&shared.core, trial, send.message, send.device, fault, again.as_ref().err());
        return side.after(fault, again);
    }
    if trial.is_sampled() {
        let (candidate, stable) = (Arc::clone(&trial.candidate), asked.clone());
        let tolerance = trial.rollout.spec.tolerance_ms;
        let call = async move { candidate.next_delay(&context, facts, &state).await };
        let compare = move |d: &mut Differences, answer: &Result<NextDelay, PluginFault>| {
            d.delays(&stable, answer, tolerance);
        };
        shared.shadows.cast(trial, send.message, send.device, call, compare);
    }
    asked
}

/// Counts a send that ended at `now`.
pub fn note(pace: &mut Pace, outcome: LastOutcome, now: Time) {
    pace.count(now);
    pace.last_outcome = outcome;
    pace.failures_in_a_row = match outcome {
        LastOutcome::Sent | LastOutcome::None => 0,
        LastOutcome::Retried | LastOutcome::Failed | LastOutcome::Throttled => pace.failures_in_a_row.saturating_add(1),
    };
}

/// How long a device waits whose delay strategy asked for `asked`: not less than the campaign's shortest delay, not more
/// than its longest (`limits`, milliseconds), and as long as the device's caps make it wait.
pub fn clamp(pace: &mut Pace, asked: Duration, limits: (u64, u64), caps: &Caps, now: Time) -> Duration {
    let delay = asked.clamp(Duration::from_millis(limits.0), Duration::from_millis(limits.1));
    pace.last_delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    delay.max(pace.capped_for(caps, now))
}

/// How long a device waits when its delay strategy fails, unless the campaign's longest delay is shorter.
pub const FAULT_DELAY_MS: u64 = 60_000;

/// Paces under this are saved about once a second and made good by waiting this long after a loss.
pub const LAZY: Duration = Duration::from_secs(1);

/// Whether losing a wait could let a device send too early, given that one whose pace is not known waits [`LAZY`].
pub fn must_last(wait: Duration, caps: &Caps) -> bool {
    wait >= LAZY || caps.any()
}

fn facts(run: &LiveRun, pace: &Pace, send: &Send<'_>) -> PaceFacts {
    // Most campaigns have no window and are paced in UTC, which takes no time zone to be looked up.
    let minute_of_day = match &run.run.plan.window {
        None => send.now.as_ms().div_euclid(60_000).rem_euclid(24 * 60),
        Some(window) => {
            let local = send.now.to_timestamp().in_tz(&window.zone).map(|z| z.time()).unwrap_or_default();
            i64::from(local.hour()) * 60 + i64::from(local.minute())
        }
    };
    PaceFacts {
        device: Arc::new(DeviceFacts::of(send.device)),
        minute_of_day: u32::try_from(minute_of_day).unwrap_or(0),
        sent_this_minute: pace.in_minute,
        sent_this_hour: pace.in_hour,
        sent_today: pace.in_day,
        age_days: pace.age_days(send.now),
        failures_in_a_row: pace.failures_in_a_row,
        last_delay_ms: pace.last_delay_ms as f64,
        last_outcome: send.outcome,
        backlog: send.backlog,
        text_length: send.text_length,
        attributes: Vec::new(),
    }
}

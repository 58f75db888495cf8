//! Unknown outcomes: how many there are, and what the policies of their campaigns do about them. Each step is claimed in the
//! store, with the wait until the next one, so that several servers do it once and a server that dies costs one look-up.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::campaign::Run;
use crate::core::{Alarm, Core};
use crate::id::{MessageId, RunKey};
use crate::lookup::{Found, look_up, not_sent};
use crate::message::{MessageRow, Reason, Settled};
use crate::operations::unknown::{resolution, step, wakes};
use crate::resolution::{Resolution, ResolveAs, Resolved, UnknownEnd, Way};
use crate::sequence::Step;
use crate::store::UnknownOf;

/// Runs with unknown outcomes that are looked at.
const RUNS: u32 = 10_000;
/// Messages in a page.
const PAGE: u32 = 200;
/// Pages of a run in a round; the next round goes on where this one ended.
const PAGES: usize = 10;
/// Look-ups of a run in a round, after which no further page of it is begun.
const LOOKUPS_A_ROUND: usize = 200;
/// Look-ups at the same time: they are requests to providers beside those of the workers.
const LOOKUPS: usize = 8;

/// Runs until `stop`.
pub(super) async fn run(core: &Core, stop: CancellationToken) {
    let mut alarm = Alarm::new(&*core.queue, &[], stop.clone());
    let interval = Duration::from_millis(core.config.recovery_interval_ms);
    let mut cursors = HashMap::new();
    loop {
        // A round that waits for providers does not hold up the end; what it had claimed is claimed again.
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = round(core, &mut cursors) => looked,
        };
        if let Err(error) = looked {
            tracing::warn!(error = format!("{error:#}"), "unknown outcomes were not looked after; they will be");
        }
        if !alarm.sleep(interval).await {
            return;
        }
    }
}

/// One round over the runs that have unknown outcomes.
async fn round(core: &Core, cursors: &mut HashMap<RunKey, MessageId>) -> anyhow::Result<()> {
    let counts = core.store.unknown_runs(RUNS).await?;
    core.metrics.set_unknown(counts.iter().map(|(_, count)| count).sum());
    let keys: Vec<RunKey> = counts.iter().map(|(key, _)| *key).collect();
    cursors.retain(|key, _| keys.contains(key));
    if keys.is_empty() {
        return Ok(());
    }
    for run in core.store.runs(&keys).await?.into_iter().filter(|run| run.plan.unknown.acts()) {
        let step = step(core, &run).await?;
        let of = UnknownOf { runs: Some(vec![run.key]), device: None };
        let mut claimed = 0;
        for _ in 0..PAGES {
            let page = core.store.unknown(&of, cursors.remove(&run.key), PAGE).await?;
            claimed += look_after(core, &run, step, &page.items).await?;
            let Some(next) = page.next else { break };
            cursors.insert(run.key, next);
            if run.plan.unknown.lookup && claimed >= LOOKUPS_A_ROUND {
                break;
            }
        }
    }
    Ok(())
}

/// Does what is due about a page of a run's unknown messages; returns about how many.
async fn look_after(core: &Core, run: &Run, step: Option<Step>, rows: &[MessageRow]) -> anyhow::Result<usize> {
    let policy = &run.plan.unknown;
    let now = core.clock.now();
    let since = now.minus(policy.first_wait());
    let ripe: Vec<MessageId> =
        rows.iter().filter(|row| row.finished_at.is_none_or(|at| at <= since)).map(|row| row.id).collect();
    if ripe.is_empty() {
        return Ok(0);
    }
    let claimed: HashMap<MessageId, u32> = core
        .store
        .claim_lookups(&ripe, policy.acts_times(), policy.first_wait(), policy.longest_wait(), now)
        .await?
        .into_iter()
        .collect();
    let mut due = Vec::with_capacity(claimed.len());
    for row in rows {
        if let Some(time) = claimed.get(&row.id) {
            due.push(act(core, run, step, row, *time));
        }
    }
    let found: Vec<_> = futures::stream::iter(due).buffer_unordered(LOOKUPS).collect().await;
    let resolutions = found.into_iter().filter_map(Result::transpose).collect::<anyhow::Result<Vec<Resolution>>>()?;
    let answers = core.store.resolve(&resolutions, core.clock.now()).await?;
    for (resolution, answer) in resolutions.iter().zip(answers) {
        let Some(outcome) = ResolveAs::of(&resolution.outcome) else { continue };
        match answer {
            Resolved::Done => {
                core.metrics.resolved(resolution.way, outcome, 1);
                tracing::info!(
                    message.id = %resolution.message,
                    way = resolution.way.as_str(),
                    outcome = outcome.as_str(),
                    "resolved an unknown outcome"
                );
                for wake in wakes(outcome) {
                    core.wake(*wake).await;
                }
            }
            Resolved::NotUnknown => {}
            Resolved::Refused(why) => {
                tracing::debug!(message.id = %resolution.message, why, "an unknown outcome stays");
            }
        }
    }
    Ok(claimed.len())
}

/// What the policy does about a message for the `time`-th time; `None` when it stays unknown.
async fn act(
    core: &Core,
    run: &Run,
    step: Option<Step>,
    row: &MessageRow,
    time: u32,
) -> anyhow::Result<Option<Resolution>> {
    let policy = &run.plan.unknown;
    if time <= policy.lookups() {
        return Ok(match look_up(core, run, row).await? {
            Found::Proved(verdict) => Some(Resolution {
                way: Way::Lookup,
                suppress: verdict.suppress,
                ..resolution(core, run, step, row, verdict.settled)
            }),
            Found::Nothing(reason) => {
                tracing::debug!(message.id = %row.id, reason.code, "a look-up proved nothing");
                None
            }
            Found::Cannot(why) => {
                tracing::debug!(message.id = %row.id, why, "an unknown outcome cannot be looked up");
                None
            }
        });
    }
    let reason = || Reason::new("unknown-outcome", "nobody could tell whether it was sent");
    let outcome = match policy.then {
        UnknownEnd::Keep => return Ok(None),
        UnknownEnd::Sent => Settled::Sent { provider_id: None, delivered: false },
        UnknownEnd::Failed => Settled::Failed(reason()),
        UnknownEnd::Retry => not_sent(core, run, row, reason()),
    };
    Ok(Some(resolution(core, run, step, row, outcome)))
}

//! What nobody needs any more: messages of campaigns that finished long ago, if a policy says so, versions of audiences that were
//! replaced, and old cases of plugins.
//!
//! It goes in small steps with rests in between, so that it takes a fixed share of one connection however much there is to
//! remove, and sending hardly notices. Each step is a transaction that knows where the one before ended: a server that is
//! killed leaves nothing half done, and any other goes on.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::core::{Alarm, Core};

/// Rows that go in one step: few enough to hold the writer of an embedded store for some milliseconds only.
const STEP: u32 = 2_000;
/// After each step, the store is left alone for this many times as long as the step took.
const REST: u32 = 3;

/// Runs until `stop`.
pub(super) async fn run(core: &Core, stop: CancellationToken) {
    let mut alarm = Alarm::new(&*core.queue, &[], stop);
    let interval = Duration::from_millis(core.config.recovery_interval_ms);
    loop {
        let began = core.clock.monotonic();
        let pause = match step(core).await {
            Ok(true) => core.clock.monotonic().saturating_sub(began) * REST,
            Ok(false) => interval,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "retention did not finish; it will go on");
                interval
            }
        };
        if !alarm.sleep(pause).await {
            return;
        }
    }
}

/// One step of each kind; whether anything was removed.
async fn step(core: &Core) -> anyhow::Result<bool> {
    let now = core.clock.now();
    let mut removed = false;
    if let Some(keep) = core.config.keep_finished()
        && let Some(pruned) = core.store.prune_run(now.minus(keep), STEP, now).await?
    {
        if pruned.done {
            tracing::info!(campaign.id = %pruned.campaign, run.key = %pruned.run, "removed the messages of a campaign");
        }
        removed = true;
    }
    removed |= core.store.prune_cases(now.minus(core.config.keep_cases()), STEP).await? > 0;
    Ok(removed | (core.store.prune_audiences(now, STEP).await? > 0))
}

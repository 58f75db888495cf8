//! Reports of providers that came before the end of their message was written: taken in as soon as it is, given up after some
//! minutes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::core::{Alarm, Core};

/// How often it is looked whether their messages are known by now; no more rarely than recovery's rounds.
const EVERY: Duration = Duration::from_secs(5);
/// How long a report waits for its message: longer than an attempt and its settlement may take.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// Reports in one transaction.
const PAGE: u32 = 1_000;

/// Runs until `stop`.
pub(super) async fn run(core: &Core, stop: CancellationToken) {
    let mut alarm = Alarm::new(&*core.queue, &[], stop);
    let interval = Duration::from_millis(core.config.recovery_interval_ms).min(EVERY);
    loop {
        if let Err(error) = round(core).await {
            tracing::warn!(error = format!("{error:#}"), "early receipts were not looked after; they will be");
        }
        if !alarm.sleep(interval).await {
            return;
        }
    }
}

async fn round(core: &Core) -> anyhow::Result<()> {
    loop {
        let before = core.clock.now().minus(KEPT);
        let (noted, given_up) = core.store.settle_early_receipts(before, PAGE).await?;
        if given_up > 0 {
            tracing::debug!(count = given_up, "gave up receipts of messages that nobody knows");
        }
        let taken = noted.repeated + u64::try_from(noted.changed.delivered + noted.changed.failed).unwrap_or(0);
        if taken < u64::from(PAGE) && given_up < u64::from(PAGE) {
            return Ok(());
        }
    }
}

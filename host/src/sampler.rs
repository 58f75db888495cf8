//! Looks at the figures of the whole cluster now and then, for `/metrics`: one of the servers that have the API does it for
//! all, and scraping costs neither store nor queue anything.
//!
//! What a look costs is bounded by what is open, whatever the tables hold: the counters of open runs (16 rows a run), the row
//! of each device that says what it is sending, an index of the messages that wait for a time of their own (a million
//! entries at most), the campaigns that are not final, and eight pairs of counts in the queue. It takes at most a hundredth
//! of a connection's time: the longer a look took, the longer it rests.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::campaign::Run;
use crate::config::Role;
use crate::core::Core;
use crate::fleet::Fleet;
use crate::id::RunKey;
use crate::metrics::Figures;
use crate::store::StoreError;

/// How often figures are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// After a look, this many times as long as it took.
const REST: u32 = 100;
/// How long a rest may be: within it, what was seen is still shown.
const LONGEST: Duration = Duration::from_secs(60);
/// Messages that wait for a time of their own: more are not counted.
const DEFERRED: u32 = 1_000_000;

/// Looks until `stop`.
pub async fn run(core: Core, fleet: Arc<Fleet>, stop: CancellationToken) {
    loop {
        let began = core.clock.monotonic();
        // The first of the servers that can be asked for them.
        if fleet.place(Role::Api.as_str()).0 == 0 {
            match look(&core, &fleet).await {
                Ok(figures) => core.metrics.set_figures(Some(figures)),
                Err(error) => tracing::debug!(error = %error, "the figures of the cluster stay as they are for now"),
            }
        } else {
            core.metrics.set_figures(None);
        }
        let took = core.clock.monotonic().saturating_sub(began);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep((took * REST).clamp(INTERVAL, LONGEST)) => {}
        }
    }
}

async fn look(core: &Core, fleet: &Fleet) -> Result<Figures, StoreError> {
    let runs = fleet.runs();
    let (active, paused): (Vec<_>, Vec<_>) = runs.open.iter().partition(|run| run.active);
    let keys = |of: Vec<&Run>| of.into_iter().map(|run| run.key).collect::<Vec<_>>();
    let (active, paused) = (keys(active), keys(paused));
    let (ready, due) = tokio::join!(core.queue.ready_count(), core.queue.due_count());
    // One statement for all: most of it is a look at what each device is sending.
    let all: Vec<RunKey> = active.iter().chain(&paused).copied().collect();
    let counts = core.store.counts(&all).await?;
    let waiting = |of: &[RunKey]| counts.iter().filter(|(key, _)| of.contains(key)).map(|(_, c)| c.pending).sum();
    Ok(Figures {
        at: core.clock.monotonic(),
        waiting: (waiting(&active), waiting(&paused)),
        deferred: core.store.deferred(&active, DEFERRED).await?,
        runs: (active.len() as u64, paused.len() as u64),
        campaigns: core.store.open_campaigns().await?,
        devices: ready.ok().zip(due.ok()),
    })
}

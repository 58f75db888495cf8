//! The state of the whole cluster at one glance.

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::core::Core;
use crate::message::Counts;
use crate::store::HostRow;

use super::Result;

/// The state of the whole cluster.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Stats {
    /// When it was taken.
    pub at: Time,
    /// Sends in flight, whole cluster.
    pub active_workers: u32,
    /// The limit on them that is in force, 0 for none at all; `null` while the queue is away.
    pub max_workers: Option<u32>,
    /// The limit in the settings of the server that answers.
    pub configured_max_workers: u32,
    /// Devices.
    pub devices: u64,
    /// Devices that have messages in the queue and stand by for a worker; `null` while the queue is away.
    pub ready_devices: Option<u64>,
    /// Campaigns and steps of sequences that are not final, and may send now.
    pub active_runs: u64,
    /// The same, paused.
    pub paused_runs: u64,
    /// Messages of the runs that are not final, by state.
    pub messages: Counts,
    /// Messages a second over the last minute, whole cluster.
    pub rate_per_s: f64,
    /// Servers that are alive.
    pub hosts: Vec<HostRow>,
    /// What the store is: `postgres` or `sqlite`.
    pub store: &'static str,
    /// What the queue is: `redis`, `redis-cluster` or `memory`.
    pub queue: &'static str,
}

/// The state of the whole cluster, as this server sees it. A queue that is away leaves gaps, not an error.
///
/// # Errors
/// When the store is away.
pub async fn stats(core: &Core) -> Result<Stats> {
    let runs = core.store.open_runs().await?;
    let active = runs.iter().filter(|r| r.active).count();
    let keys: Vec<_> = runs.iter().map(|r| r.key).collect();
    let mut messages = Counts::default();
    let mut rate_per_s = 0.0;
    let now = core.clock.monotonic();
    for (run, counts) in core.store.counts(&keys).await? {
        messages.add(&counts);
        rate_per_s += core.metrics.rates.per_second(run, &counts, now).unwrap_or(0.0);
        core.metrics.rates.note(run, &counts, now);
    }
    let hosts = core.hosts.read().clone();
    Ok(Stats {
        at: core.clock.now(),
        active_workers: hosts.iter().map(|h| h.active_workers).sum(),
        max_workers: core.queue.max_workers().await.ok().flatten(),
        configured_max_workers: core.config.max_workers,
        devices: core.store.count_devices().await?,
        ready_devices: core.queue.ready_count().await.ok(),
        active_runs: active as u64,
        paused_runs: (runs.len() - active) as u64,
        messages,
        rate_per_s: (rate_per_s * 100.0).round() / 100.0,
        hosts,
        store: core.store.kind(),
        queue: core.queue.kind(),
    })
}

//! The heartbeat: several times a second a server says that it lives, hears who else does, follows the store's clock,
//! takes its share of the workers, and reloads what changed anywhere in the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::SystemClock;
use crate::config::Role;
use crate::core::{Alarm, Core, StoreTrouble};
use crate::fleet::Fleet;
use crate::operations::secrets;
use crate::queue::{QueueError, Wake};
use crate::recovery;
use crate::store::{Heartbeat, HostRow, Revisions, StoreError};
use crate::trials;
use crate::workers::Pool;

/// The heartbeat of a server.
pub struct Cluster {
    core: Core,
    fleet: Arc<Fleet>,
    pool: Option<Arc<Pool>>,
    clock: Arc<SystemClock>,
    name: String,
    /// The cluster's limit on workers: it outlives a queue that loses its data, so that an operator's brake does, too.
    limit: AtomicU32,
}

/// What was loaded last.
#[derive(Default)]
struct Seen {
    revisions: Option<Revisions>,
    servers: Vec<HostRow>,
    loading: Option<Loading>,
}

/// Plugins that are being loaded, as of a revision.
struct Loading {
    revision: i64,
    task: AbortOnDropHandle<Result<(), StoreError>>,
}

impl Cluster {
    /// A heartbeat; `pool` is absent on servers without workers.
    pub fn new(core: Core, fleet: Arc<Fleet>, pool: Option<Arc<Pool>>, clock: Arc<SystemClock>) -> Self {
        let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned();
        let limit = AtomicU32::new(core.config.max_workers);
        Self { core, fleet, pool, clock, name, limit }
    }

    /// Beats until `stop`, and leaves the cluster at the end.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut alarm = Alarm::new(&*self.core.queue, &[Wake::Changed], stop);
        let pause = Duration::from_millis(self.core.config.heartbeat_ms);
        let mut seen = Seen::default();
        // The first one was taken a moment ago.
        let mut alive_until = self.core.clock.monotonic() + self.core.config.alive();
        loop {
            self.note_workers();
            let began = self.core.clock.monotonic();
            let beat = self.beat(&mut seen).await;
            let refused = beat.as_ref().err().and_then(|error| error.downcast_ref::<StoreError>());
            if refused.is_none() {
                alive_until = began + self.core.config.alive();
            }
            let trouble = refused.map(|error| StoreTrouble { told: error.told(), alive_until });
            *self.core.store_trouble.write() = trouble;
            if let Err(error) = beat {
                tracing::warn!(error = format!("{error:#}"), "the heartbeat failed; trying again");
            }
            if !alarm.sleep(pause).await {
                return;
            }
        }
    }

    /// Tells the metrics what the workers are at, also while the store is away.
    fn note_workers(&self) {
        if let Some(pool) = &self.pool {
            self.core.metrics.set_workers(pool.active(), pool.share(), pool.leases().len());
        }
    }

    /// Removes this server from the list: the last thing that a server does.
    pub async fn leave(&self) {
        if let Err(error) = self.core.store.leave(self.core.host).await {
            tracing::debug!(error = %error, "this server stays on the list until its heartbeat is old");
        }
    }

    /// Loads everything once, before the loops start.
    ///
    /// # Errors
    /// When store or queue are away.
    pub async fn first_beat(&self) -> anyhow::Result<()> {
        let configured = self.core.config.max_workers;
        let limit = self.core.queue.configure_max_workers(configured, configured).await?;
        self.limit.store(limit, Ordering::Relaxed);
        if limit != configured {
            tracing::warn!(
                limit,
                configured,
                "an operator's limit on workers is in force, not the one of the settings"
            );
        }
        self.beat(&mut Seen::default()).await
    }

    async fn beat(&self, seen: &mut Seen) -> anyhow::Result<()> {
        let asked = self.core.clock.monotonic();
        let store_now = self.core.store.now().await?;
        self.clock.follow(store_now, self.core.clock.monotonic().saturating_sub(asked));

        let beat = Heartbeat {
            host: self.core.host,
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: self.core.config.roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(","),
            active_workers: self.pool.as_ref().map_or(0, |p| p.active()),
        };
        let hosts = self.core.store.heartbeat(&beat, self.core.clock.now(), self.core.config.alive()).await?;
        self.fleet.set_hosts(hosts.clone());
        self.reload(seen).await?;
        if let Err(error) = trials::look(&self.core).await {
            tracing::warn!(error = format!("{error:#}"), "the rollouts were not judged; the next heartbeat will do it");
        }
        self.share(seen, hosts).await;

        if self.core.queue.ensure_generation().await? {
            tracing::info!("the queue is new or lost its data; filling it from the store");
            self.core.wake(Wake::Processor).await;
        }
        if self.fleet.take_finals() {
            for id in self.core.store.complete_campaigns(self.core.clock.now()).await? {
                tracing::info!(campaign.id = %id, "a campaign is complete");
            }
        }
        if self.fleet.refresh_windows() {
            self.core.wake(Wake::Processor).await;
        }
        Ok(())
    }

    async fn reload(&self, seen: &mut Seen) -> anyhow::Result<()> {
        let mut now = self.core.store.revisions().await?;
        let before = seen.revisions;
        let moved = |of: fn(&Revisions) -> i64| before.is_none_or(|b| of(&b) != of(&now));
        // What must not wait for anything comes first.
        if moved(|r| r.suppressions) {
            self.fleet.reload_suppressions().await?;
        }
        if moved(|r| r.secrets) {
            secrets::load(&self.core).await?;
        }
        if moved(|r| r.devices) {
            self.fleet.reload_devices().await?;
            self.core.wake(Wake::Processor).await;
        }
        let (plugins, mut runs) = (moved(|r| r.plugins), moved(|r| r.runs));
        match before {
            // Nobody counts on a server that has just begun.
            None => self.core.plugins.reload(&*self.core.store, self.core.clock.now()).await?,
            Some(before) if plugins || seen.loading.is_some() => {
                let loaded = self.load_plugins(seen, now.plugins).await?;
                runs |= loaded.is_some();
                now.plugins = loaded.unwrap_or(before.plugins);
            }
            Some(_) => {}
        }
        if runs {
            if self.fleet.reload_runs().await? {
                self.core.wake(Wake::Processor).await;
            }
            self.after_runs(seen.loading.is_some()).await?;
        }
        // Only now: what failed to load above is loaded again by the next beat.
        seen.revisions = Some(now);
        Ok(())
    }

    /// Loads the plugins beside the heartbeat: compiling one may take longer than a server may be silent. The revision that is
    /// loaded, or `None` while that takes longer than a beat.
    async fn load_plugins(&self, seen: &mut Seen, revision: i64) -> anyhow::Result<Option<i64>> {
        let loading = seen.loading.get_or_insert_with(|| {
            let core = self.core.clone();
            let load = async move { core.plugins.reload(&*core.store, core.clock.now()).await };
            Loading { revision, task: AbortOnDropHandle::new(tokio::spawn(load)) }
        });
        let pause = Duration::from_millis(self.core.config.heartbeat_ms);
        let Ok(ended) = tokio::time::timeout(pause, &mut loading.task).await else { return Ok(None) };
        let loaded = loading.revision;
        seen.loading = None;
        ended??;
        Ok(Some(loaded))
    }

    /// What new knowledge of the runs calls for. While plugins are being loaded, a run may name one that is still to come.
    async fn after_runs(&self, is_loading: bool) -> anyhow::Result<()> {
        let runs = self.fleet.runs();
        if let Some(pool) = &self.pool {
            pool.runs_changed(&runs);
        }
        let broken = if is_loading { &[] } else { runs.broken.as_slice() };
        for (run, reason) in broken {
            if crate::workers::breakers::pause_run(&self.core, run, reason).await? {
                tracing::warn!(run.key = %run.key, reason, "a campaign was paused");
            }
        }
        if self.core.config.has(Role::Recovery) {
            recovery::close_pending(&self.core).await?;
        }
        Ok(())
    }

    /// Divides the cluster's limit evenly over the servers with workers. A server takes a larger share only when two beats
    /// have shown it the same servers, so that one that leaves has stopped before the others take over, and one that
    /// comes waits until the others have made room.
    async fn share(&self, seen: &mut Seen, hosts: Vec<HostRow>) {
        let active: u32 = hosts.iter().map(|h| h.active_workers).sum();
        let limit = async {
            self.core.queue.set_active_workers(active).await?;
            match self.core.queue.max_workers().await? {
                Some(limit) => Ok(limit),
                None => {
                    let (configured, last) = (self.core.config.max_workers, self.limit.load(Ordering::Relaxed));
                    self.core.queue.configure_max_workers(configured, last).await
                }
            }
        };
        let limit: Result<u32, QueueError> = limit.await;
        let limit = match limit {
            // 0 is an operator's brake: nothing is sent anywhere.
            Ok(limit) => limit,
            Err(error) => {
                tracing::debug!(error = %error, "the workers keep their share");
                return;
            }
        };
        let stable = hosts.len() == 1
            || (hosts.len() == seen.servers.len() && hosts.iter().zip(&seen.servers).all(|(a, b)| a.host == b.host));
        seen.servers = hosts;
        self.limit.store(limit, Ordering::Relaxed);
        self.core.metrics.set_max_workers(limit);
        if let Some(pool) = &self.pool {
            let (place, servers) = self.fleet.place(Role::Workers.as_str());
            let share = limit / servers + u32::from(place < limit % servers);
            if stable || share < pool.share() {
                pool.set_share(share);
            }
        }
    }
}

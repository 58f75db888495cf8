//! The wiring: the only file that names concrete stores, queues, plugins and loops together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::case::keep;
use crate::clock::SystemClock;
use crate::cluster::Cluster;
use crate::config::{CaseData, Config, Role};
use crate::core::Core;
use crate::egress::{Allowed, Egress, EgressPolicy, Secret};
use crate::fleet::Fleet;
use crate::http::{ConnectionLimits, Door};
use crate::id::HostId;
use crate::lifecycle::Loops;
use crate::metrics::Metrics;
use crate::operations::{self, OpError};
use crate::plugins::{CompileLimits, PluginHost, PluginLimits, Recorder, Registry};
use crate::processor::{Processor, Requests};
use crate::queue::{self, QueueError};
use crate::recovery::Recovery;
use crate::store::{self, StoreError};
use crate::trigger::Trigger;
use crate::workers::Pool;
use crate::{http, sampler, ui};

/// Memory for compiling one component, in bytes. One of 0.9 MB takes 65 MB, and most of it grows with the size.
const COMPILER_MEMORY: u64 = 4 << 30;

/// A running server.
pub struct App {
    /// Its parts.
    pub core: Core,
    /// Where the API listens, on servers that have it.
    pub addr: Option<SocketAddr>,
    new_admin_token: Option<String>,
    door: Door,
    cluster: Arc<Cluster>,
    work: Loops,
    front: Loops,
}

impl App {
    /// Opens store and queue (waiting for them, and saying so, while they are away), migrates, loads the plugins, makes
    /// sure that there is an admin token, and starts the loops and the API of the roles.
    ///
    /// # Errors
    /// When a setting cannot work, or something is wrong that waiting will not mend.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        if let Some(problem) = config.problems().into_iter().next() {
            anyhow::bail!("{problem}");
        }
        let egress = egress(&config)?;
        private_folder(&config.data)
            .with_context(|| format!("--data {}: the folder cannot be made or used", config.data.display()))?;
        let (work, front) = (Loops::default(), Loops::default());
        let door = Door::default();
        let mut addr = None;
        if config.has(Role::Api) {
            let tls = match (&config.tls_cert, &config.tls_key) {
                (Some(cert), Some(key)) => Some(http::Tls::load(cert, key)?),
                _ => None,
            };
            if let Some(tls) = &tls {
                front.spawn("tls", Arc::clone(tls).watch(front.stop.clone()));
            }
            let listener = TcpListener::bind(config.listen)
                .await
                .with_context(|| format!("--listen {}: cannot listen there", config.listen))?;
            addr = Some(listener.local_addr()?);
            // From the first moment on, so that what the server waits for can be seen on /readyz.
            let (router, stop) = (door.router(), front.stop.clone());
            front.spawn("api", http::serve(listener, tls, router, ConnectionLimits::default(), stop));
        }

        let clock = Arc::new(SystemClock::new());
        let (url, connections) = (config.store_url(), config.store_connections);
        let opened = waiting(&door, "the store", async || Ok(store::open(&url, connections).await?));
        let store = opened.await.context("--store")?;
        let opened = waiting(&door, "the queue", async || Ok(queue::open(&config.queue, clock.clone()).await?));
        let queue = opened.await.context("--queue")?;
        door.waits_for("the plugins");
        let limits = PluginLimits {
            memory_bytes: usize::try_from(config.plugin_memory_bytes).unwrap_or(usize::MAX),
            call_deadline: Duration::from_millis(config.plugin_timeout_ms),
            max_component_bytes: usize::try_from(config.plugin_max_bytes).unwrap_or(usize::MAX),
            compile_apart: Some(CompileLimits {
                time: Duration::from_secs(config.plugin_compile_s),
                memory_bytes: COMPILER_MEMORY,
            }),
            ..PluginLimits::default()
        };
        let plugin_host = PluginHost::new(limits, Some(&config.data.join("plugins")))?;
        let (recorder, recorded) = Recorder::new(config.plugin_case_sample);
        if config.plugin_case_data != CaseData::None {
            plugin_host.record(recorder);
        }
        let core = Core {
            host: HostId::new(),
            store,
            queue,
            plugins: Arc::new(Registry::new(plugin_host.clone())),
            plugin_host,
            egress: egress.clone(),
            clock: clock.clone(),
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            accounts: Arc::default(),
            hosts: Arc::default(),
            store_trouble: Arc::default(),
        };
        // From here on the server writes, and a store that can be read may have no room.
        let stored = async || {
            let watch = core.config.plugin_watch();
            core.plugins.ensure_first_party(&*core.store, watch.as_ref(), core.clock.now()).await
        };
        waiting(&door, "the plugins", stored).await?;
        let known = async || operations::tokens::ensure_admin_token(&core).await;
        let new_admin_token = waiting(&door, "the admin token", known).await?;

        let fleet = Arc::new(Fleet::new(core.clone()));
        let requests = Arc::new(Requests::default());
        let pool = Arc::new(Pool::new(core.clone(), fleet.clone(), egress, core.metrics.clone(), requests.clone()));
        let has = |role| core.config.has(role);
        let cluster =
            Arc::new(Cluster::new(core.clone(), fleet.clone(), has(Role::Workers).then(|| pool.clone()), clock));
        let beaten = waiting(&door, "the first heartbeat", async || cluster.first_beat().await);
        beaten.await.context("the first heartbeat failed")?;

        // Two groups: the front (API, heartbeat) goes on while the work drains, so that operators can watch it and no other
        // server takes this one for dead.
        let stop = work.stop.clone();
        if has(Role::Workers) {
            work.spawn("workers", pool.clone().run(stop.clone()));
        }
        if has(Role::Trigger) {
            work.spawn("trigger", Arc::new(Trigger::new(core.clone(), fleet.clone())).run(stop.clone()));
        }
        if has(Role::Processor) {
            let processor = Processor::new(core.clone(), fleet.clone(), requests);
            work.spawn("processor", Arc::new(processor).run(stop.clone()));
        }
        if has(Role::Recovery) {
            work.spawn("recovery", Arc::new(Recovery::new(core.clone(), fleet.clone(), pool)).run(stop));
        }
        if has(Role::Api) {
            front.spawn("sampler", sampler::run(core.clone(), fleet.clone(), front.stop.clone()));
        }
        front.spawn("plugin-cases", keep::run(core.clone(), recorded, front.stop.clone()));
        front.spawn("heartbeat", cluster.clone().run(front.stop.clone()));
        if has(Role::Api) {
            door.open(http::router(core.clone(), ui::router(core.clone(), front.stop.clone())));
        }
        Ok(Self { core, addr, new_admin_token, door, cluster, work, front })
    }

    /// The admin token, when this start made it: to be shown once.
    pub fn new_admin_token(&self) -> Option<&str> {
        self.new_admin_token.as_deref()
    }

    /// Waits for the death of a loop; returns its name.
    pub async fn loop_death(&mut self) -> &'static str {
        tokio::select! {
            name = self.work.death() => name,
            name = self.front.death() => name,
        }
    }

    /// Stops: no new work, sends in flight end and are settled, then the API and the heartbeat end; the API at the earliest
    /// after `notice`, in which `/readyz` tells load balancers to send nothing more here.
    ///
    /// # Errors
    /// Never now; callers shall not depend on it.
    pub async fn stop(self, notice: Duration) -> anyhow::Result<()> {
        self.door.drains();
        let notice = if self.addr.is_some() { notice } else { Duration::ZERO };
        tokio::join!(self.work.stop(), tokio::time::sleep(notice));
        self.front.stop.cancel();
        // Open connections of browsers and slow clients are not waited for long.
        if tokio::time::timeout(Duration::from_secs(3), self.front.stop()).await.is_err() {
            tracing::debug!("connections to the API were cut");
        }
        self.cluster.leave().await;
        self.core.store.close().await;
        Ok(())
    }
}

/// The way out, with what the settings allow.
fn egress(config: &Config) -> anyhow::Result<Egress> {
    let allow = config
        .allow_egress
        .iter()
        .map(|entry| entry.trim())
        .filter(|entry| !entry.is_empty())
        .map(|entry| entry.parse::<Allowed>().with_context(|| "--allow-egress"))
        .collect::<anyhow::Result<_>>()?;
    let secrets =
        config.secrets.iter().map(|s| Secret::parse(s).context("--secrets")).collect::<anyhow::Result<_>>()?;
    Egress::new(EgressPolicy { allow, secrets, ..EgressPolicy::default() })
}

/// Makes a folder that only this user can look into.
fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Repeats a step of the start for as long as the store or the queue, which it needs, is away, and says so at the door.
async fn waiting<T>(door: &Door, what: &str, step: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    door.waits_for(what);
    let mut pause = Duration::from_millis(200);
    loop {
        match step().await {
            Ok(done) => return Ok(done),
            Err(error) if is_away(&error) => {
                tracing::warn!(error = format!("{error:#}"), "{what} cannot be had yet; waiting for it");
                if let Some(refused) = error.downcast_ref::<StoreError>() {
                    door.waits_for(&format!("{what}: {}", refused.told()));
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = crate::lifecycle::signal() => anyhow::bail!("stopped while waiting for {what}"),
                }
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether waiting may mend it.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Unavailable(_)))
        || matches!(error.downcast_ref(), Some(QueueError::Unavailable(_)))
        || matches!(error.downcast_ref(), Some(OpError::Unavailable(_)))
}

//! The plugin host: loads components, calls them within limits, and keeps the registry of active versions.
//!
//! This module and those below it are the only ones that import `wasmtime`. Everything else sees plugins as
//! [`Plugin`] handles and plain Rust values.
//!
//! A call is synchronous and takes microseconds. It runs on the caller's own thread while the plugin is known to be quick, else on
//! a thread that comes after the others, behind a semaphore of the plugin's own, so that a plugin that loops costs only its own
//! calls. Instances are reused, and dropped after anything but an answer.

mod apart;
mod cache;
mod check;
mod delay;
mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod instance;
mod limits;
mod module;
mod receipts;
mod record;
mod registry;
mod schema;
mod sender;
mod slow;
mod stats;
mod template;
mod types;
mod wasi;
mod wire;
mod world;

use std::fmt;
use std::future::Future;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::component::Component;

pub use self::apart::{CompileLimits, CompilerTask, SUBCOMMAND, Urgency, compile_here};
pub use self::check::{Inspected, Refusal};
pub use self::limits::PluginLimits;
pub use self::record::{Input, Recorded, Recorder};
pub use self::registry::{Registry, is_first_party};
pub use self::stats::{CallStats, FunctionStats};
pub use self::types::{
    Acceptance, Answer, Attributes, CallContext, CallTimer, Content, DeviceFacts, Event, EventKind, Failure,
    HealthSubject, HealthVerdict, HttpArrival, HttpRequest, HttpResponse, Media, MessageRef, NextDelay, Outage,
    Outbound, Outcome, PaceFacts, Parsed, Pause, PluginBody, PluginFault, Progress, RecipientFacts, RecipientProblem,
    Rejection, RenderJob, Round, Scope, Step,
};
pub use self::world::Misfit;

use self::cache::CodeCache;
use self::engine::Machine;
use self::instance::{Blueprint, Instance, Pool};
use self::schema::Schema;
use self::slow::Slow;
use self::stats::Function;
use crate::grants::Licence;
use crate::id::{Digest, VersionNo};
use crate::plugin::{PluginInfo, PluginKind};

include!(concat!(env!("OUT_DIR"), "/first_party.rs"));

/// Loads and calls components. Cloning is cheap; clones share everything.
#[derive(Clone)]
pub struct PluginHost(Arc<Shared>);

struct Shared {
    machine: Machine,
    limits: Arc<PluginLimits>,
    cache: Option<CodeCache>,
    /// Compiling takes a core for up to seconds: of what is uploaded one at a time.
    compiling: Semaphore,
    /// What was checked before, and messages may wait for: one for each core.
    loading: Semaphore,
    /// Calls of plugins that are slow or unknown, and the upload check.
    slow: Slow,
    /// Calls with cases, which are for authors and not for messages.
    trials: Semaphore,
    pools: Mutex<Vec<Weak<Pool>>>,
    recorder: OnceLock<Recorder>,
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

/// Cases at once.
const TRIALS: usize = 4;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl PluginHost {
    /// Makes the engine. Compiled code is kept in `cache_dir`, where given.
    ///
    /// # Errors
    /// When the address space for instances cannot be reserved, or the folder cannot be used.
    pub fn new(limits: PluginLimits, cache_dir: Option<&Path>) -> anyhow::Result<Self> {
        let machine = Machine::new(&limits)?;
        let cache = cache_dir.map(|dir| CodeCache::open(dir, &machine.engine)).transpose()?;
        Ok(Self(Arc::new(Shared {
            machine,
            limits: Arc::new(limits),
            cache,
            compiling: Semaphore::new(1),
            loading: Semaphore::new(cores()),
            // Two at least, so that one plugin alone never takes them all.
            slow: Slow::new(cores().max(2)).context("cannot make the threads for slow plugins")?,
            trials: Semaphore::new(TRIALS),
            pools: Mutex::new(Vec::new()),
            recorder: OnceLock::new(),
        })))
    }

    /// The upload check: everything that can be known of a component before it is stored. The work comes after all else that
    /// the machine has to do.
    ///
    /// # Errors
    /// A refusal that names what is wrong and how to fix it.
    pub async fn inspect(&self, bytes: Bytes) -> Result<Inspected, Refusal> {
        self.inspect_and_load(bytes).await.map(|(inspected, _)| inspected)
    }

    /// As [`PluginHost::inspect`]; also gives the plugin, for calls before it is stored: its number is 0.
    ///
    /// # Errors
    /// As for [`PluginHost::inspect`].
    pub async fn inspect_and_load(&self, bytes: Bytes) -> Result<(Inspected, Arc<Plugin>), Refusal> {
        let _permit = self.0.compiling.acquire().await.map_err(|e| Refusal::internal(&e))?;
        self.inspect_as(bytes, Urgency::Later).await
    }

    /// As [`PluginHost::inspect`], for what comes with the program: a first start waits for it, so it has its share of the
    /// machine, and the caller says how many at once.
    async fn inspect_own(&self, bytes: Bytes) -> Result<Inspected, Refusal> {
        self.inspect_as(bytes, Urgency::Now).await.map(|(inspected, _)| inspected)
    }

    async fn inspect_as(&self, bytes: Bytes, urgency: Urgency) -> Result<(Inspected, Arc<Plugin>), Refusal> {
        let shared = Arc::clone(&self.0);
        let check = move || {
            let (inspected, component) = check::inspect(&shared, &bytes, urgency)?;
            let (kind, digest, info) = (inspected.kind, inspected.digest, inspected.info.clone());
            // What is not stored is somebody's own: its author tries it.
            let licence = Arc::new(Licence::unbounded(&info.name));
            let plugin = shared.plugin(VersionNo(0), kind, digest, info, licence, &component)?;
            Ok((inspected, plugin))
        };
        let checked = match urgency {
            Urgency::Now => tokio::task::spawn_blocking(check).await.ok(),
            Urgency::Later => self.0.slow.run(check).await,
        };
        checked.unwrap_or_else(|| Err(Refusal::internal(&"it broke off")))
    }

    /// Makes a stored version callable: takes its code from the cache, or compiles it. All versions of a plugin have one licence.
    ///
    /// # Errors
    /// A refusal, when the component does not fit this host (any more).
    pub async fn load(
        &self,
        no: VersionNo,
        kind: PluginKind,
        digest: Digest,
        info: PluginInfo,
        licence: Arc<Licence>,
        bytes: Bytes,
    ) -> Result<Arc<Plugin>, Refusal> {
        let shared = Arc::clone(&self.0);
        // Neither ends early: the semaphore is never closed, and the work does not panic.
        let _permit = self.0.loading.acquire().await.map_err(|e| Refusal::internal(&e))?;
        tokio::task::spawn_blocking(move || {
            // Campaigns may wait for it.
            let component = shared.compile(&digest, &bytes, Urgency::Now)?;
            shared.plugin(no, kind, digest, info, licence, &component)
        })
        .await
        .map_err(|e| Refusal::internal(&e))?
    }

    /// Makes a call on a thread that comes after the others, however quick its plugin is; `None` when it broke off.
    pub async fn aside<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let runtime = tokio::runtime::Handle::current();
        self.0.slow.run(move || runtime.block_on(call)).await
    }

    /// From now on calls of stored versions are recorded: those that fail, and those that are sampled. The first recorder stays.
    pub fn record(&self, recorder: Recorder) {
        // A second one is dropped, and whoever reads from it sees that at once.
        let _first = self.0.recorder.set(recorder);
    }

    /// Room for a case to be carried out; `None` when as many as may be are under way.
    pub fn trial(&self) -> Option<SemaphorePermit<'_>> {
        self.0.trials.try_acquire().ok()
    }

    /// As [`PluginHost::load`], but only from the cache: `None` when the code is not there.
    async fn load_cached(
        &self,
        no: VersionNo,
        kind: PluginKind,
        digest: Digest,
        info: PluginInfo,
        licence: Arc<Licence>,
    ) -> Option<Arc<Plugin>> {
        let shared = Arc::clone(&self.0);
        let loaded = tokio::task::spawn_blocking(move || {
            let component = shared.cache.as_ref()?.load(&shared.machine.engine, &digest)?;
            shared.plugin(no, kind, digest, info, licence, &component).ok()
        });
        loaded.await.ok().flatten()
    }

    /// Takes the compiled code of a component from the cache: nobody will load it again.
    async fn forget(&self, digest: Digest) {
        let shared = Arc::clone(&self.0);
        let forgotten = tokio::task::spawn_blocking(move || {
            if let Some(cache) = &shared.cache {
                cache.forget(&digest);
            }
        });
        // A file that is left is in nobody's way.
        let _ = forgotten.await;
    }
}

impl Shared {
    fn compile(&self, digest: &Digest, bytes: &[u8], urgency: Urgency) -> Result<Component, Refusal> {
        if let Some(component) = self.cache.as_ref().and_then(|cache| cache.load(&self.machine.engine, digest)) {
            return Ok(component);
        }
        if let (Some(limits), Some(cache)) = (self.limits.compile_apart, &self.cache) {
            cache.keep(digest, &apart::compile(limits, bytes, urgency)?);
            if let Some(component) = cache.load(&self.machine.engine, digest) {
                return Ok(component);
            }
            // It compiles within the limits, so it can be done here: the folder is full, or the pool has no room for it.
            return check::compile(&self.machine.engine, bytes);
        }
        let component = check::compile(&self.machine.engine, bytes)?;
        if let Some(cache) = &self.cache {
            cache.keep_component(digest, &component);
        }
        Ok(component)
    }

    fn plugin(
        self: &Arc<Self>,
        no: VersionNo,
        kind: PluginKind,
        digest: Digest,
        info: PluginInfo,
        licence: Arc<Licence>,
        component: &Component,
    ) -> Result<Arc<Plugin>, Refusal> {
        check::check_world(&self.machine.engine, component, kind)?;
        let blueprint = Blueprint::new(&self.machine.linker, component, kind).map_err(|e| Refusal::link(&e))?;
        let config_schema =
            Arc::new(Schema::new(&info.config_schema).map_err(|e| Refusal::schema("config-schema", &e))?);
        let adapter_schema = if info.adapter_schema.is_empty() {
            None
        } else {
            Some(Arc::new(Schema::new(&info.adapter_schema).map_err(|e| Refusal::schema("adapter-schema", &e))?))
        };
        let pool = Arc::new(Pool::new(blueprint, Arc::clone(&self.limits), Arc::clone(&licence)));
        let hooks = Arc::new(pool.apart());
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.extend([&pool, &hooks].map(Arc::downgrade));
        drop(pools);
        // A plugin that is not stored yet has no number that a record could name.
        let recorded = no != VersionNo(0);
        let shared = Arc::clone(self);
        Ok(Arc::new(Plugin {
            no,
            digest,
            kind,
            info,
            licence,
            config_schema,
            adapter_schema,
            pool,
            hooks,
            shared,
            recorded,
        }))
    }

    /// Drops the waiting instances of all plugins.
    fn drop_idle(&self) {
        let pools: Vec<_> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        for pool in pools {
            pool.drop_idle();
        }
    }
}

/// A plugin version that can be called.
pub struct Plugin {
    /// Its number in the store.
    pub no: VersionNo,
    /// sha256 of its bytes.
    pub digest: Digest,
    /// Its world.
    pub kind: PluginKind,
    /// What `describe` said.
    pub info: PluginInfo,
    /// What it may do on this server.
    pub licence: Arc<Licence>,
    config_schema: Arc<Schema>,
    adapter_schema: Option<Arc<Schema>>,
    pool: Arc<Pool>,
    /// Instances for requests of strangers: what those make it do is not counted as how quick it sends.
    hooks: Arc<Pool>,
    shared: Arc<Shared>,
    /// Whether its calls may be kept.
    recorded: bool,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plugin({} {} {})", self.kind.as_str(), self.info.name, self.info.version)
    }
}

impl Plugin {
    /// Checks a campaign's configuration against the plugin's schema.
    ///
    /// # Errors
    /// What is wrong, as `/path: message`.
    pub fn check_config(&self, config: &str) -> Result<(), Vec<String>> {
        let config = serde_json::from_str(config).map_err(|e| vec![format!("/: not JSON: {e}")])?;
        self.config_schema.check(&config)
    }

    /// Checks a device's adapter settings against the plugin's schema.
    ///
    /// # Errors
    /// What is wrong, as `/path: message`.
    pub fn check_adapter(&self, adapter: &serde_json::Value) -> Result<(), Vec<String>> {
        self.adapter_schema.as_ref().map_or(Ok(()), |schema| schema.check(adapter))
    }

    /// Counts of its calls since it was loaded.
    pub fn stats(&self) -> CallStats {
        let mut stats = self.pool.stats.read(self.pool.idle());
        if !Arc::ptr_eq(&self.pool, &self.hooks) {
            let CallStats { functions, idle_instances } = self.hooks.stats.read(self.hooks.idle());
            stats.functions.extend(functions);
            stats.idle_instances += idle_instances;
        }
        stats
    }

    /// The latest lines that it wrote to its standard output and error. They may hold what it was called with: for the
    /// plugin's author, not for the server's log.
    pub fn log_lines(&self) -> Vec<String> {
        let mut lines = self.pool.log.lines();
        if !Arc::ptr_eq(&self.pool, &self.hooks) {
            lines.extend(self.hooks.log.lines());
        }
        lines
    }

    /// The same version with instances, log and counts of its own: for calls that are not made for messages.
    pub fn apart(&self) -> Self {
        let pool = Arc::new(self.pool.apart());
        Self {
            no: self.no,
            digest: self.digest,
            kind: self.kind,
            info: self.info.clone(),
            licence: Arc::clone(&self.licence),
            config_schema: Arc::clone(&self.config_schema),
            adapter_schema: self.adapter_schema.clone(),
            hooks: Arc::clone(&pool),
            pool,
            shared: Arc::clone(&self.shared),
            recorded: false,
        }
    }

    /// How long whoever wants to call it should leave it alone first: it is slow, and as many calls as may wait do so. `None`
    /// when it can be called now.
    pub fn crowded(&self) -> Option<Duration> {
        self.pool.crowded()
    }

    /// The functions in which the latest crash happened, the innermost first; as far as the component names them.
    pub fn backtrace(&self) -> Vec<String> {
        self.pool.backtrace.lock().clone()
    }

    /// Memory of the instance that was called last, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.pool.memory_bytes.load(Ordering::Relaxed)
    }

    /// Whether it has the functions with which messages are looked up, whatever it says of itself.
    pub fn has_lookup(&self) -> bool {
        self.pool.has_lookup()
    }

    /// Whether it has the function that reads webhooks, whatever it says of itself.
    pub fn has_receipts(&self) -> bool {
        self.pool.has_receipts()
    }

    /// Whether it has the functions that tell whether a device can send, whatever it says of itself.
    pub fn has_health(&self) -> bool {
        self.pool.has_health()
    }

    fn limits(&self) -> &PluginLimits {
        &self.shared.limits
    }

    /// Calls a function of the plugin; `answer_bytes` bounds what its answer may take in memory.
    async fn call<T, F>(
        &self,
        function: Function,
        ctx: &CallContext,
        answer_bytes: usize,
        call: F,
    ) -> Result<T, PluginFault>
    where
        T: Send + 'static,
        F: FnOnce(&mut Instance) -> wasmtime::Result<(Result<T, wire::PluginError>,)> + Send + 'static,
    {
        let pool = self.pool_of(function);
        let (answer,) = if pool.is_quick() {
            pool.call(function, ctx, answer_bytes, &|| self.shared.drop_idle(), call)?
        } else {
            let gone = |_| PluginFault::Internal("the call was given up".to_owned());
            let _place = pool.slow.enter().await.ok_or_else(|| gone(()))?;
            let (pool, shared, ctx) = (Arc::clone(pool), Arc::clone(&self.shared), ctx.clone());
            let call = move || pool.call(function, &ctx, answer_bytes, &|| shared.drop_idle(), call);
            self.shared.slow.call(call).await.ok_or_else(|| gone(()))??
        };
        answer.map_err(|error| {
            let fault = PluginFault::from(error);
            pool.stats.count_fault(function, &fault);
            fault
        })
    }

    /// The instances that a function is called on.
    fn pool_of(&self, function: Function) -> &Arc<Pool> {
        if function == Function::Parse { &self.hooks } else { &self.pool }
    }

    /// Counts a fault that `check` finds in an answer.
    fn checked<T>(&self, function: Function, check: impl FnOnce() -> Result<T, PluginFault>) -> Result<T, PluginFault> {
        check().inspect_err(|fault| self.pool_of(function).stats.count_fault(function, fault))
    }
}

/// What a call of another world's function comes to.
fn wrong_world<T>() -> wasmtime::Result<T> {
    wasmtime::bail!("the plugin is of another kind than the call")
}

/// A duration that a plugin gave: finite and not negative.
fn duration(what: &str, ms: f64) -> Result<f64, PluginFault> {
    if ms.is_finite() && ms >= 0.0 {
        Ok(ms)
    } else {
        Err(PluginFault::Output(format!("{what} must be a finite number of 0 or more")))
    }
}

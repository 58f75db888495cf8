//! Instances: how one is made, called, kept for the next call, and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, TypedFunc};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};

use super::engine::Machine;
use super::limits::PluginLimits;
use super::record::Turns;
use super::stats::{Function, Stats};
use super::types::{CallContext, HealthSubject, HealthVerdict, Outbound, Outcome, PluginFault};
use super::wasi::{Guest, Log};
use super::wire;
use crate::grants::Licence;
use crate::message::truncate;
use crate::plugin::PluginKind;

/// A function of the contract: its parameters and results.
pub(super) trait Signature {
    type Params;
    type Return;
}

impl<P, R> Signature for (P, R) {
    type Params = P;
    type Return = R;
}

/// A function of the contract as an instance offers it.
pub(super) type Typed<S> = TypedFunc<<S as Signature>::Params, <S as Signature>::Return>;

/// The functions of an instance's world.
pub(super) enum Functions {
    Delay {
        next_delay: Typed<wire::NextDelay>,
    },
    Template {
        render: Typed<wire::Render>,
        variables: Typed<wire::Variables>,
    },
    /// `lookup`, `parse` and `health` are there when the component exports their interfaces.
    Sender {
        send: Talk,
        lookup: Option<Talk>,
        parse: Option<Typed<wire::Parse>>,
        health: Option<Talk<HealthSubject, HealthVerdict>>,
    },
}

/// The functions of a conversation: how it begins, and how it goes on with the answer to a request.
pub(super) struct Talk<Subject = Outbound, End = Outcome> {
    pub start: Typed<wire::Start<Subject, End>>,
    pub resume: Typed<wire::Resume<End>>,
}

impl Functions {
    pub(super) fn send(&self) -> Option<&Talk> {
        if let Self::Sender { send, .. } = self { Some(send) } else { None }
    }

    pub(super) fn lookup(&self) -> Option<&Talk> {
        if let Self::Sender { lookup, .. } = self { lookup.as_ref() } else { None }
    }

    pub(super) fn health(&self) -> Option<&Talk<HealthSubject, HealthVerdict>> {
        if let Self::Sender { health, .. } = self { health.as_ref() } else { None }
    }
}

/// The name of an interface, and its functions.
pub(super) type Interface = (&'static str, &'static [&'static str]);

/// The interface that every plugin has.
pub(super) const DESCRIBE: &str = "carillon:plugin/describe@1.0.0";

/// The interface of a kind.
pub(super) const fn interface(kind: PluginKind) -> Interface {
    match kind {
        PluginKind::Delay => ("carillon:plugin/delay@1.0.0", &["next-delay"]),
        PluginKind::Template => ("carillon:plugin/template@1.0.0", &["render", "variables"]),
        PluginKind::Sender => ("carillon:plugin/sender@1.0.0", &["start", "resume"]),
    }
}

/// The interfaces that a sender may have besides its own.
pub(super) const LOOKUP: Interface = ("carillon:plugin/lookup@1.0.0", &["start", "resume"]);
pub(super) const RECEIPTS: Interface = ("carillon:plugin/receipts@1.0.0", &["parse"]);
pub(super) const HEALTH: Interface = ("carillon:plugin/health@1.0.0", &["start", "resume"]);

/// Whether a component exports an interface.
pub(super) fn has(component: &Component, interface: &str) -> bool {
    component.get_export_index(None, interface).is_some()
}

/// One instance with its store.
pub(super) struct Instance {
    pub store: Store<Guest>,
    pub functions: Functions,
    calls: u32,
}

/// A component that is ready to be instantiated.
#[derive(Clone)]
pub(super) struct Blueprint {
    pre: InstancePre<Guest>,
    /// Where the functions are in the component, each with its interface: looked up once per version.
    exports: Vec<(&'static str, ComponentExportIndex)>,
    kind: PluginKind,
}

impl Blueprint {
    /// Prepares a component of this kind; fails when the linker or the component lacks something.
    pub(super) fn new(linker: &Linker<Guest>, component: &Component, kind: PluginKind) -> wasmtime::Result<Self> {
        let pre = linker.instantiate_pre(component)?;
        let optional = [LOOKUP, RECEIPTS, HEALTH]
            .into_iter()
            .filter(|(interface, _)| kind == PluginKind::Sender && has(component, interface));
        let mut exports = Vec::new();
        for (name, functions) in std::iter::once(interface(kind)).chain(optional) {
            for function in functions {
                let index = component
                    .get_export_index(None, name)
                    .and_then(|interface| component.get_export_index(Some(&interface), function))
                    .ok_or_else(|| wasmtime::format_err!("{name} has no function {function}"))?;
                exports.push((name, index));
            }
        }
        Ok(Self { pre, exports, kind })
    }

    /// Whether the functions of an interface were found.
    fn offers(&self, (interface, _): Interface) -> bool {
        self.exports.iter().any(|(name, _)| *name == interface)
    }

    /// Makes an instance; the store's deadline begins now.
    pub(super) fn instantiate(
        &self,
        limits: &PluginLimits,
        memory_bytes: usize,
        log: &Log,
        ctx: &CallContext,
    ) -> wasmtime::Result<Instance> {
        let mut store = store(&self.pre, limits, log, ctx);
        store.data_mut().limiter.set(memory_bytes);
        let instance = self.pre.instantiate(&mut store)?;
        let mut exports = self.exports.iter().map(|(_, index)| index);
        let mut next = || exports.next().ok_or_else(|| wasmtime::format_err!("a function is missing"));
        let functions = match self.kind {
            PluginKind::Delay => Functions::Delay { next_delay: instance.get_typed_func(&mut store, next()?)? },
            PluginKind::Template => Functions::Template {
                render: instance.get_typed_func(&mut store, next()?)?,
                variables: instance.get_typed_func(&mut store, next()?)?,
            },
            PluginKind::Sender => Functions::Sender {
                send: Talk {
                    start: instance.get_typed_func(&mut store, next()?)?,
                    resume: instance.get_typed_func(&mut store, next()?)?,
                },
                lookup: if self.offers(LOOKUP) {
                    let start = instance.get_typed_func(&mut store, next()?)?;
                    Some(Talk { start, resume: instance.get_typed_func(&mut store, next()?)? })
                } else {
                    None
                },
                parse: if self.offers(RECEIPTS) { Some(instance.get_typed_func(&mut store, next()?)?) } else { None },
                health: if self.offers(HEALTH) {
                    let start = instance.get_typed_func(&mut store, next()?)?;
                    Some(Talk { start, resume: instance.get_typed_func(&mut store, next()?)? })
                } else {
                    None
                },
            },
        };
        Ok(Instance { store, functions, calls: 0 })
    }
}

/// A store with the limits of making an instance.
pub(super) fn store(pre: &InstancePre<Guest>, limits: &PluginLimits, log: &Log, ctx: &CallContext) -> Store<Guest> {
    let mut store = Store::new(pre.engine(), Guest::new(limits.memory_bytes, log));
    store.limiter(|guest| &mut guest.limiter);
    store.set_epoch_deadline(Machine::ticks(limits.describe_deadline));
    store.data_mut().begin(ctx);
    store
}

/// What an error of the engine means for the caller. `refused`: whether the instance was refused memory in this call.
pub(super) fn fault(error: &wasmtime::Error, refused: bool) -> PluginFault {
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::Interrupt) {
        return PluginFault::Deadline;
    }
    if refused {
        return PluginFault::Memory;
    }
    // Texts of the engine name functions, limits and types of trap; none of them quotes what a guest holds.
    let cause = error.root_cause().to_string();
    if cause.contains("fuel allocated for hostcalls") {
        return PluginFault::Output("it is larger than an answer may be".to_owned());
    }
    if error.downcast_ref::<WasmBacktrace>().is_none() {
        return PluginFault::Output(cause);
    }
    let mut frames = frames(error);
    frames.truncate(4);
    PluginFault::Trap(if frames.is_empty() { cause } else { format!("{cause} in {}", frames.join(" ← ")) })
}

/// The functions in which an error happened, the innermost first, as far as they have names.
fn frames(error: &wasmtime::Error) -> Vec<String> {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    backtrace.iter().filter_map(|frame| frame.func_name()).map(cut).collect()
}

/// A function's name, which the guest brings: as much of it as fits a line.
fn cut(name: &str) -> String {
    let mut name = name.to_owned();
    truncate(&mut name, 100);
    name
}

/// How quick a plugin must be on average to run on a worker's own thread.
const QUICK_US: u64 = 2_000;
/// The average that a new plugin starts from: a handful of quick calls bring it below the limit.
const UNKNOWN_US: u64 = 4_000;
/// What a call that ran into its deadline counts as: some fifty quick calls make up for it.
const DEADLINE_US: u64 = 1_000_000;
/// How long a device is put off whose plugin has too much to do: seldom enough to cost nothing, and soon enough that the plugin
/// does not run out of work.
const PUT_OFF_LEAST: Duration = Duration::from_millis(250);
const PUT_OFF_MOST: Duration = Duration::from_secs(5);

/// The instances of one plugin version.
pub(super) struct Pool {
    blueprint: Blueprint,
    limits: Arc<PluginLimits>,
    licence: Arc<Licence>,
    idle: Mutex<Vec<Instance>>,
    pub log: Log,
    pub stats: Stats,
    /// The functions in which the latest crash happened, the innermost first.
    pub backtrace: Mutex<Vec<String>>,
    /// Memory of the instance that was called last, in bytes.
    pub memory_bytes: AtomicU64,
    /// When calls of it were recorded.
    pub turns: Turns,
    average_us: AtomicU64,
    pub slow: Lane,
}

/// The calls of one plugin version that are made off the workers' threads.
pub(super) struct Lane {
    permits: Semaphore,
    at_once: usize,
    /// Calls that are made or wait.
    inside: AtomicUsize,
    room: usize,
}

/// A call's place in a [`Lane`], until it is dropped.
pub(super) struct Place<'a> {
    _counted: Counted<'a>,
    _permit: SemaphorePermit<'a>,
}

/// One more, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    fn new(at_once: usize, waiting: usize) -> Self {
        Self { permits: Semaphore::new(at_once), at_once, inside: AtomicUsize::new(0), room: at_once + waiting }
    }

    /// Waits for its turn.
    pub(super) async fn enter(&self) -> Option<Place<'_>> {
        // Counted from now on, and no more when the caller gives up.
        let counted = Counted::new(&self.inside);
        let permit = self.permits.acquire().await.ok()?;
        Some(Place { _counted: counted, _permit: permit })
    }
}

impl Pool {
    pub(super) fn new(blueprint: Blueprint, limits: Arc<PluginLimits>, licence: Arc<Licence>) -> Self {
        Self {
            blueprint,
            licence,
            idle: Mutex::new(Vec::new()),
            log: Log::new(limits.log_lines),
            stats: Stats::default(),
            backtrace: Mutex::default(),
            memory_bytes: AtomicU64::new(0),
            turns: Turns::new(),
            average_us: AtomicU64::new(UNKNOWN_US),
            slow: Lane::new(limits.slow_calls_per_plugin, limits.slow_calls_waiting),
            limits,
        }
    }

    /// A pool of the same version without instances, with a log and counts of its own.
    pub(super) fn apart(&self) -> Self {
        Self::new(self.blueprint.clone(), Arc::clone(&self.limits), Arc::clone(&self.licence))
    }

    /// Whether the version has the functions of `lookup`.
    pub(super) fn has_lookup(&self) -> bool {
        self.blueprint.offers(LOOKUP)
    }

    /// Whether the version has the function of `receipts`.
    pub(super) fn has_receipts(&self) -> bool {
        self.blueprint.offers(RECEIPTS)
    }

    /// Whether the version has the functions of `health`.
    pub(super) fn has_health(&self) -> bool {
        self.blueprint.offers(HEALTH)
    }

    /// Whether a call may run on the caller's thread.
    pub(super) fn is_quick(&self) -> bool {
        self.average_us.load(Ordering::Relaxed) < QUICK_US
    }

    /// How long it takes until the calls that wait are made, when as many wait as may.
    pub(super) fn crowded(&self) -> Option<Duration> {
        let average = self.average_us.load(Ordering::Relaxed);
        if average < QUICK_US {
            return None;
        }
        let inside = self.slow.inside.load(Ordering::Relaxed);
        if inside < self.slow.room {
            return None;
        }
        let calls = u64::try_from(inside / self.slow.at_once).unwrap_or(u64::MAX);
        Some(Duration::from_micros(average.saturating_mul(calls)).clamp(PUT_OFF_LEAST, PUT_OFF_MOST))
    }

    /// Instances that wait for their next call.
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    /// Drops the instances that wait.
    pub(super) fn drop_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    /// Calls a function: at most `answer_bytes` come out. `make_room` is called when the engine has no instance left.
    pub(super) fn call<T>(
        &self,
        function: Function,
        ctx: &CallContext,
        answer_bytes: usize,
        make_room: &dyn Fn(),
        call: impl FnOnce(&mut Instance) -> wasmtime::Result<T>,
    ) -> Result<T, PluginFault> {
        let started = Instant::now();
        // What an operator granted this plugin, in place of what every plugin has.
        let (memory_bytes, deadline) = self.licence.limits();
        let memory_bytes = memory_bytes.unwrap_or(self.limits.memory_bytes);
        let deadline = deadline.unwrap_or(self.limits.call_deadline);
        let result = self.checkout(memory_bytes, ctx, make_room).and_then(|mut instance| {
            let guest = instance.store.data_mut();
            guest.begin(ctx);
            guest.limiter.refused = false;
            instance.store.set_epoch_deadline(Machine::ticks(deadline));
            instance.store.set_hostcall_fuel(answer_bytes);
            let answer = call(&mut instance);
            let limiter = &instance.store.data().limiter;
            self.memory_bytes.store(limiter.used() as u64, Ordering::Relaxed);
            match answer {
                Ok(answer) => {
                    self.checkin(instance);
                    Ok(answer)
                }
                // An instance that was stopped in the middle of something is never used again.
                Err(error) => {
                    *self.backtrace.lock() = frames(&error);
                    Err(fault(&error, limiter.refused))
                }
            }
        });
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some(timer) = &ctx.timer {
            timer.add(took_us);
        }
        let counted_us = if matches!(result, Err(PluginFault::Deadline)) { DEADLINE_US } else { took_us };
        let average = self.average_us.load(Ordering::Relaxed);
        self.average_us.store(average - average / 8 + counted_us.min(DEADLINE_US) / 8, Ordering::Relaxed);
        self.stats.count(function, took_us, result.as_ref().err());
        result
    }

    fn checkout(&self, memory_bytes: usize, ctx: &CallContext, make_room: &dyn Fn()) -> Result<Instance, PluginFault> {
        // Last in, first out: a few instances stay warm in the caches, the others are not touched.
        while let Some(mut instance) = self.take_idle() {
            if instance.store.data_mut().limiter.set(memory_bytes) {
                return Ok(instance);
            }
        }
        let make = || self.blueprint.instantiate(&self.limits, memory_bytes, &self.log, ctx);
        make()
            .or_else(|error| {
                if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
                    make_room();
                    make()
                } else {
                    Err(error)
                }
            })
            .map_err(|error| match fault(&error, false) {
                PluginFault::Output(cause) => PluginFault::Internal(format!("no instance can be made: {cause}")),
                fault => fault,
            })
    }

    fn take_idle(&self) -> Option<Instance> {
        self.idle.lock().pop()
    }

    fn checkin(&self, mut instance: Instance) {
        instance.calls += 1;
        if instance.calls >= self.limits.calls_per_instance {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.limits.idle_per_plugin {
            idle.push(instance);
        } else {
            drop(idle);
        }
    }
}

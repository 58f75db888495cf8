//! The upload check: from bytes to a plugin that is known to fit, or a refusal that says what to do.

use std::fmt;

use tokio::time::Instant;
use wasmtime::component::{Component, ComponentNamedList, Lift, Lower, types::ComponentItem};
use wasmtime::{Engine, Trap};

use super::Shared;
use super::apart::Urgency;
use super::instance::{self, Blueprint, DESCRIBE, Interface, Signature, Typed, interface};
use super::schema::Schema;
use super::types::{CallContext, HealthSubject, HealthVerdict, PluginFault};
use super::wasi::Log;
use super::world::{self, Misfit};
use super::{apart, module, wire};
use crate::clock::Time;
use crate::grants::{HostPattern, SECRET_NAME, is_secret_name};
use crate::id::Digest;
use crate::message::truncate;
use crate::plugin::{PluginInfo, PluginKind};

/// What the upload check found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The plugin's world.
    pub kind: PluginKind,
    /// What `describe` said.
    pub info: PluginInfo,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// sha256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How long compiling took, or loading from the cache.
    pub compile_ms: u64,
    /// How long making an instance took.
    pub instantiate_us: u64,
    /// What it wrote to its standard output and error while it was described.
    pub log: Vec<String>,
}

/// The longest detail of a refusal, in bytes.
const MAX_DETAIL: usize = 2_000;

/// Why a component is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// A word for machines: `too-large`, `not-wasm`, `core-module`, `precompiled`, `invalid-component`, `compile-limit`,
    /// `wrong-world`, `missing-export`, `wrong-type`, `unexpected-import`, `instantiation-failed`, `describe-failed`,
    /// `invalid-description` or `internal`.
    pub code: &'static str,
    /// What is wrong and how to fix it.
    pub detail: String,
    /// For a component that does not fit its world: each item of it that does not.
    pub misfits: Vec<Misfit>,
}

impl Refusal {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        // It may quote names that the component brings, which may be as long as the component.
        truncate(&mut detail, MAX_DETAIL);
        Self { code, detail, misfits: Vec::new() }
    }

    pub(super) fn internal(error: &dyn fmt::Display) -> Self {
        Self::new("internal", format!("the check could not be carried out: {error}"))
    }

    pub(super) fn invalid(problem: impl fmt::Display) -> Self {
        Self::new("invalid-component", format!("the component cannot be compiled: {problem}"))
    }

    pub(super) fn core_module(problem: impl fmt::Display) -> Self {
        Self::new("core-module", problem.to_string())
    }

    pub(super) fn untyped_module() -> Self {
        Self::core_module(
            "this is a core WebAssembly module without the types of its world, so no component can be made of it. Build it with \
             wit-bindgen, which adds them (a section named component-type), and do not strip that section; or make a component \
             of it: `wasm-tools component embed wit --world WORLD module.wasm -o typed.wasm` and `wasm-tools component new \
             typed.wasm -o plugin.wasm`. With Rust, the target wasm32-wasip2 gives a component at once.",
        )
    }

    pub(super) fn compile_limit(seconds: u64, memory_bytes: u64) -> Self {
        Self::new(
            "compile-limit",
            format!(
                "compiling the component took more than {seconds} s of processor time or {} MiB of memory: make it smaller, with \
                 smaller functions (optimise for size, leave out what is not used).",
                memory_bytes >> 20
            ),
        )
    }

    pub(super) fn link(error: &wasmtime::Error) -> Self {
        Self::new(
            "unexpected-import",
            format!(
                "the host does not offer what the component imports ({error:#}). A plugin imports nothing but wasi 0.2's cli, clocks, \
                 filesystem, io, random and sockets, which are empty: instead of making a request or waiting, answer with one."
            ),
        )
    }

    pub(super) fn schema(what: &str, error: &str) -> Self {
        Self::new("invalid-description", format!("describe's {what} is not a JSON Schema (2020-12): {error}"))
    }
}

const BUILD_HINT: &str = "Build against carillon:plugin@1.0.0 (wit/plugin.wit) for one of the worlds delay-strategy, \
                          message-template or device-sender.";

/// Capabilities that promise an interface, with what a description says by naming one, and the worlds of senders that have it.
const PROMISES: [(&str, Interface, &str, &str); 3] = [
    ("lookup", instance::LOOKUP, "can look messages up", "the world device-sender-lookup"),
    (
        "receipts",
        instance::RECEIPTS,
        "understands its provider's webhooks",
        "the world device-sender-receipts or full-sender",
    ),
    (
        "health",
        instance::HEALTH,
        "can tell whether a device can send",
        "one of the worlds device-sender-health, device-sender-lookup-health, device-sender-receipts-health or full-sender-health",
    ),
];

/// Refuses what does not begin as WebAssembly does.
pub(super) fn recognise(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        Some([0x7f, b'E', b'L', b'F', ..]) => {
            Err(Refusal::new("precompiled", "compiled code is not taken: upload the WebAssembly component itself."))
        }
        _ => Err(Refusal::new(
            "not-wasm",
            "this is not WebAssembly: the binary of a component or module begins with the bytes 00 61 73 6d.",
        )),
    }
}

/// Compiles a component, or the one that a core module describes.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, Refusal> {
    recognise(bytes)?;
    let component = module::component(bytes)?;
    Component::from_binary(engine, &component).map_err(|e| Refusal::invalid(format_args!("{e:#}")))
}

/// Everything between the bytes and the store; `urgency` says who waits for it.
pub(super) fn inspect(shared: &Shared, bytes: &[u8], urgency: Urgency) -> Result<(Inspected, Component), Refusal> {
    let max = shared.limits.max_component_bytes;
    if bytes.len() > max {
        let size = bytes.len();
        return Err(Refusal::new(
            "too-large",
            format!(
                "the component has {size} bytes, at most {max} are taken: strip its debug information and optimise for size."
            ),
        ));
    }
    let engine = &shared.machine.engine;
    let digest = Digest::of(bytes);
    let started = Instant::now();
    let component = shared.compile(&digest, bytes, urgency)?;
    let compile_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);

    let imports: Vec<String> = component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect();
    let fits = || {
        let kind = kind(engine, &component).or_else(|refusal| check_imports(&imports).and(Err(refusal)))?;
        check_imports(&imports)
            .and_then(|()| check_world(engine, &component, kind))
            .and_then(|()| Blueprint::new(&shared.machine.linker, &component, kind).map_err(|e| Refusal::link(&e)))
            .map(|blueprint| (kind, blueprint))
            .map_err(|refusal| with_misfits(shared, bytes, kind, refusal))
    };
    let (kind, blueprint) = fits()?;

    let log = Log::new(shared.limits.log_lines);
    let ctx = CallContext { config: "{}".into(), now: Time::default(), random: 0, timer: None };
    let started = Instant::now();
    blueprint
        .instantiate(&shared.limits, shared.limits.memory_bytes, &log, &ctx)
        .map_err(|e| broken(shared, "instantiation-failed", "an instance cannot be made", &e))?;
    let instantiate_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let info = describe(shared, &component, &log, &ctx)?;
    check_info(&info, kind)?;
    for (capability, (interface, _), says, worlds) in PROMISES {
        if info.can(capability) && !(kind == PluginKind::Sender && instance::has(&component, interface)) {
            let detail = format!(
                "describe says that the plugin {says}, but it does not export {interface}: build a sender for {worlds}, or leave \
                 the capability out."
            );
            return Err(Refusal::new("missing-export", detail));
        }
    }
    let (size, log) = (bytes.len() as u64, log.lines());
    Ok((Inspected { kind, info, imports, digest, size, compile_ms, instantiate_us, log }, component))
}

fn check_imports(imports: &[String]) -> Result<(), Refusal> {
    let strange: Vec<&str> = imports.iter().map(String::as_str).filter(|name| !world::is_offered(name)).collect();
    if strange.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        "unexpected-import",
        format!(
            "the component imports {}, which the host does not offer. A plugin imports nothing: time, randomness and configuration \
             are arguments of each call, and a request that it wants made is its answer.",
            strange.join(", ")
        ),
    ))
}

/// Adds every item that does not fit, where the first one was found. That takes reading the component's types, so it is done
/// within the limits of compiling; a component that cannot be read so keeps the refusal that it has.
fn with_misfits(shared: &Shared, bytes: &[u8], kind: PluginKind, refusal: Refusal) -> Refusal {
    let misfits = match shared.limits.compile_apart {
        Some(limits) => apart::misfits(limits, bytes, kind),
        None => world::misfits(bytes, kind).map_err(|e| Refusal::internal(&e)),
    };
    match misfits {
        Ok(misfits) => Refusal { misfits, ..refusal },
        Err(why) => {
            tracing::debug!(error = %why, "there is no report on a component that does not fit");
            refusal
        }
    }
}

/// The interface name without its version, when it is one of ours.
fn own(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("carillon:plugin/").map(|rest| rest.split_once('@').unwrap_or((rest, "no version")))
}

fn kind(engine: &Engine, component: &Component) -> Result<PluginKind, Refusal> {
    let ty = component.component_type();
    let exports: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
    let ours: Vec<(&str, &str)> = exports.iter().filter_map(|name| own(name)).collect();
    if ours.is_empty() {
        let found = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        return Err(Refusal::new(
            "wrong-world",
            format!("the component exports {found}, no interface of carillon:plugin. {BUILD_HINT}"),
        ));
    }
    if let Some((name, version)) = ours.iter().find(|(_, version)| !version.starts_with("1.")) {
        return Err(Refusal::new(
            "wrong-world",
            format!("the component exports carillon:plugin/{name} of {version}, this host speaks 1.0.0. {BUILD_HINT}"),
        ));
    }
    let kinds: Vec<PluginKind> = [PluginKind::Delay, PluginKind::Template, PluginKind::Sender]
        .into_iter()
        .filter(|kind| ours.iter().any(|(name, _)| *name == kind.as_str()))
        .collect();
    match kinds.as_slice() {
        [kind] => Ok(*kind),
        [] => {
            let names: Vec<&str> = ours.iter().map(|(name, _)| *name).collect();
            Err(Refusal::new(
                "wrong-world",
                format!(
                    "the component exports {} of carillon:plugin, but none of delay, template or sender. {BUILD_HINT}",
                    names.join(", ")
                ),
            ))
        }
        _ => Err(Refusal::new(
            "wrong-world",
            format!(
                "the component exports more than one of delay, template and sender; make a plugin of each. {BUILD_HINT}"
            ),
        )),
    }
}

/// Checks that a component exports everything that its world has, with the right types.
pub(super) fn check_world(engine: &Engine, component: &Component, kind: PluginKind) -> Result<(), Refusal> {
    export::<wire::Get>(engine, component, DESCRIBE, "get")?;
    let (name, _) = interface(kind);
    match kind {
        PluginKind::Delay => export::<wire::NextDelay>(engine, component, name, "next-delay"),
        PluginKind::Template => {
            export::<wire::Render>(engine, component, name, "render")?;
            export::<wire::Variables>(engine, component, name, "variables")
        }
        PluginKind::Sender => {
            export::<wire::Start>(engine, component, name, "start")?;
            export::<wire::Resume>(engine, component, name, "resume")?;
            let (name, _) = instance::LOOKUP;
            if instance::has(component, name) {
                export::<wire::Start>(engine, component, name, "start")?;
                export::<wire::Resume>(engine, component, name, "resume")?;
            }
            let (name, _) = instance::RECEIPTS;
            if instance::has(component, name) {
                export::<wire::Parse>(engine, component, name, "parse")?;
            }
            let (name, _) = instance::HEALTH;
            if instance::has(component, name) {
                export::<wire::Start<HealthSubject, HealthVerdict>>(engine, component, name, "start")?;
                export::<wire::Resume<HealthVerdict>>(engine, component, name, "resume")?;
            }
            Ok(())
        }
    }
}

fn export<S: Signature>(engine: &Engine, component: &Component, name: &str, function: &str) -> Result<(), Refusal>
where
    S::Params: ComponentNamedList + Lower,
    S::Return: ComponentNamedList + Lift,
{
    let missing =
        |what: String| Refusal::new("missing-export", format!("the component does not export {what}. {BUILD_HINT}"));
    let ty = component.component_type();
    let (wanted, _) = own(name).unwrap_or((name, ""));
    let Some((_, item)) = ty.exports(engine).find(|(found, _)| own(found).is_some_and(|(n, _)| n == wanted)) else {
        return Err(missing(name.to_owned()));
    };
    let ComponentItem::ComponentInstance(interface) = item.ty else {
        return Err(missing(format!("the interface {name}")));
    };
    let Some(item) = interface.get_export(engine, function) else {
        return Err(missing(format!("the function {function} of {name}")));
    };
    let ComponentItem::ComponentFunc(func) = item.ty else {
        return Err(missing(format!("the function {function} of {name}")));
    };
    func.typecheck::<S::Params, S::Return>(&ty.instance_type()).map_err(|e| {
        Refusal::new(
            "wrong-type",
            format!("{function} of {name} has another type than the contract says: {e:#}. {BUILD_HINT}"),
        )
    })
}

fn describe(shared: &Shared, component: &Component, log: &Log, ctx: &CallContext) -> Result<PluginInfo, Refusal> {
    const SAY: &str = "describe failed";
    let fail = |e: wasmtime::Error| broken(shared, "describe-failed", SAY, &e);
    let index = component
        .get_export_index(None, DESCRIBE)
        .and_then(|interface| component.get_export_index(Some(&interface), "get"))
        .ok_or_else(|| {
            Refusal::new("missing-export", format!("the component does not export describe. {BUILD_HINT}"))
        })?;
    let pre = shared.machine.linker.instantiate_pre(component).map_err(|e| Refusal::link(&e))?;
    let mut store = instance::store(&pre, &shared.limits, log, ctx);
    store.set_hostcall_fuel(1 << 20);
    let instance = pre.instantiate(&mut store).map_err(fail)?;
    let get: Typed<wire::Get> = instance.get_typed_func(&mut store, index).map_err(fail)?;
    let (info,) = get.call(&mut store, ()).map_err(fail)?;
    Ok(PluginInfo {
        name: info.name,
        version: info.version,
        summary: info.summary,
        config_schema: info.config_schema,
        adapter_schema: info.adapter_schema,
        hosts: info.hosts,
        secrets: info.secrets,
        capabilities: info.capabilities,
    })
}

/// A refusal because the guest's own code failed.
fn broken(shared: &Shared, code: &'static str, what: &str, error: &wasmtime::Error) -> Refusal {
    let limits = &shared.limits;
    let detail = match instance::fault(error, false) {
        PluginFault::Deadline => format!("{what}: it took longer than {} ms.", limits.describe_deadline.as_millis()),
        PluginFault::Trap(cause) if error.downcast_ref::<Trap>() == Some(&Trap::UnreachableCodeReached) => {
            format!("{what}: it crashed ({cause}); a panic, or more than {} bytes of memory.", limits.memory_bytes)
        }
        fault => format!("{what}: {fault}."),
    };
    Refusal::new(code, detail)
}

pub(super) fn check_info(info: &PluginInfo, kind: PluginKind) -> Result<(), Refusal> {
    let bad = |detail: String| Err(Refusal::new("invalid-description", detail));
    let word = |s: &str| {
        (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !word(&info.name) {
        return bad("describe's name must be 1 to 64 of a-z, 0-9 and -.".to_owned());
    }
    if info.version.len() > 64 || semver::Version::parse(&info.version).is_err() {
        return bad("describe's version must be a semantic version, such as 1.0.0.".to_owned());
    }
    if info.summary.len() > 500 {
        return bad("describe's summary has at most 500 bytes.".to_owned());
    }
    if info.hosts.len() > 100 || info.secrets.len() > 100 || info.capabilities.len() > 100 {
        return bad("describe names at most 100 hosts, secrets and capabilities each.".to_owned());
    }
    // What cannot be granted cannot be asked for.
    if info.hosts.iter().any(|host| host.parse::<HostPattern>().is_err()) {
        return bad("each of describe's hosts must be host, host:port or *.domain.".to_owned());
    }
    if !info.secrets.iter().all(|name| is_secret_name(name)) {
        return bad(format!("each of describe's secrets must be a name: {SECRET_NAME}."));
    }
    if kind != PluginKind::Sender
        && !(info.adapter_schema.is_empty() && info.hosts.is_empty() && info.secrets.is_empty())
    {
        return bad("only a sender has an adapter schema, hosts and secrets; leave them empty.".to_owned());
    }
    Schema::new(&info.config_schema).map_err(|e| Refusal::schema("config-schema", &e))?;
    if !info.adapter_schema.is_empty() {
        Schema::new(&info.adapter_schema).map_err(|e| Refusal::schema("adapter-schema", &e))?;
    }
    Ok(())
}

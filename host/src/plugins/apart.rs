//! Compiling in a process of its own, so that a component made to exhaust the compiler costs its uploader a refusal and the
//! server nothing: the kernel ends that process at a limit of processor time and of memory. It is this program again, started
//! without the server's environment, which holds secrets.

use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use wasmtime::{Engine, InstanceAllocationStrategy};

use super::check::{self, Refusal};
use super::limits::PluginLimits;
use super::slow::NICENESS;
use super::world::{self, Misfit};
use super::{engine, module};
use crate::plugin::PluginKind;

/// The hidden subcommand that [`compile_here`] serves; its arguments are [`CompileLimits`] and [`CompilerTask`].
pub const SUBCOMMAND: &str = "compile-plugin";

/// The program that runs: also after the file was replaced by a newer one, whose engine may be another.
#[cfg(target_os = "linux")]
fn program() -> io::Result<std::path::PathBuf> {
    Ok("/proc/self/exe".into())
}
#[cfg(not(target_os = "linux"))]
fn program() -> io::Result<std::path::PathBuf> {
    std::env::current_exe()
}

/// What compiling one component may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Processor time of all its threads together; counted in whole seconds.
    pub time: Duration,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Who waits for a component to be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Urgency {
    /// Messages: it takes its share of the machine like anything else.
    Now,
    /// Somebody who uploads: it comes after the threads that send.
    Later,
}

/// What the process does with the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompilerTask {
    /// Compile it.
    Compile(Urgency),
    /// Say what of it does not fit the world of this kind, as JSON.
    Misfits(PluginKind),
}

/// The code compiled from a component, or from the one that a core module describes.
pub(super) fn compile(limits: CompileLimits, bytes: &[u8], urgency: Urgency) -> Result<Vec<u8>, Refusal> {
    check::recognise(bytes)?;
    run(limits, bytes, (urgency == Urgency::Later).then_some("later").as_slice())
}

/// What of a component does not fit the world of its kind.
pub(super) fn misfits(limits: CompileLimits, bytes: &[u8], kind: PluginKind) -> Result<Vec<Misfit>, Refusal> {
    let report = run(limits, bytes, &["later", "--misfits", kind.as_str()])?;
    serde_json::from_slice(&report).map_err(|e| Refusal::internal(&e))
}

fn run(limits: CompileLimits, bytes: &[u8], task: &[&str]) -> Result<Vec<u8>, Refusal> {
    let seconds = limits.time.as_secs().max(1);
    let failed = |error: io::Error| Refusal::internal(&format!("the compiler's process: {error}"));
    let mut child = Command::new(program().map_err(failed)?)
        .arg(SUBCOMMAND)
        .args([seconds.to_string(), limits.memory_bytes.to_string()])
        .args(task)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // It reads to the end before it writes. One that broke off has more to say by how it ended.
        let _ = input.write_all(bytes);
    }
    let output = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(output.stdout),
        Some(INVALID) => Err(Refusal { code: "invalid-component", ..Refusal::core_module(said.trim()) }),
        Some(NO_COMPONENT) => Err(Refusal::core_module(said.trim())),
        Some(code) => {
            tracing::error!(code, %said, "the compiler's process failed");
            Err(Refusal::internal(&format!("the compiler's process ended with {code}")))
        }
        None => Err(Refusal::compile_limit(seconds, limits.memory_bytes)),
    }
}

/// How the process says that the component is at fault.
const INVALID: i32 = 2;
/// How it says that it was given a core module of which no component can be made.
const NO_COMPONENT: i32 = 3;

/// Reads a component from standard input and writes what was asked for to standard output, within limits. Returns the exit
/// code.
///
/// # Errors
/// When the limits cannot be set, or the answer cannot be written.
pub fn compile_here(seconds: u64, memory_bytes: u64, task: CompilerTask) -> anyhow::Result<u8> {
    if task != CompilerTask::Compile(Urgency::Now) {
        // Where it cannot be done, compiling is as urgent as all else.
        let _as_before = nice(NICENESS);
    }
    // Memory that is reserved and not used does not count: threads reserve much of it.
    for (resource, limit) in [(Resource::Cpu, seconds), (Resource::Data, memory_bytes), (Resource::Core, 0)] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).context("a limit cannot be set")?;
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let answer = match task {
        CompilerTask::Compile(_) => code(&bytes)?,
        CompilerTask::Misfits(kind) => world::misfits(&bytes, kind)
            .and_then(|misfits| Ok(serde_json::to_vec(&misfits)?))
            .map_err(|error| Refusal::invalid(format_args!("{error:#}"))),
    };
    match answer {
        Ok(answer) => {
            io::stdout().lock().write_all(&answer)?;
            Ok(0)
        }
        Err(refusal) => {
            eprintln!("{refusal}");
            let code = if refusal.code == "core-module" { NO_COMPONENT } else { INVALID };
            Ok(u8::try_from(code)?)
        }
    }
}

fn code(bytes: &[u8]) -> anyhow::Result<Result<Vec<u8>, Refusal>> {
    let component = match module::component(bytes) {
        Ok(component) => component,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut config = engine::config(&PluginLimits::default());
    // No instance is made here: the pool's address space is not needed. Code does not depend on it.
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    let engine = Engine::new(&config).map_err(anyhow::Error::from)?;
    Ok(engine.precompile_component(&component).map_err(|error| Refusal::invalid(format_args!("{error:#}"))))
}

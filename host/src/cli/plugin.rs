//! `carillon plugin`: a plugin to begin with; what an upload checks, before the upload; a call with a case; the upload; which
//! version is used; and the deletion of one that is not.

mod cases;
mod grants;
mod new;
mod reference;
mod rollout;
mod watch;
mod wit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::bad_input;
use super::client::Server;
use crate::case::sample::{Warning, self_check, timing};
use crate::device::is_word;
use crate::plugins::{Inspected, Plugin, PluginHost, PluginLimits, Refusal};

/// What to do with a plugin.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a folder with a new plugin in it, ready to be built.
    New(new::New),
    /// Write the contract with plugins to a folder: as text, as a package for wkg and OCI registries, and to read.
    Wit(wit::Wit),
    /// Check a component, or a core module with its types, as an upload would: world, imports, limits, description, calls with
    /// invented messages, and how long a call takes.
    Check(Check),
    /// Call a component once, with what a case says (JSON), and print what came of it.
    Run(cases::Run),
    /// Call a component with each case of a folder, and compare with what the case expects: a line per case, exit 1 if one
    /// fails.
    Test(cases::Test),
    /// Make a call again that a server kept because it failed (or sampled), and print what came of it; exit 1 if that is not
    /// what it was.
    Replay(cases::Replay),
    /// Upload a component to a server.
    Push(Push),
    /// Show what a plugin asks for, what it was granted, and what it did not get.
    Grants(grants::Show),
    /// Grant a sender hosts, methods and secrets, and any plugin memory and time, in place of what was granted before.
    Grant(grants::Grant),
    /// Build, check, upload and activate whenever the sources change: for a server that one develops against. Each version
    /// that it uploads stays in the store until `plugin delete` takes it away.
    Watch(watch::Watch),
    /// Try versions before they are trusted.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Go back to the version that was active before.
    Rollback(rollout::Rollback),
    /// Delete a version that nothing uses.
    Delete(Delete),
}

/// What is checked.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The component, a .wasm file.
    file: PathBuf,
    /// The configuration of the sample call, JSON.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    config: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is uploaded, and where to.
#[derive(Debug, clap::Args)]
pub struct Push {
    /// The component, a .wasm file.
    file: PathBuf,
    #[command(flatten)]
    server: Server,
    /// Use it from the next message on.
    #[arg(long)]
    activate: bool,
    /// Grant it the hosts and secrets that it asks for, beside what it has; any host, when its configuration decides.
    #[arg(long)]
    grant_asked: bool,
}

/// What is deleted.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// The plugin.
    name: String,
    /// The version.
    version: String,
    #[command(flatten)]
    server: Server,
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::New(args) => new::run(&args),
        Command::Wit(args) => wit::run(&args),
        Command::Check(args) => check(args).await,
        Command::Run(args) => cases::run(args).await,
        Command::Test(args) => cases::test(args).await,
        Command::Replay(args) => cases::replay(args).await,
        Command::Push(args) => push(args).await,
        Command::Grants(args) => grants::show(args).await,
        Command::Grant(args) => grants::grant(args).await,
        Command::Watch(args) => watch::watch(args).await,
        Command::Rollout(command) => rollout::run(command).await,
        Command::Rollback(args) => rollout::rollback(args).await,
        Command::Delete(args) => delete(args).await,
    }
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    std::fs::read(path).map(Bytes::from).map_err(|error| bad_input(format!("{}: {error}", path.display())))
}

/// The plugin in a file, as an upload would see it.
async fn load(path: &Path) -> anyhow::Result<(Inspected, Arc<Plugin>)> {
    let bytes = read(path)?;
    let host = PluginHost::new(PluginLimits::default(), None)?;
    host.inspect_and_load(bytes).await.map_err(|refusal: Refusal| {
        let items = refusal.misfits.iter().map(|misfit| format!("\n  {}: {}", misfit.item, misfit.problem));
        bad_input(format!("{}: {}: {refusal}{}", path.display(), refusal.code, items.collect::<String>()))
    })
}

async fn check(args: Check) -> anyhow::Result<ExitCode> {
    let (inspected, plugin) = load(&args.file).await?;
    let Inspected { kind, info, imports, digest, size, compile_ms, instantiate_us, .. } = inspected;
    let warnings = self_check(&plugin).await;
    let sample = match plugin.check_config(&args.config) {
        Ok(()) => timing(&plugin, &args.config).await.map_err(|fault| fault.to_string()),
        Err(problems) => Err(format!("the schema refuses the configuration: {}", problems.join("; "))),
    };
    if args.json {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (first_call_us, call_us, call_problem) = match sample {
            Ok(sample) => (Some(us(sample.first)), Some(us(sample.median)), None),
            Err(problem) => (None, None, Some(problem)),
        };
        let report = serde_json::json!({
            "kind": kind, "info": info, "imports": imports, "digest": digest, "bytes": size, "compile_ms": compile_ms,
            "instantiate_us": instantiate_us, "first_call_us": first_call_us, "call_us": call_us,
            "call_problem": call_problem, "warnings": warnings,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: {} {}, {}", args.file.display(), info.name, info.version, info.summary);
    println!("  kind      {}", kind.as_str());
    println!("  size      {} KiB, sha256 {digest}", size.div_ceil(1024));
    println!("  imports   {}", if imports.is_empty() { "none".to_owned() } else { imports.join(", ") });
    println!("  compiled  in {compile_ms} ms, an instance in {instantiate_us} µs");
    match sample {
        Ok(sample) => {
            println!("  called    in {} µs (the first time {} µs)", sample.median.as_micros(), sample.first.as_micros())
        }
        Err(problem) => println!("  not called with {}: {problem} (give another --config)", args.config),
    }
    print_warnings(&warnings);
    Ok(ExitCode::SUCCESS)
}

fn print_warnings(warnings: &[Warning]) {
    for warning in warnings {
        println!("  warning   {}: {}", warning.code, warning.detail);
    }
}

async fn push(args: Push) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let api = args.server.api()?;
    let path = if args.grant_asked { "/api/v1/plugins?grant=asked" } else { "/api/v1/plugins" };
    let uploaded = api.ask("POST", path, "application/wasm", bytes).await?;
    let text = |field: &str| uploaded.get(field).and_then(Value::as_str).unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    println!("{name} {version} ({}) uploaded, sha256 {}", text("kind"), text("digest"));
    for warning in uploaded.pointer("/report/warnings").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| warning.get(field).and_then(Value::as_str).unwrap_or_default();
        println!("  warning   {}: {}", text("code"), text("detail"));
    }
    if let Some(how) = uploaded.pointer("/grants/how_to_grant").and_then(Value::as_str) {
        println!("  not granted: {}; grant it with {how}", grants::missing(&uploaded, "/grants"));
    }
    if args.activate {
        let path = format!("/api/v1/plugins/{name}/activate");
        let body = serde_json::json!({"version": version}).to_string();
        api.ask("POST", &path, "application/json", Bytes::from(body)).await?;
        println!("{name} {version} is active");
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(args: Delete) -> anyhow::Result<ExitCode> {
    let Delete { name, version, server } = args;
    // They stand in a path as they are.
    if !is_word(&name) {
        return Err(bad_input("NAME: give the plugin's name: 1 to 64 letters, digits, - or _"));
    }
    if semver::Version::parse(&version).is_err() {
        return Err(bad_input("VERSION: give a semantic version, such as 1.2.0"));
    }
    let path = format!("/api/v1/plugins/{name}/versions/{version}");
    server.api()?.ask("DELETE", &path, "application/json", Bytes::new()).await?;
    println!("{name} {version} is deleted");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tours_plugin_is_the_example() {
        let readme = include_str!("../../../README.md");
        let example = include_str!("../../../examples/plugins/rust-greeting/src/lib.rs");
        assert!(readme.contains(example), "README.md shows another plugin than examples/plugins/rust-greeting");
    }

    #[test]
    fn the_reference_shows_what_the_gateway_does() {
        let readme = include_str!("../../../plugins/README.md");
        let example = include_str!("../../../examples/plugins/rust-gateway/src/lib.rs");
        let mut shown = 0;
        for block in readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            if block.contains(" for Gateway {") {
                shown += 1;
                for part in block.split("\n\n").map(str::trim_end) {
                    assert!(
                        example.contains(part),
                        "plugins/README.md shows another gateway than the example:\n{part}"
                    );
                }
            }
        }
        assert_eq!(shown, 2, "webhooks and checks");
    }
}

//! `carillon plugin check|push`: what an upload checks, before the upload; and the upload.

mod sample;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::bad_input;
use super::client::Server;
use crate::id::VersionNo;
use crate::plugins::{Inspected, PluginHost, PluginLimits, Refusal};

/// What to do with a plugin.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a component as an upload would: world, imports, limits, description, and how long a call takes.
    Check(Check),
    /// Upload a component to a server.
    Push(Push),
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
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => check(args).await,
        Command::Push(args) => push(args).await,
    }
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    std::fs::read(path).map(Bytes::from).map_err(|error| bad_input(format!("{}: {error}", path.display())))
}

async fn check(args: Check) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let refused = |refusal: Refusal| {
        let items = refusal.misfits.iter().map(|misfit| format!("\n  {}: {}", misfit.item, misfit.problem));
        bad_input(format!("{}: {}: {refusal}{}", args.file.display(), refusal.code, items.collect::<String>()))
    };
    let host = PluginHost::new(PluginLimits::default(), None)?;
    let Inspected { kind, info, imports, digest, size, compile_ms, instantiate_us, .. } =
        host.inspect(bytes.clone()).await.map_err(refused)?;
    let plugin = host.load(VersionNo(0), kind, digest, info.clone(), bytes).await.map_err(refused)?;
    let sample = match plugin.check_config(&args.config) {
        Ok(()) => sample::call(&plugin, &args.config).await.map_err(|fault| fault.to_string()),
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
            "call_problem": call_problem,
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
    Ok(ExitCode::SUCCESS)
}

async fn push(args: Push) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let api = args.server.api()?;
    let uploaded = api.ask("POST", "/api/v1/plugins", "application/wasm", bytes).await?;
    let text = |field: &str| uploaded.get(field).and_then(Value::as_str).unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    println!("{name} {version} ({}) uploaded, sha256 {}", text("kind"), text("digest"));
    if args.activate {
        let path = format!("/api/v1/plugins/{name}/activate");
        let body = serde_json::json!({"version": version}).to_string();
        api.ask("POST", &path, "application/json", Bytes::from(body)).await?;
        println!("{name} {version} is active");
    }
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
}

//! `carillon plugin rollout start|status|promote|abort` and `plugin rollback`: which version of a plugin is used.

use std::process::ExitCode;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::cli::client::Server;

/// What to do with a plugin's versions.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Try a version beside the active one, while campaigns run.
    Start(Start),
    /// Show the rollouts of a plugin, newest first, and what was seen of them.
    Status {
        /// The plugin.
        name: String,
        /// Also what was found at which message: faults, and differences of a shadow.
        #[arg(long)]
        findings: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// End the running rollout: its version becomes the active one.
    Promote {
        /// The plugin.
        name: String,
        #[command(flatten)]
        server: Server,
    },
    /// End the running rollout: what is active stays so.
    Abort {
        /// The plugin.
        name: String,
        /// Why, for the history.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        server: Server,
    },
}

/// How a version is tried.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TryMode {
    /// A share of the devices uses it.
    Canary,
    /// It is called on a share of the calls; its answers are compared and thrown away.
    Shadow,
}

/// What is tried, and how.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// The plugin.
    name: String,
    /// A version that was uploaded.
    version: String,
    /// How.
    #[arg(long, value_enum, default_value = "canary")]
    mode: TryMode,
    /// The share of devices (canary) or calls (shadow): more than 0, at most 1.
    #[arg(long, default_value_t = 0.1)]
    share: f64,
    /// A larger share to come, as SECONDS:SHARE after the start; may be given several times.
    #[arg(long = "step", value_name = "S:SHARE", value_parser = step)]
    steps: Vec<(u64, f64)>,
    /// After so many seconds a canary is promoted, if it has had its sample, and a shadow ends.
    #[arg(long, value_name = "S")]
    for_s: Option<u64>,
    /// The share of calls that may fail before it is rolled back.
    #[arg(long, value_name = "SHARE")]
    fault_rate: Option<f64>,
    /// Sends (or calls) of each version before the two are compared.
    #[arg(long, value_name = "N")]
    min_sample: Option<u64>,
    /// Shadow: delays that differ by at most so many milliseconds are the same.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    tolerance_ms: f64,
    /// Shadow: quote what differs. It may be addresses and texts.
    #[arg(long)]
    excerpts: bool,
    /// Also when the version is in quarantine.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    server: Server,
}

/// What is rolled back.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The plugin.
    name: String,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: Server,
}

fn step(text: &str) -> Result<(u64, f64), String> {
    let parsed = text.split_once(':').and_then(|(after, share)| Some((after.parse().ok()?, share.parse().ok()?)));
    parsed.ok_or_else(|| "give SECONDS:SHARE, such as 600:0.5".to_owned())
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Start(args) => start(args).await?,
        Command::Status { name, findings, json, server } => status(server, &name, findings, json).await?,
        Command::Promote { name, server } => {
            let rollout = post(server, &format!("/api/v1/plugins/{name}/rollouts/promote"), &Value::Null).await?;
            println!("{}", line(&rollout));
        }
        Command::Abort { name, reason, server } => {
            let path = format!("/api/v1/plugins/{name}/rollouts/abort");
            println!("{}", line(&post(server, &path, &json!({"reason": reason})).await?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Goes back to the version before.
pub async fn rollback(args: Rollback) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/plugins/{}/rollback", args.name);
    let version = post(args.server, &path, &json!({"reason": args.reason})).await?;
    println!("{} {} is active", text(&version, "/name"), text(&version, "/version"));
    Ok(ExitCode::SUCCESS)
}

async fn post(server: Server, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    server.api()?.ask("POST", path, "application/json", body).await
}

async fn start(args: Start) -> anyhow::Result<()> {
    let mode = match args.mode {
        TryMode::Canary => "canary",
        TryMode::Shadow => "shadow",
    };
    let steps: Vec<Value> =
        args.steps.iter().map(|(after, share)| json!({"after_ms": after * 1000, "share": share})).collect();
    let mut thresholds = serde_json::Map::new();
    if let Some(rate) = args.fault_rate {
        thresholds.insert("fault_rate".to_owned(), json!(rate));
    }
    if let Some(sample) = args.min_sample {
        thresholds.insert("min_sample".to_owned(), json!(sample));
    }
    let body = json!({
        "version": args.version, "mode": mode, "share": args.share, "steps": steps,
        "for_ms": args.for_s.map(|s| s.saturating_mul(1000)), "thresholds": thresholds,
        "tolerance_ms": args.tolerance_ms, "excerpts": args.excerpts, "force": args.force,
    });
    let started = post(args.server, &format!("/api/v1/plugins/{}/rollouts", args.name), &body).await?;
    println!("{}", line(&started));
    Ok(())
}

async fn status(server: Server, name: &str, findings: bool, json: bool) -> anyhow::Result<()> {
    let api = server.api()?;
    let list = api.ask("GET", &format!("/api/v1/plugins/{name}/rollouts"), "application/json", Bytes::new()).await?;
    for rollout in items(&list) {
        if json {
            println!("{rollout}");
            continue;
        }
        println!("{}", line(rollout));
        for (side, version) in [("candidate", "/version"), ("against", "/stable")] {
            let count = |field: &str| rollout.pointer(&format!("/{side}/{field}")).and_then(Value::as_u64).unwrap_or(0);
            if count("calls") > 0 {
                let faults: u64 =
                    ["traps", "deadlines", "memory", "invalid_output", "errors"].into_iter().map(count).sum();
                println!(
                    "  {}: {} calls, {faults} failed, {} µs (95 %: {} µs); {} sent, {} failed, {} throttled",
                    text(rollout, version),
                    count("calls"),
                    count("mean_us"),
                    count("p95_us"),
                    count("sent"),
                    count("failed"),
                    count("throttled"),
                );
            }
        }
        if text(rollout, "/mode") == "shadow" {
            let count = |field: &str| rollout.pointer(&format!("/shadow/{field}")).and_then(Value::as_u64).unwrap_or(0);
            println!(
                "  compared: {} same, {} different, {} failed, {} dropped",
                count("same"),
                count("different"),
                count("failed"),
                count("dropped")
            );
        }
    }
    if findings && !items(&list).is_empty() {
        let path = format!("/api/v1/plugins/{name}/rollouts/findings");
        let found = api.ask("GET", &path, "application/json", Bytes::new()).await?;
        for finding in items(&found) {
            if json {
                println!("{finding}");
            } else {
                println!(
                    "{}",
                    ["/at", "/message", "/device", "/field", "/detail"].map(|at| text(finding, at)).join("  ")
                );
            }
        }
    }
    Ok(())
}

fn items(list: &Value) -> &[Value] {
    list.pointer("/items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A rollout in a line.
fn line(rollout: &Value) -> String {
    let share = rollout.pointer("/share").and_then(Value::as_f64).unwrap_or(0.0) * 100.0;
    let reason = match text(rollout, "/reason") {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!(
        "{} {} {} against {}, {} at {share} %, {}{reason}",
        rollout.pointer("/no").and_then(Value::as_i64).unwrap_or(0),
        text(rollout, "/plugin"),
        text(rollout, "/version"),
        text(rollout, "/stable"),
        text(rollout, "/mode"),
        text(rollout, "/status"),
    )
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_seconds_and_shares() {
        assert_eq!(step("600:0.5"), Ok((600, 0.5)));
        assert!(step("0.5").is_err() && step("x:1").is_err());
    }

    #[test]
    fn a_rollout_is_a_line() {
        let rollout = json!({"no": 3, "plugin": "jinja", "version": "1.1.0", "stable": "1.0.0", "mode": "canary",
            "share": 0.25, "status": "rolled_back", "reason": "plugin-faults: 3 of 60 calls"});
        let expected = "3 jinja 1.1.0 against 1.0.0, canary at 25 %, rolled_back: plugin-faults: 3 of 60 calls";
        assert_eq!(line(&rollout), expected);
    }
}

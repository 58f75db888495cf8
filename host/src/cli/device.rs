//! `carillon device check`: whether a device can send.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::client::Server;
use super::message::post;
use crate::id::{CampaignId, DeviceId};

/// What to do with devices.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Ask a device's provider whether it can send, without sending a message. Exit code 1 unless it can.
    Check {
        /// The device.
        id: DeviceId,
        /// Ask with the sender of this campaign, for a device that names none of its own.
        #[arg(long, value_name = "ID")]
        campaign: Option<CampaignId>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Check { id, campaign, json, server } = command;
    let found = post(server, &format!("/api/v1/devices/{id}/check"), &json!({"campaign": campaign})).await?;
    println!("{}", if json { found.to_string() } else { line(&found) });
    let can_send = text(&found, "/verdict") == "healthy";
    Ok(if can_send { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A check in a line.
fn line(found: &Value) -> String {
    let reason = match text(found, "/reason/code") {
        "" => String::new(),
        code => format!(": {code}: {}", text(found, "/reason/detail")),
    };
    let again = match found.pointer("/retry_ms").and_then(Value::as_u64) {
        Some(ms) => format!("; look again in {} s", ms.div_ceil(1000)),
        None => String::new(),
    };
    format!("{} is {}{reason}{again}", text(found, "/device"), text(found, "/verdict"))
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_line() {
        assert_eq!(line(&json!({"device": "dev-1", "verdict": "healthy", "reason": null})), "dev-1 is healthy");
        let down = json!({"device": "dev-1", "verdict": "down", "retry_ms": 1500,
            "reason": {"code": "http-503", "detail": "the provider answered 503"}});
        assert_eq!(line(&down), "dev-1 is down: http-503: the provider answered 503; look again in 2 s");
    }
}

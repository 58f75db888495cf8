//! `carillon message show|unknown|resolve|lookup`: one message, and the inbox of those of which nobody knows whether they were
//! sent.

use std::process::ExitCode;

use bytes::Bytes;
use serde_json::{Value, json};

use super::client::Server;
use crate::id::{CampaignId, DeviceId, MessageId, SequenceId};
use crate::resolution::ResolveAs;

/// Rows that are asked for at a time.
const PAGE: usize = 500;

/// What to do with messages.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show a message: where it stands, and what its provider reported after it took it.
    Show {
        /// The message, 19 digits.
        id: MessageId,
        /// Print JSON, everything that is known of it.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// List messages of which nobody knows whether they were sent: id, address, device, since when, why, where from.
    Unknown {
        /// Only those of this campaign.
        #[arg(long, value_name = "ID")]
        campaign: Option<CampaignId>,
        /// Only those of this sequence.
        #[arg(long, value_name = "ID", conflicts_with = "campaign")]
        sequence: Option<SequenceId>,
        /// Only those of this device.
        #[arg(long, value_name = "ID")]
        device: Option<DeviceId>,
        /// Rows at most.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Say what an unknown outcome was.
    Resolve {
        /// The message, 19 digits.
        id: MessageId,
        /// Sent; failed: not sent, and it will not be; retry: send it again, with the same idempotency key.
        #[arg(long = "as", value_enum, value_name = "WHAT")]
        outcome: ResolveAs,
        /// The provider's id of it, where it was sent.
        #[arg(long, value_name = "ID")]
        provider_id: Option<String>,
        /// How that is known, for the message's history.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Ask the provider now whether a message was sent, where its sender can.
    Lookup {
        /// The message, 19 digits.
        id: MessageId,
        #[command(flatten)]
        server: Server,
    },
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Show { id, json, server } => {
            let path = format!("/api/v1/messages/{id}");
            let message = server.api()?.ask("GET", &path, "application/json", Bytes::new()).await?;
            if json {
                println!("{message}");
            } else {
                println!("{id} is {}{}", text(&message, "/status"), receipt(&message));
            }
        }
        Command::Unknown { campaign, sequence, device, limit, json, server } => {
            let mut path = format!("/api/v1/messages?status=unknown&limit={}", limit.clamp(1, PAGE));
            for (name, value) in [
                ("campaign", campaign.map(|id| id.to_string())),
                ("sequence", sequence.map(|id| id.to_string())),
                ("device", device.map(|id| id.to_string())),
            ] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={value}"));
                }
            }
            list(server, &path, limit, json).await?;
        }
        Command::Resolve { id, outcome, provider_id, note, server } => {
            let body = json!({"as": outcome, "provider_id": provider_id, "note": note});
            let message = post(server, &format!("/api/v1/messages/{id}/resolve"), &body).await?;
            println!("{id} is {}", text(&message, "/status"));
        }
        Command::Lookup { id, server } => {
            let message = post(server, &format!("/api/v1/messages/{id}/lookup"), &Value::Null).await?;
            let evidence = match text(&message, "/evidence/detail") {
                "" => String::new(),
                detail => format!(": {}: {detail}", text(&message, "/evidence/code")),
            };
            println!("{id} is {}{evidence}", text(&message, "/status"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(server: Server, path: &str, limit: usize, json: bool) -> anyhow::Result<()> {
    let api = server.api()?;
    let (mut left, mut page) = (limit, path.to_owned());
    loop {
        let found = api.ask("GET", &page, "application/json", Bytes::new()).await?;
        let items = found.pointer("/items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for message in items.iter().take(left) {
            if json {
                println!("{message}");
                continue;
            }
            let columns = ["/id", "/address", "/device", "/finished_at", "/reason/code", "/name"];
            println!("{}", columns.map(|at| text(message, at)).join("  "));
        }
        left = left.saturating_sub(items.len());
        match found.pointer("/next_cursor").and_then(Value::as_str) {
            Some(cursor) if left > 0 => page = format!("{path}&cursor={cursor}"),
            Some(_) => {
                eprintln!("there are more: give a higher --limit");
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// What its provider reported, for people; nothing where nothing is awaited.
fn receipt(message: &Value) -> String {
    let mut out = match text(message, "/receipt/state") {
        "" => return String::new(),
        state => format!("; its receipt: {state}"),
    };
    for (what, at) in
        [("delivered", "/receipt/delivered_at"), ("read", "/receipt/read_at"), ("failed", "/receipt/failed_at")]
    {
        match text(message, at) {
            "" => {}
            at => out.push_str(&format!(", {what} {at}")),
        }
    }
    match text(message, "/receipt/reason/detail") {
        "" => out,
        detail => format!("{out}: {}: {detail}", text(message, "/receipt/reason/code")),
    }
}

/// Posts JSON; `null` for no body.
pub(super) async fn post(server: Server, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    server.api()?.ask("POST", path, "application/json", body).await
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

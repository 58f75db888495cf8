//! `carillon secret key|set|list|delete|rotate`: secrets for senders, in a server's store. A value comes from standard input and
//! is never shown.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};

use super::bad_input;
use super::client::Server;
use crate::vault::Vault;

/// The longest value that is read, in bytes.
const MAX_VALUE: u64 = 64 * 1024;

/// What to do with secrets.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print a new key for `CARILLON_SECRETS_KEY`.
    Key,
    /// Keep a secret, in place of the one of its name; its value is read from standard input, without the line break at its end.
    Set {
        /// What plugins call it.
        name: String,
        /// The one host that it may be sent to.
        #[arg(long, value_name = "HOST[:PORT]")]
        host: String,
        #[command(flatten)]
        server: Server,
    },
    /// List the secrets that a server knows of, without their values.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Delete a secret.
    Delete {
        /// What plugins call it.
        name: String,
        #[command(flatten)]
        server: Server,
    },
    /// Encrypt all secrets with the first of the server's keys.
    Rotate {
        #[command(flatten)]
        server: Server,
    },
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Key => println!("{}", Vault::new_key()),
        Command::Set { name, host, server } => {
            let api = server.api()?;
            let body = json!({"value": value()?, "host": host}).to_string();
            let view = api.ask("PUT", &path(&name)?, "application/json", Bytes::from(body)).await?;
            println!("{}", line(&view));
        }
        Command::List { json, server } => {
            let list = server.api()?.ask("GET", "/api/v1/secrets", "application/json", Bytes::new()).await?;
            for secret in list.pointer("/items").and_then(Value::as_array).into_iter().flatten() {
                println!("{}", if json { secret.to_string() } else { line(secret) });
            }
        }
        Command::Delete { name, server } => {
            server.api()?.ask("DELETE", &path(&name)?, "application/json", Bytes::new()).await?;
            println!("{name} is deleted");
        }
        Command::Rotate { server } => {
            let done = server.api()?.ask("POST", "/api/v1/rotate-secrets", "application/json", Bytes::new()).await?;
            let count = |field: &str| done.get(field).and_then(Value::as_u64).unwrap_or_default();
            println!(
                "{} encrypted anew, {} were before, key {}",
                count("rotated"),
                count("current"),
                text(&done, "key_id")
            );
            let left = names(&done, "unreadable");
            if !left.is_empty() {
                eprintln!("not readable with this server's keys, left as they are: {left}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A name that stands in a path as it is.
fn path(name: &str) -> anyhow::Result<String> {
    if crate::grants::is_secret_name(name) {
        Ok(format!("/api/v1/secrets/{name}"))
    } else {
        Err(bad_input(format!("NAME: {}", crate::grants::SECRET_NAME)))
    }
}

fn value() -> anyhow::Result<String> {
    let input = std::io::stdin();
    if input.is_terminal() {
        eprintln!("type the value, then Ctrl-D (it is shown; a pipe or a file does not show it)");
    }
    let mut value = String::new();
    input.lock().take(MAX_VALUE + 1).read_to_string(&mut value).context("reading the value from standard input")?;
    if value.len() as u64 > MAX_VALUE {
        return Err(bad_input("the value on standard input is too long"));
    }
    let end = value.trim_end_matches(['\r', '\n']).len();
    value.truncate(end);
    if value.is_empty() { Err(bad_input("give the value on standard input")) } else { Ok(value) }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn names(value: &Value, field: &str) -> String {
    let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

/// A secret in a line.
fn line(secret: &Value) -> String {
    let since = match text(secret, "updated_at") {
        "" => "in the settings".to_owned(),
        at => format!("since {at}"),
    };
    let granted = match names(secret, "granted_to") {
        names if names.is_empty() => "nobody".to_owned(),
        names => names,
    };
    let problem = match text(secret, "problem") {
        "" => String::new(),
        problem => format!("; not used: {problem}"),
    };
    format!("{} for {}, {since}, granted to {granted}{problem}", text(secret, "name"), text(secret, "host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_line_without_its_value() {
        let secret = json!({"name": "KEY", "host": "api.example.com", "kept_in": "store", "updated_at": "2026-12-01T09:00:00Z",
            "granted_to": ["webhook", "acme"], "problem": null});
        assert_eq!(line(&secret), "KEY for api.example.com, since 2026-12-01T09:00:00Z, granted to webhook acme");
        assert!(path("a b").is_err() && path("../x").is_err());
    }
}

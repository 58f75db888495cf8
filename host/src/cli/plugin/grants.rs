//! `carillon plugin grants` and `plugin grant`: what a plugin may do.

use std::process::ExitCode;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::cli::bad_input;
use crate::cli::client::Server;
use crate::grants::ANY;

/// Whose grants are shown.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The plugin.
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

/// What is granted.
#[derive(Debug, clap::Args)]
pub struct Grant {
    /// The plugin.
    name: String,
    /// A host that it may ask for requests to: HOST, HOST:PORT, *.DOMAIN or *; may be given several times.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// A method of those requests; any, when none is given. May be given several times.
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// The name of a secret that it may have put into them, or *; may be given several times.
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    /// Memory of one instance, in bytes; as the server's settings say when absent.
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// How long one call may take, in milliseconds; as the server's settings say when absent.
    #[arg(long, value_name = "MS")]
    call_ms: Option<u64>,
    /// Requests a second, on each server; as many as it likes when absent.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Also the hosts and secrets that it asks for; any host, when its configuration decides.
    #[arg(long)]
    asked: bool,
    /// Add to what was granted before; otherwise this takes its place.
    #[arg(long)]
    add: bool,
    /// Take back everything.
    #[arg(long, conflicts_with_all = ["hosts", "methods", "secrets", "memory", "call_ms", "rate", "asked", "add"])]
    nothing: bool,
    #[command(flatten)]
    server: Server,
}

/// Shows a plugin's grants.
pub async fn show(args: Show) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/plugins/{}/grants", args.name);
    let view = args.server.api()?.ask("GET", &path, "application/json", Bytes::new()).await?;
    if args.json {
        println!("{view}")
    } else {
        print(&view)
    }
    Ok(ExitCode::SUCCESS)
}

/// Grants, and shows what is granted then.
pub async fn grant(args: Grant) -> anyhow::Result<ExitCode> {
    let named = !(args.hosts.is_empty() && args.methods.is_empty() && args.secrets.is_empty());
    if !(named || args.asked || args.nothing || args.memory.is_some() || args.call_ms.is_some() || args.rate.is_some())
    {
        return Err(bad_input("give what is granted, such as --asked or --host api.example.com; or --nothing"));
    }
    let api = args.server.api()?;
    let path = format!("/api/v1/plugins/{}/grants", args.name);
    let before = api.ask("GET", &path, "application/json", Bytes::new()).await?;
    let mut granted = match before.pointer("/granted") {
        Some(Value::Object(granted)) if args.add => granted.clone(),
        _ => Map::new(),
    };
    let asked = |field: &str| if args.asked { texts(&before, &format!("/asked/{field}")) } else { Vec::new() };
    extend(&mut granted, "hosts", args.hosts.iter().cloned().chain(asked("hosts")));
    extend(&mut granted, "secrets", args.secrets.iter().cloned().chain(asked("secrets")));
    if !args.methods.is_empty() {
        // Any, which is what stands there when none was named, is not something to add to.
        if granted.get("methods").is_some_and(|methods| *methods == json!([ANY])) {
            granted.remove("methods");
        }
        extend(&mut granted, "methods", args.methods.iter().cloned());
    }
    for (field, value) in [
        ("memory_bytes", json!(args.memory)),
        ("call_ms", json!(args.call_ms)),
        ("requests_per_second", json!(args.rate)),
    ] {
        if !value.is_null() {
            granted.insert(field.to_owned(), value);
        }
    }
    let body = Bytes::from(Value::Object(granted).to_string());
    print(&api.ask("PUT", &path, "application/json", body).await?);
    Ok(ExitCode::SUCCESS)
}

fn extend(granted: &mut Map<String, Value>, field: &str, more: impl Iterator<Item = String>) {
    let list = granted.entry(field).or_insert_with(|| json!([]));
    if let Value::Array(list) = list {
        list.extend(more.map(Value::String));
    }
}

fn texts(value: &Value, at: &str) -> Vec<String> {
    let list = value.pointer(at).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn listed(value: &Value, at: &str) -> String {
    let list = texts(value, at);
    if list.is_empty() { "none".to_owned() } else { list.join(" ") }
}

/// What a view of grants says is missing.
pub(super) fn missing(value: &Value, at: &str) -> String {
    let named = |what: &str, field: &str| {
        texts(value, &format!("{at}/missing/{field}"))
            .into_iter()
            .map(|entry| format!("{what} {entry}"))
            .collect::<Vec<_>>()
    };
    [named("host", "hosts"), named("secret", "secrets")].concat().join(", ")
}

fn print(view: &Value) {
    let text = |at: &str| view.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let by = match text("/granted_by") {
        "" => "nothing granted yet".to_owned(),
        by => format!("granted by {by} at {}", text("/granted_at")),
    };
    println!("{} ({by})", text("/plugin"));
    println!(
        "  asked by {}: hosts {}; secrets {}",
        text("/version"),
        listed(view, "/asked/hosts"),
        listed(view, "/asked/secrets")
    );
    println!(
        "  granted: hosts {}; methods {}; secrets {}",
        listed(view, "/granted/hosts"),
        listed(view, "/granted/methods"),
        listed(view, "/granted/secrets")
    );
    for field in ["memory_bytes", "call_ms", "requests_per_second"] {
        if let Some(value) = view.pointer(&format!("/granted/{field}")).filter(|value| !value.is_null()) {
            println!("  {field} {value}");
        }
    }
    if let Some(how) = view.pointer("/how_to_grant").and_then(Value::as_str) {
        println!("  not granted: {}; grant it with {how}", missing(view, ""));
    }
    for refusal in view.pointer("/refusals").and_then(Value::as_array).into_iter().flatten() {
        let part =
            |at: &str| refusal.pointer(at).and_then(Value::as_str).map(|text| format!(" {text}")).unwrap_or_default();
        let count = refusal.pointer("/count").and_then(Value::as_u64).unwrap_or_default();
        println!(
            "  refused {count} times, last at{}:{}{}{}{}",
            part("/last_at"),
            part("/reason"),
            part("/host"),
            part("/method"),
            part("/secret")
        );
    }
}

//! The plans that PostgreSQL makes for the store's own statements: `auto_explain` writes them to the server's log, this
//! module reads them there and shows them without costs and row counts.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carillon::store::{self, Store};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::postgres::Postgres;
use crate::wait::eventually;

/// How often each call is made: PostgreSQL would go over to a plan without values after five.
const CALLS: u32 = 7;

/// A server that explains every statement, and plans it without its values: as it does itself once a connection has run a
/// statement some times, unless values promise much. Its statistics stay as they are, so that its plans do.
pub fn explaining_server() -> Postgres {
    let settings = [
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_format=json",
        "plan_cache_mode=force_generic_plan",
        "autovacuum=off",
        "log_line_prefix=",
        "max_wal_size=4GB",
        "checkpoint_timeout=1h",
    ];
    Postgres::start_with(&settings).expect("PostgreSQL starts with its contrib modules")
}

/// A statement and its plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The statement, on one line.
    pub statement: String,
    root: Value,
}

impl Plan {
    fn read(entry: &str) -> Self {
        let entry: Value = serde_json::from_str(entry).expect("auto_explain writes JSON");
        let text = entry["Query Text"].as_str().expect("a statement");
        Self { statement: text.split_whitespace().collect::<Vec<_>>().join(" "), root: entry["Plan"].clone() }
    }

    /// The tables that are read from end to end.
    pub fn read_whole(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        visit(&self.root, &mut |node| {
            let whole_index = matches!(word(node, "Node Type"), "Index Scan" | "Index Only Scan" | "Bitmap Index Scan")
                && word(node, "Index Name").ends_with("_pkey")
                && node.get("Index Cond").is_none();
            if word(node, "Node Type") == "Seq Scan" || whole_index {
                found.insert(word(node, "Relation Name").to_owned());
            }
        });
        found
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        show(&self.root, 1, &mut out);
        f.write_str(&out)
    }
}

/// Plans of the statements that `call` makes, each once, after enough calls for PostgreSQL to keep what it will keep. The
/// number of the call is passed to it.
pub async fn plans_of(server: &Postgres, url: &str, call: impl AsyncFn(Arc<dyn Store>, u32)) -> Vec<Plan> {
    // A store of its own: its connection, and with it the plans kept for it, is new.
    let store = store::open(url, 2).await.expect("the store opens");
    let from = std::fs::metadata(server.log()).expect("the log").len();
    for n in 0..CALLS {
        call(store.clone(), n).await;
    }
    store.close().await;
    // A statement is written to the log when it ends, which may be after its answer: at the latest with its connection.
    let mut admin = PgConnection::connect(url).await.expect("the server answers");
    let left = tokio::sync::Mutex::new(&mut admin);
    eventually("the store's connections are gone", Duration::from_secs(10), async || {
        let mut admin = left.lock().await;
        let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'carillon'";
        sqlx::query_scalar::<_, i64>(open).fetch_one(&mut **admin).await.expect("a number") == 0
    })
    .await;
    admin.close().await.expect("closes");

    let mut plans: Vec<Plan> = Vec::new();
    for entry in logged(server.log(), from) {
        let plan = Plan::read(&entry);
        // What the migrations and this function asked.
        if plan.statement.contains("_sqlx_migrations") || plan.statement.contains("pg_") {
            continue;
        }
        match plans.iter_mut().find(|known| known.statement == plan.statement) {
            Some(known) => *known = plan,
            None => plans.push(plan),
        }
    }
    assert!(!plans.is_empty(), "nothing was explained");
    plans
}

/// What `auto_explain` wrote into this log after `from`.
fn logged(log: &Path, from: u64) -> Vec<String> {
    let mut file = std::fs::File::open(log).expect("the log");
    file.seek(SeekFrom::Start(from)).expect("it only grows");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("text");
    let mut entries: Vec<String> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        match line.strip_prefix('\t') {
            Some(more) if within => {
                let entry = entries.last_mut().expect("one was begun");
                entry.push_str(more);
                entry.push('\n');
            }
            _ => {
                within = line.starts_with("LOG:  duration: ") && line.ends_with("plan:");
                if within {
                    entries.push(String::new());
                }
            }
        }
    }
    entries
}

fn word<'a>(node: &'a Value, key: &str) -> &'a str {
    node[key].as_str().unwrap_or_default()
}

/// A condition without the numbers that differ from run to run: ids, times, and lists of them.
fn without_values(condition: &str) -> String {
    let mut out = String::new();
    let mut rest = condition;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit() || c == '{') {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let is_list = found.starts_with('{');
        let end = if is_list { found.find('}').map(|end| end + 1) } else { found.find(|c: char| !c.is_ascii_digit()) };
        let (value, after) = found.split_at(end.unwrap_or(found.len()));
        out.push_str(if value.len() < if is_list { 9 } else { 5 } || value == "4294967295" { value } else { "…" });
        rest = after;
    }
    out + rest
}

fn visit(node: &Value, each: &mut impl FnMut(&Value)) {
    each(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        visit(child, each);
    }
}

/// A node and those below it, a line each, with its conditions.
fn show(node: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let mut line = indent.clone();
    if node["Subplan Name"].is_string() {
        let _ = write!(line, "[{}] ", word(node, "Subplan Name"));
    }
    if node["Parallel Aware"] == true {
        line.push_str("Parallel ");
    }
    line.push_str(match word(node, "Node Type") {
        "ModifyTable" => word(node, "Operation"),
        kind => kind,
    });
    for key in ["Join Type", "Strategy", "Scan Direction"] {
        if !matches!(word(node, key), "" | "Inner" | "Forward" | "Plain" | "NoMovement") {
            let _ = write!(line, " {}", word(node, key));
        }
    }
    for (before, key) in [("using", "Index Name"), ("on", "Relation Name"), ("on", "CTE Name"), ("on", "Function Name")]
    {
        if node[key].is_string() {
            let _ = write!(line, " {before} {}", word(node, key));
        }
    }
    if node["Alias"].is_string() && node["Alias"] != node["Relation Name"] {
        let _ = write!(line, " {}", word(node, "Alias"));
    }
    let _ = writeln!(out, "{line}");
    for key in [
        "Index Cond",
        "Recheck Cond",
        "Hash Cond",
        "Merge Cond",
        "Join Filter",
        "Filter",
        "One-Time Filter",
        "Sort Key",
        "Presorted Key",
        "Group Key",
        "Conflict Resolution",
        "Conflict Arbiter Indexes",
    ] {
        match &node[key] {
            Value::String(text) => {
                writeln!(out, "{indent}    {key}: {}", without_values(text)).expect("a string takes it");
            }
            Value::Array(list) => {
                let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
                writeln!(out, "{indent}    {key}: {}", list.join(", ")).expect("a string takes it");
            }
            _ => {}
        }
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        show(child, depth + 1, out);
    }
}

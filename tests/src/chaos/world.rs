//! Three servers, each with proxies of its own to the database and the queue, and the sink they all send to.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::chaos::Plan;
use crate::chaos::books::Policy;
use crate::chaos::proxy::Proxy;
use crate::chaos::sink::Sink;
use crate::client::Client;
use crate::postgres::Postgres;
use crate::redis::{self, Options};
use crate::server::{Server, Setup, TOKEN};

/// Servers of a world.
pub const SERVERS: usize = 3;
/// How long the campaigns' sender waits for an answer: a sink that hangs must not hold a device for long.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt may take in all.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// A server and what is between it and the others.
pub struct Node {
    setup: Setup,
    running: Mutex<Option<Server>>,
    pid: AtomicU32,
    /// To the database.
    pub sql: Proxy,
    /// To the queue.
    pub queue: Proxy,
    client: Client,
}

impl Node {
    /// The process; 0: none.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// SIGKILL, at once.
    pub fn kill(&self) {
        signal(self.pid(), "-KILL");
    }

    /// Starts the server again and waits a while until it is ready.
    pub async fn restart(&self) {
        let mut running = self.running.lock().await;
        drop(running.take());
        let server = self.setup.spawn();
        self.pid.store(server.pid(), Ordering::Relaxed);
        *running = Some(server);
        drop(running);
        self.until_ready(Duration::from_secs(20)).await;
    }

    /// SIGTERM, and a new process when the old one has ended by itself.
    pub async fn roll(&self) {
        let server = self.running.lock().await.take();
        if let Some(server) = server {
            server.terminate().await;
        }
        self.restart().await;
    }

    /// Waits until the server says that it is ready; `false`: not in time.
    pub async fn until_ready(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        while Instant::now() < end {
            let asked = tokio::time::timeout(Duration::from_secs(2), self.client.get("/readyz")).await;
            if matches!(asked, Ok(Ok((200, _)))) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: &str) {
    if pid != 0 {
        let _ended = Command::new("kill").args([signal, &pid.to_string()]).stderr(std::process::Stdio::null()).status();
    }
}

/// Everything.
pub struct World {
    /// The servers.
    pub nodes: Vec<Node>,
    /// The database's server.
    pub postgres: Postgres,
    /// The database.
    pub database: String,
    /// The queue's server.
    pub redis: Mutex<redis::Server>,
    /// Where messages go to.
    pub sink: Sink,
    turn: AtomicUsize,
    _data: TempDir,
}

/// A message as the API shows it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Its state.
    pub status: String,
    /// Its last attempt.
    pub attempt: u64,
}

impl World {
    /// Starts everything, with devices and an audience.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(plan: &Plan) -> Arc<Self> {
        let data = tempfile::tempdir().expect("a folder");
        let sink = Sink::start(&data.path().join("ledger.tsv"), plan.seed).await;
        let redis = redis::Server::start(Options::durable()).await;
        let postgres = Postgres::start().expect("PostgreSQL starts");
        let database = postgres.database().await;
        let mut nodes = Vec::new();
        for n in 0..SERVERS {
            nodes.push(node(data.path(), n, plan, &sink, &postgres, &database, &redis).await);
        }
        let world =
            Self { nodes, postgres, database, redis: Mutex::new(redis), sink, turn: AtomicUsize::new(0), _data: data };
        for node in &world.nodes {
            node.restart().await;
            assert!(node.until_ready(Duration::from_secs(60)).await, "a server does not become ready");
        }
        world.fill(plan).await;
        Arc::new(world)
    }

    async fn fill(&self, plan: &Plan) {
        let devices: Vec<Value> =
            (0..plan.devices).map(|n| json!({"id": format!("dev-{n}"), "channel": "sms", "tags": ["eu"]})).collect();
        for page in devices.chunks(1_000) {
            self.call(Method::POST, "/api/v1/devices", "application/json", json!(page).to_string()).await;
        }
        let mut csv = String::from("address,name\n");
        for n in 0..plan.messages {
            csv.push_str(&format!("+1555{n:07},Name {n}\n"));
        }
        self.call(Method::PUT, "/api/v1/audiences/customers", "text/csv", csv).await;
    }

    /// Makes a campaign and launches it; returns its id.
    pub async fn launch(&self, plan: &Plan, policy: Policy, number: u32) -> String {
        let delay = u64::try_from(plan.delay.as_millis()).unwrap_or(u64::MAX);
        let spec = json!({
            "name": format!("storm {number}"), "audience": "customers", "devices": {"tag": "eu"},
            "template": {"plugin": "jinja", "config": {"text": "Hello {{ name }}"}},
            "delay": {"plugin": "uniform", "config": {"min_ms": delay, "max_ms": delay}},
            "sender": {"plugin": "webhook",
                       "config": {"url": self.sink.url(), "timeout_ms": ATTEMPT_TIMEOUT.as_millis(), "on_5xx": "transient"}},
            "delivery": match policy { Policy::AtLeastOnce => "at_least_once", Policy::AtMostOnce => "at_most_once" },
            "retry": {"max_attempts": 50, "base_ms": 50, "max_ms": 1_000}
        });
        let made = self.call(Method::POST, "/api/v1/campaigns", "application/json", spec.to_string()).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        self.call(Method::POST, &format!("/api/v1/campaigns/{id}/launch"), "application/json", "{}".to_owned()).await;
        id
    }

    /// Waits until this share of a campaign's messages is final; `false`: not in time.
    pub async fn sent_share(&self, campaign: &str, share: f64, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        while Instant::now() < end {
            if let Some(view) = self.try_get(&format!("/api/v1/campaigns/{campaign}")).await {
                let count = |name: &str| view["counts"][name].as_f64().unwrap_or(0.0);
                let all: f64 = view["counts"].as_object().map_or(0.0, |c| c.values().filter_map(Value::as_f64).sum());
                if all > 0.0
                    && view["status"] != "expanding"
                    && all - count("pending") - count("processing") >= share * all
                {
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// Waits until a campaign is completed; returns its messages.
    ///
    /// # Panics
    /// When it is not completed in time; says how it stands.
    pub async fn completed(&self, campaign: &str, at_most: Duration) -> Vec<Row> {
        let path = format!("/api/v1/campaigns/{campaign}");
        let end = Instant::now() + at_most;
        loop {
            let view = self.get(&path).await;
            if view["status"] == "completed" {
                break;
            }
            assert!(Instant::now() < end, "the campaign is not completed in time: {view}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}/messages?limit=1000{cursor}")).await;
            for item in page["items"].as_array().expect("items") {
                rows.push(Row {
                    id: item["id"].as_str().expect("an id").to_owned(),
                    status: item["status"].as_str().expect("a status").to_owned(),
                    attempt: item["attempt"].as_u64().unwrap_or(0),
                });
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    /// A GET that is repeated at other servers until one answers.
    pub async fn get(&self, path: &str) -> Value {
        for _ in 0..300 {
            if let Some(value) = self.try_get(path).await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no server answers GET {path}");
    }

    async fn try_get(&self, path: &str) -> Option<Value> {
        let node = &self.nodes[self.turn.fetch_add(1, Ordering::Relaxed) % SERVERS];
        let asked = tokio::time::timeout(Duration::from_secs(10), node.client.get(path)).await;
        match asked {
            Ok(Ok((200, value))) => Some(value),
            _ => None,
        }
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: String) -> Value {
        let (status, value) =
            self.nodes[0].client.send(method, path, kind, Bytes::from(body)).await.expect("the server answers");
        assert!((200..300).contains(&status), "{path}: {status} {value}");
        value
    }

    /// Which server has the connection that comes from this port.
    pub fn owner_of(&self, port: u16) -> Option<usize> {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let ends = format!(":{port:04X}");
        let inode = table.lines().skip(1).find_map(|line| {
            let mut columns = line.split_whitespace();
            let local = columns.nth(1)?;
            local.ends_with(&ends).then(|| columns.nth(7).map(str::to_owned))?
        })?;
        let socket = format!("socket:[{inode}]");
        self.nodes.iter().position(|node| {
            let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", node.pid())) else { return false };
            open.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))
        })
    }
}

async fn node(
    data: &Path,
    n: usize,
    plan: &Plan,
    sink: &Sink,
    postgres: &Postgres,
    database: &str,
    redis: &redis::Server,
) -> Node {
    let folder = data.join(format!("server-{n}"));
    std::fs::create_dir(&folder).expect("a folder");
    let sql = Proxy::start(postgres.port()).await;
    let queue = Proxy::start(redis.port()).await;
    let through = |url: &str, from: u16, to: u16| url.replace(&format!(":{from}"), &format!(":{to}"));
    let store = through(database, postgres.port(), sql.port);
    let setup = Setup::cluster(&folder, &store, &through(&redis.url(), redis.port(), queue.port), &[sink.port])
        .with("CARILLON_LEASE_MS", plan.lease.as_millis().to_string())
        .with("CARILLON_SEND_TIMEOUT_MS", SEND_TIMEOUT.as_millis().to_string())
        .with("CARILLON_HEARTBEAT_MS", "200")
        .with("CARILLON_PROCESSOR_INTERVAL_MS", "1000")
        .with("CARILLON_TRIGGER_INTERVAL_MS", "1000")
        .with("CARILLON_RECOVERY_INTERVAL_MS", "2000")
        .with("CARILLON_LOG", "warn");
    let client = Client::new(setup.port, TOKEN);
    Node { setup, running: Mutex::default(), pid: AtomicU32::new(0), sql, queue, client }
}

//! Three servers behind the load balancer, each with a wall clock of its own and proxies of its own to the database and the
//! queue, and the sink they all send to.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::chaos::Plan;
use crate::chaos::balancer::Balancer;
use crate::chaos::clock::{self, MOST_OFF, WallClock};
use crate::chaos::driver::Driver;
use crate::chaos::proxy::Proxy;
use crate::chaos::sink::Sink;
use crate::client::Client;
use crate::postgres::Postgres;
use crate::redis::{self, Options};
use crate::server::{Server, Setup, TOKEN};

/// Servers of a world.
pub const SERVERS: usize = 3;
/// How long the campaigns' sender waits for an answer: a sink that hangs must not hold a device for long.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt may take in all.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// A server and what is between it and the others.
pub struct Node {
    setup: Setup,
    running: Mutex<Option<Server>>,
    pid: AtomicU32,
    client: Client,
    /// Held by who disturbs it for longer than a moment.
    pub busy: Mutex<()>,
    /// Its wall clock.
    pub clock: WallClock,
    /// To the database.
    pub sql: Proxy,
    /// To the queue; the nodes of a cluster are reached without.
    pub queue: Option<Proxy>,
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

/// What the servers have for a queue.
pub enum Queue {
    /// One Redis.
    Single(redis::Server),
    /// A Redis Cluster, each master with a replica.
    Cluster(redis::Cluster),
}

/// Everything.
pub struct World {
    /// The servers.
    pub nodes: Vec<Node>,
    /// The database's server.
    pub postgres: Postgres,
    /// The database.
    pub database: String,
    /// The queue.
    pub queue: Mutex<Queue>,
    /// Where messages go to.
    pub sink: Sink,
    /// What a customer's program would be.
    pub driver: Driver,
    _balancer: Balancer,
    data: TempDir,
}

impl World {
    /// Starts everything, with the devices and the audience of a plan. The servers' clocks are minutes apart.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(plan: &Plan) -> Arc<Self> {
        let data = tempfile::Builder::new().prefix("carillon-chaos-").tempdir().expect("a temporary folder");
        let sink = Sink::start(&data.path().join("ledger"), plan.seed).await;
        let queue = if plan.cluster {
            Queue::Cluster(redis::Cluster::replicated().await)
        } else {
            Queue::Single(redis::Server::start(Options::durable()).await)
        };
        let postgres = Postgres::start().expect("PostgreSQL starts");
        let database = postgres.database().await;
        let mut nodes = Vec::new();
        for n in 0..SERVERS {
            nodes.push(node(data.path(), n, plan, &sink, &postgres, &database, &queue).await);
        }
        for (node, off) in nodes.iter().zip([MOST_OFF, -MOST_OFF, 0]) {
            node.clock.step(off);
            node.restart().await;
            assert!(node.until_ready(Duration::from_secs(60)).await, "a server does not become ready");
            clock::until_off(node.setup.port, off).await;
        }
        let ports: Vec<u16> = nodes.iter().map(|node| node.setup.port).collect();
        let balancer = Balancer::start(data.path(), &ports).await;
        let driver = Driver::new(balancer.port);
        driver.fill(plan).await;
        let queue = Mutex::new(queue);
        Arc::new(Self { nodes, postgres, database, queue, sink, driver, _balancer: balancer, data })
    }

    /// Copies the servers' logs, the load balancer's and the ledger to a folder that stays, and says where it is.
    pub fn keep_logs(&self, seed: u64) {
        let kept = std::env::temp_dir().join(format!("carillon-chaos-{seed}"));
        let folder = self.data.path();
        let logs = self.nodes.iter().map(|node| node.setup.log_file());
        let files = logs.chain(["ledger", "haproxy.log"].map(|name| folder.join(name)));
        let copied = std::fs::create_dir_all(&kept).and_then(|()| {
            for (n, file) in files.enumerate() {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                std::fs::copy(&file, kept.join(format!("{n}-{name}")))?;
            }
            Ok(())
        });
        println!("the logs of the servers are in {}: {copied:?}", kept.display());
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
    queue: &Queue,
) -> Node {
    let folder = data.join(format!("server-{n}"));
    std::fs::create_dir(&folder).expect("a folder");
    let through = |url: &str, from: u16, to: u16| url.replace(&format!(":{from}"), &format!(":{to}"));
    let sql = Proxy::start(postgres.port()).await;
    let store = through(database, postgres.port(), sql.port);
    let (queue_url, queue) = match queue {
        Queue::Single(redis) => {
            let line = Proxy::start(redis.port()).await;
            (through(&redis.url(), redis.port(), line.port), Some(line))
        }
        // Its nodes name each other by their own ports.
        Queue::Cluster(cluster) => (cluster.url(), None),
    };
    let setup = Setup::cluster(&folder, &store, &queue_url, &[sink.port])
        .with("CARILLON_LEASE_MS", plan.lease.as_millis().to_string())
        .with("CARILLON_SEND_TIMEOUT_MS", SEND_TIMEOUT.as_millis().to_string())
        .with("CARILLON_HEARTBEAT_MS", "200")
        .with("CARILLON_PROCESSOR_INTERVAL_MS", "1000")
        .with("CARILLON_TRIGGER_INTERVAL_MS", "1000")
        .with("CARILLON_RECOVERY_INTERVAL_MS", "2000")
        .with("CARILLON_LOG", "warn");
    let clock = WallClock::new(folder.join("clock"));
    let setup = clock.on(setup);
    let client = Client::new(setup.port, TOKEN);
    let (running, pid, busy) = (Mutex::default(), AtomicU32::new(0), Mutex::default());
    Node { setup, running, pid, client, busy, clock, sql, queue }
}

//! Redis servers for tests: started from the binary on free ports of the loopback, gone with the test process.

// A server that does not start fails the test there and then.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Starts the server, tells its process id, and waits for the end of its own input: that comes when the test process
/// ends, however it ends. Then it ends the server and removes the folder.
/// Signals to the whole group (Ctrl-C, a time-out) must not end it before it has tidied up.
const KEEPER: &str = r#"
trap '' HUP INT TERM
dir=$1; shift
redis-server "$@" >"$dir/log" 2>&1 </dev/null &
pid=$!
echo "$pid"
exec >/dev/null
read -r _
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
rm -rf "$dir"
"#;

/// How long a server may take to start, or a cluster to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a server is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Writes everything to disk, so that it survives [`Server::kill`].
    pub append_only: bool,
    /// Is a node of a cluster, which takes another for dead that was silent for so many milliseconds; 0: of none.
    node_timeout_ms: u32,
}

impl Options {
    /// A server that survives a kill.
    pub fn durable() -> Self {
        Self { append_only: true, ..Self::default() }
    }
}

/// One server.
pub struct Server {
    port: u16,
    bus_port: u16,
    options: Options,
    running: Option<Running>,
    dir: TempDir,
}

struct Running {
    keeper: Child,
    stdin: Option<ChildStdin>,
    pid: String,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub async fn start(options: Options) -> Self {
        // Another process may take the port between its choice and its use.
        for _ in 0..5 {
            let dir = tempfile::Builder::new().prefix("carillon-redis-").tempdir().expect("a temporary folder");
            let (port, bus_port) = free_ports();
            let mut server = Self { port, bus_port, options, running: None, dir };
            if server.restart().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal("-KILL");
            running.end(self.dir.path(), false);
        }
    }

    /// Removes what a killed server has on its disk.
    pub fn forget(&self) {
        for entry in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            let _log_may_stay = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }

    /// Starts it again on the same port with what is on its disk; `false` when it did not come up.
    pub async fn restart(&mut self) -> bool {
        self.kill();
        self.running = Some(self.spawn());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if let Ok(mut connection) = self.connect().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return true;
            }
            if self.running.as_ref().is_none_or(Running::is_over) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// Stops it without closing its connections, as a stalled machine does.
    pub fn pause(&self) {
        self.running.as_ref().expect("a running server").signal("-STOP");
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.running.as_ref().expect("a running server").signal("-CONT");
    }

    /// Drops all data.
    pub async fn flush(&self) {
        self.command(&["FLUSHALL"]).await;
    }

    /// Sends a command and gives its answer.
    pub async fn command(&self, words: &[&str]) -> redis::Value {
        let mut connection = self.connect().await.expect("a connection");
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query_async(&mut connection).await.expect("an answer")
    }

    /// The same, of a server that may be away.
    async fn try_command(&self, words: &[&str]) -> Option<redis::Value> {
        self.running.as_ref()?;
        let mut connection = self.connect().await.ok()?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
    }

    /// What it says about its part in the replication; `None` when it is away.
    async fn replication(&self) -> Option<String> {
        redis::from_redis_value(self.try_command(&["INFO", "replication"]).await?).ok()
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    fn spawn(&self) -> Running {
        let dir = self.dir.path();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(dir);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"]).arg(dir);
        command.args(["--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning"]);
        command.args(["--appendonly", if self.options.append_only { "yes" } else { "no" }]);
        command.args(["--appendfsync", "always"]);
        if self.options.node_timeout_ms > 0 {
            command.args(["--cluster-enabled", "yes", "--cluster-port", &self.bus_port.to_string()]);
            command.args(["--cluster-node-timeout", &self.options.node_timeout_ms.to_string()]);
            // However long a replica did not hear its master: old data are better than none here.
            command.args(["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("a shell");
        let stdin = keeper.stdin.take();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().expect("the shell's output")).read_line(&mut pid).expect("a process id");
        Running { keeper, stdin, pid: pid.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end(self.dir.path(), true);
        }
    }
}

impl Running {
    fn signal(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.pid]).stderr(Stdio::null()).status();
    }

    /// Whether the server has ended (its keeper has not: it waits for us).
    fn is_over(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    }

    /// Ends the server; its keeper removes the folder, or only itself if the folder is wanted.
    fn end(mut self, dir: &Path, remove: bool) {
        if !remove {
            let _ = self.keeper.kill();
        }
        drop(self.stdin.take());
        let _ = self.keeper.wait();
        debug_assert!(!remove || !dir.exists(), "the server's folder is left behind");
    }
}

/// How soon the nodes of a cluster with replicas take another for dead.
const REPLICATED_TIMEOUT_MS: u32 = 1_000;
/// The slots of the masters.
const SLOTS: [[&str; 2]; 3] = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];

/// Three masters that share the slots, and as many replicas if any.
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// Starts three masters, joins them, and waits until each of them says that the cluster is whole.
    pub async fn start() -> Self {
        Self::join(3, 3_000).await
    }

    /// Starts three masters, each with a replica that takes over about two seconds after its master's death.
    pub async fn replicated() -> Self {
        let cluster = Self::join(6, REPLICATED_TIMEOUT_MS).await;
        let (masters, replicas) = cluster.nodes.split_at(SLOTS.len());
        for (master, replica) in masters.iter().zip(replicas) {
            let id: String = redis::from_redis_value(master.command(&["CLUSTER", "MYID"]).await).expect("an id");
            replica.command(&["CLUSTER", "REPLICATE", &id]).await;
        }
        cluster.until_whole().await;
        cluster.until_replicated().await;
        cluster
    }

    async fn join(count: usize, node_timeout_ms: u32) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Server::start(Options { node_timeout_ms, ..Options::default() }).await);
        }
        for (node, slots) in nodes.iter().zip(SLOTS) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
        }
        for node in &nodes[1..] {
            let (port, bus_port) = (nodes[0].port.to_string(), nodes[0].bus_port.to_string());
            node.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]).await;
        }
        let cluster = Self { nodes };
        cluster.until_whole().await;
        cluster
    }

    /// Waits until every node sees every slot and every other node.
    pub async fn until_whole(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for node in &self.nodes {
            loop {
                let info: String =
                    redis::from_redis_value(node.command(&["CLUSTER", "INFO"]).await).expect("CLUSTER INFO");
                if info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && info.contains(&format!("cluster_known_nodes:{}", self.nodes.len()))
                {
                    break;
                }
                assert!(tokio::time::Instant::now() < deadline, "the cluster does not come together:\n{info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// Drops all data of all nodes.
    pub async fn flush(&self) {
        for node in &self.nodes {
            node.flush().await;
        }
    }

    /// Drops all data of all masters, and so of their replicas.
    pub async fn flush_masters(&self) {
        for n in self.masters().await {
            self.nodes[n].flush().await;
        }
    }

    /// The places of the nodes that are masters now.
    pub async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            if node.replication().await.is_some_and(|told| told.contains("role:master")) {
                masters.push(n);
            }
        }
        masters
    }

    /// Waits until there are as many masters as there were first and every other node has a copy of its master's data.
    pub async fn until_replicated(&self) {
        crate::wait::eventually("each master has its replica", PATIENCE, || async {
            let mut masters = 0;
            for node in &self.nodes {
                let Some(told) = node.replication().await else { return false };
                if told.contains("role:master") {
                    masters += 1;
                } else if !told.contains("master_link_status:up") || told.contains("master_sync_in_progress:1") {
                    return false;
                }
            }
            masters == SLOTS.len()
        })
        .await;
    }

    /// Kills a master with SIGKILL and waits until its replica has taken its slots over.
    pub async fn kill_master(&mut self, n: usize) {
        self.nodes[n].kill();
        let left = &*self;
        crate::wait::eventually("a replica has taken over", PATIENCE, || async {
            let masters = left.masters().await;
            let Some(first) = masters.first() else { return false };
            let told = left.nodes[*first].try_command(&["CLUSTER", "INFO"]).await;
            let info: String = told.and_then(|told| redis::from_redis_value(told).ok()).unwrap_or_default();
            masters.len() == SLOTS.len() && info.contains("cluster_state:ok")
        })
        .await;
    }
}

fn free_ports() -> (u16, u16) {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let (one, two) = (bind(), bind());
    let port = |l: &TcpListener| l.local_addr().expect("an address").port();
    (port(&one), port(&two))
}

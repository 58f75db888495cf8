//! A real `carillon serve` as a process of its own: started on a free port, killed when it goes out of scope.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use serde_json::Value;

use crate::client::Client;
use crate::wait::eventually;

/// The admin token of every test server.
pub const TOKEN: &str = "test-admin-token-0123456789";

/// How a server is started; the same values start it again on the same data.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The data folder.
    pub data: PathBuf,
    /// More settings, as environment variables.
    pub env: Vec<(String, String)>,
    /// Where it listens.
    pub port: u16,
    /// The folder of its log; the data folder when absent.
    pub logs: Option<PathBuf>,
}

impl Setup {
    /// SQLite and the in-process queue in `data`; loopback is open to senders where `sinks` listen.
    pub fn embedded(data: &Path, sinks: &[u16]) -> Self {
        let setup = Self { data: data.to_owned(), env: Vec::new(), port: free_port(), logs: None };
        setup
            .with("CARILLON_ALLOW_EGRESS", sinks.iter().map(|p| format!("127.0.0.1:{p}")).collect::<Vec<_>>().join(","))
    }

    /// PostgreSQL and Redis.
    pub fn cluster(data: &Path, store: &str, queue: &str, sinks: &[u16]) -> Self {
        Self::embedded(data, sinks).with("CARILLON_STORE", store).with("CARILLON_QUEUE", queue)
    }

    /// With another setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts the server and waits until it is ready.
    pub async fn start(&self) -> Server {
        let server = self.spawn();
        eventually("the server is ready", Duration::from_secs(60), || async {
            matches!(server.client.get("/readyz").await, Ok((200, _)))
        })
        .await;
        keep_compiled(&self.data);
        server
    }

    /// Starts the server without waiting.
    pub fn spawn(&self) -> Server {
        lend_compiled(&self.data);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the log can be written");
        // The kernel kills the server when this process ends, however it ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary())
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CARILLON_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("CARILLON_DATA", &self.data)
            .env("CARILLON_ADMIN_TOKEN", TOKEN)
            // No load balancer is to be told.
            .env("CARILLON_DRAIN_NOTICE_MS", "0")
            .env("CARILLON_LOG", std::env::var("CARILLON_LOG").unwrap_or_else(|_| "info".to_owned()))
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("carillon starts");
        Server { child, client: Client::new(self.port, TOKEN), setup: self.clone() }
    }

    /// Where its log is.
    pub fn log_file(&self) -> PathBuf {
        self.logs.as_ref().unwrap_or(&self.data).join(format!("server-{}.log", self.port))
    }
}

/// The built program: beside the folder of the test binary, or beside a program like it.
pub fn binary() -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let folder = this.parent().expect("target/<profile>[/deps]");
    let profile = if folder.ends_with("deps") { folder.parent().expect("target/<profile>") } else { folder };
    let binary = profile.join("carillon");
    assert!(binary.exists(), "{} is missing: tests/run builds it first", binary.display());
    binary
}

/// The code that the first server which was ready has compiled of the program's own plugins, with the key that seals it: each
/// later one starts with a copy, or every test would spend seconds of processor time on the same.
fn compiled() -> PathBuf {
    binary().with_file_name("compiled-for-tests")
}

/// Keeps a server's compiled code, unless there is some of this program.
fn keep_compiled(data: &Path) {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let (folder, written) = (compiled(), |path: &Path| path.metadata().and_then(|m| m.modified()).ok());
        if written(&folder) > written(&binary()) {
            return;
        }
        let made = tempfile::tempdir_in(folder.parent().expect("a folder")).expect("a folder");
        copy_files(&data.join("plugins"), made.path());
        let _none_yet = std::fs::remove_dir_all(&folder);
        std::fs::rename(made.keep(), &folder).expect("it can be put there");
    });
}

fn lend_compiled(data: &Path) {
    let (folder, own) = (compiled(), data.join("plugins"));
    if folder.exists() && data.exists() && !own.exists() {
        std::fs::create_dir(&own).expect("a folder");
        copy_files(&folder, &own);
    }
}

/// Copies what is there now: the files may be changed meanwhile.
fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let _gone_meanwhile = std::fs::copy(entry.path(), to.join(entry.file_name()));
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// A running server.
pub struct Server {
    child: Child,
    /// A client with the admin token.
    pub client: Client,
    /// How it was started.
    pub setup: Setup,
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }

    /// SIGKILL, at once.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }

    /// SIGTERM; returns the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(sent.success());
        eventually("the server has ended", Duration::from_secs(60), || {
            let ended = self.child.try_wait().ok().flatten().is_some();
            async move { ended }
        })
        .await;
        self.child.wait().ok().and_then(|s| s.code())
    }

    /// The most memory that it has held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let peak =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak.expect("the kernel tells it") << 10
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.setup.log_file()).unwrap_or_default()
    }

    /// Posts JSON and expects a success.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.client.post(path, body).await.expect("the server answers");
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
        answer
    }

    /// Gets JSON and expects a success.
    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.client.get(path).await.expect("the server answers");
        assert!((200..300).contains(&status), "GET {path}: {status} {answer}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

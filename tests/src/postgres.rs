//! A real PostgreSQL for the tests: started from the machine's own binaries at the first use, shared by the whole test
//! process, gone with it.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// A running server. It ends, and its folder goes, when the process that started it ends in whatever way.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    log: PathBuf,
    /// The server's command line.
    command: Vec<String>,
    databases: AtomicU32,
    /// Databases that no test uses any more: the next test drops them, so that the folder stays small.
    finished: Mutex<Vec<String>>,
    /// The watchdog waits for the end of this pipe.
    _alive: ChildStdin,
}

static SHARED: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().expect("PostgreSQL starts"));

/// A new, empty database on the shared server; it is dropped some time after this value is.
pub async fn fresh_database() -> Database {
    let name = SHARED.create_database().await;
    Database { url: SHARED.url(&name), name }
}

/// A database of its own for a test.
#[derive(Debug)]
pub struct Database {
    /// Where it is.
    pub url: String,
    name: String,
}

impl Drop for Database {
    fn drop(&mut self) {
        SHARED.finished.lock().push(std::mem::take(&mut self.name));
    }
}

/// Runs the server as a child of a shell that ends both when its standard input ends, which happens at the end of the
/// test process even when it is killed. `setsid` keeps a Ctrl-C in the terminal from reaching the watchdog itself.
const WATCHDOG: &str = r#"
"$@" >"$FOLDER/log" 2>&1 </dev/null &
cat >/dev/null
pid=$(head -n 1 "$FOLDER/data/postmaster.pid" 2>/dev/null)
[ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null
kill -QUIT $! 2>/dev/null
wait
rm -rf "$FOLDER"
"#;

impl Postgres {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Errors
    /// When there are no binaries, or the server does not come up within half a minute; says what its log holds.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with these settings more, each as `name=value`.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(settings: &[&str]) -> anyhow::Result<Self> {
        let bin = binaries()?;
        let folder = tempfile::Builder::new().prefix("carillon-pg-").tempdir_in(roomy_memory_or_temp())?;
        // PostgreSQL refuses to run as root: then another user owns its folder.
        let user = unprivileged_user()?;
        let mut become_user = Vec::new();
        if let Some(user) = &user {
            anyhow::ensure!(
                Command::new("chown").arg(&user.name).arg(folder.path()).status()?.success(),
                "chown failed"
            );
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
            become_user.extend([
                "setpriv".to_owned(),
                format!("--reuid={}", user.uid),
                format!("--regid={}", user.gid),
            ]);
            become_user.extend(["--clear-groups".to_owned(), "--".to_owned()]);
        }
        let command = |program: &str| {
            let mut words = become_user.clone();
            words.push(bin.join(program).to_string_lossy().into_owned());
            words
        };
        let data = folder.path().join("data");
        let initdb = command("initdb");
        let made = Command::new(&initdb[0])
            .args(&initdb[1..])
            .args(["--no-sync", "--auth=trust", "--username=carillon", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .output()?;
        anyhow::ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut line = command("postgres");
        let folder_name = folder.path().to_string_lossy().into_owned();
        line.extend(["-D".to_owned(), data.to_string_lossy().into_owned()]);
        line.extend(["-p".to_owned(), port.to_string(), "-k".to_owned(), folder_name]);
        let own = [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "full_page_writes=off",
            "max_connections=300",
            "shared_buffers=64MB",
            "autovacuum_naptime=10s",
            // Shared memory as files of the folder: they go with it.
            "dynamic_shared_memory_type=mmap",
        ];
        line.extend(own.iter().chain(settings).flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
        let mut server = Command::new("setsid")
            .args(["sh", "-c", WATCHDOG, "sh"])
            .args(&line)
            .env("FOLDER", folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let alive = server.stdin.take().expect("piped");
        // From here on the watchdog removes the folder.
        let folder = folder.keep();
        wait_until_ready(&folder)?;
        let log = folder.join("log");
        Ok(Self { port, log, command: line, databases: AtomicU32::new(0), finished: Mutex::default(), _alive: alive })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL to the server; its sessions end with it.
    pub fn kill(&self) {
        if let Some(pid) = self.pid() {
            let _gone_already = Command::new("kill").args(["-KILL", &pid]).stderr(Stdio::null()).status();
        }
    }

    fn pid(&self) -> Option<String> {
        let file = self.log.with_file_name("data").join("postmaster.pid");
        Some(std::fs::read_to_string(file).ok()?.lines().next()?.trim().to_owned())
    }

    /// Starts a killed server again and waits until it answers.
    ///
    /// # Panics
    /// When it does not within half a minute.
    #[allow(clippy::zombie_processes)] // It ends with the watchdog, which is nobody's to wait for here.
    pub async fn restart(&self) {
        let data = self.log.with_file_name("data");
        crate::wait::eventually("the sessions have ended", Duration::from_secs(30), || {
            // All of them work in the data folder; one that is dead and not waited for yet works nowhere.
            let working = std::fs::read_dir("/proc").into_iter().flatten().flatten();
            let ended =
                !working.into_iter().any(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == data));
            async move { ended }
        })
        .await;
        // They name a process that its parent, the watchdog, has not waited for: the new server would take it for alive.
        let socket = self.log.with_file_name(format!(".s.PGSQL.{}.lock", self.port));
        for lock in [data.join("postmaster.pid"), socket] {
            let _never_written = std::fs::remove_file(lock);
        }
        let log = std::fs::OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        Command::new(&self.command[0])
            .args(&self.command[1..])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("PostgreSQL starts");
        crate::wait::eventually("PostgreSQL is back", Duration::from_secs(30), || async {
            PgConnection::connect(&self.url("postgres")).await.is_ok()
        })
        .await;
    }

    /// The file that the server writes its log to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Makes a new, empty database, which stays as long as the server; returns its URL.
    pub async fn database(&self) -> String {
        self.url(&self.create_database().await)
    }

    async fn create_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.url("postgres")).await.expect("the server answers");
        let finished = std::mem::take(&mut *self.finished.lock());
        for old in finished {
            let drop = format!("DROP DATABASE {old} WITH (FORCE)");
            admin.execute(AssertSqlSafe(drop)).await.expect("an unused database goes");
        }
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a new database");
        admin.close().await.expect("closes");
        name
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://carillon@127.0.0.1:{}/{database}", self.port)
    }
}

/// Where databases are made and dropped fastest: in memory, where there is plenty, else in the temp folder.
fn roomy_memory_or_temp() -> PathBuf {
    const ENOUGH_KB: u64 = 4 * 1024 * 1024;
    let memory = Path::new("/dev/shm");
    let free = Command::new("df").args(["-k", "--output=avail"]).arg(memory).stderr(Stdio::null()).output();
    let free_kb = free.ok().and_then(|out| String::from_utf8(out.stdout).ok()?.lines().nth(1)?.trim().parse().ok());
    if free_kb.is_some_and(|kb: u64| kb >= ENOUGH_KB) { memory.to_owned() } else { std::env::temp_dir() }
}

/// The newest PostgreSQL of the machine: what `PATH` names, or Debian's folder of versions.
fn binaries() -> anyhow::Result<PathBuf> {
    let whole = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dir| dir.filter_map(|e| Some(e.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.sort();
    std::env::split_paths(&path)
        .find(whole)
        .or_else(|| versions.into_iter().rev().find(whole))
        .ok_or_else(|| anyhow::anyhow!("no PostgreSQL: put initdb and postgres on the PATH"))
}

struct User {
    name: String,
    uid: String,
    gid: String,
}

/// The user to run as when this process is root.
fn unprivileged_user() -> anyhow::Result<Option<User>> {
    let id = |args: &[&str]| -> anyhow::Result<Option<String>> {
        let out = Command::new("id").args(args).stderr(Stdio::null()).output()?;
        Ok(out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    };
    if id(&["-u"])?.as_deref() != Some("0") {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let (Some(uid), Some(gid)) = (id(&["-u", name])?, id(&["-g", name])?) {
            return Ok(Some(User { name: name.to_owned(), uid, gid }));
        }
    }
    anyhow::bail!("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

/// Waits until the server writes that it takes connections: the eighth line of its pid file.
fn wait_until_ready(folder: &Path) -> anyhow::Result<()> {
    for _ in 0..3_000 {
        let state = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
        if state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut log = String::new();
    if let Ok(mut file) = std::fs::File::open(folder.join("log")) {
        let _ = file.read_to_string(&mut log);
    }
    anyhow::bail!("PostgreSQL did not come up: {log}")
}

//! The load balancer of `examples/deploy`, with its own configuration: only names and ports are others.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::server::free_port;
use crate::wait::eventually;

/// What is shipped, and so what is tested.
const SHIPPED: &str = include_str!("../../../examples/deploy/haproxy.cfg");

/// A running haproxy; it ends with this value, or with the test process.
pub struct Balancer {
    /// Where it listens.
    pub port: u16,
    child: Child,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Balancer {
    /// Starts haproxy in front of the servers on these ports; its configuration and its log are in `folder`.
    ///
    /// # Panics
    /// When there is no haproxy, or it does not take the configuration.
    pub async fn start(folder: &Path, servers: &[u16]) -> Self {
        let port = free_port();
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, substituted(port, free_port(), servers)).expect("the configuration is written");
        let log = std::fs::File::create(folder.join("haproxy.log")).expect("the log can be written");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "haproxy", "-db", "-f"])
            .arg(&file)
            // Where it is, and where other users than root do not look.
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("haproxy starts");
        eventually("haproxy listens", Duration::from_secs(10), || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self { port, child }
    }
}

fn substituted(port: u16, metrics: u16, servers: &[u16]) -> String {
    let mut text = SHIPPED.to_owned();
    let mut put = |from: String, to: String| {
        assert_eq!(text.matches(&from).count(), 1, "{from:?} in examples/deploy/haproxy.cfg");
        text = text.replace(&from, &to);
    };
    put("bind :8080\n".to_owned(), format!("bind 127.0.0.1:{port}\n"));
    put("bind :8404\n".to_owned(), format!("bind 127.0.0.1:{metrics}\n"));
    for (n, server) in servers.iter().enumerate() {
        put(format!(" carillon-{}:8080\n", n + 1), format!(" 127.0.0.1:{server}\n"));
    }
    text
}

//! The clocks on the wall: each server runs under libfaketime and reads from a file of its own by how much its wall clock is
//! off. Its monotonic clock stays the machine's, as it does when a real wall clock is set.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server::Setup;
use crate::wait::eventually;

/// By how much a clock is off at most, in seconds.
pub const MOST_OFF: i64 = 300;

/// The wall clock of one server.
pub struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// A clock that this file sets; it is right until it is stepped.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.step(0);
        clock
    }

    /// From now on (a second at most) it is off by so many seconds.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn step(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("the clock's file is written");
        std::fs::rename(&new, &self.file).expect("the clock's file is put in place");
    }

    /// A server that has this clock.
    ///
    /// # Panics
    /// When libfaketime is not installed.
    #[must_use]
    pub fn on(&self, setup: Setup) -> Setup {
        setup
            .with("LD_PRELOAD", library().to_string_lossy())
            .with("FAKETIME_TIMESTAMP_FILE", self.file.to_string_lossy())
            .with("DONT_FAKE_MONOTONIC", "1")
            .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            // The file is read once a second, not at each look at the clock; times of files stay what they are.
            .with("FAKETIME_CACHE_DURATION", "1")
            .with("NO_FAKE_STAT", "1")
            .with("FAKETIME_DISABLE_SHM", "1")
    }
}

/// Waits until a server that was started with this wall clock shows that it is off by so many seconds: a preload that does
/// nothing would pass every test. (After a step back it is not seen: the `Date` of answers stands still until the clock is
/// where it was.)
///
/// # Panics
/// When it does not.
pub async fn until_off(port: u16, seconds: i64) {
    eventually("the server's clock is off as it was told", Duration::from_secs(20), || async {
        // What the server has is in each answer's `Date`.
        #[allow(clippy::disallowed_methods)]
        let here = Timestamp::now();
        shown(port).await.is_some_and(|there| (there.as_second() - here.as_second() - seconds).abs() <= 3)
    })
    .await;
}

async fn shown(port: u16) -> Option<Timestamp> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let date = text.lines().find_map(|line| line.strip_prefix("date: "))?;
    Some(rfc2822::parse(date).ok()?.timestamp())
}

/// The preload for programs with threads, where Debian and others have it.
fn library() -> PathBuf {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = [Path::new("/usr/lib").to_owned(), Path::new("/usr/lib64").to_owned()].into_iter().chain(folders);
    let found = found.map(|folder| folder.join(NAME)).find(|path| path.exists());
    found.expect("libfaketime is missing: tests/run installs it (Debian's package faketime)")
}

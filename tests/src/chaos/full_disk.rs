//! A full disk: one server with the embedded store, its data on a small disk of its own that is filled to the last byte, stays
//! full for a moment, and has room again, while campaigns run; now and then the server is killed meanwhile.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::chaos::books::{self, Findings, Policy};
use crate::chaos::driver::Driver;
use crate::chaos::sink::Sink;
use crate::chaos::world::{ATTEMPT_TIMEOUT, SEND_TIMEOUT};
use crate::chaos::{Outcome, Plan};
use crate::server::{Server, Setup};

/// The disk: what the plugins, a campaign and its log need, and some more.
const DISK: &str = "size=256m";
/// How soon a server must say that there is no room: it may go on in space that its files have already.
const TOLD_IN: Duration = Duration::from_secs(60);
/// How soon a server must go on when there is room again.
const BACK_IN: Duration = Duration::from_secs(30);
/// What the log and `/readyz` say.
const FULL: &str = "disk is full";
/// The faults of this run.
const DISK_FULL: &str = "disk full";
const KILLED_MEANWHILE: &str = "kill while the disk is full";

/// A disk of its own.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "carillon"]).arg(&folder).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "a small disk cannot be mounted: run this as root, or where users may make namespaces (unshare -rm)"
        );
        Self { folder }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Leaves so many bytes.
    fn fill(&self, leave: u64) {
        let mut file = std::fs::File::create(self.ballast()).expect("the ballast is begun");
        for size in [1 << 20, 4 << 10, 1 << 8, 1] {
            let piece = vec![0xba_u8; size];
            while file.write(&piece).is_ok_and(|written| written > 0) {}
        }
        let length = file.metadata().map_or(0, |data| data.len());
        file.set_len(length.saturating_sub(leave)).expect("the ballast is cut");
    }

    fn clear(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast goes");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").args(["-l"]).arg(&self.folder).status();
    }
}

/// The server, what it runs on, and who asks it.
struct Bed {
    setup: Setup,
    server: Option<Server>,
    disk: Disk,
    driver: Driver,
}

impl Bed {
    async fn start(folder: &Path, sink: &Sink, number: u32) -> Self {
        let disk = Disk::mount(folder.join(format!("disk-{number}")));
        let data = disk.folder.join("data");
        std::fs::create_dir(&data).expect("a folder");
        let mut setup = Setup::embedded(&data, &[sink.port])
            .with("CARILLON_SEND_TIMEOUT_MS", SEND_TIMEOUT.as_millis().to_string())
            .with("CARILLON_LEASE_MS", "2000")
            .with("CARILLON_HEARTBEAT_MS", "200")
            .with("CARILLON_PROCESSOR_INTERVAL_MS", "1000")
            .with("CARILLON_TRIGGER_INTERVAL_MS", "1000")
            .with("CARILLON_RECOVERY_INTERVAL_MS", "2000")
            .with("CARILLON_LOG", "warn");
        // Every second campaign has its log on the full disk, too: the server must live without a log.
        setup.logs = number.is_multiple_of(2).then(|| folder.to_owned());
        let server = Some(setup.start().await);
        let driver = Driver::new(setup.port);
        Self { setup, server, disk, driver }
    }

    fn restart(&mut self) {
        drop(self.server.take());
        self.server = Some(self.setup.spawn());
    }

    /// Waits until `/readyz` says this; `false`: not in time, or the server ended by itself.
    async fn until(&mut self, status: u16, word: &str, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        while Instant::now() < end {
            if self.server.as_mut().is_none_or(Server::has_ended) {
                return false;
            }
            if let Some((now, told)) = self.driver.readiness().await
                && now == status
                && told.to_string().contains(word)
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Whether a server that has just been started answers and does not end. (What its files have room for may do for a while.)
    async fn lives_on(&mut self) -> bool {
        let end = Instant::now() + BACK_IN;
        while self.driver.readiness().await.is_none() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.driver.readiness().await.is_some() && !self.server.as_mut().is_none_or(Server::has_ended)
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.setup.log_file()).map_or(0, |data| data.len())
    }

    fn log_since(&self, length: u64) -> String {
        let log = std::fs::read(self.setup.log_file()).unwrap_or_default();
        let from = usize::try_from(length).unwrap_or(usize::MAX).min(log.len());
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// Fills the disk for a while; returns whether the server was killed meanwhile, and what was wrong.
    async fn fill_once(&mut self, rng: &mut StdRng) -> (bool, Vec<String>) {
        let mut wrong = Vec::new();
        let log = self.log_length();
        let leave = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..40_000) };
        let (stay, killed) = (Duration::from_millis(rng.random_range(0..1_500)), rng.random_bool(0.3));
        let before_room = rng.random_bool(0.5);
        self.disk.fill(leave);
        if !self.until(503, FULL, TOLD_IN).await {
            wrong.push(format!("/readyz does not say that the disk is full: {:?}", self.driver.readiness().await));
        }
        tokio::time::sleep(stay).await;
        if self.setup.logs.is_some() && !self.log_since(log).contains(FULL) {
            wrong.push("the log does not say that the disk is full".to_owned());
        }
        if killed {
            self.restart();
            if before_room && !self.lives_on().await {
                wrong.push(format!("a server does not live that starts on a full disk: {}", self.log_since(log)));
            }
        }
        self.disk.clear();
        if !self.until(200, "", BACK_IN).await {
            let told = self.driver.readiness().await;
            wrong.push(format!("there is room, and the server does not go on: {told:?} {}", self.log_since(log)));
            self.restart();
            assert!(self.until(200, "", BACK_IN).await, "nor does it after a restart: {}", self.log_since(log));
        }
        (killed, wrong)
    }
}

/// Fills the disk `plan.each` times while campaigns run, and checks the books of each.
///
/// # Panics
/// When no disk can be mounted, or a campaign does not end although there is room.
pub async fn run(plan: &Plan) -> Outcome {
    let folder = tempfile::Builder::new().prefix("carillon-disk-").tempdir().expect("a temporary folder");
    let sink = Sink::start(&folder.path().join("ledger"), plan.seed).await;
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut outcome = Outcome::default();
    let times = |outcome: &Outcome| outcome.faults.get(DISK_FULL).copied().unwrap_or(0);
    while times(&outcome) < plan.each && outcome.findings.violations.is_empty() {
        let policy = Policy::of(outcome.campaigns);
        let mut bed = Bed::start(folder.path(), &sink, outcome.campaigns).await;
        bed.driver.fill(plan).await;
        sink.be_kind(false);
        let campaign = bed.driver.launch(plan, policy, &sink.url(), ATTEMPT_TIMEOUT, outcome.campaigns).await;
        let mut found = Findings::default();
        while times(&outcome) < plan.each && !bed.driver.sent_share(&campaign, 0.7, Duration::from_millis(300)).await {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            let (killed, wrong) = bed.fill_once(&mut rng).await;
            found.violations.extend(wrong);
            *outcome.faults.entry(DISK_FULL).or_default() += 1;
            if killed {
                *outcome.faults.entry(KILLED_MEANWHILE).or_default() += 1;
            }
        }
        sink.be_kind(true);
        let rows = bed.driver.completed(&campaign, plan.patience).await;
        found.add(books::check(&sink, &bed.driver, plan, policy, &rows).await);
        outcome.end_campaign(policy, found);
    }
    outcome
}

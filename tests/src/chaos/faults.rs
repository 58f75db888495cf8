//! The storm: each server has its own troubles, and the database and the queue have theirs, all at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chaos::Plan;
use crate::chaos::proxy::{Matches, Mode, Proxy, Trap, Way};
use crate::chaos::world::{SERVERS, World, signal};

/// A turn of devices is a large piece; what else a server asks of the database is small.
const TURN_BYTES: usize = 1_200;
/// How long a server may take to come by a trap.
const TRAP_PATIENCE: Duration = Duration::from_secs(2);

/// Where around a send a server is killed.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// The statement with which attempts end and others begin has not reached the database.
    BeforeTurn,
    /// That transaction is not committed yet.
    BeforeCommit,
    /// It is committed, and the server does not know.
    AfterCommit,
    /// The message is with the provider, and there is no answer yet.
    BytesLeft,
    /// The answer is there, and nothing was written down.
    Answered,
    /// The attempt is written down, and the queue does not know.
    BeforeRelease,
    /// The queue knows, and the server does not know that.
    AfterRelease,
}

const POINTS: [Point; 7] = [
    Point::BeforeTurn,
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::BytesLeft,
    Point::Answered,
    Point::BeforeRelease,
    Point::AfterRelease,
];

impl Point {
    fn name(self) -> &'static str {
        match self {
            Self::BeforeTurn => "kill before a turn is written",
            Self::BeforeCommit => "kill before a commit",
            Self::AfterCommit => "kill after a commit",
            Self::BytesLeft => "kill when the bytes have left",
            Self::Answered => "kill after the answer",
            Self::BeforeRelease => "kill before a release",
            Self::AfterRelease => "kill after a release",
        }
    }
}

/// A storm that rages until it is ended.
pub struct Storm {
    stop: CancellationToken,
    tasks: TaskTracker,
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Storm {
    /// Begins.
    pub fn begin(world: Arc<World>, plan: &Plan, seed: u64) -> Self {
        let storm = Self { stop: CancellationToken::new(), tasks: TaskTracker::new(), counts: Arc::default() };
        world.sink.be_kind(false);
        for n in 0..SERVERS {
            let trouble = Trouble::new(&storm, &world, plan, seed ^ (n as u64 + 1));
            storm.tasks.spawn(trouble.of_server(n));
        }
        storm.tasks.spawn(Trouble::new(&storm, &world, plan, seed ^ 0xface).of_backends());
        storm.tasks.close();
        storm
    }

    /// Ends, with everything healed; returns how often each fault happened.
    pub async fn end(self) -> BTreeMap<&'static str, u64> {
        self.stop.cancel();
        self.tasks.wait().await;
        std::mem::take(&mut self.counts.lock())
    }
}

struct Trouble {
    world: Arc<World>,
    rng: StdRng,
    lease: Duration,
    stop: CancellationToken,
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Trouble {
    fn new(storm: &Storm, world: &Arc<World>, plan: &Plan, seed: u64) -> Self {
        Self {
            world: world.clone(),
            rng: StdRng::seed_from_u64(seed),
            lease: plan.lease,
            stop: storm.stop.clone(),
            counts: storm.counts.clone(),
        }
    }

    fn count(&self, kind: &'static str) {
        *self.counts.lock().entry(kind).or_default() += 1;
    }

    /// Peace for a while; `false`: it is over.
    async fn peace(&mut self, ms: std::ops::Range<u64>) -> bool {
        let wait = Duration::from_millis(self.rng.random_range(ms));
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.stop.cancelled() => false,
        }
    }

    async fn of_server(mut self, n: usize) {
        let world = self.world.clone();
        let node = &world.nodes[n];
        while self.peace(200..1_500).await {
            match self.rng.random_range(0..20) {
                0..4 => {
                    node.kill();
                    self.count("kill");
                    node.restart().await;
                }
                4..14 => {
                    let point = *POINTS.choose(&mut self.rng).expect("points");
                    if self.kill_at(n, point).await {
                        self.count(point.name());
                        node.restart().await;
                    }
                }
                14 => {
                    signal(node.pid(), "-STOP");
                    let past = self.lease + Duration::from_millis(self.rng.random_range(200..2_000));
                    tokio::time::sleep(past).await;
                    signal(node.pid(), "-CONT");
                    self.count("freeze past the lease");
                }
                15 => {
                    node.roll().await;
                    self.count("rolling restart");
                }
                16 | 17 => self.trouble_on_line(&node.sql, ["slow database", "cut database", "deaf database"]).await,
                _ => self.trouble_on_line(&node.queue, ["slow queue", "cut queue", "deaf queue"]).await,
            }
        }
        // Whatever it was: the server is up when the storm is over.
        node.sql.set(Mode::Pass);
        node.queue.set(Mode::Pass);
        if !node.until_ready(Duration::from_secs(5)).await {
            node.restart().await;
        }
    }

    async fn trouble_on_line(&mut self, line: &Proxy, kinds: [&'static str; 3]) {
        let (mode, kind) = match self.rng.random_range(0..3) {
            0 => (Mode::Slow(Duration::from_millis(self.rng.random_range(20..400))), kinds[0]),
            1 => (Mode::Cut, kinds[1]),
            _ => (Mode::Swallow, kinds[2]),
        };
        line.set(mode);
        self.peace(300..2_500).await;
        line.set(Mode::Pass);
        self.count(kind);
    }

    /// Kills a server at a point around a send; `false`: it did not come by there.
    async fn kill_at(&mut self, n: usize, point: Point) -> bool {
        let node = &self.world.nodes[n];
        let (struck, strike) = oneshot::channel();
        let pid = node.pid();
        let kill = move || {
            signal(pid, "-KILL");
            let _late = struck.send(());
        };
        let passes = self.rng.random_range(0..20);
        let line = match point {
            Point::BytesLeft | Point::Answered => None,
            Point::BeforeRelease | Point::AfterRelease => Some(&node.queue),
            Point::BeforeTurn | Point::BeforeCommit | Point::AfterCommit => Some(&node.sql),
        };
        if let Some(line) = line {
            line.set_trap(Trap { matches: pieces(point, passes), strike: Box::new(kill) });
        } else {
            self.trap_at_sink(n, passes, point, kill);
        }
        let hit = tokio::time::timeout(TRAP_PATIENCE, strike).await.is_ok_and(|struck| struck.is_ok());
        match line {
            Some(line) => line.clear_trap(),
            None => self.world.sink.clear_trap(),
        }
        hit
    }

    fn trap_at_sink(&self, n: usize, passes: u32, point: Point, kill: impl FnOnce() + Send + 'static) {
        let world = self.world.clone();
        let state = Mutex::new((passes, Some(kill)));
        self.world.sink.set_trap(move |from| {
            let mut state = state.lock();
            if state.0 > 0 {
                state.0 -= 1;
                return false;
            }
            if world.owner_of(from.port()) != Some(n) {
                return false;
            }
            let Some(kill) = state.1.take() else { return false };
            if matches!(point, Point::BytesLeft) {
                kill();
                return true;
            }
            // The answer leaves now, and reaches the server before the signal does.
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(500));
                kill();
            });
            false
        });
    }

    async fn of_backends(mut self) {
        let world = self.world.clone();
        while self.peace(1_500..5_000).await {
            match self.rng.random_range(0..7) {
                0 => {
                    world.redis.lock().await.flush().await;
                    self.count("queue flushed");
                }
                1 => {
                    let mut redis = world.redis.lock().await;
                    redis.kill();
                    self.count("queue killed, data kept");
                    self.peace(0..1_000).await;
                    assert!(redis.restart().await, "Redis comes back");
                }
                2 => {
                    let mut redis = world.redis.lock().await;
                    redis.kill();
                    redis.forget();
                    self.count("queue killed, data gone");
                    self.peace(0..1_000).await;
                    assert!(redis.restart().await, "Redis comes back");
                }
                3 => {
                    world.postgres.kill();
                    self.count("database killed");
                    self.peace(0..1_000).await;
                    world.postgres.restart().await;
                }
                4 | 5 => {
                    if self.end_backends().await.is_ok() {
                        self.count("database sessions ended");
                    }
                }
                _ => {
                    self.exhaust().await;
                    self.count("database connections exhausted");
                }
            }
        }
    }

    async fn end_backends(&self) -> sqlx::Result<()> {
        let mut admin = PgConnection::connect(&self.world.database).await?;
        admin
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL")
            .await?;
        admin.close().await
    }

    /// Ends the servers' connections, so that they need new ones, and takes every one that the database has.
    async fn exhaust(&mut self) {
        let _away = self.end_backends().await;
        let mut taken = Vec::new();
        while let Ok(connection) = PgConnection::connect(&self.world.database).await {
            taken.push(connection);
        }
        self.peace(300..1_500).await;
    }
}

/// Which piece of traffic is the point.
fn pieces(point: Point, mut passes: u32) -> Matches {
    let holds = |piece: &[u8], word: &[u8]| piece.windows(word.len()).any(|w| w == word);
    let mut waits_on = None;
    Box::new(move |connection, way, piece| {
        let (out, answer) = match point {
            Point::BeforeTurn => (piece.len() > TURN_BYTES, false),
            Point::BeforeCommit => (holds(piece, b"COMMIT"), false),
            Point::AfterCommit => (holds(piece, b"COMMIT"), true),
            Point::BeforeRelease => (holds(piece, b"EVALSHA"), false),
            Point::AfterRelease => (holds(piece, b"EVALSHA"), true),
            Point::BytesLeft | Point::Answered => return false,
        };
        if waits_on.is_some() {
            return way == Way::Back && waits_on == Some(connection);
        }
        if way == Way::Back || !out {
            return false;
        }
        if passes > 0 {
            passes -= 1;
            return false;
        }
        waits_on = answer.then_some(connection);
        !answer
    })
}

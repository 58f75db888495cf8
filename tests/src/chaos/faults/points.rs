//! The points around a send at which a server is killed.

use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::oneshot;

use super::Trouble;
use crate::chaos::proxy::{Matches, Trap, Way};
use crate::chaos::sink::Sprung;
use crate::chaos::world::signal;

/// A turn of devices is a large piece; what else a server asks of the database is small.
const TURN_BYTES: usize = 1_200;
/// How long a server may take to come by a trap.
const TRAP_PATIENCE: Duration = Duration::from_secs(2);

/// Where around a send a server is killed.
#[derive(Debug, Clone, Copy)]
pub enum Point {
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

impl Point {
    /// Every point; the last two are on the line to a single queue.
    pub const ALL: [Self; 7] = [
        Self::BeforeTurn,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BytesLeft,
        Self::Answered,
        Self::BeforeRelease,
        Self::AfterRelease,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
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

    /// Whether it is on the line to the queue.
    pub fn is_of_queue(self) -> bool {
        matches!(self, Self::BeforeRelease | Self::AfterRelease)
    }
}

impl Trouble {
    /// Kills a server at a point around a send; `false`: it did not come by there.
    pub(super) async fn kill_at(&mut self, n: usize, point: Point) -> bool {
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
            Point::BeforeRelease | Point::AfterRelease => node.queue.as_ref(),
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
                return Sprung::No;
            }
            if world.owner_of(from.port()) != Some(n) {
                return Sprung::No;
            }
            let Some(kill) = state.1.take() else { return Sprung::No };
            if matches!(point, Point::BytesLeft) {
                kill();
                return Sprung::Now;
            }
            // The answer leaves now, and reaches the server before the signal does.
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(500));
                kill();
            });
            Sprung::AfterAnswer
        });
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

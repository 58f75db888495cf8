//! The troubles of one server: it is killed, stopped, restarted, its clock is set, its lines fail.

use std::time::Duration;

use rand::RngExt as _;

use super::Trouble;
use super::points::Point;
use crate::chaos::clock::MOST_OFF;
use crate::chaos::proxy::{Mode, Proxy};
use crate::chaos::world::signal;

/// What happens to a line.
#[derive(Debug, Clone, Copy)]
pub enum Failing {
    /// Each piece is held up.
    Slow,
    /// Connections are closed.
    Cut,
    /// Nothing passes, and nobody is told.
    Deaf,
}

/// What happens to a server.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// SIGKILL, anywhere.
    Kill,
    /// SIGKILL at a point around a send.
    KillAt(Point),
    /// SIGSTOP until its leases are over, then SIGCONT.
    Freeze,
    /// SIGTERM and a new process.
    Roll,
    /// Its wall clock is set to another time.
    Clock,
    /// Its line to the database.
    Sql(Failing),
    /// Its line to the queue.
    Queue(Failing),
}

impl Fault {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAt(point) => point.name(),
            Self::Freeze => "freeze past the lease",
            Self::Roll => "rolling restart",
            Self::Clock => "clock stepped",
            Self::Sql(Failing::Slow) => "slow database",
            Self::Sql(Failing::Cut) => "cut database",
            Self::Sql(Failing::Deaf) => "deaf database",
            Self::Queue(Failing::Slow) => "slow queue",
            Self::Queue(Failing::Cut) => "cut queue",
            Self::Queue(Failing::Deaf) => "deaf queue",
        }
    }
}

/// What there is, with its weight where no number of each is asked for.
pub fn menu(cluster: bool) -> Vec<(Fault, u64)> {
    let mut menu = vec![(Fault::Kill, 24), (Fault::Freeze, 6), (Fault::Roll, 6), (Fault::Clock, 6)];
    menu.extend(Point::ALL.into_iter().filter(|point| !cluster || !point.is_of_queue()).map(|p| (Fault::KillAt(p), 9)));
    let lines = [Failing::Slow, Failing::Cut, Failing::Deaf];
    menu.extend(lines.map(|failing| (Fault::Sql(failing), 4)));
    if !cluster {
        menu.extend(lines.map(|failing| (Fault::Queue(failing), 4)));
    }
    menu
}

impl Trouble {
    pub(super) async fn of_server(mut self, n: usize) {
        let world = self.world.clone();
        let node = &world.nodes[n];
        let menu = menu(self.plan.cluster);
        while self.lull(200..1_500).await {
            let _mine = node.busy.lock().await;
            let fault = self.draw(&menu, Fault::name);
            let happened = match fault {
                Fault::Kill => {
                    node.kill();
                    node.restart().await;
                    true
                }
                Fault::KillAt(point) => {
                    let hit = self.kill_at(n, point).await;
                    if hit {
                        node.restart().await;
                    }
                    hit
                }
                Fault::Freeze => {
                    signal(node.pid(), "-STOP");
                    let past = self.plan.lease + Duration::from_millis(self.rng.random_range(200..2_000));
                    tokio::time::sleep(past).await;
                    signal(node.pid(), "-CONT");
                    true
                }
                Fault::Roll => {
                    node.roll().await;
                    true
                }
                Fault::Clock => {
                    node.clock.step(self.rng.random_range(-MOST_OFF..=MOST_OFF));
                    true
                }
                Fault::Sql(failing) => self.on_line(Some(&node.sql), failing).await,
                Fault::Queue(failing) => self.on_line(node.queue.as_ref(), failing).await,
            };
            if happened {
                self.count(fault.name());
            }
        }
        // Whatever it was: the server is up when the storm is over.
        let _mine = node.busy.lock().await;
        for line in [Some(&node.sql), node.queue.as_ref()].into_iter().flatten() {
            line.set(Mode::Pass);
        }
        if !node.until_ready(Duration::from_secs(5)).await {
            node.restart().await;
        }
    }

    async fn on_line(&mut self, line: Option<&Proxy>, failing: Failing) -> bool {
        let Some(line) = line else { return false };
        line.set(match failing {
            Failing::Slow => Mode::Slow(Duration::from_millis(self.rng.random_range(20..400))),
            Failing::Cut => Mode::Cut,
            Failing::Deaf => Mode::Swallow,
        });
        self.peace(300..2_500).await;
        line.set(Mode::Pass);
        true
    }
}

//! The storm: each server has its own troubles, and the database and the queue have theirs, all at the same time.

mod backends;
mod points;
mod servers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chaos::Plan;
use crate::chaos::world::{SERVERS, World};

/// How often each fault happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// Every kind of fault that a run of this plan has.
pub fn kinds(plan: &Plan) -> Vec<&'static str> {
    let of_servers = servers::menu(plan.cluster).into_iter().map(|(fault, _)| fault.name());
    let of_backends = backends::menu(plan.cluster).into_iter().map(|(fault, _)| fault.name());
    of_servers.chain(of_backends).chain([backends::PLUGIN_CHANGE]).collect()
}

/// A storm that rages until it is ended.
pub struct Storm {
    stop: CancellationToken,
    tasks: TaskTracker,
    counts: Arc<Mutex<Counts>>,
}

impl Storm {
    /// Begins. What has been rare in the storms `before` is more likely in this one, if the plan wants so many of each.
    pub fn begin(world: Arc<World>, plan: &Plan, seed: u64, before: &Counts) -> Self {
        let storm = Self { stop: CancellationToken::new(), tasks: TaskTracker::new(), counts: Arc::default() };
        world.sink.be_kind(false);
        for n in 0..SERVERS {
            let trouble = Trouble::new(&storm, &world, plan, seed ^ (n as u64 + 1), before);
            storm.tasks.spawn(trouble.of_server(n));
        }
        storm.tasks.spawn(Trouble::new(&storm, &world, plan, seed ^ 0xface, before).of_backends());
        storm.tasks.spawn(Trouble::new(&storm, &world, plan, seed ^ 0xcafe, before).of_plugins());
        storm.tasks.close();
        storm
    }

    /// Ends, with everything healed; returns how often each fault happened.
    pub async fn end(self) -> Counts {
        self.stop.cancel();
        self.tasks.wait().await;
        std::mem::take(&mut self.counts.lock())
    }
}

struct Trouble {
    world: Arc<World>,
    rng: StdRng,
    plan: Plan,
    before: Counts,
    stop: CancellationToken,
    counts: Arc<Mutex<Counts>>,
}

impl Trouble {
    fn new(storm: &Storm, world: &Arc<World>, plan: &Plan, seed: u64, before: &Counts) -> Self {
        Self {
            world: world.clone(),
            rng: StdRng::seed_from_u64(seed),
            plan: plan.clone(),
            before: before.clone(),
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

    /// Peace between two faults: shorter in a run that wants many of each.
    async fn lull(&mut self, ms: std::ops::Range<u64>) -> bool {
        let range = if self.plan.each > 0 { ms.start / 3..ms.end / 3 } else { ms };
        self.peace(range).await
    }

    /// Draws one of a menu: by its weights, or by what the storms before have left to do. What this one has done so far does
    /// not count, so that the seed fixes what comes after what.
    fn draw<T: Copy>(&mut self, menu: &[(T, u64)], name: impl Fn(T) -> &'static str) -> T {
        let kills = menu.iter().filter(|(fault, _)| is_kill(name(*fault))).count().max(1) as u64;
        let (each, wanted_kills) = (self.plan.each, self.plan.kills.div_ceil(kills));
        let before = &self.before;
        let weight = |(fault, usual): &(T, u64)| {
            if each == 0 {
                return *usual;
            }
            let name = name(*fault);
            let goal = if is_kill(name) { each.max(wanted_kills) } else { each };
            goal.saturating_sub(before.get(name).copied().unwrap_or(0)) + 1
        };
        let drawn = menu.choose_weighted(&mut self.rng, weight).expect("a menu with weights");
        drawn.0
    }
}

/// Whether this kind kills a server.
pub fn is_kill(kind: &str) -> bool {
    kind.starts_with("kill")
}

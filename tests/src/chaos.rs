//! Faults on purpose: three servers, the database, the queue and a sink that writes everything down, with processes killed,
//! stopped and cut off from each other while campaigns run; then the books are checked.
//!
//! Everything random comes from one seed. What a seed fixes is the order of faults and their kinds; the machine's timing
//! stays its own.

pub mod balancer;
pub mod books;
pub mod clock;
pub mod driver;
pub mod faults;
pub mod full_disk;
pub mod proxy;
pub mod report;
pub mod sink;
pub mod world;

use std::time::Duration;

use crate::chaos::books::{Findings, Policy};
use crate::chaos::faults::{Counts, Storm, is_kill};
use crate::chaos::world::{ATTEMPT_TIMEOUT, World};

/// What a run of faults is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where all that is random comes from.
    pub seed: u64,
    /// Messages of each campaign.
    pub messages: usize,
    /// Devices.
    pub devices: usize,
    /// How long a device waits after each send.
    pub delay: Duration,
    /// Campaigns run one after the other until so many servers were killed.
    pub kills: u64,
    /// And at least so many of them: every second one is `at_most_once`.
    pub campaigns: u32,
    /// And until each kind of fault happened so many times; 0: kinds come as they come.
    pub each: u64,
    /// Whether the queue is a Redis Cluster, whose masters die.
    pub cluster: bool,
    /// How long a server's devices stay with it when it no longer answers.
    pub lease: Duration,
    /// How long a campaign may take after the last fault was healed.
    pub patience: Duration,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Faults by kind.
    pub faults: Counts,
    /// The books of all campaigns together.
    pub findings: Findings,
    /// Campaigns.
    pub campaigns: u32,
}

impl Outcome {
    /// Servers that were killed.
    pub fn kills(&self) -> u64 {
        self.faults.iter().filter(|(kind, _)| is_kill(kind)).map(|(_, n)| n).sum()
    }

    /// Whether there were as many faults as the plan wants.
    fn is_enough(&self, plan: &Plan) -> bool {
        let each =
            || faults::kinds(plan).into_iter().all(|kind| self.faults.get(kind).copied().unwrap_or(0) >= plan.each);
        self.campaigns >= plan.campaigns.max(1) && self.kills() >= plan.kills && each()
    }

    fn end_campaign(&mut self, policy: Policy, found: Findings) {
        let messages = found.messages;
        self.findings.add(found);
        self.campaigns += 1;
        println!(
            "campaign {}: {messages} messages, {policy:?}; {} kills and {} other faults so far, {} violations",
            self.campaigns,
            self.kills(),
            self.faults.values().sum::<u64>() - self.kills(),
            self.findings.violations.len()
        );
    }
}

/// Runs campaigns under faults until there were enough of them, or the books of a campaign are wrong.
///
/// # Panics
/// When the servers cannot be started at all, or a campaign does not end although everything is healed.
pub async fn run(plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let world = World::start(plan).await;
    while !outcome.is_enough(plan) && outcome.findings.violations.is_empty() {
        let policy = Policy::of(outcome.campaigns);
        let seed = plan.seed.wrapping_add(u64::from(outcome.campaigns));
        // Before there is a campaign: making and launching one must hold, too.
        let storm = Storm::begin(world.clone(), plan, seed, &outcome.faults);
        let number = outcome.campaigns;
        let campaign = world.driver.launch(plan, policy, &world.sink.url(), ATTEMPT_TIMEOUT, number).await;
        let done = world.driver.sent_share(&campaign, 0.9, Duration::from_secs(3600)).await;
        for (kind, n) in storm.end().await {
            *outcome.faults.entry(kind).or_default() += n;
        }
        assert!(done, "the campaign did not come to nine tenths within an hour");
        let rows = world.driver.completed(&campaign, plan.patience).await;
        let found = books::check(&world.sink, &world.driver, plan, policy, &rows).await;
        if !found.violations.is_empty() {
            world.keep_logs(plan.seed);
        }
        outcome.end_campaign(policy, found);
    }
    outcome
}

/// Kills one of the servers under load again and again, with nothing else disturbed; how long after each kill each device that
/// it had was sending again.
///
/// # Panics
/// When the servers cannot be started, or a campaign does not go on.
pub async fn recovery(plan: &Plan) -> Vec<Duration> {
    let world = World::start(plan).await;
    world.sink.be_kind(true);
    // Only what is being sent is leased: with quick answers a server has hardly a device to lose.
    world.sink.answer_after(Duration::from_millis(300));
    let campaign = world.driver.launch(plan, Policy::AtLeastOnce, &world.sink.url(), ATTEMPT_TIMEOUT, 0).await;
    let mut times = Vec::new();
    for kill in 0..plan.kills {
        let node = &world.nodes[usize::try_from(kill).unwrap_or(0) % world.nodes.len()];
        // Long enough for every device to have sent, and for the servers to share the devices again.
        tokio::time::sleep(plan.delay * 3 + Duration::from_secs(2)).await;
        node.kill();
        let killed_at = tokio::time::Instant::now();
        tokio::time::sleep(plan.lease + plan.delay + Duration::from_secs(5)).await;
        let arrivals = world.sink.arrivals();
        for sends in sink::Sink::by_device(&arrivals).values() {
            let after = sends.partition_point(|a| a.at < killed_at);
            let (Some(before), Some(next)) = (sends[..after].last(), sends.get(after)) else { continue };
            // Others had it, or nobody had: it kept its pace.
            if next.at - before.at > plan.delay + Duration::from_secs(1) {
                times.push(next.at - killed_at);
            }
        }
        node.restart().await;
    }
    world.driver.completed(&campaign, plan.patience).await;
    times.sort_unstable();
    times
}

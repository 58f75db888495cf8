//! Faults on purpose: three servers, the database, the queue and a sink that writes everything down, with processes killed,
//! stopped and cut off from each other while campaigns run; then the books are checked.
//!
//! Everything random comes from one seed. What a seed fixes is the order of faults and their kinds; the machine's timing
//! stays its own.

pub mod books;
pub mod faults;
pub mod proxy;
pub mod sink;
pub mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chaos::books::{Findings, Policy};
use crate::chaos::faults::Storm;
use crate::chaos::world::World;

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
    /// How long a server's devices stay with it when it no longer answers.
    pub lease: Duration,
    /// How long a campaign may take after the last fault was healed.
    pub patience: Duration,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The books of all campaigns together.
    pub findings: Findings,
    /// Campaigns.
    pub campaigns: u32,
}

impl Outcome {
    /// Servers that were killed.
    pub fn kills(&self) -> u64 {
        self.faults.iter().filter(|(kind, _)| kind.starts_with("kill")).map(|(_, n)| n).sum()
    }
}

/// Runs campaigns under faults until enough servers were killed, and checks the books of each.
///
/// # Panics
/// When the servers cannot be started at all, or a campaign does not end although everything is healed.
pub async fn run(plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let world = World::start(plan).await;
    while outcome.campaigns == 0 || (outcome.kills() < plan.kills && outcome.findings.violations.is_empty()) {
        // Both policies, one after the other: what may come twice, and what must not.
        let policy = if outcome.campaigns.is_multiple_of(2) { Policy::AtLeastOnce } else { Policy::AtMostOnce };
        let campaign = world.launch(plan, policy, outcome.campaigns).await;
        let storm = Storm::begin(world.clone(), plan, plan.seed.wrapping_add(u64::from(outcome.campaigns)));
        let done = world.sent_share(&campaign, 0.9, Duration::from_secs(3600)).await;
        for (kind, n) in storm.end().await {
            *outcome.faults.entry(kind).or_default() += n;
        }
        assert!(done, "the campaign did not come to nine tenths within an hour");
        let rows = world.completed(&campaign, plan.patience).await;
        outcome.findings.add(books::check(&world, plan, policy, &rows).await);
        outcome.campaigns += 1;
        println!(
            "campaign {}: {} messages, {policy:?}, {} kills so far, {} violations",
            outcome.campaigns,
            rows.len(),
            outcome.kills(),
            outcome.findings.violations.len()
        );
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
    let campaign = world.launch(plan, Policy::AtLeastOnce, 0).await;
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
    world.completed(&campaign, plan.patience).await;
    times.sort_unstable();
    times
}

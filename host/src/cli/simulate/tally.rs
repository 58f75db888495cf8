//! What is counted while a regime runs.

use std::time::Duration;

use super::report::Outcome;
use super::world::World;
use crate::cli::bench::pacing::Times;

/// The counts of one regime.
pub struct Tally {
    pub sends: u64,
    pub early: u64,
    pub priority_claims: u64,
    pub priority_inversions: u64,
    pub order_violations: u64,
    pub over_cap: u64,
    pub rounds: u64,
    late: Times,
    by_campaign: Vec<u64>,
    longest_wait: Duration,
    starved: u64,
    /// A wait that is longer starves a device.
    patience: Duration,
}

/// How much longer than a cycle of all devices a wait may be before it counts as starving.
const GRACE: Duration = Duration::from_secs(1);

impl Tally {
    pub fn new(world: &World, workers: u32) -> anyhow::Result<Self> {
        Ok(Self {
            sends: 0,
            early: 0,
            priority_claims: 0,
            priority_inversions: 0,
            order_violations: 0,
            over_cap: 0,
            rounds: 0,
            late: Times::new()?,
            by_campaign: vec![0; world.campaigns.len()],
            longest_wait: Duration::ZERO,
            starved: 0,
            patience: Duration::try_from_secs_f64(world.cycle(workers) * 1.25)? + GRACE,
        })
    }

    /// A device that was due at `due` starts to send at `now`; `paced`: `due` is what its pace allowed.
    pub fn starts(&mut self, now: Duration, due: Duration, paced: bool) {
        if paced {
            self.early += u64::from(now < due);
            self.late.add(now.saturating_sub(due));
        }
        self.waited(now.saturating_sub(due));
    }

    /// A due device waited for so long.
    pub fn waited(&mut self, wait: Duration) {
        self.longest_wait = self.longest_wait.max(wait);
        self.starved += u64::from(wait > self.patience);
    }

    /// A message of this campaign was sent.
    pub fn sent(&mut self, campaign: u16) {
        self.sends += 1;
        if let Some(count) = self.by_campaign.get_mut(usize::from(campaign)) {
            *count += 1;
        }
    }

    /// The result.
    pub fn outcome(self, world: &World, workers: u32, real: Duration) -> Outcome {
        let shares: Vec<f64> = self
            .by_campaign
            .iter()
            .zip(world.entitled(workers))
            .filter(|(_, entitled)| *entitled > 0.0)
            .map(|(sent, entitled)| *sent as f64 / entitled)
            .collect();
        Outcome {
            workers,
            sends: self.sends,
            sends_per_s: self.sends as f64 / world.seconds,
            rounds: self.rounds,
            real_seconds: real.as_secs_f64(),
            early: self.early,
            late_ms: self.late.summary(),
            jain: jain(&shares),
            smallest_share: shares.iter().copied().fold(f64::INFINITY, f64::min),
            largest_share: shares.iter().copied().fold(0.0, f64::max),
            longest_wait_ms: self.longest_wait.as_secs_f64() * 1000.0,
            cycle_ms: world.cycle(workers) * 1000.0,
            starved: self.starved,
            priority_claims: self.priority_claims,
            priority_inversions: self.priority_inversions,
            order_violations: self.order_violations,
            over_cap: self.over_cap,
        }
    }
}

/// Jain's index: 1 when all shares are equal, 1/n when one has all.
fn jain(shares: &[f64]) -> f64 {
    let squares: f64 = shares.iter().map(|s| s * s).sum();
    let sum: f64 = shares.iter().sum();
    if squares > 0.0 { sum * sum / (shares.len() as f64 * squares) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_tells_even_from_uneven() {
        assert_eq!(jain(&[0.5; 7]), 1.0);
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!(jain(&[]), 0.0);
    }
}

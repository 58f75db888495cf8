//! What is counted of a rollout.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Places of a latency histogram: place `n` counts calls of less than `2^n` µs that are not in a lower one.
pub const LATENCIES: usize = 24;

/// What was seen of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SideCounts {
    /// Calls.
    pub calls: u64,
    /// Calls that ended in a crash.
    pub traps: u64,
    /// Calls that ran into the time limit.
    pub deadlines: u64,
    /// Calls that ran into the memory limit.
    pub memory: u64,
    /// Calls with an answer that is not allowed.
    pub invalid_output: u64,
    /// Calls that ended in an error of the plugin's own, or could not be made.
    pub errors: u64,
    /// Attempts that ended with the message sent.
    pub sent: u64,
    /// Attempts that failed, for good or for now.
    pub failed: u64,
    /// Attempts that the provider wanted later.
    pub throttled: u64,
    /// Time that all calls took together, in microseconds.
    pub total_us: u64,
    /// Calls by how long they took.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(ignore)]
    pub latencies: Vec<u64>,
}

impl SideCounts {
    /// Calls that failed.
    pub fn faults(&self) -> u64 {
        self.traps + self.deadlines + self.memory + self.invalid_output + self.errors
    }

    /// Attempts that came to something.
    pub fn attempts(&self) -> u64 {
        self.sent + self.failed + self.throttled
    }

    /// The mean duration of a call, in microseconds.
    pub fn mean_us(&self) -> Option<u64> {
        self.total_us.checked_div(self.calls)
    }

    /// A duration, in microseconds, that 95 of 100 calls stayed below: exact to a power of two.
    pub fn p95_us(&self) -> Option<u64> {
        let all: u64 = self.latencies.iter().sum();
        let mut left = all - all / 20;
        for (place, count) in self.latencies.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 && all > 0 {
                return Some(1 << place);
            }
        }
        None
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.calls, other.calls),
            (&mut self.traps, other.traps),
            (&mut self.deadlines, other.deadlines),
            (&mut self.memory, other.memory),
            (&mut self.invalid_output, other.invalid_output),
            (&mut self.errors, other.errors),
            (&mut self.sent, other.sent),
            (&mut self.failed, other.failed),
            (&mut self.throttled, other.throttled),
            (&mut self.total_us, other.total_us),
        ] {
            *sum += more;
        }
        if self.latencies.len() < other.latencies.len() {
            self.latencies.resize(other.latencies.len(), 0);
        }
        for (sum, more) in self.latencies.iter_mut().zip(&other.latencies) {
            *sum += more;
        }
    }
}

/// What shadow calls came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ShadowCounts {
    /// Both versions answered alike.
    pub same: u64,
    /// They answered differently.
    pub different: u64,
    /// The candidate did not answer.
    pub failed: u64,
    /// The call was not made, because too many were waiting.
    pub dropped: u64,
}

/// What was seen of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Of the version that is tried.
    pub candidate: SideCounts,
    /// Of the version that it is tried against.
    pub stable: SideCounts,
    /// Of shadow calls.
    pub shadow: ShadowCounts,
}

impl Counts {
    /// Adds what another server saw.
    pub fn add(&mut self, other: &Self) {
        self.candidate.add(&other.candidate);
        self.stable.add(&other.stable);
        self.shadow.same += other.shadow.same;
        self.shadow.different += other.shadow.different;
        self.shadow.failed += other.shadow.failed;
        self.shadow.dropped += other.shadow.dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_percentiles() {
        let side = |latencies: &[u64]| SideCounts {
            calls: latencies.iter().sum(),
            sent: 2,
            total_us: 100,
            latencies: latencies.to_vec(),
            ..SideCounts::default()
        };
        let mut sum = Counts { candidate: side(&[0, 90]), ..Counts::default() };
        sum.add(&Counts { candidate: side(&[0, 0, 5, 5]), ..Counts::default() });
        assert_eq!((sum.candidate.calls, sum.candidate.sent, sum.candidate.mean_us()), (100, 4, Some(2)));
        assert_eq!(sum.candidate.p95_us(), Some(4), "ninety below 2 µs, five below 4, five below 8");
        assert_eq!(SideCounts::default().p95_us(), None);
        let text = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), sum);
    }
}

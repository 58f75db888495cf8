//! What devices were asked to wait, and how well they kept to it.

use std::str::FromStr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The store and the queue keep whole milliseconds: a gap that is short by less is not early.
const GRAIN: Duration = Duration::from_millis(1);
/// Longest time that the histograms tell apart from longer ones: a day, in microseconds.
const LONGEST_US: u64 = 24 * 60 * 60 * 1_000_000;

/// The delay a device was asked to keep between two sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Shortest.
    pub min: Duration,
    /// Longest.
    pub max: Duration,
}

impl FromStr for Asked {
    type Err = &'static str;

    /// Reads `500..1500`, or `500` for a delay that is always the same; milliseconds.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let ms = |t: &str| t.trim().parse().map(Duration::from_millis).map_err(|_| "give MIN..MAX in milliseconds");
        let asked = Self { min: ms(min)?, max: ms(max)? };
        if asked.min > asked.max { Err("MIN must not be larger than MAX") } else { Ok(asked) }
    }
}

/// Times gathered into percentiles.
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_US, 3)?))
    }

    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The percentiles.
    pub fn summary(&self) -> Summary {
        // Microseconds stay far below what a double holds exactly.
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |q: f64| ms(self.0.value_at_quantile(q));
        Summary { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: ms(self.0.max()) }
    }
}

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median.
    pub p50: f64,
    /// One in twenty is longer.
    pub p95: f64,
    /// One in a hundred is longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// How devices kept to what was asked: gaps that were too short are counted, the rest is measured by how much they
/// were longer than the longest that was asked.
pub struct Pacing {
    asked: Asked,
    late: Times,
    early: u64,
}

impl Pacing {
    /// Nothing measured yet.
    pub fn new(asked: Asked) -> anyhow::Result<Self> {
        Ok(Self { asked, late: Times::new()?, early: 0 })
    }

    /// Adds the gap between two sends of one device.
    pub fn add(&mut self, gap: Duration) {
        if gap + GRAIN < self.asked.min {
            self.early += 1;
        }
        self.late.add(gap.saturating_sub(self.asked.max));
    }

    /// Gaps shorter than asked.
    pub fn early(&self) -> u64 {
        self.early
    }

    /// By how much gaps were longer than asked.
    pub fn error(&self) -> Summary {
        self.late.summary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_delay_is_a_range_or_a_number() {
        assert_eq!("500..1500".parse::<Asked>(), Ok(Asked { min: ms(500), max: ms(1500) }));
        assert_eq!("0".parse::<Asked>(), Ok(Asked { min: ms(0), max: ms(0) }));
        for bad in ["", "5..", "a..b", "9..3", "-1..3"] {
            assert!(bad.parse::<Asked>().is_err(), "{bad}");
        }
    }

    #[test]
    fn early_and_late_gaps_are_told_apart() {
        let mut pacing = Pacing::new(Asked { min: ms(100), max: ms(200) }).unwrap();
        for gap in [98, 99, 150, 200, 260] {
            pacing.add(ms(gap));
        }
        assert_eq!(pacing.early(), 1);
        let error = pacing.error();
        assert!(error.p50 <= 0.001 && (59.9..60.1).contains(&error.max), "{error:?}");
    }
}

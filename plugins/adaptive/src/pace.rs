//! How the pace follows what the sends come to.

use serde::Deserialize;

/// The configuration.
#[derive(Deserialize)]
pub struct Adaptive {
    /// The shortest time between two messages.
    pub min_ms: f64,
    /// The longest one.
    pub max_ms: f64,
    /// Where a device begins; the shortest when absent.
    pub start_ms: Option<f64>,
    /// What a success multiplies the time with.
    #[serde(default = "speed_up")]
    pub speed_up: f64,
    /// What a failure or a throttled send multiplies the time with.
    #[serde(default = "slow_down")]
    pub slow_down: f64,
    /// How many failures in a row say nothing of the device.
    #[serde(default = "tolerated")]
    pub tolerated_failures: u32,
    /// How much the time varies, as a share of it.
    #[serde(default = "jitter")]
    pub jitter: f64,
}

const fn speed_up() -> f64 {
    0.95
}

const fn slow_down() -> f64 {
    2.0
}

const fn tolerated() -> u32 {
    1
}

const fn jitter() -> f64 {
    0.1
}

/// What a device without any pace slows down from, in milliseconds: nothing times two is nothing.
const SLOWEST_START_MS: f64 = 50.0;

/// What a send says about the pace.
#[derive(Debug, Clone, Copy)]
pub enum Sign {
    /// There was none.
    Nothing,
    /// It was taken.
    Success,
    /// The provider asks to slow down.
    Throttled,
    /// It failed, now or for good, after this many before it, itself counted.
    Failure {
        /// From 1.
        in_a_row: u32,
    },
}

impl Adaptive {
    /// What of it does not fit the rest.
    pub fn misfit(&self) -> Option<&'static str> {
        if !(0.0 <= self.min_ms && self.min_ms <= self.max_ms && self.max_ms.is_finite()) {
            return Some("min_ms must be 0 or more and not greater than max_ms");
        }
        if !self.start_ms.is_none_or(|start| (self.min_ms..=self.max_ms).contains(&start)) {
            return Some("start_ms must be from min_ms to max_ms");
        }
        if !(0.0 < self.speed_up && self.speed_up <= 1.0 && self.slow_down >= 1.0 && self.slow_down.is_finite()) {
            return Some("speed_up must be more than 0 and at most 1, and slow_down 1 or more");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some("jitter must be from 0 to 1");
        }
        None
    }

    /// The pace that was kept; where a device begins, when there is none.
    pub fn remembered_ms(&self, kept: Option<f64>) -> f64 {
        // The bounds may have changed since.
        kept.or(self.start_ms).unwrap_or(self.min_ms).clamp(self.min_ms, self.max_ms)
    }

    /// The pace after a send.
    pub fn pace_ms(&self, pace_ms: f64, sign: Sign) -> f64 {
        let next = match sign {
            Sign::Nothing => pace_ms,
            Sign::Success => pace_ms * self.speed_up,
            Sign::Failure { in_a_row } if in_a_row <= self.tolerated_failures => pace_ms,
            Sign::Failure { .. } | Sign::Throttled => pace_ms.max(SLOWEST_START_MS) * self.slow_down,
        };
        next.clamp(self.min_ms, self.max_ms)
    }

    /// How long to wait at a pace. `dice` is from 0 to 1.
    pub fn delay_ms(&self, pace_ms: f64, dice: f64) -> f64 {
        (pace_ms * (1.0 + self.jitter * (2.0 * dice - 1.0))).clamp(self.min_ms, self.max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Adaptive {
        serde_json::from_str(text).unwrap()
    }

    const BOUNDS: &str = r#"{"min_ms": 1000, "max_ms": 60000, "start_ms": 10000}"#;

    #[test]
    fn success_speeds_up_to_the_shortest_and_trouble_slows_down_to_the_longest() {
        let config = config(BOUNDS);
        let mut pace = config.remembered_ms(None);
        assert_eq!(pace, 10_000.0);
        for _ in 0..100 {
            let next = config.pace_ms(pace, Sign::Success);
            assert!(next < pace || next == 1000.0);
            pace = next;
        }
        assert_eq!(pace, 1000.0);
        let mut slower = Vec::new();
        for _ in 0..7 {
            pace = config.pace_ms(pace, Sign::Throttled);
            slower.push(pace);
        }
        assert_eq!(slower, [2000.0, 4000.0, 8000.0, 16_000.0, 32_000.0, 60_000.0, 60_000.0]);
    }

    #[test]
    fn one_failure_is_the_recipients_and_more_are_the_devices() {
        let config = config(BOUNDS);
        assert_eq!(config.pace_ms(10_000.0, Sign::Failure { in_a_row: 1 }), 10_000.0);
        assert_eq!(config.pace_ms(10_000.0, Sign::Failure { in_a_row: 2 }), 20_000.0);
        assert_eq!(config.pace_ms(10_000.0, Sign::Nothing), 10_000.0);
    }

    #[test]
    fn it_settles_where_the_provider_throttles() {
        // A provider that takes a message every 3 seconds and throttles what comes sooner.
        let config = config(r#"{"min_ms": 100, "max_ms": 60000, "jitter": 0}"#);
        let (mut pace, mut throttled, mut waited) = (config.remembered_ms(None), 0, 0.0);
        for _ in 0..2000 {
            let sign = if pace < 3000.0 { Sign::Throttled } else { Sign::Success };
            throttled += u32::from(matches!(sign, Sign::Throttled));
            pace = config.pace_ms(pace, sign);
            waited += pace;
        }
        assert!((3000.0..6000.0).contains(&(waited / 2000.0)), "{waited}");
        assert!((100..250).contains(&throttled), "one in about fourteen: {throttled}");
    }

    #[test]
    fn a_pace_of_nothing_can_slow_down_and_one_outside_the_bounds_is_brought_back() {
        let config = config(r#"{"min_ms": 0, "max_ms": 60000}"#);
        assert_eq!(config.remembered_ms(None), 0.0);
        assert_eq!(config.pace_ms(0.0, Sign::Throttled), 100.0);
        assert_eq!(config.remembered_ms(Some(-1.0)), 0.0);
        assert_eq!(config.remembered_ms(Some(70_000.0)), 60_000.0);
        assert_eq!(config.remembered_ms(Some(1234.5)), 1234.5);
    }

    #[test]
    fn a_delay_varies_within_its_bounds() {
        let config = config(r#"{"min_ms": 1000, "max_ms": 60000, "jitter": 0.5}"#);
        assert_eq!((config.delay_ms(2000.0, 0.0), config.delay_ms(2000.0, 1.0)), (1000.0, 3000.0));
        assert_eq!((config.delay_ms(1000.0, 0.0), config.delay_ms(60_000.0, 1.0)), (1000.0, 60_000.0));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (bad, named) in [
            (r#"{"min_ms": 5, "max_ms": 4}"#, "min_ms"),
            (r#"{"min_ms": 5, "max_ms": 9, "start_ms": 10}"#, "start_ms"),
            (r#"{"min_ms": 5, "max_ms": 9, "speed_up": 0}"#, "speed_up"),
            (r#"{"min_ms": 5, "max_ms": 9, "slow_down": 0.5}"#, "slow_down"),
            (r#"{"min_ms": 5, "max_ms": 9, "jitter": -1}"#, "jitter"),
        ] {
            let why = serde_json::from_str::<Adaptive>(bad).unwrap().misfit().unwrap();
            assert!(why.contains(named), "{why}");
        }
    }
}

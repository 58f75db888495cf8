//! How many messages on which day, and how far apart.

use serde::Deserialize;

const HOUR_MS: f64 = 3_600_000.0;
const DAY_MS: f64 = 24.0 * HOUR_MS;

/// The configuration.
#[derive(Deserialize)]
pub struct Curve {
    /// Messages on the first day.
    pub start_per_day: f64,
    /// Messages a day from the end of the ramp on.
    pub full_per_day: f64,
    /// How many days it takes.
    pub ramp_days: f64,
    /// Over how many hours of a day they are spread.
    #[serde(default = "whole_day")]
    pub active_hours: f64,
    /// How much the time between two messages varies, as a share of it.
    #[serde(default = "jitter")]
    pub jitter: f64,
    /// The shortest time between two messages.
    #[serde(default = "second")]
    pub min_ms: f64,
    /// The longest one on the same day.
    #[serde(default = "day")]
    pub max_ms: f64,
}

const fn whole_day() -> f64 {
    24.0
}

const fn jitter() -> f64 {
    0.2
}

const fn second() -> f64 {
    1000.0
}

const fn day() -> f64 {
    DAY_MS
}

impl Curve {
    /// What of it does not fit the rest.
    pub fn misfit(&self) -> Option<&'static str> {
        if !(1.0 <= self.start_per_day && self.start_per_day <= self.full_per_day && self.full_per_day.is_finite()) {
            return Some("start_per_day must be 1 or more and not greater than full_per_day");
        }
        if !(0.0 <= self.min_ms && self.min_ms <= self.max_ms && self.max_ms.is_finite()) {
            return Some("min_ms must be 0 or more and not greater than max_ms");
        }
        if !(self.ramp_days >= 0.0 && self.active_hours > 0.0 && self.active_hours <= 24.0) {
            return Some("ramp_days must be 0 or more, and active_hours more than 0 and at most 24");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some("jitter must be from 0 to 1");
        }
        None
    }

    /// How many messages a device may send on a day of its life, from 0: each day by the same share more than the day before.
    pub fn per_day(&self, age_days: u32) -> f64 {
        let age = f64::from(age_days);
        if age >= self.ramp_days {
            return self.full_per_day.floor();
        }
        let growth = (self.full_per_day / self.start_per_day).powf(age / self.ramp_days);
        (self.start_per_day * growth).floor().max(1.0)
    }

    /// How long to wait after a send. `dice` is from 0 to 1.
    pub fn delay_ms(&self, age_days: u32, sent_today: u32, now_ms: f64, dice: f64) -> f64 {
        let apart = self.apart_ms(age_days, dice);
        if f64::from(sent_today) < self.per_day(age_days) {
            return apart;
        }
        // The host counts days in UTC. Devices that were done today do not all begin at midnight.
        let to_midnight = DAY_MS - now_ms.rem_euclid(DAY_MS);
        let tomorrow = self.apart_ms(age_days.saturating_add(1), dice) * dice;
        (to_midnight + tomorrow).max(apart).min(DAY_MS)
    }

    /// The time between two messages of a day.
    fn apart_ms(&self, age_days: u32, dice: f64) -> f64 {
        let even = self.active_hours * HOUR_MS / self.per_day(age_days);
        (even * (1.0 + self.jitter * (2.0 * dice - 1.0))).clamp(self.min_ms, self.max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Curve {
        serde_json::from_str(text).unwrap()
    }

    /// How many messages a device that never runs out of them sends on each of its days.
    fn sent(config: &Curve, days: u32) -> Vec<u32> {
        // It starts at noon: the days are the calendar's, as the host counts them.
        let mut now = DAY_MS / 2.0;
        let mut per_day = vec![0];
        let mut random = carillon_plugin::Random::new(7);
        while now < f64::from(days) * DAY_MS {
            let day = (now / DAY_MS) as usize;
            per_day.resize(day + 1, 0);
            per_day[day] += 1;
            now += config.delay_ms(day as u32, per_day[day], now, random.unit());
        }
        per_day
    }

    #[test]
    fn each_day_has_more_than_the_one_before_and_never_more_than_its_limit() {
        let config = config(r#"{"start_per_day": 10, "full_per_day": 1000, "ramp_days": 20}"#);
        let sent = sent(&config, 30);
        for (day, sent) in sent.iter().enumerate() {
            let limit = config.per_day(day as u32);
            assert!(f64::from(*sent) <= limit, "day {day}: {sent} of {limit}");
            // All of it but for what the first half day and the late start of each day cost.
            assert!(day == 0 || f64::from(*sent) > 0.8 * limit, "day {day}: {sent} of {limit}");
        }
        assert!(sent[1..20].is_sorted(), "{sent:?}");
        let steps: Vec<f64> = (0..20).map(|day| config.per_day(day + 1) / config.per_day(day)).collect();
        assert!(steps.iter().all(|step| (1.1..1.4).contains(step)), "smoothly: {steps:?}");
        assert_eq!((config.per_day(0), config.per_day(10), config.per_day(20)), (10.0, 100.0, 1000.0));
        assert_eq!(config.per_day(4_000_000_000), 1000.0);
    }

    #[test]
    fn a_day_that_is_full_is_waited_for_and_the_next_begins_spread_out() {
        let config =
            config(r#"{"start_per_day": 10, "full_per_day": 10, "ramp_days": 0, "active_hours": 10, "jitter": 0}"#);
        let evening = 18.0 * HOUR_MS;
        assert_eq!(config.delay_ms(3, 9, evening, 0.5), HOUR_MS);
        assert_eq!(config.delay_ms(3, 10, evening, 0.0), 6.0 * HOUR_MS);
        assert_eq!(config.delay_ms(3, 10, evening, 0.5), 6.5 * HOUR_MS);
        assert_eq!(config.delay_ms(3, 4_000_000_000, 0.0, 1.0), DAY_MS);
    }

    #[test]
    fn the_time_between_two_messages_keeps_to_its_bounds() {
        let bounded =
            config(r#"{"start_per_day": 1, "full_per_day": 1e6, "ramp_days": 10, "min_ms": 500, "max_ms": 60000}"#);
        for day in 0..12 {
            for dice in [0.0, 0.3, 0.999] {
                assert!((500.0..=60_000.0).contains(&bounded.delay_ms(day, 0, 0.0, dice)));
            }
        }
        let varied = config(r#"{"start_per_day": 24, "full_per_day": 24, "ramp_days": 0, "jitter": 0.5}"#);
        assert_eq!((varied.delay_ms(0, 0, 0.0, 0.0), varied.delay_ms(0, 0, 0.0, 1.0)), (0.5 * HOUR_MS, 1.5 * HOUR_MS));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (bad, named) in [
            (r#"{"start_per_day": 0, "full_per_day": 10, "ramp_days": 1}"#, "start_per_day"),
            (r#"{"start_per_day": 20, "full_per_day": 10, "ramp_days": 1}"#, "full_per_day"),
            (r#"{"start_per_day": 1, "full_per_day": 10, "ramp_days": -1}"#, "ramp_days"),
            (r#"{"start_per_day": 1, "full_per_day": 10, "ramp_days": 1, "min_ms": 5, "max_ms": 4}"#, "min_ms"),
            (r#"{"start_per_day": 1, "full_per_day": 10, "ramp_days": 1, "active_hours": 0}"#, "active_hours"),
            (r#"{"start_per_day": 1, "full_per_day": 10, "ramp_days": 1, "jitter": 2}"#, "jitter"),
        ] {
            let why = serde_json::from_str::<Curve>(bad).unwrap().misfit().unwrap();
            assert!(why.contains(named), "{why}");
        }
    }
}

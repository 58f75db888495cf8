//! Devices: what sends, its limits, and its pace. No I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::{BadField, PluginUse, check_name};
use crate::clock::{Clock, Time};
use crate::id::{DeviceId, DeviceNo, RunKey};
use crate::json::object;

/// A device as a user describes it: an element of `POST /api/v1/devices`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its id: 1 to 64 of `A-Z a-z 0-9 . _ : @ + -`.
    pub id: DeviceId,
    /// A name for people; the id when absent.
    #[serde(default)]
    pub name: String,
    /// The channel: `sms`, `whatsapp`, `telegram`, `push`, `email`, or a word of your own.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub channel: String,
    /// Tags, by which campaigns choose devices; each 1 to 64 letters, digits, - or _.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub tags: Vec<String>,
    /// The most it may send.
    #[serde(default, deserialize_with = "object")]
    pub caps: Caps,
    /// What its sender plugin needs to know about it: number, account, address, secret names. Any JSON object that
    /// the sender's adapter schema accepts.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub adapter: serde_json::Value,
    /// The provider account that it belongs to: an account that is blocked or throttled stops all its devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The sender used when a campaign names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<PluginUse>,
    /// A disabled device sends nothing; its waiting messages move to other devices of their campaign's pool.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn empty_object() -> serde_json::Value {
    serde_json::json!({})
}

const fn yes() -> bool {
    true
}

/// The most a device may send, whatever campaigns and plugins ask for. `null` means no limit. The periods are
/// calendar minutes and hours, and days in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    /// Sends a minute.
    #[schema(minimum = 1)]
    pub per_minute: Option<u32>,
    /// Sends an hour.
    #[schema(minimum = 1)]
    pub per_hour: Option<u32>,
    /// Sends a day.
    #[schema(minimum = 1)]
    pub per_day: Option<u32>,
}

impl Caps {
    /// Whether there is any limit.
    pub const fn any(&self) -> bool {
        self.per_minute.is_some() || self.per_hour.is_some() || self.per_day.is_some()
    }
}

impl DeviceSpec {
    /// Everything that can be checked without looking anything up.
    pub fn problems(&self) -> Vec<BadField> {
        let mut out = Vec::new();
        if !self.name.is_empty() {
            check_name("name", &self.name, &mut out);
        }
        if !is_word(&self.channel) {
            out.push(BadField::new("channel", "give 1 to 64 letters, digits, - or _"));
        }
        if self.tags.len() > 64 || !self.tags.iter().all(|t| is_word(t)) {
            out.push(BadField::new("tags", "give at most 64 tags of 1 to 64 letters, digits, - or _"));
        }
        if !self.adapter.is_object() {
            out.push(BadField::new("adapter", "give a JSON object"));
        }
        for (field, cap) in
            [("per_minute", self.caps.per_minute), ("per_hour", self.caps.per_hour), ("per_day", self.caps.per_day)]
        {
            if cap == Some(0) {
                out.push(BadField::new(
                    format!("caps.{field}"),
                    "give 1 or more, or null for no limit (to stop a device set enabled to false)",
                ));
            }
        }
        out
    }
}

/// Whether a text is a word that tags, channels, audiences and plugins may be called.
pub fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A device as the store keeps it.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its number inside the store.
    pub no: DeviceNo,
    /// What the user said of it.
    pub spec: DeviceSpec,
    /// Why it is on hold until an operator lifts it (`account-blocked`, say).
    pub held: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

impl Device {
    /// Whether it may send at all.
    pub fn is_available(&self) -> bool {
        self.spec.enabled && self.held.is_none()
    }
}

/// What the last send of a device came to, as delay strategies see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastOutcome {
    /// It has not sent.
    #[default]
    None,
    /// Accepted.
    Sent,
    /// To be tried again.
    Retried,
    /// Failed for good.
    Failed,
    /// The provider asked to slow down.
    Throttled,
}

/// The memory of a device's limiter: travels with its lease in the queue, as JSON, and is saved in the store. It does so
/// with each send, so its names are short and what is zero is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// The calendar minute (ms since the epoch / 60,000) that `in_minute` counts.
    #[serde(rename = "m", alias = "minute", skip_serializing_if = "is_default")]
    pub minute: i64,
    /// Sends in that minute.
    #[serde(rename = "im", alias = "in_minute", skip_serializing_if = "is_default")]
    pub in_minute: u32,
    /// The hour that `in_hour` counts.
    #[serde(rename = "h", alias = "hour", skip_serializing_if = "is_default")]
    pub hour: i64,
    /// Sends in that hour.
    #[serde(rename = "ih", alias = "in_hour", skip_serializing_if = "is_default")]
    pub in_hour: u32,
    /// The day (UTC) that `in_day` counts.
    #[serde(rename = "d", alias = "day", skip_serializing_if = "is_default")]
    pub day: i64,
    /// Sends on that day.
    #[serde(rename = "id", alias = "in_day", skip_serializing_if = "is_default")]
    pub in_day: u32,
    /// The day (UTC) of the device's first send.
    #[serde(rename = "f", alias = "first_day", skip_serializing_if = "is_default")]
    pub first_day: Option<i64>,
    /// Failures since the last success.
    #[serde(rename = "x", alias = "failures_in_a_row", skip_serializing_if = "is_default")]
    pub failures_in_a_row: u32,
    /// The last delay, in milliseconds.
    #[serde(rename = "w", alias = "last_delay_ms", skip_serializing_if = "is_default")]
    pub last_delay_ms: u64,
    /// What the last send came to.
    #[serde(rename = "o", alias = "last_outcome", skip_serializing_if = "is_default")]
    pub last_outcome: LastOutcome,
    /// Whether the last send said that the device is down: its sender is asked before it is given a message again.
    #[serde(rename = "n", skip_serializing_if = "is_default")]
    pub down: bool,
    /// What each run's delay strategy keeps for this device; at most [`Pace::MAX_STATES`], the newest.
    #[serde(rename = "s", alias = "states", skip_serializing_if = "is_default")]
    pub states: BTreeMap<RunKey, String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

impl Pace {
    /// Delay states kept for a device; those of the runs with the smallest keys go first.
    pub const MAX_STATES: usize = 8;

    /// Parses the saved form; a form that does not parse counts as none, so that a device is never stuck on it.
    pub fn parse(saved: Option<&str>) -> Self {
        saved.and_then(|s| serde_json::from_str(s).ok()).unwrap_or_default()
    }

    /// The saved form.
    pub fn to_saved(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Counts a send at `now`.
    pub fn count(&mut self, now: Time) {
        self.roll(now);
        self.in_minute += 1;
        self.in_hour += 1;
        self.in_day += 1;
        self.first_day.get_or_insert(self.day);
    }

    /// Starts new periods where `now` has left the old ones.
    pub fn roll(&mut self, now: Time) {
        let ms = now.as_ms();
        for (size, period, count) in [
            (MINUTE_MS, &mut self.minute, &mut self.in_minute),
            (HOUR_MS, &mut self.hour, &mut self.in_hour),
            (DAY_MS, &mut self.day, &mut self.in_day),
        ] {
            let current = ms.div_euclid(size);
            if *period != current {
                (*period, *count) = (current, 0);
            }
        }
    }

    /// How long the device's caps make it wait from `now`; zero when they allow a send.
    pub fn capped_for(&self, caps: &Caps, now: Time) -> Duration {
        let mut current = self.clone();
        current.roll(now);
        let until_next = |size: i64| Time::from_ms((now.as_ms().div_euclid(size) + 1) * size).since(now);
        [
            (caps.per_minute, current.in_minute, MINUTE_MS),
            (caps.per_hour, current.in_hour, HOUR_MS),
            (caps.per_day, current.in_day, DAY_MS),
        ]
        .into_iter()
        .filter(|(cap, count, _)| cap.is_some_and(|cap| *count >= cap))
        .map(|(_, _, size)| until_next(size))
        .max()
        .unwrap_or_default()
    }

    /// Days since the device's first send.
    pub fn age_days(&self, now: Time) -> u32 {
        let today = now.as_ms().div_euclid(DAY_MS);
        self.first_day.map_or(0, |first| u32::try_from(today - first).unwrap_or(0))
    }

    /// Keeps a delay strategy's state; an empty one is forgotten.
    pub fn keep_state(&mut self, run: RunKey, state: String) {
        if state.is_empty() {
            self.states.remove(&run);
        } else {
            self.states.insert(run, state);
            while self.states.len() > Self::MAX_STATES {
                let Some(oldest) = self.states.keys().copied().find(|k| *k != run) else { break };
                self.states.remove(&oldest);
            }
        }
    }
}

/// A device's pace to be saved in the store. Saved only over an older token, or the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaceUpdate {
    /// The device.
    pub device: DeviceNo,
    /// The lease under which it was computed.
    pub token: i64,
    /// When the device may send next.
    pub next_at: Time,
    /// [`Pace::to_saved`].
    pub pace: String,
}

/// By how much a message may be begun before its device's saved pace certainly allows it: the queue, which says when in general,
/// counts by a clock of its own, and saved times have the servers' differences added.
pub const PACE_SLACK: Duration = Duration::from_millis(20);

/// A device's saved pace, read when the queue does not know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPace {
    /// When the device may send next.
    pub next_at: Time,
    /// [`Pace::to_saved`].
    pub pace: String,
}

impl SavedPace {
    /// How long the device still waits, never too short by what this server's clock may differ from the one that saved it.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        self.next_at.plus(clock.uncertainty()).since(clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_until_the_period_ends() {
        let mut pace = Pace::default();
        let caps = Caps { per_minute: Some(2), per_hour: Some(3), per_day: None };
        let start = Time::from_ms(10 * HOUR_MS + 15_000);
        assert_eq!(pace.capped_for(&caps, start), Duration::ZERO);
        pace.count(start);
        pace.count(start);
        assert_eq!(pace.capped_for(&caps, start), Duration::from_secs(45));
        let next_minute = start.plus(Duration::from_secs(45));
        assert_eq!(pace.capped_for(&caps, next_minute), Duration::ZERO);
        pace.count(next_minute);
        assert_eq!(pace.capped_for(&caps, next_minute), Duration::from_secs(59 * 60));
    }

    #[test]
    fn the_saved_form_is_short_and_the_long_one_is_still_read() {
        let mut pace = Pace { last_delay_ms: 10_000, last_outcome: LastOutcome::Sent, ..Pace::default() };
        pace.count(Time::from_ms(1_900_000_000_000));
        let saved = pace.to_saved();
        assert!(saved.len() <= 90, "{saved}");
        assert_eq!(Pace::parse(Some(&saved)), pace);
        let long = r#"{"minute":31666666,"in_minute":1,"hour":527777,"in_hour":1,"day":21990,"in_day":1,"first_day":21990,
            "failures_in_a_row":0,"last_delay_ms":10000,"last_outcome":"sent","states":{}}"#;
        assert_eq!(Pace::parse(Some(long)), pace);
        assert_eq!(Pace::default().to_saved(), "{}");
        let down = Pace { down: true, ..Pace::default() };
        assert_eq!(Pace::parse(Some(&down.to_saved())), down, "travels with the device from lease to lease");
    }

    #[test]
    fn states_are_bounded_and_the_newest_stays() {
        let mut pace = Pace::default();
        for n in (0..20).rev() {
            pace.keep_state(RunKey(RunKey::MIN + n), "s".into());
        }
        assert_eq!(pace.states.len(), Pace::MAX_STATES);
        assert!(pace.states.contains_key(&RunKey(RunKey::MIN)));
        assert_eq!(Pace::parse(Some(&pace.to_saved())), pace);
        assert_eq!(Pace::parse(Some("broken")), Pace::default());
    }
}

//! Sending windows: the hours and days in which messages may leave, in the campaign's zone or in the recipient's.

use std::time::Duration;

use jiff::civil::{DateTime, Time as CivilTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan, ZonedDateTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::BadField;
use crate::clock::Time;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

/// When messages may be sent. `{"from":"09:00","to":"20:00","days":["mon","tue"],"zone":"Europe/Rome"}`; a window
/// whose `from` is after its `to` passes midnight and belongs to the day it began on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendingWindow {
    /// Local time of day, `HH:MM`, from when messages may be sent.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    pub from: String,
    /// Local time of day, `HH:MM`, until when; equal to `from` means the whole day.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    pub to: String,
    /// The days on which a window begins; every day when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub days: Option<Vec<Day>>,
    /// IANA zone of the campaign, such as `Europe/Rome`.
    #[serde(default = "utc")]
    pub zone: String,
    /// Whether the recipient's own zone is used where it is known.
    #[serde(default)]
    pub recipient_zone: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // Seven names that say all there is to say.
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl From<Weekday> for Day {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
}

impl SendingWindow {
    /// Adds every problem of the window; `at` is its path in the specification.
    pub fn problems(&self, at: &str, out: &mut Vec<BadField>) {
        for (field, value) in [("from", &self.from), ("to", &self.to)] {
            if clock_time(value).is_none() {
                out.push(BadField::new(format!("{at}.{field}"), "give a local time of day as HH:MM"));
            }
        }
        if self.days.as_ref().is_some_and(Vec::is_empty) {
            out.push(BadField::new(format!("{at}.days"), "name at least one day, or leave it out for every day"));
        }
        if TimeZone::get(&self.zone).is_err() {
            out.push(BadField::new(format!("{at}.zone"), "give an IANA zone such as Europe/Rome"));
        }
    }

    /// How long until the window is open, zero when it is; `recipient_zone` is the recipient's zone where known.
    /// Across daylight-saving changes a local time that does not exist counts as the moment at which the clocks jump, and one
    /// that comes twice counts the first time; a window that lies within the jump is left out on that day.
    pub fn opens_in(&self, now: Time, recipient_zone: Option<&str>) -> Duration {
        let zone = recipient_zone
            .filter(|_| self.recipient_zone)
            .and_then(|z| TimeZone::get(z).ok())
            .or_else(|| TimeZone::get(&self.zone).ok())
            .unwrap_or(TimeZone::UTC);
        let (Some(from), Some(to)) = (clock_time(&self.from), clock_time(&self.to)) else {
            return Duration::ZERO;
        };
        let local = now.to_timestamp().to_zoned_datetime(zone);
        // Yesterday's window may still be open; one begins within the next eight days whatever the days are.
        for offset in -1..=8 {
            let Some((start, end)) = self.window_on(&local, offset, from, to) else { continue };
            if now < end {
                return start.since(now);
            }
        }
        Duration::ZERO
    }

    /// The window that begins `offset` days from today, when one begins on that day.
    fn window_on(&self, local: &ZonedDateTime, offset: i64, from: CivilTime, to: CivilTime) -> Option<(Time, Time)> {
        let date = local.date().checked_add(offset.days()).ok()?;
        let wanted = |d: &Vec<Day>| d.contains(&Day::from(date.weekday()));
        if !self.days.as_ref().is_none_or(wanted) {
            return None;
        }
        let zone = local.time_zone();
        let end_date = if to <= from { date.tomorrow().ok()? } else { date };
        let start = moment(zone, date.to_datetime(from))?;
        let end = moment(zone, end_date.to_datetime(to))?;
        (start < end).then(|| (start.into(), end.into()))
    }
}

/// When the clocks of a zone show `local`.
fn moment(zone: &TimeZone, local: DateTime) -> Option<Timestamp> {
    let shown = zone.to_ambiguous_timestamp(local);
    match shown.offset() {
        // What is usual otherwise, to move it on by the length of the jump, would open a window later than it says.
        AmbiguousOffset::Gap { .. } => Some(zone.following(shown.earlier().ok()?).next()?.timestamp()),
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => shown.compatible().ok(),
    }
}

fn clock_time(text: &str) -> Option<CivilTime> {
    let (h, m) = text.split_once(':')?;
    if h.len() != 2 || m.len() != 2 {
        return None;
    }
    CivilTime::new(h.parse().ok()?, m.parse().ok()?, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: &str, to: &str, zone: &str) -> SendingWindow {
        SendingWindow { from: from.into(), to: to.into(), days: None, zone: zone.into(), recipient_zone: false }
    }

    fn at(text: &str) -> Time {
        text.parse::<jiff::Timestamp>().unwrap().into()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn opens_and_closes_in_its_zone() {
        let w = window("09:00", "20:00", "Europe/Rome"); // UTC+1 in December
        assert_eq!(w.opens_in(at("2026-12-01T08:00:00Z"), None), Duration::ZERO);
        assert_eq!(w.opens_in(at("2026-12-01T07:00:00Z"), None), HOUR);
        assert_eq!(w.opens_in(at("2026-12-01T19:00:00Z"), None), 13 * HOUR);
    }

    #[test]
    fn passes_midnight_and_knows_its_days() {
        let mut w = window("22:00", "02:00", "UTC");
        assert_eq!(w.opens_in(at("2026-12-01T01:00:00Z"), None), Duration::ZERO);
        assert_eq!(w.opens_in(at("2026-12-01T03:00:00Z"), None), 19 * HOUR);
        w.days = Some(vec![Day::Mon]); // 2026-12-01 is a Tuesday: Monday's window is open until 02:00
        assert_eq!(w.opens_in(at("2026-12-01T01:00:00Z"), None), Duration::ZERO);
        assert_eq!(w.opens_in(at("2026-12-01T22:00:00Z"), None), 6 * 24 * HOUR);
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn open(w: &SendingWindow, text: &str) -> bool {
        w.opens_in(at(text), None) == Duration::ZERO
    }

    #[test]
    fn a_time_that_does_not_exist_is_the_moment_the_clocks_jump() {
        // Rome: at 01:00 UTC 02:00 becomes 03:00.
        let w = window("02:30", "04:00", "Europe/Rome");
        assert_eq!(w.opens_in(at("2027-03-28T00:00:00Z"), None), HOUR);
        assert!(open(&w, "2027-03-28T01:59:00Z") && !open(&w, "2027-03-28T02:00:00Z"));
        let w = window("22:00", "02:30", "Europe/Rome");
        assert!(open(&w, "2027-03-28T00:59:00Z"));
        assert_eq!(w.opens_in(at("2027-03-28T01:00:00Z"), None), 19 * HOUR);
        let w = window("02:30", "03:15", "Europe/Rome");
        assert!(open(&w, "2027-03-28T01:14:00Z") && !open(&w, "2027-03-28T01:15:00Z"));
        // Lord Howe: at 15:30 UTC 02:00 becomes 02:30.
        let w = window("02:15", "04:00", "Australia/Lord_Howe");
        assert_eq!(w.opens_in(at("2026-10-03T15:00:00Z"), None), 30 * MINUTE);
        assert!(open(&w, "2026-10-03T16:59:00Z") && !open(&w, "2026-10-03T17:00:00Z"));
    }

    #[test]
    fn a_window_within_the_jump_is_left_out_on_that_day() {
        let w = window("02:15", "02:45", "Europe/Rome");
        assert_eq!(w.opens_in(at("2027-03-28T00:00:00Z"), None), 24 * HOUR + 15 * MINUTE);
        let w = window("02:05", "02:25", "Australia/Lord_Howe");
        assert_eq!(w.opens_in(at("2026-10-03T15:00:00Z"), None), 24 * HOUR + 5 * MINUTE);
    }

    #[test]
    fn a_time_that_comes_twice_counts_the_first_time() {
        // Rome: at 01:00 UTC 03:00 becomes 02:00.
        let w = window("02:30", "04:00", "Europe/Rome");
        assert_eq!(w.opens_in(at("2026-10-25T00:00:00Z"), None), 30 * MINUTE);
        assert!(open(&w, "2026-10-25T01:10:00Z") && open(&w, "2026-10-25T02:59:00Z"));
        assert!(!open(&w, "2026-10-25T03:00:00Z"));
        let w = window("22:00", "02:30", "Europe/Rome");
        assert!(open(&w, "2026-10-25T00:29:00Z"));
        assert_eq!(w.opens_in(at("2026-10-25T01:15:00Z"), None), 19 * HOUR + 45 * MINUTE, "not open again");
        // Lord Howe: at 15:00 UTC 02:00 becomes 01:30.
        let w = window("01:45", "03:00", "Australia/Lord_Howe");
        assert_eq!(w.opens_in(at("2026-04-04T14:30:00Z"), None), 15 * MINUTE);
        assert!(open(&w, "2026-04-04T15:10:00Z") && !open(&w, "2026-04-04T16:30:00Z"));
    }

    #[test]
    fn a_quiet_night_is_shorter_in_spring_and_longer_in_autumn() {
        for (zone, closes_at, night) in [
            ("Europe/Rome", "2026-12-01T19:00:00Z", 13 * HOUR),
            ("Europe/Rome", "2027-03-27T19:00:00Z", 12 * HOUR),
            ("Europe/Rome", "2026-10-24T18:00:00Z", 14 * HOUR),
            ("Australia/Lord_Howe", "2026-10-03T09:30:00Z", 12 * HOUR + 30 * MINUTE),
            ("Australia/Lord_Howe", "2026-04-04T09:00:00Z", 13 * HOUR + 30 * MINUTE),
        ] {
            let w = window("09:00", "20:00", zone);
            assert!(w.opens_in(at(closes_at).minus(MINUTE), None) == Duration::ZERO);
            assert_eq!(w.opens_in(at(closes_at), None), night, "{zone} {closes_at}");
        }
    }

    /// Where nothing comes twice, a window is open exactly while the clocks on the wall show a time within it.
    #[test]
    fn across_a_jump_a_window_is_open_when_the_clocks_on_the_wall_say_so() {
        for (zone, around) in [
            ("Europe/Rome", "2027-03-28T01:00:00Z"),
            ("America/New_York", "2027-03-14T07:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
            // Midnight itself does not exist.
            ("America/Havana", "2027-03-14T05:00:00Z"),
        ] {
            let tz = TimeZone::get(zone).unwrap();
            for (from, to) in
                [("02:30", "04:00"), ("01:00", "02:20"), ("00:00", "00:00"), ("23:30", "00:30"), ("09:00", "20:00")]
            {
                let w = window(from, to, zone);
                let (f, t) = (clock_time(from).unwrap(), clock_time(to).unwrap());
                for n in 0..600 {
                    let now = at(around).minus(25 * HOUR).plus(5 * MINUTE * n);
                    let shown = now.to_timestamp().to_zoned_datetime(tz.clone()).time();
                    let within = if f < t { f <= shown && shown < t } else { shown >= f || shown < t };
                    assert_eq!(w.opens_in(now, None) == Duration::ZERO, within, "{zone} {from}-{to} at {now}, {shown}");
                }
            }
        }
    }

    #[test]
    fn a_whole_day_has_no_hole_where_the_clocks_change() {
        for (zone, around) in [
            ("America/Havana", "2027-03-14T05:00:00Z"),
            ("America/Havana", "2026-11-01T05:00:00Z"),
            ("Europe/Rome", "2026-10-25T01:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ] {
            let w = window("00:00", "00:00", zone);
            for n in 0..600 {
                let now = at(around).minus(25 * HOUR).plus(5 * MINUTE * n);
                assert_eq!(w.opens_in(now, None), Duration::ZERO, "{zone} at {now}");
            }
        }
    }

    #[test]
    fn a_window_that_the_clock_jumps_over_is_not_there() {
        let w = window("02:30", "03:00", "Europe/Rome"); // neither exists on 2027-03-28
        let wait = w.opens_in(at("2027-03-28T00:00:00Z"), None);
        assert_eq!(w.opens_in(at("2027-03-28T00:00:00Z").plus(wait), None), Duration::ZERO);
        assert_eq!(wait, 24 * HOUR + HOUR / 2);
    }

    #[test]
    fn the_recipients_zone_wins_when_asked() {
        let mut w = window("09:00", "20:00", "UTC");
        w.recipient_zone = true;
        assert_eq!(w.opens_in(at("2026-12-01T01:00:00Z"), Some("Asia/Tokyo")), Duration::ZERO);
        assert_eq!(w.opens_in(at("2026-12-01T01:00:00Z"), Some("nonsense")), 8 * HOUR);
    }

    #[test]
    fn problems_name_the_fields() {
        let w = SendingWindow { days: Some(vec![]), ..window("9:00", "25:00", "Mars/Base") };
        let mut out = Vec::new();
        w.problems("window", &mut out);
        let fields: Vec<_> = out.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["window.from", "window.to", "window.days", "window.zone"]);
    }
}

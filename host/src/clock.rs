//! Time: where "now" comes from, and the one type that carries an instant.
//!
//! Nothing else in the crate asks the operating system for the time, so tests can turn the clock and several
//! servers can agree on one: [`SystemClock`] follows the store's clock (see [`SystemClock::follow`]).

use std::fmt;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant: milliseconds since 1970-01-01T00:00:00Z. On the wire it is an RFC 3339 string in UTC, in SQL a
/// 64-bit integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(i64);

impl Time {
    /// The instant `ms` milliseconds after the Unix epoch.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This instant moved `by` into the future (saturating).
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// This instant moved `by` into the past (saturating).
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same instant as jiff's timestamp, clamped to the years that jiff can hold.
    pub fn to_timestamp(self) -> Timestamp {
        Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }
}

impl From<Timestamp> for Time {
    fn from(t: Timestamp) -> Self {
        Self(t.as_millisecond())
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.to_timestamp())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse::<Timestamp>()
            .map(Time::from)
            .map_err(|_| D::Error::custom("expected an RFC 3339 time with a zone, such as 2026-12-01T09:00:00Z"))
    }
}

fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)))
            .into()
    }
}

impl utoipa::ToSchema for Time {}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock, UTC.
    fn now(&self) -> Time;

    /// Time since an arbitrary start that only grows and keeps growing while the process is stopped: what leases
    /// are measured with.
    fn monotonic(&self) -> Duration;

    /// By how much [`Clock::now`] may differ from the store's clock at most.
    fn uncertainty(&self) -> Duration {
        Duration::ZERO
    }
}

/// A clock that is shared by everything in the process.
pub type SharedClock = Arc<dyn Clock>;

/// Both clocks are read in whole milliseconds.
const GRAIN: Duration = Duration::from_millis(2);
/// How fast two clocks drift apart at most: one part in so many. Crystals are ten times better.
const DRIFT: u32 = 10_000;

/// The operating system's clock, moved by the difference to the store's clock so that all servers of one store
/// agree to within a network round trip, whatever their own clocks say.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    /// Wall time at `start`, as measured then. The wall clock is this plus the monotonic time, so that a step of the
    /// operating system's clock does not reach the engine at all.
    wall_at_start_ms: AtomicI64,
    followed: Mutex<Option<Followed>>,
}

/// What the store's clock was last set by.
#[derive(Debug, Clone, Copy)]
struct Followed {
    /// Half the round trip: the answer may have been given at its very beginning or end.
    error: Duration,
    /// When, on the monotonic clock.
    at: Duration,
}

impl Followed {
    fn error_at(self, now: Duration) -> Duration {
        self.error + now.saturating_sub(self.at) / DRIFT
    }
}

impl SystemClock {
    /// A clock that starts from what the operating system says now.
    #[allow(clippy::disallowed_methods)] // The one place that reads the operating system's clocks.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            wall_at_start_ms: AtomicI64::new(Timestamp::now().as_millisecond()),
            followed: Mutex::default(),
        }
    }

    /// Moves this clock to the store's: `store_now` was read by a call that took `round_trip`. A call that took long says
    /// little, so it only counts when nothing better is known, or when it proves what is known wrong.
    pub fn follow(&self, store_now: Time, round_trip: Duration) {
        let now = self.monotonic();
        let wall_at_start = store_now.plus(round_trip / 2).as_ms().saturating_sub(millis(now));
        let heard = Followed { error: round_trip / 2, at: now };
        let mut followed = self.followed.lock();
        if let Some(before) = *followed {
            let off = wall_at_start.abs_diff(self.wall_at_start_ms.load(Ordering::Relaxed));
            let explained = heard.error + before.error_at(now) + GRAIN;
            if heard.error > before.error_at(now) && Duration::from_millis(off) <= explained {
                return;
            }
        }
        *followed = Some(heard);
        self.wall_at_start_ms.store(wall_at_start, Ordering::Relaxed);
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time(self.wall_at_start_ms.load(Ordering::Relaxed).saturating_add(millis(self.monotonic())))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn uncertainty(&self) -> Duration {
        self.followed.lock().map_or(Duration::ZERO, |followed| followed.error_at(self.monotonic()))
    }
}

/// A clock that moves only when it is told to: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    start: Time,
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Time) -> Self {
        Self { start, elapsed: Mutex::new(Duration::ZERO) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        self.start.plus(*self.elapsed.lock())
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_rfc_3339_string_on_the_wire() {
        let t: Time = serde_json::from_str("\"2026-12-01T10:00:00+01:00\"").unwrap();
        assert_eq!(serde_json::to_string(&t).unwrap(), "\"2026-12-01T09:00:00.000Z\"");
        assert!(serde_json::from_str::<Time>("\"2026-12-01 09:00\"").unwrap_err().to_string().contains("RFC 3339"));
    }

    /// A campaign's start and end are instants: the hour that comes twice is told apart by its offset, and one with the
    /// offset of a zone's other half of the year is still the same instant.
    #[test]
    fn a_time_means_one_instant_across_a_clock_change() {
        let time = |text: &str| serde_json::from_str::<Time>(&format!("\"{text}\"")).unwrap();
        let (first, second) = (time("2026-10-25T02:30:00+02:00"), time("2026-10-25T02:30:00+01:00"));
        assert_eq!(second - first, Duration::from_secs(3600));
        let (first, second) = (time("2026-04-05T01:45:00+11:00"), time("2026-04-05T01:45:00+10:30"));
        assert_eq!(second - first, Duration::from_secs(1800));
        assert_eq!(time("2027-03-28T02:30:00+01:00"), time("2027-03-28T03:30:00+02:00"));
        assert!(
            serde_json::from_str::<Time>("\"2026-10-25T02:30:00\"").is_err(),
            "without an offset nobody knows which"
        );
    }

    #[test]
    fn the_system_clock_follows_the_store() {
        let clock = SystemClock::new();
        clock.follow(Time::from_ms(1_000_000), Duration::from_millis(10));
        let ahead = clock.now().since(Time::from_ms(1_000_005));
        assert!(clock.now() >= Time::from_ms(1_000_005) && ahead < Duration::from_secs(5));
    }

    #[test]
    fn a_slow_answer_moves_the_clock_only_when_it_proves_it_wrong() {
        let clock = SystemClock::new();
        let is_about = |ms: i64| clock.now().as_ms().abs_diff(ms) < 2_000;
        clock.follow(Time::from_ms(1_000_000), Duration::from_millis(2));
        let error = clock.uncertainty();
        assert!(error >= Duration::from_millis(1) && error < Duration::from_millis(100));
        // Within what its round trip leaves open.
        clock.follow(Time::from_ms(980_000), Duration::from_secs(60));
        assert!(is_about(1_000_000), "{}", clock.now());
        // The store's clock was stepped.
        clock.follow(Time::from_ms(5_000_000), Duration::from_secs(60));
        assert!(is_about(5_030_000), "{}", clock.now());
        assert!(clock.uncertainty() >= Duration::from_secs(30));
        clock.follow(Time::from_ms(5_010_000), Duration::from_millis(2));
        assert!(is_about(5_010_000), "a better answer counts: {}", clock.now());
    }
}

//! A time in eight bytes, `None` included: a device of the in-process queue keeps several.

use std::num::NonZeroU64;
use std::time::Duration;

/// An instant of the queue's monotonic clock, in nanoseconds (plus one, so that an option needs no room of its own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(NonZeroU64);

impl Moment {
    /// The clock's zero.
    pub(super) const ZERO: Self = Self(NonZeroU64::MIN);

    /// The instant at `elapsed` since the clock's zero; the last one (after 584 years) when it is later than that.
    pub(super) fn of(elapsed: Duration) -> Self {
        Self::ZERO.plus(elapsed)
    }

    /// This instant moved into the future (saturating).
    pub(super) fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_small_and_exact() {
        assert_eq!(size_of::<Option<Moment>>(), 8);
        let (wait, at) = (Duration::from_nanos(1_500_000_001), Moment::of(Duration::from_secs(7)));
        assert_eq!(at.plus(wait).since(at), wait);
        assert_eq!(at.since(at.plus(wait)), Duration::ZERO);
        assert!(Moment::of(Duration::MAX) > Moment::of(Duration::from_secs(1 << 33)));
    }
}

//! How many requests a second a plugin may make on this server: a bucket of tokens, and an order in which those wait for whom
//! there is none.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The longest that a device is told to wait: a larger rate, or a device whose turn went to another, is seen after that.
const LONGEST: Duration = Duration::from_secs(30);
/// The shortest, which a device's way through the queue takes anyway.
const SHORTEST: Duration = Duration::from_millis(5);

/// Takes as much as is saved up in a second.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    /// Devices that were told to wait and whose time has not come, in tokens.
    waiting: f64,
    at: Instant,
}

/// A plugin's bucket.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Option<Bucket>>);

impl Rate {
    /// Takes one request's token; or how long the device waits before it asks again. Those that wait are spread over the time to
    /// come at the rate that there is, so that they do not come back all at once.
    pub(super) fn take(&self, rate: f64, now: Instant) -> Option<Duration> {
        let mut bucket = self.0.lock();
        let bucket = filled(&mut bucket, rate, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return None;
        }
        let most = rate * LONGEST.as_secs_f64();
        bucket.waiting = (bucket.waiting + 1.0).min(most.max(1.0));
        let turns = bucket.waiting.max(1.0 - bucket.tokens);
        // Behind a queue that is full there is no order.
        let turns = if turns >= most { most * (0.5 + 0.5 * rand::random::<f64>()) } else { turns };
        Some(Duration::try_from_secs_f64(turns / rate).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST))
    }

    /// Counts a request that is made in any case: those that follow wait for it.
    pub(super) fn note(&self, rate: f64, now: Instant) {
        let mut bucket = self.0.lock();
        let bucket = filled(&mut bucket, rate, now);
        bucket.tokens = (bucket.tokens - 1.0).max(-rate * LONGEST.as_secs_f64());
    }
}

fn filled(bucket: &mut Option<Bucket>, rate: f64, now: Instant) -> &mut Bucket {
    let most = rate.max(1.0);
    let bucket = bucket.get_or_insert(Bucket { tokens: most, waiting: 0.0, at: now });
    let came = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
    bucket.tokens = (bucket.tokens + came).min(most);
    bucket.waiting = (bucket.waiting - came).max(0.0);
    bucket.at = now;
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many milliseconds after a moment.
    fn clock() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |ms| start + Duration::from_millis(ms)
    }

    #[test]
    fn those_that_wait_are_spread_at_the_rate() {
        let (rate, at) = (Rate::default(), clock());
        for _ in 0..10 {
            assert_eq!(rate.take(10.0, at(0)), None, "a second's worth is there at the start");
        }
        let waits: Vec<_> = (0..5).map(|_| rate.take(10.0, at(0)).unwrap().as_millis()).collect();
        assert_eq!(waits, [100, 200, 300, 400, 500]);
        for n in 1..=5 {
            assert_eq!(rate.take(10.0, at(n * 101)), None, "each at its time");
        }
        assert!(rate.take(10.0, at(505)).is_some());
    }

    #[test]
    fn a_request_that_was_not_asked_for_is_owed() {
        let (rate, at) = (Rate::default(), clock());
        assert_eq!(rate.take(1.0, at(0)), None);
        rate.note(1.0, at(0));
        rate.note(1.0, at(0));
        assert_eq!(rate.take(1.0, at(0)), Some(Duration::from_secs(3)));
        assert_eq!(rate.take(1.0, at(4_000)), None);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (rate, at) = (Rate::default(), clock());
        let waits: Vec<_> = (0..10_000).filter_map(|_| rate.take(1.0, at(0))).collect();
        assert_eq!(waits.len(), 9_999);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        let early = waits.iter().skip(100).filter(|wait| **wait < LONGEST / 2).count();
        assert_eq!(early, 0, "what does not fit comes back in the second half");
        // A slow one has a turn, too.
        let slow = Rate::default();
        assert_eq!(slow.take(0.01, at(0)), None);
        assert!(slow.take(0.01, at(0)).is_some_and(|wait| wait <= LONGEST));
    }
}

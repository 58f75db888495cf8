//! How fast runs send: samples of their counters over the last minute, kept in memory by each server.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::Core;
use crate::id::RunKey;
use crate::message::Counts;

/// What rates are measured over.
const WINDOW: Duration = Duration::from_secs(60);
/// Samples closer together than this are one.
const STEP: Duration = Duration::from_millis(900);
/// Runs followed at a time; beyond that the ones not looked at for longest go.
const MAX_RUNS: usize = 10_000;

/// Samples of runs' counters. Bounded: 10,000 runs, 70 samples each.
#[derive(Debug, Default)]
pub struct Rates {
    runs: Mutex<HashMap<RunKey, VecDeque<(Duration, u64)>>>,
}

/// Messages that have left the engine: what a rate counts.
fn sent(counts: &Counts) -> u64 {
    counts.sent + counts.delivered + counts.read + counts.failed + counts.unknown
}

impl Rates {
    /// Notes a run's counters at `now` (monotonic).
    pub fn note(&self, run: RunKey, counts: &Counts, now: Duration) {
        let mut runs = self.runs.lock();
        if runs.len() >= MAX_RUNS && !runs.contains_key(&run) {
            runs.retain(|_, s| s.back().is_some_and(|(at, _)| now.saturating_sub(*at) < WINDOW));
            if runs.len() >= MAX_RUNS {
                return;
            }
        }
        let samples = runs.entry(run).or_default();
        if samples.back().is_some_and(|(at, _)| now.saturating_sub(*at) < STEP) {
            return;
        }
        samples.push_back((now, sent(counts)));
        // The newest sample older than the window stays: a rate needs something to count from.
        while samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            samples.pop_front();
        }
    }

    /// Messages a second over the last minute (or as much of it as was seen); `None` when nothing was seen before.
    pub fn per_second(&self, run: RunKey, counts: &Counts, now: Duration) -> Option<f64> {
        let runs = self.runs.lock();
        let (at, before) = *runs.get(&run)?.front()?;
        let seconds = now.saturating_sub(at).as_secs_f64();
        (seconds >= 0.5).then(|| sent(counts).saturating_sub(before) as f64 / seconds)
    }
}

/// Takes a sample of every open run; called about once a second or two by a server that shows rates.
///
/// # Errors
/// When the store is away.
pub async fn sample(core: &Core) -> super::Result<()> {
    let runs: Vec<_> = core.store.open_runs().await?.into_iter().filter(|r| r.active).map(|r| r.key).collect();
    for (run, counts) in core.store.counts(&runs).await? {
        core.metrics.rates.note(run, &counts, core.clock.monotonic());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_counted_over_the_last_minute() {
        let (rates, run) = (Rates::default(), RunKey(RunKey::MIN));
        let counts = |sent| Counts { sent, ..Counts::default() };
        assert_eq!(rates.per_second(run, &counts(5), Duration::ZERO), None);
        for second in 0..200u64 {
            rates.note(run, &counts(second * second), Duration::from_secs(second));
        }
        // From 139² to 199² in sixty seconds.
        let rate = rates.per_second(run, &counts(199 * 199), Duration::from_secs(199)).unwrap();
        assert!((rate - 338.0).abs() < 1.0, "{rate}");
        assert!(rates.runs.lock()[&run].len() <= 70);
    }
}

//! When a candidate has gone wrong: a rule on what all servers saw.

use super::{Counts, Mode, SideCounts, Thresholds};
use crate::message::Reason;

/// Calls quicker than this are quick enough, whatever the stable version's take, in microseconds.
const QUICK_US: u64 = 1_000;

/// Why a rollout has to end, if it has to. A shadow does no harm, so it never does.
pub fn judge(mode: Mode, counts: &Counts, limits: &Thresholds) -> Option<Reason> {
    if mode == Mode::Shadow {
        return None;
    }
    let (candidate, stable) = (&counts.candidate, &counts.stable);
    faults(candidate, stable, limits)
        .or_else(|| more(candidate, stable, limits, "failure-rate", "failed", |side| side.failed))
        .or_else(|| more(candidate, stable, limits, "throttle-rate", "were to wait", |side| side.throttled))
        .or_else(|| slower(candidate, stable, limits))
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// It crashes, hangs, or answers what is not allowed, and more so than the stable version.
fn faults(candidate: &SideCounts, stable: &SideCounts, limits: &Thresholds) -> Option<Reason> {
    let (faults, calls) = (candidate.faults(), candidate.calls);
    let (rate, before) = (share(faults, calls), share(stable.faults(), stable.calls));
    if faults < limits.min_faults || rate <= limits.fault_rate || rate <= before {
        return None;
    }
    let kinds = [
        (candidate.traps, "crashed"),
        (candidate.deadlines, "took too long"),
        (candidate.memory, "wanted too much memory"),
        (candidate.invalid_output, "gave an invalid answer"),
        (candidate.errors, "failed"),
    ];
    let what: Vec<String> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let detail = format!("{faults} of {calls} calls ({}): {}", percent(rate), what.join(", "));
    Some(Reason::new("plugin-faults", detail))
}

/// More of its attempts than of the stable version's come to this: the test for two proportions.
fn more(
    candidate: &SideCounts,
    stable: &SideCounts,
    limits: &Thresholds,
    code: &str,
    what: &str,
    count: impl Fn(&SideCounts) -> u64,
) -> Option<Reason> {
    let (tried, before) = (candidate.attempts(), stable.attempts());
    if tried < limits.min_sample || before < limits.min_sample {
        return None;
    }
    let (rate, was) = (share(count(candidate), tried), share(count(stable), before));
    let pooled = share(count(candidate) + count(stable), tried + before);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / tried as f64 + 1.0 / before as f64)).sqrt();
    let sure = deviation > 0.0 && (rate - was) / deviation >= limits.failure_z;
    (sure && rate - was >= limits.failure_rise).then(|| {
        Reason::new(
            code,
            format!("{} of {tried} {what}, {} of {before} with the stable version", percent(rate), percent(was)),
        )
    })
}

/// Its calls take many times as long.
fn slower(candidate: &SideCounts, stable: &SideCounts, limits: &Thresholds) -> Option<Reason> {
    if candidate.calls < limits.min_sample || stable.calls < limits.min_sample {
        return None;
    }
    let (mean, was) = (candidate.mean_us()?, stable.mean_us()?);
    let (p95, p95_was) = (candidate.p95_us()?, stable.p95_us()?);
    let times = |now: u64, before: u64| now as f64 > before.max(1) as f64 * limits.slower;
    (p95 > QUICK_US && times(mean, was) && times(p95, p95_was)).then(|| {
        let detail =
            format!("calls take {mean} µs ({p95} at the 95th percentile), the stable version's {was} ({p95_was})");
        Reason::new("latency", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(counts: &Counts) -> Option<String> {
        judge(Mode::Canary, counts, &Thresholds::default()).map(|r| r.code)
    }

    fn calls(calls: u64, traps: u64) -> SideCounts {
        SideCounts { calls, traps, ..SideCounts::default() }
    }

    fn attempts(sent: u64, failed: u64, throttled: u64) -> SideCounts {
        SideCounts { sent, failed, throttled, ..SideCounts::default() }
    }

    fn took(us: u64, place: usize) -> SideCounts {
        let mut latencies = vec![0; 24];
        latencies[place] = 200;
        SideCounts { calls: 200, total_us: us * 200, latencies, ..SideCounts::default() }
    }

    #[test]
    fn faults_end_it_when_they_are_several_and_not_rare() {
        let with = |candidate, stable| Counts { candidate, stable, ..Counts::default() };
        assert_eq!(code(&with(calls(3, 3), calls(0, 0))).as_deref(), Some("plugin-faults"));
        assert_eq!(code(&with(calls(60, 3), calls(0, 0))).as_deref(), Some("plugin-faults"));
        assert_eq!(code(&with(calls(2, 2), calls(0, 0))), None, "two may be chance");
        assert_eq!(code(&with(calls(300, 3), calls(0, 0))), None, "one in a hundred is allowed");
        assert_eq!(code(&with(calls(299, 3), calls(0, 0))).as_deref(), Some("plugin-faults"));
        assert_eq!(code(&with(calls(100, 5), calls(100, 5))), None, "the stable one is no better");
        let counts = with(
            SideCounts { calls: 20, traps: 1, deadlines: 1, invalid_output: 1, ..SideCounts::default() },
            SideCounts::default(),
        );
        let reason = judge(Mode::Watch, &counts, &Thresholds::default()).unwrap();
        assert_eq!(reason.detail, "3 of 20 calls (15.0 %): 1 crashed, 1 took too long, 1 gave an invalid answer");
        assert_eq!(judge(Mode::Shadow, &counts, &Thresholds::default()), None, "a shadow does no harm");
    }

    #[test]
    fn a_failure_rate_ends_it_when_it_is_surely_and_clearly_higher() {
        let with = |candidate, stable| Counts { candidate, stable, ..Counts::default() };
        assert_eq!(code(&with(attempts(150, 50, 0), attempts(1_900, 100, 0))).as_deref(), Some("failure-rate"));
        assert_eq!(code(&with(attempts(150, 0, 50), attempts(1_900, 0, 100))).as_deref(), Some("throttle-rate"));
        assert_eq!(code(&with(attempts(40, 50, 0), attempts(1_900, 100, 0))), None, "too few");
        assert_eq!(code(&with(attempts(150, 50, 0), attempts(60, 3, 0))), None, "too few to compare with");
        assert_eq!(code(&with(attempts(185, 15, 0), attempts(1_900, 100, 0))), None, "that may be chance");
        assert_eq!(code(&with(attempts(98_800, 1_200, 0), attempts(99_500, 500, 0))), None, "sure, but small");
        assert_eq!(code(&with(attempts(1_000, 0, 0), attempts(500, 500, 0))), None, "better is no reason");
        assert_eq!(code(&with(attempts(1_000, 0, 0), attempts(1_000, 0, 0))), None);
    }

    #[test]
    fn latency_ends_it_when_mean_and_tail_are_many_times_as_long() {
        let with = |candidate, stable| Counts { candidate, stable, ..Counts::default() };
        assert_eq!(code(&with(took(5_000, 13), took(1_000, 10))).as_deref(), Some("latency"));
        assert_eq!(code(&with(took(5_000, 13), took(2_000, 11))), None, "two and a half times as long is allowed");
        assert_eq!(code(&with(took(90, 7), took(4, 2))), None, "microseconds do no harm");
    }
}

//! How running rollouts are judged: with its heartbeat each server writes what it saw, reads what all saw together, and carries
//! out what the rule says. Whoever is first ends a rollout; for the others it has ended then.

use crate::core::Core;
use crate::operations::{Actor, rollouts};
use crate::rollout::{Ending, Mode, judge};
use crate::trial::Trial;

/// Who ends rollouts by the rule.
const SYSTEM: &str = "system";

/// Writes, reads and judges once.
///
/// # Errors
/// When the store is away: what was not written is written by the next call.
pub async fn look(core: &Core) -> anyhow::Result<()> {
    let trials = core.plugins.trials();
    let ended = core.plugins.ended_trials();
    if trials.is_empty() && ended.is_empty() {
        return Ok(());
    }
    let _one = core.plugins.judging.lock().await;
    let mut counts = Vec::new();
    let mut findings = Vec::new();
    for trial in trials.iter().chain(&ended) {
        trial.looked();
        counts.extend(trial.unwritten().map(|counts| (trial, counts)));
        findings.extend(trial.take_findings().into_iter().map(|finding| (trial.rollout.no, finding)));
    }
    if !counts.is_empty() {
        let rows: Vec<_> = counts.iter().map(|(trial, counts)| (trial.rollout.no, counts.clone())).collect();
        core.store.put_rollout_counts(core.host, &rows).await?;
        for (trial, counts) in counts {
            trial.wrote(counts);
        }
    }
    if !findings.is_empty() {
        core.store.add_findings(&findings).await?;
    }
    core.plugins.drop_ended(ended);
    if trials.is_empty() {
        return Ok(());
    }
    let now = core.clock.now();
    let nos: Vec<_> = trials.iter().map(|trial| trial.rollout.no).collect();
    let sums = core.store.rollout_counts(&nos).await?;
    for trial in &trials {
        trial.follow(now);
        let (rollout, spec) = (&trial.rollout, &trial.rollout.spec);
        let sum = sums.iter().find(|(no, _)| *no == rollout.no).map(|(_, sum)| sum.clone()).unwrap_or_default();
        let (ending, reason) = match judge(spec.mode, &sum, &spec.thresholds) {
            Some(reason) => (Ending::RolledBack, format!("{}: {}", reason.code, reason.detail)),
            None if !rollout.is_over(now) => continue,
            None if spec.mode != Mode::Canary => (Ending::Passed, "its time is over".to_owned()),
            None if sum.candidate.calls >= spec.thresholds.min_sample => {
                (Ending::Promoted(core.config.plugin_watch()), "nothing went wrong in its time".to_owned())
            }
            None => continue,
        };
        rollouts::end(core, &Actor::new(SYSTEM), rollout.no, ending, &reason).await?;
    }
    Ok(())
}

/// Looks at once, in the background, if what this server alone has seen of a rollout is enough to end it.
pub fn alarm(core: &Core, trial: &Trial) {
    if !trial.alarms() {
        return;
    }
    let core = core.clone();
    tokio::spawn(async move {
        if let Err(error) = look(&core).await {
            tracing::warn!(error = format!("{error:#}"), "a rollout was not judged; the heartbeat will do it");
        }
    });
}

//! Which version of a plugin is used: activated, rolled back, and tried before it is trusted.

use crate::campaign::BadField;
use crate::core::Core;
use crate::id::RolloutNo;
use crate::queue::Wake;
use crate::rollout::{Counts, Ending, Finding, Mode, Rollout, RolloutSpec, RolloutStatus, StableRow};
use crate::store::{Change, PluginVersion};

use super::{Actor, OpError, Result, check, done, plugins};

/// Rollouts and changes of the active version that a list shows at most.
const LISTED: u32 = 100;

/// How a version is activated.
#[derive(Debug, Clone, Copy, Default)]
pub struct Activation<'a> {
    /// Why, for the history.
    pub reason: Option<&'a str>,
    /// Also when the version is in quarantine.
    pub force: bool,
    /// How long it is watched, in milliseconds; as the settings say when absent, not at all when 0.
    pub watch_ms: Option<u64>,
}

/// Makes a version the one that campaigns use which do not name a version: from the next message on, everywhere within a
/// second. Where there was another one before, it is watched: should it crash, hang or answer what is not allowed, the one
/// before comes back by itself.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such version, [`OpError::Conflict`] when it is in quarantine.
pub async fn activate(
    core: &Core,
    actor: &Actor,
    name: &str,
    version: &str,
    how: Activation<'_>,
) -> Result<PluginVersion> {
    let watch = match how.watch_ms {
        None => core.config.plugin_watch(),
        Some(0) => None,
        Some(ms) => Some(RolloutSpec::watch(ms)),
    };
    if let Some(watch) = &watch {
        let field = |p: BadField| if p.field == "for_ms" { BadField::new("watch_ms", p.problem) } else { p };
        check(watch.problems().into_iter().map(field).collect())?;
    }
    let change = Change {
        actor: &actor.name,
        reason: how.reason.unwrap_or("it was activated"),
        force: how.force,
        watch: watch.as_ref(),
    };
    let activated = core.store.activate_plugin(name, version, &change, core.clock.now()).await?;
    let activated = activated.ok_or_else(|| OpError::not_found("plugin", format!("{name} {version}")))?;
    plugins::reload(core).await;
    done(core, actor, "plugin.activate", format!("{name} {version}"), &[Wake::Changed]).await?;
    Ok(activated)
}

/// Makes the version active that was so before the active one.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin, [`OpError::Conflict`] when no version was active before.
pub async fn rollback(core: &Core, actor: &Actor, name: &str, reason: Option<&str>) -> Result<PluginVersion> {
    let reason = reason.unwrap_or("it was rolled back");
    let back = core.store.rollback_plugin(name, &actor.name, reason, core.clock.now()).await?;
    let back = back.ok_or_else(|| OpError::not_found("plugin", name))?;
    plugins::reload(core).await;
    done(core, actor, "plugin.rollback", format!("{name} {}", back.version), &[Wake::Changed]).await?;
    Ok(back)
}

/// The last versions that were active, newest first.
///
/// # Errors
/// When the store is away.
pub async fn history(core: &Core, name: &str) -> Result<Vec<StableRow>> {
    Ok(core.store.plugin_history(name, LISTED).await?)
}

/// Begins to try a version.
///
/// # Errors
/// [`OpError::Invalid`] with each field that cannot work, [`OpError::NotFound`] when there is no such version,
/// [`OpError::Conflict`] when a rollout is running, the version is active already, or it is in quarantine.
pub async fn start(
    core: &Core,
    actor: &Actor,
    name: &str,
    version: &str,
    spec: &RolloutSpec,
    force: bool,
) -> Result<Rollout> {
    check(spec.problems())?;
    let started = core.store.start_rollout(name, version, spec, force, &actor.name, core.clock.now()).await?;
    let started = started.ok_or_else(|| OpError::not_found("plugin", format!("{name} {version}")))?;
    plugins::reload(core).await;
    done(core, actor, "rollout.start", format!("{name} {version}"), &[Wake::Changed]).await?;
    Ok(started)
}

/// The running rollout of a plugin.
///
/// # Errors
/// [`OpError::NotFound`] when there is none.
pub async fn running(core: &Core, name: &str) -> Result<Rollout> {
    let running = core.store.running_rollouts().await?.into_iter().find(|r| r.name == name);
    running.ok_or_else(|| OpError::not_found("running rollout of plugin", name))
}

/// Makes the version of the running rollout the active one; a watch is over with that.
///
/// # Errors
/// [`OpError::NotFound`] when none is running.
pub async fn promote(core: &Core, actor: &Actor, name: &str) -> Result<Rollout> {
    let rollout = running(core, name).await?;
    let watch = core.config.plugin_watch().filter(|_| rollout.spec.mode != Mode::Watch);
    ended(end(core, actor, rollout.no, Ending::Promoted(watch), "it was promoted").await?)
}

/// Ends the running rollout; what is active stays so.
///
/// # Errors
/// [`OpError::NotFound`] when none is running.
pub async fn abort(core: &Core, actor: &Actor, name: &str, reason: Option<&str>) -> Result<Rollout> {
    let rollout = running(core, name).await?;
    ended(end(core, actor, rollout.no, Ending::Aborted, reason.unwrap_or("it was aborted")).await?)
}

fn ended(rollout: Option<Rollout>) -> Result<Rollout> {
    rollout.ok_or_else(|| OpError::Conflict("the rollout has just ended".to_owned()))
}

/// Ends a rollout; `None` when it was not running any more.
///
/// # Errors
/// When the store is away.
pub async fn end(core: &Core, actor: &Actor, no: RolloutNo, ending: Ending, reason: &str) -> Result<Option<Rollout>> {
    let Some(rollout) = core.store.end_rollout(no, &ending, &actor.name, reason, core.clock.now()).await? else {
        return Ok(None);
    };
    core.metrics.rollout_ended(rollout.status);
    let action = match rollout.status {
        RolloutStatus::RolledBack => {
            tracing::warn!(
                plugin.name = rollout.name,
                plugin.version = rollout.candidate.1,
                rollout.mode = rollout.spec.mode.as_str(),
                reason,
                "a plugin version was rolled back"
            );
            "rollout.roll-back"
        }
        RolloutStatus::Promoted => "rollout.promote",
        RolloutStatus::Passed => "rollout.pass",
        _ => "rollout.abort",
    };
    plugins::reload(core).await;
    done(core, actor, action, format!("{} {}", rollout.name, rollout.candidate.1), &[Wake::Changed]).await?;
    Ok(Some(rollout))
}

/// The last rollouts of a plugin with what was seen of each, newest first.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin.
pub async fn list(core: &Core, name: &str) -> Result<Vec<(Rollout, Counts)>> {
    plugins::versions(core, name).await?;
    let rollouts = core.store.rollouts(name, LISTED).await?;
    let nos: Vec<_> = rollouts.iter().map(|r| r.no).collect();
    let counts = core.store.rollout_counts(&nos).await?;
    Ok(rollouts.into_iter().zip(counts.into_iter().map(|(_, counts)| counts)).collect())
}

/// What was seen of a rollout.
///
/// # Errors
/// When the store is away.
pub async fn counts(core: &Core, no: RolloutNo) -> Result<Counts> {
    Ok(core.store.rollout_counts(&[no]).await?.pop().map(|(_, counts)| counts).unwrap_or_default())
}

/// The newest faults of the candidate and differences from the stable version, of the plugin's rollout with this number or its
/// last one.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such rollout.
pub async fn findings(core: &Core, name: &str, no: Option<RolloutNo>, limit: u32) -> Result<(Rollout, Vec<Finding>)> {
    let mut rollouts = core.store.rollouts(name, LISTED).await?.into_iter();
    let found = rollouts.find(|rollout| no.is_none_or(|no| no == rollout.no));
    let rollout = found.ok_or_else(|| match no {
        Some(no) => OpError::not_found("rollout", format!("{no} of plugin {name}")),
        None => OpError::not_found("rollout of plugin", name),
    })?;
    let findings = core.store.findings(rollout.no, limit).await?;
    Ok((rollout, findings))
}

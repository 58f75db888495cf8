//! Calls of a plugin version with a case: for its author, before messages meet it; and the cases kept of calls.

use crate::campaign::BadField;
use crate::case::Case;
use crate::case::run::{Net, Ran, run};
use crate::core::Core;
use crate::plugins::Plugin;
use crate::store::{KeptCase, Page};

use super::{Actor, OpError, Result, check, done, plugins};

/// Calls a version, active or not, with what a case says. Requests of a sender are made only when the case wants it; they go the
/// way of every request, with its policy and secrets.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such version, [`OpError::Invalid`] with everything that is wrong with the case,
/// [`OpError::Unavailable`] when as many as may run at once are running.
pub async fn try_version(core: &Core, actor: &Actor, name: &str, version: &str, case: &Case) -> Result<Ran> {
    let resolve = || core.plugins.resolve(name, Some(version));
    let plugin = match resolve() {
        Some(plugin) => plugin,
        None => {
            // It may have been uploaded to another server a moment ago.
            plugins::reload(core).await;
            resolve().ok_or_else(|| OpError::not_found("plugin", format!("{name} {version}")))?
        }
    };
    check(problems(&plugin, case))?;
    let _permit = core
        .plugin_host
        .trial()
        .ok_or_else(|| OpError::Unavailable("as many tries of plugins as may run at once are running".to_owned()))?;
    let net = case.send.then(|| Net { egress: core.egress.clone(), timeout: core.config.send_timeout() });
    let subject = format!("{name} {version}{}", if case.send { ", with its requests" } else { "" });
    // Before the call, so that no request leaves without a row.
    done(core, actor, "plugin.try", subject, &[]).await?;
    Ok(run(&plugin, case, net.as_ref()).await)
}

/// Everything that is wrong with a case for a plugin: also a configuration and an adapter that its schemas refuse.
fn problems(plugin: &Plugin, case: &Case) -> Vec<BadField> {
    let mut out = case.problems(plugin.kind);
    let mut note = |field: &str, found: Result<(), Vec<String>>| {
        out.extend(found.err().into_iter().flatten().map(|problem| BadField::new(field, problem)));
    };
    note("config", plugin.check_config(case.config.get()));
    match serde_json::from_str(case.device.adapter.get()) {
        Ok(adapter) => note("device.adapter", plugin.check_adapter(&adapter)),
        Err(error) => note("device.adapter", Err(vec![error.to_string()])),
    }
    out
}

/// The calls kept of a plugin, newest first.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin.
pub async fn cases(core: &Core, name: &str, cursor: Option<i64>, limit: u32) -> Result<Page<KeptCase, i64>> {
    plugins::versions(core, name).await?;
    Ok(core.store.cases(name, cursor, limit).await?)
}

/// One of them, with what it was made with.
///
/// # Errors
/// [`OpError::NotFound`] when there is none, or none any more.
pub async fn case(core: &Core, name: &str, id: i64) -> Result<KeptCase> {
    core.store.case(name, id).await?.ok_or_else(|| OpError::not_found("case", format!("{id} of {name}")))
}

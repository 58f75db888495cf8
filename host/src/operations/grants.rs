//! What plugins ask for, what operators grant them, and what they did not get.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use crate::campaign::{PluginUse, SendPlan};
use crate::clock::Time;
use crate::core::Core;
use crate::grants::{ANY, Asked, Grants, GrantsRow, RefusalView};
use crate::plugin::PluginKind;
use crate::queue::Wake;
use crate::store::{Granting, PluginVersion};

use super::{Actor, OpError, Result, check, done, plugins, pool};

/// Devices whose own senders are looked at; a pool may have many thousands that are all alike.
const SAMPLE: usize = 200;

/// What a plugin asks for beside what it was granted.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GrantsView {
    /// The plugin.
    pub plugin: String,
    /// The version whose `describe` asks: the active one, or the newest.
    pub version: String,
    /// What it asks for.
    pub asked: Asked,
    /// What it was granted, all versions of it.
    pub granted: Grants,
    /// When; null when nothing was granted yet.
    pub granted_at: Option<Time>,
    /// By whom: a token's name; `system` for what a plugin of the program has from the start, `migration` for one that was there
    /// before there were grants.
    pub granted_by: Option<String>,
    /// What it asks for and was not granted.
    pub missing: Asked,
    /// How that is granted; null when nothing is missing.
    pub how_to_grant: Option<String>,
    /// What it asked for in requests and did not get on this server since it started: the latest 20 different ones, newest
    /// first.
    pub refusals: Vec<RefusalView>,
}

/// What a version asks for beside what its plugin was granted.
///
/// # Errors
/// When the store is away.
pub async fn of_version(core: &Core, version: &PluginVersion) -> Result<GrantsView> {
    let row = core.store.grants().await?.into_iter().find(|row| row.plugin == version.name);
    let (granted, granted_at, granted_by) = match row {
        Some(GrantsRow { grants, granted_at, granted_by, .. }) => (grants, Some(granted_at), Some(granted_by)),
        None => (Grants::default(), None, None),
    };
    let asked = Asked::of(version.kind, &version.info);
    let missing = granted.missing(&asked);
    let plugin = version.name.clone();
    let how_to_grant = (!missing.is_empty()).then(|| {
        format!("carillon plugin grant {plugin} --asked, or PUT /api/v1/plugins/{plugin}/grants (at an upload: ?grant=asked)")
    });
    let refusals = core.plugins.licence(&plugin).refusals(core.clock.now());
    let version = version.version.clone();
    Ok(GrantsView { plugin, version, asked, granted, granted_at, granted_by, missing, how_to_grant, refusals })
}

/// What a plugin asks for beside what it was granted.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin.
pub async fn view(core: &Core, plugin: &str) -> Result<GrantsView> {
    of_version(core, &shown(core, plugin).await?).await
}

/// The active version, or the newest.
async fn shown(core: &Core, plugin: &str) -> Result<PluginVersion> {
    let mut versions = plugins::versions(core, plugin).await?;
    let at = versions.iter().position(|version| version.active).unwrap_or(0);
    // There is at least one.
    Ok(versions.swap_remove(at))
}

/// Grants these things to a plugin, in place of what it was granted before: on every server within a second, also for campaigns
/// that are running.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin, [`OpError::Invalid`] with everything that cannot be granted.
pub async fn put(core: &Core, actor: &Actor, plugin: &str, grants: Grants) -> Result<GrantsView> {
    let version = shown(core, plugin).await?;
    write(core, actor, plugin, version.kind, grants).await?;
    of_version(core, &version).await
}

/// Grants what a version asks for, beside what its plugin has. Nothing is written when nothing is missing.
///
/// # Errors
/// As for [`put`].
pub async fn put_asked(core: &Core, actor: &Actor, version: &PluginVersion) -> Result<()> {
    let GrantsView { asked, granted, missing, .. } = of_version(core, version).await?;
    if missing.is_empty() {
        return Ok(());
    }
    write(core, actor, &version.name, version.kind, granted.with_asked(&asked)).await
}

/// Grants what the active version of a plugin asks for, beside what it has.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin.
pub async fn put_asked_of(core: &Core, actor: &Actor, plugin: &str) -> Result<()> {
    put_asked(core, actor, &shown(core, plugin).await?).await
}

async fn write(core: &Core, actor: &Actor, plugin: &str, kind: PluginKind, grants: Grants) -> Result<()> {
    check(grants.problems(kind))?;
    let grants = grants.canonical();
    if !core.store.grant(plugin, &grants, &actor.name, Granting::Replace, core.clock.now()).await? {
        return Err(OpError::not_found("plugin", plugin));
    }
    plugins::reload(core).await;
    done(core, actor, "plugin.grant", subject(plugin, &grants), &[Wake::Changed]).await
}

/// A row of the audit log says what was granted, by name.
fn subject(plugin: &str, grants: &Grants) -> String {
    let Grants { hosts, methods, secrets, memory_bytes, call_ms, requests_per_second } = grants;
    let mut parts = Vec::new();
    let mut list = |what: &str, entries: &[String]| {
        let shown: Vec<_> = entries.iter().take(10).map(String::as_str).collect();
        let more = if entries.len() > shown.len() {
            format!(" and {} more", entries.len() - shown.len())
        } else {
            String::new()
        };
        parts.push(format!("{what} {}{more}", if shown.is_empty() { "none".to_owned() } else { shown.join(" ") }));
    };
    list("hosts", hosts);
    list("methods", methods);
    list("secrets", secrets);
    parts.extend(memory_bytes.map(|bytes| format!("memory_bytes {bytes}")));
    parts.extend(call_ms.map(|ms| format!("call_ms {ms}")));
    parts.extend(requests_per_second.map(|rate| format!("requests_per_second {rate}")));
    format!("{plugin}: {}", parts.join("; "))
}

/// What an operator should know before messages are sent by this version: that it asks for something that it was not granted.
///
/// # Errors
/// When the store is away.
pub async fn warnings_of(core: &Core, version: &PluginVersion) -> Result<Vec<String>> {
    Ok(warning(&of_version(core, version).await?).into_iter().collect())
}

fn warning(view: &GrantsView) -> Option<String> {
    let GrantsView { plugin, version, missing, .. } = view;
    (!missing.is_empty()).then(|| {
        format!(
            "{plugin} {version} asks for what it was not granted ({}): such requests are refused until an operator grants it, as \
             with carillon plugin grant {plugin} --asked",
            missing.in_words()
        )
    })
}

/// The same for every sender that a campaign sends with: its own, or those of its devices.
///
/// # Errors
/// When the store is away.
pub async fn warnings_for(core: &Core, plan: &SendPlan) -> Result<Vec<String>> {
    let own = match &plan.sender {
        Some(sender) => vec![sender.clone()],
        None => {
            let devices = pool::members(core, &plan.devices, SAMPLE).await?;
            devices.into_iter().filter_map(|device| device.spec.sender).collect()
        }
    };
    let named: BTreeSet<(String, Option<String>)> =
        own.into_iter().map(|PluginUse { plugin, version, .. }| (plugin, version)).collect();
    let mut out = Vec::new();
    let stored = plugins::list(core).await?;
    for (name, version) in named {
        let used = stored
            .iter()
            .find(|v| v.name == name && version.as_ref().map_or(v.active, |version| v.version == *version));
        if let Some(used) = used {
            out.extend(warnings_of(core, used).await?);
        }
    }
    Ok(out)
}

/// The plugins that were granted a secret, by name.
pub(super) fn with_secret(granted: &[GrantsRow], name: &str) -> Vec<String> {
    let has = |row: &&GrantsRow| row.grants.secrets.iter().any(|granted| granted == ANY || granted == name);
    granted.iter().filter(has).map(|row| row.plugin.clone()).collect()
}

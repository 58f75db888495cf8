//! Plugins: uploaded, listed and deleted.

use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::campaign::BadField;
use crate::case::sample::{Warning, self_check};
use crate::core::Core;
use crate::plugin::PluginInfo;
use crate::plugins::{Inspected, Refusal, is_first_party};
use crate::queue::Wake;
use crate::store::{NewPluginVersion, PluginVersion, Stored};

use super::rollouts::{self, Activation};
use super::{Actor, OpError, Result, done, grants};

/// What the checks of an uploaded plugin measured, and what its author should look at.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct UploadReport {
    /// How long compiling it took, in milliseconds.
    pub compile_ms: u64,
    /// How long making an instance takes, in microseconds.
    pub instantiate_us: u64,
    /// What calls with invented messages found. A version with such a failure is stored, but becomes active only when that is
    /// asked for.
    pub warnings: Vec<Warning>,
}

/// What shall follow from an upload.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upload<'a> {
    /// Whether the version becomes active; by default only the first one of a name does, if it passes its self-check.
    pub activate: Option<bool>,
    /// Added to the version that it says of itself.
    pub suffix: Option<&'a str>,
    /// Whether the plugin is granted what this version asks for, beside what it has.
    pub grant_asked: bool,
}

/// Checks and stores a plugin version. Returns the version, whether it is new, and what the checks found.
///
/// # Errors
/// [`OpError::Refused`] with the check that it failed, [`OpError::Conflict`] when its name and version are taken.
pub async fn upload(
    core: &Core,
    actor: &Actor,
    bytes: Bytes,
    Upload { activate, suffix, grant_asked }: Upload<'_>,
) -> Result<(PluginVersion, bool, UploadReport)> {
    if bytes.len() as u64 > core.config.plugin_max_bytes {
        return Err(OpError::Refused {
            code: "too-large".to_owned(),
            detail: format!(
                "the plugin has {} bytes; at most {} are accepted",
                bytes.len(),
                core.config.plugin_max_bytes
            ),
            items: Vec::new(),
        });
    }
    let suffixed = |version: &str| match suffix {
        None => Ok(version.to_owned()),
        Some(suffix) => with_suffix(version, suffix).ok_or_else(|| {
            OpError::invalid(
                "suffix",
                "give dots, letters, digits and hyphens for the end of a semantic version, such as dev.7",
            )
        }),
    };
    suffixed("1.0.0")?;
    let (inspected, plugin) = core.plugin_host.inspect_and_load(bytes.clone()).await.map_err(refused)?;
    let warnings = self_check(&plugin).await;
    let fails = warnings.iter().any(Warning::is_failure);
    let Inspected { compile_ms, instantiate_us, .. } = inspected;
    let report = UploadReport { compile_ms, instantiate_us, warnings };
    let version = suffixed(&inspected.info.version)?;
    let is_first = !core.store.plugins().await?.iter().any(|v| v.name == inspected.info.name);
    let new = NewPluginVersion {
        kind: inspected.kind,
        info: PluginInfo { version, ..inspected.info },
        imports: inspected.imports,
        digest: inspected.digest,
        bytes,
    };
    let stored = core.store.put_plugin(&new, false, core.clock.now()).await?;
    let (mut version, is_new) = match stored {
        Stored::New(version) => (version, true),
        Stored::Same(version) => (version, false),
    };
    reload(core).await;
    let subject = format!("{} {}", version.name, version.version);
    done(core, actor, "plugin.upload", subject, &[Wake::Changed]).await?;
    // Before it is active, so that its first request has what it needs.
    if grant_asked {
        grants::put_asked(core, actor, &version).await?;
    }
    if activate.unwrap_or(is_first && !fails) {
        let how = Activation { reason: Some("its upload"), ..Activation::default() };
        version = rollouts::activate(core, actor, &version.name, &version.version, how).await?;
    }
    Ok((version, is_new, report))
}

/// A version as one before it: `1.2.0` and `dev.7` make `1.2.0-dev.7`. `None` when that is no semantic version, or too long.
fn with_suffix(version: &str, suffix: &str) -> Option<String> {
    let version = semver::Version::parse(version).ok()?;
    let before = if version.pre.is_empty() { suffix.to_owned() } else { format!("{}.{suffix}", version.pre) };
    let pre = semver::Prerelease::new(&before).ok().filter(|pre| !pre.is_empty())?;
    let made = semver::Version { pre, ..version }.to_string();
    (made.len() <= 64).then_some(made)
}

fn refused(refusal: Refusal) -> OpError {
    // The check itself failed: that is not the plugin's fault.
    if refusal.code == "internal" {
        return OpError::Internal(anyhow::anyhow!("{}", refusal.detail));
    }
    let items = refusal.misfits.into_iter().map(|misfit| BadField::new(misfit.item, misfit.problem)).collect();
    OpError::Refused { code: refusal.code.to_string(), detail: refusal.detail, items }
}

/// This server need not wait for its next heartbeat; what fails here is tried again by it.
pub(super) async fn reload(core: &Core) {
    if let Err(error) = core.plugins.reload(&*core.store, core.clock.now()).await {
        tracing::warn!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "the plugins will be loaded by the next heartbeat"
        );
    }
}

/// Every version of every plugin: by name, newest first.
///
/// # Errors
/// When the store is away.
pub async fn list(core: &Core) -> Result<Vec<PluginVersion>> {
    Ok(core.store.plugins().await?)
}

/// Every version of one plugin, newest first.
///
/// # Errors
/// [`OpError::NotFound`] when there is none of this name.
pub async fn versions(core: &Core, name: &str) -> Result<Vec<PluginVersion>> {
    let mut found = list(core).await?;
    found.retain(|v| v.name == name);
    if found.is_empty() { Err(OpError::not_found("plugin", name)) } else { Ok(found) }
}

/// Deletes a version that nothing uses: on every server within a second. Messages that were begun with it end with it.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such version, [`OpError::Conflict`] with what uses it and what to do first.
pub async fn delete(core: &Core, actor: &Actor, name: &str, version: &str) -> Result<()> {
    let missing = || OpError::not_found("plugin", format!("{name} {version}"));
    let found = list(core).await?.into_iter().find(|v| v.name == name && v.version == version).ok_or_else(missing)?;
    if is_first_party(found.digest) {
        return Err(OpError::Conflict(format!(
            "{name} {version} cannot be deleted: it comes with this program, which would store it again at its next start"
        )));
    }
    if !core.store.delete_version(name, version, core.clock.now()).await? {
        return Err(missing());
    }
    reload(core).await;
    // The digest is what messages show of it.
    let subject = format!("{name} {version}, sha256 {}", found.digest);
    done(core, actor, "plugin.delete", subject, &[Wake::Changed]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_makes_a_version_that_comes_before() {
        assert_eq!(with_suffix("1.2.0", "dev.7").as_deref(), Some("1.2.0-dev.7"));
        assert_eq!(with_suffix("1.2.0-rc.1", "dev.7").as_deref(), Some("1.2.0-rc.1.dev.7"));
        for bad in ["", "a b", "dev..7", "01", &"x".repeat(64)] {
            assert_eq!(with_suffix("1.2.0", bad), None, "{bad}");
        }
    }
}

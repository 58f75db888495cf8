//! The registry: which plugin versions there are, and which of them is the active one of its name.
//!
//! Readers take a snapshot by one pointer; a reload makes a new one and swaps it. Whoever holds a [`Plugin`] keeps it, so a
//! message in flight ends with the version that it began with.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use parking_lot::RwLock;

use super::{FIRST_PARTY, Inspected, Plugin, PluginHost, cores};
use crate::clock::Time;
use crate::id::{Digest, VersionNo};
use crate::store::{NewPluginVersion, PluginVersion, Result, Store, StoreError};

/// The plugin versions of a store that this server has loaded.
pub struct Registry {
    host: PluginHost,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One reload at a time, so that an older reading never replaces a newer one.
    reloading: tokio::sync::Mutex<()>,
}

#[derive(Default, Clone)]
struct Snapshot {
    by_no: HashMap<VersionNo, Arc<Plugin>>,
    by_name: HashMap<String, Versions>,
}

#[derive(Default, Clone)]
struct Versions {
    active: Option<Arc<Plugin>>,
    all: Vec<Arc<Plugin>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(host: PluginHost) -> Self {
        Self { host, snapshot: RwLock::default(), reloading: tokio::sync::Mutex::new(()) }
    }

    /// The version of a plugin, or its active one.
    pub fn resolve(&self, name: &str, version: Option<&str>) -> Option<Arc<Plugin>> {
        let snapshot = self.snapshot();
        let versions = snapshot.by_name.get(name)?;
        match version {
            None => versions.active.clone(),
            Some(version) => versions.all.iter().find(|p| p.info.version == version).cloned(),
        }
    }

    /// The version with this number.
    pub fn by_no(&self, no: VersionNo) -> Option<Arc<Plugin>> {
        self.snapshot().by_no.get(&no).cloned()
    }

    /// Every version that is loaded, in no order: for metrics.
    pub fn loaded(&self) -> Vec<Arc<Plugin>> {
        self.snapshot().by_no.values().cloned().collect()
    }

    /// Takes over what the store has. Active versions come first and are in use before the others are loaded, which a campaign may
    /// have pinned. A version that does not load is logged and left out; if it is an active one, the one before stays.
    ///
    /// # Errors
    /// When the store cannot be read; what was there stays.
    pub async fn reload(&self, store: &dyn Store) -> Result<()> {
        let _one = self.reloading.lock().await;
        let stored = store.plugins().await?;
        let before = self.snapshot();
        let mut next = Snapshot::default();
        let (active, others): (Vec<_>, Vec<_>) = stored.into_iter().partition(|version| version.active);
        for (version, plugin) in self.all_loaded(store, &before, active).await? {
            let versions = next.by_name.entry(version.name.clone()).or_default();
            versions.active = match plugin {
                Some(plugin) => {
                    next.by_no.insert(plugin.no, Arc::clone(&plugin));
                    versions.all.push(Arc::clone(&plugin));
                    Some(plugin)
                }
                None => before.by_name.get(&version.name).and_then(|v| v.active.clone()),
            };
        }
        // Until the rest is there, what was loaded before can still be found.
        let mut early = next.clone();
        for (no, plugin) in &before.by_no {
            if !early.by_no.contains_key(no) {
                early.by_no.insert(*no, Arc::clone(plugin));
                early.by_name.entry(plugin.info.name.clone()).or_default().all.push(Arc::clone(plugin));
            }
        }
        self.swap(early);

        for (version, plugin) in self.all_loaded(store, &before, others).await? {
            if let Some(plugin) = plugin {
                next.by_no.insert(plugin.no, Arc::clone(&plugin));
                next.by_name.entry(version.name).or_default().all.push(plugin);
            }
        }
        self.swap(next);
        Ok(())
    }

    /// Brings the plugins that come with the program into the store, where they are missing, and reloads. One becomes active when
    /// its name has no active version, or one of a lower semantic version; a version that the store has is left as it is, so
    /// that a roll-back stays one.
    ///
    /// # Errors
    /// When the store cannot be used, or an embedded plugin does not pass the upload check.
    pub async fn ensure_first_party(&self, store: &dyn Store, now: Time) -> anyhow::Result<()> {
        let stored = store.plugins().await?;
        let missing = FIRST_PARTY.iter().filter(|(_, bytes)| {
            let digest = Digest::of(bytes);
            !stored.iter().any(|version| version.digest == digest)
        });
        // The first start waits for it: each core compiles one. They are stored in their order.
        let mut checked = stream::iter(missing)
            .map(|(name, bytes)| async move { (*name, *bytes, self.host.inspect_own(Bytes::from_static(bytes)).await) })
            .buffered(cores());
        while let Some((name, bytes, inspected)) = checked.next().await {
            let inspected =
                inspected.with_context(|| format!("the embedded plugin {name} does not pass the upload check"))?;
            let activate = stored
                .iter()
                .find(|version| version.active && version.name == inspected.info.name)
                .is_none_or(|active| is_older(&active.version, &inspected.info.version));
            let Inspected { kind, info, imports, digest, .. } = inspected;
            let version = info.version.clone();
            let new = NewPluginVersion { kind, info, imports, digest, bytes: Bytes::from_static(bytes) };
            match store.put_plugin(&new, activate, now).await {
                Ok(_) => tracing::info!(
                    plugin.name = name,
                    plugin.version = version,
                    activate,
                    "stored a first-party plugin"
                ),
                // The same source built by another compiler, or a plugin of the users' own with this name.
                Err(StoreError::Conflict(why)) => {
                    tracing::warn!(
                        plugin.name = name,
                        plugin.version = version,
                        why,
                        "kept the stored plugin in place of the embedded one"
                    );
                }
                Err(error) => return Err(error).with_context(|| format!("cannot store the embedded plugin {name}")),
            }
        }
        Ok(self.reload(store).await?)
    }

    /// The versions with their plugins, where they load; each core compiles one.
    async fn all_loaded(
        &self,
        store: &dyn Store,
        before: &Snapshot,
        versions: Vec<PluginVersion>,
    ) -> Result<Vec<(PluginVersion, Option<Arc<Plugin>>)>> {
        stream::iter(versions)
            .map(|version| async move {
                let plugin = self.loaded_or_load(store, before, &version).await?;
                Ok((version, plugin))
            })
            .buffered(cores())
            .try_collect()
            .await
    }

    async fn loaded_or_load(
        &self,
        store: &dyn Store,
        before: &Snapshot,
        version: &PluginVersion,
    ) -> Result<Option<Arc<Plugin>>> {
        if let Some(plugin) = before.by_no.get(&version.no).filter(|p| p.digest == version.digest) {
            return Ok(Some(Arc::clone(plugin)));
        }
        let PluginVersion { no, kind, digest, info, .. } = version;
        if let Some(plugin) = self.host.load_cached(*no, *kind, *digest, info.clone()).await {
            return Ok(Some(plugin));
        }
        let Some(bytes) = store.plugin_bytes(*no).await? else { return Ok(None) };
        match self.host.load(*no, *kind, *digest, info.clone(), bytes).await {
            Ok(plugin) => Ok(Some(plugin)),
            Err(refusal) => {
                tracing::error!(
                    plugin.name = version.name,
                    plugin.version = version.version,
                    refusal.code,
                    error = %refusal,
                    "cannot load a stored plugin"
                );
                Ok(None)
            }
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    fn swap(&self, next: Snapshot) {
        // The old one is dropped after the lock: it may be the last to hold a plugin's instances.
        let old = std::mem::replace(&mut *self.snapshot.write(), Arc::new(next));
        drop(old);
    }
}

fn is_older(version: &str, than: &str) -> bool {
    match (semver::Version::parse(version), semver::Version::parse(than)) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_semantic_versions() {
        assert!(is_older("1.9.0", "1.10.0"));
        assert!(!is_older("1.0.0", "1.0.0"));
        assert!(!is_older("2.0.0", "1.0.0"));
        assert!(is_older("1.0.0-rc.1", "1.0.0"));
        assert!(!is_older("nonsense", "1.0.0"));
    }
}

//! The registry: which plugin versions there are, and which of them is the active one of its name.
//!
//! Readers take a snapshot by one pointer; a reload makes a new one and swaps it. Whoever holds a [`Plugin`] keeps it, so a
//! message in flight ends with the version that it began with.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use parking_lot::RwLock;

use super::{FIRST_PARTY, Inspected, Plugin, PluginHost, cores};
use crate::clock::Time;
use crate::grants::{Grants, GrantsRow, Licence};
use crate::id::{Digest, VersionNo};
use crate::plugin::PluginKind;
use crate::rollout::{Mode, Rollout, RolloutSpec};
use crate::store::{Change, Granting, NewPluginVersion, PluginVersion, Result, Store, StoreError};
use crate::trial::Trial;

/// The plugin versions of a store that this server has loaded.
pub struct Registry {
    host: PluginHost,
    snapshot: RwLock<Arc<Snapshot>>,
    /// What each plugin may do, by name: the same for all of its versions, from this server's start to its end.
    licences: parking_lot::Mutex<HashMap<String, Arc<Licence>>>,
    /// One reload at a time, so that an older reading never replaces a newer one.
    reloading: tokio::sync::Mutex<()>,
    /// One look at the rollouts at a time.
    pub(crate) judging: tokio::sync::Mutex<()>,
    /// Rollouts that have ended, while messages that began before may still be counted.
    ended: parking_lot::Mutex<Vec<Arc<Trial>>>,
}

#[derive(Default, Clone)]
struct Snapshot {
    by_no: HashMap<VersionNo, Arc<Plugin>>,
    by_name: HashMap<String, Versions>,
    /// Names of plugins that have a webhook.
    listened_to: HashSet<String>,
}

#[derive(Default, Clone)]
struct Versions {
    active: Option<Arc<Plugin>>,
    all: Vec<Arc<Plugin>>,
    trial: Option<Arc<Trial>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(host: PluginHost) -> Self {
        Self {
            host,
            snapshot: RwLock::default(),
            licences: parking_lot::Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            judging: tokio::sync::Mutex::default(),
            ended: parking_lot::Mutex::default(),
        }
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

    /// As [`Registry::resolve`], with the rollout that the plugin is in; one that is named takes no part in it.
    pub fn resolve_tried(&self, name: &str, version: Option<&str>) -> Option<(Arc<Plugin>, Option<Arc<Trial>>)> {
        if version.is_some() {
            return Some((self.resolve(name, version)?, None));
        }
        let snapshot = self.snapshot();
        let versions = snapshot.by_name.get(name)?;
        Some((versions.active.clone()?, versions.trial.clone()))
    }

    /// The rollouts that are running, as far as their versions are loaded.
    pub fn trials(&self) -> Vec<Arc<Trial>> {
        self.snapshot().by_name.values().filter_map(|versions| versions.trial.clone()).collect()
    }

    /// The rollouts that have ended and may still be counted.
    pub fn ended_trials(&self) -> Vec<Arc<Trial>> {
        self.ended.lock().clone()
    }

    /// Forgets those that have ended, were written, and that nobody counts any more.
    pub fn drop_ended(&self, written: Vec<Arc<Trial>>) {
        drop(written);
        self.ended.lock().retain(|trial| Arc::strong_count(trial) > 1);
    }

    /// Whether the plugin has a webhook, so that what its messages are known by is kept.
    pub fn is_listened_to(&self, name: &str) -> bool {
        self.snapshot().listened_to.contains(name)
    }

    /// The version with this number.
    pub fn by_no(&self, no: VersionNo) -> Option<Arc<Plugin>> {
        self.snapshot().by_no.get(&no).cloned()
    }

    /// Every version that is loaded, in no order: for metrics.
    pub fn loaded(&self) -> Vec<Arc<Plugin>> {
        self.snapshot().by_no.values().cloned().collect()
    }

    /// What a plugin may do on this server; nothing, until a reload has read what it was granted.
    pub fn licence(&self, plugin: &str) -> Arc<Licence> {
        let mut licences = self.licences.lock();
        if let Some(licence) = licences.get(plugin) {
            return Arc::clone(licence);
        }
        let licence = Arc::new(Licence::new(plugin));
        licences.insert(plugin.to_owned(), Arc::clone(&licence));
        licence
    }

    /// Takes over what was granted. A plugin without a row was granted nothing.
    fn licence_all(&self, stored: &[PluginVersion], granted: &[GrantsRow]) {
        let none = Grants::default();
        let names: BTreeSet<_> = stored.iter().map(|version| &version.name).collect();
        for name in names {
            let row = granted.iter().find(|row| row.plugin == *name);
            self.licence(name).set(row.map_or(&none, |row| &row.grants));
        }
    }

    /// Takes over what the store has. Active versions come first and are in use before the others are loaded, which a campaign may
    /// have pinned. A version that does not load is logged and left out; if it is an active one, the one before stays. One that
    /// was deleted is there no more, nor is its compiled code; who has it goes on with it.
    ///
    /// # Errors
    /// When the store cannot be read; what was there stays.
    pub async fn reload(&self, store: &dyn Store, now: Time) -> Result<()> {
        let _one = self.reloading.lock().await;
        let running = store.running_rollouts().await?;
        let stored = store.plugins().await?;
        self.licence_all(&stored, &store.grants().await?);
        let digests: HashSet<Digest> = stored.iter().map(|version| version.digest).collect();
        let before = self.snapshot();
        let webhooks = store.webhooks(None).await?;
        let mut next =
            Snapshot { listened_to: webhooks.into_iter().map(|hook| hook.plugin).collect(), ..Snapshot::default() };
        let tried = |no| running.iter().any(|rollout| rollout.candidate.0 == no || rollout.stable.0 == no);
        let (first, others): (Vec<_>, Vec<_>) = stored.into_iter().partition(|v| v.active || tried(v.no));
        for (version, plugin) in self.all_loaded(store, &before, first).await? {
            let versions = next.by_name.entry(version.name.clone()).or_default();
            if let Some(plugin) = &plugin {
                next.by_no.insert(plugin.no, Arc::clone(plugin));
                versions.all.push(Arc::clone(plugin));
            }
            if version.active {
                versions.active = plugin.or_else(|| before.by_name.get(&version.name).and_then(|v| v.active.clone()));
            }
        }
        next.put_to_trial(running, &before, now);
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
        for plugin in before.by_no.values().filter(|plugin| !digests.contains(&plugin.digest)) {
            self.host.forget(plugin.digest).await;
        }
        let running = self.trials();
        let is_over = |trial: &&Arc<Trial>| !running.iter().any(|t| t.rollout.no == trial.rollout.no);
        let trials = before.by_name.values().filter_map(|versions| versions.trial.as_ref());
        for over in trials.filter(is_over) {
            over.stop();
            self.ended.lock().push(Arc::clone(over));
        }
        Ok(())
    }

    /// Brings the plugins that come with the program into the store, where they are missing, and reloads. One becomes active when
    /// its name has no active version, or one of a lower semantic version; a version that the store has is left as it is, so
    /// that a roll-back stays one. The senders among them are granted everything, unless their name was granted something
    /// before: where they send is for the configuration to say.
    ///
    /// # Errors
    /// When the store cannot be used, or an embedded plugin does not pass the upload check.
    pub async fn ensure_first_party(
        &self,
        store: &dyn Store,
        watch: Option<&RolloutSpec>,
        now: Time,
    ) -> anyhow::Result<()> {
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
            let active = stored.iter().find(|version| version.active && version.name == inspected.info.name);
            let replaces = active.is_some_and(|active| is_older(&active.version, &inspected.info.version));
            let activate = active.is_none() || replaces;
            let Inspected { kind, info, imports, digest, .. } = inspected;
            let version = info.version.clone();
            let new = NewPluginVersion { kind, info, imports, digest, bytes: Bytes::from_static(bytes) };
            match store.put_plugin(&new, active.is_none(), now).await {
                Ok(_) => {
                    if replaces {
                        let reason = "it comes with this version of the program";
                        let change = Change { actor: "system", reason, force: false, watch };
                        store.activate_plugin(&new.info.name, &version, &change, now).await?;
                    }
                    tracing::info!(
                        plugin.name = name,
                        plugin.version = version,
                        activate,
                        "stored a first-party plugin"
                    );
                }
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
        self.grant_first_party(store, now).await?;
        Ok(self.reload(store, now).await?)
    }

    /// Grants everything to senders of the program that were granted nothing yet, as long as nobody else has used their names.
    async fn grant_first_party(&self, store: &dyn Store, now: Time) -> Result<()> {
        let (stored, granted) = (store.plugins().await?, store.grants().await?);
        let own: Vec<_> = FIRST_PARTY.iter().map(|(_, bytes)| Digest::of(bytes)).collect();
        let senders =
            stored.iter().filter(|version| version.kind == PluginKind::Sender && own.contains(&version.digest));
        for version in senders {
            let is_granted = granted.iter().any(|row| row.plugin == version.name);
            let is_ours = stored.iter().all(|other| other.name != version.name || own.contains(&other.digest));
            if !is_granted && is_ours {
                store.grant(&version.name, &Grants::everything(), "system", Granting::First, now).await?;
            }
        }
        Ok(())
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
        let licence = self.licence(&version.name);
        if let Some(plugin) = self.host.load_cached(*no, *kind, *digest, info.clone(), licence.clone()).await {
            return Ok(Some(plugin));
        }
        let Some(bytes) = store.plugin_bytes(*no).await? else { return Ok(None) };
        match self.host.load(*no, *kind, *digest, info.clone(), licence, bytes).await {
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

impl Snapshot {
    /// Adds the rollouts whose two versions are loaded, and that go with the active version: a change of either is followed by
    /// another reload.
    fn put_to_trial(&mut self, running: Vec<Rollout>, before: &Self, now: Time) {
        for rollout in running {
            let (Some(candidate), Some(stable)) =
                (self.by_no.get(&rollout.candidate.0).cloned(), self.by_no.get(&rollout.stable.0).cloned())
            else {
                continue;
            };
            let used = if rollout.spec.mode == Mode::Watch { &candidate } else { &stable };
            let Some(versions) = self.by_name.get_mut(&rollout.name) else { continue };
            if versions.active.as_ref().is_none_or(|active| active.no != used.no) {
                continue;
            }
            let known = before.by_name.get(&rollout.name).and_then(|versions| versions.trial.as_deref());
            versions.trial = Some(Arc::new(Trial::new(rollout, candidate, stable, known, now)));
        }
    }
}

/// Whether a component comes with the program, which stores it at each start.
pub fn is_first_party(digest: Digest) -> bool {
    FIRST_PARTY.iter().any(|(_, bytes)| Digest::of(bytes) == digest)
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

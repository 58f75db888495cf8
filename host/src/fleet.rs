//! What a server keeps in memory about the cluster: the open runs with their plugins, the devices it has met, the
//! newest suppressions, the servers that are alive. Reloaded when the store's revisions move; never the truth.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::campaign::{PluginUse, Run, RunOwner};
use crate::clock::Time;
use crate::consent::{NewSuppression, Suppression};
use crate::core::Core;
use crate::device::Device;
use crate::id::{DeviceId, DeviceNo, RunKey, SequenceNo};
use crate::message::Versions;
use crate::plugins::{Plugin, Registry};
use crate::sequence::{SequenceSpec, Step};
use crate::store::{HostRow, RankedRun, StoreError};
use crate::trial::{Side, Sides, Trial};

/// A plugin version with the configuration that a run gives it.
#[derive(Clone)]
pub struct Configured {
    /// The version in use: the one that the run names, or the active one.
    pub plugin: Arc<Plugin>,
    /// The rollout that the plugin is in.
    pub trial: Option<Arc<Trial>>,
    /// The configuration, JSON text.
    pub config: Arc<str>,
}

impl Configured {
    /// The side that a device is on.
    pub fn side(&self, device: DeviceNo) -> Side {
        self.trial.as_ref().map_or(Side::Stable, |trial| trial.side(device))
    }

    /// The version of a side.
    pub fn at(&self, side: Side) -> &Arc<Plugin> {
        self.trial.as_ref().map_or(&self.plugin, |trial| trial.at(side))
    }

    /// The trial, where the candidate is what has just failed.
    pub fn to_blame(&self, side: Side) -> Option<&Trial> {
        self.trial.as_deref().filter(|_| side == Side::Candidate)
    }
}

/// An open run with everything that sending its messages takes.
pub struct LiveRun {
    /// The run.
    pub run: Run,
    /// The id that plugins see as the campaign.
    pub campaign: Arc<str>,
    /// Its template.
    pub template: Configured,
    /// Its delay strategy.
    pub delay: Configured,
    /// Its sender; `None` when each device uses its own.
    pub sender: Option<Configured>,
    /// For a step of a sequence: what follows it.
    pub step: Option<Step>,
}

impl LiveRun {
    /// The versions that an attempt of this run with this sender runs with.
    pub fn versions(&self, sender: &Configured, sides: Sides) -> Versions {
        Versions {
            template: self.template.at(sides.template).no,
            delay: self.delay.at(sides.delay).no,
            sender: sender.at(sides.sender).no,
        }
    }

    /// The sides that a device is on.
    pub fn sides(&self, sender: &Configured, device: DeviceNo) -> Sides {
        Sides { template: self.template.side(device), delay: self.delay.side(device), sender: sender.side(device) }
    }

    /// How long a device is put off, because one of the plugins that its message needs has too much to do.
    pub fn crowded(&self, sender: &Configured, sides: Sides) -> Option<Duration> {
        let plugins = [self.template.at(sides.template), self.delay.at(sides.delay), sender.at(sides.sender)];
        plugins.into_iter().filter_map(|plugin| plugin.crowded()).max()
    }

    /// How long until the campaign's own window opens; zero when it is open, or when each recipient's zone decides.
    fn closed_for(&self, now: Time) -> Duration {
        match &self.run.plan.window {
            Some(window) if !window.recipient_zone => window.opens_in(now, None),
            _ => Duration::ZERO,
        }
    }
}

/// The open runs at one moment.
#[derive(Default)]
pub struct Runs {
    live: HashMap<RunKey, Arc<LiveRun>>,
    /// Active, window open, in rank order.
    sending: Vec<RankedRun>,
    /// Active runs that cannot be sent, with the reason: a plugin is missing or does not load.
    pub broken: Vec<(Run, String)>,
    /// All open runs, in rank order.
    pub open: Vec<Run>,
}

impl Runs {
    /// A run whose messages may be sent now.
    pub fn sending(&self, key: RunKey) -> Option<&Arc<LiveRun>> {
        self.sending.iter().any(|r| r.run == key).then(|| self.live.get(&key)).flatten()
    }

    /// A run with its plugins, sending or not.
    pub fn get(&self, key: RunKey) -> Option<&Arc<LiveRun>> {
        self.live.get(&key)
    }

    /// Runs whose messages may be sent now, first the one that goes first.
    pub fn ranked(&self) -> &[RankedRun] {
        &self.sending
    }
}

/// Suppressions of the last minutes, for the check right before a send: everything older was seen by `begin`.
#[derive(Default)]
struct Recent {
    by_address: HashMap<String, Vec<(Option<String>, Time)>>,
    newest: Option<Time>,
}

/// How long a suppression is kept in memory: far longer than a message stays between `begin` and its send.
const RECENT: Duration = Duration::from_secs(15 * 60);
/// Suppressions read at a time.
const RECENT_PAGE: u32 = 10_000;
/// Devices kept in memory; beyond that the cache starts anew.
const MAX_DEVICES: usize = 1_000_000;

#[derive(Default)]
struct Devices {
    by_no: HashMap<DeviceNo, Arc<Device>>,
    no_by_id: HashMap<DeviceId, DeviceNo>,
    /// Changes up to this time are in the cache.
    seen: Option<Time>,
}

/// The in-memory picture of the cluster; shared by the loops of a server.
pub struct Fleet {
    core: Core,
    runs: RwLock<Arc<Runs>>,
    devices: RwLock<Devices>,
    recent: RwLock<Recent>,
    /// Whether a message reached a final state since campaigns were last checked for completion.
    finals: AtomicBool,
}

impl Fleet {
    /// An empty picture; `reload_*` fill it.
    pub fn new(core: Core) -> Self {
        Self {
            core,
            runs: RwLock::default(),
            devices: RwLock::default(),
            recent: RwLock::default(),
            finals: AtomicBool::new(true),
        }
    }

    /// The open runs.
    pub fn runs(&self) -> Arc<Runs> {
        self.runs.read().clone()
    }

    /// The servers that are alive.
    pub fn hosts(&self) -> Vec<HostRow> {
        self.core.hosts.read().clone()
    }

    /// Notes who is alive.
    pub fn set_hosts(&self, hosts: Vec<HostRow>) {
        *self.core.hosts.write() = hosts;
    }

    /// This server's place among those alive that run the role `role`, and how many they are: for sharing out work that any
    /// of them could do.
    pub fn place(&self, role: &str) -> (u32, u32) {
        let hosts = self.core.hosts.read();
        let mut with_role: Vec<_> =
            hosts.iter().filter(|h| h.roles.split(',').any(|r| r == role)).map(|h| h.host).collect();
        with_role.sort_unstable();
        let me = with_role.iter().position(|h| *h == self.core.host);
        let count = u32::try_from(with_role.len().max(1)).unwrap_or(1);
        (u32::try_from(me.unwrap_or(0)).unwrap_or(0), count)
    }

    /// Notes that a message became final: a campaign may be complete.
    pub fn note_final(&self) {
        self.finals.store(true, Ordering::Relaxed);
    }

    /// Whether a message became final since the last call.
    pub fn take_finals(&self) -> bool {
        self.finals.swap(false, Ordering::Relaxed)
    }

    /// Reads the open runs and resolves their plugins. Returns whether more may be sent than before (a run came, was
    /// resumed, or its window opened).
    ///
    /// # Errors
    /// When the store is away.
    pub async fn reload_runs(&self) -> Result<bool, StoreError> {
        let open = self.core.store.open_runs().await?;
        let mut sequences: HashMap<SequenceNo, Option<SequenceSpec>> = HashMap::new();
        let mut next = Runs::default();
        for run in open {
            let step = match run.owner {
                RunOwner::Campaign(_) => None,
                RunOwner::Step { sequence, step } => {
                    if let std::collections::hash_map::Entry::Vacant(slot) = sequences.entry(sequence) {
                        slot.insert(self.core.store.sequence_by_no(sequence).await?.map(|s| s.spec));
                    }
                    let spec = sequences.get(&sequence).and_then(Option::as_ref);
                    let next_offset = spec.and_then(|s| s.next_offset(step));
                    Some(Step { sequence, step, next_offset })
                }
            };
            match live(&self.core.plugins, &run, step) {
                Ok(live) => {
                    next.live.insert(run.key, Arc::new(live));
                }
                Err(reason) if run.active => next.broken.push((run.clone(), reason)),
                Err(_) => {}
            }
            next.open.push(run);
        }
        Ok(self.swap_runs(next))
    }

    /// Looks again at which windows are open. Returns whether one opened.
    pub fn refresh_windows(&self) -> bool {
        let current = self.runs();
        let due = current.live.values().any(|l| l.run.active && l.run.plan.window.is_some());
        if !due {
            return false;
        }
        let next = Runs {
            live: current.live.clone(),
            broken: current.broken.clone(),
            open: current.open.clone(),
            ..Runs::default()
        };
        self.swap_runs(next)
    }

    fn swap_runs(&self, mut next: Runs) -> bool {
        let now = self.core.clock.now();
        for live in next.live.values().filter(|l| l.run.active) {
            if live.closed_for(now).is_zero() {
                next.sending.push(RankedRun { run: live.run.key, rank: live.run.rank() });
            }
        }
        next.sending.sort_unstable_by_key(|r| (r.rank, r.run));
        let mut current = self.runs.write();
        let before: HashSet<RunKey> = current.sending.iter().map(|r| r.run).collect();
        let more = next.sending.iter().any(|r| !before.contains(&r.run));
        *current = Arc::new(next);
        more
    }

    /// Reads the devices that changed since the last call into the cache.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn reload_devices(&self) -> Result<(), StoreError> {
        let since = self.devices.read().seen;
        let now = self.core.clock.now();
        // A change that is being committed right now may carry an earlier time: look a little further back.
        let overlap = Duration::from_secs(10);
        if let Some(since) = since {
            let (changed, gone) = self.core.store.devices_changed(since.minus(overlap)).await?;
            let mut devices = self.devices.write();
            for device in changed {
                // Only what somebody asked for is kept; others are read when they are met.
                if devices.by_no.contains_key(&device.no) {
                    devices.insert(device);
                }
            }
            for no in gone {
                if let Some(device) = devices.by_no.remove(&no) {
                    devices.no_by_id.remove(&device.spec.id);
                }
            }
        }
        self.devices.write().seen = Some(now);
        Ok(())
    }

    /// These devices, from memory where they are there; those that do not exist are left out.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn devices(&self, nos: &[DeviceNo]) -> Result<HashMap<DeviceNo, Arc<Device>>, StoreError> {
        let mut found = HashMap::with_capacity(nos.len());
        let mut missing = Vec::new();
        {
            let devices = self.devices.read();
            for no in nos {
                match devices.by_no.get(no) {
                    Some(device) => {
                        found.insert(*no, device.clone());
                    }
                    None => missing.push(*no),
                }
            }
        }
        if !missing.is_empty() {
            let read = self.core.store.devices_by_no(&missing).await?;
            let mut devices = self.devices.write();
            for device in read {
                found.insert(device.no, devices.insert(device));
            }
        }
        Ok(found)
    }

    /// Those of the devices that are in memory.
    pub fn known(&self, ids: &[DeviceId]) -> HashMap<DeviceId, Arc<Device>> {
        let devices = self.devices.read();
        let known = |id: &DeviceId| Some((id.clone(), devices.by_no.get(devices.no_by_id.get(id)?)?.clone()));
        ids.iter().filter_map(known).collect()
    }

    /// One device by its id, from memory where it is there.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<Arc<Device>>, StoreError> {
        {
            let devices = self.devices.read();
            if let Some(device) = devices.no_by_id.get(id).and_then(|no| devices.by_no.get(no)) {
                return Ok(Some(device.clone()));
            }
        }
        let read = self.core.store.device(id).await?;
        Ok(read.map(|device| self.devices.write().insert(device)))
    }

    /// Reads the newest suppressions into memory.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn reload_suppressions(&self) -> Result<(), StoreError> {
        let now = self.core.clock.now();
        let from = self.recent.read().newest.unwrap_or(now).minus(Duration::from_secs(10));
        let entries = self.core.store.suppressed_since(from, RECENT_PAGE).await?;
        let mut recent = self.recent.write();
        recent.forget(now.minus(RECENT));
        for entry in entries {
            recent.add(entry);
        }
        Ok(())
    }

    /// Whether an address was suppressed in the last minutes.
    pub fn suppressed(&self, address: &str, channel: &str) -> bool {
        self.recent
            .read()
            .by_address
            .get(address)
            .is_some_and(|of| of.iter().any(|(c, _)| c.as_deref().is_none_or(|c| c == channel)))
    }

    /// Notes a suppression that this server has just written.
    pub fn note_suppression(&self, entry: &NewSuppression) {
        let NewSuppression { address, channel, reason } = entry.clone();
        self.recent.write().add(Suppression { address, channel, reason, created_at: self.core.clock.now() });
    }
}

impl Recent {
    fn add(&mut self, entry: Suppression) {
        self.newest = self.newest.max(Some(entry.created_at));
        let of = self.by_address.entry(entry.address).or_default();
        if !of.iter().any(|(channel, _)| *channel == entry.channel) {
            of.push((entry.channel, entry.created_at));
        }
    }

    fn forget(&mut self, before: Time) {
        self.by_address.retain(|_, of| {
            of.retain(|(_, at)| *at >= before);
            !of.is_empty()
        });
    }
}

impl Devices {
    fn insert(&mut self, device: Device) -> Arc<Device> {
        if self.by_no.len() >= MAX_DEVICES {
            self.by_no.clear();
            self.no_by_id.clear();
        }
        let device = Arc::new(device);
        self.no_by_id.insert(device.spec.id.clone(), device.no);
        self.by_no.insert(device.no, device.clone());
        device
    }
}

/// Resolves the plugins of a run.
fn live(plugins: &Registry, run: &Run, step: Option<Step>) -> Result<LiveRun, String> {
    let configured = |of: &PluginUse, what: &str| -> Result<Configured, String> {
        configured(plugins, of).ok_or_else(|| {
            let version = of.version.as_deref().map(|v| format!(" {v}")).unwrap_or_default();
            format!("the {what} plugin {}{version} is not there or cannot be loaded", of.plugin)
        })
    };
    Ok(LiveRun {
        campaign: match run.owner {
            RunOwner::Campaign(id) => id.to_string().into(),
            RunOwner::Step { .. } => run.name.as_str().into(),
        },
        template: configured(&run.plan.template, "template")?,
        delay: configured(&run.plan.delay.plugin_use(), "delay")?,
        sender: run.plan.sender.as_ref().map(|s| configured(s, "sender")).transpose()?,
        step,
        run: run.clone(),
    })
}

/// The sender that a device uses for a run: the run's, or the device's own.
pub fn sender_for(plugins: &Registry, run: &LiveRun, device: &Device) -> Option<Configured> {
    run.sender.clone().or_else(|| configured(plugins, device.spec.sender.as_ref()?))
}

/// A plugin as it is used; `None` when it is not there or cannot be loaded.
pub fn configured(plugins: &Registry, of: &PluginUse) -> Option<Configured> {
    let (plugin, trial) = plugins.resolve_tried(&of.plugin, of.version.as_deref())?;
    Some(Configured { plugin, trial, config: of.config.get().into() })
}

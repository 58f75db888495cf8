//! What the in-process queue holds, and its rules. Every operation is a logarithm of what it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::id::{DeviceId, MessageId};
use crate::queue::{
    Claimed, DeviceMetrics, Disposal, Enqueue, Finish, Finished, MAX_BURST, MetricsDelta, QueueDepth, Ready,
};

/// The time of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For leases and waits.
    pub(super) at: Duration,
    /// For tokens: microseconds of the wall clock, so that a new process' tokens are larger than the old one's.
    pub(super) wall_us: i64,
}

/// Everything, behind one lock: the operations are short.
#[derive(Default)]
pub(super) struct State {
    devices: HashMap<DeviceId, Device>,
    /// Devices by the time from which they may be claimed; [`Device::ready_at`] is the way back.
    ready: BTreeSet<(Duration, DeviceId)>,
    max_workers: Option<u32>,
}

#[derive(Default)]
struct Device {
    queue: BTreeSet<(i64, MessageId)>,
    ranks: BTreeMap<MessageId, i64>,
    processing: BTreeSet<MessageId>,
    ready_at: Option<Duration>,
    token: i64,
    /// When the lease ends; `None` when it was released.
    leased_until: Option<Duration>,
    next_at: Duration,
    /// The last hold ended with the device ready again at once.
    eager: bool,
    /// `None`: only a hold or metrics have made the device.
    pace: Option<Box<str>>,
    metrics: Option<Box<DeviceMetrics>>,
}

impl Device {
    fn add(&mut self, message: MessageId, rank: i64) {
        if !self.ranks.contains_key(&message) && !self.processing.contains(&message) {
            self.ranks.insert(message, rank);
            self.queue.insert((rank, message));
        }
    }

    fn depth(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    fn has_nothing(&self) -> bool {
        self.queue.is_empty() && self.processing.is_empty()
    }

    fn leased(&self, now: Now) -> Option<Duration> {
        self.leased_until.filter(|until| *until > now.at)
    }

    /// Settles messages of the processing set.
    fn settle(&mut self, messages: &[(MessageId, Disposal)]) {
        for (message, disposal) in messages {
            self.processing.remove(message);
            if let Disposal::PutBack(rank) = disposal {
                self.add(*message, *rank);
            }
        }
    }
}

/// Puts a device at `at` on the ready index, or takes it off.
fn place(ready: &mut BTreeSet<(Duration, DeviceId)>, id: &DeviceId, device: &mut Device, at: Option<Duration>) {
    if device.ready_at == at {
        return;
    }
    if let Some(old) = device.ready_at.take() {
        ready.remove(&(old, id.clone()));
    }
    if let Some(at) = at {
        ready.insert((at, id.clone()));
    }
    device.ready_at = at;
}

impl State {
    pub(super) fn enqueue(&mut self, enqueue: &Enqueue, now: Now) -> u32 {
        let device = self.devices.entry(enqueue.device.clone()).or_default();
        if device.pace.is_none() {
            device.pace = Some(enqueue.initial.pace.as_str().into());
            device.next_at = device.next_at.max(now.at.saturating_add(enqueue.initial.next_in));
        }
        for (message, rank) in &enqueue.messages {
            device.add(*message, *rank);
        }
        if device.leased(now).is_none() && !device.has_nothing() {
            let at = device.next_at.max(now.at);
            let at = device.ready_at.map_or(at, |stands| stands.min(at));
            place(&mut self.ready, &enqueue.device, device, Some(at));
        }
        device.depth()
    }

    pub(super) fn ready(&mut self, limit: u32, lease: Duration, now: Now) -> Ready {
        let mut devices = Vec::new();
        while devices.len() < limit as usize {
            match self.ready.first() {
                Some((at, _)) if *at <= now.at => {}
                _ => break,
            }
            let Some((_, id)) = self.ready.pop_first() else { break };
            devices.push(id);
        }
        // Before those taken are hidden: they are not the next.
        let next_in = self.ready.first().map(|(at, _)| at.saturating_sub(now.at));
        let hidden_until = now.at.saturating_add(lease);
        for id in &devices {
            self.ready.insert((hidden_until, id.clone()));
            if let Some(device) = self.devices.get_mut(id) {
                device.ready_at = Some(hidden_until);
            }
        }
        Ready { devices, next_in }
    }

    pub(super) fn claim(&mut self, id: &DeviceId, lease: Duration, burst: u32, now: Now) -> Claimed {
        let Some(device) = self.devices.get_mut(id) else { return Claimed::Empty };
        let waits_until = match device.leased(now) {
            Some(until) => until,
            None if device.has_nothing() => {
                place(&mut self.ready, id, device, None);
                return Claimed::Empty;
            }
            None => device.next_at,
        };
        if waits_until > now.at {
            if device.ready_at.is_some() {
                place(&mut self.ready, id, device, Some(waits_until));
            }
            return Claimed::NotYet(waits_until.saturating_sub(now.at));
        }
        let leased_until = now.at.saturating_add(lease);
        device.token = device.token.saturating_add(1).max(now.wall_us);
        device.leased_until = Some(leased_until);
        let token = device.token;
        // It stays on the index, hidden, so that it is found should the caller never finish.
        let covered = device.ready_at.map_or(leased_until, |at| at.max(leased_until));
        place(&mut self.ready, id, device, Some(covered));
        if !device.processing.is_empty() {
            return Claimed::Orphans { token, messages: device.processing.iter().copied().collect() };
        }
        // It has something, and nothing in processing.
        let wanted = if device.eager { burst.clamp(1, MAX_BURST) } else { 1 };
        let mut messages = Vec::new();
        while messages.len() < wanted as usize {
            let Some((rank, message)) = device.queue.pop_first() else { break };
            device.ranks.remove(&message);
            device.processing.insert(message);
            messages.push((message, rank));
        }
        let pace = device.pace.as_deref().unwrap_or_default().to_owned();
        Claimed::Messages { messages, token, pace, depth: device.depth() }
    }

    pub(super) fn renew(&mut self, id: &DeviceId, token: i64, lease: Duration, now: Now) -> bool {
        match self.devices.get_mut(id) {
            Some(Device { token: held, leased_until: Some(until), .. }) if *held == token => {
                *until = (*until).max(now.at.saturating_add(lease));
                true
            }
            _ => false,
        }
    }

    pub(super) fn adopt(&mut self, id: &DeviceId, token: i64, messages: &[(MessageId, Disposal)], now: Now) -> bool {
        let Some(device) = self.devices.get_mut(id).filter(|d| d.token == token) else { return false };
        // Released already: a repeat, which changes nothing.
        if device.leased_until.take().is_some() {
            device.settle(messages);
            // Its owner is gone: one message shows how things stand.
            device.eager = false;
            let at = (!device.has_nothing()).then(|| device.next_at.max(now.at));
            place(&mut self.ready, id, device, at);
        }
        true
    }

    pub(super) fn finish(&mut self, finish: &Finish, now: Now) -> Finished {
        let Some(device) = self.devices.get_mut(&finish.device).filter(|d| d.token == finish.token) else {
            return Finished::LeaseLost;
        };
        // Released already: a repeat, which changes nothing.
        if device.leased_until.take().is_some() {
            device.settle(&finish.messages);
            device.next_at = device.next_at.max(now.at.saturating_add(finish.next_in));
            device.eager = device.next_at <= now.at;
            if let Some(pace) = finish.pace.as_ref().filter(|p| !p.is_empty()) {
                device.pace = Some(pace.as_str().into());
            }
            let at = (!device.has_nothing()).then_some(device.next_at);
            place(&mut self.ready, &finish.device, device, at);
        }
        Finished::Done { depth: device.depth() }
    }

    pub(super) fn hold(&mut self, id: &DeviceId, wait: Duration, now: Now) {
        let device = self.devices.entry(id.clone()).or_default();
        let at = now.at.saturating_add(wait);
        if at > device.next_at {
            device.next_at = at;
            device.eager = false;
        }
    }

    pub(super) fn unhold(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.devices.get_mut(id) else { return };
        device.next_at = Duration::ZERO;
        if device.leased(now).is_none() && !device.has_nothing() {
            let at = device.ready_at.map_or(now.at, |stands| stands.min(now.at));
            place(&mut self.ready, id, device, Some(at));
        }
    }

    pub(super) fn queued(&self, id: &DeviceId) -> Vec<MessageId> {
        self.devices.get(id).map(|d| d.queue.iter().map(|(_, m)| *m).collect()).unwrap_or_default()
    }

    pub(super) fn discard(&mut self, id: &DeviceId, messages: &[MessageId]) {
        let Some(device) = self.devices.get_mut(id) else { return };
        for message in messages {
            if let Some(rank) = device.ranks.remove(message) {
                device.queue.remove(&(rank, *message));
            }
        }
    }

    pub(super) fn depth(&self, id: &DeviceId, now: Now) -> QueueDepth {
        let Some(device) = self.devices.get(id) else { return QueueDepth::default() };
        let next_in = device.next_at.saturating_sub(now.at);
        QueueDepth {
            queued: device.depth(),
            processing: u32::try_from(device.processing.len()).unwrap_or(u32::MAX),
            next_in_ms: u64::try_from(next_in.as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
            leased: device.leased(now).is_some(),
        }
    }

    pub(super) fn ready_count(&self) -> u64 {
        self.ready.len() as u64
    }

    pub(super) fn add_metrics(&mut self, delta: &MetricsDelta) {
        let device = self.devices.entry(delta.device.clone()).or_default();
        let metrics = device.metrics.get_or_insert_default();
        metrics.sent = metrics.sent.saturating_add(delta.sent.into());
        metrics.failed = metrics.failed.saturating_add(delta.failed.into());
        metrics.retried = metrics.retried.saturating_add(delta.retried.into());
        metrics.latency_ms = metrics.latency_ms.saturating_add(delta.latency_ms);
        // Flushes may come out of order: the latest send counts.
        if delta.last_sent_at.is_some() && delta.last_sent_at >= metrics.last_sent_at {
            metrics.last_sent_at = delta.last_sent_at;
            metrics.last_delay_ms = delta.last_delay_ms;
        }
    }

    pub(super) fn metrics(&self, id: &DeviceId) -> DeviceMetrics {
        self.devices.get(id).and_then(|d| d.metrics.as_deref()).cloned().unwrap_or_default()
    }

    pub(super) fn max_workers(&mut self, default: u32, reset: bool) -> u32 {
        if reset {
            self.max_workers = Some(default);
        }
        *self.max_workers.get_or_insert(default)
    }
}

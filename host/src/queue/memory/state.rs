//! What the in-process queue holds, and its rules. An operation costs a logarithm of the number of devices, and what it
//! moves on a device is bounded by the device's window.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::moment::Moment;
use super::waiting::Waiting;
use crate::id::{DeviceId, MessageId};
use crate::queue::{
    Claimed, DeviceMetrics, Disposal, Enqueue, Finish, Finished, MAX_BURST, MetricsDelta, QueueDepth, Ready,
};

/// The time of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For leases and waits.
    pub(super) at: Moment,
    /// For tokens: microseconds of the wall clock, so that a new process' tokens are larger than the old one's.
    pub(super) wall_us: i64,
}

/// Everything, behind one lock: the operations are short.
#[derive(Default)]
pub(super) struct State {
    /// Places in `devices`.
    places: HashMap<DeviceId, u32>,
    devices: Vec<Device>,
    ready: ReadyIndex,
    pub(super) max_workers: Option<u32>,
    configured_workers: Option<u32>,
}

/// Devices' places by the time from which they may be claimed; [`Device::ready_at`] is the way back.
type ReadyIndex = BTreeSet<(Moment, u32)>;

/// A hundred thousand of these, most of them waiting for their time, must cost little: see the size in the tests.
struct Device {
    id: DeviceId,
    place: u32,
    /// The last hold ended with the device ready again at once.
    eager: bool,
    waiting: Waiting,
    processing: Vec<MessageId>,
    ready_at: Option<Moment>,
    token: i64,
    /// When the lease ends; `None` when it was released.
    leased_until: Option<Moment>,
    next_at: Moment,
    /// `None`: only a hold or metrics have made the device.
    pace: Option<Box<str>>,
    metrics: Option<Box<DeviceMetrics>>,
}

impl Device {
    fn new(id: DeviceId, place: u32) -> Self {
        Self {
            id,
            place,
            eager: false,
            waiting: Waiting::default(),
            processing: Vec::new(),
            ready_at: None,
            token: 0,
            leased_until: None,
            next_at: Moment::ZERO,
            pace: None,
            metrics: None,
        }
    }

    /// Adds a message of which `others` are likely to follow.
    fn add(&mut self, message: MessageId, rank: i64, others: usize) {
        if !self.waiting.contains(message) && !self.processing.contains(&message) {
            self.waiting.insert(message, rank, others);
        }
    }

    fn depth(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    fn has_nothing(&self) -> bool {
        self.waiting.is_empty() && self.processing.is_empty()
    }

    fn leased(&self, now: Now) -> Option<Moment> {
        self.leased_until.filter(|until| *until > now.at)
    }

    /// Settles messages of the processing set.
    fn settle(&mut self, messages: &[(MessageId, Disposal)]) {
        // Nearly always all that were claimed, as they were claimed.
        match self.processing.iter().eq(messages.iter().map(|(message, _)| message)) {
            true => self.processing.clear(),
            false => self.processing.retain(|held| messages.iter().all(|(message, _)| message != held)),
        }
        if self.processing.is_empty() {
            // Most devices are not sending: they need no room for what they send.
            self.processing = Vec::new();
        }
        for (message, disposal) in messages {
            if let Disposal::PutBack(rank) = disposal {
                self.add(*message, *rank, 0);
            }
        }
    }

    /// Puts it at `at` on the ready index, or takes it off.
    fn place_at(&mut self, ready: &mut ReadyIndex, at: Option<Moment>) {
        if self.ready_at == at {
            return;
        }
        if let Some(old) = self.ready_at {
            ready.remove(&(old, self.place));
        }
        if let Some(at) = at {
            ready.insert((at, self.place));
        }
        self.ready_at = at;
    }
}

impl State {
    /// A device that the queue knows, and the index to put it on.
    fn find(&mut self, id: &DeviceId) -> Option<(&mut Device, &mut ReadyIndex)> {
        let place = *self.places.get(id)?;
        Some((self.devices.get_mut(place as usize)?, &mut self.ready))
    }

    fn peek(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(*self.places.get(id)? as usize)
    }

    /// The device, made if need be; `None` when there are four billion.
    fn find_or_make(&mut self, id: &DeviceId) -> Option<(&mut Device, &mut ReadyIndex)> {
        if !self.places.contains_key(id) {
            let place = u32::try_from(self.devices.len()).ok()?;
            if self.devices.len() == self.devices.capacity() {
                // Doubling would leave up to half of it unused.
                self.devices.reserve_exact(1024.max(self.devices.len() / 8));
            }
            self.devices.push(Device::new(id.clone(), place));
            self.places.insert(id.clone(), place);
        }
        self.find(id)
    }

    pub(super) fn enqueue(&mut self, enqueue: &Enqueue, now: Now) -> u32 {
        let Some((device, ready)) = self.find_or_make(&enqueue.device) else { return 0 };
        if device.pace.is_none() {
            device.pace = Some(enqueue.initial.pace.as_str().into());
            device.next_at = device.next_at.max(now.at.plus(enqueue.initial.next_in));
        }
        for (others, (message, rank)) in (0..enqueue.messages.len()).rev().zip(&enqueue.messages) {
            device.add(*message, *rank, others);
        }
        if device.leased(now).is_none() && !device.has_nothing() {
            let at = device.next_at.max(now.at);
            let at = device.ready_at.map_or(at, |stands| stands.min(at));
            device.place_at(ready, Some(at));
        }
        device.depth()
    }

    pub(super) fn ready(&mut self, limit: u32, lease: Duration, now: Now) -> Ready {
        let mut taken = Vec::new();
        while taken.len() < limit as usize && self.ready.first().is_some_and(|(at, _)| *at <= now.at) {
            taken.extend(self.ready.pop_first());
        }
        // Before those taken are hidden: they are not the next.
        let next_in = self.ready.first().map(|(at, _)| at.since(now.at));
        let hidden_until = now.at.plus(lease);
        let (mut devices, mut late) = (Vec::with_capacity(taken.len()), Vec::with_capacity(taken.len()));
        for (at, place) in taken {
            if let Some(device) = self.devices.get_mut(place as usize) {
                device.ready_at = None;
                device.place_at(&mut self.ready, Some(hidden_until));
                devices.push(device.id.clone());
                late.push(now.at.since(at));
            }
        }
        Ready { devices, late, next_in }
    }

    pub(super) fn claim(&mut self, id: &DeviceId, lease: Duration, burst: u32, now: Now) -> Claimed {
        let Some((device, ready)) = self.find(id) else { return Claimed::Empty };
        let waits_until = match device.leased(now) {
            Some(until) => until,
            None if device.has_nothing() => {
                device.place_at(ready, None);
                return Claimed::Empty;
            }
            None => device.next_at,
        };
        if waits_until > now.at {
            if device.ready_at.is_some() {
                device.place_at(ready, Some(waits_until));
            }
            return Claimed::NotYet(waits_until.since(now.at));
        }
        let leased_until = now.at.plus(lease);
        device.token = device.token.saturating_add(1).max(now.wall_us);
        device.leased_until = Some(leased_until);
        let token = device.token;
        // It stays on the index, hidden, so that it is found should the caller never finish.
        let covered = device.ready_at.map_or(leased_until, |at| at.max(leased_until));
        device.place_at(ready, Some(covered));
        if !device.processing.is_empty() {
            let mut messages = device.processing.clone();
            messages.sort_unstable();
            return Claimed::Orphans { token, messages };
        }
        // It has something, and nothing in processing.
        let wanted = if device.eager { burst.clamp(1, MAX_BURST) as usize } else { 1 };
        let messages: Vec<_> = std::iter::from_fn(|| device.waiting.pop_first()).take(wanted).collect();
        device.processing = messages.iter().map(|(message, _)| *message).collect();
        let pace = device.pace.as_deref().unwrap_or_default().to_owned();
        Claimed::Messages { messages, token, pace, depth: device.depth() }
    }

    pub(super) fn renew(&mut self, id: &DeviceId, token: i64, lease: Duration, now: Now) -> bool {
        match self.find(id) {
            Some((Device { token: held, leased_until: Some(until), .. }, _)) if *held == token => {
                *until = (*until).max(now.at.plus(lease));
                true
            }
            _ => false,
        }
    }

    pub(super) fn adopt(&mut self, id: &DeviceId, token: i64, messages: &[(MessageId, Disposal)], now: Now) -> bool {
        let Some((device, ready)) = self.find(id).filter(|(d, _)| d.token == token) else { return false };
        // Released already: a repeat, which changes nothing.
        if device.leased_until.take().is_some() {
            device.settle(messages);
            // Its owner is gone: one message shows how things stand.
            device.eager = false;
            let at = (!device.has_nothing()).then(|| device.next_at.max(now.at));
            device.place_at(ready, at);
        }
        true
    }

    pub(super) fn finish(&mut self, finish: &Finish, now: Now) -> Finished {
        let Some((device, ready)) = self.find(&finish.device).filter(|(d, _)| d.token == finish.token) else {
            return Finished::LeaseLost;
        };
        // Released already: a repeat, which changes nothing.
        if device.leased_until.take().is_some() {
            device.settle(&finish.messages);
            device.next_at = device.next_at.max(now.at.plus(finish.next_in));
            device.eager = device.next_at <= now.at;
            if let Some(pace) = finish.pace.as_ref().filter(|p| !p.is_empty()) {
                device.pace = Some(pace.as_str().into());
            }
            let at = (!device.has_nothing()).then_some(device.next_at);
            device.place_at(ready, at);
        }
        Finished::Done { depth: device.depth() }
    }

    pub(super) fn hold(&mut self, id: &DeviceId, wait: Duration, now: Now) {
        let Some((device, _)) = self.find_or_make(id) else { return };
        let at = now.at.plus(wait);
        if at > device.next_at {
            device.next_at = at;
            device.eager = false;
        }
    }

    pub(super) fn unhold(&mut self, id: &DeviceId, now: Now) {
        let Some((device, ready)) = self.find(id) else { return };
        device.next_at = Moment::ZERO;
        if device.leased(now).is_none() && !device.has_nothing() {
            let at = device.ready_at.map_or(now.at, |stands| stands.min(now.at));
            device.place_at(ready, Some(at));
        }
    }

    pub(super) fn queued(&self, id: &DeviceId) -> Vec<MessageId> {
        self.peek(id).map(|d| d.waiting.iter().collect()).unwrap_or_default()
    }

    pub(super) fn discard(&mut self, id: &DeviceId, messages: &[MessageId]) {
        let Some((device, _)) = self.find(id) else { return };
        for message in messages {
            device.waiting.remove(*message);
        }
    }

    pub(super) fn depth(&self, id: &DeviceId, now: Now) -> QueueDepth {
        let Some(device) = self.peek(id) else { return QueueDepth::default() };
        QueueDepth {
            queued: device.depth(),
            processing: u32::try_from(device.processing.len()).unwrap_or(u32::MAX),
            next_in_ms: u64::try_from(device.next_at.since(now.at).as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
            leased: device.leased(now).is_some(),
        }
    }

    pub(super) fn ready_count(&self) -> u64 {
        self.ready.len() as u64
    }

    pub(super) fn due_count(&self, now: Now) -> u64 {
        self.ready.iter().take_while(|(at, _)| *at <= now.at).count() as u64
    }

    pub(super) fn add_metrics(&mut self, delta: &MetricsDelta) {
        let Some((device, _)) = self.find_or_make(&delta.device) else { return };
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
        self.peek(id).and_then(|d| d.metrics.as_deref()).cloned().unwrap_or_default()
    }

    pub(super) fn configure_max_workers(&mut self, configured: u32, otherwise: u32) -> u32 {
        let before = self.configured_workers.replace(configured);
        let changed = before.is_some_and(|before| before != configured);
        let limit = match self.max_workers {
            None => otherwise,
            Some(limit) if limit != 0 && changed => configured,
            Some(limit) => limit,
        };
        self.max_workers = Some(limit);
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_stays_small() {
        assert!(size_of::<Device>() <= 144, "{} bytes", size_of::<Device>());
        assert_eq!(size_of::<(Moment, u32)>(), 16);
    }
}

//! Loop 2: pending messages move to the devices' queues, in the order in which they should be sent, a window at a time.
//!
//! Two ways lead to a device's queue. The quick one: workers report a queue that runs low, and it is filled at once.
//! The sure one: devices with ready messages are walked through, which also fills a queue that lost its data. Adding is
//! idempotent, so neither way needs to know of the other.
//!
//! A wake-up says that something may be ready that was not before, so the walk that follows looks at every device; recovery
//! sends one a minute for what nobody told. The walks in between, every few seconds, look at devices that the last ones
//! have not seen to: a hundred thousand devices that wait for their turn cost nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::core::{Alarm, Core};
use crate::fleet::Fleet;
use crate::id::DeviceNo;
use crate::metrics::Group;
use crate::queue::{Enqueue, InitialPace, Wake};
use crate::workers::pacing::LAZY;

/// Devices walked through in one statement.
const PAGE: u32 = 1000;
/// Deferred messages made ready in one statement.
const PROMOTE: u32 = 1000;
/// How long the processor rests at least between two walks, so that a burst of wake-ups costs one. It rests as long as the
/// walk took, too: while a large audience is expanded there is always another reason to walk.
const REST: Duration = Duration::from_millis(100);

/// Devices whose queues run low; bounded by the number of devices.
#[derive(Default)]
pub struct Requests {
    low: Mutex<HashSet<DeviceNo>>,
    seen: Mutex<Seen>,
    notify: Notify,
}

/// What is known of devices' queues since something may last have become ready.
#[derive(Default)]
struct Seen {
    /// Devices that were seen to; `true`: their whole backlog is in their queue, so that filling it would find nothing new.
    devices: HashMap<DeviceNo, bool>,
    /// Counts how often all was forgotten: what was read before is not noted after.
    epoch: u64,
}

impl Requests {
    /// A device's queue runs low.
    pub fn request(&self, device: DeviceNo) {
        if self.seen.lock().devices.get(&device) == Some(&true) {
            return;
        }
        if self.low.lock().insert(device) {
            self.notify.notify_one();
        }
    }

    /// A device has a ready message that is in no queue.
    pub fn changed(&self, device: DeviceNo) {
        self.forget([device]);
        self.request(device);
    }

    fn take(&self) -> Vec<DeviceNo> {
        std::mem::take(&mut *self.low.lock()).into_iter().collect()
    }

    fn forget(&self, devices: impl IntoIterator<Item = DeviceNo>) {
        let mut seen = self.seen.lock();
        seen.epoch += 1;
        for device in devices {
            seen.devices.remove(&device);
        }
    }

    fn forget_all(&self) {
        let mut seen = self.seen.lock();
        seen.epoch += 1;
        seen.devices.clear();
    }

    fn epoch(&self) -> u64 {
        self.seen.lock().epoch
    }

    fn note(&self, epoch: u64, devices: impl IntoIterator<Item = (DeviceNo, bool)>) {
        let mut seen = self.seen.lock();
        if seen.epoch == epoch {
            seen.devices.extend(devices);
        }
    }
}

/// The processor of a server.
pub struct Processor {
    core: Core,
    fleet: Arc<Fleet>,
    requests: Arc<Requests>,
}

impl Processor {
    /// A processor that hears of low queues through `requests`.
    pub fn new(core: Core, fleet: Arc<Fleet>, requests: Arc<Requests>) -> Self {
        Self { core, fleet, requests }
    }

    /// Runs until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut alarm = Alarm::new(&*self.core.queue, &[Wake::Processor], stop.clone());
        let interval = Duration::from_millis(self.core.config.processor_interval_ms);
        let quick = tokio::spawn(self.clone().quick_loop(stop));
        let mut place = (0, 0);
        loop {
            let started = self.core.clock.monotonic();
            // Another place among the servers brings devices that others have seen to so far.
            let now = self.fleet.place("processor");
            if alarm.woken() || now != place {
                self.requests.forget_all();
            }
            place = now;
            let wait = match self.walk(place).await {
                Ok(next_due) => next_due.map_or(interval, |d| d.clamp(REST, interval)),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "queues were not filled; trying again");
                    Duration::from_millis(500).min(interval)
                }
            };
            let took = self.core.clock.monotonic().saturating_sub(started);
            tokio::time::sleep(REST.max(took).min(interval)).await;
            if !alarm.sleep(wait).await {
                break;
            }
        }
        if let Err(error) = quick.await {
            tracing::error!(error = %error, "the processor's quick way failed");
        }
    }

    /// Fills the queues that workers reported as low.
    async fn quick_loop(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.requests.notify.notified() => {}
            }
            let low = self.requests.take();
            for batch in low.chunks(self.batch()) {
                if let Err(error) = self.fill(batch).await {
                    // The walk finds them again.
                    tracing::debug!(error = format!("{error:#}"), "low queues were not filled");
                }
            }
        }
    }

    /// Makes due messages ready, then walks through the devices with ready messages that have not been seen to, and
    /// fills the queues that are not full. Returns when the next deferred message is due. Several servers share the
    /// walk: `place` is this one's, and their number.
    ///
    /// # Errors
    /// When store or queue are away.
    pub async fn walk(&self, place: (u32, u32)) -> anyhow::Result<Option<Duration>> {
        let next_due = loop {
            let now = self.core.clock.now();
            let (devices, next) = self.core.store.promote_due(now, PROMOTE).await?;
            let more = !devices.is_empty();
            self.requests.forget(devices);
            if !more || next.is_none_or(|at| at > now) {
                break next.map(|at| at - now);
            }
        };
        let (place, servers) = place;
        let mut after = None;
        loop {
            let page = self.core.store.devices_with_ready(after, PAGE).await?;
            after = page.last().copied();
            let mine: Vec<_> = {
                let seen = self.requests.seen.lock();
                let new = |no: &DeviceNo| !seen.devices.contains_key(no);
                page.iter().copied().filter(|no| no.0.unsigned_abs() % servers == place).filter(new).collect()
            };
            for batch in mine.chunks(self.batch()) {
                self.fill_where_low(batch).await?;
            }
            if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                return Ok(next_due);
            }
        }
    }

    async fn fill_where_low(&self, devices: &[DeviceNo]) -> anyhow::Result<()> {
        let known = self.fleet.devices(devices).await?;
        let (nos, ids): (Vec<_>, Vec<_>) =
            known.values().filter(|d| d.is_available()).map(|d| (d.no, d.spec.id.clone())).unzip();
        let epoch = self.requests.epoch();
        let depths = self.core.queue.depths(&ids).await?;
        let half = self.core.config.window / 2;
        let (low, full): (Vec<_>, Vec<_>) = nos.into_iter().zip(depths).partition(|(_, depth)| depth.queued <= half);
        self.requests.note(epoch, full.into_iter().map(|(no, _)| (no, false)));
        let low: Vec<_> = low.into_iter().map(|(no, _)| no).collect();
        if low.is_empty() { Ok(()) } else { self.fill(&low).await }
    }

    async fn fill(&self, devices: &[DeviceNo]) -> anyhow::Result<()> {
        let runs = self.fleet.runs();
        if runs.ranked().is_empty() {
            return Ok(());
        }
        let window = self.core.config.window;
        let epoch = self.requests.epoch();
        let asked = self.core.clock.monotonic();
        let found = self.core.store.top_up(devices, runs.ranked(), window).await?;
        let took = self.core.clock.monotonic().saturating_sub(asked);
        self.core.metrics.batch(Group::TopUp, devices.len(), took);
        let known = self.fleet.devices(devices).await?;
        let mut batch = Vec::with_capacity(found.len());
        let ready: HashMap<_, _> = found.iter().map(|t| (t.device, t.messages.len())).collect();
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let filled: Vec<_> = devices.iter().map(|no| (*no, ready.get(no).copied().unwrap_or(0) < window)).collect();
        for top_up in found {
            let Some(device) = known.get(&top_up.device).filter(|d| d.is_available()) else { continue };
            // A pace that the queue lost is known to within what is saved lazily.
            let initial = top_up.pace.map_or_else(InitialPace::default, |saved| InitialPace {
                next_in: saved.left(&*self.core.clock).max(LAZY),
                pace: saved.pace,
            });
            batch.push(Enqueue { device: device.spec.id.clone(), messages: top_up.messages, initial });
        }
        if !batch.is_empty() {
            self.core.queue.enqueue(&batch).await?;
            self.core.wake(Wake::Workers).await;
        }
        self.requests.note(epoch, filled);
        Ok(())
    }

    fn batch(&self) -> usize {
        usize::try_from(self.core.config.batch.max(1)).unwrap_or(1)
    }
}

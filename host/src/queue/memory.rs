//! The in-process queue: the same rules in one process, for one machine without Redis. It starts empty, and is gone with
//! the process; the processor fills it from the store.

mod moment;
mod state;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use self::moment::Moment;
use self::state::{Now, State};
use super::{
    Claimed, DeviceMetrics, Disposal, Enqueue, Finish, Finished, MetricsDelta, Queue, QueueDepth, QueueHealth, Ready,
    Result, Wake,
};
use crate::clock::SharedClock;
use crate::id::{DeviceId, HostId, MessageId};

/// Wake-ups that a slow listener may be behind.
const BACKLOG: usize = 256;

/// The in-process queue.
pub struct MemoryQueue {
    clock: SharedClock,
    state: Mutex<State>,
    filled: AtomicBool,
    calls: AtomicU64,
    wakes: broadcast::Sender<Wake>,
}

impl MemoryQueue {
    /// An empty queue whose leases and waits are measured with `clock`'s monotonic time.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            filled: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            wakes: broadcast::Sender::new(BACKLOG),
        }
    }

    /// Counts `commands` and gives the state with the time at which they run.
    fn run<T>(&self, commands: usize, work: impl FnOnce(&mut State, Now) -> T) -> T {
        self.calls.fetch_add(commands as u64, Ordering::Relaxed);
        let mut state = self.state.lock();
        // Read under the lock, so that time does not run backwards between two callers.
        let now =
            Now { at: Moment::of(self.clock.monotonic()), wall_us: self.clock.now().as_ms().saturating_mul(1000) };
        work(&mut state, now)
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn commands(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn errors(&self) -> u64 {
        0
    }

    async fn health(&self) -> Result<QueueHealth> {
        Ok(QueueHealth { server: "in-process".to_owned(), warnings: Vec::new() })
    }

    async fn ensure_generation(&self) -> Result<bool> {
        Ok(!self.filled.swap(true, Ordering::AcqRel))
    }

    async fn enqueue(&self, batch: &[Enqueue]) -> Result<Vec<u32>> {
        Ok(self.run(batch.len(), |state, now| batch.iter().map(|e| state.enqueue(e, now)).collect()))
    }

    async fn ready(&self, limit: u32, lease: Duration) -> Result<Ready> {
        Ok(self.run(1, |state, now| state.ready(limit, lease, now)))
    }

    async fn claim(&self, _owner: HostId, devices: &[DeviceId], lease: Duration, burst: u32) -> Result<Vec<Claimed>> {
        Ok(self.run(devices.len(), |state, now| devices.iter().map(|d| state.claim(d, lease, burst, now)).collect()))
    }

    async fn renew(&self, leases: &[(DeviceId, i64)], lease: Duration) -> Result<Vec<bool>> {
        Ok(self.run(leases.len(), |state, now| {
            leases.iter().map(|(device, token)| state.renew(device, *token, lease, now)).collect()
        }))
    }

    async fn adopt(&self, device: &DeviceId, token: i64, messages: &[(MessageId, Disposal)]) -> Result<bool> {
        Ok(self.run(1, |state, now| state.adopt(device, token, messages, now)))
    }

    async fn finish(&self, batch: &[Finish]) -> Result<Vec<Finished>> {
        Ok(self.run(batch.len(), |state, now| batch.iter().map(|f| state.finish(f, now)).collect()))
    }

    async fn hold(&self, devices: &[DeviceId], wait: Duration) -> Result<()> {
        self.run(devices.len(), |state, now| devices.iter().for_each(|d| state.hold(d, wait, now)));
        Ok(())
    }

    async fn unhold(&self, devices: &[DeviceId]) -> Result<()> {
        self.run(devices.len(), |state, now| devices.iter().for_each(|d| state.unhold(d, now)));
        Ok(())
    }

    async fn queued(&self, device: &DeviceId) -> Result<Vec<MessageId>> {
        Ok(self.run(1, |state, _| state.queued(device)))
    }

    async fn discard(&self, device: &DeviceId, messages: &[MessageId]) -> Result<()> {
        self.run(1, |state, _| state.discard(device, messages));
        Ok(())
    }

    async fn depths(&self, devices: &[DeviceId]) -> Result<Vec<QueueDepth>> {
        Ok(self.run(devices.len(), |state, now| devices.iter().map(|d| state.depth(d, now)).collect()))
    }

    async fn ready_count(&self) -> Result<u64> {
        Ok(self.run(1, |state, _| state.ready_count()))
    }

    async fn due_count(&self) -> Result<u64> {
        Ok(self.run(1, |state, now| state.due_count(now)))
    }

    async fn add_metrics(&self, deltas: &[MetricsDelta]) -> Result<()> {
        self.run(deltas.len(), |state, _| deltas.iter().for_each(|d| state.add_metrics(d)));
        Ok(())
    }

    async fn metrics(&self, devices: &[DeviceId]) -> Result<Vec<DeviceMetrics>> {
        Ok(self.run(devices.len(), |state, _| devices.iter().map(|d| state.metrics(d)).collect()))
    }

    async fn set_active_workers(&self, _count: u32) -> Result<()> {
        // Nobody else could read it: the process knows its own workers.
        Ok(())
    }

    async fn max_workers(&self) -> Result<Option<u32>> {
        Ok(self.run(1, |state, _| state.max_workers))
    }

    async fn set_max_workers(&self, limit: u32) -> Result<()> {
        self.run(1, |state, _| state.max_workers = Some(limit));
        Ok(())
    }

    async fn configure_max_workers(&self, configured: u32, otherwise: u32) -> Result<u32> {
        Ok(self.run(1, |state, _| state.configure_max_workers(configured, otherwise)))
    }

    async fn publish(&self, wake: Wake) -> Result<()> {
        // An error means that nobody listens.
        let _ = self.wakes.send(wake);
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<Wake> {
        self.wakes.subscribe()
    }
}

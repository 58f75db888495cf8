//! The end of attempts: grouped into one transaction, then acknowledged in the queue. A group is whatever came in while
//! the group before it was being written, so groups grow with the load by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::device::{Device, PaceUpdate};
use crate::id::{DeviceId, DeviceNo};
use crate::message::{AdvanceTo, Settled, Settlement};
use crate::metrics::{Backend, Group};
use crate::queue::{Disposal, Finish, Finished, MetricsDelta, Wake};
use crate::store::StoreError;
use crate::workers::Pool;
use crate::workers::pacing::LAZY;

/// Attempts settled in one transaction at most.
const GROUP: usize = 512;
/// Attempts that may wait for their settlement; beyond that workers wait, and so does the dispatcher.
pub const BACKLOG: usize = 2048;
/// Groups written at the same time.
pub const WRITERS: usize = 2;

/// Flushes of paces for each one of metrics.
const METRICS_EVERY: u32 = 4;

/// A finished attempt on its way to the store.
pub struct Done {
    /// What the store is told.
    pub settlement: Settlement,
    /// The device.
    pub device: Arc<Device>,
    /// The message's rank, to put it back with.
    pub rank: i64,
    /// When the device may send again, on the monotonic clock.
    pub next_at: Duration,
    /// The device's pace to be kept; `None` leaves it.
    pub pace: Option<String>,
    /// The last delay, for the device's metrics.
    pub delay: Duration,
}

impl Done {
    fn disposal(&self) -> Disposal {
        match &self.settlement.outcome {
            Settled::Released => Disposal::PutBack(self.rank),
            Settled::Retry { due_at, .. } if *due_at <= self.settlement.finished_at => Disposal::PutBack(self.rank),
            _ => Disposal::Drop,
        }
    }
}

/// What is written now and then instead of with each send.
#[derive(Default)]
pub struct Lazy {
    metrics: Mutex<HashMap<DeviceId, MetricsDelta>>,
    paces: Mutex<HashMap<DeviceNo, PaceUpdate>>,
}

impl Pool {
    /// Settles groups until every sender of the channel is gone.
    pub async fn settle_loop(self: Arc<Self>, inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Done>>>) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            group.clear();
            if inbox.lock().await.recv_many(&mut group, GROUP).await == 0 {
                return;
            }
            self.settle_group(std::mem::take(&mut group)).await;
        }
    }

    async fn settle_group(&self, mut group: Vec<Done>) {
        let settlements: Vec<Settlement> = group.iter().map(|d| d.settlement.clone()).collect();
        let asked = self.core.clock.monotonic();
        let applied = match self.patiently(|| self.core.store.settle(&settlements)).await {
            Some(applied) => applied,
            None => self.settle_singly(&settlements).await,
        };
        self.metrics.settled(&settlements, &applied);
        self.metrics.batch(Group::Settle, group.len(), self.core.clock.monotonic().saturating_sub(asked));
        self.after(&group, &applied).await;

        let monotonic = self.core.clock.monotonic();
        let mut soonest = Duration::MAX;
        let finishes: Vec<Finish> = group
            .iter_mut()
            .map(|d| {
                let next_in = d.next_at.saturating_sub(monotonic);
                soonest = soonest.min(next_in);
                Finish {
                    device: d.device.spec.id.clone(),
                    token: d.settlement.token,
                    messages: vec![(d.settlement.message, d.disposal())],
                    next_in,
                    pace: d.pace.take(),
                }
            })
            .collect();
        self.acknowledge(&group, &applied, &finishes).await;
        for finish in &finishes {
            self.sending.leases.remove(&finish.device, finish.token);
        }
        self.due.bring_forward(soonest);
    }

    /// Tells the queue, and repairs where it no longer knew the lease.
    async fn acknowledge(&self, group: &[Done], applied: &[bool], finishes: &[Finish]) {
        let mut answer = self.core.queue.finish(finishes).await;
        for _ in 0..3 {
            if answer.is_ok() {
                break;
            }
            // Safe to repeat: what was released by a lost answer says `LeaseLost` now.
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = self.core.queue.finish(finishes).await;
        }
        match answer {
            Ok(answers) => {
                let mut lost = Vec::new();
                for (((done, applied), finish), answer) in group.iter().zip(applied).zip(finishes).zip(answers) {
                    match answer {
                        Finished::Done { depth } if depth <= self.low_water => {
                            self.processor.request(done.device.no);
                        }
                        Finished::Done { .. } => {}
                        // The store says that this send happened, so its pace holds, whoever has the device now.
                        Finished::LeaseLost if *applied => lost.push(finish),
                        Finished::LeaseLost => {}
                    }
                }
                for finish in lost {
                    if let Err(error) = self.core.queue.hold(std::slice::from_ref(&finish.device), finish.next_in).await
                    {
                        tracing::warn!(error = %error, device.id = %finish.device, "a device's pace was not kept");
                    }
                }
            }
            // The leases run out; whoever takes the devices then finds in the store what became of the messages.
            Err(error) => {
                self.metrics.backend_error(Backend::Queue);
                tracing::warn!(error = %error, messages = finishes.len(), "sends were not acknowledged");
            }
        }
    }

    /// One settlement of the group is not acceptable to the store: find out which, so that the others are not held up.
    async fn settle_singly(&self, settlements: &[Settlement]) -> Vec<bool> {
        let mut applied = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            let one = self.patiently(|| self.core.store.settle(std::slice::from_ref(settlement))).await;
            if one.is_none() {
                tracing::error!(message.id = %settlement.message, "an attempt could not be settled; recovery will");
            }
            applied.push(one.and_then(|a| a.first().copied()).unwrap_or(false));
        }
        applied
    }

    /// Repeats a call to the store for as long as it is away; `None` when it refuses.
    pub async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = Duration::from_millis(50);
        loop {
            match call().await {
                Ok(value) => return Some(value),
                Err(StoreError::Unavailable(error)) => {
                    self.metrics.backend_error(Backend::Store);
                    tracing::warn!(error = format!("{error:#}"), "the store is away; trying again");
                    if self.abort.is_cancelled() {
                        return None;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(error) => {
                    tracing::error!(error = ?error, "the store refused");
                    return None;
                }
            }
        }
    }

    /// What a settled group means for the rest of the server.
    async fn after(&self, group: &[Done], applied: &[bool]) {
        let (mut steps, mut finals) = (false, false);
        {
            let mut metrics = self.lazy.metrics.lock();
            let mut paces = self.lazy.paces.lock();
            for (done, _) in group.iter().zip(applied).filter(|(_, applied)| **applied) {
                let s = &done.settlement;
                if let Some(entry) = &s.suppress {
                    self.sending.fleet.note_suppression(entry);
                }
                steps |= s.sequence.as_ref().is_some_and(|a| matches!(a.to, AdvanceTo::NextStep(_)));
                let delta = metrics.entry(done.device.spec.id.clone()).or_insert_with(|| MetricsDelta {
                    device: done.device.spec.id.clone(),
                    sent: 0,
                    failed: 0,
                    retried: 0,
                    latency_ms: 0,
                    last_sent_at: None,
                    last_delay_ms: 0,
                });
                match &s.outcome {
                    Settled::Sent { .. } => {
                        delta.sent += 1;
                        delta.last_sent_at = Some(s.finished_at);
                    }
                    Settled::Failed(_) | Settled::Unknown(_) => delta.failed += 1,
                    Settled::Retry { .. } => delta.retried += 1,
                    Settled::Released | Settled::Suppressed | Settled::Expired => {}
                }
                finals |= !matches!(s.outcome, Settled::Retry { .. } | Settled::Released);
                delta.latency_ms += u64::try_from((s.finished_at - s.started_at).as_millis()).unwrap_or(0);
                delta.last_delay_ms = u64::try_from(done.delay.as_millis()).unwrap_or(u64::MAX);
                if s.pace.is_none()
                    && let Some(pace) = &done.pace
                {
                    let wait = done.next_at.saturating_sub(self.core.clock.monotonic());
                    let next_at = self.core.clock.now().plus(wait);
                    let update = PaceUpdate { device: s.device, token: s.token, next_at, pace: pace.clone() };
                    paces.insert(s.device, update);
                } else if s.pace.is_some() {
                    paces.remove(&s.device);
                }
            }
        }
        if finals {
            self.sending.fleet.note_final();
        }
        if steps {
            self.core.wake(Wake::Trigger).await;
        }
    }

    async fn flush_metrics(&self) {
        let metrics: Vec<_> = std::mem::take(&mut *self.lazy.metrics.lock()).into_values().collect();
        if !metrics.is_empty()
            && let Err(error) = self.core.queue.add_metrics(&metrics).await
        {
            tracing::debug!(error = %error, "device metrics of the last seconds are lost");
        }
    }

    async fn flush_paces(&self) {
        let paces: Vec<_> = std::mem::take(&mut *self.lazy.paces.lock()).into_values().collect();
        for page in paces.chunks(1000) {
            if let Err(error) = self.core.store.save_paces(page).await {
                tracing::warn!(error = %error, "paces were not saved; they will be with the next sends");
                break;
            }
        }
    }

    /// Flushes paces twice in the time that losing one may cost, and metrics, for people to look at, every few seconds;
    /// both a last time when the pool has drained.
    pub async fn flush_loop(self: Arc<Self>) {
        let mut metrics_in = METRICS_EVERY;
        while !self.drained.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(LAZY / 2) => {}
                () = self.drained.cancelled() => break,
            }
            self.flush_paces().await;
            metrics_in -= 1;
            if metrics_in == 0 {
                metrics_in = METRICS_EVERY;
                self.flush_metrics().await;
            }
        }
        self.flush_paces().await;
        self.flush_metrics().await;
    }
}

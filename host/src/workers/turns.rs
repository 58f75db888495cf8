//! Turns: one device's attempt ends, its next begins. Those of all devices that come in while a group is being written
//! are the next group, so groups grow with the load by themselves. A device that is done with its lease is given back to
//! the queue after its last end was written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::device::{Device, PaceUpdate};
use crate::id::{DeviceId, DeviceNo};
use crate::message::{AdvanceTo, Begun, Claim, Settled, Settlement, Turned};
use crate::metrics::Group;
use crate::queue::{Disposal, Finish, Finished, MetricsDelta, Wake};
use crate::store::StoreError;
use crate::workers::Pool;
use crate::workers::pacing::LAZY;

/// Turns that may wait to be written; beyond that workers wait, and so does the dispatcher.
pub const BACKLOG: usize = 2048;

/// Flushes of paces for each one of metrics.
const METRICS_EVERY: u32 = 4;

/// A finished attempt on its way to the store.
pub struct Done {
    /// What the store is told.
    pub settlement: Settlement,
    /// The device.
    pub device: Arc<Device>,
    /// The last delay, for the device's metrics.
    pub delay: Duration,
}

impl Done {
    /// What becomes of the message in the queue, where it stood with this rank.
    pub fn disposal(&self, rank: i64) -> Disposal {
        match &self.settlement.outcome {
            Settled::Released => Disposal::PutBack(rank),
            Settled::Retry { due_at, .. } if *due_at <= self.settlement.finished_at => Disposal::PutBack(rank),
            _ => Disposal::Drop,
        }
    }
}

/// What a device does after its attempt's end.
pub enum Next {
    /// It begins this message.
    Begin(Claim, oneshot::Sender<Answer>),
    /// It gives its lease back.
    Release(Release),
}

/// The answer to [`Next::Begin`].
pub enum Answer {
    /// The store's.
    Begun(Begun),
    /// The store did not answer: the message may have been begun. Nothing was sent.
    Uncertain,
}

/// A lease to be given back.
pub struct Release {
    /// The device.
    pub device: Arc<Device>,
    /// What the queue is told; its wait is set when it is told.
    pub finish: Finish,
    /// When the device may send again, on the monotonic clock.
    pub next_at: Duration,
    /// A pace to be saved within a second.
    pub pace: Option<PaceUpdate>,
}

/// One device's turn.
pub struct Turn {
    /// The attempt that ended, if there was one.
    pub done: Option<Done>,
    /// What follows.
    pub next: Next,
}

/// What is written now and then instead of with each send.
#[derive(Default)]
pub struct Lazy {
    metrics: Mutex<HashMap<DeviceNo, MetricsDelta>>,
    paces: Mutex<HashMap<DeviceNo, PaceUpdate>>,
}

impl Pool {
    /// Writes groups until every sender of the channel is gone.
    pub async fn turn_loop(self: Arc<Self>, inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Turn>>>) {
        let most = self.core.store.grouping().turns;
        loop {
            let mut group = Vec::with_capacity(most);
            if inbox.lock().await.recv_many(&mut group, most).await == 0 {
                return;
            }
            self.write(group).await;
        }
    }

    async fn write(&self, group: Vec<Turn>) {
        let mut ends = Vec::with_capacity(group.len());
        let mut dones = Vec::with_capacity(group.len());
        let mut claims = Vec::new();
        let mut waiting = Vec::new();
        let mut releases = Vec::new();
        for Turn { done, next } in group {
            let ended = done.is_some();
            if let Some(done) = done {
                ends.push(done.settlement);
                dones.push((done.device, done.delay));
            }
            match next {
                Next::Begin(claim, answer) => {
                    claims.push(claim);
                    waiting.push(answer);
                }
                Next::Release(release) => releases.push((release, ended.then(|| ends.len() - 1))),
            }
        }
        let turned = self.turn(&ends, &claims).await;
        for (answer, begun) in waiting.into_iter().zip(turned.begun) {
            // A worker that is gone panicked: recovery finds its message.
            let _worker_is_gone = answer.send(begun);
        }
        if !ends.is_empty() {
            self.metrics.settled(&ends, &turned.applied);
            self.after(&ends, &dones, &turned.applied).await;
        }
        if !releases.is_empty() {
            let releases = releases
                .into_iter()
                .map(|(release, end)| (release, end.is_none_or(|at| turned.applied.get(at) == Some(&true))))
                .collect();
            self.release(releases).await;
        }
    }

    /// The store's turn; when the store is away, the ends are written as soon as it is back, and the claims are left.
    async fn turn(&self, ends: &[Settlement], claims: &[Claim]) -> AnsweredTurn {
        if ends.is_empty() && claims.is_empty() {
            return AnsweredTurn { applied: Vec::new(), begun: Vec::new() };
        }
        let asked = self.core.clock.monotonic();
        let turned = self.core.store.turn(self.core.host, ends, claims, self.core.clock.now()).await;
        let took = self.core.clock.monotonic().saturating_sub(asked);
        match turned {
            Ok(Turned { applied, begun }) => {
                self.metrics.batch(Group::Turn, ends.len() + claims.len(), took);
                self.metrics.begun(claims.len());
                AnsweredTurn { applied, begun: begun.into_iter().map(Answer::Begun).collect() }
            }
            Err(error) => {
                tracing::warn!(error = %error, ends = ends.len(), begins = claims.len(), "a group was not written; trying again");
                let applied = if ends.is_empty() {
                    Vec::new()
                } else if let Some(applied) = self.patiently(|| self.core.store.settle(ends)).await {
                    applied
                } else {
                    self.settle_singly(ends).await
                };
                AnsweredTurn { applied, begun: claims.iter().map(|_| Answer::Uncertain).collect() }
            }
        }
    }

    /// Gives leases back. `true`: the last attempt under the lease counted, or there was none.
    async fn release(&self, releases: Vec<(Release, bool)>) {
        let monotonic = self.core.clock.monotonic();
        let mut soonest = Duration::MAX;
        let mut finishes = Vec::with_capacity(releases.len());
        let mut released = Vec::with_capacity(releases.len());
        let mut paces = Vec::new();
        for (Release { device, mut finish, next_at, pace }, counted) in releases {
            finish.next_in = next_at.saturating_sub(monotonic);
            soonest = soonest.min(finish.next_in);
            finishes.push(finish);
            released.push((device.no, counted));
            paces.extend(pace.filter(|_| counted));
        }
        let asked = self.core.clock.monotonic();
        self.acknowledge(&released, &finishes).await;
        self.metrics.batch(Group::Release, finishes.len(), self.core.clock.monotonic().saturating_sub(asked));
        for finish in &finishes {
            self.sending.leases.remove(&finish.device, finish.token);
        }
        self.lazy.paces.lock().extend(paces.into_iter().map(|pace| (pace.device, pace)));
        self.due.bring_forward(soonest);
    }

    /// Tells the queue, and repairs where it no longer knew the lease. Each finish has its device and whether the last attempt
    /// counted.
    async fn acknowledge(&self, released: &[(DeviceNo, bool)], finishes: &[Finish]) {
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
                for (((device, counted), finish), answer) in released.iter().zip(finishes).zip(answers) {
                    match answer {
                        Finished::Done { depth } if depth <= self.low_water => {
                            self.processor.request(*device);
                        }
                        Finished::Done { .. } => {}
                        // The store says that this send happened, so its pace holds, whoever has the device now.
                        Finished::LeaseLost if *counted => lost.push(finish),
                        Finished::LeaseLost => {}
                    }
                }
                for finish in lost {
                    self.keep_pace(&finish.device, finish.next_in).await;
                }
            }
            // The leases run out; whoever takes the devices then finds in the store what became of the messages.
            Err(error) => {
                tracing::warn!(error = %error, devices = finishes.len(), "leases were not given back");
            }
        }
    }

    /// Has the queue hold a device whose send it was not told of by the lease's holder.
    pub async fn keep_pace(&self, device: &DeviceId, wait: Duration) {
        if let Err(error) = self.core.queue.hold(std::slice::from_ref(device), wait).await {
            tracing::warn!(error = %error, device.id = %device, "a device's pace was not kept");
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

    /// What written ends mean for the rest of the server.
    async fn after(&self, ends: &[Settlement], dones: &[(Arc<Device>, Duration)], applied: &[bool]) {
        let (mut steps, mut finals) = (false, false);
        {
            let mut metrics = self.lazy.metrics.lock();
            let mut paces = self.lazy.paces.lock();
            for ((s, (device, delay)), _) in ends.iter().zip(dones).zip(applied).filter(|(_, applied)| **applied) {
                if let Some(entry) = &s.suppress {
                    self.sending.fleet.note_suppression(entry);
                }
                steps |= s.sequence.as_ref().is_some_and(|a| matches!(a.to, AdvanceTo::NextStep(_)));
                let delta = metrics.entry(s.device).or_insert_with(|| MetricsDelta {
                    device: device.spec.id.clone(),
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
                delta.last_delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                if s.pace.is_some() {
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

/// What a group came to.
struct AnsweredTurn {
    applied: Vec<bool>,
    begun: Vec<Answer>,
}

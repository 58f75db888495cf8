//! The dispatcher: takes devices that are due, claims their next messages, begins them in the store in one statement,
//! and hands each to a worker. It runs one round at a time, so that everything that became free during a round makes
//! up the next one: batches grow with the load by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;

use crate::device::{Device, Pace};
use crate::fleet::{Configured, LiveRun, sender_for};
use crate::id::{DeviceId, MessageId};
use crate::message::{Begun, Claim, Reason, Settled, Settlement};
use crate::metrics::{Backend, Group};
use crate::queue::{Claimed, Disposal, Finish, Wake};
use crate::store::StoreError;
use crate::workers::attempt::Attempt;
use crate::workers::leases::safe_part;
use crate::workers::{Pool, orphans};

/// Devices claimed in one round at most.
pub const ROUND: usize = 256;
/// How long a device waits whose message another worker seems to be sending.
const BUSY: Duration = Duration::from_millis(250);
/// How long a device waits that is disabled or held; an operator's change ends the wait at once.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// A claimed message on its way to being begun.
struct Taken {
    device: Arc<Device>,
    message: MessageId,
    rank: i64,
    token: i64,
    pace: Pace,
    depth: u32,
    run: Arc<LiveRun>,
    sender: Configured,
}

/// What a worker gets with its permit.
pub struct Assignment {
    /// The attempt.
    pub attempt: Attempt,
    /// The message's rank in the queue.
    pub rank: i64,
    /// The device's limiter.
    pub pace: Pace,
    /// Messages left on the device.
    pub depth: u32,
}

/// What a round came to.
pub struct Round {
    /// Devices that were due.
    pub devices: usize,
    /// When the next one is due.
    pub next_in: Option<Duration>,
}

impl Pool {
    /// One round with these permits.
    ///
    /// # Errors
    /// When store or queue are away; what was claimed comes back when its lease runs out.
    pub async fn round(self: &Arc<Self>, mut permits: Vec<OwnedSemaphorePermit>) -> anyhow::Result<Round> {
        let core = &self.core;
        let lease = core.config.lease();
        let limit = u32::try_from(permits.len().min(ROUND)).unwrap_or(1);
        let ready = core.queue.ready(limit, lease).await?;
        if ready.devices.is_empty() {
            return Ok(Round { devices: 0, next_in: ready.next_in });
        }
        let valid_until = core.clock.monotonic() + safe_part(lease);
        let asked = core.clock.monotonic();
        let answers = core.queue.claim(core.host, &ready.devices, lease, 1).await?;
        self.metrics.batch(Group::Claim, ready.devices.len(), core.clock.monotonic().saturating_sub(asked));
        let devices = self.meet(&ready.devices).await?;

        let mut taken = Vec::new();
        let mut over = Vec::new();
        for (id, answer) in ready.devices.iter().zip(answers) {
            match answer {
                Claimed::Messages { messages, token, pace, depth } => {
                    let Some((message, rank)) = messages.into_iter().next() else { continue };
                    let finish = |disposal, next_in| Finish {
                        device: id.clone(),
                        token,
                        messages: vec![(message, disposal)],
                        next_in,
                        pace: None,
                    };
                    let Some(device) = devices.get(id) else {
                        // The device was deleted; the store says what becomes of its messages.
                        over.push(finish(Disposal::Drop, Duration::ZERO));
                        continue;
                    };
                    match self.admit(device, message, rank, token, &pace, depth) {
                        Ok(t) => taken.push(t),
                        Err(Refused::Later(wait)) => over.push(finish(Disposal::PutBack(rank), wait)),
                        Err(Refused::Inactive) => {
                            self.clear_run(id, message).await;
                            over.push(finish(Disposal::Drop, Duration::ZERO));
                        }
                    }
                }
                Claimed::Orphans { token, messages } => {
                    if let Some(device) = devices.get(id) {
                        let pool = self.clone();
                        let device = device.clone();
                        self.tasks.spawn(async move { orphans::adopt(&pool, &device, token, &messages).await });
                    }
                }
                Claimed::Empty | Claimed::NotYet(_) => {}
            }
        }
        for t in &taken {
            self.sending.leases.insert(t.device.spec.id.clone(), t.token, t.message, valid_until);
        }
        if !taken.is_empty() {
            over.extend(self.begin(taken, &mut permits).await);
        }
        for finish in &over {
            self.sending.leases.remove(&finish.device, finish.token);
        }
        if !over.is_empty() {
            core.queue.finish(&over).await?;
        }
        Ok(Round { devices: ready.devices.len(), next_in: ready.next_in })
    }

    /// The devices by their ids, from memory where possible.
    async fn meet(&self, ids: &[DeviceId]) -> Result<HashMap<DeviceId, Arc<Device>>, StoreError> {
        let mut devices = self.sending.fleet.known(ids);
        let missing: Vec<_> = ids.iter().filter(|id| !devices.contains_key(*id)).cloned().collect();
        let mut found = stream::iter(missing)
            .map(|id| async move { self.sending.fleet.device(&id).await.map(|d| (id, d)) })
            .buffer_unordered(8);
        while let Some(entry) = found.next().await {
            let (id, device) = entry?;
            if let Some(device) = device {
                devices.insert(id, device);
            }
        }
        Ok(devices)
    }

    /// Whether a claimed message may be begun at all, by what is in memory.
    fn admit(
        &self,
        device: &Arc<Device>,
        message: MessageId,
        rank: i64,
        token: i64,
        pace: &str,
        depth: u32,
    ) -> Result<Taken, Refused> {
        if !device.is_available() {
            return Err(Refused::Later(UNAVAILABLE));
        }
        let runs = self.sending.fleet.runs();
        let run = runs.sending(message.run()).ok_or(Refused::Inactive)?.clone();
        let Some(sender) = sender_for(&self.core.plugins, &run, device) else {
            let reason = Reason::new(
                "no-sender",
                format!("neither the campaign nor device {} names a sender that is there", device.spec.id),
            );
            self.breakers.pause(&run.run, reason);
            return Err(Refused::Inactive);
        };
        let pace = Pace::parse(Some(pace).filter(|p| !p.is_empty()));
        let capped = pace.capped_for(&device.spec.caps, self.core.clock.now());
        if !capped.is_zero() {
            return Err(Refused::Later(capped));
        }
        Ok(Taken { device: device.clone(), message, rank, token, pace, depth, run, sender })
    }

    /// Takes every message of a run that may not send off a device's queue, so that they stand in nobody's way; the
    /// processor brings them back when the run goes on.
    async fn clear_run(&self, device: &DeviceId, message: MessageId) {
        let cleared = async {
            let queued = self.core.queue.queued(device).await?;
            let of_run: Vec<_> = queued.into_iter().filter(|m| m.run() == message.run()).collect();
            self.core.queue.discard(device, &of_run).await
        };
        if let Err(error) = cleared.await {
            tracing::debug!(error = %error, device.id = %device, "a paused run stays on a queue for now");
        }
    }

    /// Begins the messages in the store and spawns a worker for each that started. Returns the ends of the others' holds.
    async fn begin(self: &Arc<Self>, taken: Vec<Taken>, permits: &mut Vec<OwnedSemaphorePermit>) -> Vec<Finish> {
        let claims: Vec<Claim> = taken
            .iter()
            .map(|t| Claim {
                message: t.message,
                device: t.device.no,
                token: t.token,
                versions: t.run.versions(&t.sender),
            })
            .collect();
        let asked = self.core.clock.monotonic();
        let begun = match self.core.store.begin(self.core.host, &claims, self.core.clock.now()).await {
            Ok(begun) => begun,
            Err(error) => {
                self.metrics.backend_error(Backend::Store);
                tracing::warn!(error = %error, messages = claims.len(), "messages could not be begun");
                let pool = self.clone();
                self.tasks.spawn(async move { pool.undo(taken).await });
                return Vec::new();
            }
        };
        self.metrics.begun(claims.len());
        self.metrics.batch(Group::Begin, claims.len(), self.core.clock.monotonic().saturating_sub(asked));
        let mut over = Vec::new();
        for (t, begun) in taken.into_iter().zip(begun) {
            let finish = |disposal, next_in| Finish {
                device: t.device.spec.id.clone(),
                token: t.token,
                messages: vec![(t.message, disposal)],
                next_in,
                pace: None,
            };
            match begun {
                Begun::Started(work) => {
                    let Some(permit) = permits.pop() else {
                        // Cannot be: there are as many permits as devices. Recovery would find the message.
                        tracing::error!("a message was begun without a permit");
                        continue;
                    };
                    let attempt = Attempt { work, run: t.run, sender: t.sender, device: t.device, token: t.token };
                    self.spawn(Assignment { attempt, rank: t.rank, pace: t.pace, depth: t.depth }, permit);
                }
                Begun::Suppressed | Begun::Expired => {
                    self.sending.fleet.note_final();
                    over.push(finish(Disposal::Drop, Duration::ZERO));
                }
                Begun::Gone => over.push(finish(Disposal::Drop, Duration::ZERO)),
                Begun::Inactive => {
                    // Memory is behind the store: have it look.
                    self.core.wake(Wake::Changed).await;
                    self.clear_run(&t.device.spec.id, t.message).await;
                    over.push(finish(Disposal::Drop, Duration::ZERO));
                }
                Begun::DeviceBusy => {
                    over.push(finish(Disposal::PutBack(t.rank), BUSY));
                    let (pool, device) = (self.clone(), t.device);
                    self.tasks.spawn(async move { orphans::free_device(&pool, device.no).await });
                }
            }
        }
        over
    }

    /// The store did not answer `begin`: it may have been committed. Nothing has left, so each message goes back as if
    /// it had never been taken, as soon as the store says whether it was.
    async fn undo(self: Arc<Self>, taken: Vec<Taken>) {
        let mut over = Vec::with_capacity(taken.len());
        for t in taken {
            let alive = self.core.config.alive();
            let found = self
                .patiently(|| self.core.store.in_flight(Some(t.device.no), None, 2, self.core.clock.now(), alive))
                .await;
            let Some(found) = found else { continue };
            if let Some(mine) = found.into_iter().find(|f| f.message == t.message && f.token == t.token) {
                let now = self.core.clock.now();
                let released = Settlement {
                    message: t.message,
                    device: t.device.no,
                    token: t.token,
                    attempt: mine.attempt,
                    outcome: Settled::Released,
                    started_at: mine.started_at,
                    finished_at: now,
                    pace: None,
                    suppress: None,
                    sequence: None,
                };
                self.patiently(|| self.core.store.settle(std::slice::from_ref(&released))).await;
            }
            self.sending.leases.remove(&t.device.spec.id, t.token);
            over.push(Finish {
                device: t.device.spec.id.clone(),
                token: t.token,
                messages: vec![(t.message, Disposal::PutBack(t.rank))],
                next_in: Duration::ZERO,
                pace: None,
            });
        }
        if let Err(error) = self.core.queue.finish(&over).await {
            tracing::debug!(error = %error, "leases are left to run out");
        }
    }
}

/// Why a claimed message is not begun.
enum Refused {
    /// The device may not send for this long.
    Later(Duration),
    /// The run may not send.
    Inactive,
}

//! Loop 3: the workers. One worker is one send in flight, never a sleeping timer: a device that waits holds none.
//!
//! ```text
//! dispatcher ── ready ▸ claim ──▶ worker, a session per lease: begin ▸ render ▸ start ▸ requests ▸ next delay ▸ begin …
//!      ▲ permits                    │ bounded channel: end and begin    ▲
//!      └── finish (queue) ◀── turn (one transaction per group) ─────────┘
//! ```

pub mod attempt;
pub mod breakers;
pub mod claim;
mod down;
pub mod due;
pub mod leases;
pub mod orphans;
pub mod pacing;
pub mod session;
pub mod shadow;
pub mod turns;
pub mod verdict;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::{Alarm, Core};
use crate::egress::Egress;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::processor::Requests;
use crate::queue::Wake;
use crate::workers::attempt::Sending;
use crate::workers::breakers::Breakers;
use crate::workers::due::Due;
use crate::workers::leases::Leases;
use crate::workers::session::Session;
use crate::workers::shadow::Shadows;
use crate::workers::turns::{BACKLOG, Lazy, Turn};
use crate::workers::verdict::Consequence;

/// How long the dispatcher sleeps at most: the price of a lost wake-up.
pub const POLL: Duration = Duration::from_millis(1000);

/// How long the dispatcher rests between two rounds that find work, so that what becomes due or free meanwhile makes one
/// round: a round asks every shard of the ready index, however few devices it takes.
pub const GATHER: Duration = Duration::from_millis(2);

/// The workers of a server and what they share.
pub struct Pool {
    core: Core,
    sending: Sending,
    breakers: Breakers,
    metrics: Arc<Metrics>,
    processor: Arc<Requests>,
    /// One permit is one worker.
    permits: Arc<Semaphore>,
    /// How many permits there may be: this server's share of the cluster's limit.
    share: AtomicU32,
    /// How many there are beyond that, in use when the share became smaller: the dispatcher takes them out.
    excess: AtomicU32,
    /// Workers and takeovers that are running.
    tasks: TaskTracker,
    outbox: parking_lot::Mutex<Option<mpsc::Sender<Turn>>>,
    lazy: Lazy,
    due: Due,
    /// A queue that is down to this many messages is filled again.
    low_water: u32,
    /// Stop waiting for a store that is away: the shutdown's second stage.
    abort: CancellationToken,
    /// Set when everything is settled.
    drained: CancellationToken,
}

impl Pool {
    /// A pool without workers; [`Pool::set_share`] lets it have some, [`Pool::run`] starts it.
    pub fn new(core: Core, fleet: Arc<Fleet>, egress: Egress, metrics: Arc<Metrics>, processor: Arc<Requests>) -> Self {
        let low_water = core.config.window / 2;
        let sending =
            Sending { core: core.clone(), fleet, leases: Arc::default(), egress, shadows: Shadows::new(core.clone()) };
        Self {
            breakers: Breakers::new(core.clone()),
            sending,
            metrics,
            processor,
            permits: Arc::new(Semaphore::new(0)),
            share: AtomicU32::new(0),
            excess: AtomicU32::new(0),
            tasks: TaskTracker::new(),
            outbox: parking_lot::Mutex::new(None),
            lazy: Lazy::default(),
            due: Due::default(),
            low_water,
            abort: CancellationToken::new(),
            drained: CancellationToken::new(),
            core,
        }
    }

    /// Sends in flight.
    pub fn active(&self) -> u32 {
        let free = u32::try_from(self.permits.available_permits()).unwrap_or(u32::MAX);
        let all = self.share.load(Ordering::Relaxed).saturating_add(self.excess.load(Ordering::Relaxed));
        all.saturating_sub(free)
    }

    /// The leases held.
    pub fn leases(&self) -> &Leases {
        &self.sending.leases
    }

    /// How many workers this server may have.
    pub fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    /// The set of open runs has changed: breakers of those that are not being sent start anew.
    pub fn runs_changed(&self, runs: &crate::fleet::Runs) {
        self.breakers.reset_where(|key| runs.sending(key).is_none());
    }

    /// Sets how many workers this server may have. Fewer takes effect as sends end.
    pub fn set_share(&self, share: u32) {
        let before = self.share.swap(share, Ordering::Relaxed);
        if share > before {
            let more = share - before;
            let kept = self.take_excess(more);
            self.permits.add_permits(usize::try_from(more - kept).unwrap_or(0));
        } else if share < before {
            let fewer = before - share;
            let gone = self.permits.forget_permits(usize::try_from(fewer).unwrap_or(0));
            self.excess.fetch_add(fewer.saturating_sub(u32::try_from(gone).unwrap_or(0)), Ordering::Relaxed);
        }
    }

    /// Takes up to `most` off the excess; returns how many.
    fn take_excess(&self, most: u32) -> u32 {
        let taken = self.excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |excess| {
            (excess > 0).then(|| excess - excess.min(most))
        });
        taken.map_or(0, |excess| excess.min(most))
    }

    /// Runs the pool until `stop`, then waits for the sends in flight and their settlement, but not longer than the
    /// drain time-out: what is left then is taken over by others when its leases run out.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (outbox, inbox) = mpsc::channel(BACKLOG);
        *self.outbox.lock() = Some(outbox);
        let inbox = Arc::new(tokio::sync::Mutex::new(inbox));
        let writers = TaskTracker::new();
        for _ in 0..self.core.store.grouping().groups {
            writers.spawn(self.clone().turn_loop(inbox.clone()));
        }
        writers.close();
        let flusher = tokio::spawn(self.clone().flush_loop());
        let renewer = tokio::spawn(self.clone().renew_loop());

        self.clone().dispatch_loop(stop).await;

        let drain = async {
            self.tasks.close();
            self.tasks.wait().await;
            *self.outbox.lock() = None;
            writers.wait().await;
        };
        let patience = Duration::from_millis(self.core.config.drain_timeout_ms);
        if tokio::time::timeout(patience, drain).await.is_err() {
            tracing::warn!(leases = self.leases().len(), "sends in flight were left to be taken over");
            self.abort.cancel();
        }
        self.drained.cancel();
        for task in [flusher, renewer] {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "a helper of the workers failed");
            }
        }
    }

    async fn dispatch_loop(self: Arc<Self>, stop: CancellationToken) {
        let mut alarm = Alarm::new(&*self.core.queue, &[Wake::Workers], stop.clone());
        loop {
            let Some(permits) = self.take_permits(&stop).await else { return };
            let asked = self.due.asking();
            match self.round(permits).await {
                Ok(round) if round.devices > 0 => tokio::time::sleep(GATHER).await,
                Ok(round) => {
                    let wait = round.next_in.unwrap_or(POLL).min(POLL);
                    let until = self.due.sleep(asked, wait);
                    tokio::select! {
                        go_on = alarm.sleep(POLL) => if !go_on { return },
                        () = until => if stop.is_cancelled() { return },
                    }
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "no message could be claimed; trying again");
                    if !alarm.sleep(Duration::from_millis(500)).await {
                        return;
                    }
                }
            }
        }
    }

    /// At least one permit, and as many more as are free.
    async fn take_permits(&self, stop: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return None,
                permit = self.permits.clone().acquire_owned() => permit.ok()?,
            };
            let mut permits = vec![first];
            while permits.len() < claim::ROUND
                && let Ok(permit) = self.permits.clone().try_acquire_owned()
            {
                permits.push(permit);
            }
            // Every permit that a worker gives back comes by here: those beyond the share end here, however busy it is.
            let beyond = self.take_excess(u32::try_from(permits.len()).unwrap_or(0));
            permits.drain(..usize::try_from(beyond).unwrap_or(0)).for_each(OwnedSemaphorePermit::forget);
            if !permits.is_empty() {
                return Some(permits);
            }
        }
    }

    /// Renews the leases well before they run out, until everything is settled.
    async fn renew_loop(self: Arc<Self>) {
        let pause = (self.core.config.lease() / 6).min(Duration::from_secs(1));
        while !self.drained.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(pause) => self.leases().renew(&self.core).await,
                () = self.drained.cancelled() => {}
            }
        }
    }

    /// Starts a worker.
    fn spawn(self: &Arc<Self>, session: Session, permit: OwnedSemaphorePermit) {
        let Some(outbox) = self.outbox.lock().clone() else { return };
        let pool = self.clone();
        self.tasks.spawn(async move {
            let (device, token) = (session.device.clone(), session.lease.token());
            // The permit is given back when the last result has found its place: a store that is away stops new sends.
            if AssertUnwindSafe(session.run(&pool, &outbox)).catch_unwind().await.is_err() {
                tracing::error!(device.id = %device.spec.id, "a worker panicked; its message will be taken over");
                pool.leases().remove(&device.spec.id, token);
            }
            drop(permit);
        });
    }

    /// Carries out what an outcome means for others; returns how long the device itself waits for it.
    async fn carry_out(&self, device: &crate::device::Device, consequence: Option<Consequence>) -> Duration {
        match consequence {
            Some(Consequence::PauseDevice(wait, _) | Consequence::DeviceDown(wait, _)) => wait,
            Some(Consequence::PauseAccount(wait, reason)) => {
                self.account(device, Some(wait), &reason.detail).await;
                wait
            }
            Some(Consequence::HoldAccount(reason)) => {
                let text = format!("{}: {}", reason.code, reason.detail);
                self.account(device, None, &text).await;
                Duration::ZERO
            }
            Some(Consequence::ContentRejected(_) | Consequence::PauseCampaign(_) | Consequence::PluginFault(_))
            | None => Duration::ZERO,
        }
    }

    /// Pauses (for a time) or holds (until lifted) every device of this one's account.
    async fn account(&self, device: &crate::device::Device, wait: Option<Duration>, why: &str) {
        let of_account = match &device.spec.account {
            Some(account) => self.core.store.devices_of_account(account).await,
            None => Ok(vec![device.clone()]),
        };
        let held = async {
            let devices = of_account?;
            match wait {
                Some(wait) => {
                    let ids: Vec<_> = devices.into_iter().map(|d| d.spec.id).collect();
                    self.core.queue.hold(&ids, wait).await?;
                }
                None => {
                    let nos: Vec<_> = devices.iter().map(|d| d.no).collect();
                    self.core.store.hold_devices(&nos, Some(why), self.core.clock.now()).await?;
                    self.sending.fleet.reload_devices().await?;
                    self.core.wake(Wake::Changed).await;
                }
            }
            anyhow::Ok(())
        };
        if let Err(error) = held.await {
            tracing::warn!(error = format!("{error:#}"), device.id = %device.spec.id, "an account was not paused");
        }
    }
}

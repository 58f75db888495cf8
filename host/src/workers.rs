//! Loop 3: the workers. One worker is one send in flight, never a sleeping timer: a device that waits holds none.
//!
//! ```text
//! dispatcher ── ready ▸ claim ▸ begin (one statement) ──▶ worker: render ▸ start ▸ requests ▸ next delay
//!      ▲ permits                                            │ bounded channel
//!      └──────────── finish (queue) ◀── settle (one transaction per group) ◀┘
//! ```

pub mod accounts;
pub mod attempt;
pub mod breakers;
pub mod claim;
pub mod due;
pub mod leases;
pub mod orphans;
pub mod pacing;
pub mod settle;
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
use crate::device::PaceUpdate;
use crate::egress::Egress;
use crate::fleet::Fleet;
use crate::message::Settlement;
use crate::metrics::Metrics;
use crate::processor::Requests;
use crate::queue::Wake;
use crate::workers::attempt::Sending;
use crate::workers::breakers::Breakers;
use crate::workers::claim::Assignment;
use crate::workers::due::Due;
use crate::workers::leases::Leases;
use crate::workers::settle::{BACKLOG, Done, Lazy, WRITERS};
use crate::workers::verdict::{Consequence, Facts};

/// How long the dispatcher sleeps at most: the price of a lost wake-up.
const POLL: Duration = Duration::from_millis(1000);

/// The workers of a server and what they share.
pub struct Pool {
    core: Core,
    sending: Sending,
    breakers: Breakers,
    metrics: Arc<Metrics>,
    processor: Arc<Requests>,
    /// One permit is one worker.
    permits: Arc<Semaphore>,
    /// How many permits there are: this server's share of the cluster's limit.
    share: AtomicU32,
    /// Workers and takeovers that are running.
    tasks: TaskTracker,
    outbox: parking_lot::Mutex<Option<mpsc::Sender<Done>>>,
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
        let sending = Sending {
            core: core.clone(),
            fleet,
            leases: Arc::default(),
            egress,
            accounts: accounts::AccountStates::default(),
        };
        Self {
            breakers: Breakers::new(core.clone()),
            sending,
            metrics,
            processor,
            permits: Arc::new(Semaphore::new(0)),
            share: AtomicU32::new(0),
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
        self.share.load(Ordering::Relaxed).saturating_sub(free)
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
        let before = self.share.load(Ordering::Relaxed);
        if share > before {
            self.permits.add_permits(usize::try_from(share - before).unwrap_or(0));
            self.share.store(share, Ordering::Relaxed);
        } else if share < before {
            let gone = self.permits.forget_permits(usize::try_from(before - share).unwrap_or(0));
            self.share.store(before - u32::try_from(gone).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Runs the pool until `stop`, then waits for the sends in flight and their settlement, but not longer than the
    /// drain time-out: what is left then is taken over by others when its leases run out.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (outbox, inbox) = mpsc::channel(BACKLOG);
        *self.outbox.lock() = Some(outbox);
        let inbox = Arc::new(tokio::sync::Mutex::new(inbox));
        let writers = TaskTracker::new();
        for _ in 0..WRITERS {
            writers.spawn(self.clone().settle_loop(inbox.clone()));
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
                Ok(round) if round.devices > 0 => {}
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
        Some(permits)
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
    fn spawn(self: &Arc<Self>, assignment: Assignment, permit: OwnedSemaphorePermit) {
        let Some(outbox) = self.outbox.lock().clone() else { return };
        let pool = self.clone();
        self.tasks.spawn(async move {
            let device = assignment.attempt.device.spec.id.clone();
            let token = assignment.attempt.token;
            match AssertUnwindSafe(pool.work(assignment)).catch_unwind().await {
                // The permit is given back when the result has found its place: a store that is away stops new sends.
                Ok(done) => {
                    let _closed_only_after_the_last_worker = outbox.send(done).await;
                }
                Err(_) => {
                    tracing::error!(device.id = %device, "a worker panicked; its message will be taken over");
                    pool.leases().remove(&device, token);
                }
            }
            drop(permit);
        });
    }

    /// A worker's life: the attempt, the verdict, the pace.
    async fn work(&self, assignment: Assignment) -> Done {
        let Assignment { attempt, rank, pace, depth } = assignment;
        let started_at = self.core.clock.now();
        let finished = self.sending.run(&attempt).await;
        let (now, monotonic) = (self.core.clock.now(), self.core.clock.monotonic());
        let (run, device) = (&attempt.run, &attempt.device);
        let facts = Facts {
            retry: &run.run.plan.retry,
            delivery: run.run.plan.delivery,
            provider_deduplicates: attempt.sender.plugin.info.can("provider-deduplicates"),
            failures: attempt.work.failures,
            recipient: &attempt.work.recipient,
            channel: &device.spec.channel,
            now,
            random: rand::random(),
        };
        let verdict = facts.judge(finished.ended);
        self.breakers.note(run, &verdict);

        let mut wait = Duration::ZERO;
        let mut kept = None;
        let mut must_last = false;
        if let Some(outcome) = verdict.outcome {
            let send = pacing::Send {
                device,
                outcome,
                backlog: depth,
                text_length: finished.text_length,
                now,
                random: rand::random(),
            };
            let (paced, fault) = pacing::after_send(run, pace, send).await;
            if let Some(fault) = fault {
                self.breakers.delay_fault(run, &fault);
            }
            (wait, must_last) = (paced.wait, paced.must_last);
            kept = Some(paced.pace.to_saved());
        }
        let delay = wait;
        wait = wait.max(self.carry_out(device, verdict.consequence).await);
        must_last |= wait >= pacing::LAZY;

        let pace = kept.as_ref().filter(|_| must_last).map(|pace| PaceUpdate {
            device: device.no,
            token: attempt.token,
            next_at: now.plus(wait),
            pace: pace.clone(),
        });
        Done {
            settlement: Settlement {
                message: attempt.work.message,
                device: device.no,
                token: attempt.token,
                attempt: attempt.work.attempt,
                versions: run.versions(&attempt.sender),
                sequence: orphans::advance(run, &verdict.settled, now),
                outcome: verdict.settled,
                started_at,
                finished_at: now,
                pace,
                suppress: verdict.suppress,
            },
            next_at: monotonic + wait,
            pace: kept,
            delay,
            rank,
            device: attempt.device,
        }
    }

    /// Carries out what an outcome means for others; returns how long the device itself waits for it.
    async fn carry_out(&self, device: &crate::device::Device, consequence: Option<Consequence>) -> Duration {
        match consequence {
            Some(Consequence::PauseDevice(wait, _)) => wait,
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

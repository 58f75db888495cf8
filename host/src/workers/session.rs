//! A session: what one worker does under one lease of a device. Its messages go one after the other, each begun in the
//! store before its first byte leaves and written off with the begin of the next. A session never waits for a device's
//! pace: as soon as the device has to wait, or after [`SESSION`], the rest goes back to the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Time;
use crate::device::{Device, Pace, PaceUpdate};
use crate::fleet::{Configured, LiveRun, sender_for};
use crate::id::{DeviceId, MessageId};
use crate::message::{Begun, Claim, Reason, Settled, Settlement};
use crate::metrics::SuppressedAt;
use crate::queue::{Disposal, Finish, Wake};
use crate::receipt::Expected;
use crate::trial::Sides;
use crate::workers::attempt::Attempt;
use crate::workers::leases::Lease;
use crate::workers::turns::{Answer, Done, Next, Release, Turn};
use crate::workers::verdict::{Consequence, Ended, Facts};
use crate::workers::{Pool, orphans, pacing};

/// How long a session goes on taking messages: the price that other devices, higher priorities and a pause may pay for it.
pub const SESSION: Duration = Duration::from_millis(500);
/// How long a device waits whose message another worker seems to be sending.
const BUSY: Duration = Duration::from_millis(250);
/// How long a device waits that is disabled or held; an operator's change ends the wait at once.
pub(super) const UNAVAILABLE: Duration = Duration::from_secs(30);

/// A device with its lease and the messages that were claimed under it.
pub struct Session {
    /// The device.
    pub device: Arc<Device>,
    /// The lease.
    pub lease: Arc<Lease>,
    /// The messages with their ranks, in their order.
    pub messages: VecDeque<(MessageId, i64)>,
    /// From when on the device might have sent, on the monotonic clock.
    pub due_at: Duration,
    /// The device's limiter.
    pub pace: Pace,
    /// Messages left on the device besides these.
    pub depth: u32,
}

/// Why a message is not begun.
enum Refused {
    /// The device may not send for this long.
    Later(Duration),
    /// The run may not send.
    Inactive,
}

/// What a session has come to so far.
struct Course {
    /// The attempt that has ended and is not written yet.
    done: Option<Done>,
    disposals: Vec<(MessageId, Disposal)>,
    /// When the device may send again, on the monotonic clock.
    next_at: Duration,
    /// Whether something was sent, so that the pace has changed.
    paced: bool,
    /// When the device may send again, while that pace is in no settlement.
    unsaved: Option<Time>,
}

impl Session {
    /// Sends the messages, and gives the lease back through `outbox`.
    pub async fn run(mut self, pool: &Arc<Pool>, outbox: &mpsc::Sender<Turn>) {
        let now = pool.core.clock.monotonic();
        let until = now + SESSION;
        let mut course = Course { done: None, disposals: Vec::new(), next_at: now, paced: false, unsaved: None };
        while let Some((message, rank)) = self.messages.pop_front() {
            if !self.lease.is_valid(pool.core.clock.monotonic()) {
                self.messages.push_front((message, rank));
                break;
            }
            let (run, sender) = match self.admit(pool, message) {
                Ok(admitted) => admitted,
                Err(Refused::Later(wait)) => {
                    course.disposals.push((message, Disposal::PutBack(rank)));
                    course.next_at = pool.core.clock.monotonic() + wait;
                    break;
                }
                Err(Refused::Inactive) => {
                    pool.clear_run(&self.device.spec.id, message).await;
                    course.disposals.push((message, Disposal::Drop));
                    continue;
                }
            };
            let sides = run.sides(&sender, self.device.no);
            // Workers that all waited for one slow plugin would be missed by every other campaign; and a sender that may make no
            // more requests a second uses up no attempt for that.
            let licensed = || sender.at(sides.sender).licence.crowded();
            if let Some(wait) = run.crowded(&sender, sides).or_else(licensed) {
                course.disposals.push((message, Disposal::PutBack(rank)));
                course.next_at = pool.core.clock.monotonic() + wait;
                break;
            }
            if self.pace.down && sender.at(sides.sender).checks_health() {
                match self.still_down(pool, message, &sender, sides.sender).await {
                    // That took its time: what was known before it is looked at again.
                    None => self.messages.push_front((message, rank)),
                    Some(wait) => {
                        course.disposals.push((message, Disposal::PutBack(rank)));
                        course.next_at = pool.core.clock.monotonic() + wait;
                        break;
                    }
                }
                continue;
            }
            self.lease.goes_on(message);
            let claim = Claim {
                message,
                device: self.device.no,
                channel: self.device.spec.channel.clone(),
                token: self.lease.token(),
                versions: run.versions(&sender, sides),
                uncertainty: pool.core.clock.uncertainty(),
            };
            let (answer, begun) = oneshot::channel();
            let turn = Turn { done: course.done.take(), next: Next::Begin(claim, answer) };
            if outbox.send(turn).await.is_err() {
                return;
            }
            // A writer that is gone leaves everything to recovery.
            let Ok(begun) = begun.await else { return };
            let work = match begun {
                Answer::Begun(Begun::Started(work)) => work,
                Answer::Begun(refused) => {
                    if !self.refused(pool, refused, message, rank, &mut course).await {
                        break;
                    }
                    continue;
                }
                Answer::Uncertain => {
                    undo(pool, &self.device, self.lease.token(), message).await;
                    course.disposals.push((message, Disposal::PutBack(rank)));
                    // A store that refuses is not asked again at once.
                    course.next_at = pool.core.clock.monotonic() + BUSY;
                    break;
                }
            };
            pool.metrics.begun_late(pool.core.clock.monotonic().saturating_sub(self.due_at));
            let (device, lease) = (self.device.clone(), self.lease.clone());
            let attempt = Attempt { work, run, sender, device, lease, sides };
            self.attempt(pool, attempt, rank, &mut course).await;
            self.due_at = course.next_at;
            let now = pool.core.clock.monotonic();
            if course.next_at > now || now >= until {
                break;
            }
        }
        self.release(outbox, course).await;
    }

    /// Notes what a message came to that was not begun; `false` when the device has to wait.
    async fn refused(
        &self,
        pool: &Arc<Pool>,
        begun: Begun,
        message: MessageId,
        rank: i64,
        course: &mut Course,
    ) -> bool {
        let mut wait = BUSY;
        let disposal = match begun {
            Begun::TooSoon(at) => {
                wait = at.plus(pool.core.clock.uncertainty()).since(pool.core.clock.now());
                Disposal::PutBack(rank)
            }
            Begun::DeviceBusy => {
                let (pool, device) = (pool.clone(), self.device.no);
                let tasks = pool.tasks.clone();
                tasks.spawn(async move { orphans::free_device(&pool, device).await });
                Disposal::PutBack(rank)
            }
            Begun::Inactive => {
                // Memory is behind the store: have it look.
                pool.core.wake(Wake::Changed).await;
                pool.clear_run(&self.device.spec.id, message).await;
                Disposal::Drop
            }
            Begun::Suppressed | Begun::Expired => {
                if matches!(begun, Begun::Suppressed) {
                    pool.metrics.suppressed(SuppressedAt::Begin, 1);
                }
                pool.sending.fleet.note_final();
                Disposal::Drop
            }
            Begun::Gone | Begun::Started(_) => Disposal::Drop,
        };
        course.disposals.push((message, disposal));
        let busy = matches!(disposal, Disposal::PutBack(_));
        if busy {
            course.next_at = pool.core.clock.monotonic() + wait;
        }
        !busy
    }

    /// Whether a message may be begun at all, by what is in memory.
    fn admit(&self, pool: &Pool, message: MessageId) -> Result<(Arc<LiveRun>, Configured), Refused> {
        if !self.device.is_available() {
            return Err(Refused::Later(UNAVAILABLE));
        }
        let runs = pool.sending.fleet.runs();
        let run = runs.sending(message.run()).ok_or(Refused::Inactive)?.clone();
        let Some(sender) = sender_for(&pool.core.plugins, &run, &self.device) else {
            let reason = Reason::new(
                "no-sender",
                format!("neither the campaign nor device {} names a sender that is there", self.device.spec.id),
            );
            pool.breakers.pause(&run.run, reason);
            return Err(Refused::Inactive);
        };
        let caps = &self.device.spec.caps;
        if caps.any() {
            let capped = self.pace.capped_for(caps, pool.core.clock.now());
            if !capped.is_zero() {
                return Err(Refused::Later(capped));
            }
        }
        Ok((run, sender))
    }

    /// The attempt, its verdict, and the device's pace after it.
    async fn attempt(&mut self, pool: &Pool, attempt: Attempt, rank: i64, course: &mut Course) {
        let started_at = pool.core.clock.now();
        let finished = pool.sending.run(&attempt).await;
        let mut sides = finished.sides;
        let (now, monotonic) = (pool.core.clock.now(), pool.core.clock.monotonic());
        let (run, device) = (&attempt.run, &attempt.device);
        let facts = Facts {
            retry: &run.run.plan.retry,
            delivery: run.run.plan.delivery,
            provider_deduplicates: attempt.sender.at(sides.sender).info.can("provider-deduplicates"),
            failures: attempt.work.failures,
            recipient: &attempt.work.recipient,
            channel: &device.spec.channel,
            now,
            random: rand::random(),
        };
        let is_tried = match &finished.ended {
            Ended::FaultBefore("template", _) => run.template.to_blame(sides.template),
            Ended::FaultBefore(..) | Ended::FaultAfter(_) => attempt.sender.to_blame(sides.sender),
            _ => None,
        }
        .is_some();
        let receipt = expected(pool, &attempt, sides, &finished.ended);
        let mut verdict = facts.judge(finished.ended);
        // What only an operator can mend goes wrong for every message: the campaign's breaker hears of it.
        if let Some(which) = finished.not_granted
            && verdict.consequence.is_none()
        {
            verdict.consequence = Some(Consequence::PluginFault(Reason::new("not-granted", which)));
        }
        // A candidate that fails ends its rollout, not the campaign.
        if !is_tried {
            pool.breakers.note(run, &verdict);
        }

        let mut delay = Duration::ZERO;
        let mut must_last = false;
        if let Some(outcome) = verdict.outcome {
            let backlog = u32::try_from(self.messages.len()).unwrap_or(u32::MAX).saturating_add(self.depth);
            let send = pacing::Send {
                device,
                outcome,
                backlog,
                text_length: finished.text_length,
                now,
                random: rand::random(),
                message: attempt.work.message,
                side: sides.delay,
            };
            let pace = std::mem::take(&mut self.pace);
            let (paced, fault) = pacing::after_send(&pool.sending, run, pace, send).await;
            sides.delay = paced.side;
            for (of, side) in
                [(&run.template, sides.template), (&run.delay, sides.delay), (&attempt.sender, sides.sender)]
            {
                if let Some(trial) = &of.trial {
                    trial.ended(side, outcome);
                }
            }
            if let Some(fault) = fault {
                pool.breakers.delay_fault(run, &fault);
            }
            (delay, must_last) = (paced.wait, paced.must_last);
            self.pace = paced.pace;
            self.pace.down = matches!(verdict.consequence, Some(Consequence::DeviceDown(..)));
            course.paced = true;
        }
        let wait = delay.max(pool.carry_out(device, verdict.consequence).await);
        must_last |= wait >= pacing::LAZY;
        // What another server reads by its own clock must not be early there.
        let next_at = now.plus(wait + pool.core.clock.uncertainty());
        let pace = (course.paced && must_last).then(|| self.saved_pace(next_at));
        course.unsaved = (course.paced && !must_last).then_some(next_at);
        let done = Done {
            settlement: Settlement {
                message: attempt.work.message,
                device: device.no,
                token: attempt.lease.token(),
                attempt: attempt.work.attempt,
                versions: run.versions(&attempt.sender, sides),
                sequence: orphans::advance(run, &verdict.settled, now),
                outcome: verdict.settled,
                started_at,
                finished_at: now,
                pace,
                suppress: verdict.suppress,
                receipt,
            },
            device: device.clone(),
            delay,
        };
        course.next_at = monotonic + wait;
        course.disposals.push((attempt.work.message, done.disposal(rank)));
        course.done = Some(done);
    }

    fn saved_pace(&self, next_at: Time) -> PaceUpdate {
        PaceUpdate { device: self.device.no, token: self.lease.token(), next_at, pace: self.pace.to_saved() }
    }

    async fn release(self, outbox: &mpsc::Sender<Turn>, course: Course) {
        let Course { done, mut disposals, next_at, paced, unsaved } = course;
        let pace = unsaved.map(|next_at| self.saved_pace(next_at));
        let kept = paced.then(|| self.pace.to_saved());
        disposals.extend(self.messages.iter().map(|(message, rank)| (*message, Disposal::PutBack(*rank))));
        let finish = Finish {
            device: self.device.spec.id.clone(),
            token: self.lease.token(),
            messages: disposals,
            next_in: Duration::ZERO,
            pace: kept,
        };
        let release = Release { device: self.device, finish, next_at, pace };
        let _closed_only_after_the_last_worker = outbox.send(Turn { done, next: Next::Release(release) }).await;
    }
}

impl Pool {
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
}

/// What the provider's reports will find a message by that it took, where somebody listens to them.
fn expected(pool: &Pool, attempt: &Attempt, sides: Sides, ended: &Ended) -> Option<Expected> {
    let Ended::Outcome(outcome) = ended else { return None };
    let plugin = attempt.sender.at(sides.sender);
    if !pool.core.plugins.is_listened_to(&plugin.info.name) {
        return None;
    }
    plugin.expects(outcome, &attempt.work.recipient.address)
}

/// The store did not answer a begin: it may have been committed. Nothing has left, so the message goes back as if it
/// had never been taken, as soon as the store says whether it was.
async fn undo(pool: &Pool, device: &Device, token: i64, message: MessageId) {
    let alive = pool.core.config.alive();
    let found = pool
        .patiently(|| pool.core.store.in_flight(Some(device.no), None, 2, pool.core.clock.now(), alive))
        .await
        .unwrap_or_default();
    let Some(mine) = found.into_iter().find(|f| f.message == message && f.token == token) else { return };
    let released = Settlement {
        message,
        device: device.no,
        token,
        attempt: mine.attempt,
        versions: mine.versions,
        outcome: Settled::Released,
        started_at: mine.started_at,
        finished_at: pool.core.clock.now(),
        pace: None,
        suppress: None,
        sequence: None,
        receipt: None,
    };
    pool.patiently(|| pool.core.store.settle(std::slice::from_ref(&released))).await;
}

//! Messages whose worker is gone: what becomes of them is read from the store, never guessed from the queue.

use std::time::Duration;

use crate::campaign::RunOwner;
use crate::core::Core;
use crate::device::{Device, LastOutcome, Pace, PaceUpdate};
use crate::fleet::LiveRun;
use crate::id::{DeviceNo, MessageId};
use crate::message::{EnrolmentAdvance, InFlight, MessageStatus, Reason, Settled, Settlement};
use crate::queue::Disposal;
use crate::store::StoreError;
use crate::workers::Pool;
use crate::workers::leases::Leases;
use crate::workers::pacing;
use crate::workers::verdict::Facts;

/// The former owner of a device's lease died (or was stopped for so long that it lost it) with these messages in
/// processing: settles what it left behind and gives the device back. When anything fails the lease runs out once more.
pub async fn adopt(pool: &Pool, device: &Device, token: i64, messages: &[MessageId]) {
    match try_adopt(pool, device, token, messages).await {
        Ok(()) => tracing::info!(device.id = %device.spec.id, messages = messages.len(), "took over a device"),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), device.id = %device.spec.id, "a device was not taken over yet");
        }
    }
}

async fn try_adopt(pool: &Pool, device: &Device, token: i64, messages: &[MessageId]) -> anyhow::Result<()> {
    let core = &pool.core;
    for left in core.store.in_flight(Some(device.no), None, 10, core.clock.now(), core.config.alive()).await? {
        if left.token < token && !pool.sending.leases.works_on(left.message) {
            settle(pool, &left).await?;
        }
    }
    let mut disposals = Vec::with_capacity(messages.len());
    for message in messages {
        let status = core.store.message(*message).await?.map(|row| (row.status, row.due_at));
        let disposal = match (status, pool.sending.fleet.runs().get(message.run())) {
            (Some((MessageStatus::Pending, None)), Some(run)) => Disposal::PutBack(run.run.rank()),
            _ => Disposal::Drop,
        };
        disposals.push((*message, disposal));
    }
    // The dead owner may have sent and settled without telling the queue: its pace is in the store.
    if let Some((_, saved)) = core.store.saved_paces(&[device.no]).await?.pop() {
        let wait = saved.left(&*core.clock).max(pacing::LAZY);
        core.queue.hold(std::slice::from_ref(&device.spec.id), wait).await?;
    }
    core.queue.adopt(&device.spec.id, token, &disposals).await?;
    Ok(())
}

/// The store says that another message of the device is being sent. If nobody can be at it any more, it is settled.
pub async fn free_device(pool: &Pool, device: DeviceNo) {
    let core = &pool.core;
    let freed = async {
        for left in core.store.in_flight(Some(device), None, 10, core.clock.now(), core.config.alive()).await? {
            if is_abandoned(core, &pool.sending.leases, &left) {
                settle(pool, &left).await?;
            }
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = freed.await {
        tracing::debug!(error = %error, device.no = %device, "a busy device was not looked at");
    }
}

/// Whether no worker can be sending the message any more: its server is dead, or it is this one and does not know of
/// it, or it began so long ago that its time-out and its lease have both passed.
pub fn is_abandoned(core: &Core, leases: &Leases, left: &InFlight) -> bool {
    let age = core.clock.now() - left.started_at;
    if left.host == core.host {
        return !leases.works_on(left.message) && age > SETTLING;
    }
    // An in-process queue has one process: any other that the store remembers has ended.
    if core.queue.kind() == "memory" || !left.host_alive {
        return true;
    }
    age > core.config.send_timeout() + core.config.lease() * 2
}

/// How long this server's own message may be between its worker's end and its settlement.
const SETTLING: Duration = Duration::from_secs(5);

/// Settles an abandoned message by its run's policy: it may or may not have been sent.
///
/// # Errors
/// When the store is away.
pub async fn settle(pool: &Pool, left: &InFlight) -> Result<(), StoreError> {
    let core = &pool.core;
    let now = core.clock.now();
    let runs = pool.sending.fleet.runs();
    let loaded;
    let plan = match runs.get(left.message.run()) {
        Some(live) => &live.run.plan,
        None => {
            let Some(run) = core.store.run(left.message.run()).await? else { return Ok(()) };
            loaded = run;
            &loaded.plan
        }
    };
    let recipient =
        crate::message::Recipient { address: String::new(), locale: None, zone: None, variables: Vec::new() };
    let facts = Facts {
        retry: &plan.retry,
        delivery: plan.delivery,
        provider_deduplicates: core
            .plugins
            .by_no(left.versions.sender)
            .is_some_and(|p| p.info.can("provider-deduplicates")),
        failures: left.failures,
        recipient: &recipient,
        channel: "",
        now,
        random: rand::random(),
    };
    let verdict =
        facts.ambiguous(Reason::new("interrupted", "the server that sent it ended before the answer was kept"));
    let live = runs.get(left.message.run());
    let longest = Duration::from_millis(plan.delay.max_ms.min(pacing::FAULT_DELAY_MS));
    let device = pool.sending.fleet.devices(&[left.device]).await?.remove(&left.device);
    let pace = pace_after(pool, left, device.as_deref(), live.map(|l| &**l), longest).await?;
    let wait = pace.next_at.since(core.clock.now());
    let settlement = Settlement {
        message: left.message,
        device: left.device,
        token: left.token,
        attempt: left.attempt,
        versions: left.versions,
        sequence: live.and_then(|l| advance(l, &verdict.settled, now)),
        outcome: verdict.settled,
        started_at: left.started_at,
        finished_at: now,
        pace: Some(pace),
        suppress: None,
        receipt: None,
    };
    let applied = core.store.settle(std::slice::from_ref(&settlement)).await?;
    if applied.first() == Some(&true) {
        pool.metrics.settled(std::slice::from_ref(&settlement), &applied);
        pool.sending.fleet.note_final();
        if let Some(device) = device {
            pool.keep_pace(&device.spec.id, wait).await;
        }
        // It may be ready again, and is in no queue.
        pool.processor.changed(left.device);
        tracing::info!(message.id = %left.message, host = %left.host, "settled an interrupted message");
    }
    Ok(())
}

/// The pace of an interrupted message's device. The message may have been sent, so the delay is due as after any send; counted
/// from now, because nobody knows when it was. A run that is not live has no delay strategy to ask: then the device waits
/// `longest`.
async fn pace_after(
    pool: &Pool,
    left: &InFlight,
    device: Option<&Device>,
    live: Option<&LiveRun>,
    longest: Duration,
) -> Result<PaceUpdate, StoreError> {
    let core = &pool.core;
    let now = core.clock.now();
    let saved = core.store.saved_paces(&[left.device]).await?.pop().map(|(_, saved)| saved);
    let mut pace = Pace::parse(saved.as_ref().map(|s| s.pace.as_str()).filter(|p| !p.is_empty()));
    let mut wait = longest;
    let outcome = LastOutcome::Retried;
    match (device, live) {
        (Some(device), Some(run)) => {
            let send = pacing::Send {
                device,
                outcome,
                backlog: 0,
                text_length: 0,
                now,
                random: rand::random(),
                message: left.message,
                side: run.delay.side(device.no),
            };
            let (paced, fault) = pacing::after_send(&pool.sending, run, pace, send).await;
            if let Some(fault) = fault {
                pool.breakers.delay_fault(run, &fault);
            }
            (wait, pace) = (paced.wait, paced.pace);
        }
        (Some(_), None) => pacing::note(&mut pace, outcome, now),
        (None, _) => {}
    }
    let next_at = now.plus(wait + core.clock.uncertainty()).max(saved.map_or(now, |s| s.next_at));
    Ok(PaceUpdate { device: left.device, token: left.token, next_at, pace: pace.to_saved() })
}

/// What a settled message means for the enrolment that it belongs to.
pub fn advance(run: &LiveRun, settled: &Settled, now: crate::clock::Time) -> Option<EnrolmentAdvance> {
    let RunOwner::Step { .. } = run.run.owner else { return None };
    run.step?.advance(settled, now)
}

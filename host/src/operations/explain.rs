//! Why a message has not been sent yet: every reason that holds now, the one that decides first.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::campaign::{CampaignStatus, Run, RunOwner};
use crate::clock::Time;
use crate::config::Role;
use crate::core::Core;
use crate::device::Device;
use crate::message::{MessageRow, MessageStatus};
use crate::queue::QueueDepth;
use crate::sequence::SequenceStatus;
use crate::store::RankedRun;

use super::Result;

/// Messages ahead that are counted; beyond that "more than" is said.
const COUNTED: u32 = 10_000;

/// One reason why a message waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Explanation {
    /// For programs, such as `campaign_paused`, `device_pace`, `messages_ahead`.
    pub code: String,
    /// For people.
    pub text: String,
    /// Until when it holds, where that is known.
    pub until: Option<Time>,
}

impl Explanation {
    fn new(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.to_owned(), text: text.into(), until: None }
    }

    fn until(self, until: Time) -> Self {
        Self { until: Some(until), ..self }
    }
}

/// Why a message has not been sent yet; empty for one that is final.
///
/// # Errors
/// When the store is away.
pub async fn explain(core: &Core, message: &MessageRow) -> Result<Vec<Explanation>> {
    match message.status {
        MessageStatus::Pending => pending(core, message).await,
        MessageStatus::Processing => Ok(vec![processing(core, message).await?]),
        _ => Ok(Vec::new()),
    }
}

async fn processing(core: &Core, message: &MessageRow) -> Result<Explanation> {
    let since = message.started_at.map(|at| format!(" since {at}")).unwrap_or_default();
    let mut by = String::new();
    if let Some(device) = core.store.device(&message.device).await? {
        let now = core.clock.now();
        let in_flight = core.store.in_flight(Some(device.no), None, 10, now, core.config.alive()).await?;
        if let Some(found) = in_flight.iter().find(|f| f.message == message.id) {
            let name = core.hosts.read().iter().find(|h| h.host == found.host).map(|h| h.name.clone());
            by = format!(" by server {}", name.unwrap_or_else(|| found.host.to_string()));
            if !found.host_alive {
                by.push_str(", which is no longer alive: recovery will decide what becomes of it");
            }
        }
    }
    Ok(Explanation::new("processing", format!("it is being sent{since}{by}")))
}

async fn pending(core: &Core, message: &MessageRow) -> Result<Vec<Explanation>> {
    let mut out = Vec::new();
    let run = core.store.run(message.id.run()).await?;
    if let Some(run) = &run {
        out.extend(owner(core, run).await?);
        out.extend(window(core, run));
    }
    let now = core.clock.now();
    if let Some(due_at) = message.due_at.filter(|at| *at > now) {
        let why = message.reason.as_ref().map(|r| format!(" ({}: {})", r.code, r.detail)).unwrap_or_default();
        let what = if message.attempt > 0 { "it is to be tried again" } else { "it is not due" };
        out.push(Explanation::new("not_due", format!("{what} at {due_at}{why}")).until(due_at));
    }
    match core.store.device(&message.device).await? {
        Some(device) => out.extend(device_reasons(core, message, &device).await?),
        None => out.push(Explanation::new("device_deleted", format!("its device {} is gone", message.device))),
    }
    out.extend(workers(core).await);
    if out.is_empty() {
        out.push(Explanation::new("next", "nothing is in its way: it is the next message that its device sends"));
    }
    Ok(out)
}

/// The campaign or sequence does not send now.
async fn owner(core: &Core, run: &Run) -> Result<Option<Explanation>> {
    Ok(match run.owner {
        RunOwner::Campaign(id) => core.store.campaign(id).await?.and_then(|campaign| {
            let because = |r: Option<String>| r.map(|r| format!(": {r}")).unwrap_or_default();
            match campaign.status {
                CampaignStatus::Expanding | CampaignStatus::Running => None,
                CampaignStatus::Paused => {
                    let reason = because(campaign.paused_reason);
                    Some(Explanation::new("campaign_paused", format!("the campaign is paused{reason}")))
                }
                CampaignStatus::Scheduled => Some(match campaign.spec.schedule.at {
                    Some(at) => {
                        Explanation::new("campaign_scheduled", format!("the campaign starts at {at}")).until(at)
                    }
                    None => Explanation::new("campaign_scheduled", "the campaign is about to start"),
                }),
                CampaignStatus::Draft => Some(Explanation::new("campaign_draft", "the campaign has not been launched")),
                status => {
                    let text = format!("the campaign is {}: the message is about to be closed", status.as_str());
                    Some(Explanation::new("campaign_ended", text))
                }
            }
        }),
        RunOwner::Step { sequence, .. } => {
            core.store.sequence_by_no(sequence).await?.and_then(|sequence| match sequence.status {
                SequenceStatus::Running => None,
                SequenceStatus::Draft => Some(Explanation::new("sequence_draft", "the sequence has not been started")),
                SequenceStatus::Paused => {
                    let reason = sequence.paused_reason.map(|r| format!(": {r}")).unwrap_or_default();
                    Some(Explanation::new("sequence_paused", format!("the sequence is paused{reason}")))
                }
            })
        }
    })
}

/// The sending window is closed. (With recipients' own zones the message is deferred by itself, and says so.)
fn window(core: &Core, run: &Run) -> Option<Explanation> {
    let window = run.plan.window.as_ref().filter(|w| !w.recipient_zone)?;
    let now = core.clock.now();
    let wait = window.opens_in(now, None);
    (!wait.is_zero()).then(|| {
        let opens = now.plus(wait);
        let text = format!("the sending window is closed: it opens at {} {} ({opens})", window.from, window.zone);
        Explanation::new("window_closed", text).until(opens)
    })
}

async fn device_reasons(core: &Core, message: &MessageRow, device: &Device) -> Result<Vec<Explanation>> {
    let id = &device.spec.id;
    let mut out = Vec::new();
    if !device.spec.enabled {
        let text = format!("its device {id} is disabled; the message moves on when another device can take it");
        out.push(Explanation::new("device_disabled", text));
    }
    if let Some(reason) = &device.held {
        out.push(Explanation::new("device_held", format!("its device {id} is on hold: {reason}")));
    }
    let ranked: Vec<_> = core
        .store
        .open_runs()
        .await?
        .iter()
        .filter(|r| r.active || r.key == message.id.run())
        .map(|r| RankedRun { run: r.key, rank: r.rank() })
        .collect();
    let ahead = core.store.ahead_of(message.id, device.no, &ranked, COUNTED).await?;
    match core.queue.depths(std::slice::from_ref(id)).await {
        Ok(depths) => {
            let depth = depths.into_iter().next().unwrap_or_default();
            out.extend(pace(core, device, &depth));
            let is_waiting = message.due_at.is_none_or(|at| at <= core.clock.now());
            if depth.queued == 0 && depth.processing == 0 && is_waiting && device.is_available() {
                let text = format!("the queue of device {id} is being filled");
                out.push(Explanation::new("queue_filling", text));
            }
        }
        Err(_) => {
            out.push(Explanation::new("queue_away", "the queue cannot be reached; it is filled again when it is back"))
        }
    }
    if ahead > 0 {
        let count = if ahead >= COUNTED { format!("more than {COUNTED}") } else { ahead.to_string() };
        let noun = if ahead == 1 { "message goes" } else { "messages go" };
        out.push(Explanation::new("messages_ahead", format!("{count} {noun} before it on device {id}")));
    }
    Ok(out)
}

/// The device is sending another message, or waits until it may send.
fn pace(core: &Core, device: &Device, depth: &QueueDepth) -> Option<Explanation> {
    let id = &device.spec.id;
    if depth.processing > 0 {
        return Some(Explanation::new("device_busy", format!("device {id} is sending another message")));
    }
    if depth.next_in_ms > 0 {
        let next = core.clock.now().plus(Duration::from_millis(depth.next_in_ms));
        let text = format!("device {id} keeps its pace: it may send next at {next}");
        return Some(Explanation::new("device_pace", text).until(next));
    }
    None
}

/// Nobody is there to send, or everybody is busy.
async fn workers(core: &Core) -> Option<Explanation> {
    let hosts = core.hosts.read().clone();
    let role = Role::Workers.as_str();
    if !hosts.iter().any(|h| h.roles.split(',').any(|r| r == role)) {
        return Some(Explanation::new("no_workers", "no server with the role workers is alive"));
    }
    let active: u32 = hosts.iter().map(|h| h.active_workers).sum();
    let max = core.queue.max_workers().await.ok()??;
    if max == 0 {
        let text = "the limit on workers is 0: an operator has stopped every send";
        return Some(Explanation::new("workers_busy", text));
    }
    (active >= max).then(|| Explanation::new("workers_busy", format!("all {max} workers are sending other messages")))
}

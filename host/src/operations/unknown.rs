//! Unknown outcomes: the inbox, and what somebody says about them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::{BadField, Run, RunOwner};
use crate::clock::Time;
use crate::core::Core;
use crate::id::{CampaignId, DeviceId, MessageId, RunKey, SequenceId};
use crate::lookup::{Found, look_up};
use crate::message::{MessageRow, MessageStatus, Reason, Settled};
use crate::queue::Wake;
use crate::resolution::{Resolution, ResolveAs, Resolved, Way};
use crate::sequence::Step;
use crate::store::{Page, StoreError, UnknownOf};

use super::messages::{self, MessageDetail, MessageView};
use super::{Actor, OpError, Result, campaigns, check, done, sequences};

/// Messages that are resolved in one transaction.
const PAGE: u32 = 500;
/// The longest note, in bytes.
const MAX_NOTE: usize = 300;
/// The longest provider's id, in bytes.
const MAX_PROVIDER_ID: usize = 256;

/// Which unknown outcomes.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    /// Those of this campaign.
    pub campaign: Option<CampaignId>,
    /// Those of this sequence.
    pub sequence: Option<SequenceId>,
    /// Those of this device.
    pub device: Option<DeviceId>,
}

/// A message of which nobody knows whether it was sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UnknownView {
    /// The message.
    #[serde(flatten)]
    pub message: MessageView,
    /// The name of its campaign or sequence.
    pub name: String,
    /// Its campaign; `null` for a message of a sequence.
    pub campaign: Option<CampaignId>,
    /// Its sequence; `null` for a message of a campaign.
    pub sequence: Option<SequenceId>,
    /// The step of its sequence, from 0.
    pub step: Option<u32>,
}

/// What somebody says about one unknown outcome.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// What it was.
    #[serde(rename = "as")]
    pub outcome: ResolveAs,
    /// The provider's id of it, where it was sent; at most 256 bytes.
    pub provider_id: Option<String>,
    /// How that is known, for the message's history; at most 300 bytes, and no address or text of a message.
    pub note: Option<String>,
}

/// What somebody says about a campaign's unknown outcomes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveMany {
    /// What they were.
    #[serde(rename = "as")]
    pub outcome: ResolveAs,
    /// Only those of this device.
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
    /// Only those that became unknown before this time.
    pub before: Option<Time>,
    /// How that is known, for the messages' history; at most 300 bytes, and no address or text of a message.
    pub note: Option<String>,
}

/// What resolving many came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResolvedMany {
    /// Messages that were resolved by this call.
    pub resolved: u64,
    /// Messages of the campaign that are unknown still.
    pub left: u64,
}

/// What a look-up came to, and the message after it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LookedUp {
    /// What the message was resolved as; `null` when the provider could not tell.
    pub found: Option<ResolveAs>,
    /// Why the provider could not tell.
    pub evidence: Option<Reason>,
    /// The message.
    #[serde(flatten)]
    pub message: MessageDetail,
}

/// Unknown outcomes by message id.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such campaign, sequence or device.
pub async fn inbox(
    core: &Core,
    of: &Inbox,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<UnknownView, MessageId>> {
    let runs = match (of.campaign, of.sequence) {
        (None, None) => None,
        (Some(id), None) => Some(campaigns::campaign(core, id).await?.run.into_iter().collect()),
        (None, Some(id)) => Some(sequences::sequence(core, id).await?.runs),
        (Some(_), Some(_)) => return Err(OpError::invalid("sequence", "give either a campaign or a sequence")),
    };
    let device = match &of.device {
        None => None,
        Some(id) => Some(core.store.device(id).await?.ok_or_else(|| OpError::not_found("device", id))?.no),
    };
    let page = core.store.unknown(&UnknownOf { runs, device }, cursor, limit).await?;
    Ok(Page { items: views(core, page.items).await?, next: page.next })
}

async fn views(core: &Core, rows: Vec<MessageRow>) -> Result<Vec<UnknownView>> {
    let mut keys: Vec<RunKey> = rows.iter().map(|row| row.id.run()).collect();
    keys.dedup();
    let runs: HashMap<RunKey, Run> = core.store.runs(&keys).await?.into_iter().map(|run| (run.key, run)).collect();
    let mut sequences = HashMap::new();
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(run) = runs.get(&row.id.run()) else { continue };
        let (campaign, sequence, step) = match run.owner {
            RunOwner::Campaign(id) => (Some(id), None, None),
            RunOwner::Step { sequence, step } => {
                let id = match sequences.entry(sequence) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => *new.insert(core.store.sequence_by_no(sequence).await?.map(|s| s.id)),
                };
                (None, id, Some(step))
            }
        };
        views.push(UnknownView { message: row.into(), name: run.name.clone(), campaign, sequence, step });
    }
    Ok(views)
}

/// Resolves one unknown outcome.
///
/// # Errors
/// [`OpError::Conflict`] when it is not unknown, or it is to be sent again and its campaign cannot send any more.
pub async fn resolve(core: &Core, actor: &Actor, id: MessageId, request: Resolve) -> Result<MessageDetail> {
    let Resolve { outcome, provider_id, note } = request;
    let mut problems = note_problems(note.as_deref());
    if let Some(given) = &provider_id {
        if outcome != ResolveAs::Sent {
            problems.push(BadField::new("provider_id", "is for a message that was sent"));
        }
        if given.is_empty() || given.len() > MAX_PROVIDER_ID || given.chars().any(char::is_control) {
            problems.push(BadField::new("provider_id", "give 1 to 256 bytes without control characters"));
        }
    }
    check(problems)?;
    let (row, run) = unknown(core, id).await?;
    let note = signed(actor, note.as_deref());
    let resolution = Resolution {
        way: Way::Operator,
        note,
        ..resolution(core, &run, step(core, &run).await?, &row, said(core, &run, &row, outcome, provider_id))
    };
    apply(core, resolution).await?;
    done(core, actor, "message.resolve", format!("{id} as {}", outcome.as_str()), wakes(outcome)).await?;
    messages::message(core, id).await
}

/// Asks the provider whether an unknown message was sent, and resolves it when the provider can tell.
///
/// # Errors
/// [`OpError::Conflict`] when it is not unknown, or its sender cannot look messages up.
pub async fn lookup(core: &Core, actor: &Actor, id: MessageId) -> Result<LookedUp> {
    let (row, run) = unknown(core, id).await?;
    let (found, evidence) = match look_up(core, &run, &row).await? {
        Found::Cannot(why) => return Err(OpError::Conflict(why)),
        Found::Nothing(reason) => (None, Some(reason)),
        Found::Proved(verdict) => {
            let found = ResolveAs::of(&verdict.settled);
            let resolution = Resolution {
                way: Way::Lookup,
                note: signed(actor, None),
                suppress: verdict.suppress,
                ..resolution(core, &run, step(core, &run).await?, &row, verdict.settled)
            };
            apply(core, resolution).await?;
            (found, None)
        }
    };
    done(core, actor, "message.lookup", id.to_string(), found.map_or(&[], wakes)).await?;
    Ok(LookedUp { found, evidence, message: messages::message(core, id).await? })
}

/// Resolves a campaign's unknown outcomes, page by page: a call that was cut off is repeated.
///
/// # Errors
/// [`OpError::Conflict`] when they are to be sent again and the campaign cannot send any more.
pub async fn resolve_campaign(
    core: &Core,
    actor: &Actor,
    id: CampaignId,
    request: ResolveMany,
) -> Result<ResolvedMany> {
    let ResolveMany { outcome, device, before, note } = request;
    check(note_problems(note.as_deref()))?;
    let key = campaigns::campaign(core, id)
        .await?
        .run
        .ok_or_else(|| OpError::Conflict("the campaign was never launched".to_owned()))?;
    let run = core.store.run(key).await?.ok_or_else(|| OpError::not_found("run", key))?;
    let device = match &device {
        None => None,
        Some(id) => Some(
            core.store
                .device(id)
                .await?
                .ok_or_else(|| OpError::invalid("device", format!("there is no device {id}")))?
                .no,
        ),
    };
    let of = UnknownOf { runs: Some(vec![key]), device };
    let note = signed(actor, note.as_deref());
    let (mut resolved, mut cursor, mut refused) = (0, None, None);
    loop {
        let page = core.store.unknown(&of, cursor, PAGE).await?;
        let asked = page.items.iter().filter(|row| before.is_none_or(|at| row.finished_at.is_none_or(|f| f < at)));
        let resolutions: Vec<Resolution> = asked
            .map(|row| Resolution {
                way: Way::Operator,
                note: note.clone(),
                ..resolution(core, &run, None, row, said(core, &run, row, outcome, None))
            })
            .collect();
        for answer in core.store.resolve(&resolutions, core.clock.now()).await? {
            match answer {
                Resolved::Done => resolved += 1,
                Resolved::NotUnknown => {}
                Resolved::Refused(why) => refused = Some(why),
            }
        }
        cursor = page.next;
        if cursor.is_none() || refused.is_some() {
            break;
        }
    }
    core.metrics.resolved(Way::Operator, outcome, resolved);
    if let (Some(why), 0) = (refused, resolved) {
        return Err(OpError::Conflict(why));
    }
    done(core, actor, "campaign.resolve-unknown", format!("{id} as {}", outcome.as_str()), wakes(outcome)).await?;
    let counts = core.store.counts(&[key]).await?;
    let left = counts.into_iter().find(|(run, _)| *run == key).map_or(0, |(_, counts)| counts.unknown);
    Ok(ResolvedMany { resolved, left })
}

/// The unknown message and its run.
async fn unknown(core: &Core, id: MessageId) -> Result<(MessageRow, Run)> {
    let row = messages::row(core, id).await?;
    if row.status != MessageStatus::Unknown {
        return Err(OpError::Conflict(format!("the message is {}, not unknown", row.status.as_str())));
    }
    let run = core.store.run(id.run()).await?.ok_or_else(|| OpError::not_found("run", id.run()))?;
    Ok((row, run))
}

/// Where a run stands in its sequence, when it is a step of one.
///
/// # Errors
/// When the store is away.
pub async fn step(core: &Core, run: &Run) -> Result<Option<Step>, StoreError> {
    let RunOwner::Step { sequence, step } = run.owner else { return Ok(None) };
    let found = core.store.sequence_by_no(sequence).await?;
    Ok(found.map(|s| Step { sequence, step, next_offset: s.spec.next_offset(step) }))
}

/// A resolution by the campaign's policy; who makes another one says so.
pub fn resolution(core: &Core, run: &Run, step: Option<Step>, row: &MessageRow, outcome: Settled) -> Resolution {
    Resolution {
        message: row.id,
        attempt: row.attempt,
        way: Way::Policy,
        note: format!("the policy of {}", run.name),
        suppress: None,
        sequence: step.and_then(|step| step.advance(&outcome, core.clock.now())),
        outcome,
    }
}

/// What somebody's word means for the message.
fn said(core: &Core, run: &Run, row: &MessageRow, outcome: ResolveAs, provider_id: Option<String>) -> Settled {
    match outcome {
        ResolveAs::Sent => Settled::Sent { provider_id, delivered: false },
        ResolveAs::Failed => Settled::Failed(Reason::new("resolved-failed", "somebody said that it was not sent")),
        ResolveAs::Retry => Settled::Retry {
            due_at: core.clock.now(),
            // The attempt counts; where it was the last one, this word is worth one more.
            counts: row.failures + 1 < run.plan.retry.max_attempts,
            reason: Reason::new("resolved-retry", "somebody said to send it again"),
        },
    }
}

async fn apply(core: &Core, resolution: Resolution) -> Result<()> {
    let applied = core.store.resolve(std::slice::from_ref(&resolution), core.clock.now()).await?;
    match applied.into_iter().next() {
        Some(Resolved::Done) => {
            if let Some(outcome) = ResolveAs::of(&resolution.outcome) {
                core.metrics.resolved(resolution.way, outcome, 1);
            }
            Ok(())
        }
        Some(Resolved::Refused(why)) => Err(OpError::Conflict(format!("it cannot be sent again: {why}"))),
        Some(Resolved::NotUnknown) | None => {
            Err(OpError::Conflict("the message was resolved by another call".to_owned()))
        }
    }
}

/// Who has work now: a message that is sent again is ready, one that is final may be followed by its sequence's next step.
pub fn wakes(outcome: ResolveAs) -> &'static [Wake] {
    match outcome {
        ResolveAs::Retry => &[Wake::Changed, Wake::Processor],
        ResolveAs::Sent | ResolveAs::Failed => &[Wake::Trigger],
    }
}

fn signed(actor: &Actor, note: Option<&str>) -> String {
    match note.map(str::trim).filter(|note| !note.is_empty()) {
        Some(note) => format!("{}: {note}", actor.name),
        None => actor.name.clone(),
    }
}

fn note_problems(note: Option<&str>) -> Vec<BadField> {
    let is_bad = note.is_some_and(|note| note.len() > MAX_NOTE || note.chars().any(char::is_control));
    if is_bad { vec![BadField::new("note", "give at most 300 bytes without control characters")] } else { Vec::new() }
}

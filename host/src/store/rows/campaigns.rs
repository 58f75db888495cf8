//! Campaigns, runs and counts.

use uuid::Uuid;

use super::from_json;
use super::{broken, time, to_i32, to_u32, to_u64};
use crate::campaign::{Campaign, CampaignEvent, CampaignSpec, CampaignStatus, Run, RunOwner, SendPlan, SpreadPolicy};
use crate::clock::Time;
use crate::id::{AudienceNo, CampaignId, MessageId, RunKey, SequenceNo};
use crate::message::{Counts, code};
use crate::store::{OpenCampaigns, Result, StoreError};

from_row! {
    /// A row of `campaigns`.
    #[derive(Debug)]
    #[allow(missing_docs)] // The columns of the query.
    pub struct CampaignSql {
        pub id: Uuid,
        pub spec: String,
        pub status: String,
        pub paused_reason: Option<String>,
        pub run_key: Option<i32>,
        pub created_at: i64,
        pub launched_at: Option<i64>,
        pub finished_at: Option<i64>,
        pub messages_pruned_at: Option<i64>,
    }
}

impl CampaignSql {
    /// The campaign.
    pub fn read(self) -> Result<Campaign> {
        Ok(Campaign {
            id: CampaignId(self.id),
            spec: from_json::<CampaignSpec>("a campaign", &self.spec)?,
            status: campaign_status(&self.status)?,
            paused_reason: self.paused_reason,
            run: self.run_key.map(RunKey),
            created_at: Time::from_ms(self.created_at),
            launched_at: time(self.launched_at),
            finished_at: time(self.finished_at),
            messages_pruned_at: time(self.messages_pruned_at),
        })
    }
}

/// A campaign's status column.
pub fn campaign_status(word: &str) -> Result<CampaignStatus> {
    CampaignStatus::parse(word).ok_or_else(|| broken("a campaign's status"))
}

/// How many campaigns have a status and, where they are paused, a reason.
pub fn open_campaigns((status, reason, count): (String, String, i64)) -> Result<OpenCampaigns> {
    Ok(OpenCampaigns { status: campaign_status(&status)?, reason, count: to_u64(count) })
}

/// Whether the runs of a campaign with this status are active.
pub fn is_sending(status: CampaignStatus) -> bool {
    matches!(status, CampaignStatus::Expanding | CampaignStatus::Running)
}

/// What the pending messages of a campaign become when it takes this status; `None` where they stay.
pub fn closed_as(status: CampaignStatus) -> Option<i16> {
    match status {
        CampaignStatus::Cancelled => Some(code::CANCELLED),
        CampaignStatus::Expired => Some(code::EXPIRED),
        _ => None,
    }
}

/// Moves a campaign in memory as the store is about to move its row.
///
/// # Errors
/// `Conflict` when its status does not allow the event, or its messages are gone that it would send again.
pub fn moved(mut campaign: Campaign, event: CampaignEvent, reason: Option<&str>, now: Time) -> Result<Campaign> {
    if event == CampaignEvent::Reopen && campaign.messages_pruned_at.is_some() {
        return Err(messages_are_gone());
    }
    campaign.status = campaign.status.after(event).map_err(|e| StoreError::Conflict(e.to_string()))?;
    campaign.paused_reason = reason.filter(|_| campaign.status == CampaignStatus::Paused).map(str::to_owned);
    if matches!(event, CampaignEvent::Schedule | CampaignEvent::Start) {
        campaign.launched_at.get_or_insert(now);
    }
    campaign.finished_at = campaign.status.is_final().then_some(now);
    Ok(campaign)
}

/// Whether failed messages may be put back into a campaign with this status.
///
/// # Errors
/// `Conflict` when what is pending of it is closed, or its messages are gone.
pub fn may_be_reopened(status: &str, pruned: bool) -> Result<()> {
    if closed_as(campaign_status(status)?).is_some() {
        return Err(StoreError::Conflict(format!("the campaign is {status}")));
    }
    if pruned { Err(messages_are_gone()) } else { Ok(()) }
}

fn messages_are_gone() -> StoreError {
    StoreError::Conflict(MESSAGES_ARE_GONE.into())
}

const MESSAGES_ARE_GONE: &str = "the campaign's messages were removed, as its server keeps them for some days only";

/// Why messages of this campaign cannot be sent again; `None` when they can, if need be after it is reopened.
pub fn why_not_again(campaign: &Campaign, now: Time) -> Option<String> {
    let status = campaign.status;
    if closed_as(status).is_some() {
        return Some(format!("the campaign is {}, and nothing of it is sent any more", status.as_str()));
    }
    if campaign.messages_pruned_at.is_some() {
        return Some(MESSAGES_ARE_GONE.into());
    }
    let is_late = campaign.spec.expires_at.is_some_and(|at| at <= now);
    is_late.then(|| "the campaign's expiry has passed, and nothing of it is sent any more".into())
}

/// A step of the removal of a run: which messages go, and how far the run is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneStep {
    /// Messages after this one go,
    pub after: MessageId,
    /// up to this one.
    pub upto: MessageId,
    /// The run's next cursor.
    pub cursor: i32,
    /// Whether nothing is left.
    pub done: bool,
}

/// The step of at most `limit` numbers after `cursor`, of which `last` is the last.
pub fn prune_step(run: RunKey, cursor: i32, last: i32, limit: u32) -> PruneStep {
    let next = cursor.saturating_add(to_i32(limit.max(1)));
    let done = next >= last;
    let after = if cursor == 0 { run.first().0 - 1 } else { MessageId::new(run, to_u32(cursor.into())).0 };
    let upto = if done { run.last() } else { MessageId::new(run, to_u32(next.into())) };
    PruneStep { after: MessageId(after), upto, cursor: next, done }
}

from_row! {
    /// A row of `runs`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct RunSql {
        pub key: i32,
        pub campaign_id: Option<Uuid>,
        pub sequence_no: Option<i32>,
        pub step: Option<i32>,
        pub audience_no: i32,
        pub name: String,
        pub plan: String,
        pub active: bool,
        pub expanded: bool,
        pub cursor: i32,
        pub started_at: i64,
    }
}

impl RunSql {
    /// The run.
    pub fn read(self) -> Result<Run> {
        let owner = match (self.campaign_id, self.sequence_no, self.step) {
            (Some(id), None, _) => RunOwner::Campaign(CampaignId(id)),
            (None, Some(no), Some(step)) => RunOwner::Step { sequence: SequenceNo(no), step: to_u32(step.into()) },
            _ => return Err(broken("a run's owner")),
        };
        Ok(Run {
            key: RunKey(self.key),
            owner,
            name: self.name,
            audience: AudienceNo(self.audience_no),
            plan: from_json::<SendPlan>("a run's plan", &self.plan)?,
            active: self.active,
            expanded: self.expanded,
            cursor: to_u32(self.cursor.into()),
            started_at: Time::from_ms(self.started_at),
        })
    }
}

/// Runs in rank order.
pub fn in_rank_order(rows: Vec<RunSql>) -> Result<Vec<Run>> {
    let mut runs = rows.into_iter().map(RunSql::read).collect::<Result<Vec<_>>>()?;
    runs.sort_by_key(|run| (run.rank(), run.key));
    Ok(runs)
}

/// Whether a plan spreads recipients by a hash of their address.
pub fn is_sticky(plan: &SendPlan) -> bool {
    plan.devices.policy == SpreadPolicy::Sticky
}

from_row! {
    /// The sums of a run's rows in `run_counts`, and its messages that are `processing`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct CountsSql {
        pub run_key: i32,
        pub total: i64,
        pub sent: i64,
        pub delivered: i64,
        pub read: i64,
        pub failed: i64,
        pub unknown: i64,
        pub suppressed: i64,
        pub expired: i64,
        pub cancelled: i64,
        pub processing: i64,
    }
}

impl CountsSql {
    /// The counts; what has no final state and is not processing is pending.
    pub fn read(self) -> (RunKey, Counts) {
        let counts = Counts {
            processing: to_u64(self.processing),
            sent: to_u64(self.sent),
            delivered: to_u64(self.delivered),
            read: to_u64(self.read),
            failed: to_u64(self.failed),
            unknown: to_u64(self.unknown),
            suppressed: to_u64(self.suppressed),
            expired: to_u64(self.expired),
            cancelled: to_u64(self.cancelled),
            pending: 0,
        };
        let pending = to_u64(self.total).saturating_sub(counts.total());
        (RunKey(self.run_key), Counts { pending, ..counts })
    }
}

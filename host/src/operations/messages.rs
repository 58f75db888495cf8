//! Messages: looked at.

use serde::Serialize;
use utoipa::ToSchema;

use crate::campaign::{Campaign, Run, RunOwner};
use crate::clock::Time;
use crate::core::Core;
use crate::id::{CampaignId, DeviceId, Digest, MessageId};
use crate::message::{AttemptRow, MessageRow, MessageStatus, Reason};
use crate::receipt::Receipt;
use crate::store::Page;

use super::explain::{Explanation, explain};
use super::{OpError, Result, campaigns};

/// The digests of the plugin versions that an attempt ran with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Digests {
    /// The template's.
    pub template: Digest,
    /// The delay strategy's.
    pub delay: Digest,
    /// The sender's.
    pub sender: Digest,
}

impl From<[Digest; 3]> for Digests {
    fn from([template, delay, sender]: [Digest; 3]) -> Self {
        Self { template, delay, sender }
    }
}

/// A message in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MessageView {
    /// Its id, 19 digits; the idempotency key that providers see.
    pub id: MessageId,
    /// Where it stands.
    pub status: MessageStatus,
    /// To whom.
    pub address: String,
    /// The device it is assigned to.
    pub device: DeviceId,
    /// Times it was taken by a worker.
    pub attempt: u32,
    /// Attempts that count against the retry policy.
    pub failures: u32,
    /// When it may go (again), when it waits for a time of its own.
    pub due_at: Option<Time>,
    /// When its last attempt began.
    pub started_at: Option<Time>,
    /// When it reached its final state.
    pub finished_at: Option<Time>,
    /// The provider's id of it.
    pub provider_id: Option<String>,
    /// Why it failed, waits for a retry, or is unknown.
    pub reason: Option<Reason>,
    /// What its last attempt ran with.
    pub plugins: Option<Digests>,
}

impl From<MessageRow> for MessageView {
    fn from(row: MessageRow) -> Self {
        let MessageRow { id, status, address, device, attempt, failures, .. } = row;
        let MessageRow { due_at, started_at, finished_at, provider_id, reason, digests, .. } = row;
        let plugins = digests.map(Digests::from);
        Self {
            id,
            status,
            address,
            device,
            attempt,
            failures,
            due_at,
            started_at,
            finished_at,
            provider_id,
            reason,
            plugins,
        }
    }
}

/// An attempt that did not end in a clean send, or what was found out about one whose outcome was unknown.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AttemptView {
    /// Which one, from 1.
    pub attempt: u32,
    /// The device.
    pub device: DeviceId,
    /// `retry`, `failed`, `unknown`, `suppressed` …; `resolved-sent`, `resolved-failed` or `resolved-retry` for what an
    /// unknown one turned out to be.
    pub outcome: String,
    /// Why. For a resolution: `operator`, `lookup` or `policy`, and who it was.
    pub reason: Option<Reason>,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    pub finished_at: Time,
    /// What it ran with.
    pub plugins: Option<Digests>,
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        let AttemptRow { attempt, device, outcome, reason, started_at, finished_at, digests } = row;
        Self { attempt, device, outcome, reason, started_at, finished_at, plugins: digests.map(Digests::from) }
    }
}

/// A message with its attempts and, while it waits, why it has not been sent yet.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MessageDetail {
    /// The message.
    #[serde(flatten)]
    pub message: MessageView,
    /// Its attempts that did not end in a clean send, oldest first.
    pub attempts: Vec<AttemptView>,
    /// Why it has not been sent yet; empty when it is final.
    pub waiting_because: Vec<Explanation>,
    /// What its provider reported after it took it; `null` when its sender had no webhook, and so nothing is awaited.
    pub receipt: Option<Receipt>,
}

/// One message.
///
/// # Errors
/// [`OpError::NotFound`] when there is none, [`OpError::Gone`] when it is of a campaign whose messages were removed.
pub async fn message(core: &Core, id: MessageId) -> Result<MessageDetail> {
    let row = row(core, id).await?;
    let attempts = core.store.attempts(id).await?.into_iter().map(AttemptView::from).collect();
    let waiting_because = explain(core, &row).await?;
    let receipt = core.store.receipt(id).await?;
    Ok(MessageDetail { message: row.into(), attempts, waiting_because, receipt })
}

/// One message as the store has it; errors as for [`message`].
pub(super) async fn row(core: &Core, id: MessageId) -> Result<MessageRow> {
    if let Some(row) = core.store.message(id).await? {
        return Ok(row);
    }
    let run = core.store.run(id.run()).await?;
    if let Some(Run { owner: RunOwner::Campaign(campaign), .. }) = run {
        still_kept(&campaigns::campaign(core, campaign).await?)?;
    }
    Err(OpError::not_found("message", id))
}

/// Fails when retention has begun to remove the campaign's messages: what is left of them is not the truth any more.
fn still_kept(campaign: &Campaign) -> Result<()> {
    let Some(at) = campaign.messages_pruned_at else { return Ok(()) };
    let id = campaign.id;
    Err(OpError::Gone(format!(
        "the messages of campaign {id} were removed on {at}; its counts are kept with the campaign"
    )))
}

/// A campaign's messages, as [`crate::store::Store::messages`] lists them; none before it is launched.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such campaign, [`OpError::Gone`] when its messages were removed.
pub async fn messages(
    core: &Core,
    campaign: CampaignId,
    status: Option<MessageStatus>,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<MessageView, MessageId>> {
    let campaign = campaigns::campaign(core, campaign).await?;
    still_kept(&campaign)?;
    let Some(run) = campaign.run else {
        return Ok(Page { items: Vec::new(), next: None });
    };
    if cursor.is_some_and(|c| c.run() != run) {
        return Err(OpError::invalid("cursor", "belongs to another list"));
    }
    let page = core.store.messages(run, status, cursor, limit).await?;
    Ok(Page { items: page.items.into_iter().map(MessageView::from).collect(), next: page.next })
}

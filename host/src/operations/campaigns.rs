//! Campaigns: made, launched, paused, resumed, cancelled, changed, looked at.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::campaign::{BadField, Campaign, CampaignEvent, CampaignSpec, CampaignStatus, RetryPolicy, Run, SendPlan};
use crate::clock::Time;
use crate::core::Core;
use crate::id::{CampaignId, RunKey};
use crate::json::optional_object;
use crate::message::Counts;
use crate::queue::Wake;
use crate::receipt::ReceiptCounts;
use crate::resolution::UnknownPolicy;
use crate::store::Page;
use crate::window::SendingWindow;

use super::{Actor, OpError, Result, check, done, plan, pool};

/// How often a transition is tried again when another one came first.
const TRIES: usize = 5;
/// Failed messages that are put back by one statement.
const RETRY_PAGE: u32 = 5_000;

/// What may be changed of a campaign while it runs: absent fields stay, `null` takes a window or an expiry away.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignPatch {
    /// 0 (first) to 9 (last).
    #[schema(maximum = 9)]
    pub priority: Option<u8>,
    /// The pace.
    #[serde(default, deserialize_with = "optional_object")]
    pub delay: Option<DelayPatch>,
    /// When messages may be sent.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<SendingWindow>)]
    pub window: Option<Option<SendingWindow>>,
    /// Messages not sent by then expire.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Time>)]
    pub expires_at: Option<Option<Time>>,
    /// How often and when a message is tried again.
    #[serde(default, deserialize_with = "optional_object")]
    pub retry: Option<RetryPolicy>,
    /// What is done about messages whose outcome stays unknown.
    pub unknown: Option<UnknownPolicy>,
}

/// What may be changed of a delay strategy: absent fields stay.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DelayPatch {
    /// The least a device waits between two sends, in milliseconds.
    pub min_ms: Option<u64>,
    /// The most, in milliseconds.
    pub max_ms: Option<u64>,
    /// The strategy's configuration, replaced as a whole.
    #[schema(value_type = Option<Object>)]
    pub config: Option<Box<RawValue>>,
}

/// Tells a field that is `null` from one that is absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

/// A campaign with what has become of it so far.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CampaignView {
    /// Its id.
    pub id: CampaignId,
    /// Where it stands.
    pub status: CampaignStatus,
    /// Why it is paused.
    pub paused_reason: Option<String>,
    /// How many of its messages are in each state.
    pub counts: Counts,
    /// How many of those that were sent were reported as what by their provider, where its webhook is set up.
    pub receipts: ReceiptCounts,
    /// Recipients: messages made, and contacts still to become messages.
    pub recipients: u64,
    /// Messages a second over the last minute.
    pub rate_per_s: f64,
    /// Seconds until everything is sent at this rate; `null` when that cannot be said.
    pub eta_s: Option<u64>,
    /// The key of its run: the first half of its messages' ids.
    #[schema(value_type = Option<i32>)]
    pub run: Option<RunKey>,
    /// When it was made.
    pub created_at: Time,
    /// When it was launched.
    pub launched_at: Option<Time>,
    /// When it reached a final status.
    pub finished_at: Option<Time>,
    /// When its messages were removed, because it had finished long before; its counts stay as they were.
    pub messages_pruned_at: Option<Time>,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: CampaignSpec,
}

/// Makes a campaign, as a draft.
///
/// # Errors
/// [`OpError::Invalid`] with every problem of the specification.
pub async fn create_campaign(core: &Core, actor: &Actor, spec: CampaignSpec) -> Result<Campaign> {
    check(all_problems(core, &spec).await?)?;
    let id = CampaignId::new();
    core.store.create_campaign(id, &spec, core.clock.now()).await?;
    done(core, actor, "campaign.create", id.to_string(), &[]).await?;
    campaign(core, id).await
}

async fn all_problems(core: &Core, spec: &CampaignSpec) -> Result<Vec<BadField>> {
    let mut problems = spec.problems();
    if !spec.audience.is_empty() && core.store.audience(&spec.audience).await?.is_none() {
        problems.push(BadField::new("audience", format!("there is no audience {:?}", spec.audience)));
    }
    if spec.expires_at.is_some_and(|at| at <= core.clock.now()) {
        problems.push(BadField::new("expires_at", "is in the past"));
    }
    if let (Some(at), Some(until)) = (spec.schedule.at, spec.expires_at)
        && until <= at
    {
        problems.push(BadField::new("expires_at", "must be after schedule.at"));
    }
    problems.extend(plan::problems(core, &SendPlan::from(spec), "").await?);
    Ok(problems)
}

/// The campaign, which must be there.
///
/// # Errors
/// [`OpError::NotFound`] when it is not.
pub async fn campaign(core: &Core, id: CampaignId) -> Result<Campaign> {
    core.store.campaign(id).await?.ok_or_else(|| OpError::not_found("campaign", id))
}

/// Launches a draft: at once, or at its time.
///
/// # Errors
/// [`OpError::Conflict`] when it is not a draft, [`OpError::Invalid`] when it can no longer be carried out.
pub async fn launch(core: &Core, actor: &Actor, id: CampaignId) -> Result<Campaign> {
    let draft = campaign(core, id).await?;
    let is_later = draft.spec.schedule.at.is_some_and(|at| at > core.clock.now());
    if draft.status != CampaignStatus::Draft {
        draft.status.after(CampaignEvent::Schedule)?;
        return Err(OpError::Conflict("the campaign is not a draft".to_owned()));
    }
    check(all_problems(core, &draft.spec).await?)?;
    if is_later {
        let moved = core.store.move_campaign(id, draft.status, CampaignEvent::Schedule, None, core.clock.now()).await?;
        moved.ok_or_else(launched_twice)?;
    } else {
        start(core, &draft).await?;
    }
    done(core, actor, "campaign.launch", id.to_string(), &[Wake::Trigger, Wake::Changed]).await?;
    campaign(core, id).await
}

fn launched_twice() -> OpError {
    OpError::Conflict("the campaign was launched or changed by another call at the same time".to_owned())
}

/// Starts a campaign that is `draft` or `scheduled` now: freezes its audience and its devices. Without a device it is
/// paused with the reason `no device`. `None` when no run was started: it was paused, or another server was first.
///
/// # Errors
/// When the store or the queue is away, or its audience is gone.
pub async fn start(core: &Core, campaign: &Campaign) -> Result<Option<Run>> {
    let devices = pool::resolve(core, &campaign.spec.devices).await?;
    let now = core.clock.now();
    if devices.is_empty() {
        let mut status = campaign.status;
        if status == CampaignStatus::Draft {
            core.store.move_campaign(campaign.id, status, CampaignEvent::Schedule, None, now).await?;
            status = CampaignStatus::Scheduled;
        }
        core.store.move_campaign(campaign.id, status, CampaignEvent::Pause, Some("no device"), now).await?;
        core.wake(Wake::Changed).await;
        return Ok(None);
    }
    let audience = core.store.audience(&campaign.spec.audience).await?;
    let audience = audience.ok_or_else(|| OpError::not_found("audience", &campaign.spec.audience))?;
    let run = core.store.start_run(campaign, audience.no, &devices, now).await?;
    core.wake(Wake::Trigger).await;
    core.wake(Wake::Changed).await;
    Ok(run)
}

/// Stops a campaign for now.
///
/// # Errors
/// [`OpError::Conflict`] when its status does not allow it.
pub async fn pause(core: &Core, actor: &Actor, id: CampaignId, reason: Option<&str>) -> Result<Campaign> {
    let reason = reason.map_or_else(|| format!("paused by {}", actor.name), ToOwned::to_owned);
    if reason.chars().count() > 200 || reason.chars().any(char::is_control) {
        return Err(OpError::invalid("reason", "give at most 200 characters without control characters"));
    }
    let moved = transition(core, id, CampaignEvent::Pause, Some(&reason)).await?;
    done(core, actor, "campaign.pause", id.to_string(), &[Wake::Changed]).await?;
    Ok(moved)
}

/// Lets a paused campaign go on.
///
/// # Errors
/// [`OpError::Conflict`] when it is not paused.
pub async fn resume(core: &Core, actor: &Actor, id: CampaignId) -> Result<Campaign> {
    let paused = campaign(core, id).await?;
    let event = match paused.run {
        None => CampaignEvent::Schedule,
        Some(key) => match core.store.run(key).await? {
            Some(run) if run.expanded => CampaignEvent::Resume,
            _ => CampaignEvent::ResumeExpanding,
        },
    };
    if paused.status != CampaignStatus::Paused {
        // Only a pause can be undone, whatever else a draft allows.
        paused.status.after(CampaignEvent::Resume)?;
    }
    let moved = core.store.move_campaign(id, paused.status, event, None, core.clock.now()).await?;
    let moved = moved.ok_or_else(|| OpError::Conflict("the campaign was changed by another call".to_owned()))?;
    if moved.status == CampaignStatus::Scheduled && moved.spec.schedule.at.is_none_or(|at| at <= core.clock.now()) {
        start(core, &moved).await?;
    }
    done(core, actor, "campaign.resume", id.to_string(), &[Wake::Trigger, Wake::Processor, Wake::Changed]).await?;
    campaign(core, id).await
}

/// Stops a campaign for good: what is pending becomes `cancelled`.
///
/// # Errors
/// [`OpError::Conflict`] when it is final already.
pub async fn cancel(core: &Core, actor: &Actor, id: CampaignId) -> Result<Campaign> {
    let moved = transition(core, id, CampaignEvent::Cancel, None).await?;
    done(core, actor, "campaign.cancel", id.to_string(), &[Wake::Trigger, Wake::Changed]).await?;
    Ok(moved)
}

/// Puts the failed messages of a campaign back, with fresh attempts, and lets it go on. Returns how many.
///
/// # Errors
/// [`OpError::Conflict`] when its status does not allow it.
pub async fn retry_failed(core: &Core, actor: &Actor, id: CampaignId) -> Result<u64> {
    let finished = campaign(core, id).await?;
    finished.status.after(CampaignEvent::Reopen)?;
    let run = finished.run.ok_or_else(|| OpError::Conflict("the campaign was never launched".to_owned()))?;
    let mut put_back = 0;
    loop {
        let page = core.store.retry_failed(run, RETRY_PAGE, core.clock.now()).await?;
        put_back += page;
        if page < u64::from(RETRY_PAGE) {
            break;
        }
    }
    // The messages come first, so that the reopened campaign is not found complete at once. Open ones without a failed one:
    // an earlier call got this far.
    if put_back > 0 || counts(core, run).await?.open() > 0 {
        transition(core, id, CampaignEvent::Reopen, None).await?;
        done(core, actor, "campaign.retry-failed", id.to_string(), &[Wake::Changed, Wake::Processor]).await?;
    }
    Ok(put_back)
}

/// Changes a campaign's pace, priority, window, expiry or retries, also while it runs.
///
/// # Errors
/// [`OpError::Conflict`] when it is final.
pub async fn edit_campaign(core: &Core, actor: &Actor, id: CampaignId, patch: CampaignPatch) -> Result<Campaign> {
    let current = campaign(core, id).await?;
    let is_final = || OpError::Conflict(format!("a campaign that is {} cannot be changed", current.status.as_str()));
    if current.status.is_final() {
        return Err(is_final());
    }
    let mut spec = current.spec.clone();
    let CampaignPatch { priority, delay, window, expires_at, retry, unknown } = patch;
    if let Some(delay) = delay {
        spec.delay.min_ms = delay.min_ms.unwrap_or(spec.delay.min_ms);
        spec.delay.max_ms = delay.max_ms.unwrap_or(spec.delay.max_ms);
        spec.delay.config = delay.config.unwrap_or(spec.delay.config);
    }
    spec.priority = priority.unwrap_or(spec.priority);
    spec.window = window.unwrap_or(spec.window);
    spec.retry = retry.unwrap_or(spec.retry);
    spec.unknown = unknown.unwrap_or(spec.unknown);
    let mut problems = Vec::new();
    if let Some(expires_at) = expires_at {
        spec.expires_at = expires_at;
        if expires_at.is_some_and(|at| at <= core.clock.now()) {
            problems.push(BadField::new("expires_at", "is in the past"));
        }
    }
    problems.extend(spec.problems());
    problems.extend(plan::delay_problems(core, &spec.delay, ""));
    check(problems)?;
    if !core.store.edit_campaign(id, &spec, core.clock.now()).await? {
        return Err(is_final());
    }
    done(core, actor, "campaign.edit", id.to_string(), &[Wake::Changed, Wake::Processor]).await?;
    campaign(core, id).await
}

/// Moves a campaign by `event` from whatever status it has, if that allows it.
async fn transition(core: &Core, id: CampaignId, event: CampaignEvent, reason: Option<&str>) -> Result<Campaign> {
    for _ in 0..TRIES {
        let current = campaign(core, id).await?;
        current.status.after(event)?;
        if let Some(moved) = core.store.move_campaign(id, current.status, event, reason, core.clock.now()).await? {
            return Ok(moved);
        }
    }
    Err(OpError::Conflict("the campaign is being changed by other calls".to_owned()))
}

async fn counts(core: &Core, run: RunKey) -> Result<Counts> {
    Ok(core.store.counts(&[run]).await?.into_iter().find(|(key, _)| *key == run).map(|(_, c)| c).unwrap_or_default())
}

/// A campaign with what has become of it so far.
///
/// # Errors
/// [`OpError::NotFound`] when there is none.
pub async fn campaign_view(core: &Core, id: CampaignId) -> Result<CampaignView> {
    let campaign = campaign(core, id).await?;
    let (counts, receipts) = match campaign.run {
        Some(run) => (counts(core, run).await?, core.store.receipt_counts(&[run]).await?),
        None => (Counts::default(), Vec::new()),
    };
    view(core, campaign, counts, receipts.first().map(|(_, receipts)| *receipts).unwrap_or_default()).await
}

/// Campaigns, newest first.
///
/// # Errors
/// When the store is away.
pub async fn campaign_views(
    core: &Core,
    status: Option<CampaignStatus>,
    cursor: Option<CampaignId>,
    limit: u32,
) -> Result<Page<CampaignView, CampaignId>> {
    let page = core.store.campaigns(status, cursor, limit).await?;
    let runs: Vec<_> = page.items.iter().filter_map(|c| c.run).collect();
    let counts = core.store.counts(&runs).await?;
    let receipts = core.store.receipt_counts(&runs).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for campaign in page.items {
        let of = counts.iter().find(|(key, _)| Some(*key) == campaign.run).map(|(_, c)| *c).unwrap_or_default();
        let reported = receipts.iter().find(|(key, _)| Some(*key) == campaign.run).map(|(_, r)| *r).unwrap_or_default();
        items.push(view(core, campaign, of, reported).await?);
    }
    Ok(Page { items, next: page.next })
}

async fn view(core: &Core, campaign: Campaign, counts: Counts, receipts: ReceiptCounts) -> Result<CampaignView> {
    let is_sending = matches!(campaign.status, CampaignStatus::Running | CampaignStatus::Expanding);
    let made = counts.total();
    let recipients = if matches!(campaign.status, CampaignStatus::Running | CampaignStatus::Completed) {
        made
    } else {
        // Not every contact may be a message yet.
        let contacts = core.store.audience(&campaign.spec.audience).await?.map_or(0, |a| u64::from(a.contacts));
        contacts.max(made)
    };
    let rate_per_s = match campaign.run {
        Some(run) if is_sending => rate(core, &campaign, run, &counts),
        _ => 0.0,
    };
    let waiting = counts.open() + recipients.saturating_sub(made);
    let eta_s = (is_sending && rate_per_s > 0.0).then(|| (waiting as f64 / rate_per_s).ceil() as u64);
    let Campaign { id, spec, status, paused_reason, run, .. } = campaign;
    let Campaign { created_at, launched_at, finished_at, messages_pruned_at, .. } = campaign;
    Ok(CampaignView {
        id,
        status,
        paused_reason,
        counts,
        receipts,
        recipients,
        rate_per_s: (rate_per_s * 100.0).round() / 100.0,
        eta_s,
        run,
        created_at,
        launched_at,
        finished_at,
        messages_pruned_at,
        spec,
    })
}

fn rate(core: &Core, campaign: &Campaign, run: RunKey, counts: &Counts) -> f64 {
    let now = core.clock.monotonic();
    let measured = core.metrics.rates.per_second(run, counts, now);
    core.metrics.rates.note(run, counts, now);
    measured.unwrap_or_else(|| {
        // Nothing was seen yet: the average since the launch says more than nothing.
        let since = campaign.launched_at.map_or(0.0, |at| core.clock.now().since(at).as_secs_f64());
        let left = counts.sent + counts.delivered + counts.read + counts.failed + counts.unknown;
        if since > 0.0 { left as f64 / since } else { 0.0 }
    })
}

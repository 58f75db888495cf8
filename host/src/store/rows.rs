//! What both stores share: rows as SQL gives them, turned into the domain's types, and what an SQL error means.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::FromRow;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;
use uuid::Uuid;

use super::{AudienceRow, AuditRow, HostRow, KeptAnswer, Page, PluginVersion, Result, StoreError, TokenRow};
use crate::campaign::{Campaign, CampaignEvent, CampaignSpec, CampaignStatus, Run, RunOwner, SendPlan, SpreadPolicy};
use crate::clock::Time;
use crate::consent::Suppression;
use crate::device::{Device, SavedPace};
use crate::id::{
    AudienceNo, CampaignId, DeviceId, DeviceNo, Digest, HostId, MessageId, RunKey, SequenceId, SequenceNo, TokenId,
    VersionNo,
};
use crate::message::{
    AdvanceTo, AttemptRow, Counts, EnrolmentAdvance, InFlight, MessageRow, MessageStatus, Reason, Recipient, Settled,
    Settlement, Work, code,
};
use crate::plugin::PluginKind;
use crate::sequence::{Enrolment, EnrolmentStatus, Sequence, SequenceStatus};

/// How old a kept answer is when it counts as gone.
pub const KEY_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// How long a key is held by a call that does not end.
pub const KEY_HELD_MS: i64 = 60 * 1000;
/// How old an unfinished audience is when its upload counts as given up.
pub const UPLOAD_GIVEN_UP_MS: i64 = 24 * 60 * 60 * 1000;

// ---- errors ----

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_unavailable(&error) { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            other => Self::Internal(other.into()),
        }
    }
}

/// Whether the same statement may succeed later.
fn is_unavailable(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => true,
        E::Database(db) => {
            let code = db.code().unwrap_or_default();
            if db.try_downcast_ref::<PgDatabaseError>().is_some() {
                // Connection lost, conflicts between transactions, out of resources, shutting down, a lock not
                // granted, a server that has become a standby, an I/O error.
                ["08", "40", "53", "57", "55P03", "25006", "58"].iter().any(|class| code.starts_with(class))
            } else if db.try_downcast_ref::<SqliteError>().is_some() {
                // Busy, locked, I/O error, disk full, cannot open: the low byte of the extended code.
                code.parse::<i32>().is_ok_and(|c| matches!(c & 0xff, 5 | 6 | 10 | 13 | 14))
            } else {
                false
            }
        }
        _ => false,
    }
}

/// The SQL error behind a store's error.
fn database_error(error: &StoreError) -> Option<&dyn sqlx::error::DatabaseError> {
    match error {
        StoreError::Unavailable(source) | StoreError::Internal(source) => {
            source.downcast_ref::<sqlx::Error>()?.as_database_error()
        }
        StoreError::Exists { .. } | StoreError::Conflict(_) => None,
    }
}

/// Whether two transactions of PostgreSQL stood in each other's way: the loser may simply run again.
pub fn lost_to_another(error: &StoreError) -> bool {
    database_error(error).is_some_and(|db| {
        db.try_downcast_ref::<PgDatabaseError>().is_some() && db.code().is_some_and(|c| c.starts_with("40"))
    })
}

/// Whether a unique index refused the row.
pub fn is_taken(error: &StoreError) -> bool {
    database_error(error).is_some_and(|db| db.is_unique_violation())
}

/// A row that breaks the store's own rules.
pub fn broken(what: impl std::fmt::Display) -> StoreError {
    StoreError::Internal(anyhow::anyhow!("the store holds {what} that does not read"))
}

// ---- values ----

/// JSON for a text column.
pub fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Internal(anyhow::Error::new(e).context("writing JSON")))
}

/// The value of a JSON text column; `what` names it in the error.
pub fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    // The parser's own words may quote the value, so only the place is kept.
    serde_json::from_str(text).map_err(|e| broken(format_args!("{what} (line {}, column {})", e.line(), e.column())))
}

/// A number of SQL as one that cannot be negative; what is out of range becomes the nearest that is not.
pub fn to_u32(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}

/// A count of SQL.
pub fn to_u64(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// A number for a 32-bit column; one that is too large becomes the largest.
pub fn to_i32(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A time column that may be NULL.
pub fn time(ms: Option<i64>) -> Option<Time> {
    ms.map(Time::from_ms)
}

/// A column for a time that may be missing.
pub fn ms(time: Option<Time>) -> Option<i64> {
    time.map(Time::as_ms)
}

/// A sha256 column.
pub fn digest(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| broken("a digest"))
}

/// A device id column.
pub fn device_id(text: &str) -> Result<DeviceId> {
    text.parse().map_err(|_| broken("a device id"))
}

/// The channel of a suppression as a column: empty for every channel.
pub fn channel_column(channel: Option<&str>) -> &str {
    channel.unwrap_or_default()
}

fn reason(code: Option<String>, detail: Option<String>) -> Option<Reason> {
    code.map(|code| Reason { code, detail: detail.unwrap_or_default() })
}

fn digests(template: Option<&[u8]>, delay: Option<&[u8]>, sender: Option<&[u8]>) -> Result<Option<[Digest; 3]>> {
    let (Some(template), Some(delay), Some(sender)) = (template, delay, sender) else { return Ok(None) };
    Ok(Some([digest(template)?, digest(delay)?, digest(sender)?]))
}

/// Cuts a listing that was read with one row too many, and finds where the next page begins.
pub fn page<T, C>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Page<T, C> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    Page { items, next }
}

/// The `LIMIT` for [`page`]: one row more than asked for.
pub fn one_more(limit: u32) -> i64 {
    i64::from(limit) + 1
}

// ---- servers, tokens, audit ----

/// A row of `hosts`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)] // The table's columns, here and below.
pub struct HostSql {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub roles: String,
    pub active_workers: i32,
    pub started_at: i64,
    pub heartbeat_at: i64,
}

impl From<HostSql> for HostRow {
    fn from(row: HostSql) -> Self {
        Self {
            host: HostId(row.id),
            name: row.name,
            version: row.version,
            roles: row.roles,
            active_workers: to_u32(row.active_workers.into()),
            started_at: Time::from_ms(row.started_at),
            heartbeat_at: Time::from_ms(row.heartbeat_at),
        }
    }
}

/// A row of `tokens`, without the secret.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct TokenSql {
    pub id: Uuid,
    pub name: String,
    pub scopes: String,
    pub created_at: i64,
    pub revoked_at: Option<i64>,
}

impl TokenSql {
    /// The token.
    pub fn read(self) -> Result<TokenRow> {
        Ok(TokenRow {
            id: TokenId(self.id),
            name: self.name,
            scopes: from_json("a token's scopes", &self.scopes)?,
            created_at: Time::from_ms(self.created_at),
            revoked_at: time(self.revoked_at),
        })
    }
}

/// A row of `idempotency_keys`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct KeySql {
    pub request: Vec<u8>,
    pub status: i32,
    pub body: String,
}

impl KeySql {
    /// The answer.
    pub fn read(self) -> Result<KeptAnswer> {
        let status = u16::try_from(self.status).map_err(|_| broken("a kept status"))?;
        Ok(KeptAnswer { request: digest(&self.request)?, status, body: self.body })
    }
}

/// A row of `audit_log`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct AuditSql {
    pub no: i64,
    pub at: i64,
    pub actor: String,
    pub action: String,
    pub subject: String,
}

/// A page of the audit log.
pub fn audit_page(rows: Vec<AuditSql>, limit: u32) -> Page<AuditRow, i64> {
    let Page { items, next } = page(rows, limit, |row: &AuditSql| row.no);
    let read = |r: AuditSql| AuditRow { at: Time::from_ms(r.at), actor: r.actor, action: r.action, subject: r.subject };
    Page { items: items.into_iter().map(read).collect(), next }
}

// ---- devices ----

/// A row of `devices`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct DeviceSql {
    pub no: i32,
    pub spec: String,
    pub held: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

impl DeviceSql {
    /// The device.
    pub fn read(self) -> Result<Device> {
        Ok(Device {
            no: DeviceNo(self.no),
            spec: from_json("a device", &self.spec)?,
            held: self.held,
            created_at: Time::from_ms(self.created_at),
            updated_at: Time::from_ms(self.updated_at),
        })
    }
}

/// Each tag once, as the tag index holds them.
pub fn unique_tags(tags: &[String]) -> std::collections::BTreeSet<&str> {
    tags.iter().map(String::as_str).collect()
}

/// A saved pace, where a join found one.
pub fn saved_pace(next_at: Option<i64>, pace: Option<String>) -> Option<SavedPace> {
    next_at.zip(pace).map(|(next_at, pace)| SavedPace { next_at: Time::from_ms(next_at), pace })
}

// ---- audiences ----

/// A row of `audiences`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct AudienceSql {
    pub no: i32,
    pub name: String,
    pub columns: String,
    pub contacts: i32,
    pub updated_at: i64,
}

impl AudienceSql {
    /// The audience.
    pub fn read(self) -> Result<AudienceRow> {
        Ok(AudienceRow {
            name: self.name,
            no: AudienceNo(self.no),
            contacts: to_u32(self.contacts.into()),
            columns: from_json("an audience's columns", &self.columns)?,
            updated_at: Time::from_ms(self.updated_at),
        })
    }
}

// ---- plugins ----

/// A row of `plugin_versions` without the bytes, and whether `plugins` names it as the active one.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct PluginSql {
    pub no: i32,
    pub name: String,
    pub version: String,
    pub kind: String,
    pub digest: Vec<u8>,
    pub size: i64,
    pub info: String,
    pub imports: String,
    pub uploaded_at: i64,
    pub active: bool,
}

impl PluginSql {
    /// The version.
    pub fn read(self) -> Result<PluginVersion> {
        Ok(PluginVersion {
            no: VersionNo(self.no),
            kind: PluginKind::parse(&self.kind).ok_or_else(|| broken("a plugin's kind"))?,
            digest: digest(&self.digest)?,
            size: to_u64(self.size),
            info: from_json("a plugin's description", &self.info)?,
            imports: from_json("a plugin's imports", &self.imports)?,
            name: self.name,
            version: self.version,
            active: self.active,
            uploaded_at: Time::from_ms(self.uploaded_at),
        })
    }
}

// ---- campaigns and runs ----

/// A row of `campaigns`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct CampaignSql {
    pub id: Uuid,
    pub spec: String,
    pub status: String,
    pub paused_reason: Option<String>,
    pub run_key: Option<i32>,
    pub created_at: i64,
    pub launched_at: Option<i64>,
    pub finished_at: Option<i64>,
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
        })
    }
}

/// A campaign's status column.
pub fn campaign_status(word: &str) -> Result<CampaignStatus> {
    CampaignStatus::parse(word).ok_or_else(|| broken("a campaign's status"))
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
/// `Conflict` when its status does not allow the event.
pub fn moved(mut campaign: Campaign, event: CampaignEvent, reason: Option<&str>, now: Time) -> Result<Campaign> {
    campaign.status = campaign.status.after(event).map_err(|e| StoreError::Conflict(e.to_string()))?;
    campaign.paused_reason = reason.filter(|_| campaign.status == CampaignStatus::Paused).map(str::to_owned);
    if matches!(event, CampaignEvent::Schedule | CampaignEvent::Start) {
        campaign.launched_at.get_or_insert(now);
    }
    campaign.finished_at = campaign.status.is_final().then_some(now);
    Ok(campaign)
}

/// A row of `runs`.
#[derive(Debug, FromRow)]
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

/// The sums of a run's rows in `run_counts`, and its messages that are `processing`.
#[derive(Debug, FromRow)]
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

// ---- messages ----

/// A message with the contact it goes to, as `begin` reads it.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct WorkSql {
    pub id: i64,
    pub attempt: i32,
    pub failures: i16,
    pub due_at: i64,
    pub address: String,
    pub locale: Option<String>,
    pub zone: Option<String>,
    pub variables: String,
}

impl WorkSql {
    /// What a worker needs to send it.
    pub fn read(self) -> Result<Work> {
        Ok(Work {
            message: MessageId(self.id),
            attempt: to_u32(self.attempt.into()),
            failures: to_u32(self.failures.into()),
            recipient: Recipient {
                address: self.address,
                locale: self.locale,
                zone: self.zone,
                variables: from_json("a contact's variables", &self.variables)?,
            },
            due_at: Time::from_ms(self.due_at),
        })
    }
}

/// A settlement as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SettleSql<'a> {
    /// The code that the message gets (unless its run was closed meanwhile).
    pub status: i16,
    /// When it may go again; `None` leaves the column.
    pub due_at: Option<i64>,
    /// Added to `failures`.
    pub counts: i16,
    /// Given back untouched: the take is undone.
    pub released: bool,
    pub provider_id: Option<&'a str>,
    pub reason_code: Option<&'a str>,
    pub reason_detail: Option<&'a str>,
}

impl<'a> From<&'a Settlement> for SettleSql<'a> {
    fn from(settlement: &'a Settlement) -> Self {
        let plain = |status| Self {
            status,
            due_at: None,
            counts: 0,
            released: false,
            provider_id: None,
            reason_code: None,
            reason_detail: None,
        };
        let because = |status, reason: &'a Reason| Self {
            reason_code: Some(&reason.code),
            reason_detail: Some(&reason.detail),
            ..plain(status)
        };
        match &settlement.outcome {
            Settled::Sent { provider_id, delivered } => {
                let status = if *delivered { code::DELIVERED } else { code::SENT };
                Self { provider_id: provider_id.as_deref(), ..plain(status) }
            }
            Settled::Failed(reason) => because(code::FAILED, reason),
            Settled::Unknown(reason) => because(code::UNKNOWN, reason),
            Settled::Suppressed => plain(code::SUPPRESSED),
            Settled::Expired => plain(code::EXPIRED),
            Settled::Retry { due_at, counts, reason } => {
                let ready = *due_at <= settlement.finished_at;
                let status = if ready { code::READY } else { code::DEFERRED };
                Self { due_at: Some(due_at.as_ms()), counts: i16::from(*counts), ..because(status, reason) }
            }
            Settled::Released => Self { released: true, ..plain(code::READY) },
        }
    }
}

/// What a settlement means for an enrolment, as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AdvanceSql<'a> {
    pub sequence_no: i32,
    pub contact_no: i32,
    /// The step it must stand at.
    pub step: i32,
    /// The status it gets; `Waiting` means for the next step.
    pub status: EnrolmentStatus,
    /// When the next step is due.
    pub due_at: Option<i64>,
    pub exit_reason: Option<&'a str>,
}

impl<'a> AdvanceSql<'a> {
    /// The columns for the enrolment that `message` belongs to.
    pub fn new(message: MessageId, advance: &'a EnrolmentAdvance) -> Self {
        let (status, due_at, exit_reason) = match &advance.to {
            AdvanceTo::NextStep(at) => (EnrolmentStatus::Waiting, Some(at.as_ms()), None),
            AdvanceTo::Completed => (EnrolmentStatus::Completed, None, None),
            AdvanceTo::Exited(reason) => (EnrolmentStatus::Exited, None, Some(reason.as_str())),
        };
        Self {
            sequence_no: advance.sequence.0,
            contact_no: to_i32(message.contact()),
            step: to_i32(advance.step),
            status,
            due_at,
            exit_reason,
        }
    }
}

/// The word in `attempts.outcome`; `None` for an outcome that leaves no row.
pub fn attempt_outcome(outcome: &Settled) -> Option<&'static str> {
    match outcome {
        Settled::Sent { .. } | Settled::Released => None,
        Settled::Failed(_) => Some("failed"),
        Settled::Unknown(_) => Some("unknown"),
        Settled::Suppressed => Some("suppressed"),
        Settled::Expired => Some("expired"),
        Settled::Retry { .. } => Some("retry"),
    }
}

/// A message that is `processing`, with its server's heartbeat.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct InFlightSql {
    pub id: i64,
    pub device_no: i32,
    pub lease_token: i64,
    pub attempt: i32,
    pub failures: i16,
    pub started_at: i64,
    pub host_id: Uuid,
    pub host_alive: bool,
    pub sender_no: i32,
}

impl From<InFlightSql> for InFlight {
    fn from(row: InFlightSql) -> Self {
        Self {
            message: MessageId(row.id),
            device: DeviceNo(row.device_no),
            token: row.lease_token,
            attempt: to_u32(row.attempt.into()),
            failures: to_u32(row.failures.into()),
            started_at: Time::from_ms(row.started_at),
            host: HostId(row.host_id),
            host_alive: row.host_alive,
            sender: VersionNo(row.sender_no),
        }
    }
}

/// A message joined with its contact, its device and the digests of its plugin versions.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct MessageSql {
    pub id: i64,
    pub status: i16,
    pub address: String,
    pub device_id: String,
    pub attempt: i32,
    pub failures: i16,
    pub due_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub provider_id: Option<String>,
    pub reason_code: Option<String>,
    pub reason_detail: Option<String>,
    pub template: Option<Vec<u8>>,
    pub delay: Option<Vec<u8>>,
    pub sender: Option<Vec<u8>>,
}

impl MessageSql {
    /// The message.
    pub fn read(self) -> Result<MessageRow> {
        Ok(MessageRow {
            id: MessageId(self.id),
            status: MessageStatus::from_code(self.status).ok_or_else(|| broken("a message's status"))?,
            device: device_id(&self.device_id)?,
            attempt: to_u32(self.attempt.into()),
            failures: to_u32(self.failures.into()),
            due_at: (self.status == code::DEFERRED).then_some(Time::from_ms(self.due_at)),
            started_at: time(self.started_at),
            finished_at: time(self.finished_at),
            digests: digests(self.template.as_deref(), self.delay.as_deref(), self.sender.as_deref())?,
            address: self.address,
            provider_id: self.provider_id,
            reason: reason(self.reason_code, self.reason_detail),
        })
    }
}

/// An attempt joined with its device and the digests of its plugin versions.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct AttemptSql {
    pub attempt: i32,
    pub device_id: String,
    pub outcome: String,
    pub reason_code: Option<String>,
    pub reason_detail: Option<String>,
    pub started_at: i64,
    pub finished_at: i64,
    pub template: Option<Vec<u8>>,
    pub delay: Option<Vec<u8>>,
    pub sender: Option<Vec<u8>>,
}

impl AttemptSql {
    /// The attempt.
    pub fn read(self) -> Result<AttemptRow> {
        Ok(AttemptRow {
            attempt: to_u32(self.attempt.into()),
            device: device_id(&self.device_id)?,
            outcome: self.outcome,
            reason: reason(self.reason_code, self.reason_detail),
            started_at: Time::from_ms(self.started_at),
            finished_at: Time::from_ms(self.finished_at),
            digests: digests(self.template.as_deref(), self.delay.as_deref(), self.sender.as_deref())?,
        })
    }
}

// ---- consent ----

/// A row of `suppressions`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct SuppressionSql {
    pub address: String,
    pub channel: String,
    pub reason: String,
    pub created_at: i64,
}

impl From<SuppressionSql> for Suppression {
    fn from(row: SuppressionSql) -> Self {
        Self {
            address: row.address,
            channel: Some(row.channel).filter(|c| !c.is_empty()),
            reason: row.reason,
            created_at: Time::from_ms(row.created_at),
        }
    }
}

// ---- sequences ----

/// A row of `sequences`.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct SequenceSql {
    pub no: i32,
    pub id: Uuid,
    pub spec: String,
    pub status: String,
    pub paused_reason: Option<String>,
    pub audience_no: i32,
    pub created_at: i64,
}

impl SequenceSql {
    /// The sequence with the runs of its steps.
    pub fn read(self, runs: Vec<RunKey>) -> Result<Sequence> {
        Ok(Sequence {
            no: SequenceNo(self.no),
            id: SequenceId(self.id),
            spec: from_json("a sequence", &self.spec)?,
            status: SequenceStatus::parse(&self.status).ok_or_else(|| broken("a sequence's status"))?,
            paused_reason: self.paused_reason,
            audience: AudienceNo(self.audience_no),
            runs,
            created_at: Time::from_ms(self.created_at),
        })
    }
}

/// An enrolment joined with its contact.
#[derive(Debug, FromRow)]
#[allow(missing_docs)]
pub struct EnrolmentSql {
    pub contact_no: i32,
    pub address: String,
    pub status: i16,
    pub step: i32,
    pub due_at: i64,
    pub exit_reason: Option<String>,
    pub enrolled_at: i64,
}

impl EnrolmentSql {
    /// The enrolment.
    pub fn read(self) -> Result<Enrolment> {
        let status = EnrolmentStatus::from_code(self.status).ok_or_else(|| broken("an enrolment's status"))?;
        Ok(Enrolment {
            contact: to_u32(self.contact_no.into()),
            address: self.address,
            status,
            step: to_u32(self.step.into()),
            due_at: (status == EnrolmentStatus::Waiting).then_some(Time::from_ms(self.due_at)),
            exit_reason: self.exit_reason,
            enrolled_at: Time::from_ms(self.enrolled_at),
        })
    }
}

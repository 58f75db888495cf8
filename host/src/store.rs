//! The store: SQL is the truth about campaigns, messages and consent.
//!
//! [`Store`] is implemented by [`postgres`] and [`sqlite`]: own SQL each where their words differ, else one module for both
//! (`both/`); same meaning, one contract suite in `tests/`. These are the only modules that import `sqlx`. Every write that
//! ends, takes or rescues a message is one conditional update on its state *and* its lease holder; zero rows changed is an answer,
//! not an error.

mod dispatch;
#[macro_use]
mod from_row;
mod migrations;
pub mod postgres;
mod rows;
pub mod sqlite;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::campaign::{Campaign, CampaignEvent, CampaignSpec, CampaignStatus, Run};
use crate::clock::Time;
use crate::consent::{NewSuppression, Suppression};
use crate::device::{Device, DeviceSpec, PaceUpdate, SavedPace};
use crate::grants::{Grants, GrantsRow};
use crate::id::{
    AudienceNo, CampaignId, DeviceId, DeviceNo, Digest, HostId, MessageId, RolloutNo, RunKey, SequenceId, SequenceNo,
    TokenId, VersionNo, WebhookId,
};
use crate::message::{AttemptRow, Begun, Claim, Counts, InFlight, MessageRow, MessageStatus, Settlement, Turned};
use crate::plugin::{PluginInfo, PluginKind};
use crate::receipt::{AddressKey, Expected, News, Noted, Receipt, ReceiptCounts, ReceiptKey, Webhook};
use crate::resolution::{Resolution, Resolved};
use crate::rollout::{
    Counts as RolloutCounts, Ending, Finding, KEPT_FINDINGS, Quarantine, Rollout, RolloutSpec, RolloutStatus, StableRow,
};
use crate::sequence::{Enrolment, EnrolmentStatus, Sequence, SequenceSpec, SequenceStatus};
use crate::vault::Sealed;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached now (connection refused or lost, pool exhausted, disk full, locked): the same
    /// call may succeed later. Nothing of it was applied, or what was applied is safe to repeat.
    #[error("the store is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// Something with that name or id exists already.
    #[error("{what} exists already")]
    Exists {
        /// What exists, such as `device dev-1`.
        what: String,
    },
    /// Something the call refers to is still in use, or is in a state that does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// A row that breaks the store's own rules, or an SQL error that repeating will not mend: a bug.
    #[error("the store failed")]
    Internal(#[source] anyhow::Error),
}

impl StoreError {
    /// Why nothing can be written, for those who may not see the error itself.
    pub fn told(&self) -> &'static str {
        match self {
            Self::Unavailable(_) if rows::disk_full(self) => {
                "the store's disk is full: nothing can be written until there is room"
            }
            Self::Unavailable(_) => "the store cannot be reached or written to now",
            Self::Exists { .. } | Self::Conflict(_) | Self::Internal(_) => {
                "the store refused a heartbeat: the server's log says why"
            }
        }
    }
}

/// A result from the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Opens the store that `url` names: `postgres://…` (or `postgresql://…`), or `sqlite:PATH`. Brings its tables up to date
/// first; several servers may do so at once. `connections` is the most that are open at a time (PostgreSQL only: SQLite
/// has one writer anyway).
///
/// # Errors
/// `Unavailable` when it cannot be reached now; `Internal` when the URL names no store, or a newer version of the program
/// has been at work on its tables.
pub async fn open(url: &str, connections: u32) -> Result<Arc<dyn Store>> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Arc::new(postgres::Postgres::open(url, connections).await?))
    } else if url.starts_with("sqlite:") {
        Ok(Arc::new(sqlite::Sqlite::open(url).await?))
    } else {
        Err(StoreError::Internal(anyhow::anyhow!("a store's URL begins with postgres:// or sqlite:")))
    }
}

/// A page of a listing, and where the next one begins (`None` when this was the last).
#[derive(Debug, Clone)]
pub struct Page<T, C> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor to pass for the next page.
    pub next: Option<C>,
}

/// A server, as its heartbeat describes it.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The process.
    pub host: HostId,
    /// The machine's name, for people.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The roles it runs, comma-separated.
    pub roles: String,
    /// Sends in flight now.
    pub active_workers: u32,
}

/// A server, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct HostRow {
    /// The process.
    #[schema(value_type = String)]
    pub host: HostId,
    /// The machine's name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The roles it runs, comma-separated.
    pub roles: String,
    /// Sends in flight at its last heartbeat.
    pub active_workers: u32,
    /// When it started.
    pub started_at: Time,
    /// Its last heartbeat.
    pub heartbeat_at: Time,
}

/// What changed somewhere in the cluster: servers compare these numbers with the ones they saw last and reload
/// what moved. Each write to one of these kinds adds one, in its own transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revisions {
    /// Runs and campaigns: made, paused, resumed, finished, changed.
    pub runs: i64,
    /// Devices: made, changed, deleted.
    pub devices: i64,
    /// Plugin versions, activations and grants.
    pub plugins: i64,
    /// The suppression list.
    pub suppressions: i64,
    /// API tokens.
    pub tokens: i64,
    /// Secrets for senders.
    pub secrets: i64,
}

/// A running run as the top-up needs it, in [`Run::rank`] order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankedRun {
    /// The run.
    pub run: RunKey,
    /// Its rank: the score of its messages in a device's queue.
    pub rank: i64,
}

/// What belongs into one device's queue now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUp {
    /// The device.
    pub device: DeviceNo,
    /// The first `window` messages that may go now, in the order in which they should: by their run's rank, then by
    /// id. Messages that are in the queue already are among them.
    pub messages: Vec<(MessageId, i64)>,
    /// The device's saved pace, if it has one.
    pub pace: Option<SavedPace>,
}

/// A contact to be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContact {
    /// The address; unique in its audience.
    pub address: String,
    /// BCP 47.
    pub locale: Option<String>,
    /// IANA zone.
    pub zone: Option<String>,
    /// The other columns, a JSON array of `[name, value]` pairs in their order.
    pub variables: String,
}

/// An audience as listings show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AudienceRow {
    /// Its name.
    pub name: String,
    /// Its current version's number.
    #[schema(value_type = i32)]
    pub no: AudienceNo,
    /// Contacts in it.
    pub contacts: u32,
    /// Names of its variables.
    pub columns: Vec<String>,
    /// When this version was uploaded.
    pub updated_at: Time,
}

/// What expanding one page of a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandedPage {
    /// Messages made (or found) by this page; less than the page where contacts are suppressed.
    pub pending: u32,
    /// Of the page, suppressed at once.
    pub suppressed: u32,
    /// The run's new cursor.
    pub cursor: u32,
    /// Whether it was the last page.
    pub done: bool,
}

/// Campaigns that are not final and have something in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCampaigns {
    /// Their status.
    pub status: CampaignStatus,
    /// For paused ones, what stands before the colon of the reason; empty otherwise.
    pub reason: String,
    /// How many they are.
    pub count: u64,
}

/// What one step of retention came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Whose messages went.
    pub campaign: CampaignId,
    /// Its run.
    pub run: RunKey,
    /// Messages that went with this step.
    pub messages: u64,
    /// Whether nothing is left of the run but its counts.
    pub done: bool,
}

/// An uploaded plugin version, without its bytes.
#[derive(Debug, Clone)]
pub struct PluginVersion {
    /// Its number: what message rows carry.
    pub no: VersionNo,
    /// The plugin's name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// Its world.
    pub kind: PluginKind,
    /// sha256 of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// What `describe` said.
    pub info: PluginInfo,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// Whether it is the activated version of its name.
    pub active: bool,
    /// When it was uploaded.
    pub uploaded_at: Time,
    /// Why it must not be used.
    pub quarantine: Option<Quarantine>,
}

/// A change of a plugin's active version.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Who makes it.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Whether a version in quarantine is released.
    pub force: bool,
    /// How the version is watched, where there is one before it.
    pub watch: Option<&'a RolloutSpec>,
}

/// A plugin version to be stored.
#[derive(Debug, Clone)]
pub struct NewPluginVersion {
    /// Its world.
    pub kind: PluginKind,
    /// What `describe` said; holds its name and version.
    pub info: PluginInfo,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// sha256 of the bytes.
    pub digest: Digest,
    /// The component.
    pub bytes: Bytes,
}

/// When something is granted to a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granting {
    /// In any case, in place of what was granted before.
    Replace,
    /// Only if nothing was granted to it yet.
    First,
}

/// A call of a plugin to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCase {
    /// The version.
    pub plugin: VersionNo,
    /// When it was called.
    pub at: Time,
    /// What was called, such as `render`.
    pub call: String,
    /// How it failed, such as `plugin-trap`; `None` for one that was sampled.
    pub code: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Whether personal data was taken out.
    pub masked: bool,
    /// Whether the case came to the same when it was kept.
    pub reproduces: bool,
    /// Whether nothing of it was cut.
    pub complete: bool,
    /// The case, JSON.
    pub case: String,
}

/// A call of a plugin that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCase {
    /// Its number.
    pub id: i64,
    /// The plugin's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// sha256 of the version's bytes.
    pub digest: Digest,
    /// What was kept; `case` is empty in listings.
    pub kept: NewCase,
}

/// What storing a plugin version came to.
#[derive(Debug, Clone)]
pub enum Stored {
    /// It is new.
    New(PluginVersion),
    /// The same bytes were there under this name and version.
    Same(PluginVersion),
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: TokenId,
    /// A name for people.
    pub name: String,
    /// What it may do, see `http::auth`.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

/// The answer that a creating call gave, kept under its idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// sha256 over method, path and body: the same key with another request is refused.
    pub request: Digest,
    /// HTTP status; 0 while the first call is still running.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A row of the ledger of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AuditRow {
    /// When.
    pub at: Time,
    /// The token's name (`system` for the engine).
    pub actor: String,
    /// What was done, such as `campaign.pause`.
    pub action: String,
    /// To what.
    pub subject: String,
}

/// What enrolling came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Enrolled {
    /// Contacts that are new in the sequence.
    pub enrolled: u32,
    /// Contacts that were in it before (each passes through a sequence once).
    pub already: u32,
    /// Contacts that were not enrolled because they are suppressed.
    pub suppressed: u32,
}

/// In which groups turns are best written: see [`Store::turn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// Groups at the same time.
    pub groups: usize,
    /// Turns in a group at most.
    pub turns: usize,
}

/// Which unknown outcomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownOf {
    /// Those of these runs; of every run when absent.
    pub runs: Option<Vec<RunKey>>,
    /// Those of this device.
    pub device: Option<DeviceNo>,
}

/// The state of the database, for `doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// Its name and version.
    pub server: String,
    /// What an operator should change, such as `fsync` that is off; empty when all is well.
    pub warnings: Vec<String>,
    /// Bytes of write-ahead log written so far by the whole server; `None` where it does not tell.
    pub log_bytes: Option<u64>,
}

/// The truth. All methods may be called by several servers at once; `now` is the cluster's time (see
/// [`crate::clock::SystemClock::follow`]).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // ---- the store itself ----

    /// `postgres` or `sqlite`.
    fn kind(&self) -> &'static str;
    /// In which groups turns are best written.
    fn grouping(&self) -> Grouping;
    /// Whether the store answers; the time it shows (its own clock for PostgreSQL, this machine's for SQLite).
    async fn now(&self) -> Result<Time>;
    /// What the database is, and what an operator should change about it.
    async fn health(&self) -> Result<StoreHealth>;
    /// SQL statements executed since the start, for the benchmark and metrics.
    fn statements(&self) -> u64;
    /// Calls since the start that failed because the database was away or refused, for metrics.
    fn errors(&self) -> u64;
    /// Closes the connections after what is running has finished.
    async fn close(&self);

    // ---- servers ----

    /// Writes this server's heartbeat, and returns every server whose own is at most `alive` old (this one included).
    async fn heartbeat(&self, beat: &Heartbeat, now: Time, alive: Duration) -> Result<Vec<HostRow>>;
    /// Removes this server's row: called at the end of a clean shutdown.
    async fn leave(&self, host: HostId) -> Result<()>;
    /// The change counters.
    async fn revisions(&self) -> Result<Revisions>;

    // ---- tokens, idempotency keys, audit ----

    /// Stores a token under the sha256 of its secret.
    async fn create_token(&self, row: &TokenRow, secret: Digest) -> Result<()>;
    /// The token with this secret, revoked ones included.
    async fn token_by_secret(&self, secret: Digest) -> Result<Option<TokenRow>>;
    /// All tokens, oldest first.
    async fn tokens(&self) -> Result<Vec<TokenRow>>;
    /// Revokes a token; `false` when there is none or it was revoked before.
    async fn revoke_token(&self, id: TokenId, now: Time) -> Result<bool>;
    /// Claims an idempotency key for `owner` (a token's id). `None`: it is new and now held, with status 0, until
    /// [`Store::keep_answer`] or [`Store::drop_key`]. `Some`: what is kept under it. A key older than a day, or held
    /// with status 0 for more than a minute, counts as new.
    async fn claim_key(&self, owner: TokenId, key: &str, request: Digest, now: Time) -> Result<Option<KeptAnswer>>;
    /// Keeps the answer of the call that holds the key.
    async fn keep_answer(&self, owner: TokenId, key: &str, status: u16, body: &str) -> Result<()>;
    /// Gives the key up: the call failed in a way that a repeat may mend.
    async fn drop_key(&self, owner: TokenId, key: &str) -> Result<()>;
    /// Adds a line to the audit log.
    async fn audit(&self, row: &AuditRow) -> Result<()>;
    /// The audit log, newest first; the cursor is a row number.
    async fn audit_log(&self, cursor: Option<i64>, limit: u32) -> Result<Page<AuditRow, i64>>;

    // ---- devices ----

    /// Makes or replaces devices, all or none; returns how many are new. Replacing keeps number, pace and hold.
    async fn put_devices(&self, devices: &[DeviceSpec], now: Time) -> Result<u32>;
    /// Replaces one device if it is still as it was at `seen_updated_at`; `false` when it was changed or deleted since. With
    /// `ends_wait` its saved pace lets it send at once.
    async fn update_device(
        &self,
        spec: &DeviceSpec,
        held: Option<&str>,
        ends_wait: bool,
        seen_updated_at: Time,
        now: Time,
    ) -> Result<bool>;
    /// Deletes a device.
    ///
    /// # Errors
    /// `Conflict` while it has messages that are not final.
    async fn delete_device(&self, id: &DeviceId, now: Time) -> Result<bool>;
    /// One device.
    async fn device(&self, id: &DeviceId) -> Result<Option<Device>>;
    /// Devices by id order; filters by tag and channel.
    async fn devices(
        &self,
        tag: Option<&str>,
        channel: Option<&str>,
        cursor: Option<&DeviceId>,
        limit: u32,
    ) -> Result<Page<Device, DeviceId>>;
    /// These devices (those that exist), in any order.
    async fn devices_by_no(&self, nos: &[DeviceNo]) -> Result<Vec<Device>>;
    /// Devices changed at or after `since`, deleted ones not included, and the numbers of those deleted since then.
    async fn devices_changed(&self, since: Time) -> Result<(Vec<Device>, Vec<DeviceNo>)>;
    /// All devices of a provider account.
    async fn devices_of_account(&self, account: &str) -> Result<Vec<Device>>;
    /// How many devices there are.
    async fn count_devices(&self) -> Result<u64>;
    /// Puts devices on hold (or lifts the hold, with `None`).
    async fn hold_devices(&self, nos: &[DeviceNo], reason: Option<&str>, now: Time) -> Result<()>;
    /// Saves paces; one under an older token than the saved one is skipped.
    async fn save_paces(&self, paces: &[PaceUpdate]) -> Result<()>;

    /// Saved paces of these devices; those without one are left out.
    async fn saved_paces(&self, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, SavedPace)>>;

    // ---- audiences ----

    /// Starts a new version of an audience; it becomes current when it is finished.
    async fn begin_audience(&self, name: &str, columns: &[String], now: Time) -> Result<AudienceNo>;
    /// Appends contacts with consecutive numbers from `first`; returns the positions (in `contacts`) whose address was in the
    /// audience before, which were skipped: their numbers stay unused.
    async fn append_contacts(&self, audience: AudienceNo, first: u32, contacts: &[NewContact]) -> Result<Vec<u32>>;
    /// Makes the version current: `contacts` were accepted, numbers up to `last` used.
    async fn finish_audience(&self, audience: AudienceNo, contacts: u32, last: u32, now: Time) -> Result<()>;
    /// Throws an unfinished version away.
    async fn abort_audience(&self, audience: AudienceNo) -> Result<()>;
    /// The current version of an audience.
    async fn audience(&self, name: &str) -> Result<Option<AudienceRow>>;
    /// All audiences by name.
    async fn audiences(&self, cursor: Option<&str>, limit: u32) -> Result<Page<AudienceRow, String>>;
    /// The first contacts of an audience (for previews): address, variables as a JSON array of pairs.
    async fn contacts(&self, audience: AudienceNo, after: u32, limit: u32) -> Result<Vec<(u32, NewContact)>>;
    /// Deletes up to `limit` contacts of versions that are neither current nor used by a run whose messages are there;
    /// returns how many went. (Versions whose messages are still shown keep their contacts.)
    async fn prune_audiences(&self, now: Time, limit: u32) -> Result<u64>;

    // ---- plugins ----

    /// Stores a version.
    ///
    /// # Errors
    /// `Conflict` when the name and version are taken by other bytes, or the name by another kind.
    async fn put_plugin(&self, new: &NewPluginVersion, activate: bool, now: Time) -> Result<Stored>;
    /// Deletes a version that nothing uses; `false` when there is none. What names it by its number (messages, rollouts, cases,
    /// the history) goes on to show it, and its name and version may be stored again, under another number.
    ///
    /// # Errors
    /// `Conflict`, with what to do first, while it is active or tried, a roll-back would go back to it, a message is being sent
    /// with it, or a campaign that has not ended, a sequence or a device names it.
    async fn delete_version(&self, name: &str, version: &str, now: Time) -> Result<bool>;
    /// Makes a version the active one of its name, and ends the rollout that is running; `None` when there is no such version.
    ///
    /// # Errors
    /// `Conflict` when it is in quarantine and not forced.
    async fn activate_plugin(
        &self,
        name: &str,
        version: &str,
        change: &Change<'_>,
        now: Time,
    ) -> Result<Option<PluginVersion>>;
    /// Makes the version active that was so before the active one, leaving out those in quarantine, and ends the rollout that
    /// is running; `None` when there is no such plugin.
    ///
    /// # Errors
    /// `Conflict` when there is none before.
    async fn rollback_plugin(&self, name: &str, actor: &str, reason: &str, now: Time) -> Result<Option<PluginVersion>>;
    /// The last changes of a plugin's active version, newest first.
    async fn plugin_history(&self, name: &str, limit: u32) -> Result<Vec<StableRow>>;
    /// Every version of every plugin that was not deleted: by name, newest first.
    async fn plugins(&self) -> Result<Vec<PluginVersion>>;
    /// The bytes of a version that was not deleted.
    async fn plugin_bytes(&self, no: VersionNo) -> Result<Option<Bytes>>;
    /// Keeps a call. Of those that failed and of those that were sampled, the newest `keep` of a version stay each.
    async fn put_case(&self, new: &NewCase, keep: u32) -> Result<()>;
    /// Calls of a plugin that were kept, newest first, without what they were made with.
    async fn cases(&self, plugin: &str, cursor: Option<i64>, limit: u32) -> Result<Page<KeptCase, i64>>;
    /// One of them, whole.
    async fn case(&self, plugin: &str, id: i64) -> Result<Option<KeptCase>>;
    /// Removes up to `limit` calls kept before `before`; returns how many went.
    async fn prune_cases(&self, before: Time, limit: u32) -> Result<u64>;

    // ---- grants and secrets ----

    /// Grants something to a plugin; `false` when there is no such plugin, or it was not the first time.
    async fn grant(&self, plugin: &str, grants: &Grants, actor: &str, when: Granting, now: Time) -> Result<bool>;
    /// What each plugin was granted, by name; those that were granted nothing are left out.
    async fn grants(&self) -> Result<Vec<GrantsRow>>;
    /// Keeps a secret, in place of the one of its name; returns whether there was none.
    async fn put_secret(&self, secret: &Sealed) -> Result<bool>;
    /// All secrets, by name, encrypted.
    async fn secrets(&self) -> Result<Vec<Sealed>>;
    /// Puts another encryption of the same secret in place of `seen`; `false` when that is not what is there any more.
    async fn reseal_secret(&self, seen: &Sealed, secret: &Sealed) -> Result<bool>;
    /// Deletes a secret; `false` when there is none of this name.
    async fn delete_secret(&self, name: &str) -> Result<bool>;

    // ---- rollouts ----

    /// Begins to try a version against the active one; `None` when there is no such version.
    ///
    /// # Errors
    /// `Conflict` when a rollout of the plugin is running, it has no other active version, or the version is in quarantine
    /// and not forced.
    async fn start_rollout(
        &self,
        name: &str,
        version: &str,
        spec: &RolloutSpec,
        force: bool,
        actor: &str,
        now: Time,
    ) -> Result<Option<Rollout>>;
    /// Ends a rollout with everything that follows, all or nothing; `None` when it is not running (any more).
    async fn end_rollout(
        &self,
        no: RolloutNo,
        ending: &Ending,
        actor: &str,
        reason: &str,
        now: Time,
    ) -> Result<Option<Rollout>>;
    /// The last rollouts of a plugin, newest first.
    async fn rollouts(&self, name: &str, limit: u32) -> Result<Vec<Rollout>>;
    /// The rollouts that are running: at most one for each plugin.
    async fn running_rollouts(&self) -> Result<Vec<Rollout>>;
    /// Writes what a server has seen of rollouts since it began to look: in place of what it wrote before.
    async fn put_rollout_counts(&self, host: HostId, counts: &[(RolloutNo, RolloutCounts)]) -> Result<()>;
    /// What all servers have seen of each of these rollouts together.
    async fn rollout_counts(&self, nos: &[RolloutNo]) -> Result<Vec<(RolloutNo, RolloutCounts)>>;
    /// Adds what was found, and removes all but the newest ones of each of these rollouts.
    async fn add_findings(&self, findings: &[(RolloutNo, Finding)]) -> Result<()>;
    /// What was found of a rollout, newest first.
    async fn findings(&self, no: RolloutNo, limit: u32) -> Result<Vec<Finding>>;

    // ---- campaigns and runs ----

    /// Stores a campaign as a draft.
    async fn create_campaign(&self, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<()>;
    /// One campaign.
    async fn campaign(&self, id: CampaignId) -> Result<Option<Campaign>>;
    /// Campaigns, newest first, by status where given.
    async fn campaigns(
        &self,
        status: Option<CampaignStatus>,
        cursor: Option<CampaignId>,
        limit: u32,
    ) -> Result<Page<Campaign, CampaignId>>;
    /// Moves a campaign from `from` by `event`, and with it whether its runs are active. `reason` is kept for a pause.
    /// Sets `launched_at` at the first `Schedule` or `Start`, `finished_at` at a final status. `None` when it was not in
    /// `from` any more (or there is none).
    async fn move_campaign(
        &self,
        id: CampaignId,
        from: CampaignStatus,
        event: CampaignEvent,
        reason: Option<&str>,
        now: Time,
    ) -> Result<Option<Campaign>>;
    /// Replaces the specification of a campaign that is not final (edited pace, priority, window, expiry) in the campaign
    /// and its open runs.
    async fn edit_campaign(&self, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<bool>;
    /// Scheduled campaigns whose time has come, at most `limit`; and when the next one after them is due.
    async fn due_campaigns(&self, now: Time, limit: u32) -> Result<(Vec<Campaign>, Option<Time>)>;
    /// Starts a campaign that is `draft` or `scheduled`: freezes its audience, makes its run with these devices, and sets it
    /// to `expanding`, all or nothing. `None` when it is no longer in that state.
    async fn start_run(
        &self,
        campaign: &Campaign,
        audience: AudienceNo,
        devices: &[DeviceNo],
        now: Time,
    ) -> Result<Option<Run>>;
    /// Runs whose owners are not final, in rank order: active ones and paused ones.
    async fn open_runs(&self) -> Result<Vec<Run>>;
    /// One run, open or not.
    async fn run(&self, key: RunKey) -> Result<Option<Run>>;
    /// These runs (those that exist), open or not, in rank order.
    async fn runs(&self, keys: &[RunKey]) -> Result<Vec<Run>>;
    /// Devices of a run's pool, in their order.
    async fn run_devices(&self, key: RunKey) -> Result<Vec<DeviceNo>>;
    /// Turns the next `page` contacts after `cursor` into messages, in one transaction with the cursor. Suppressed
    /// addresses (for the channel of the device they fall to) become `suppressed` at once. `None` when the run's cursor
    /// is no longer `cursor` (another server did it) or the run is not active.
    async fn expand_page(&self, run: RunKey, cursor: u32, page: u32, now: Time) -> Result<Option<ExpandedPage>>;
    /// How many messages of these runs are in each state.
    async fn counts(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, Counts)>>;
    /// How many messages of these runs wait for a time of their own (a retry, a recipient's quiet hours); at most `limit` of
    /// all such messages are looked at.
    async fn deferred(&self, runs: &[RunKey], limit: u32) -> Result<u64>;
    /// How many campaigns are in each status that is not final; those that are paused by the first words of the reason, up to
    /// its colon.
    async fn open_campaigns(&self) -> Result<Vec<OpenCampaigns>>;
    /// Sets running campaigns whose run is expanded and has no open message to `completed`; returns them.
    async fn complete_campaigns(&self, now: Time) -> Result<Vec<CampaignId>>;
    /// Turns up to `limit` pending messages of a cancelled or expired run into `cancelled` or `expired`; returns how many.
    async fn close_pending(&self, run: RunKey, to: MessageStatus, limit: u32, now: Time) -> Result<u64>;
    /// Runs of campaigns that are `cancelled` or `expired` and still have pending messages.
    async fn runs_to_close(&self) -> Result<Vec<(RunKey, CampaignStatus)>>;
    /// Campaigns that are open although their `expires_at` has passed.
    async fn campaigns_past_expiry(&self, now: Time) -> Result<Vec<Campaign>>;
    /// Turns up to `limit` failed messages of a run into pending ones, with fresh attempts; returns how many.
    ///
    /// # Errors
    /// `Conflict` when the campaign is cancelled or expired, or its messages were removed.
    async fn retry_failed(&self, run: RunKey, limit: u32, now: Time) -> Result<u64>;

    /// Removes the messages of the next at most `limit` contacts, with their attempts, from the campaign's run that finished
    /// first, if it did so at or before `before` and has no open message. (Runs of sequences do not finish.) In the
    /// transaction that removes the first of them the campaign says so ([`Campaign::messages_pruned_at`]), and from then
    /// on its failed messages cannot be tried again; its counts stay. `None` when there is no such run, or another
    /// server is at it.
    async fn prune_run(&self, before: Time, limit: u32, now: Time) -> Result<Option<Pruned>>;

    // ---- messages: the hot path ----

    /// What belongs into the queues of these devices now: for each, the first `window` ready messages over the given
    /// active runs (in this order), with the one that is being sent: should it come back, it comes before those that
    /// follow it. Devices with none are left out.
    async fn top_up(&self, devices: &[DeviceNo], runs: &[RankedRun], window: u32) -> Result<Vec<TopUp>>;
    /// The next devices (by number, after `after`) that have a ready message, at most `limit`.
    async fn devices_with_ready(&self, after: Option<DeviceNo>, limit: u32) -> Result<Vec<DeviceNo>>;
    /// Makes up to `limit` deferred messages that are due ready; returns their devices (each once), and when the next one
    /// after them is due.
    async fn promote_due(&self, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)>;
    /// Ends attempts, then takes messages, all in one transaction that is committed when this returns; so a device that
    /// goes from one message to the next takes one turn.
    ///
    /// An end is applied where its message is still `processing` under the token and attempt: message, attempt row,
    /// counters, pace, suppression, enrolment. A claim takes a message from `pending` (ready) to `processing` under its
    /// token, at most one per device (the device's row of `in_flight` says so even across servers that lost their
    /// leases), unless suppressed, expired or inactive. Without an end, a device whose saved pace does not let it send yet
    /// begins nothing.
    async fn turn(&self, host: HostId, ends: &[Settlement], claims: &[Claim], now: Time) -> Result<Turned>;
    /// [`Store::turn`] without ends.
    async fn begin(&self, host: HostId, claims: &[Claim], now: Time) -> Result<Vec<Begun>> {
        Ok(self.turn(host, &[], claims, now).await?.begun)
    }
    /// [`Store::turn`] without claims, for which neither server nor time are needed.
    async fn settle(&self, ends: &[Settlement]) -> Result<Vec<bool>> {
        Ok(self.turn(HostId(uuid::Uuid::nil()), ends, &[], Time::from_ms(0)).await?.applied)
    }
    /// Messages that are `processing`, of one device or (with `None`) the next ones after a message id.
    async fn in_flight(
        &self,
        device: Option<DeviceNo>,
        after: Option<MessageId>,
        limit: u32,
        now: Time,
        alive: Duration,
    ) -> Result<Vec<InFlight>>;
    /// Pushes ready messages of these ids to `due_at` (a recipient's quiet hours, a paused scope).
    async fn defer(&self, messages: &[MessageId], due_at: Time, reason: &str) -> Result<u64>;
    /// Moves up to `limit` pending messages of a device to the given devices, spread evenly; returns how many.
    async fn reassign(&self, from: DeviceNo, run: RunKey, to: &[DeviceNo], limit: u32) -> Result<u64>;

    // ---- messages: reading ----

    /// A run's messages in contact order, by status where given; those that are `pending` device by device, in the order in
    /// which each device will send them. The cursor is where the page before ended. A page by status may be short, even
    /// empty, though another one follows: for a status that no index knows, a page ends after some ten thousand messages.
    async fn messages(
        &self,
        run: RunKey,
        status: Option<MessageStatus>,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<MessageRow, MessageId>>;
    /// One message.
    async fn message(&self, id: MessageId) -> Result<Option<MessageRow>>;
    /// Its attempts that did not end in a clean send, oldest first.
    async fn attempts(&self, id: MessageId) -> Result<Vec<AttemptRow>>;
    /// How many ready messages of the device stand before this one (at most `limit` are counted), given the active runs.
    async fn ahead_of(&self, id: MessageId, device: DeviceNo, runs: &[RankedRun], limit: u32) -> Result<u32>;

    // ---- receipts ----

    /// Stores a webhook under the sha256 of its key.
    async fn create_webhook(&self, webhook: &Webhook, key: Digest) -> Result<()>;
    /// The webhooks of a plugin (of every plugin, with `None`), oldest first.
    async fn webhooks(&self, plugin: Option<&str>) -> Result<Vec<Webhook>>;
    /// The webhook with this key.
    async fn webhook_by_key(&self, key: Digest) -> Result<Option<Webhook>>;
    /// Deletes a webhook of a plugin; `false` when there is none.
    async fn delete_webhook(&self, plugin: &str, id: WebhookId) -> Result<bool>;
    /// Notes what reports will find messages by, as [`Store::turn`] does for those that it ends.
    async fn expect_receipts(&self, expected: &[(MessageId, Expected)]) -> Result<()>;
    /// Takes reports of providers in: receipts and counts, however often and in whatever order they come. Of messages that are
    /// not known, `room` reports are kept at most.
    async fn note_receipts(&self, news: &[News], room: u32, now: Time) -> Result<Noted>;
    /// Takes in up to `limit` reports that were kept and whose messages are known by now, and gives up as many that were kept
    /// before `before`; returns what became of the former, and how many the latter are.
    async fn settle_early_receipts(&self, before: Time, limit: u32) -> Result<(Noted, u64)>;
    /// What is known of a message after its provider took it; `None` when nothing is expected.
    async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>>;
    /// How many messages of these runs were reported as what; runs of which nothing was are left out.
    async fn receipt_counts(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, ReceiptCounts)>>;
    /// The addresses, as audiences have them, of messages with these keys and of up to `limit` messages to each of these
    /// addresses.
    async fn addresses_of_receipts(
        &self,
        keys: &[ReceiptKey],
        addresses: &[AddressKey],
        limit: u32,
    ) -> Result<Vec<String>>;

    // ---- unknown outcomes ----

    /// Messages whose outcome is unknown, by id; the cursor is where the page before ended.
    async fn unknown(
        &self,
        of: &UnknownOf,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<MessageRow, MessageId>>;
    /// The runs (at most `limit`) that have unknown messages, with how many, by key.
    async fn unknown_runs(&self, limit: u32) -> Result<Vec<(RunKey, u64)>>;
    /// Of these unknown messages those about which something is to be done now, each for one caller only: it was done less
    /// than `times` times, and the wait after the last time is over (`first`, doubled from time to time up to `longest`).
    /// Returns them with how often it is, this time included.
    async fn claim_lookups(
        &self,
        messages: &[MessageId],
        times: u32,
        first: Duration,
        longest: Duration,
        now: Time,
    ) -> Result<Vec<(MessageId, u32)>>;
    /// Resolves unknown outcomes in one transaction: message, history, counters, enrolment, suppression. Each is applied only
    /// while its message is unknown after this very attempt, so that a repeat changes nothing. One that sends a message
    /// again is refused when its campaign cannot send any more or its contact has left the sequence; a completed campaign
    /// is running again afterwards.
    async fn resolve(&self, resolutions: &[Resolution], now: Time) -> Result<Vec<Resolved>>;

    // ---- consent ----

    /// Adds to the suppression list; entries that are there stay. Returns how many are new.
    async fn suppress(&self, entries: &[NewSuppression], now: Time) -> Result<u32>;
    /// Takes entries off the list (exact address and channel); returns how many went. The ledger keeps both.
    async fn unsuppress(&self, entries: &[(String, Option<String>)], now: Time) -> Result<u32>;
    /// The list by address; the cursor is `(address, channel)` with an empty channel for every channel.
    async fn suppressions(
        &self,
        address: Option<&str>,
        cursor: Option<(String, String)>,
        limit: u32,
    ) -> Result<Page<Suppression, (String, String)>>;
    /// Entries added at or after `since`, oldest first: what servers keep in memory for the check right before a send.
    async fn suppressed_since(&self, since: Time, limit: u32) -> Result<Vec<Suppression>>;

    // ---- sequences ----

    /// Stores a sequence as a draft, with an audience of its own.
    async fn create_sequence(&self, id: SequenceId, spec: &SequenceSpec, now: Time) -> Result<Sequence>;
    /// One sequence.
    async fn sequence(&self, id: SequenceId) -> Result<Option<Sequence>>;
    /// The sequence with this number.
    async fn sequence_by_no(&self, no: SequenceNo) -> Result<Option<Sequence>>;
    /// Sequences, newest first.
    async fn sequences(&self, cursor: Option<SequenceId>, limit: u32) -> Result<Page<Sequence, SequenceId>>;
    /// Moves a sequence to `to` if it is in `from`, and with it whether its runs are active; makes a run per step, with
    /// these devices, when it is first set running.
    async fn move_sequence(
        &self,
        id: SequenceId,
        from: SequenceStatus,
        to: SequenceStatus,
        reason: Option<&str>,
        devices: &[DeviceNo],
        now: Time,
    ) -> Result<Option<Sequence>>;
    /// Enrols up to `limit` contacts of an audience with numbers after `after`, first step due at `due_at`; returns the last
    /// number looked at, `None` when the audience is at its end.
    async fn enrol_audience(
        &self,
        sequence: SequenceNo,
        audience: AudienceNo,
        after: u32,
        limit: u32,
        due_at: Time,
        now: Time,
    ) -> Result<(Enrolled, Option<u32>)>;
    /// Enrols one contact.
    async fn enrol_contact(
        &self,
        sequence: SequenceNo,
        contact: &NewContact,
        due_at: Time,
        now: Time,
    ) -> Result<Enrolled>;
    /// Makes the messages of up to `limit` due enrolments of running sequences: `waiting` → `in_step`, with a ready message on a
    /// device of the step's run (or, for a suppressed address, → `exited`). Returns the devices that got work, and
    /// when the next enrolment is due.
    async fn step_due(&self, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)>;
    /// Ends an enrolment by a call: its pending message is cancelled. `false` when there is none that is open.
    async fn exit_enrolment(&self, sequence: SequenceNo, address: &str, reason: &str, now: Time) -> Result<bool>;
    /// Enrolments in contact order, by status where given; the cursor is a contact number.
    async fn enrolments(
        &self,
        sequence: SequenceNo,
        status: Option<EnrolmentStatus>,
        cursor: Option<u32>,
        limit: u32,
    ) -> Result<Page<Enrolment, u32>>;
    /// How many enrolments are in each state: waiting, in step, completed, exited.
    async fn enrolment_counts(&self, sequence: SequenceNo) -> Result<[u64; 4]>;
}

//! Campaigns and their runs: what a user asks for, the states a campaign goes through, and the frozen form that the
//! engine works with. No I/O.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::id::{AudienceNo, CampaignId, DeviceId, RunKey, SequenceNo};
use crate::json::object;
use crate::resolution::{UnknownEnd, UnknownPolicy};
use crate::window::SendingWindow;

/// What a user asks for: the body of `POST /api/v1/campaigns`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignSpec {
    /// A name for people, 1 to 200 characters; need not be unique.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// The audience's name, as in `PUT /audiences/{name}`. Its current version is frozen at launch.
    #[schema(min_length = 1)]
    pub audience: String,
    /// Which devices send.
    #[serde(deserialize_with = "object")]
    pub devices: DevicePool,
    /// What each message says.
    pub template: PluginUse,
    /// How long a device waits after each send.
    pub delay: DelayUse,
    /// How a device sends; a device's own default sender when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<PluginUse>,
    /// When it starts; at launch when absent.
    #[serde(default, deserialize_with = "object")]
    pub schedule: Schedule,
    /// 0 (first) to 9 (last): which campaign's messages a device sends first.
    #[serde(default = "default_priority")]
    #[schema(maximum = 9)]
    pub priority: u8,
    /// Messages not sent by then become `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// How often and when a message is tried again.
    #[serde(default, deserialize_with = "object")]
    pub retry: RetryPolicy,
    /// What happens to a message whose outcome cannot be proved.
    #[serde(default)]
    pub delivery: Delivery,
    /// What is done about messages whose outcome stays unknown.
    #[serde(default)]
    pub unknown: UnknownPolicy,
    /// When messages may be sent; at any time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<SendingWindow>,
}

const fn default_priority() -> u8 {
    5
}

/// Which devices a campaign may use: all enabled devices with a tag, or the named ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePool {
    /// Devices that carry this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// These devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<DeviceId>>,
    /// How recipients are spread over the devices.
    #[serde(default)]
    pub policy: SpreadPolicy,
}

/// How recipients are spread over the devices of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpreadPolicy {
    /// In turn.
    #[default]
    RoundRobin,
    /// Devices with fewer waiting messages (at launch) get their share first.
    LeastLoaded,
    /// By a hash of the address: a recipient keeps its device as long as the pool stays the same.
    Sticky,
}

/// A plugin with its configuration.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginUse {
    /// The plugin's name.
    pub plugin: String,
    /// A semantic version to stay on. When absent the use follows the activated version, also while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The configuration: any JSON that the plugin's schema accepts.
    #[serde(default = "empty_config")]
    #[schema(value_type = Object)]
    pub config: Box<RawValue>,
}

impl PluginUse {
    /// Whether it names this version of a plugin, and so stays on it.
    pub fn stays_on(&self, plugin: &str, version: &str) -> bool {
        self.plugin == plugin && self.version.as_deref() == Some(version)
    }
}

fn empty_config() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// A delay strategy with the limits that it cannot bypass.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DelayUse {
    /// The plugin's name.
    pub plugin: String,
    /// A semantic version to stay on; follows the activated version when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The configuration: any JSON that the plugin's schema accepts.
    #[serde(default = "empty_config")]
    #[schema(value_type = Object)]
    pub config: Box<RawValue>,
    /// No device waits less than this between two sends of the campaign, in milliseconds.
    #[serde(default)]
    pub min_ms: u64,
    /// Nor longer than this, in milliseconds (caps and windows of the device still hold); a day when absent.
    #[serde(default = "default_max_delay_ms")]
    pub max_ms: u64,
}

const fn default_max_delay_ms() -> u64 {
    24 * 60 * 60 * 1000
}

impl DelayUse {
    /// The plugin part.
    pub fn plugin_use(&self) -> PluginUse {
        PluginUse { plugin: self.plugin.clone(), version: self.version.clone(), config: self.config.clone() }
    }
}

/// When a campaign starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Not before this time; at launch when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// How often and when a message is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts that count, the first included (1 to 100).
    #[schema(minimum = 1, maximum = 100)]
    pub max_attempts: u32,
    /// The first wait, in milliseconds; it doubles with each attempt and is jittered by ±25 %.
    pub base_ms: u64,
    /// The longest wait, in milliseconds.
    pub max_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 5, base_ms: 2_000, max_ms: 15 * 60 * 1000 }
    }
}

impl RetryPolicy {
    /// How long to wait after the `failures`-th failed attempt (from 1); `random` is uniform over all u32.
    pub fn backoff(&self, failures: u32, random: u32) -> Duration {
        let doubled = self.base_ms.saturating_mul(1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
        let capped = doubled.min(self.max_ms);
        // 75 % to 125 %, so that a burst of failures does not come back as a burst.
        let jittered = u128::from(capped) * (750 + u128::from(random % 501)) / 1000;
        Duration::from_millis(u64::try_from(jittered).unwrap_or(u64::MAX))
    }
}

/// What happens to a message when the server or the provider went away between sending and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Sent again if the sender declares that the provider drops repeats of an idempotency key, else `unknown`.
    #[default]
    Auto,
    /// Sent again, with the same idempotency key.
    AtLeastOnce,
    /// Not sent again: the message becomes `unknown`.
    AtMostOnce,
}

impl Delivery {
    /// Whether an ambiguous message is sent again, given what the sender declares about its provider.
    pub fn sends_again(self, provider_deduplicates: bool) -> bool {
        match self {
            Self::Auto => provider_deduplicates,
            Self::AtLeastOnce => true,
            Self::AtMostOnce => false,
        }
    }
}

/// Where a campaign stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    /// Made, not launched.
    Draft,
    /// Launched, its time has not come.
    Scheduled,
    /// Its audience is being turned into messages; sending has begun.
    Expanding,
    /// Sending.
    Running,
    /// Stopped for now, with a reason; nothing of it is sent.
    Paused,
    /// Every message has a final state.
    Completed,
    /// Stopped for good by a call.
    Cancelled,
    /// Stopped for good by its expiry.
    Expired,
}

impl CampaignStatus {
    /// Every status, in the order of a campaign's life.
    pub const ALL: [Self; 8] = [
        Self::Draft,
        Self::Scheduled,
        Self::Expanding,
        Self::Running,
        Self::Paused,
        Self::Completed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The word on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Scheduled => "scheduled",
            Self::Expanding => "expanding",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Whether nothing can change it any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Expired)
    }
}

/// What can be asked of a campaign, or happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CampaignEvent {
    /// A user launches it; it has a start time that has not come.
    Schedule,
    /// Its time has come (or it is launched without one).
    Start,
    /// All recipients have become messages.
    Expanded,
    /// A user or a breaker stops it for now.
    Pause,
    /// A user lets it go on (its expansion unfinished).
    ResumeExpanding,
    /// A user lets it go on (its expansion finished).
    Resume,
    /// Every message has a final state.
    Complete,
    /// Failed messages of a finished campaign are tried again.
    Reopen,
    /// A user stops it for good.
    Cancel,
    /// Its expiry passed.
    Expire,
}

/// A transition that a campaign's status does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a campaign that is {} cannot {}", from.as_str(), verb(*event))]
pub struct BadTransition {
    /// The status it has.
    pub from: CampaignStatus,
    /// What was asked of it.
    pub event: CampaignEvent,
}

const fn verb(event: CampaignEvent) -> &'static str {
    match event {
        CampaignEvent::Schedule | CampaignEvent::Start => "be launched",
        CampaignEvent::Expanded => "finish its expansion",
        CampaignEvent::Pause => "be paused",
        CampaignEvent::Resume | CampaignEvent::ResumeExpanding => "be resumed",
        CampaignEvent::Complete => "complete",
        CampaignEvent::Reopen => "be tried again",
        CampaignEvent::Cancel => "be cancelled",
        CampaignEvent::Expire => "expire",
    }
}

impl CampaignStatus {
    /// The status after `event`.
    ///
    /// # Errors
    /// [`BadTransition`] when this status does not allow it.
    pub fn after(self, event: CampaignEvent) -> Result<Self, BadTransition> {
        use CampaignEvent as E;
        Ok(match (self, event) {
            (Self::Draft, E::Schedule) => Self::Scheduled,
            (Self::Draft | Self::Scheduled, E::Start) => Self::Expanding,
            (Self::Expanding, E::Expanded) => Self::Running,
            (Self::Scheduled | Self::Expanding | Self::Running, E::Pause) => Self::Paused,
            (Self::Paused, E::Schedule) => Self::Scheduled,
            (Self::Paused, E::ResumeExpanding) => Self::Expanding,
            (Self::Paused, E::Resume) => Self::Running,
            (Self::Running | Self::Paused, E::Complete) => Self::Completed,
            (Self::Running | Self::Completed, E::Reopen) => Self::Running,
            (Self::Paused, E::Reopen) => Self::Paused,
            (Self::Draft | Self::Scheduled | Self::Expanding | Self::Running | Self::Paused, E::Cancel) => {
                Self::Cancelled
            }
            (Self::Scheduled | Self::Expanding | Self::Running | Self::Paused, E::Expire) => Self::Expired,
            (from, event) => return Err(BadTransition { from, event }),
        })
    }
}

/// A campaign as the store keeps it.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Its id.
    pub id: CampaignId,
    /// What the user asked for.
    pub spec: CampaignSpec,
    /// Where it stands.
    pub status: CampaignStatus,
    /// Why it is paused, in words for the operator; `None` in other states.
    pub paused_reason: Option<String>,
    /// Its run, once it is expanding. (Recurring campaigns will have several; this is the newest.)
    pub run: Option<RunKey>,
    /// When it was made.
    pub created_at: Time,
    /// When it was launched.
    pub launched_at: Option<Time>,
    /// When it reached a final status.
    pub finished_at: Option<Time>,
    /// Since when its messages are being removed, or are gone: its counts stay.
    pub messages_pruned_at: Option<Time>,
}

/// Whose messages a run holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunOwner {
    /// One occurrence of a campaign.
    Campaign(CampaignId),
    /// One step (from 0) of a sequence.
    Step {
        /// The sequence.
        sequence: SequenceNo,
        /// The step, from 0.
        step: u32,
    },
}

/// A run: the frozen form of a campaign's occurrence or of a sequence's step, and the unit that messages belong to.
#[derive(Debug, Clone)]
pub struct Run {
    /// The first half of its messages' ids.
    pub key: RunKey,
    /// Whose it is.
    pub owner: RunOwner,
    /// The name of its campaign or sequence, for logs and for `message-ref.campaign`.
    pub name: String,
    /// The contacts it sends to.
    pub audience: AudienceNo,
    /// How its messages are made and sent.
    pub plan: SendPlan,
    /// Whether its messages may be sent now: its campaign (or sequence) is running.
    pub active: bool,
    /// Whether every contact has become a message; for a sequence's step always true.
    pub expanded: bool,
    /// Contacts up to this number have become messages.
    pub cursor: u32,
    /// When it started.
    pub started_at: Time,
}

impl Run {
    /// Order among the runs on one device, smallest first: priority, then which started first. An integer that a
    /// sorted set's double holds exactly: 4 bits of priority, 43 bits of milliseconds.
    pub fn rank(&self) -> i64 {
        rank(self.plan.priority, self.started_at)
    }
}

/// [`Run::rank`] of a run with this priority and start.
pub fn rank(priority: u8, started_at: Time) -> i64 {
    (i64::from(priority.min(9)) << 43) | (started_at.as_ms() & ((1 << 43) - 1))
}

/// How the messages of a run are made and sent; what a campaign and a step of a sequence have in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SendPlan {
    /// Which devices send, as asked for.
    pub devices: DevicePool,
    /// What each message says.
    pub template: PluginUse,
    /// How long a device waits after each send.
    pub delay: DelayUse,
    /// How a device sends; a device's own default when absent.
    pub sender: Option<PluginUse>,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// Messages not sent by then expire.
    pub expires_at: Option<Time>,
    /// How often and when a message is tried again.
    pub retry: RetryPolicy,
    /// What happens to ambiguous messages.
    pub delivery: Delivery,
    /// What is done about those whose outcome stays unknown; absent in plans of older runs.
    #[serde(default)]
    pub unknown: UnknownPolicy,
    /// When messages may be sent.
    pub window: Option<SendingWindow>,
}

impl From<&CampaignSpec> for SendPlan {
    fn from(spec: &CampaignSpec) -> Self {
        let CampaignSpec { devices, template, delay, sender, priority, .. } = spec.clone();
        let CampaignSpec { expires_at, retry, delivery, unknown, window, .. } = spec.clone();
        Self { devices, template, delay, sender, priority, expires_at, retry, delivery, unknown, window }
    }
}

/// A field of a specification that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    /// The field's path, such as `retry.max_attempts`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl BadField {
    /// A problem with a field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl CampaignSpec {
    /// Everything that can be checked without looking anything up; all problems, not only the first.
    pub fn problems(&self) -> Vec<BadField> {
        let mut out = Vec::new();
        check_name("name", &self.name, &mut out);
        if self.audience.is_empty() {
            out.push(BadField::new("audience", "name an audience"));
        }
        SendPlan::from(self).problems(&mut out);
        out
    }
}

/// Checks a name for people: 1 to 200 characters, no control characters.
pub fn check_name(field: &str, name: &str, out: &mut Vec<BadField>) {
    if name.trim().is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
        out.push(BadField::new(field, "give 1 to 200 characters without control characters"));
    }
}

impl SendPlan {
    /// Whether one of its plugins stays on this version.
    pub fn stays_on(&self, plugin: &str, version: &str) -> bool {
        let uses = [Some(&self.template), Some(&self.delay.plugin_use()), self.sender.as_ref()];
        uses.into_iter().flatten().any(|used| used.stays_on(plugin, version))
    }

    /// Adds every problem that can be seen without looking anything up.
    pub fn problems(&self, out: &mut Vec<BadField>) {
        match (&self.devices.tag, &self.devices.ids) {
            (Some(tag), None) if !tag.is_empty() => {}
            (None, Some(ids)) if !ids.is_empty() => {}
            _ => out.push(BadField::new("devices", "give either a tag or a non-empty list of ids")),
        }
        if self.priority > 9 {
            out.push(BadField::new("priority", "give 0 (first) to 9 (last)"));
        }
        if !(1..=100).contains(&self.retry.max_attempts) {
            out.push(BadField::new("retry.max_attempts", "give 1 to 100"));
        }
        if self.retry.base_ms > self.retry.max_ms {
            out.push(BadField::new("retry.base_ms", "must not be larger than retry.max_ms"));
        }
        if self.delay.min_ms > self.delay.max_ms {
            out.push(BadField::new("delay.min_ms", "must not be larger than delay.max_ms"));
        }
        self.unknown.problems("unknown", out);
        if self.delivery == Delivery::AtMostOnce && self.unknown.then == UnknownEnd::Retry {
            let problem =
                "a campaign with delivery at_most_once sends nothing again on a guess: give keep, sent or failed";
            out.push(BadField::new("unknown.then", problem));
        }
        if let Some(window) = &self.window {
            window.problems("window", out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_stays_on_the_versions_that_it_names() {
        let mut spec: CampaignSpec = serde_json::from_str(
            r#"{"name":"autumn","audience":"customers","devices":{"tag":"eu"},"template":{"plugin":"jinja"},
                "delay":{"plugin":"uniform","version":"1.0.0"}}"#,
        )
        .unwrap();
        let stays_on = |spec: &CampaignSpec, plugin| SendPlan::from(spec).stays_on(plugin, "1.0.0");
        assert!(stays_on(&spec, "uniform") && !SendPlan::from(&spec).stays_on("uniform", "1.0.1"));
        assert!(!stays_on(&spec, "jinja"), "it follows the active one");
        spec.template.version = Some("1.0.0".to_owned());
        assert!(stays_on(&spec, "jinja") && !stays_on(&spec, "webhook"));
        spec.sender = Some(PluginUse { plugin: "webhook".to_owned(), ..spec.template.clone() });
        assert!(stays_on(&spec, "webhook"));
    }

    #[test]
    fn the_issue_example_parses_and_unknown_fields_do_not() {
        let text = r#"{"name":"autumn","audience":"customers","devices":{"tag":"eu"},
            "template":{"plugin":"jinja","config":{"text":"Hello {{ name }}"}},
            "delay":{"plugin":"uniform","config":{"min_ms":500,"max_ms":1500}},
            "sender":{"plugin":"webhook","config":{"url":"http://127.0.0.1:9000/send"}},
            "delivery":"at_least_once","retry":{"max_attempts":5},"schedule":{"at":"2026-12-01T09:00:00Z"}}"#;
        let spec: CampaignSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.problems(), []);
        assert_eq!(spec.template.config.get(), r#"{"text":"Hello {{ name }}"}"#);
        let guessing = text.replace("at_least_once\"", "at_most_once\",\"unknown\":{\"then\":\"retry\"}");
        let problems = serde_json::from_str::<CampaignSpec>(&guessing).unwrap().problems();
        assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), ["unknown.then"]);
        let err = serde_json::from_str::<CampaignSpec>(&text.replace("\"name\"", "\"nme\"")).unwrap_err();
        assert!(err.to_string().contains("nme"), "{err}");
    }

    #[test]
    fn final_statuses_stay_and_errors_name_both() {
        use CampaignEvent as E;
        for status in [CampaignStatus::Cancelled, CampaignStatus::Expired] {
            for event in [E::Schedule, E::Start, E::Pause, E::Resume, E::Complete, E::Reopen, E::Cancel, E::Expire] {
                let err = status.after(event).unwrap_err();
                assert!(err.to_string().contains(status.as_str()));
            }
        }
        assert_eq!(CampaignStatus::Running.after(E::Pause), Ok(CampaignStatus::Paused));
    }

    #[test]
    fn backoff_doubles_within_its_limits() {
        let policy = RetryPolicy { max_attempts: 5, base_ms: 1000, max_ms: 5000 };
        let middle = 250; // of 0..=500: no jitter
        let waits: Vec<_> = (1..=5).map(|n| policy.backoff(n, middle).as_millis()).collect();
        assert_eq!(waits, [1000, 2000, 4000, 5000, 5000]);
        assert_eq!(policy.backoff(200, 0).as_millis(), 3750);
    }

    #[test]
    fn rank_is_exact_in_a_double() {
        let max = (9i64 << 43) | ((1 << 43) - 1);
        assert!(max < 1 << 53);
    }
}

//! Messages: their states, what a worker gets to send one, and what it says when it is done. No I/O.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Time;
use crate::consent::NewSuppression;
use crate::device::{PACE_SLACK, PaceUpdate};
use crate::id::{DeviceId, DeviceNo, Digest, HostId, MessageId, SequenceNo, VersionNo};
use crate::receipt::Expected;

/// Where a message stands, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageStatus {
    /// Waiting: for its device, its time, or its campaign.
    Pending,
    /// Taken by a worker: being sent right now, or was when its server died.
    Processing,
    /// Accepted by the provider.
    Sent,
    /// The provider says it arrived.
    Delivered,
    /// The provider says it was read.
    Read,
    /// Refused for good, or out of attempts.
    Failed,
    /// It cannot be proved whether it was sent.
    Unknown,
    /// Not sent: the address is on the suppression list.
    Suppressed,
    /// Not sent: its campaign's expiry passed.
    Expired,
    /// Not sent: its campaign was cancelled.
    Cancelled,
}

impl MessageStatus {
    /// Every status, in the order in which summaries show them.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Processing,
        Self::Sent,
        Self::Delivered,
        Self::Read,
        Self::Failed,
        Self::Unknown,
        Self::Suppressed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Suppressed => "suppressed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Whether the engine has nothing more to do for it (an unknown one may still be resolved by a person).
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Processing)
    }
}

/// The state codes in the `messages.status` column. `pending` has two: messages that may go now (what the device
/// queues are filled from, found by `(device_no, id)`) and messages that wait for a time of their own (found by
/// `due_at`), so that a million waiting retries never stand in the way of a top-up.
pub mod code {
    /// Pending, may go now.
    pub const READY: i16 = 0;
    /// Pending, waits for its `due_at` (a retry, a quiet hour).
    pub const DEFERRED: i16 = 1;
    /// Processing: not in the column (a message that is being sent is `READY` there, and named by its device's row of
    /// `in_flight`), only in what is read.
    pub const PROCESSING: i16 = 2;
    /// Sent.
    pub const SENT: i16 = 3;
    /// Delivered.
    pub const DELIVERED: i16 = 4;
    /// Read.
    pub const READ: i16 = 5;
    /// Failed.
    pub const FAILED: i16 = 6;
    /// Unknown.
    pub const UNKNOWN: i16 = 7;
    /// Suppressed.
    pub const SUPPRESSED: i16 = 8;
    /// Expired.
    pub const EXPIRED: i16 = 9;
    /// Cancelled.
    pub const CANCELLED: i16 = 10;
}

impl MessageStatus {
    /// The status that a code in SQL stands for.
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            code::READY | code::DEFERRED => Self::Pending,
            code::PROCESSING => Self::Processing,
            code::SENT => Self::Sent,
            code::DELIVERED => Self::Delivered,
            code::READ => Self::Read,
            code::FAILED => Self::Failed,
            code::UNKNOWN => Self::Unknown,
            code::SUPPRESSED => Self::Suppressed,
            code::EXPIRED => Self::Expired,
            code::CANCELLED => Self::Cancelled,
            _ => return None,
        })
    }

    /// The codes in SQL that stand for this status.
    pub const fn codes(self) -> &'static [i16] {
        match self {
            Self::Pending => &[code::READY, code::DEFERRED],
            Self::Processing => &[code::PROCESSING],
            Self::Sent => &[code::SENT],
            Self::Delivered => &[code::DELIVERED],
            Self::Read => &[code::READ],
            Self::Failed => &[code::FAILED],
            Self::Unknown => &[code::UNKNOWN],
            Self::Suppressed => &[code::SUPPRESSED],
            Self::Expired => &[code::EXPIRED],
            Self::Cancelled => &[code::CANCELLED],
        }
    }
}

/// How many messages of a run (or of several) are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)] // One field per [`MessageStatus`].
pub struct Counts {
    pub pending: u64,
    pub processing: u64,
    pub sent: u64,
    pub delivered: u64,
    pub read: u64,
    pub failed: u64,
    pub unknown: u64,
    pub suppressed: u64,
    pub expired: u64,
    pub cancelled: u64,
}

impl Counts {
    /// The count of one state.
    pub fn of(&self, status: MessageStatus) -> u64 {
        let mut copy = *self;
        *copy.slot(status)
    }

    /// The place where a state is counted.
    pub fn slot(&mut self, status: MessageStatus) -> &mut u64 {
        match status {
            MessageStatus::Pending => &mut self.pending,
            MessageStatus::Processing => &mut self.processing,
            MessageStatus::Sent => &mut self.sent,
            MessageStatus::Delivered => &mut self.delivered,
            MessageStatus::Read => &mut self.read,
            MessageStatus::Failed => &mut self.failed,
            MessageStatus::Unknown => &mut self.unknown,
            MessageStatus::Suppressed => &mut self.suppressed,
            MessageStatus::Expired => &mut self.expired,
            MessageStatus::Cancelled => &mut self.cancelled,
        }
    }

    /// All messages.
    pub fn total(&self) -> u64 {
        MessageStatus::ALL.into_iter().map(|s| self.of(s)).sum()
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for status in MessageStatus::ALL {
            *self.slot(status) += other.of(status);
        }
    }

    /// Messages without a final state.
    pub fn open(&self) -> u64 {
        self.pending + self.processing
    }
}

/// The plugin versions that an attempt ran with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The template's.
    pub template: VersionNo,
    /// The delay strategy's.
    pub delay: VersionNo,
    /// The sender's.
    pub sender: VersionNo,
}

/// A message that a worker has claimed from a device's queue and wants to begin: an argument of `Store::turn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The message.
    pub message: MessageId,
    /// The device whose queue it came from.
    pub device: DeviceNo,
    /// The channel that it would go out on: suppressions may be for one.
    pub channel: String,
    /// The fencing token of the device's lease.
    pub token: i64,
    /// The plugin versions that will be used.
    pub versions: Versions,
    /// By how much the claiming server's clock may differ from the store's at most.
    pub uncertainty: Duration,
}

impl Claim {
    /// A device whose saved pace lets it send up to this time may begin one of these claims now.
    pub fn may_begin_up_to(claims: impl Iterator<Item = Duration>, now: Time) -> Time {
        now.minus(claims.max().unwrap_or_default()).plus(PACE_SLACK)
    }
}

/// What became of a [`Claim`].
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// The message is `processing` in the store, under this claim's token: send it.
    Started(Box<Work>),
    /// Its address is suppressed: it is final now; send nothing.
    Suppressed,
    /// Its run has expired: it is final now; send nothing.
    Expired,
    /// Its run is paused, cancelled or finished: it stays as it was; take the run's messages off the queue.
    Inactive,
    /// It is no longer pending on this device (sent, cancelled, moved): drop it from the queue.
    Gone,
    /// The device's saved pace lets it send again at this time only, which the queue has lost: leave the message where it was.
    TooSoon(Time),
    /// This or another message of this device is `processing` in the store (its owner lost its lease, or the queue was
    /// lost): leave the message where it was and come back later.
    DeviceBusy,
}

/// What `Store::turn` came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turned {
    /// For each end, in order: whether it was applied.
    pub applied: Vec<bool>,
    /// For each claim, in order.
    pub begun: Vec<Begun>,
}

/// What a worker needs to send a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The message.
    pub message: MessageId,
    /// 1 for the first time it is taken; grows with every take.
    pub attempt: u32,
    /// Attempts before this one that count against the retry policy.
    pub failures: u32,
    /// To whom.
    pub recipient: Recipient,
    /// From when on it could have been sent (the start of its wait).
    pub due_at: Time,
}

/// The person or endpoint that a message goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Phone number, chat id, push token, mail address: what the sender's provider takes.
    pub address: String,
    /// BCP 47 language tag, when known.
    pub locale: Option<String>,
    /// IANA time zone, when known.
    pub zone: Option<String>,
    /// The audience's other columns, in their order.
    pub variables: Vec<(String, String)>,
}

/// Why something went wrong: a short code for machines (`http_503`, `plugin_trap`) and a text for people. Neither
/// may hold an address, a message's text or a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Kebab or snake case, at most 64 bytes.
    pub code: String,
    /// At most 500 characters.
    pub detail: String,
}

impl Reason {
    /// A reason; both parts are cut to their limits.
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        let (mut code, mut detail): (String, String) = (code.into(), detail.into());
        truncate(&mut code, 64);
        truncate(&mut detail, 500);
        Self { code, detail }
    }
}

/// Cuts a text to at most `max` bytes at a character's border.
pub fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

/// What a settled attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The provider took it.
    Sent {
        /// The provider's id of it.
        provider_id: Option<String>,
        /// Whether the provider said at once that it arrived.
        delivered: bool,
    },
    /// Refused for good, or out of attempts.
    Failed(Reason),
    /// It cannot be proved whether it was sent.
    Unknown(Reason),
    /// The address was found on the suppression list right before the send.
    Suppressed,
    /// The run's expiry passed.
    Expired,
    /// Certainly not sent (or to be sent again under `at_least_once`): pending again.
    Retry {
        /// When it may go again.
        due_at: Time,
        /// Whether the attempt counts against the retry policy.
        counts: bool,
        /// Why.
        reason: Reason,
    },
    /// Given back untouched (shutdown, lost lease, device on hold): pending again, as if never taken.
    Released,
}

/// The end of an attempt: an argument of `Store::turn`. It is applied only if the message is still `processing`
/// under this token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The message.
    pub message: MessageId,
    /// The device that sent it.
    pub device: DeviceNo,
    /// The fencing token that it was begun with.
    pub token: i64,
    /// The attempt that ends.
    pub attempt: u32,
    /// The plugin versions that it ran with.
    pub versions: Versions,
    /// What it came to.
    pub outcome: Settled,
    /// When the attempt began.
    pub started_at: Time,
    /// When it ended.
    pub finished_at: Time,
    /// The device's pace after it, when it must survive a crash at once (long delay, caps); else the store
    /// learns it within a second through `Store::save_paces`.
    pub pace: Option<PaceUpdate>,
    /// An opt-out or a dead address that the outcome brought.
    pub suppress: Option<NewSuppression>,
    /// What the outcome means for the sequence that the message belongs to.
    pub sequence: Option<EnrolmentAdvance>,
    /// What the provider's reports will find the message by, where its sender has a webhook.
    pub receipt: Option<Expected>,
}

/// What a final message means for its enrolment. Applied only while the enrolment stands at `step`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentAdvance {
    /// The sequence.
    pub sequence: SequenceNo,
    /// The step that the message was.
    pub step: u32,
    /// What follows.
    pub to: AdvanceTo,
}

/// What follows a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvanceTo {
    /// The next step, at this time.
    NextStep(Time),
    /// Nothing: it was the last one.
    Completed,
    /// Nothing: the contact left.
    Exited(String),
}

/// A message that the store holds as `processing`: what recovery and the next owner of a device look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// The message.
    pub message: MessageId,
    /// The device.
    pub device: DeviceNo,
    /// The token it was begun with.
    pub token: i64,
    /// The attempt.
    pub attempt: u32,
    /// Attempts before this one that count.
    pub failures: u32,
    /// When it was begun.
    pub started_at: Time,
    /// The server that began it.
    pub host: HostId,
    /// Whether that server's heartbeat is fresh.
    pub host_alive: bool,
    /// The plugin versions it runs with; the sender's says whether its provider deduplicates.
    pub versions: Versions,
}

/// A message as `GET /messages/{id}` and the message list show it.
#[derive(Debug, Clone)]
pub struct MessageRow {
    /// The message.
    pub id: MessageId,
    /// Its status.
    pub status: MessageStatus,
    /// To whom.
    pub address: String,
    /// The device it is assigned to.
    pub device: DeviceId,
    /// Times it was taken.
    pub attempt: u32,
    /// Attempts that count.
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
    /// The digests of the last attempt's template, delay strategy and sender.
    pub digests: Option<[Digest; 3]>,
}

/// An attempt that did not end in a clean send (a clean one is on the message itself), or what was found out later about
/// one whose outcome was unknown.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Which one, from 1.
    pub attempt: u32,
    /// The device.
    pub device: DeviceId,
    /// `retry`, `failed`, `unknown`, `suppressed` …; `resolved-sent`, `resolved-failed` or `resolved-retry` for what an
    /// unknown one turned out to be.
    pub outcome: String,
    /// Why; for a resolution, who or what says so.
    pub reason: Option<Reason>,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    pub finished_at: Time,
    /// The digests of its template, delay strategy and sender.
    pub digests: Option<[Digest; 3]>,
}

/// How long an attempt took.
pub fn took(started_at: Time, finished_at: Time) -> Duration {
    finished_at.since(started_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_status_and_back() {
        for code in code::READY..=code::CANCELLED {
            let status = MessageStatus::from_code(code).unwrap();
            assert!(status.codes().contains(&code));
            assert_eq!(MessageStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(MessageStatus::from_code(11), None);
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let r = Reason::new("x", "é".repeat(400));
        assert!(r.detail.len() <= 500 && r.detail.chars().all(|c| c == 'é'));
    }
}

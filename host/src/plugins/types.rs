//! What goes into a plugin and what comes out: plain values, as `wit/plugin.wit` describes them. What several calls for one
//! message have in common is made once and shared.
//!
//! The derives teach the values to cross the component boundary. They are checked against a plugin's types at upload, so a
//! difference to the WIT cannot go unnoticed: the first-party plugins would be refused.

// The derives emit `unsafe impl`s, sound by construction (the macro computes them from the fields).
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{ComponentType, Lift, Lower};

use crate::clock::Time;
use crate::device::{Device, LastOutcome};
use crate::message::{Recipient, truncate};

/// Open-ended facts.
pub type Attributes = Vec<(String, String)>;

/// What every call may know besides its subject.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The configuration, JSON.
    pub config: Arc<str>,
    /// The time of the call.
    pub now: Time,
    /// Uniform over all u32; new for each call.
    pub random: u32,
    /// What the call takes is added to it, where anybody wants to know.
    pub timer: Option<CallTimer>,
}

/// Adds up what calls take by themselves, without what they wait for a thread. Clones share the sum.
#[derive(Debug, Clone, Default)]
pub struct CallTimer(Arc<AtomicU64>);

impl CallTimer {
    pub(super) fn add(&self, us: u64) {
        self.0.fetch_add(us, Ordering::Relaxed);
    }

    /// The sum.
    pub fn read(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// The sending device, as far as plugins may know it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct DeviceFacts {
    /// The id that users gave it.
    pub id: String,
    /// Its channel.
    pub channel: String,
    /// Its adapter settings, a JSON object.
    pub adapter: String,
    /// `account`, and one `tag` for each of its tags.
    pub attributes: Attributes,
}

impl DeviceFacts {
    /// What plugins may know of `device`.
    pub fn of(device: &Device) -> Self {
        let spec = &device.spec;
        let account = spec.account.iter().map(|account| ("account".to_owned(), account.clone()));
        let tags = spec.tags.iter().map(|tag| ("tag".to_owned(), tag.clone()));
        Self {
            id: spec.id.to_string(),
            channel: spec.channel.clone(),
            adapter: spec.adapter.to_string(),
            attributes: account.chain(tags).collect(),
        }
    }
}

/// The person or endpoint that a message goes to.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct RecipientFacts {
    /// The address.
    pub address: String,
    /// BCP 47 language tag, when known.
    pub locale: Option<String>,
    /// IANA time zone, when known.
    pub zone: Option<String>,
    /// The audience's other columns.
    pub variables: Attributes,
}

impl RecipientFacts {
    /// What plugins may know of `recipient`.
    pub fn of(recipient: &Recipient) -> Self {
        Self {
            address: recipient.address.clone(),
            locale: recipient.locale.clone(),
            zone: recipient.zone.clone(),
            variables: recipient.variables.clone(),
        }
    }
}

/// Media by reference.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Media {
    /// A MIME type, or a word such as `image`.
    pub kind: String,
    /// Where the provider fetches it from.
    pub url: String,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Content {
    /// The text.
    pub text: String,
    /// A subject line or title.
    pub subject: Option<String>,
    /// Attachments.
    pub media: Vec<Media>,
    /// More for the sender.
    pub attributes: Attributes,
}

/// Which message this is.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct MessageRef {
    /// Stable over retries: the idempotency key.
    pub id: String,
    /// The campaign or sequence.
    pub campaign: Arc<str>,
    /// The sequence's step, from 0.
    #[component(name = "sequence-step")]
    pub sequence_step: Option<u32>,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// One message to be made by a template.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct RenderJob {
    /// Which one.
    pub message: Arc<MessageRef>,
    /// To whom.
    pub recipient: Arc<RecipientFacts>,
    /// The device that will send it.
    pub device: Arc<DeviceFacts>,
    /// Uniform over all u32; new for each job.
    pub random: u32,
}

/// Facts about a device's pace, for a delay strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct PaceFacts {
    /// The device.
    pub device: Arc<DeviceFacts>,
    /// Minutes after midnight in the campaign's zone.
    pub minute_of_day: u32,
    /// Sends in this calendar minute.
    pub sent_this_minute: u32,
    /// Sends in this calendar hour.
    pub sent_this_hour: u32,
    /// Sends on this day (UTC).
    pub sent_today: u32,
    /// Days since the device's first message.
    pub age_days: u32,
    /// Failures since the last success.
    pub failures_in_a_row: u32,
    /// The delay before the send that just ended, in milliseconds.
    pub last_delay_ms: f64,
    /// What the send that just ended came to.
    pub last_outcome: LastOutcome,
    /// Messages that wait on the device.
    pub backlog: u32,
    /// Length of the message just sent, in characters.
    pub text_length: u32,
    /// More facts.
    pub attributes: Attributes,
}

/// What a delay strategy decided.
#[derive(Debug, Clone, PartialEq)]
pub struct NextDelay {
    /// Finite and 0 or more, in milliseconds.
    pub delay_ms: f64,
    /// Kept per device and run, given back next time.
    pub state: String,
}

/// A body of a request or an answer.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum PluginBody {
    /// None.
    #[component(name = "empty")]
    Empty,
    /// UTF-8 text.
    #[component(name = "text")]
    Text(String),
    /// Anything else.
    #[component(name = "bytes")]
    Bytes(Vec<u8>),
}

/// A request that a sender wants made.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// The URL; its path may hold `{{secret:NAME}}`.
    pub url: String,
    /// Names and values; values may hold `{{secret:NAME}}`.
    pub headers: Vec<(String, String)>,
    /// What follows the headers.
    pub body: PluginBody,
    /// Finite and 0 or more, in milliseconds.
    #[component(name = "timeout-ms")]
    pub timeout_ms: f64,
}

/// What a provider answered.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u32,
    /// In the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: PluginBody,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Answer {
    /// A whole answer.
    #[component(name = "response")]
    Response(HttpResponse),
    /// Nothing reached the provider: certain.
    #[component(name = "not-sent")]
    NotSent(String),
    /// The request left, no whole answer came.
    #[component(name = "unanswered")]
    Unanswered(String),
}

/// Whom a pause concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum Scope {
    /// This message.
    #[component(name = "message")]
    Message,
    /// This recipient.
    #[component(name = "recipient")]
    Recipient,
    /// This device.
    #[component(name = "device")]
    Device,
    /// Every device of the device's account.
    #[component(name = "account")]
    Account,
}

/// What is wrong with a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum RecipientProblem {
    /// There is no such address.
    #[component(name = "invalid")]
    Invalid,
    /// The address cannot be reached.
    #[component(name = "unreachable")]
    Unreachable,
    /// The recipient has blocked the sender.
    #[component(name = "blocked")]
    Blocked,
}

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Failure {
    /// The provider's code, or the plugin's own word for it; cut to 64 bytes.
    pub code: String,
    /// For people; cut to 500 bytes.
    pub detail: String,
    /// More facts.
    pub attributes: Attributes,
}

impl Failure {
    /// Cuts its texts to what the store keeps.
    pub(super) fn trim(&mut self) {
        truncate(&mut self.code, 64);
        truncate(&mut self.detail, 500);
    }
}

/// Final for this recipient.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Rejection {
    /// What is wrong.
    pub problem: RecipientProblem,
    /// Why we know.
    pub reason: Failure,
}

/// The provider took the message.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Acceptance {
    /// The provider's id of it; empty when there is none. Cut to 256 bytes.
    #[component(name = "provider-id")]
    pub provider_id: String,
    /// More facts.
    pub attributes: Attributes,
}

/// The device cannot send.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Outage {
    /// When to look again, if known: finite and 0 or more, in milliseconds.
    #[component(name = "retry-ms")]
    pub retry_ms: Option<f64>,
    /// Why.
    pub reason: Failure,
}

/// The provider asks to wait.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Pause {
    /// Who waits.
    pub scope: Scope,
    /// Finite and 0 or more, in milliseconds.
    #[component(name = "delay-ms")]
    pub delay_ms: f64,
    /// Why.
    pub reason: Failure,
}

/// What a send came to.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Outcome {
    /// Taken by the provider.
    #[component(name = "accepted")]
    Accepted(Acceptance),
    /// Arrived.
    #[component(name = "delivered")]
    Delivered(Acceptance),
    /// Certainly not sent; wait. Consumes no attempt.
    #[component(name = "retry-after")]
    RetryAfter(Pause),
    /// Certainly not sent; try again with backoff.
    #[component(name = "transient")]
    Transient(Failure),
    /// This recipient cannot be written to.
    #[component(name = "recipient-permanent")]
    RecipientPermanent(Rejection),
    /// This recipient does not want to be written to.
    #[component(name = "opted-out")]
    OptedOut(Failure),
    /// The provider refuses this message.
    #[component(name = "content-rejected")]
    ContentRejected(Failure),
    /// The device cannot send.
    #[component(name = "device-down")]
    DeviceDown(Outage),
    /// The account cannot send until an operator has looked.
    #[component(name = "account-blocked")]
    AccountBlocked(Failure),
    /// Cannot be told.
    #[component(name = "unknown")]
    Unknown(Failure),
}

/// What a conversation with a sender can end with.
pub(super) trait Ending: Lift + 'static {
    /// The time to wait that it names, in milliseconds.
    fn wait_ms(&self) -> Option<f64>;

    /// Cuts its texts to what is kept and shown.
    fn trim(&mut self);
}

impl Ending for Outcome {
    fn wait_ms(&self) -> Option<f64> {
        match self {
            Self::RetryAfter(pause) => Some(pause.delay_ms),
            Self::DeviceDown(outage) => outage.retry_ms,
            _ => None,
        }
    }

    fn trim(&mut self) {
        match self {
            Self::Accepted(acceptance) | Self::Delivered(acceptance) => truncate(&mut acceptance.provider_id, 256),
            Self::RetryAfter(Pause { reason, .. })
            | Self::DeviceDown(Outage { reason, .. })
            | Self::RecipientPermanent(Rejection { reason, .. })
            | Self::Transient(reason)
            | Self::OptedOut(reason)
            | Self::ContentRejected(reason)
            | Self::AccountBlocked(reason)
            | Self::Unknown(reason) => reason.trim(),
        }
    }
}

/// A request and what to remember until its answer comes.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift)]
#[component(record)]
pub struct Round {
    /// The request.
    pub request: HttpRequest,
    /// Given back to `resume`.
    pub state: String,
}

/// What the host shall do next; a send and a look-up end with an [`Outcome`], a check of a device with a [`HealthVerdict`].
#[derive(Debug, Clone, PartialEq, ComponentType, Lift)]
#[component(variant)]
pub enum Step<End = Outcome> {
    /// Make this request and call `resume` with its answer and this state.
    #[component(name = "request")]
    Request(Round),
    /// Nothing: this is what it came to.
    #[component(name = "done")]
    Done(End),
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Outbound {
    /// Which one.
    pub message: Arc<MessageRef>,
    /// To whom.
    pub recipient: Arc<RecipientFacts>,
    /// What it says.
    pub content: Content,
    /// The device that sends it.
    pub device: Arc<DeviceFacts>,
    /// What the plugin last kept for the device's account.
    #[component(name = "account-state")]
    pub account_state: String,
}

/// How far a send has come, or a look-up, or a check of a device.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift)]
#[component(record)]
pub struct Progress<End = Outcome> {
    /// What is next.
    pub step: Step<End>,
    /// New account state, if it changed.
    #[component(name = "account-state")]
    pub account_state: Option<String>,
}

impl<End> Progress<End> {
    /// The same with its end, if it has come to one, as something else.
    pub fn map<T>(self, end: impl FnOnce(End) -> T) -> Progress<T> {
        let step = match self.step {
            Step::Request(round) => Step::Request(round),
            Step::Done(done) => Step::Done(end(done)),
        };
        Progress { step, account_state: self.account_state }
    }
}

/// A device that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct HealthSubject {
    /// The device.
    pub device: Arc<DeviceFacts>,
    /// What the plugin last kept for the device's account.
    #[component(name = "account-state")]
    pub account_state: String,
}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift)]
#[component(variant)]
pub enum HealthVerdict {
    /// It can send.
    #[component(name = "healthy")]
    Healthy,
    /// It cannot send now.
    #[component(name = "down")]
    Down(Outage),
    /// Its account cannot send until an operator has looked.
    #[component(name = "blocked")]
    Blocked(Failure),
    /// Cannot be told.
    #[component(name = "unknown")]
    Unknown(Failure),
}

impl HealthVerdict {
    /// Every word.
    pub const WORDS: [&'static str; 4] = ["healthy", "down", "blocked", "unknown"];

    /// The word on the wire.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Down(_) => "down",
            Self::Blocked(_) => "blocked",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Why; nothing has to be said of a device that can send.
    pub const fn reason(&self) -> Option<&Failure> {
        match self {
            Self::Healthy => None,
            Self::Down(outage) => Some(&outage.reason),
            Self::Blocked(reason) | Self::Unknown(reason) => Some(reason),
        }
    }

    /// When to look again, in milliseconds, where the provider says so.
    pub const fn retry_ms(&self) -> Option<f64> {
        match self {
            Self::Down(outage) => outage.retry_ms,
            Self::Healthy | Self::Blocked(_) | Self::Unknown(_) => None,
        }
    }
}

impl Ending for HealthVerdict {
    fn wait_ms(&self) -> Option<f64> {
        self.retry_ms()
    }

    fn trim(&mut self) {
        match self {
            Self::Healthy => {}
            Self::Down(Outage { reason, .. }) | Self::Blocked(reason) | Self::Unknown(reason) => reason.trim(),
        }
    }
}

/// A request that a provider made to us.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct HttpArrival {
    /// The method.
    pub method: String,
    /// The path after the webhook's own.
    pub path: String,
    /// What follows the `?`, undecoded.
    pub query: String,
    /// In the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: PluginBody,
}

/// What happened to a message, or what its recipient did.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum EventKind {
    /// It arrived.
    #[component(name = "delivered")]
    Delivered,
    /// It was read.
    #[component(name = "read")]
    Read,
    /// It did not arrive after all.
    #[component(name = "failed")]
    Failed(Failure),
    /// The recipient answered; the text.
    #[component(name = "reply")]
    Reply(String),
    /// The recipient wants no more messages.
    #[component(name = "opted-out")]
    OptedOut,
}

/// Something that a provider reports.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift)]
#[component(record)]
pub struct Event {
    /// The provider's id of the message; may be empty.
    #[component(name = "provider-id")]
    pub provider_id: String,
    /// The recipient's address; may be empty.
    pub address: String,
    /// When it happened: finite.
    pub at: f64,
    /// What.
    pub kind: EventKind,
    /// More facts.
    pub attributes: Attributes,
}

/// What a provider's request means.
#[derive(Debug, Clone, PartialEq, ComponentType, Lift)]
#[component(record)]
pub struct Parsed {
    /// In their order.
    pub events: Vec<Event>,
    /// What the provider wants to hear.
    pub response: HttpResponse,
}

/// Why a call gave no answer. No text in it comes from a message; texts that a plugin gave are cut to 500 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginFault {
    /// The campaign's configuration cannot work.
    #[error("the configuration cannot work: {0}")]
    InvalidConfig(String),
    /// This one message cannot work.
    #[error("this message cannot work: {0}")]
    InvalidInput(String),
    /// The plugin gave up, or the host could not call it.
    #[error("the plugin failed: {0}")]
    Internal(String),
    /// The plugin crashed.
    #[error("the plugin crashed: {0}")]
    Trap(String),
    /// The call ran into the time limit.
    #[error("the plugin took longer than a call may take")]
    Deadline,
    /// The instance wanted more memory than it may have.
    #[error("the plugin wanted more memory than an instance may have")]
    Memory,
    /// The plugin answered something that is not allowed; the text says which limit or rule broke.
    #[error("the plugin's answer is not valid: {0}")]
    Output(String),
}

impl PluginFault {
    /// A word for machines, such as `plugin-trap`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig(_) => "invalid-config",
            Self::InvalidInput(_) => "invalid-input",
            Self::Internal(_) => "plugin-internal",
            Self::Trap(_) => "plugin-trap",
            Self::Deadline => "plugin-deadline",
            Self::Memory => "plugin-memory",
            Self::Output(_) => "plugin-output",
        }
    }
}

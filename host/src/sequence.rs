//! Sequences: several messages to a contact, each some time after the one before. No I/O.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::{BadField, DelayUse, Delivery, DevicePool, PluginUse, RetryPolicy, SendPlan, check_name};
use crate::clock::Time;
use crate::id::{AudienceNo, RunKey, SequenceId, SequenceNo};
use crate::json::object;
use crate::message::{AdvanceTo, EnrolmentAdvance, Settled};
use crate::resolution::UnknownPolicy;
use crate::window::SendingWindow;

/// What a user asks for: the body of `POST /api/v1/sequences`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SequenceSpec {
    /// A name for people, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Which devices send.
    #[serde(deserialize_with = "object")]
    pub devices: DevicePool,
    /// The steps, 1 to 50.
    #[schema(min_items = 1, max_items = 50)]
    pub steps: Vec<StepSpec>,
    /// 0 (first) to 9 (last).
    #[serde(default = "default_priority")]
    #[schema(maximum = 9)]
    pub priority: u8,
    /// How often and when a message is tried again.
    #[serde(default, deserialize_with = "object")]
    pub retry: RetryPolicy,
    /// What happens to a message whose outcome cannot be proved; an `unknown` message blocks the next step.
    #[serde(default)]
    pub delivery: Delivery,
    /// What is done about messages whose outcome stays unknown.
    #[serde(default)]
    pub unknown: UnknownPolicy,
    /// When messages may be sent, for steps that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<SendingWindow>,
}

const fn default_priority() -> u8 {
    5
}

/// A step of a sequence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// Milliseconds after the step before is final; for the first step, after the enrolment. Time that passes: a day is 24
    /// hours also when the clocks change, and the hours of the day are the window's business.
    #[serde(default)]
    pub offset_ms: u64,
    /// What the message says.
    pub template: PluginUse,
    /// How long a device waits after a send of this step.
    pub delay: DelayUse,
    /// How a device sends; a device's own default sender when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<PluginUse>,
    /// When messages of this step may be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<SendingWindow>,
}

impl SequenceSpec {
    /// Everything that can be checked without looking anything up.
    pub fn problems(&self) -> Vec<BadField> {
        let mut out = Vec::new();
        check_name("name", &self.name, &mut out);
        if !(1..=50).contains(&self.steps.len()) {
            out.push(BadField::new("steps", "give 1 to 50 steps"));
        }
        for (n, step) in self.steps.iter().enumerate() {
            let mut of_step = Vec::new();
            self.plan(step).problems(&mut of_step);
            let mine = |f: &str| f.starts_with("delay") || f.starts_with("window");
            out.extend(
                of_step.into_iter().filter(|p| n == 0 || mine(&p.field)).map(|p| {
                    if mine(&p.field) { BadField::new(format!("steps[{n}].{}", p.field), p.problem) } else { p }
                }),
            );
        }
        out
    }

    /// How long after this step (from 0) the next one is due; `None` when it is the last.
    pub fn next_offset(&self, step: u32) -> Option<Duration> {
        let following = usize::try_from(step).ok()?.checked_add(1)?;
        self.steps.get(following).map(|following| Duration::from_millis(following.offset_ms))
    }

    /// How the messages of a step are made and sent.
    pub fn plan(&self, step: &StepSpec) -> SendPlan {
        SendPlan {
            devices: self.devices.clone(),
            template: step.template.clone(),
            delay: step.delay.clone(),
            sender: step.sender.clone(),
            priority: self.priority,
            expires_at: None,
            retry: self.retry.clone(),
            delivery: self.delivery,
            unknown: self.unknown,
            window: step.window.clone().or_else(|| self.window.clone()),
        }
    }
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SequenceStatus {
    /// Made, not started: contacts can be enrolled, nothing is sent.
    Draft,
    /// Sending.
    Running,
    /// Stopped for now.
    Paused,
}

impl SequenceStatus {
    /// The word on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Draft, Self::Running, Self::Paused].into_iter().find(|s| s.as_str() == word)
    }
}

/// A sequence as the store keeps it.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Its number inside the store.
    pub no: SequenceNo,
    /// Its id.
    pub id: SequenceId,
    /// What the user asked for.
    pub spec: SequenceSpec,
    /// Where it stands.
    pub status: SequenceStatus,
    /// Why it is paused.
    pub paused_reason: Option<String>,
    /// Its contacts.
    pub audience: AudienceNo,
    /// One run per step, in order; made when it is first started.
    pub runs: Vec<RunKey>,
    /// When it was made.
    pub created_at: Time,
}

/// A run's place in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The sequence.
    pub sequence: SequenceNo,
    /// The step, from 0.
    pub step: u32,
    /// How long after this step the next one is due; `None` for the last step.
    pub next_offset: Option<Duration>,
}

impl Step {
    /// What a message of this step that ended like this at `now` means for its enrolment.
    pub fn advance(&self, settled: &Settled, now: Time) -> Option<EnrolmentAdvance> {
        let to = match settled {
            Settled::Failed(reason) if matches!(reason.code.as_str(), "opted-out" | "recipient-invalid") => {
                AdvanceTo::Exited(reason.code.clone())
            }
            // A message that cannot arrive does not stop the ones after it, unless the address itself is dead.
            Settled::Sent { .. } | Settled::Failed(_) | Settled::Expired => {
                self.next_offset.map_or(AdvanceTo::Completed, |offset| AdvanceTo::NextStep(now.plus(offset)))
            }
            Settled::Suppressed => AdvanceTo::Exited("suppressed".to_owned()),
            // Nobody knows whether it was sent: the next step waits until somebody does.
            Settled::Unknown(_) | Settled::Retry { .. } | Settled::Released => return None,
        };
        Some(EnrolmentAdvance { sequence: self.sequence, step: self.step, to })
    }
}

/// Where an enrolment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnrolmentStatus {
    /// Its next message does not exist yet; it is due at `due_at`.
    Waiting,
    /// The message of its current step exists and is not final (or is `unknown`).
    InStep,
    /// Every step is done.
    Completed,
    /// It left: opted out, suppressed, or by a call.
    Exited,
}

impl EnrolmentStatus {
    /// The code in SQL.
    pub const fn code(self) -> i16 {
        match self {
            Self::Waiting => 0,
            Self::InStep => 1,
            Self::Completed => 2,
            Self::Exited => 3,
        }
    }

    /// The status with this code.
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            0 => Self::Waiting,
            1 => Self::InStep,
            2 => Self::Completed,
            3 => Self::Exited,
            _ => return None,
        })
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InStep => "in_step",
            Self::Completed => "completed",
            Self::Exited => "exited",
        }
    }
}

/// A contact's way through a sequence.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The contact's number in the sequence's audience; with the step's run it makes the message id.
    pub contact: u32,
    /// The address.
    pub address: String,
    /// Where it stands.
    pub status: EnrolmentStatus,
    /// The current step, from 0.
    pub step: u32,
    /// When the current step is due, while waiting.
    pub due_at: Option<Time>,
    /// Why it left.
    pub exit_reason: Option<String>,
    /// When it was made.
    pub enrolled_at: Time,
}

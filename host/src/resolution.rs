//! Unknown outcomes: how one is resolved, and what a campaign does about them by itself. No I/O.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::BadField;
use crate::consent::NewSuppression;
use crate::id::MessageId;
use crate::message::{EnrolmentAdvance, Reason, Settled};

/// What a campaign does by itself about messages of which nobody knows whether they were sent. Without it they wait in the
/// inbox until somebody resolves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnknownPolicy {
    /// Whether the sender is asked to look the message up at its provider, where it can.
    pub lookup: bool,
    /// Seconds from when the outcome became unknown to the first look-up (1 to 604800), or without look-ups to `then`. The
    /// wait doubles from one look-up to the next, up to a day.
    pub after_s: u32,
    /// Look-ups of a message at most (1 to 20).
    pub tries: u32,
    /// What a message counts as that no look-up could tell of.
    pub then: UnknownEnd,
}

impl Default for UnknownPolicy {
    fn default() -> Self {
        Self { lookup: false, after_s: 60, tries: 5, then: UnknownEnd::Keep }
    }
}

/// The longest wait between two look-ups, unless the first one is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

impl UnknownPolicy {
    /// Whether there is anything to be done without somebody.
    pub fn acts(&self) -> bool {
        self.lookup || self.then != UnknownEnd::Keep
    }

    /// The wait before the first look-up, and at least before each later one.
    pub fn first_wait(&self) -> Duration {
        Duration::from_secs(self.after_s.into())
    }

    /// No wait is longer than this.
    pub fn longest_wait(&self) -> Duration {
        self.first_wait().max(LONGEST_WAIT)
    }

    /// Look-ups of a message.
    pub fn lookups(&self) -> u32 {
        if self.lookup { self.tries } else { 0 }
    }

    /// How often something is done about a message at most: its look-ups, and after them, where the policy names an end, that
    /// until it is applied.
    pub fn acts_times(&self) -> u32 {
        if self.then == UnknownEnd::Keep { self.lookups() } else { u32::MAX }
    }

    /// Adds every problem that can be seen without looking anything up.
    pub fn problems(&self, field: &str, out: &mut Vec<BadField>) {
        if !(1..=604_800).contains(&self.after_s) {
            out.push(BadField::new(format!("{field}.after_s"), "give 1 to 604800 seconds"));
        }
        if !(1..=20).contains(&self.tries) {
            out.push(BadField::new(format!("{field}.tries"), "give 1 to 20"));
        }
    }
}

/// What becomes of a message whose outcome stays unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownEnd {
    /// It stays unknown, for somebody to resolve.
    #[default]
    Keep,
    /// It counts as sent.
    Sent,
    /// It counts as failed.
    Failed,
    /// It is sent again under the retry policy, with the same idempotency key; not with delivery `at_most_once`.
    Retry,
}

/// What somebody says about an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ResolveAs {
    /// The message was sent.
    Sent,
    /// It was not sent, and will not be.
    Failed,
    /// It is to be sent again, with the same idempotency key.
    Retry,
}

impl ResolveAs {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Sent, Self::Failed, Self::Retry];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Retry => "retry",
        }
    }

    /// What an outcome resolves a message as; `None` for one that resolves nothing.
    pub const fn of(outcome: &Settled) -> Option<Self> {
        match outcome {
            Settled::Sent { .. } => Some(Self::Sent),
            Settled::Failed(_) => Some(Self::Failed),
            Settled::Retry { .. } => Some(Self::Retry),
            Settled::Unknown(_) | Settled::Suppressed | Settled::Expired | Settled::Released => None,
        }
    }
}

/// Who or what resolved an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// A person or a program, by a call.
    Operator,
    /// The provider, asked through the sender's look-up.
    Lookup,
    /// The campaign's policy.
    Policy,
}

impl Way {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Lookup, Self::Policy];

    /// The word in the history of a message and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Lookup => "lookup",
            Self::Policy => "policy",
        }
    }
}

/// What an unknown outcome turns out to be: an argument of `Store::resolve`. It is applied only while the message is
/// `unknown` after this very attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The message.
    pub message: MessageId,
    /// The attempt whose outcome was unknown.
    pub attempt: u32,
    /// What it was: `Sent`, `Failed` or `Retry`.
    pub outcome: Settled,
    /// Who or what says so.
    pub way: Way,
    /// The same in words, for the message's history: a name and a note.
    pub note: String,
    /// An opt-out or a dead address that a look-up brought.
    pub suppress: Option<NewSuppression>,
    /// What it means for the sequence that the message belongs to.
    pub sequence: Option<EnrolmentAdvance>,
}

impl Resolution {
    /// Whether the message is to be sent again.
    pub const fn sends_again(&self) -> bool {
        matches!(self.outcome, Settled::Retry { .. })
    }

    /// The reason that the history shows: the way, and the note.
    pub fn reason(&self) -> Reason {
        Reason::new(self.way.as_str(), self.note.clone())
    }
}

/// What became of a [`Resolution`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// It was applied.
    Done,
    /// The outcome of this attempt is not unknown (any more): nothing was changed.
    NotUnknown,
    /// The message was to be sent again and cannot be, for this reason: nothing was changed.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_says_nothing_does_nothing() {
        let policy: UnknownPolicy = serde_json::from_str("{}").unwrap();
        assert_eq!((policy, policy.acts(), policy.acts_times()), (UnknownPolicy::default(), false, 0));
        let ends: UnknownPolicy = serde_json::from_str(r#"{"then":"failed"}"#).unwrap();
        assert_eq!((ends.acts(), ends.lookups(), ends.acts_times()), (true, 0, u32::MAX));
        let looks: UnknownPolicy = serde_json::from_str(r#"{"lookup":true,"tries":3}"#).unwrap();
        assert_eq!((looks.lookups(), looks.acts_times()), (3, 3));
        assert!(serde_json::from_str::<UnknownPolicy>(r#"{"then":"maybe"}"#).is_err());
        let mut problems = Vec::new();
        UnknownPolicy { after_s: 0, tries: 21, ..policy }.problems("unknown", &mut problems);
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["unknown.after_s", "unknown.tries"]);
    }
}

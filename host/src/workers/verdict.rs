//! What the core does with a sender's outcome: the one place that turns the words of a plugin into a message's state,
//! a device's pace and the consequences for others. No I/O.

use std::time::Duration;

use crate::campaign::{Delivery, RetryPolicy};
use crate::clock::Time;
use crate::consent::NewSuppression;
use crate::device::LastOutcome;
use crate::message::{Reason, Recipient, Settled};
use crate::plugins::{Failure, Outcome, PluginFault, RecipientProblem, Scope};

/// Something that an outcome means for more than its message.
#[derive(Debug, Clone, PartialEq)]
pub enum Consequence {
    /// The device waits at least this long.
    PauseDevice(Duration, Reason),
    /// The device is down and waits at least this long; then its sender is asked before it is given a message, if that can tell.
    DeviceDown(Duration, Reason),
    /// Every device of the account waits at least this long.
    PauseAccount(Duration, Reason),
    /// Every device of the account is held until an operator lifts it.
    HoldAccount(Reason),
    /// The provider refused the content: counts against the campaign's breaker.
    ContentRejected(Reason),
    /// The configuration cannot work: the campaign pauses and shows this.
    PauseCampaign(Reason),
    /// A plugin broke: counts against the campaign's breaker.
    PluginFault(Reason),
}

/// A judged attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What becomes of the message.
    pub settled: Settled,
    /// What it was, as delay strategies see it; `None` when nothing was tried, which leaves the pace as it was.
    pub outcome: Option<LastOutcome>,
    /// An entry for the suppression list.
    pub suppress: Option<NewSuppression>,
    /// What follows for others.
    pub consequence: Option<Consequence>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// The sender said so.
    Outcome(Outcome),
    /// A plugin gave no answer before any request left: certainly not sent.
    FaultBefore(&'static str, PluginFault),
    /// A plugin gave no answer after a request had left: the message may have been sent.
    FaultAfter(PluginFault),
    /// The lease ran out (or the server stops) before anything left.
    GivenUp,
    /// The lease or the time for the attempt ran out after a request had left.
    Interrupted(Reason),
    /// The address was suppressed between the claim and the send.
    Suppressed,
    /// The recipient's sending window is closed.
    OutsideWindow(Duration),
    /// The run's expiry passed between the claim and the send.
    Expired,
}

/// What judging an attempt takes besides how it ended.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The run's retry policy.
    pub retry: &'a RetryPolicy,
    /// The run's policy for ambiguous messages.
    pub delivery: Delivery,
    /// Whether the sender declares that its provider deduplicates.
    pub provider_deduplicates: bool,
    /// Attempts before this one that count.
    pub failures: u32,
    /// To whom it went.
    pub recipient: &'a Recipient,
    /// The device's channel.
    pub channel: &'a str,
    /// When the attempt ended.
    pub now: Time,
    /// Uniform over all u32.
    pub random: u32,
}

/// The longest pause that a provider or plugin can ask for; a longer one is cut.
const MAX_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a device that is down waits when its sender does not say.
const DEVICE_DOWN: Duration = Duration::from_secs(60);

impl Facts<'_> {
    /// Judges an attempt.
    pub fn judge(&self, ended: Ended) -> Verdict {
        match ended {
            Ended::Outcome(outcome) => self.judge_outcome(outcome),
            Ended::FaultBefore(what, fault) => self.judge_fault(what, fault),
            Ended::FaultAfter(fault) => {
                let reason =
                    Reason::new(fault.code(), format!("the sender failed after its request had left: {fault}"));
                Verdict { consequence: Some(Consequence::PluginFault(reason.clone())), ..self.ambiguous(reason) }
            }
            Ended::GivenUp => Verdict { settled: Settled::Released, outcome: None, suppress: None, consequence: None },
            Ended::Interrupted(reason) => self.ambiguous(reason),
            Ended::Suppressed => quiet(Settled::Suppressed),
            Ended::Expired => quiet(Settled::Expired),
            Ended::OutsideWindow(wait) => quiet(Settled::Retry {
                due_at: self.now.plus(wait),
                counts: false,
                reason: Reason::new("outside-window", "the recipient's sending window is closed"),
            }),
        }
    }

    fn judge_outcome(&self, outcome: Outcome) -> Verdict {
        match outcome {
            Outcome::Accepted(taken) => {
                sent(Settled::Sent { provider_id: non_empty(taken.provider_id), delivered: false })
            }
            Outcome::Delivered(taken) => {
                sent(Settled::Sent { provider_id: non_empty(taken.provider_id), delivered: true })
            }
            Outcome::RetryAfter(pause) => {
                let reason = Reason::new(pause.reason.code, pause.reason.detail);
                let wait = duration(pause.delay_ms);
                let (message_wait, consequence) = match pause.scope {
                    Scope::Message | Scope::Recipient => (wait, None),
                    Scope::Device => (Duration::ZERO, Some(Consequence::PauseDevice(wait, reason.clone()))),
                    Scope::Account => (Duration::ZERO, Some(Consequence::PauseAccount(wait, reason.clone()))),
                };
                Verdict {
                    settled: Settled::Retry { due_at: self.now.plus(message_wait), counts: false, reason },
                    outcome: Some(LastOutcome::Throttled),
                    suppress: None,
                    consequence,
                }
            }
            Outcome::Transient(failure) => self.again_or_failed(Reason::new(failure.code, failure.detail)),
            Outcome::RecipientPermanent(rejection) => {
                let word = match rejection.problem {
                    RecipientProblem::Invalid => "invalid",
                    RecipientProblem::Unreachable => "unreachable",
                    RecipientProblem::Blocked => "blocked",
                };
                Verdict {
                    // An address that does not exist will not exist next time; an unreachable one may.
                    suppress: (rejection.problem == RecipientProblem::Invalid).then(|| self.suppression("invalid")),
                    ..failed(Reason::new(
                        format!("recipient-{word}"),
                        format!("{}: {}", rejection.reason.code, rejection.reason.detail),
                    ))
                }
            }
            Outcome::OptedOut(failure) => Verdict {
                suppress: Some(NewSuppression {
                    channel: Some(self.channel.to_owned()),
                    ..self.suppression("opted-out")
                }),
                ..failed(Reason::new("opted-out", failure.detail))
            },
            Outcome::ContentRejected(failure) => {
                let reason = Reason::new("content-rejected", format!("{}: {}", failure.code, failure.detail));
                Verdict { consequence: Some(Consequence::ContentRejected(reason.clone())), ..failed(reason) }
            }
            Outcome::DeviceDown(outage) => {
                let wait = down_for(outage.retry_ms);
                let reason = Reason::new("device-down", format!("{}: {}", outage.reason.code, outage.reason.detail));
                Verdict {
                    settled: Settled::Retry { due_at: self.now, counts: false, reason: reason.clone() },
                    outcome: Some(LastOutcome::Retried),
                    suppress: None,
                    consequence: Some(Consequence::DeviceDown(wait, reason)),
                }
            }
            Outcome::AccountBlocked(failure) => {
                let reason = account_blocked(failure);
                Verdict {
                    settled: Settled::Retry { due_at: self.now, counts: false, reason: reason.clone() },
                    outcome: Some(LastOutcome::Retried),
                    suppress: None,
                    consequence: Some(Consequence::HoldAccount(reason)),
                }
            }
            Outcome::Unknown(failure) => self.ambiguous(Reason::new(failure.code, failure.detail)),
        }
    }

    fn judge_fault(&self, what: &'static str, fault: PluginFault) -> Verdict {
        let reason = Reason::new(fault.code(), format!("the {what}: {fault}"));
        match fault {
            // One recipient's data: that message fails, others go on.
            PluginFault::InvalidInput(_) => Verdict { outcome: None, ..failed(reason) },
            PluginFault::InvalidConfig(_) => Verdict {
                settled: Settled::Released,
                outcome: None,
                suppress: None,
                consequence: Some(Consequence::PauseCampaign(reason)),
            },
            _ => Verdict {
                consequence: Some(Consequence::PluginFault(reason.clone())),
                outcome: None,
                ..self.again_or_failed(reason)
            },
        }
    }

    /// Certainly not sent, and the fault of neither the recipient nor the campaign.
    fn again_or_failed(&self, reason: Reason) -> Verdict {
        let failures = self.failures + 1;
        if failures >= self.retry.max_attempts {
            return failed(reason);
        }
        let due_at = self.now.plus(self.retry.backoff(failures, self.random));
        Verdict {
            settled: Settled::Retry { due_at, counts: true, reason },
            outcome: Some(LastOutcome::Retried),
            suppress: None,
            consequence: None,
        }
    }

    /// Nobody can tell whether it was sent: again (with the same idempotency key) where the campaign or the provider
    /// allows it, else `unknown`.
    pub fn ambiguous(&self, reason: Reason) -> Verdict {
        let again = self.delivery.sends_again(self.provider_deduplicates);
        if again && self.failures + 1 < self.retry.max_attempts {
            return self.again_or_failed(reason);
        }
        Verdict {
            settled: Settled::Unknown(reason),
            outcome: Some(LastOutcome::Failed),
            suppress: None,
            consequence: None,
        }
    }

    fn suppression(&self, reason: &str) -> NewSuppression {
        NewSuppression {
            address: self.recipient.address.clone(),
            channel: Some(self.channel.to_owned()),
            reason: reason.to_owned(),
        }
    }
}

/// How long a device that is down waits, by what its sender says of it.
pub fn down_for(retry_ms: Option<f64>) -> Duration {
    retry_ms.map_or(DEVICE_DOWN, duration)
}

/// Why an account is held.
pub fn account_blocked(failure: Failure) -> Reason {
    Reason::new("account-blocked", format!("{}: {}", failure.code, failure.detail))
}

fn sent(settled: Settled) -> Verdict {
    Verdict { settled, outcome: Some(LastOutcome::Sent), suppress: None, consequence: None }
}

fn failed(reason: Reason) -> Verdict {
    Verdict { settled: Settled::Failed(reason), outcome: Some(LastOutcome::Failed), suppress: None, consequence: None }
}

/// Nothing was tried: the device's pace stays as it was.
fn quiet(settled: Settled) -> Verdict {
    Verdict { settled, outcome: None, suppress: None, consequence: None }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

/// A plugin's milliseconds as a duration: never negative, never longer than a week.
fn duration(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms.max(0.0) / 1000.0).unwrap_or(MAX_PAUSE).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::{Acceptance, Outage, Pause, Rejection};

    fn failure(code: &str) -> Failure {
        Failure { code: code.to_owned(), detail: "said the provider".to_owned(), attributes: Vec::new() }
    }

    fn judge(failures: u32, delivery: Delivery, deduplicates: bool, ended: Ended) -> Verdict {
        let retry = RetryPolicy { max_attempts: 3, base_ms: 1000, max_ms: 60_000 };
        let recipient = Recipient { address: "+1".to_owned(), locale: None, zone: None, variables: Vec::new() };
        let facts = Facts {
            retry: &retry,
            delivery,
            provider_deduplicates: deduplicates,
            failures,
            recipient: &recipient,
            channel: "sms",
            now: Time::from_ms(1_000_000),
            random: 250,
        };
        facts.judge(ended)
    }

    fn outcome(outcome: Outcome) -> Verdict {
        judge(0, Delivery::Auto, false, Ended::Outcome(outcome))
    }

    #[test]
    fn accepted_is_sent_with_the_providers_id() {
        let v = outcome(Outcome::Accepted(Acceptance { provider_id: "p1".into(), attributes: Vec::new() }));
        assert_eq!(v.settled, Settled::Sent { provider_id: Some("p1".into()), delivered: false });
        assert_eq!(v.outcome, Some(LastOutcome::Sent));
    }

    #[test]
    fn a_pause_consumes_no_attempt_and_concerns_its_scope() {
        let pause = |scope| outcome(Outcome::RetryAfter(Pause { scope, delay_ms: 2000.0, reason: failure("429") }));
        let due = |v: &Verdict| match &v.settled {
            Settled::Retry { due_at, counts: false, .. } => due_at.as_ms() - 1_000_000,
            other => panic!("{other:?}"),
        };
        assert_eq!(due(&pause(Scope::Message)), 2000);
        assert_eq!(pause(Scope::Message).consequence, None);
        let device = pause(Scope::Device);
        assert_eq!(due(&device), 0);
        assert!(matches!(device.consequence, Some(Consequence::PauseDevice(d, _)) if d == Duration::from_secs(2)));
        assert!(matches!(pause(Scope::Account).consequence, Some(Consequence::PauseAccount(..))));
        let endless =
            outcome(Outcome::RetryAfter(Pause { scope: Scope::Message, delay_ms: f64::MAX, reason: failure("429") }));
        assert_eq!(due(&endless), i64::try_from(MAX_PAUSE.as_millis()).unwrap());
    }

    #[test]
    fn transient_failures_end_with_the_last_attempt() {
        let transient =
            |failures| judge(failures, Delivery::Auto, false, Ended::Outcome(Outcome::Transient(failure("503"))));
        assert!(matches!(transient(0).settled, Settled::Retry { counts: true, .. }));
        assert!(matches!(transient(1).settled, Settled::Retry { counts: true, .. }));
        assert!(matches!(transient(2).settled, Settled::Failed(_)));
    }

    #[test]
    fn what_is_final_for_the_recipient_reaches_the_suppression_list() {
        let invalid = outcome(Outcome::RecipientPermanent(Rejection {
            problem: RecipientProblem::Invalid,
            reason: failure("404"),
        }));
        assert_eq!(invalid.suppress.map(|s| s.reason), Some("invalid".to_owned()));
        let unreachable = outcome(Outcome::RecipientPermanent(Rejection {
            problem: RecipientProblem::Unreachable,
            reason: failure("404"),
        }));
        assert_eq!(unreachable.suppress, None);
        let opted_out = outcome(Outcome::OptedOut(failure("stop")));
        assert_eq!(opted_out.suppress.map(|s| (s.reason, s.channel)), Some(("opted-out".into(), Some("sms".into()))));
    }

    #[test]
    fn an_ambiguous_outcome_follows_the_policy() {
        let unknown = || Ended::Outcome(Outcome::Unknown(failure("timeout")));
        for (delivery, deduplicates, again) in [
            (Delivery::Auto, false, false),
            (Delivery::Auto, true, true),
            (Delivery::AtLeastOnce, false, true),
            (Delivery::AtMostOnce, true, false),
        ] {
            let v = judge(0, delivery, deduplicates, unknown());
            assert_eq!(matches!(v.settled, Settled::Retry { .. }), again, "{delivery:?} {deduplicates}");
            assert_eq!(matches!(v.settled, Settled::Unknown(_)), !again);
        }
        // Out of attempts it stays unknown: failed would say that it certainly was not sent.
        assert!(matches!(judge(2, Delivery::AtLeastOnce, true, unknown()).settled, Settled::Unknown(_)));
    }

    #[test]
    fn a_fault_before_any_request_is_a_retry_and_after_one_is_ambiguous() {
        let before = judge(0, Delivery::AtMostOnce, false, Ended::FaultBefore("sender", PluginFault::Deadline));
        assert!(matches!(before.settled, Settled::Retry { counts: true, .. }));
        assert_eq!(before.outcome, None, "nothing was sent: the pace stays");
        let after = judge(0, Delivery::AtMostOnce, false, Ended::FaultAfter(PluginFault::Deadline));
        assert!(matches!(after.settled, Settled::Unknown(_)));
        let config =
            judge(0, Delivery::Auto, false, Ended::FaultBefore("template", PluginFault::InvalidConfig("x".into())));
        assert_eq!(config.settled, Settled::Released);
        assert!(matches!(config.consequence, Some(Consequence::PauseCampaign(_))));
    }

    #[test]
    fn a_device_that_is_down_keeps_its_message_and_waits() {
        let v = outcome(Outcome::DeviceDown(Outage { retry_ms: None, reason: failure("offline") }));
        assert!(matches!(v.settled, Settled::Retry { counts: false, .. }));
        assert!(matches!(v.consequence, Some(Consequence::DeviceDown(d, _)) if d == DEVICE_DOWN));
    }
}

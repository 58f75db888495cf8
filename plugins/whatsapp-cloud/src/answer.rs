//! What the Cloud API's answers mean: by the error's code, as its documentation advises, then by the status.

use common::contract::health::{self, Verdict};
use common::contract::sending::{Acceptance, Failure, Outcome, RecipientProblem, Scope};
use common::provider::{self, Reply, Settings, Usual as _, down, failure, rejected};
use serde_json::Value;

/// How long a number waits that is not ready to send: somebody has to see to it.
const NOT_READY_MS: f64 = 900_000.0;

/// The outcome of a send.
pub fn outcome(settings: &Settings, spam_wait_ms: f64, reply: &Reply) -> Outcome {
    let id = reply.id("/messages/0/id");
    if reply.status < 300 && !id.is_empty() {
        // What WhatsApp calls the recipient, which is not always the number as it was given.
        let address = reply.id("/contacts/0/wa_id");
        let attributes = if address.is_empty() { Vec::new() } else { vec![("address".into(), address)] };
        return Outcome::Accepted(Acceptance { provider_id: id, attributes });
    }
    let Some(code) = reply.at("/error/code").and_then(Value::as_i64) else {
        return reply.usual(settings, Scope::Device);
    };
    let said = |what: &str| failure(format!("whatsapp-{code}"), what);
    let wait = |scope, usual_ms, reason: Failure| match regained_ms(reply) {
        Some(ms) => provider::wait(scope, ms, reason),
        None => reply.wait(scope, usual_ms, reason),
    };
    let unreachable = |what: &str| rejected(RecipientProblem::Unreachable, said(what));
    match code {
        // Who has sent too much: the app, the business account, the number, the number to this recipient.
        4 => wait(Scope::Account, settings.bare_wait_ms(), said("the app has made too many calls")),
        80007 => wait(Scope::Account, settings.bare_wait_ms(), said("the business account has reached its rate limit")),
        130_429 => wait(Scope::Device, settings.bare_wait_ms(), said("the number has reached its throughput")),
        131_048 => {
            wait(Scope::Device, spam_wait_ms, said("too many messages of the number were blocked or marked as spam"))
        }
        131_056 => {
            wait(Scope::Recipient, settings.bare_wait_ms(), said("too many messages to this recipient in a short time"))
        }

        0 | 190 => Outcome::AccountBlocked(said("the access token has expired or is not valid")),
        3 | 10 | 200..=299 | 131_005 => Outcome::AccountBlocked(said("the access token lacks a permission")),
        368 | 131_031 => Outcome::AccountBlocked(said("the business account is restricted or locked")),
        131_042 => Outcome::AccountBlocked(said("the business account cannot pay")),

        33 | 133_010 => down(Some(NOT_READY_MS), said("the business phone number is deleted or not registered")),
        131_037 | 131_045 => {
            down(Some(NOT_READY_MS), said("the business phone number is not approved or not registered"))
        }
        131_057 | 133_004 | 133_015 => {
            down(reply.retry_after_ms(), said("the business phone number is in maintenance"))
        }

        131_021 => rejected(RecipientProblem::Invalid, said("the recipient is the sender")),
        131_026 => unreachable("the message cannot be delivered: no WhatsApp at this number, or one that is too old"),
        131_030 => unreachable("the recipient is not in the list of a test number"),
        131_047 => unreachable("the recipient has not written for 24 hours: only a template reaches them"),
        131_049 | 130_472 => unreachable("Meta does not deliver this message to this recipient"),
        130_497 => unreachable("the business account may not write to the recipient's country"),
        131_050 => Outcome::OptedOut(said("the recipient wants no marketing messages from this business")),

        1 | 2 | 131_000 | 131_016 => reply.server_error(settings),
        100 | 131_008 | 131_009 | 131_051..=131_053 | 132_000..=132_999 | 135_000 => {
            Outcome::ContentRejected(said(refusal(code)))
        }
        // One that this version does not know: a code says more than the status, but not to us.
        _ => match reply.usual(settings, Scope::Device) {
            Outcome::ContentRejected(_) => Outcome::ContentRejected(said("WhatsApp refuses the message")),
            usual => usual,
        },
    }
}

/// What the number's `health_status` says: of the number itself, and of the app, the business and its account.
pub fn verdict(settings: &Settings, reply: &Reply) -> Verdict {
    if let Some(code) = reply.at("/error/code").and_then(Value::as_i64) {
        return match code {
            // That the token may not look says nothing of whether it may send.
            3 | 10 | 100 | 200..=299 => Verdict::Unknown(failure(
                format!("whatsapp-{code}"),
                "the access token may not read the number's health",
            )),
            _ => provider::verdict(outcome(settings, 0.0, reply)),
        };
    }
    let said = |what: &str| failure("whatsapp-health", what);
    match reply.text("/health_status/can_send_message") {
        "AVAILABLE" | "LIMITED" => Verdict::Healthy,
        "BLOCKED" => {
            let entities = reply.at("/health_status/entities").and_then(Value::as_array);
            let is_blocked =
                |entity: &&Value| entity.get("can_send_message").and_then(Value::as_str) == Some("BLOCKED");
            let kind = |entity: &Value| entity.get("entity_type").and_then(Value::as_str) == Some("PHONE_NUMBER");
            let mut blocked = entities.into_iter().flatten().filter(is_blocked).peekable();
            // An account that is blocked takes each of its numbers with it.
            if blocked.peek().is_some() && blocked.all(kind) {
                health::down(Some(NOT_READY_MS), said("WhatsApp blocks the business phone number"))
            } else {
                Verdict::Blocked(said("WhatsApp blocks the business account, the business or the app"))
            }
        }
        _ => Verdict::Unknown(reply.said("without a health that is known")),
    }
}

fn refusal(code: i64) -> &'static str {
    match code {
        131_051 => "WhatsApp does not know this type of message",
        131_052 | 131_053 => "WhatsApp cannot fetch or use the attachment",
        132_000 | 132_012 | 132_018 => "the template's parameters do not fit it",
        132_001 => "there is no approved template of this name and language",
        132_005 => "the template's text is too long with these parameters",
        132_007 => "the template is against WhatsApp's policy",
        132_015 | 132_016 => "the template is paused or disabled for its quality",
        _ => "a parameter is missing or not valid",
    }
}

/// In how many milliseconds the business account may call again, as the Graph API says it in minutes.
fn regained_ms(reply: &Reply) -> Option<f64> {
    let usage: Value = serde_json::from_str(reply.header("x-business-use-case-usage")?).ok()?;
    let entries = usage.as_object()?.values().filter_map(Value::as_array).flatten();
    let minutes =
        entries.filter_map(|entry| entry.get("estimated_time_to_regain_access")?.as_f64()).fold(0.0, f64::max);
    (minutes > 0.0 && minutes.is_finite()).then_some(minutes * 60_000.0)
}

//! What a gateway's answers mean.

use common::arrival::rfc3339_ms;
use common::contract::health::{self, Verdict};
use common::contract::sending::{Outcome, RecipientProblem};
use common::provider::{self, Reply, Settings, down, excerpt, failure, rejected};
use serde_json::Value;

/// The outcome of a send; `None` when the status says it all.
pub fn outcome(settings: &Settings, reply: &Reply) -> Option<Outcome> {
    match reply.status {
        200..=299 => of_state(reply),
        400 => Some(refused(reply)),
        // Too many messages wait for the phone, or the oldest waits too long: it is off, or out of the network.
        503 => {
            let why = excerpt(reply.text("/message"));
            let reason = failure("sms-gateway-503", format!("the gateway takes no more messages for the phone: {why}"));
            Some(down(reply.retry_after_ms().or(settings.retry_after_ms), reason))
        }
        _ => None,
    }
}

/// Whether the gateway has ever said that it has the message.
#[derive(Clone, Copy)]
pub enum Seen {
    /// Just now: it refused a second one.
    Before,
    /// Nobody knows.
    Perhaps,
}

/// What a gateway knows of a message.
pub fn looked_up(reply: &Reply, seen: Seen) -> Outcome {
    match (reply.status, seen) {
        (200..=299, _) => {
            of_state(reply).unwrap_or_else(|| Outcome::Unknown(reply.said("without a state that is known")))
        }
        // Its answer to a send comes after the message is stored.
        (404, Seen::Perhaps) => {
            Outcome::Transient(failure("sms-gateway-not-found", "the gateway has no message with this id"))
        }
        _ => Outcome::Unknown(reply.said("the look-up led to nothing")),
    }
}

/// What a server's list of phones says of a device: of the phone with this id, or of all of them where the device names none.
pub fn seen(reply: &Reply, id: &str, now_ms: f64, within_ms: f64) -> Verdict {
    let phones = match (reply.status, reply.json().and_then(Value::as_array)) {
        (200..=299, Some(phones)) => phones,
        (401, _) => return Verdict::Blocked(reply.said("the credentials are not accepted")),
        // Also 403: that a token may not list the phones says nothing of whether it may send.
        _ => return Verdict::Unknown(reply.said("which says nothing of the phone")),
    };
    let mut known = phones.iter().filter(|phone| id.is_empty() || field(phone, "id") == id).peekable();
    if known.peek().is_none() {
        return health::down(None, failure("sms-gateway-device", "the gateway has no such phone"));
    }
    let latest = known.filter_map(|phone| rfc3339_ms(field(phone, "lastSeen"))).fold(0.0, f64::max);
    if latest <= 0.0 {
        return Verdict::Unknown(reply.said("without when the phone was last seen"));
    }
    if now_ms - latest <= within_ms {
        return Verdict::Healthy;
    }
    let minutes = ((now_ms - latest) / 60_000.0).round();
    health::down(None, failure("sms-gateway-not-seen", format!("the phone was last seen {minutes} minutes ago")))
}

fn field<'a>(phone: &'a Value, name: &str) -> &'a str {
    phone.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What a phone says of itself. That it answers is what matters; of what it finds wrong with itself, that it has no Internet or
/// that its battery is low keeps no SMS from being sent.
pub fn phone(reply: &Reply) -> Verdict {
    let failed = |check: &str| reply.text(&format!("/checks/{check}/status")) == "fail";
    match (reply.status, reply.text("/status")) {
        (401, _) => Verdict::Blocked(reply.said("the credentials are not accepted")),
        (_, "pass" | "warn") => Verdict::Healthy,
        (_, "fail") if failed("messages:failed") => {
            health::down(None, failure("sms-gateway-failing", "the phone could send no message of the last hour"))
        }
        (_, "fail") => Verdict::Healthy,
        _ => Verdict::Unknown(reply.said("which says nothing of the phone")),
    }
}

/// What a message's state means.
fn of_state(reply: &Reply) -> Option<Outcome> {
    let id = reply.id("/id");
    match reply.text("/state") {
        "Pending" | "Processed" | "Sent" => Some(provider::accepted(id)),
        "Delivered" => Some(provider::delivered(id)),
        state @ ("Failed" | "Cancelled" | "Cancelling") => {
            let word = result_word(reply.text("/recipients/0/error"));
            let why = if word.is_empty() { String::new() } else { format!(" ({word})") };
            let code = format!("sms-gateway-{}", state.to_ascii_lowercase());
            Some(Outcome::ContentRejected(failure(code, format!("the phone did not send it{why}"))))
        }
        _ => None,
    }
}

/// Android's name of the error in a text that may also have a number: `Send result: RESULT_ERROR_NO_SERVICE`.
pub fn result_word(text: &str) -> &str {
    let word = |word: &&str| word.starts_with("RESULT_") && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    text.split([' ', ':', ',']).find(word).filter(|word| word.len() <= 64).unwrap_or_default()
}

fn refused(reply: &Reply) -> Outcome {
    let message = reply.text("/message");
    let said = message.to_lowercase();
    if said.contains("invalid phone number") || said.contains("failed to use phone") {
        let reason = failure("sms-gateway-number", "the gateway does not take the phone number");
        return rejected(RecipientProblem::Invalid, reason);
    }
    // Its id is wrong, or no phone of the account was active lately.
    if said.contains("device") {
        return down(
            None,
            failure("sms-gateway-device", format!("the gateway has no such phone: {}", excerpt(message))),
        );
    }
    Outcome::ContentRejected(failure("sms-gateway-400", format!("the gateway refuses it: {}", excerpt(message))))
}

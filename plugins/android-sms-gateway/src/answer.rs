//! What a gateway's answers mean.

use common::contract::sending::{Outcome, RecipientProblem};
use common::provider::{self, Reply, Settings, down, excerpt, failure, rejected};

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

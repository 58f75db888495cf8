//! What a provider's answer means.

use common::contract::health::{self, Verdict};
use common::contract::sending::{Answer, Outcome, RecipientProblem, Scope};
use common::provider::{self, On5xx, Reply, failure, word};
use serde_json::Value;

use crate::config::{Config, Finding, Health, Lookup, Meaning, Rule, Waits};

/// The outcome of a send.
pub fn outcome(config: &Config, now_ms: f64, answer: Answer) -> Outcome {
    let reply = match Reply::to_send(answer, now_ms) {
        Ok(reply) => reply,
        Err(outcome) => return *outcome,
    };
    let (meaning, detail) = ruled(&config.outcomes, &reply).unwrap_or_else(|| usual(config, &reply));
    outcome_of(config, &reply, meaning, detail, reply.id(&config.provider_id))
}

/// What a look-up found.
pub fn looked_up(config: &Config, lookup: &Lookup, now_ms: f64, answer: Answer) -> Outcome {
    let reply = match Reply::to_lookup(answer, now_ms) {
        Ok(reply) => reply,
        Err(outcome) => return *outcome,
    };
    let (meaning, detail) = ruled(&lookup.outcomes, &reply).unwrap_or_else(|| {
        // That a provider does not find a message yet does not prove that it will not send it: for that there are rules.
        let status = reply.status;
        match status {
            200..=299 => (Meaning::Accepted, format!("the provider answered {status} to the look-up")),
            _ => (Meaning::Unknown, format!("the provider answered {status} to the look-up, which no rule explains")),
        }
    });
    let pointer = lookup.provider_id.as_ref().unwrap_or(&config.provider_id);
    outcome_of(config, &reply, meaning, detail, reply.id(pointer))
}

/// What the provider said of a device.
pub fn verdict(check: &Health, reply: &Reply) -> Verdict {
    let (finding, detail) = ruled(&check.outcomes, reply).unwrap_or_else(|| match reply.status {
        status @ 200..=299 => (Finding::Healthy, format!("the provider answered {status} to the check")),
        status => (Finding::Unknown, format!("the provider answered {status} to the check, which no rule explains")),
    });
    let reason = failure(format!("http-{}", reply.status), detail);
    match finding {
        Finding::Healthy => Verdict::Healthy,
        Finding::Down => health::down(reply.retry_after_ms(), reason),
        Finding::Blocked => Verdict::Blocked(reason),
        Finding::Unknown => Verdict::Unknown(reason),
    }
}

/// What the first rule says that fits.
fn ruled<M: Copy>(rules: &[Rule<M>], reply: &Reply) -> Option<(M, String)> {
    let rule = rules.iter().find(|rule| fits(rule, reply))?;
    Some((rule.outcome, format!("the provider answered {}; the configuration says what it means", reply.status)))
}

fn outcome_of(config: &Config, reply: &Reply, meaning: Meaning, detail: String, provider_id: String) -> Outcome {
    let reason = failure(format!("http-{}", reply.status), detail);
    match meaning {
        Meaning::Accepted => provider::accepted(provider_id),
        Meaning::Delivered => provider::delivered(provider_id),
        Meaning::RetryAfter => {
            let scope = match config.retry_after_scope {
                Waits::Message => Scope::Message,
                Waits::Recipient => Scope::Recipient,
                Waits::Device => Scope::Device,
                Waits::Account => Scope::Account,
            };
            reply.wait(scope, config.retry_after_ms, reason)
        }
        Meaning::Transient => Outcome::Transient(reason),
        Meaning::InvalidRecipient => provider::rejected(RecipientProblem::Invalid, reason),
        Meaning::Unreachable => provider::rejected(RecipientProblem::Unreachable, reason),
        Meaning::Blocked => provider::rejected(RecipientProblem::Blocked, reason),
        Meaning::OptedOut => Outcome::OptedOut(reason),
        Meaning::ContentRejected => Outcome::ContentRejected(reason),
        Meaning::DeviceDown => provider::down(reply.retry_after_ms(), reason),
        Meaning::AccountBlocked => Outcome::AccountBlocked(reason),
        Meaning::Unknown => Outcome::Unknown(reason),
    }
}

fn fits<M>(rule: &Rule<M>, reply: &Reply) -> bool {
    let status_fits = rule.status.as_ref().is_none_or(|statuses| statuses.contains(&reply.status));
    let value_fits = rule.pointer.as_ref().is_none_or(|pointer| {
        reply
            .at(pointer)
            .is_some_and(|found| rule.values.as_ref().is_none_or(|values| values.iter().any(|v| same(v, found))))
    });
    status_fits && value_fits
}

/// Whether two values are the same; a number and the text of it are.
fn same(a: &Value, b: &Value) -> bool {
    a == b || word(a).is_some_and(|a| Some(a) == word(b))
}

/// What a status means without a rule.
fn usual(config: &Config, reply: &Reply) -> (Meaning, String) {
    let said = |what: &str| format!("the provider answered {}: {what}", reply.status);
    match reply.status {
        200..=299 => (Meaning::Accepted, said("accepted")),
        // Certainly not sent, whatever `on_5xx` says: it asks to come back.
        429 => (Meaning::RetryAfter, said("too many requests")),
        503 if reply.header("retry-after").is_some() => (Meaning::RetryAfter, said("not available for now")),
        401 => (Meaning::AccountBlocked, said("the credentials are not accepted")),
        408 | 425 => (Meaning::Transient, said("not processed, try again")),
        300..=399 => (Meaning::ContentRejected, said("redirects are not followed, correct the URL")),
        500.. if config.on_5xx == On5xx::Unknown => (Meaning::Unknown, said("a server error; it may have been sent")),
        500.. => (Meaning::Transient, said("a server error")),
        _ => (Meaning::ContentRejected, said("the request is refused")),
    }
}

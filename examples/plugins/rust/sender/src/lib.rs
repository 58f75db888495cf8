//! A device sender: posts each message as JSON to an HTTP API, with a secret that it never sees, and says what each answer means.

use carillon_plugin::sending::{
    Answer, Body, HttpRequest, Outbound, Outcome, Progress, RecipientProblem, Reply, Scope, accepted, ask, done,
    failure, rejected,
};
use carillon_plugin::{Call, Error, Plugin, Result, Sender};
use serde::{Deserialize, Serialize};

/// The configuration, as `config.schema.json` describes it.
#[derive(Deserialize)]
struct Api {
    url: String,
    #[serde(default = "ten_seconds")]
    timeout_ms: f64,
}

fn ten_seconds() -> f64 {
    10_000.0
}

/// A device's own settings.
#[derive(Deserialize)]
struct Adapter {
    from: Option<String>,
}

/// What the API takes.
#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    to: &'a str,
    text: &'a str,
    device: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

impl Plugin for Api {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");
    const ADAPTER_SCHEMA: &str = include_str!("adapter.schema.json");
    const SECRETS: &[&str] = &["API_KEY"];
    // True of an API that heeds Idempotency-Key: what is posted twice is sent once.
    const CAPABILITIES: &[(&str, &str)] = &[("provider-deduplicates", "true")];
}

impl Sender for Api {
    fn start(&self, _: &Call, message: Outbound) -> Result<Progress> {
        let adapter: Adapter = serde_json::from_str(&message.device.adapter)
            .map_err(|_| Error::input("the device's settings cannot be read"))?;
        let body = Message {
            id: &message.message.id,
            to: &message.recipient.address,
            text: &message.content.text,
            device: &message.device.id,
            attempt: message.message.attempt,
            from: adapter.from,
        };
        Ok(ask(HttpRequest {
            method: "POST".into(),
            url: self.url.clone(),
            headers: vec![
                ("Content-Type".into(), "application/json".into()),
                ("Authorization".into(), "Bearer {{secret:API_KEY}}".into()),
                ("Idempotency-Key".into(), message.message.id.clone()),
            ],
            body: Body::Text(serde_json::to_string(&body)?),
            timeout_ms: self.timeout_ms,
        }))
    }

    fn resume(&self, call: &Call, _: String, answer: Answer) -> Result<Progress> {
        // Without a whole answer: what did not leave may be tried again, what left may have been sent.
        Ok(done(match Reply::to_send(answer, call.now_ms) {
            Ok(reply) => outcome(&reply),
            Err(outcome) => *outcome,
        }))
    }
}

/// What the API's answer means. No address, text or secret belongs in the reason.
fn outcome(reply: &Reply) -> Outcome {
    let status = reply.status;
    let reason = failure(format!("http-{status}"), format!("the API answered {status}"));
    match status {
        200..=299 => accepted(reply.text("/id").into()),
        // As long as Retry-After says, or a minute.
        429 => reply.wait(Scope::Device, 60_000.0, reason),
        401 | 403 => Outcome::AccountBlocked(reason),
        400..=499 => match reply.text("/error") {
            "unknown-recipient" => rejected(RecipientProblem::Invalid, reason),
            "blocked" => rejected(RecipientProblem::Blocked, reason),
            "opted-out" => Outcome::OptedOut(reason),
            _ => Outcome::ContentRejected(reason),
        },
        500..=599 => Outcome::Transient(reason),
        _ => Outcome::ContentRejected(reason),
    }
}

carillon_plugin::export!(Api: Sender);

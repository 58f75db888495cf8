//! A device sender: posts each message as JSON to an HTTP API, with a secret that it never sees, and says what each answer means.

wit_bindgen::generate!({ path: "../../../../wit", world: "device-sender" });

use carillon::plugin::sending::{
    Acceptance, Answer, Body, Failure, HttpRequest, HttpResponse, Outcome, Pause, RecipientProblem, Rejection, Round,
    Scope, Step,
};
use carillon::plugin::types::{Context, PluginError};
use exports::carillon::plugin::sender::{Outbound, Progress};
use exports::carillon::plugin::{describe, sender};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Deserialize)]
struct Config {
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

struct Plugin;

impl describe::Guest for Plugin {
    fn get() -> describe::Info {
        describe::Info {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Posts each message as JSON to an HTTP API.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: include_str!("adapter.schema.json").into(),
            // The configuration decides.
            hosts: vec![],
            secrets: vec!["API_KEY".into()],
            // True of an API that heeds Idempotency-Key: what is posted twice is sent once.
            capabilities: vec![("provider-deduplicates".into(), "true".into())],
        }
    }
}

impl sender::Guest for Plugin {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let config: Config =
            serde_json::from_str(&ctx.config).map_err(|e| PluginError::InvalidConfig(e.to_string()))?;
        let adapter: Adapter = serde_json::from_str(&message.device.adapter)
            .map_err(|_| PluginError::InvalidInput("the device's settings cannot be read".into()))?;
        let body = Message {
            id: &message.message.id,
            to: &message.recipient.address,
            text: &message.content.text,
            device: &message.device.id,
            attempt: message.message.attempt,
            from: adapter.from,
        };
        let request = HttpRequest {
            method: "POST".into(),
            url: config.url,
            headers: vec![
                ("Content-Type".into(), "application/json".into()),
                ("Authorization".into(), "Bearer {{secret:API_KEY}}".into()),
                ("Idempotency-Key".into(), message.message.id.clone()),
            ],
            body: Body::Text(serde_json::to_string(&body).map_err(|e| PluginError::Internal(e.to_string()))?),
            timeout_ms: config.timeout_ms,
        };
        Ok(Progress { step: Step::Request(Round { request, state: String::new() }), account_state: None })
    }

    fn resume(_ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let outcome = match answer {
            Answer::Response(response) => outcome(&response),
            // Nothing has left, so it is safe to try again.
            Answer::NotSent(why) => Outcome::Transient(failure("not-sent", why)),
            // It may have been sent: the campaign decides.
            Answer::Unanswered(why) => Outcome::Unknown(failure("unanswered", why)),
        };
        Ok(Progress { step: Step::Done(outcome), account_state: None })
    }
}

/// What the API's answer means.
fn outcome(response: &HttpResponse) -> Outcome {
    let status = response.status;
    let body = match &response.body {
        Body::Text(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        _ => Value::Null,
    };
    let word = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let reason = failure(&format!("http-{status}"), format!("the API answered {status}"));
    match status {
        200..=299 => Outcome::Accepted(Acceptance { provider_id: word("id").into(), attributes: vec![] }),
        429 => Outcome::RetryAfter(Pause { scope: Scope::Device, delay_ms: retry_after_ms(response), reason }),
        401 | 403 => Outcome::AccountBlocked(reason),
        400..=499 => match word("error") {
            "unknown-recipient" => rejection(RecipientProblem::Invalid, reason),
            "blocked" => rejection(RecipientProblem::Blocked, reason),
            "opted-out" => Outcome::OptedOut(reason),
            _ => Outcome::ContentRejected(reason),
        },
        500..=599 => Outcome::Transient(reason),
        _ => Outcome::ContentRejected(reason),
    }
}

/// How long the API asks to wait: a minute if it does not say so in seconds.
fn retry_after_ms(response: &HttpResponse) -> f64 {
    let header = response.headers.iter().find(|(name, _)| name == "retry-after");
    let seconds: Option<u32> = header.and_then(|(_, value)| value.parse().ok());
    seconds.map_or(60_000.0, |seconds| f64::from(seconds) * 1_000.0)
}

fn rejection(problem: RecipientProblem, reason: Failure) -> Outcome {
    Outcome::RecipientPermanent(Rejection { problem, reason })
}

/// No address, text or secret belongs in here.
fn failure(code: &str, detail: String) -> Failure {
    Failure { code: code.into(), detail, attributes: vec![] }
}

export!(Plugin);

//! What FCM's answers mean: by FCM's own error code, then by Google's, then by the status.

use common::contract::sending::{Outcome, RecipientProblem, Scope};
use common::provider::{self, Reply, Settings, Usual as _, excerpt, failure, rejected};
use serde_json::Value;

/// The outcome of a send.
pub fn outcome(settings: &Settings, reply: &Reply) -> Outcome {
    let name = reply.id("/name");
    if reply.status < 300 && !name.is_empty() {
        return provider::accepted(name);
    }
    let code = detail(reply, "google.firebase.fcm.v1.FcmError", "errorCode").and_then(Value::as_str);
    let code = code.unwrap_or_else(|| reply.text("/error/status"));
    let said = |what: &str| failure(format!("fcm-{}", code.to_ascii_lowercase().replace('_', "-")), what);
    let asked_ms = settings.bare_wait_ms();
    match code {
        "UNREGISTERED" => {
            rejected(RecipientProblem::Invalid, said("the app has been removed from the phone, or its token is old"))
        }
        // All tokens of a wrong project look like this: they are not put on the suppression list.
        "SENDER_ID_MISMATCH" => rejected(RecipientProblem::Unreachable, said("the token belongs to another project")),
        "INVALID_ARGUMENT" if is_about_the_token(reply) => {
            rejected(RecipientProblem::Invalid, said("the registration token is not valid"))
        }
        "INVALID_ARGUMENT" => {
            Outcome::ContentRejected(said(&format!("FCM refuses it: {}", excerpt(reply.text("/error/message")))))
        }
        "QUOTA_EXCEEDED" | "RESOURCE_EXHAUSTED" => match delay_ms(reply) {
            Some(ms) => provider::wait(Scope::Account, ms, said("the project has reached its quota")),
            None => reply.wait(Scope::Account, asked_ms, said("the project has reached its quota")),
        },
        // Access tokens live for an hour: what replaces the secret is waited for.
        "UNAUTHENTICATED" => {
            provider::wait(Scope::Account, asked_ms, said("the access token has expired or is not valid"))
        }
        "THIRD_PARTY_AUTH_ERROR" => {
            Outcome::AccountBlocked(said("the project's APNs or web push credentials are not valid"))
        }
        "PERMISSION_DENIED" => Outcome::AccountBlocked(said("the access token may not send for this project")),
        "NOT_FOUND" => Outcome::AccountBlocked(said("there is no such project")),
        "UNAVAILABLE" if reply.retry_after_ms().is_some() => {
            reply.wait(Scope::Account, asked_ms, said("FCM is not available for now"))
        }
        "UNAVAILABLE" | "INTERNAL" => reply.server_error(settings),
        _ => reply.usual(settings, Scope::Account),
    }
}

/// A value of the error's detail of this type.
fn detail<'a>(reply: &'a Reply, of_type: &str, name: &str) -> Option<&'a Value> {
    let details = reply.at("/error/details")?.as_array()?;
    details.iter().find(|d| d.get("@type").and_then(Value::as_str).is_some_and(|t| t.ends_with(of_type)))?.get(name)
}

/// A wrong token is told as a violation of its field, or by FCM's own code with a text.
fn is_about_the_token(reply: &Reply) -> bool {
    let of_field = |violation: &Value| violation.get("field").and_then(Value::as_str) == Some("message.token");
    let violations = detail(reply, "google.rpc.BadRequest", "fieldViolations").and_then(Value::as_array);
    violations.is_some_and(|violations| violations.iter().any(of_field))
        || reply.text("/error/message").contains("registration token")
}

/// What Google's own form asks for, such as `30s`.
fn delay_ms(reply: &Reply) -> Option<f64> {
    let delay = detail(reply, "google.rpc.RetryInfo", "retryDelay")?.as_str()?;
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then_some(seconds * 1000.0)
}

//! What a provider's answer means.

use serde_json::Value;

use crate::bindings::carillon::plugin::sending::{
    Acceptance, Answer, Body, Failure, HttpResponse, Outage, Outcome, Pause, RecipientProblem, Rejection, Scope,
};
use crate::config::{Config, Lookup, Meaning, On5xx, Rule, Waits};

/// The outcome of a send.
pub fn outcome(config: &Config, now_ms: f64, answer: Answer) -> Outcome {
    let response = match answer {
        Answer::NotSent(why) => return Outcome::Transient(failure("not-sent", why)),
        Answer::Unanswered(why) => return Outcome::Unknown(failure("unanswered", why)),
        Answer::Response(response) => response,
    };
    let body = json(&response);
    let (meaning, detail) =
        ruled(&config.outcomes, &response, body.as_ref()).unwrap_or_else(|| usual(config, &response));
    outcome_of(config, now_ms, &response, meaning, detail, provider_id(&config.provider_id, body.as_ref()))
}

/// What a look-up found.
pub fn looked_up(config: &Config, lookup: &Lookup, now_ms: f64, answer: Answer) -> Outcome {
    let response = match answer {
        Answer::NotSent(why) => return Outcome::Unknown(failure("lookup-not-sent", why)),
        Answer::Unanswered(why) => return Outcome::Unknown(failure("lookup-unanswered", why)),
        Answer::Response(response) => response,
    };
    let body = json(&response);
    let (meaning, detail) = ruled(&lookup.outcomes, &response, body.as_ref()).unwrap_or_else(|| {
        // That a provider does not find a message yet does not prove that it will not send it: for that there are rules.
        let status = response.status;
        match status {
            200..=299 => (Meaning::Accepted, format!("the provider answered {status} to the look-up")),
            _ => (Meaning::Unknown, format!("the provider answered {status} to the look-up, which no rule explains")),
        }
    });
    let pointer = lookup.provider_id.as_ref().unwrap_or(&config.provider_id);
    outcome_of(config, now_ms, &response, meaning, detail, provider_id(pointer, body.as_ref()))
}

fn json(response: &HttpResponse) -> Option<Value> {
    match &response.body {
        Body::Empty => None,
        Body::Text(text) => serde_json::from_str(text).ok(),
        Body::Bytes(bytes) => serde_json::from_slice(bytes).ok(),
    }
}

/// What the first rule says that fits.
fn ruled(rules: &[Rule], response: &HttpResponse, body: Option<&Value>) -> Option<(Meaning, String)> {
    let rule = rules.iter().find(|rule| fits(rule, response.status, body))?;
    Some((rule.outcome, format!("the provider answered {}; the configuration says what it means", response.status)))
}

fn outcome_of(
    config: &Config,
    now_ms: f64,
    response: &HttpResponse,
    meaning: Meaning,
    detail: String,
    provider_id: String,
) -> Outcome {
    let reason = failure(&format!("http-{}", response.status), detail);
    let acceptance = || Acceptance { provider_id, attributes: Vec::new() };
    match meaning {
        Meaning::Accepted => Outcome::Accepted(acceptance()),
        Meaning::Delivered => Outcome::Delivered(acceptance()),
        Meaning::RetryAfter => Outcome::RetryAfter(Pause {
            scope: match config.retry_after_scope {
                Waits::Message => Scope::Message,
                Waits::Recipient => Scope::Recipient,
                Waits::Device => Scope::Device,
                Waits::Account => Scope::Account,
            },
            delay_ms: retry_after_ms(response, now_ms).unwrap_or(config.retry_after_ms),
            reason,
        }),
        Meaning::Transient => Outcome::Transient(reason),
        Meaning::InvalidRecipient => rejected(RecipientProblem::Invalid, reason),
        Meaning::Unreachable => rejected(RecipientProblem::Unreachable, reason),
        Meaning::Blocked => rejected(RecipientProblem::Blocked, reason),
        Meaning::OptedOut => Outcome::OptedOut(reason),
        Meaning::ContentRejected => Outcome::ContentRejected(reason),
        Meaning::DeviceDown => Outcome::DeviceDown(Outage { retry_ms: retry_after_ms(response, now_ms), reason }),
        Meaning::AccountBlocked => Outcome::AccountBlocked(reason),
        Meaning::Unknown => Outcome::Unknown(reason),
    }
}

fn rejected(problem: RecipientProblem, reason: Failure) -> Outcome {
    Outcome::RecipientPermanent(Rejection { problem, reason })
}

fn failure(code: &str, detail: String) -> Failure {
    Failure { code: code.into(), detail, attributes: Vec::new() }
}

fn fits(rule: &Rule, status: u32, body: Option<&Value>) -> bool {
    let status_fits = rule.status.as_ref().is_none_or(|statuses| statuses.contains(&status));
    let value_fits = rule.pointer.as_ref().is_none_or(|pointer| {
        body.and_then(|body| body.pointer(pointer))
            .is_some_and(|found| rule.values.as_ref().is_none_or(|values| values.iter().any(|v| same(v, found))))
    });
    status_fits && value_fits
}

/// Whether two values are the same; a number and the text of it are.
fn same(a: &Value, b: &Value) -> bool {
    a == b || word(a).is_some_and(|a| Some(a) == word(b))
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What a status means without a rule.
fn usual(config: &Config, response: &HttpResponse) -> (Meaning, String) {
    let said = |what: &str| format!("the provider answered {}: {what}", response.status);
    match response.status {
        200..=299 => (Meaning::Accepted, said("accepted")),
        // Certainly not sent, whatever `on_5xx` says: it asks to come back.
        429 => (Meaning::RetryAfter, said("too many requests")),
        503 if header(response, "retry-after").is_some() => (Meaning::RetryAfter, said("not available for now")),
        401 => (Meaning::AccountBlocked, said("the credentials are not accepted")),
        408 | 425 => (Meaning::Transient, said("not processed, try again")),
        300..=399 => (Meaning::ContentRejected, said("redirects are not followed, correct the URL")),
        500.. if config.on_5xx == On5xx::Unknown => (Meaning::Unknown, said("a server error; it may have been sent")),
        500.. => (Meaning::Transient, said("a server error")),
        _ => (Meaning::ContentRejected, said("the request is refused")),
    }
}

fn provider_id(pointer: &str, body: Option<&Value>) -> String {
    body.and_then(|body| body.pointer(pointer)).and_then(word).unwrap_or_default()
}

fn header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// How long `Retry-After` asks to wait: seconds or an HTTP date. Nonsense is no wish: an answer that is not finite would be
/// this plugin's fault, and the message's outcome unknown.
fn retry_after_ms(response: &HttpResponse, now_ms: f64) -> Option<f64> {
    let value = header(response, "retry-after")?;
    let ms = value.parse::<f64>().ok().map(|seconds| seconds * 1000.0);
    let ms = ms.or_else(|| http_date_ms(value).map(|at| at - now_ms))?;
    ms.is_finite().then_some(ms.max(0.0))
}

/// The milliseconds of an HTTP date in its preferred form: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date_ms(text: &str) -> Option<f64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: i64 = parts.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let month = parts.next()?;
    let month = i64::try_from(MONTHS.iter().position(|m| *m == month)?).ok()? + 1;
    let year: i64 = parts.next()?.parse().ok().filter(|y| (1970..=9999).contains(y))?;
    let mut time = parts.next()?.split(':').map(|n| n.parse::<u32>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if parts.next()? != "GMT" || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970-01-01 in the Gregorian calendar (years that begin in March).
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + i64::from(hour * 3600 + minute * 60 + second)) as f64 * 1000.0)
}

//! What sending is made of: requests, answers and outcomes, and what every sender of an HTTP API needs of them.

use std::cell::OnceCell;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use crate::bindings::contract::carillon::plugin::sending::*;

/// The device's adapter settings. The outcome for one that has not what the provider wants: it cannot send anything.
pub fn adapter<T: DeserializeOwned>(device: &Device) -> Result<T, Box<Outcome>> {
    serde_json::from_str(&device.adapter).map_err(|e| Box::new(misfit(&e.to_string())))
}

/// A device cannot send with the settings that it has.
pub fn misfit(why: &str) -> Outcome {
    down(None, failure("adapter", format!("the device's adapter settings do not fit: {why}")))
}

/// A step, and the account as it was.
pub const fn progress(step: Step) -> Progress {
    Progress { step, account_state: None }
}

/// A request, and nothing to remember until its answer comes.
pub const fn ask(request: HttpRequest) -> Progress {
    progress(Step::Request(Round { request, state: String::new() }))
}

/// The end of a send or a look-up.
pub const fn done(outcome: Outcome) -> Progress {
    progress(Step::Done(outcome))
}

/// Why something did not work.
pub fn failure(code: impl Into<String>, detail: impl Into<String>) -> Failure {
    Failure { code: code.into(), detail: detail.into(), attributes: Vec::new() }
}

/// The provider has it.
pub const fn accepted(provider_id: String) -> Outcome {
    Outcome::Accepted(Acceptance { provider_id, attributes: Vec::new() })
}

/// The recipient has it.
pub const fn delivered(provider_id: String) -> Outcome {
    Outcome::Delivered(Acceptance { provider_id, attributes: Vec::new() })
}

/// Final for this recipient.
pub const fn rejected(problem: RecipientProblem, reason: Failure) -> Outcome {
    Outcome::RecipientPermanent(Rejection { problem, reason })
}

/// The device sends nothing for now.
pub const fn down(retry_ms: Option<f64>, reason: Failure) -> Outcome {
    Outcome::DeviceDown(Outage { retry_ms, reason })
}

/// The provider asks to wait.
pub const fn wait(scope: Scope, delay_ms: f64, reason: Failure) -> Outcome {
    Outcome::RetryAfter(Pause { scope, delay_ms, reason })
}

/// What became of a check's request that was not answered.
#[derive(Debug)]
pub enum Silence {
    /// It reached nobody: certain, and may be this side's fault.
    NotSent(Failure),
    /// It left and no whole answer came. A message would fare no better, and nobody would know what became of it.
    Unanswered(Failure),
}

/// A whole answer.
pub struct Reply {
    /// Its status.
    pub status: u32,
    headers: Vec<(String, String)>,
    body: Body,
    json: OnceCell<Option<Value>>,
    now_ms: f64,
}

impl Reply {
    /// The answer to a send; without a whole one, the send's outcome.
    pub fn to_send(answer: Answer, now_ms: f64) -> Result<Self, Box<Outcome>> {
        Self::read(answer, now_ms, |why| Outcome::Transient(failure("not-sent", why)), "unanswered")
    }

    /// The answer to a look-up; without a whole one nothing is known.
    pub fn to_lookup(answer: Answer, now_ms: f64) -> Result<Self, Box<Outcome>> {
        let not_sent = |why| Outcome::Unknown(failure("lookup-not-sent", why));
        Self::read(answer, now_ms, not_sent, "lookup-unanswered")
    }

    /// The answer to a check of a device; without a whole one, what happened to the request.
    pub fn to_check(answer: Answer, now_ms: f64) -> Result<Self, Silence> {
        match answer {
            Answer::NotSent(why) => Err(Silence::NotSent(failure("check-not-sent", why))),
            Answer::Unanswered(why) => Err(Silence::Unanswered(failure("check-unanswered", why))),
            Answer::Response(response) => Ok(Self::of(response, now_ms)),
        }
    }

    fn read(
        answer: Answer,
        now_ms: f64,
        not_sent: impl FnOnce(String) -> Outcome,
        unanswered: &str,
    ) -> Result<Self, Box<Outcome>> {
        match answer {
            Answer::NotSent(why) => Err(Box::new(not_sent(why))),
            Answer::Unanswered(why) => Err(Box::new(Outcome::Unknown(failure(unanswered, why)))),
            Answer::Response(response) => Ok(Self::of(response, now_ms)),
        }
    }

    fn of(response: HttpResponse, now_ms: f64) -> Self {
        let HttpResponse { status, headers, body } = response;
        Self { status, headers, body, json: OnceCell::new(), now_ms }
    }

    /// Its body, where it is JSON; read when it is first asked for.
    pub fn json(&self) -> Option<&Value> {
        let read = || match &self.body {
            Body::Empty => None,
            Body::Text(text) => serde_json::from_str(text).ok(),
            Body::Bytes(bytes) => serde_json::from_slice(bytes).ok(),
        };
        self.json.get_or_init(read).as_ref()
    }

    /// The header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// How long `Retry-After` asks to wait: seconds or an HTTP date. Nonsense is no wish: an answer that is not finite would be
    /// the plugin's fault, and the message's outcome unknown.
    pub fn retry_after_ms(&self) -> Option<f64> {
        let value = self.header("retry-after")?;
        let whole = value.parse::<u64>().ok().map(|seconds| seconds as f64);
        // With a fraction: read as JSON, because the standard reader of floats is as large as the rest of a sender.
        let seconds = whole.or_else(|| serde_json::from_str(value).ok());
        let ms = seconds.map(|seconds| seconds * 1000.0);
        let ms = ms.or_else(|| http_date_ms(value).map(|at| at - self.now_ms))?;
        ms.is_finite().then_some(ms.max(0.0))
    }

    /// The value at a JSON Pointer.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.json()?.pointer(pointer)
    }

    /// The text at a JSON Pointer; empty when there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The milliseconds of a number of seconds at a JSON Pointer, when it is one that can be waited for.
    pub fn seconds_as_ms(&self, pointer: &str) -> Option<f64> {
        self.at(pointer)
            .and_then(Value::as_f64)
            .map(|seconds| seconds * 1000.0)
            .filter(|ms| ms.is_finite() && *ms >= 0.0)
    }

    /// The text or number at a JSON Pointer, as a provider's id; empty when there is neither.
    pub fn id(&self, pointer: &str) -> String {
        self.at(pointer).and_then(word).unwrap_or_default()
    }

    /// Why, with the status.
    pub fn said(&self, what: &str) -> Failure {
        failure(format!("http-{}", self.status), format!("the provider answered {}: {what}", self.status))
    }

    /// The same wait for whoever it concerns, as long as the provider says in a header, or as long as is usual.
    pub fn wait(&self, scope: Scope, usual_ms: f64, reason: Failure) -> Outcome {
        wait(scope, self.retry_after_ms().unwrap_or(usual_ms), reason)
    }
}

/// A text, or a number as text.
pub fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
pub const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (m * 153 + 2) / 5 + day - 1 - 719_468
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
    Some((days(year, month, day) * 86_400 + i64::from(hour * 3600 + minute * 60 + second)) as f64 * 1000.0)
}

/// Percent-encodes everything but what RFC 3986 reserves for nothing. A placeholder does not survive it.
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
            out.push('%');
            out.extend([byte >> 4, byte & 15].iter().filter_map(|n| HEX.get(usize::from(*n))));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(headers: &[(&str, &str)]) -> Reply {
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Reply { status: 429, headers, body: Body::Empty, json: OnceCell::new(), now_ms: 1_796_115_600_000.0 }
    }

    #[test]
    fn what_cannot_be_waited_for_is_no_wish() {
        for (value, ms) in [
            ("7", Some(7000.0)),
            (" 1.5 ", Some(1500.0)),
            ("007", Some(7000.0)),
            ("-3", Some(0.0)),
            ("Tue, 01 Dec 2026 09:02:00 GMT", Some(120_000.0)),
            ("Mon, 30 Nov 2026 09:00:00 GMT", Some(0.0)),
            ("NaN", None),
            ("1e999", None),
            ("soon", None),
            ("Tue, 32 Dec 2026 09:02:00 GMT", None),
        ] {
            assert_eq!(reply(&[("Retry-After", value)]).retry_after_ms(), ms, "{value}");
        }
        assert_eq!(reply(&[]).retry_after_ms(), None);
    }

    #[test]
    fn no_placeholder_survives_in_a_url() {
        assert_eq!(percent("{{secret:A}}/ü~"), "%7B%7Bsecret%3AA%7D%7D%2F%C3%BC~");
    }
}

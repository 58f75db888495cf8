//! What senders of HTTP APIs have in common: settings, the request, how its answer is read, and what a status means when the
//! provider's own codes say nothing.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Cache;
use crate::contract::sending::{
    Acceptance, Answer, Body, Failure, HttpRequest, Outage, Outcome, Pause, Progress, RecipientProblem, Rejection,
    Round, Scope, Step,
};
use crate::contract::types::{Device, PluginError};

/// The settings that the configuration of each of them has. What it has beside them is not looked at here.
#[derive(Deserialize)]
pub struct Settings {
    /// Where the API is, without a slash at its end; the provider's public address when absent.
    pub url: Option<String>,
    /// The name of the secret that devices without one of their own send with.
    pub secret: Option<String>,
    /// How long to wait for an answer, in milliseconds.
    #[serde(default = "timeout")]
    pub timeout_ms: f64,
    /// How long a provider that asks to wait without saying how long is left alone, in milliseconds.
    pub retry_after_ms: Option<f64>,
    /// What a server error proves.
    #[serde(default)]
    pub on_5xx: On5xx,
}

const fn timeout() -> f64 {
    15_000.0
}

/// What a campaign says to a sender: the settings that each of them has and, in the same JSON object, what is its own.
pub struct Configured<C> {
    /// Those that each has.
    pub settings: Settings,
    /// What is the sender's own.
    pub config: C,
}

impl<C: DeserializeOwned> Configured<C> {
    /// Reads both; neither minds what is the other's.
    pub fn read(text: &str) -> Result<Self, PluginError> {
        let read = || Ok(Self { settings: crate::parse(text)?, config: crate::parse(text)? });
        read().map_err(PluginError::InvalidConfig)
    }
}

/// What campaigns say, each read once.
pub type Configs<C> = Cache<Configured<C>>;

/// What a server error proves.
#[derive(Deserialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum On5xx {
    /// That the message was not sent.
    #[default]
    Transient,
    /// Nothing.
    Unknown,
}

/// A wait of which the provider does not say how long, in milliseconds.
pub const BARE_WAIT_MS: f64 = 30_000.0;

impl Settings {
    /// The API's address.
    pub fn base<'a>(&'a self, usual: &'a str) -> &'a str {
        self.url.as_deref().unwrap_or(usual).trim_end_matches('/')
    }

    /// See [`Settings::retry_after_ms`].
    pub fn bare_wait_ms(&self) -> f64 {
        self.retry_after_ms.unwrap_or(BARE_WAIT_MS)
    }

    /// The placeholder of the device's secret, or of the configuration's, or of the usual one.
    pub fn secret(&self, of_device: Option<&str>, usual: &str) -> Result<String, Box<Outcome>> {
        let name = of_device.or(self.secret.as_deref()).unwrap_or(usual);
        let plausible =
            (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if plausible {
            Ok(format!("{{{{secret:{name}}}}}"))
        } else {
            Err(Box::new(misfit("a secret's name has 1 to 128 letters, digits, _, - and .")))
        }
    }
}

/// The device's adapter settings. The outcome for one that has not what the provider wants: it cannot send anything.
pub fn adapter<T: DeserializeOwned>(device: &Device) -> Result<T, Box<Outcome>> {
    serde_json::from_str(&device.adapter).map_err(|e| Box::new(misfit(&e.to_string())))
}

/// A device cannot send with the settings that it has.
pub fn misfit(why: &str) -> Outcome {
    down(None, failure("adapter", format!("the device's adapter settings do not fit: {why}")))
}

/// A request, and nothing to remember until its answer comes.
pub fn request(
    method: &str,
    url: String,
    authorization: Option<String>,
    body: Option<&Value>,
    timeout_ms: f64,
) -> Step {
    let mut headers = Vec::new();
    if let Some(authorization) = authorization {
        headers.push(("Authorization".into(), authorization));
    }
    if body.is_some() {
        headers.push(("Content-Type".into(), "application/json".into()));
    }
    let body = body.map_or(Body::Empty, |body| Body::Text(body.to_string()));
    let request = HttpRequest { method: method.into(), url, headers, body, timeout_ms };
    Step::Request(Round { request, state: String::new() })
}

/// A step, and the account as it was.
pub const fn progress(step: Step) -> Progress {
    Progress { step, account_state: None }
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

/// A whole answer.
pub struct Reply {
    /// Its status.
    pub status: u32,
    headers: Vec<(String, String)>,
    /// Its body, where it is JSON.
    pub json: Option<Value>,
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

    fn read(
        answer: Answer,
        now_ms: f64,
        not_sent: impl FnOnce(String) -> Outcome,
        unanswered: &str,
    ) -> Result<Self, Box<Outcome>> {
        let response = match answer {
            Answer::NotSent(why) => return Err(Box::new(not_sent(why))),
            Answer::Unanswered(why) => return Err(Box::new(Outcome::Unknown(failure(unanswered, why)))),
            Answer::Response(response) => response,
        };
        let json = match &response.body {
            Body::Empty => None,
            Body::Text(text) => serde_json::from_str(text).ok(),
            Body::Bytes(bytes) => serde_json::from_slice(bytes).ok(),
        };
        Ok(Self { status: response.status, headers: response.headers, json, now_ms })
    }

    /// The header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// How long `Retry-After` asks to wait: seconds or an HTTP date. Nonsense is no wish: an answer that is not finite would be
    /// the plugin's fault, and the message's outcome unknown.
    pub fn retry_after_ms(&self) -> Option<f64> {
        let value = self.header("retry-after")?;
        let ms = value.parse::<f64>().ok().map(|seconds| seconds * 1000.0);
        let ms = ms.or_else(|| http_date_ms(value).map(|at| at - self.now_ms))?;
        ms.is_finite().then_some(ms.max(0.0))
    }

    /// The value at a JSON Pointer.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.json.as_ref().and_then(|json| json.pointer(pointer))
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

    /// What a status means when nothing in the answer says it better. `scope` is whom a 429 makes wait.
    pub fn usual(&self, settings: &Settings, scope: Scope) -> Outcome {
        match self.status {
            200..=299 => Outcome::Unknown(self.said("but not what this provider answers; is the URL right?")),
            429 => self.wait(scope, settings.bare_wait_ms(), self.said("too many requests")),
            // Certainly not sent, whatever `on_5xx` says: it asks to come back.
            503 if self.retry_after_ms().is_some() => {
                self.wait(scope, settings.bare_wait_ms(), self.said("not available for now"))
            }
            401 | 403 => Outcome::AccountBlocked(self.said("the credentials are not accepted")),
            408 | 425 => Outcome::Transient(self.said("not processed, try again")),
            300..=399 => Outcome::ContentRejected(self.said("redirects are not followed, correct the URL")),
            500.. => self.server_error(settings),
            _ => Outcome::ContentRejected(self.said("the request is refused")),
        }
    }

    /// What an error on the provider's side means.
    pub fn server_error(&self, settings: &Settings) -> Outcome {
        match settings.on_5xx {
            On5xx::Transient => Outcome::Transient(self.said("a server error")),
            On5xx::Unknown => Outcome::Unknown(self.said("a server error; it may have been sent")),
        }
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
    Some((crate::days(year, month, day) * 86_400 + i64::from(hour * 3600 + minute * 60 + second)) as f64 * 1000.0)
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

/// The longest excerpt, in bytes.
const EXCERPT: usize = 120;

/// The beginning of what a provider says of an error, up to the first sign that could begin a quotation, a number or an address:
/// such texts are kept and shown, and must hold nothing personal.
pub fn excerpt(text: &str) -> &str {
    let bytes = text.as_bytes();
    let letter = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphabetic);
    let plain = |at: usize, byte: u8| match byte {
        // As in "can't"; any other quotes something.
        b'\'' => letter(at.checked_sub(1)) && letter(at.checked_add(1)),
        _ => byte.is_ascii_alphabetic() || b" _-,.:;".contains(&byte),
    };
    let end = bytes.iter().take(EXCERPT).enumerate().position(|(at, byte)| !plain(at, *byte));
    text.get(..end.unwrap_or(EXCERPT.min(text.len()))).unwrap_or_default().trim_end_matches([' ', ':', ',', ';', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(headers: &[(&str, &str)]) -> Reply {
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Reply { status: 429, headers, json: None, now_ms: 1_796_115_600_000.0 }
    }

    #[test]
    fn what_cannot_be_waited_for_is_no_wish() {
        for (value, ms) in [
            ("7", Some(7000.0)),
            (" 1.5 ", Some(1500.0)),
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
    fn an_excerpt_has_no_quotation_number_or_address() {
        for (text, kept) in [
            (
                "Bad Request: can't parse entities: Unsupported start tag \"ada\"",
                "Bad Request: can't parse entities: Unsupported start tag",
            ),
            ("failed to use phone in row 1: +39055", "failed to use phone in row"),
            ("value 'Ada' is wrong", "value"),
            ("Ask ada@example.com", "Ask ada"),
            ("(#131009) Parameter", ""),
            ("", ""),
            ("'", ""),
            ("Müller", "M"),
        ] {
            assert_eq!(excerpt(text), kept);
        }
        assert_eq!(excerpt(&"a".repeat(500)).len(), EXCERPT);
        assert_eq!(excerpt(&format!("{}ü", "a".repeat(EXCERPT - 1))).len(), EXCERPT - 1);
    }

    #[test]
    fn a_name_that_would_be_more_than_a_placeholder_is_refused() {
        let settings: Settings = serde_json::from_str(r#"{"secret":"OF_CONFIG"}"#).unwrap();
        assert_eq!(settings.secret(None, "USUAL").unwrap(), "{{secret:OF_CONFIG}}");
        assert_eq!(settings.secret(Some("of-device.1"), "USUAL").unwrap(), "{{secret:of-device.1}}");
        for bad in ["", "A}}{{secret:B", "A B", &"a".repeat(129)] {
            assert!(matches!(*settings.secret(Some(bad), "USUAL").unwrap_err(), Outcome::DeviceDown(_)), "{bad}");
        }
        let bare: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(bare.secret(None, "USUAL").unwrap(), "{{secret:USUAL}}");
        assert_eq!((bare.base("https://a.example/"), bare.timeout_ms), ("https://a.example", 15_000.0));
    }

    #[test]
    fn settings_and_configuration_are_read_from_one_text() {
        #[derive(Deserialize)]
        struct Own {
            mode: String,
        }
        let read = Configured::<Own>::read(r#"{"timeout_ms":5000,"mode":"local"}"#).ok().unwrap();
        assert_eq!((read.settings.timeout_ms, read.config.mode.as_str()), (5000.0, "local"));
        for (bad, named) in [(r#"{"timeout_ms":5000}"#, "mode"), (r#"{"timeout_ms":"5 s","mode":"local"}"#, "5 s")] {
            let Err(PluginError::InvalidConfig(why)) = Configured::<Own>::read(bad) else { panic!("{bad}") };
            assert!(why.starts_with("the configuration cannot be read: ") && why.contains(named), "{why}");
        }
    }

    #[test]
    fn no_placeholder_survives_in_a_url() {
        assert_eq!(percent("{{secret:A}}/ü~"), "%7B%7Bsecret%3AA%7D%7D%2F%C3%BC~");
    }
}

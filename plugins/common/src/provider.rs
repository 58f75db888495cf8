//! What senders of HTTP APIs have in common: settings, the request, and what a status means when the provider's own codes say
//! nothing.

pub use carillon_plugin::sending::{
    Reply, Silence, accepted, adapter, delivered, done, down, failure, misfit, percent, progress, rejected, wait, word,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Cache;
use crate::contract::health::{self, CheckProgress, CheckStep, Verdict};
use crate::contract::sending::{Answer, Body, HttpRequest, Outcome, Round, Scope, Step};
use crate::contract::types::PluginError;

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

/// The first step of a check of a device, made as that of a send.
pub fn check(step: Step) -> CheckProgress {
    health::progress(match step {
        Step::Request(round) => CheckStep::Request(round),
        Step::Done(outcome) => CheckStep::Done(verdict(outcome)),
    })
}

/// The end of a check whose request had this answer. A provider that does not answer would not answer a message either, of which
/// nobody could tell then whether it was sent; one that was not reached may be there, and this side at fault.
pub fn checked(answer: Answer, now_ms: f64, read: impl FnOnce(&Reply) -> Verdict) -> CheckProgress {
    health::done(match Reply::to_check(answer, now_ms) {
        Ok(reply) => read(&reply),
        Err(Silence::NotSent(reason)) => Verdict::Unknown(reason),
        Err(Silence::Unanswered(reason)) => health::down(None, reason),
    })
}

/// What an outcome says of the device. Of most it says nothing.
pub fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Accepted(_) | Outcome::Delivered(_) => Verdict::Healthy,
        Outcome::DeviceDown(outage) => Verdict::Down(outage),
        Outcome::AccountBlocked(reason) => Verdict::Blocked(reason),
        Outcome::RetryAfter(pause) => Verdict::Unknown(pause.reason),
        Outcome::RecipientPermanent(rejection) => Verdict::Unknown(rejection.reason),
        Outcome::Transient(reason)
        | Outcome::OptedOut(reason)
        | Outcome::ContentRejected(reason)
        | Outcome::Unknown(reason) => Verdict::Unknown(reason),
    }
}

/// What answers mean that say nothing of the provider's own.
pub trait Usual {
    /// What a status means when nothing in the answer says it better. `scope` is whom a 429 makes wait.
    fn usual(&self, settings: &Settings, scope: Scope) -> Outcome;

    /// What an error on the provider's side means.
    fn server_error(&self, settings: &Settings) -> Outcome;
}

impl Usual for Reply {
    fn usual(&self, settings: &Settings, scope: Scope) -> Outcome {
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

    fn server_error(&self, settings: &Settings) -> Outcome {
        match settings.on_5xx {
            On5xx::Transient => Outcome::Transient(self.said("a server error")),
            On5xx::Unknown => Outcome::Unknown(self.said("a server error; it may have been sent")),
        }
    }
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
}

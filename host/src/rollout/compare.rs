//! In what the answers of two versions to the same question differ, without quoting them: answers hold addresses and texts.

use std::fmt::Display;

use sha2::{Digest as _, Sha256};

use crate::plugins::{Content, HttpRequest, NextDelay, Outcome, PluginBody, PluginFault, Progress, Step};

/// Characters on each side of the first difference that an excerpt shows.
const AROUND: usize = 30;

/// How much of what differs may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Lengths, where they part, and digests under this key: they tell what is the same from what is not, and nothing else.
    Masked([u8; 16]),
    /// Excerpts, too.
    Excerpts([u8; 16]),
}

/// What was found to differ: field and detail.
#[derive(Debug)]
pub struct Differences {
    secrecy: Secrecy,
    found: Vec<(String, String)>,
}

/// Differences that are kept of one call.
const MAX_FOUND: usize = 8;

impl Differences {
    /// None yet.
    pub fn new(secrecy: Secrecy) -> Self {
        Self { secrecy, found: Vec::new() }
    }

    /// What was found.
    pub fn found(self) -> Vec<(String, String)> {
        self.found
    }

    /// Compares what two templates made of a message.
    pub fn contents(&mut self, stable: &Result<Content, PluginFault>, candidate: &Result<Content, PluginFault>) {
        let Some((a, b)) = self.answered(stable, candidate) else { return };
        self.text("text", &a.text, &b.text);
        self.optional("subject", a.subject.as_deref(), b.subject.as_deref());
        let media = |content: &Content| -> Vec<(String, String)> {
            content.media.iter().map(|m| (m.kind.clone(), m.url.clone())).collect()
        };
        self.pairs("media", &media(a), &media(b));
        self.pairs("attributes", &a.attributes, &b.attributes);
    }

    /// Compares two delays; those at most `tolerance_ms` apart are the same.
    pub fn delays(
        &mut self,
        stable: &Result<NextDelay, PluginFault>,
        candidate: &Result<NextDelay, PluginFault>,
        tolerance_ms: f64,
    ) {
        let Some((a, b)) = self.answered(stable, candidate) else { return };
        if (a.delay_ms - b.delay_ms).abs() > tolerance_ms {
            self.add("delay", format!("stable {} ms, candidate {} ms", a.delay_ms, b.delay_ms));
        }
    }

    /// Compares what two senders want done first.
    pub fn starts(&mut self, stable: &Result<Progress, PluginFault>, candidate: &Result<Progress, PluginFault>) {
        let Some((a, b)) = self.answered(stable, candidate) else { return };
        match (&a.step, &b.step) {
            (Step::Request(a), Step::Request(b)) => self.requests(&a.request, &b.request),
            (Step::Done(a), Step::Done(b)) => {
                let (a, b) = (outcome(a), outcome(b));
                if a != b {
                    self.add("outcome", format!("stable {a}, candidate {b}"));
                }
            }
            (Step::Request(_), Step::Done(b)) => {
                self.add("step", format!("stable a request, candidate {}", outcome(b)));
            }
            (Step::Done(a), Step::Request(_)) => {
                self.add("step", format!("stable {}, candidate a request", outcome(a)));
            }
        }
    }

    fn requests(&mut self, a: &HttpRequest, b: &HttpRequest) {
        self.text("method", &a.method, &b.method);
        self.text("url", &a.url, &b.url);
        self.pairs("headers", &a.headers, &b.headers);
        self.bytes("body", body(&a.body), body(&b.body));
        if a.timeout_ms != b.timeout_ms {
            self.add("timeout", format!("stable {} ms, candidate {} ms", a.timeout_ms, b.timeout_ms));
        }
    }

    /// Both answers, or that one or both are none.
    fn answered<'a, T>(
        &mut self,
        stable: &'a Result<T, PluginFault>,
        candidate: &'a Result<T, PluginFault>,
    ) -> Option<(&'a T, &'a T)> {
        let word = |answer: &Result<T, PluginFault>| answer.as_ref().err().map_or("an answer", PluginFault::code);
        match (stable, candidate) {
            (Ok(a), Ok(b)) => return Some((a, b)),
            (Err(a), Err(b)) if a.code() == b.code() => {}
            _ => self.add("error", format!("stable {}, candidate {}", word(stable), word(candidate))),
        }
        None
    }

    fn optional(&mut self, field: &str, a: Option<&str>, b: Option<&str>) {
        match (a, b) {
            (None, None) => {}
            (Some(a), Some(b)) => self.text(field, a, b),
            (Some(a), None) => self.add(field, format!("stable has {} bytes, candidate none", a.len())),
            (None, Some(b)) => self.add(field, format!("stable has none, candidate {} bytes", b.len())),
        }
    }

    fn pairs(&mut self, field: &str, a: &[(String, String)], b: &[(String, String)]) {
        if a.len() != b.len() {
            self.add(field, format!("stable has {}, candidate {}", a.len(), b.len()));
            return;
        }
        for (n, ((name, value), (other_name, other))) in a.iter().zip(b).enumerate() {
            self.text(&format!("{field}[{n}].name"), name, other_name);
            self.text(&format!("{field}[{n}]"), value, other);
        }
    }

    fn text(&mut self, field: &str, a: &str, b: &str) {
        self.bytes(field, a.as_bytes(), b.as_bytes());
    }

    fn bytes(&mut self, field: &str, a: &[u8], b: &[u8]) {
        if a == b {
            return;
        }
        let part = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or_else(|| a.len().min(b.len()));
        let (Secrecy::Masked(key) | Secrecy::Excerpts(key)) = self.secrecy;
        let digest = |bytes: &[u8]| {
            let digest = Sha256::new().chain_update(key).chain_update(bytes).finalize();
            digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let mut detail = format!(
            "stable {} bytes ({}), candidate {} bytes ({}), parting after {part}",
            a.len(),
            digest(a),
            b.len(),
            digest(b)
        );
        if let Secrecy::Excerpts(_) = self.secrecy {
            detail.push_str(&format!(": {:?} and {:?}", excerpt(a, part), excerpt(b, part)));
        }
        self.add(field, detail);
    }

    fn add(&mut self, field: impl Into<String>, detail: impl Display) {
        if self.found.len() < MAX_FOUND {
            self.found.push((field.into(), detail.to_string()));
        }
    }
}

fn excerpt(bytes: &[u8], part: usize) -> String {
    let end = bytes.len().min(part + AROUND);
    let shown = bytes.get(part.saturating_sub(AROUND)..end).unwrap_or_default();
    String::from_utf8_lossy(shown).into_owned()
}

fn body(body: &PluginBody) -> &[u8] {
    match body {
        PluginBody::Empty => &[],
        PluginBody::Text(text) => text.as_bytes(),
        PluginBody::Bytes(bytes) => bytes,
    }
}

/// An outcome's kind; its texts may quote a provider.
fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted(_) => "accepted",
        Outcome::Delivered(_) => "delivered",
        Outcome::RetryAfter(_) => "retry-after",
        Outcome::Transient(_) => "transient",
        Outcome::RecipientPermanent(_) => "recipient-permanent",
        Outcome::OptedOut(_) => "opted-out",
        Outcome::ContentRejected(_) => "content-rejected",
        Outcome::DeviceDown(_) => "device-down",
        Outcome::AccountBlocked(_) => "account-blocked",
        Outcome::Unknown(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::Round;

    const KEY: [u8; 16] = [7; 16];

    fn content(text: &str) -> Result<Content, PluginFault> {
        Ok(Content { text: text.to_owned(), subject: None, media: Vec::new(), attributes: Vec::new() })
    }

    fn found(secrecy: Secrecy, compare: impl FnOnce(&mut Differences)) -> Vec<(String, String)> {
        let mut differences = Differences::new(secrecy);
        compare(&mut differences);
        differences.found()
    }

    #[test]
    fn texts_are_told_apart_without_being_quoted() {
        let (a, b) = (content("Dear Ada, call +15551234567"), content("Dear Ada, phone +15551234567"));
        assert_eq!(found(Secrecy::Masked(KEY), |d| d.contents(&a, &a)), []);
        let masked = found(Secrecy::Masked(KEY), |d| d.contents(&a, &b));
        assert_eq!(masked.len(), 1);
        let (field, detail) = &masked[0];
        assert_eq!(field, "text");
        assert!(detail.starts_with("stable 27 bytes (") && detail.ends_with("parting after 10"), "{detail}");
        assert!(!detail.contains("Ada") && !detail.contains("555"), "{detail}");
        let shown = found(Secrecy::Excerpts(KEY), |d| d.contents(&a, &b));
        assert!(shown[0].1.contains("phone"), "{shown:?}");
        assert_ne!(masked, found(Secrecy::Masked([8; 16]), |d| d.contents(&a, &b)), "another key, other digests");
    }

    #[test]
    fn errors_are_compared_by_their_codes() {
        let fault = || Err(PluginFault::InvalidInput("no name".into()));
        let other: Result<Content, _> = Err(PluginFault::InvalidInput("name is missing".into()));
        assert_eq!(found(Secrecy::Masked(KEY), |d| d.contents(&fault(), &other)), []);
        let differ = found(Secrecy::Masked(KEY), |d| d.contents(&fault(), &content("x")));
        assert_eq!(differ, [("error".to_owned(), "stable invalid-input, candidate an answer".to_owned())]);
    }

    #[test]
    fn delays_have_a_tolerance() {
        let delay = |delay_ms| Ok(NextDelay { delay_ms, state: String::new() });
        assert_eq!(found(Secrecy::Masked(KEY), |d| d.delays(&delay(100.0), &delay(105.0), 5.0)), []);
        let differ = found(Secrecy::Masked(KEY), |d| d.delays(&delay(100.0), &delay(105.5), 5.0));
        assert_eq!(differ, [("delay".to_owned(), "stable 100 ms, candidate 105.5 ms".to_owned())]);
    }

    #[test]
    fn requests_are_compared_in_all_their_parts() {
        let request = |url: &str, body: &str| HttpRequest {
            method: "POST".into(),
            url: url.into(),
            headers: vec![("x-to".into(), body.into())],
            body: PluginBody::Text(body.into()),
            timeout_ms: 1.0,
        };
        let start = |request| {
            Ok(Progress { step: Step::Request(Round { request, state: String::new() }), account_state: None })
        };
        let (a, b) = (start(request("http://a/", "+1")), start(request("http://b/", "+1555")));
        let fields: Vec<_> =
            found(Secrecy::Masked(KEY), |d| d.starts(&a, &b)).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["url", "headers[0]", "body"]);
    }
}

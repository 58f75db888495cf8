//! What a provider's webhook says, from a request to its effects: the signature, the plugin that reads it, and what its events
//! change. Everything is safe to repeat, because providers repeat what was not answered.

use std::collections::BTreeSet;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::clock::Time;
use crate::consent::NewSuppression;
use crate::core::Core;
use crate::message::Reason;
use crate::operations::OpError;
use crate::operations::suppressions::{self, address_problem};
use crate::plugins::{CallContext, Event, EventKind, HttpArrival, HttpResponse, Parsed, PluginBody, PluginFault};
use crate::receipt::{AddressKey, News, ReceiptKey, ReceiptState, Signature, Webhook, opts_out, spellings};
use crate::store::StoreError;

/// Reports of messages that are not known which are kept at most, over all webhooks.
pub const EARLY: u32 = 10_000;
/// How far a signed time may be from ours, in milliseconds.
const SIGNED_WITHIN_MS: i64 = 5 * 60 * 1000;
/// Messages to one address that are looked at for the ways in which audiences write it.
const SPELLINGS: u32 = 200;
/// People whose opting out is written at once.
const OPT_OUTS: usize = 500;

/// A request to a webhook.
#[derive(Clone)]
pub struct Arrival {
    /// The method.
    pub method: String,
    /// The path after the webhook's own.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// In the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

/// Why a request came to nothing. No text in it comes from the request.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not signed, or not as it should be.
    #[error("the signature is missing or wrong")]
    Signature,
    /// The server cannot check or read it now.
    #[error("{0}")]
    NotReady(String),
    /// The plugin cannot make anything of it.
    #[error(transparent)]
    Fault(#[from] PluginFault),
    /// Its effects could not be written.
    #[error("the store is unavailable")]
    Store(#[from] StoreError),
    /// Somebody's opting out could not be written.
    #[error("an opt-out could not be written")]
    OptOut(#[source] OpError),
}

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It comes from the provider.
    Full,
    /// It is answered, and what it reports does not count.
    AnswerOnly,
}

fn header<'a>(arrival: &'a Arrival, name: &str) -> Option<&'a str> {
    // One that comes twice says nothing certain.
    let mut found =
        arrival.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    found.next().filter(|_| found.next().is_none())
}

/// Whether a header holds the HMAC-SHA256 of these parts, after `prefix`.
fn signs(given: Option<&str>, prefix: &str, secret: &str, parts: &[&[u8]]) -> bool {
    let Some(given) = given.and_then(|value| hex::decode(value.trim().strip_prefix(prefix)?).ok()) else {
        return false;
    };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
    for part in parts {
        mac.update(part);
    }
    mac.verify_slice(&given).is_ok()
}

fn is_token(given: Option<&str>, secret: &str) -> bool {
    // Hashed, so that not even the length is told by the time that it takes.
    let hash = |text: &str| crate::id::Digest::of(text.as_bytes()).0;
    given.is_some_and(|given| bool::from(hash(given).ct_eq(&hash(secret))))
}

fn check(signature: &Signature, secret: &str, arrival: &Arrival, now: Time) -> Option<Trust> {
    let of = |name| header(arrival, name);
    let is_signed = match signature {
        Signature::Whatsapp { .. } => {
            if arrival.method == "GET" && of("x-hub-signature-256").is_none() {
                return Some(Trust::AnswerOnly);
            }
            signs(of("x-hub-signature-256"), "sha256=", secret, &[&arrival.body])
        }
        Signature::Telegram { .. } => is_token(of("x-telegram-bot-api-secret-token"), secret),
        Signature::SmsGateway { .. } => {
            let timestamp = of("x-timestamp")?;
            let seconds: i64 = timestamp.trim().parse().ok()?;
            let is_fresh = seconds.checked_mul(1000)?.checked_sub(now.as_ms())?.checked_abs()? <= SIGNED_WITHIN_MS;
            signs(of("x-signature"), "", secret, &[&arrival.body, timestamp.as_bytes()]) && is_fresh
        }
        Signature::HmacSha256 { header, prefix, .. } => signs(of(header), prefix, secret, &[&arrival.body]),
        Signature::Token { header, .. } => is_token(of(header), secret),
    };
    is_signed.then_some(Trust::Full)
}

/// Takes a request in; returns what the provider wants to hear. When that is answered, everything that the request reports is
/// written.
///
/// # Errors
/// Why it came to nothing; what was written before stays, and a repetition does no harm.
pub async fn receive(core: &Core, webhook: &Webhook, arrival: Arrival) -> Result<HttpResponse, Refused> {
    let now = core.clock.now();
    let trust = match &webhook.spec.signature {
        None => Trust::Full,
        Some(signature) => {
            let name = signature.secret();
            let secret = core.egress.secret_value(name).ok_or_else(|| {
                Refused::NotReady(format!("this server has no secret {name} to check signatures with"))
            })?;
            check(signature, &secret, &arrival, now).ok_or(Refused::Signature)?
        }
    };
    let plugin =
        core.plugins.resolve(&webhook.plugin, None).filter(|plugin| plugin.reads_receipts()).ok_or_else(|| {
            Refused::NotReady(format!(
                "plugin {} is not loaded, or its active version reads no webhooks",
                webhook.plugin
            ))
        })?;
    let config = webhook.spec.config.to_string();
    let context = CallContext { config: config.as_str().into(), now, random: rand::random(), timer: None };
    let Arrival { method, path, query, headers, body } = arrival;
    let body = match String::from_utf8(body.into()) {
        Ok(text) if text.is_empty() => PluginBody::Empty,
        Ok(text) => PluginBody::Text(text),
        Err(error) => PluginBody::Bytes(error.into_bytes()),
    };
    let Parsed { events, response } =
        plugin.parse(&context, HttpArrival { method, path, query, headers, body }).await?;
    match trust {
        Trust::Full => apply(core, webhook, events, now).await?,
        Trust::AnswerOnly => core.metrics.received(&webhook.plugin, "dropped", events.len() as u64),
    }
    Ok(response)
}

/// Somebody who wants no more messages.
struct Leaver {
    key: Option<ReceiptKey>,
    address: String,
    reason: &'static str,
}

/// Carries out what events say.
async fn apply(core: &Core, webhook: &Webhook, events: Vec<Event>, now: Time) -> Result<(), Refused> {
    let plugin = webhook.plugin.as_str();
    let (mut news, mut leavers) = (Vec::new(), Vec::new());
    let (mut replies, mut dropped) = (0, 0);
    for event in events {
        let Event { provider_id, address, at, kind, .. } = event;
        let key = (!provider_id.is_empty()).then(|| ReceiptKey::new(plugin, &provider_id));
        let (state, reason) = match kind {
            EventKind::Delivered => (ReceiptState::Delivered, None),
            EventKind::Read => (ReceiptState::Read, None),
            EventKind::Failed(failure) => (ReceiptState::Failed, Some(Reason::new(failure.code, failure.detail))),
            EventKind::Reply(text) => {
                // The text is looked at here and kept nowhere.
                replies += 1;
                if opts_out(&core.config.opt_out_words, &text) {
                    leavers.push(Leaver { key, address, reason: "opt-out-reply" });
                }
                continue;
            }
            EventKind::OptedOut => {
                leavers.push(Leaver { key, address, reason: "opted-out" });
                continue;
            }
        };
        match key {
            Some(key) => news.push(News { key, state, at: time_of(at, now), reason }),
            None => dropped += 1,
        }
    }
    core.metrics.received(plugin, "reply", replies);
    // Who wants no more comes first: should the rest fail, that is done.
    for some in leavers.chunks(OPT_OUTS) {
        let added = opt_out(core, webhook, some).await?;
        core.metrics.received(plugin, "opted_out", added.into());
    }
    let noted = core.store.note_receipts(&news, EARLY, now).await?;
    note(core, plugin, &noted, dropped);
    Ok(())
}

/// Counts what became of reports.
fn note(core: &Core, plugin: &str, noted: &crate::receipt::Noted, dropped: u64) {
    let changed = &noted.changed;
    for (kind, count) in [
        ("delivered", u64::try_from(changed.delivered).unwrap_or(0)),
        ("read", u64::try_from(changed.read).unwrap_or(0)),
        ("failed", u64::try_from(changed.failed).unwrap_or(0)),
        ("repeated", noted.repeated),
        ("early", noted.early),
        ("dropped", noted.dropped + dropped),
    ] {
        core.metrics.received(plugin, kind, count);
    }
}

/// When something happened that a provider reports; one that says nothing of use reports what happens now.
#[allow(clippy::cast_possible_truncation)] // Its range is checked.
fn time_of(at: f64, now: Time) -> Time {
    let at = if (1.0..1e15).contains(&at) { Time::from_ms(at as i64) } else { now };
    at.min(now)
}

async fn opt_out(core: &Core, webhook: &Webhook, leavers: &[Leaver]) -> Result<u32, Refused> {
    let mut addresses: BTreeSet<(String, &'static str)> = BTreeSet::new();
    for leaver in leavers {
        addresses.extend(spellings(&leaver.address).into_iter().map(|address| (address, leaver.reason)));
    }
    // And as those audiences write it that were sent to.
    for reason in ["opt-out-reply", "opted-out"] {
        let of_reason = || leavers.iter().filter(move |leaver| leaver.reason == reason);
        let keys: Vec<ReceiptKey> = of_reason().filter_map(|leaver| leaver.key).collect();
        let named = of_reason().filter(|leaver| !leaver.address.trim().is_empty());
        let named: Vec<AddressKey> = named.map(|leaver| AddressKey::new(&webhook.plugin, &leaver.address)).collect();
        if !keys.is_empty() || !named.is_empty() {
            let found = core.store.addresses_of_receipts(&keys, &named, SPELLINGS).await?;
            addresses.extend(found.into_iter().map(|address| (address, reason)));
        }
    }
    let channel = &webhook.spec.channel;
    let entries: Vec<NewSuppression> = addresses
        .into_iter()
        .filter(|(address, _)| address_problem(address).is_none())
        .map(|(address, reason)| NewSuppression { address, channel: channel.clone(), reason: reason.to_owned() })
        .collect();
    if entries.is_empty() {
        return Ok(0);
    }
    suppressions::opt_out(core, &webhook.plugin, &entries).await.map_err(Refused::OptOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_ms(1_800_000_000_000);

    fn arrival(method: &str, headers: &[(&str, &str)], body: &'static str) -> Arrival {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Arrival { method: method.into(), path: String::new(), query: String::new(), headers, body: body.into() }
    }

    /// Of RFC 4231, test case 2.
    const KEY: &str = "Jefe";
    const BODY: &str = "what do ya want for nothing?";
    const MAC: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    #[test]
    fn a_signature_holds_for_its_body_and_secret_only() {
        let scheme = Signature::HmacSha256 { secret: "S".into(), header: "X-Sign".into(), prefix: "v1=".into() };
        let of = |header: &str, value: &str, secret: &str, body: &'static str| {
            check(&scheme, secret, &arrival("POST", &[(header, value)], body), NOW)
        };
        let good = format!("v1={MAC}");
        assert_eq!(of("x-sign", &good, KEY, BODY), Some(Trust::Full));
        for (header, value, secret, body) in [
            ("x-sign", good.as_str(), "jefe", BODY),
            ("x-sign", good.as_str(), KEY, "what do ya want for nothing"),
            ("x-sign", MAC, KEY, BODY),
            ("x-sign", "v1=", KEY, BODY),
            ("x-sign", "v1=5b", KEY, BODY),
            ("x-sign", "v1=zz", KEY, BODY),
            ("x-other", good.as_str(), KEY, BODY),
        ] {
            assert_eq!(of(header, value, secret, body), None, "{header} {value} {secret}");
        }
        let twice = [("x-sign", good.as_str()), ("x-sign", good.as_str())];
        assert_eq!(check(&scheme, KEY, &arrival("POST", &twice, BODY), NOW), None);
    }

    #[test]
    fn each_provider_signs_in_its_own_way() {
        let whatsapp = Signature::Whatsapp { secret: "S".into() };
        let signed = format!("sha256={MAC}");
        let with = |headers: &[(&str, &str)], method| check(&whatsapp, KEY, &arrival(method, headers, BODY), NOW);
        assert_eq!(with(&[("x-hub-signature-256", &signed)], "POST"), Some(Trust::Full));
        assert_eq!(with(&[], "POST"), None);
        assert_eq!(with(&[], "GET"), Some(Trust::AnswerOnly));
        assert_eq!(with(&[("x-hub-signature-256", "sha256=00")], "GET"), None);

        let telegram = Signature::Telegram { secret: "S".into() };
        let with =
            |value| check(&telegram, "t0ken", &arrival("POST", &[("x-telegram-bot-api-secret-token", value)], ""), NOW);
        assert_eq!((with("t0ken"), with("t0ke"), with("")), (Some(Trust::Full), None, None));

        let gateway = Signature::SmsGateway { secret: "S".into() };
        let at = |seconds: i64| {
            let timestamp = (NOW.as_ms() / 1000 + seconds).to_string();
            let mut mac = Hmac::<Sha256>::new_from_slice(b"k").unwrap();
            mac.update(format!("body{timestamp}").as_bytes());
            let signature = hex::encode(mac.finalize().into_bytes());
            check(
                &gateway,
                "k",
                &arrival("POST", &[("x-signature", &signature), ("x-timestamp", &timestamp)], "body"),
                NOW,
            )
        };
        assert_eq!((at(0), at(-299), at(300)), (Some(Trust::Full), Some(Trust::Full), Some(Trust::Full)));
        assert_eq!((at(-301), at(301)), (None, None), "what is old may have been heard before");
        let nonsense = [("x-signature", MAC), ("x-timestamp", "9223372036854775807")];
        assert_eq!(check(&gateway, "k", &arrival("POST", &nonsense, "body"), NOW), None);
    }

    #[test]
    fn a_time_of_use_is_not_in_the_future() {
        assert_eq!(time_of(1_700_000_000_000.0, NOW), Time::from_ms(1_700_000_000_000));
        for nonsense in [0.0, -5.0, 1e300, 1_900_000_000_000.0] {
            assert_eq!(time_of(nonsense, NOW), NOW, "{nonsense}");
        }
    }
}

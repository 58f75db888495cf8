//! Receipts: what providers report of messages after they took them, and what follows from it. No I/O.
//!
//! A message's own state does not change with a receipt: what is here is kept beside it. Reports come again, out of order and
//! sometimes before the end of their message is written, so each is a step up or nothing: none, failed, delivered, read.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::BadField;
use crate::clock::Time;
use crate::device::is_word;
use crate::id::{Digest, WebhookId};
use crate::message::Reason;

/// How far a message is known to have come after its provider took it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// Nothing was reported yet.
    #[default]
    Awaited,
    /// It did not arrive after all.
    Failed,
    /// It arrived.
    Delivered,
    /// It was read.
    Read,
}

impl ReceiptState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Awaited => "awaited",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }

    /// The code in SQL.
    pub const fn code(self) -> i16 {
        match self {
            Self::Awaited => 0,
            Self::Failed => 1,
            Self::Delivered => 2,
            Self::Read => 3,
        }
    }

    /// The state that a code in SQL stands for.
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            0 => Self::Awaited,
            1 => Self::Failed,
            2 => Self::Delivered,
            3 => Self::Read,
            _ => return None,
        })
    }
}

/// What a message is found by when its provider reports: half a hash of the sender's name and the provider's id. Of ten million
/// messages two share one with a probability of three in a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptKey(pub i64);

impl ReceiptKey {
    /// The key of a provider's id.
    pub fn new(plugin: &str, provider_id: &str) -> Self {
        Self(half_hash("id", plugin, provider_id))
    }
}

/// What an address is found by that a provider writes in another way than the audience: half a hash of the sender's name and the
/// address in one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey(pub i64);

impl AddressKey {
    /// The key of an address.
    pub fn new(plugin: &str, address: &str) -> Self {
        match digits(address) {
            Some(number) => Self(half_hash("number", plugin, &number)),
            None => Self(half_hash("address", plugin, &address.trim().to_lowercase())),
        }
    }
}

fn half_hash(of: &str, plugin: &str, text: &str) -> i64 {
    let Digest(hash) = Digest::of(format!("{of}\0{plugin}\0{text}").as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = hash;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The digits of what reads as an international phone number, however it is written.
fn digits(address: &str) -> Option<String> {
    let bare: String =
        address.trim().chars().filter(|c| !matches!(c, ' ' | '\u{a0}' | '-' | '.' | '(' | ')' | '/')).collect();
    let number = bare.strip_prefix('+').or_else(|| bare.strip_prefix("00")).unwrap_or(&bare);
    // No country's code begins with 0: that is a national number, which is the same only as it is written.
    let is_number =
        (6..=15).contains(&number.len()) && !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| number.to_owned())
}

/// The ways in which an address that a provider names may stand in an audience: as it is, and a phone number with its plus sign
/// and without.
pub fn spellings(address: &str) -> Vec<String> {
    let mut out = vec![address.trim().to_owned()];
    if let Some(number) = digits(address) {
        for spelling in [format!("+{number}"), number] {
            if !out.contains(&spelling) {
                out.push(spelling);
            }
        }
    }
    out
}

/// What is kept of a message so that its provider's reports find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// What it is found by.
    pub key: ReceiptKey,
    /// What its recipient's address is found by.
    pub address: AddressKey,
}

/// Something that a provider reports of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Which message.
    pub key: ReceiptKey,
    /// How far it has come; never [`ReceiptState::Awaited`].
    pub state: ReceiptState,
    /// When.
    pub at: Time,
    /// Why it failed.
    pub reason: Option<Reason>,
}

/// What is known of a message after its provider took it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Receipt {
    /// How far it has come.
    pub state: ReceiptState,
    /// When it arrived.
    pub delivered_at: Option<Time>,
    /// When it was read.
    pub read_at: Option<Time>,
    /// When it failed after all.
    pub failed_at: Option<Time>,
    /// Why it failed after all.
    pub reason: Option<Reason>,
}

impl Receipt {
    /// Takes a report in; whether it says anything new. What was read has arrived, and what has arrived has not failed, whatever
    /// was said before.
    pub fn hear(&mut self, news: &News) -> bool {
        if news.state <= self.state {
            return false;
        }
        self.state = news.state;
        match news.state {
            ReceiptState::Awaited => {}
            ReceiptState::Failed => {
                self.failed_at = Some(news.at);
                self.reason.clone_from(&news.reason);
            }
            ReceiptState::Delivered | ReceiptState::Read => {
                (self.failed_at, self.reason) = (None, None);
                self.delivered_at.get_or_insert(news.at);
                self.read_at = (news.state == ReceiptState::Read).then_some(news.at);
            }
        }
        true
    }
}

/// How many messages were reported as what. One that was read has been delivered, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptCounts {
    /// Those that arrived.
    pub delivered: u64,
    /// Of them, those that were read.
    pub read: u64,
    /// Those that did not arrive after all.
    pub failed: u64,
}

impl ReceiptCounts {
    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What changes in the counts of receipts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiptDelta {
    /// More that arrived.
    pub delivered: i64,
    /// More that were read.
    pub read: i64,
    /// More that failed, or fewer.
    pub failed: i64,
}

impl ReceiptDelta {
    /// Counts a message that went from one state to another.
    pub fn step(&mut self, from: ReceiptState, to: ReceiptState) {
        for (state, n) in [(from, -1), (to, 1)] {
            match state {
                ReceiptState::Awaited => {}
                ReceiptState::Failed => self.failed += n,
                ReceiptState::Delivered => self.delivered += n,
                ReceiptState::Read => {
                    self.delivered += n;
                    self.read += n;
                }
            }
        }
    }
}

/// What became of a provider's reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Noted {
    /// What changed in the counts.
    pub changed: ReceiptDelta,
    /// Reports that said what was known.
    pub repeated: u64,
    /// Reports of messages that are not known, kept for a while in case their end is being written.
    pub early: u64,
    /// Reports of messages that are not known, and for which there is no room.
    pub dropped: u64,
}

impl Noted {
    /// Adds what became of others.
    pub fn add(&mut self, other: &Self) {
        let Self { changed, repeated, early, dropped } = other;
        self.changed.delivered += changed.delivered;
        self.changed.read += changed.read;
        self.changed.failed += changed.failed;
        self.repeated += repeated;
        self.early += early;
        self.dropped += dropped;
    }
}

/// How a webhook's requests are signed. The secrets are named, as senders' are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "scheme", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Signature {
    /// As Meta signs: `X-Hub-Signature-256` is `sha256=` and the HMAC-SHA256 of the body in hex, with the app's secret. GET requests
    /// come unsigned and are answered; what they report does not count.
    Whatsapp {
        /// The name of the secret.
        secret: String,
    },
    /// As Telegram does: `X-Telegram-Bot-Api-Secret-Token` is the secret itself.
    Telegram {
        /// The name of the secret.
        secret: String,
    },
    /// As SMS Gateway for Android signs: `X-Signature` is the HMAC-SHA256, in hex, of the body followed by what `X-Timestamp` says,
    /// Unix seconds of at most five minutes ago.
    SmsGateway {
        /// The name of the secret.
        secret: String,
    },
    /// A header holds the HMAC-SHA256 of the body in hex.
    HmacSha256 {
        /// The name of the secret.
        secret: String,
        /// The header.
        header: String,
        /// What stands before the hex digits.
        #[serde(default)]
        prefix: String,
    },
    /// A header holds the secret itself.
    Token {
        /// The name of the secret.
        secret: String,
        /// The header.
        header: String,
    },
}

impl Signature {
    /// Its name, as in JSON.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Whatsapp { .. } => "whatsapp",
            Self::Telegram { .. } => "telegram",
            Self::SmsGateway { .. } => "sms-gateway",
            Self::HmacSha256 { .. } => "hmac-sha256",
            Self::Token { .. } => "token",
        }
    }

    /// The name of the secret.
    pub fn secret(&self) -> &str {
        match self {
            Self::Whatsapp { secret }
            | Self::Telegram { secret }
            | Self::SmsGateway { secret }
            | Self::HmacSha256 { secret, .. }
            | Self::Token { secret, .. } => secret,
        }
    }
}

/// What a webhook is asked to be: the body of `POST /api/v1/plugins/{name}/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 200)]
    pub name: String,
    /// The channel for which somebody opts out who does so here; every channel when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub channel: Option<String>,
    /// How its requests are signed; when absent, who knows its address is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// What the plugin is called with, checked against its `config-schema`.
    #[serde(default = "empty")]
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
}

fn empty() -> serde_json::Value {
    serde_json::json!({})
}

/// The largest configuration of a webhook, in bytes.
const MAX_CONFIG: usize = 16 << 10;

impl WebhookSpec {
    /// Adds every problem that can be seen without looking anything up.
    pub fn problems(&self, out: &mut Vec<BadField>) {
        if self.name.len() > 200 || self.name.chars().any(char::is_control) {
            out.push(BadField::new("name", "give at most 200 bytes without control characters"));
        }
        if self.channel.as_deref().is_some_and(|channel| !is_word(channel)) {
            let problem = "give 1 to 64 letters, digits, - or _, or leave it out for every channel";
            out.push(BadField::new("channel", problem));
        }
        if !self.config.is_object() {
            out.push(BadField::new("config", "give a JSON object"));
        } else if self.config.to_string().len() > MAX_CONFIG {
            out.push(BadField::new("config", format!("give at most {MAX_CONFIG} bytes")));
        }
        if let Some(Signature::HmacSha256 { header, .. } | Signature::Token { header, .. }) = &self.signature {
            let is_name = (1..=64).contains(&header.len())
                && header.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            if !is_name {
                out.push(BadField::new("signature.header", "give 1 to 64 letters, digits, - and _"));
            }
        }
        if let Some(Signature::HmacSha256 { prefix, .. }) = &self.signature
            && prefix.len() > 64
        {
            out.push(BadField::new("signature.prefix", "give at most 64 bytes"));
        }
    }
}

/// An address at which a provider reports to a plugin, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// The plugin that reads its requests.
    pub plugin: String,
    /// What it is.
    pub spec: WebhookSpec,
    /// When it was made.
    pub created_at: Time,
}

/// The words that opt out when they are all that a reply says: those that carriers and the law of the United States ask for, and
/// their usual Spanish and Portuguese counterparts.
pub const OPT_OUT_WORDS: &str = "STOP,STOPALL,UNSUBSCRIBE,CANCEL,END,QUIT,REVOKE,OPT OUT,OPTOUT,\
    ALTO,BAJA,PARAR,CANCELAR,DETENER,SALIR,NO MAS,NO MÁS,PARE,SAIR,REMOVER,DESCADASTRAR";

/// Whether a reply is one of the words and nothing else but spaces and punctuation around it, in whatever case.
pub fn opts_out(words: &[String], reply: &str) -> bool {
    // Far longer than any word: such a reply need not be looked at.
    if reply.len() > 1_000 {
        return false;
    }
    let bare = |text: &str| {
        let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation() || c == '¡');
        text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
    };
    let said = bare(reply);
    !said.is_empty() && words.iter().any(|word| bare(word) == said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(state: ReceiptState, at: i64) -> News {
        let reason = (state == ReceiptState::Failed).then(|| Reason::new("x", "y"));
        News { key: ReceiptKey(1), state, at: Time::from_ms(at), reason }
    }

    #[test]
    fn in_whatever_order_and_how_often_reports_come_the_end_is_the_same() {
        use ReceiptState::{Awaited, Delivered, Failed, Read};
        for order in
            [[Failed, Delivered, Read], [Read, Delivered, Failed], [Delivered, Failed, Read], [Read, Read, Failed]]
        {
            let (mut receipt, mut counts) = (Receipt::default(), ReceiptDelta::default());
            for (n, state) in (1..).zip(order).chain((10..).zip(order)) {
                let before = receipt.state;
                assert_eq!(receipt.hear(&news(state, n)), receipt.state != before);
                counts.step(before, receipt.state);
            }
            assert_eq!((receipt.state, receipt.failed_at, &receipt.reason), (Read, None, &None), "{order:?}");
            assert!(receipt.delivered_at.is_some() && receipt.read_at.is_some());
            assert_eq!(counts, ReceiptDelta { delivered: 1, read: 1, failed: 0 });
        }
        let mut receipt = Receipt::default();
        assert!(receipt.hear(&news(Failed, 1)) && !receipt.hear(&news(Failed, 2)) && !receipt.hear(&news(Awaited, 3)));
        assert_eq!((receipt.failed_at, receipt.reason.is_some()), (Some(Time::from_ms(1)), true));
        for code in 0..4 {
            assert_eq!(ReceiptState::from_code(code).map(ReceiptState::code), Some(code));
        }
        assert_eq!(ReceiptState::from_code(4), None);
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let key = |address| AddressKey::new("sms", address);
        for same in ["15550101", "+1 555 0101", "+1 (555) 01-01", "0015550101", " 1.555.0101 "] {
            assert_eq!(key(same), key("+15550101"), "{same}");
        }
        assert_ne!(key("0171 1234567"), key("01711234567"));
        assert_eq!(key("Ada@Example.org"), key("ada@example.org "));
        assert_ne!(key("+15550101"), key("+15550102"));
        assert_ne!(key("+15550101"), AddressKey::new("whatsapp", "+15550101"));
        assert_eq!(spellings("15550101"), ["15550101", "+15550101"]);
        assert_eq!(spellings("+1 555 0101"), ["+1 555 0101", "+15550101", "15550101"]);
        assert_eq!(spellings("@channel"), ["@channel"]);
    }

    #[test]
    fn a_reply_that_is_nothing_but_the_word_opts_out() {
        let words: Vec<String> = OPT_OUT_WORDS.split(',').map(ToOwned::to_owned).collect();
        for stop in
            ["STOP", " stop\n", "Stop.", "/stop", "¡Alto!", "no  más", "Opt out", "\"PARAR\"", "SAIR", "unsubscribe"]
        {
            assert!(opts_out(&words, stop), "{stop:?}");
        }
        for goes_on in ["", "!", "do not stop", "stopped", "STOP it", "weekend", &"stop ".repeat(1000)] {
            assert!(!opts_out(&words, goes_on), "{goes_on:?}");
        }
        assert!(!opts_out(&[], "STOP") && !opts_out(&[String::new()], ""));
    }
}

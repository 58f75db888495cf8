//! A call of a plugin as data: JSON that says what a plugin is called with, and may say what it must answer. The same shape is
//! tried against a server's version, run and tested on the command line, and kept of calls that failed.
//!
//! Everything may be left out; what is absent is an invented message, so that `{}` is a case for any plugin that needs no
//! configuration.

pub mod expect;
pub mod keep;
mod mask;
pub mod run;
pub mod sample;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::campaign::BadField;
use crate::clock::Time;
use crate::device::LastOutcome;
use crate::exchange::MAX_ROUNDS;
use crate::json::{object, optional_object};
use crate::plugin::PluginKind;
use crate::plugins::{
    Answer, Attributes, CallContext, Content, DeviceFacts, HealthSubject, HttpArrival, HttpResponse, Media, MessageRef,
    Outbound, PaceFacts, PluginBody, RecipientFacts, RenderJob,
};

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// A delay strategy's `next-delay`.
    NextDelay,
    /// A template's `render`, of one message.
    Render,
    /// A template's `variables`.
    Variables,
    /// A sender's `start`, and `resume` with each answer.
    Send,
    /// A sender's `resume` alone: with `send_state` and the first answer, and on with those that follow.
    Resume,
    /// As `send`, of its `lookup`.
    Lookup,
    /// As `resume`, of its `lookup`.
    LookupResume,
    /// A sender's `parse`, of its `receipts`: with `request`.
    Parse,
    /// A sender's check of the device, of its `health`: `start`, and `resume` with each answer.
    Health,
    /// As `resume`, of its `health`.
    HealthResume,
}

impl Call {
    /// What a plugin of this kind is there for.
    pub const fn of(kind: PluginKind) -> Self {
        match kind {
            PluginKind::Delay => Self::NextDelay,
            PluginKind::Template => Self::Render,
            PluginKind::Sender => Self::Send,
        }
    }

    const fn kind(self) -> PluginKind {
        match self {
            Self::NextDelay => PluginKind::Delay,
            Self::Render | Self::Variables => PluginKind::Template,
            Self::Send
            | Self::Resume
            | Self::Lookup
            | Self::LookupResume
            | Self::Parse
            | Self::Health
            | Self::HealthResume => PluginKind::Sender,
        }
    }

    const fn resumes(self) -> bool {
        matches!(self, Self::Resume | Self::LookupResume | Self::HealthResume)
    }
}

/// A call of a plugin as data.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Case {
    /// What it shows, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What is called; by default what a plugin of its kind is there for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
    /// The configuration, as the campaign's text.
    #[schema(value_type = Object)]
    pub config: Box<RawValue>,
    /// The time of the call.
    pub now: Time,
    /// The call's random number.
    pub random: u32,
    /// Which message. Not for delay strategies.
    #[serde(deserialize_with = "object")]
    pub message: MessageCase,
    /// To whom. Not for delay strategies.
    #[serde(deserialize_with = "object")]
    pub recipient: RecipientCase,
    /// The device that sends.
    #[serde(deserialize_with = "object")]
    pub device: DeviceCase,
    /// Templates: the message's own random number.
    pub job_random: u32,
    /// Delay strategies: facts about the device's pace.
    #[serde(deserialize_with = "object")]
    pub pace: PaceCase,
    /// Delay strategies: what the strategy kept for the device.
    pub state: String,
    /// Senders: what the message says.
    #[serde(deserialize_with = "object")]
    pub content: ContentCase,
    /// Senders: what the plugin kept for the device's account.
    pub account_state: String,
    /// Senders, for `resume`: what the plugin remembered until the answer came.
    pub send_state: String,
    /// Senders: what its requests are answered with, in their order; at most 8. When there are none left, the next request is
    /// shown and the case ends.
    pub answers: Vec<AnswerCase>,
    /// Senders, for `parse`: what the provider asks the webhook.
    #[serde(deserialize_with = "optional_object", skip_serializing_if = "Option::is_none")]
    pub request: Option<ArrivalCase>,
    /// Senders: make the requests for which there is no answer here, within the server's rules for what may leave it.
    pub send: bool,
    /// What the result must hold: each field named here must be the same there, in objects at any depth.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Value>,
}

/// 2027-01-15T08:00:00Z.
const SAMPLE_TIME: Time = Time::from_ms(1_800_000_000_000);

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_default()
}

impl Default for Case {
    fn default() -> Self {
        Self {
            about: None,
            call: None,
            config: raw("{}"),
            now: SAMPLE_TIME,
            random: 0,
            message: MessageCase::default(),
            recipient: RecipientCase::default(),
            device: DeviceCase::default(),
            job_random: 0,
            pace: PaceCase::default(),
            state: String::new(),
            content: ContentCase::default(),
            account_state: String::new(),
            send_state: String::new(),
            answers: Vec::new(),
            request: None,
            send: false,
            expect: None,
        }
    }
}

/// Which message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MessageCase {
    /// Its id: the idempotency key.
    pub id: String,
    /// The campaign or sequence.
    pub campaign: String,
    /// The sequence's step, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_step: Option<u32>,
    /// 1 for the first attempt.
    pub attempt: u32,
}

impl Default for MessageCase {
    fn default() -> Self {
        let (id, campaign) = ("1000000000000000001".to_owned(), "sample".to_owned());
        Self { id, campaign, sequence_step: None, attempt: 1 }
    }
}

/// To whom a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecipientCase {
    /// The address.
    pub address: String,
    /// BCP 47 language tag.
    pub locale: Option<String>,
    /// IANA time zone.
    pub zone: Option<String>,
    /// The audience's other columns: an object, or a list of pairs.
    #[serde(deserialize_with = "pairs")]
    #[schema(schema_with = pairs_schema)]
    pub variables: Attributes,
}

impl Default for RecipientCase {
    fn default() -> Self {
        Self {
            address: "+12025550101".to_owned(),
            locale: Some("en-US".to_owned()),
            zone: Some("America/New_York".to_owned()),
            variables: vec![("name".to_owned(), "Ada".to_owned()), ("city".to_owned(), "Washington".to_owned())],
        }
    }
}

/// The device that sends.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceCase {
    /// Its id.
    pub id: String,
    /// Its channel.
    pub channel: String,
    /// Its adapter settings.
    #[schema(value_type = Object)]
    pub adapter: Box<RawValue>,
    /// More about it: an object, or a list of pairs (`account`, and one `tag` for each tag).
    #[serde(deserialize_with = "pairs")]
    #[schema(schema_with = pairs_schema)]
    pub attributes: Attributes,
}

impl Default for DeviceCase {
    fn default() -> Self {
        Self { id: "dev-1".to_owned(), channel: "sms".to_owned(), adapter: raw("{}"), attributes: Vec::new() }
    }
}

/// Facts about a device's pace, as in `wit/plugin.wit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct PaceCase {
    pub minute_of_day: u32,
    pub sent_this_minute: u32,
    pub sent_this_hour: u32,
    pub sent_today: u32,
    pub age_days: u32,
    pub failures_in_a_row: u32,
    pub last_delay_ms: f64,
    /// `none`, `sent`, `retried`, `failed` or `throttled`.
    #[schema(value_type = String)]
    pub last_outcome: LastOutcome,
    pub backlog: u32,
    pub text_length: u32,
    #[serde(deserialize_with = "pairs")]
    #[schema(schema_with = pairs_schema)]
    pub attributes: Attributes,
}

impl Default for PaceCase {
    fn default() -> Self {
        Self {
            minute_of_day: 600,
            sent_this_minute: 3,
            sent_this_hour: 40,
            sent_today: 100,
            age_days: 30,
            failures_in_a_row: 0,
            last_delay_ms: 1000.0,
            last_outcome: LastOutcome::Sent,
            backlog: 50,
            text_length: 80,
            attributes: Vec::new(),
        }
    }
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContentCase {
    /// The text.
    pub text: String,
    /// A subject line or title.
    pub subject: Option<String>,
    /// Attachments.
    pub media: Vec<MediaCase>,
    /// More for the sender: an object, or a list of pairs.
    #[serde(deserialize_with = "pairs")]
    #[schema(schema_with = pairs_schema)]
    pub attributes: Attributes,
}

impl Default for ContentCase {
    fn default() -> Self {
        Self { text: "Hello Ada.".to_owned(), subject: None, media: Vec::new(), attributes: Vec::new() }
    }
}

/// Media by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MediaCase {
    /// A MIME type, or a word such as `image`.
    pub kind: String,
    /// Where it is.
    pub url: String,
}

/// What became of a request: exactly one of `response`, `not_sent` and `unanswered`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerCase {
    /// A whole answer.
    #[serde(deserialize_with = "optional_object", skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseCase>,
    /// Nothing reached the provider, for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_sent: Option<String>,
    /// The request left and no whole answer came, for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<String>,
    /// When the plugin is called with it; the case's time when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<Time>,
    /// That call's random number; the case's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random: Option<u32>,
}

/// What a provider answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseCase {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case: an object, or a list of pairs.
    #[serde(default, deserialize_with = "pairs", skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = pairs_schema)]
    pub headers: Attributes,
    /// The body, when it is text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// The body, when it is not; in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// A request that a provider makes to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArrivalCase {
    /// GET or POST, say.
    pub method: String,
    /// The path after the webhook's own.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// Names in lower case: an object, or a list of pairs.
    #[serde(deserialize_with = "pairs")]
    #[schema(schema_with = pairs_schema)]
    pub headers: Attributes,
    /// The body, when it is text.
    pub body: String,
    /// The body, when it is not; in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl Default for ArrivalCase {
    fn default() -> Self {
        Self {
            method: "POST".to_owned(),
            path: String::new(),
            query: String::new(),
            headers: Vec::new(),
            body: String::new(),
            body_base64: None,
        }
    }
}

impl ArrivalCase {
    /// What a plugin is called with.
    ///
    /// # Errors
    /// When the body is not what it says.
    pub fn arrival(&self) -> Result<HttpArrival, String> {
        let Self { method, path, query, headers, body, body_base64 } = self.clone();
        let body = body_of(&body, body_base64.as_deref())?;
        Ok(HttpArrival { method, path, query, headers, body })
    }
}

impl Case {
    /// What is called of a plugin of this kind.
    pub fn call(&self, kind: PluginKind) -> Call {
        self.call.unwrap_or(Call::of(kind))
    }

    /// Everything that cannot be: another kind's call, an answer that is none or several.
    pub fn problems(&self, kind: PluginKind) -> Vec<BadField> {
        let mut out = Vec::new();
        if self.call(kind).kind() != kind {
            let calls = match kind {
                PluginKind::Delay => "next-delay",
                PluginKind::Template => "render or variables",
                PluginKind::Sender => "send, resume, lookup, lookup-resume, parse, health or health-resume",
            };
            out.push(BadField::new("call", format!("the plugin is a {}: give {calls}", kind.as_str())));
        }
        if let Some(Err(problem)) = self.request.as_ref().map(ArrivalCase::arrival) {
            out.push(BadField::new("request", problem));
        }
        if self.call(kind).resumes() && self.answers.is_empty() {
            out.push(BadField::new("answers", "give the answer that it is called with"));
        }
        let most = usize::try_from(MAX_ROUNDS).unwrap_or(usize::MAX);
        if self.answers.len() > most {
            out.push(BadField::new("answers", format!("a sender makes at most {most} requests for a message")));
        }
        for (n, answer) in self.answers.iter().enumerate() {
            if let Err(problem) = answer.answer() {
                out.push(BadField::new(format!("answers[{n}]"), problem));
            }
        }
        out
    }

    /// What the first call may know besides its subject.
    pub fn context(&self) -> CallContext {
        CallContext { config: self.config.get().into(), now: self.now, random: self.random, timer: None }
    }

    /// What the call with an answer may know.
    pub fn context_of(&self, answer: &AnswerCase) -> CallContext {
        CallContext {
            config: self.config.get().into(),
            now: answer.now.unwrap_or(self.now),
            random: answer.random.unwrap_or(self.random),
            timer: None,
        }
    }

    fn device(&self) -> Arc<DeviceFacts> {
        Arc::new(DeviceFacts {
            id: self.device.id.clone(),
            channel: self.device.channel.clone(),
            adapter: self.device.adapter.get().to_owned(),
            attributes: self.device.attributes.clone(),
        })
    }

    fn message(&self) -> Arc<MessageRef> {
        Arc::new(MessageRef {
            id: self.message.id.clone(),
            campaign: self.message.campaign.as_str().into(),
            sequence_step: self.message.sequence_step,
            attempt: self.message.attempt,
        })
    }

    fn recipient(&self) -> Arc<RecipientFacts> {
        Arc::new(RecipientFacts {
            address: self.recipient.address.clone(),
            locale: self.recipient.locale.clone(),
            zone: self.recipient.zone.clone(),
            variables: self.recipient.variables.clone(),
        })
    }

    /// What a delay strategy is asked with.
    pub fn pace(&self) -> PaceFacts {
        let pace = &self.pace;
        PaceFacts {
            device: self.device(),
            minute_of_day: pace.minute_of_day,
            sent_this_minute: pace.sent_this_minute,
            sent_this_hour: pace.sent_this_hour,
            sent_today: pace.sent_today,
            age_days: pace.age_days,
            failures_in_a_row: pace.failures_in_a_row,
            last_delay_ms: pace.last_delay_ms,
            last_outcome: pace.last_outcome,
            backlog: pace.backlog,
            text_length: pace.text_length,
            attributes: pace.attributes.clone(),
        }
    }

    /// What a template is asked for.
    pub fn job(&self) -> RenderJob {
        RenderJob {
            message: self.message(),
            recipient: self.recipient(),
            device: self.device(),
            random: self.job_random,
        }
    }

    /// What a sender is given.
    pub fn outbound(&self) -> Outbound {
        Outbound {
            message: self.message(),
            recipient: self.recipient(),
            content: self.content.clone().into(),
            device: self.device(),
            account_state: self.account_state.clone(),
        }
    }

    /// What a sender is asked about.
    pub fn subject(&self) -> HealthSubject {
        HealthSubject { device: self.device(), account_state: self.account_state.clone() }
    }
}

impl From<ContentCase> for Content {
    fn from(content: ContentCase) -> Self {
        let media = content.media.into_iter().map(|media| Media { kind: media.kind, url: media.url });
        Self { text: content.text, subject: content.subject, media: media.collect(), attributes: content.attributes }
    }
}

impl From<Content> for ContentCase {
    fn from(content: Content) -> Self {
        let media = content.media.into_iter().map(|media| MediaCase { kind: media.kind, url: media.url });
        Self { text: content.text, subject: content.subject, media: media.collect(), attributes: content.attributes }
    }
}

/// A body that is given as text, or in base64.
fn body_of(text: &str, base64: Option<&str>) -> Result<PluginBody, String> {
    match (base64, text.is_empty()) {
        (None, true) => Ok(PluginBody::Empty),
        (None, false) => Ok(PluginBody::Text(text.to_owned())),
        (Some(_), false) => Err("give body or body_base64, not both".to_owned()),
        (Some(encoded), true) => {
            STANDARD.decode(encoded).map(PluginBody::Bytes).map_err(|e| format!("body_base64 is not base64: {e}"))
        }
    }
}

impl AnswerCase {
    /// What the plugin is told; an error says what is wrong with it.
    ///
    /// # Errors
    /// When it is no answer, or several.
    pub fn answer(&self) -> Result<Answer, String> {
        match (&self.response, &self.not_sent, &self.unanswered) {
            (Some(response), None, None) => {
                let body = body_of(&response.body, response.body_base64.as_deref())?;
                let status = u32::from(response.status);
                Ok(Answer::Response(HttpResponse { status, headers: response.headers.clone(), body }))
            }
            (None, Some(why), None) => Ok(Answer::NotSent(why.clone())),
            (None, None, Some(why)) => Ok(Answer::Unanswered(why.clone())),
            _ => Err("give exactly one of response, not_sent and unanswered".to_owned()),
        }
    }
}

impl From<&Answer> for AnswerCase {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::NotSent(why) => Self { not_sent: Some(why.clone()), ..Self::default() },
            Answer::Unanswered(why) => Self { unanswered: Some(why.clone()), ..Self::default() },
            Answer::Response(response) => {
                let (body, body_base64) = match &response.body {
                    PluginBody::Empty => (String::new(), None),
                    PluginBody::Text(text) => (text.clone(), None),
                    PluginBody::Bytes(bytes) => (String::new(), Some(STANDARD.encode(bytes))),
                };
                let status = u16::try_from(response.status).unwrap_or(u16::MAX);
                let response = ResponseCase { status, headers: response.headers.clone(), body, body_base64 };
                Self { response: Some(response), ..Self::default() }
            }
        }
    }
}

/// Reads pairs from an object, or from a list of pairs: a name may come more than once, and their order is the caller's.
fn pairs<'de, D: Deserializer<'de>>(d: D) -> Result<Attributes, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Attributes;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts, or a list of [name, text]")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
            let mut out = Vec::new();
            while let Some(pair) = map.next_entry()? {
                out.push(pair);
            }
            Ok(out)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Attributes, A::Error> {
            let mut out = Vec::new();
            while let Some(pair) = seq.next_element()? {
                out.push(pair);
            }
            Ok(out)
        }
    }
    d.deserialize_any(Pairs)
}

fn pairs_schema() -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let pair = ArrayBuilder::new().items(text()).min_items(Some(2)).max_items(Some(2));
    let either = OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(text())))
        .item(ArrayBuilder::new().items(pair))
        .build();
    RefOr::T(Schema::OneOf(either))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_case_and_a_case_comes_back_as_it_was() {
        let case: Case = serde_json::from_str("{}").unwrap();
        assert_eq!(case.context().config.as_ref(), "{}");
        let text = r#"{"call":"send","config":{"b": 1, "a":2},"now":"2026-12-01T09:00:00Z","random":7,
            "recipient":{"address":"+1","variables":{"name":"Ada"}},"device":{"attributes":[["tag","a"],["tag","b"]]},
            "answers":[{"response":{"status":200,"headers":{"retry-after":"1"},"body":"ok"},"random":8},{"not_sent":"x"}]}"#;
        let case: Case = serde_json::from_str(text).unwrap();
        assert_eq!(case.context().config.as_ref(), r#"{"b": 1, "a":2}"#, "the text, not only its meaning");
        assert_eq!((case.context_of(&case.answers[0]).random, case.context_of(&case.answers[1]).random), (8, 7));
        let again: Case = serde_json::from_str(&serde_json::to_string(&case).unwrap()).unwrap();
        assert_eq!(again.outbound(), case.outbound());
        assert_eq!((again.answers, again.now), (case.answers.clone(), case.now));
        assert_eq!(AnswerCase::from(&case.answers[1].answer().unwrap()).not_sent.as_deref(), Some("x"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let case: Case = serde_json::from_str(r#"{"call":"render","answers":[{}, {"not_sent":"x"}]}"#).unwrap();
        let fields: Vec<_> = case.problems(PluginKind::Sender).into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["call", "answers[0]"]);
        for bad in [r#"{"cfg":{}}"#, r#"{"recipient":{"variables":["x"]}}"#, r#"{"now":5}"#] {
            assert!(serde_json::from_str::<Case>(bad).is_err(), "{bad}");
        }
    }
}

//! Any HTTP API that takes one message per request, by configuration.

use std::sync::Arc;

use common::Cache;
use common::contract::checks::{self, Health};
use common::contract::health::{self, CheckProgress, Subject, Verdict};
use common::contract::sending::{Answer, Body, HttpRequest, Outbound, Outcome, Progress, Round, Step};
use common::contract::types::{Content, Context, Media, MessageRef, PluginError, Recipient};
use common::provider::{self, done, failure, progress};
use minijinja::value::{Object, Serde, Value};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::lookup::Guest as Lookup;
use crate::bindings::exports::carillon::plugin::sender::Guest as Sender;
use crate::config::Compiled;

mod answer;
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "device-sender-lookup",
        with: {
            "carillon:plugin/types@1.0.0": common::contract::types,
            "carillon:plugin/sending@1.0.0": common::contract::sending,
        },
    });
}
mod config;

thread_local! {
    static CONFIGS: Cache<Compiled> = const { Cache::new() };
}

struct Webhook;

impl Describe for Webhook {
    fn get() -> Info {
        Info {
            name: "webhook".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends through any HTTP API that takes one message per request.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: [("provider-deduplicates", "false"), ("lookup", "true"), ("health", "true")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        }
    }
}

impl Sender for Webhook {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        let config = &compiled.config;
        let message = Arc::new(Values(message));
        let values = Value::from_dyn_object(Arc::clone(&message));
        let message = &message.0;
        let url = compiled.url(&values)?;
        let mut headers = compiled.headers(&values)?;
        let body = match compiled.body(&values)? {
            Some(body) => Body::Text(body),
            None if config.method == "GET" => Body::Empty,
            None => Body::Text(default_body(message)?),
        };
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let typed = has("content-type") || matches!(body, Body::Empty);
        let keyed = config.idempotency_header.is_empty() || has(&config.idempotency_header);
        if !typed {
            headers.push(("Content-Type".into(), config.content_type.clone()));
        }
        if !keyed {
            headers.push((config.idempotency_header.clone(), message.message.id.clone()));
        }
        let request = HttpRequest { method: config.method.clone(), url, headers, body, timeout_ms: config.timeout_ms };
        Ok(progress(Step::Request(Round { request, state: String::new() })))
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        Ok(done(answer::outcome(&compiled.config, ctx.now, answer)))
    }
}

impl Lookup for Webhook {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        let Some(lookup) = &compiled.config.lookup else { return Ok(done(no_lookup())) };
        let values = Value::from_dyn_object(Arc::new(Values(message)));
        let request = HttpRequest {
            method: lookup.method.clone(),
            url: compiled.lookup_url(&values)?,
            headers: compiled.lookup_headers(&values)?,
            body: Body::Empty,
            timeout_ms: compiled.config.timeout_ms,
        };
        Ok(progress(Step::Request(Round { request, state: String::new() })))
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        Ok(done(match &compiled.config.lookup {
            Some(lookup) => answer::looked_up(&compiled.config, lookup, ctx.now, answer),
            None => no_lookup(),
        }))
    }
}

impl Health for Webhook {
    fn start(ctx: Context, subject: Subject) -> Result<CheckProgress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        let Some(check) = &compiled.config.health else { return Ok(health::done(no_check())) };
        let values = Value::from_dyn_object(Arc::new(Values(no_message(subject))));
        Ok(health::ask(HttpRequest {
            method: check.method.clone(),
            url: compiled.health_url(&values)?,
            headers: compiled.health_headers(&values)?,
            body: Body::Empty,
            timeout_ms: compiled.config.timeout_ms,
        }))
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<CheckProgress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        Ok(match &compiled.config.health {
            Some(check) => provider::checked(answer, ctx.now, |reply| answer::verdict(check, reply)),
            None => health::done(no_check()),
        })
    }
}

fn no_check() -> Verdict {
    Verdict::Unknown(failure("no-health", "the configuration does not say how to ask whether a device can send"))
}

/// What templates see where there is no message: of a message nothing but empty texts.
fn no_message(subject: Subject) -> Outbound {
    let Subject { device, account_state } = subject;
    let none = String::new;
    Outbound {
        message: MessageRef { id: none(), campaign: none(), sequence_step: None, attempt: 0 },
        recipient: Recipient { address: none(), locale: None, zone: None, variables: Vec::new() },
        content: Content { text: none(), subject: None, media: Vec::new(), attributes: Vec::new() },
        device,
        account_state,
    }
}

fn no_lookup() -> Outcome {
    Outcome::Unknown(failure("no-lookup", "the configuration does not say how to look a message up"))
}

/// What templates see. Values are made when they ask for them: most templates use a few.
#[derive(Debug)]
struct Values(Outbound);

impl Object for Values {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let Outbound { message, recipient, content, device, .. } = &self.0;
        let named = |attributes: &[(String, String)]| {
            Value::from_pairs(attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        };
        let optional = |text: &Option<String>| text.as_deref().map_or(Value::from(()), Value::from);
        let media = |media: &Media| Value::from_pairs([("kind", media.kind.as_str()), ("url", media.url.as_str())]);
        Some(match key.as_str()? {
            "id" => message.id.as_str().into(),
            "to" => recipient.address.as_str().into(),
            "text" => content.text.as_str().into(),
            "subject" => optional(&content.subject),
            "media" => content.media.iter().map(media).collect(),
            "attributes" => named(&content.attributes),
            "device" => device.id.as_str().into(),
            "channel" => device.channel.as_str().into(),
            "adapter" => Value::from(Serde(serde_json::from_str::<Json>(&device.adapter).ok()?)),
            "campaign" => message.campaign.as_str().into(),
            "step" => message.sequence_step.map_or(Value::from(()), Value::from),
            "attempt" => message.attempt.into(),
            "locale" => optional(&recipient.locale),
            "vars" => named(&recipient.variables),
            _ => return None,
        })
    }
}

/// The body when the configuration has no template of one.
#[derive(Serialize)]
struct DefaultBody<'a> {
    id: &'a str,
    to: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    media: Vec<Attachment<'a>>,
    device: &'a str,
    campaign: &'a str,
    attempt: u32,
    attributes: Map<String, Json>,
}

#[derive(Serialize)]
struct Attachment<'a> {
    kind: &'a str,
    url: &'a str,
}

fn default_body(message: &Outbound) -> Result<String, PluginError> {
    let Outbound { message, recipient, content, device, .. } = message;
    serde_json::to_string(&DefaultBody {
        id: &message.id,
        to: &recipient.address,
        text: &content.text,
        subject: content.subject.as_deref(),
        media: content.media.iter().map(|m| Attachment { kind: &m.kind, url: &m.url }).collect(),
        device: &device.id,
        campaign: &message.campaign,
        attempt: message.attempt,
        attributes: content.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect(),
    })
    .map_err(|e| PluginError::Internal(e.to_string()))
}

bindings::export!(Webhook with_types_in bindings);
checks::export!(Webhook with_types_in checks);

//! Any HTTP API that takes one message per request, by configuration.

use common::Cache;
use minijinja::value::{Serde, Value};
use serde_json::{Map, Value as Json};

use crate::bindings::carillon::plugin::sending::{Answer, Body, HttpRequest, Outbound, Progress, Round, Step};
use crate::bindings::carillon::plugin::types::{Context, PluginError};
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::sender::Guest as Sender;
use crate::config::Compiled;

mod answer;
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "device-sender" });
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
            capabilities: vec![("provider-deduplicates".into(), "false".into())],
        }
    }
}

impl Sender for Webhook {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        let config = &compiled.config;
        let values = values(&message)?;
        let url = compiled.url(&values)?;
        let mut headers = compiled.headers(&values)?;
        let body = match compiled.body(&values)? {
            Some(body) => Body::Text(body),
            None if config.method == "GET" => Body::Empty,
            None => Body::Text(default_body(&message)),
        };
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let typed = has("content-type") || matches!(body, Body::Empty);
        let keyed = config.idempotency_header.is_empty() || has(&config.idempotency_header);
        if !typed {
            headers.push(("Content-Type".into(), config.content_type.clone()));
        }
        if !keyed {
            headers.push((config.idempotency_header.clone(), message.message.id));
        }
        let request = HttpRequest { method: config.method.clone(), url, headers, body, timeout_ms: config.timeout_ms };
        Ok(Progress { step: Step::Request(Round { request, state: String::new() }), account_state: None })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let compiled = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        Ok(Progress { step: Step::Done(answer::outcome(&compiled.config, ctx.now, answer)), account_state: None })
    }
}

/// What templates can use.
fn values(message: &Outbound) -> Result<Value, PluginError> {
    let Outbound { message, recipient, content, device, .. } = message;
    let adapter: Json = serde_json::from_str(&device.adapter)
        .map_err(|_| PluginError::InvalidInput("the device's adapter settings are not JSON".into()))?;
    let named = |attributes: &[(String, String)]| {
        Value::from_pairs(attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    };
    let optional = |text: &Option<String>| text.as_deref().map_or(Value::from(()), Value::from);
    let media = content.media.iter().map(|media| {
        Value::from_pairs([("kind", Value::from(media.kind.as_str())), ("url", media.url.as_str().into())])
    });
    Ok(Value::from_pairs([
        ("id", Value::from(message.id.as_str())),
        ("to", recipient.address.as_str().into()),
        ("text", content.text.as_str().into()),
        ("subject", optional(&content.subject)),
        ("media", media.collect()),
        ("attributes", named(&content.attributes)),
        ("device", device.id.as_str().into()),
        ("channel", device.channel.as_str().into()),
        ("adapter", Value::from(Serde(adapter))),
        ("campaign", message.campaign.as_str().into()),
        ("step", message.sequence_step.map_or(Value::from(()), Value::from)),
        ("attempt", message.attempt.into()),
        ("locale", optional(&recipient.locale)),
        ("vars", named(&recipient.variables)),
    ]))
}

fn default_body(message: &Outbound) -> String {
    let Outbound { message, recipient, content, device, .. } = message;
    let attributes: Map<String, Json> =
        content.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let mut body = Map::new();
    let mut put = |name: &str, value: Json| body.insert(name.to_owned(), value);
    put("id", message.id.as_str().into());
    put("to", recipient.address.as_str().into());
    put("text", content.text.as_str().into());
    if let Some(subject) = &content.subject {
        put("subject", subject.as_str().into());
    }
    if !content.media.is_empty() {
        let media = content.media.iter().map(|m| serde_json::json!({ "kind": m.kind, "url": m.url })).collect();
        put("media", media);
    }
    put("device", device.id.as_str().into());
    put("campaign", message.campaign.as_str().into());
    put("attempt", message.attempt.into());
    put("attributes", attributes.into());
    Json::Object(body).to_string()
}

bindings::export!(Webhook with_types_in bindings);

//! The self-check of a plugin before it is stored: its functions are called with invented messages, so that one which crashes on
//! its first call is known before a campaign meets it.
//!
//! What it finds is a warning and no refusal, because the messages and the configuration are ours and not the author's: a plugin may
//! be right about real ones. But a version that fails it becomes active only when that is asked for.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::run::{FaultView, Ran, run};
use super::{AnswerCase, ArrivalCase, Call, Case, PaceCase, ResponseCase, raw};
use crate::device::LastOutcome;
use crate::plugin::PluginKind;
use crate::plugins::{Plugin, PluginFault};

/// Something that the self-check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Warning {
    /// A word for machines: `plugin-trap`, `plugin-deadline`, `plugin-memory`, `plugin-output` (these four say that it does not
    /// work), `plugin-internal`, `invalid-config`, or `not-called`.
    pub code: String,
    /// What was called, and what came of it.
    pub detail: String,
}

impl Warning {
    /// Whether it says that the plugin does not work, rather than that it could not be found out.
    pub fn is_failure(&self) -> bool {
        ["plugin-trap", "plugin-deadline", "plugin-memory", "plugin-output"].contains(&self.code.as_str())
    }
}

/// Calls every function of a plugin with invented messages and a configuration that its schema accepts.
pub async fn self_check(plugin: &Plugin) -> Vec<Warning> {
    let Some(case) = sample(plugin) else {
        let detail = "it was not called: neither {} nor what its schema says by examples and defaults is a configuration or an \
                      adapter that it accepts; give examples in config-schema (and adapter-schema)";
        return vec![Warning { code: "not-called".to_owned(), detail: detail.to_owned() }];
    };
    let mut warnings: Vec<Warning> = Vec::new();
    for (what, case) in variations(plugin, case) {
        let Ran { fault: Some(FaultView { code, detail, .. }), calls, .. } = run(plugin, &case, None).await else {
            continue;
        };
        // Which recipients it takes is its own business.
        if code == "invalid-input" {
            continue;
        }
        let function = calls.last().map_or("", |call| call.function);
        let detail = format!("{function}, {what}: {detail}");
        let takes_long = code == PluginFault::Deadline.code();
        if warnings.iter().all(|warning| warning.code != code || !warning.detail.starts_with(function)) {
            warnings.push(Warning { code, detail });
        }
        if takes_long {
            break;
        }
    }
    warnings
}

/// Calls of the main function that are measured.
const CALLS: u32 = 100;

/// How long calls take: the first one, with an instance of its own, and the median of those that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The first call.
    pub first: Duration,
    /// The median of the next hundred.
    pub median: Duration,
}

/// Measures the main function with an invented message and this configuration.
///
/// # Errors
/// The first call that failed.
pub async fn timing(plugin: &Plugin, config: &str) -> Result<Timing, PluginFault> {
    let plugin = plugin.apart();
    let mut case = Case { config: raw(config), ..Case::default() };
    let mut times = Vec::new();
    for n in 0..=CALLS {
        case.random = n;
        let context = case.context();
        let started = Instant::now();
        match plugin.kind {
            PluginKind::Delay => drop(plugin.next_delay(&context, case.pace(), "").await?),
            PluginKind::Template => {
                for content in plugin.render(&context, vec![case.job()]).await? {
                    content?;
                }
            }
            PluginKind::Sender => drop(plugin.start(&context, case.outbound()).await?),
        }
        times.push(started.elapsed());
    }
    let first = times.first().copied().unwrap_or_default();
    let mut rest = times.split_off(1);
    rest.sort_unstable();
    Ok(Timing { first, median: rest.get(rest.len() / 2).copied().unwrap_or_default() })
}

/// A case with a configuration and an adapter that the plugin's schemas accept, if one can be found.
fn sample(plugin: &Plugin) -> Option<Case> {
    let config = candidates(&plugin.info.config_schema)
        .into_iter()
        .find(|candidate| plugin.check_config(&candidate.to_string()).is_ok())?;
    let adapter = candidates(&plugin.info.adapter_schema)
        .into_iter()
        .find(|candidate| plugin.check_adapter(candidate).is_ok())?;
    let mut case = Case { config: raw(&config.to_string()), ..Case::default() };
    case.device.adapter = raw(&adapter.to_string());
    Some(case)
}

fn variations(plugin: &Plugin, case: Case) -> Vec<(&'static str, Case)> {
    match plugin.kind {
        PluginKind::Delay => {
            let throttled = PaceCase {
                failures_in_a_row: 3,
                last_outcome: LastOutcome::Throttled,
                age_days: 0,
                ..PaceCase::default()
            };
            vec![("after a send", case.clone()), ("after a failure", Case { pace: throttled, ..case })]
        }
        PluginKind::Template => {
            let mut bare = case.clone();
            bare.recipient.variables.clear();
            (bare.recipient.locale, bare.recipient.zone) = (None, None);
            vec![
                ("of a message", case.clone()),
                ("of a recipient without variables", bare),
                ("of its configuration", Case { call: Some(Call::Variables), ..case }),
            ]
        }
        PluginKind::Sender => {
            let response = |status: u16, body: &str, headers: &[(&str, &str)]| {
                let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
                let response = ResponseCase { status, headers, body: body.to_owned(), body_base64: None };
                AnswerCase { response: Some(response), ..AnswerCase::default() }
            };
            let json = [("content-type", "application/json")];
            let why = || Some("self-check".to_owned());
            let answers = [
                ("answered with 200", response(200, "{}", &json)),
                ("answered with 429", response(429, "", &[("retry-after", "1")])),
                ("answered with 500 and text", response(500, "oops", &[])),
                ("when its request was not sent", AnswerCase { not_sent: why(), ..AnswerCase::default() }),
                ("when its request was not answered", AnswerCase { unanswered: why(), ..AnswerCase::default() }),
            ];
            let mut out: Vec<_> = answers
                .into_iter()
                .map(|(what, answer)| (what, Case { answers: vec![answer], ..case.clone() }))
                .collect();
            if plugin.has_lookup() {
                out.push(("of a look-up", Case { call: Some(Call::Lookup), ..case.clone() }));
            }
            if plugin.has_health() {
                out.push(("of a check of its device", Case { call: Some(Call::Health), ..case.clone() }));
            }
            if plugin.has_receipts() {
                let request = ArrivalCase { body: "{}".to_owned(), ..ArrivalCase::default() };
                out.push(("of a webhook", Case { call: Some(Call::Parse), request: Some(request), ..case }));
            }
            out
        }
    }
}

/// Values that a schema may accept: the author's examples, an empty object, and one of its own defaults.
fn candidates(schema: &str) -> Vec<Value> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let mut out: Vec<Value> = schema
        .get("examples")
        .and_then(Value::as_array)
        .map(|all| all.iter().take(10).cloned().collect())
        .unwrap_or_default();
    out.push(json!({}));
    out.push(invent(&schema, &schema, 0));
    out
}

/// How deep a value is invented.
const DEPTH: u32 = 8;

/// A small value for a schema.
fn invent(schema: &Value, root: &Value, depth: u32) -> Value {
    if depth > DEPTH {
        return Value::Null;
    }
    let field = |name: &str| schema.get(name);
    let first = |name: &str| field(name).and_then(Value::as_array).and_then(|all| all.first());
    if let Some(value) = field("const").or(field("default")).or(first("examples")).or(first("enum")) {
        return value.clone();
    }
    if let Some(next) = first("anyOf").or(first("oneOf")) {
        return invent(next, root, depth + 1);
    }
    if let Some(next) = field("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?)) {
        return invent(next, root, depth + 1);
    }
    let kind = field("type").and_then(|kind| kind.as_str().or_else(|| kind.as_array()?.first()?.as_str()));
    match kind {
        Some("string") if field("format").and_then(Value::as_str) == Some("uri") => json!("https://example.com/"),
        Some("string") => json!("sample"),
        Some("integer" | "number") => field("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(false),
        Some("null") => Value::Null,
        Some("array") if field("minItems").and_then(Value::as_u64).is_none_or(|least| least == 0) => json!([]),
        Some("array") => json!([invent(field("items").unwrap_or(&Value::Null), root, depth + 1)]),
        _ => {
            let required: Vec<_> = field("required").and_then(Value::as_array).into_iter().flatten().collect();
            let properties = field("properties").and_then(Value::as_object).into_iter().flatten();
            let wanted = properties.filter(|(name, _)| required.iter().any(|r| r.as_str() == Some(name.as_str())));
            let invented = wanted.map(|(name, schema)| (name.clone(), invent(schema, root, depth + 1)));
            Value::Object(invented.collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_invented_for_what_is_required() {
        let schema = r##"{"type":"object","required":["url","tries","kind","nested","list"],"properties":{
            "url":{"type":"string","format":"uri"},"tries":{"type":"integer","minimum":2},"kind":{"enum":["a","b"]},
            "nested":{"$ref":"#/$defs/nested"},"list":{"type":"array","minItems":1,"items":{"type":"string"}},"other":{"type":"string"}},
            "$defs":{"nested":{"type":"object","required":["on"],"properties":{"on":{"type":"boolean","default":true}}}}}"##;
        let last = candidates(schema).pop().unwrap();
        assert_eq!(
            last,
            json!({"url": "https://example.com/", "tries": 2, "kind": "a", "nested": {"on": true}, "list": ["sample"]})
        );
        let own = candidates(r#"{"examples":[{"a":1}]}"#);
        assert_eq!(own, [json!({"a": 1}), json!({}), json!({"a": 1})]);
        let endless = r##"{"type":"object","required":["x"],"properties":{"x":{"$ref":"#"}}}"##;
        assert!(candidates(endless).pop().unwrap().is_object());
    }
}

//! The configuration, read and with its templates compiled.

use std::collections::BTreeMap;

use common::contract::types::PluginError;
use common::provider::{On5xx, percent};
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State as Rendering, UndefinedBehavior};
use serde::Deserialize;

/// The configuration as users write it.
#[derive(Deserialize)]
pub struct Config {
    pub url: String,
    #[serde(default = "post")]
    pub method: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub body: Option<String>,
    #[serde(default = "json")]
    pub content_type: String,
    #[serde(default = "idempotency_key")]
    pub idempotency_header: String,
    #[serde(default = "timeout")]
    pub timeout_ms: f64,
    #[serde(default = "id")]
    pub provider_id: String,
    #[serde(default)]
    pub retry_after_scope: Waits,
    #[serde(default = "bare_429")]
    pub retry_after_ms: f64,
    #[serde(default)]
    pub on_5xx: On5xx,
    #[serde(default)]
    pub outcomes: Vec<Rule>,
    pub lookup: Option<Lookup>,
    pub health: Option<Health>,
}

/// How the provider is asked whether it has a message.
#[derive(Deserialize)]
pub struct Lookup {
    pub url: String,
    #[serde(default = "get")]
    pub method: String,
    /// Those of a send when absent.
    pub headers: Option<BTreeMap<String, String>>,
    /// That of a send when absent.
    pub provider_id: Option<String>,
    #[serde(default)]
    pub outcomes: Vec<Rule>,
}

/// How the provider is asked whether a device can send.
#[derive(Deserialize)]
pub struct Health {
    pub url: String,
    #[serde(default = "get")]
    pub method: String,
    /// Those of a send when absent.
    pub headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub outcomes: Vec<Rule<Finding>>,
}

/// What the provider can say of a device.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    Healthy,
    Down,
    Blocked,
    Unknown,
}

fn post() -> String {
    "POST".into()
}

fn get() -> String {
    "GET".into()
}

fn json() -> String {
    "application/json".into()
}

fn idempotency_key() -> String {
    "Idempotency-Key".into()
}

const fn timeout() -> f64 {
    15_000.0
}

fn id() -> String {
    "/id".into()
}

const fn bare_429() -> f64 {
    30_000.0
}

/// Whom a pause concerns.
#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub enum Waits {
    Message,
    Recipient,
    #[default]
    Device,
    Account,
}

/// What a particular answer means.
#[derive(Deserialize)]
pub struct Rule<M = Meaning> {
    pub status: Option<Vec<u32>>,
    pub pointer: Option<String>,
    pub values: Option<Vec<serde_json::Value>>,
    pub outcome: M,
}

/// The outcomes that a rule can name.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum Meaning {
    Accepted,
    Delivered,
    RetryAfter,
    Transient,
    InvalidRecipient,
    Unreachable,
    Blocked,
    OptedOut,
    ContentRejected,
    DeviceDown,
    AccountBlocked,
    Unknown,
}

/// A configuration with its templates compiled.
pub struct Compiled {
    pub config: Config,
    env: Environment<'static>,
}

const SECRET: &str = "{{secret:";
/// Stands for the beginning of a placeholder while a template is rendered, so that no value can bring one: what comes out with
/// the real beginning was not in the template, and a value that has this character, which no URL and no header may have, is
/// refused.
const MARK: char = '\u{1}';

impl Compiled {
    /// Reads a configuration.
    pub fn read(text: &str) -> Result<Self, PluginError> {
        let config: Config = common::parse(text).map_err(PluginError::InvalidConfig)?;
        let escape = match config.content_type.split(';').next().unwrap_or_default().trim() {
            "application/x-www-form-urlencoded" => "percent",
            kind if kind.ends_with("json") => "json-text",
            _ => "none",
        };
        let mut env = Environment::new();
        // The stack of an instance is small.
        env.set_recursion_limit(50);
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_auto_escape_callback(move |name| match name {
            "url" | "lookup.url" | "health.url" => AutoEscape::Custom("percent".into()),
            "body" => AutoEscape::Custom(escape.into()),
            _ => AutoEscape::Custom("none".into()),
        });
        env.set_formatter(format);
        add(&mut env, "url", &config.url)?;
        if let Some(body) = &config.body {
            add(&mut env, "body", body)?;
        }
        add_headers(&mut env, "headers", &config.headers)?;
        if let Some(lookup) = &config.lookup {
            add(&mut env, "lookup.url", &lookup.url)?;
            if let Some(headers) = &lookup.headers {
                add_headers(&mut env, "lookup.headers", headers)?;
            }
        }
        if let Some(health) = &config.health {
            add(&mut env, "health.url", &health.url)?;
            if let Some(headers) = &health.headers {
                add_headers(&mut env, "health.headers", headers)?;
            }
        }
        Ok(Self { config, env })
    }

    /// The URL of a message.
    pub fn url(&self, ctx: &Value) -> Result<String, PluginError> {
        self.part("url", ctx)
    }

    /// The body of a message, when the configuration has a template of it.
    pub fn body(&self, ctx: &Value) -> Result<Option<String>, PluginError> {
        self.config.body.as_ref().map(|_| self.part("body", ctx)).transpose()
    }

    /// The configured headers of a message.
    pub fn headers(&self, ctx: &Value) -> Result<Vec<(String, String)>, PluginError> {
        self.rendered("headers", &self.config.headers, ctx)
    }

    /// The URL of a message's look-up.
    pub fn lookup_url(&self, ctx: &Value) -> Result<String, PluginError> {
        self.part("lookup.url", ctx)
    }

    /// The headers of a message's look-up.
    pub fn lookup_headers(&self, ctx: &Value) -> Result<Vec<(String, String)>, PluginError> {
        match self.config.lookup.as_ref().and_then(|lookup| lookup.headers.as_ref()) {
            Some(own) => self.rendered("lookup.headers", own, ctx),
            None => self.headers(ctx),
        }
    }

    /// The URL of a device's check.
    pub fn health_url(&self, ctx: &Value) -> Result<String, PluginError> {
        self.part("health.url", ctx)
    }

    /// The headers of a device's check.
    pub fn health_headers(&self, ctx: &Value) -> Result<Vec<(String, String)>, PluginError> {
        match self.config.health.as_ref().and_then(|health| health.headers.as_ref()) {
            Some(own) => self.rendered("health.headers", own, ctx),
            None => self.headers(ctx),
        }
    }

    fn rendered(
        &self,
        field: &str,
        headers: &BTreeMap<String, String>,
        ctx: &Value,
    ) -> Result<Vec<(String, String)>, PluginError> {
        headers.keys().map(|name| Ok((name.clone(), self.part(&format!("{field}.{name}"), ctx)?))).collect()
    }

    fn part(&self, name: &str, ctx: &Value) -> Result<String, PluginError> {
        let template = self.env.get_template(name).map_err(|e| PluginError::Internal(e.to_string()))?;
        let text = template.render(ctx).map_err(|error| {
            let line = error.line().unwrap_or(1);
            if error.kind() != ErrorKind::UndefinedError {
                // The error's detail may quote a value, so only its kind is told.
                return PluginError::InvalidInput(format!("{name}, line {line}: {}", error.kind()));
            }
            let mut missing: Vec<String> =
                template.undeclared_variables(true).into_iter().filter(|path| is_missing(path, ctx)).collect();
            missing.sort();
            let missing = missing.first().map_or("a value", String::as_str);
            PluginError::InvalidInput(format!("{name}, line {line}: {missing} is not defined"))
        })?;
        // In a body the host replaces nothing, so it may say what it likes.
        if name != "body" && text.contains(SECRET) {
            return Err(PluginError::InvalidInput(format!("{name}: a value holds {SECRET}")));
        }
        Ok(if text.contains(MARK) { text.replace(MARK, SECRET) } else { text })
    }
}

fn is_missing(path: &str, ctx: &Value) -> bool {
    let mut value = ctx.clone();
    path.split('.').any(|name| {
        value = value.get_attr(name).unwrap_or_default();
        value.is_undefined()
    })
}

fn add_headers(
    env: &mut Environment<'static>,
    field: &str,
    headers: &BTreeMap<String, String>,
) -> Result<(), PluginError> {
    headers.iter().try_for_each(|(name, value)| add(env, &format!("{field}.{name}"), value))
}

fn add(env: &mut Environment<'static>, name: &str, source: &str) -> Result<(), PluginError> {
    env.add_template_owned(name.to_owned(), keep_secrets(source)).map_err(|error| {
        let line = error.line().unwrap_or(1);
        let detail = error.detail().map(str::to_owned).unwrap_or_else(|| error.kind().to_string());
        PluginError::InvalidConfig(format!("{name}, line {line}: {detail}"))
    })
}

/// Placeholders of secrets are the host's business: they pass through the templates as they are.
fn keep_secrets(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once(SECRET) {
        let Some((name, after)) = after.split_once("}}") else { break };
        out.push_str(before);
        out.push_str("{% raw %}");
        out.push(MARK);
        out.push_str(name);
        out.push_str("}}{% endraw %}");
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Writes a value as the place where it stands needs it.
fn format(out: &mut Output, state: &mut Rendering, value: &Value) -> Result<(), Error> {
    let AutoEscape::Custom(how) = state.auto_escape() else {
        return minijinja::escape_formatter(out, state, value);
    };
    let how = how.as_ref();
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if how != "json-text" && value.as_str().is_some_and(|text| text.contains(MARK)) {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value holds a control character"));
    }
    if value.is_safe() {
        return Ok(out.write_str(&value.to_string())?);
    }
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None if how == "json-text" => {
            return Ok(
                out.write_str(&serde_json::to_string(value).map_err(|_| Error::from(ErrorKind::BadSerialization))?)?
            );
        }
        None if value.is_none() => String::new(),
        None => value.to_string(),
    };
    match how {
        "percent" => Ok(out.write_str(&percent(&text))?),
        "json-text" => {
            let quoted = serde_json::to_string(&text).map_err(|_| Error::from(ErrorKind::BadSerialization))?;
            let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).unwrap_or(&quoted);
            Ok(out.write_str(inner)?)
        }
        _ => Ok(out.write_str(&text)?),
    }
}

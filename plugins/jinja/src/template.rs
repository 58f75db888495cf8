//! The configuration with its templates compiled, and what they make of a job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carillon_plugin::{Content, Error as Fault, Job, Media, Random, Result};
use minijinja::value::{Object, Rest, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};
use serde::Deserialize;

#[cfg(feature = "greetings")]
use crate::greeting;

#[derive(Deserialize)]
struct Config {
    #[serde(flatten)]
    base: Texts,
    #[serde(default)]
    locales: BTreeMap<String, Texts>,
    #[serde(default)]
    undefined: Undefined,
}

#[derive(Deserialize)]
struct Texts {
    text: String,
    subject: Option<String>,
    media: Option<Vec<MediaText>>,
}

#[derive(Deserialize)]
struct MediaText {
    kind: String,
    url: String,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Undefined {
    #[default]
    Error,
    Empty,
}

/// A configuration with its templates compiled.
#[derive(Deserialize)]
#[serde(try_from = "Config")]
pub struct Compiled {
    env: Environment<'static>,
    base: Parts,
    /// By language tag in lower case.
    locales: BTreeMap<String, Parts>,
    undefined: Undefined,
}

/// The names of a variant's templates, which are also where errors say that they are.
struct Parts {
    text: String,
    subject: Option<String>,
    /// Kind and template name.
    media: Option<Vec<(String, String)>>,
}

/// What templates see besides the audience's columns; columns with these names are reached through `vars`.
const RESERVED: [&str; 5] = ["recipient", "device", "message", "vars", "random"];

impl TryFrom<Config> for Compiled {
    type Error = String;

    fn try_from(config: Config) -> Result<Self, String> {
        let mut env = Environment::new();
        env.set_auto_escape_callback(|_| AutoEscape::None);
        // The stack of an instance is small.
        env.set_recursion_limit(50);
        env.add_function("pick", pick);
        if config.undefined == Undefined::Error {
            env.set_undefined_behavior(UndefinedBehavior::Strict);
        }
        let base = add(&mut env, "", config.base)?;
        let mut locales = BTreeMap::new();
        for (tag, texts) in config.locales {
            let parts = add(&mut env, &format!("locales.{tag}."), texts)?;
            locales.insert(tag.to_ascii_lowercase(), parts);
        }
        Ok(Self { env, base, locales, undefined: config.undefined })
    }
}

impl Compiled {
    fn variant(&self, locale: Option<&str>) -> &Parts {
        let Some(locale) = locale else { return &self.base };
        let mut tag = locale.to_ascii_lowercase().replace('_', "-");
        loop {
            if let Some(parts) = self.locales.get(&tag) {
                return parts;
            }
            match tag.rfind('-') {
                Some(end) => tag.truncate(end),
                None => return &self.base,
            }
        }
    }

    /// The message of a job.
    pub fn message(&self, job: Job) -> Result<Content> {
        let parts = self.variant(job.recipient.locale.as_deref());
        let ctx = Value::from_object(Root(job));
        let subject = parts.subject.as_ref().or(self.base.subject.as_ref());
        let media = parts.media.as_ref().or(self.base.media.as_ref());
        Ok(Content {
            text: self.part(&parts.text, &ctx)?,
            subject: subject.map(|name| self.part(name, &ctx)).transpose()?,
            media: media
                .into_iter()
                .flatten()
                .map(|(kind, name)| Ok(Media { kind: kind.clone(), url: self.part(name, &ctx)? }))
                .collect::<Result<_>>()?,
            attributes: Vec::new(),
        })
    }

    fn part(&self, name: &str, ctx: &Value) -> Result<String> {
        let template = self.env.get_template(name).map_err(Fault::internal)?;
        template.render(ctx).map_err(|error| {
            let line = error.line().unwrap_or(0);
            if error.kind() == ErrorKind::UndefinedError && self.undefined == Undefined::Error {
                let missing = missing(template.undeclared_variables(true), ctx);
                let missing = missing.as_deref().unwrap_or("a value");
                return Fault::Input(format!("{name}, line {line}: {missing} is not defined for this recipient"));
            }
            // The error's detail may quote a value, so only its kind is told.
            Fault::Input(format!("{name}, line {line}: {}", error.kind()))
        })
    }

    /// The audience's columns that any of the templates uses.
    pub fn columns(&self) -> Vec<String> {
        let known: BTreeSet<&str> = self.env.globals().map(|(name, _)| name).chain(RESERVED).collect();
        let mut used = BTreeSet::new();
        for (_, template) in self.env.templates() {
            for name in template.undeclared_variables(true) {
                let own = name.strip_prefix("vars.").unwrap_or(&name);
                let first = own.split('.').next().unwrap_or(own);
                if own.len() < name.len() || !known.contains(first) {
                    used.insert(first.to_owned());
                }
            }
        }
        used.into_iter().collect()
    }
}

fn add(env: &mut Environment<'static>, prefix: &str, texts: Texts) -> Result<Parts, String> {
    let mut template = |name: String, source: String| match env.add_template_owned(name.clone(), source) {
        Ok(()) => Ok(name),
        Err(error) => {
            let line = error.line().unwrap_or(1);
            let detail = error.detail().map(str::to_owned).unwrap_or_else(|| error.kind().to_string());
            Err(format!("{name}, line {line}: {detail}"))
        }
    };
    Ok(Parts {
        text: template(format!("{prefix}text"), texts.text)?,
        subject: texts.subject.map(|source| template(format!("{prefix}subject"), source)).transpose()?,
        media: texts
            .media
            .map(|media| {
                media
                    .into_iter()
                    .enumerate()
                    .map(|(n, media)| Ok((media.kind, template(format!("{prefix}media[{n}].url"), media.url)?)))
                    .collect::<Result<_, String>>()
            })
            .transpose()?,
    })
}

/// What a template sees. Values are made when it asks for them: most templates use two or three.
#[derive(Debug)]
struct Root(Job);

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let Job { message, recipient, device, random } = &self.0;
        let optional = |text: &Option<String>| text.as_deref().map_or(Value::from(()), Value::from);
        let name = key.as_str()?;
        let value = match name {
            "recipient" => Value::from_pairs([
                ("address", Value::from(recipient.address.as_str())),
                ("locale", optional(&recipient.locale)),
                ("zone", optional(&recipient.zone)),
            ]),
            "device" => Value::from_pairs([("id", device.id.as_str()), ("channel", device.channel.as_str())]),
            "message" => Value::from_pairs([
                ("id", Value::from(message.id.as_str())),
                ("campaign", message.campaign.as_str().into()),
                ("step", message.sequence_step.map_or(Value::from(()), Value::from)),
                ("attempt", message.attempt.into()),
            ]),
            "vars" => {
                Value::from_pairs(recipient.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            }
            "random" => (*random).into(),
            _ => match recipient.variables.iter().rev().find(|(variable, _)| variable == name) {
                Some((_, value)) => value.as_str().into(),
                #[cfg(feature = "greetings")]
                None if name == "greeting" => greeting::of(recipient.zone.as_deref()).into(),
                None => return None,
            },
        };
        Some(value)
    }
}

/// The first of these variables that the context does not have.
fn missing(used: impl IntoIterator<Item = String>, ctx: &Value) -> Option<String> {
    let mut missing: Vec<String> = used
        .into_iter()
        .filter(|path| {
            let mut value = ctx.clone();
            path.split('.').any(|name| {
                value = value.get_attr(name).unwrap_or_default();
                value.is_undefined()
            })
        })
        // Functions look like variables to the analysis.
        .filter(|path| path != "pick" && path != "range" && path != "dict" && path != "namespace" && path != "debug")
        .collect();
    missing.sort();
    missing.into_iter().next()
}

/// One of the arguments, by the message's own random number; another place in the template chooses anew.
fn pick(state: &mut State, options: Rest<Value>) -> Result<Value, Error> {
    let seed = state.lookup("random").and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    // The arguments themselves keep two picks of one message apart.
    let salt = options
        .iter()
        .flat_map(|v| v.to_string().into_bytes())
        .fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let at = Random::new(seed ^ salt).between(0.0, options.len() as f64) as usize;
    options.get(at).cloned().ok_or_else(|| Error::new(ErrorKind::MissingArgument, "pick needs at least one argument"))
}

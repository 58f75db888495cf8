//! The form for a new campaign: what was typed stays, and every problem stands at its field.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::value::RawValue;

use super::campaigns::WRITE;
use super::page::{self, Page};
use super::session::{Fields, Posted, Session};
use super::{Answer, Failure, Shared, actor, go};
use crate::campaign::{BadField, CampaignSpec};
use crate::operations::OpError;
use crate::operations::campaigns as operations;
use crate::plugin::PluginKind;

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/ui/campaigns/new", get(form).post(create))
}

/// A plugin that can be chosen.
struct Choice {
    kind: PluginKind,
    name: String,
    summary: String,
}

#[derive(Template)]
#[template(path = "campaign_form.html")]
struct FormPage {
    page: Page,
    fields: Fields,
    problems: Vec<BadField>,
    audiences: Vec<String>,
    plugins: Vec<Choice>,
}

/// The parts of a specification that the form has fields for, by the names of those fields.
const SHOWN: [&str; 14] = [
    "name",
    "audience",
    "devices",
    "template.plugin",
    "template.config",
    "delay.plugin",
    "delay.config",
    "delay.min_ms",
    "delay.max_ms",
    "sender.plugin",
    "sender.config",
    "schedule.at",
    "expires_at",
    "retry.max_attempts",
];

/// The field of the form that a problem belongs to: its own, or the nearest above or below it.
fn place(field: &str) -> Option<&'static str> {
    let under = |shown: &&str| field.strip_prefix(*shown).is_some_and(|rest| rest.starts_with(['.', '[', '/']));
    let exact = SHOWN.into_iter().find(|shown| *shown == field);
    let nearest = || SHOWN.into_iter().find(under);
    let part = || match field {
        "template" => Some("template.plugin"),
        "delay" => Some("delay.plugin"),
        "sender" => Some("sender.plugin"),
        "schedule" => Some("schedule.at"),
        _ if field.starts_with("retry") => Some("retry.max_attempts"),
        _ => None,
    };
    exact.or_else(nearest).or_else(part)
}

impl FormPage {
    /// What is wrong with a field of the form.
    fn errors(&self, field: &str) -> Vec<String> {
        let of = |p: &&BadField| place(&p.field) == Some(field);
        let text = |p: &BadField| match p.field.strip_prefix(field).filter(|rest| !rest.is_empty()) {
            Some(rest) => format!("{}: {}", rest.trim_start_matches('.'), p.problem),
            None => p.problem.clone(),
        };
        self.problems.iter().filter(of).map(text).collect()
    }

    /// Problems without a field on this form.
    fn others(&self) -> Vec<&BadField> {
        self.problems.iter().filter(|p| place(&p.field).is_none()).collect()
    }

    fn choices(&self, kind: &str) -> Vec<&Choice> {
        self.plugins.iter().filter(|c| c.kind.as_str() == kind).collect()
    }
}

async fn render(ui: &Shared, session: Session, fields: Fields, problems: Vec<BadField>) -> Answer {
    let audiences = ui.core.store.audiences(None, 500).await?.items.into_iter().map(|a| a.name).collect();
    let plugins = ui.core.store.plugins().await?.into_iter().filter(|v| v.active);
    let plugins = plugins.map(|v| Choice { kind: v.kind, name: v.name, summary: v.info.summary }).collect();
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let page = Page::new(session, "/ui/campaigns")?;
    let body = page::html(&FormPage { page, fields, problems, audiences, plugins })?;
    Ok((status, body).into_response())
}

async fn form(State(ui): State<Shared>, session: Session) -> Answer {
    session.require(WRITE)?;
    let typed = [
        ("template.plugin", "jinja"),
        ("template.config", "{\n  \"text\": \"Hello {{ name }}\"\n}"),
        ("delay.plugin", "uniform"),
        ("delay.config", "{\n  \"min_ms\": 500,\n  \"max_ms\": 1500\n}"),
        ("sender.config", "{}"),
        ("delay.min_ms", "0"),
        ("retry.max_attempts", "5"),
    ];
    let fields = Fields(typed.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec());
    render(&ui, session, fields, Vec::new()).await
}

/// The specification that the form describes, as the API's JSON: it then goes through the same checks.
fn spec(fields: &Fields) -> Result<CampaignSpec, Vec<BadField>> {
    use serde_json::{Value, json};
    let mut problems = Vec::new();
    let mut config = |name: &str| -> Value {
        let text = fields.trimmed(name);
        // Parsed for its errors only; the numbers in it stay as they were typed.
        match serde_json::from_str::<Value>(if text.is_empty() { "{}" } else { text }) {
            Ok(value) => value,
            Err(error) => {
                problems.push(BadField::new(name, format!("is not JSON: {error}")));
                json!({})
            }
        }
    };
    let configs = [config("template.config"), config("delay.config"), config("sender.config")];
    let mut number = |name: &str, default: Option<u64>| -> Option<u64> {
        match fields.trimmed(name) {
            "" => default,
            text => text.parse().map_err(|_| problems.push(BadField::new(name, "give a whole number"))).ok(),
        }
    };
    let (min_ms, max_ms) = (number("delay.min_ms", Some(0)), number("delay.max_ms", None));
    let attempts = number("retry.max_attempts", None);
    let mut time = |name: &str| -> Option<String> {
        match fields.trimmed(name) {
            "" => None,
            // Browsers send `2026-12-01T09:00`, with or without seconds and without a zone: the form says UTC.
            text => match format!("{}Z", text.trim_end_matches('Z')).parse::<jiff::Timestamp>() {
                Ok(time) => Some(time.to_string()),
                Err(_) => {
                    problems.push(BadField::new(name, "give a time in UTC, such as 2026-12-01T09:00"));
                    None
                }
            },
        }
    };
    let (at, expires_at) = (time("schedule.at"), time("expires_at"));
    if fields.trimmed("template.plugin").is_empty() {
        problems.push(BadField::new("template.plugin", "choose a plugin"));
    }
    if fields.trimmed("delay.plugin").is_empty() {
        problems.push(BadField::new("delay.plugin", "choose a plugin"));
    }
    let [template, delay, sender] = configs;
    let mut body = json!({
        "name": fields.trimmed("name"),
        "audience": fields.trimmed("audience"),
        "devices": {"tag": fields.trimmed("devices")},
        "template": {"plugin": fields.trimmed("template.plugin"), "config": template},
        "delay": {"plugin": fields.trimmed("delay.plugin"), "config": delay, "min_ms": min_ms.unwrap_or(0)},
        "schedule": {"at": at},
    });
    let mut put = |part: Option<&str>, name: &str, value: Value| {
        let target = match part {
            Some(part) => body.get_mut(part),
            None => Some(&mut body),
        };
        if let Some(Value::Object(map)) = target {
            map.insert(name.to_owned(), value);
        }
    };
    if let Some(max_ms) = max_ms {
        put(Some("delay"), "max_ms", json!(max_ms));
    }
    if let Some(attempts) = attempts {
        put(None, "retry", json!({"max_attempts": attempts}));
    }
    if let Some(expires_at) = expires_at {
        put(None, "expires_at", json!(expires_at));
    }
    if !fields.trimmed("sender.plugin").is_empty() {
        put(None, "sender", json!({"plugin": fields.trimmed("sender.plugin"), "config": sender}));
    }
    match fields.trimmed("delivery") {
        "" => {}
        word => put(None, "delivery", json!(word)),
    }
    match serde_json::from_value::<CampaignSpec>(body) {
        Ok(mut spec) => {
            exact(&mut spec.template.config, fields.trimmed("template.config"));
            exact(&mut spec.delay.config, fields.trimmed("delay.config"));
            if let Some(sender) = &mut spec.sender {
                exact(&mut sender.config, fields.trimmed("sender.config"));
            }
            // All problems are shown at once, also those that the operation would find after these.
            if problems.is_empty() {
                Ok(spec)
            } else {
                let known: Vec<_> = problems.iter().map(|p| p.field.clone()).collect();
                problems.extend(spec.problems().into_iter().filter(|p| !known.contains(&p.field)));
                Err(problems)
            }
        }
        Err(error) => {
            problems.push(BadField::new("", error.to_string()));
            Err(problems)
        }
    }
}

/// The configuration as it was typed, digit for digit.
fn exact(config: &mut Box<RawValue>, typed: &str) {
    if let Ok(raw) = RawValue::from_string(typed.to_owned()) {
        *config = raw;
    }
}

async fn create(State(ui): State<Shared>, Posted { session, fields }: Posted) -> Answer {
    session.require(WRITE)?;
    let spec = match spec(&fields) {
        Ok(spec) => spec,
        Err(problems) => return render(&ui, session, fields, problems).await,
    };
    match operations::create_campaign(&ui.core, &actor(&session), spec).await {
        Ok(campaign) => go(&format!("/ui/campaigns/{}?done=created", campaign.id)),
        Err(OpError::Invalid(problems)) => render(&ui, session, fields, problems).await,
        Err(error) => Err(Failure::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        Fields(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_form_becomes_a_specification() {
        let spec = spec(&fields(&[
            ("name", " autumn "),
            ("audience", "customers"),
            ("devices", "eu"),
            ("template.plugin", "jinja"),
            ("template.config", "{\"text\": 1.10}"),
            ("delay.plugin", "uniform"),
            ("delay.max_ms", "5000"),
            ("schedule.at", "2026-12-01T09:00"),
            ("delivery", "at_most_once"),
        ]))
        .unwrap();
        assert_eq!(spec.problems(), []);
        assert_eq!(spec.name, "autumn");
        assert_eq!(spec.template.config.get(), "{\"text\": 1.10}");
        assert_eq!(spec.delay.max_ms, 5000);
        assert_eq!(spec.schedule.at.unwrap().to_string(), "2026-12-01T09:00:00.000Z");
        assert!(spec.sender.is_none());
    }

    #[test]
    fn every_problem_is_found_and_has_a_place() {
        let problems =
            spec(&fields(&[("template.config", "{"), ("expires_at", "soon"), ("delay.min_ms", "x")])).unwrap_err();
        for field in ["template.config", "expires_at", "delay.min_ms", "name", "audience", "devices", "template.plugin"]
        {
            assert!(problems.iter().any(|p| place(&p.field) == Some(field)), "{field}: {problems:?}");
        }
        assert_eq!(place("template.config.text"), Some("template.config"));
        assert_eq!(place("retry.base_ms"), Some("retry.max_attempts"));
        assert_eq!(place("template.version"), None);
    }
}

//! A case, carried out.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{AnswerCase, Call, Case, ContentCase};
use crate::egress::Egress;
use crate::exchange::{MAX_ROUNDS, egress_request, plugin_answer};
use crate::plugins::{
    Acceptance, Answer, Event, EventKind, Failure, HealthVerdict, HttpRequest, Outcome, Plugin, PluginBody,
    PluginFault, Progress, RecipientProblem, Round, Scope, Step,
};

/// What a case came to. Instructions are not counted: the engine limits a call by its time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Ran {
    /// What the plugin answered: `{delay_ms, state}`, `{text, subject, media, attributes}`, a list of variables, or
    /// `{outcome, …}`, `{events, response}`, `{verdict, …}`; null when it failed, and when a sender's request has no answer.
    pub result: Value,
    /// Why it gave no answer.
    pub fault: Option<FaultView>,
    /// Senders: the requests that it asked for.
    pub requests: Vec<Exchange>,
    /// Senders: what it keeps for the device's account, when that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_state: Option<String>,
    /// Each call, in order.
    pub calls: Vec<CallView>,
    /// Memory of the instance after the calls, in bytes.
    pub memory_bytes: u64,
    /// What it wrote to its standard output and error, the latest 100 lines.
    pub logs: Vec<String>,
}

impl Ran {
    /// Whether it failed with this code; without one, whether it did not fail.
    pub fn failed_as(&self, code: Option<&str>) -> bool {
        self.fault.as_ref().map(|fault| fault.code.as_str()) == code
    }
}

/// Why a plugin gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FaultView {
    /// A word for machines, such as `plugin-trap` or `invalid-input`.
    pub code: String,
    /// For people.
    pub detail: String,
    /// Of a crash: the functions that it happened in, the innermost first, where the component has their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backtrace: Vec<String>,
}

/// A request and what it was answered with.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// Names and values, with `{{secret:NAME}}` as the plugin wrote it.
    #[schema(value_type = Vec<Vec<String>>)]
    pub headers: Vec<(String, String)>,
    /// The body, when it is text.
    pub body: Option<String>,
    /// The size of the body, in bytes.
    pub body_bytes: usize,
    /// How long it may take, in milliseconds.
    pub timeout_ms: f64,
    /// What the plugin was told; null where the case has no answer for it.
    pub answer: Option<AnswerCase>,
    /// Whether it was really made.
    pub made: bool,
}

/// One call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CallView {
    /// The function.
    pub function: &'static str,
    /// How long it took, in microseconds; the first includes making an instance.
    pub us: u64,
}

/// The way out for requests that a case has no answer for, and how long they may take together.
#[derive(Debug, Clone)]
pub struct Net {
    /// The way out, with its policy.
    pub egress: Egress,
    /// How long all requests together may take.
    pub timeout: Duration,
}

/// Carries a case out on instances of its own: what it costs is not counted for the plugin, and what it leaves behind in memory
/// no message meets. `net` is used only by cases that ask for it.
pub async fn run(plugin: &Plugin, case: &Case, net: Option<&Net>) -> Ran {
    let plugin = plugin.apart();
    let mut ran = Ran::default();
    let result = match case.call(plugin.kind) {
        Call::NextDelay => next_delay(&plugin, case, &mut ran).await,
        Call::Render => render(&plugin, case, &mut ran).await,
        Call::Variables => {
            let variables = timed(&mut ran, "variables", plugin.variables(&case.context())).await;
            variables.map(|variables| json!(variables))
        }
        call @ (Call::Send | Call::Resume | Call::Lookup | Call::LookupResume | Call::Health | Call::HealthResume) => {
            send(&plugin, case, net, call, &mut ran).await
        }
        Call::Parse => parse(&plugin, case, &mut ran).await,
    };
    match result {
        Ok(result) => ran.result = result,
        Err(fault) => {
            ran.fault = Some(FaultView {
                code: fault.code().to_owned(),
                detail: fault.to_string(),
                backtrace: if matches!(fault, PluginFault::Trap(_)) { plugin.backtrace() } else { Vec::new() },
            });
        }
    }
    ran.memory_bytes = plugin.memory_bytes();
    ran.logs = plugin.log_lines().into_iter().map(|line| line.trim_end().to_owned()).collect();
    ran
}

async fn timed<T>(ran: &mut Ran, function: &'static str, call: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let answer = call.await;
    let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    ran.calls.push(CallView { function, us });
    answer
}

async fn next_delay(plugin: &Plugin, case: &Case, ran: &mut Ran) -> Result<Value, PluginFault> {
    let context = case.context();
    let next = timed(ran, "next-delay", plugin.next_delay(&context, case.pace(), &case.state)).await?;
    Ok(json!({"delay_ms": next.delay_ms, "state": next.state}))
}

async fn render(plugin: &Plugin, case: &Case, ran: &mut Ran) -> Result<Value, PluginFault> {
    let context = case.context();
    let mut contents = timed(ran, "render", plugin.render(&context, vec![case.job()])).await?;
    let content = contents.pop().unwrap_or_else(|| Err(PluginFault::Output("it made no message".to_owned())))?;
    serde_json::to_value(ContentCase::from(content)).map_err(|e| PluginFault::Internal(e.to_string()))
}

async fn parse(plugin: &Plugin, case: &Case, ran: &mut Ran) -> Result<Value, PluginFault> {
    let request = case.request.clone().unwrap_or_default().arrival().map_err(PluginFault::InvalidInput)?;
    let parsed = timed(ran, "parse", plugin.parse(&case.context(), request)).await?;
    let response = AnswerCase::from(&Answer::Response(parsed.response)).response;
    let events: Vec<Value> = parsed.events.into_iter().map(event_json).collect();
    Ok(json!({"events": events, "response": response}))
}

/// An event as JSON: what happened by its name in the WIT, and to whom.
fn event_json(event: Event) -> Value {
    let Event { provider_id, address, at, kind, attributes } = event;
    let (kind, more) = match kind {
        EventKind::Delivered => ("delivered", Value::Null),
        EventKind::Read => ("read", Value::Null),
        EventKind::Failed(failure) => ("failed", json!({"code": failure.code, "detail": failure.detail})),
        EventKind::Reply(text) => ("reply", json!({"text": text})),
        EventKind::OptedOut => ("opted-out", Value::Null),
    };
    let mut value = json!({
        "event": kind, "provider_id": provider_id, "address": address, "at": at, "attributes": attributes,
    });
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

async fn send(
    plugin: &Plugin,
    case: &Case,
    net: Option<&Net>,
    call: Call,
    ran: &mut Ran,
) -> Result<Value, PluginFault> {
    let mut answers = case.answers.iter();
    let mut progress = if call.resumes() {
        let given = answers.next().ok_or_else(|| PluginFault::InvalidInput("there is no answer".to_owned()))?;
        resume(plugin, call, case, &case.send_state, given, ran).await?
    } else {
        start(plugin, call, case, ran).await?
    };
    let deadline = Instant::now() + net.map_or(Duration::ZERO, |net| net.timeout);
    for round in 0..=MAX_ROUNDS {
        let Progress { step, account_state } = progress;
        if account_state.is_some() {
            ran.account_state = account_state;
        }
        let (request, state) = match step {
            Step::Done(result) => return Ok(result),
            Step::Request(Round { request, state }) => (request, state),
        };
        if round == MAX_ROUNDS {
            break;
        }
        let mut exchange = exchange(&request);
        let given = match (answers.next(), net.filter(|_| case.send)) {
            (Some(given), _) => given.clone(),
            (None, Some(net)) => {
                exchange.made = true;
                let remaining = deadline.saturating_duration_since(Instant::now());
                plugin.licence.requested();
                AnswerCase::from(&plugin_answer(
                    net.egress.send(&plugin.licence, egress_request(request), remaining).await,
                ))
            }
            (None, None) => {
                ran.requests.push(exchange);
                return Ok(Value::Null);
            }
        };
        exchange.answer = Some(given.clone());
        ran.requests.push(exchange);
        progress = resume(plugin, call, case, &state, &given, ran).await?;
    }
    Err(PluginFault::Output(format!("the sender asked for more than {MAX_ROUNDS} requests for one message")))
}

async fn start(plugin: &Plugin, call: Call, case: &Case, ran: &mut Ran) -> Result<Progress<Value>, PluginFault> {
    let context = case.context();
    Ok(match call {
        Call::Lookup => {
            timed(ran, "lookup-start", plugin.start_lookup(&context, case.outbound())).await?.map(outcome_json)
        }
        Call::Health => {
            timed(ran, "health-start", plugin.start_health(&context, case.subject())).await?.map(verdict_json)
        }
        _ => timed(ran, "start", plugin.start(&context, case.outbound())).await?.map(outcome_json),
    })
}

async fn resume(
    plugin: &Plugin,
    call: Call,
    case: &Case,
    state: &str,
    given: &AnswerCase,
    ran: &mut Ran,
) -> Result<Progress<Value>, PluginFault> {
    let context = case.context_of(given);
    let answer = given.answer().map_err(PluginFault::InvalidInput)?;
    Ok(match call {
        Call::Lookup | Call::LookupResume => {
            timed(ran, "lookup-resume", plugin.resume_lookup(&context, state, answer)).await?.map(outcome_json)
        }
        Call::Health | Call::HealthResume => {
            timed(ran, "health-resume", plugin.resume_health(&context, state, answer)).await?.map(verdict_json)
        }
        _ => timed(ran, "resume", plugin.resume(&context, state, answer)).await?.map(outcome_json),
    })
}

/// A verdict as JSON: its name in the WIT, and what it says.
fn verdict_json(verdict: HealthVerdict) -> Value {
    let mut value = json!({"verdict": verdict.as_str()});
    if let Some(fields) = value.as_object_mut() {
        if let Some(Failure { code, detail, attributes }) = verdict.reason() {
            fields.insert("code".to_owned(), json!(code));
            fields.insert("detail".to_owned(), json!(detail));
            fields.insert("attributes".to_owned(), json!(attributes));
        }
        if let HealthVerdict::Down(outage) = &verdict {
            fields.insert("retry_ms".to_owned(), json!(outage.retry_ms));
        }
    }
    value
}

fn exchange(request: &HttpRequest) -> Exchange {
    let (body, body_bytes) = match &request.body {
        PluginBody::Empty => (Some(String::new()), 0),
        PluginBody::Text(text) => (Some(text.clone()), text.len()),
        PluginBody::Bytes(bytes) => (None, bytes.len()),
    };
    Exchange {
        method: request.method.clone(),
        url: request.url.clone(),
        headers: request.headers.clone(),
        body,
        body_bytes,
        timeout_ms: request.timeout_ms,
        answer: None,
        made: false,
    }
}

/// An outcome as JSON: its name in the WIT, and what it says.
pub fn outcome_json(outcome: Outcome) -> Value {
    let accepted = |name: &str, acceptance: Acceptance| {
        let Acceptance { provider_id, attributes } = acceptance;
        json!({"outcome": name, "provider_id": provider_id, "attributes": attributes})
    };
    let failed = |name: &str, failure: Failure| {
        let Failure { code, detail, attributes } = failure;
        json!({"outcome": name, "code": code, "detail": detail, "attributes": attributes})
    };
    let with = |mut value: Value, field: &str, more: Value| {
        if let Some(fields) = value.as_object_mut() {
            fields.insert(field.to_owned(), more);
        }
        value
    };
    match outcome {
        Outcome::Accepted(acceptance) => accepted("accepted", acceptance),
        Outcome::Delivered(acceptance) => accepted("delivered", acceptance),
        Outcome::RetryAfter(pause) => {
            let scope = match pause.scope {
                Scope::Message => "message",
                Scope::Recipient => "recipient",
                Scope::Device => "device",
                Scope::Account => "account",
            };
            let value = with(failed("retry-after", pause.reason), "scope", json!(scope));
            with(value, "delay_ms", json!(pause.delay_ms))
        }
        Outcome::Transient(failure) => failed("transient", failure),
        Outcome::RecipientPermanent(rejection) => {
            let problem = match rejection.problem {
                RecipientProblem::Invalid => "invalid",
                RecipientProblem::Unreachable => "unreachable",
                RecipientProblem::Blocked => "blocked",
            };
            with(failed("recipient-permanent", rejection.reason), "problem", json!(problem))
        }
        Outcome::OptedOut(failure) => failed("opted-out", failure),
        Outcome::ContentRejected(failure) => failed("content-rejected", failure),
        Outcome::DeviceDown(outage) => with(failed("device-down", outage.reason), "retry_ms", json!(outage.retry_ms)),
        Outcome::AccountBlocked(failure) => failed("account-blocked", failure),
        Outcome::Unknown(failure) => failed("unknown", failure),
    }
}

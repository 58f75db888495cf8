//! A provider that does not exist: latency, failures and rate limits by configuration. The dice are thrown here, from the
//! call's own random number; the host's `simulator:` connector waits and answers as the request's body says.

use common::{Cache, Random};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bindings::carillon::plugin::sending::{
    Acceptance, Answer, Body, Failure, HttpRequest, HttpResponse, Outage, Outbound, Outcome, Pause, Progress,
    RecipientProblem, Rejection, Round, Scope, Step,
};
use crate::bindings::carillon::plugin::types::{Context, PluginError};
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::sender::Guest as Sender;

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "device-sender" });
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
#[serde(default)]
struct Config {
    latency_ms: Range,
    failure_rate: f64,
    permanent_rate: f64,
    opted_out_rate: f64,
    transient_rate: f64,
    rate_limit_rate: f64,
    retry_after_ms: f64,
    device_down_rate: f64,
    not_sent_rate: f64,
    unanswered_rate: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            latency_ms: Range::default(),
            failure_rate: 0.0,
            permanent_rate: 0.0,
            opted_out_rate: 0.0,
            transient_rate: 0.0,
            rate_limit_rate: 0.0,
            retry_after_ms: 1000.0,
            device_down_rate: 0.0,
            not_sent_rate: 0.0,
            unanswered_rate: 0.0,
        }
    }
}

const ACCEPTED: u32 = 202;
const REFUSED: u32 = 422;
const NO_SUCH_ADDRESS: u32 = 404;
const OPTED_OUT: u32 = 410;
const SERVER_ERROR: u32 = 500;
const TOO_MANY: u32 = 429;
const DEVICE_DOWN: u32 = 503;

impl Config {
    fn read(text: &str) -> Result<Self, PluginError> {
        let config: Self = common::parse(text).map_err(PluginError::InvalidConfig)?;
        let rates = config.rates();
        let good = |x: f64| (0.0..=1.0).contains(&x);
        let sum: f64 = rates.iter().map(|(rate, _)| rate).sum();
        // Ten shares of 0.1 are a little more than 1 in binary.
        if !rates.iter().all(|(rate, _)| good(*rate)) || sum > 1.0 + 1e-9 {
            return Err(PluginError::InvalidConfig("the shares must be from 0 to 1 and together at most 1".into()));
        }
        if !(0.0 <= config.latency_ms.min && config.latency_ms.min <= config.latency_ms.max) {
            return Err(PluginError::InvalidConfig("latency_ms.min must be 0 or more and not greater than max".into()));
        }
        Ok(config)
    }

    /// The shares, and what the connector answers for each.
    fn rates(&self) -> [(f64, Reply); 8] {
        [
            (self.failure_rate, Reply::Status(REFUSED)),
            (self.permanent_rate, Reply::Status(NO_SUCH_ADDRESS)),
            (self.opted_out_rate, Reply::Status(OPTED_OUT)),
            (self.transient_rate, Reply::Status(SERVER_ERROR)),
            (self.rate_limit_rate, Reply::Status(TOO_MANY)),
            (self.device_down_rate, Reply::Status(DEVICE_DOWN)),
            (self.not_sent_rate, Reply::NotSent),
            (self.unanswered_rate, Reply::Unanswered),
        ]
    }

    fn decide(&self, dice: f64) -> Reply {
        let mut left = dice;
        for (rate, reply) in self.rates() {
            if left < rate {
                return reply;
            }
            left -= rate;
        }
        Reply::Status(ACCEPTED)
    }
}

#[derive(Clone, Copy)]
enum Reply {
    Status(u32),
    NotSent,
    Unanswered,
}

thread_local! {
    static CONFIGS: Cache<Config> = const { Cache::new() };
}

struct Simulator;

impl Describe for Simulator {
    fn get() -> Info {
        Info {
            name: "simulator".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "A provider that does not exist: latency, failures and rate limits by configuration.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: vec![("provider-deduplicates".into(), "false".into())],
        }
    }
}

impl Sender for Simulator {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let config = CONFIGS.with(|c| c.get(&ctx.config, Config::read))?;
        let mut random = Random::new(ctx.random);
        let reply = config.decide(random.unit());
        let wait_ms = random.between(config.latency_ms.min, config.latency_ms.max);
        let answer = match reply {
            Reply::NotSent => r#""not-sent""#.to_owned(),
            Reply::Unanswered => r#""unanswered""#.to_owned(),
            Reply::Status(TOO_MANY) => json!({
                "status": TOO_MANY,
                "headers": [["retry-after", (config.retry_after_ms / 1000.0).ceil().to_string()]],
                "body": json!({ "retry_after_ms": config.retry_after_ms }).to_string(),
            })
            .to_string(),
            Reply::Status(status) => format!(r#"{{"status":{status}}}"#),
        };
        let request = HttpRequest {
            method: "POST".into(),
            url: "simulator://send".into(),
            headers: vec![("idempotency-key".into(), message.message.id.clone())],
            // A finite float is written as JSON writes it.
            body: Body::Text(format!(r#"{{"wait_ms":{wait_ms},"answer":{answer}}}"#)),
            timeout_ms: config.latency_ms.max + 5000.0,
        };
        Ok(Progress { step: Step::Request(Round { request, state: message.message.id }), account_state: None })
    }

    fn resume(_ctx: Context, state: String, answer: Answer) -> Result<Progress, PluginError> {
        Ok(Progress { step: Step::Done(outcome(state, answer)), account_state: None })
    }
}

fn outcome(message: String, answer: Answer) -> Outcome {
    let response = match answer {
        Answer::NotSent(why) => return Outcome::Transient(failure("not-sent", why)),
        Answer::Unanswered(why) => return Outcome::Unknown(failure("unanswered", why)),
        Answer::Response(response) => response,
    };
    let reason = |detail: &str| failure(&format!("simulated-{}", response.status), detail.into());
    match response.status {
        200..=299 => Outcome::Accepted(Acceptance { provider_id: format!("sim-{message}"), attributes: Vec::new() }),
        REFUSED => Outcome::ContentRejected(reason("the simulated provider refuses the message")),
        NO_SUCH_ADDRESS => Outcome::RecipientPermanent(Rejection {
            problem: RecipientProblem::Invalid,
            reason: reason("the simulated provider knows no such address"),
        }),
        OPTED_OUT => Outcome::OptedOut(reason("the simulated recipient has opted out")),
        TOO_MANY => Outcome::RetryAfter(Pause {
            scope: Scope::Device,
            delay_ms: retry_after_ms(&response),
            reason: reason("the simulated provider asks to slow down"),
        }),
        DEVICE_DOWN => Outcome::DeviceDown(Outage { retry_ms: None, reason: reason("the simulated device is down") }),
        _ => Outcome::Transient(reason("the simulated provider has an error")),
    }
}

fn retry_after_ms(response: &HttpResponse) -> f64 {
    let Body::Text(body) = &response.body else { return 1000.0 };
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    body.get("retry_after_ms").and_then(Value::as_f64).unwrap_or(1000.0)
}

fn failure(code: &str, detail: String) -> Failure {
    Failure { code: code.into(), detail, attributes: Vec::new() }
}

bindings::export!(Simulator with_types_in bindings);

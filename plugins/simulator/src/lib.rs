//! A provider that does not exist: latency, failures and rate limits by configuration. The dice are thrown here, from the
//! call's own random number; the host's `simulator:` connector waits and answers as the request's body says.

use carillon_plugin::health::{self, CheckProgress, Subject, Verdict};
use carillon_plugin::sending::{
    Answer, Body, HttpRequest, Outbound, Outcome, Progress, RecipientProblem, Reply, Round, Scope, Silence, Step,
    accepted, done, down, failure, progress, rejected, wait,
};
use carillon_plugin::{Call, Error, Health, Plugin, Result, Sender};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
#[serde(default)]
struct Simulator {
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

impl Default for Simulator {
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

impl Plugin for Simulator {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");
    const CAPABILITIES: &[(&str, &str)] = &[("provider-deduplicates", "false")];

    fn checked(self) -> Result<Self> {
        let rates = self.rates();
        let good = |x: f64| (0.0..=1.0).contains(&x);
        let sum: f64 = rates.iter().map(|(rate, _)| rate).sum();
        // Ten shares of 0.1 are a little more than 1 in binary.
        if !rates.iter().all(|(rate, _)| good(*rate)) || sum > 1.0 + 1e-9 {
            return Err(Error::config("the shares must be from 0 to 1 and together at most 1"));
        }
        if !(0.0 <= self.latency_ms.min && self.latency_ms.min <= self.latency_ms.max) {
            return Err(Error::config("latency_ms.min must be 0 or more and not greater than max"));
        }
        Ok(self)
    }
}

impl Simulator {
    /// The shares, and what the connector answers for each.
    fn rates(&self) -> [(f64, Decided); 8] {
        [
            (self.failure_rate, Decided::Status(REFUSED)),
            (self.permanent_rate, Decided::Status(NO_SUCH_ADDRESS)),
            (self.opted_out_rate, Decided::Status(OPTED_OUT)),
            (self.transient_rate, Decided::Status(SERVER_ERROR)),
            (self.rate_limit_rate, Decided::Status(TOO_MANY)),
            (self.device_down_rate, Decided::Status(DEVICE_DOWN)),
            (self.not_sent_rate, Decided::NotSent),
            (self.unanswered_rate, Decided::Unanswered),
        ]
    }

    fn decide(&self, dice: f64) -> Decided {
        let mut left = dice;
        for (rate, reply) in self.rates() {
            if left < rate {
                return reply;
            }
            left -= rate;
        }
        Decided::Status(ACCEPTED)
    }
}

impl Simulator {
    /// What the connector shall answer, and after how long.
    fn request(&self, wait_ms: f64, answer: &str) -> HttpRequest {
        HttpRequest {
            method: "POST".into(),
            url: "simulator://send".into(),
            headers: Vec::new(),
            // A finite float is written as JSON writes it.
            body: Body::Text(format!(r#"{{"wait_ms":{wait_ms},"answer":{answer}}}"#)),
            timeout_ms: self.latency_ms.max + 5000.0,
        }
    }
}

#[derive(Clone, Copy)]
enum Decided {
    Status(u32),
    NotSent,
    Unanswered,
}

impl Sender for Simulator {
    fn start(&self, call: &Call, message: Outbound) -> Result<Progress> {
        let mut dice = call.dice();
        let reply = self.decide(dice.unit());
        let wait_ms = dice.between(self.latency_ms.min, self.latency_ms.max);
        let answer = match reply {
            Decided::NotSent => r#""not-sent""#.to_owned(),
            Decided::Unanswered => r#""unanswered""#.to_owned(),
            Decided::Status(TOO_MANY) => json!({
                "status": TOO_MANY,
                "headers": [["retry-after", (self.retry_after_ms / 1000.0).ceil().to_string()]],
                "body": json!({ "retry_after_ms": self.retry_after_ms }).to_string(),
            })
            .to_string(),
            Decided::Status(status) => format!(r#"{{"status":{status}}}"#),
        };
        let mut request = self.request(wait_ms, &answer);
        request.headers.push(("idempotency-key".into(), message.message.id.clone()));
        Ok(progress(Step::Request(Round { request, state: message.message.id })))
    }

    fn resume(&self, call: &Call, state: String, answer: Answer) -> Result<Progress> {
        Ok(done(match Reply::to_send(answer, call.now_ms) {
            Ok(reply) => outcome(&state, &reply),
            Err(outcome) => *outcome,
        }))
    }
}

impl Health for Simulator {
    /// A device is found down as often as a send finds it so.
    fn start(&self, call: &Call, _: Subject) -> Result<CheckProgress> {
        let mut dice = call.dice();
        let status = if dice.unit() < self.device_down_rate { DEVICE_DOWN } else { ACCEPTED };
        let wait_ms = dice.between(self.latency_ms.min, self.latency_ms.max);
        Ok(health::ask(self.request(wait_ms, &format!(r#"{{"status":{status}}}"#))))
    }

    fn resume(&self, call: &Call, _: String, answer: Answer) -> Result<CheckProgress> {
        let verdict = match Reply::to_check(answer, call.now_ms) {
            Ok(reply) if reply.status == DEVICE_DOWN => {
                health::down(None, failure("simulated-503", "the simulated device is down"))
            }
            Ok(_) => Verdict::Healthy,
            Err(Silence::NotSent(reason)) => Verdict::Unknown(reason),
            Err(Silence::Unanswered(reason)) => health::down(None, reason),
        };
        Ok(health::done(verdict))
    }
}

fn outcome(message: &str, reply: &Reply) -> Outcome {
    let reason = |detail: &str| failure(format!("simulated-{}", reply.status), detail);
    match reply.status {
        200..=299 => accepted(format!("sim-{message}")),
        REFUSED => Outcome::ContentRejected(reason("the simulated provider refuses the message")),
        NO_SUCH_ADDRESS => rejected(RecipientProblem::Invalid, reason("the simulated provider knows no such address")),
        OPTED_OUT => Outcome::OptedOut(reason("the simulated recipient has opted out")),
        TOO_MANY => {
            let delay_ms = reply.at("/retry_after_ms").and_then(Value::as_f64).unwrap_or(1000.0);
            wait(Scope::Device, delay_ms, reason("the simulated provider asks to slow down"))
        }
        DEVICE_DOWN => down(None, reason("the simulated device is down")),
        _ => Outcome::Transient(reason("the simulated provider has an error")),
    }
}

carillon_plugin::export!(Simulator: Sender + Health);

//! A device sender with everything that a provider may have: it sends, reads what the provider reports, and asks whether a phone can
//! send. The provider is an invented gateway of phones:
//!
//! - `POST /messages` with `{"phone", "to", "text"}` is answered `{"id"}`;
//! - it posts `{"id", "status", "from", "text"}` to a webhook when a message arrives or somebody replies;
//! - `GET /phones/ID` is answered 200, or 503 while the phone is off.

use carillon_plugin::health::{self, CheckProgress, Subject, Verdict};
use carillon_plugin::sending::{
    Answer, Body, HttpRequest, HttpResponse, Outbound, Progress, Reply, Scope, Silence, accepted, ask, done, failure,
    percent,
};
use carillon_plugin::{Call, Error, Event, EventKind, Health, HttpArrival, Parsed, Plugin, Receipts, Result, Sender};
use serde::Deserialize;

const TIMEOUT_MS: f64 = 5000.0;

#[derive(Deserialize)]
struct Gateway {
    url: String,
}

impl Plugin for Gateway {
    const NAME: Option<&str> = Some("gateway");
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");
}

impl Sender for Gateway {
    fn start(&self, _: &Call, message: Outbound) -> Result<Progress> {
        let body = serde_json::json!({
            "phone": message.device.id, "to": message.recipient.address, "text": message.content.text,
        });
        Ok(ask(HttpRequest {
            method: "POST".into(),
            url: format!("{}/messages", self.url),
            headers: vec![("Content-Type".into(), "application/json".into())],
            body: Body::Text(body.to_string()),
            timeout_ms: TIMEOUT_MS,
        }))
    }

    fn resume(&self, call: &Call, _: String, answer: Answer) -> Result<Progress> {
        Ok(done(match Reply::to_send(answer, call.now_ms) {
            // By this id its reports name the message.
            Ok(reply) if reply.status == 201 => accepted(reply.id("/id")),
            Ok(reply) => reply.wait(Scope::Device, 60_000.0, reply.said("the gateway did not take the message")),
            Err(outcome) => *outcome,
        }))
    }
}

/// What the gateway posts to a webhook.
#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    id: String,
    status: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    text: String,
}

impl Receipts for Gateway {
    fn parse(&self, call: &Call, request: HttpArrival) -> Result<Parsed> {
        let Body::Text(text) = &request.body else { return Err(Error::input("the request has no text")) };
        let report: Report = serde_json::from_str(text).map_err(|_| Error::input("the request is no report"))?;
        let kind = match report.status.as_str() {
            "delivered" => Some(EventKind::Delivered),
            "read" => Some(EventKind::Read),
            "failed" => Some(EventKind::Failed(failure("x-failed", "it did not arrive"))),
            "reply" => Some(EventKind::Reply(report.text)),
            _ => None,
        };
        let (provider_id, address, at) = (report.id, report.from, call.now_ms);
        let events = kind.map(|kind| Event { provider_id, address, at, kind, attributes: vec![] });
        let response = HttpResponse { status: 200, headers: vec![], body: Body::Empty };
        Ok(Parsed { events: events.into_iter().collect(), response })
    }
}

impl Health for Gateway {
    fn start(&self, _: &Call, subject: Subject) -> Result<CheckProgress> {
        let url = format!("{}/phones/{}", self.url, percent(&subject.device.id));
        let (method, body) = ("GET".into(), Body::Empty);
        Ok(health::ask(HttpRequest { method, url, headers: vec![], body, timeout_ms: TIMEOUT_MS }))
    }

    fn resume(&self, call: &Call, _: String, answer: Answer) -> Result<CheckProgress> {
        Ok(health::done(match Reply::to_check(answer, call.now_ms) {
            Ok(reply) if reply.status == 200 => Verdict::Healthy,
            Ok(reply) if reply.status == 503 => health::down(reply.retry_after_ms(), reply.said("the phone is off")),
            Ok(reply) => Verdict::Unknown(reply.said("which says nothing of the phone")),
            Err(Silence::NotSent(why)) => Verdict::Unknown(why),
            Err(Silence::Unanswered(why)) => health::down(None, why),
        }))
    }
}

carillon_plugin::export!(Gateway: Sender + Receipts + Health);

//! What asks the servers for things, as a program of a customer's would: through the load balancer, with an idempotency key
//! on each POST, and again when the answer is 502, 503 or 504, when there is none, or when the first call is still running.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chaos::Plan;
use crate::chaos::books::Policy;
use crate::client::Client;
use crate::server::TOKEN;

/// How long a call is repeated.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long one answer is waited for.
const ANSWERS_IN: Duration = Duration::from_secs(60);
/// How long a list or a state is waited for.
const READS_IN: Duration = Duration::from_secs(10);

/// A message as the API lists it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Its last state.
    pub status: String,
}

/// A client that gets its way.
pub struct Driver {
    client: Client,
}

impl Driver {
    /// A client of what listens on this loopback port.
    pub fn new(port: u16) -> Self {
        Self { client: Client::new(port, TOKEN) }
    }

    /// Makes the devices and the audience of a plan.
    ///
    /// # Panics
    /// When the servers refuse it, or do not answer for minutes.
    pub async fn fill(&self, plan: &Plan) {
        let devices: Vec<Value> =
            (0..plan.devices).map(|n| json!({"id": format!("dev-{n}"), "channel": "sms", "tags": ["eu"]})).collect();
        for page in devices.chunks(1_000) {
            self.post("/api/v1/devices", &json!(page)).await;
        }
        let mut csv = String::from("address,name\n");
        for n in 0..plan.messages {
            csv.push_str(&format!("+1555{n:07},Name {n}\n"));
        }
        self.call(Method::PUT, "/api/v1/audiences/customers", "text/csv", csv.into()).await;
    }

    /// Makes a campaign that sends to this URL and launches it; returns its id.
    ///
    /// # Panics
    /// As [`Driver::fill`].
    pub async fn launch(&self, plan: &Plan, policy: Policy, url: &str, attempt_timeout: Duration, n: u32) -> String {
        let delay = u64::try_from(plan.delay.as_millis()).unwrap_or(u64::MAX);
        let spec = json!({
            "name": format!("storm {n}"), "audience": "customers", "devices": {"tag": "eu"},
            // Tells which version of the plugin made it.
            "template": {"plugin": "jinja",
                         "config": {"text": "{% if greeting is defined %}new{% else %}old{% endif %} {{ name }}"}},
            "delay": {"plugin": "uniform", "config": {"min_ms": delay, "max_ms": delay}},
            "sender": {"plugin": "webhook",
                       "config": {"url": url, "timeout_ms": attempt_timeout.as_millis(), "on_5xx": "transient"}},
            "delivery": match policy { Policy::AtLeastOnce => "at_least_once", Policy::AtMostOnce => "at_most_once" },
            "retry": {"max_attempts": 50, "base_ms": 50, "max_ms": 1_000}
        });
        let made = self.post("/api/v1/campaigns", &spec).await;
        let path = format!("/api/v1/campaigns/{}", made["id"].as_str().expect("an id"));
        let launched = self.asked(Method::POST, &format!("{path}/launch"), "application/json", "{}".into()).await;
        // A server died between the launch and its answer, and the key was given up a minute later: then a launch is refused
        // because there was one.
        if launched.0 == 409 {
            let view = self.get(&path).await;
            assert!(view["status"] != "draft", "the launch was refused: {} {view}", launched.1);
        } else {
            assert!((200..300).contains(&launched.0), "the launch was refused: {launched:?}");
        }
        made["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until this share of a campaign's messages is final; `false`: not in time.
    pub async fn sent_share(&self, campaign: &str, share: f64, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        while Instant::now() < end {
            if let Some(view) = self.try_get(&format!("/api/v1/campaigns/{campaign}")).await {
                let count = |name: &str| view["counts"][name].as_f64().unwrap_or(0.0);
                let all: f64 = view["counts"].as_object().map_or(0.0, |c| c.values().filter_map(Value::as_f64).sum());
                if all > 0.0
                    && view["status"] != "expanding"
                    && all - count("pending") - count("processing") >= share * all
                {
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// Waits until a campaign is completed; returns its messages.
    ///
    /// # Panics
    /// When it is not completed in time; says how it stands.
    pub async fn completed(&self, campaign: &str, at_most: Duration) -> Vec<Row> {
        let path = format!("/api/v1/campaigns/{campaign}");
        let end = Instant::now() + at_most;
        loop {
            let view = self.get(&path).await;
            if view["status"] == "completed" {
                break;
            }
            assert!(Instant::now() < end, "the campaign is not completed in time: {view}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}/messages?limit=1000{cursor}")).await;
            for item in page["items"].as_array().expect("items") {
                rows.push(Row {
                    id: item["id"].as_str().expect("an id").to_owned(),
                    status: item["status"].as_str().expect("a status").to_owned(),
                });
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    /// A GET that is repeated until it is answered.
    ///
    /// # Panics
    /// When that is never.
    pub async fn get(&self, path: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(value) = self.try_get(path).await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no server answers GET {path}");
    }

    async fn try_get(&self, path: &str) -> Option<Value> {
        match tokio::time::timeout(READS_IN, self.client.get(path)).await {
            Ok(Ok((200, value))) => Some(value),
            _ => None,
        }
    }

    /// What `/readyz` says now; `None`: nothing.
    pub async fn readiness(&self) -> Option<(u16, Value)> {
        tokio::time::timeout(READS_IN, self.client.get("/readyz")).await.ok()?.ok()
    }

    /// Posts JSON until it is done.
    ///
    /// # Panics
    /// When it is refused, or not answered for minutes.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.call(Method::POST, path, "application/json", body.to_string().into()).await
    }

    /// Asks until it is done.
    ///
    /// # Panics
    /// As [`Driver::post`].
    pub async fn call(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Value {
        let (status, value) = self.asked(method, path, kind, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {value}");
        value
    }

    async fn asked(&self, method: Method, path: &str, kind: &str, body: Bytes) -> (u16, Value) {
        let key = (method == Method::POST).then(|| uuid::Uuid::new_v4().to_string());
        let end = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < end {
            let call = self.client.send_keyed(method.clone(), path, kind, body.clone(), key.as_deref());
            match tokio::time::timeout(ANSWERS_IN, call).await {
                Ok(Ok((status, value))) => {
                    let running = value["type"] == "urn:carillon:problem:idempotency-key-in-use";
                    if !matches!(status, 502..=504) && !running {
                        return (status, value);
                    }
                    last = format!("{status} {value}");
                }
                Ok(Err(error)) => last = format!("{error:#}"),
                Err(_) => last = "no answer".to_owned(),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("{method} {path} was not done for {PATIENCE:?}: {last}");
    }
}

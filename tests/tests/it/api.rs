//! The HTTP API against a real server on a free port: SQLite, in-process queue, first-party plugins; no engine loops.

mod access;
mod audit;
mod bad_input;
mod connections;
mod grants;
mod health;
mod hooks;
mod import;
mod resources;
mod rollouts;
mod tls;
mod trials;
mod unknown;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carillon::clock::SystemClock;
use carillon::config::Config;
use carillon::core::Core;
use carillon::egress::{Egress, EgressPolicy, Secret};
use carillon::http::ConnectionLimits;
use carillon::id::{HostId, MessageId, RunKey};
use carillon::message::{Begun, Claim, MessageRow, Settled, Settlement, Versions};
use carillon::metrics::Metrics;
use carillon::operations::tokens;
use carillon::plugins::{PluginHost, PluginLimits, Registry};
use carillon::receipt::Expected;
use carillon::{http, queue, store};
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// The admin token of every API test.
const ADMIN: &str = "api-test-admin-0123456789";

/// A server of this process, and what its tests need to talk to it.
struct Api {
    core: Core,
    base: String,
    hyper: Client<HttpConnector, Full<Bytes>>,
    server: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// The answer's body, which must have this status.
    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        if status >= 400 {
            self.is_problem();
        }
        self.body
    }

    /// Checks the form of RFC 9457.
    #[track_caller]
    fn is_problem(&self) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        for field in ["type", "title", "detail"] {
            assert!(self.body[field].as_str().is_some_and(|t| !t.is_empty()), "no {field} in {}", self.body);
        }
        assert_eq!(self.body["status"], json!(self.status));
    }

    /// The body of `/readyz` of a server that cannot work: not a problem document but a report.
    #[track_caller]
    fn expect_not_ready(self) -> Value {
        assert_eq!(self.status, 503, "{}", self.body);
        assert_eq!(self.body["ready"], false);
        self.body
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Api {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_within(ConnectionLimits::default(), change).await
    }

    async fn start_within(limits: ConnectionLimits, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config =
            Config { data: folder.path().to_owned(), admin_token: Some(ADMIN.to_owned()), ..Config::default() };
        change(&mut config);
        let clock = Arc::new(SystemClock::new());
        let plugin_host = plugin_host().await;
        // What the settings say is for tests that run a whole server.
        let allow = config.allow_egress.iter().map(|entry| entry.parse().unwrap()).collect();
        let secrets = config.secrets.iter().map(|entry| Secret::parse(entry).unwrap()).collect();
        let policy = EgressPolicy { allow, secrets, ..EgressPolicy::default() };
        let core = Core {
            host: HostId::new(),
            store: store::open(&config.store_url(), config.store_connections).await.unwrap(),
            queue: queue::open(&config.queue, clock.clone()).await.unwrap(),
            plugins: Arc::new(Registry::new(plugin_host.clone())),
            plugin_host,
            egress: Egress::new(policy).unwrap(),
            clock,
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            accounts: Arc::default(),
            hosts: Arc::default(),
            store_trouble: Arc::default(),
        };
        core.plugins.ensure_first_party(&*core.store, None, core.clock.now()).await.unwrap();
        assert_eq!(tokens::ensure_admin_token(&core).await.unwrap(), None);
        core.queue.configure_max_workers(core.config.max_workers, core.config.max_workers).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = http::router(core.clone(), axum::Router::new());
        let server = tokio::spawn(http::serve(listener, None, router, limits, CancellationToken::new()));
        Self { core, base, hyper: Client::builder(TokioExecutor::new()).build_http(), server, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.hyper.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// A call by the administrator, with JSON where there is a body.
    async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call_as(ADMIN, method, path, body).await
    }

    async fn call_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/api/v1{path}"), &headers, body).await
    }

    async fn upload(&self, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> Answer {
        let bearer = format!("Bearer {ADMIN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", media)];
        self.send(method, &format!("/api/v1{path}"), &headers, body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, Value::Null).await.expect(200)
    }

    /// A token with these scopes: its id and its secret.
    async fn token(&self, scopes: &[&str]) -> (String, String) {
        let made = self.call("POST", "/tokens", json!({"name": "t", "scopes": scopes})).await.expect(201);
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    /// Two devices tagged `eu` and an audience `customers` of three.
    async fn furnish(&self) {
        let devices = json!([{"id": "dev-1", "channel": "sms", "tags": ["eu"]}, {"id": "dev-2", "channel": "sms", "tags": ["eu"]}]);
        self.call("POST", "/devices", devices).await.expect(201);
        let csv = "address,name,city\n+1,Ann,Bern\n+2,Bob,Rome\n+3,Cleo,Oslo\n";
        self.upload("PUT", "/audiences/customers", "text/csv", csv).await.expect(200);
    }

    /// A campaign over what [`Api::furnish`] made; returns its id.
    async fn campaign(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut spec = campaign();
        change(&mut spec);
        let made = self.call("POST", "/campaigns", spec).await.expect(201);
        assert_eq!(made["status"], "draft");
        made["id"].as_str().unwrap().to_owned()
    }

    /// A running campaign over what [`Api::furnish`] made, each of whose messages was begun for `sender` and came to what `end`
    /// says, with what its provider's reports will find it by: its id, and theirs.
    async fn ended(
        &self,
        sender: &str,
        change: impl FnOnce(&mut Value),
        end: impl Fn(&MessageRow) -> (Settled, Option<Expected>),
    ) -> (String, Vec<MessageId>) {
        let id = self.campaign(change).await;
        let view = self.call("POST", &format!("/campaigns/{id}/launch"), Value::Null).await.expect(200);
        let run = RunKey(i32::try_from(view["run"].as_i64().unwrap()).unwrap());
        let (store, now) = (&self.core.store, self.core.clock.now());
        store.expand_page(run, 0, 100, now).await.unwrap().unwrap();
        let no = |name: &str| self.core.plugins.resolve(name, None).unwrap().no;
        let versions = Versions { template: no("jinja"), delay: no("uniform"), sender: no(sender) };
        let mut messages = Vec::new();
        for row in store.messages(run, None, None, 100).await.unwrap().items {
            let device = store.device(&row.device).await.unwrap().unwrap().no;
            let token = now.as_ms() + i64::try_from(messages.len()).unwrap();
            let claim =
                Claim { message: row.id, device, channel: "sms".into(), token, versions, uncertainty: Duration::ZERO };
            let begun = store.begin(self.core.host, &[claim], now).await.unwrap().remove(0);
            let Begun::Started(work) = begun else { panic!("{begun:?}") };
            let (outcome, receipt) = end(&row);
            let settlement = Settlement {
                message: row.id,
                device,
                token,
                attempt: work.attempt,
                versions,
                outcome,
                started_at: now,
                finished_at: now,
                pace: None,
                suppress: None,
                sequence: None,
                receipt,
            };
            assert_eq!(store.settle(&[settlement]).await.unwrap(), [true]);
            messages.push(row.id);
        }
        (id, messages)
    }
}

/// Compiling plugins takes a while: one engine for all tests, with a cache that outlives them.
async fn plugin_host() -> PluginHost {
    static HOST: OnceCell<PluginHost> = OnceCell::const_new();
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("api-plugins");
    HOST.get_or_init(async || PluginHost::new(PluginLimits::default(), Some(&cache)).unwrap()).await.clone()
}

/// The campaign of the documentation, without its schedule.
fn campaign() -> Value {
    json!({"name": "autumn", "audience": "customers", "devices": {"tag": "eu"},
        "template": {"plugin": "jinja", "config": {"text": "Hello {{ name }}"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": 500, "max_ms": 1500}},
        "sender": {"plugin": "webhook", "config": {"url": "http://127.0.0.1:9000/send"}},
        "delivery": "at_least_once", "retry": {"max_attempts": 5}})
}

//! The receiving end: an HTTP server that takes what the `webhook` sender posts and keeps the ledger that the bench checks.
//!
//! `POST` anything is a message, `GET /report` the ledger, `DELETE /report` starts it anew.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::pacing::{Asked, Pacing, Summary};
use crate::clock::{Clock, SystemClock};

/// Messages, addresses and devices that the ledger holds at most; what comes after is refused.
const LEDGER_MAX: usize = 50_000_000;
/// Largest request that is read, in bytes.
const REQUEST_MAX: usize = 1 << 20;

/// What arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkReport {
    /// Requests that were messages.
    pub received: u64,
    /// Different idempotency keys.
    pub messages: u64,
    /// Different addresses.
    pub addresses: u64,
    /// Different devices.
    pub devices: u64,
    /// Requests whose idempotency key had come before.
    pub duplicates: u64,
    /// Messages that came from their device after one with a larger id.
    pub order_violations: u64,
    /// Messages that came from their device sooner than asked.
    pub early: u64,
    /// By how much they came later than asked.
    pub pacing_error_ms: Summary,
    /// Requests that were no message.
    pub unreadable: u64,
}

/// A running sink.
pub struct Sink {
    /// Where it listens.
    pub addr: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
    server: JoinHandle<()>,
}

impl Sink {
    /// Starts to listen.
    pub async fn start(addr: SocketAddr, asked: Asked) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr).await.with_context(|| format!("listening on {addr}"))?;
        let addr = listener.local_addr()?;
        let ledger = Arc::new(Mutex::new(Ledger::new(asked)?));
        let server = tokio::spawn(accept(listener, ledger.clone()));
        Ok(Self { addr, ledger, server })
    }

    /// What arrived so far.
    pub fn report(&self) -> SinkReport {
        self.ledger.lock().report()
    }

    /// A view of the ledger that outlives the server.
    pub fn handle(&self) -> LedgerHandle {
        LedgerHandle(self.ledger.clone())
    }

    /// Serves until the process ends.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        (&mut self.server).await.context("the sink died")
    }
}

/// A view of a sink's ledger.
pub struct LedgerHandle(Arc<Mutex<Ledger>>);

impl LedgerHandle {
    /// What arrived so far.
    pub fn report(&self) -> SinkReport {
        self.0.lock().report()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, ledger: Arc<Mutex<Ledger>>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: connections that end make room.
                tracing::warn!(error = %error, "the sink cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "a connection keeps its delay");
        }
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, ledger.clone()));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(error = %error, "a connection broke off");
            }
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, ledger: Arc<Mutex<Ledger>>) -> Result<Answer, hyper::http::Error> {
    let reply = |status: StatusCode, body: Vec<u8>| {
        Response::builder().status(status).header("content-type", "application/json").body(Full::new(Bytes::from(body)))
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/report") => {
            let report = ledger.lock().report();
            reply(StatusCode::OK, serde_json::to_vec(&report).unwrap_or_default())
        }
        (&Method::DELETE, "/report") => match ledger.lock().clear() {
            Ok(()) => reply(StatusCode::NO_CONTENT, Vec::new()),
            Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
        },
        (&Method::POST, _) => {
            let header = request.headers().get("idempotency-key").and_then(|v| v.to_str().ok()).map(str::to_owned);
            let Ok(body) = Limited::new(request.into_body(), REQUEST_MAX).collect().await else {
                return reply(StatusCode::PAYLOAD_TOO_LARGE, Vec::new());
            };
            match ledger.lock().take(header.as_deref(), &body.to_bytes()) {
                Taken::Message(n) => reply(StatusCode::OK, format!("{{\"id\":\"sink-{n}\"}}").into_bytes()),
                Taken::Unreadable => reply(StatusCode::BAD_REQUEST, b"{\"error\":\"not a message\"}".to_vec()),
                Taken::Full => reply(StatusCode::INSUFFICIENT_STORAGE, b"{\"error\":\"the ledger is full\"}".to_vec()),
            }
        }
        _ => reply(StatusCode::NOT_FOUND, Vec::new()),
    }
}

#[derive(Deserialize)]
struct Posted<'a> {
    #[serde(borrow)]
    to: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    device: std::borrow::Cow<'a, str>,
}

enum Taken {
    Message(u64),
    Unreadable,
    Full,
}

struct Seen {
    message: u64,
    at: Duration,
}

/// Numbers in place of texts keep it at a few dozen bytes a message.
struct Ledger {
    asked: Asked,
    clock: SystemClock,
    messages: HashMap<u64, u32>,
    addresses: HashMap<u64, u32>,
    devices: HashMap<u64, Seen>,
    pacing: Pacing,
    received: u64,
    duplicates: u64,
    order_violations: u64,
    unreadable: u64,
}

impl Ledger {
    fn new(asked: Asked) -> anyhow::Result<Self> {
        Ok(Self {
            asked,
            clock: SystemClock::new(),
            messages: HashMap::new(),
            addresses: HashMap::new(),
            devices: HashMap::new(),
            pacing: Pacing::new(asked)?,
            received: 0,
            duplicates: 0,
            order_violations: 0,
            unreadable: 0,
        })
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        *self = Self::new(self.asked)?;
        Ok(())
    }

    fn take(&mut self, key: Option<&str>, body: &[u8]) -> Taken {
        let (Some(key), Ok(posted)) = (key, serde_json::from_slice::<Posted>(body)) else {
            self.unreadable += 1;
            return Taken::Unreadable;
        };
        if self.messages.len() >= LEDGER_MAX {
            return Taken::Full;
        }
        self.received += 1;
        // Message ids are 19 digits and sort as numbers; any other key still counts once.
        let message = key.parse().unwrap_or_else(|_| hash(key));
        let times = self.messages.entry(message).or_insert(0);
        *times += 1;
        if *times > 1 {
            self.duplicates += 1;
        }
        *self.addresses.entry(hash(&posted.to)).or_insert(0) += 1;

        let at = self.clock.monotonic();
        if let Some(before) = self.devices.insert(hash(&posted.device), Seen { message, at }) {
            if before.message > message {
                self.order_violations += 1;
            }
            self.pacing.add(at.saturating_sub(before.at));
        }
        Taken::Message(self.received)
    }

    fn report(&self) -> SinkReport {
        SinkReport {
            received: self.received,
            messages: self.messages.len() as u64,
            addresses: self.addresses.len() as u64,
            devices: self.devices.len() as u64,
            duplicates: self.duplicates,
            order_violations: self.order_violations,
            early: self.pacing.early(),
            pacing_error_ms: self.pacing.error(),
            unreadable: self.unreadable,
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Api;

    const NO_DELAY: Asked = Asked { min: Duration::ZERO, max: Duration::ZERO };

    fn post(ledger: &mut Ledger, id: &str, to: &str, device: &str) {
        let body = format!(r#"{{"id":"{id}","to":"{to}","text":"hi","device":"{device}","attempt":1}}"#);
        assert!(matches!(ledger.take(Some(id), body.as_bytes()), Taken::Message(_)));
    }

    #[test]
    fn the_ledger_counts_what_repeats_and_what_overtakes() {
        let mut ledger = Ledger::new(NO_DELAY).unwrap();
        post(&mut ledger, "1000000000000000002", "a", "d1");
        post(&mut ledger, "1000000000000000001", "b", "d1");
        post(&mut ledger, "1000000000000000001", "b", "d2");
        assert!(matches!(ledger.take(None, b"{}"), Taken::Unreadable));
        let report = ledger.report();
        assert_eq!((report.received, report.messages, report.addresses, report.devices), (3, 2, 2, 2));
        assert_eq!((report.duplicates, report.order_violations, report.unreadable), (1, 1, 1));
    }

    #[test]
    fn a_gap_that_is_too_short_is_early() {
        let mut ledger = Ledger::new(Asked { min: Duration::from_secs(60), max: Duration::from_secs(60) }).unwrap();
        post(&mut ledger, "1000000000000000001", "a", "d1");
        post(&mut ledger, "1000000000000000002", "b", "d1");
        assert_eq!(ledger.report().early, 1);
    }

    #[tokio::test]
    async fn it_answers_over_http() {
        let sink = Sink::start(SocketAddr::from(([127, 0, 0, 1], 0)), NO_DELAY).await.unwrap();
        let api = Api::new("--to", &format!("http://{}", sink.addr), None).unwrap();
        let answer = api.call("POST", "/send", "application/json", Bytes::from("{}")).await.unwrap();
        assert_eq!(answer.status, 400);
        let answer = api.call("GET", "/report", "application/json", Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(serde_json::from_slice::<SinkReport>(&answer.body).unwrap(), sink.report());
        assert_eq!(sink.report().unreadable, 1);
    }
}

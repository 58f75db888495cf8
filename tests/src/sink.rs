//! The receiving end: an HTTP server that writes down every request in the order in which it came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The message id, which is also the idempotency key.
    pub id: String,
    /// The recipient.
    pub to: String,
    /// What it says.
    pub text: String,
    /// The device that sent it.
    pub device: String,
    /// Which attempt it says it is.
    pub attempt: u64,
    /// When the request had arrived whole.
    pub at: Instant,
    /// When the answer left.
    pub answered_at: Instant,
}

/// A running sink.
pub struct Sink {
    /// Where it listens.
    pub port: u16,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    wait_ms: Arc<AtomicU64>,
    cut: Arc<Mutex<Option<Cut>>>,
    lost: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

/// When a connection is cut instead of answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// After the message was written down.
    Taken,
    /// Before it was.
    Lost,
}

impl Sink {
    /// Starts a sink on a free port.
    pub async fn start() -> Self {
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let wait_ms = Arc::new(AtomicU64::new(0));
        let cut: Arc<Mutex<Option<Cut>>> = Arc::default();
        let lost = Arc::new(AtomicU64::new(0));
        let (seen, wait, cuts, losses) = (arrivals.clone(), wait_ms.clone(), cut.clone(), lost.clone());
        let (port, server) = listen(move |request: Request<Incoming>, _| {
            let (seen, wait, losses, cut) = (seen.clone(), wait.clone(), losses.clone(), *cuts.lock());
            async move {
                if request.method() == Method::GET {
                    return Ok(looked_up(request.uri().path(), &seen));
                }
                if cut == Some(Cut::Lost) {
                    losses.fetch_add(1, Ordering::Relaxed);
                    return Err("lost");
                }
                let answer = answer(request, seen, wait).await;
                if cut == Some(Cut::Taken) { Err("taken") } else { Ok(answer) }
            }
        })
        .await;
        Self { port, arrivals, wait_ms, cut, lost, server }
    }

    /// The URL that messages are posted to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/send", self.port)
    }

    /// From now on each answer waits this long.
    pub fn answer_after(&self, wait: Duration) {
        self.wait_ms.store(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Where it can be asked whether it has taken a message: 404 for one that it has not.
    pub fn lookup_url(&self) -> String {
        format!("http://127.0.0.1:{}/messages/{{{{ id }}}}", self.port)
    }

    /// From now on messages are not answered: their connections are cut.
    pub fn cut(&self, when: Option<Cut>) {
        *self.cut.lock() = when;
    }

    /// How many messages were lost by [`Cut::Lost`].
    pub fn lost(&self) -> usize {
        usize::try_from(self.lost.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Takes a message as if it had come.
    pub fn take(&self, id: &str) {
        let now = Instant::now();
        let none = String::new;
        let (to, text, device) = (none(), none(), none());
        self.arrivals.lock().push(Arrival {
            id: id.to_owned(),
            to,
            text,
            device,
            attempt: 1,
            at: now,
            answered_at: now,
        });
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        self.arrivals.lock().len()
    }

    /// Every request so far, in order of arrival.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().clone()
    }

    /// How often each address was sent to.
    pub fn per_address(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for arrival in self.arrivals.lock().iter() {
            *counts.entry(arrival.to.clone()).or_default() += 1;
        }
        counts
    }

    /// The requests by device, each in order of arrival.
    pub fn per_device(&self) -> HashMap<String, Vec<Arrival>> {
        let mut devices: HashMap<String, Vec<Arrival>> = HashMap::new();
        for arrival in self.arrivals() {
            devices.entry(arrival.device.clone()).or_default().push(arrival);
        }
        devices
    }

    /// Asserts that each device had at most one request open at a time, and left at least `gap` between the answer to
    /// one and the next (`gap` zero: only that they do not overlap).
    pub fn assert_pace(&self, gap: Duration) {
        for (device, arrivals) in self.per_device() {
            for pair in arrivals.windows(2) {
                let between = pair[1].at.saturating_duration_since(pair[0].answered_at);
                // The answer is written down a moment before it leaves, so what is measured is never too short.
                assert!(
                    pair[1].at >= pair[0].answered_at && between >= gap,
                    "{device}: {between:?} between {} and {}, asked for {gap:?}",
                    pair[0].id,
                    pair[1].id
                );
            }
        }
    }

    /// Asserts that the first attempts of each device came in the order of their ids.
    pub fn assert_order(&self) {
        for (device, arrivals) in self.per_device() {
            let ids: Vec<&str> = arrivals.iter().filter(|a| a.attempt == 1).map(|a| a.id.as_str()).collect();
            assert!(ids.is_sorted(), "{device}: out of order: {ids:?}");
        }
    }
}

/// Answers requests on a free port, until the task is aborted. An answer that is an error cuts its connection.
pub(crate) async fn listen<A, E>(
    answer: impl Fn(Request<Incoming>, SocketAddr) -> A + Clone + Send + 'static,
) -> (u16, JoinHandle<()>)
where
    A: Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, from));
                let io = TokioIo::new(stream);
                let _cut_by_either_side =
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    (port, server)
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Arrival>>>,
    wait: Arc<AtomicU64>,
) -> Response<Full<Bytes>> {
    let key = request.headers().get("idempotency-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        // Cut before it was whole: it did not arrive.
        Err(_) => Bytes::new(),
    };
    let at = Instant::now();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let id = text("id");
    let index = {
        let mut seen = seen.lock();
        seen.push(Arrival {
            id: id.clone(),
            to: text("to"),
            text: text("text"),
            device: text("device"),
            attempt: json["attempt"].as_u64().unwrap_or(0),
            at,
            answered_at: at,
        });
        seen.len() - 1
    };
    let wait = Duration::from_millis(wait.load(Ordering::Relaxed));
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    seen.lock()[index].answered_at = Instant::now();
    let status = if key == id && !id.is_empty() { 202 } else { 400 };
    let answer = serde_json::json!({ "id": format!("sink-{id}") }).to_string();
    Response::builder().status(status).body(Full::new(answer.into())).unwrap_or_default()
}

/// Whether the message that a path ends with was taken.
fn looked_up(path: &str, seen: &Mutex<Vec<Arrival>>) -> Response<Full<Bytes>> {
    let id = path.rsplit('/').next().unwrap_or_default();
    let taken = seen.lock().iter().any(|arrival| arrival.id == id);
    let answer = if taken { serde_json::json!({ "id": format!("sink-{id}") }).to_string() } else { "{}".to_owned() };
    let status = if taken { 200 } else { 404 };
    Response::builder().status(status).body(Full::new(answer.into())).unwrap_or_default()
}

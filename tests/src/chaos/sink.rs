//! The ledger: a sink that has each message on disk before it answers, and that answers as providers do on bad days.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sink::listen;

/// What the sink does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes the message and says so.
    Takes,
    /// Takes it and says so late.
    TakesLate,
    /// Takes it and cuts the connection.
    TakesAndCuts,
    /// Takes it and says nothing until the sender gives up.
    TakesAndHangs,
    /// Does not take it: 429 with `Retry-After`.
    TooMany,
    /// Does not take it: 503 with nothing else.
    Broken,
}

impl Manner {
    /// Whether the recipient would have got the message.
    pub fn takes(self) -> bool {
        !matches!(self, Self::TooMany | Self::Broken)
    }

    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..1_000) {
            0..10 => Self::TakesLate,
            10..14 => Self::TakesAndCuts,
            14..17 => Self::TakesAndHangs,
            17..25 => Self::TooMany,
            25..33 => Self::Broken,
            _ => Self::Takes,
        }
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The message id, which is also the idempotency key.
    pub message: String,
    /// The device that sent it.
    pub device: String,
    /// Which attempt it says it is.
    pub attempt: u64,
    /// When it had arrived whole.
    pub at: Instant,
    /// When the answer was ready, or the sender gave up.
    pub ended_at: Instant,
    /// What the sink did with it.
    pub manner: Manner,
    /// Its first word: which version of the template plugin made it.
    pub made_by: String,
}

/// What becomes of a request that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sprung {
    /// It is answered as if there were no trap.
    No,
    /// Its server dies when the answer has left.
    AfterAnswer,
    /// Its server is dead; nobody waits for an answer.
    Now,
}

/// Called with the address of a request's sender when the request is on disk.
type Trap = Box<dyn Fn(SocketAddr) -> Sprung + Send>;

struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    rng: Mutex<StdRng>,
    disk: mpsc::UnboundedSender<(String, oneshot::Sender<()>)>,
    trap: Mutex<Option<Trap>>,
    struck: Mutex<Vec<(String, Instant)>>,
    calm: AtomicBool,
    wait_ms: AtomicU64,
}

/// A running sink.
pub struct Sink {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Sink {
    /// Starts a sink that keeps its ledger in this file.
    ///
    /// # Panics
    /// When there is no free port or the file cannot be made.
    pub async fn start(file: &Path, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            arrivals: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            disk: write_down(File::create(file).expect("the ledger can be made")),
            trap: Mutex::default(),
            struck: Mutex::default(),
            calm: false.into(),
            wait_ms: 0.into(),
        });
        let all = shared.clone();
        let (port, server) = listen(move |request, from| answer(request, from, all.clone())).await;
        Self { port, shared, server }
    }

    /// The URL that messages are posted to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/send", self.port)
    }

    /// From now on each answer waits this long.
    pub fn answer_after(&self, wait: Duration) {
        self.shared.wait_ms.store(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// From now on every message is taken, or not.
    pub fn be_kind(&self, kind: bool) {
        self.shared.calm.store(kind, Ordering::Relaxed);
    }

    /// Springs when a request is on disk and not answered yet, once.
    pub fn set_trap(&self, trap: impl Fn(SocketAddr) -> Sprung + Send + 'static) {
        *self.shared.trap.lock() = Some(Box::new(trap));
    }

    /// Takes the trap away.
    pub fn clear_trap(&self) {
        *self.shared.trap.lock() = None;
    }

    /// Takes every request so far, in order of arrival.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.shared.arrivals.lock())
    }

    /// Takes the devices whose server a trap killed so far, and when.
    pub fn take_struck(&self) -> Vec<(String, Instant)> {
        std::mem::take(&mut *self.shared.struck.lock())
    }

    /// Every request so far, by device, each in order of arrival.
    pub fn by_device(arrivals: &[Arrival]) -> HashMap<&str, Vec<&Arrival>> {
        let mut devices: HashMap<&str, Vec<&Arrival>> = HashMap::new();
        for arrival in arrivals {
            devices.entry(&arrival.device).or_default().push(arrival);
        }
        devices
    }

    /// A copy of every request so far.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().clone()
    }
}

/// A thread that writes lines down: all that came in meanwhile, then one flush to the disk for them all.
fn write_down(mut file: File) -> mpsc::UnboundedSender<(String, oneshot::Sender<()>)> {
    let (lines, mut inbox) = mpsc::unbounded_channel::<(String, oneshot::Sender<()>)>();
    std::thread::spawn(move || {
        while let Some(first) = inbox.blocking_recv() {
            let mut group = vec![first];
            while let Ok(next) = inbox.try_recv() {
                group.push(next);
            }
            let text: String = group.iter().map(|(line, _)| line.as_str()).collect();
            file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).expect("the ledger is written");
            for (_, written) in group {
                let _gone = written.send(());
            }
        }
    });
    lines
}

/// Notes when a request was over, also when the sender hung up.
struct Open {
    shared: Arc<Shared>,
    index: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(arrival) = self.shared.arrivals.lock().get_mut(self.index) {
            arrival.ended_at = Instant::now();
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let key = request.headers().get("idempotency-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    // Cut before it was whole: it did not arrive.
    let body = request.into_body().collect().await?.to_bytes();
    let at = Instant::now();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let (message, device, attempt) = (text("id"), text("device"), json["attempt"].as_u64().unwrap_or(0));
    let manner = if shared.calm.load(Ordering::Relaxed) { Manner::Takes } else { Manner::draw(&mut shared.rng.lock()) };
    let line = format!("{message}\t{key}\t{device}\t{attempt}\t{manner:?}\n");
    let index = {
        let mut arrivals = shared.arrivals.lock();
        let made_by = text("text").split(' ').next().unwrap_or_default().to_owned();
        let device = device.clone();
        arrivals.push(Arrival { message: message.clone(), device, attempt, at, ended_at: at, manner, made_by });
        arrivals.len() - 1
    };
    let open = Open { shared: shared.clone(), index };
    let (written, on_disk) = oneshot::channel();
    shared.disk.send((line, written))?;
    on_disk.await?;
    let sprung = shared.trap.lock().as_ref().map_or(Sprung::No, |trap| trap(from));
    if sprung != Sprung::No {
        shared.struck.lock().push((device, Instant::now()));
    }
    if sprung == Sprung::Now {
        *shared.trap.lock() = None;
        return Err("the trap sprang".into());
    }
    let refuse = |status: u16| Response::builder().status(status).body(Full::new(Bytes::new()));
    let response = match manner {
        Manner::TooMany => Response::builder().status(429).header("retry-after", "1").body(Full::new(Bytes::new()))?,
        Manner::Broken => refuse(503)?,
        Manner::TakesAndCuts => return Err("cut on purpose".into()),
        Manner::TakesAndHangs => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            refuse(504)?
        }
        Manner::Takes | Manner::TakesLate => {
            if manner == Manner::TakesLate {
                let wait = shared.rng.lock().random_range(20..600);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            tokio::time::sleep(Duration::from_millis(shared.wait_ms.load(Ordering::Relaxed))).await;
            let status = if key == message && !message.is_empty() { 202 } else { 400 };
            let answer = serde_json::json!({ "id": format!("sink-{message}") }).to_string();
            Response::builder().status(status).body(Full::new(answer.into()))?
        }
    };
    drop(open);
    Ok(response)
}

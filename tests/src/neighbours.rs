//! What plugins that mean harm cost others: a campaign on good plugins, paced at a share of what the machine can, and beside it,
//! one after the other, everything that `harm` knows, done without a rest. A clean window before and after each one tells what
//! the campaign sends without it, so that a machine that becomes slower is not taken for an effect.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::harm::{self, Deed, Harm};
use crate::server::{Server, Setup};
use crate::wait::eventually;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long each window is.
    pub window: Duration,
    /// How often each row is measured.
    pub rounds: usize,
    /// Devices of the good campaign.
    pub devices: usize,
    /// The good campaign's share of what the machine can, above 0 and at most 1.
    pub share: f64,
    /// Only rows with this in them.
    pub only: String,
}

/// What came of one row.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The row.
    pub row: &'static str,
    /// What it cost the good campaign in each round, in percent, the lowest first: messages a second beside it against those in
    /// the clean windows before and after. Less than 0: nothing that can be told from noise.
    pub costs: Vec<f64>,
    /// How often it was uploaded, or its campaign was paused by the server.
    pub times: usize,
}

impl Effect {
    /// The median of the rounds.
    pub fn cost(&self) -> f64 {
        self.costs[self.costs.len() / 2]
    }
}

/// Devices of the hostile campaigns, and people that they are to write to.
const HOSTILE_DEVICES: usize = 60;
const VICTIMS: usize = 3_000;
/// How long the machine is measured.
const CALIBRATION: Duration = Duration::from_secs(10);
/// 1 Gbit/s, which is what a server's network often is.
const LINE_BYTES_PER_SECOND: f64 = 125e6;
/// Compiling what is made to exhaust the compiler ends soon, and each plugin of the program may be compiled.
const COMPILE_S: &str = "8";
/// After so many delays that differ by four fifths, nothing is left of a common beginning.
const SPREAD: f64 = 5.0;
/// Between one upload and the next.
const REST: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(300);

struct World {
    server: Server,
    _data: tempfile::TempDir,
}

/// Measures everything; `tell` is called with each line of progress.
///
/// # Panics
/// When the server does not do what every test expects of it.
pub async fn measure(plan: &Plan, tell: impl Fn(String)) -> Vec<Effect> {
    let endless = endless().await;
    let harms: Vec<Harm> = harm::all(endless).into_iter().filter(|h| h.row.contains(&plan.only)).collect();
    let data = tempfile::tempdir().expect("a folder");
    let server = Setup::embedded(data.path(), &[endless]).with("CARILLON_PLUGIN_COMPILE_S", COMPILE_S).start().await;
    let world = World { server, _data: data };
    world.devices("good", plan.devices).await;
    world.devices("harm", HOSTILE_DEVICES).await;
    world.audience("victims", VICTIMS).await;

    let most = world.calibrate(plan).await;
    let rate = most * plan.share;
    let delay_ms = plan.devices as f64 / rate * 1000.0;
    tell(format!("the machine sends {most:.0}/s; the campaign is paced at {rate:.0}/s"));
    let turns = (harms.len() * plan.rounds) as f64;
    let seconds = plan.window.as_secs_f64() * (2.0 * turns + 4.0) + 60.0 + 2.0 * turns;
    world.audience("customers", (rate * seconds * 1.2) as usize).await;
    let good = world.launch("good", "customers", "good", delay_ms, None).await;
    world.until(&good, |campaign| campaign["status"] == "running").await;
    // All devices begin at once, and a window that is shorter than their delay would see waves: until they have come apart.
    sleep(Duration::from_secs_f64(delay_ms / 1000.0 * SPREAD).max(Duration::from_secs(5))).await;

    let mut before = world.window(&good, plan.window).await;
    let mut out = Vec::new();
    for harm in &harms {
        let mut effect = Effect { row: harm.row, costs: Vec::new(), times: 0 };
        let mut clean = 0.0;
        for _ in 0..plan.rounds {
            let (beside, times) = world.suffer(&good, harm, plan.window).await;
            sleep(Duration::from_secs(1)).await;
            let after = world.window(&good, plan.window).await;
            clean = f64::midpoint(before, after);
            before = after;
            effect.costs.push((1.0 - beside / clean) * 100.0);
            effect.times += times;
        }
        effect.costs.sort_by(f64::total_cmp);
        let (least, most) = (effect.costs[0], effect.costs[effect.costs.len() - 1]);
        let (cost, times) = (effect.cost(), effect.times);
        tell(format!("{cost:>6.1} % {least:>6.1} {most:>6.1} {clean:>7.0}/s {times:>6} {}", harm.row));
        out.push(effect);
    }
    let view = world.server.get(&format!("/api/v1/campaigns/{good}")).await;
    assert_eq!(view["status"], "running", "the campaign was long enough and nobody paused it: {view}");
    assert_eq!(view["counts"]["failed"], 0, "{view}");
    out
}

impl World {
    async fn devices(&self, tag: &str, count: usize) {
        for first in (0..count).step_by(1_000) {
            let some: Value = (first..count.min(first + 1_000))
                .map(|n| json!({"id": format!("{tag}-{n}"), "channel": "sms", "tags": [tag], "sender": {"plugin": "simulator"}}))
                .collect();
            self.server.post("/api/v1/devices", &some).await;
        }
    }

    async fn audience(&self, name: &str, count: usize) {
        let mut csv = String::from("address,name\n");
        for n in 0..count {
            csv += &format!("+1{n:09},Ada\n");
        }
        let path = format!("/api/v1/audiences/{name}");
        let (status, answer) =
            self.server.client.send(Method::PUT, &path, "text/csv", csv.into()).await.expect("an answer");
        assert!(status < 300, "{status} {answer}");
    }

    async fn launch(&self, name: &str, audience: &str, tag: &str, delay_ms: f64, harm: Option<(&str, &str)>) -> String {
        let mut spec = json!({
            "name": name, "audience": audience, "devices": {"tag": tag},
            "template": {"plugin": "jinja", "config": {"text": "Hello {{ name }}"}},
            "delay": {"plugin": "uniform", "config": {"min_ms": delay_ms * 0.2, "max_ms": delay_ms * 1.8}},
            "sender": {"plugin": "simulator", "config": {"latency_ms": {"min": 5, "max": 15}}},
            "retry": {"base_ms": 10, "max_ms": 10, "max_attempts": 100},
        });
        if let Some((part, plugin)) = harm {
            spec[part] = json!({"plugin": plugin, "config": {}});
        }
        let made = self.server.post("/api/v1/campaigns", &spec).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        self.server.post(&format!("/api/v1/campaigns/{id}/launch"), &json!({})).await;
        id
    }

    async fn until(&self, id: &str, holds: impl Fn(&Value) -> bool) {
        let (client, path) = (&self.server.client, format!("/api/v1/campaigns/{id}"));
        eventually("the campaign is that far", PATIENCE, || async {
            client.get(&path).await.is_ok_and(|(status, campaign)| status == 200 && holds(&campaign))
        })
        .await;
    }

    async fn sent(&self, id: &str) -> u64 {
        let campaign = self.server.get(&format!("/api/v1/campaigns/{id}")).await;
        campaign["counts"]["sent"].as_u64().expect("a count")
    }

    /// Messages a second that a campaign sends in a while.
    async fn window(&self, id: &str, length: Duration) -> f64 {
        let (began, before) = (Instant::now(), self.sent(id).await);
        sleep(length).await;
        (self.sent(id).await - before) as f64 / began.elapsed().as_secs_f64()
    }

    /// What the machine can: the same campaign without a pace.
    async fn calibrate(&self, plan: &Plan) -> f64 {
        self.audience("rehearsal", 400_000).await;
        let id = self.launch("rehearsal", "rehearsal", "good", 0.0, None).await;
        self.until(&id, |campaign| campaign["status"] == "running" || campaign["status"] == "completed").await;
        let rate = self.window(&id, CALIBRATION.min(plan.window * 2)).await;
        self.server.post(&format!("/api/v1/campaigns/{id}/cancel"), &json!({})).await;
        rate
    }

    /// A window beside a deed: messages a second of the good campaign, and how often it was done.
    async fn suffer(&self, good: &str, harm: &Harm, length: Duration) -> (f64, usize) {
        let client = self.server.client.clone();
        match &harm.deed {
            Deed::Upload(bytes) => {
                let (bytes, end) = (bytes.clone(), Instant::now() + length);
                let uploads = tokio::spawn(async move {
                    let mut times = 0;
                    while Instant::now() < end {
                        upload(&client, "", bytes.clone()).await;
                        times += 1;
                        // Who uploads is on this machine, too: without a rest it would be measured, and not the server.
                        sleep(REST).await;
                    }
                    times
                });
                let rate = self.window(good, length).await;
                (rate, uploads.await.expect("it ended"))
            }
            Deed::Campaign(part, bytes) => {
                let query = if harm.granted { "?activate=true&grant=asked" } else { "?activate=true" };
                upload(&client, query, bytes.clone()).await;
                let id = self.launch(harm.name, "victims", "harm", 10.0, Some((part, harm.name))).await;
                let path = format!("/api/v1/campaigns/{id}");
                let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
                let stubborn = tokio::spawn(insist(client, path.clone(), stopped));
                let rate = self.window(good, length).await;
                drop(stop);
                let times = stubborn.await.expect("it ended");
                self.server.post(&format!("{path}/cancel"), &json!({})).await;
                self.until(&id, |campaign| campaign["counts"]["processing"] == 0).await;
                (rate, times)
            }
        }
    }
}

/// Resumes a campaign whenever it is paused; how often.
async fn insist(client: Client, path: String, mut stopped: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut times = 0;
    while tokio::time::timeout(Duration::from_millis(100), &mut stopped).await.is_err() {
        if client.get(&path).await.is_ok_and(|(_, campaign)| campaign["status"] == "paused") {
            let _changed_meanwhile = client.post(&format!("{path}/resume"), &json!({})).await;
            times += 1;
        }
    }
    times
}

async fn upload(client: &Client, query: &str, bytes: Bytes) {
    let path = format!("/api/v1/plugins{query}");
    // A body that is too large is refused before it has arrived: the connection may break.
    if let Ok((status, answer)) = client.send(Method::POST, &path, "application/wasm", bytes).await {
        assert!(status < 500, "{status} {answer}");
    }
}

/// A server that answers each request without end, over a line of its own. The line is what bounds it: on loopback it would
/// bring as much as the cores can copy, some of it at its own end, and that would be measured.
async fn endless() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let line = Arc::new(Line::default());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let line = Arc::clone(&line);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
                if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let mut open = stream.write_all(head).await.is_ok();
                    while open {
                        line.turn(chunk.len()).await;
                        open = stream.write_all(chunk.as_bytes()).await.is_ok();
                    }
                }
            });
        }
    });
    port
}

/// What all answers of the endless server share.
#[derive(Debug, Default)]
struct Line {
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    /// Waits until this many bytes may leave.
    async fn turn(&self, bytes: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / LINE_BYTES_PER_SECOND);
        let at = {
            let mut free_at = self.free_at.lock().expect("nobody panics here");
            let now = Instant::now();
            let at = free_at.map_or(now, |free_at| free_at.max(now));
            *free_at = Some(at + takes);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

//! Campaigns and sequences through real servers, to a real HTTP sink: what the README promises, end to end.
//!
//! `CARILLON_TEST_MESSAGES` and `CARILLON_TEST_DEVICES` make the campaigns larger for a run by hand, `CARILLON_TEST_CONTACTS` the
//! sequence.

mod compiling;
mod grants;
mod health;
mod operating;
mod plugins;
mod receipts;
mod rollouts;
mod unknown;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use carillon_tests::client::Client;
use carillon_tests::postgres;
use carillon_tests::redis::{self, Options};
use carillon_tests::server::{Server, Setup};
use carillon_tests::sink::Sink;
use carillon_tests::wait::eventually;
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a whole flow may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn messages() -> usize {
    number("CARILLON_TEST_MESSAGES", 2_000)
}

fn devices() -> usize {
    number("CARILLON_TEST_DEVICES", 60)
}

/// Servers, their data, and what they share.
struct World {
    servers: Vec<Server>,
    redis: Option<redis::Server>,
    _database: Option<postgres::Database>,
    _data: TempDir,
}

impl World {
    /// One server on SQLite and the in-process queue.
    async fn embedded(sink: &Sink) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let server = Setup::embedded(data.path(), &[sink.port]).start().await;
        Self { servers: vec![server], redis: None, _database: None, _data: data }
    }

    /// Three servers on one PostgreSQL and one Redis.
    async fn cluster(sink: &Sink) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let redis = redis::Server::start(Options::default()).await;
        let database = postgres::fresh_database().await;
        let mut servers = Vec::new();
        for n in 0..3 {
            let folder = data.path().join(format!("server-{n}"));
            std::fs::create_dir(&folder).expect("a folder");
            let setup = Setup::cluster(&folder, &database.url, &redis.url(), &[sink.port]);
            // Short leases, so that a takeover does not take the test's time.
            servers.push(setup.with("CARILLON_LEASE_MS", "2000").with("CARILLON_HEARTBEAT_MS", "200").spawn());
        }
        for server in &servers {
            eventually("a server is ready", PATIENCE, || async {
                matches!(server.client.get("/readyz").await, Ok((200, _)))
            })
            .await;
        }
        Self { servers, redis: Some(redis), _database: Some(database), _data: data }
    }

    fn api(&self) -> &Server {
        &self.servers[0]
    }

    fn client(&self) -> Client {
        self.api().client.clone()
    }

    async fn add_devices(&self, count: usize) {
        let devices: Vec<Value> = (0..count)
            .map(|n| json!({"id": format!("dev-{n}"), "channel": "sms", "tags": ["eu"], "adapter": {}}))
            .collect();
        self.api().post("/api/v1/devices", &Value::Array(devices)).await;
    }

    async fn add_audience(&self, name: &str, count: usize) {
        let mut csv = String::from("address,name,city\n");
        for n in 0..count {
            csv.push_str(&format!("{},Name {n},City {}\n", address(n), n % 100));
        }
        let path = format!("/api/v1/audiences/{name}");
        let (status, report) =
            self.api().client.send(Method::PUT, &path, "text/csv", Bytes::from(csv)).await.expect("an answer");
        assert_eq!((status, &report["accepted"]), (200, &json!(count)), "{report}");
    }

    /// Makes and launches a campaign; returns its id.
    async fn launch(&self, spec: &Value) -> String {
        let made = self.api().post("/api/v1/campaigns", spec).await;
        assert_eq!(made["status"], "draft");
        let id = made["id"].as_str().expect("an id").to_owned();
        self.api().post(&format!("/api/v1/campaigns/{id}/launch"), &json!({})).await;
        id
    }

    async fn campaign(&self, id: &str) -> Value {
        self.api().get(&format!("/api/v1/campaigns/{id}")).await
    }

    async fn completed(&self, id: &str) -> Value {
        let (client, path) = (self.client(), format!("/api/v1/campaigns/{id}"));
        eventually("the campaign is completed", PATIENCE, || async {
            matches!(client.get(&path).await, Ok((200, c)) if c["status"] == "completed")
        })
        .await;
        self.campaign(id).await
    }
}

fn address(n: usize) -> String {
    format!("+1555{n:07}")
}

fn spec(sink: &Sink, delay_ms: u64) -> Value {
    json!({
        "name": "autumn", "audience": "customers", "devices": {"tag": "eu"},
        "template": {"plugin": "jinja", "config": {"text": "Hello {{ name }} from {{ city }}"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": delay_ms, "max_ms": delay_ms}},
        "sender": {"plugin": "webhook", "config": {"url": sink.url()}},
        "delivery": "at_least_once", "retry": {"max_attempts": 5, "base_ms": 50, "max_ms": 500}
    })
}

/// Each address once, in device order, never early.
async fn whole_campaign(world: World, sink: Sink) {
    let (messages, delay) = (messages(), Duration::from_millis(30));
    world.add_devices(devices()).await;
    world.add_audience("customers", messages).await;
    let id = world.launch(&spec(&sink, 30)).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    let counts = sink.per_address();
    assert_eq!(counts.len(), messages);
    assert!(counts.values().all(|n| *n == 1), "an address was sent to twice");
    sink.assert_order();
    sink.assert_pace(delay);
    let first = sink.arrivals().into_iter().find(|a| a.to == address(7)).expect("address 7");
    assert_eq!(first.text, "Hello Name 7 from City 7");
    let message = world.api().get(&format!("/api/v1/messages/{}", first.id)).await;
    assert_eq!((&message["status"], &message["provider_id"]), (&json!("sent"), &json!(format!("sink-{}", first.id))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_reaches_each_address_once_in_order_and_never_early_embedded() {
    let sink = Sink::start().await;
    whole_campaign(World::embedded(&sink).await, sink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_reaches_each_address_once_in_order_and_never_early_on_three_servers() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    whole_campaign(world, sink).await;
}

/// Every message is sent; one that came twice has an attempt that says why.
async fn account_for_all(world: &World, sink: &Sink, id: &str, messages: usize) {
    let done = world.completed(id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for arrival in sink.arrivals() {
        *by_id.entry(arrival.id).or_default() += 1;
    }
    assert_eq!(by_id.len(), messages, "a message was lost");
    for (message, times) in by_id.into_iter().filter(|(_, times)| *times > 1) {
        let row = world.api().get(&format!("/api/v1/messages/{message}")).await;
        let interrupted = row["attempts"].as_array().expect("attempts").len();
        assert!(times <= interrupted + 1, "{message} came {times} times: {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_embedded() {
    let sink = Sink::start().await;
    let mut world = World::embedded(&sink).await;
    let messages = messages();
    world.add_devices(devices()).await;
    world.add_audience("customers", messages).await;
    sink.answer_after(Duration::from_millis(20));
    let id = world.launch(&spec(&sink, 10)).await;
    eventually("a third is sent", PATIENCE, || async { sink.count() > messages / 3 }).await;
    let setup = world.api().setup.clone();
    world.servers[0].kill();
    world.servers[0] = setup.start().await;
    account_for_all(&world, &sink, &id, messages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_one_of_three_servers_loses_nothing() {
    let sink = Sink::start().await;
    let mut world = World::cluster(&sink).await;
    let messages = messages();
    world.add_devices(devices()).await;
    world.add_audience("customers", messages).await;
    sink.answer_after(Duration::from_millis(20));
    let id = world.launch(&spec(&sink, 10)).await;
    eventually("a third is sent", PATIENCE, || async { sink.count() > messages / 3 }).await;
    world.servers[2].kill();
    account_for_all(&world, &sink, &id, messages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flushall_in_the_middle_loses_and_doubles_nothing() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let messages = messages();
    world.add_devices(devices()).await;
    world.add_audience("customers", messages).await;
    let id = world.launch(&spec(&sink, 20)).await;
    for third in 1..3 {
        eventually("the next third is sent", PATIENCE, || async { sink.count() > third * messages / 3 }).await;
        world.redis.as_ref().expect("a cluster").flush().await;
    }
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    let counts = sink.per_address();
    assert_eq!((counts.len(), sink.count()), (messages, messages), "lost or doubled");
    sink.assert_pace(Duration::from_millis(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_on_every_server_and_a_resume_goes_on() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    world.add_devices(20).await;
    world.add_audience("customers", 600).await;
    let id = world.launch(&spec(&sink, 50)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 100 }).await;
    world.api().post(&format!("/api/v1/campaigns/{id}/pause"), &json!({})).await;
    // What was in flight ends; then nothing comes any more, although every device's time passes many times over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let paused = sink.count();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(sink.count(), paused);
    let view = world.campaign(&id).await;
    assert_eq!(view["status"], "paused");
    let waiting = world.api().get(&format!("/api/v1/campaigns/{id}/messages?status=pending&limit=1")).await;
    let message = waiting["items"][0]["id"].as_str().expect("a waiting message").to_owned();
    let because = world.api().get(&format!("/api/v1/messages/{message}")).await["waiting_because"].to_string();
    assert!(because.contains("paused"), "{because}");
    world.servers[1].post(&format!("/api/v1/campaigns/{id}/resume"), &json!({})).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(600));
    assert_eq!(sink.count(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_sends_each_step_once_in_order_and_ends_with_a_suppression() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    let contacts = number("CARILLON_TEST_CONTACTS", 200);
    world.add_devices(40).await;
    world.add_audience("customers", contacts).await;
    let step = |text: &str, offset: u64| {
        json!({"offset_ms": offset,
            "template": {"plugin": "jinja", "config": {"text": text}},
            "delay": {"plugin": "uniform", "config": {"min_ms": 1, "max_ms": 1}},
            "sender": {"plugin": "webhook", "config": {"url": sink.url()}}})
    };
    let offset = Duration::from_secs(2);
    let spec = json!({"name": "welcome", "devices": {"tag": "eu"},
        "steps": [step("one {{ name }}", 0), step("two {{ name }}", 2000), step("three {{ name }}", 2000)]});
    let id = world.api().post("/api/v1/sequences", &spec).await["id"].as_str().expect("an id").to_owned();
    world.api().post(&format!("/api/v1/sequences/{id}/start"), &json!({})).await;
    let enrolled = world.api().post(&format!("/api/v1/sequences/{id}/enrol"), &json!({"audience": "customers"})).await;
    assert_eq!(enrolled["enrolled"], json!(contacts), "{enrolled}");

    eventually("the first step is done", PATIENCE, || async { sink.count() >= contacts }).await;
    world.api().post("/api/v1/suppressions", &json!([{"address": address(3), "reason": "opted-out"}])).await;
    let client = world.client();
    let path = format!("/api/v1/sequences/{id}/enrolments?status=completed&limit=1000");
    eventually("all others are through", PATIENCE, || async {
        let (_, page) = client.get(&path).await.expect("an answer");
        page["items"].as_array().is_some_and(|items| items.len() == contacts - 1)
    })
    .await;

    let mut by_address: HashMap<String, Vec<carillon_tests::sink::Arrival>> = HashMap::new();
    for arrival in sink.arrivals() {
        by_address.entry(arrival.to.clone()).or_default().push(arrival);
    }
    for (to, arrivals) in &by_address {
        let words: Vec<&str> = arrivals.iter().map(|a| a.text.split(' ').next().unwrap_or_default()).collect();
        if *to == address(3) {
            assert_eq!(words, ["one"], "sent past the suppression list");
        } else {
            assert_eq!(words, ["one", "two", "three"], "{to}");
            for pair in arrivals.windows(2) {
                assert!(pair[1].at - pair[0].at >= offset, "{to}: a step came early");
            }
        }
    }
    let exited = world.api().get(&format!("/api/v1/sequences/{id}/enrolments?status=exited")).await;
    assert_eq!(exited["items"][0]["address"], json!(address(3)), "{exited}");
    let shown = world.api().get(&format!("/api/v1/sequences/{id}")).await;
    let sent = [0, 1, 2].map(|step| shown["progress"][step]["counts"]["sent"].as_u64());
    assert_eq!(sent, [contacts, contacts - 1, contacts - 1].map(|n| Some(n as u64)), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppressed_address_gets_nothing_and_a_cancelled_campaign_ends() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    world.add_devices(4).await;
    let messages = 400;
    world.add_audience("customers", messages).await;
    world
        .api()
        .post(
            "/api/v1/suppressions",
            &json!([{"address": address(0)}, {"address": address(1), "channel": "sms"},
        {"address": address(2), "channel": "email"}]),
        )
        .await;
    let id = world.launch(&spec(&sink, 100)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 10 }).await;
    // While it runs: an address that is still waiting, and whose turn comes before the campaign is cancelled.
    world.api().post("/api/v1/suppressions", &json!([{"address": address(70)}])).await;
    let client = world.client();
    let path = format!("/api/v1/campaigns/{id}");
    eventually("its turn has come", PATIENCE, || async {
        let (_, view) = client.get(&path).await.expect("an answer");
        sink.count() > 80 && view["counts"]["suppressed"] == 3
    })
    .await;
    world.api().post(&format!("/api/v1/campaigns/{id}/cancel"), &json!({})).await;
    eventually("nothing is open any more", PATIENCE, || async {
        let (_, view) = client.get(&path).await.expect("an answer");
        view["counts"]["pending"] == 0 && view["counts"]["processing"] == 0
    })
    .await;
    let view = world.campaign(&id).await;
    let count = |name: &str| view["counts"][name].as_u64().expect("a count");
    assert_eq!(view["status"], "cancelled");
    assert_eq!(count("sent") + count("cancelled") + count("suppressed"), messages as u64, "{view}");
    assert_eq!(count("sent"), sink.count() as u64);
    let sent: HashSet<String> = sink.per_address().into_keys().collect();
    assert!(!sent.contains(&address(0)) && !sent.contains(&address(1)) && !sent.contains(&address(70)));
    assert!(sent.contains(&address(2)), "a suppression of another channel does not hold here");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_flight_and_the_next_start_goes_on() {
    let sink = Sink::start().await;
    let mut world = World::embedded(&sink).await;
    world.add_devices(20).await;
    world.add_audience("customers", 400).await;
    sink.answer_after(Duration::from_millis(100));
    let id = world.launch(&spec(&sink, 10)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 60 }).await;
    let setup = world.api().setup.clone();
    let server = world.servers.remove(0);
    assert_eq!(server.terminate().await, Some(0));
    let before = sink.count();
    world.servers.push(setup.start().await);
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(400));
    assert!(sink.count() > before);
    assert_eq!(sink.count(), 400, "a clean stop doubles nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_queue_is_away_says_so_and_goes_on_when_it_is_back() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    world.add_devices(10).await;
    world.add_audience("customers", 300).await;
    let id = world.launch(&spec(&sink, 50)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 50 }).await;
    let redis = world.redis.as_ref().expect("a cluster");
    redis.pause();
    eventually("the server says that the queue is away", PATIENCE, || async {
        matches!(world.api().client.get("/readyz").await, Ok((503, body)) if body.to_string().contains("queue"))
    })
    .await;
    redis.resume();
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(300));
    eventually("the server is ready again", PATIENCE, || async {
        matches!(world.api().client.get("/readyz").await, Ok((200, _)))
    })
    .await;
}

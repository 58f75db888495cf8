//! What an operator sees of running servers and does to them: figures, the brake, and a stop that load balancers hear of.

use std::time::Duration;

use bytes::Bytes;
use carillon_tests::client::Client;
use carillon_tests::server::Setup;
use carillon_tests::sink::Sink;
use carillon_tests::wait::eventually;
use hyper::Method;
use serde_json::json;
use tokio::time::Instant;

use super::{PATIENCE, World, address, spec};

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_outlives_servers_that_start_and_a_queue_that_loses_its_data() {
    let sink = Sink::start().await;
    let mut world = World::cluster(&sink).await;
    world.add_devices(20).await;
    world.add_audience("customers", 400).await;
    let brake = Bytes::from(json!({"max_workers": 0}).to_string());
    let put =
        world.client().send(Method::PUT, "/api/v1/max-workers", "application/json", brake).await.expect("an answer");
    assert_eq!(put.0, 200, "{}", put.1);
    // Every server has heard of it when its heartbeat has come by twice.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = world.launch(&spec(&sink, 10)).await;
    let setup = world.servers[1].setup.clone();
    world.servers[1].kill();
    world.servers[1] = setup.start().await;
    world.redis.as_ref().expect("a cluster").flush().await;
    let client = world.client();
    eventually("the queue is filled again", PATIENCE, || async {
        matches!(client.get("/api/v1/stats").await, Ok((200, s)) if s["ready_devices"].as_u64() == Some(20))
    })
    .await;
    for server in &world.servers {
        let stats = server.get("/api/v1/stats").await;
        assert_eq!((&stats["max_workers"], &stats["configured_max_workers"]), (&json!(0), &json!(500)), "{stats}");
    }
    assert_eq!(sink.count(), 0, "nothing is sent while the brake is on");
    let free =
        client.send(Method::DELETE, "/api/v1/max-workers", "application/json", Bytes::new()).await.expect("an answer");
    assert_eq!(free, (200, json!({"max_workers": 500})));
    assert_eq!(world.completed(&id).await["counts"]["sent"], json!(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_before_it_takes_no_more_requests() {
    let data = tempfile::tempdir().expect("a folder");
    let notice = Duration::from_millis(1500);
    let setup = Setup::embedded(data.path(), &[]).with("CARILLON_DRAIN_NOTICE_MS", notice.as_millis().to_string());
    let server = setup.start().await;
    let client = server.client.clone();
    let told = Instant::now();
    let ended = tokio::spawn(server.terminate());
    eventually("it says that it stops", PATIENCE, || async {
        matches!(client.get("/readyz").await, Ok((503, body)) if body == json!({"ready": false, "draining": true}))
    })
    .await;
    // A balancer that has not noticed yet sends requests, and they are answered.
    let mut answered = 0;
    while let Ok((status, _)) = client.get("/api/v1/stats").await {
        assert_eq!(status, 200);
        answered += 1;
    }
    assert!(answered > 10 && told.elapsed() >= notice, "{answered} answers within {:?}", told.elapsed());
    assert_eq!(ended.await.expect("it ends"), Some(0));
}

/// The value of a series of `/metrics`.
async fn figure(client: &Client, series: &str) -> Option<f64> {
    let (_, text) = client.get("/metrics").await.expect("an answer");
    let line = text.as_str().expect("text").lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_shows_in_the_figures_of_one_server_and_how_late_it_was_in_those_of_all() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    world.add_devices(20).await;
    world.add_audience("customers", 600).await;
    world.api().post("/api/v1/suppressions", &json!([{"address": address(3)}])).await;
    let id = world.launch(&spec(&sink, 3_000)).await;
    let shown = async |series: &str| {
        let mut found = Vec::new();
        for server in &world.servers {
            found.extend(figure(&server.client, series).await);
        }
        found
    };
    let within = |found: Vec<f64>, least: f64, most: f64| matches!(found[..], [one] if one >= least && one <= most);
    eventually("the messages that wait are shown, by one server", PATIENCE, || async {
        within(shown("carillon_messages_waiting{state=\"active\"}").await, 300.0, 579.0)
            && within(shown("carillon_messages_due").await, 300.0, 579.0)
            && within(shown("carillon_devices_ready").await, 20.0, 20.0)
            && within(shown("carillon_campaigns{status=\"running\",reason=\"\"}").await, 1.0, 1.0)
    })
    .await;
    for (series, sum) in [("carillon_suppressed_total{at=\"expansion\"}", 1.0), ("carillon_worker_share", 500.0)] {
        assert_eq!(shown(series).await.iter().sum::<f64>(), sum, "{series}");
    }
    for (series, each) in [
        ("carillon_max_workers", 500.0),
        ("carillon_servers_alive", 3.0),
        ("carillon_servers{role=\"workers\"}", 3.0),
        ("carillon_backend_errors_total{part=\"queue\"}", 0.0),
    ] {
        assert_eq!(shown(series).await, [each; 3], "{series}");
    }
    // Devices that had nothing to wait for began at once.
    let begun: f64 = shown("carillon_begin_delay_seconds_count").await.iter().sum();
    let soon: f64 = shown("carillon_begin_delay_seconds_bucket{le=\"1.024\"}").await.iter().sum();
    assert!(begun >= 20.0 && soon > begun / 2.0, "{soon} of {begun}");

    world.api().post(&format!("/api/v1/campaigns/{id}/pause"), &json!({"reason": "lunch"})).await;
    eventually("the pause shows", PATIENCE, || async {
        within(shown("carillon_campaigns{status=\"paused\",reason=\"operator\"}").await, 1.0, 1.0)
            && within(shown("carillon_messages_waiting{state=\"paused\"}").await, 300.0, 599.0)
            && within(shown("carillon_messages_due").await, 0.0, 0.0)
    })
    .await;
}

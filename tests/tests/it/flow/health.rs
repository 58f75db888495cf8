//! Devices that were down: asked about before they are given a message again.

use carillon_tests::standin::{Asked, Says, StandIn};
use tokio::time::Instant;

use super::*;

/// One server, one device, two recipients, and a provider that says what it is told.
async fn world(provider: &StandIn) -> World {
    let data = tempfile::tempdir().expect("a folder");
    let server = Setup::embedded(data.path(), &[provider.port]).start().await;
    let world = World { servers: vec![server], redis: None, _database: None, _data: data };
    world.add_devices(1).await;
    world.add_audience("customers", 2).await;
    world
}

fn spec(provider: &StandIn, health: &Value) -> Value {
    let mut config =
        json!({"url": format!("{}/send", provider.url()), "outcomes": [{"status": [503], "outcome": "device-down"}]});
    if !health.is_null() {
        config["health"] = health.clone();
    }
    json!({
        "name": "autumn", "audience": "customers", "devices": {"tag": "eu"},
        "template": {"plugin": "jinja", "config": {"text": "Hello"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": 1, "max_ms": 1}},
        "sender": {"plugin": "webhook", "config": config}
    })
}

fn health(provider: &StandIn) -> Value {
    json!({"url": format!("{}/phones/{{{{ device }}}}", provider.url()), "outcomes": [
        {"status": [503], "outcome": "down"},
        {"pointer": "/state", "values": ["suspended"], "outcome": "blocked"}]})
}

fn says(status: u16, body: &str) -> Says {
    // A device that is down is looked at again after a second.
    let header = (status == 503).then(|| ("retry-after", "1".to_owned()));
    Says::Answer { status, header, body: body.to_owned() }
}

fn lines(asked: &[Asked]) -> Vec<String> {
    asked.iter().map(|asked| format!("{} {}", asked.method, asked.target)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_down_is_asked_about_before_it_is_given_a_message() {
    let provider = StandIn::start().await;
    let world = world(&provider).await;
    for (status, body) in [(503, ""), (503, ""), (200, "{}"), (202, r#"{"id":"p-1"}"#), (202, r#"{"id":"p-2"}"#)] {
        provider.will_say(says(status, body));
    }
    let began = Instant::now();
    let id = world.launch(&spec(&provider, &health(&provider))).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(2), "{done}");
    // The first message found out that the device is down; no other had to.
    let (send, check) = ("POST /send", "GET /phones/dev-0");
    assert_eq!(lines(&provider.take_asked()), [send, check, check, send, send]);
    assert!(began.elapsed() >= Duration::from_secs(2), "neither look was early: {:?}", began.elapsed());
    let sent = world.api().get(&format!("/api/v1/campaigns/{id}/messages?status=sent")).await;
    let attempts: Vec<_> = sent["items"].as_array().expect("messages").iter().map(|m| m["attempt"].clone()).collect();
    assert_eq!(attempts, [json!(2), json!(1)], "a check is no attempt");
    let (_, metrics) = world.client().get("/metrics").await.expect("an answer");
    for line in
        [r#"carillon_health_checks_total{verdict="down"} 1"#, r#"carillon_health_checks_total{verdict="healthy"} 1"#]
    {
        assert!(metrics.as_str().is_some_and(|m| m.contains(line)), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_may_hold_the_account_and_what_cannot_be_asked_is_tried() {
    let provider = StandIn::start().await;
    let world = world(&provider).await;
    for (status, body) in [(503, ""), (200, r#"{"state":"suspended"}"#)] {
        provider.will_say(says(status, body));
    }
    let id = world.launch(&spec(&provider, &health(&provider))).await;
    let client = world.client();
    eventually("the device is held", PATIENCE, || async {
        matches!(client.get("/api/v1/devices/dev-0").await,
            Ok((200, d)) if d["held"].as_str().is_some_and(|why| why.starts_with("account-blocked: http-200")))
    })
    .await;
    let (send, check) = ("POST /send", "GET /phones/dev-0");
    assert_eq!(lines(&provider.take_asked()), [send, check]);
    // Who lifts the hold has the provider asked once more.
    for (status, body) in [(200, "{}"), (202, r#"{"id":"p-1"}"#), (202, r#"{"id":"p-2"}"#)] {
        provider.will_say(says(status, body));
    }
    let patch = Bytes::from(json!({"held": null}).to_string());
    let kind = "application/merge-patch+json";
    let lifted = client.send(Method::PATCH, "/api/v1/devices/dev-0", kind, patch).await.expect("an answer");
    assert_eq!(lifted.0, 200, "{lifted:?}");
    world.completed(&id).await;
    assert_eq!(lines(&provider.take_asked()), [check, send, send]);

    // A configuration that does not say how to ask: the next message finds out, as ever.
    for (status, body) in [(503, ""), (503, ""), (202, r#"{"id":"p-3"}"#), (202, r#"{"id":"p-4"}"#)] {
        provider.will_say(says(status, body));
    }
    let id = world.launch(&spec(&provider, &Value::Null)).await;
    world.completed(&id).await;
    assert_eq!(lines(&provider.take_asked()), [send, send, send, send]);
}

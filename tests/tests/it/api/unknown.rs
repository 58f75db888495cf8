//! The inbox of unknown outcomes, and what is said about them.

use carillon::id::MessageId;
use carillon::message::{Reason, Settled};
use carillon_tests::sink::Sink;
use serde_json::{Value, json};

use super::Api;

impl Api {
    /// A running campaign over what [`Api::furnish`] made, all of whose messages ended unknown: its id, and theirs.
    pub(super) async fn unproved(&self, change: impl FnOnce(&mut Value)) -> (String, Vec<MessageId>) {
        let reason = || Reason::new("interrupted", "the server ended");
        self.ended("webhook", change, |_| (Settled::Unknown(reason()), None)).await
    }
}

fn ids(listing: &Value) -> Vec<&str> {
    listing["items"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_inbox_lists_what_nobody_knows() {
    let api = Api::start().await;
    api.furnish().await;
    assert_eq!(api.get("/messages?status=unknown").await, json!({"items": [], "next_cursor": null}));
    let (one, first) = api.unproved(|_| {}).await;
    let (two, second) = api.unproved(|spec| spec["name"] = "winter".into()).await;
    let mut all: Vec<String> = first.iter().chain(&second).map(ToString::to_string).collect();
    all.sort();
    let listed = api.get("/messages?status=unknown").await;
    assert_eq!(ids(&listed), all);
    let item = listed["items"].as_array().unwrap().iter().find(|m| m["campaign"] == json!(two)).unwrap();
    assert_eq!(
        (&item["name"], &item["status"], &item["sequence"]),
        (&json!("winter"), &json!("unknown"), &Value::Null)
    );
    assert_eq!(item["reason"]["code"], "interrupted");

    let page = api.get("/messages?status=unknown&limit=4").await;
    let next = page["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("/messages?status=unknown&limit=4&cursor={next}")).await;
    assert_eq!([ids(&page), ids(&rest)].concat(), all);
    assert!(rest["next_cursor"].is_null());
    assert_eq!(ids(&api.get(&format!("/messages?status=unknown&campaign={one}")).await).len(), 3);
    let of_device = api.get("/messages?status=unknown&device=dev-1").await;
    assert!(of_device["items"].as_array().unwrap().iter().all(|m| m["device"] == "dev-1"));
    assert_eq!(ids(&of_device).len(), 4);
    let both = api.get(&format!("/messages?status=unknown&device=dev-2&campaign={two}")).await;
    assert_eq!(ids(&both).len(), 1);

    for query in ["", "?status=sent", "?status=unknown&limit=0", "?status=unknown&colour=red"] {
        api.call("GET", &format!("/messages{query}"), Value::Null).await.expect(400);
    }
    for query in [
        "campaign=018f0000-0000-7000-8000-000000000000",
        "sequence=018f0000-0000-7000-8000-000000000000",
        "device=none",
    ] {
        api.call("GET", &format!("/messages?status=unknown&{query}"), Value::Null).await.expect(404);
    }
}

#[tokio::test]
async fn one_is_resolved_by_a_word() {
    let api = Api::start().await;
    api.furnish().await;
    let (campaign, messages) = api.unproved(|_| {}).await;
    let at = |n: usize, verb: &str| format!("/messages/{}/{verb}", messages[n]);
    for (body, field) in [
        (json!({"as": "maybe"}), "as"),
        (json!({}), "as"),
        (json!({"as": "failed", "provider_id": "p"}), "provider_id"),
        (json!({"as": "sent", "provider_id": ""}), "provider_id"),
        (json!({"as": "sent", "note": "x".repeat(301)}), "note"),
        (json!({"as": "sent", "colour": "red"}), "colour"),
    ] {
        let problem = api.call("POST", &at(0, "resolve"), body.clone()).await.expect(422);
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    let body = json!({"as": "sent", "provider_id": "p-7", "note": "seen in the provider's log"});
    let sent = api.call("POST", &at(0, "resolve"), body.clone()).await.expect(200);
    assert_eq!((&sent["status"], &sent["provider_id"]), (&json!("sent"), &json!("p-7")));
    let word = &sent["attempts"][1];
    assert_eq!((&word["attempt"], &word["outcome"]), (&json!(1), &json!("resolved-sent")));
    assert_eq!(word["reason"], json!({"code": "operator", "detail": "admin: seen in the provider's log"}));
    let problem = api.call("POST", &at(0, "resolve"), body).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("sent, not unknown"), "{problem}");
    let failed = api.call("POST", &at(1, "resolve"), json!({"as": "failed"})).await.expect(200);
    assert_eq!((&failed["status"], &failed["reason"]["code"]), (&json!("failed"), &json!("resolved-failed")));
    let again = api.call("POST", &at(2, "resolve"), json!({"as": "retry"})).await.expect(200);
    assert_eq!((&again["status"], &again["failures"]), (&json!("pending"), &json!(1)));
    let view = api.get(&format!("/campaigns/{campaign}")).await;
    assert_eq!((&view["counts"]["unknown"], &view["counts"]["pending"]), (&json!(0), &json!(1)));
    assert_eq!(api.get("/audit").await["items"][0]["subject"], json!(format!("{} as retry", messages[2])));
    let metrics = api.send("GET", "/metrics", &[], "").await.body;
    for outcome in ["sent", "failed", "retry"] {
        let line = format!("carillon_resolutions_total{{way=\"operator\",outcome=\"{outcome}\"}} 1");
        assert!(metrics.as_str().unwrap().contains(&line), "{line} is not in {metrics}");
    }
    api.call("POST", "/messages/2000000000000000000/resolve", json!({"as": "sent"})).await.expect(404);
}

#[tokio::test]
async fn a_campaigns_are_resolved_together() {
    let api = Api::start().await;
    api.furnish().await;
    let (id, messages) = api.unproved(|_| {}).await;
    let path = format!("/campaigns/{id}/resolve-unknown");
    let none = json!({"as": "sent", "before": "2020-01-01T00:00:00Z"});
    assert_eq!(api.call("POST", &path, none).await.expect(200), json!({"resolved": 0, "left": 3}));
    let of_device = json!({"as": "failed", "device": "dev-2"});
    assert_eq!(api.call("POST", &path, of_device).await.expect(200), json!({"resolved": 1, "left": 2}));
    api.call("POST", &path, json!({"as": "failed", "device": "none"})).await.expect(422);
    let done = api.core.store.complete_campaigns(api.core.clock.now()).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(api.call("POST", &path, json!({"as": "retry"})).await.expect(200), json!({"resolved": 2, "left": 0}));
    assert_eq!(api.call("POST", &path, json!({"as": "retry"})).await.expect(200), json!({"resolved": 0, "left": 0}));
    let view = api.get(&format!("/campaigns/{id}")).await;
    assert_eq!((&view["status"], &view["counts"]["pending"]), (&json!("running"), &json!(2)), "it goes on");

    let (id, other) = api.unproved(|_| {}).await;
    api.call("POST", &format!("/campaigns/{id}/cancel"), Value::Null).await.expect(200);
    let path = format!("/campaigns/{id}/resolve-unknown");
    for (path, body) in
        [(path.clone(), json!({"as": "retry"})), (format!("/messages/{}/resolve", other[0]), json!({"as": "retry"}))]
    {
        let problem = api.call("POST", &path, body).await.expect(409);
        assert!(problem["detail"].as_str().unwrap().contains("cancelled"), "{problem}");
    }
    assert_eq!(api.call("POST", &path, json!({"as": "sent"})).await.expect(200), json!({"resolved": 3, "left": 0}));
    assert_ne!(messages, other);
}

#[tokio::test]
async fn a_provider_is_asked() {
    let sink = Sink::start().await;
    let port = sink.port;
    let api = Api::start_with(|config| config.allow_egress = vec![format!("127.0.0.1:{port}")]).await;
    api.furnish().await;
    let with = |lookup: Value| {
        let url = sink.url();
        move |spec: &mut Value| spec["sender"]["config"] = json!({"url": url, "lookup": lookup})
    };
    let rule = json!({"url": sink.lookup_url(), "outcomes": [{"status": [404], "outcome": "transient"}]});
    let (_, messages) = api.unproved(with(rule)).await;
    sink.take(&messages[0].to_string());
    let lookup = async |id: MessageId| api.call("POST", &format!("/messages/{id}/lookup"), Value::Null).await;
    let found = lookup(messages[0]).await.expect(200);
    assert_eq!((&found["found"], &found["status"]), (&json!("sent"), &json!("sent")));
    assert_eq!(found["provider_id"], json!(format!("sink-{}", messages[0])));
    assert_eq!(found["attempts"][1]["reason"], json!({"code": "lookup", "detail": "admin"}));
    let lost = lookup(messages[1]).await.expect(200);
    assert_eq!((&lost["found"], &lost["status"], &lost["failures"]), (&json!("retry"), &json!("pending"), &json!(1)));
    assert!(lost["due_at"].is_string(), "under its retry policy: {lost}");
    lookup(messages[0]).await.expect(409);

    // A provider that has no rule for what it does not find proves nothing, nor does one that is not asked.
    let (_, messages) = api.unproved(with(json!({"url": sink.lookup_url()}))).await;
    let nothing = lookup(messages[0]).await.expect(200);
    assert_eq!((&nothing["found"], &nothing["status"]), (&Value::Null, &json!("unknown")));
    assert_eq!(nothing["evidence"]["code"], "http-404");
    let (_, messages) = api.unproved(|_| {}).await;
    assert_eq!(lookup(messages[0]).await.expect(200)["evidence"]["code"], "no-lookup");
    let simulated = json!({"plugin": "simulator", "config": {}});
    let (_, messages) = api.unproved(|spec| spec["sender"] = simulated).await;
    let problem = lookup(messages[0]).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("cannot look messages up"), "{problem}");
}

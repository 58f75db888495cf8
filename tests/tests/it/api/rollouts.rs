//! Which version of a plugin is used, and how another one is tried.

use carillon::plugins::NEXT_JINJA;
use serde_json::{Value, json};

use super::Api;

impl Api {
    /// The next version of jinja, stored beside the active one.
    async fn next(&self) {
        self.upload("POST", "/plugins", "application/wasm", NEXT_JINJA).await.expect(201);
    }

    async fn post(&self, path: &str, body: Value) -> super::Answer {
        self.call("POST", &format!("/plugins/jinja{path}"), body).await
    }
}

fn canary() -> Value {
    json!({"version": "1.1.0", "mode": "canary", "share": 0.1})
}

#[tokio::test]
async fn a_canary_is_started_shown_and_ended() {
    let api = Api::start().await;
    api.next().await;
    let plugin = api.get("/plugins/jinja").await;
    assert_eq!((&plugin["channels"], &plugin["rollout"]), (&json!({"stable": "1.0.0", "next": null}), &Value::Null));
    let mut body = canary();
    body["steps"] = json!([{"after_ms": 600_000, "share": 0.5}]);
    body["for_ms"] = json!(3_600_000);
    let started = api.post("/rollouts", body).await.expect(201);
    for (field, value) in [
        ("mode", json!("canary")),
        ("version", json!("1.1.0")),
        ("stable", json!("1.0.0")),
        ("status", json!("running")),
        ("share", json!(0.1)),
        ("for_ms", json!(3_600_000)),
        ("reason", Value::Null),
    ] {
        assert_eq!(started[field], value, "{field}: {started}");
    }
    assert_eq!(started["thresholds"]["fault_rate"], json!(0.01));
    let plugin = api.get("/plugins/jinja").await;
    assert_eq!((&plugin["channels"]["next"], &plugin["rollout"]["no"]), (&json!("1.1.0"), &started["no"]), "{plugin}");
    let problem = api.post("/rollouts", canary()).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("promote or abort it first"), "{problem}");

    let ended = api.post("/rollouts/abort", json!({"reason": "lunch"})).await.expect(200);
    assert_eq!((&ended["status"], &ended["reason"]), (&json!("aborted"), &json!("lunch")));
    api.post("/rollouts/abort", Value::Null).await.expect(404);
    api.post("/rollouts/promote", Value::Null).await.expect(404);

    api.post("/rollouts", canary()).await.expect(201);
    let promoted = api.post("/rollouts/promote", Value::Null).await.expect(200);
    assert_eq!(promoted["status"], "promoted");
    let plugin = api.get("/plugins/jinja").await;
    assert_eq!((&plugin["active"], &plugin["rollout"]["mode"]), (&json!("1.1.0"), &json!("watch")), "{plugin}");
    let list = api.get("/plugins/jinja/rollouts").await;
    let modes: Vec<_> = list["items"].as_array().unwrap().iter().map(|r| r["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["watch", "canary", "canary"]);
    // A watch that is promoted is over, and followed by none.
    api.post("/rollouts/promote", Value::Null).await.expect(200);
    assert_eq!(api.get("/plugins/jinja").await["rollout"], Value::Null);
}

#[tokio::test]
async fn a_roll_back_is_one_call() {
    let api = Api::start().await;
    api.next().await;
    let problem = api.post("/rollback", Value::Null).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("no version of jinja was stable before"), "{problem}");
    api.post("/activate", json!({"version": "1.1.0", "reason": "spring", "watch_ms": 0})).await.expect(200);
    assert_eq!(api.get("/plugins/jinja").await["rollout"], Value::Null, "it is not watched");
    let back = api.post("/rollback", json!({"reason": "winter"})).await.expect(200);
    assert_eq!((&back["version"], &back["active"]), (&json!("1.0.0"), &json!(true)));
    let history = api.get("/plugins/jinja/history").await;
    let rows: Vec<_> = history["items"].as_array().unwrap().iter().map(|r| (&r["version"], &r["reason"])).collect();
    assert_eq!(rows[..2], [(&json!("1.0.0"), &json!("winter")), (&json!("1.1.0"), &json!("spring"))]);
    api.call("POST", "/plugins/nobody/rollback", Value::Null).await.expect(404);
}

#[tokio::test]
async fn what_cannot_work_is_named() {
    let api = Api::start().await;
    api.next().await;
    let mut body = canary();
    body["share"] = json!(1.5);
    body["thresholds"] = json!({"fault_rate": 2.0});
    let problem = api.post("/rollouts", body).await.expect(422);
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["share", "thresholds.fault_rate"]);
    for (field, value) in [("mode", json!("watch")), ("shares", json!(1)), ("thresholds", json!({"rate": 1}))] {
        let mut body = canary();
        body[field] = value;
        let problem = api.post("/rollouts", body).await.expect(422);
        assert!(problem["errors"][0]["field"].as_str().unwrap().starts_with(field), "{problem}");
    }
    let problem = api.post("/activate", json!({"version": "1.1.0", "watch_ms": u64::MAX})).await.expect(422);
    assert_eq!(problem["errors"][0]["field"], "watch_ms");
    for version in ["1.0.0", "9.9.9"] {
        let mut body = canary();
        body["version"] = json!(version);
        api.post("/rollouts", body).await.expect(if version == "1.0.0" { 409 } else { 404 });
    }
    api.get("/plugins/jinja/rollouts").await;
    api.call("GET", "/plugins/nobody/rollouts", Value::Null).await.expect(404);
    api.call("GET", "/plugins/jinja/rollouts/findings", Value::Null).await.expect(404);
}

#[tokio::test]
async fn a_running_rollout_is_in_the_metrics() {
    let api = Api::start().await;
    api.next().await;
    api.post("/rollouts", canary()).await.expect(201);
    let text = api.send("GET", "/metrics", &[], "").await.body;
    let text = text.as_str().unwrap();
    assert!(text.contains("carillon_rollout_running{plugin=\"jinja\",version=\"1.1.0\",mode=\"canary\"} 1"), "{text}");
    api.post("/rollouts/abort", Value::Null).await.expect(200);
    let text = api.send("GET", "/metrics", &[], "").await.body;
    let text = text.as_str().unwrap();
    assert!(!text.contains("carillon_rollout_running{"), "{text}");
    assert!(text.contains("carillon_rollouts_ended_total{status=\"aborted\"} 1"));
}

//! Everything that a client can get wrong is answered in the same form, and says what is wrong.

use serde_json::{Value, json};

use super::{ADMIN, Api, campaign};
use carillon_tests::guests;

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().into_iter().flatten().filter_map(|e| e["field"].as_str()).collect()
}

#[tokio::test]
async fn paths_methods_bodies_and_queries() {
    let api = Api::start_with(|config| config.body_max_bytes = 64 * 1024).await;
    api.call("GET", "/nothing", Value::Null).await.expect(404);
    api.send("GET", "/elsewhere", &[], "").await.expect(404);
    let refused = api.call("PATCH", "/campaigns", json!({})).await;
    assert_eq!(refused.header("allow"), Some("GET, POST"));
    refused.expect(405);
    api.send("POST", "/healthz", &[], "").await.expect(405);
    api.send("DELETE", "/api/v1/openapi.json", &[], "").await.expect(405);

    api.upload("POST", "/campaigns", "text/plain", "{}").await.expect(415);
    api.upload("POST", "/campaigns", "application/json", vec![b' '; 65 * 1024]).await.expect(413);
    let problem = api.upload("POST", "/campaigns", "application/json", "{\n\"name\": }").await.expect(400);
    assert!(problem["detail"].as_str().unwrap().contains("line 2 column 9"), "{problem}");
    api.upload("POST", "/campaigns", "application/json", "\"\u{0}").await.expect(400);
    api.upload("POST", "/campaigns", "application/json", "").await.expect(400);
    api.upload("POST", "/devices", "application/xml", "<a/>").await.expect(415);
    api.upload("PUT", "/audiences/a", "application/json", "[]").await.expect(415);

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("colour=red", "colour"),
        ("cursor=!!!", "cursor"),
        ("cursor=AAAA", "cursor"),
    ] {
        let problem = api.call("GET", &format!("/campaigns?{query}"), Value::Null).await.expect(400);
        assert_eq!(fields(&problem), [field], "{query}: {problem}");
    }
    api.call("GET", "/campaigns/17", Value::Null).await.expect(400);
    api.call("GET", "/campaigns/018f0000-0000-7000-8000-000000000000", Value::Null).await.expect(404);
    api.call("GET", "/messages/12", Value::Null).await.expect(400);
    api.call("GET", "/messages/2000000000000000000", Value::Null).await.expect(404);
    api.call("GET", "/devices/%FF", Value::Null).await.expect(400);
    api.call("GET", "/devices/none", Value::Null).await.expect(404);
    api.call("GET", "/plugins/none", Value::Null).await.expect(404);

    for header in ["Bearer", "Basic YTpi", "Bearer ", &format!("Bearer{ADMIN}")] {
        api.send("GET", "/api/v1/campaigns", &[("authorization", header)], "").await.expect(401);
    }
}

#[tokio::test]
async fn campaigns_name_every_field_that_is_wrong() {
    let api = Api::start().await;
    api.furnish().await;
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/nme", json!("x"), "nme"),
        ("/retry/attempts", json!(3), "retry.attempts"),
        ("/retry/max_attempts", json!("five"), "retry.max_attempts"),
        ("/retry/max_attempts", json!(0), "retry.max_attempts"),
        ("/priority", json!(10), "priority"),
        ("/name", json!(""), "name"),
        ("/audience", json!("nobody"), "audience"),
        ("/devices", json!({"tag": "us"}), "devices.tag"),
        ("/devices", json!({"ids": ["dev-1", "dev-9"]}), "devices.ids[1]"),
        ("/devices", json!({}), "devices"),
        ("/template/plugin", json!("none"), "template.plugin"),
        ("/template/plugin", json!("webhook"), "template.plugin"),
        ("/template/version", json!("9.9.9"), "template.version"),
        ("/template/config", json!({"txt": "x"}), "template.config"),
        ("/delay/config", json!({"min_ms": "soon", "max_ms": 1}), "delay.config.min_ms"),
        ("/delay/min_ms", json!(100_000_000_000u64), "delay.min_ms"),
        ("/schedule/at", json!("tomorrow"), "schedule.at"),
        ("/expires_at", json!("2020-01-01T00:00:00Z"), "expires_at"),
        ("/window", json!({"from": "9", "to": "20:00"}), "window.from"),
        ("/delivery", json!("maybe"), "delivery"),
    ];
    for (pointer, value, field) in cases {
        let mut spec = campaign();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        if spec.pointer(parent).is_none() {
            spec[parent.trim_start_matches('/')] = json!({});
        }
        spec.pointer_mut(parent).unwrap()[name] = value;
        let problem = api.call("POST", "/campaigns", spec).await.expect(422);
        assert!(fields(&problem).contains(&field), "{pointer}: {problem}");
    }
    let mut spec = campaign();
    (spec["priority"], spec["audience"], spec["retry"]["max_attempts"]) = (json!(10), json!("nobody"), json!(0));
    let problem = api.call("POST", "/campaigns", spec).await.expect(422);
    for field in ["priority", "audience", "retry.max_attempts"] {
        assert!(fields(&problem).contains(&field), "{problem}");
    }
    let mut spec = campaign();
    spec.as_object_mut().unwrap().remove("sender");
    let problem = api.call("POST", "/campaigns", spec).await.expect(422);
    assert!(fields(&problem).contains(&"sender"), "{problem}");
}

#[tokio::test]
async fn devices_are_all_taken_or_none() {
    let api = Api::start().await;
    let devices = json!([{"id": "a", "channel": "sms"}, {"id": "b", "channel": "sms", "caps": {"per_minute": 0}}]);
    let problem = api.call("POST", "/devices", devices).await.expect(422);
    assert_eq!(fields(&problem), ["[1].caps.per_minute"]);
    assert_eq!(api.get("/devices").await["items"], json!([]));
    for (body, field) in [
        (json!([{"id": "a b", "channel": "sms"}]), "[0].id"),
        (json!([{"id": "a"}]), "[0].channel"),
        (json!([{"id": "a", "channel": "sms", "colour": "red"}]), "[0].colour"),
        (json!([{"id": "a", "channel": "sms"}, {"id": "a", "channel": "sms"}]), "[1].id"),
        (json!({"id": "a", "channel": "sms", "adapter": 5}), "adapter"),
        (json!({"id": "a", "channel": "sms", "sender": {"plugin": "jinja"}}), "sender.plugin"),
    ] {
        let problem = api.call("POST", "/devices", body).await.expect(422);
        assert_eq!(fields(&problem), [field], "{problem}");
    }
    api.call("POST", "/devices", json!([])).await.expect(422);
    api.furnish().await;
    for (patch, field) in [
        (json!({"id": "x"}), "id"),
        (json!({"colour": 1}), "colour"),
        (json!({"channel": null}), "channel"),
        (json!({"held": ""}), "held"),
        (json!({"caps": {"per_day": -1}}), "caps.per_day"),
    ] {
        let problem = api.call("PATCH", "/devices/dev-1", patch).await.expect(422);
        assert_eq!(fields(&problem), [field], "{problem}");
    }
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_the_reason() {
    let api = Api::start_with(|config| config.plugin_max_bytes = 100_000).await;
    let problem = api.upload("POST", "/plugins", "application/wasm", "not wasm").await.expect(422);
    assert_eq!(problem["type"], "urn:carillon:problem:plugin-not-wasm", "{problem}");
    // A component that is none of the three worlds: it is empty.
    let empty: &[u8] = b"\0asm\x0d\0\x01\0";
    let problem = api.upload("POST", "/plugins", "application/wasm", empty).await.expect(422);
    assert!(problem["detail"].as_str().unwrap().len() > 20, "{problem}");
    api.upload("POST", "/plugins", "application/wasm", vec![0; 100_001]).await.expect(413);
    api.upload("POST", "/plugins", "application/json", "{}").await.expect(415);
    api.call("POST", "/plugins/jinja/activate", json!({"version": "99.0.0"})).await.expect(404);
}

#[tokio::test]
async fn suppressions_and_sequences_are_checked_too() {
    let api = Api::start().await;
    api.furnish().await;
    let problem =
        api.call("POST", "/suppressions", json!([{"address": " "}, {"address": "+1", "channel": "a b"}])).await;
    assert_eq!(fields(&problem.expect(422)), ["[0].address", "[1].channel"]);
    let step = json!({"template": {"plugin": "jinja", "config": {"text": "x"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": 1, "max_ms": 2}},
        "sender": {"plugin": "simulator", "config": {}}});
    let mut bad = step.clone();
    bad["template"]["plugin"] = json!("none");
    let spec = json!({"name": "welcome", "devices": {"tag": "us"}, "steps": [step, bad]});
    let problem = api.call("POST", "/sequences", spec).await.expect(422);
    let found = fields(&problem);
    assert!(found.contains(&"steps[1].template.plugin") && found.contains(&"devices.tag"), "{problem}");
    let problem =
        api.call("POST", "/sequences", json!({"name": "x", "devices": {"tag": "eu"}, "steps": []})).await.expect(422);
    assert_eq!(fields(&problem), ["steps"]);
}

#[tokio::test]
async fn a_plugin_takes_no_name_that_belongs_to_another() {
    let api = Api::start().await;
    let active = api.get("/plugins/jinja").await["active"].clone();
    let other_kind = guests::delay("jinja", "unreachable");
    let problem = api.upload("POST", "/plugins?activate=true", "application/wasm", other_kind).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("of kind template"), "{problem}");
    let version = active.as_str().unwrap();
    let same_version = guests::described(&["uniform", version, "", r#"{"type":"object"}"#, ""]);
    let problem = api.upload("POST", "/plugins?activate=true", "application/wasm", same_version).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("exists with other bytes"), "{problem}");
    assert_eq!(api.get("/plugins/jinja").await["active"], active);
}

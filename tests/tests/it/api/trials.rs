//! What an upload says about a plugin besides taking or refusing it, and calls of a version with a case.

use std::sync::Arc;

use carillon_tests::guests;
use serde_json::{Value, json};

use super::Api;

#[tokio::test]
async fn a_refused_component_is_told_every_item_that_does_not_fit() {
    let api = Api::start().await;
    let wit = guests::WIT.replace("invalid-input(string),", "invalid-recipient(string),").replace(
        "variables: func(ctx: context) -> result<list<string>, plugin-error>;",
        "variables: func(ctx: context) -> list<string>;",
    );
    let module = guests::template_module(&wit, "", "unreachable", "unreachable");
    let problem = api.upload("POST", "/plugins", "application/wasm", module).await.expect(422);
    assert_eq!(problem["type"], "urn:carillon:problem:plugin-wrong-type", "{problem}");
    let errors = problem["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{problem}");
    let error = |field: &str| errors.iter().find(|e| e["field"] == field).unwrap()["problem"].as_str().unwrap();
    assert!(error("type carillon:plugin/types@1.0.0#plugin-error").contains("invalid-recipient(string)"), "{problem}");
    let variables = error("export carillon:plugin/template@1.0.0#variables");
    assert!(variables.contains("wanted `variables: func(ctx: context) -> result<"), "{problem}");
    assert!(variables.contains("found `variables: func(ctx: context) -> list<string>`"), "{problem}");
}

#[tokio::test]
async fn a_plugin_that_crashes_on_its_first_call_is_stored_with_a_warning_and_not_activated_by_itself() {
    let api = Api::start().await;
    let crashing = guests::sender("crashing", "unreachable", "unreachable");
    let stored = api.upload("POST", "/plugins", "application/wasm", crashing.clone()).await.expect(201);
    let warning = &stored["report"]["warnings"][0];
    assert_eq!(warning["code"], "plugin-trap", "{stored}");
    assert!(
        warning["detail"].as_str().unwrap().starts_with("start, answered with 200: the plugin crashed"),
        "{stored}"
    );
    assert_eq!(stored["active"], false, "the first version of a name, and yet not active: {stored}");
    let stored = api.upload("POST", "/plugins?activate=true", "application/wasm", crashing).await.expect(200);
    assert_eq!(stored["active"], true, "it was asked for: {stored}");
    let module = guests::delay_module("half", "", "(loop $l (br $l)) unreachable");
    let stored = api.upload("POST", "/plugins", "application/wasm", module).await.expect(201);
    let codes: Vec<_> = stored["report"]["warnings"].as_array().unwrap().iter().map(|w| w["code"].clone()).collect();
    assert_eq!(codes, ["plugin-deadline"], "{stored}");
    // A schema that nothing invented fits is no failure.
    let strict = r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^x{9}$"}}}"#;
    let picky = guests::described(&["picky", "1.0.0", "", strict, ""]);
    let stored = api.upload("POST", "/plugins", "application/wasm", picky).await.expect(201);
    assert_eq!((&stored["report"]["warnings"][0]["code"], &stored["active"]), (&json!("not-called"), &json!(true)));
}

#[tokio::test]
async fn a_version_is_tried_with_a_case() {
    let api = Api::start().await;
    let version = api.get("/plugins/jinja").await["versions"][0]["version"].as_str().unwrap().to_owned();
    let path = format!("/plugins/jinja/versions/{version}/try");
    let case = json!({"config": {"text": "Hi {{ name }} of {{ city }}"}, "recipient": {"variables": {"name": "Eve", "city": "Rome"}}});
    let ran = api.call("POST", &path, case).await.expect(200);
    assert_eq!((&ran["result"]["text"], &ran["fault"]), (&json!("Hi Eve of Rome"), &Value::Null), "{ran}");
    assert_eq!(ran["calls"][0]["function"], "render", "{ran}");
    assert!(ran["calls"][0]["us"].as_u64().unwrap() > 0 && ran["memory_bytes"].as_u64().unwrap() > 0, "{ran}");
    let variables = json!({"call": "variables", "config": {"text": "Hi {{ name }}"}});
    assert_eq!(api.call("POST", &path, variables).await.expect(200)["result"], json!(["name"]));
    // What a plugin says no to is an answer of the try.
    let case = json!({"config": {"text": "Hi {{ name }}"}, "recipient": {"variables": {}}});
    assert_eq!(api.call("POST", &path, case).await.expect(200)["fault"]["code"], "invalid-input");

    let uniform = api.get("/plugins/uniform").await["versions"][0]["version"].as_str().unwrap().to_owned();
    let path = format!("/plugins/uniform/versions/{uniform}/try");
    let case = json!({"config": {"min_ms": 5, "max_ms": 5}});
    assert_eq!(api.call("POST", &path, case).await.expect(200)["result"]["delay_ms"], 5.0);
    // Refused before it runs: another kind's call, a configuration against the schema, an answer that is none.
    let problem = api.call("POST", &path, json!({"call": "render", "answers": [{}]})).await.expect(422);
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
    assert!(fields.contains(&json!("call")) && fields.contains(&json!("answers[0]")), "{problem}");
    assert!(fields.contains(&json!("config")), "{problem}");
    api.call("POST", "/plugins/uniform/versions/99.0.0/try", json!({})).await.expect(404);
    api.call("POST", &path, json!([])).await.expect(422);
}

#[tokio::test]
async fn what_was_not_activated_is_tried_and_its_crash_has_a_backtrace() {
    let api = Api::start().await;
    let body = "(call $outer) unreachable) (func $outer (call $inner)) (func $inner (unreachable)";
    api.upload("POST", "/plugins?activate=false", "application/wasm", guests::delay("fails", body)).await.expect(201);
    assert_eq!(api.get("/plugins/fails").await["active"], Value::Null);
    let ran = api.call("POST", "/plugins/fails/versions/1.0.0/try", Value::Null).await.expect(200);
    assert_eq!((&ran["result"], &ran["fault"]["code"]), (&Value::Null, &json!("plugin-trap")), "{ran}");
    let frames: Vec<_> = ran["fault"]["backtrace"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert!(frames[0].contains("inner") && frames[1].contains("outer"), "{frames:?}");
    // The counts of the version, which automatic decisions look at, are those of messages.
    let plugin = api.core.plugins.resolve("fails", Some("1.0.0")).unwrap();
    assert!(plugin.stats().functions.is_empty(), "{:?}", plugin.stats());
    let audit = api.get("/audit").await;
    assert_eq!(
        (&audit["items"][0]["action"], &audit["items"][0]["subject"]),
        (&json!("plugin.try"), &json!("fails 1.0.0"))
    );
    let (_, reader) = api.token(&["plugins:read"]).await;
    api.call_as(&reader, "POST", "/plugins/fails/versions/1.0.0/try", json!({})).await.expect(403);
}

#[tokio::test]
async fn a_senders_requests_are_shown_and_made_on_demand_only() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let arrivals = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = arrivals.clone();
    let provider = axum::Router::new().fallback(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { axum::Json(json!({"id": "real-1"})) }
    });
    tokio::spawn(async move { axum::serve(listener, provider).await });
    let api = Api::start_with(|config| config.allow_egress = vec![at.to_string()]).await;
    let version = api.get("/plugins/webhook").await["versions"][0]["version"].as_str().unwrap().to_owned();
    let path = format!("/plugins/webhook/versions/{version}/try");
    let url = format!("http://{at}/send");
    let mut case = json!({"config": {"url": url}});

    let ran = api.call("POST", &path, case.clone()).await.expect(200);
    assert_eq!((&ran["result"], &ran["fault"]), (&Value::Null, &Value::Null), "{ran}");
    let request = &ran["requests"][0];
    assert_eq!((&request["method"], &request["url"], &request["answer"]), (&json!("POST"), &json!(url), &Value::Null));
    assert!(request["body"].as_str().unwrap().contains("Hello Ada."), "{ran}");

    case["answers"] = json!([{"response": {"status": 503, "headers": {"retry-after": "7"}}}]);
    let ran = api.call("POST", &path, case.clone()).await.expect(200);
    assert_eq!(
        (&ran["result"]["outcome"], &ran["result"]["delay_ms"]),
        (&json!("retry-after"), &json!(7000.0)),
        "{ran}"
    );
    assert_eq!(ran["requests"][0]["made"], false);
    assert_eq!(arrivals.load(std::sync::atomic::Ordering::SeqCst), 0, "nothing has left");

    case["answers"] = json!([]);
    case["send"] = json!(true);
    let ran = api.call("POST", &path, case.clone()).await.expect(200);
    assert_eq!((&ran["result"]["outcome"], &ran["requests"][0]["made"]), (&json!("accepted"), &json!(true)), "{ran}");
    assert_eq!(arrivals.load(std::sync::atomic::Ordering::SeqCst), 1);
    let audit = api.get("/audit").await;
    assert!(audit["items"][0]["subject"].as_str().unwrap().ends_with(", with its requests"), "{audit}");
    // With its policy: what is not granted does not leave.
    case["config"]["url"] = json!("http://127.0.0.1:9/send");
    let ran = api.call("POST", &path, case).await.expect(200);
    assert!(ran["requests"][0]["answer"]["not_sent"].is_string(), "{ran}");
}

//! Whether a device can send, asked because somebody wants to know.

use carillon_tests::guests;
use carillon_tests::standin::{Says, StandIn};
use serde_json::{Value, json};

use super::Api;

async fn provider() -> (StandIn, Api) {
    let provider = StandIn::start().await;
    let allowed = format!("127.0.0.1:{}", provider.port);
    let api = Api::start_with(|config| config.allow_egress = vec![allowed]).await;
    (provider, api)
}

fn webhook(provider: &StandIn) -> Value {
    let health = json!({"url": format!("{}/phones/{{{{ device }}}}", provider.url()), "outcomes": [{"status": [503], "outcome": "down"}]});
    json!({"plugin": "webhook", "config": {"url": provider.url(), "health": health}})
}

#[tokio::test]
async fn a_devices_provider_is_asked_whether_it_can_send() {
    let (provider, api) = provider().await;
    api.furnish().await;
    let own = json!({"id": "own", "channel": "sms", "sender": webhook(&provider)});
    api.call("POST", "/devices", own).await.expect(201);
    let says = |status, header, body: &str| Says::Answer { status, header, body: body.to_owned() };
    provider.will_say(says(200, None, "{}"));
    let found = api.call("POST", "/devices/own/check", Value::Null).await.expect(200);
    assert_eq!(
        (&found["device"], &found["plugin"], &found["verdict"]),
        (&json!("own"), &json!("webhook"), &json!("healthy"))
    );
    assert_eq!((&found["reason"], &found["retry_ms"], &found["requests"]), (&Value::Null, &Value::Null, &json!(1)));
    assert!(found["version"].is_string() && found["took_ms"].is_u64(), "{found}");
    let asked = provider.take_asked();
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("GET", "/phones/own"));

    provider.will_say(says(503, Some(("retry-after", "7".to_owned())), ""));
    let found = api.call("POST", "/devices/own/check", json!({})).await.expect(200);
    assert_eq!((&found["verdict"], &found["retry_ms"]), (&json!("down"), &json!(7000)));
    assert_eq!(found["reason"]["code"], "http-503");
    // Nothing follows from it.
    assert_eq!(api.get("/devices/own").await["held"], Value::Null);

    // A campaign's sender is asked as its messages would be sent.
    let id = api.campaign(|spec| spec["sender"] = webhook(&provider)).await;
    provider.will_say(says(200, None, "{}"));
    let found = api.call("POST", "/devices/dev-1/check", json!({"campaign": id})).await.expect(200);
    assert_eq!((&found["device"], &found["verdict"]), (&json!("dev-1"), &json!("healthy")));
    let bare = api.campaign(|spec| spec["name"] = "bare".into()).await;
    let found = api.call("POST", "/devices/dev-1/check", json!({"campaign": bare})).await.expect(200);
    assert_eq!(
        (&found["verdict"], &found["reason"]["code"], &found["requests"]),
        (&json!("unknown"), &json!("no-health"), &json!(0))
    );
}

#[tokio::test]
async fn what_cannot_be_asked_says_so() {
    let api = Api::start().await;
    api.furnish().await;
    let problem = api.call("POST", "/devices/dev-1/check", Value::Null).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("names no sender"), "{problem}");
    let push = json!({"id": "push-1", "channel": "push", "adapter": {"project": "p"}, "sender": {"plugin": "fcm"}});
    api.call("POST", "/devices", push).await.expect(201);
    let problem = api.call("POST", "/devices/push-1/check", Value::Null).await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("cannot tell whether"), "{problem}");
    api.call("POST", "/devices/none/check", Value::Null).await.expect(404);
    for body in [
        json!({"campaign": "018f0000-0000-7000-8000-000000000000"}),
        json!({"campaign": "x"}),
        json!({"colour": "red"}),
    ] {
        let problem = api.call("POST", "/devices/dev-1/check", body.clone()).await.expect(422);
        assert!(problem["errors"][0]["field"].is_string(), "{body}: {problem}");
    }
}

#[tokio::test]
async fn a_check_without_end_is_ended() {
    let api = Api::start().await;
    for (name, plugin, code, requests) in [
        ("again", guests::checking_again("again", "GET", "https://api.example.com/"), "too-many-requests", 8),
        ("loops", guests::checking("loops", "(loop $l (br $l)) unreachable", "unreachable"), "plugin-deadline", 0),
    ] {
        api.upload("POST", "/plugins?activate=true", "application/wasm", plugin).await.expect(201);
        let device = json!({"id": name, "channel": "sms", "sender": {"plugin": name}});
        api.call("POST", "/devices", device).await.expect(201);
        let found = api.call("POST", &format!("/devices/{name}/check"), Value::Null).await.expect(200);
        assert_eq!((&found["verdict"], &found["reason"]["code"]), (&json!("unknown"), &json!(code)), "{found}");
        assert_eq!(found["requests"], requests, "{found}");
    }
}

//! What plugins are granted, and the secrets that they may be granted.

use std::sync::Arc;

use carillon::egress::{Body, EgressAnswer, EgressRequest};
use carillon::grants::Licence;
use carillon::operations::secrets;
use carillon::vault::Vault;
use carillon_tests::guests;
use serde_json::{Value, json};

use super::{Api, campaign};

const WANTS: [&[&str]; 2] = [&["api.example.com", "*.example.org"], &["KEY"]];

fn acme() -> bytes::Bytes {
    guests::wanting("acme", WANTS, ("POST", "https://api.example.com/send"), &[], "{}")
}

#[tokio::test]
async fn what_a_sender_asks_for_is_shown_beside_what_it_was_granted() {
    let api = Api::start().await;
    let uploaded = api.upload("POST", "/plugins", "application/wasm", acme()).await.expect(201);
    let asked = json!({"hosts": ["api.example.com", "*.example.org"], "secrets": ["KEY"]});
    let grants = &uploaded["grants"];
    assert_eq!((&grants["asked"], &grants["missing"]), (&asked, &asked), "{uploaded}");
    assert_eq!((&grants["granted"]["hosts"], &grants["granted_by"]), (&json!([]), &Value::Null), "{grants}");
    assert!(grants["how_to_grant"].as_str().unwrap().contains("carillon plugin grant acme --asked"), "{grants}");
    let active = api.call("POST", "/plugins/acme/activate", json!({"version": "1.0.0"})).await.expect(200);
    let warning = active["warnings"][0].as_str().unwrap();
    assert!(warning.contains("host api.example.com, host *.example.org, secret KEY"), "{active}");

    // A campaign that sends with it is launched, with the same warning.
    api.furnish().await;
    let sender = json!({"plugin": "acme", "config": {}});
    let id = api.campaign(|spec| spec["sender"] = sender).await;
    let launched = api.call("POST", &format!("/campaigns/{id}/launch"), Value::Null).await.expect(200);
    assert_eq!((&launched["status"], &launched["warnings"]), (&json!("expanding"), &active["warnings"]), "{launched}");

    let some = json!({"hosts": ["API.example.com.", "*.example.org"], "methods": ["post"], "secrets": ["OTHER"],
        "memory_bytes": 8 << 20, "call_ms": 40, "requests_per_second": 2.5});
    let view = api.call("PUT", "/plugins/acme/grants", some).await.expect(200);
    assert_eq!(
        view["granted"],
        json!({"hosts": ["*.example.org", "api.example.com"], "methods": ["POST"], "secrets": ["OTHER"],
            "memory_bytes": 8 << 20, "call_ms": 40, "requests_per_second": 2.5})
    );
    assert_eq!((&view["missing"], &view["granted_by"]), (&json!({"hosts": [], "secrets": ["KEY"]}), &json!("admin")));
    assert_eq!(api.get("/plugins/acme").await["grants"], api.get("/plugins/acme/grants").await);
    assert_eq!(api.get("/plugins/acme/grants").await["granted"], view["granted"]);

    // With an upload what is missing is added, and nothing taken away.
    let again = api.upload("POST", "/plugins?grant=asked", "application/wasm", acme()).await.expect(200);
    let grants = &again["grants"];
    assert_eq!((&grants["granted"]["secrets"], &grants["granted"]["call_ms"]), (&json!(["KEY", "OTHER"]), &json!(40)));
    assert_eq!((&grants["missing"], &grants["how_to_grant"]), (&json!({"hosts": [], "secrets": []}), &Value::Null));
    let active = api.call("POST", "/plugins/acme/activate", json!({"version": "1.0.0"})).await.expect(200);
    assert_eq!(active["warnings"], json!([]), "{active}");
}

#[tokio::test]
async fn a_plugin_of_the_program_has_everything_until_it_is_narrowed_and_a_strangers_has_nothing() {
    let api = Api::start().await;
    for sender in ["webhook", "telegram", "whatsapp-cloud", "fcm", "android-sms-gateway", "simulator"] {
        let view = api.get(&format!("/plugins/{sender}/grants")).await;
        assert_eq!((&view["granted"]["hosts"], &view["granted_by"]), (&json!(["*"]), &json!("system")), "{view}");
        assert_eq!(view["missing"], json!({"hosts": [], "secrets": []}), "{view}");
    }
    let view = api.get("/plugins/jinja/grants").await;
    assert_eq!((&view["asked"]["hosts"], &view["granted_by"]), (&json!([]), &Value::Null), "{view}");
    let narrow = json!({"hosts": ["hooks.example.com"]});
    api.call("PUT", "/plugins/webhook/grants", narrow).await.expect(200);
    // A start leaves it as it is.
    api.core.plugins.ensure_first_party(&*api.core.store, None, api.core.clock.now()).await.unwrap();
    let view = api.get("/plugins/webhook/grants").await;
    assert_eq!(view["granted"]["hosts"], json!(["hooks.example.com"]), "{view}");
    assert_eq!(view["missing"]["hosts"], json!([]), "its configuration decides, and some are granted: {view}");
    // One whose configuration decides asks for any host.
    let asking = guests::asking("POST", "https://api.example.com/", &[], "{}");
    let uploaded = api.upload("POST", "/plugins", "application/wasm", asking).await.expect(201);
    assert_eq!(uploaded["grants"]["missing"], json!({"hosts": ["*"], "secrets": []}), "{uploaded}");
}

#[tokio::test]
async fn what_cannot_be_granted_is_refused_by_name() {
    let api = Api::start().await;
    for (body, field) in [
        (json!({"hosts": ["https://x"]}), "hosts[0]"),
        (json!({"methods": ["CONNECT"]}), "methods[0]"),
        (json!({"methods": []}), "methods"),
        (json!({"secrets": ["a b"]}), "secrets[0]"),
        (json!({"memory_bytes": 1}), "memory_bytes"),
        (json!({"call_ms": 10_001}), "call_ms"),
        (json!({"requests_per_second": 0}), "requests_per_second"),
        (json!({"host": ["x"]}), "host"),
    ] {
        let problem = api.call("PUT", "/plugins/webhook/grants", body).await.expect(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let problem = api.call("PUT", "/plugins/jinja/grants", json!({"hosts": ["*"]})).await.expect(422);
    assert!(problem["detail"].as_str().unwrap().contains("makes no requests"), "{problem}");
    api.call("PUT", "/plugins/jinja/grants", json!({"memory_bytes": 32 << 20, "call_ms": 90})).await.expect(200);
    api.call("PUT", "/plugins/nobody/grants", json!({"hosts": ["*"]})).await.expect(404);
    api.call("GET", "/plugins/nobody/grants", Value::Null).await.expect(404);
    api.upload("POST", "/plugins?grant=all", "application/wasm", acme()).await.expect(400);
}

async fn shown(api: &Api, licence: &Licence, name: &str) -> EgressAnswer {
    let request = EgressRequest {
        method: "POST".into(),
        url: "http://127.0.0.1:9/".into(),
        headers: vec![("x-key".into(), format!("{{{{secret:{name}}}}}"))],
        body: Body::Empty,
        timeout: std::time::Duration::from_secs(5),
    };
    api.core.egress.send(licence, request, std::time::Duration::from_secs(5)).await
}

#[tokio::test]
async fn a_refusal_is_visible_on_the_plugins_page_and_in_the_metrics() {
    let api = Api::start_with(|config| config.allow_egress = vec!["127.0.0.1:9".into()]).await;
    api.upload("POST", "/plugins", "application/wasm", acme()).await.expect(201);
    let licence = api.core.plugins.licence("acme");
    let EgressAnswer::NotGranted(why) = shown(&api, &licence, "KEY").await else { panic!() };
    assert!(why.contains("plugin acme was not granted host 127.0.0.1:9"), "{why}");
    api.call("PUT", "/plugins/acme/grants", json!({"hosts": ["127.0.0.1:9"]})).await.expect(200);
    for _ in 0..3 {
        let EgressAnswer::NotGranted(why) = shown(&api, &licence, "KEY").await else { panic!() };
        assert!(why.contains("plugin acme was not granted secret KEY"), "{why}");
    }
    let view = api.get("/plugins/acme/grants").await;
    let row = |n: usize| (view["refusals"][n]["reason"].clone(), view["refusals"][n]["count"].clone());
    assert_eq!((row(0), row(1)), ((json!("secret"), json!(3)), (json!("host"), json!(1))), "{view}");
    assert_eq!((&view["refusals"][0]["secret"], &view["refusals"][1]["host"]), (&json!("KEY"), &json!("127.0.0.1:9")));
    assert!(view["refusals"][0]["last_at"].is_string(), "{view}");
    let metrics = api.send("GET", "/metrics", &[], "").await.expect(200);
    for line in [
        "carillon_egress_refusals_total{plugin=\"acme\",reason=\"secret\"} 3",
        "carillon_egress_refusals_total{plugin=\"acme\",reason=\"host\"} 1",
        "carillon_egress_refusals_total{plugin=\"webhook\",reason=\"host\"} 0",
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let key = Vault::new_key();
    let api = Api::start_with(|config| config.secrets_key = Some(key.clone())).await;
    let put = async |name: &str, body: Value| api.call("PUT", &format!("/secrets/{name}"), body).await;
    let made = put("KEY", json!({"value": "hush-1", "host": "API.example.com"})).await.expect(201);
    assert_eq!(
        (&made["name"], &made["host"], &made["kept_in"]),
        (&json!("KEY"), &json!("api.example.com"), &json!("store"))
    );
    // Those of the program may have any.
    assert!(made["granted_to"].as_array().unwrap().contains(&json!("webhook")) && made["problem"].is_null(), "{made}");
    put("KEY", json!({"value": "hush-2", "host": "api.example.com:8443"})).await.expect(200);
    api.call("PUT", "/plugins/webhook/grants", json!({"hosts": ["*"], "secrets": ["OTHER"]})).await.expect(200);
    let list = api.get("/secrets").await;
    let [secret] = list["items"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!(secret["host"], "api.example.com:8443");
    assert!(!secret["granted_to"].as_array().unwrap().contains(&json!("webhook")), "{list}");
    assert!(!list.to_string().contains("hush"), "{list}");
    // The store has no value either.
    let stored = api.core.store.secrets().await.unwrap();
    assert!(!stored[0].ciphertext.windows(4).any(|w| w == b"hush"), "{stored:?}");

    for (name, body, field) in [
        ("KEY", json!({"value": "", "host": "x"}), "value"),
        ("KEY", json!({"value": "hush\nx", "host": "x"}), "value"),
        ("KEY", json!({"value": "hush", "host": "*"}), "host"),
        ("KEY", json!({"value": "hush"}), "host"),
        ("a%20b", json!({"value": "hush", "host": "x"}), "name"),
        ("KEY", json!({"value": "x".repeat(9000), "host": "x"}), "value"),
    ] {
        let problem = put(name, body).await.expect(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(!problem.to_string().contains("hush"), "{problem}");
    }
    api.call("DELETE", "/secrets/KEY", Value::Null).await.expect(204);
    api.call("DELETE", "/secrets/KEY", Value::Null).await.expect(404);
    assert_eq!(api.get("/secrets").await["items"], json!([]));
}

#[tokio::test]
async fn without_a_key_nothing_is_written_and_with_another_nothing_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Some(format!("sqlite:{}", folder.path().join("shared.db").display()));
    let (old, new) = (Vault::new_key(), Vault::new_key());
    let start = |key: Option<String>| {
        let store = store.clone();
        Api::start_with(move |config| (config.store, config.secrets_key) = (store, key))
    };
    let licence = Arc::new(Licence::unbounded("x"));
    let first = start(Some(old.clone())).await;
    let body = json!({"value": "hush", "host": "127.0.0.1"});
    first.call("PUT", "/secrets/KEY", body.clone()).await.expect(201);
    let id = first.get("/secrets").await["items"][0]["key_id"].clone();

    let none = start(None).await;
    for (method, path, body) in [("PUT", "/secrets/KEY", body), ("POST", "/rotate-secrets", Value::Null)] {
        let problem = none.call(method, path, body).await.expect(409);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("CARILLON_SECRETS_KEY") && detail.contains("carillon secret key"), "{problem}");
    }
    let other = start(Some(new.clone())).await;
    for (api, says) in [(&none, "is not set"), (&other, "is not in CARILLON_SECRETS_KEY")] {
        let list = api.get("/secrets").await;
        assert!(list["items"][0]["problem"].as_str().unwrap().contains(says), "{list}");
        // It goes on, and the secret counts as one that is not there.
        secrets::load(&api.core).await.unwrap();
        let EgressAnswer::NotSent(why) = shown(api, &licence, "KEY").await else { panic!() };
        assert!(why.contains("secret KEY is not granted to host"), "{why}");
    }
    assert_eq!(other.call("POST", "/rotate-secrets", Value::Null).await.expect(200)["unreadable"], json!(["KEY"]));

    // Both keys, the new one first: everything is read, and encrypted anew on demand.
    let both = start(Some(format!("{new},{old}"))).await;
    assert_eq!(both.get("/secrets").await["items"][0]["problem"], Value::Null);
    let rotated = both.call("POST", "/rotate-secrets", Value::Null).await.expect(200);
    assert_eq!((&rotated["rotated"], &rotated["current"]), (&json!(1), &json!(0)), "{rotated}");
    assert_ne!(rotated["key_id"], id);
    assert_eq!(both.call("POST", "/rotate-secrets", Value::Null).await.expect(200)["current"], json!(1));
    assert_eq!(other.get("/secrets").await["items"][0]["problem"], Value::Null, "the new key alone is enough");
    assert!(first.get("/secrets").await["items"][0]["problem"].is_string());
}

#[tokio::test]
async fn a_campaign_whose_sender_has_what_it_asks_for_is_launched_without_a_warning() {
    let api = Api::start().await;
    api.furnish().await;
    let id = api.campaign(|_| {}).await;
    let launched = api.call("POST", &format!("/campaigns/{id}/launch"), Value::Null).await.expect(200);
    assert_eq!((&launched["warnings"], &launched["name"]), (&json!([]), &campaign()["name"]));
}

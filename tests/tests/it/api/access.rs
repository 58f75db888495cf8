//! Who may call what, how often, and what a repeated call gets.

use std::time::Duration;

use carillon_tests::wait::eventually;
use serde_json::{Value, json};

use super::{ADMIN, Api, campaign};

/// What answers without a token, and why it may. Everything else wants one.
const OPEN: [(&str, &str); 4] = [
    ("/healthz", "supervisors ask it; it says that the process lives"),
    ("/readyz", "load balancers ask it; it names parts that are away"),
    ("/metrics", "Prometheus asks it; it holds counts, names of plugins and routes, nothing of recipients"),
    ("/api/v1/openapi.json", "how to call is no secret"),
];

/// What answers without a token to whoever knows the key in its path, and why: not in the document, because it is the provider that
/// says what is asked and the plugin that says what is answered.
const KEYED: (&str, &str) = (
    "/hooks/{plugin}/{key}",
    "providers report there and have no token of ours; `api::hooks` tries to get past the key",
);

/// Every operation of the document with the scope that it demands, its path filled in.
fn operations(document: &Value) -> Vec<(String, String, Option<String>)> {
    let mut out = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["token"][0].as_str().map(ToOwned::to_owned);
            let path = path.strip_prefix("/api/v1").unwrap();
            let id = if path.starts_with("/messages") {
                "2000000000000000000"
            } else {
                "018f0000-0000-7000-8000-000000000000"
            };
            out.push((
                method.to_uppercase(),
                path.replace("{id}", id)
                    .replace("{name}", "nothing")
                    .replace("{version}", "1.0.0")
                    .replace("{case}", "1"),
                scope,
            ));
        }
    }
    out
}

#[tokio::test]
async fn every_route_demands_its_scope() {
    // From one address, more tokens that are not valid than anybody may try.
    let api = Api::start_with(|config| config.auth_failures_per_minute = 0).await;
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let operations = operations(&document);
    assert!(operations.len() >= 35, "{} operations", operations.len());

    let (revoked_id, revoked) = api.token(&["admin"]).await;
    api.call("DELETE", &format!("/tokens/{revoked_id}"), Value::Null).await.expect(204);
    let all = ["campaigns", "devices", "plugins", "audiences", "suppressions", "secrets"];
    let every: Vec<String> = all.iter().flat_map(|k| [format!("{k}:read"), format!("{k}:write")]).collect();
    for (method, path, scope) in &operations {
        assert!(scope.is_some(), "{method} {path} names no scope");
        let unknown = api.send(method, &format!("/api/v1{path}"), &[], "").await;
        assert_eq!(unknown.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        unknown.expect(401);
        api.call_as("car_wrong", method, path, Value::Null).await.expect(401);
        api.call_as(&revoked, method, path, Value::Null).await.expect(401);
        if method == "GET" {
            assert_eq!(api.send("HEAD", &format!("/api/v1{path}"), &[], "").await.status, 401, "HEAD {path}");
        }
    }
    // A token with every scope but the demanded one is refused; one with only that scope gets past the door.
    for scope in every.iter().map(String::as_str).chain(["admin"]) {
        let others: Vec<&str> = every.iter().map(String::as_str).filter(|s| *s != scope).collect();
        let (_, without) = api.token(&others).await;
        let (_, with) = api.token(&[scope]).await;
        for (method, path, _) in operations.iter().filter(|(_, _, s)| s.as_deref() == Some(scope)) {
            let problem = api.call_as(&without, method, path, Value::Null).await.expect(403);
            assert!(problem["detail"].as_str().unwrap().contains(scope), "{problem}");
            let status = api.call_as(&with, method, path, Value::Null).await.status;
            assert!(![401, 403, 500].contains(&status), "{method} {path} with {scope}: {status}");
        }
    }
}

#[tokio::test]
async fn without_a_token_only_what_is_open_on_purpose_answers() {
    let api = Api::start().await;
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").await.expect(200);
    for (path, why) in OPEN {
        let status = api.send("GET", path, &[], "").await.status;
        assert_eq!(status, 200, "{path} is open: {why}");
        assert!(document["paths"][path].is_null(), "{path} is open and in the document");
    }
    // Nor is what a key opens, and without one it is as if it were not there.
    let (path, why) = KEYED;
    assert!(document["paths"][path].is_null(), "{path} is open and in the document: {why}");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        for path in ["/hooks/telegram", "/hooks/telegram/", "/hooks/telegram/hook_x", "/hooks/telegram/hook_x/more"] {
            api.send(method, path, &[], "").await.expect(404);
        }
    }
    // No other spelling of a path, and no method that the document does not have, gets past the door.
    for (method, path, _) in operations(&document) {
        let upper = path.to_uppercase();
        let escaped = path.replacen("/", "/%2e/", 1);
        for path in [
            format!("/api/v1{path}/"),
            format!("/api/v1/{path}"),
            format!("//api/v1{path}"),
            format!("/api/v1{escaped}"),
            format!("/api/v1{path};x=1"),
            format!("/api/v1{upper}"),
            format!("/api/v1/healthz/..{path}"),
            format!("/API/V1{path}"),
            path.clone(),
        ] {
            let status = api.send(&method, &path, &[], "").await.status;
            assert!([400, 401, 404, 405].contains(&status), "{method} {path}: {status}");
        }
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
            let status = api.send(method, &format!("/api/v1{path}"), &[], "").await.status;
            assert!([401, 405].contains(&status), "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn answers_carry_the_security_headers() {
    let api = Api::start().await;
    for (path, status) in
        [("/api/v1/devices", 401), ("/healthz", 200), ("/nowhere", 404), ("/api/v1/openapi.json", 200)]
    {
        let answer = api.send("GET", path, &[("x-forwarded-proto", "https")], "").await;
        assert_eq!(answer.status, status, "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("strict-transport-security", "max-age=31536000"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {name}");
        }
        // Nothing of another origin may read an answer, whatever it asks.
        assert_eq!(answer.header("access-control-allow-origin"), None);
        if path.starts_with("/api/") {
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
        let plain = api.send("GET", path, &[], "").await;
        assert_eq!(plain.header("strict-transport-security"), None, "only where there is https");
    }
}

#[tokio::test]
async fn every_operation_is_described() {
    let api = Api::start().await;
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").await.expect(200);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            for status in ["401", "403", "503"] {
                let media = &operation["responses"][status]["content"]["application/problem+json"];
                assert!(media["schema"].is_object(), "{method} {path} does not describe {status}");
            }
        }
    }
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "the schema {name} is missing");
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_within_a_second_even_when_it_was_just_used() {
    let api = Api::start().await;
    let (id, secret) = api.token(&["devices:read"]).await;
    api.call_as(&secret, "GET", "/devices", Value::Null).await.expect(200);
    api.call("DELETE", &format!("/tokens/{id}"), Value::Null).await.expect(204);
    eventually("the token is refused", Duration::from_secs(1), || async {
        api.call_as(&secret, "GET", "/devices", Value::Null).await.status == 401
    })
    .await;
    api.call("DELETE", &format!("/tokens/{id}"), Value::Null).await.expect(404);
}

#[tokio::test]
async fn a_token_that_calls_too_often_waits() {
    let api = Api::start_with(|config| config.rate_limit = 5).await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = api.call("GET", "/audiences", Value::Null).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("twenty calls at once are too many for five a second");
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.expect(429);
}

#[tokio::test]
async fn guesses_at_tokens_are_slowed_down_and_who_is_known_goes_on() {
    let api = Api::start_with(|config| {
        config.auth_failures_per_minute = 5;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let call = async |token: &str, from: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", from)];
        api.send("GET", "/api/v1/audiences", &headers, "").await
    };
    let (_, fresh) = api.token(&["audiences:read"]).await;
    let (here, there) = ("203.0.113.7", "192.0.2.1, 203.0.113.8");
    call(ADMIN, here).await.expect(200);
    for n in 0..5 {
        // Calls without a token are no guesses.
        api.send("GET", "/api/v1/audiences", &[("x-forwarded-for", here)], "").await.expect(401);
        call(&format!("car_guess-{n}"), here).await.expect(401);
    }
    for token in ["car_guess-5", &fresh] {
        let slowed = call(token, here).await;
        let seconds: u64 = slowed.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=13).contains(&seconds), "{slowed:?}");
        slowed.expect(429);
    }
    call(ADMIN, here).await.expect(200);
    call("car_guess-6", there).await.expect(401);
    call(&fresh, there).await.expect(200);
    call(&fresh, here).await.expect(200);
    let metrics = api.send("GET", "/metrics", &[], "").await.expect(200);
    for line in ["carillon_auth_failures_total{kind=\"wrong\"} 6", "carillon_auth_failures_total{kind=\"slowed\"} 2"] {
        assert!(metrics.as_str().unwrap().contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn secrets_are_shown_once_and_scopes_must_be_known() {
    let api = Api::start().await;
    let (_, secret) = api.token(&["campaigns:read"]).await;
    assert!(secret.starts_with("car_") && secret.len() == 47, "{secret}");
    let list = api.get("/tokens").await;
    assert!(!list.to_string().contains(&secret) && !list.to_string().contains(ADMIN));
    let problem = api.call("POST", "/tokens", json!({"name": "x", "scopes": ["root"]})).await.expect(422);
    assert_eq!(problem["errors"][0]["field"], "scopes[0]");
    // Nobody signs the audit log as the engine.
    let problem = api.call("POST", "/tokens", json!({"name": "system", "scopes": ["admin"]})).await.expect(422);
    assert_eq!(problem["errors"][0]["field"], "name");
}

async fn keyed(api: &Api, path: &str, key: &str, body: &Value) -> super::Answer {
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
    api.send("POST", &format!("/api/v1{path}"), &headers, body.to_string()).await
}

#[tokio::test]
async fn a_key_makes_a_repeated_call_one_call() {
    let api = Api::start().await;
    api.furnish().await;
    let first = keyed(&api, "/campaigns", "k1", &campaign()).await;
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = keyed(&api, "/campaigns", "k1", &campaign()).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.expect(201), again.expect(201));
    assert_eq!(api.get("/campaigns").await["items"].as_array().unwrap().len(), 1);

    let mut other = campaign();
    other["name"] = json!("winter");
    keyed(&api, "/campaigns", "k1", &other).await.expect(422);
    keyed(&api, "/campaigns", "k2", &other).await.expect(201);

    // A call that was refused can be mended and sent under its key.
    other["audience"] = json!("nobody");
    keyed(&api, "/campaigns", "k3", &other).await.expect(422);
    keyed(&api, "/campaigns", "k3", &campaign()).await.expect(201);

    // Secrets are not kept with the answer.
    let token = json!({"name": "x", "scopes": ["admin"]});
    assert!(keyed(&api, "/tokens", "k4", &token).await.expect(201)["secret"].is_string());
    assert!(keyed(&api, "/tokens", "k4", &token).await.expect(201)["secret"].is_null());
    keyed(&api, "/tokens", "", &token).await.expect(400);
}

#[tokio::test]
async fn calls_with_one_key_at_the_same_time_make_one_thing() {
    let api = Api::start().await;
    api.furnish().await;
    let spec = campaign();
    let answers = futures::future::join_all((0..8).map(|_| keyed(&api, "/campaigns", "same", &spec))).await;
    let made: Vec<_> = answers.iter().filter(|a| a.status == 201).map(|a| a.body["id"].clone()).collect();
    assert!(!made.is_empty() && made.iter().all(|id| *id == made[0]));
    assert!(answers.iter().all(|a| [201, 409].contains(&a.status)));
    assert_eq!(api.get("/campaigns").await["items"].as_array().unwrap().len(), 1);
}

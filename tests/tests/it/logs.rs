//! What a server writes down: nothing that is secret or personal, also when everything that it says is kept.

use std::time::Duration;

use bytes::Bytes;
use carillon_tests::guests;
use carillon_tests::server::{Setup, TOKEN, free_port};
use carillon_tests::sink::Sink;
use carillon_tests::wait::eventually;
use hyper::Method;
use serde_json::json;

use crate::plugin_contract::hostile::next;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "hush-provider-key-71";
const STORED: &str = "stored-provider-key-72";

#[tokio::test(flavor = "multi_thread")]
async fn neither_secrets_nor_recipients_are_in_the_log() {
    let sink = Sink::start().await;
    let data = tempfile::tempdir().expect("a folder");
    let key = carillon::vault::Vault::new_key();
    let server = Setup::embedded(data.path(), &[sink.port])
        .with("CARILLON_LOG", "debug,carillon=trace")
        .with("CARILLON_SECRETS", format!("KEY={SECRET}@127.0.0.1"))
        .with("CARILLON_SECRETS_KEY", &key)
        .start()
        .await;
    let stored = json!({"value": STORED, "host": "127.0.0.1"}).to_string();
    for (path, status) in
        [("/api/v1/secrets/STORED", 201), ("/api/v1/secrets/STORED", 200), ("/api/v1/secrets/a%20b", 422)]
    {
        let put = server.client.send(Method::PUT, path, "application/json", stored.clone().into()).await;
        let (given, answer) = put.expect("an answer");
        assert!(given == status && !answer.to_string().contains(STORED), "{path}: {given} {answer}");
    }
    // One that cannot be read is named, not shown.
    let torn = Bytes::from(format!("{{\"value\": \"{STORED}\", \"host\": "));
    let (status, answer) =
        server.client.send(Method::PUT, "/api/v1/secrets/TORN", "application/json", torn).await.expect("an answer");
    assert!(status == 400 && !answer.to_string().contains(STORED), "{answer}");
    let token = server.post("/api/v1/tokens", &json!({"name": "ci", "scopes": ["campaigns:read"]})).await;
    let token = token["secret"].as_str().expect("a secret").to_owned();
    server.post("/api/v1/devices", &json!([{"id": "dev-1", "channel": "sms", "tags": ["eu"]}])).await;
    let csv = Bytes::from("address,name\n+15550100071,Wilhelmina\n+15550100072,Wilhelmina\n");
    let (status, _) =
        server.client.send(Method::PUT, "/api/v1/audiences/friends", "text/csv", csv).await.expect("an answer");
    assert_eq!(status, 200);
    // What it writes to its standard output after each message is its author's business.
    let writing = guests::writing("writing", &format!("(call $write (call $stdout)) {}", next("1", 0)));
    let upload = server.client.send(Method::POST, "/api/v1/plugins?activate=true", "application/wasm", writing);
    assert_eq!(upload.await.expect("an answer").0, 201);
    // Some arrive with a secret, some may not leave, some name a secret that there is not.
    for (url, header) in [
        (sink.url(), "Bearer {{secret:KEY}}"),
        ("http://127.0.0.1:9/send".to_owned(), "Bearer {{secret:KEY}}"),
        (sink.url(), "Bearer {{secret:STORED}}"),
        ("http://127.0.0.1:9/send".to_owned(), "Bearer {{secret:STORED}}"),
        (sink.url(), "Bearer {{secret:OTHER}}"),
        (format!("{}/{{{{secret:KEY}}}}", sink.url()), "x"),
        ("http://127.0.0.1:9/{{secret:KEY}}/send".to_owned(), "x"),
        (format!("{}/{{{{secret:OTHER}}}}", sink.url()), "x"),
    ] {
        let made = server
            .post(
                "/api/v1/campaigns",
                &json!({"name": "c", "audience": "friends", "devices": {"tag": "eu"}, "retry": {"max_attempts": 1},
                    "template": {"plugin": "jinja", "config": {"text": "Dear {{ name }}, the password is swordfish"}},
                    "delay": {"plugin": "writing", "config": {}},
                    "sender": {"plugin": "webhook", "config": {"url": url, "headers": {"Authorization": header}}}}),
            )
            .await;
        let path = format!("/api/v1/campaigns/{}", made["id"].as_str().expect("an id"));
        server.post(&format!("{path}/launch"), &json!({})).await;
        eventually("every message is final or waits for its next attempt", PATIENCE, || async {
            let (_, campaign) = server.client.get(&path).await.expect("an answer");
            let counts = &campaign["counts"];
            counts["sent"].as_u64().unwrap_or(0) + counts["failed"].as_u64().unwrap_or(0) == 2
        })
        .await;
    }
    // Refused calls are told about, too: a secret as a token, in a query and in a body that cannot be read.
    let wrong = carillon_tests::client::Client::new(server.setup.port, "car_swordfish");
    assert_eq!(wrong.get("/api/v1/devices").await.expect("an answer").0, 401);
    assert_eq!(server.client.get("/api/v1/devices?swordfish=%2B15550100071").await.expect("an answer").0, 400);
    let body = Bytes::from("{\"swordfish\": ");
    let broken = server.client.send(Method::POST, "/api/v1/campaigns", "application/json", body).await;
    assert_eq!(broken.expect("an answer").0, 422, "an unknown field, and no end");
    server.client.get("/api/v1/suppressions?address=%2B15550100071").await.expect("an answer");

    let log = server.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log says everything");
    for secret in
        [TOKEN, &token, SECRET, STORED, &key, "+15550100071", "%2B15550100071", "Wilhelmina", "swordfish", "xxxxxxxx"]
    {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_urls_are_not_in_the_log() {
    for (name, url) in [
        ("CARILLON_STORE", "postgres://me:swordfish@127.0.0.1:1/x"),
        ("CARILLON_QUEUE", "redis://me:swordfish@127.0.0.1:1/0"),
    ] {
        let data = tempfile::tempdir().expect("a folder");
        let setup = Setup { data: data.path().to_owned(), env: Vec::new(), port: free_port(), logs: None };
        let server = setup.with("CARILLON_LOG", "debug,carillon=trace").with(name, url).spawn();
        eventually("it says what it waits for", PATIENCE, || async { server.log().contains("waiting for it") }).await;
        assert!(!server.log().contains("swordfish"), "{}", server.log());
        let (status, waits) = server.client.get("/readyz").await.expect("an answer");
        assert!(status == 503 && !waits.to_string().contains("swordfish"), "{waits}");
    }
}

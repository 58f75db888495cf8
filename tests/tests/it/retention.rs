//! Retention through a real server: the messages of a campaign that finished days ago go, its counts stay.

use std::time::Duration;

use carillon_tests::server::Setup;
use carillon_tests::wait::eventually;
use hyper::Method;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_when_their_days_are_over_and_counts_stay() {
    let data = tempfile::tempdir().expect("a folder");
    let setup = Setup::embedded(data.path(), &[])
        .with("CARILLON_KEEP_FINISHED_DAYS", "1")
        .with("CARILLON_RECOVERY_INTERVAL_MS", "100");
    let server = setup.start().await;
    server.post("/api/v1/devices", &json!([{"id": "d", "channel": "sms", "tags": ["t"]}])).await;
    let csv: String = std::iter::once("address\n".to_owned()).chain((1..=50).map(|n| format!("+{n}\n"))).collect();
    let put = server.client.send(Method::PUT, "/api/v1/audiences/people", "text/csv", csv.into()).await;
    assert_eq!(put.expect("an answer").0, 200);
    let spec = json!({"name": "old", "audience": "people", "devices": {"tag": "t"},
        "template": {"plugin": "jinja", "config": {"text": "Hi"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": 0, "max_ms": 0}}, "sender": {"plugin": "simulator"}});
    let made = server.post("/api/v1/campaigns", &spec).await;
    let path = format!("/api/v1/campaigns/{}", made["id"].as_str().expect("an id"));
    server.post(&format!("{path}/launch"), &json!({})).await;
    eventually("the campaign completes", PATIENCE, async || server.get(&path).await["status"] == "completed").await;
    let before = server.get(&path).await;
    assert_eq!((&before["messages_pruned_at"], &before["recipients"]), (&json!(null), &json!(50)));
    let listed = server.get(&format!("{path}/messages?limit=1")).await;
    let message = format!("/api/v1/messages/{}", listed["items"][0]["id"].as_str().expect("an id"));
    assert_eq!(server.terminate().await, Some(0));

    // It finished two days earlier than it did.
    let url = format!("sqlite:{}", data.path().join("carillon.db").display());
    let mut database = SqliteConnection::connect(&url).await.expect("the database opens");
    database.execute("UPDATE runs SET finished_at = finished_at - 172800000").await.expect("a run finished");
    database.close().await.expect("closes");

    let server = setup.start().await;
    eventually("its messages are gone", PATIENCE, async || {
        server.client.get(&message).await.is_ok_and(|(status, _)| status == 410)
    })
    .await;
    let (status, problem) = server.client.get(&format!("{path}/messages")).await.expect("an answer");
    assert_eq!((status, &problem["type"]), (410, &json!("urn:carillon:problem:gone")), "{problem}");
    let after = server.get(&path).await;
    assert!(after["messages_pruned_at"].is_string(), "{after}");
    for field in ["counts", "recipients", "status", "finished_at"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let (status, _) = server.client.post(&format!("{path}/retry-failed"), &json!({})).await.expect("an answer");
    assert_eq!(status, 409);
}

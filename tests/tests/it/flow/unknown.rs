//! A provider that takes messages and drops the connection: nobody knows what became of them, until it is asked.

use carillon_tests::guests;
use carillon_tests::sink::Cut;

use super::*;

/// As [`spec`], sent at most once, with a provider that can be asked.
fn at_most_once(sink: &Sink, name: &str, policy: Value) -> Value {
    let mut spec = spec(sink, 1);
    let lookup = json!({"url": sink.lookup_url(), "outcomes": [{"status": [404], "outcome": "transient"}]});
    spec["name"] = name.into();
    spec["delivery"] = "at_most_once".into();
    spec["sender"]["config"]["lookup"] = lookup;
    spec["unknown"] = policy;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_looked_up_and_sent_again_only_if_it_was_not() {
    let sink = Sink::start().await;
    let data = tempfile::tempdir().expect("a folder");
    let setup = Setup::embedded(data.path(), &[sink.port]).with("CARILLON_RECOVERY_INTERVAL_MS", "200");
    let world = World { servers: vec![setup.start().await], redis: None, _database: None, _data: data };
    let messages = 10;
    world.add_devices(5).await;
    world.add_audience("customers", messages).await;

    // Without a policy they wait in the inbox.
    sink.cut(Some(Cut::Taken));
    let kept = world.launch(&at_most_once(&sink, "kept", json!({}))).await;
    let done = world.completed(&kept).await;
    assert_eq!(done["counts"]["unknown"], json!(messages), "{done}");
    assert_eq!(sink.count(), messages, "at most once");
    let inbox = world.api().get(&format!("/api/v1/messages?status=unknown&campaign={kept}")).await;
    let first = inbox["items"][0]["id"].as_str().expect("a message").to_owned();
    let found = world.api().post(&format!("/api/v1/messages/{first}/lookup"), &json!({})).await;
    assert_eq!((&found["status"], &found["provider_id"]), (&json!("sent"), &json!(format!("sink-{first}"))));
    let client = world.client();
    eventually("the others are counted", PATIENCE, || async {
        let (_, metrics) = client.get("/metrics").await.expect("an answer");
        metrics.as_str().is_some_and(|m| m.contains(&format!("carillon_unknown_outcomes {}\n", messages - 1)))
    })
    .await;

    // With one they are looked up: the provider has them all, none is sent again.
    let policy = json!({"lookup": true, "after_s": 1});
    let taken = world.launch(&at_most_once(&sink, "taken", policy.clone())).await;
    let path = format!("/api/v1/campaigns/{taken}");
    eventually("all are known to be sent", PATIENCE, || async {
        matches!(client.get(&path).await, Ok((200, c)) if c["counts"]["sent"] == json!(messages))
    })
    .await;
    assert_eq!(sink.count(), 2 * messages, "none was sent again");

    // What it has never taken goes out once more.
    sink.cut(Some(Cut::Lost));
    let lost = world.launch(&at_most_once(&sink, "lost", policy)).await;
    eventually("each was tried", PATIENCE, || async { sink.lost() >= messages }).await;
    sink.cut(None);
    let path = format!("/api/v1/campaigns/{lost}");
    eventually("all are sent", PATIENCE, || async {
        matches!(client.get(&path).await, Ok((200, c)) if c["counts"]["sent"] == json!(messages) && c["status"] == "completed")
    })
    .await;
    let mut arrived: HashMap<String, usize> = HashMap::new();
    for arrival in sink.arrivals() {
        *arrived.entry(arrival.id).or_default() += 1;
    }
    assert_eq!((arrived.len(), sink.count()), (3 * messages, 3 * messages), "each was taken once");
    let last = world.api().get(&format!("{path}/messages?status=sent&limit=1")).await["items"][0]["id"].clone();
    let message = world.api().get(&format!("/api/v1/messages/{}", last.as_str().expect("an id"))).await;
    let history: Vec<&str> =
        message["attempts"].as_array().expect("attempts").iter().filter_map(|a| a["outcome"].as_str()).collect();
    assert!(history.starts_with(&["unknown", "resolved-retry"]), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_end_for_one_message_end_its_attempt() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    let again = guests::asking_again("again", "POST", "simulator:", &[], r#"{"answer":{"status":200}}"#);
    world.upload(again, "?activate=true&grant=asked").await;
    world.add_devices(1).await;
    world.add_audience("customers", 2).await;
    let mut spec = at_most_once(&sink, "again", json!({}));
    spec["sender"] = json!({"plugin": "again", "config": {}});
    let id = world.launch(&spec).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["unknown"], json!(2), "requests have left: nobody knows what they did. {done}");
    let inbox = world.api().get(&format!("/api/v1/messages?status=unknown&campaign={id}")).await;
    let message = inbox["items"][0]["id"].as_str().expect("a message").to_owned();
    let attempts = world.api().get(&format!("/api/v1/messages/{message}")).await["attempts"].clone();
    assert_eq!(attempts[0]["reason"]["code"], json!("too-many-requests"), "{attempts}");
}

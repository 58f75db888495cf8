//! What plugins were granted, in running campaigns: nothing else leaves, and what they did not get can be seen.

use carillon_tests::guests;
use carillon_tests::standin::StandIn;
use tokio::time::Instant;

use super::*;

impl World {
    /// One server whose senders may reach these ports on loopback, with a secret of each of two plugins.
    async fn with_secrets(ports: &[u16]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let setup = Setup::embedded(data.path(), ports);
        let server = setup.with("CARILLON_SECRETS", "MINE=my-own@127.0.0.1,THEIRS=hush-hush@127.0.0.1").start().await;
        Self { servers: vec![server], redis: None, _database: None, _data: data }
    }

    async fn grant(&self, plugin: &str, grants: &Value) -> Value {
        let path = format!("/api/v1/plugins/{plugin}/grants");
        let body = Bytes::from(grants.to_string());
        let (status, view) = self.client().send(Method::PUT, &path, "application/json", body).await.expect("an answer");
        assert_eq!(status, 200, "{view}");
        view
    }

    /// Waits until the campaign is paused and nothing of it is under way; returns it.
    async fn paused(&self, id: &str) -> Value {
        let (client, path) = (self.client(), format!("/api/v1/campaigns/{id}"));
        eventually("the campaign is paused", PATIENCE, || async {
            matches!(client.get(&path).await, Ok((200, c)) if c["status"] == "paused" && c["counts"]["processing"] == 0)
        })
        .await;
        self.campaign(id).await
    }

    /// How often this server refused `webhook` a host.
    async fn hosts_refused(server: &Server) -> u64 {
        let view = server.get("/api/v1/plugins/webhook/grants").await;
        assert_eq!(view["granted"]["hosts"], json!(["elsewhere.example.com"]), "{view}");
        let refusals = view["refusals"].as_array().expect("a list").iter().filter(|r| r["reason"] == "host");
        refusals.map(|r| r["count"].as_u64().expect("a count")).sum()
    }

    /// The refusal of a plugin with this reason.
    async fn refusal(&self, plugin: &str, reason: &str) -> Value {
        let view = self.api().get(&format!("/api/v1/plugins/{plugin}/grants")).await;
        let found = view["refusals"].as_array().expect("a list").iter().find(|r| r["reason"] == reason);
        found.unwrap_or_else(|| panic!("no {reason} in {view}")).clone()
    }
}

/// A campaign of this sender, which tries again soon and often.
fn of(sender: &str, max_attempts: u32) -> Value {
    json!({
        "name": sender, "audience": "customers", "devices": {"tag": "eu"},
        "template": {"plugin": "jinja", "config": {"text": "Hello {{ name }}"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": 1, "max_ms": 1}},
        "sender": {"plugin": sender, "config": {}}, "delivery": "at_least_once",
        "retry": {"max_attempts": max_attempts, "base_ms": 1000, "max_ms": 2000}
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_gets_the_host_and_the_secret_that_it_was_granted_and_no_other() {
    let provider = StandIn::start().await;
    let world = World::with_secrets(&[provider.port]).await;
    let messages = 200;
    world.add_devices(10).await;
    world.add_audience("customers", messages).await;
    let host = format!("127.0.0.1:{}", provider.port);
    let url = format!("{}/send", provider.url());
    let wants = |name: &str, secret: &str| {
        let header = format!("Bearer {{{{secret:{secret}}}}}");
        guests::wanting(
            name,
            [&[host.as_str()], &["MINE"]],
            ("POST", url.as_str()),
            &[("authorization", header.as_str())],
            "{}",
        )
    };
    let uploaded = world.upload(wants("acme", "MINE"), "").await;
    assert_eq!(uploaded["grants"]["missing"], json!({"hosts": [host], "secrets": ["MINE"]}), "{uploaded}");

    // Nothing was granted: nothing arrives, no message is lost, and everything says why.
    let id = world.launch(&of("acme", 5)).await;
    let paused = world.paused(&id).await;
    let why = format!("plugin acme was not granted host {host}");
    let reason = paused["paused_reason"].as_str().expect("a reason");
    assert!(reason.contains(&why) && reason.contains("carillon plugin grant acme --host"), "{paused}");
    assert_eq!((&paused["counts"]["sent"], &paused["counts"]["failed"]), (&json!(0), &json!(0)), "{paused}");
    assert_eq!(provider.take_asked().len(), 0);
    let refusal = world.refusal("acme", "host").await;
    assert!(refusal["host"] == json!(host) && refusal["count"].as_u64() >= Some(50), "{refusal}");
    let log = world.api().log();
    let lines = log.lines().filter(|line| line.contains("a plugin asked for what it may not have")).count();
    assert!((1..=6).contains(&lines), "a few lines, not one for each: {log}");
    let metrics = world.api().get("/metrics").await;
    let counted = format!("carillon_egress_refusals_total{{plugin=\"acme\",reason=\"host\"}} {}", refusal["count"]);
    assert!(metrics.as_str().expect("text").contains(&counted), "{counted}");

    // With a host, but not the secret.
    world.grant("acme", &json!({"hosts": [host]})).await;
    world.api().post(&format!("/api/v1/campaigns/{id}/resume"), &json!({})).await;
    let paused = world.paused(&id).await;
    assert!(paused["paused_reason"].as_str().is_some_and(|r| r.contains("was not granted secret MINE")), "{paused}");
    assert_eq!(provider.take_asked().len(), 0);

    // With both.
    let view = world.grant("acme", &json!({"hosts": [host], "methods": ["POST"], "secrets": ["MINE"]})).await;
    assert_eq!(view["missing"], json!({"hosts": [], "secrets": []}), "{view}");
    world.api().post(&format!("/api/v1/campaigns/{id}/resume"), &json!({})).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    let asked = provider.take_asked();
    assert_eq!(asked.len(), messages);
    assert!(asked.iter().all(|a| a.authorization == "Bearer my-own" && a.method == "POST"));

    // Another one that was granted what it asks for does not get the secret of the first.
    let thief = guests::wanting(
        "thief",
        [&[host.as_str()], &[]],
        ("POST", url.as_str()),
        &[("authorization", "Bearer {{secret:MINE}}")],
        r#"{"and":"{{secret:MINE}}"}"#,
    );
    world.upload(thief, "?activate=true&grant=asked").await;
    let id = world.launch(&of("thief", 5)).await;
    let paused = world.paused(&id).await;
    let reason = paused["paused_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("plugin thief was not granted secret MINE"), "{paused}");
    assert_eq!(provider.take_asked().len(), 0);
    assert_eq!(world.refusal("thief", "secret").await["secret"], "MINE");
    assert!(!world.api().log().contains("my-own") && !paused.to_string().contains("my-own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_looks_into_a_private_network_is_refused_and_seen() {
    let (provider, inside) = (StandIn::start().await, StandIn::start().await);
    // Only the provider is open.
    let world = World::with_secrets(&[provider.port]).await;
    world.add_devices(5).await;
    world.add_audience("customers", 5).await;
    // A name that leads there, and where a redirect of the provider would lead.
    for (name, url, host) in [
        ("named", format!("http://localhost:{}/", inside.port), format!("localhost:{}", inside.port)),
        ("redirected", format!("{}/", inside.url()), format!("127.0.0.1:{}", inside.port)),
        ("metadata", "http://169.254.169.254/latest/meta-data".to_owned(), "169.254.169.254".to_owned()),
    ] {
        // It may reach any host, as far as grants go.
        world
            .upload(guests::wanting(name, [&[], &[]], ("GET", url.as_str()), &[], ""), "?activate=true&grant=asked")
            .await;
        let id = world.launch(&of(name, 1)).await;
        let done = world.completed(&id).await;
        assert_eq!(done["counts"]["failed"], json!(5), "{done}");
        let refusal = world.refusal(name, "private-address").await;
        assert_eq!((&refusal["host"], &refusal["count"]), (&json!(host), &json!(5)), "{refusal}");
        let log = world.api().log();
        let line = log.lines().find(|line| line.contains("private-address") && line.contains(name));
        assert!(line.is_some(), "{log}");
    }
    // The provider's redirect is an answer like any other.
    let location = Some(("location", format!("{}/inside", inside.url())));
    for _ in 0..5 {
        provider.will_say(carillon_tests::standin::Says::Answer {
            status: 307,
            header: location.clone(),
            body: String::new(),
        });
    }
    let asks = guests::wanting("follower", [&[], &[]], ("POST", provider.url().as_str()), &[], "{}");
    world.upload(asks, "?activate=true&grant=asked").await;
    let done = world.completed(&world.launch(&of("follower", 1)).await).await;
    assert_eq!(done["counts"]["sent"], json!(5), "{done}");
    assert_eq!((provider.take_asked().len(), inside.take_asked().len()), (5, 0), "nobody came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_grants_holds_on_every_server_within_a_second() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let messages = 600;
    world.add_devices(20).await;
    world.add_audience("customers", messages).await;
    let mut slow = spec(&sink, 200);
    slow["retry"] = json!({"max_attempts": 10, "base_ms": 1000, "max_ms": 1000});
    let id = world.launch(&slow).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 60 }).await;
    world.grant("webhook", &json!({"hosts": ["elsewhere.example.com"]})).await;
    let narrowed = Instant::now();
    let paused = world.paused(&id).await;
    assert!(paused["paused_reason"].as_str().is_some_and(|r| r.contains("plugin webhook was not granted host")));
    tokio::time::sleep_until(narrowed + Duration::from_secs(2)).await;
    let late = sink.arrivals().iter().filter(|a| a.at > narrowed + Duration::from_secs(1)).count();
    assert_eq!(late, 0, "no server has sent since");
    assert!(sink.count() < messages, "there was something left to send");
    // That may be because the first one that heard paused the campaign for all. So each is asked for a request of its own: to
    // look at a device, as a campaign would that is never launched. Each says what it refused.
    let mut asking = spec(&sink, 200);
    asking["name"] = json!("asking");
    asking["sender"]["config"]["health"] = json!({"url": format!("http://127.0.0.1:{}/devices/x", sink.port)});
    let asking = world.api().post("/api/v1/campaigns", &asking).await["id"].clone();
    let mut before = 0;
    for server in &world.servers {
        let of_sends = World::hosts_refused(server).await;
        let found = server.post("/api/v1/devices/dev-0/check", &json!({"campaign": asking})).await;
        assert_eq!(found["verdict"], "unknown", "{found}");
        assert!(World::hosts_refused(server).await > of_sends, "it knows nothing of the change: {found}");
        before += of_sends;
    }
    assert!(before > 0, "sends were refused, too");
    world.grant("webhook", &json!({"hosts": ["127.0.0.1"]})).await;
    world.api().post(&format!("/api/v1/campaigns/{id}/resume"), &json!({})).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    assert_eq!((sink.count(), sink.per_address().len()), (messages, messages), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_makes_no_more_requests_a_second_than_it_was_granted_and_no_attempt_is_used_up() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    let messages = 150;
    world.add_devices(50).await;
    world.add_audience("customers", messages).await;
    world.grant("webhook", &json!({"hosts": ["*"], "requests_per_second": 30})).await;
    let id = world.launch(&spec(&sink, 0)).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    let arrivals = sink.arrivals();
    assert!(arrivals.iter().all(|a| a.attempt == 1), "nothing was tried twice");
    let took = arrivals[messages - 1].at - arrivals[0].at;
    // A second's worth is there at the start.
    assert!(took >= Duration::from_millis(3_900), "{took:?}");
    for (n, arrival) in arrivals.iter().enumerate() {
        let within = arrivals[n..].iter().filter(|a| a.at < arrival.at + Duration::from_secs(1)).count();
        assert!(within <= 90, "{within} in a second");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_time_are_what_a_plugin_was_granted() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    world.add_devices(5).await;
    world.add_audience("customers", 60).await;
    // 8 MiB more than it has.
    let grows = "(if (i32.eq (memory.grow (i32.const 128)) (i32.const -1)) (then unreachable))";
    world.upload(guests::saying("greedy", "1.0.0", grows), "?activate=true").await;
    world.grant("greedy", &json!({"memory_bytes": 4 << 20})).await;
    let mut spec = spec(&sink, 0);
    spec["template"] = json!({"plugin": "greedy", "config": {}});
    let id = world.launch(&spec).await;
    let paused = world.paused(&id).await;
    assert!(paused["paused_reason"].as_str().is_some_and(|r| r.contains("memory")), "{paused}");
    assert_eq!(sink.count(), 0);
    // An instance grows with each call: only the first fits.
    world.grant("greedy", &json!({"memory_bytes": 128 << 20})).await;
    world.api().post(&format!("/api/v1/campaigns/{id}/resume"), &json!({})).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 0 }).await;
}

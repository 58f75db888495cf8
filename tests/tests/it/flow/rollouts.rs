//! Versions that are tried while campaigns run: canary, shadow, watched activations, roll-backs.

use carillon_tests::guests;

use super::*;

/// The template that these campaigns use: version 1.0.0 is active.
const NAME: &str = "greet";

impl World {
    /// Uploads version 1.0.0, which becomes active, and another one.
    async fn greet(&self, version: &str, first: &str) {
        self.upload(guests::saying(NAME, "1.0.0", ""), "").await;
        self.upload(guests::saying(NAME, version, first), "").await;
    }

    async fn plugin(&self, name: &str) -> Value {
        self.api().get(&format!("/api/v1/plugins/{name}")).await
    }

    /// The plugin's last rollout, once it has this status.
    async fn rollout(&self, name: &str, status: &str) -> Value {
        let (client, path) = (self.client(), format!("/api/v1/plugins/{name}/rollouts"));
        eventually(&format!("the rollout is {status}"), PATIENCE, || async {
            matches!(client.get(&path).await, Ok((200, list)) if list["items"][0]["status"] == status)
        })
        .await;
        self.api().get(&path).await["items"][0].clone()
    }

    async fn findings(&self, name: &str) -> Vec<Value> {
        let list = self.api().get(&format!("/api/v1/plugins/{name}/rollouts/findings")).await;
        list["items"].as_array().expect("a list").clone()
    }
}

fn greeting(sink: &Sink, delay_ms: u64) -> Value {
    let mut spec = spec(sink, delay_ms);
    spec["template"] = json!({"plugin": NAME, "config": {}});
    spec
}

fn number_of(view: &Value, pointer: &str) -> u64 {
    view.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {view}"))
}

/// Everything was sent once, though nobody resumed anything, and no crash cost a message an attempt. (A server that has too little
/// of the machine may lose a lease before it sends: that is another attempt, and no fault of a plugin.)
async fn all_sent_once(world: &World, sink: &Sink, id: &str, messages: usize) {
    let done = world.completed(id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    assert_eq!((sink.count(), sink.per_address().len()), (messages, messages), "each once");
    for again in sink.arrivals().iter().filter(|a| a.attempt > 1) {
        let message = world.api().get(&format!("/api/v1/messages/{}", again.id)).await;
        assert!(!message["attempts"].to_string().contains("plugin-trap"), "a crash cost an attempt: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_crashes_on_one_message_in_twenty_is_rolled_back_by_itself_on_three_servers() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let (devices, messages) = (200, number("CARILLON_TEST_MESSAGES", 6_000));
    world.add_devices(devices).await;
    world.add_audience("customers", messages).await;
    world.greet("1.1.0", &guests::crashing_once_in(20)).await;
    let id = world.launch(&greeting(&sink, 100)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 200 }).await;
    let canary = json!({"version": "1.1.0", "mode": "canary", "share": 0.10});
    let started = tokio::time::Instant::now();
    let view = world.servers[1].post(&format!("/api/v1/plugins/{NAME}/rollouts"), &canary).await;
    assert_eq!((&view["status"], &view["stable"]), (&json!("running"), &json!("1.0.0")), "{view}");

    let rollout = world.rollout(NAME, "rolled_back").await;
    let (took, sent) = (started.elapsed(), sink.count());
    assert!(sent < messages, "it was rolled back while the campaign ran");
    let why = rollout["reason"].as_str().expect("a reason");
    assert!(why.starts_with("plugin-faults: ") && why.contains("crashed"), "{rollout}");
    assert_eq!(rollout["ended_by"], "system");
    eventually("every server has heard of it", PATIENCE, || async { sink.count() > sent + 1_000 }).await;
    let by_candidate = |arrivals: &[carillon_tests::sink::Arrival]| {
        arrivals.iter().filter(|a| a.text == "greet1.1.0").cloned().collect::<Vec<_>>()
    };
    let tried = by_candidate(&sink.arrivals());
    let on: HashSet<_> = tried.iter().map(|a| a.device.clone()).collect();
    assert!((1..=40).contains(&on.len()), "about a tenth of {devices} devices: {}", on.len());
    all_sent_once(&world, &sink, &id, messages).await;
    assert_eq!(by_candidate(&sink.arrivals()).len(), tried.len(), "none after the roll-back");

    let (client, path) = (world.client(), format!("/api/v1/plugins/{NAME}/rollouts"));
    let figures = |list: &Value| {
        let of = |field: &str| number_of(list, &format!("/items/0/candidate/{field}"));
        [of("calls"), ["traps", "deadlines", "memory", "invalid_output", "errors"].map(of).iter().sum()]
    };
    // A message whose lease was lost before it left has met the version without a trace at the other end.
    eventually("every call is accounted for", PATIENCE, || async {
        let (_, list) = client.get(&path).await.expect("an answer");
        let [calls, crashed] = figures(&list);
        calls >= tried.len() as u64 + crashed
    })
    .await;
    let [calls, crashed] = figures(&world.api().get(&path).await);
    assert!(crashed >= 3, "{crashed} of {calls}");
    println!(
        "rolled back {} ms after its start: {calls} of {messages} messages met the version, {crashed} of them its crash; \
         all were sent, once, and no crash cost an attempt",
        took.as_millis()
    );
    let plugin = world.servers[2].get(&format!("/api/v1/plugins/{NAME}")).await;
    assert_eq!((&plugin["active"], &plugin["channels"]["next"]), (&json!("1.0.0"), &Value::Null), "{plugin}");
    let bad = plugin["versions"].as_array().expect("versions").iter().find(|v| v["version"] == "1.1.0").cloned();
    assert_eq!(bad.expect("it is there")["quarantine"]["reason"], rollout["reason"]);
    // A crash is listed with its message, which another version has sent.
    let findings = world.findings(NAME).await;
    assert!(findings.len() >= 3 && findings.iter().all(|f| f["field"] == "fault"), "{findings:?}");
    let message = findings[0]["message"].as_str().expect("a message");
    let message = world.api().get(&format!("/api/v1/messages/{message}")).await;
    assert_eq!(message["status"], "sent", "{message}");
    let digest = |version: &str| {
        let versions = plugin["versions"].as_array().expect("versions");
        versions.iter().find(|v| v["version"] == version).expect("it is there")["digest"].clone()
    };
    assert!(message.to_string().contains(digest("1.0.0").as_str().expect("a digest")), "{message}");

    let (status, problem) = world
        .client()
        .post(&format!("/api/v1/plugins/{NAME}/activate"), &json!({"version": "1.1.0"}))
        .await
        .expect("an answer");
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("quarantine")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activated_version_that_always_crashes_makes_way_for_the_one_before() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let messages = 1_500;
    world.add_devices(30).await;
    world.add_audience("customers", messages).await;
    world.greet("1.1.0", "unreachable").await;
    let id = world.launch(&greeting(&sink, 50)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 200 }).await;
    world.api().post(&format!("/api/v1/plugins/{NAME}/activate"), &json!({"version": "1.1.0"})).await;
    let rollout = world.rollout(NAME, "rolled_back").await;
    assert_eq!(rollout["mode"], "watch", "{rollout}");
    assert_eq!(world.plugin(NAME).await["active"], "1.0.0");
    all_sent_once(&world, &sink, &id, messages).await;
    assert!(sink.arrivals().iter().all(|a| a.text == "greet1.0.0"));
    let history = world.api().get(&format!("/api/v1/plugins/{NAME}/history")).await;
    let rows: Vec<_> = history["items"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["version"].clone(), row["actor"].clone()))
        .collect();
    let row = |version: &str, actor: &str| (json!(version), json!(actor));
    assert_eq!(rows[..2], [row("1.0.0", "system"), row("1.1.0", "admin")], "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_crashes_before_it_sends_costs_nothing_and_after_it_what_is_ambiguous_always_costs() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    let messages = 1_500;
    world.add_devices(30).await;
    world.add_audience("customers", messages).await;
    for (version, bytes) in [
        ("9.0.0", guests::sender_of("webhook", "9.0.0", "unreachable", "unreachable")),
        ("9.1.0", guests::asking_once("webhook", "9.1.0", "POST", &sink.url(), "{}")),
    ] {
        let uploaded = world.upload(bytes, "").await;
        assert_eq!(uploaded["version"], json!(version));
    }
    // Nobody knows whether a message arrived whose sender crashed on the answer.
    let mut spec = spec(&sink, 100);
    spec["delivery"] = json!("at_most_once");
    let id = world.launch(&spec).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 60 }).await;
    let rollouts = "/api/v1/plugins/webhook/rollouts";
    world.api().post(rollouts, &json!({"version": "9.0.0", "mode": "canary", "share": 1.0})).await;
    world.rollout("webhook", "rolled_back").await;
    let before = world.campaign(&id).await;
    assert_eq!((&before["counts"]["unknown"], &before["counts"]["failed"]), (&json!(0), &json!(0)), "{before}");

    world.api().post(rollouts, &json!({"version": "9.1.0", "mode": "canary", "share": 0.5})).await;
    world.rollout("webhook", "rolled_back").await;
    let done = world.completed(&id).await;
    let (unknown, client) = (number_of(&done, "/counts/unknown"), world.client());
    eventually("every crash is written down", PATIENCE, || async {
        matches!(client.get(rollouts).await, Ok((200, list)) if number_of(&list, "/items/0/candidate/traps") == unknown)
    })
    .await;
    assert!((3..200).contains(&unknown), "{done}");
    assert_eq!(number_of(&done, "/counts/sent") + unknown, messages as u64, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_is_one_call_while_campaigns_run() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let messages = 1_200;
    world.add_devices(20).await;
    world.add_audience("customers", messages).await;
    world.greet("1.1.0", "").await;
    let id = world.launch(&greeting(&sink, 50)).await;
    let texts = |from: usize| sink.arrivals().into_iter().skip(from).map(|a| a.text).collect::<HashSet<String>>();
    for (path, body, expected) in [
        ("activate", json!({"version": "1.1.0"}), "greet1.1.0"),
        ("rollback", json!({"reason": "customers complain"}), "greet1.0.0"),
    ] {
        let before = sink.count();
        eventually("it sends", PATIENCE, || async { sink.count() > before + 100 }).await;
        world.api().post(&format!("/api/v1/plugins/{NAME}/{path}"), &body).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = sink.count();
        eventually("it goes on", PATIENCE, || async { sink.count() > after + 20 }).await;
        assert_eq!(texts(after), HashSet::from([expected.to_owned()]), "{path}");
    }
    all_sent_once(&world, &sink, &id, messages).await;
    let history = world.servers[1].get(&format!("/api/v1/plugins/{NAME}/history")).await;
    assert_eq!(history["items"][0]["reason"], "customers complain", "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_lists_differences_and_sends_nothing() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let messages = 1_500;
    world.add_devices(30).await;
    world.add_audience("customers", messages).await;
    world.greet("1.1.0", &guests::crashing_once_in(20)).await;
    // To the same sink, which writes down whatever is posted to it: a request to another place would be refused if it were made.
    let shadow_url = format!("{}/shadow", sink.url());
    world.upload(guests::asking_once("webhook", "9.0.0", "POST", &shadow_url, "{}"), "").await;
    let id = world.launch(&greeting(&sink, 50)).await;
    eventually("it sends", PATIENCE, || async { sink.count() > 100 }).await;
    for (name, version) in [(NAME, "1.1.0"), ("webhook", "9.0.0")] {
        let shadow = json!({"version": version, "mode": "shadow", "share": 0.5});
        world.api().post(&format!("/api/v1/plugins/{name}/rollouts"), &shadow).await;
    }
    assert_eq!(world.plugin(NAME).await["channels"], json!({"stable": "1.0.0", "next": "1.1.0"}));
    all_sent_once(&world, &sink, &id, messages).await;
    assert!(sink.arrivals().iter().all(|a| a.text == "greet1.0.0"), "the stable version's answer is used");
    for (name, field) in [(NAME, "text"), ("webhook", "url")] {
        let client = world.client();
        let path = format!("/api/v1/plugins/{name}/rollouts");
        eventually("it was written down", PATIENCE, || async {
            matches!(client.get(&path).await, Ok((200, list)) if number_of(&list, "/items/0/shadow/different") > 100)
        })
        .await;
        let rollout = world.rollout(name, "running").await;
        let shadow = &rollout["shadow"];
        println!("{name}: {shadow}");
        assert_eq!(number_of(&rollout, "/candidate/calls"), 0, "no message met it: {rollout}");
        assert_eq!(shadow["same"], json!(0), "{rollout}");
        // One in twenty crashes. On a machine that is busy a call of the other may exceed its time, too.
        let failed = number_of(shadow, "/failed");
        assert_eq!(failed * 50 > failed + number_of(shadow, "/different"), name == NAME, "{rollout}");
        let findings = world.findings(name).await;
        assert!(findings.len() <= 200 && findings.iter().any(|f| f["field"] == field), "{findings:?}");
        let told = serde_json::to_string(&findings).expect("JSON");
        assert!(!told.contains("+1555") && !told.contains("greet1") && !told.contains("http://"), "{told}");
        world.api().post(&format!("/api/v1/plugins/{name}/rollouts/abort"), &json!({})).await;
        assert_eq!(world.plugin(name).await["active"], rollout["stable"], "what is active stays so");
    }
    // Shadows may be asked later than their messages are sent.
    assert_eq!(sink.count(), messages, "a shadow sends nothing");
}

//! Plugins in running campaigns: a version that is activated meanwhile, and plugins that mean harm.

use carillon::plugins::NEXT_JINJA;
use tokio::time::Instant;

use super::*;
use carillon_tests::guests::{self, SCRATCH};

impl World {
    pub(super) async fn upload(&self, bytes: Bytes, query: &str) -> Value {
        let path = format!("/api/v1/plugins{query}");
        let (status, answer) =
            self.client().send(Method::POST, &path, "application/wasm", bytes).await.expect("an answer");
        assert_eq!(status, 201, "{answer}");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activated_version_is_used_by_running_campaigns_on_every_server_within_a_second() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let messages = 1200;
    world.add_devices(20).await;
    world.add_audience("customers", messages).await;
    let mut spec = spec(&sink, 100);
    // What the next version adds.
    spec["template"]["config"]["text"] = json!("{% if greeting is defined %}new{% else %}old{% endif %}");
    let uploaded = world.upload(Bytes::from_static(NEXT_JINJA), "").await;
    assert_eq!((&uploaded["name"], &uploaded["version"]), (&json!("jinja"), &json!("1.1.0")), "{uploaded}");
    for server in &world.servers {
        // Each compiles it for itself.
        let path = "/api/v1/plugins/jinja/versions/1.1.0/try";
        eventually("it is loaded", PATIENCE, || async {
            matches!(server.client.post(path, &json!({"config": {"text": "x"}})).await, Ok((200, _)))
        })
        .await;
    }
    let id = world.launch(&spec).await;
    for (version, after) in [("1.1.0", 300), ("1.0.0", 700)] {
        eventually("it sends", PATIENCE, || async { sink.count() > after }).await;
        world.api().post("/api/v1/plugins/jinja/activate", &json!({"version": version})).await;
        let activated = Instant::now();
        let (expected, other) = if version == "1.1.0" { ("new", "old") } else { ("old", "new") };
        eventually("a second has passed", PATIENCE, || async { activated.elapsed() > Duration::from_millis(1500) })
            .await;
        let arrivals = sink.arrivals();
        let late: Vec<_> = arrivals.iter().filter(|a| a.at > activated + Duration::from_secs(1)).collect();
        assert!(!late.is_empty() && late.iter().all(|a| a.text == expected), "{version}: {late:?}");
        assert!(arrivals.iter().any(|a| a.text == other), "the version before was used before");
    }
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    assert_eq!((sink.count(), sink.per_address().len()), (messages, messages), "each once, whichever version said it");
    // The versions survive a new start, and a roll-back stays one.
    let plugin = world.servers[1].get("/api/v1/plugins/jinja").await;
    assert_eq!(plugin["active"], json!("1.0.0"), "{plugin}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_module_from_a_rust_compiler_is_uploaded_as_it_is_and_sends() {
    let module = core_module("rust-greeting");
    assert!(module.starts_with(b"\0asm\x01\0\0\0"), "no component linker has run");
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    let uploaded = world.upload(module.clone(), "").await;
    assert_eq!(
        (&uploaded["name"], &uploaded["kind"], &uploaded["active"], &uploaded["report"]["warnings"]),
        (&json!("greeting"), &json!("template"), &json!(true), &json!([])),
        "{uploaded}"
    );
    assert_eq!(uploaded["digest"], json!(carillon::id::Digest::of(&module)), "the digest is of what was uploaded");
    // Once more: the same version.
    let (status, again) = world
        .client()
        .send(Method::POST, "/api/v1/plugins", "application/wasm", module.clone())
        .await
        .expect("an answer");
    assert_eq!((status, &again["digest"]), (200, &uploaded["digest"]), "{again}");
    world.add_devices(5).await;
    world.add_audience("customers", 50).await;
    let mut spec = spec(&sink, 10);
    spec["template"] = json!({"plugin": "greeting"});
    let id = world.launch(&spec).await;
    let done = world.completed(&id).await;
    assert_eq!(done["counts"]["sent"], json!(50), "{done}");
    let first = sink.arrivals().into_iter().find(|a| a.to == address(7)).expect("address 7");
    assert_eq!(first.text, "Hello Name 7.");
    // Its own cases hold, of the module as of the component.
    assert_eq!(own_cases("rust-greeting", &module), "2 passed, 0 failed");
}

#[test]
fn a_sender_with_all_that_a_provider_has_passes_its_cases() {
    assert_eq!(own_cases("rust-gateway", &core_module("rust-gateway")), "5 passed, 0 failed");
}

fn core_module(example: &str) -> Bytes {
    carillon_tests::rust_guest::core_module(example, std::path::Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// `carillon plugin test` of an example with the cases beside it: its last line.
fn own_cases(example: &str, component: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, component).expect("written");
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plugins");
    let tested = std::process::Command::new(carillon_tests::server::binary())
        .args(["plugin", "test"])
        .args([file, examples.join(example).join("cases")])
        .output()
        .expect("carillon runs");
    let lines = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(tested.status.success(), "{lines}");
    lines.lines().last().unwrap_or_default().to_owned()
}

/// `ok([ok(content { text, … })])` of a text that says it is this long.
fn rendered(length: u32) -> String {
    let element = SCRATCH + 64;
    format!(
        "(i32.store8 (i32.const {SCRATCH}) (i32.const 0))
         (i32.store (i32.const {}) (i32.const {element}))
         (i32.store (i32.const {}) (i32.const 1))
         (i32.store8 (i32.const {element}) (i32.const 0))
         (i32.store (i32.const {}) (i32.const 1024))
         (i32.store (i32.const {}) (i32.const {length}))
         (i32.const {SCRATCH})",
        SCRATCH + 4,
        SCRATCH + 8,
        element + 4,
        element + 8,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_mean_harm_pause_their_own_campaigns_and_disturb_no_other() {
    const LOOP: &str = "(loop $l (br $l)) unreachable";
    const EATER: &str = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    // A gigabyte that the plugin has not, and all of the memory that it may have.
    let liar = rendered(1 << 30);
    let big = format!("(drop (memory.grow (i32.const 240))) {}", rendered(15 << 20));
    let none = "unreachable";
    let hostile = [
        ("template", "endless-loop", guests::template("endless-loop", LOOP, none), "longer than a call may take"),
        ("template", "memory-eater", guests::template("memory-eater", EATER, none), "memory"),
        ("template", "gigabyte", guests::template("gigabyte", &liar, none), "answer"),
        ("template", "big-answer", guests::template("big-answer", &big, none), "larger than an answer may be"),
        ("sender", "crashing", guests::sender("crashing", none, none), "unreachable"),
        ("delay", "never-next", guests::delay("never-next", LOOP), "longer than a call may take"),
    ];
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    let (messages, each) = (1500, 300);
    let tagged = |tag: &str, count: usize| -> Value {
        (0..count)
            .map(|n| json!({"id": format!("{tag}-{n}"), "channel": "sms", "tags": [tag], "adapter": {}}))
            .collect()
    };
    world.api().post("/api/v1/devices", &tagged("good", 30)).await;
    world.add_audience("customers", messages).await;
    world.add_audience("victims", each).await;
    let mut ids = Vec::new();
    for (kind, name, bytes, reason) in hostile {
        world.upload(bytes, "?activate=true").await;
        world.api().post("/api/v1/devices", &tagged(name, 60)).await;
        let mut spec = spec(&sink, 10);
        (spec["name"], spec["audience"], spec["devices"]) = (json!(name), json!("victims"), json!({"tag": name}));
        spec[kind] = json!({"plugin": name, "config": {}});
        ids.push((kind, name, reason, world.launch(&spec).await));
    }
    let mut good = spec(&sink, 40);
    good["devices"] = json!({"tag": "good"});
    let good = world.launch(&good).await;

    for (kind, name, reason, id) in &ids {
        let (client, path) = (world.client(), format!("/api/v1/campaigns/{id}"));
        eventually(name, PATIENCE, || async {
            matches!(client.get(&path).await, Ok((200, c)) if c["status"] == "paused" && c["counts"]["processing"] == 0)
        })
        .await;
        let view = world.campaign(id).await;
        let why = view["paused_reason"].as_str().unwrap_or_default();
        assert!(why.contains(reason), "{name}: {view}");
        let counts = &view["counts"];
        let count = |state: &str| counts[state].as_u64().unwrap_or_else(|| panic!("{state}: {view}"));
        assert_eq!(count("pending") + count("sent") + count("failed"), each as u64, "{name}: nothing is lost: {view}");
        assert_eq!(count("sent") > 0, *kind == "delay", "{name}: {view}");
    }
    let done = world.completed(&good).await;
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    let peak = world.api().peak_memory();
    assert!(peak < 600 << 20, "{} MiB", peak >> 20);
}

/// A template that is slow and not broken keeps few of the workers waiting: another campaign is sent beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plugin_does_not_keep_the_workers_of_others() {
    let slow = format!(
        "(local $n i32)
         (local.set $n (i32.const 30000000))
         (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
         {}",
        rendered(8)
    );
    let sink = Sink::start().await;
    let data = tempfile::tempdir().expect("a folder");
    let server = Setup::embedded(data.path(), &[sink.port]).with("CARILLON_MAX_WORKERS", "200").start().await;
    let world = World { servers: vec![server], redis: None, _database: None, _data: data };
    let tagged = |tag: &str, count: usize| -> Value {
        (0..count)
            .map(|n| json!({"id": format!("{tag}-{n}"), "channel": "sms", "tags": [tag], "adapter": {}}))
            .collect()
    };
    world.api().post("/api/v1/devices", &tagged("good", 30)).await;
    world.api().post("/api/v1/devices", &tagged("slow", 400)).await;
    world.add_audience("customers", 300).await;
    world.add_audience("many", 4_000).await;
    world.upload(guests::template("slow", &slow, "unreachable"), "?activate=true").await;
    let mut dragging = spec(&sink, 0);
    (dragging["audience"], dragging["devices"]) = (json!("many"), json!({"tag": "slow"}));
    dragging["template"] = json!({"plugin": "slow", "config": {}});
    let dragging = world.launch(&dragging).await;
    let sends = || async { world.campaign(&dragging).await["counts"]["sent"].as_u64().is_some_and(|sent| sent > 0) };
    eventually("the slow one sends", PATIENCE, sends).await;

    let mut good = spec(&sink, 0);
    good["devices"] = json!({"tag": "good"});
    let good = world.launch(&good).await;
    world.completed(&good).await;
    let view = world.campaign(&dragging).await;
    assert_eq!(view["status"], "running", "{view}");
    assert!(view["counts"]["pending"].as_u64().is_some_and(|pending| pending > 1_000), "{view}");
    assert_eq!(view["counts"]["failed"], 0, "{view}");
    world.api().post(&format!("/api/v1/campaigns/{dragging}/cancel"), &json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_made_to_exhaust_the_compiler_is_refused_and_the_server_goes_on() {
    let data = tempfile::tempdir().expect("a folder");
    // Enough for each first-party plugin.
    let server = Setup::embedded(data.path(), &[]).with("CARILLON_PLUGIN_COMPILE_S", "4").start().await;
    let client = server.client.clone();
    let bomb = guests::laborious(400);
    let upload = tokio::spawn(async move {
        client.send(Method::POST, "/api/v1/plugins", "application/wasm", bomb).await.expect("an answer")
    });
    let mut answers = 0;
    while !upload.is_finished() {
        let asked = Instant::now();
        assert_eq!(server.client.get("/readyz").await.expect("an answer").0, 200);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        answers += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (status, problem) = upload.await.expect("it ended");
    assert_eq!((status, &problem["type"]), (422, &json!("urn:carillon:problem:plugin-compile-limit")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("4 s of processor time")), "{problem}");
    assert!(answers > 5, "{answers} answers meanwhile");
    let good = guests::delay("fine", "unreachable");
    let (status, answer) =
        server.client.send(Method::POST, "/api/v1/plugins", "application/wasm", good).await.expect("an answer");
    assert_eq!(status, 201, "{answer}");
}

/// Crashes in `$why` when the last letter of the recipient's variable is `!`; answers with a message otherwise.
fn picky_template() -> Bytes {
    // The arguments' memory holds the jobs: the whole of it is searched, so that no offset of the contract is repeated here.
    let render = format!(
        "(local $at i32)
         (local.set $at (i32.const 8192))
         (loop $next
           (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then (call $why)))
           (local.set $at (i32.add (local.get $at) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $at) (i32.const 65536))))
         {}) (func $why (unreachable)",
        rendered(7)
    );
    guests::template("picky", &render, "unreachable")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_crashed_is_kept_without_personal_data_and_crashes_again_on_the_command_line() {
    let sink = Sink::start().await;
    let world = World::embedded(&sink).await;
    world.upload(picky_template(), "?activate=true").await;
    world.add_devices(5).await;
    let csv = "address,name\n+15550001111,Zora Quill!\n";
    let (status, report) = world
        .client()
        .send(Method::PUT, "/api/v1/audiences/customers", "text/csv", Bytes::from_static(csv.as_bytes()))
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{report}");
    let mut spec = spec(&sink, 10);
    spec["template"] = json!({"plugin": "picky", "config": {"greeting": "Dear"}});
    world.launch(&spec).await;
    let client = world.client();
    eventually("a case is kept", PATIENCE, || async {
        matches!(client.get("/api/v1/plugins/picky/cases").await, Ok((200, c)) if !c["items"].as_array().unwrap().is_empty())
    })
    .await;
    let cases = world.api().get("/api/v1/plugins/picky/cases").await;
    let kept = &cases["items"][0];
    assert_eq!(
        (&kept["code"], &kept["call"], &kept["masked"], &kept["reproduces"], &kept["complete"], &kept["version"]),
        (&json!("plugin-trap"), &json!("render"), &json!(true), &json!(true), &json!(true), &json!("1.0.0")),
        "{cases}"
    );
    assert!(kept["case"].is_null(), "a list does not say what they were made with");
    let name = format!("picky/{}", kept["id"]);
    let whole = world.api().get(&format!("/api/v1/plugins/picky/cases/{}", kept["id"])).await;
    let case = &whole["case"];
    assert_eq!(case["config"], json!({"greeting": "Dear"}), "{whole}");
    assert_eq!(case["recipient"]["address"], "+23456789012");
    assert_eq!(case["recipient"]["variables"], json!([["name", "Abcd Fghij!"]]));
    assert!(!whole.to_string().contains("Zora") && !whole.to_string().contains("1555000"), "{whole}");
    let (status, _) = client.get("/api/v1/plugins/picky/cases/999999").await.expect("an answer");
    assert_eq!(status, 404);

    // Again: on the server, and with the component at hand; with another one it is gone.
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (same, mended) = (
        file("picky.wasm", &picky_template()),
        file("mended.wasm", &guests::template("picky", &rendered(7), "unreachable")),
    );
    let saved = file("case.json", whole.to_string().as_bytes());
    let url = format!("http://127.0.0.1:{}", world.servers[0].setup.port);
    let replay = |args: &[&str]| {
        let done = std::process::Command::new(carillon_tests::server::binary())
            .args(["plugin", "replay"])
            .args(args)
            .env_clear()
            .env("CARILLON_URL", &url)
            .env("CARILLON_TOKEN", carillon_tests::server::TOKEN)
            .output()
            .expect("carillon runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    for args in [vec![name.as_str()], vec![&name, "--file", &same], vec![&saved, "--file", &same]] {
        let (code, stdout, stderr) = replay(&args);
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        let ran: Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!(ran["fault"]["code"], "plugin-trap", "{args:?}: {ran}");
        assert!(ran["fault"]["backtrace"][0].as_str().expect("a name").contains("why"), "{args:?}: {ran}");
        assert!(stderr.contains("it reproduces: plugin-trap"), "{stderr}");
    }
    let (code, _, stderr) = replay(&[&name, "--file", &mended]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("does not reproduce: it was plugin-trap, now it is an answer"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_case_is_kept_where_the_policy_says_so_and_good_calls_are_sampled_where_it_does() {
    let sink = Sink::start().await;
    for (policy, sample, kept) in [("none", "1", false), ("full", "1", true)] {
        let data = tempfile::tempdir().expect("a folder");
        let server = Setup::embedded(data.path(), &[sink.port])
            .with("CARILLON_PLUGIN_CASE_DATA", policy)
            .with("CARILLON_PLUGIN_CASE_SAMPLE", sample)
            .start()
            .await;
        let devices = json!([{"id": "d-1", "channel": "sms", "tags": ["eu"]}]);
        server.post("/api/v1/devices", &devices).await;
        let csv = Bytes::from_static(b"address,name,city\n+15550001111,Zora,Oslo\n");
        let (status, _) =
            server.client.send(Method::PUT, "/api/v1/audiences/customers", "text/csv", csv).await.expect("an answer");
        assert_eq!(status, 200);
        let made = server.post("/api/v1/campaigns", &spec(&sink, 1)).await;
        let id = made["id"].as_str().expect("an id");
        server.post(&format!("/api/v1/campaigns/{id}/launch"), &json!({})).await;
        eventually("it is sent", PATIENCE, || async {
            server.get(&format!("/api/v1/campaigns/{id}")).await["status"] == "completed"
        })
        .await;
        let cases = async || server.get("/api/v1/plugins/webhook/cases").await["items"].clone();
        if kept {
            eventually("it is kept", PATIENCE, || async { cases().await != json!([]) }).await;
            let id = cases().await[0]["id"].clone();
            let whole = server.get(&format!("/api/v1/plugins/webhook/cases/{id}")).await;
            assert_eq!(
                (&whole["code"], &whole["masked"], &whole["reproduces"]),
                (&Value::Null, &json!(false), &json!(true))
            );
            assert_eq!(whole["case"]["recipient"]["address"], "+15550001111", "{whole}");
        } else {
            assert_eq!(cases().await, json!([]));
        }
    }
}

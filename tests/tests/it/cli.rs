//! The command line as a user meets it: the built program, its output and its exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use carillon_tests::server::{Setup, binary, free_port};
use hyper::Method;
use serde_json::{Value, json};

use carillon::plugins::FIRST_PARTY;
use carillon_tests::guests;
use carillon_tests::wait::eventually;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn carillon() -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("carillon runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// Copies the rehearsal with its audience and devices, changed by `edit`.
fn rehearsal(folder: &Path, edit: impl Fn(String) -> String) -> PathBuf {
    let read = |path: &str| std::fs::read_to_string(root().join("examples").join(path)).expect("an example");
    std::fs::write(folder.join("friends.csv"), read("audiences/friends.csv")).expect("written");
    std::fs::write(folder.join("phones.csv"), read("devices/phones.csv")).expect("written");
    let text = read("campaigns/rehearsal.toml").replace("../audiences/", "").replace("../devices/", "");
    let file = folder.join("rehearsal.toml");
    std::fs::write(&file, edit(text)).expect("written");
    file
}

#[test]
fn bad_input_exits_2_with_one_line_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let unknown = rehearsal(folder.path(), |text| text.replace("[sender]", "[sendr]"));
    let unknown = unknown.to_str().expect("UTF-8");
    std::fs::write(folder.path().join("taken"), "").expect("written");
    for (args, names) in [
        (vec![], "[subcommands: serve, "),
        (vec!["plugin"], "[subcommands: new, "),
        (vec!["srve"], "'serve'"),
        (vec!["serve", "--windw", "1"], "'--window'; see `carillon serve --help`"),
        (vec!["serve", "--roles", "none"], "possible values: api, "),
        (vec!["plugin", "check"], "<FILE>"),
        (vec!["serve", "--window", "1"], "--window"),
        (vec!["serve", "--store", "mysql://x"], "--store"),
        (vec!["campaign", "run", unknown], "rehearsal.toml:"),
        (vec!["plugin", "check", unknown], "rehearsal.toml"),
        (vec!["plugin", "push", unknown, "--url", "nowhere", "--token", "x"], "--url"),
        (vec!["plugin", "new", "My plugin", "--lang", "js", "--kind", "delay"], "My plugin: a plugin's name"),
        (vec!["plugin", "new", ".", "--lang", "js", "--kind", "delay"], ".: a plugin's name"),
        (vec!["plugin", "new", "taken", "--lang", "js", "--kind", "delay"], "taken is there already"),
        (vec!["plugin", "wit", "--out", "."], "--out: . is not empty"),
        (vec!["plugin", "wit", "--out", "taken"], "--out: taken"),
        (vec!["token", "list", "--data", "/does/not/exist"], "--data"),
    ] {
        let (code, stdout, stderr) = run(carillon().current_dir(folder.path()).args(&args));
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(
            stdout.is_empty() && stderr.trim_end().lines().count() == 1 && stderr.contains(names),
            "{args:?}: {stderr}"
        );
    }
    // What a variable says is not on the command line: the line names it.
    let (code, _, stderr) = run(carillon().arg("serve").env("CARILLON_WINDOW", "many"));
    assert!(code == Some(2) && stderr.contains("'--window <N> (CARILLON_WINDOW)'"), "{stderr}");
}

#[test]
fn a_campaign_file_is_sent_once_however_often_it_is_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = rehearsal(folder.path(), |text| text);
    let start = || {
        let mut command = carillon();
        command.arg("campaign").arg("run").arg(&file).arg("--data").arg(folder.path().join("data"));
        command
    };
    // Interrupted as soon as its campaign exists, then run to its end.
    let mut first = start().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("carillon runs");
    let bookmark = folder.path().join("data/cli");
    for _ in 0..3_000 {
        if bookmark.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = Command::new("kill").args(["-INT", &first.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    let code = first.wait().expect("it ends").code();
    assert!(code == Some(130) || code == Some(0), "{code:?}");

    let (code, first, stderr) = run(&mut start());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(first.contains("sent 6"), "{first}");
    let (code, second, stderr) = run(&mut start());
    assert_eq!((code, &second), (Some(0), &first), "the same campaign, not sent again: {stderr}");
}

#[test]
fn messages_that_were_not_sent_are_told_by_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = rehearsal(folder.path(), |text| text.replace("transient_rate = 0.1", "permanent_rate = 1"));
    let data = folder.path().join("data");
    let (code, stdout, stderr) = run(carillon().arg("campaign").arg("run").arg(&file).arg("--data").arg(data));
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stdout.contains("failed 6"), "{stdout}");
}

#[test]
fn the_bench_checks_its_ledger() {
    for sender in ["simulator", "http"] {
        let (code, stdout, stderr) = run(carillon().args([
            "bench",
            "--json",
            "--messages",
            "600",
            "--devices",
            "60",
            "--delay-ms",
            "20..30",
            "--sender",
            sender,
        ]));
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        let report: Value = serde_json::from_str(&stdout).expect("one JSON object");
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(
            report["counts"]["sent"].as_u64().unwrap_or(0) + report["counts"]["delivered"].as_u64().unwrap_or(0),
            600
        );
        for none in ["duplicates", "losses", "order_violations", "early"] {
            assert_eq!(report[none], 0, "{report}");
        }
        assert!(report["msg_per_s"].as_f64().is_some_and(|rate| rate > 0.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_command_line_opens_the_api_until_it_is_revoked() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Setup::embedded(folder.path(), &[]).start().await;
    let token = |args: &[&str]| run(carillon().arg("token").args(args).arg("--data").arg(folder.path()));
    let (code, secret, stderr) = token(&["create", "ci", "--scopes", "campaigns:read"]);
    assert_eq!(code, Some(0), "{stderr}");
    let client = carillon_tests::client::Client::new(server.setup.port, secret.trim());
    assert_eq!(client.get("/api/v1/campaigns").await.expect("an answer").0, 200);
    assert_eq!(client.get("/api/v1/devices").await.expect("an answer").0, 403);

    let (_, list, _) = token(&["list"]);
    let id = list.lines().find(|line| line.contains("  ci  ")).and_then(|line| line.split_whitespace().next());
    let (code, _, stderr) = token(&["revoke", id.expect("the token is listed")]);
    assert_eq!(code, Some(0), "{stderr}");
    carillon_tests::wait::eventually("the token is refused", Duration::from_secs(10), || async {
        matches!(client.get("/api/v1/campaigns").await, Ok((401, _)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_outcomes_are_listed_and_resolved() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Setup::embedded(folder.path(), &[]).start().await;
    let devices =
        json!([{"id": "dev-1", "channel": "sms", "tags": ["eu"]}, {"id": "dev-2", "channel": "sms", "tags": ["eu"]}]);
    server.post("/api/v1/devices", &devices).await;
    let csv = "address\n+1\n+2\n+3\n+4\n";
    let (status, _) =
        server.client.send(Method::PUT, "/api/v1/audiences/people", "text/csv", csv.into()).await.expect("an answer");
    assert_eq!(status, 200);
    let spec = json!({"name": "autumn", "audience": "people", "devices": {"tag": "eu"}, "delivery": "at_most_once",
        "template": {"plugin": "jinja", "config": {"text": "Hi"}}, "delay": {"plugin": "uniform", "config": {"min_ms": 1, "max_ms": 1}},
        "sender": {"plugin": "simulator", "config": {"unanswered_rate": 1.0}}});
    let id = server.post("/api/v1/campaigns", &spec).await["id"].as_str().expect("an id").to_owned();
    server.post(&format!("/api/v1/campaigns/{id}/launch"), &json!({})).await;
    let path = format!("/api/v1/campaigns/{id}");
    carillon_tests::wait::eventually("all are unknown", Duration::from_secs(60), || async {
        matches!(server.client.get(&path).await, Ok((200, c)) if c["counts"]["unknown"] == 4)
    })
    .await;
    let cli = |args: &[&str]| {
        let url = format!("http://127.0.0.1:{}", server.setup.port);
        run(carillon().args(args).args(["--url", &url, "--token", carillon_tests::server::TOKEN]))
    };
    let (code, listed, stderr) = cli(&["message", "unknown", "--campaign", &id]);
    assert_eq!((code, listed.lines().count()), (Some(0), 4), "{listed}{stderr}");
    assert!(listed.lines().all(|line| line.contains("autumn") && line.contains("dev-")), "{listed}");
    let first = listed.split_whitespace().next().expect("an id").to_owned();
    let (_, some, stderr) = cli(&["message", "unknown", "--limit", "1", "--json"]);
    let some: Value = serde_json::from_str(some.trim()).expect("one JSON object");
    assert_eq!(some["id"], json!(first));
    assert!(stderr.contains("--limit"), "{stderr}");

    let resolve = ["message", "resolve", &first, "--as", "sent", "--provider-id", "p-1", "--note", "seen in the log"];
    let (code, stdout, stderr) = cli(&resolve);
    assert_eq!((code, stdout.trim()), (Some(0), format!("{first} is sent").as_str()), "{stderr}");
    let (code, _, stderr) = cli(&resolve);
    assert!(code == Some(2) && stderr.contains("not unknown"), "{stderr}");
    let second = listed.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("an id").to_owned();
    let (code, _, stderr) = cli(&["message", "lookup", &second]);
    assert!(code == Some(2) && stderr.contains("cannot look messages up"), "{stderr}");
    let many = ["campaign", "resolve-unknown", &id, "--as", "failed"];
    let (code, stdout, stderr) = cli(&[&many[..], &["--before", "2020-01-01T00:00:00Z"]].concat());
    assert_eq!((code, stdout.trim()), (Some(0), "0 resolved as failed, 3 unknown still"), "{stderr}");
    let (code, stdout, stderr) = cli(&many);
    assert_eq!((code, stdout.trim()), (Some(0), "3 resolved as failed, 0 unknown still"), "{stderr}");
}

#[test]
fn the_contract_is_an_oci_layout_that_holds_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("contract");
    let (code, stdout, stderr) = run(carillon().args(["plugin", "wit", "--out"]).arg(&out));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("carillon:plugin@1.0.0 is in "), "{stdout}");
    let read = |path: &str| std::fs::read(out.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    // A blob is what its descriptor says: so long, and with this digest.
    let blob = |descriptor: &Value, media: &str| {
        assert_eq!(descriptor["mediaType"], json!(media), "{descriptor}");
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("sha256");
        let bytes = read(&format!("oci/blobs/sha256/{digest}"));
        assert_eq!((&json!(bytes.len()), digest), (&descriptor["size"], sha256(&bytes).as_str()), "{descriptor}");
        bytes
    };
    assert_eq!(json(&read("oci/oci-layout")), json!({"imageLayoutVersion": "1.0.0"}));
    let index = json(&read("oci/index.json"));
    assert_eq!((&index["schemaVersion"], index["manifests"].as_array().map(Vec::len)), (&json!(2), Some(1)));
    let tagged = &index["manifests"][0];
    assert_eq!(tagged["annotations"]["org.opencontainers.image.ref.name"], json!("1.0.0"));
    let manifest = json(&blob(tagged, "application/vnd.oci.image.manifest.v1+json"));
    let config = json(&blob(&manifest["config"], "application/vnd.wasm.config.v0+json"));
    let layer = blob(&manifest["layers"][0], "application/wasm");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip2")));
    assert_eq!(config["layerDigests"], json!([manifest["layers"][0]["digest"]]));
    // The layer is the package, and the same as in the text.
    let package = |decoded: wit_parser::decoding::DecodedWasm| {
        let id = decoded.package();
        let package = &decoded.resolve().packages[id];
        let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
        let name = package.name.to_string();
        (name, names(package.interfaces.keys().collect()), names(package.worlds.keys().collect()))
    };
    let found = package(wit_parser::decoding::decode(&layer).expect("a package"));
    let mut resolve = wit_parser::Resolve::default();
    let (id, _) = resolve.push_path(out.join("wit")).expect("the text");
    let wanted = package(wit_parser::decoding::DecodedWasm::WitPackage(resolve, id));
    assert_eq!(found, wanted);
    assert_eq!(found.0, "carillon:plugin@1.0.0");
    let exports = found.1.iter().map(|name| format!("carillon:plugin/{name}@1.0.0")).collect::<Vec<_>>();
    assert_eq!(config["component"]["exports"], json!(exports));
    assert!(read("registry/carillon/plugin/1.0.0.wasm") == layer);
    assert!(read("REFERENCE.md") == std::fs::read(root().join("plugins/REFERENCE.md")).expect("the reference"));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[test]
fn the_doctor_says_what_to_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let (code, stdout, _) = run(carillon().arg("doctor").arg("--data").arg(&data));
    assert_eq!(code, Some(0), "{stdout}");
    let (code, stdout, _) = run(carillon().args(["doctor", "--queue", &format!("redis://127.0.0.1:{}", free_port())]));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("FIX   queue"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_is_one_that_is_not_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, help, _) = run(carillon().args(["serve", "--help"]));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut setup = Setup::embedded(folder.path(), &[]);
    let (mut doctor, mut empty) = (carillon(), 0);
    doctor.arg("doctor").arg("--data").arg(folder.path());
    for name in help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next()) {
        doctor.env(name, "");
        empty += 1;
        if !["CARILLON_LISTEN", "CARILLON_DATA", "CARILLON_ADMIN_TOKEN"].contains(&name) {
            setup = setup.with(name, "");
        }
    }
    assert!(empty > 25, "{help}");
    doctor.env("CARILLON_LOG", "");
    let (code, stdout, stderr) = run(&mut doctor);
    assert!(!stdout.contains("FIX   settings") && !stdout.contains("FIX   egress"), "{stdout}");
    assert!(code.is_some_and(|code| code < 2), "{stderr}");
    setup.with("CARILLON_LOG", "").start().await.get("/api/v1/stats").await;
}

#[test]
fn the_demo_replaces_a_plugin_while_it_sends() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = std::fs::read_to_string(root().join("examples/demo/customers.csv")).expect("the customers");
    let some: Vec<_> = all.lines().take(6_001).collect();
    let recipients = folder.path().join("some.csv");
    std::fs::write(&recipients, some.join("\n")).expect("written");
    let (code, stdout, stderr) = run(carillon()
        .arg("demo")
        .arg("--data")
        .arg(folder.path().join("data"))
        .arg("--recipients")
        .arg(&recipients)
        .env("CARILLON_LISTEN", format!("127.0.0.1:{}", free_port())));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("with jinja 1.0.0") && stdout.contains("with jinja 1.1.0"), "{stdout}");
    assert!(stdout.contains("ledger checked"), "{stdout}");
    assert!(stderr.contains("before: Hello") && stderr.contains("after:  Bonjour"), "{stderr}");
}

#[test]
fn a_plugin_is_run_with_a_case_and_tested_with_a_folder_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, content).expect("written");
    };
    let (_, jinja) = FIRST_PARTY.iter().find(|(name, _)| *name == "jinja").expect("it is embedded");
    write("jinja.wasm", jinja);
    write("cases/good.json", br#"{"config": {"text": "Hi {{ name }}"}, "expect": {"result": {"text": "Hi Ada"}}}"#);
    write(
        "cases/more/refused.json",
        br#"{"config": {"text": "Hi {{ nickname }}"}, "expect": {"fault": {"code": "invalid-input"}}}"#,
    );
    let plugin = |args: &[&str]| run(carillon().current_dir(folder.path()).arg("plugin").args(args));

    let (code, stdout, stderr) = plugin(&["run", "jinja.wasm", "--case", "cases/good.json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let ran: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&ran["result"]["text"], &ran["calls"][0]["function"]), (&json!("Hi Ada"), &json!("render")));

    let (code, stdout, stderr) = plugin(&["test", "jinja.wasm", "cases"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(
        stdout.contains("ok    cases/good.json (") && stdout.contains("ok    cases/more/refused.json ("),
        "{stdout}"
    );
    assert!(stdout.ends_with("2 passed, 0 failed\n"), "{stdout}");

    write("cases/wrong.json", br#"{"config": {"text": "Hi {{ name }}"}, "expect": {"result": {"text": "Ho Ada"}}}"#);
    let (code, stdout, _) = plugin(&["test", "jinja.wasm", "cases"]);
    assert_eq!(code, Some(1), "{stdout}");
    let line = r#"FAIL  cases/wrong.json: /result/text: expected "Ho Ada", found "Hi Ada""#;
    assert!(stdout.contains(line) && stdout.ends_with("2 passed, 1 failed\n"), "{stdout}");

    // What is no case is named with its place; so is a component that does not fit, item by item.
    write("typo.json", br#"{"recipient": {"adress": "+1"}}"#);
    let (code, _, stderr) = plugin(&["run", "jinja.wasm", "--case", "typo.json"]);
    assert!(code == Some(2) && stderr.contains("typo.json: recipient.adress"), "{stderr}");
    let wit = guests::WIT.replace("invalid-input(string),", "invalid-recipient(string),");
    write("other.wasm", &guests::template_module(&wit, "", "unreachable", "unreachable"));
    let (code, _, stderr) = plugin(&["check", "other.wasm"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.starts_with("carillon: other.wasm: wrong-type: ") && stderr.lines().count() == 2, "{stderr}");
    assert!(
        stderr.contains("\n  type carillon:plugin/types@1.0.0#plugin-error: has another structure: wanted"),
        "{stderr}"
    );
    write("core.wasm", &guests::delay_module("core", "", "unreachable"));
    let (code, stdout, stderr) = plugin(&["check", "core.wasm"]);
    assert!(
        code == Some(0) && stdout.contains("  warning   plugin-trap: next-delay, after a send: "),
        "{stdout}{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_built_and_active_soon_after() {
    let data = tempfile::tempdir().expect("a folder");
    let server = Setup::embedded(data.path(), &[]).start().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("first.wasm"), guests::delay("watched", "unreachable")).expect("written");
    std::fs::write(folder.path().join("source"), "first.wasm").expect("written");
    let mut watch = carillon()
        .args(["plugin", "watch"])
        .arg(folder.path())
        .args(["--build", "cp \"$(cat source)\" target/out.wasm", "--wasm", "target/out.wasm"])
        .args(["--url", &format!("http://127.0.0.1:{}", server.setup.port), "--token", carillon_tests::server::TOKEN])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("carillon runs");
    std::fs::create_dir(folder.path().join("target")).expect("made");
    let active = async || match server.client.get("/api/v1/plugins/watched").await {
        Ok((200, plugin)) => plugin["active"].as_str().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let patience = Duration::from_secs(60);
    eventually("the first is active", patience, || async { active().await.starts_with("1.0.0-dev.") }).await;
    let first = active().await;
    // A build that fails changes nothing; the next one does.
    std::fs::write(folder.path().join("source"), "missing.wasm").expect("written");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(active().await, first);
    std::fs::write(folder.path().join("second.wasm"), guests::delay("watched", "(drop (i32.const 1)) unreachable"))
        .expect("written");
    std::fs::write(folder.path().join("source"), "second.wasm").expect("written");
    eventually("the second is active", patience, || async {
        let active = active().await;
        active.starts_with("1.0.0-dev.") && active != first
    })
    .await;
    let second = active().await;
    std::fs::write(folder.path().join("third.wasm"), guests::delay("watched", "(drop (i32.const 2)) unreachable"))
        .expect("written");
    std::fs::write(folder.path().join("source"), "third.wasm").expect("written");
    eventually("the third is active", patience, || async {
        let active = active().await;
        active.starts_with("1.0.0-dev.") && active != first && active != second
    })
    .await;
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");

    // What a roll-back goes back to stays, what was before that can go.
    let url = format!("http://127.0.0.1:{}", server.setup.port);
    let delete = |version: &str| {
        let mut command = carillon();
        command.args(["plugin", "delete", "watched", version, "--url", &url]);
        run(command.args(["--token", carillon_tests::server::TOKEN]))
    };
    let (code, stdout, stderr) = delete(&first);
    assert_eq!((code, stdout), (Some(0), format!("watched {first} is deleted\n")), "{stderr}");
    for (version, why) in [(&first, "there is no plugin watched"), (&second, "promote or abort it first")] {
        let (code, stdout, stderr) = delete(version);
        assert!(code == Some(2) && stderr.contains(why), "{version}: {stdout}{stderr}");
    }
    let (code, _, stderr) = delete("the-first");
    assert!(code == Some(2) && stderr.contains("VERSION"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_from_standard_input_and_grants_from_flags() {
    use std::io::Write as _;
    let data = tempfile::tempdir().expect("a folder");
    let (code, key, stderr) = run(carillon().args(["secret", "key"]));
    assert_eq!((code, key.trim().len()), (Some(0), 44), "{stderr}");
    let server = Setup::embedded(data.path(), &[]).with("CARILLON_SECRETS_KEY", key.trim()).start().await;
    let url = format!("http://127.0.0.1:{}", server.setup.port);
    let cli = |args: &[&str], input: &str| {
        let mut command = carillon();
        command.args(args).env("CARILLON_URL", &url).env("CARILLON_TOKEN", carillon_tests::server::TOKEN);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("carillon runs");
        // One that does not want it may have ended.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (status.code(), text(stdout), text(stderr))
    };
    let (code, stdout, stderr) = cli(&["secret", "set", "KEY", "--host", "api.example.com"], "hush-hush\n");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("KEY for api.example.com, since 20") && !stdout.contains("hush"), "{stdout}");
    for (args, input, names) in [
        (vec!["secret", "set", "KEY", "--host", "api.example.com"], "", "standard input"),
        (vec!["secret", "set", "K Y", "--host", "api.example.com"], "hush", "NAME"),
        (vec!["secret", "set", "KEY", "hush", "--host", "api.example.com"], "", "standard input"),
        (vec!["secret", "set", "KEY", "--host", "*"], "hush", "host"),
        (vec!["secret", "delete", "NONE"], "", "no stored secret NONE"),
        (vec!["plugin", "grant", "webhook"], "", "--asked"),
        (vec!["plugin", "grant", "webhook", "--host", "https://x"], "", "hosts[0]"),
        (vec!["plugin", "grant", "jinja", "--host", "x"], "", "makes no requests"),
        (vec!["plugin", "grants", "nobody"], "", "no plugin nobody"),
    ] {
        let (code, stdout, stderr) = cli(&args, input);
        assert_eq!(code, Some(2), "{args:?}: {stdout}{stderr}");
        assert!(stderr.contains(names) && !stderr.contains("hush"), "{args:?}: {stderr}");
    }
    let grant = [
        "plugin",
        "grant",
        "telegram",
        "--asked",
        "--method",
        "POST",
        "--secret",
        "KEY",
        "--rate",
        "25",
        "--call-ms",
        "90",
    ];
    let (code, stdout, stderr) = cli(&grant, "");
    assert_eq!(code, Some(0), "{stderr}");
    for part in [
        "telegram (granted by admin at ",
        "granted: hosts api.telegram.org; methods POST; secrets KEY TELEGRAM_BOT_TOKEN",
        "requests_per_second 25",
        "call_ms 90",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let (_, stdout, _) = cli(&["plugin", "grant", "telegram", "--add", "--host", "bots.example.com"], "");
    assert!(stdout.contains("hosts api.telegram.org bots.example.com; methods POST;"), "{stdout}");
    let (_, stdout, _) = cli(&["plugin", "grant", "telegram", "--nothing"], "");
    assert!(
        stdout.contains("granted: hosts none;") && stdout.contains("not granted: host api.telegram.org"),
        "{stdout}"
    );
    let (code, stdout, stderr) = cli(&["secret", "list"], "");
    assert!(
        code == Some(0) && stdout.starts_with("KEY for api.example.com") && stdout.lines().count() == 1,
        "{stderr}"
    );
    assert!(!stdout.contains("telegram") && stdout.contains("webhook"), "{stdout}");
    let doctor =
        |keys: &str| run(carillon().args(["doctor", "--data"]).arg(data.path()).env("CARILLON_SECRETS_KEY", keys));
    let (_, other, _) = run(carillon().args(["secret", "key"]));
    for (keys, says) in [
        (key.trim(), "ok    secrets   all 1 in the store can be opened"),
        ("", "FIX   secrets   1 of 1 in the store cannot be opened (KEY): CARILLON_SECRETS_KEY is not set"),
        (other.trim(), "FIX   secrets   1 of 1 in the store cannot be opened (KEY): it is encrypted with the key "),
        ("swordfish", "FIX   settings  CARILLON_SECRETS_KEY"),
    ] {
        let (code, stdout, stderr) = doctor(keys);
        assert!(stdout.contains(says), "{says}: {code:?} {stdout}{stderr}");
        assert!(!stdout.contains("hush") && !stdout.contains("swordfish"), "{stdout}");
    }
    let (_, stdout, _) = cli(&["secret", "rotate"], "");
    assert!(stdout.starts_with("0 encrypted anew, 1 were before, key "), "{stdout}");
    let (code, stdout, stderr) = cli(&["secret", "delete", "KEY"], "");
    assert_eq!((code, stdout.as_str()), (Some(0), "KEY is deleted\n"), "{stderr}");
    // A key that does not read keeps a server from starting, and is not repeated.
    let (code, _, stderr) =
        run(carillon().args(["serve", "--data"]).arg(data.path()).env("CARILLON_SECRETS_KEY", "swordfish"));
    assert!(code == Some(2) && stderr.contains("CARILLON_SECRETS_KEY") && !stderr.contains("swordfish"), "{stderr}");
}

#[test]
fn the_compiler_ends_at_its_limits() {
    use std::io::Write as _;
    use std::os::unix::process::ExitStatusExt as _;
    let compile = |seconds: &str, memory: &str, bytes: &[u8]| {
        let mut compiler = carillon();
        compiler
            .args(["compile-plugin", seconds, memory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = compiler.spawn().expect("carillon runs");
        // One that has too little memory may end before it has read everything.
        let _ = child.stdin.take().expect("a pipe").write_all(bytes);
        child.wait_with_output().expect("it ends")
    };
    let (seconds, memory) = ("60", (4u64 << 30).to_string());
    let good = compile(seconds, &memory, &guests::laborious(1));
    assert!(good.status.success() && good.stdout.starts_with(b"\x7fELF"), "{good:?}");
    let bad = compile(seconds, &memory, b"\0asm\x0d\0\x01\0\xff");
    assert!(bad.status.code() == Some(2) && bad.stdout.is_empty() && !bad.stderr.is_empty(), "{bad:?}");
    // Of core modules the same.
    let module = compile(seconds, &memory, &guests::delay_module("core", "", "unreachable"));
    assert!(module.status.success() && module.stdout.starts_with(b"\x7fELF"), "{module:?}");
    let untyped = compile(seconds, &memory, b"\0asm\x01\0\0\0");
    assert!(untyped.status.code() == Some(3) && String::from_utf8_lossy(&untyped.stderr).contains("wit-bindgen"));
    let bomb = guests::laborious(200);
    for (seconds, memory) in [("1", memory.as_str()), (seconds, "20000000")] {
        let ended = compile(seconds, memory, &bomb);
        assert!(ended.status.signal().is_some() && ended.stdout.is_empty(), "{:?}", ended.status);
    }
}

#[test]
fn a_new_plugin_builds_and_passes_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    for (lang, kind, config) in [
        ("rust", "delay", r#"{"min_ms":1,"max_ms":2}"#),
        ("js", "sender", r#"{"url":"https://api.example.com/messages"}"#),
        ("python", "template", r#"{"text":"Hello {name}."}"#),
        ("c", "template", r#"{"text":"Hello {name}."}"#),
        ("go", "sender", r#"{"url":"https://api.example.com/messages"}"#),
    ] {
        let name = format!("my-own-{lang}");
        let args = ["plugin", "new", &name, "--lang", lang, "--kind", kind];
        let (code, stdout, stderr) = run(carillon().current_dir(folder.path()).args(args));
        assert_eq!(code, Some(0), "{lang}: {stderr}");
        let project = folder.path().join(&name);
        // What it says comes next is what is done.
        let build: &[&str] = if lang == "rust" { &["cargo", "build", "--release"] } else { &["./build.sh"] };
        let file = match lang {
            "rust" => "wasm32-wasip2/release/my_own_rust.wasm".to_owned(),
            _ => format!("build/{kind}.wasm"),
        };
        assert!(stdout.contains(&build.join(" ")) && stdout.contains(&file), "{stdout}");
        // Its dependencies have been compiled with the examples.
        let target = guests::examples().join("rust/target");
        let program = if lang == "rust" { PathBuf::from(build[0]) } else { project.join(build[0]) };
        let (code, _, stderr) = run(Command::new(program)
            .args(&build[1..])
            .current_dir(&project)
            .env("CARGO_TARGET_DIR", &target)
            .stdin(Stdio::null()));
        assert_eq!(code, Some(0), "{lang}: {stderr}");
        let file = if lang == "rust" { target.join(file) } else { project.join(file) };
        let (code, stdout, stderr) = run(carillon().args(["plugin", "check", "--json", "--config", config]).arg(&file));
        assert_eq!(code, Some(0), "{lang}: {stderr}");
        let report: Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!((&report["kind"], &report["info"]["name"]), (&json!(kind), &json!(name)), "{report}");
        assert!(report["call_us"].is_u64(), "it was called: {report}");
    }
}

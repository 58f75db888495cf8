//! The example plugins: a delay strategy, a template and a sender in each of five languages. Those of a language are uploaded to
//! a server, answer the cases of `examples/plugins/cases`, and send a campaign together.
//!
//! `tests/run` builds them beforehand and says where in `CARILLON_EXAMPLES`; else they are looked for in `target/examples`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carillon::device::LastOutcome;
use carillon::plugin::PluginKind;
use carillon::plugins::{
    Answer, CallContext, Content, DeviceFacts, HttpResponse, Outbound, Outcome, PaceFacts, Plugin, PluginBody,
    PluginFault, PluginHost, PluginLimits, RecipientFacts, RenderJob, Round, Step,
};
use carillon_tests::guests;
use carillon_tests::server::{Server, Setup};
use carillon_tests::sink::Sink;
use carillon_tests::wait::eventually;
use hyper::Method;
use serde_json::{Value, json};

use super::{NOW, device, load, message, outbound, recipient};

/// How long a campaign may take.
const PATIENCE: Duration = Duration::from_secs(120);
const KINDS: [&str; 3] = ["delay", "template", "sender"];

#[tokio::test(flavor = "multi_thread")]
async fn plugins_in_rust_answer_as_the_cases_say_and_send_a_campaign() {
    language("rust").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_in_javascript_answer_as_the_cases_say_and_send_a_campaign() {
    language("js").await;
}

// The slowest: each of its components is compiled once, for some 20 s of processor time with this profile's compiler.
#[tokio::test(flavor = "multi_thread")]
async fn plugins_in_python_answer_as_the_cases_say_and_send_a_campaign() {
    language("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_in_c_answer_as_the_cases_say_and_send_a_campaign() {
    language("c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_in_go_answer_as_the_cases_say_and_send_a_campaign() {
    language("go").await;
}

/// A component that was built before the tests.
fn component(language: &str, kind: &str) -> Bytes {
    let folder = guests::examples().join(language);
    let file = folder.join(kind).with_extension("wasm");
    std::fs::read(&file).map(Bytes::from).unwrap_or_else(|error| {
        let command = format!("examples/plugins/{language}/build.sh {} {kind}", folder.display());
        panic!("{}: {error}; build it with `{command}`", file.display())
    })
}

fn cases(kind: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/plugins/cases/{kind}.json"));
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(!cases.is_empty());
    cases
}

async fn language(language: &str) {
    let sink = Sink::start().await;
    let data = tempfile::tempdir().unwrap();
    let server = Setup::embedded(data.path(), &[sink.port])
        .with("CARILLON_SECRETS", format!("API_KEY=s3cret@127.0.0.1:{}", sink.port))
        // Other tests are compiling meanwhile.
        .with("CARILLON_PLUGIN_TIMEOUT_MS", "5000")
        .start()
        .await;
    for kind in KINDS {
        let bytes = component(language, kind);
        let (status, uploaded) =
            server.client.send(Method::POST, "/api/v1/plugins?grant=asked", "application/wasm", bytes).await.unwrap();
        assert_eq!(status, 201, "{uploaded}");
        let name = format!("{language}-{kind}");
        assert_eq!((&uploaded["name"], &uploaded["kind"]), (&json!(name), &json!(kind)), "{uploaded}");
    }
    answers(language, &data.path().join("plugins")).await;
    campaign(language, &server, &sink).await;
}

/// Plays every case through the host; the server has compiled the components already.
async fn answers(language: &str, compiled: &Path) {
    let limits = PluginLimits { call_deadline: Duration::from_secs(5), instances: 100, ..PluginLimits::default() };
    let host = PluginHost::new(limits, Some(compiled)).unwrap();
    for kind in KINDS {
        let plugin = load(&host, component(language, kind)).await;
        for case in cases(kind) {
            let what = format!("{language} {kind}: {}", case["name"]);
            let ctx = context(&plugin, &case, &what);
            match plugin.kind {
                PluginKind::Delay => delay(&plugin, &ctx, &case, &what).await,
                PluginKind::Template => template(&plugin, &ctx, &case, &what).await,
                PluginKind::Sender => sender(&plugin, &ctx, &case, &what).await,
            }
        }
    }
}

fn context(plugin: &Plugin, case: &Value, what: &str) -> CallContext {
    let config =
        case.get("config").map_or_else(|| json!({ "url": "https://api.example.com" }), Value::clone).to_string();
    assert_eq!(plugin.check_config(&config), Ok(()), "{what}");
    let random = case["random"].as_u64().map_or(7, |random| u32::try_from(random).unwrap());
    CallContext { config: config.into(), now: NOW, random, timer: None }
}

/// The fault must be of the kind that the case names, and say what it says.
fn expect_fault(fault: &PluginFault, expected: &Value, what: &str) {
    let says = expected[fault.code()].as_str();
    assert!(says.is_some_and(|says| fault.to_string().contains(says)), "{what}: {fault:?}");
}

async fn delay(plugin: &Plugin, ctx: &CallContext, case: &Value, what: &str) {
    let number = |name: &str| u32::try_from(case["pace"][name].as_u64().unwrap_or(0)).unwrap();
    let last_outcome: LastOutcome = serde_json::from_value(case["pace"]["last-outcome"].clone()).unwrap();
    let pace = PaceFacts {
        device: Arc::new(device()),
        minute_of_day: 600,
        sent_this_minute: 1,
        sent_this_hour: 2,
        sent_today: 3,
        age_days: 4,
        failures_in_a_row: number("failures-in-a-row"),
        last_delay_ms: 1000.5,
        last_outcome,
        backlog: 6,
        text_length: number("text-length"),
        attributes: Vec::new(),
    };
    match plugin.next_delay(ctx, pace, case["state"].as_str().unwrap()).await {
        Ok(next) => {
            let expected = (case["ok"]["delay-ms"].as_f64(), case["ok"]["state"].as_str());
            assert_eq!((Some(next.delay_ms), Some(next.state.as_str())), expected, "{what}");
        }
        Err(fault) => expect_fault(&fault, &case["err"], what),
    }
}

async fn template(plugin: &Plugin, ctx: &CallContext, case: &Value, what: &str) {
    let jobs = case["recipients"].as_array().unwrap().iter().map(|variables| {
        let variables = variables.as_object().unwrap().iter();
        let variables = variables.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
        RenderJob {
            message: Arc::new(message()),
            recipient: Arc::new(RecipientFacts { variables, ..recipient() }),
            device: Arc::new(device()),
            random: 7,
        }
    });
    match plugin.render(ctx, jobs.collect()).await {
        Ok(contents) => {
            let expected = case["ok"].as_array().unwrap_or_else(|| panic!("{what}: {contents:?}"));
            assert_eq!(contents.len(), expected.len(), "{what}");
            for (content, expected) in contents.into_iter().zip(expected) {
                match content {
                    Ok(content) => {
                        let text = |name: &str| expected["ok"][name].as_str().map(str::to_owned);
                        let (subject, media, attributes) = (text("subject"), Vec::new(), Vec::new());
                        let text = text("text").unwrap_or_else(|| panic!("{what}: {content:?}"));
                        assert_eq!(content, Content { text, subject, media, attributes }, "{what}");
                    }
                    Err(fault) => expect_fault(&fault, &expected["err"], what),
                }
            }
        }
        Err(fault) => expect_fault(&fault, &case["err"], what),
    }
    match plugin.variables(ctx).await {
        Ok(names) => assert_eq!(json!(names), case["variables"], "{what}"),
        Err(fault) => expect_fault(&fault, &case["err"], what),
    }
}

async fn sender(plugin: &Plugin, ctx: &CallContext, case: &Value, what: &str) {
    if let Some(expected) = case.get("request") {
        let step = plugin.start(ctx, outgoing(plugin, &case["message"], what)).await.unwrap().step;
        let Step::Request(Round { request, .. }) = step else { panic!("{what}: {step:?}") };
        let PluginBody::Text(body) = &request.body else { panic!("{what}: {request:?}") };
        let asked = json!({
            "method": request.method, "url": request.url, "headers": request.headers,
            "json": serde_json::from_str::<Value>(body).unwrap(),
        });
        for (name, asked) in asked.as_object().unwrap() {
            assert_eq!(asked, &expected[name], "{what}: {name}");
        }
        assert_eq!(Some(request.timeout_ms), expected["timeout-ms"].as_f64(), "{what}");
        return;
    }
    let step = plugin.resume(ctx, "", answer(&case["answer"])).await.unwrap_or_else(|f| panic!("{what}: {f}")).step;
    let Step::Done(outcome) = step else { panic!("{what}: {step:?}") };
    let (told, expected) = (tell(&outcome), case["outcome"].as_object().unwrap());
    assert!(expected.iter().all(|(name, value)| told[name] == *value), "{what}: {told}");
}

fn outgoing(plugin: &Plugin, case: &Value, what: &str) -> Outbound {
    let text = |name: &str| case[name].as_str().unwrap().to_owned();
    assert_eq!(plugin.check_adapter(&case["adapter"]), Ok(()), "{what}");
    let mut message = message();
    (message.id, message.attempt) = (text("id"), u32::try_from(case["attempt"].as_u64().unwrap()).unwrap());
    let device = DeviceFacts { id: text("device"), adapter: case["adapter"].to_string(), ..device() };
    let content = Content { text: text("text"), ..outbound().content };
    let recipient = RecipientFacts { address: text("to"), ..recipient() };
    Outbound { message: message.into(), recipient: recipient.into(), content, device: device.into(), ..outbound() }
}

fn answer(case: &Value) -> Answer {
    let text = |name: &str| case[name].as_str().map(str::to_owned);
    if let Some(why) = text("not-sent") {
        return Answer::NotSent(why);
    }
    if let Some(why) = text("unanswered") {
        return Answer::Unanswered(why);
    }
    let bytes = case.get("bytes").map(|bytes| serde_json::from_value(bytes.clone()).unwrap());
    let body = bytes.map(PluginBody::Bytes).or_else(|| text("text").map(PluginBody::Text));
    let headers = case.get("headers").map(|headers| serde_json::from_value(headers.clone()).unwrap());
    Answer::Response(HttpResponse {
        status: u32::try_from(case["status"].as_u64().unwrap()).unwrap(),
        headers: headers.unwrap_or_default(),
        body: body.unwrap_or(PluginBody::Empty),
    })
}

/// An outcome as the cases write it.
fn tell(outcome: &Outcome) -> Value {
    let word = |word: &dyn std::fmt::Debug| format!("{word:?}").to_lowercase();
    match outcome {
        Outcome::Accepted(accepted) => json!({ "accepted": accepted.provider_id }),
        Outcome::RetryAfter(pause) => json!({
            "retry-after": word(&pause.scope), "delay-ms": pause.delay_ms as u64, "code": pause.reason.code,
        }),
        Outcome::RecipientPermanent(rejection) => json!({
            "recipient-permanent": word(&rejection.problem), "code": rejection.reason.code,
        }),
        Outcome::OptedOut(reason) => json!({ "opted-out": reason.code, "detail": reason.detail }),
        Outcome::ContentRejected(reason) => json!({ "content-rejected": reason.code, "detail": reason.detail }),
        Outcome::AccountBlocked(reason) => json!({ "account-blocked": reason.code, "detail": reason.detail }),
        Outcome::Transient(reason) => json!({ "transient": reason.code, "detail": reason.detail }),
        Outcome::Unknown(reason) => json!({ "unknown": reason.code, "detail": reason.detail }),
        other => panic!("no example answers with {other:?}"),
    }
}

/// A campaign whose template, delay and sender are the language's.
async fn campaign(language: &str, server: &Server, sink: &Sink) {
    const MESSAGES: usize = 60;
    let devices: Value =
        (0..3).map(|n| json!({ "id": format!("dev-{n}"), "channel": "sms", "tags": ["eu"], "adapter": {} })).collect();
    server.post("/api/v1/devices", &devices).await;
    let rows: String = (0..MESSAGES).map(|n| format!("+1555{n:07},Name {n}\n")).collect();
    let csv = Bytes::from(format!("address,name\n{rows}"));
    let (status, report) = server.client.send(Method::PUT, "/api/v1/audiences/friends", "text/csv", csv).await.unwrap();
    assert_eq!(status, 200, "{report}");
    let plugin = |kind: &str, config: Value| json!({ "plugin": format!("{language}-{kind}"), "config": config });
    let spec = json!({
        "name": language, "audience": "friends", "devices": { "tag": "eu" },
        "template": plugin("template", json!({ "text": "Hello {name}, {word}.", "defaults": { "word": language } })),
        "delay": plugin("delay", json!({ "min_ms": 20, "max_ms": 30, "per_character_ms": 0.1 })),
        "sender": plugin("sender", json!({ "url": sink.url() })),
    });
    let made = server.post("/api/v1/campaigns", &spec).await;
    let path = format!("/api/v1/campaigns/{}", made["id"].as_str().unwrap());
    server.post(&format!("{path}/launch"), &json!({})).await;
    eventually("the campaign is completed", PATIENCE, || async {
        matches!(server.client.get(&path).await, Ok((200, c)) if c["status"] == "completed")
    })
    .await;
    let done = server.get(&path).await;
    assert_eq!(done["counts"]["sent"], json!(MESSAGES), "{done}");
    assert_eq!((sink.count(), sink.per_address().len()), (MESSAGES, MESSAGES), "each once");
    sink.assert_order();
    sink.assert_pace(Duration::from_millis(20));
    let first = sink.arrivals().into_iter().find(|arrival| arrival.to == "+15550000007").unwrap();
    assert_eq!(first.text, format!("Hello Name 7, {language}."));
}

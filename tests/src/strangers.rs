//! What meets components of strangers and their answers, each as one function for the fuzzer (`tests/fuzz`), which tests call
//! with every input that the fuzzer has kept. A function returns when all is well and panics when a promise is broken. Those
//! that need the inside of the host are in `carillon::fuzzing`.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use carillon::clock::Time;
use carillon::device::LastOutcome;
use carillon::grants::Licence;
use carillon::id::VersionNo;
use carillon::plugin::PluginKind;
use carillon::plugins::{
    Answer, CallContext, Content, DeviceFacts, HttpResponse, MessageRef, Outbound, Outcome, PaceFacts, Plugin,
    PluginBody, PluginFault, PluginHost, PluginLimits, Progress, RecipientFacts, RenderJob, Round, Step,
};
use tokio::runtime::{Builder, Runtime};

use crate::guests;

/// The largest component that is compiled for the fuzzer: time is for many small ones.
const MAX_COMPONENT: usize = 24 << 10;

fn licence() -> Arc<Licence> {
    Arc::new(Licence::unbounded("stranger"))
}

struct Bed {
    runtime: Runtime,
    host: PluginHost,
    echoes: [Arc<Plugin>; 3],
}

static BED: LazyLock<Bed> = LazyLock::new(|| {
    let limits = PluginLimits {
        memory_bytes: 4 << 20,
        call_deadline: Duration::from_millis(100),
        describe_deadline: Duration::from_millis(100),
        max_component_bytes: MAX_COMPONENT,
        // The heap of an echo only grows.
        calls_per_instance: 1,
        instances: 8,
        ..PluginLimits::default()
    };
    let host = PluginHost::new(limits, None).unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    let echoes = [
        guests::delay("echo", &echo("(i32.load (local.get 0)) (i32.load offset=4 (local.get 0))", true)),
        guests::sender(
            "echo",
            &echo("(i32.load (local.get 0)) (i32.load offset=4 (local.get 0))", true),
            &echo("(local.get 0) (local.get 1)", false),
        ),
        guests::template(
            "echo",
            &echo("(local.get 0) (local.get 1)", true),
            &echo("(local.get 0) (local.get 1)", false),
        ),
    ];
    let echoes = echoes.map(|bytes| {
        let seen = runtime.block_on(host.inspect(bytes.clone())).unwrap();
        runtime.block_on(host.load(VersionNo(1), seen.kind, seen.digest, seen.info, licence(), bytes)).unwrap()
    });
    Bed { runtime, host, echoes }
});

/// Where an echo puts its answer.
pub const ECHOED: u32 = 65_536;

/// The body of a function that answers with what the configuration says, a byte in two letters; `text` is its place and length.
fn echo(text: &str, with_function: bool) -> String {
    let function = format!(
        ") (func $echo (param i32 i32) (result i32) (local i32)
             (block $all
               (loop $next
                 (br_if $all (i32.ge_u (local.get 2) (i32.shr_u (local.get 1) (i32.const 1))))
                 (i32.store8
                   (i32.add (i32.const {ECHOED}) (local.get 2))
                   (i32.or
                     (i32.shl (i32.load8_u (i32.add (local.get 0) (i32.shl (local.get 2) (i32.const 1)))) (i32.const 4))
                     (i32.and
                       (i32.load8_u offset=1 (i32.add (local.get 0) (i32.shl (local.get 2) (i32.const 1))))
                       (i32.const 15))))
                 (local.set 2 (i32.add (local.get 2) (i32.const 1)))
                 (br $next)))
             (i32.const {ECHOED})"
    );
    format!("(call $echo {text}) {}", if with_function { function.as_str() } else { "" })
}

fn ctx(config: &str) -> CallContext {
    CallContext { config: config.into(), now: Time::from_ms(1_796_115_600_000), random: 123_456_789, timer: None }
}

fn device() -> Arc<DeviceFacts> {
    let (id, channel) = ("dev-1".to_owned(), "sms".to_owned());
    DeviceFacts { id, channel, adapter: "{}".to_owned(), attributes: Vec::new() }.into()
}

fn pace() -> PaceFacts {
    PaceFacts {
        device: device(),
        minute_of_day: 540,
        sent_this_minute: 1,
        sent_this_hour: 2,
        sent_today: 3,
        age_days: 4,
        failures_in_a_row: 0,
        last_delay_ms: 1000.0,
        last_outcome: LastOutcome::Sent,
        backlog: 10,
        text_length: 20,
        attributes: Vec::new(),
    }
}

fn job() -> RenderJob {
    let message =
        MessageRef { id: "1000000000000000001".into(), campaign: "c-1".into(), sequence_step: None, attempt: 2 };
    let recipient = RecipientFacts {
        address: "+39055123".into(),
        locale: Some("it-IT".into()),
        zone: None,
        variables: vec![("name".into(), "Ada".into()), ("city".into(), "Prato".into())],
    };
    RenderJob { message: message.into(), recipient: recipient.into(), device: device(), random: 7 }
}

fn outbound() -> Outbound {
    let RenderJob { message, recipient, device, .. } = job();
    let content = Content { text: "Hi".into(), subject: None, media: Vec::new(), attributes: Vec::new() };
    Outbound { message, recipient, content, device, account_state: String::new() }
}

/// Waits for a call; a fault is a good end.
fn end<T>(call: impl Future<Output = Result<T, PluginFault>>) -> Option<T> {
    BED.runtime.block_on(call).inspect_err(|fault| assert!(fault.to_string().len() <= 1_000, "{fault}")).ok()
}

/// An upload: the check ends with a plugin or a refusal, and a plugin can be called.
pub fn upload(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let seen = match BED.runtime.block_on(BED.host.inspect(bytes.clone())) {
        Ok(seen) => seen,
        Err(refused) => {
            return assert!(refused.code != "internal" && (1..=2_000).contains(&refused.detail.len()), "{refused:?}");
        }
    };
    let plugin =
        BED.runtime.block_on(BED.host.load(VersionNo(1), seen.kind, seen.digest, seen.info, licence(), bytes)).unwrap();
    match seen.kind {
        PluginKind::Delay => checked_delay(&plugin, "{}"),
        PluginKind::Template => checked_template(&plugin, "{}"),
        PluginKind::Sender => {
            checked(end(plugin.start(&ctx("{}"), outbound())));
            checked(end(plugin.resume(&ctx("{}"), "", Answer::NotSent("refused".into()))));
        }
    }
}

/// An answer: which function it is of, then the bytes that the function's result points at.
pub fn answers(bytes: &[u8]) {
    let Some((function, bytes)) = bytes.split_first() else { return };
    if bytes.len() > 8 << 10 {
        return;
    }
    let letters = bytes.iter().flat_map(|b| [b'@' | b >> 4, b'@' | b & 15]).map(char::from).collect::<String>();
    let [delay, sender, template] = &BED.echoes;
    match function % 4 {
        0 => checked_delay(delay, &letters),
        1 => checked(end(sender.start(&ctx(&letters), outbound()))),
        2 => checked(end(sender.resume(&ctx(&letters), "", Answer::Unanswered("cut".into())))),
        _ => checked_template(template, &letters),
    }
}

fn checked_delay(plugin: &Plugin, config: &str) {
    if let Some(next) = end(plugin.next_delay(&ctx(config), pace(), "")) {
        assert!(next.delay_ms.is_finite() && next.delay_ms >= 0.0 && next.state.len() <= 4 << 10);
    }
}

fn checked_template(plugin: &Plugin, config: &str) {
    if let Some(contents) = end(plugin.render(&ctx(config), vec![job()])) {
        assert_eq!(contents.len(), 1);
        let texts = |c: &Content| c.text.len() + c.media.iter().map(|m| m.kind.len() + m.url.len()).sum::<usize>();
        assert!(contents.iter().flatten().all(|content| texts(content) <= 256 << 10));
    }
    if let Some(variables) = end(plugin.variables(&ctx(config))) {
        assert!(variables.len() <= 1_000);
    }
}

fn checked(progress: Option<Progress>) {
    let Some(progress) = progress else { return };
    assert!(progress.account_state.is_none_or(|state| state.len() <= 16 << 10));
    match progress.step {
        Step::Request(Round { request, state }) => {
            assert!(request.timeout_ms.is_finite() && request.timeout_ms >= 0.0 && state.len() <= 16 << 10);
            assert!(request.url.len() <= 8 << 10 && request.headers.len() <= 64);
        }
        Step::Done(Outcome::RetryAfter(pause)) => {
            assert!(pause.delay_ms.is_finite() && pause.delay_ms >= 0.0 && pause.reason.detail.len() <= 500);
        }
        Step::Done(Outcome::DeviceDown(outage)) => {
            assert!(outage.retry_ms.is_none_or(|ms| ms.is_finite() && ms >= 0.0))
        }
        Step::Done(Outcome::Accepted(taken)) => assert!(taken.provider_id.len() <= 256),
        Step::Done(Outcome::Unknown(failure)) => assert!(failure.code.len() <= 64 && failure.detail.len() <= 500),
        Step::Done(_) => {}
    }
}

/// The texts that the target `template` makes configurations of: the bytes as a configuration, and as a template.
pub fn template_configs(bytes: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Vec::new() };
    let template = serde_json::json!({ "text": text, "undefined": "empty" });
    vec![text.to_owned(), template.to_string()]
}

/// What the target `provider_answer` makes of its bytes: a configuration (the first line), and an answer with the status and
/// the `Retry-After` of the next two.
pub fn provider_answer(bytes: &[u8]) -> Option<(&str, HttpResponse)> {
    let mut parts = bytes.splitn(4, |b| *b == b'\n');
    let mut line = || std::str::from_utf8(parts.next()?).ok();
    let (config, status, retry_after) = (line()?, line()?.parse().ok()?, line()?.to_owned());
    let body = parts.next()?;
    let body = std::str::from_utf8(body)
        .map_or_else(|_| PluginBody::Bytes(body.to_vec()), |text| PluginBody::Text(text.to_owned()));
    let headers = vec![("retry-after".to_owned(), retry_after)];
    Some((config, HttpResponse { status, headers, body }))
}

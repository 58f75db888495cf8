//! What plugin calls cost: `cargo bench -p carillon --bench plugins`.
//!
//! `reused` is the normal case, `fresh` makes an instance for each call, `batch` makes 100 messages in one call, `message` is
//! everything that one message asks of its plugins, with its arguments built from what a worker holds, and `native` is the same
//! template as a Rust function.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use carillon::clock::Time;
use carillon::device::{Device, LastOutcome};
use carillon::id::{DeviceNo, VersionNo};
use carillon::message::Recipient;
use carillon::plugins::{
    Answer, CallContext, Content, DeviceFacts, FIRST_PARTY, HttpResponse, MessageRef, Outbound, PaceFacts, Plugin,
    PluginBody, PluginHost, PluginLimits, RecipientFacts, RenderJob,
};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

/// Calls before measuring: enough for a plugin to be known as quick, so that it runs on the caller's thread.
const WARM_UP: u32 = 500;

struct World {
    runtime: Runtime,
    jinja: Arc<Plugin>,
    uniform: Arc<Plugin>,
    simulator: Arc<Plugin>,
    webhook: Arc<Plugin>,
    text: CallContext,
    bounds: CallContext,
    simulated: CallContext,
    url: CallContext,
    campaign: Arc<str>,
    device: Device,
    recipient: Recipient,
}

impl World {
    fn new(limits: PluginLimits, cache: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let host = PluginHost::new(limits, Some(cache)).unwrap();
        let load = |name: &str| {
            let bytes = Bytes::from_static(FIRST_PARTY.iter().find(|(n, _)| *n == name).unwrap().1);
            runtime.block_on(async {
                let seen = host.inspect(bytes.clone()).await.unwrap();
                host.load(VersionNo(1), seen.kind, seen.digest, seen.info, bytes).await.unwrap()
            })
        };
        let context = |config: &str| CallContext { config: config.into(), now: NOW, random: 123_456_789, timer: None };
        let spec = r#"{"id":"bench-0000001","channel":"sms","tags":["bench"],"adapter":{"number":"+39 055 123"}}"#;
        let world = Self {
            jinja: load("jinja"),
            uniform: load("uniform"),
            simulator: load("simulator"),
            webhook: load("webhook"),
            text: context(r#"{"text":"Hi {{ name }}, see you in {{ city }}!"}"#),
            bounds: context(r#"{"min_ms":1,"max_ms":2}"#),
            simulated: context("{}"),
            url: context(r#"{"url":"https://api.example.com/send","headers":{"authorization":"Bearer {{secret:K}}"}}"#),
            campaign: "0199c0de-0000-7000-8000-000000000001".into(),
            device: Device {
                no: DeviceNo(1),
                spec: serde_json::from_str(spec).unwrap(),
                held: None,
                created_at: NOW,
                updated_at: NOW,
            },
            recipient: Recipient {
                address: "+39055123".into(),
                locale: Some("it-IT".into()),
                zone: Some("Europe/Rome".into()),
                variables: vec![("name".into(), "Ada".into()), ("city".into(), "Prato".into())],
            },
            runtime,
        };
        for _ in 0..WARM_UP {
            world.render(&world.facts());
            world.start(&world.simulator, &world.simulated, world.facts(), content());
            world.start(&world.webhook, &world.url, world.facts(), content());
            world.resume(&world.simulator, &world.simulated);
            world.resume(&world.webhook, &world.url);
            world.next_delay();
        }
        world
    }

    /// Waits for a call; a quick plugin's is done when it is first looked at.
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        let _in_runtime = self.runtime.enter();
        futures::executor::block_on(call)
    }

    /// What the calls for one message have in common, as a worker makes it.
    fn facts(&self) -> Facts {
        Facts {
            message: Arc::new(MessageRef {
                id: 1_000_000_000_000_000_001_i64.to_string(),
                campaign: Arc::clone(&self.campaign),
                sequence_step: None,
                attempt: 1,
            }),
            recipient: Arc::new(RecipientFacts::of(&self.recipient)),
            device: Arc::new(DeviceFacts::of(&self.device)),
        }
    }

    fn pace(&self) -> PaceFacts {
        PaceFacts {
            device: Arc::new(DeviceFacts::of(&self.device)),
            minute_of_day: 600,
            sent_this_minute: 3,
            sent_this_hour: 40,
            sent_today: 100,
            age_days: 30,
            failures_in_a_row: 0,
            last_delay_ms: 1000.0,
            last_outcome: LastOutcome::Sent,
            backlog: 50,
            text_length: 24,
            attributes: Vec::new(),
        }
    }

    fn render(&self, facts: &Facts) -> Content {
        self.wait(self.jinja.render(&self.text, vec![facts.job()])).unwrap().pop().unwrap().unwrap()
    }

    fn start(&self, plugin: &Plugin, context: &CallContext, facts: Facts, content: Content) {
        let Facts { message, recipient, device } = facts;
        let outbound = Outbound { message, recipient, content, device, account_state: String::new() };
        black_box(self.wait(plugin.start(context, outbound)).unwrap());
    }

    fn resume(&self, plugin: &Plugin, context: &CallContext) {
        let body = PluginBody::Text(r#"{"id":"m-1"}"#.into());
        let headers = vec![("content-type".into(), "application/json".into())];
        let answer = Answer::Response(HttpResponse { status: 202, headers, body });
        black_box(self.wait(plugin.resume(context, "1000000000000000001", answer)).unwrap());
    }

    fn next_delay(&self) {
        black_box(self.wait(self.uniform.next_delay(&self.bounds, self.pace(), "")).unwrap());
    }
}

/// The arguments that calls for one message share.
struct Facts {
    message: Arc<MessageRef>,
    recipient: Arc<RecipientFacts>,
    device: Arc<DeviceFacts>,
}

impl Facts {
    fn job(&self) -> RenderJob {
        let (message, recipient, device) =
            (Arc::clone(&self.message), Arc::clone(&self.recipient), Arc::clone(&self.device));
        RenderJob { message, recipient, device, random: 7 }
    }
}

/// 2026-12-01T09:00:00Z.
const NOW: Time = Time::from_ms(1_796_115_600_000);

fn content() -> Content {
    Content { text: "Hi Ada, see you in Prato!".into(), subject: None, media: Vec::new(), attributes: Vec::new() }
}

fn calls(group: &mut BenchmarkGroup<'_, WallTime>, world: &World) {
    group.bench_function("jinja render", |b| b.iter(|| world.render(&world.facts())));
    for (name, plugin, context) in
        [("simulator", &world.simulator, &world.simulated), ("webhook", &world.webhook, &world.url)]
    {
        group.bench_function(format!("{name} start"), |b| {
            b.iter_batched(
                content,
                |content| world.start(plugin, context, world.facts(), content),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("{name} resume"), |b| b.iter(|| world.resume(plugin, context)));
    }
    group.bench_function("uniform next-delay", |b| b.iter(|| world.next_delay()));
}

fn plugins(criterion: &mut Criterion) {
    let cache = tempfile::tempdir().unwrap();
    let world = World::new(PluginLimits::default(), cache.path());
    calls(&mut criterion.benchmark_group("reused"), &world);

    let mut group = criterion.benchmark_group("message");
    group.bench_function("four calls", |b| {
        b.iter(|| {
            let facts = world.facts();
            let content = world.render(&facts);
            world.start(&world.simulator, &world.simulated, facts, content);
            world.resume(&world.simulator, &world.simulated);
            world.next_delay();
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(100));
    group.bench_function("jinja render of 100", |b| {
        b.iter(|| {
            world.wait(world.jinja.render(&world.text, (0..100).map(|_| world.facts().job()).collect())).unwrap()
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("native");
    group.bench_function("render", |b| {
        let named = |name: &str| {
            world.recipient.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).unwrap_or("")
        };
        b.iter(|| Content {
            text: format!("Hi {}, see you in {}!", named(black_box("name")), named(black_box("city"))),
            ..content()
        });
    });
    group.finish();

    let world = World::new(PluginLimits { calls_per_instance: 1, ..PluginLimits::default() }, cache.path());
    calls(&mut criterion.benchmark_group("fresh"), &world);
}

criterion_group!(benches, plugins);
criterion_main!(benches);

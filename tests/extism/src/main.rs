//! What one rendered message costs: in this process, as a plugin of Carillon, and as a plugin of Extism. All three are the plugin
//! `jinja` of one source, get the same job and answer the same text; each is called in turn, round after round, so that what
//! else the machine does falls on all alike.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use carillon::clock::Time;
use carillon::device::Device;
use carillon::grants::Licence;
use carillon::id::{DeviceNo, VersionNo};
use carillon::message::Recipient;
use carillon::plugins::{
    CallContext, DeviceFacts, FIRST_PARTY, MessageRef, Plugin, PluginHost, PluginLimits, RecipientFacts, RenderJob,
};
use extism::{CompiledPlugin, Manifest, PluginBuilder, Wasm};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::template::Compiled;

// Not all of it is called here.
#[allow(dead_code)]
#[path = "../../../plugins/jinja/src/template.rs"]
mod template;

const CONFIG: &str = r#"{"text":"Hi {{ name }}, see you in {{ city }}!"}"#;
const SAYS: &str = "Hi Ada, see you in Prato!";
/// 2026-12-01T09:00:00Z.
const NOW: Time = Time::from_ms(1_796_115_600_000);
/// Calls in a round, of what takes microseconds and of what takes tens of them.
const CALLS: u32 = 500;
const FRESH_CALLS: u32 = 50;
/// Calls before measuring: enough for a plugin to be known as quick, so that it runs on the caller's thread.
const WARM_UP: u32 = 600;
/// As the engine limits a call.
const TIME_LIMIT: Duration = Duration::from_millis(250);
const PAGES: u32 = 1024;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [guest, rounds] = args.as_slice() else { anyhow::bail!("usage: carillon-extism GUEST.wasm ROUNDS") };
    let rounds: usize = rounds.parse().context("ROUNDS is a number")?;
    let guest = std::fs::read(guest).with_context(|| guest.clone())?;
    let cache = tempfile::tempdir()?;
    let facts = Facts::new()?;

    let compiled = carillon_plugin::parse::<Compiled>("the configuration", CONFIG).map_err(anyhow::Error::msg)?;
    let reused = Ours::new(PluginLimits::default(), cache.path())?;
    let fresh = Ours::new(PluginLimits { calls_per_instance: 1, ..PluginLimits::default() }, cache.path())?;
    let free = Manifest::new([Wasm::data(guest.clone())]);
    let limited = Manifest::new([Wasm::data(guest)]).with_timeout(TIME_LIMIT).with_memory_max(PAGES);
    let compile = |manifest: Manifest| CompiledPlugin::new(PluginBuilder::new(manifest).with_wasi(false));
    let (free, limited) = (compile(free)?, compile(limited)?);
    let (mut kept_free, mut kept_limited) =
        (extism::Plugin::new_from_compiled(&free)?, extism::Plugin::new_from_compiled(&limited)?);

    let mut subjects: Vec<Subject> = vec![
        Subject::new("native function", CALLS, || {
            compiled.message(facts.native()).map(|content| content.text).map_err(|e| anyhow::anyhow!("{e:?}"))
        }),
        Subject::new("Carillon, instance reused", CALLS, || reused.render(&facts)),
        Subject::new("Extism, instance reused", CALLS, || of_extism(&mut kept_free, &facts)),
        Subject::new("Extism, reused, with limits", CALLS, || of_extism(&mut kept_limited, &facts)),
        Subject::new("Carillon, instance fresh", FRESH_CALLS, || fresh.render(&facts)),
        Subject::new("Extism, instance fresh", FRESH_CALLS, || {
            of_extism(&mut extism::Plugin::new_from_compiled(&free)?, &facts)
        }),
        Subject::new("Extism, fresh, with limits", FRESH_CALLS, || {
            of_extism(&mut extism::Plugin::new_from_compiled(&limited)?, &facts)
        }),
    ];
    for subject in &mut subjects {
        for _ in 0..WARM_UP {
            let said = (subject.call)()?;
            ensure!(said == SAYS, "{} says {said:?}", subject.name);
        }
    }
    for _ in 0..rounds {
        for subject in &mut subjects {
            let started = Instant::now();
            for _ in 0..subject.calls {
                black_box((subject.call)()?);
            }
            subject.us.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(subject.calls));
        }
    }
    println!("| one message, µs | median | 10 % | 90 % | of native |\n|---|---|---|---|---|");
    let mut native = None;
    for subject in &mut subjects {
        subject.us.sort_by(f64::total_cmp);
        let at = |share: f64| subject.us.get((subject.us.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        let median = at(0.5);
        let native = *native.get_or_insert(median);
        println!("| {} | {median:.1} | {:.1} | {:.1} | {:.1} × |", subject.name, at(0.1), at(0.9), median / native);
    }
    Ok(())
}

/// What is measured, and the microseconds of a call in each round.
struct Subject<'a> {
    name: &'static str,
    calls: u32,
    call: Box<dyn FnMut() -> Result<String> + 'a>,
    us: Vec<f64>,
}

impl<'a> Subject<'a> {
    fn new(name: &'static str, calls: u32, call: impl FnMut() -> Result<String> + 'a) -> Self {
        Self { name, calls, call: Box::new(call), us: Vec::new() }
    }
}

/// A message that is to be made. What each of the three is given is made of it anew for each call, as a worker does.
struct Facts {
    device: Device,
    recipient: Recipient,
    campaign: Arc<str>,
}

impl Facts {
    fn new() -> Result<Self> {
        let spec = r#"{"id":"bench-0000001","channel":"sms","tags":["bench"],"adapter":{"number":"+39 055 123"}}"#;
        Ok(Self {
            device: Device {
                no: DeviceNo(1),
                spec: serde_json::from_str(spec)?,
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
            campaign: "0199c0de-0000-7000-8000-000000000001".into(),
        })
    }

    fn ours(&self) -> RenderJob {
        RenderJob {
            message: Arc::new(MessageRef {
                id: 1_000_000_000_000_000_001_i64.to_string(),
                campaign: Arc::clone(&self.campaign),
                sequence_step: None,
                attempt: 1,
            }),
            recipient: Arc::new(RecipientFacts::of(&self.recipient)),
            device: Arc::new(DeviceFacts::of(&self.device)),
            random: 7,
        }
    }

    fn native(&self) -> carillon_plugin::Job {
        let RenderJob { message, recipient, device, random } = self.ours();
        carillon_plugin::Job {
            message: carillon_plugin::MessageRef {
                id: message.id.clone(),
                campaign: message.campaign.to_string(),
                sequence_step: message.sequence_step,
                attempt: message.attempt,
            },
            recipient: carillon_plugin::Recipient {
                address: recipient.address.clone(),
                locale: recipient.locale.clone(),
                zone: recipient.zone.clone(),
                variables: recipient.variables.clone(),
            },
            device: carillon_plugin::Device {
                id: device.id.clone(),
                channel: device.channel.clone(),
                adapter: device.adapter.clone(),
                attributes: device.attributes.clone(),
            },
            random,
        }
    }
}

/// The plugin as the engine calls it.
struct Ours {
    runtime: Runtime,
    plugin: Arc<Plugin>,
    context: CallContext,
}

impl Ours {
    fn new(limits: PluginLimits, cache: &std::path::Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let host = PluginHost::new(limits, Some(cache))?;
        let (_, bytes) = FIRST_PARTY.iter().find(|(name, _)| *name == "jinja").context("jinja is there")?;
        let bytes = Bytes::from_static(bytes);
        let plugin = runtime.block_on(async {
            let seen = host.inspect(bytes.clone()).await?;
            let licence = Arc::new(Licence::unbounded("jinja"));
            host.load(VersionNo(1), seen.kind, seen.digest, seen.info, licence, bytes).await
        })?;
        Ok(Self {
            runtime,
            plugin,
            context: CallContext { config: CONFIG.into(), now: NOW, random: 123_456_789, timer: None },
        })
    }

    fn render(&self, facts: &Facts) -> Result<String> {
        let contents = self.wait(self.plugin.render(&self.context, vec![facts.ours()]))?;
        let content = contents.into_iter().next().context("an answer")??;
        Ok(content.text)
    }

    /// Waits for a call; a quick plugin's is done when it is first looked at.
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        let _in_runtime = self.runtime.enter();
        futures::executor::block_on(call)
    }
}

/// What the guest takes.
#[derive(Serialize)]
struct Input<'a> {
    config: &'a str,
    jobs: [OneJob<'a>; 1],
}

#[derive(Serialize)]
struct OneJob<'a> {
    message: Message<'a>,
    recipient: To<'a>,
    device: Phone<'a>,
    random: u32,
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    campaign: &'a str,
    sequence_step: Option<u32>,
    attempt: u32,
}

#[derive(Serialize)]
struct To<'a> {
    address: &'a str,
    locale: Option<&'a str>,
    zone: Option<&'a str>,
    variables: &'a [(String, String)],
}

#[derive(Serialize)]
struct Phone<'a> {
    id: &'a str,
    channel: &'a str,
    adapter: &'a str,
    attributes: &'a [(String, String)],
}

/// What it answers, all of which is read.
#[derive(Deserialize)]
struct Output {
    text: String,
    #[serde(rename = "subject")]
    _subject: Option<String>,
    #[serde(rename = "media")]
    _media: Vec<(String, String)>,
    #[serde(rename = "attributes")]
    _attributes: Vec<(String, String)>,
}

fn of_extism(plugin: &mut extism::Plugin, facts: &Facts) -> Result<String> {
    let RenderJob { message, recipient, device, random } = facts.ours();
    let job = OneJob {
        message: Message {
            id: &message.id,
            campaign: &message.campaign,
            sequence_step: message.sequence_step,
            attempt: message.attempt,
        },
        recipient: To {
            address: &recipient.address,
            locale: recipient.locale.as_deref(),
            zone: recipient.zone.as_deref(),
            variables: &recipient.variables,
        },
        device: Phone {
            id: &device.id,
            channel: &device.channel,
            adapter: &device.adapter,
            attributes: &device.attributes,
        },
        random,
    };
    let input = serde_json::to_string(&Input { config: CONFIG, jobs: [job] })?;
    let output = plugin.call::<&str, &str>("render", &input)?;
    let [output]: [Result<Output, String>; 1] = serde_json::from_str(output)?;
    output.map(|output| output.text).map_err(anyhow::Error::msg)
}

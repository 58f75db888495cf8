//! `carillon bench`: a campaign from an empty store to its end, through the same code as the API, with its ledger
//! checked; prints one JSON object. Exit code 1 when a message was lost, doubled, overtaken or early.

mod ledger;
pub(super) mod pacing;
pub(super) mod report;
mod sink;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::bad_input;
use super::client::Api;
use super::local::{Driver, Local, interrupted};
use super::progress::Progress;
use crate::campaign::{CampaignSpec, CampaignStatus};
use crate::config::{Config, Role};
use crate::core::Core;
use crate::device::DeviceSpec;
use crate::id::{CampaignId, DeviceId};
use crate::message::Counts;
use ledger::Ledger;
use pacing::Asked;
use report::{Report, Seconds, Spent};
use sink::{Sink, SinkReport};

/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Steps of a ramp at most.
const RAMP_STEPS: u32 = 1_000;
/// The name of what the bench makes.
const NAME: &str = "bench";

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An empty store; a new SQLite database in a temporary folder when absent.
    #[arg(long, env = "CARILLON_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
    /// The queue.
    #[arg(long, env = "CARILLON_QUEUE", default_value = "memory:", value_name = "URL", hide_env_values = true)]
    queue: String,
    /// Messages.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Devices.
    #[arg(long, default_value_t = 3_000, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    devices: u32,
    /// Most sends in flight.
    #[arg(long, default_value_t = 500, value_name = "W", value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// How long a device waits after each send, in milliseconds.
    #[arg(long, default_value = "0", value_name = "A..B")]
    delay_ms: Asked,
    /// Let devices begin one after the other over this time, as in a fleet that has been sending for long; else they all
    /// begin at once. Milliseconds.
    #[arg(long, default_value_t = 0, value_name = "R")]
    ramp_ms: u32,
    /// Stop after so many messages have ended; the rest stays waiting. Shows what a message costs with many behind it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stop_after: Option<u32>,
    /// How messages are sent.
    #[arg(long, value_enum, default_value = "simulator")]
    sender: SenderKind,
    /// Where `--sender http` posts: the base URL of a `carillon bench --sink`; a sink in this process when absent.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Run only the receiving HTTP server on this address, until a signal.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["to"])]
    sink: Option<SocketAddr>,
    /// Print the JSON object only, without progress.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SenderKind {
    /// The `simulator` plugin, answered inside the host.
    Simulator,
    /// The `webhook` plugin, to an HTTP server that counts.
    Http,
}

/// Runs the command.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(addr) = args.sink {
        return run_sink(addr, args.delay_ms).await;
    }
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let receiver = Receiver::open(&args).await?;
    let config = Config {
        data: folder.path().to_owned(),
        store: args.store.clone(),
        queue: args.queue.clone(),
        roles: vec![Role::Trigger, Role::Processor, Role::Workers, Role::Recovery],
        allow_egress: receiver.allow_egress(),
        max_workers: args.workers,
        ..Config::default()
    };
    let local = Local::start(config).await?;
    let work = measure(local.driver(), &args, &receiver, folder.path().join("audience.csv"));
    let Some(report) = local.run(work).await? else { return Ok(interrupted()) };
    println!("{}", if args.json { serde_json::to_string(&report)? } else { serde_json::to_string_pretty(&report)? });
    if report.ok { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
}

async fn run_sink(addr: SocketAddr, asked: Asked) -> anyhow::Result<ExitCode> {
    let sink = Sink::start(addr, asked).await?;
    println!("the sink listens on http://{}; its ledger is at /report", sink.addr);
    let ledger = sink.handle();
    tokio::select! {
        result = sink.wait() => result?,
        () = crate::lifecycle::signal() => {}
    }
    println!("{}", serde_json::to_string_pretty(&ledger.report())?);
    Ok(ExitCode::SUCCESS)
}

/// Where the messages go.
enum Receiver {
    /// Nowhere: the simulator answers.
    Simulator,
    /// A sink in this process.
    Here(Sink),
    /// A sink of another process.
    There(Box<Api>),
}

impl Receiver {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        Ok(match (args.sender, &args.to) {
            (SenderKind::Simulator, None) => Self::Simulator,
            (SenderKind::Simulator, Some(_)) => return Err(bad_input("--to: it goes with --sender http")),
            (SenderKind::Http, None) => {
                Self::Here(Sink::start(SocketAddr::from(([127, 0, 0, 1], 0)), args.delay_ms).await?)
            }
            (SenderKind::Http, Some(url)) => {
                let api = Box::new(Api::new("--to", url, None)?);
                api.call("DELETE", "/report", "application/json", Bytes::new()).await?;
                Self::There(api)
            }
        })
    }

    fn allow_egress(&self) -> Vec<String> {
        match self {
            Self::Simulator => Vec::new(),
            Self::Here(sink) => vec![sink.addr.to_string()],
            Self::There(api) => vec![api.authority().to_owned()],
        }
    }

    /// The campaign's sender.
    fn sender(&self) -> Value {
        let webhook = |url: String| json!({"plugin": "webhook", "config": {"url": url}});
        match self {
            Self::Simulator => json!({"plugin": "simulator", "config": {"latency_ms": {"min": 0, "max": 0}}}),
            Self::Here(sink) => webhook(format!("http://{}/send", sink.addr)),
            Self::There(api) => webhook(format!("{}/send", api.base())),
        }
    }

    async fn report(&self) -> anyhow::Result<Option<SinkReport>> {
        Ok(match self {
            Self::Simulator => None,
            Self::Here(sink) => Some(sink.report()),
            Self::There(api) => {
                let answer = api.call("GET", "/report", "application/json", Bytes::new()).await?;
                Some(serde_json::from_slice(&answer.body).context("--to: what answers there is no sink")?)
            }
        })
    }
}

async fn measure(driver: Driver, args: &Args, receiver: &Receiver, csv: PathBuf) -> anyhow::Result<Report> {
    refuse_leftovers(&driver).await?;
    write_audience(&csv, args.messages).await?;
    let mut seconds = Seconds::default();
    let clock = driver.core().clock.clone();
    let mut lap = clock.monotonic();
    let mut since = || {
        let now = clock.monotonic();
        (now - std::mem::replace(&mut lap, now)).as_secs_f64()
    };

    driver.put_devices(fleet(args.devices)?).await?;
    seconds.devices = since();
    let imported = driver.import(NAME, &csv).await?;
    seconds.import = since();
    if u64::from(imported.accepted) != u64::from(args.messages) {
        bail!("the import accepted {} of {} contacts", imported.accepted, args.messages);
    }

    let id = driver.create(campaign(args, receiver)?).await?;
    let core = driver.core().clone();
    // The operator's own brake keeps the workers still, so that expanding and sending are measured one after the other.
    core.queue.set_max_workers(0).await?;
    tokio::time::sleep(2 * Duration::from_millis(core.config.heartbeat_ms)).await;
    let before = Spent::so_far(&core).await?;
    let launched_at = core.clock.monotonic();
    driver.launch_or_resume(id).await?;
    let mut watch = Watch::new(&driver, id, args);
    watch.until(|counts| counts.total() == u64::from(args.messages)).await?;
    seconds.expand = (core.clock.monotonic() - launched_at).as_secs_f64();
    ramp(&core, args).await?;
    let opened_at = core.clock.now();
    core.queue.set_max_workers(args.workers).await?;
    let all = u64::from(args.messages);
    let enough = args.stop_after.map_or(all, |n| u64::from(n).min(all));
    watch.until(|counts| all - counts.open() >= enough).await?;
    if enough < all {
        core.queue.set_max_workers(0).await?;
        tokio::time::sleep(2 * Duration::from_millis(core.config.heartbeat_ms)).await;
        watch.until(|counts| counts.processing == 0).await?;
    }
    let spent = Spent::so_far(&core).await?.since(&before);
    watch.finish();

    let mut ledger = Ledger::new(args.delay_ms, opened_at.plus(Duration::from_millis(args.ramp_ms.into())))?;
    let ended = all - driver.view(id).await?.counts.open();
    driver
        .each_message(id, |row| {
            ledger.add(row);
            if ledger.ended() < ended { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .await?;
    seconds.drain = ledger.last_end().since(ledger.first_begin()).as_secs_f64();
    let counts = driver.view(id).await?.counts;
    Ok(Report::new(args, &core, seconds, &ledger, counts, receiver.report().await?, &spent))
}

/// A store with other work in it would be measured too, and disturbed.
async fn refuse_leftovers(driver: &Driver) -> anyhow::Result<()> {
    let store = &driver.core().store;
    let is_empty = store.count_devices().await? == 0
        && store.audiences(None, 1).await?.items.is_empty()
        && store.campaigns(None, None, 1).await?.items.is_empty();
    if is_empty {
        return Ok(());
    }
    Err(bad_input("--store: the store has devices, audiences or campaigns in it; the bench needs an empty one"))
}

/// Recipients with numbers that no provider has given out.
async fn write_audience(csv: &PathBuf, messages: u32) -> anyhow::Result<()> {
    let file = tokio::fs::File::create(csv).await.context("writing the audience")?;
    let mut file = tokio::io::BufWriter::new(file);
    file.write_all(b"address,name,city\n").await?;
    for n in 0..messages {
        file.write_all(format!("+999{n:010},Name {},City {}\n", n % 997, n % 89).as_bytes()).await?;
    }
    file.flush().await.context("writing the audience")
}

fn fleet(devices: u32) -> anyhow::Result<Vec<DeviceSpec>> {
    (0..devices)
        .map(|n| Ok(serde_json::from_value(json!({"id": device_id(n), "channel": "sms", "tags": [NAME]}))?))
        .collect()
}

fn device_id(n: u32) -> String {
    format!("bench-{n:07}")
}

/// Has devices wait for their turn to begin.
async fn ramp(core: &Core, args: &Args) -> anyhow::Result<()> {
    let steps = args.ramp_ms.min(RAMP_STEPS);
    for step in 0..steps {
        let turn: Vec<DeviceId> = (step..args.devices)
            .step_by(usize::try_from(steps)?)
            .map(|n| device_id(n).parse())
            .collect::<Result<_, _>>()?;
        core.queue.hold(&turn, Duration::from_millis(args.ramp_ms.into()) * step / steps).await?;
    }
    Ok(())
}

fn campaign(args: &Args, receiver: &Receiver) -> anyhow::Result<CampaignSpec> {
    let Asked { min, max } = args.delay_ms;
    Ok(serde_json::from_str(
        &json!({
            "name": NAME,
            "audience": NAME,
            "devices": {"tag": NAME},
            "template": {"plugin": "jinja", "config": {"text": "Hello {{ name }}, greetings to {{ city }}!"}},
            "delay": {
                "plugin": "uniform",
                "config": {"min_ms": u64::try_from(min.as_millis())?, "max_ms": u64::try_from(max.as_millis())?},
            },
            "sender": receiver.sender(),
            "delivery": "at_least_once",
        })
        .to_string(),
    )?)
}

/// Looks at a campaign until it has come so far.
struct Watch<'a> {
    driver: &'a Driver,
    id: CampaignId,
    started_at: Duration,
    progress: Option<Progress>,
}

impl<'a> Watch<'a> {
    fn new(driver: &'a Driver, id: CampaignId, args: &Args) -> Self {
        let progress = (!args.json).then(|| Progress::new(u64::from(args.messages)));
        Self { driver, id, started_at: driver.elapsed(), progress }
    }

    fn finish(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }

    async fn until(&mut self, reached: impl Fn(&Counts) -> bool) -> anyhow::Result<()> {
        loop {
            let view = self.driver.view(self.id).await?;
            if let Some(progress) = &mut self.progress {
                progress.show(&view.counts, self.driver.elapsed().saturating_sub(self.started_at));
            }
            if reached(&view.counts) {
                return Ok(());
            }
            if view.status == CampaignStatus::Paused {
                bail!("the campaign was paused: {}", view.paused_reason.unwrap_or_default());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bench_makes_is_valid() {
        let devices = fleet(3).unwrap();
        assert!(devices.iter().all(|d| d.problems().is_empty()));
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let args = <Cli as clap::Parser>::parse_from(["bench", "--delay-ms", "5..9"]).args;
        let spec = campaign(&args, &Receiver::Simulator).unwrap();
        assert_eq!(spec.problems(), []);
        assert_eq!(spec.delay.config.get(), r#"{"max_ms":9,"min_ms":5}"#);
    }

    #[tokio::test]
    async fn the_audience_has_a_row_for_each_message() {
        let folder = tempfile::tempdir().unwrap();
        let csv = folder.path().join("a.csv");
        write_audience(&csv, 3).await.unwrap();
        assert_eq!(std::fs::read_to_string(&csv).unwrap().lines().count(), 4);
    }
}

//! `carillon demo`: the engine with its embedded defaults, 3,000 simulated devices, 30,000 recipients, and a template plugin
//! that is replaced while its campaign runs.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde_json::json;

use super::bookmark::Bookmark;
use super::local::{Driver, Local, accepted, interrupted};
use super::progress::{Progress, states};
use crate::campaign::{CampaignSpec, CampaignStatus};
use crate::config::Config;
use crate::device::DeviceSpec;
use crate::id::{CampaignId, Digest};
use crate::message::Recipient;
use crate::operations::campaigns::CampaignView;
use crate::operations::tokens::ADMIN_TOKEN_FILE;
use crate::plugins::{CallContext, DeviceFacts, MessageRef, NEXT_JINJA, RecipientFacts, RenderJob};

/// The recipients; `make_customers.rs` beside the file makes it.
const CUSTOMERS: &str = include_str!("../../../examples/demo/customers.csv");
/// What the campaign says. `greeting` comes from the template plugin's next version; until then nobody sets it.
const TEXT: &str = "{{ greeting | default('Hello') }} {{ name }}, your {{ points }} points are waiting in {{ city }}.\
                    {% if points | int > 800 %} You are one of our best customers!{% endif %}";
/// The name of what the demo makes.
const NAME: &str = "demo";
/// The template plugin.
const TEMPLATE: &str = "jinja";
/// Simulated devices.
const DEVICES: u32 = 3_000;
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Settings of the demo.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the embedded database; a demo that was interrupted goes on from it.
    #[arg(long, default_value = "data/demo", value_name = "DIR")]
    data: PathBuf,
    /// Where the dashboard listens; another free port is taken when this one is in use.
    #[arg(long, env = "CARILLON_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// Recipients from a CSV file of your own, with the columns address, name, city, zone and points.
    #[arg(long, value_name = "FILE")]
    recipients: Option<PathBuf>,
    /// Keep the dashboard up after the end, until Ctrl-C.
    #[arg(long)]
    stay: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config { data: args.data.clone(), listen: free(args.listen), ..Config::default() };
    let local = Local::start(config).await?;
    if let Some(addr) = local.addr() {
        println!("dashboard: http://{addr}");
    }
    match local.new_admin_token() {
        Some(token) => println!("token:     {token}"),
        None => println!("token:     in {}", args.data.join(ADMIN_TOKEN_FILE).display()),
    }
    let driver = local.driver();
    let done = local.run(show(driver, &args)).await?;
    Ok(done.map_or_else(interrupted, |()| ExitCode::SUCCESS))
}

/// The address itself, or one with a free port when it is in use.
fn free(wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

async fn show(driver: Driver, args: &Args) -> anyhow::Result<()> {
    let bookmark = Bookmark::new(&args.data, NAME);
    let id = match unfinished(&driver, &bookmark).await? {
        Some(id) => {
            eprintln!("going on with the campaign that was interrupted");
            id
        }
        None => {
            let id = prepare(&driver, args.recipients.as_deref()).await?;
            bookmark.write(id)?;
            id
        }
    };
    driver.launch_or_resume(id).await?;
    watch(&driver, id).await?;
    summary(&driver, id).await?;
    if args.stay {
        eprintln!("the dashboard stays up until Ctrl-C");
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// The campaign of a demo that was interrupted.
async fn unfinished(driver: &Driver, bookmark: &Bookmark) -> anyhow::Result<Option<CampaignId>> {
    let Some(id) = bookmark.read()? else { return Ok(None) };
    let kept = driver.core().store.campaign(id).await?;
    Ok(kept.filter(|campaign| !campaign.status.is_final()).map(|campaign| campaign.id))
}

/// Makes devices, audience and campaign.
async fn prepare(driver: &Driver, recipients: Option<&Path>) -> anyhow::Result<CampaignId> {
    eprintln!("making {DEVICES} devices and importing the recipients");
    // A demo before this one left the next version active.
    if let Some(oldest) = driver.versions(TEMPLATE).await?.into_iter().next_back() {
        driver.activate(TEMPLATE, &oldest.version).await?;
    }
    driver.put_devices(fleet()?).await?;
    let report = match recipients {
        Some(path) => driver.import(NAME, path).await?,
        None => driver.import_from(NAME, CUSTOMERS.as_bytes()).await?,
    };
    if report.rejected_count > 0 {
        eprintln!("{} rows were rejected", report.rejected_count);
    }
    driver.create(campaign()?).await
}

fn fleet() -> anyhow::Result<Vec<DeviceSpec>> {
    let one = |n: u32| {
        json!({
            "id": format!("sim-{n:04}"),
            "name": format!("Simulated phone {n}"),
            "channel": "sms",
            "tags": [NAME],
            "account": format!("sim-account-{}", n % 30),
        })
    };
    (1..=DEVICES).map(|n| Ok(serde_json::from_value(one(n))?)).collect()
}

/// Ten messages a device, four to six seconds apart: about a minute.
fn campaign() -> anyhow::Result<CampaignSpec> {
    Ok(serde_json::from_str(
        &json!({
            "name": NAME,
            "audience": NAME,
            "devices": {"tag": NAME},
            "template": {"plugin": TEMPLATE, "config": {"text": TEXT}},
            "delay": {"plugin": "uniform", "config": {"min_ms": 4000, "max_ms": 6000}},
            "sender": {"plugin": "simulator", "config": {
                "latency_ms": {"min": 40, "max": 250},
                "transient_rate": 0.01,
                "permanent_rate": 0.004,
                "rate_limit_rate": 0.002,
                "retry_after_ms": 1500,
            }},
            "delivery": "at_least_once",
            "retry": {"max_attempts": 4, "base_ms": 500, "max_ms": 4000},
        })
        .to_string(),
    )?)
}

/// Shows the campaign until its end; replaces the template plugin halfway.
async fn watch(driver: &Driver, id: CampaignId) -> anyhow::Result<()> {
    let start = driver.elapsed();
    let mut progress: Option<Progress> = None;
    let mut replaced = false;
    loop {
        let view = driver.view(id).await?;
        let progress = progress.get_or_insert_with(|| Progress::new(view.recipients));
        progress.show(&view.counts, driver.elapsed().saturating_sub(start));
        match view.status {
            status if status.is_final() => break,
            CampaignStatus::Paused => bail!("the campaign is paused: {}", view.paused_reason.unwrap_or_default()),
            _ => {}
        }
        if !replaced && (view.counts.total() - view.counts.open()) * 2 >= view.recipients {
            replaced = true;
            replace_template(driver, &view, progress).await?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(())
}

/// Uploads and activates the template plugin's next version, and shows what a message was and has become.
async fn replace_template(driver: &Driver, view: &CampaignView, progress: &Progress) -> anyhow::Result<()> {
    let before = sample(driver, view).await?;
    let started = driver.elapsed();
    let version = driver.upload(Bytes::from_static(NEXT_JINJA)).await?;
    driver.activate(&version.name, &version.version).await?;
    let took = driver.elapsed().saturating_sub(started);
    let after = sample(driver, view).await?;
    progress.say(&format!(
        "halfway: {} {} uploaded and activated in {} ms, without a restart\n  before: {before}\n  after:  {after}",
        version.name,
        version.version,
        took.as_millis(),
    ));
    Ok(())
}

/// What the active version of the template makes of the first recipient.
async fn sample(driver: &Driver, view: &CampaignView) -> anyhow::Result<String> {
    let core = driver.core();
    core.plugins.reload(&*core.store, core.clock.now()).await?;
    let plugin = core.plugins.resolve(TEMPLATE, None).context("the template plugin is gone")?;
    let audience = core.store.audience(&view.spec.audience).await?.context("the audience is gone")?;
    let contacts = core.store.contacts(audience.no, 0, 1).await?;
    let (_, contact) = contacts.into_iter().next().context("the audience is empty")?;
    let recipient = Recipient {
        address: contact.address,
        locale: contact.locale,
        zone: contact.zone,
        variables: serde_json::from_str(&contact.variables)?,
    };
    let device = core.store.devices(Some(NAME), None, None, 1).await?;
    let device = device.items.first().context("the devices are gone")?;
    let context = CallContext {
        config: Arc::from(view.spec.template.config.get()),
        now: core.clock.now(),
        random: 0,
        timer: None,
    };
    let job = RenderJob {
        message: Arc::new(MessageRef {
            id: "sample".to_owned(),
            campaign: NAME.into(),
            sequence_step: None,
            attempt: 1,
        }),
        recipient: Arc::new(RecipientFacts::of(&recipient)),
        device: Arc::new(DeviceFacts::of(device)),
        random: 0,
    };
    let rendered = plugin.render(&context, vec![job]).await?;
    Ok(rendered.into_iter().next().context("no answer from the template plugin")??.text)
}

/// What the campaign came to, checked against every message.
async fn summary(driver: &Driver, id: CampaignId) -> anyhow::Result<()> {
    let counts = driver.check_ledger(id).await?;
    let view = driver.view(id).await?;
    let mut by_template: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut retried = 0u64;
    driver
        .each_message(id, |row| {
            if let (Some([template, ..]), Some(_)) = (row.digests, row.provider_id.as_ref()) {
                *by_template.entry(template).or_default() += 1;
            }
            retried += u64::from(row.attempt > 1);
            ControlFlow::Continue(())
        })
        .await?;
    let seconds = match (view.launched_at, view.finished_at) {
        (Some(from), Some(to)) => to.since(from).as_secs_f64(),
        _ => 0.0,
    };
    println!(
        "{} messages in {seconds:.0} s: {}; {retried} of them took more than one attempt",
        counts.total(),
        states(&counts)
    );
    for version in driver.versions(TEMPLATE).await? {
        if let Some(n) = by_template.get(&version.digest) {
            println!("  {n} with {} {}", version.name, version.version);
        }
    }
    println!(
        "ledger checked: every recipient has one message, every message one final state, {} accepted",
        accepted(&counts)
    );
    Ok(())
}

#[cfg(test)]
#[path = "../../../examples/demo/make_customers.rs"]
#[allow(clippy::indexing_slicing)] // A script for people, with tables that it indexes itself.
mod make_customers;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_customers_are_what_their_script_makes() {
        assert!(CUSTOMERS == make_customers::csv(), "make examples/demo/customers.csv again, see make_customers.rs");
        let mut reader = csv::Reader::from_reader(CUSTOMERS.as_bytes());
        let addresses: std::collections::HashSet<_> =
            reader.records().map(|row| row.unwrap().get(0).unwrap().to_owned()).collect();
        assert_eq!(addresses.len(), make_customers::CUSTOMERS);
    }

    #[test]
    fn what_the_demo_makes_is_valid() {
        let devices = fleet().unwrap();
        assert!(devices.len() == 3_000 && devices.iter().all(|d| d.problems().is_empty()));
        assert_eq!(campaign().unwrap().problems(), []);
    }

    #[test]
    fn a_port_in_use_is_passed_by() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(free(taken.local_addr().unwrap()).port(), 0);
    }
}

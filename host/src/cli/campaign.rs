//! `carillon campaign run FILE.toml`: one file names audience, devices, template, delay and sender; the embedded engine
//! runs it to its end.

mod file;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::bad_input;
use super::bookmark::Bookmark;
use super::client::Server;
use super::local::{Driver, Local, accepted, interrupted};
use super::message;
use super::progress::{Progress, states};
use crate::campaign::CampaignStatus;
use crate::config::{Config, Role};
use crate::id::{CampaignId, DeviceId};
use crate::resolution::ResolveAs;
use file::CampaignFile;
#[cfg(any(test, fuzzing))]
pub(super) use file::fuzzing;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Exit code of a campaign that ended with messages that were not sent.
const SOME_NOT_SENT: u8 = 3;
/// Rejected rows of an audience that are shown.
const REJECTED_SHOWN: usize = 10;

/// What to do with campaign files.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a campaign to its end: exit code 0 all sent, 3 some were not, 2 the file cannot work.
    Run(Args),
    /// Say what a campaign's unknown outcomes were: all of them, or those of a device or before a time.
    ResolveUnknown(ResolveUnknown),
}

/// Which unknown outcomes, and what they were.
#[derive(Debug, clap::Args)]
pub struct ResolveUnknown {
    /// The campaign.
    id: CampaignId,
    /// Sent; failed: not sent, and they will not be; retry: send them again, with the same idempotency keys.
    #[arg(long = "as", value_enum, value_name = "WHAT")]
    outcome: ResolveAs,
    /// Only those of this device.
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// Only those that became unknown before this time, such as 2026-12-01T09:00:00Z.
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// How that is known, for the messages' history.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    server: Server,
}

/// Settings of a campaign run from a file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The campaign: TOML, see examples/campaigns.
    file: PathBuf,
    /// Folder of the embedded database; a campaign that was interrupted goes on from it.
    #[arg(long, env = "CARILLON_DATA", default_value = "data", value_name = "DIR")]
    data: PathBuf,
    /// Private or loopback destinations that senders may reach.
    #[arg(long, env = "CARILLON_ALLOW_EGRESS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    allow_egress: Vec<String>,
    /// Secrets for senders' headers.
    #[arg(
        long,
        env = "CARILLON_SECRETS",
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "NAME=VALUE@HOST,…"
    )]
    secrets: Vec<String>,
    /// Keys for the secrets in the data folder's database; see `carillon secret key`.
    #[arg(long, env = "CARILLON_SECRETS_KEY", hide_env_values = true, value_name = "KEY,…")]
    secrets_key: Option<String>,
    /// Send once more, even if this very campaign has been run to its end before.
    #[arg(long)]
    again: bool,
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run_file(args).await,
        Command::ResolveUnknown(args) => resolve_unknown(args).await,
    }
}

async fn resolve_unknown(args: ResolveUnknown) -> anyhow::Result<ExitCode> {
    let ResolveUnknown { id, outcome, device, before, note, server } = args;
    let body = serde_json::json!({"as": outcome, "device": device, "before": before, "note": note});
    let answer = message::post(server, &format!("/api/v1/campaigns/{id}/resolve-unknown"), &body).await?;
    let count = |field: &str| answer.get(field).and_then(serde_json::Value::as_u64).unwrap_or_default();
    println!("{} resolved as {}, {} unknown still", count("resolved"), outcome.as_str(), count("left"));
    Ok(ExitCode::SUCCESS)
}

async fn run_file(args: Args) -> anyhow::Result<ExitCode> {
    let campaign = CampaignFile::read(&args.file)?;
    let bookmark = Bookmark::new(&args.data, &campaign.key);
    let config = Config {
        data: args.data.clone(),
        allow_egress: args.allow_egress.clone(),
        secrets: args.secrets.clone(),
        secrets_key: args.secrets_key.clone(),
        roles: vec![Role::Trigger, Role::Processor, Role::Workers, Role::Recovery],
        ..Config::default()
    };
    let local = Local::start(config).await?;
    let driver = local.driver();
    let code = local.run(drive(driver, &args, campaign, &bookmark)).await?;
    Ok(code.unwrap_or_else(interrupted))
}

async fn drive(driver: Driver, args: &Args, campaign: CampaignFile, bookmark: &Bookmark) -> anyhow::Result<ExitCode> {
    let kept = bookmark.read()?.filter(|_| !args.again);
    let known = match kept {
        // The database may have been deleted under the bookmark.
        Some(id) => driver.core().store.campaign(id).await?.map(|_| id),
        None => None,
    };
    let id = match known {
        Some(id) => id,
        None => {
            let id = prepare(&driver, campaign, &args.file).await?;
            bookmark.write(id)?;
            id
        }
    };
    driver.launch_or_resume(id).await.map_err(|error| error.context(args.file.display().to_string()))?;
    watch(&driver, id).await
}

/// Imports what the file names and makes the campaign.
async fn prepare(driver: &Driver, campaign: CampaignFile, file: &Path) -> anyhow::Result<CampaignId> {
    let CampaignFile { csv, devices, spec, .. } = campaign;
    let named = |error: anyhow::Error| error.context(file.display().to_string());
    driver.put_devices(devices).await.map_err(named)?;
    let report = driver.import(&spec.audience, &csv).await.map_err(named)?;
    for rejected in report.rejected.iter().take(REJECTED_SHOWN) {
        eprintln!("{}:{}: {}", csv.display(), rejected.line, rejected.reason);
    }
    let more = report.rejected_count.saturating_sub(REJECTED_SHOWN as u64);
    if more > 0 {
        eprintln!("{}: {more} more rows were rejected", csv.display());
    }
    if report.accepted == 0 {
        return Err(bad_input(format!("{}: no row could be used", csv.display())));
    }
    driver.create(spec).await.map_err(named)
}

/// Shows progress until the campaign has ended, a signal comes, or something breaks.
async fn watch(driver: &Driver, id: CampaignId) -> anyhow::Result<ExitCode> {
    let start = driver.elapsed();
    let mut progress: Option<Progress> = None;
    loop {
        let view = driver.view(id).await?;
        let progress = progress.get_or_insert_with(|| Progress::new(view.recipients));
        progress.show(&view.counts, driver.elapsed().saturating_sub(start));
        if view.status.is_final() {
            break;
        }
        if view.status == CampaignStatus::Paused {
            // Nobody but the next start of this command can resume it.
            let reason = view.paused_reason.unwrap_or_default();
            anyhow::bail!("the campaign is paused: {reason}; run the same command again to resume it");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    let view = driver.view(id).await?;
    if view.status != CampaignStatus::Completed {
        println!("campaign {id} is {}: {}", view.status.as_str(), states(&view.counts));
        return Ok(ExitCode::from(SOME_NOT_SENT));
    }
    let counts = driver.check_ledger(id).await?;
    println!("campaign {id}: {}", states(&counts));
    if accepted(&counts) == counts.total() { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::from(SOME_NOT_SENT)) }
}

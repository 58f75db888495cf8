//! A server inside a command: started on a data folder, driven through the same operations as the API.

use std::collections::HashSet;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncRead;

use super::{from_op, progress};
use crate::app::App;
use crate::campaign::{CampaignSpec, CampaignStatus, SendPlan};
use crate::config::Config;
use crate::core::Core;
use crate::device::DeviceSpec;
use crate::id::{CampaignId, MessageId};
use crate::lifecycle;
use crate::message::{Counts, MessageRow, MessageStatus};
use crate::operations::audiences::{self, Format, ImportReport};
use crate::operations::campaigns::{self, CampaignView};
use crate::operations::plugins::Upload;
use crate::operations::rollouts::{self, Activation};
use crate::operations::{Actor, devices, grants, plugins};
use crate::store::PluginVersion;

/// Devices that one call makes.
const DEVICES_AT_ONCE: usize = 1_000;
/// Messages that one page of the ledger holds.
const PAGE: u32 = 1_000;

/// A server in this process.
pub struct Local {
    app: App,
    driver: Driver,
}

impl Local {
    /// Starts the server of `config`.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        super::check_config(&config)?;
        let app = App::start(config).await?;
        let driver = Driver { core: app.core.clone(), actor: Actor::new("cli") };
        Ok(Self { app, driver })
    }

    /// What drives it.
    pub fn driver(&self) -> Driver {
        self.driver.clone()
    }

    /// Where its API and dashboard are.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.app.addr
    }

    /// The admin token, when this start made it.
    pub fn new_admin_token(&self) -> Option<&str> {
        self.app.new_admin_token()
    }

    /// Runs `work` to its end, then stops the server: sends in flight end and are settled. `None` when a signal came
    /// first. A second signal ends it at once; the next start takes over what was in flight.
    pub async fn run<T>(mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
        let result = tokio::select! {
            result = work => result.map(Some),
            () = lifecycle::signal() => {
                eprintln!("stopping: sends in flight are being finished; the same command goes on from here");
                Ok(None)
            }
            part = self.app.loop_death() => Err(anyhow!("{part} stopped unexpectedly")),
        };
        tokio::select! {
            stopped = self.app.stop(Duration::ZERO) => stopped?,
            () = lifecycle::signal() => bail!("ended at once by a second signal"),
        }
        result
    }
}

/// The exit code of a command that a signal ended.
pub fn interrupted() -> ExitCode {
    ExitCode::from(130)
}

/// Drives a server in this process; cheap to clone.
#[derive(Clone)]
pub struct Driver {
    core: Core,
    actor: Actor,
}

impl Driver {
    /// The server's parts.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Time since an arbitrary start.
    pub fn elapsed(&self) -> Duration {
        self.core.clock.monotonic()
    }

    /// Makes or replaces devices.
    pub async fn put_devices(&self, specs: Vec<DeviceSpec>) -> anyhow::Result<()> {
        for chunk in specs.chunks(DEVICES_AT_ONCE) {
            devices::put_devices(self.core(), &self.actor, chunk.to_vec()).await.map_err(from_op)?;
        }
        Ok(())
    }

    /// Imports a CSV file as an audience.
    pub async fn import(&self, name: &str, csv: &Path) -> anyhow::Result<ImportReport> {
        let file = File::open(csv).await.with_context(|| format!("opening {}", csv.display()))?;
        self.import_from(name, file).await
    }

    /// Imports CSV as an audience.
    pub async fn import_from(
        &self,
        name: &str,
        csv: impl AsyncRead + Send + Unpin + 'static,
    ) -> anyhow::Result<ImportReport> {
        audiences::import(self.core(), &self.actor, name, Format::Csv, csv).await.map_err(from_op)
    }

    /// Uploads a plugin.
    pub async fn upload(&self, bytes: Bytes) -> anyhow::Result<PluginVersion> {
        let how = Upload { activate: Some(false), ..Upload::default() };
        let (version, ..) = plugins::upload(self.core(), &self.actor, bytes, how).await.map_err(from_op)?;
        Ok(version)
    }

    /// Makes a plugin's version the active one.
    pub async fn activate(&self, name: &str, version: &str) -> anyhow::Result<()> {
        rollouts::activate(self.core(), &self.actor, name, version, Activation::default()).await.map_err(from_op)?;
        Ok(())
    }

    /// Every version of a plugin, newest first.
    pub async fn versions(&self, name: &str) -> anyhow::Result<Vec<PluginVersion>> {
        plugins::versions(self.core(), name).await.map_err(from_op)
    }

    /// Makes a campaign, as a draft.
    pub async fn create(&self, spec: CampaignSpec) -> anyhow::Result<CampaignId> {
        Ok(campaigns::create_campaign(self.core(), &self.actor, spec).await.map_err(from_op)?.id)
    }

    /// Launches a draft, lets a paused campaign go on, and leaves one that is under way alone.
    pub async fn launch_or_resume(&self, id: CampaignId) -> anyhow::Result<()> {
        match self.view(id).await?.status {
            CampaignStatus::Draft => {
                let launched = campaigns::launch(self.core(), &self.actor, id).await.map_err(from_op)?;
                let warnings =
                    grants::warnings_for(self.core(), &SendPlan::from(&launched.spec)).await.map_err(from_op)?;
                warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                launched
            }
            CampaignStatus::Paused => campaigns::resume(self.core(), &self.actor, id).await.map_err(from_op)?,
            _ => return Ok(()),
        };
        Ok(())
    }

    /// A campaign with what has become of it so far.
    pub async fn view(&self, id: CampaignId) -> anyhow::Result<CampaignView> {
        campaigns::campaign_view(self.core(), id).await.map_err(from_op)
    }

    /// Hands the messages of a campaign to `each`, in contact order, until it breaks.
    pub async fn each_message(
        &self,
        id: CampaignId,
        mut each: impl FnMut(&MessageRow) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let Some(run) = self.view(id).await?.run else { return Ok(()) };
        let mut cursor: Option<MessageId> = None;
        loop {
            let page = self.core().store.messages(run, None, cursor, PAGE).await?;
            let broke = page.items.iter().any(|row| each(row).is_break());
            cursor = page.next;
            if broke || cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Checks a finished campaign against its messages: one for every contact, each address once, every state counted.
    /// Returns the counts.
    pub async fn check_ledger(&self, id: CampaignId) -> anyhow::Result<Counts> {
        let view = self.view(id).await?;
        let contacts = match self.core().store.audience(&view.spec.audience).await? {
            Some(audience) => u64::from(audience.contacts),
            None => bail!("the audience of the campaign is gone"),
        };
        let mut seen = Counts::default();
        let mut ids = HashSet::new();
        let mut addresses = HashSet::new();
        self.each_message(id, |row| {
            *seen.slot(row.status) += 1;
            ids.insert(row.id);
            addresses.insert(row.address.clone());
            ControlFlow::Continue(())
        })
        .await?;
        if seen != view.counts {
            bail!("the counters say {}, the messages {}", progress::states(&view.counts), progress::states(&seen));
        }
        let distinct = (ids.len() as u64, addresses.len() as u64);
        if seen.total() != contacts || distinct != (contacts, contacts) {
            bail!("{contacts} contacts, but {} messages to {} addresses", seen.total(), distinct.1);
        }
        if seen.open() > 0 {
            bail!("{} messages have no final state", seen.open());
        }
        Ok(seen)
    }
}

/// Messages that a provider took.
pub fn accepted(counts: &Counts) -> u64 {
    [MessageStatus::Sent, MessageStatus::Delivered, MessageStatus::Read].into_iter().map(|s| counts.of(s)).sum()
}

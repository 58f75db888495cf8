//! Loop 4: what got stuck. Dead servers' messages, campaigns past their expiry, messages of closed campaigns, devices
//! that are gone from a pool, and unknown outcomes as far as a policy says (module `unknown`). Everything here is
//! idempotent and conditional on state and lease holder; nothing is ever deleted that is not final (module `retention`).
//! Also run at start.

mod receipts;
mod retention;
mod unknown;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::campaign::{CampaignEvent, CampaignStatus, Run};
use crate::core::{Alarm, Core};
use crate::fleet::Fleet;
use crate::id::DeviceNo;
use crate::message::{MessageStatus, Reason};
use crate::queue::Wake;
use crate::workers::breakers::pause_run;
use crate::workers::{Pool, orphans};

/// Rows looked at or changed in one statement.
const PAGE: u32 = 1000;

/// The recovery of a server.
pub struct Recovery {
    core: Core,
    fleet: Arc<Fleet>,
    pool: Arc<Pool>,
}

impl Recovery {
    /// A recovery that settles what it finds as the pool would.
    pub fn new(core: Core, fleet: Arc<Fleet>, pool: Arc<Pool>) -> Self {
        Self { core, fleet, pool }
    }

    /// Runs until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        // Apart from the rounds, which must not wait for it.
        tokio::join!(
            self.rounds(stop.clone()),
            retention::run(&self.core, stop.clone()),
            receipts::run(&self.core, stop.clone()),
            unknown::run(&self.core, stop)
        );
    }

    async fn rounds(&self, stop: CancellationToken) {
        // Listens to nothing: what makes work for it (a dead server) shows only with time.
        let mut alarm = Alarm::new(&*self.core.queue, &[], stop);
        let interval = Duration::from_millis(self.core.config.recovery_interval_ms);
        let mut servers = 0;
        let mut since_last = interval;
        // A server that dies is noticed between the rounds too: its messages need not wait for the next one.
        let glance = Duration::from_secs(1).min(interval);
        loop {
            let alive = self.fleet.hosts().len();
            if since_last >= interval || alive < servers {
                if let Err(error) = self.round().await {
                    tracing::warn!(error = format!("{error:#}"), "recovery did not finish; it will be repeated");
                }
                since_last = Duration::ZERO;
            }
            servers = alive;
            if !alarm.sleep(glance).await {
                return;
            }
            since_last += glance;
        }
    }

    /// One round over everything that can get stuck.
    ///
    /// # Errors
    /// When the store is away; the next round starts anew.
    pub async fn round(&self) -> anyhow::Result<()> {
        self.abandoned().await?;
        self.expired().await?;
        self.closed().await?;
        self.moved().await?;
        self.fleet.note_final();
        self.core.wake(Wake::Processor).await;
        Ok(())
    }

    /// Messages that are `processing` though nobody is at them.
    async fn abandoned(&self) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let now = self.core.clock.now();
            let page = self.core.store.in_flight(None, after, PAGE, now, self.core.config.alive()).await?;
            for left in &page {
                if orphans::is_abandoned(&self.core, self.pool.leases(), left) {
                    orphans::settle(&self.pool, left).await?;
                }
            }
            after = page.last().map(|l| l.message);
            if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                return Ok(());
            }
        }
    }

    /// Campaigns whose expiry has passed.
    async fn expired(&self) -> anyhow::Result<()> {
        let now = self.core.clock.now();
        for campaign in self.core.store.campaigns_past_expiry(now).await? {
            let moved =
                self.core.store.move_campaign(campaign.id, campaign.status, CampaignEvent::Expire, None, now).await?;
            if moved.is_some() {
                tracing::info!(campaign.id = %campaign.id, "a campaign expired");
                self.core.wake(Wake::Changed).await;
            }
        }
        Ok(())
    }

    /// Pending messages of campaigns that were cancelled or expired.
    async fn closed(&self) -> anyhow::Result<()> {
        close_pending(&self.core).await
    }

    /// Messages that wait on devices which may not send: they move to others of their run's pool. A run none of whose devices
    /// may send is paused.
    async fn moved(&self) -> anyhow::Result<()> {
        for run in self.core.store.open_runs().await?.into_iter().filter(|r| r.active) {
            let pool = self.core.store.run_devices(run.key).await?;
            let known = self.fleet.devices(&pool).await?;
            let (up, down): (Vec<DeviceNo>, Vec<DeviceNo>) =
                pool.iter().copied().partition(|no| known.get(no).is_some_and(|d| d.is_available()));
            if down.is_empty() {
                continue;
            }
            if up.is_empty() {
                self.no_device(&run).await?;
                continue;
            }
            for from in down {
                while self.core.store.reassign(from, run.key, &up, PAGE).await? >= u64::from(PAGE) {}
            }
        }
        Ok(())
    }

    async fn no_device(&self, run: &Run) -> anyhow::Result<()> {
        let counts: HashMap<_, _> = self.core.store.counts(&[run.key]).await?.into_iter().collect();
        if counts.get(&run.key).is_none_or(|c| c.open() == 0) {
            return Ok(());
        }
        let reason = Reason::new("no-device", "every device of the pool is disabled or on hold");
        if pause_run(&self.core, run, &format!("{}: {}", reason.code, reason.detail)).await? {
            tracing::warn!(run.key = %run.key, "a campaign without devices was paused");
            self.core.wake(Wake::Changed).await;
        }
        Ok(())
    }
}

/// Gives the pending messages of cancelled and expired campaigns their final state.
///
/// # Errors
/// When the store is away.
pub async fn close_pending(core: &Core) -> anyhow::Result<()> {
    for (run, status) in core.store.runs_to_close().await? {
        let to = match status {
            CampaignStatus::Expired => MessageStatus::Expired,
            _ => MessageStatus::Cancelled,
        };
        while core.store.close_pending(run, to, PAGE, core.clock.now()).await? >= u64::from(PAGE) {}
    }
    Ok(())
}

//! Loop 1: campaigns and sequence steps that are due become pending messages, page by page, each page one transaction
//! with its cursor: killed at any point and started again, it neither skips nor doubles a recipient.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::campaign::Run;
use crate::clock::Time;
use crate::core::{Alarm, Core};
use crate::fleet::Fleet;
use crate::metrics::SuppressedAt;
use crate::operations;
use crate::queue::Wake;

/// Campaigns started in one go.
const CAMPAIGNS: u32 = 100;
/// Enrolments that get their next message in one transaction.
const STEPS: u32 = 1000;

/// The trigger of a server.
pub struct Trigger {
    core: Core,
    fleet: Arc<Fleet>,
}

impl Trigger {
    /// A trigger.
    pub fn new(core: Core, fleet: Arc<Fleet>) -> Self {
        Self { core, fleet }
    }

    /// Runs until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut alarm = Alarm::new(&*self.core.queue, &[Wake::Trigger], stop.clone());
        let interval = Duration::from_millis(self.core.config.trigger_interval_ms);
        loop {
            let wait = match self.look(&stop).await {
                Ok(next_due) => next_due.map_or(interval, |d| d.clamp(Duration::from_millis(20), interval)),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "due campaigns were not started; trying again");
                    Duration::from_millis(500).min(interval)
                }
            };
            if !alarm.sleep(wait).await {
                return;
            }
        }
    }

    /// Starts what is due and expands what is started. Returns when the next thing is due.
    ///
    /// # Errors
    /// When the store is away; nothing is lost, the next look goes on.
    pub async fn look(&self, stop: &CancellationToken) -> anyhow::Result<Option<Duration>> {
        let now = self.core.clock.now();
        let (due, next_campaign) = self.core.store.due_campaigns(now, CAMPAIGNS).await?;
        for campaign in due {
            if let Err(error) = operations::campaigns::start(&self.core, &campaign).await {
                tracing::warn!(error = %error, campaign.id = %campaign.id, "a due campaign was not started");
            }
        }
        self.expand_all(stop).await?;
        let next_step = self.steps(stop).await?;
        let next: Option<Time> = [next_campaign, next_step].into_iter().flatten().min();
        Ok(next.map(|at| at - self.core.clock.now()))
    }

    /// Expands every run that is not expanded yet, a page of each in turn, so that a large campaign does not keep a small
    /// one waiting.
    async fn expand_all(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut open: Vec<Run> =
            self.core.store.open_runs().await?.into_iter().filter(|r| r.active && !r.expanded).collect();
        if !open.is_empty() {
            // Workers may send what the first page brings.
            self.core.wake(Wake::Changed).await;
        }
        while !open.is_empty() && !stop.is_cancelled() {
            let mut rest = Vec::with_capacity(open.len());
            for mut run in open {
                if self.expand(&mut run).await? {
                    rest.push(run);
                }
            }
            open = rest;
            self.core.wake(Wake::Processor).await;
        }
        Ok(())
    }

    /// Expands a page; `false` when the run needs no more of it from here.
    async fn expand(&self, run: &mut Run) -> anyhow::Result<bool> {
        let page = self.core.config.expand_page;
        let expanded = self.core.store.expand_page(run.key, run.cursor, page, self.core.clock.now()).await?;
        if let Some(page) = &expanded {
            self.core.metrics.suppressed(SuppressedAt::Expansion, page.suppressed);
        }
        match expanded {
            Some(done) if done.done => {
                tracing::info!(run.key = %run.key, "every recipient has a message");
                self.fleet.note_final();
                self.core.wake(Wake::Changed).await;
                Ok(false)
            }
            Some(page) => {
                run.cursor = page.cursor;
                Ok(true)
            }
            // Another server is at it, or it was paused: go on from where it stands now, if it goes on.
            None => match self.core.store.run(run.key).await? {
                Some(now) if now.active && !now.expanded => {
                    *run = now;
                    Ok(true)
                }
                _ => Ok(false),
            },
        }
    }

    /// Makes the messages of due sequence steps; returns when the next one is due.
    async fn steps(&self, stop: &CancellationToken) -> anyhow::Result<Option<Time>> {
        loop {
            let now = self.core.clock.now();
            let (devices, next) = self.core.store.step_due(now, STEPS).await?;
            if !devices.is_empty() {
                self.core.wake(Wake::Processor).await;
            }
            if next.is_none_or(|at| at > now) || stop.is_cancelled() {
                return Ok(next);
            }
        }
    }
}

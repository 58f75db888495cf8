//! Breakers: a campaign whose content is refused again and again, or whose plugin keeps failing, is paused with the
//! reason before it burns its audience.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::campaign::{CampaignEvent, CampaignStatus, Run, RunOwner};
use crate::core::Core;
use crate::fleet::LiveRun;
use crate::id::RunKey;
use crate::message::{Reason, Settled};
use crate::plugins::PluginFault;
use crate::queue::Wake;
use crate::sequence::SequenceStatus;
use crate::store::StoreError;
use crate::workers::verdict::{Consequence, Verdict};

/// Refused contents in a row that pause a campaign.
const CONTENT_REJECTIONS: u32 = 20;
/// Plugin faults in a row that pause a campaign.
const PLUGIN_FAULTS: u32 = 50;

#[derive(Default)]
struct Row {
    rejections: u32,
    faults: u32,
    delay_faults: u32,
    tripped: bool,
}

/// The breakers of the runs that this server works on.
pub struct Breakers {
    core: Core,
    rows: Mutex<HashMap<RunKey, Row>>,
}

impl Breakers {
    /// All closed.
    pub fn new(core: Core) -> Self {
        Self { core, rows: Mutex::default() }
    }

    /// Counts an attempt.
    pub fn note(&self, run: &LiveRun, verdict: &Verdict) {
        let reason = {
            let mut rows = self.rows.lock();
            let row = match rows.get_mut(&run.run.key) {
                Some(row) => row,
                // Nothing to count for the many campaigns in which nothing goes wrong.
                None if verdict.consequence.is_none() => return,
                None => rows.entry(run.run.key).or_default(),
            };
            match &verdict.consequence {
                Some(Consequence::PauseCampaign(reason)) => Some(reason.clone()),
                Some(Consequence::ContentRejected(reason)) => {
                    row.rejections += 1;
                    (row.rejections >= CONTENT_REJECTIONS).then(|| {
                        Reason::new("content-rejected", format!("{} in a row: {}", row.rejections, reason.detail))
                    })
                }
                Some(Consequence::PluginFault(reason)) => {
                    row.faults += 1;
                    (row.faults >= PLUGIN_FAULTS)
                        .then(|| Reason::new("plugin-fault", format!("{} in a row: {}", row.faults, reason.detail)))
                }
                _ => {
                    if matches!(verdict.settled, Settled::Sent { .. }) {
                        (row.rejections, row.faults) = (0, 0);
                    }
                    None
                }
            }
        };
        if let Some(reason) = reason {
            self.pause(&run.run, reason);
        }
    }

    /// Counts a failure of the delay strategy; one that cannot work with its configuration pauses at once.
    pub fn delay_fault(&self, run: &LiveRun, fault: &PluginFault) {
        let count = {
            let mut rows = self.rows.lock();
            let row = rows.entry(run.run.key).or_default();
            row.delay_faults += 1;
            row.delay_faults
        };
        if matches!(fault, PluginFault::InvalidConfig(_)) || count >= PLUGIN_FAULTS {
            self.pause(&run.run, Reason::new(fault.code(), format!("the delay strategy: {fault}")));
        }
    }

    /// Pauses a run's campaign or sequence, once, in the background.
    pub fn pause(&self, run: &Run, reason: Reason) {
        {
            let mut rows = self.rows.lock();
            let row = rows.entry(run.key).or_default();
            if std::mem::replace(&mut row.tripped, true) {
                return;
            }
        }
        let (core, run) = (self.core.clone(), run.clone());
        tokio::spawn(async move {
            let text = format!("{}: {}", reason.code, reason.detail);
            match pause_run(&core, &run, &text).await {
                Ok(true) => tracing::warn!(run.key = %run.key, reason.code, "a campaign was paused"),
                Ok(false) => {}
                Err(error) => tracing::warn!(error = %error, run.key = %run.key, "a campaign could not be paused"),
            }
            core.wake(Wake::Changed).await;
        });
    }

    /// Closes the breakers of runs that are not being sent (any more): one that is resumed starts anew.
    pub fn reset_where(&self, not_sending: impl Fn(RunKey) -> bool) {
        self.rows.lock().retain(|run, _| !not_sending(*run));
    }
}

/// Pauses a run's campaign or sequence with a reason; `false` when it was not being sent.
///
/// # Errors
/// When the store is away.
pub async fn pause_run(core: &Core, run: &Run, reason: &str) -> Result<bool, StoreError> {
    let now = core.clock.now();
    match run.owner {
        RunOwner::Campaign(id) => {
            for from in [CampaignStatus::Running, CampaignStatus::Expanding] {
                if core.store.move_campaign(id, from, CampaignEvent::Pause, Some(reason), now).await?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        RunOwner::Step { sequence, .. } => {
            let Some(of) = core.store.sequence_by_no(sequence).await? else { return Ok(false) };
            let (from, to) = (SequenceStatus::Running, SequenceStatus::Paused);
            Ok(core.store.move_sequence(of.id, from, to, Some(reason), &[], now).await?.is_some())
        }
    }
}

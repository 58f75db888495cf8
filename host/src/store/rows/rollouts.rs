//! Rollouts.

use super::{broken, from_json, time};
use crate::clock::Time;
use crate::id::{MessageId, RolloutNo, VersionNo};
use crate::rollout::{Counts, Finding, Rollout, RolloutStatus, StableRow};
use crate::store::Result;

from_row! {
    /// A row of `rollouts`, with the names of its versions.
    #[derive(Debug)]
    #[allow(missing_docs)] // The columns, here and below.
    pub struct RolloutSql {
        pub no: i32,
        pub name: String,
        pub candidate_no: i32,
        pub candidate: String,
        pub stable_no: i32,
        pub stable: String,
        pub spec: String,
        pub status: String,
        pub started_at: i64,
        pub started_by: String,
        pub ended_at: Option<i64>,
        pub ended_by: Option<String>,
        pub reason: Option<String>,
    }
}

impl RolloutSql {
    /// The rollout.
    pub fn read(self) -> Result<Rollout> {
        Ok(Rollout {
            no: RolloutNo(self.no),
            name: self.name,
            candidate: (VersionNo(self.candidate_no), self.candidate),
            stable: (VersionNo(self.stable_no), self.stable),
            spec: from_json("a rollout", &self.spec)?,
            status: RolloutStatus::parse(&self.status).ok_or_else(|| broken("a rollout's status"))?,
            started: (Time::from_ms(self.started_at), self.started_by),
            ended: time(self.ended_at).map(|at| (at, self.ended_by.unwrap_or_default())),
            reason: self.reason,
        })
    }
}

from_row! {
    /// A row of `plugin_history`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct StableSql {
        pub version: String,
        pub at: i64,
        pub actor: String,
        pub reason: String,
    }
}

impl From<StableSql> for StableRow {
    fn from(row: StableSql) -> Self {
        Self { version: row.version, at: Time::from_ms(row.at), actor: row.actor, reason: row.reason }
    }
}

from_row! {
    /// A row of `rollout_findings`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct FindingSql {
        pub at: i64,
        pub message_id: i64,
        pub device: String,
        pub field: String,
        pub detail: String,
    }
}

impl From<FindingSql> for Finding {
    fn from(row: FindingSql) -> Self {
        let FindingSql { at, message_id, device, field, detail } = row;
        Self { at: Time::from_ms(at), message: MessageId(message_id), device, field, detail }
    }
}

/// What all servers saw of each of these rollouts together.
pub fn rollout_sums(nos: &[RolloutNo], found: Vec<(i32, String)>) -> Result<Vec<(RolloutNo, Counts)>> {
    let mut sums: Vec<_> = nos.iter().map(|no| (*no, Counts::default())).collect();
    for (of, counts) in found {
        if let Some((_, sum)) = sums.iter_mut().find(|(no, _)| no.0 == of) {
            sum.add(&from_json("a rollout's counts", &counts)?);
        }
    }
    Ok(sums)
}

/// Why no other rollout can begin.
pub fn still_running(running: &Rollout) -> String {
    format!(
        "rollout {} ({} of {} {}) is running: promote or abort it first",
        running.no,
        running.spec.mode.as_str(),
        running.name,
        running.candidate.1
    )
}

//! Rollouts: a plugin version that is tried beside the stable one of its name. What they are, which devices take part, and what
//! is counted of them; `judge` says when one has gone wrong, `compare` what a shadow differs in. No I/O.

mod compare;
mod counts;
mod judge;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::compare::{Differences, Secrecy};
pub use self::counts::{Counts, LATENCIES, ShadowCounts, SideCounts};
pub use self::judge::judge;

use crate::campaign::BadField;
use crate::clock::Time;
use crate::id::{DeviceNo, Digest, MessageId, RolloutNo, VersionNo};

/// How a version is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A share of the devices uses it.
    Canary,
    /// It is called beside the stable version on a sample of the calls; its answers are compared and thrown away.
    Shadow,
    /// It was activated: every device uses it, and the version before stands by.
    Watch,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Canary, Self::Shadow, Self::Watch];

    /// The word on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Shadow => "shadow",
            Self::Watch => "watch",
        }
    }

    /// The mode with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == word)
    }
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStatus {
    /// It goes on.
    Running,
    /// Its version became the stable one.
    Promoted,
    /// An operator ended it; the stable version is what it was.
    Aborted,
    /// Its version went wrong: it is in quarantine, and the stable version is in use everywhere.
    RolledBack,
    /// Its time is over and nothing went wrong.
    Passed,
    /// Another version was activated meanwhile.
    Superseded,
}

impl RolloutStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Promoted, Self::Aborted, Self::RolledBack, Self::Passed, Self::Superseded];

    /// The word on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
            Self::RolledBack => "rolled_back",
            Self::Passed => "passed",
            Self::Superseded => "superseded",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// A share from a time on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareStep {
    /// Milliseconds after the start.
    pub after_ms: u64,
    /// More than 0, at most 1, and more than before.
    pub share: f64,
}

/// From when on a candidate counts as gone wrong.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// So many faults (crash, time limit, memory limit, invalid answer, failure of its own) at least; below, chance may be at work.
    pub min_faults: u64,
    /// And more than this share of its calls, from 0 to 1.
    pub fault_rate: f64,
    /// So many sends (or calls, for latency) of each side before the two are compared.
    pub min_sample: u64,
    /// How sure a difference of failure rates must be: the statistic of the test for two proportions. Looked at again and again,
    /// so higher than the 3 of a single look.
    pub failure_z: f64,
    /// And how large it must be at least, as a difference of shares.
    pub failure_rise: f64,
    /// How many times as slow as the stable version calls may be, by the mean and by the 95th percentile.
    pub slower: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { min_faults: 3, fault_rate: 0.01, min_sample: 100, failure_z: 4.0, failure_rise: 0.02, slower: 4.0 }
    }
}

/// How a version is rolled out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// How it is tried.
    pub mode: Mode,
    /// Canary: the share of devices that use it. Shadow: the share of calls that are made twice. More than 0, at most 1.
    pub share: f64,
    /// Larger shares to come.
    #[serde(default)]
    pub steps: Vec<ShareStep>,
    /// After so many milliseconds a canary is promoted, if it has had its sample, and anything else ends.
    #[serde(default)]
    pub for_ms: Option<u64>,
    /// When it has gone wrong.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// Shadow: delays that differ by at most so many milliseconds are the same.
    #[serde(default)]
    pub tolerance_ms: f64,
    /// Shadow: whether differences quote what differs. It may be addresses and texts.
    #[serde(default)]
    pub excerpts: bool,
}

/// The longest rollout, in milliseconds: four weeks.
pub const LONGEST_MS: u64 = 28 * 24 * 3600 * 1000;
/// Steps that a rollout has at most.
const MAX_STEPS: usize = 20;

impl RolloutSpec {
    /// The watch over an activation: so many milliseconds.
    pub fn watch(for_ms: u64) -> Self {
        Self {
            mode: Mode::Watch,
            share: 1.0,
            steps: Vec::new(),
            for_ms: Some(for_ms),
            thresholds: Thresholds::default(),
            tolerance_ms: 0.0,
            excerpts: false,
        }
    }

    /// Everything that cannot work.
    pub fn problems(&self) -> Vec<BadField> {
        let mut out = Vec::new();
        let share = |share: f64| share > 0.0 && share <= 1.0;
        if !share(self.share) {
            out.push(BadField::new("share", "more than 0 and at most 1"));
        }
        if self.steps.len() > MAX_STEPS {
            out.push(BadField::new("steps", format!("at most {MAX_STEPS}")));
        }
        if !self.steps.is_empty() && self.mode != Mode::Canary {
            out.push(BadField::new("steps", "only a canary has steps"));
        }
        let (mut last_share, mut last_after) = (self.share, 0);
        for (n, step) in self.steps.iter().enumerate() {
            if !share(step.share) || step.share <= last_share {
                out.push(BadField::new(format!("steps[{n}].share"), "more than the share before, and at most 1"));
            }
            if step.after_ms <= last_after || step.after_ms > LONGEST_MS {
                out.push(BadField::new(
                    format!("steps[{n}].after_ms"),
                    format!("more than the one before, and at most {LONGEST_MS}"),
                ));
            }
            (last_share, last_after) = (step.share, step.after_ms);
        }
        if self.for_ms.is_some_and(|ms| ms == 0 || ms > LONGEST_MS) {
            out.push(BadField::new("for_ms", format!("1 to {LONGEST_MS}")));
        }
        if !(self.tolerance_ms.is_finite() && self.tolerance_ms >= 0.0) {
            out.push(BadField::new("tolerance_ms", "0 or more"));
        }
        let Thresholds { min_faults, fault_rate, min_sample, failure_z, failure_rise, slower } = self.thresholds;
        for (field, good, rule) in [
            ("min_faults", min_faults > 0, "1 or more"),
            ("fault_rate", (0.0..=1.0).contains(&fault_rate), "from 0 to 1"),
            ("min_sample", min_sample > 0, "1 or more"),
            ("failure_z", failure_z.is_finite() && failure_z >= 1.0, "1 or more"),
            ("failure_rise", (0.0..=1.0).contains(&failure_rise), "from 0 to 1"),
            ("slower", slower.is_finite() && slower >= 1.0, "1 or more"),
        ] {
            if !good {
                out.push(BadField::new(format!("thresholds.{field}"), rule));
            }
        }
        out
    }

    /// The share in force so long after the start.
    fn share_after(&self, ms: u64) -> f64 {
        self.steps.iter().rev().find(|step| step.after_ms <= ms).map_or(self.share, |step| step.share)
    }
}

/// A rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Its number.
    pub no: RolloutNo,
    /// The plugin's name.
    pub name: String,
    /// The version that is tried, with its name for people.
    pub candidate: (VersionNo, String),
    /// The version that it is tried against.
    pub stable: (VersionNo, String),
    /// How.
    pub spec: RolloutSpec,
    /// Where it stands.
    pub status: RolloutStatus,
    /// When it began, and who began it.
    pub started: (Time, String),
    /// When it ended, and who ended it.
    pub ended: Option<(Time, String)>,
    /// Why it ended.
    pub reason: Option<String>,
}

impl Rollout {
    /// How long it has been going on, in milliseconds.
    fn age_ms(&self, now: Time) -> u64 {
        u64::try_from((now - self.started.0).as_millis()).unwrap_or(u64::MAX)
    }

    /// The share in force now.
    pub fn share(&self, now: Time) -> f64 {
        self.spec.share_after(self.age_ms(now))
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: Time) -> bool {
        self.spec.for_ms.is_some_and(|ms| self.age_ms(now) >= ms)
    }
}

/// How a rollout ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Its version becomes the stable one, and is watched as this says.
    Promoted(Option<RolloutSpec>),
    /// It ends; nothing else changes.
    Aborted,
    /// It ends, nothing else changes: its time was over.
    Passed,
    /// Its version goes into quarantine; a watched one is not the stable one any more.
    RolledBack,
}

impl Ending {
    /// The status that it leads to.
    pub const fn status(&self) -> RolloutStatus {
        match self {
            Self::Promoted(_) => RolloutStatus::Promoted,
            Self::Aborted => RolloutStatus::Aborted,
            Self::Passed => RolloutStatus::Passed,
            Self::RolledBack => RolloutStatus::RolledBack,
        }
    }
}

/// Why a version must not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quarantine {
    /// Since when.
    pub at: Time,
    /// Why.
    pub reason: String,
}

/// A change of the stable version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StableRow {
    /// The version that became stable.
    pub version: String,
    /// When.
    pub at: Time,
    /// By whom: a token's name, `system` for the engine.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Something seen of a candidate at one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When.
    pub at: Time,
    /// At which message.
    pub message: MessageId,
    /// On which device.
    pub device: String,
    /// `fault`, or what differs, such as `text`.
    pub field: String,
    /// What it was; masked, unless the rollout asks for excerpts.
    pub detail: String,
}

/// Findings that are kept of a rollout: the newest.
pub const KEPT_FINDINGS: u32 = 200;

/// The bound below which numbers of [`place`] are within a share.
pub fn bound(share: f64) -> u32 {
    // Saturates; a share of 1 is above every place.
    (share.clamp(0.0, 1.0) * f64::from(1u32 << 31)) as u32
}

/// What a candidate's places start from: another one for each candidate, so that it is not always the same devices that take
/// the risk.
pub fn salt(candidate: &Digest) -> u64 {
    candidate.0.iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte))
}

/// A device's place among all, from 0 to 2³¹ − 1: the same on every server (the finaliser of SplitMix64).
pub fn place(device: DeviceNo, salt: u64) -> u32 {
    let mut x = salt ^ u64::from(device.0.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((x ^ (x >> 31)) >> 33).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_devices_is_that_share_and_grows_by_adding() {
        let salt = salt(&Digest::of(b"candidate"));
        let within =
            |share: f64| -> Vec<i32> { (1..=100_000).filter(|no| place(DeviceNo(*no), salt) < bound(share)).collect() };
        let (tenth, half) = (within(0.1), within(0.5));
        assert!((9_700..=10_300).contains(&tenth.len()), "{}", tenth.len());
        assert!((49_400..=50_600).contains(&half.len()), "{}", half.len());
        assert!(tenth.iter().all(|no| half.binary_search(no).is_ok()), "a larger share drops no device");
        assert_eq!(within(1.0).len(), 100_000);
        assert!(within(0.0).is_empty());
        let other = super::salt(&Digest::of(b"another"));
        let also = tenth.iter().filter(|no| place(DeviceNo(**no), other) < bound(0.1)).count();
        assert!((850..=1_150).contains(&also), "another candidate has other devices: {also}");
    }

    #[test]
    fn shares_grow_by_the_clock() {
        let mut spec = RolloutSpec { mode: Mode::Canary, share: 0.01, ..RolloutSpec::watch(1) };
        spec.steps = vec![ShareStep { after_ms: 1_000, share: 0.1 }, ShareStep { after_ms: 2_000, share: 1.0 }];
        assert_eq!(spec.problems(), []);
        let shares = [0, 999, 1_000, 1_999, 2_000, 9_000].map(|ms| spec.share_after(ms));
        assert_eq!(shares, [0.01, 0.01, 0.1, 0.1, 1.0, 1.0]);
    }

    #[test]
    fn what_cannot_work_is_named() {
        let mut spec = RolloutSpec { mode: Mode::Shadow, share: 0.0, ..RolloutSpec::watch(0) };
        spec.steps = vec![ShareStep { after_ms: 0, share: 2.0 }];
        spec.thresholds.fault_rate = f64::NAN;
        spec.tolerance_ms = -1.0;
        let fields: Vec<_> = spec.problems().into_iter().map(|p| p.field).collect();
        let expected = [
            "share",
            "steps",
            "steps[0].share",
            "steps[0].after_ms",
            "for_ms",
            "tolerance_ms",
            "thresholds.fault_rate",
        ];
        assert_eq!(fields, expected);
    }
}

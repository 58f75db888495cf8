//! A running rollout as a server works with it: which version a device uses, and what this server has seen of both. Reading
//! it costs a message neither a lock nor an allocation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Time;
use crate::device::{Device, LastOutcome};
use crate::id::{DeviceNo, MessageId};
use crate::message::Reason;
use crate::plugins::{Plugin, PluginFault};
use crate::rollout::{
    Counts, Differences, Finding, LATENCIES, Mode, Rollout, Secrecy, ShadowCounts, SideCounts, bound, judge, place,
    salt,
};

/// Which version of a plugin is used for a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Side {
    /// The stable one.
    #[default]
    Stable,
    /// The one that is tried.
    Candidate,
    /// The stable one, after the other has failed: what comes of it is counted for neither.
    Fallback,
}

impl Side {
    /// What a message goes on with after the candidate has failed and the stable version was asked in its place (which this side
    /// says). Where that one refuses what the other was made for, it is no more than the candidate's fault, which passes.
    pub fn after<T>(&mut self, fault: &PluginFault, again: Result<T, PluginFault>) -> Result<T, PluginFault> {
        match again {
            Err(refusal @ (PluginFault::InvalidConfig(_) | PluginFault::InvalidInput(_)))
                if refusal.code() != fault.code() =>
            {
                *self = Self::Candidate;
                let why = format!("the version that is tried failed ({}), the stable one refuses it", fault.code());
                Err(PluginFault::Internal(why))
            }
            again => again,
        }
    }
}

/// Which versions of its plugins a message uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // One for each kind of plugin.
pub struct Sides {
    pub template: Side,
    pub delay: Side,
    pub sender: Side,
}

/// A running rollout.
pub struct Trial {
    /// The rollout.
    pub rollout: Rollout,
    /// The version that is tried.
    pub candidate: Arc<Plugin>,
    /// The version that it is tried against, which stands by.
    pub stable: Arc<Plugin>,
    salt: u64,
    seen: Arc<Seen>,
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trial({} {:?} against {:?})", self.rollout.no, self.candidate, self.stable)
    }
}

/// Findings that wait to be written: more are left out.
const MAX_WAITING: usize = 100;

/// What this server has seen; outlives a reload of the plugins.
struct Seen {
    bound: AtomicU32,
    candidate: Tally,
    stable: Tally,
    shadow: [AtomicU64; 4],
    findings: Mutex<Vec<Finding>>,
    written: Mutex<Counts>,
    /// Somebody is about to look whether it has gone wrong.
    alarmed: AtomicBool,
    key: [u8; 16],
}

#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    faults: [AtomicU64; 5],
    outcomes: [AtomicU64; 3],
    total_us: AtomicU64,
    latencies: [AtomicU64; LATENCIES],
}

fn one(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tally {
    fn call(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        one(Some(&self.calls));
        self.total_us.fetch_add(us, Ordering::Relaxed);
        let place = usize::try_from(u64::BITS - us.leading_zeros()).unwrap_or(0);
        one(self.latencies.get(place.min(LATENCIES - 1)));
    }

    fn fault(&self, fault: &PluginFault) {
        let place = match fault {
            PluginFault::Trap(_) => 0,
            PluginFault::Deadline => 1,
            PluginFault::Memory => 2,
            PluginFault::Output(_) => 3,
            PluginFault::InvalidConfig(_) | PluginFault::InvalidInput(_) | PluginFault::Internal(_) => 4,
        };
        one(self.faults.get(place));
    }

    fn outcome(&self, outcome: LastOutcome) {
        let place = match outcome {
            LastOutcome::Sent => 0,
            LastOutcome::Retried | LastOutcome::Failed => 1,
            LastOutcome::Throttled => 2,
            LastOutcome::None => return,
        };
        one(self.outcomes.get(place));
    }

    fn read(&self) -> SideCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [traps, deadlines, memory, invalid_output, errors] = &self.faults;
        let [sent, failed, throttled] = &self.outcomes;
        SideCounts {
            calls: read(&self.calls),
            traps: read(traps),
            deadlines: read(deadlines),
            memory: read(memory),
            invalid_output: read(invalid_output),
            errors: read(errors),
            sent: read(sent),
            failed: read(failed),
            throttled: read(throttled),
            total_us: read(&self.total_us),
            latencies: self.latencies.iter().map(read).collect(),
        }
    }
}

impl Trial {
    /// A rollout between two loaded versions; `before` is the trial of the same rollout before a reload.
    pub fn new(
        rollout: Rollout,
        candidate: Arc<Plugin>,
        stable: Arc<Plugin>,
        before: Option<&Self>,
        now: Time,
    ) -> Self {
        let seen = before.filter(|t| t.rollout.no == rollout.no).map_or_else(
            || {
                Arc::new(Seen {
                    bound: AtomicU32::new(bound(rollout.share(now))),
                    candidate: Tally::default(),
                    stable: Tally::default(),
                    shadow: Default::default(),
                    findings: Mutex::default(),
                    written: Mutex::default(),
                    alarmed: AtomicBool::new(false),
                    key: rand::random(),
                })
            },
            |t| Arc::clone(&t.seen),
        );
        Self { salt: salt(&candidate.digest), rollout, candidate, stable, seen }
    }

    /// The version of a side.
    pub fn at(&self, side: Side) -> &Arc<Plugin> {
        match side {
            Side::Candidate => &self.candidate,
            Side::Stable | Side::Fallback => &self.stable,
        }
    }

    /// The side that a device is on.
    pub fn side(&self, device: DeviceNo) -> Side {
        let tried = self.rollout.spec.mode != Mode::Shadow
            && place(device, self.salt) < self.seen.bound.load(Ordering::Relaxed);
        if tried { Side::Candidate } else { Side::Stable }
    }

    /// Whether this call of the stable version is also made to the candidate.
    pub fn is_sampled(&self) -> bool {
        self.rollout.spec.mode == Mode::Shadow && (rand::random::<u32>() >> 1) < self.seen.bound.load(Ordering::Relaxed)
    }

    /// Lets the share grow with time.
    pub fn follow(&self, now: Time) {
        self.seen.bound.store(bound(self.rollout.share(now)), Ordering::Relaxed);
    }

    /// It has ended: no device is on the candidate's side any more, even before this server's runs are resolved anew.
    pub fn stop(&self) {
        self.seen.bound.store(0, Ordering::Relaxed);
    }

    /// Counts a call. A candidate's fault is counted by [`Trial::failed`], with what came of it.
    pub fn called(&self, side: Side, took: Duration, fault: Option<&PluginFault>) {
        match side {
            Side::Stable => {
                self.seen.stable.call(took);
                // What is wrong with one message's data says nothing of the version.
                if let Some(fault) = fault.filter(|f| !matches!(f, PluginFault::InvalidInput(_))) {
                    self.seen.stable.fault(fault);
                }
            }
            Side::Candidate => self.seen.candidate.call(took),
            Side::Fallback => {}
        }
    }

    /// Counts a fault of the candidate; `again` is what the stable version came to in its place: where that fails in the same way,
    /// the candidate is not to blame. `false` then.
    pub fn failed(&self, fault: &PluginFault, again: Option<&PluginFault>) -> bool {
        let to_blame = again.is_none_or(|again| again.code() != fault.code());
        if to_blame {
            self.seen.candidate.fault(fault);
        }
        to_blame
    }

    /// Counts what an attempt came to.
    pub fn ended(&self, side: Side, outcome: LastOutcome) {
        match side {
            Side::Stable => self.seen.stable.outcome(outcome),
            Side::Candidate => self.seen.candidate.outcome(outcome),
            Side::Fallback => {}
        }
    }

    /// Notes a fault of the candidate at a message.
    pub fn note_fault(&self, at: Time, message: MessageId, device: &Device, fault: &PluginFault) {
        // Texts that a plugin gives may quote a message; a trap's names functions.
        let detail = match fault {
            PluginFault::Trap(trap) => format!("{}: {trap}", fault.code()),
            _ => fault.code().to_owned(),
        };
        self.note(Finding { at, message, device: device.spec.id.to_string(), field: "fault".to_owned(), detail });
    }

    /// Notes what the candidate's answer in a shadow call differs in; `failed`: it gave none.
    pub fn compared(&self, at: Time, message: MessageId, device: &str, differences: Differences, failed: bool) {
        let found = differences.found();
        let place = match (failed, found.is_empty()) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 1,
        };
        one(self.seen.shadow.get(place));
        for (field, detail) in found {
            self.note(Finding { at, message, device: device.to_owned(), field, detail });
        }
    }

    /// A shadow call was not made: too many wait.
    pub fn dropped(&self) {
        one(self.seen.shadow.get(3));
    }

    /// How differences are told.
    pub fn secrecy(&self) -> Secrecy {
        if self.rollout.spec.excerpts { Secrecy::Excerpts(self.seen.key) } else { Secrecy::Masked(self.seen.key) }
    }

    fn note(&self, finding: Finding) {
        let mut findings = self.seen.findings.lock();
        if findings.len() < MAX_WAITING {
            findings.push(finding);
        }
    }

    /// What this server has seen.
    pub fn counts(&self) -> Counts {
        let [same, different, failed, dropped] = &self.seen.shadow;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            candidate: self.seen.candidate.read(),
            stable: self.seen.stable.read(),
            shadow: ShadowCounts {
                same: read(same),
                different: read(different),
                failed: read(failed),
                dropped: read(dropped),
            },
        }
    }

    /// What this server has seen, if that is more than what was written last.
    pub fn unwritten(&self) -> Option<Counts> {
        let counts = self.counts();
        (*self.seen.written.lock() != counts).then_some(counts)
    }

    /// These counts are written.
    pub fn wrote(&self, counts: Counts) {
        *self.seen.written.lock() = counts;
    }

    /// The findings that wait to be written.
    pub fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.seen.findings.lock())
    }

    /// Whether what this server alone has seen is enough to look at once; `true` for one caller until [`Trial::looked`].
    pub fn alarms(&self) -> bool {
        let spec = &self.rollout.spec;
        let gone_wrong = |counts: &Counts| -> Option<Reason> { judge(spec.mode, counts, &spec.thresholds) };
        gone_wrong(&self.counts()).is_some() && !self.seen.alarmed.swap(true, Ordering::Relaxed)
    }

    /// Somebody has looked.
    pub fn looked(&self) {
        self.seen.alarmed.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_by_the_stable_version_does_not_stand_for_the_candidates_crash() {
        let (trap, config) = (PluginFault::Trap("x".into()), PluginFault::InvalidConfig("no such field".into()));
        let after = |fault: &PluginFault, again: Result<(), PluginFault>| {
            let mut side = Side::Fallback;
            let answer = side.after(fault, again);
            (side, answer.map_err(|fault| fault.code()))
        };
        assert_eq!(after(&trap, Ok(())), (Side::Fallback, Ok(())));
        assert_eq!(after(&trap, Err(PluginFault::Deadline)), (Side::Fallback, Err("plugin-deadline")));
        assert_eq!(after(&trap, Err(config.clone())), (Side::Candidate, Err("plugin-internal")));
        assert_eq!(after(&config, Err(config.clone())), (Side::Fallback, Err("invalid-config")), "both say so");
    }
}

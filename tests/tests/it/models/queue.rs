//! The queue against a model of it. Each call's answer and what each device holds afterwards must be the model's; so a
//! device has one owner, a message is in one place, none vanishes unless it was dropped or cleared, and none comes before
//! its time. At the end of a sequence whatever the model still holds must come out of the queue, in order.

mod bed;
mod calls;
mod play;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use self::bed::Bed;
pub use self::calls::{Call, Fate};

/// Sequences for each backend.
const CASES: u32 = 512;
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/models/regressions/queue.txt");

pub const DEVICES: usize = 2;
/// Messages that there are, half of them of each of two runs.
pub const MESSAGES: u8 = 8;

#[test]
fn in_process() {
    let runtime = runtime();
    super::check::<Model>(CASES, REGRESSIONS, |model, calls| runtime.block_on(play::play(Bed::memory(), model, calls)));
}

#[test]
fn redis() {
    let runtime = runtime();
    let server = runtime.block_on(bed::server());
    super::check::<Model>(CASES, REGRESSIONS, |model, calls| {
        runtime.block_on(async { play::play(Bed::redis(&server).await, model, calls).await })
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What the queue should hold.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub now: u32,
    pub devices: [Device; DEVICES],
    /// Every lease that was ever given.
    pub leases: Vec<Lease>,
    /// What the last call should have answered.
    pub answer: Answer,
}

#[derive(Debug, Clone, Default)]
pub struct Device {
    pub waiting: BTreeSet<(i64, u8)>,
    /// With the rank that each would go back with.
    pub processing: BTreeMap<u8, i64>,
    /// The last lease, also after it was given back.
    lease: Option<usize>,
    /// When that ends; `None` when it was given back.
    until: Option<u32>,
    pub next_at: u32,
    /// `None`: nobody has enqueued anything.
    pace: Option<String>,
    eager: bool,
    /// Until then a server that asked what is ready may keep others from being told.
    hidden_until: u32,
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub device: usize,
    pub messages: Vec<(u8, i64)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Nothing,
    Depth(u32),
    /// Devices that must be among the ready ones, and what claiming gives.
    Claims {
        ready: BTreeSet<usize>,
        claims: Vec<(usize, Claim)>,
    },
    Finished(Option<u32>),
    Held(bool),
    /// What is filled in again after a loss, per device.
    Refill(Vec<Refill>),
}

/// Messages with their ranks, a wait and a pace.
pub type Refill = (Vec<(u8, i64)>, u32, String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    Messages { messages: Vec<(u8, i64)>, pace: String, depth: u32 },
    Orphans(Vec<u8>),
    Empty,
    NotYet(u32),
}

impl Device {
    pub fn leased(&self, now: u32) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    pub fn has_something(&self) -> bool {
        !self.waiting.is_empty() || !self.processing.is_empty()
    }

    pub fn depth(&self) -> u32 {
        u32::try_from(self.waiting.len()).expect("few")
    }

    fn add(&mut self, message: u8, rank: i64) {
        if !self.processing.contains_key(&message) && self.waiting.iter().all(|(_, m)| *m != message) {
            self.waiting.insert((rank, message));
        }
    }

    fn enqueue(&mut self, messages: &[(u8, i64)], next_in: u32, pace: String, now: u32) {
        if self.pace.is_none() {
            self.pace = Some(pace);
            self.next_at = self.next_at.max(now + next_in);
        }
        messages.iter().for_each(|(message, rank)| self.add(*message, *rank));
        if !self.leased(now) && self.has_something() {
            self.hidden_until = 0;
        }
    }

    fn settle(&mut self, fates: &[(u8, i64, Fate)]) {
        for (message, rank, fate) in fates {
            match fate {
                Fate::Leave => continue,
                Fate::Drop => drop(self.processing.remove(message)),
                Fate::PutBack => {
                    self.processing.remove(message);
                    self.add(*message, *rank);
                }
            }
        }
        self.until = None;
        self.hidden_until = 0;
    }
}

impl Lease {
    /// Its messages with what becomes of each.
    pub fn fates(&self, fates: &[Fate]) -> Vec<(u8, i64, Fate)> {
        self.messages.iter().zip(fates.iter().cycle()).map(|((m, rank), fate)| (*m, *rank, *fate)).collect()
    }
}

impl Model {
    /// The lease that was given so many leases ago.
    pub fn lease(&self, ago: usize) -> Option<usize> {
        Some(self.leases.len() - 1 - ago % self.leases.len().max(1)).filter(|_| !self.leases.is_empty())
    }

    fn claim(&mut self, d: usize, lease: u32, burst: u32) -> Claim {
        let now = self.now;
        let device = &mut self.devices[d];
        if let Some(until) = device.until.filter(|until| *until > now) {
            return Claim::NotYet(until - now);
        } else if !device.has_something() {
            return Claim::Empty;
        } else if device.next_at > now {
            return Claim::NotYet(device.next_at - now);
        }
        device.until = Some(now + lease);
        device.lease = Some(self.leases.len());
        if !device.processing.is_empty() {
            let messages: Vec<(u8, i64)> = device.processing.iter().map(|(m, rank)| (*m, *rank)).collect();
            self.leases.push(Lease { device: d, messages: messages.clone() });
            return Claim::Orphans(messages.into_iter().map(|(m, _)| m).collect());
        }
        let wanted = if device.eager { burst.max(1) as usize } else { 1 };
        let messages: Vec<(u8, i64)> =
            std::iter::from_fn(|| device.waiting.pop_first()).take(wanted).map(|(rank, m)| (m, rank)).collect();
        device.processing.extend(messages.iter().copied());
        self.leases.push(Lease { device: d, messages: messages.clone() });
        Claim::Messages { messages, pace: device.pace.clone().unwrap_or_default(), depth: device.depth() }
    }

    /// Devices that a server which asks must be told of.
    fn must_be_ready(&self) -> BTreeSet<usize> {
        let now = self.now;
        let must = |d: &Device| !d.leased(now) && d.has_something() && d.next_at <= now && d.hidden_until <= now;
        (0..DEVICES).filter(|d| must(&self.devices[*d])).collect()
    }

    fn hide(&mut self, lease: u32) -> BTreeSet<usize> {
        let ready = self.must_be_ready();
        // Whether one that need not be ready was found is the backend's affair.
        self.devices.iter_mut().for_each(|d| d.hidden_until = d.hidden_until.max(self.now + lease));
        ready
    }

    /// The device whose lease this is, if it still is.
    fn held(&mut self, lease: Option<usize>) -> Option<&mut Device> {
        let device = &mut self.devices[self.leases.get(lease?)?.device];
        (device.lease == lease).then_some(device)
    }

    fn play(&mut self, call: &Call) -> Answer {
        let now = self.now;
        match call {
            Call::Enqueue { device, messages, next_in, pace } => {
                self.devices[*device].enqueue(messages, *next_in, pace_text(*pace), now);
                Answer::Depth(self.devices[*device].depth())
            }
            Call::Claim { device, lease, burst, .. } => {
                Answer::Claims { ready: BTreeSet::new(), claims: vec![(*device, self.claim(*device, *lease, *burst))] }
            }
            Call::Serve { lease, burst, .. } => {
                let ready = self.hide(*lease);
                Answer::Claims { ready, claims: (0..DEVICES).map(|d| (d, self.claim(d, *lease, *burst))).collect() }
            }
            Call::Hide { lease, .. } => Answer::Claims { ready: self.hide(*lease), claims: Vec::new() },
            Call::Renew { ago, lease } => {
                let held = self.lease(*ago);
                let until = self.held(held).and_then(|d| d.until.as_mut());
                Answer::Held(until.map(|until| *until = (*until).max(now + lease)).is_some())
            }
            Call::Finish { ago, fates, next_in, pace } => {
                let lease = self.lease(*ago);
                let fates = lease.map(|l| self.leases[l].fates(fates)).unwrap_or_default();
                let Some(device) = self.held(lease) else { return Answer::Finished(None) };
                if device.until.is_some() {
                    device.settle(&fates);
                    device.next_at = device.next_at.max(now + next_in);
                    device.eager = device.next_at <= now;
                    if let Some(pace) = pace {
                        device.pace = Some(pace_text(*pace));
                    }
                }
                Answer::Finished(Some(device.depth()))
            }
            Call::Adopt { ago, fates } => {
                let lease = self.lease(*ago);
                let fates = lease.map(|l| self.leases[l].fates(fates)).unwrap_or_default();
                let Some(device) = self.held(lease) else { return Answer::Held(false) };
                if device.until.is_some() {
                    device.settle(&fates);
                    device.eager = false;
                }
                Answer::Held(true)
            }
            Call::Hold { device, wait } => {
                let device = &mut self.devices[*device];
                if now + wait > device.next_at {
                    device.next_at = now + wait;
                    device.eager = false;
                }
                Answer::Nothing
            }
            Call::Unhold { device } => {
                let device = &mut self.devices[*device];
                device.next_at = 0;
                if !device.leased(now) {
                    device.hidden_until = 0;
                }
                Answer::Nothing
            }
            Call::Clear { run } => {
                self.devices.iter_mut().for_each(|d| d.waiting.retain(|(_, m)| run_of(*m) != *run));
                Answer::Nothing
            }
            Call::Pass { units } => {
                self.now += units;
                Answer::Nothing
            }
            Call::Lose => {
                let refill = self.devices.iter_mut().map(|device| {
                    let old = std::mem::take(device);
                    let mut messages: Vec<(u8, i64)> = old.waiting.iter().map(|(rank, m)| (*m, *rank)).collect();
                    messages.extend(old.processing);
                    let wait = old.next_at.saturating_sub(now);
                    let pace = old.pace.unwrap_or_default();
                    device.enqueue(&messages, wait, pace.clone(), now);
                    (messages, wait, pace)
                });
                Answer::Refill(refill.collect())
            }
        }
    }
}

/// The run of a message.
pub fn run_of(message: u8) -> u8 {
    message / (MESSAGES / 2)
}

/// A pace as the queue keeps it, which need not understand it.
pub fn pace_text(pace: u8) -> String {
    if pace == 0 { String::new() } else { format!("pace {pace}") }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Call;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Call> {
        calls::any()
    }

    fn apply(mut state: Self, call: &Call) -> Self {
        state.answer = state.play(call);
        state
    }
}

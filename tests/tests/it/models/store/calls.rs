//! The calls that the model knows.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{CONTACTS, Channel, DEVICES, RUNS};

#[derive(Debug, Clone)]
pub enum Call {
    /// Attempts end: each that was begun so many attempts ago. Messages are taken.
    Turn {
        ends: Vec<End>,
        claims: Vec<Take>,
    },
    Suppress {
        contact: u32,
        channel: Option<Channel>,
    },
    Unsuppress {
        contact: u32,
        channel: Option<Channel>,
    },
    /// A device's messages of a run move to the other device.
    Reassign {
        run: usize,
        from: usize,
    },
    Move {
        run: usize,
        event: Event,
    },
    /// What is pending of a closed run is closed, page by page.
    Close {
        run: usize,
    },
    Complete,
    RetryFailed {
        run: usize,
    },
    Defer {
        messages: Vec<usize>,
        wait: u64,
    },
    Promote,
    Pass {
        seconds: u64,
    },
}

#[derive(Debug, Clone)]
pub struct End {
    pub ago: usize,
    pub skew: Skew,
    pub outcome: Outcome,
    /// The device's pace is saved with it.
    pub paced: bool,
}

/// What is wrong with who wants to end an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    Nothing,
    OlderToken,
    NewerToken,
    OtherAttempt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    Delivered,
    Failed,
    /// Failed, and the address goes on the list.
    OptedOut,
    Unknown,
    Suppressed,
    Expired,
    Retry {
        wait: u64,
        counts: bool,
    },
    Released,
}

#[derive(Debug, Clone, Copy)]
pub struct Take {
    pub device: usize,
    pub pick: Pick,
    pub lease: Lease,
}

#[derive(Debug, Clone, Copy)]
pub enum Pick {
    /// The first that is ready on the device.
    First,
    Any(usize),
}

/// Under which token a message is taken, beside the newest that the device has sent under.
#[derive(Debug, Clone, Copy)]
pub enum Lease {
    Newer,
    Same,
    Older,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Pause,
    Resume,
    Cancel,
    Expire,
}

pub fn any() -> BoxedStrategy<Call> {
    let run = 0..RUNS;
    let channel = prop_oneof![Just(None), Just(Some(Channel::Sms)), Just(Some(Channel::Push))];
    let event = prop_oneof![4 => Just(Event::Pause), 4 => Just(Event::Resume), 1 => Just(Event::Cancel), 1 => Just(Event::Expire)];
    let messages = vec(0..RUNS * CONTACTS as usize, 1..5);
    prop_oneof![
        20 => (vec(end(), 0..3), vec(take(), 0..3)).prop_map(|(ends, claims)| Call::Turn { ends, claims }),
        1 => (1..=CONTACTS, channel.clone()).prop_map(|(contact, channel)| Call::Suppress { contact, channel }),
        1 => (1..=CONTACTS, channel).prop_map(|(contact, channel)| Call::Unsuppress { contact, channel }),
        2 => (run.clone(), 0..DEVICES).prop_map(|(run, from)| Call::Reassign { run, from }),
        3 => (run.clone(), event).prop_map(|(run, event)| Call::Move { run, event }),
        2 => run.clone().prop_map(|run| Call::Close { run }),
        1 => Just(Call::Complete),
        1 => run.prop_map(|run| Call::RetryFailed { run }),
        1 => (messages, 0..60_u64).prop_map(|(messages, wait)| Call::Defer { messages, wait }),
        2 => Just(Call::Promote),
        3 => (1..60_u64).prop_map(|seconds| Call::Pass { seconds }),
    ]
    .boxed()
}

fn end() -> impl Strategy<Value = End> {
    let ago = prop_oneof![6 => Just(0_usize), 3 => 1..3_usize, 1 => 0..20_usize];
    let skew = prop_oneof![
        10 => Just(Skew::Nothing), 1 => Just(Skew::OlderToken), 1 => Just(Skew::NewerToken), 1 => Just(Skew::OtherAttempt),
    ];
    let outcome = prop_oneof![
        4 => Just(Outcome::Sent),
        1 => Just(Outcome::Delivered),
        2 => Just(Outcome::Failed),
        1 => Just(Outcome::OptedOut),
        1 => Just(Outcome::Unknown),
        1 => Just(Outcome::Suppressed),
        1 => Just(Outcome::Expired),
        4 => (0..60_u64, proptest::bool::ANY).prop_map(|(wait, counts)| Outcome::Retry { wait, counts }),
        3 => Just(Outcome::Released),
    ];
    (ago, skew, outcome, proptest::bool::ANY).prop_map(|(ago, skew, outcome, paced)| End { ago, skew, outcome, paced })
}

fn take() -> impl Strategy<Value = Take> {
    let pick = prop_oneof![4 => Just(Pick::First), 1 => (0..RUNS * CONTACTS as usize).prop_map(Pick::Any)];
    let lease = prop_oneof![6 => Just(Lease::Newer), 3 => Just(Lease::Same), 1 => Just(Lease::Older)];
    (0..DEVICES, pick, lease).prop_map(|(device, pick, lease)| Take { device, pick, lease })
}

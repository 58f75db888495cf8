//! The store against a model of it. After each call every message, count and attempt in flight must be the model's; so a
//! device is at one message at most, who lost a lease changes nothing, a final message stays what it is, no suppressed
//! address is begun, and every message is counted once.

mod calls;
mod play;
mod turn;

use std::collections::BTreeSet;

use carillon::message::MessageStatus;
use carillon_tests::stores::{self, Opened};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

pub use self::calls::{Call, Event, Lease, Outcome, Pick, Skew};
use self::turn::Turn;

/// Sequences for each backend.
const CASES: u32 = 96;
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/models/regressions/store.txt");

pub const DEVICES: usize = 2;
/// Contacts, from 1; each gets a message of each run.
pub const CONTACTS: u32 = 4;
pub const RUNS: usize = 2;
/// When the first run expires.
pub const EXPIRY: u64 = 200;

#[test]
fn sqlite() {
    on(stores::sqlite());
}

#[test]
fn postgres() {
    on(stores::postgres());
}

fn on(opening: impl Future<Output = Opened>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let opened = runtime.block_on(opening);
    let stores = [opened.store.clone(), runtime.block_on(opened.again())];
    super::check::<Model>(CASES, REGRESSIONS, |model, calls| runtime.block_on(play::play(&stores, model, calls)));
    for store in stores {
        runtime.block_on(store.close());
    }
}

/// What the store should hold. Times are seconds since the start.
#[derive(Debug, Clone)]
pub struct Model {
    pub now: u64,
    pub runs: [Run; RUNS],
    /// Run after run, by contact.
    pub messages: Vec<Message>,
    pub devices: [Device; DEVICES],
    /// Contacts with the channel: `None` is every one.
    pub suppressed: BTreeSet<(u32, Option<Channel>)>,
    /// Every attempt that was ever begun.
    pub works: Vec<Work>,
    /// What the last call should have answered.
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// The devices'.
    Sms,
    /// One that nothing goes out on.
    Push,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Running,
    Paused,
    Completed,
    Cancelled,
    Expired,
}

impl Run {
    /// What becomes of its pending messages.
    pub fn closed_as(self) -> Option<MessageStatus> {
        match self {
            Self::Cancelled => Some(MessageStatus::Cancelled),
            Self::Expired => Some(MessageStatus::Expired),
            Self::Running | Self::Paused | Self::Completed => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Message {
    pub device: usize,
    pub state: State,
    pub attempt: u32,
    pub failures: u32,
    /// When it may go, or might have gone.
    pub due_at: u64,
    /// The attempts that left a row.
    pub kept: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Deferred,
    Final { status: MessageStatus, at: u64 },
}

#[derive(Debug, Clone, Default)]
pub struct Device {
    pub in_flight: Option<Work>,
    /// The newest token that it has sent under.
    pub token: i64,
}

/// An attempt that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub message: usize,
    pub device: usize,
    pub token: i64,
    pub attempt: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    Turned(Turn),
    /// How many messages, or `None` where the call is refused.
    Changed(Option<u64>),
    /// Devices that got work, and when there is more.
    Promoted(BTreeSet<usize>, Option<u64>),
    /// Whether the run was in the state that the call wants.
    Moved(bool),
    Completed(BTreeSet<usize>),
}

/// The run of a message.
pub fn run_of(message: usize) -> usize {
    message / CONTACTS as usize
}

/// The number of its contact.
pub fn contact_of(message: usize) -> u32 {
    (message % CONTACTS as usize) as u32 + 1
}

impl Model {
    fn new() -> Self {
        let messages = (0..RUNS * CONTACTS as usize).map(|m| Message {
            device: (contact_of(m) as usize - 1) % DEVICES,
            state: State::Ready,
            attempt: 0,
            failures: 0,
            due_at: 0,
            kept: BTreeSet::new(),
        });
        Self {
            now: 0,
            runs: [Run::Running; RUNS],
            messages: messages.collect(),
            devices: Default::default(),
            suppressed: BTreeSet::new(),
            works: Vec::new(),
            answer: Answer::Nothing,
        }
    }

    /// The attempt that is at the message.
    pub fn sending(&self, message: usize) -> Option<Work> {
        self.devices.iter().find_map(|d| d.in_flight.filter(|work| work.message == message))
    }

    pub fn is(&self, message: usize, state: State) -> bool {
        self.messages[message].state == state && self.sending(message).is_none()
    }

    pub fn is_pending(&self, message: usize) -> bool {
        self.is(message, State::Ready) || self.is(message, State::Deferred)
    }

    pub fn of_run(run: usize) -> std::ops::Range<usize> {
        run * CONTACTS as usize..(run + 1) * CONTACTS as usize
    }

    pub fn status(&self, message: usize) -> MessageStatus {
        match self.messages[message].state {
            State::Final { status, .. } => status,
            _ if self.sending(message).is_some() => MessageStatus::Processing,
            _ => MessageStatus::Pending,
        }
    }

    /// What belongs into a device's queue, in its order: the second run goes first.
    pub fn queued(&self, device: usize) -> Vec<usize> {
        let runs = (0..RUNS).rev().filter(|run| self.runs[*run] == Run::Running);
        let messages = runs.flat_map(Self::of_run);
        messages.filter(|m| self.messages[*m].state == State::Ready && self.messages[*m].device == device).collect()
    }

    /// What a device may send, in its order.
    pub fn ready(&self, device: usize) -> Vec<usize> {
        self.queued(device).into_iter().filter(|m| self.sending(*m).is_none()).collect()
    }

    fn is_open(&self, run: usize) -> bool {
        Self::of_run(run).any(|m| !matches!(self.messages[m].state, State::Final { .. }))
    }

    fn play(&mut self, call: &Call) -> Answer {
        match call {
            Call::Turn { ends, claims } => Answer::Turned(self.turn(ends, claims)),
            Call::Suppress { contact, channel } => {
                Answer::Changed(Some(self.suppressed.insert((*contact, *channel)).into()))
            }
            Call::Unsuppress { contact, channel } => {
                Answer::Changed(Some(self.suppressed.remove(&(*contact, *channel)).into()))
            }
            Call::Reassign { run, from } => {
                let moving: Vec<usize> =
                    Self::of_run(*run).filter(|m| self.is_pending(*m) && self.messages[*m].device == *from).collect();
                moving.iter().for_each(|m| self.messages[*m].device = 1 - from);
                Answer::Changed(Some(moving.len() as u64))
            }
            Call::Move { run, event } => {
                let next = match (self.runs[*run], event) {
                    (Run::Running, Event::Pause) => Run::Paused,
                    (Run::Paused, Event::Resume) => Run::Running,
                    (Run::Running | Run::Paused, Event::Cancel) => Run::Cancelled,
                    (Run::Running | Run::Paused, Event::Expire) => Run::Expired,
                    _ => return Answer::Moved(false),
                };
                self.runs[*run] = next;
                Answer::Moved(true)
            }
            Call::Close { run } => {
                let Some(status) = self.runs[*run].closed_as() else { return Answer::Changed(Some(0)) };
                let open: Vec<usize> = Self::of_run(*run).filter(|m| self.is_pending(*m)).collect();
                open.iter().for_each(|m| self.messages[*m].state = State::Final { status, at: self.now });
                Answer::Changed(Some(open.len() as u64))
            }
            Call::Complete => {
                let done: BTreeSet<usize> =
                    (0..RUNS).filter(|run| self.runs[*run] == Run::Running && !self.is_open(*run)).collect();
                done.iter().for_each(|run| self.runs[*run] = Run::Completed);
                Answer::Completed(done)
            }
            Call::RetryFailed { run } => self.retry_failed(*run),
            Call::Defer { messages, wait } => {
                let ready: BTreeSet<usize> = messages.iter().copied().filter(|m| self.is(*m, State::Ready)).collect();
                for m in &ready {
                    (self.messages[*m].state, self.messages[*m].due_at) = (State::Deferred, self.now + wait);
                }
                Answer::Changed(Some(ready.len() as u64))
            }
            Call::Promote => {
                let mut devices = BTreeSet::new();
                for message in self.messages.iter_mut().filter(|m| m.state == State::Deferred && m.due_at <= self.now) {
                    message.state = State::Ready;
                    devices.insert(message.device);
                }
                let later = self.messages.iter().filter(|m| m.state == State::Deferred).map(|m| m.due_at).min();
                Answer::Promoted(devices, later)
            }
            Call::Pass { seconds } => {
                self.now += seconds;
                Answer::Nothing
            }
        }
    }

    /// As the operation does it: the run goes on if it was complete.
    fn retry_failed(&mut self, run: usize) -> Answer {
        if self.runs[run].closed_as().is_some() {
            return Answer::Changed(None);
        }
        let mut again = 0;
        for message in &mut self.messages[Self::of_run(run)] {
            if matches!(message.state, State::Final { status: MessageStatus::Failed, .. }) {
                (message.state, message.failures, message.due_at) = (State::Ready, 0, self.now);
                again += 1;
            }
        }
        if again > 0 && self.runs[run] == Run::Completed {
            self.runs[run] = Run::Running;
        }
        Answer::Changed(Some(again))
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Call;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::new()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Call> {
        calls::any()
    }

    fn apply(mut state: Self, call: &Call) -> Self {
        state.answer = state.play(call);
        state
    }
}

//! A device changes hands: lease, fence and settlement as a model of their own, of which Stateright visits every state.
//!
//! Servers claim one device's messages from the queue, begin them in the store, send and settle, each step by itself and in
//! every order. A lease may run out at any step, a server may die at any step, the queue may lose its data. A process that
//! is stopped and goes on (a zombie) needs no step of its own: it is a server that takes none for a while.
//!
//! The same model with one guard taken away must fail: [`each_guard_is_needed`] says at what.

mod state;

use stateright::{Checker, HasDiscoveries, Model, Property};

use self::state::{Action, Faults, Guards, Policy, State, Status};

/// What is checked, with which guards and how many faults.
#[derive(Debug, Clone, Copy)]
struct Handover {
    servers: usize,
    policy: Policy,
    guards: Guards,
    faults: Faults,
}

const ONE_BEGUN: &str = "a device has one begun message at most";
const NEWEST_BEGINS: &str = "an older lease begins nothing";
const ONE_HOLDER: &str = "a device has one holder at most while the queue keeps its data";
const STALE: &str = "a settlement by who is not at the message changes nothing";
const ONCE: &str = "at_most_once: no message is sent twice";
const TRUE: &str = "what is called sent was sent, and what is at_least_once is never given up";
const ENDS: &str = "where nothing more can happen every message has its end";

impl Model for Handover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.servers, self.faults)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(state.after(action, self.policy, self.guards))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_BEGUN, |_, s: &State| s.begun.len() <= 1),
            Property::always(NEWEST_BEGINS, |_, s: &State| !s.older_began),
            Property::always(ONE_HOLDER, |_, s: &State| s.lost || s.holders() <= 1),
            Property::always(STALE, |_, s: &State| !s.stale_changed),
            Property::always(ONCE, |model: &Self, s: &State| {
                model.policy == Policy::AtLeastOnce || s.messages.iter().all(|m| m.sends <= 1)
            }),
            Property::always(TRUE, |model: &Self, s: &State| {
                s.messages.iter().all(|m| match m.status {
                    Status::Pending => true,
                    Status::Sent => m.sends > 0,
                    Status::Unknown => model.policy == Policy::AtMostOnce,
                })
            }),
            Property::always(ENDS, |_, s: &State| {
                let mut more = Vec::new();
                s.actions(&mut more);
                !more.is_empty() || s.messages.iter().all(|m| m.status != Status::Pending)
            }),
            // That these are reached says that the model is about something.
            Property::sometimes("a server sends after its lease was given to another", |_, s: &State| s.late_send),
            Property::sometimes("every message is sent", |_, s: &State| {
                s.messages.iter().all(|m| m.status == Status::Sent)
            }),
        ]
    }
}

impl Handover {
    fn guarded(servers: usize, policy: Policy, faults: Faults) -> Self {
        Self { servers, policy, guards: Guards::ALL, faults }
    }

    /// Visits every state, and says how many there are.
    fn holds(self) {
        let checked = self.checker().threads(2).spawn_bfs().join();
        checked.assert_properties();
        println!("{self:?}: {} states", checked.unique_state_count());
    }

    /// The shortest way to break one of the properties.
    fn breaks(self, name: &str) -> Vec<Action> {
        let checked = self.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checked.discoveries();
        let path = found.get(name).unwrap_or_else(|| panic!("{name:?} holds with {self:?}; broken are {found:?}"));
        path.clone().into_actions()
    }
}

#[test]
fn two_servers_lose_nothing() {
    for policy in [Policy::AtLeastOnce, Policy::AtMostOnce] {
        Handover::guarded(2, policy, Faults { expiries: 2, crashes: 1, losses: 1, refusals: 0 }).holds();
        Handover::guarded(2, policy, Faults { expiries: 2, crashes: 1, losses: 0, refusals: 1 }).holds();
    }
}

#[test]
fn three_servers_lose_nothing() {
    for policy in [Policy::AtLeastOnce, Policy::AtMostOnce] {
        Handover::guarded(3, policy, Faults { expiries: 1, crashes: 1, losses: 0, refusals: 0 }).holds();
    }
}

#[test]
fn each_guard_is_needed() {
    let faults = Faults { expiries: 2, crashes: 0, losses: 1, refusals: 0 };
    let all = Guards::ALL;
    for (guards, policy, broken) in [
        (Guards { begin_when_idle: false, ..all }, Policy::AtLeastOnce, ONE_BEGUN),
        (Guards { begin_newest: false, ..all }, Policy::AtLeastOnce, NEWEST_BEGINS),
        (Guards { settle_own: false, ..all }, Policy::AtLeastOnce, STALE),
        (Guards { finish_own: false, ..all }, Policy::AtLeastOnce, ONE_HOLDER),
        (Guards { keep_unknown: false, ..all }, Policy::AtMostOnce, ONCE),
    ] {
        let path = Handover { servers: 2, policy, guards, faults }.breaks(broken);
        println!("without {guards:?}: {broken} is broken by {path:?}");
    }
}

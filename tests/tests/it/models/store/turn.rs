//! A turn by the model: who ends what, and what is taken.

use std::collections::BTreeSet;

use carillon::message::MessageStatus;

use super::calls::{End, Take};
use super::{Channel, EXPIRY, Lease, Model, Outcome, Pick, Run, Skew, State, Work, contact_of, run_of};

/// A turn as it is asked for, and what it should come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    pub ends: Vec<(Work, Outcome, bool)>,
    pub claims: Vec<(usize, usize, i64)>,
    pub applied: Vec<bool>,
    pub begun: Vec<Begun>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    Started { attempt: u32, failures: u32, due_at: u64 },
    Suppressed,
    Expired,
    Inactive,
    Gone,
    Busy,
}

impl Model {
    pub(super) fn turn(&mut self, ends: &[End], claims: &[Take]) -> Turn {
        let mut turn = self.asked(ends, claims);
        // What holds before the turn decides, but for a message that ends and is taken again, and for a claim under an
        // older lease than its device's end: these come after the ends.
        let after = |model: &Self, (message, device, token): (usize, usize, i64)| {
            let end = turn.ends.iter().find(|(work, ..)| work.device == device);
            match end {
                Some((work, ..)) if work.message == message || work.token > token => None,
                Some((work, ..)) => Some(model.devices[device].in_flight == Some(*work)),
                None => Some(model.is_free(device, token)),
            }
        };
        let free: Vec<Option<bool>> = turn.claims.iter().map(|claim| after(self, *claim)).collect();
        turn.applied = turn.ends.iter().map(|(work, outcome, _)| self.end(*work, *outcome)).collect();
        let mut begun = vec![Begun::Gone; turn.claims.len()];
        let (first, rest): (Vec<usize>, Vec<usize>) = (0..turn.claims.len()).partition(|n| free[*n].is_some());
        for n in first.into_iter().chain(rest) {
            let (message, device, token) = turn.claims[n];
            let free = free[n].unwrap_or_else(|| self.is_free(device, token));
            begun[n] = self.begin(message, device, token, free);
        }
        turn.begun = begun;
        turn
    }

    /// What is asked for, with each device and message once on either side: how repeats within a turn are answered is
    /// the contract tests' affair.
    fn asked(&self, ends: &[End], claims: &[Take]) -> Turn {
        let mut turn = Turn::default();
        let (mut devices, mut messages) = (BTreeSet::new(), BTreeSet::new());
        for end in ends.iter().filter(|_| !self.works.is_empty()) {
            let mut work = self.works[self.works.len() - 1 - end.ago % self.works.len()];
            match end.skew {
                Skew::Nothing => {}
                Skew::OlderToken => work.token -= 1,
                Skew::NewerToken => work.token += 1,
                Skew::OtherAttempt => work.attempt += 1,
            }
            if devices.insert(work.device) && messages.insert(work.message) {
                turn.ends.push((work, end.outcome, end.paced));
            }
        }
        let opted_out: Vec<u32> = turn
            .ends
            .iter()
            .filter(|(_, outcome, _)| *outcome == Outcome::OptedOut)
            .map(|(work, ..)| contact_of(work.message))
            .collect();
        (devices, messages) = Default::default();
        for take in claims {
            let message = match take.pick {
                Pick::Any(message) => Some(message),
                Pick::First => self.ready(take.device).first().copied(),
            };
            let Some(message) = message else { continue };
            let newest = self.devices[take.device].token;
            let token = match take.lease {
                Lease::Newer => newest + 1,
                Lease::Same => newest.max(1),
                Lease::Older => newest - 1,
            };
            // Whether an opt-out that is being written stops a claim beside it is left open: the check before the first
            // byte does.
            if !opted_out.contains(&contact_of(message)) && devices.insert(take.device) && messages.insert(message) {
                turn.claims.push((message, take.device, token));
            }
        }
        turn
    }

    fn is_free(&self, device: usize, token: i64) -> bool {
        let device = &self.devices[device];
        device.in_flight.is_none() && device.token <= token
    }

    fn end(&mut self, work: Work, outcome: Outcome) -> bool {
        if self.devices[work.device].in_flight != Some(work) {
            return false;
        }
        self.devices[work.device].in_flight = None;
        // An attempt takes a second.
        let now = self.now + 1;
        let closed = self.runs[run_of(work.message)].closed_as();
        let message = &mut self.messages[work.message];
        let done = |status| State::Final { status, at: now };
        let again = |state| closed.map_or(state, done);
        message.state = match outcome {
            Outcome::Sent => done(MessageStatus::Sent),
            Outcome::Delivered => done(MessageStatus::Delivered),
            Outcome::Failed | Outcome::OptedOut => done(MessageStatus::Failed),
            Outcome::Unknown => done(MessageStatus::Unknown),
            Outcome::Suppressed => done(MessageStatus::Suppressed),
            Outcome::Expired => done(MessageStatus::Expired),
            Outcome::Released => again(State::Ready),
            Outcome::Retry { wait, counts } => {
                message.due_at = self.now + wait;
                message.failures += u32::from(counts);
                again(if message.due_at <= now { State::Ready } else { State::Deferred })
            }
        };
        if outcome != Outcome::Released {
            message.attempt = work.attempt;
        }
        if !matches!(outcome, Outcome::Sent | Outcome::Delivered | Outcome::Released) {
            message.kept.insert(work.attempt);
        }
        if outcome == Outcome::OptedOut {
            self.suppressed.insert((contact_of(work.message), None));
        }
        true
    }

    fn begin(&mut self, message: usize, device: usize, token: i64, free: bool) -> Begun {
        let contact = contact_of(message);
        let listed = [None, Some(Channel::Sms)].iter().any(|channel| self.suppressed.contains(&(contact, *channel)));
        if self.messages[message].state != State::Ready || self.messages[message].device != device {
            return Begun::Gone;
        } else if self.runs[run_of(message)] != Run::Running {
            return Begun::Inactive;
        } else if self.sending(message).is_some() {
            return Begun::Busy;
        } else if run_of(message) == 0 && self.now >= EXPIRY {
            self.messages[message].state = State::Final { status: MessageStatus::Expired, at: self.now };
            return Begun::Expired;
        } else if listed {
            self.messages[message].state = State::Final { status: MessageStatus::Suppressed, at: self.now };
            return Begun::Suppressed;
        } else if !free {
            return Begun::Busy;
        }
        let Self { messages, devices, .. } = self;
        let row = &messages[message];
        let work = Work { message, device, token, attempt: row.attempt + 1 };
        devices[device].in_flight = Some(work);
        devices[device].token = token;
        self.works.push(work);
        Begun::Started { attempt: work.attempt, failures: row.failures, due_at: row.due_at }
    }
}

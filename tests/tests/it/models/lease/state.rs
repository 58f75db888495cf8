//! What the servers, the queue and the store of the model are at, and what each can do next.

/// Messages that wait on the device.
const MESSAGES: usize = 2;

/// What a campaign wants done with an attempt whose outcome nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    AtLeastOnce,
    AtMostOnce,
}

/// What keeps servers out of each other's way.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    /// The store begins nothing on a device that is at another message.
    pub begin_when_idle: bool,
    /// The store begins nothing under an older lease than the newest that has begun something.
    pub begin_newest: bool,
    /// The store settles an attempt for who is at it: message, token, attempt.
    pub settle_own: bool,
    /// The queue ends a hold for the lease's token only.
    pub finish_own: bool,
    /// What is `at_most_once` is not sent again when its outcome is unknown.
    pub keep_unknown: bool,
}

impl Guards {
    pub const ALL: Self =
        Self { begin_when_idle: true, begin_newest: true, settle_own: true, finish_own: true, keep_unknown: true };
}

/// Faults that are left to happen: they bound the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Leases of living servers that run out.
    pub expiries: u8,
    /// Deaths of servers.
    pub crashes: u8,
    /// Losses of the queue's data.
    pub losses: u8,
    /// Sends that the provider refuses for now: certainly not sent.
    pub refusals: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    Sent,
    /// At `at_most_once`: it may have been sent.
    Unknown,
}

/// A message in the store, and how often it really left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    pub status: Status,
    pub attempt: u8,
    pub sends: u8,
}

/// The device's row of `in_flight`: the message that it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    message: usize,
    token: u8,
    attempt: u8,
    server: usize,
    /// Its server died since: seen by its heartbeat.
    server_dead: bool,
}

/// Whose the device is in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    token: u8,
    live: bool,
}

/// What a server is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// It has the lease and a message from the queue.
    Claimed(usize),
    /// The store says that it is at this attempt.
    Begun(Attempt),
    /// It has just seen that its lease is valid.
    Checked(Attempt),
    /// The message has left.
    Sent(Attempt),
    /// The provider refused it.
    Refused(Attempt),
    /// It has the lease and the message of a former owner.
    Orphan(usize),
    /// It has read what the store says that the device is at.
    Looked(usize, Option<Attempt>),
    /// What the former owner left is settled.
    Resolved(usize),
    /// The queue is to be told: whether the message goes back.
    Ending(usize, bool),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    phase: Phase,
    token: u8,
    /// By its own clock, which started before the claim was sent, its lease has not run out.
    valid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The processor puts a pending message into the queue.
    TopUp(usize),
    Claim(usize),
    /// The store is asked to begin what was claimed.
    Begin(usize),
    /// The server asks its clock whether its lease is valid, and gives the message back when it is not.
    Check(usize),
    Send(usize),
    Refuse(usize),
    /// The outcome is written.
    Settle(usize),
    /// A former owner's message: what does the store say?
    Look(usize),
    /// It is settled by the policy.
    Resolve(usize),
    /// What came of it?
    Read(usize),
    /// The queue is told, and the lease given back.
    Finish(usize),
    /// Recovery settles an attempt that nobody can be at.
    Rescue,
    /// A living server's lease runs out.
    Expire(usize),
    /// A dead server's lease runs out.
    ExpireUnheld,
    Crash(usize),
    /// The queue loses its data.
    Lose,
}

/// One device's world. Tokens are kept as small as their order allows, so that there is an end to the states.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    servers: Vec<Server>,
    // The queue.
    waiting: [bool; MESSAGES],
    processing: Option<usize>,
    lease: Option<Lease>,
    /// Whether it has lost its data.
    pub lost: bool,
    // The store.
    pub messages: Vec<Message>,
    in_flight: Option<Attempt>,
    newest: u8,
    faults: Faults,
    // What the properties are about, kept beside the guards.
    /// Attempts that were begun and have not been ended: message, token, attempt.
    pub begun: Vec<(usize, u8, u8)>,
    newest_begun: u8,
    pub older_began: bool,
    pub stale_changed: bool,
    pub late_send: bool,
}

impl State {
    pub fn new(servers: usize, faults: Faults) -> Self {
        Self {
            servers: vec![Server { phase: Phase::Idle, token: 0, valid: false }; servers],
            waiting: [true; MESSAGES],
            processing: None,
            lease: None,
            lost: false,
            messages: vec![Message { status: Status::Pending, attempt: 0, sends: 0 }; MESSAGES],
            in_flight: None,
            newest: 0,
            faults,
            begun: Vec::new(),
            newest_begun: 0,
            older_began: false,
            stale_changed: false,
            late_send: false,
        }
    }

    /// Servers that may believe that the device is theirs.
    pub fn holders(&self) -> usize {
        self.servers.iter().filter(|s| s.valid).count()
    }

    pub fn actions(&self, actions: &mut Vec<Action>) {
        for (message, row) in self.messages.iter().enumerate() {
            let at_it = self.in_flight.is_some_and(|f| f.message == message);
            let queued = self.waiting[message] || self.processing == Some(message);
            if row.status == Status::Pending && !at_it && !queued {
                actions.push(Action::TopUp(message));
            }
        }
        let free = self.lease.is_none_or(|l| !l.live);
        let something = self.processing.is_some() || self.waiting.contains(&true);
        for (n, server) in self.servers.iter().enumerate() {
            match server.phase {
                Phase::Idle if free && something => actions.push(Action::Claim(n)),
                Phase::Idle => {}
                Phase::Claimed(_) => actions.push(Action::Begin(n)),
                Phase::Begun(_) => actions.push(Action::Check(n)),
                Phase::Checked(_) => {
                    actions.push(Action::Send(n));
                    if self.faults.refusals > 0 {
                        actions.push(Action::Refuse(n));
                    }
                }
                Phase::Sent(_) | Phase::Refused(_) => actions.push(Action::Settle(n)),
                Phase::Orphan(_) => actions.push(Action::Look(n)),
                Phase::Looked(..) => actions.push(Action::Resolve(n)),
                Phase::Resolved(_) => actions.push(Action::Read(n)),
                Phase::Ending(..) => actions.push(Action::Finish(n)),
            }
            if server.valid && self.faults.expiries > 0 {
                actions.push(Action::Expire(n));
            }
            if server.phase != Phase::Idle && self.faults.crashes > 0 {
                actions.push(Action::Crash(n));
            }
        }
        let held = |token| self.servers.iter().any(|s| s.phase != Phase::Idle && s.token == token);
        if self.lease.is_some_and(|l| l.live && !held(l.token)) {
            actions.push(Action::ExpireUnheld);
        }
        if let Some(left) = self.in_flight
            && self.nobody_is_at(left)
        {
            actions.push(Action::Rescue);
        }
        if self.faults.losses > 0 {
            actions.push(Action::Lose);
        }
    }

    /// Its server died, or began it so long ago that its time-out and its lease have both passed.
    fn nobody_is_at(&self, left: Attempt) -> bool {
        let server = &self.servers[left.server];
        left.server_dead || server.token != left.token || !server.valid
    }

    pub fn after(&self, action: Action, policy: Policy, guards: Guards) -> Self {
        let mut next = self.clone();
        match action {
            Action::TopUp(message) => next.waiting[message] = true,
            Action::Claim(n) => next.claim(n),
            Action::Begin(n) => next.begin(n, guards),
            Action::Check(n) => {
                let Phase::Begun(at) = self.servers[n].phase else { return next };
                next.servers[n].phase = if self.servers[n].valid {
                    Phase::Checked(at)
                } else {
                    // Given back untouched: no byte has left.
                    next.settle(at, Status::Pending, true, guards);
                    Phase::Ending(at.message, true)
                };
            }
            Action::Send(n) => {
                let Phase::Checked(at) = self.servers[n].phase else { return next };
                let message = &mut next.messages[at.message];
                // More than two are as bad as two.
                message.sends = (message.sends + 1).min(2);
                next.late_send |= self.lease.is_some_and(|l| l.token > at.token);
                next.servers[n].phase = Phase::Sent(at);
            }
            Action::Refuse(n) => {
                let Phase::Checked(at) = self.servers[n].phase else { return next };
                next.faults.refusals -= 1;
                next.servers[n].phase = Phase::Refused(at);
            }
            Action::Settle(n) => {
                let (at, status) = match self.servers[n].phase {
                    Phase::Sent(at) => (at, Status::Sent),
                    Phase::Refused(at) => (at, Status::Pending),
                    _ => return next,
                };
                next.settle(at, status, false, guards);
                next.servers[n].phase = Phase::Ending(at.message, false);
            }
            Action::Look(n) => {
                let Phase::Orphan(message) = self.servers[n].phase else { return next };
                let left = self.in_flight.filter(|f| f.token < self.servers[n].token);
                next.servers[n].phase = Phase::Looked(message, left);
            }
            Action::Resolve(n) => {
                let Phase::Looked(message, left) = self.servers[n].phase else { return next };
                if let Some(left) = left {
                    next.settle(left, unproved(policy, guards), false, guards);
                }
                next.servers[n].phase = Phase::Resolved(message);
            }
            Action::Read(n) => {
                let Phase::Resolved(message) = self.servers[n].phase else { return next };
                let at_it = self.in_flight.is_some_and(|f| f.message == message);
                let back = self.messages[message].status == Status::Pending && !at_it;
                next.servers[n].phase = Phase::Ending(message, back);
            }
            Action::Finish(n) => next.finish(n, guards),
            Action::Rescue => {
                if let Some(left) = self.in_flight {
                    next.settle(left, unproved(policy, guards), false, guards);
                }
            }
            Action::Expire(n) => {
                next.faults.expiries -= 1;
                next.servers[n].valid = false;
                if let Some(lease) = next.lease.as_mut().filter(|l| l.token == self.servers[n].token) {
                    lease.live = false;
                }
            }
            Action::ExpireUnheld => next.lease.iter_mut().for_each(|l| l.live = false),
            Action::Crash(n) => {
                next.faults.crashes -= 1;
                next.leave(n);
                if let Some(left) = next.in_flight.as_mut().filter(|f| f.server == n) {
                    left.server_dead = true;
                }
            }
            Action::Lose => {
                next.faults.losses -= 1;
                next.lost = true;
                (next.waiting, next.processing, next.lease) = ([false; MESSAGES], None, None);
            }
        }
        next.with_small_tokens()
    }

    fn leave(&mut self, n: usize) {
        self.servers[n] = Server { phase: Phase::Idle, token: 0, valid: false };
    }

    fn claim(&mut self, n: usize) {
        // Larger than every one before, also after a loss: tokens are time.
        let token = self.tokens().into_iter().map(|t| *t).max().unwrap_or(0) + 1;
        self.lease = Some(Lease { token, live: true });
        let phase = match (self.processing, self.waiting.iter().position(|w| *w)) {
            (Some(message), _) => Phase::Orphan(message),
            (None, Some(message)) => {
                self.waiting[message] = false;
                self.processing = Some(message);
                Phase::Claimed(message)
            }
            (None, None) => return,
        };
        self.servers[n] = Server { phase, token, valid: true };
    }

    fn begin(&mut self, n: usize, guards: Guards) {
        let Phase::Claimed(message) = self.servers[n].phase else { return };
        let token = self.servers[n].token;
        let gone =
            self.messages[message].status != Status::Pending || self.in_flight.is_some_and(|f| f.message == message);
        let busy = (guards.begin_when_idle && self.in_flight.is_some()) || (guards.begin_newest && token < self.newest);
        self.servers[n].phase = if gone || busy {
            Phase::Ending(message, !gone)
        } else {
            let attempt = self.messages[message].attempt + 1;
            let at = Attempt { message, token, attempt, server: n, server_dead: false };
            self.in_flight = Some(at);
            self.newest = self.newest.max(token);
            self.begun.push((message, token, attempt));
            self.older_began |= token < self.newest_begun;
            self.newest_begun = self.newest_begun.max(token);
            Phase::Begun(at)
        };
    }

    fn settle(&mut self, at: Attempt, status: Status, released: bool, guards: Guards) {
        let identity = |a: Attempt| (a.message, a.token, a.attempt);
        let applies = self.in_flight.is_some_and(|f| match guards.settle_own {
            true => identity(f) == identity(at),
            false => f.message == at.message,
        });
        if !applies {
            return;
        }
        let own = self.begun.iter().position(|b| *b == identity(at));
        self.stale_changed |= own.is_none();
        if let Some(own) = own {
            self.begun.remove(own);
        }
        self.in_flight = None;
        let message = &mut self.messages[at.message];
        message.status = status;
        if !released {
            message.attempt = at.attempt;
        }
    }

    fn finish(&mut self, n: usize, guards: Guards) {
        let Phase::Ending(message, back) = self.servers[n].phase else { return };
        let token = self.servers[n].token;
        if self.lease.is_some_and(|l| l.token == token || !guards.finish_own) {
            if self.processing == Some(message) {
                self.processing = None;
            }
            self.waiting[message] |= back;
            self.lease.iter_mut().for_each(|l| l.live = false);
        }
        self.leave(n);
    }

    /// Every token that is remembered anywhere.
    fn tokens(&mut self) -> Vec<&mut u8> {
        let mut tokens = vec![&mut self.newest, &mut self.newest_begun];
        tokens.extend(self.lease.as_mut().map(|l| &mut l.token));
        tokens.extend(self.in_flight.as_mut().map(|f| &mut f.token));
        tokens.extend(self.begun.iter_mut().map(|(_, token, _)| token));
        for server in &mut self.servers {
            tokens.push(&mut server.token);
            match &mut server.phase {
                Phase::Begun(at) | Phase::Checked(at) | Phase::Sent(at) | Phase::Refused(at) => {
                    tokens.push(&mut at.token)
                }
                Phase::Looked(_, Some(left)) => tokens.push(&mut left.token),
                _ => {}
            }
        }
        tokens
    }

    fn with_small_tokens(mut self) -> Self {
        let mut order: Vec<u8> = self.tokens().into_iter().map(|t| *t).collect();
        // Who has none has 0.
        order.push(0);
        order.sort_unstable();
        order.dedup();
        for token in self.tokens() {
            *token = order.iter().position(|t| t == token).and_then(|n| u8::try_from(n).ok()).expect("few tokens");
        }
        self
    }
}

/// What becomes of an attempt whose outcome nobody knows.
fn unproved(policy: Policy, guards: Guards) -> Status {
    match policy {
        Policy::AtMostOnce if guards.keep_unknown => Status::Unknown,
        _ => Status::Pending,
    }
}

//! One regime: events in the order of their times, on a clock that jumps from one to the next.

mod supply;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};

use super::report::{self, Outcome, Taken};
use super::tally::Tally;
use super::world::{Random, START, World};
use super::{Args, config};
use crate::cli::bench::pacing::Asked;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::device::{Device, LastOutcome, Pace};
use crate::id::{HostId, MessageId};
use crate::queue::memory::MemoryQueue;
use crate::queue::{Claimed, Disposal, Finish, Finished, Queue};
use crate::workers::claim::{BURST, ROUND};
use crate::workers::session::SESSION;
use crate::workers::{GATHER, POLL, pacing};
use supply::Supply;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A server's dispatcher looks for due devices.
    Round(u32),
    /// A worker's send ends.
    SendEnds(u32),
    /// The better campaigns reach the devices that they share.
    BetterCampaigns,
}

/// A server: its dispatcher and its share of the workers.
struct Server {
    free: u32,
    /// When its dispatcher looks next; an event for another time is out of date.
    looks_at: Option<Duration>,
    /// It found nothing due, so something that becomes due earlier brings its look forward.
    sleeps: bool,
}

/// A worker at work: a device with its lease, and what has become of its messages.
struct Session {
    server: u32,
    device: Arc<Device>,
    token: i64,
    messages: VecDeque<(MessageId, i64)>,
    disposals: Vec<(MessageId, Disposal)>,
    pace: Pace,
    until: Duration,
}

/// What the simulation knows of a device besides what the queue keeps.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// When it may send.
    due: Duration,
    /// Whether `due` comes from its pace.
    paced: bool,
    sending: bool,
    minute: u32,
    in_minute: u32,
}

/// One regime.
pub struct Regime<'a> {
    world: &'a World,
    clock: Arc<ManualClock>,
    now: Duration,
    end: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Breaks ties between events of the same time.
    serial: u64,
    queue: MemoryQueue,
    lease: Duration,
    host: HostId,
    servers: Vec<Server>,
    sessions: Vec<Option<Session>>,
    free_sessions: Vec<u32>,
    known: Vec<Known>,
    supply: Supply,
    random: Random,
    delay: Asked,
    send: Asked,
    tally: Tally,
    workers: u32,
    /// Whether devices begin at times spread over a delay, instead of all at the start.
    spread: bool,
}

impl<'a> Regime<'a> {
    /// A regime with so many workers.
    pub fn new(world: &'a World, args: &Args, workers: u32, spread: bool) -> anyhow::Result<Self> {
        let clock = Arc::new(ManualClock::new(START));
        let servers = args.servers();
        let server = |n: u32| Server {
            free: workers / servers + u32::from(n < workers % servers),
            looks_at: None,
            sleeps: false,
        };
        let config = config(args);
        Ok(Self {
            world,
            now: Duration::ZERO,
            end: args.duration(),
            events: BinaryHeap::new(),
            serial: 0,
            queue: MemoryQueue::new(clock.clone()),
            clock,
            lease: config.lease(),
            host: HostId::new(),
            servers: (0..servers).map(server).collect(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            known: vec![Known::default(); world.sharing.len()],
            supply: Supply::new(world, workers, config.window),
            random: Random::new(args.seed ^ u64::from(workers)),
            delay: args.delay_ms,
            send: args.send_ms,
            tally: Tally::new(world, workers)?,
            workers,
            spread,
        })
    }

    /// Runs to the end.
    pub async fn run(mut self) -> anyhow::Result<(Outcome, Taken)> {
        let stopwatch = SystemClock::new();
        let before = report::resident();
        self.fill().await?;
        for server in 0..self.servers.len() {
            self.look(u32::try_from(server)?, Duration::ZERO);
        }
        self.at(self.end / 4, Event::BetterCampaigns);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at >= self.end {
                break;
            }
            self.clock.advance(at.saturating_sub(self.now));
            self.now = at;
            match event {
                Event::Round(server) => self.round(server).await?,
                Event::SendEnds(session) => self.send_ends(session).await?,
                Event::BetterCampaigns => {
                    self.supply.open();
                    for device in self.world.sharing.iter().zip(0..).filter(|(s, _)| s.second.is_some()).map(|(_, n)| n)
                    {
                        self.top_up(device).await?;
                    }
                }
            }
        }
        for known in self.known.iter().filter(|known| !known.sending && known.due < self.end) {
            self.tally.waited(self.end.saturating_sub(known.due));
        }
        let taken = Taken { before, after: report::resident() };
        Ok((self.tally.outcome(self.world, self.workers, stopwatch.monotonic()), taken))
    }

    /// Fills every device's queue.
    async fn fill(&mut self) -> anyhow::Result<()> {
        for n in 0..self.known.len() {
            let first =
                if self.spread { self.random.between(Duration::ZERO, self.world.mean_delay) } else { Duration::ZERO };
            let Some(device) = self.world.device_no(n) else { bail!("device {n} is missing") };
            if let Some(known) = self.known.get_mut(n) {
                (known.due, known.paced) = (first, self.spread);
            }
            if let Some(enqueue) = self.supply.top_up(self.world, n, device, first) {
                self.queue.enqueue(&[enqueue]).await?;
            }
        }
        Ok(())
    }

    async fn top_up(&mut self, n: usize) -> anyhow::Result<()> {
        let Some(device) = self.world.device_no(n) else { bail!("device {n} is missing") };
        if let Some(enqueue) = self.supply.top_up(self.world, n, device, Duration::ZERO) {
            self.queue.enqueue(&[enqueue]).await?;
            // What the processor tells every server.
            for server in 0..self.servers.len() {
                self.bring_forward(u32::try_from(server)?, self.now);
            }
        }
        Ok(())
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }

    /// The server's dispatcher looks at `at`.
    fn look(&mut self, server: u32, at: Duration) {
        if let Some(s) = self.servers.get_mut(server as usize) {
            s.looks_at = Some(at);
            self.at(at, Event::Round(server));
        }
    }

    /// Something is due at `at`.
    fn bring_forward(&mut self, server: u32, at: Duration) {
        let later = |s: &Server| s.sleeps && s.looks_at.is_some_and(|looks_at| at < looks_at);
        if self.servers.get(server as usize).is_some_and(later) {
            self.look(server, at);
        }
    }

    /// [`crate::workers::Pool::round`], without what it asks the store.
    async fn round(&mut self, n: u32) -> anyhow::Result<()> {
        let Some(server) = self.servers.get_mut(n as usize) else { bail!("server {n} is missing") };
        if server.looks_at != Some(self.now) {
            return Ok(());
        }
        (server.looks_at, server.sleeps) = (None, false);
        // Without a worker it waits for one: see `release`.
        let limit = server.free.min(u32::try_from(ROUND)?);
        if limit == 0 {
            return Ok(());
        }
        self.tally.rounds += 1;
        let ready = self.queue.ready(limit, self.lease).await?;
        if ready.devices.is_empty() {
            server.sleeps = true;
            self.look(n, self.now + ready.next_in.unwrap_or(POLL).min(POLL));
            return Ok(());
        }
        let claims = self.queue.claim(self.host, &ready.devices, self.lease, BURST).await?;
        for (id, claimed) in ready.devices.iter().zip(claims) {
            match claimed {
                Claimed::Messages { messages, token, pace, .. } => {
                    let Some(device) = self.world.device(id).cloned() else { bail!("{id} is not known") };
                    let first = messages.first().map(|(message, _)| *message);
                    match first.and_then(|m| self.supply.is_better_of_two(self.world, &device, m)) {
                        Some(true) => self.tally.priority_claims += 1,
                        Some(false) => self.tally.priority_inversions += 1,
                        None => {}
                    }
                    if let Some(server) = self.servers.get_mut(n as usize) {
                        server.free -= 1;
                    }
                    let session = Session {
                        server: n,
                        device,
                        token,
                        messages: messages.into(),
                        disposals: Vec::new(),
                        pace: Pace::parse(Some(pace.as_str()).filter(|p| !p.is_empty())),
                        until: self.now + SESSION,
                    };
                    self.send(session).await?;
                }
                Claimed::Orphans { .. } => bail!("{id} has orphans, but no server died"),
                Claimed::Empty | Claimed::NotYet(_) => {}
            }
        }
        self.look(n, self.now + GATHER);
        Ok(())
    }

    /// Starts the session's next send, unless a cap forbids it.
    async fn send(&mut self, mut session: Session) -> anyhow::Result<()> {
        let Some(known) = self.known.get_mut(usize::try_from(session.device.no.0)?) else { bail!("no such device") };
        let capped = session.pace.capped_for(&session.device.spec.caps, self.clock.now());
        if !capped.is_zero() {
            known.due = self.now + capped;
            return self.release(session, capped).await;
        }
        self.tally.starts(self.now, known.due, known.paced);
        known.sending = true;
        let takes = self.random.between(self.send.min, self.send.max);
        session.disposals.extend(session.messages.front().map(|(message, _)| (*message, Disposal::Drop)));
        let place = match self.free_sessions.pop() {
            Some(place) => place,
            None => {
                self.sessions.push(None);
                u32::try_from(self.sessions.len() - 1)?
            }
        };
        if let Some(slot) = self.sessions.get_mut(place as usize) {
            *slot = Some(session);
        }
        self.at(self.now + takes, Event::SendEnds(place));
        Ok(())
    }

    /// What a worker does after a send: it asks for the delay, and goes on or gives the device back.
    async fn send_ends(&mut self, place: u32) -> anyhow::Result<()> {
        let Some(mut session) = self.sessions.get_mut(place as usize).and_then(Option::take) else {
            bail!("a send ended twice")
        };
        self.free_sessions.push(place);
        let Some((message, _)) = session.messages.pop_front() else { bail!("a send had no message") };
        let (n, wall) = (usize::try_from(session.device.no.0)?, self.clock.now());
        self.tally.sent(World::campaign_of(message));
        self.tally.order_violations += u64::from(!self.supply.sent(self.world, n, message));

        pacing::note(&mut session.pace, LastOutcome::Sent, wall);
        let asked = self.random.between(self.delay.min, self.delay.max);
        let caps = &session.device.spec.caps;
        let wait = pacing::clamp(&mut session.pace, asked, (0, u64::MAX), caps, wall);

        let minute = u32::try_from(self.now.as_secs() / 60)?;
        let Some(known) = self.known.get_mut(n) else { bail!("no such device") };
        known.in_minute = if known.minute == minute { known.in_minute + 1 } else { 1 };
        known.minute = minute;
        self.tally.over_cap += u64::from(caps.per_minute.is_some_and(|cap| known.in_minute > cap));
        (known.due, known.paced, known.sending) = (self.now + wait, true, false);

        if wait.is_zero() && !session.messages.is_empty() && self.now < session.until {
            return self.send(session).await;
        }
        self.release(session, wait).await
    }

    /// Gives a device back to the queue, and the worker to its server.
    async fn release(&mut self, session: Session, wait: Duration) -> anyhow::Result<()> {
        let Session { server: n, device, token, messages, mut disposals, pace, .. } = session;
        disposals.extend(messages.into_iter().map(|(message, rank)| (message, Disposal::PutBack(rank))));
        let finish = Finish {
            device: device.spec.id.clone(),
            token,
            messages: disposals,
            next_in: wait,
            pace: Some(pace.to_saved()),
        };
        let finished = self.queue.finish(&[finish]).await?;
        ensure!(matches!(finished.as_slice(), [Finished::Done { .. }]), "{} lost its lease", device.spec.id);
        let Some(server) = self.servers.get_mut(n as usize) else { bail!("server {n} is missing") };
        server.free += 1;
        // The first free worker lets a dispatcher go on that had none; otherwise it looks in time.
        match server.looks_at {
            None => self.look(n, self.now),
            Some(_) => self.bring_forward(n, self.now + wait),
        }
        if let [Finished::Done { depth }] = finished.as_slice()
            && *depth <= self.supply.low_water()
        {
            self.top_up(usize::try_from(device.no.0)?).await?;
        }
        Ok(())
    }
}

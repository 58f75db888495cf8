//! Plays a sequence of calls to two servers' views of a store in turn, and compares.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use carillon::campaign::{CampaignEvent, CampaignStatus};
use carillon::clock::Time;
use carillon::consent::NewSuppression;
use carillon::device::PaceUpdate;
use carillon::id::MessageId;
use carillon::message::{self, Counts, MessageStatus, Reason, Settled, Settlement};
use carillon::store::{RankedRun, Store, StoreError};
use carillon_tests::fleet::{Started, T0, at, audience, campaign_spec, devices, expand, launch, sent};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use proptest_state_machine::ReferenceStateMachine;

use super::turn::{Begun, Turn};
use super::{
    Answer, CONTACTS, Call, Channel, DEVICES, EXPIRY, Event, Model, Outcome, RUNS, Run, State, Work, contact_of, run_of,
};
use crate::models::Steps;

/// Each sequence has devices, contacts and campaigns of its own in the same store.
static SEQUENCES: AtomicU32 = AtomicU32::new(0);

type Stores = [Arc<dyn Store>; 2];

pub async fn play(stores: &Stores, model: Model, calls: Steps<Call>) -> TestCaseResult {
    let mut played = Played::start(&*stores[0]).await;
    let outcome = played.all(stores, model, calls).await;
    // Also after a failure: what is left would be found by the sequences that follow.
    played.tidy(&*stores[0]).await;
    outcome
}

struct Played {
    sequence: u32,
    runs: Vec<Started>,
    /// Messages that were seen to be final, and what they were.
    finals: HashMap<MessageId, (MessageStatus, Option<Time>, u32)>,
}

impl Played {
    async fn start(store: &dyn Store) -> Self {
        let sequence = SEQUENCES.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<String> = (0..DEVICES).map(|n| format!("s{sequence}-{n}")).collect();
        let nos = devices(store, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let name = format!("people-{sequence}");
        let addresses: Vec<String> = (1..=CONTACTS).map(|c| address(sequence, c)).collect();
        audience(store, &name, &addresses).await;
        let mut runs = Vec::new();
        for (priority, expires_at) in [(5, Some(at(EXPIRY))), (1, None)] {
            let mut spec = campaign_spec(&name);
            (spec.priority, spec.expires_at) = (priority, expires_at);
            let started = launch(store, &spec, &nos, T0).await;
            expand(store, &started, 3, T0).await;
            runs.push(started);
        }
        Self { sequence, runs, finals: HashMap::new() }
    }

    async fn all(&mut self, stores: &Stores, mut model: Model, calls: Steps<Call>) -> TestCaseResult {
        self.compare(&*stores[0], &model).await?;
        for (n, call) in calls.enumerate() {
            let before = model.clone();
            model = Model::apply(model, &call);
            self.call(&*stores[n % 2], &call, &before, &model).await?;
            self.compare(&*stores[(n + 1) % 2], &model).await?;
        }
        for (m, message) in model.messages.iter().enumerate() {
            let kept = stores[0].attempts(self.message(m)).await.unwrap();
            let kept: Vec<u32> = kept.iter().map(|a| a.attempt).collect();
            prop_assert_eq!(kept, message.kept.iter().copied().collect::<Vec<_>>(), "attempts of message {}", m);
        }
        Ok(())
    }

    async fn tidy(&self, store: &dyn Store) {
        for device in &self.runs[0].devices {
            let left = store.in_flight(Some(*device), None, 10, at(0), Duration::ZERO).await.unwrap();
            for left in left {
                let s = self.runs.iter().find(|s| s.run.key == left.message.run()).expect("a run of this sequence");
                let end = Settlement {
                    message: left.message,
                    device: left.device,
                    token: left.token,
                    attempt: left.attempt,
                    versions: s.versions,
                    outcome: sent(),
                    started_at: T0,
                    finished_at: T0,
                    pace: None,
                    suppress: None,
                    sequence: None,
                    receipt: None,
                };
                // What has failed already is the finding, not what follows from it.
                let _ = store.settle(&[end]).await;
            }
        }
        for started in &self.runs {
            let status = store.campaign(started.campaign).await.unwrap().expect("a campaign").status;
            if !status.is_final() {
                store.move_campaign(started.campaign, status, CampaignEvent::Cancel, None, at(0)).await.unwrap();
            }
            close(store, started, MessageStatus::Cancelled, at(0)).await;
        }
    }

    fn message(&self, m: usize) -> MessageId {
        self.runs[run_of(m)].message(contact_of(m))
    }

    fn suppression(&self, contact: u32, channel: Option<Channel>) -> NewSuppression {
        let channel = channel.map(|c| channel_name(c).to_owned());
        NewSuppression { address: address(self.sequence, contact), channel, reason: "opted-out".into() }
    }

    async fn call(&mut self, store: &dyn Store, call: &Call, before: &Model, model: &Model) -> TestCaseResult {
        let now = at(model.now);
        let answer = match call {
            Call::Turn { .. } => {
                let Answer::Turned(turn) = &model.answer else { panic!("a turn") };
                return self.turn(store, turn, now).await;
            }
            Call::Suppress { contact, channel } => {
                let added = store.suppress(&[self.suppression(*contact, *channel)], now).await.unwrap();
                Answer::Changed(Some(added.into()))
            }
            Call::Unsuppress { contact, channel } => {
                let entry = self.suppression(*contact, *channel);
                let gone = store.unsuppress(&[(entry.address, entry.channel)], now).await.unwrap();
                Answer::Changed(Some(gone.into()))
            }
            Call::Reassign { run, from } => {
                let s = &self.runs[*run];
                let moved = store.reassign(s.devices[*from], s.run.key, &[s.devices[1 - from]], 100).await.unwrap();
                Answer::Changed(Some(moved))
            }
            Call::Move { run, event } => {
                let from = match (event, before.runs[*run]) {
                    (Event::Resume, _) | (Event::Cancel | Event::Expire, Run::Paused) => CampaignStatus::Paused,
                    _ => CampaignStatus::Running,
                };
                let id = self.runs[*run].campaign;
                Answer::Moved(store.move_campaign(id, from, event_of(*event), None, now).await.unwrap().is_some())
            }
            Call::Close { run } => {
                let to = before.runs[*run].closed_as().unwrap_or(MessageStatus::Cancelled);
                Answer::Changed(Some(close(store, &self.runs[*run], to, now).await))
            }
            Call::Complete => {
                let done = store.complete_campaigns(now).await.unwrap();
                let known = |id| self.runs.iter().position(|s| s.campaign == id).expect("a campaign of this sequence");
                Answer::Completed(done.into_iter().map(known).collect())
            }
            Call::RetryFailed { run } => Answer::Changed(self.retry_failed(store, *run, before, now).await?),
            Call::Defer { messages, wait } => {
                let ids: Vec<MessageId> = messages.iter().map(|m| self.message(*m)).collect();
                Answer::Changed(Some(store.defer(&ids, at(model.now + wait), "quiet-hours").await.unwrap()))
            }
            Call::Promote => {
                let (devices, next) = store.promote_due(now, 100).await.unwrap();
                let nos = &self.runs[0].devices;
                let known = |no| nos.iter().position(|known| *known == no).expect("a device of this sequence");
                Answer::Promoted(devices.into_iter().map(known).collect(), next.map(|at| at.since(T0).as_secs()))
            }
            Call::Pass { .. } => Answer::Nothing,
        };
        prop_assert_eq!(&answer, &model.answer);
        Ok(())
    }

    /// As the operation does it.
    async fn retry_failed(
        &mut self,
        store: &dyn Store,
        run: usize,
        before: &Model,
        now: Time,
    ) -> Result<Option<u64>, TestCaseError> {
        let s = &self.runs[run];
        let again = match store.retry_failed(s.run.key, 100, now).await {
            Ok(again) => again,
            Err(StoreError::Conflict(_)) => return Ok(None),
            Err(error) => return Err(TestCaseError::fail(format!("{error:?}"))),
        };
        if again > 0 && before.runs[run] == Run::Completed {
            let moved =
                store.move_campaign(s.campaign, CampaignStatus::Completed, CampaignEvent::Reopen, None, now).await;
            prop_assert!(moved.unwrap().is_some());
        }
        self.finals.retain(|id, (status, ..)| id.run() != s.run.key || *status != MessageStatus::Failed);
        Ok(Some(again))
    }

    async fn turn(&self, store: &dyn Store, turn: &Turn, now: Time) -> TestCaseResult {
        let ends: Vec<Settlement> =
            turn.ends.iter().map(|(work, outcome, paced)| self.settlement(*work, *outcome, *paced, now)).collect();
        let claims: Vec<_> = turn
            .claims
            .iter()
            .map(|(m, d, token)| {
                let s = &self.runs[run_of(*m)];
                s.claim(self.message(*m), s.devices[*d], *token)
            })
            .collect();
        let turned = store.turn(self.runs[0].host, &ends, &claims, now).await.unwrap();
        prop_assert_eq!(&turned.applied, &turn.applied, "of {:?}", turn);
        let mut begun = Vec::new();
        for (answer, (m, ..)) in turned.begun.iter().zip(&turn.claims) {
            begun.push(match answer {
                message::Begun::Started(work) => {
                    prop_assert_eq!(work.message, self.message(*m));
                    prop_assert_eq!(&work.recipient.address, &address(self.sequence, contact_of(*m)));
                    let due_at = work.due_at.since(T0).as_secs();
                    Begun::Started { attempt: work.attempt, failures: work.failures, due_at }
                }
                message::Begun::Suppressed => Begun::Suppressed,
                message::Begun::Expired => Begun::Expired,
                message::Begun::Inactive => Begun::Inactive,
                message::Begun::Gone => Begun::Gone,
                // The model's paces are over when they are saved.
                message::Begun::DeviceBusy | message::Begun::TooSoon(_) => Begun::Busy,
            });
        }
        prop_assert_eq!(&begun, &turn.begun, "of {:?}", turn);
        Ok(())
    }

    fn settlement(&self, work: Work, outcome: Outcome, paced: bool, now: Time) -> Settlement {
        let s = &self.runs[run_of(work.message)];
        let (device, token) = (s.devices[work.device], work.token);
        let reason = Reason::new("http_400", "");
        Settlement {
            message: self.message(work.message),
            device,
            token,
            attempt: work.attempt,
            versions: s.versions,
            outcome: match outcome {
                Outcome::Sent => Settled::Sent { provider_id: None, delivered: false },
                Outcome::Delivered => Settled::Sent { provider_id: None, delivered: true },
                Outcome::Failed | Outcome::OptedOut => Settled::Failed(reason),
                Outcome::Unknown => Settled::Unknown(reason),
                Outcome::Suppressed => Settled::Suppressed,
                Outcome::Expired => Settled::Expired,
                Outcome::Retry { wait, counts } => {
                    Settled::Retry { due_at: now.plus(Duration::from_secs(wait)), counts, reason }
                }
                Outcome::Released => Settled::Released,
            },
            started_at: now,
            finished_at: now.plus(Duration::from_secs(1)),
            pace: paced.then(|| PaceUpdate { device, token, next_at: now, pace: "{}".into() }),
            suppress: (outcome == Outcome::OptedOut).then(|| self.suppression(contact_of(work.message), None)),
            sequence: None,
            receipt: None,
        }
    }

    /// Everything that can be read is what the model says.
    async fn compare(&mut self, store: &dyn Store, model: &Model) -> TestCaseResult {
        for run in 0..RUNS {
            self.compare_run(store, model, run).await?;
        }
        let now = at(model.now);
        let nos = self.runs[0].devices.clone();
        for (n, device) in model.devices.iter().enumerate() {
            let found = store.in_flight(Some(nos[n]), None, 10, now, Duration::from_secs(10)).await.unwrap();
            let found: Vec<_> = found.iter().map(|f| (f.message, f.token, f.attempt)).collect();
            let at_it = device.in_flight.map(|w| (self.message(w.message), w.token, w.attempt));
            prop_assert_eq!(found, Vec::from_iter(at_it), "in flight on device {}", n);
        }
        let active = (0..RUNS).rev().filter(|run| model.runs[*run] == Run::Running);
        let active: Vec<RankedRun> = active.map(|run| self.runs[run].ranked()).collect();
        for window in [2, 100] {
            let top = store.top_up(&nos, &active, window).await.unwrap();
            for (n, no) in nos.iter().enumerate() {
                let found = top.iter().find(|t| t.device == *no).map(|t| t.messages.clone()).unwrap_or_default();
                let found: Vec<MessageId> = found.into_iter().map(|(id, _)| id).collect();
                let ready = model.queued(n).into_iter().take(window as usize);
                let ready: Vec<MessageId> = ready.map(|m| self.message(m)).collect();
                prop_assert_eq!(found, ready, "what device {} may send", n);
            }
        }
        let ready: BTreeSet<_> = store.devices_with_ready(None, 10_000).await.unwrap().into_iter().collect();
        for n in (0..DEVICES).filter(|n| !model.ready(*n).is_empty()) {
            prop_assert!(ready.contains(&nos[n]), "device {} has messages", n);
        }
        Ok(())
    }

    async fn compare_run(&mut self, store: &dyn Store, model: &Model, run: usize) -> TestCaseResult {
        let s = &self.runs[run];
        let rows = store.messages(s.run.key, None, None, 100).await.unwrap().items;
        prop_assert_eq!(rows.len(), CONTACTS as usize);
        let mut seen = Counts::default();
        for (m, row) in Model::of_run(run).zip(&rows) {
            let (expected, status) = (&model.messages[m], model.status(m));
            let attempt = model.sending(m).map_or(expected.attempt, |work| work.attempt);
            let finished_at = match expected.state {
                State::Final { at: second, .. } => Some(at(second)),
                State::Ready | State::Deferred => None,
            };
            prop_assert_eq!(
                (row.id, row.status, row.attempt, row.failures, row.finished_at),
                (self.message(m), status, attempt, expected.failures, finished_at),
                "message {}",
                m
            );
            prop_assert_eq!(row.device.as_str(), format!("s{}-{}", self.sequence, expected.device));
            if expected.state == State::Deferred {
                prop_assert_eq!(row.due_at, Some(at(expected.due_at)), "message {}", m);
            }
            if let Some(was) = self.finals.get(&row.id) {
                prop_assert_eq!(&(row.status, row.finished_at, row.attempt), was, "message {} was final", m);
            } else if row.status.is_final() {
                self.finals.insert(row.id, (row.status, row.finished_at, row.attempt));
            }
            *seen.slot(status) += 1;
        }
        let counts = store.counts(&[s.run.key]).await.unwrap();
        prop_assert_eq!(counts, [(s.run.key, seen)], "the counts are what the rows say");
        prop_assert_eq!(seen.total(), u64::from(CONTACTS));
        let pending = Model::of_run(run).any(|m| model.is_pending(m));
        let to_close = store.runs_to_close().await.unwrap().iter().any(|(key, _)| *key == s.run.key);
        prop_assert_eq!(to_close, pending && model.runs[run].closed_as().is_some(), "what is to be closed");
        Ok(())
    }
}

fn address(sequence: u32, contact: u32) -> String {
    format!("+{sequence}-{contact}")
}

fn channel_name(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "sms",
        Channel::Push => "push",
    }
}

fn event_of(event: Event) -> CampaignEvent {
    match event {
        Event::Pause => CampaignEvent::Pause,
        Event::Resume => CampaignEvent::Resume,
        Event::Cancel => CampaignEvent::Cancel,
        Event::Expire => CampaignEvent::Expire,
    }
}

/// Page by page, and once more: an attempt that ended meanwhile may have left a message behind the pages' cursor.
async fn close(store: &dyn Store, s: &Started, to: MessageStatus, now: Time) -> u64 {
    let mut closed = 0;
    let mut idle = 0;
    while idle < 2 {
        let page = store.close_pending(s.run.key, to, 3, now).await.unwrap();
        closed += page;
        idle = if page == 0 { idle + 1 } else { 0 };
    }
    closed
}

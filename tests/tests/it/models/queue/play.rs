//! Plays a sequence of calls to a queue and compares.

use std::collections::BTreeSet;
use std::time::Duration;

use carillon::id::{DeviceId, HostId, MessageId, RunKey};
use carillon::queue::{Claimed, Disposal, Enqueue, Finish, Finished, InitialPace, Queue};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use proptest_state_machine::ReferenceStateMachine;

use super::bed::{Bed, UNIT};
use super::{Answer, Call, Claim, DEVICES, Fate, MESSAGES, Model, pace_text, run_of};
use crate::models::Steps;

pub async fn play(bed: Bed<'_>, mut model: Model, calls: Steps<Call>) -> TestCaseResult {
    let mut played = Played { bed, tokens: Vec::new(), newest: [0; DEVICES] };
    prop_assert!(played.queue().ensure_generation().await.unwrap(), "an empty queue has no generation");
    for call in calls {
        model = Model::apply(model, &call);
        played.call(&call, &model).await?;
        played.compare(&model).await?;
    }
    played.drain(&model).await
}

struct Played<'a> {
    bed: Bed<'a>,
    /// Of each lease that the model knows.
    tokens: Vec<i64>,
    /// The largest of each device.
    newest: [i64; DEVICES],
}

fn device(n: usize) -> DeviceId {
    format!("device-{n}").parse().unwrap()
}

fn devices() -> Vec<DeviceId> {
    (0..DEVICES).map(device).collect()
}

fn message(n: u8) -> MessageId {
    MessageId::new(RunKey(RunKey::MIN + i32::from(run_of(n))), u32::from(n % (MESSAGES / 2)) + 1)
}

fn messages(of: &[(u8, i64)]) -> Vec<(MessageId, i64)> {
    of.iter().map(|(m, rank)| (message(*m), *rank)).collect()
}

/// Whether a wait is so many units, but for what the sequence itself has taken.
fn is_about(wait: Duration, units: u32) -> bool {
    wait <= UNIT * units && wait + UNIT / 2 > UNIT * units
}

impl Played<'_> {
    fn queue(&self) -> &dyn Queue {
        &*self.bed.servers[0]
    }

    async fn call(&mut self, call: &Call, model: &Model) -> TestCaseResult {
        let queue = self.bed.servers[0].clone();
        match call {
            Call::Enqueue { device: d, messages: of, next_in, pace } => {
                let initial = InitialPace { next_in: UNIT * *next_in, pace: pace_text(*pace) };
                let batch = [Enqueue { device: device(*d), messages: messages(of), initial }];
                let depths = queue.enqueue(&batch).await.unwrap();
                prop_assert_eq!(Answer::Depth(depths[0]), model.answer.clone());
            }
            Call::Claim { server, lease, burst, .. } => self.claim(*server, *lease, *burst, model).await?,
            Call::Serve { server, lease, burst } => {
                self.ready(*server, *lease, model).await?;
                self.claim(*server, *lease, *burst, model).await?;
            }
            Call::Hide { server, lease } => self.ready(*server, *lease, model).await?,
            Call::Renew { ago, lease } => {
                let Some(held) = model.lease(*ago) else { return Ok(()) };
                let lease_of = (device(model.leases[held].device), self.tokens[held]);
                let renewed = queue.renew(&[lease_of], UNIT * *lease).await.unwrap();
                prop_assert_eq!(Answer::Held(renewed[0]), model.answer.clone());
            }
            Call::Finish { ago, fates, next_in, pace } => {
                let Some(held) = model.lease(*ago) else { return Ok(()) };
                let lease = &model.leases[held];
                let end = Finish {
                    device: device(lease.device),
                    token: self.tokens[held],
                    messages: disposals(&lease.fates(fates)),
                    next_in: UNIT * *next_in,
                    pace: pace.map(pace_text),
                };
                let finished = match queue.finish(&[end]).await.unwrap()[..] {
                    [Finished::Done { depth }] => Some(depth),
                    _ => None,
                };
                prop_assert_eq!(Answer::Finished(finished), model.answer.clone());
            }
            Call::Adopt { ago, fates } => {
                let Some(held) = model.lease(*ago) else { return Ok(()) };
                let lease = &model.leases[held];
                let disposals = disposals(&lease.fates(fates));
                let adopted = queue.adopt(&device(lease.device), self.tokens[held], &disposals).await.unwrap();
                prop_assert_eq!(Answer::Held(adopted), model.answer.clone());
            }
            Call::Hold { device: d, wait } => queue.hold(&[device(*d)], UNIT * *wait).await.unwrap(),
            Call::Unhold { device: d } => queue.unhold(&[device(*d)]).await.unwrap(),
            Call::Clear { run } => {
                let key = RunKey(RunKey::MIN + i32::from(*run));
                for d in devices() {
                    let mut queued = queue.queued(&d).await.unwrap();
                    queued.retain(|id| id.run() == key);
                    queue.discard(&d, &queued).await.unwrap();
                }
            }
            Call::Pass { units } => self.bed.pass(*units).await,
            Call::Lose => {
                self.bed.lose().await;
                prop_assert!(self.bed.servers[1].ensure_generation().await.unwrap(), "a loss is noticed");
                prop_assert!(!self.queue().ensure_generation().await.unwrap(), "once");
                let Answer::Refill(refill) = &model.answer else { panic!("a refill") };
                let batch = refill.iter().enumerate().map(|(d, (of, wait, pace))| Enqueue {
                    device: device(d),
                    messages: messages(of),
                    initial: InitialPace { next_in: UNIT * *wait, pace: pace.clone() },
                });
                self.queue().enqueue(&batch.collect::<Vec<_>>()).await.unwrap();
            }
        }
        Ok(())
    }

    async fn ready(&self, server: usize, lease: u32, model: &Model) -> TestCaseResult {
        let Answer::Claims { ready: must, .. } = &model.answer else { panic!("claims") };
        let ready = self.bed.servers[server].ready(100, UNIT * lease).await.unwrap().devices;
        let told: BTreeSet<&DeviceId> = ready.iter().collect();
        prop_assert_eq!(told.len(), ready.len(), "each once");
        for d in must {
            prop_assert!(told.contains(&device(*d)), "device {} may send, and nobody is told: {:?}", d, ready);
        }
        Ok(())
    }

    async fn claim(&mut self, server: usize, lease: u32, burst: u32, model: &Model) -> TestCaseResult {
        let Answer::Claims { claims, .. } = &model.answer else { panic!("claims") };
        let wanted: Vec<DeviceId> = claims.iter().map(|(d, _)| device(*d)).collect();
        let queue = self.bed.servers[server].clone();
        let answers = queue.claim(HostId::new(), &wanted, UNIT * lease, burst).await.unwrap();
        prop_assert_eq!(answers.len(), claims.len());
        for ((d, expected), answer) in claims.iter().zip(answers) {
            let token = match (answer, expected) {
                (Claimed::Empty, Claim::Empty) => continue,
                (Claimed::NotYet(wait), Claim::NotYet(units)) if is_about(wait, *units) => continue,
                (Claimed::Orphans { token, messages: got }, Claim::Orphans(orphans)) => {
                    let got: BTreeSet<MessageId> = got.into_iter().collect();
                    prop_assert_eq!(got, orphans.iter().map(|m| message(*m)).collect());
                    token
                }
                (
                    Claimed::Messages { messages: got, token, pace: kept, depth: left },
                    Claim::Messages { messages: first, pace, depth },
                ) => {
                    prop_assert_eq!(got, messages(first));
                    prop_assert_eq!((&kept, left), (pace, *depth));
                    token
                }
                (answer, _) => {
                    return Err(TestCaseError::fail(format!("device {d} should give {expected:?}, not {answer:?}")));
                }
            };
            prop_assert!(token > self.newest[*d], "token {} after {}", token, self.newest[*d]);
            self.newest[*d] = token;
            self.tokens.push(token);
        }
        Ok(())
    }

    /// What each device holds is what the model says.
    async fn compare(&self, model: &Model) -> TestCaseResult {
        let queue = self.queue();
        for (n, (expected, depth)) in model.devices.iter().zip(queue.depths(&devices()).await.unwrap()).enumerate() {
            let queued = queue.queued(&device(n)).await.unwrap();
            let order: Vec<MessageId> = expected.waiting.iter().map(|(_, m)| message(*m)).collect();
            prop_assert_eq!(queued, order, "waiting on device {}", n);
            let processing = expected.processing.len();
            prop_assert_eq!(depth.processing as usize, processing, "in processing on device {}", n);
            prop_assert_eq!((depth.queued, depth.leased), (expected.depth(), expected.leased(model.now)));
            let wait = expected.next_at.saturating_sub(model.now);
            prop_assert!(is_about(Duration::from_millis(depth.next_in_ms), wait), "{:?} for {} units", depth, wait);
        }
        let busy = model.devices.iter().filter(|d| d.has_something()).count();
        let standing = queue.ready_count().await.unwrap() as usize;
        prop_assert!(standing >= busy, "{} devices with messages, {} on the ready index", busy, standing);
        Ok(())
    }

    /// Whatever is still there comes out, to who only takes what is ready.
    async fn drain(&self, model: &Model) -> TestCaseResult {
        let queue = self.queue();
        let mut out = vec![Vec::new(); DEVICES];
        for _ in 0..=2 * usize::from(MESSAGES) {
            // Longer than any wait and lease.
            self.bed.pass(100).await;
            let ready = queue.ready(100, UNIT).await.unwrap().devices;
            let claims = queue.claim(HostId::new(), &ready, UNIT, 2).await.unwrap();
            for (d, claimed) in ready.iter().zip(claims) {
                let n = devices().iter().position(|known| known == d).expect("a known device");
                match claimed {
                    Claimed::Messages { messages, token, .. } => {
                        out[n].extend(messages.iter().map(|(id, _)| *id));
                        let messages = messages.into_iter().map(|(id, _)| (id, Disposal::Drop)).collect();
                        let end = Finish { device: d.clone(), token, messages, next_in: Duration::ZERO, pace: None };
                        queue.finish(&[end]).await.unwrap();
                    }
                    Claimed::Orphans { token, mut messages } => {
                        messages.sort_unstable();
                        out[n].extend(&messages);
                        let messages: Vec<_> = messages.into_iter().map(|id| (id, Disposal::Drop)).collect();
                        prop_assert!(queue.adopt(d, token, &messages).await.unwrap());
                    }
                    Claimed::Empty => {}
                    Claimed::NotYet(wait) => {
                        return Err(TestCaseError::fail(format!("{d} waits for {wait:?} after everything has passed")));
                    }
                }
            }
        }
        for (n, (expected, out)) in model.devices.iter().zip(out).enumerate() {
            let held = expected.processing.keys().chain(expected.waiting.iter().map(|(_, m)| m));
            prop_assert_eq!(out, held.map(|m| message(*m)).collect::<Vec<_>>(), "what came out of device {}", n);
        }
        prop_assert_eq!(queue.ready_count().await.unwrap(), 0, "nothing waits");
        Ok(())
    }
}

fn disposals(fates: &[(u8, i64, Fate)]) -> Vec<(MessageId, Disposal)> {
    let disposal = |(m, rank, fate): &(u8, i64, Fate)| match fate {
        Fate::Drop => Some((message(*m), Disposal::Drop)),
        Fate::PutBack => Some((message(*m), Disposal::PutBack(*rank))),
        Fate::Leave => None,
    };
    fates.iter().filter_map(disposal).collect()
}

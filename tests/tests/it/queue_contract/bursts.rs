//! Claims of several messages under one lease.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use carillon::id::{DeviceId, HostId, MessageId};
use carillon::queue::{Claimed, Disposal, Finish, Finished, Queue, QueueDepth};

use super::bed::Bed;
use super::{LONG, SHORT, batch, claim, depth, device, done, ended, finish, message, take, take_orphans};

async fn claim_burst(queue: &Arc<dyn Queue>, device: &DeviceId, lease: Duration, burst: u32) -> Claimed {
    queue.claim(HostId::new(), std::slice::from_ref(device), lease, burst).await.unwrap().remove(0)
}

/// Claims messages that must be there; each with its rank, then the token and how many are left.
async fn take_burst(
    queue: &Arc<dyn Queue>,
    device: &DeviceId,
    lease: Duration,
    burst: u32,
) -> (Vec<(MessageId, i64)>, i64, u32) {
    match claim_burst(queue, device, lease, burst).await {
        Claimed::Messages { messages, token, depth, .. } => (messages, token, depth),
        other => panic!("expected messages, got {other:?}"),
    }
}

/// A device with messages 1 to `count`, each ranked as its number, that is eager: it has sent message 0 without a delay.
async fn eager(bed: &Bed, n: usize, count: u32) -> DeviceId {
    let d = device(n);
    bed.queue.enqueue(&batch(&d, (0..=count).map(|n| (n, n.into())))).await.unwrap();
    let (first, token) = take(&bed.queue, &d, LONG).await;
    assert_eq!(finish(&bed.queue, done(&d, token, first)).await, Finished::Done { depth: count });
    d
}

fn ids(messages: &[(MessageId, i64)]) -> Vec<MessageId> {
    messages.iter().map(|(id, _)| *id).collect()
}

fn dropped(messages: &[(MessageId, i64)]) -> Vec<(MessageId, Disposal)> {
    messages.iter().map(|(id, _)| (*id, Disposal::Drop)).collect()
}

fn held(queued: u32, processing: u32) -> QueueDepth {
    QueueDepth { queued, processing, next_in_ms: 0, leased: true }
}

pub async fn a_burst_is_for_an_eager_device(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, (1..=20).map(|n| (n, 1)))).await.unwrap();
    // Never finished: nobody knows its pace.
    let (messages, token, left) = take_burst(queue, &d, LONG, 4).await;
    assert_eq!((messages.len(), left), (1, 19));
    finish(queue, ended(&d, token, dropped(&messages))).await;
    let (messages, token, left) = take_burst(queue, &d, LONG, 4).await;
    assert_eq!((ids(&messages), left), ([2, 3, 4, 5].map(message).to_vec(), 15));
    assert_eq!(depth(queue, &d).await, held(15, 4));
    let Claimed::NotYet(_) = claim_burst(&bed.other().await, &d, LONG, 4).await else { panic!() };
    // It must wait: after that it is not eager.
    let paced = Finish { next_in: Duration::from_millis(1), ..ended(&d, token, dropped(&messages)) };
    assert_eq!(finish(queue, paced).await, Finished::Done { depth: 15 });
    let (messages, token) = bed
        .until("its wait ends", async || match claim_burst(queue, &d, LONG, 4).await {
            Claimed::Messages { messages, token, .. } => Some((messages, token)),
            _ => None,
        })
        .await;
    assert_eq!(ids(&messages), [message(6)]);
    finish(queue, ended(&d, token, dropped(&messages))).await;
    // Eager again; an eager device gives one message to whoever wants one, or none at all.
    for burst in [1, 0] {
        let (messages, token, _) = take_burst(queue, &d, LONG, burst).await;
        assert_eq!(messages.len(), 1);
        finish(queue, ended(&d, token, dropped(&messages))).await;
    }
    // More than there are.
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    let (messages, token, left) = take_burst(queue, &d, LONG, 100).await;
    assert_eq!((messages.len(), left), (12, 0));
    assert_eq!(finish(queue, ended(&d, token, dropped(&messages))).await, Finished::Done { depth: 0 });
    assert_eq!(queue.ready_count().await.unwrap(), 0);
    assert_eq!(claim_burst(queue, &d, LONG, 4).await, Claimed::Empty);
}

pub async fn a_burst_keeps_the_order(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 0).await);
    queue.enqueue(&batch(&d, [(9, 2), (10, 2), (100, 1), (1, 1 << 52), (3, -5)])).await.unwrap();
    let (messages, token, left) = take_burst(queue, &d, LONG, 3).await;
    assert_eq!(messages, [(message(3), -5), (message(100), 1), (message(9), 2)]);
    assert_eq!(left, 2);
    assert_eq!(finish(queue, ended(&d, token, dropped(&messages))).await, Finished::Done { depth: 2 });
    let (messages, ..) = take_burst(queue, &d, LONG, 3).await;
    assert_eq!(messages, [(message(10), 2), (message(1), 1 << 52)]);
}

pub async fn the_rest_of_a_burst_goes_back_to_its_place(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 8).await);
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    let (messages, token, _) = take_burst(queue, &d, LONG, 5).await;
    // Two were sent, the third is throttled: it and the rest wait.
    let disposals = messages
        .iter()
        .enumerate()
        .map(|(n, (id, rank))| (*id, if n < 2 { Disposal::Drop } else { Disposal::PutBack(*rank) }));
    let throttled = Finish { next_in: SHORT, pace: Some("throttled".into()), ..ended(&d, token, disposals) };
    assert_eq!(finish(queue, throttled).await, Finished::Done { depth: 6 });
    assert_eq!(queue.queued(&d).await.unwrap(), [3, 4, 5, 6, 7, 8].map(message));
    let after = depth(queue, &d).await;
    assert!(after.processing == 0 && !after.leased && after.next_in_ms > 0, "{after:?}");
    let start = bed.now();
    bed.until("the wait ends", async || queue.ready(5, LONG).await.unwrap().devices.pop()).await;
    assert!(bed.now() - start <= LONG / 2);
    let Claimed::Messages { messages, token, pace, .. } = claim_burst(queue, &d, LONG, 5).await else { panic!() };
    assert_eq!((ids(&messages), pace.as_str()), (vec![message(3)], "throttled"));
    // All of it back, at once.
    let back = ended(&d, token, [(message(3), Disposal::PutBack(3))]);
    assert_eq!(finish(queue, back).await, Finished::Done { depth: 6 });
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    assert_eq!(ids(&take_burst(queue, &d, LONG, 5).await.0), [3, 4, 5, 6, 7].map(message));
}

pub async fn orphans_of_a_burst_are_all_adopted(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 6).await);
    let (taken, old, _) = take_burst(queue, &d, SHORT, 4).await;
    let (orphans, token) = take_orphans(bed, &d).await;
    assert_eq!(orphans, ids(&taken));
    assert!(token > old);
    let disposals: Vec<_> = [1, 2, 3, 4]
        .map(|n| (message(n), if n % 2 == 0 { Disposal::PutBack(n.into()) } else { Disposal::Drop }))
        .to_vec();
    assert!(!queue.adopt(&d, old, &disposals).await.unwrap());
    for _ in 0..2 {
        assert!(queue.adopt(&d, token, &disposals).await.unwrap());
        assert_eq!(queue.queued(&d).await.unwrap(), [2, 4, 5, 6].map(message));
        assert_eq!(depth(queue, &d).await, QueueDepth { queued: 4, ..QueueDepth::default() });
    }
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    // Its owner died: it is tried with one message.
    assert_eq!(ids(&take_burst(queue, &d, LONG, 4).await.0), [message(2)]);
}

pub async fn a_stale_finish_of_a_burst_changes_nothing(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 6).await);
    let (taken, stale, _) = take_burst(queue, &d, SHORT, 4).await;
    let (orphans, token) = take_orphans(bed, &d).await;
    let before = depth(queue, &d).await;
    let late = Finish { next_in: LONG, pace: Some("stale".into()), ..ended(&d, stale, dropped(&taken)) };
    assert_eq!(finish(queue, late).await, Finished::LeaseLost);
    let back = ended(&d, stale, taken.iter().map(|(id, rank)| (*id, Disposal::PutBack(*rank))));
    assert_eq!(finish(queue, back).await, Finished::LeaseLost);
    assert_eq!(queue.renew(&[(d.clone(), stale)], LONG * 2).await.unwrap(), [false]);
    assert_eq!(depth(queue, &d).await, before);
    assert_eq!((before.queued, before.processing), (2, 4));
    assert_eq!(queue.queued(&d).await.unwrap(), [5, 6].map(message));
    let drop: Vec<_> = orphans.into_iter().map(|id| (id, Disposal::Drop)).collect();
    assert!(queue.adopt(&d, token, &drop).await.unwrap());
    let Claimed::Messages { pace, .. } = claim(queue, &d, LONG).await else { panic!() };
    assert_eq!(pace, "");
}

pub async fn a_burst_may_be_finished_again(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 6).await);
    let (taken, token, _) = take_burst(queue, &d, LONG, 4).await;
    let disposals = taken
        .iter()
        .enumerate()
        .map(|(n, (id, rank))| (*id, if n < 1 { Disposal::Drop } else { Disposal::PutBack(*rank) }));
    let end = Finish { pace: Some("first".into()), ..ended(&d, token, disposals) };
    for _ in 0..3 {
        assert_eq!(finish(queue, end.clone()).await, Finished::Done { depth: 5 });
        assert_eq!(queue.queued(&d).await.unwrap(), [2, 3, 4, 5, 6].map(message));
        assert_eq!(queue.ready_count().await.unwrap(), 1);
    }
    // A repeat that says something else is still a repeat.
    let other = Finish { next_in: LONG, pace: Some("second".into()), ..end.clone() };
    assert_eq!(finish(queue, other).await, Finished::Done { depth: 5 });
    assert_eq!(queue.renew(&[(d.clone(), token)], LONG).await.unwrap(), [false], "a released lease is over");
    let Claimed::Messages { messages, pace, .. } = claim_burst(queue, &d, LONG, 9).await else { panic!() };
    assert_eq!((ids(&messages), pace.as_str()), ([2, 3, 4, 5, 6].map(message).to_vec(), "first"));
    // Nor does it touch what has been claimed since.
    assert_eq!(finish(queue, end).await, Finished::LeaseLost);
    assert_eq!(depth(queue, &d).await, held(0, 5));
}

pub async fn what_a_finish_leaves_out_is_an_orphan(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 3).await);
    let (_, token, _) = take_burst(queue, &d, LONG, 3).await;
    let part = ended(&d, token, [(message(2), Disposal::Drop)]);
    for _ in 0..2 {
        assert_eq!(finish(queue, part.clone()).await, Finished::Done { depth: 0 });
        let rest = QueueDepth { queued: 0, processing: 2, next_in_ms: 0, leased: false };
        assert_eq!(depth(queue, &d).await, rest);
        assert_eq!(queue.renew(&[(d.clone(), token)], LONG).await.unwrap(), [false]);
    }
    // Meanwhile they are not added again, and the device is looked at.
    assert_eq!(queue.enqueue(&batch(&d, [(1, 1), (3, 3)])).await.unwrap(), [0]);
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    let Claimed::Orphans { token, messages } = claim_burst(queue, &d, LONG, 3).await else { panic!() };
    assert_eq!(messages, [1, 3].map(message));
    assert!(queue.adopt(&d, token, &[(message(1), Disposal::PutBack(1))]).await.unwrap());
    let Claimed::Orphans { token, messages } = claim_burst(queue, &d, LONG, 3).await else { panic!() };
    assert_eq!(messages, [message(3)]);
    assert!(queue.adopt(&d, token, &[(message(3), Disposal::Drop)]).await.unwrap());
    assert_eq!(ids(&take_burst(queue, &d, LONG, 3).await.0), [message(1)]);
    assert_eq!(depth(queue, &d).await, held(0, 1));
}

pub async fn a_hold_ends_eagerness(bed: &Bed) {
    let (queue, d) = (&bed.queue, eager(bed, 1, 9).await);
    queue.hold(std::slice::from_ref(&d), LONG).await.unwrap();
    queue.unhold(std::slice::from_ref(&d)).await.unwrap();
    let (messages, token, _) = take_burst(queue, &d, LONG, 5).await;
    assert_eq!(messages.len(), 1);
    // A hold that comes during the send counts as a wait, too.
    queue.hold(std::slice::from_ref(&d), LONG).await.unwrap();
    finish(queue, ended(&d, token, dropped(&messages))).await;
    queue.unhold(std::slice::from_ref(&d)).await.unwrap();
    let (messages, token, _) = take_burst(queue, &d, LONG, 5).await;
    assert_eq!(messages.len(), 1);
    finish(queue, ended(&d, token, dropped(&messages))).await;
    assert_eq!(take_burst(queue, &d, LONG, 5).await.0.len(), 5);
}

/// Takes what it can get, gives back what it does not want, and sometimes dies holding it; meanwhile another looks at
/// queue and processing, and at every moment they hold together what nobody has dropped.
pub async fn no_message_is_lost_between_queue_and_processing(bed: &Bed) {
    const EACH: u32 = 60;
    let devices: Vec<DeviceId> = (0..4).map(device).collect();
    for d in &devices {
        bed.queue.enqueue(&batch(d, (0..EACH).map(|n| (n, n.into())))).await.unwrap();
    }
    let mut waiting: Vec<BTreeSet<MessageId>> = vec![(0..EACH).map(message).collect(); devices.len()];
    let mut step = 0_u32;
    while waiting.iter().any(|w| !w.is_empty()) {
        step += 1;
        assert!(step < 3000, "no end: {waiting:?}");
        let n = step as usize % devices.len();
        let (d, queue) = (&devices[n], &bed.queue);
        let lease = if step.is_multiple_of(7) { Duration::from_millis(5) } else { LONG };
        match claim_burst(queue, d, lease, step % 9).await {
            // This holder dies.
            Claimed::Messages { .. } if step.is_multiple_of(7) => {}
            Claimed::Messages { messages, token, .. } => {
                let keep = messages.len().div_ceil(2);
                let disposals: Vec<_> = messages
                    .iter()
                    .enumerate()
                    .map(|(n, (id, rank))| (*id, if n < keep { Disposal::Drop } else { Disposal::PutBack(*rank) }))
                    .collect();
                messages.iter().take(keep).for_each(|(id, _)| assert!(waiting[n].remove(id), "{id} was sent twice"));
                let finished = finish(queue, ended(d, token, disposals)).await;
                assert_eq!(finished, Finished::Done { depth: waiting[n].len() as u32 });
            }
            Claimed::Orphans { token, messages } => {
                let back: Vec<_> = messages.iter().map(|id| (*id, Disposal::PutBack(id.contact().into()))).collect();
                assert!(queue.adopt(d, token, &back).await.unwrap());
            }
            Claimed::NotYet(_) => {
                bed.until("time passes", async || (!depth(queue, d).await.leased).then_some(())).await;
            }
            Claimed::Empty => assert_eq!(waiting[n], BTreeSet::new()),
        }
        let now = depth(queue, d).await;
        assert_eq!((now.queued + now.processing) as usize, waiting[n].len(), "step {step}: {now:?}");
        let queued = queue.queued(d).await.unwrap();
        assert!(queued.is_sorted() && queued.iter().all(|id| waiting[n].contains(id)), "step {step}: {queued:?}");
    }
    for d in &devices {
        assert_eq!(depth(&bed.queue, d).await, QueueDepth::default());
    }
}

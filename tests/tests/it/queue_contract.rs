//! The contract of [`Queue`]: the same tests for the in-process queue, for one Redis and for a cluster of three.

// `[d.clone()]` reads better than `std::slice::from_ref(&d)` in what is expected.
#![allow(clippy::cloned_ref_to_slice_refs)]

mod bed;
mod bursts;
mod redis_only;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use carillon::clock::Time;
use carillon::id::{DeviceId, HostId, MessageId, RunKey};
use carillon::queue::{
    Claimed, Disposal, Enqueue, Finish, Finished, InitialPace, MetricsDelta, Queue, QueueDepth, Wake,
};
use parking_lot::Mutex;

use self::bed::Bed;
use self::bursts::*;

/// A lease that does not run out during a test.
const LONG: Duration = Duration::from_secs(600);
/// A lease that a test waits for.
const SHORT: Duration = Duration::from_millis(200);

macro_rules! contract {
    ($($name:ident)*) => {
        mod memory { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::Bed::memory().await).await })* }
        mod redis { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::Bed::redis().await).await })* }
        mod redis_cluster { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::Bed::cluster().await).await })* }
    };
}

contract! {
    the_order_is_by_rank_then_by_id
    adding_again_changes_nothing
    big_batches_are_taken
    the_initial_pace_counts_only_for_unknown_devices
    claims_are_exclusive
    a_leased_device_cannot_be_claimed
    orphans_of_an_expired_lease_are_adopted
    a_lost_claim_loses_no_message
    a_stale_finish_changes_nothing
    finish_and_adopt_may_be_repeated
    a_message_that_is_put_back_keeps_its_place
    finish_keeps_the_pace_and_the_wait
    renew_extends_a_lease
    a_hold_never_shortens_a_wait
    a_hold_outlives_the_finish_of_the_holder
    unhold_makes_ready_at_once
    ready_hides_devices_and_they_come_back
    ready_gives_the_longest_due_first
    ready_respects_its_limit
    ready_says_when_the_next_is_due
    what_is_empty_is_off_the_ready_index
    no_device_is_left_behind_by_finish_and_enqueue
    no_device_is_left_behind_by_an_empty_claim_and_enqueue
    an_enqueue_of_nothing_puts_a_waiting_device_on_the_index
    messages_can_be_discarded_but_not_from_processing
    the_generation_is_made_once
    metrics_add_up
    wake_ups_reach_everybody
    an_operators_limit_on_workers_outlives_servers_that_start
    a_healthy_queue_has_no_warnings
    a_message_costs_few_commands
    a_burst_is_for_an_eager_device
    a_burst_keeps_the_order
    the_rest_of_a_burst_goes_back_to_its_place
    orphans_of_a_burst_are_all_adopted
    a_stale_finish_of_a_burst_changes_nothing
    a_burst_may_be_finished_again
    what_a_finish_leaves_out_is_an_orphan
    a_hold_ends_eagerness
    no_message_is_lost_between_queue_and_processing
}

fn device(n: usize) -> DeviceId {
    format!("device-{n}").parse().unwrap()
}

fn message(n: u32) -> MessageId {
    MessageId::new(RunKey(RunKey::MIN + 7), n)
}

fn batch(device: &DeviceId, messages: impl IntoIterator<Item = (u32, i64)>) -> Vec<Enqueue> {
    let messages = messages.into_iter().map(|(n, rank)| (message(n), rank)).collect();
    vec![Enqueue { device: device.clone(), messages, initial: InitialPace::default() }]
}

fn done(device: &DeviceId, token: i64, message: MessageId) -> Finish {
    ended(device, token, [(message, Disposal::Drop)])
}

fn ended(device: &DeviceId, token: i64, messages: impl IntoIterator<Item = (MessageId, Disposal)>) -> Finish {
    let messages = messages.into_iter().collect();
    Finish { device: device.clone(), token, messages, next_in: Duration::ZERO, pace: None }
}

async fn claim(queue: &Arc<dyn Queue>, device: &DeviceId, lease: Duration) -> Claimed {
    queue.claim(HostId::new(), std::slice::from_ref(device), lease, 1).await.unwrap().remove(0)
}

/// The only message of a claim.
fn only(messages: &[(MessageId, i64)]) -> MessageId {
    assert_eq!(messages.len(), 1);
    messages[0].0
}

/// Claims a message that must be there.
async fn take(queue: &Arc<dyn Queue>, device: &DeviceId, lease: Duration) -> (MessageId, i64) {
    match claim(queue, device, lease).await {
        Claimed::Messages { messages, token, .. } => (only(&messages), token),
        other => panic!("expected a message, got {other:?}"),
    }
}

/// Claims the device, whose lease must run out for that, and gives its orphans.
async fn take_orphans(bed: &Bed, device: &DeviceId) -> (Vec<MessageId>, i64) {
    bed.until("the lease runs out", async || match claim(&bed.queue, device, LONG).await {
        Claimed::NotYet(_) => None,
        Claimed::Orphans { token, messages } => Some((messages, token)),
        other => panic!("{other:?}"),
    })
    .await
}

async fn finish(queue: &Arc<dyn Queue>, finish: Finish) -> Finished {
    queue.finish(&[finish]).await.unwrap().remove(0)
}

async fn depth(queue: &Arc<dyn Queue>, device: &DeviceId) -> QueueDepth {
    queue.depths(std::slice::from_ref(device)).await.unwrap().remove(0)
}

async fn the_order_is_by_rank_then_by_id(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    let high = (9_i64 << 43) | ((1 << 43) - 1);
    let depths =
        queue.enqueue(&batch(&d, [(9, 2), (10, 2), (100, 1), (1, high), (2, high - 1), (3, -5)])).await.unwrap();
    assert_eq!(depths, [6]);
    let order = [3, 100, 9, 10, 2, 1].map(message);
    assert_eq!(queue.queued(&d).await.unwrap(), order);
    let ranks = [-5, 1, 2, 2, high - 1, high];
    for (n, (expected, expected_rank)) in order.into_iter().zip(ranks).enumerate() {
        let Claimed::Messages { messages, token, pace, depth } = claim(queue, &d, LONG).await else { panic!() };
        assert_eq!(messages, [(expected, expected_rank)]);
        assert_eq!((depth, pace.as_str()), (5 - n as u32, ""));
        assert_eq!(finish(queue, done(&d, token, expected)).await, Finished::Done { depth: 5 - n as u32 });
    }
    assert_eq!(claim(queue, &d, LONG).await, Claimed::Empty);
}

async fn adding_again_changes_nothing(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2)])).await.unwrap();
    let (first, token) = take(queue, &d, LONG).await;
    assert_eq!(first, message(1));
    // In processing, and in the queue with another rank: both stay as they are.
    assert_eq!(queue.enqueue(&batch(&d, [(1, 5), (2, 0), (3, 1)])).await.unwrap(), [2]);
    assert_eq!(queue.queued(&d).await.unwrap(), [message(3), message(2)]);
    assert_eq!(depth(queue, &d).await, QueueDepth { queued: 2, processing: 1, next_in_ms: 0, leased: true });
    assert_eq!(finish(queue, done(&d, token, first)).await, Finished::Done { depth: 2 });
}

async fn big_batches_are_taken(bed: &Bed) {
    let all: Vec<Enqueue> =
        (0..100).flat_map(|d| batch(&device(d), (0..100).map(|n| (d as u32 * 1000 + n, 1)))).collect();
    assert_eq!(bed.queue.enqueue(&all).await.unwrap(), [100; 100]);
    assert_eq!(bed.queue.enqueue(&all).await.unwrap(), [100; 100]);
    assert_eq!(bed.queue.ready_count().await.unwrap(), 100);
    let one = batch(&device(200), (0..5000).map(|n| (n, 1)));
    assert_eq!(bed.queue.enqueue(&one).await.unwrap(), [5000]);
    assert_eq!(bed.queue.ready(1000, LONG).await.unwrap().devices.len(), 101);
    assert_eq!(bed.queue.enqueue(&[]).await.unwrap(), Vec::<u32>::new());
    assert_eq!(bed.queue.claim(HostId::new(), &[], LONG, 1).await.unwrap(), []);
}

async fn the_initial_pace_counts_only_for_unknown_devices(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    let mut first = batch(&d, [(1, 1)]);
    first[0].initial = InitialPace { next_in: SHORT, pace: "saved".into() };
    let start = bed.now();
    queue.enqueue(&first).await.unwrap();
    first[0].initial = InitialPace { next_in: LONG, pace: "other".into() };
    queue.enqueue(&first).await.unwrap();
    let claimed = bed
        .until("the first wait ends", async || match claim(queue, &d, LONG).await {
            Claimed::NotYet(wait) => {
                assert!(wait <= SHORT, "{wait:?}");
                None
            }
            other => Some(other),
        })
        .await;
    assert!(bed.now() - start >= SHORT - Duration::from_millis(2));
    assert!(matches!(claimed, Claimed::Messages { pace, .. } if pace == "saved"));
}

async fn claims_are_exclusive(bed: &Bed) {
    const DEVICES: usize = 12;
    const EACH: u32 = 10;
    let all: Vec<Enqueue> =
        (0..DEVICES).flat_map(|d| batch(&device(d), (0..EACH).map(|n| (d as u32 * 1000 + n, 1)))).collect();
    bed.queue.enqueue(&all).await.unwrap();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let held = Arc::new(Mutex::new(HashSet::new()));
    let tokens = Arc::new(Mutex::new(BTreeMap::new()));
    let mut claimers = Vec::new();
    for n in 0..8 {
        let queue = if n % 2 == 0 { bed.queue.clone() } else { bed.other().await };
        let (seen, held, tokens) = (seen.clone(), held.clone(), tokens.clone());
        claimers.push(tokio::spawn(async move {
            let everything: Vec<DeviceId> = (0..DEVICES).map(device).collect();
            while seen.lock().len() < DEVICES * EACH as usize {
                // Half of them do not wait to be told which are ready.
                let devices = if n < 4 { queue.ready(5, LONG).await.unwrap().devices } else { everything.clone() };
                let claims = queue.claim(HostId::new(), &devices, LONG, 1).await.unwrap();
                // The in-process queue never waits by itself.
                tokio::task::yield_now().await;
                for (device, claimed) in devices.iter().zip(claims) {
                    match claimed {
                        Claimed::Messages { messages, token, .. } => {
                            let message = only(&messages);
                            assert!(held.lock().insert(device.clone()), "{device} is leased twice");
                            assert!(seen.lock().insert(message), "{message} was claimed twice");
                            let before = tokens.lock().insert(device.clone(), token).unwrap_or(0);
                            assert!(token > before, "{token} after {before}");
                            tokio::task::yield_now().await;
                            assert!(held.lock().remove(device));
                            let finished = finish(&queue, done(device, token, message)).await;
                            assert!(matches!(finished, Finished::Done { .. }));
                        }
                        Claimed::Orphans { .. } => panic!("no lease ran out"),
                        Claimed::Empty | Claimed::NotYet(_) => {}
                    }
                }
            }
        }));
    }
    for claimer in claimers {
        claimer.await.unwrap();
    }
    for n in 0..DEVICES {
        assert_eq!(depth(&bed.queue, &device(n)).await, QueueDepth::default());
    }
}

async fn a_leased_device_cannot_be_claimed(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 1)])).await.unwrap();
    take(queue, &d, LONG).await;
    let Claimed::NotYet(wait) = claim(&bed.other().await, &d, LONG).await else { panic!() };
    assert!(wait <= LONG && wait > LONG / 2, "{wait:?}");
    assert!(depth(queue, &d).await.leased);
}

async fn orphans_of_an_expired_lease_are_adopted(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2)])).await.unwrap();
    let start = bed.now();
    let (orphan, old_token) = take(queue, &d, SHORT).await;
    let (token, messages) = bed
        .until("the lease runs out", async || match claim(queue, &d, LONG).await {
            Claimed::NotYet(wait) => {
                assert!(wait <= SHORT);
                None
            }
            Claimed::Orphans { token, messages } => Some((token, messages)),
            other => panic!("{other:?}"),
        })
        .await;
    assert!(bed.now() - start >= SHORT - Duration::from_millis(2));
    assert_eq!(messages, [orphan]);
    assert!(token > old_token);
    // They stay where they are until they are settled, and only the new lease may settle them.
    assert_eq!(depth(queue, &d).await.processing, 1);
    assert!(!queue.adopt(&d, old_token, &[(orphan, Disposal::Drop)]).await.unwrap());
    assert!(queue.adopt(&d, token, &[(orphan, Disposal::PutBack(1))]).await.unwrap());
    assert_eq!(queue.queued(&d).await.unwrap(), [message(1), message(2)]);
    assert_eq!(depth(queue, &d).await, QueueDepth { queued: 2, ..QueueDepth::default() });
    assert_eq!(queue.ready(10, LONG).await.unwrap().devices, [d.clone()]);
    let (again, _) = take(queue, &d, SHORT).await;
    assert_eq!(again, orphan);
    let token = bed
        .until("the lease runs out", async || match claim(queue, &d, LONG).await {
            Claimed::Orphans { token, .. } => Some(token),
            _ => None,
        })
        .await;
    assert!(queue.adopt(&d, token, &[(orphan, Disposal::Drop)]).await.unwrap());
    assert_eq!(queue.queued(&d).await.unwrap(), [message(2)]);
}

async fn a_lost_claim_loses_no_message(bed: &Bed) {
    let (queue, d, owner) = (&bed.queue, device(1), HostId::new());
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    assert_eq!(queue.ready(10, SHORT).await.unwrap().devices, [d.clone()]);
    // The answer to this one is lost, and the caller never hears that it holds the lease.
    drop(queue.claim(owner, std::slice::from_ref(&d), SHORT, 1).await.unwrap());
    assert!(matches!(queue.claim(owner, std::slice::from_ref(&d), SHORT, 1).await.unwrap()[0], Claimed::NotYet(_)));
    let orphans = bed
        .until("the device comes forward", async || {
            let ready = queue.ready(10, SHORT).await.unwrap().devices;
            match queue.claim(owner, &ready, SHORT, 1).await.unwrap().pop() {
                Some(Claimed::Orphans { messages, .. }) => Some(messages),
                _ => None,
            }
        })
        .await;
    assert_eq!(orphans, [message(1)]);
}

async fn a_stale_finish_changes_nothing(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2)])).await.unwrap();
    let (stale_message, stale) = take(queue, &d, SHORT).await;
    let token = bed
        .until("the lease runs out", async || match claim(queue, &d, LONG).await {
            Claimed::Orphans { token, .. } => Some(token),
            _ => None,
        })
        .await;
    let before = depth(queue, &d).await;
    let late = Finish { next_in: LONG, pace: Some("stale".into()), ..done(&d, stale, stale_message) };
    assert_eq!(finish(queue, late).await, Finished::LeaseLost);
    assert_eq!(queue.renew(&[(d.clone(), stale)], LONG).await.unwrap(), [false]);
    assert_eq!(depth(queue, &d).await, before);
    assert!(queue.adopt(&d, token, &[(stale_message, Disposal::PutBack(1))]).await.unwrap());
    assert!(matches!(claim(queue, &d, LONG).await, Claimed::Messages { pace, .. } if pace.is_empty()));
    assert_eq!(finish(queue, done(&device(9), 1, message(1))).await, Finished::LeaseLost);
}

async fn finish_and_adopt_may_be_repeated(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2)])).await.unwrap();
    let (first, token) = take(queue, &d, LONG).await;
    let back = ended(&d, token, [(first, Disposal::PutBack(3))]);
    assert_eq!(finish(queue, back.clone()).await, Finished::Done { depth: 2 });
    assert_eq!(finish(queue, back).await, Finished::Done { depth: 2 });
    assert_eq!(queue.queued(&d).await.unwrap(), [message(2), message(1)]);
    assert_eq!(queue.renew(&[(d.clone(), token)], LONG).await.unwrap(), [false], "a released lease is over");
    let (second, _) = take(queue, &d, SHORT).await;
    let token = bed
        .until("the lease runs out", async || match claim(queue, &d, LONG).await {
            Claimed::Orphans { token, .. } => Some(token),
            _ => None,
        })
        .await;
    for _ in 0..2 {
        assert!(queue.adopt(&d, token, &[(second, Disposal::PutBack(2))]).await.unwrap());
        assert_eq!(queue.queued(&d).await.unwrap(), [message(2), message(1)]);
    }
}

async fn a_message_that_is_put_back_keeps_its_place(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 1), (3, 2)])).await.unwrap();
    let Claimed::Messages { messages, token, .. } = claim(queue, &d, LONG).await else { panic!() };
    let (first, rank) = messages[0];
    let back = ended(&d, token, [(first, Disposal::PutBack(rank))]);
    assert_eq!(finish(queue, back).await, Finished::Done { depth: 3 });
    assert_eq!(queue.queued(&d).await.unwrap(), [1, 2, 3].map(message));
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d]);
}

async fn finish_keeps_the_pace_and_the_wait(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2), (3, 3)])).await.unwrap();
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    let (first, token) = take(queue, &d, LONG).await;
    let start = bed.now();
    let paced = Finish { next_in: SHORT, pace: Some(r#"{"sent":1}"#.into()), ..done(&d, token, first) };
    assert_eq!(finish(queue, paced).await, Finished::Done { depth: 2 });
    let waits = depth(queue, &d).await;
    assert!(waits.next_in_ms <= SHORT.as_millis() as u64 && !waits.leased, "{waits:?}");
    // It is on the ready index at its time: not before, and not a lease later.
    bed.until("the pace lets it send", async || queue.ready(5, LONG).await.unwrap().devices.pop()).await;
    assert!(bed.now() - start >= SHORT - Duration::from_millis(2));
    let Claimed::Messages { messages, token, pace, .. } = claim(queue, &d, LONG).await else { panic!() };
    let second = only(&messages);
    assert_eq!((second, pace.as_str()), (message(2), r#"{"sent":1}"#));
    finish(queue, done(&d, token, second)).await;
    assert!(matches!(claim(queue, &d, LONG).await, Claimed::Messages { pace, .. } if pace == r#"{"sent":1}"#));
}

async fn renew_extends_a_lease(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    let (first, token) = take(queue, &d, LONG).await;
    let leases = [(d.clone(), token), (d.clone(), token - 1), (device(2), token)];
    assert_eq!(queue.renew(&leases, LONG * 2).await.unwrap(), [true, false, false]);
    let Claimed::NotYet(wait) = claim(queue, &d, LONG).await else { panic!() };
    assert!(wait > LONG);
    assert_eq!(queue.renew(&leases[..1], SHORT).await.unwrap(), [true], "and never shortens it");
    let Claimed::NotYet(wait) = claim(queue, &d, LONG).await else { panic!() };
    assert!(wait > LONG);
    assert_eq!(finish(queue, done(&d, token, first)).await, Finished::Done { depth: 0 });
}

async fn a_hold_never_shortens_a_wait(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    // Also of a device that the queue does not know yet.
    queue.hold(std::slice::from_ref(&d), LONG).await.unwrap();
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    queue.hold(std::slice::from_ref(&d), SHORT).await.unwrap();
    let Claimed::NotYet(wait) = claim(queue, &d, LONG).await else { panic!() };
    assert!(wait > LONG / 2, "{wait:?}");
    queue.hold(std::slice::from_ref(&d), LONG * 2).await.unwrap();
    let Claimed::NotYet(wait) = claim(queue, &d, LONG).await else { panic!() };
    assert!(wait > LONG, "{wait:?}");
    // A device that is ready when the hold comes is looked at once more and then waits.
    let late = device(2);
    queue.enqueue(&batch(&late, [(2, 1)])).await.unwrap();
    queue.hold(std::slice::from_ref(&late), LONG).await.unwrap();
    let ready = queue.ready(5, SHORT).await.unwrap().devices;
    assert!(queue.claim(HostId::new(), &ready, LONG, 1).await.unwrap().iter().all(|c| matches!(c, Claimed::NotYet(_))));
    let ready = queue.ready(5, SHORT).await.unwrap();
    assert_eq!(ready.devices, []);
    assert!(ready.next_in.unwrap() > LONG / 2);
}

async fn a_hold_outlives_the_finish_of_the_holder(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2)])).await.unwrap();
    let (first, token) = take(queue, &d, LONG).await;
    queue.hold(std::slice::from_ref(&d), LONG).await.unwrap();
    finish(queue, done(&d, token, first)).await;
    let Claimed::NotYet(wait) = claim(queue, &d, LONG).await else { panic!() };
    assert!(wait > LONG / 2, "{wait:?}");
}

async fn unhold_makes_ready_at_once(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    queue.hold(std::slice::from_ref(&d), LONG).await.unwrap();
    let ready = queue.ready(5, LONG).await.unwrap().devices;
    assert!(matches!(queue.claim(HostId::new(), &ready, LONG, 1).await.unwrap()[..], [Claimed::NotYet(_)]));
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, []);
    bed.other().await.unhold(&[d.clone(), device(2)]).await.unwrap();
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    take(queue, &d, LONG).await;
    // A lease is not a hold.
    queue.unhold(std::slice::from_ref(&d)).await.unwrap();
    assert!(matches!(claim(queue, &d, LONG).await, Claimed::NotYet(_)));
}

async fn ready_hides_devices_and_they_come_back(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    let start = bed.now();
    assert_eq!(queue.ready(5, SHORT).await.unwrap().devices, [d.clone()]);
    let other = bed.other().await;
    let back = bed.until("it comes back", async || other.ready(5, SHORT).await.unwrap().devices.pop()).await;
    assert_eq!(back, d);
    assert!(bed.now() - start >= SHORT - Duration::from_millis(2));
}

async fn ready_gives_the_longest_due_first(bed: &Bed) {
    let queue = &bed.queue;
    let devices = [5, 2, 9, 1].map(device);
    for d in &devices {
        queue.enqueue(&batch(d, [(1, 1)])).await.unwrap();
        // Times are milliseconds: the next one is at least two later.
        let start = bed.now();
        bed.until("time passes", async || (bed.now() - start > Duration::from_millis(2)).then_some(())).await;
    }
    // Enqueueing again does not set a device back.
    queue.enqueue(&batch(&devices[0], [(2, 1)])).await.unwrap();
    assert_eq!(queue.due_count().await.unwrap(), 4);
    let ready = queue.ready(10, LONG).await.unwrap();
    assert_eq!(ready.devices, devices);
    assert!(ready.late.len() == 4 && ready.late.is_sorted_by(|a, b| a >= b), "{:?}", ready.late);
    assert!(ready.late[0] >= Duration::from_millis(8) && ready.late[3] >= Duration::from_millis(2), "{:?}", ready.late);
    assert_eq!((queue.due_count().await.unwrap(), queue.ready_count().await.unwrap()), (0, 4), "they are hidden");
}

async fn ready_respects_its_limit(bed: &Bed) {
    let queue = &bed.queue;
    let all: Vec<Enqueue> = (0..40).flat_map(|d| batch(&device(d), [(1, 1)])).collect();
    queue.enqueue(&all).await.unwrap();
    let mut seen = HashSet::new();
    for limit in [1, 3, 7, 12, 17, 5] {
        let ready = queue.ready(limit, LONG).await.unwrap();
        let expected = (limit as usize).min(40 - seen.len());
        assert_eq!(ready.devices.len(), expected);
        seen.extend(ready.devices);
        // Those that are hidden come back after a lease; others are due now.
        assert_eq!(ready.next_in == Some(Duration::ZERO), seen.len() < 40, "{:?}", ready.next_in);
    }
    assert_eq!(seen.len(), 40);
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, []);
    assert_eq!(queue.ready_count().await.unwrap(), 40);
}

async fn ready_says_when_the_next_is_due(bed: &Bed) {
    let queue = &bed.queue;
    assert_eq!(queue.ready(5, LONG).await.unwrap().next_in, None);
    let mut later = batch(&device(1), [(1, 1)]);
    later[0].initial.next_in = LONG;
    queue.enqueue(&later).await.unwrap();
    queue.enqueue(&batch(&device(2), [(1, 1)])).await.unwrap();
    let ready = queue.ready(5, LONG * 4).await.unwrap();
    assert_eq!(ready.devices, [device(2)]);
    let next_in = ready.next_in.unwrap();
    assert!(next_in <= LONG && next_in > LONG / 2, "{next_in:?}");
}

async fn what_is_empty_is_off_the_ready_index(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    assert_eq!(queue.ready_count().await.unwrap(), 1);
    queue.ready(5, LONG).await.unwrap();
    let (first, token) = take(queue, &d, LONG).await;
    assert_eq!(queue.ready_count().await.unwrap(), 1, "should its holder die, it must be found");
    assert_eq!(finish(queue, done(&d, token, first)).await, Finished::Done { depth: 0 });
    assert_eq!(queue.ready_count().await.unwrap(), 0);
    queue.enqueue(&batch(&d, [(2, 1)])).await.unwrap();
    queue.discard(&d, &[message(2)]).await.unwrap();
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    assert_eq!(claim(queue, &d, LONG).await, Claimed::Empty);
    assert_eq!(queue.ready_count().await.unwrap(), 0);
    assert_eq!(claim(queue, &device(7), LONG).await, Claimed::Empty);
}

/// How often the races are run.
const RACES: u32 = 300;

/// What was enqueued must come forward at once: the leases are long.
async fn comes_forward(bed: &Bed, d: &DeviceId, round: u32) -> (MessageId, i64) {
    bed.until("the device comes forward", async || {
        let ready = bed.queue.ready(5, LONG).await.unwrap().devices;
        match bed.queue.claim(HostId::new(), &ready, LONG, 1).await.unwrap().pop() {
            Some(Claimed::Messages { messages, token, .. }) => Some((only(&messages), token)),
            None | Some(Claimed::Empty) => None,
            other => panic!("{d}, round {round}: {other:?}"),
        }
    })
    .await
}

async fn no_device_is_left_behind_by_finish_and_enqueue(bed: &Bed) {
    let other = bed.other().await;
    for round in 0..RACES {
        let d = device(round as usize % 10);
        bed.queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
        let (first, token) = comes_forward(bed, &d, round).await;
        let (finished, enqueued) = tokio::join!(finish(&bed.queue, done(&d, token, first)), async {
            other.enqueue(&batch(&d, [(2, 1)])).await
        });
        enqueued.unwrap();
        assert!(matches!(finished, Finished::Done { .. }));
        let (second, token) = comes_forward(bed, &d, round).await;
        assert_eq!(second, message(2));
        assert_eq!(finish(&bed.queue, done(&d, token, second)).await, Finished::Done { depth: 0 });
    }
}

async fn no_device_is_left_behind_by_an_empty_claim_and_enqueue(bed: &Bed) {
    let other = bed.other().await;
    for round in 0..RACES {
        let d = device(round as usize % 10);
        bed.queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
        bed.queue.discard(&d, &[message(1)]).await.unwrap();
        let ready = bed.queue.ready(5, LONG).await.unwrap().devices;
        assert_eq!(ready, [d.clone()], "round {round}");
        let (claimed, enqueued) =
            tokio::join!(claim(&bed.queue, &d, LONG), async { other.enqueue(&batch(&d, [(2, 1)])).await });
        enqueued.unwrap();
        let (second, token) = match claimed {
            Claimed::Messages { messages, token, .. } => (only(&messages), token),
            Claimed::Empty => comes_forward(bed, &d, round).await,
            other => panic!("{other:?}"),
        };
        assert_eq!(finish(&bed.queue, done(&d, token, second)).await, Finished::Done { depth: 0 });
        // The claim may have come between the two steps of the enqueue: then one look in vain mends the index.
        let rest = bed.queue.ready(5, LONG).await.unwrap().devices;
        assert!(bed.queue.claim(HostId::new(), &rest, LONG, 1).await.unwrap().iter().all(|c| *c == Claimed::Empty));
        assert_eq!(bed.queue.ready_count().await.unwrap(), 0, "round {round}");
    }
}

async fn an_enqueue_of_nothing_puts_a_waiting_device_on_the_index(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    assert_eq!(queue.enqueue(&batch(&d, [])).await.unwrap(), [0]);
    assert_eq!(queue.ready_count().await.unwrap(), 0, "nothing waits on it");
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    assert_eq!(queue.enqueue(&batch(&d, [])).await.unwrap(), [1]);
    assert!(queue.ready_count().await.unwrap() == 1);
}

async fn messages_can_be_discarded_but_not_from_processing(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    queue.enqueue(&batch(&d, [(1, 1), (2, 2), (3, 3)])).await.unwrap();
    let (first, token) = take(queue, &d, LONG).await;
    queue.discard(&d, &[1, 3, 4].map(message)).await.unwrap();
    assert_eq!(queue.queued(&d).await.unwrap(), [message(2)]);
    assert_eq!(depth(queue, &d).await.processing, 1);
    assert_eq!(finish(queue, done(&d, token, first)).await, Finished::Done { depth: 1 });
    queue.discard(&d, &[]).await.unwrap();
    assert_eq!(queue.enqueue(&batch(&d, [(3, 0)])).await.unwrap(), [2], "what was discarded may come again");
    assert_eq!(queue.queued(&d).await.unwrap(), [message(3), message(2)]);
}

async fn the_generation_is_made_once(bed: &Bed) {
    assert!(bed.queue.ensure_generation().await.unwrap());
    assert!(!bed.queue.ensure_generation().await.unwrap());
    assert!(!bed.other().await.ensure_generation().await.unwrap());
}

async fn metrics_add_up(bed: &Bed) {
    let queue = &bed.queue;
    let delta = |n, sent, at: Option<i64>| MetricsDelta {
        device: device(n),
        sent,
        failed: 1,
        retried: 0,
        latency_ms: 40,
        last_sent_at: at.map(Time::from_ms),
        last_delay_ms: at.unwrap_or(7).unsigned_abs(),
    };
    queue.add_metrics(&[delta(1, 2, Some(5000)), delta(2, 1, None)]).await.unwrap();
    // A flush that comes late does not turn the last send back.
    bed.other().await.add_metrics(&[delta(1, 3, Some(4000))]).await.unwrap();
    let [one, two, none] = queue.metrics(&[1, 2, 3].map(device)).await.unwrap().try_into().unwrap();
    assert_eq!((one.sent, one.failed, one.retried, one.latency_ms), (5, 2, 0, 80));
    assert_eq!((one.last_sent_at, one.last_delay_ms), (Some(Time::from_ms(5000)), 5000));
    assert_eq!((two.sent, two.last_sent_at, two.last_delay_ms), (1, None, 0));
    assert_eq!(none, carillon::queue::DeviceMetrics::default());
}

async fn wake_ups_reach_everybody(bed: &Bed) {
    let other = bed.other().await;
    let (mut here, mut there) = (bed.queue.subscribe(), other.subscribe());
    for wake in [Wake::Trigger, Wake::Processor, Wake::Workers, Wake::Changed] {
        // A wake-up from before the listener's connection is there may be lost.
        bed.until("the wake-up arrives", async || {
            bed.queue.publish(wake).await.unwrap();
            let mut heard = [false, false];
            for (heard, receiver) in heard.iter_mut().zip([&mut here, &mut there]) {
                while let Ok(Ok(got)) = tokio::time::timeout(Duration::from_millis(300), receiver.recv()).await {
                    *heard = got == wake;
                    if *heard {
                        break;
                    }
                }
            }
            (heard == [true, true]).then_some(())
        })
        .await;
    }
}

async fn an_operators_limit_on_workers_outlives_servers_that_start(bed: &Bed) {
    let other = bed.other().await;
    assert_eq!(bed.queue.max_workers().await.unwrap(), None);
    assert_eq!(bed.queue.configure_max_workers(500, 500).await.unwrap(), 500);
    assert_eq!(other.configure_max_workers(500, 500).await.unwrap(), 500);
    // An operator's word holds against servers that start as before, and is replaced when the settings are others.
    other.set_max_workers(40).await.unwrap();
    assert_eq!(bed.queue.configure_max_workers(500, 500).await.unwrap(), 40);
    assert_eq!(bed.queue.configure_max_workers(300, 300).await.unwrap(), 300);
    assert_eq!(other.max_workers().await.unwrap(), Some(300));
    // The brake stays on whatever the settings are.
    other.set_max_workers(0).await.unwrap();
    assert_eq!(bed.queue.configure_max_workers(300, 300).await.unwrap(), 0);
    assert_eq!(bed.queue.configure_max_workers(700, 700).await.unwrap(), 0);
    other.set_max_workers(700).await.unwrap();
    assert_eq!(bed.queue.configure_max_workers(700, 700).await.unwrap(), 700);
    bed.queue.set_active_workers(17).await.unwrap();
}

async fn a_healthy_queue_has_no_warnings(bed: &Bed) {
    let health = bed.queue.health().await.unwrap();
    assert_eq!(health.warnings, Vec::<String>::new());
    match bed.queue.kind() {
        "memory" => assert_eq!(health.server, "in-process"),
        _ => assert!(health.server.contains(|c: char| c.is_ascii_digit()), "{}", health.server),
    }
}

async fn a_message_costs_few_commands(bed: &Bed) {
    let (queue, devices) = (&bed.queue, (0..50).map(device).collect::<Vec<_>>());
    let all: Vec<Enqueue> = devices.iter().flat_map(|d| batch(d, [(1, 1), (2, 1), (3, 1)])).collect();
    queue.enqueue(&all).await.unwrap();
    let mut spent = 0;
    // The first round sends the scripts' texts; the second is the rule.
    for _ in 0..2 {
        assert_eq!(queue.ready(50, LONG).await.unwrap().devices.len(), 50);
        let before = queue.commands();
        let claims = queue.claim(HostId::new(), &devices, LONG, 1).await.unwrap();
        let finishes: Vec<Finish> = devices
            .iter()
            .zip(claims)
            .map(|(d, claimed)| match claimed {
                Claimed::Messages { messages, token, .. } => done(d, token, only(&messages)),
                other => panic!("{other:?}"),
            })
            .collect();
        queue.finish(&finishes).await.unwrap();
        spent = queue.commands() - before;
    }
    assert!(spent <= 50 * 3, "{spent} commands for 50 messages");
}

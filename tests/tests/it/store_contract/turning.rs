use carillon::campaign::{CampaignEvent as E, CampaignStatus as S};
use carillon::id::DeviceNo;
use carillon::message::{Begun, Counts, MessageStatus, Reason, Settled, Work};
use carillon::store::Store;
use carillon_tests::fleet::{
    Started, T0, addresses, at, audience, campaign_spec, devices, expand, launch, running, sent,
};
use carillon_tests::stores::Opened;

fn started(begun: &Begun) -> &Work {
    match begun {
        Begun::Started(work) => work,
        other => panic!("not taken: {other:?}"),
    }
}

fn retry(due_at: carillon::clock::Time) -> Settled {
    Settled::Retry { due_at, counts: true, reason: Reason::new("http_503", "") }
}

/// What the device is sending, and under which token.
async fn sending(store: &dyn Store, device: DeviceNo) -> Vec<(u32, i64, u32)> {
    let found = store.in_flight(Some(device), None, 10, at(1), std::time::Duration::from_secs(10)).await.unwrap();
    found.into_iter().map(|f| (f.message.contact(), f.token, f.attempt)).collect()
}

async fn a_device_goes_from_one_message_to_the_next(t: Opened) {
    let s = running(&*t.store, &["a", "b", "c"], 9).await;
    let store = &*t.store;
    let [a, b, c] = s.devices[..] else { panic!("three devices") };
    let first = s.take(store, s.message(1), a, 5, at(1)).await;
    let only = s.take(store, s.message(2), b, 5, at(1)).await;
    let ends = [s.settlement(&only, b, 5, sent(), at(1)), s.settlement(&first, a, 5, retry(at(60)), at(1))];
    let claims = [s.claim(s.message(3), c, 7), s.claim(s.message(4), a, 6)];
    let turned = store.turn(s.host, &ends, &claims, at(3)).await.unwrap();
    assert_eq!(turned.applied, [true, true]);
    assert_eq!(started(&turned.begun[0]).message, s.message(3), "in the claims' order");
    assert_eq!(started(&turned.begun[1]).message, s.message(4));
    assert_eq!(sending(store, a).await, [(4, 6, 1)]);
    assert_eq!(sending(store, b).await, []);
    assert_eq!(sending(store, c).await, [(3, 7, 1)]);
    assert_eq!(store.attempts(s.message(1)).await.unwrap().len(), 1, "what else follows from an end is written too");
    assert_eq!(s.counts(store).await, Counts { pending: 6, processing: 2, sent: 1, ..Counts::default() });
    let again = store.turn(s.host, &ends, &claims, at(3)).await.unwrap();
    assert_eq!(
        (again.applied, again.begun),
        (vec![false, false], vec![Begun::DeviceBusy, Begun::DeviceBusy]),
        "a repeat"
    );
    assert_eq!(store.turn(s.host, &[], &[], at(3)).await.unwrap(), carillon::message::Turned::default());
}

async fn where_an_end_is_refused_nothing_begins(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 8).await;
    let store = &*t.store;
    let [a, b] = s.devices[..] else { panic!("two devices") };
    let work = s.take(store, s.message(1), a, 5, at(1)).await;
    let other = s.take(store, s.message(2), b, 5, at(1)).await;
    let mut stale = s.settlement(&work, a, 5, sent(), at(1));
    stale.attempt = 2;
    let good = s.settlement(&other, b, 5, sent(), at(1));
    let claims = [s.claim(s.message(3), a, 5), s.claim(s.message(4), b, 5)];
    let turned = store.turn(s.host, &[stale, good.clone()], &claims, at(2)).await.unwrap();
    assert_eq!(turned.applied, [false, true]);
    assert_eq!(turned.begun[0], Begun::DeviceBusy);
    started(&turned.begun[1]);
    assert_eq!(sending(store, a).await, [(1, 5, 1)], "it is still at the message before");

    // Ended before: the device is idle, but who comes with an end that is refused is behind the times.
    let next = s.settlement(started(&turned.begun[1]), b, 5, sent(), at(2));
    assert_eq!(store.settle(&[next]).await.unwrap(), [true]);
    let turned = store.turn(s.host, &[good], &[s.claim(s.message(6), b, 5)], at(3)).await.unwrap();
    assert_eq!((turned.applied, turned.begun), (vec![false], vec![Begun::DeviceBusy]));
    assert_eq!(s.counts(store).await, Counts { pending: 5, processing: 1, sent: 2, ..Counts::default() });
}

async fn an_older_lease_begins_nothing(t: Opened) {
    let s = running(&*t.store, &["a"], 6).await;
    let store = &*t.store;
    let a = s.devices[0];
    let work = s.take(store, s.message(1), a, 5, at(1)).await;
    let end = s.settlement(&work, a, 5, sent(), at(1));
    let turned = store.turn(s.host, &[end], &[s.claim(s.message(2), a, 4)], at(2)).await.unwrap();
    assert_eq!((turned.applied, turned.begun), (vec![true], vec![Begun::DeviceBusy]));
    assert_eq!(s.begin(store, s.message(2), a, 4, at(3)).await, Begun::DeviceBusy, "although it is idle");
    let work = s.take(store, s.message(2), a, 5, at(3)).await;
    assert_eq!(store.settle(&[s.settlement(&work, a, 5, Settled::Released, at(3))]).await.unwrap(), [true]);
    assert_eq!(s.begin(store, s.message(2), a, 4, at(4)).await, Begun::DeviceBusy);
    s.take(store, s.message(2), a, 6, at(4)).await;
    assert_eq!(s.counts(store).await, Counts { pending: 4, processing: 1, sent: 1, ..Counts::default() });
}

async fn a_message_that_ends_may_begin_again_when_it_is_pending(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 4).await;
    let store = &*t.store;
    let [a, b] = s.devices[..] else { panic!("two devices") };
    let (first, second) =
        (s.take(store, s.message(1), a, 1, at(1)).await, s.take(store, s.message(2), b, 1, at(1)).await);
    let ends = [s.settlement(&first, a, 1, retry(at(1)), at(1)), s.settlement(&second, b, 1, sent(), at(1))];
    let claims = [s.claim(s.message(1), a, 1), s.claim(s.message(2), b, 1)];
    let turned = store.turn(s.host, &ends, &claims, at(3)).await.unwrap();
    assert_eq!(turned.applied, [true, true]);
    let again = started(&turned.begun[0]);
    assert_eq!((again.attempt, again.failures), (2, 1), "after what its first attempt came to");
    assert_eq!(turned.begun[1], Begun::Gone, "it was sent");
    assert_eq!(s.counts(store).await, Counts { pending: 2, processing: 1, sent: 1, ..Counts::default() });
}

async fn a_turn_in_a_run_that_was_closed_meanwhile(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 6).await;
    let store = &*t.store;
    let [a, b] = s.devices[..] else { panic!("two devices") };
    let (first, second) =
        (s.take(store, s.message(1), a, 1, at(1)).await, s.take(store, s.message(2), b, 1, at(1)).await);
    store.move_campaign(s.campaign, S::Running, E::Cancel, None, at(2)).await.unwrap().unwrap();
    let ends = [s.settlement(&first, a, 1, retry(at(60)), at(1)), s.settlement(&second, b, 1, sent(), at(1))];
    let claims = [s.claim(s.message(3), a, 1), s.claim(s.message(4), b, 1)];
    let turned = store.turn(s.host, &ends, &claims, at(3)).await.unwrap();
    assert_eq!((turned.applied, turned.begun), (vec![true, true], vec![Begun::Inactive, Begun::Inactive]));
    let row = store.message(s.message(1)).await.unwrap().unwrap();
    assert_eq!((row.status, row.finished_at), (MessageStatus::Cancelled, Some(at(2))), "it does not wait any more");
    assert_eq!(s.counts(store).await, Counts { pending: 4, sent: 1, cancelled: 1, ..Counts::default() });
    assert_eq!(store.close_pending(s.run.key, MessageStatus::Cancelled, 10, at(3)).await.unwrap(), 4);
    store.close_pending(s.run.key, MessageStatus::Cancelled, 10, at(3)).await.unwrap();
    assert!(store.runs_to_close().await.unwrap().is_empty());
}

async fn a_turn_after_the_expiry(t: Opened) {
    let store = &*t.store;
    let nos = devices(store, &["a"]).await;
    audience(store, "people", &addresses(3)).await;
    let mut spec = campaign_spec("people");
    spec.expires_at = Some(at(100));
    let s = launch(store, &spec, &nos, T0).await;
    expand(store, &s, 10, T0).await;
    let work = s.take(store, s.message(1), nos[0], 1, at(99)).await;
    let end = s.settlement(&work, nos[0], 1, sent(), at(99));
    let turned = store.turn(s.host, &[end], &[s.claim(s.message(2), nos[0], 1)], at(100)).await.unwrap();
    assert_eq!((turned.applied, turned.begun), (vec![true], vec![Begun::Expired]));
    assert_eq!(sending(store, nos[0]).await, []);
    assert_eq!(s.counts(store).await, Counts { pending: 1, sent: 1, expired: 1, ..Counts::default() });
}

async fn what_is_being_sent_is_left_alone(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 6).await;
    let store = &*t.store;
    let [a, b] = s.devices[..] else { panic!("two devices") };
    let work = s.take(store, s.message(1), a, 1, at(1)).await;
    let one = async |what: &str| {
        assert_eq!(sending(store, a).await, [(1, 1, 1)], "{what}");
        let row = store.message(s.message(1)).await.unwrap().unwrap();
        assert_eq!((row.status, row.device.as_str(), row.attempt), (MessageStatus::Processing, "a", 1), "{what}");
    };
    assert_eq!(store.defer(&[s.message(1), s.message(3)], at(60), "quiet-hours").await.unwrap(), 1);
    one("deferred").await;
    assert_eq!(store.promote_due(at(60), 10).await.unwrap().0, [a]);
    assert_eq!(s.ready(store, a).await, [s.message(3), s.message(5)]);
    let ranked = [s.ranked()];
    assert_eq!(store.ahead_of(s.message(5), a, &ranked, 10).await.unwrap(), 1);
    assert_eq!(store.reassign(a, s.run.key, &[b], 10).await.unwrap(), 2);
    one("moved").await;
    assert!(!store.devices_with_ready(None, 10).await.unwrap().is_empty());
    store.move_campaign(s.campaign, S::Running, E::Cancel, None, at(2)).await.unwrap().unwrap();
    assert_eq!(store.close_pending(s.run.key, MessageStatus::Cancelled, 10, at(3)).await.unwrap(), 5);
    assert_eq!(store.close_pending(s.run.key, MessageStatus::Cancelled, 10, at(3)).await.unwrap(), 0);
    one("closed").await;
    assert!(store.runs_to_close().await.unwrap().is_empty(), "nothing to be closed for now");
    assert_eq!(s.counts(store).await, Counts { processing: 1, cancelled: 5, ..Counts::default() });
    assert_eq!(store.settle(&[s.settlement(&work, a, 1, sent(), at(4))]).await.unwrap(), [true]);
    assert_eq!(s.counts(store).await, Counts { sent: 1, cancelled: 5, ..Counts::default() });
}

async fn taken(s: &Started, store: &dyn Store, contact: u32, token: i64) -> Work {
    s.take(store, s.message(contact), s.devices[0], token, at(1)).await
}

/// A lease moves while its former owner settles: the new owner must not send again what was sent.
async fn an_end_and_a_claim_of_the_same_message_at_once(t: Opened) {
    const ROUNDS: u32 = 60;
    let s = running(&*t.store, &["a"], ROUNDS).await;
    let other = t.again().await;
    let device = s.devices[0];
    for contact in 1..=ROUNDS {
        let token = 2 * i64::from(contact);
        let end = s.settlement(&taken(&s, &*t.store, contact, token).await, device, token, sent(), at(1));
        let claim = s.claim(s.message(contact), device, token + 1);
        let (store, host) = (t.store.clone(), s.host);
        let ending = tokio::spawn(async move { store.settle(&[end]).await.unwrap()[0] });
        let store = other.clone();
        let claiming = tokio::spawn(async move { store.begin(host, &[claim], at(2)).await.unwrap().remove(0) });
        assert!(ending.await.unwrap(), "the holder ends it");
        let begun = claiming.await.unwrap();
        assert!(matches!(begun, Begun::Gone | Begun::DeviceBusy), "sent twice: {begun:?}");
    }
    assert_eq!(s.counts(&*t.store).await, Counts { sent: ROUNDS.into(), ..Counts::default() });
    other.close().await;
}

super::on_every_store!(
    a_device_goes_from_one_message_to_the_next,
    where_an_end_is_refused_nothing_begins,
    an_older_lease_begins_nothing,
    a_message_that_ends_may_begin_again_when_it_is_pending,
    a_turn_in_a_run_that_was_closed_meanwhile,
    a_turn_after_the_expiry,
    what_is_being_sent_is_left_alone,
    an_end_and_a_claim_of_the_same_message_at_once,
);

use carillon::campaign::{CampaignEvent as E, CampaignStatus as S};
use carillon::consent::NewSuppression;
use carillon::device::PaceUpdate;
use carillon::message::{Begun, Counts, MessageStatus, Reason, Settled};
use carillon_tests::fleet::{at, running, sent};
use carillon_tests::stores::Opened;

async fn only_the_holder_ends_an_attempt(t: Opened) {
    let s = running(&*t.store, &["a"], 2).await;
    let store = &*t.store;
    let device = s.devices[0];
    let id = s.message(1);
    let work = s.take(store, id, device, 5, at(1)).await;
    let good = s.settlement(&work, device, 5, sent(), at(1));
    let mut stale = good.clone();
    stale.token = 4;
    let mut other_attempt = good.clone();
    other_attempt.attempt = 2;
    let mut not_taken = good.clone();
    not_taken.message = s.message(2);
    let mut nobody = good.clone();
    nobody.message = s.message(77);
    let refused = [stale, other_attempt, not_taken, nobody];
    for end in &refused {
        assert_eq!(store.settle(std::slice::from_ref(end)).await.unwrap(), [false]);
    }
    assert_eq!(s.status(store, id).await, MessageStatus::Processing);
    assert_eq!(store.settle(&[refused[1].clone(), refused[3].clone()]).await.unwrap(), [false, false]);
    assert_eq!(store.settle(std::slice::from_ref(&good)).await.unwrap(), [true]);
    assert_eq!(store.settle(std::slice::from_ref(&good)).await.unwrap(), [false], "a repeat changes nothing");
    assert_eq!(s.counts(store).await, Counts { pending: 1, sent: 1, ..Counts::default() });
    assert!(store.settle(&[]).await.unwrap().is_empty());
}

async fn of_two_servers_one_ends_the_attempt(t: Opened) {
    let s = running(&*t.store, &["a"], 10).await;
    let other = t.again().await;
    for contact in 1..=10 {
        let work = s.take(&*t.store, s.message(contact), s.devices[0], 5, at(1)).await;
        let unknown = Settled::Unknown(Reason::new("host-lost", ""));
        let ends = [(t.store.clone(), sent()), (other.clone(), unknown)].map(|(store, outcome)| {
            let end = s.settlement(&work, s.devices[0], 5, outcome, at(1));
            tokio::spawn(async move { store.settle(&[end]).await.unwrap()[0] })
        });
        let mut applied = 0;
        for end in ends {
            applied += u32::from(end.await.unwrap());
        }
        assert_eq!(applied, 1);
    }
    assert_eq!(s.counts(&*t.store).await.total(), 10);
    other.close().await;
}

async fn every_outcome_is_counted_and_kept(t: Opened) {
    let s = running(&*t.store, &["a"], 9).await;
    let store = &*t.store;
    let device = s.devices[0];
    let reason = Reason::new("http_400", "refused");
    let ends = [
        (sent(), MessageStatus::Sent, None),
        (Settled::Sent { provider_id: None, delivered: true }, MessageStatus::Delivered, None),
        (Settled::Failed(reason.clone()), MessageStatus::Failed, Some("failed")),
        (Settled::Unknown(reason.clone()), MessageStatus::Unknown, Some("unknown")),
        (Settled::Suppressed, MessageStatus::Suppressed, Some("suppressed")),
        (Settled::Expired, MessageStatus::Expired, Some("expired")),
        (
            Settled::Retry { due_at: at(50), counts: true, reason: reason.clone() },
            MessageStatus::Pending,
            Some("retry"),
        ),
        (Settled::Released, MessageStatus::Pending, None),
    ];
    for (contact, (outcome, status, attempt)) in (1..).zip(ends) {
        let id = s.message(contact);
        let with_reason = matches!(outcome, Settled::Failed(_) | Settled::Unknown(_) | Settled::Retry { .. });
        s.send(store, id, device, outcome, at(1)).await;
        let row = store.message(id).await.unwrap().unwrap();
        assert_eq!(row.status, status);
        assert_eq!(row.finished_at, status.is_final().then_some(at(2)), "{status:?}");
        assert_eq!(row.reason, with_reason.then_some(reason.clone()), "{status:?}");
        let attempts = store.attempts(id).await.unwrap();
        assert_eq!(attempts.iter().map(|a| a.outcome.as_str()).collect::<Vec<_>>(), attempt.as_slice());
        for kept in attempts {
            assert_eq!((kept.attempt, kept.started_at, kept.finished_at), (1, at(1), at(2)));
            assert_eq!(kept.reason, with_reason.then_some(reason.clone()));
            assert_eq!(kept.device.as_str(), "a");
            assert!(kept.digests.is_some());
        }
    }
    let row = store.message(s.message(1)).await.unwrap().unwrap();
    assert_eq!((row.provider_id.as_deref(), row.attempt), (Some("p-1"), 1));
    assert_eq!(
        s.counts(store).await,
        Counts {
            pending: 3,
            sent: 1,
            delivered: 1,
            failed: 1,
            unknown: 1,
            suppressed: 1,
            expired: 1,
            ..Counts::default()
        }
    );
    for status in MessageStatus::ALL {
        let listed = store.messages(s.run.key, Some(status), None, 100).await.unwrap().items;
        assert_eq!(listed.len() as u64, s.counts(store).await.of(status), "{status:?}");
        assert!(listed.iter().all(|m| m.status == status));
    }
}

async fn a_retry_counts_only_where_it_should(t: Opened) {
    let s = running(&*t.store, &["a"], 1).await;
    let store = &*t.store;
    let (id, device) = (s.message(1), s.devices[0]);
    let mut failures = 0;
    for (n, counts) in (1..).zip([true, false, true]) {
        let work = s.take(store, id, device, n, at(10 * n as u64)).await;
        assert_eq!((work.attempt, work.failures), (n as u32, failures));
        failures += u32::from(counts);
        let due_at = at(10 * n as u64 + 5);
        let retry = Settled::Retry { due_at, counts, reason: Reason::new("http_503", "") };
        let end = s.settlement(&work, device, n, retry, at(10 * n as u64));
        assert_eq!(store.settle(&[end]).await.unwrap(), [true]);
        let row = store.message(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.due_at, row.failures), (MessageStatus::Pending, Some(due_at), failures));
        assert_eq!(store.promote_due(due_at, 10).await.unwrap().0, [device]);
    }
    let attempts = store.attempts(id).await.unwrap();
    assert_eq!(attempts.iter().map(|a| a.attempt).collect::<Vec<_>>(), [1, 2, 3], "oldest first");
    s.send(store, id, device, sent(), at(100)).await;
    let row = store.message(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempt, row.reason), (MessageStatus::Sent, 4, None));
    assert_eq!(store.attempts(id).await.unwrap().len(), 3, "a clean send leaves no row");
}

async fn a_released_message_is_as_if_never_taken(t: Opened) {
    let s = running(&*t.store, &["a"], 1).await;
    let store = &*t.store;
    let (id, device) = (s.message(1), s.devices[0]);
    s.send(store, id, device, Settled::Released, at(1)).await;
    let row = store.message(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempt, row.failures, row.due_at), (MessageStatus::Pending, 0, 0, None));
    assert_eq!((row.started_at, row.finished_at), (None, None));
    assert_eq!(s.ready(store, device).await, [id]);
    let work = s.take(store, id, device, 2, at(2)).await;
    assert_eq!((work.attempt, work.due_at), (1, carillon_tests::fleet::T0));
}

async fn a_retry_in_a_closed_run_is_closed_with_it(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 4).await;
    let store = &*t.store;
    let mut works = Vec::new();
    for device in &s.devices {
        let id = s.ready(store, *device).await[0];
        works.push(s.take(store, id, *device, 1, at(1)).await);
    }
    store.move_campaign(s.campaign, S::Running, E::Cancel, None, at(2)).await.unwrap().unwrap();
    store.close_pending(s.run.key, MessageStatus::Cancelled, 100, at(2)).await.unwrap();
    let retry = Settled::Retry { due_at: at(50), counts: true, reason: Reason::new("http_503", "") };
    let ends = [
        s.settlement(&works[0], s.devices[0], 1, retry, at(3)),
        s.settlement(&works[1], s.devices[1], 1, Settled::Released, at(3)),
    ];
    assert_eq!(store.settle(&ends).await.unwrap(), [true, true]);
    // Whether it is closed at once or by the next page: nothing of a closed run stays open.
    store.close_pending(s.run.key, MessageStatus::Cancelled, 100, at(4)).await.unwrap();
    store.close_pending(s.run.key, MessageStatus::Cancelled, 100, at(4)).await.unwrap();
    assert_eq!(s.counts(store).await, Counts { cancelled: 4, ..Counts::default() });
    assert!(store.runs_to_close().await.unwrap().is_empty());
}

async fn a_batch_is_settled_in_its_order(t: Opened) {
    let s = running(&*t.store, &["a", "b", "c"], 9).await;
    let store = &*t.store;
    let mut ends = Vec::new();
    for (n, device) in s.devices.iter().enumerate() {
        let id = s.ready(store, *device).await[0];
        let work = s.take(store, id, *device, 3, at(1)).await;
        let token = if n == 1 { 2 } else { 3 };
        ends.push(s.settlement(&work, *device, token, sent(), at(1)));
    }
    ends.reverse();
    ends.push(ends[0].clone());
    assert_eq!(store.settle(&ends).await.unwrap(), [true, false, true, false], "the last one is a repeat");
    assert_eq!(s.counts(store).await, Counts { pending: 6, processing: 1, sent: 2, ..Counts::default() });
}

async fn a_pace_is_saved_only_over_an_older_lease(t: Opened) {
    let s = running(&*t.store, &["a"], 4).await;
    let store = &*t.store;
    let device = s.devices[0];
    let pace = |token, s: u64| PaceUpdate { device, token, next_at: at(s), pace: format!("{{\"minute\":{s}}}") };
    let saved = async || {
        let top = store.top_up(&[device], &[s.ranked()], 1).await.unwrap();
        top[0].pace.as_ref().map(|p| (p.next_at, p.pace.clone()))
    };
    let expect = |s: u64| Some((at(s), format!("{{\"minute\":{s}}}")));
    assert_eq!(saved().await, None);
    store.save_paces(&[pace(5, 10)]).await.unwrap();
    assert_eq!(saved().await, expect(10));
    store.save_paces(&[pace(4, 11)]).await.unwrap();
    assert_eq!(saved().await, expect(10), "an older lease is too late");
    store.save_paces(&[pace(5, 12)]).await.unwrap();
    assert_eq!(saved().await, expect(12), "the same one goes on");
    store.save_paces(&[pace(6, 13), pace(5, 14)]).await.unwrap();
    assert_eq!(saved().await, expect(13));
    store.save_paces(&[]).await.unwrap();

    let work = s.take(store, s.message(1), device, 7, at(13)).await;
    let mut end = s.settlement(&work, device, 7, sent(), at(13));
    end.pace = Some(pace(7, 20));
    let mut stale = end.clone();
    (stale.token, stale.pace) = (6, Some(pace(8, 99)));
    assert_eq!(store.settle(&[stale]).await.unwrap(), [false]);
    assert_eq!(saved().await, expect(13), "who may not settle may not pace");
    assert_eq!(store.settle(&[end]).await.unwrap(), [true]);
    assert_eq!(saved().await, expect(20));
    let before = store.device(&"a".parse().unwrap()).await.unwrap().unwrap();
    store.put_devices(&[before.spec], at(30)).await.unwrap();
    assert_eq!(saved().await, expect(20), "replacing a device keeps it");
}

async fn an_opt_out_is_written_with_its_settlement(t: Opened) {
    let s = running(&*t.store, &["a"], 2).await;
    let store = &*t.store;
    let work = s.take(store, s.message(1), s.devices[0], 1, at(1)).await;
    let mut end = s.settlement(&work, s.devices[0], 1, Settled::Failed(Reason::new("opted-out", "")), at(1));
    end.suppress = Some(NewSuppression { address: "+1".into(), channel: None, reason: "opted-out".into() });
    let mut stale = end.clone();
    stale.token = 9;
    assert_eq!(store.settle(&[stale]).await.unwrap(), [false]);
    assert!(store.suppressions(None, None, 10).await.unwrap().items.is_empty());
    let before = store.revisions().await.unwrap().suppressions;
    assert_eq!(store.settle(&[end]).await.unwrap(), [true]);
    let list = store.suppressions(None, None, 10).await.unwrap().items;
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].address.as_str(), list[0].reason.as_str(), list[0].created_at), ("+1", "opted-out", at(2)));
    assert!(store.revisions().await.unwrap().suppressions > before);
    store.suppress(&[NewSuppression { address: "+2".into(), channel: None, reason: "x".into() }], at(3)).await.unwrap();
    assert_eq!(s.begin(store, s.message(2), s.devices[0], 1, at(4)).await, Begun::Suppressed);
}

super::on_every_store!(
    only_the_holder_ends_an_attempt,
    of_two_servers_one_ends_the_attempt,
    every_outcome_is_counted_and_kept,
    a_retry_counts_only_where_it_should,
    a_released_message_is_as_if_never_taken,
    a_retry_in_a_closed_run_is_closed_with_it,
    a_batch_is_settled_in_its_order,
    a_pace_is_saved_only_over_an_older_lease,
    an_opt_out_is_written_with_its_settlement,
);

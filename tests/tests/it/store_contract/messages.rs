use carillon::message::{Counts, MessageStatus, Reason, Settled};
use carillon_tests::fleet::{T0, addresses, at, audience, campaign_spec, devices, expand, launch, running, sent};
use carillon_tests::stores::Opened;

async fn a_queue_is_filled_by_rank_then_by_age(t: Opened) {
    let store = &*t.store;
    let nos = devices(store, &["a", "b", "idle"]).await;
    audience(store, "people", &addresses(6)).await;
    let mut started = Vec::new();
    for (priority, s) in [(5, 2), (5, 1), (0, 3)] {
        let mut spec = campaign_spec("people");
        spec.priority = priority;
        let run = launch(store, &spec, &nos[..2], at(s)).await;
        expand(store, &run, 100, T0).await;
        started.push(run);
    }
    // The urgent one first, then the one that started first.
    let order = [&started[2], &started[1], &started[0]];
    let ranked: Vec<_> = order.iter().map(|s| s.ranked()).collect();
    assert!(ranked.is_sorted_by_key(|r| r.rank));
    let found = store.top_up(&nos, &ranked, 5).await.unwrap();
    assert_eq!(found.len(), 2, "devices without work are left out");
    for top in &found {
        let mut all = Vec::new();
        for s in order {
            all.extend(s.ready(store, top.device).await.into_iter().map(|id| (id, s.run.rank())));
        }
        assert_eq!(all.len(), 9);
        assert_eq!(top.messages, all[..5], "the first five of three runs");
    }
    let only = store.top_up(&nos, &ranked[1..2], 100).await.unwrap();
    assert!(only.iter().flat_map(|t| &t.messages).all(|(id, _)| id.run() == started[1].run.key), "only given runs");
    assert!(store.top_up(&nos, &[], 5).await.unwrap().is_empty());
    assert!(store.top_up(&[], &ranked, 5).await.unwrap().is_empty());

    let last = found[0].messages[4].0;
    let device = found[0].device;
    assert_eq!(store.ahead_of(last, device, &ranked, 100).await.unwrap(), 4);
    assert_eq!(store.ahead_of(last, device, &ranked, 3).await.unwrap(), 3);
    assert_eq!(store.ahead_of(found[0].messages[0].0, device, &ranked, 100).await.unwrap(), 0);
    let (first_of_last, _) = store.top_up(&[device], &ranked[2..], 1).await.unwrap()[0].messages[0];
    assert_eq!(store.ahead_of(first_of_last, device, &ranked, 100).await.unwrap(), 6);
}

async fn devices_with_work_are_found_page_by_page(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a", "b", "c", "d", "e"], 15).await;
    let work = s.ready(store, s.devices[1]).await;
    store.defer(&work, at(500), "quiet-hours").await.unwrap();
    let expected = [s.devices[0], s.devices[2], s.devices[3], s.devices[4]];
    assert_eq!(store.devices_with_ready(None, 100).await.unwrap(), expected);
    let first = store.devices_with_ready(None, 2).await.unwrap();
    assert_eq!(first, expected[..2]);
    assert_eq!(store.devices_with_ready(Some(first[1]), 2).await.unwrap(), expected[2..]);
    assert!(store.devices_with_ready(Some(expected[3]), 2).await.unwrap().is_empty());
}

async fn a_device_hands_its_messages_over(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a", "b", "c"], 30).await;
    let [a, b, c] = s.devices[..] else { panic!("three devices") };
    let mine = s.ready(store, a).await;
    let first = s.take(store, mine[0], a, 1, at(1)).await;
    let retry = Settled::Retry { due_at: at(60), counts: true, reason: Reason::new("http_503", "") };
    assert_eq!(store.settle(&[s.settlement(&first, a, 1, retry, at(1))]).await.unwrap(), [true]);
    let work = s.take(store, mine[1], a, 2, at(2)).await;
    assert_eq!(store.reassign(a, s.run.key, &[b, c], 4).await.unwrap(), 4);
    assert_eq!((s.ready(store, b).await.len(), s.ready(store, c).await.len()), (12, 12), "spread evenly");
    assert_eq!(store.reassign(a, s.run.key, &[b, c], 100).await.unwrap(), 5, "the deferred one too");
    assert_eq!(store.reassign(a, s.run.key, &[b, c], 100).await.unwrap(), 0);
    assert!(s.ready(store, a).await.is_empty());
    let waits = store.message(mine[0]).await.unwrap().unwrap();
    assert!(waits.device.as_str() != "a" && waits.due_at == Some(at(60)), "it still waits for its time");
    assert_eq!(store.settle(&[s.settlement(&work, a, 2, sent(), at(3))]).await.unwrap(), [true], "it was being sent");
    assert_eq!(s.counts(store).await, Counts { pending: 29, sent: 1, ..Counts::default() });
    assert_eq!(store.message(mine[1]).await.unwrap().unwrap().device.as_str(), "a");
    let other = running(store, &["b"], 1).await;
    assert_eq!(store.reassign(b, other.run.key, &[c], 100).await.unwrap(), 1, "of this run only");
}

async fn messages_are_listed_in_contact_order(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a"], 7).await;
    for contact in [2, 5] {
        s.send(store, s.message(contact), s.devices[0], sent(), at(1)).await;
    }
    let listed = async |status| {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = store.messages(s.run.key, status, cursor, 2).await.unwrap();
            assert!(page.items.len() <= 2);
            seen.extend(page.items.into_iter().map(|m| m.id.contact()));
            cursor = page.next;
            if cursor.is_none() {
                return seen;
            }
        }
    };
    assert_eq!(listed(None).await, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(listed(Some(MessageStatus::Sent)).await, [2, 5]);
    assert_eq!(listed(Some(MessageStatus::Pending)).await, [1, 3, 4, 6, 7]);
    assert_eq!(listed(Some(MessageStatus::Failed)).await, [] as [u32; 0]);
    let row = store.message(s.message(3)).await.unwrap().unwrap();
    assert_eq!((row.address.as_str(), row.device.as_str()), ("+3", "a"));
    assert_eq!((row.started_at, row.finished_at, row.digests), (None, None, None));
    assert!(store.message(s.message(8)).await.unwrap().is_none());
    assert!(store.attempts(s.message(8)).await.unwrap().is_empty());
    let other = running(store, &["a"], 3).await;
    assert_eq!(listed(None).await.len(), 7, "runs do not mix");
    let both = store.counts(&[other.run.key, s.run.key]).await.unwrap();
    let of = |run| both.iter().find(|(key, _)| *key == run).map(|(_, c)| *c).unwrap();
    assert_eq!(of(other.run.key), Counts { pending: 3, ..Counts::default() });
    assert_eq!(of(s.run.key), Counts { pending: 5, sent: 2, ..Counts::default() });
    assert!(store.counts(&[]).await.unwrap().is_empty());
}

async fn what_waits_is_listed_device_by_device(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a", "b", "c"], 12).await;
    let _other = running(store, &["a", "b"], 6).await;
    let mut expected = Vec::new();
    for (n, device) in s.devices.iter().enumerate() {
        let waiting = s.ready(store, *device).await;
        // In the order in which they will be sent, as far as it is known: those that wait for a time of their own among them.
        store.defer(&waiting[n..=n], at(500), "quiet-hours").await.unwrap();
        expected.extend(waiting);
    }
    let sent_one = expected.remove(4);
    let device = s.devices[1];
    s.send(store, sent_one, device, sent(), at(1)).await;
    for limit in [1, 2, 5, 100] {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.messages(s.run.key, Some(MessageStatus::Pending), cursor, limit).await.unwrap();
            assert!(
                page.items.len() <= limit as usize && page.items.iter().all(|m| m.status == MessageStatus::Pending)
            );
            seen.extend(page.items.into_iter().map(|m| m.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected, "pages of {limit}");
    }
    let after_sent = store.messages(s.run.key, Some(MessageStatus::Pending), Some(sent_one), 100).await.unwrap();
    assert_eq!(after_sent.items.len(), 7, "a cursor whose message was sent meanwhile still says where to go on");
}

super::on_every_store!(
    a_queue_is_filled_by_rank_then_by_age,
    devices_with_work_are_found_page_by_page,
    a_device_hands_its_messages_over,
    messages_are_listed_in_contact_order,
    what_waits_is_listed_device_by_device,
);

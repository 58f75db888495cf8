use std::time::Duration;

use carillon::campaign::{CampaignEvent as E, CampaignStatus as S};
use carillon::consent::NewSuppression;
use carillon::device::{PACE_SLACK, PaceUpdate};
use carillon::id::{HostId, MessageId};
use carillon::message::{Begun, Claim, Counts, MessageStatus, Reason, Recipient, Settled, Settlement};
use carillon_tests::fleet::{
    T0, addresses, at, audience, campaign_spec, contact, device_spec, devices, expand, launch, running, sent, versions,
};
use carillon_tests::stores::Opened;

fn entry(address: &str, channel: Option<&str>) -> NewSuppression {
    NewSuppression { address: address.into(), channel: channel.map(Into::into), reason: "opted-out".into() }
}

async fn a_ready_message_is_taken(t: Opened) {
    let s = running(&*t.store, &["a"], 2).await;
    let device = s.devices[0];
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 2, ..Counts::default() });
    let work = s.take(&*t.store, s.message(1), device, 7, at(5)).await;
    assert_eq!((work.message, work.attempt, work.failures, work.due_at), (s.message(1), 1, 0, T0));
    let expected = contact("+1");
    assert_eq!(
        work.recipient,
        Recipient {
            address: expected.address,
            locale: expected.locale,
            zone: None,
            variables: vec![("name".into(), "+1".into())],
        }
    );
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 1, processing: 1, ..Counts::default() });
    let row = t.store.message(s.message(1)).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempt, row.started_at), (MessageStatus::Processing, 1, Some(at(5))));
    assert!(row.digests.is_some(), "what it is being sent with is known before it is sent");
    assert_eq!(s.ready(&*t.store, device).await, [s.message(2)]);
}

async fn what_is_not_waiting_on_the_device_is_gone(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 3).await;
    let store = &*t.store;
    let first = s.message(1);
    let home = if s.ready(store, s.devices[0]).await.contains(&first) { 0 } else { 1 };
    let (home, other) = (s.devices[home], s.devices[1 - home]);
    assert_eq!(s.begin(store, first, other, 1, at(1)).await, Begun::Gone, "it waits on another device");
    assert_eq!(s.begin(store, s.message(99), home, 1, at(1)).await, Begun::Gone, "no such message");
    s.send(store, first, home, sent(), at(1)).await;
    assert_eq!(s.begin(store, first, home, 2, at(2)).await, Begun::Gone, "it was sent");
    assert_eq!(store.begin(s.host, &[], at(2)).await.unwrap(), []);
}

async fn a_device_sends_one_message_at_a_time(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 8).await;
    let store = &*t.store;
    let (a, b) = (s.ready(store, s.devices[0]).await, s.ready(store, s.devices[1]).await);
    let batch = [
        s.claim(a[0], s.devices[0], 1),
        s.claim(a[1], s.devices[0], 1),
        s.claim(b[0], s.devices[1], 1),
        s.claim(a[0], s.devices[0], 1),
    ];
    let answers = store.begin(s.host, &batch, at(1)).await.unwrap();
    assert!(matches!(answers[0], Begun::Started(_)));
    assert_eq!(answers[1], Begun::DeviceBusy, "within one call");
    assert!(matches!(&answers[2], Begun::Started(work) if work.message == b[0]), "in the claims' order");
    assert!(matches!(answers[3], Begun::Gone | Begun::DeviceBusy), "the same claim again");
    assert_eq!(s.begin(store, a[1], s.devices[0], 2, at(2)).await, Begun::DeviceBusy, "under any token");
    let again = s.begin(store, a[0], s.devices[0], 2, at(2)).await;
    assert_eq!(again, Begun::DeviceBusy, "it may come back, and then goes before the others");
    assert_eq!(s.top_up(store, s.devices[0]).await, a, "what is being sent stands first");
    assert_eq!(s.status(store, a[1]).await, MessageStatus::Pending);
    assert_eq!(s.counts(store).await, Counts { pending: 6, processing: 2, ..Counts::default() });
}

async fn of_two_servers_one_gets_the_device(t: Opened) {
    let s = running(&*t.store, &["a"], 40).await;
    let device = s.devices[0];
    let other = t.again().await;
    for round in 0..10u64 {
        let ready = s.ready(&*t.store, device).await;
        let takers =
            [(t.store.clone(), 0, 1), (other.clone(), 1, 2), (t.store.clone(), 0, 3)].map(|(store, pos, n)| {
                let token = 10 * round as i64 + n;
                let claim = s.claim(ready[pos], device, token);
                tokio::spawn(async move {
                    (token, store.begin(HostId::new(), &[claim], at(round)).await.unwrap().remove(0))
                })
            });
        let mut started = Vec::new();
        for taker in takers {
            match taker.await.unwrap() {
                (token, Begun::Started(work)) => started.push((token, *work)),
                (_, Begun::DeviceBusy | Begun::Gone) => {}
                (_, answer) => panic!("{answer:?}"),
            }
        }
        assert_eq!(started.len(), 1, "round {round}");
        let (token, work) = started.remove(0);
        assert_eq!(t.store.settle(&[s.settlement(&work, device, token, sent(), at(round))]).await.unwrap(), [true]);
    }
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 30, sent: 10, ..Counts::default() });
    other.close().await;
}

async fn two_servers_share_many_devices_without_a_double(t: Opened) {
    let ids: Vec<String> = (0..20).map(|n| format!("d{n:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let s = running(&*t.store, &ids, 200).await;
    let mut batches = Vec::new();
    for round in 0..4 {
        let mut claims = Vec::new();
        for device in &s.devices {
            claims.push(s.claim(s.ready(&*t.store, *device).await[round], *device, round as i64));
        }
        batches.push(claims);
    }
    let other = t.again().await;
    let takers: Vec<_> = batches
        .into_iter()
        .enumerate()
        .map(|(n, mut claims)| {
            let store = if n % 2 == 0 { t.store.clone() } else { other.clone() };
            if n > 1 {
                claims.reverse();
            }
            tokio::spawn(async move { store.begin(HostId::new(), &claims, at(1)).await.unwrap() })
        })
        .collect();
    let mut started = 0;
    for taker in takers {
        started += taker.await.unwrap().iter().filter(|b| matches!(b, Begun::Started(_))).count();
    }
    assert_eq!(started, 20, "each device sends one, and none was left without");
    assert_eq!(s.counts(&*t.store).await.processing, 20);
    other.close().await;
}

async fn a_suppressed_address_is_not_sent_to(t: Opened) {
    let s = running(&*t.store, &["a"], 4).await;
    let store = &*t.store;
    let device = s.devices[0];
    store.suppress(&[entry("+1", None), entry("+2", Some("sms")), entry("+3", Some("push"))], at(1)).await.unwrap();
    assert_eq!(s.begin(store, s.message(1), device, 1, at(2)).await, Begun::Suppressed);
    assert_eq!(s.begin(store, s.message(2), device, 1, at(2)).await, Begun::Suppressed);
    let row = store.message(s.message(1)).await.unwrap().unwrap();
    assert_eq!((row.status, row.finished_at, row.attempt), (MessageStatus::Suppressed, Some(at(2)), 0));
    s.send(store, s.message(3), device, sent(), at(3)).await;
    assert_eq!(s.begin(store, s.message(1), device, 1, at(3)).await, Begun::Gone, "it is final");
    assert_eq!(s.counts(store).await, Counts { pending: 1, sent: 1, suppressed: 2, ..Counts::default() });
}

async fn nothing_is_sent_after_the_expiry(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    audience(&*t.store, "people", &addresses(3)).await;
    let mut spec = campaign_spec("people");
    spec.expires_at = Some(at(100));
    let s = launch(&*t.store, &spec, &nos, T0).await;
    expand(&*t.store, &s, 10, T0).await;
    s.send(&*t.store, s.message(1), nos[0], sent(), at(99)).await;
    assert_eq!(s.begin(&*t.store, s.message(2), nos[0], 1, at(100)).await, Begun::Expired);
    assert_eq!(s.begin(&*t.store, s.message(3), nos[0], 1, at(101)).await, Begun::Expired);
    assert_eq!(s.status(&*t.store, s.message(2)).await, MessageStatus::Expired);
    assert_eq!(s.counts(&*t.store).await, Counts { sent: 1, expired: 2, ..Counts::default() });
}

async fn a_paused_or_closed_run_is_inactive(t: Opened) {
    let s = running(&*t.store, &["a"], 3).await;
    let store = &*t.store;
    store.suppress(&[entry("+1", None)], at(1)).await.unwrap();
    store.move_campaign(s.campaign, S::Running, E::Pause, Some("wait"), at(1)).await.unwrap().unwrap();
    for contact in 1..=2 {
        assert_eq!(s.begin(store, s.message(contact), s.devices[0], 1, at(2)).await, Begun::Inactive);
    }
    assert_eq!(s.counts(store).await, Counts { pending: 3, ..Counts::default() }, "it stays as it was");
    store.move_campaign(s.campaign, S::Paused, E::Resume, None, at(3)).await.unwrap().unwrap();
    s.send(store, s.message(2), s.devices[0], sent(), at(4)).await;
    store.move_campaign(s.campaign, S::Running, E::Cancel, None, at(5)).await.unwrap().unwrap();
    assert_eq!(s.begin(store, s.message(3), s.devices[0], 1, at(6)).await, Begun::Inactive);
}

async fn one_claim_does_not_spoil_the_others(t: Opened) {
    let s = running(&*t.store, &["a", "b", "c", "d"], 8).await;
    let store = &*t.store;
    let mut heads = Vec::new();
    for device in &s.devices {
        heads.push(s.ready(store, *device).await[0]);
    }
    s.take(store, heads[0], s.devices[0], 1, at(1)).await;
    let busy = s.ready(store, s.devices[0]).await[0];
    let address = store.message(heads[2]).await.unwrap().unwrap().address;
    store.suppress(&[entry(&address, None)], at(1)).await.unwrap();
    let claims = [
        s.claim(busy, s.devices[0], 2),
        s.claim(MessageId::new(s.run.key, 4_000_000), s.devices[1], 2),
        s.claim(heads[2], s.devices[2], 2),
        s.claim(heads[3], s.devices[3], 2),
    ];
    let answers = store.begin(s.host, &claims, at(2)).await.unwrap();
    assert_eq!(answers[..3], [Begun::DeviceBusy, Begun::Gone, Begun::Suppressed]);
    assert!(matches!(&answers[3], Begun::Started(work) if work.message == heads[3]));
}

async fn a_message_that_waits_for_its_time_is_not_taken(t: Opened) {
    let s = running(&*t.store, &["a"], 3).await;
    let store = &*t.store;
    let device = s.devices[0];
    let retry = Settled::Retry { due_at: at(60), counts: true, reason: Reason::new("http_503", "try later") };
    s.send(store, s.message(1), device, retry, at(1)).await;
    assert_eq!(store.defer(&[s.message(2), s.message(99)], at(30), "quiet-hours").await.unwrap(), 1);
    assert_eq!(store.defer(&[s.message(2), s.message(1)], at(40), "quiet-hours").await.unwrap(), 0, "not ready");
    assert_eq!(s.begin(store, s.message(1), device, 1, at(100)).await, Begun::Gone);
    assert_eq!(s.begin(store, s.message(2), device, 1, at(100)).await, Begun::Gone);
    let row = store.message(s.message(2)).await.unwrap().unwrap();
    assert_eq!((row.status, row.due_at, row.failures), (MessageStatus::Pending, Some(at(30)), 0));
    assert_eq!(row.reason.unwrap().code, "quiet-hours");
    assert_eq!(s.ready(store, device).await, [s.message(3)]);
    assert_eq!(s.counts(store).await, Counts { pending: 3, ..Counts::default() });
    assert_eq!(store.deferred(&[s.run.key], 10).await.unwrap(), 2);
    assert_eq!(store.deferred(&[s.run.key], 1).await.unwrap(), 1, "no more are looked at");
    assert_eq!(store.deferred(&[], 10).await.unwrap(), 0, "of no run");

    assert_eq!(store.promote_due(at(10), 10).await.unwrap(), (vec![], Some(at(30))));
    assert_eq!(store.promote_due(at(60), 1).await.unwrap(), (vec![device], Some(at(60))));
    assert_eq!(s.ready(store, device).await, [s.message(2), s.message(3)]);
    assert_eq!(store.promote_due(at(60), 10).await.unwrap(), (vec![device], None));
    assert_eq!(store.promote_due(at(60), 10).await.unwrap(), (vec![], None));
    assert_eq!(store.deferred(&[s.run.key], 10).await.unwrap(), 0);
    let work = s.take(store, s.message(1), device, 2, at(61)).await;
    assert_eq!((work.attempt, work.failures, work.due_at), (2, 1, at(60)));
}

async fn what_is_being_sent_is_listed_with_its_server(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 4).await;
    let store = &*t.store;
    let alive = std::time::Duration::from_secs(10);
    let beat = carillon::store::Heartbeat {
        host: s.host,
        name: "one".into(),
        version: "0".into(),
        roles: String::new(),
        active_workers: 0,
    };
    store.heartbeat(&beat, at(1), alive).await.unwrap();
    let mut taken = Vec::new();
    for (n, device) in s.devices.iter().enumerate() {
        let id = s.ready(store, *device).await[0];
        s.take(store, id, *device, 10 + n as i64, at(2)).await;
        taken.push(id);
    }
    let listed = store.in_flight(None, None, 10, at(5), alive).await.unwrap();
    let mut ids: Vec<_> = listed.iter().map(|f| f.message).collect();
    assert!(ids.is_sorted());
    taken.sort();
    ids.sort();
    assert_eq!(ids, taken);
    let of_a = store.in_flight(Some(s.devices[0]), None, 10, at(5), alive).await.unwrap();
    assert_eq!(of_a.len(), 1);
    let f = &of_a[0];
    assert_eq!((f.device, f.token, f.attempt, f.failures, f.started_at), (s.devices[0], 10, 1, 0, at(2)));
    assert_eq!((f.host, f.host_alive, f.versions), (s.host, true, s.versions));
    assert!(!store.in_flight(Some(s.devices[0]), None, 10, at(12), alive).await.unwrap()[0].host_alive);
    let page = store.in_flight(None, None, 1, at(5), alive).await.unwrap();
    let rest = store.in_flight(None, Some(page[0].message), 10, at(5), alive).await.unwrap();
    assert_eq!([page[0].message, rest[0].message].to_vec(), taken);
    assert_eq!(rest.len(), 1);
    store.put_devices(&[device_spec("c")], T0).await.unwrap();
    let c = devices(store, &["c"]).await[0];
    assert!(store.in_flight(Some(c), None, 10, at(5), alive).await.unwrap().is_empty());
    assert_eq!(versions(store).await, s.versions, "uploaded once");
}

async fn a_saved_pace_is_kept_although_the_queue_forgot_it(t: Opened) {
    let s = running(&*t.store, &["a"], 4).await;
    let (store, device) = (&*t.store, s.devices[0]);
    let pace = |token, at| PaceUpdate { device, token, next_at: at, pace: "{}".into() };
    store.save_paces(&[pace(1, at(10))]).await.unwrap();
    assert_eq!(s.begin(store, s.message(1), device, 2, at(9)).await, Begun::TooSoon(at(10)));
    assert_eq!(s.status(store, s.message(1)).await, MessageStatus::Pending);
    // The server's clock may be a second ahead, for all that it knows.
    let unsure = Claim { uncertainty: Duration::from_secs(1), ..s.claim(s.message(1), device, 2) };
    let answers = store.begin(s.host, &[unsure], at(10)).await.unwrap();
    assert_eq!(answers, [Begun::TooSoon(at(10))]);
    let work = s.take(store, s.message(1), device, 2, at(10).minus(PACE_SLACK)).await;
    // The worker that ends an attempt knows the pace better than what was saved before.
    let end = s.settlement(&work, device, 2, sent(), at(11));
    let end = Settlement { pace: Some(pace(2, at(20))), ..end };
    let next = s.claim(s.message(2), device, 2);
    let turned = store.turn(s.host, &[end], &[next], at(11)).await.unwrap();
    assert!(matches!(turned.begun[0], Begun::Started(_)), "{turned:?}");
    let Begun::Started(work) = &turned.begun[0] else { unreachable!() };
    store.settle(&[s.settlement(work, device, 2, sent(), at(12))]).await.unwrap();
    assert_eq!(s.begin(store, s.message(3), device, 3, at(12)).await, Begun::TooSoon(at(20)));
    let seen = store.device(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert!(store.update_device(&seen.spec, None, true, seen.updated_at, at(13)).await.unwrap());
    s.take(store, s.message(3), device, 3, at(13)).await;
}

super::on_every_store!(
    a_saved_pace_is_kept_although_the_queue_forgot_it,
    a_ready_message_is_taken,
    what_is_not_waiting_on_the_device_is_gone,
    a_device_sends_one_message_at_a_time,
    of_two_servers_one_gets_the_device,
    two_servers_share_many_devices_without_a_double,
    a_suppressed_address_is_not_sent_to,
    nothing_is_sent_after_the_expiry,
    a_paused_or_closed_run_is_inactive,
    one_claim_does_not_spoil_the_others,
    a_message_that_waits_for_its_time_is_not_taken,
    what_is_being_sent_is_listed_with_its_server,
);

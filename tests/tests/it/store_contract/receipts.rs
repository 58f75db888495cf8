use carillon::clock::Time;
use carillon::id::{Digest, WebhookId};
use carillon::message::{Counts, Reason};
use carillon::receipt::{
    AddressKey, Expected, News, Noted, Receipt, ReceiptCounts, ReceiptDelta, ReceiptKey, ReceiptState, Webhook,
    WebhookSpec,
};
use carillon::store::Store;
use carillon_tests::fleet::{Started, at, running, sent};
use carillon_tests::stores::Opened;
use serde_json::json;

const ROOM: u32 = 100;

fn key(n: u32) -> ReceiptKey {
    ReceiptKey::new("gateway", &format!("p-{n}"))
}

fn expected(n: u32) -> Expected {
    Expected { key: key(n), address: AddressKey::new("gateway", &format!("+1555{n:04}")) }
}

fn news(n: u32, state: ReceiptState, second: u64) -> News {
    let reason = (state == ReceiptState::Failed).then(|| Reason::new("gone", "it did not arrive"));
    News { key: key(n), state, at: at(second), reason }
}

/// A campaign of so many messages, all sent, whose receipts are expected.
async fn all_sent(store: &dyn Store, contacts: u32) -> Started {
    let s = running(store, &["a"], contacts).await;
    let device = s.devices[0];
    for n in 1..=contacts {
        let work = s.take(store, s.message(n), device, 1, at(1)).await;
        let end = carillon::message::Settlement {
            receipt: Some(expected(n)),
            ..s.settlement(&work, device, 1, sent(), at(1))
        };
        assert_eq!(store.settle(&[end]).await.unwrap(), [true]);
    }
    s
}

async fn counts(store: &dyn Store, s: &Started) -> ReceiptCounts {
    store.receipt_counts(&[s.run.key]).await.unwrap().first().map(|(_, counts)| *counts).unwrap_or_default()
}

async fn tell(store: &dyn Store, told: &[News]) -> Noted {
    store.note_receipts(told, ROOM, at(50)).await.unwrap()
}

async fn reports_are_kept_beside_the_message_and_counted_once(t: Opened) {
    use ReceiptState::{Delivered, Failed, Read};
    let store = &*t.store;
    let s = all_sent(store, 4).await;
    assert_eq!(store.receipt(s.message(1)).await.unwrap(), Some(Receipt::default()));
    assert_eq!(store.receipt(s.message(77)).await.unwrap(), None);
    assert_eq!(counts(store, &s).await, ReceiptCounts::default());

    let first = [news(1, Delivered, 10), news(2, Read, 11), news(3, Failed, 12)];
    let noted = tell(store, &first).await;
    assert_eq!(noted, Noted { changed: ReceiptDelta { delivered: 2, read: 1, failed: 1 }, ..Noted::default() });
    // Again, in another order, and with what came before it.
    let again = [news(3, Failed, 20), news(2, Delivered, 21), news(2, Failed, 22), news(1, Delivered, 23)];
    let noted = tell(store, &again).await;
    assert_eq!(noted, Noted { repeated: 4, ..Noted::default() });
    assert_eq!(counts(store, &s).await, ReceiptCounts { delivered: 2, read: 1, failed: 1 });

    let receipt = store.receipt(s.message(2)).await.unwrap().unwrap();
    assert_eq!((receipt.state, receipt.delivered_at, receipt.read_at), (Read, Some(at(11)), Some(at(11))));
    let receipt = store.receipt(s.message(3)).await.unwrap().unwrap();
    assert_eq!((receipt.state, receipt.failed_at), (Failed, Some(at(12))));
    assert_eq!(receipt.reason, Some(Reason::new("gone", "it did not arrive")));
    // It arrived after all; several steps of one message in one call.
    tell(store, &[news(3, Delivered, 30), news(3, Read, 31), news(3, Delivered, 32)]).await;
    let receipt = store.receipt(s.message(3)).await.unwrap().unwrap();
    let expected = Receipt { state: Read, delivered_at: Some(at(30)), read_at: Some(at(31)), ..Receipt::default() };
    assert_eq!(receipt, expected);
    assert_eq!(counts(store, &s).await, ReceiptCounts { delivered: 3, read: 2, failed: 0 });
    // The message itself stays as it was.
    assert_eq!(s.counts(store).await, Counts { sent: 4, ..Counts::default() });
}

async fn two_servers_that_hear_the_same_count_it_once(t: Opened) {
    let s = all_sent(&*t.store, 20).await;
    let other = t.again().await;
    let told: Vec<News> = (1..=20).map(|n| news(n, ReceiptState::Delivered, 10)).collect();
    let mut backwards = told.clone();
    backwards.reverse();
    let both = [(t.store.clone(), told), (other.clone(), backwards)]
        .map(|(store, told)| tokio::spawn(async move { store.note_receipts(&told, ROOM, at(50)).await.unwrap() }));
    let mut noted = Noted::default();
    for one in both {
        noted.add(&one.await.unwrap());
    }
    assert_eq!((noted.changed.delivered, noted.repeated), (20, 20));
    assert_eq!(counts(&*t.store, &s).await.delivered, 20);
    other.close().await;
}

async fn what_comes_before_its_message_waits_for_it(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a"], 2).await;
    let early =
        [news(1, ReceiptState::Delivered, 10), news(1, ReceiptState::Delivered, 11), news(9, ReceiptState::Read, 12)];
    let noted = tell(store, &early).await;
    assert_eq!((noted.early, noted.repeated, noted.dropped), (2, 1, 0));
    assert_eq!(store.settle_early_receipts(at(0), 10).await.unwrap(), (Noted::default(), 0), "not yet");
    let work = s.take(store, s.message(1), s.devices[0], 1, at(1)).await;
    let end = carillon::message::Settlement {
        receipt: Some(expected(1)),
        ..s.settlement(&work, s.devices[0], 1, sent(), at(1))
    };
    assert_eq!(store.settle(&[end]).await.unwrap(), [true]);
    let (noted, given_up) = store.settle_early_receipts(at(0), 10).await.unwrap();
    assert_eq!((noted.changed.delivered, given_up), (1, 0));
    assert_eq!(store.receipt(s.message(1)).await.unwrap().unwrap().delivered_at, Some(at(10)));
    assert_eq!(counts(store, &s).await.delivered, 1);
    // The other one is of nobody's message.
    assert_eq!(store.settle_early_receipts(at(51), 10).await.unwrap(), (Noted::default(), 1));
    assert_eq!(store.settle_early_receipts(at(51), 10).await.unwrap(), (Noted::default(), 0));
    // There is room for so many only.
    let many: Vec<News> = (100..300).map(|n| news(n, ReceiptState::Delivered, 10)).collect();
    let noted = tell(store, &many).await;
    assert_eq!((noted.early, noted.dropped), (100, 100));
    assert_eq!(tell(store, &[news(500, ReceiptState::Read, 10)]).await.dropped, 1);
}

async fn a_batch_of_ten_thousand_is_taken_at_once(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a"], 10).await;
    let all: Vec<_> = (1..=10).map(|n| (s.message(n), expected(n))).collect();
    store.expect_receipts(&all).await.unwrap();
    store.expect_receipts(&all).await.unwrap();
    let told: Vec<News> = (0..10_000).map(|n| news(n % 10 + 1, ReceiptState::Read, u64::from(n))).collect();
    let noted = tell(store, &told).await;
    assert_eq!((noted.changed.read, noted.repeated), (10, 9_990));
    let unknown: Vec<News> = (1_000..11_000).map(|n| news(n, ReceiptState::Read, 1)).collect();
    let noted = tell(store, &unknown).await;
    assert_eq!((noted.early, noted.dropped), (100, 9_900));
}

async fn addresses_are_found_as_their_audience_writes_them(t: Opened) {
    let store = &*t.store;
    let s = all_sent(store, 3).await;
    let none = store.addresses_of_receipts(&[], &[], 10).await.unwrap();
    assert!(none.is_empty());
    let found = store.addresses_of_receipts(&[key(2), key(77)], &[], 10).await.unwrap();
    assert_eq!(found, ["+2"]);
    // As the provider calls it.
    let called = [AddressKey::new("gateway", "15550001"), AddressKey::new("gateway", "15550003")];
    let mut found = store.addresses_of_receipts(&[], &called, 10).await.unwrap();
    found.sort();
    assert_eq!(found, ["+1", "+3"]);
    assert!(store.addresses_of_receipts(&[], &[AddressKey::new("other", "15550001")], 10).await.unwrap().is_empty());
    drop(s);
}

async fn receipts_go_with_their_messages_and_counts_stay(t: Opened) {
    let store = &*t.store;
    let s = all_sent(store, 4).await;
    tell(store, &(1..=4).map(|n| news(n, ReceiptState::Delivered, 10)).collect::<Vec<_>>()).await;
    assert_eq!(store.complete_campaigns(at(60)).await.unwrap(), [s.campaign]);
    let step = store.prune_run(at(100), 2, at(200)).await.unwrap().unwrap();
    assert_eq!(step.messages, 2);
    for n in 1..=4 {
        assert_eq!(store.receipt(s.message(n)).await.unwrap().is_some(), n > 2, "{n}");
    }
    while store.prune_run(at(100), 2, at(200)).await.unwrap().is_some() {}
    assert_eq!(store.receipt(s.message(4)).await.unwrap(), None);
    assert_eq!(counts(store, &s).await.delivered, 4);
    assert!(store.addresses_of_receipts(&[key(1)], &[], 10).await.unwrap().is_empty());
    // What comes later is of nobody's message.
    assert_eq!(tell(store, &[news(1, ReceiptState::Read, 300)]).await.early, 1);
}

fn webhook(plugin: &str, name: &str, created_at: Time) -> Webhook {
    let spec: WebhookSpec = serde_json::from_value(json!({
        "name": name, "channel": "sms", "signature": {"scheme": "whatsapp", "secret": "S"}, "config": {"a": 1}
    }))
    .unwrap();
    Webhook { id: WebhookId::new(), plugin: plugin.into(), spec, created_at }
}

async fn webhooks_are_found_by_their_key(t: Opened) {
    let store = &*t.store;
    let before = store.revisions().await.unwrap().plugins;
    let (one, two) = (webhook("a", "one", at(1)), webhook("b", "two", at(2)));
    store.create_webhook(&one, Digest::of(b"1")).await.unwrap();
    store.create_webhook(&two, Digest::of(b"2")).await.unwrap();
    assert!(store.create_webhook(&webhook("a", "same key", at(3)), Digest::of(b"1")).await.is_err());
    let made = store.revisions().await.unwrap().plugins;
    assert!(made > before, "servers hear of it");
    assert_eq!(store.webhook_by_key(Digest::of(b"1")).await.unwrap(), Some(one.clone()));
    assert_eq!(store.webhook_by_key(Digest::of(b"3")).await.unwrap(), None);
    assert_eq!(store.webhooks(None).await.unwrap(), [one.clone(), two.clone()]);
    assert_eq!(store.webhooks(Some("b")).await.unwrap(), std::slice::from_ref(&two));
    assert!(!store.delete_webhook("b", one.id).await.unwrap(), "of another plugin");
    assert!(store.delete_webhook("a", one.id).await.unwrap());
    assert!(!store.delete_webhook("a", one.id).await.unwrap());
    assert_eq!(store.webhook_by_key(Digest::of(b"1")).await.unwrap(), None);
    assert!(store.revisions().await.unwrap().plugins > made);
}

super::on_every_store!(
    reports_are_kept_beside_the_message_and_counted_once,
    two_servers_that_hear_the_same_count_it_once,
    what_comes_before_its_message_waits_for_it,
    a_batch_of_ten_thousand_is_taken_at_once,
    addresses_are_found_as_their_audience_writes_them,
    receipts_go_with_their_messages_and_counts_stay,
    webhooks_are_found_by_their_key,
);

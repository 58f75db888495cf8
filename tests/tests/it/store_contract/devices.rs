use carillon::store::StoreError;
use carillon_tests::fleet::{T0, at, device, device_spec, devices, running, sent};
use carillon_tests::stores::Opened;

async fn put_replaces_what_the_user_said_and_nothing_else(t: Opened) {
    let nos = devices(&*t.store, &["a", "b"]).await;
    t.store.hold_devices(&nos[..1], Some("account-blocked"), at(1)).await.unwrap();
    let mut changed = device_spec("a");
    changed.tags = vec!["other".into()];
    changed.account = Some("acme".into());
    assert_eq!(t.store.put_devices(&[changed, device_spec("c")], at(2)).await.unwrap(), 1, "one is new");
    let a = device(&*t.store, "a").await;
    assert_eq!((a.no, a.held.as_deref()), (nos[0], Some("account-blocked")));
    assert_eq!((a.spec.tags, a.created_at, a.updated_at), (vec!["other".to_owned()], T0, at(2)));
    assert_eq!(t.store.count_devices().await.unwrap(), 3);
    let of_account = t.store.devices_of_account("acme").await.unwrap();
    assert_eq!(of_account.iter().map(|d| d.no).collect::<Vec<_>>(), [nos[0]]);
    assert!(t.store.device(&"nobody".parse().unwrap()).await.unwrap().is_none());
}

async fn an_update_is_refused_when_somebody_else_was_first(t: Opened) {
    devices(&*t.store, &["a"]).await;
    let mut spec = device_spec("a");
    spec.name = "first".into();
    assert!(t.store.update_device(&spec, Some("by hand"), false, T0, at(1)).await.unwrap());
    spec.name = "second".into();
    assert!(!t.store.update_device(&spec, None, false, T0, at(2)).await.unwrap());
    let a = device(&*t.store, "a").await;
    assert_eq!((a.spec.name.as_str(), a.held.as_deref(), a.updated_at), ("first", Some("by hand"), at(1)));
    assert!(t.store.update_device(&spec, None, false, at(1), at(3)).await.unwrap());
    assert_eq!(device(&*t.store, "a").await.held, None);
    assert!(!t.store.update_device(&device_spec("nobody"), None, false, T0, at(3)).await.unwrap());
}

async fn a_device_with_open_messages_is_not_deleted(t: Opened) {
    let s = running(&*t.store, &["a", "b"], 1).await;
    let first = s.message(1);
    let id = t.store.message(first).await.unwrap().unwrap().device;
    let no = device(&*t.store, id.as_str()).await.no;
    assert!(matches!(t.store.delete_device(&id, at(1)).await, Err(StoreError::Conflict(_))));
    let work = s.take(&*t.store, first, no, 1, at(1)).await;
    assert!(matches!(t.store.delete_device(&id, at(1)).await, Err(StoreError::Conflict(_))));
    assert_eq!(t.store.settle(&[s.settlement(&work, no, 1, sent(), at(1))]).await.unwrap(), [true]);

    assert!(t.store.delete_device(&id, at(2)).await.unwrap());
    assert!(!t.store.delete_device(&id, at(2)).await.unwrap());
    assert!(t.store.device(&id).await.unwrap().is_none());
    assert!(t.store.devices_by_no(&[no]).await.unwrap().is_empty());
    assert_eq!(t.store.count_devices().await.unwrap(), 1);
    assert_eq!(t.store.devices(None, None, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(t.store.devices_changed(at(2)).await.unwrap().1, [no]);
    assert!(t.store.devices_changed(at(3)).await.unwrap().1.is_empty());
    assert_eq!(t.store.message(first).await.unwrap().unwrap().device, id, "what it sent still names it");

    assert_eq!(t.store.put_devices(&[device_spec(id.as_str())], at(3)).await.unwrap(), 1, "the id is free again");
    assert_eq!(device(&*t.store, id.as_str()).await.created_at, at(3));
}

async fn listings_are_paged_by_id_and_filtered(t: Opened) {
    let ids = ["d-1", "d-2", "d-3", "d-4", "d-5"];
    devices(&*t.store, &ids).await;
    let mut odd = device_spec("d-0");
    (odd.tags, odd.channel) = (vec!["odd".into(), "spare".into()], "push".into());
    t.store.put_devices(&[odd], T0).await.unwrap();

    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = t.store.devices(Some("fleet"), Some("sms"), cursor.as_ref(), 2).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|d| d.spec.id.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let only = |tag, channel| t.store.devices(tag, channel, None, 10);
    assert_eq!(only(Some("spare"), None).await.unwrap().items.len(), 1);
    assert_eq!(only(None, Some("push")).await.unwrap().items.len(), 1);
    assert_eq!(only(Some("spare"), Some("sms")).await.unwrap().items.len(), 0);
    assert_eq!(only(None, None).await.unwrap().items.len(), 6);
    let exact = t.store.devices(None, None, None, 6).await.unwrap();
    assert_eq!((exact.items.len(), exact.next), (6, None), "a full last page has no next one");
}

async fn changes_are_found_by_their_time(t: Opened) {
    let nos = devices(&*t.store, &["a", "b", "c"]).await;
    let changed = async |since| {
        let mut found: Vec<_> = t.store.devices_changed(since).await.unwrap().0.into_iter().map(|d| d.no).collect();
        found.sort();
        found
    };
    assert_eq!(changed(T0).await, nos);
    let before = t.store.revisions().await.unwrap().devices;
    t.store.hold_devices(&[nos[1]], Some("account-blocked"), at(5)).await.unwrap();
    assert_eq!(changed(at(1)).await, [nos[1]]);
    assert_eq!(device(&*t.store, "b").await.held.as_deref(), Some("account-blocked"));
    t.store.hold_devices(&[nos[1]], None, at(6)).await.unwrap();
    assert_eq!(device(&*t.store, "b").await.held, None);
    assert_eq!(changed(at(6)).await, [nos[1]]);
    assert!(t.store.revisions().await.unwrap().devices > before);
    let mut found = t.store.devices_by_no(&[nos[2], nos[0]]).await.unwrap();
    found.sort_by_key(|d| d.no);
    assert_eq!(found.iter().map(|d| d.spec.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
}

super::on_every_store!(
    put_replaces_what_the_user_said_and_nothing_else,
    an_update_is_refused_when_somebody_else_was_first,
    a_device_with_open_messages_is_not_deleted,
    listings_are_paged_by_id_and_filtered,
    changes_are_found_by_their_time,
);

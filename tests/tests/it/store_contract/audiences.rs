use std::time::Duration;

use carillon_tests::fleet::{T0, addresses, at, audience, campaign_spec, contact, devices, expand, launch};
use carillon_tests::stores::Opened;

async fn an_upload_becomes_current_when_it_is_finished(t: Opened) {
    let columns = ["name".to_owned(), "city".to_owned()];
    let no = t.store.begin_audience("people", &columns, T0).await.unwrap();
    assert!(t.store.append_contacts(no, 1, &[contact("+1"), contact("+2")]).await.unwrap().is_empty());
    assert!(t.store.audience("people").await.unwrap().is_none(), "half an upload is not shown");
    assert!(t.store.audiences(None, 10).await.unwrap().items.is_empty());
    t.store.finish_audience(no, 2, 2, at(1)).await.unwrap();
    let row = t.store.audience("people").await.unwrap().unwrap();
    assert_eq!((row.no, row.contacts, row.columns), (no, 2, columns.to_vec()));
    assert_eq!(row.name, "people");

    let next = t.store.begin_audience("people", &[], at(2)).await.unwrap();
    t.store.append_contacts(next, 1, &[contact("+9")]).await.unwrap();
    assert_eq!(t.store.audience("people").await.unwrap().unwrap().no, no);
    t.store.abort_audience(next).await.unwrap();
    assert_eq!(t.store.audience("people").await.unwrap().unwrap().no, no);

    let next = t.store.begin_audience("people", &[], at(3)).await.unwrap();
    t.store.append_contacts(next, 1, &[contact("+9")]).await.unwrap();
    t.store.finish_audience(next, 1, 1, at(4)).await.unwrap();
    let row = t.store.audience("people").await.unwrap().unwrap();
    assert_eq!((row.no, row.contacts), (next, 1));
    assert_eq!(t.store.audiences(None, 10).await.unwrap().items, [row]);
}

async fn an_address_is_in_an_audience_once(t: Opened) {
    let no = t.store.begin_audience("people", &["name".to_owned()], T0).await.unwrap();
    let first = [contact("+1"), contact("+2"), contact("+1"), contact("+3")];
    assert_eq!(t.store.append_contacts(no, 1, &first).await.unwrap(), [2]);
    let second = [contact("+4"), contact("+3"), contact("+2")];
    assert_eq!(t.store.append_contacts(no, 5, &second).await.unwrap(), [1, 2]);
    t.store.finish_audience(no, 4, 7, T0).await.unwrap();
    let rows = t.store.contacts(no, 0, 10).await.unwrap();
    let shown: Vec<_> = rows.iter().map(|(n, c)| (*n, c.address.as_str())).collect();
    assert_eq!(shown, [(1, "+1"), (2, "+2"), (4, "+3"), (5, "+4")], "numbers of skipped ones stay unused");
    assert_eq!(rows[0].1, contact("+1"));
    let rest = t.store.contacts(no, 2, 1).await.unwrap();
    assert_eq!(rest.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [4]);

    let other = t.store.begin_audience("others", &[], T0).await.unwrap();
    assert!(t.store.append_contacts(other, 1, &[contact("+1")]).await.unwrap().is_empty(), "in another audience");
}

async fn a_run_keeps_the_version_that_it_began_with(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    audience(&*t.store, "people", &addresses(3)).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    audience(&*t.store, "people", &["+77".to_owned()]).await;
    assert_eq!(t.store.prune_audiences(T0.plus(Duration::from_secs(3 * 86_400)), 100).await.unwrap(), 0);
    expand(&*t.store, &s, 2, at(1)).await;
    let rows = t.store.messages(s.run.key, None, None, 10).await.unwrap().items;
    assert_eq!(rows.into_iter().map(|m| m.address).collect::<Vec<_>>(), addresses(3));
}

async fn versions_that_nothing_needs_are_pruned(t: Opened) {
    let old = audience(&*t.store, "people", &addresses(5)).await;
    let current = audience(&*t.store, "people", &addresses(2)).await;
    let later = T0.plus(Duration::from_secs(3 * 86_400));
    let being_uploaded = t.store.begin_audience("others", &[], later).await.unwrap();
    t.store.append_contacts(being_uploaded, 1, &[contact("+1")]).await.unwrap();
    assert_eq!(t.store.prune_audiences(later, 3).await.unwrap(), 3);
    assert_eq!(t.store.prune_audiences(later, 3).await.unwrap(), 2);
    assert_eq!(t.store.prune_audiences(later, 3).await.unwrap(), 0);
    assert!(t.store.contacts(old, 0, 10).await.unwrap().is_empty());
    assert_eq!(t.store.contacts(current, 0, 10).await.unwrap().len(), 2);
    assert_eq!(t.store.contacts(being_uploaded, 0, 10).await.unwrap().len(), 1);
}

async fn audiences_are_paged_by_name(t: Opened) {
    let names = ["a", "b", "c", "d"];
    for name in names {
        audience(&*t.store, name, &addresses(1)).await;
    }
    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = t.store.audiences(cursor.as_deref(), 2).await.unwrap();
        seen.extend(page.items.into_iter().map(|a| a.name));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, names);
}

super::on_every_store!(
    an_upload_becomes_current_when_it_is_finished,
    an_address_is_in_an_audience_once,
    a_run_keeps_the_version_that_it_began_with,
    versions_that_nothing_needs_are_pruned,
    audiences_are_paged_by_name,
);

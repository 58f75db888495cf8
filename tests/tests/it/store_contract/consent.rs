use carillon::consent::NewSuppression;
use carillon::store::Store;
use carillon_tests::fleet::at;
use carillon_tests::stores::Opened;
use sqlx::Connection as _;

fn entry(address: &str, channel: Option<&str>, reason: &str) -> NewSuppression {
    NewSuppression { address: address.into(), channel: channel.map(Into::into), reason: reason.into() }
}

async fn an_entry_stays_until_it_is_taken_off(t: Opened) {
    let store = &*t.store;
    let before = store.revisions().await.unwrap().suppressions;
    let entries = [entry("+1", None, "complaint"), entry("+1", Some("sms"), "opted-out"), entry("+2", None, "manual")];
    assert_eq!(store.suppress(&entries, at(1)).await.unwrap(), 3);
    let after = store.revisions().await.unwrap().suppressions;
    assert!(after > before);
    let again = [entry("+1", None, "other"), entry("+3", None, "manual"), entry("+3", None, "manual")];
    assert_eq!(store.suppress(&again, at(2)).await.unwrap(), 1, "the first reason stays, and repeats are one");
    assert_eq!(store.suppress(&[], at(2)).await.unwrap(), 0);
    let of_1 = store.suppressions(Some("+1"), None, 10).await.unwrap().items;
    let shown: Vec<_> = of_1.iter().map(|s| (s.channel.as_deref(), s.reason.as_str(), s.created_at)).collect();
    assert_eq!(shown, [(None, "complaint", at(1)), (Some("sms"), "opted-out", at(1))]);

    let off = [("+1".to_owned(), None), ("+2".to_owned(), Some("sms".to_owned())), ("+9".to_owned(), None)];
    assert_eq!(store.unsuppress(&off, at(3)).await.unwrap(), 1, "exact address and channel");
    assert!(store.revisions().await.unwrap().suppressions > after);
    assert_eq!(store.suppressions(Some("+1"), None, 10).await.unwrap().items.len(), 1);
    assert_eq!(store.suppress(&[entry("+1", None, "again")], at(4)).await.unwrap(), 1);
}

async fn the_list_is_paged_by_address_and_channel(t: Opened) {
    let store = &*t.store;
    let entries = [
        entry("b", Some("sms"), "x"),
        entry("a", Some("sms"), "x"),
        entry("b", None, "x"),
        entry("c", None, "x"),
        entry("b", Some("push"), "x"),
    ];
    store.suppress(&entries, at(1)).await.unwrap();
    let listed = async |address: Option<&str>| {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = store.suppressions(address, cursor, 2).await.unwrap();
            assert!(page.items.len() <= 2);
            seen.extend(page.items.into_iter().map(|s| format!("{} {}", s.address, s.channel.unwrap_or_default())));
            cursor = page.next;
            if cursor.is_none() {
                return seen;
            }
        }
    };
    assert_eq!(listed(None).await, ["a sms", "b ", "b push", "b sms", "c "]);
    assert_eq!(listed(Some("b")).await, ["b ", "b push", "b sms"]);
}

async fn new_entries_are_found_by_their_time(t: Opened) {
    let store = &*t.store;
    store.suppress(&[entry("c", None, "x")], at(1)).await.unwrap();
    store.suppress(&[entry("a", None, "x")], at(3)).await.unwrap();
    store.suppress(&[entry("b", Some("sms"), "x")], at(2)).await.unwrap();
    let since = async |s, limit| {
        let found = store.suppressed_since(at(s), limit).await.unwrap();
        found.into_iter().map(|s| s.address).collect::<Vec<_>>()
    };
    assert_eq!(since(0, 10).await, ["c", "b", "a"], "oldest first");
    assert_eq!(since(2, 10).await, ["b", "a"], "at or after");
    assert_eq!(since(0, 2).await, ["c", "b"]);
    assert!(since(4, 10).await.is_empty());
}

/// The ledger has no reader in the trait: it is for auditors, who read it with SQL.
async fn ledger(t: &Opened) -> Vec<(String, String, String)> {
    const TEXT: &str = "SELECT address, event, reason FROM consent_ledger ORDER BY no";
    if t.kind == "postgres" {
        let mut connection = sqlx::PgConnection::connect(&t.url()).await.unwrap();
        sqlx::query_as(TEXT).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = sqlx::SqliteConnection::connect(&t.url()).await.unwrap();
        sqlx::query_as(TEXT).fetch_all(&mut connection).await.unwrap()
    }
}

async fn the_ledger_keeps_what_the_list_forgets(t: Opened) {
    let store: &dyn Store = &*t.store;
    store.suppress(&[entry("+1", None, "opted-out")], at(1)).await.unwrap();
    store.suppress(&[entry("+1", None, "opted-out")], at(2)).await.unwrap();
    store.unsuppress(&[("+1".to_owned(), None)], at(3)).await.unwrap();
    store.suppress(&[entry("+1", None, "complaint")], at(4)).await.unwrap();
    let events = ledger(&t).await;
    let shown: Vec<_> = events.iter().map(|(a, e, r)| (a.as_str(), e.as_str(), r.as_str())).collect();
    assert_eq!(shown[0], ("+1", "opt-out", "opted-out"));
    assert_eq!(shown.iter().map(|(_, e, _)| *e).collect::<Vec<_>>(), ["opt-out", "opt-in", "opt-out"]);
    assert_eq!(shown[2].2, "complaint");
}

async fn a_long_list_is_taken_whole(t: Opened) {
    let entries: Vec<_> = (0..2_500).map(|n| entry(&format!("+{n}"), None, "import")).collect();
    assert_eq!(t.store.suppress(&entries, at(1)).await.unwrap(), 2_500);
    assert_eq!(t.store.suppress(&entries, at(2)).await.unwrap(), 0);
    assert_eq!(t.store.suppressed_since(at(0), 10_000).await.unwrap().len(), 2_500);
}

super::on_every_store!(
    an_entry_stays_until_it_is_taken_off,
    the_list_is_paged_by_address_and_channel,
    new_entries_are_found_by_their_time,
    the_ledger_keeps_what_the_list_forgets,
    a_long_list_is_taken_whole,
);

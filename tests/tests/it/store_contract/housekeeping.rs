use std::time::Duration;

use carillon::id::{Digest, HostId, TokenId};
use carillon::store::{AuditRow, Heartbeat, KeptAnswer, Store, StoreError, TokenRow};
use carillon_tests::fleet::{T0, at, device_spec};
use carillon_tests::stores::Opened;

async fn it_opens_and_says_what_it_is(t: Opened) {
    assert_eq!(t.store.kind(), t.kind);
    let before = t.store.statements();
    let now = t.store.now().await.unwrap();
    assert!(now > T0.minus(Duration::from_secs(20 * 365 * 86_400)), "a clock that was set: {now}");
    t.store.count_devices().await.unwrap();
    assert!(t.store.statements() > before);
    t.store.close().await;
    assert!(matches!(t.store.count_devices().await, Err(StoreError::Unavailable(_))));
}

async fn servers_that_start_at_once_migrate_once(t: Opened) {
    let place = t.fresh_place().await;
    let openers: Vec<_> = (0..4).map(|_| tokio::spawn(place.open())).collect();
    let mut stores = Vec::new();
    for opener in openers {
        stores.push(opener.await.unwrap().expect("each of them opens"));
    }
    for (n, store) in stores.iter().enumerate() {
        assert_eq!(store.put_devices(&[device_spec(&format!("d{n}"))], T0).await.unwrap(), 1);
    }
    for store in &stores {
        assert_eq!(store.count_devices().await.unwrap(), 4, "all of them use one store");
        store.close().await;
    }
}

async fn heartbeats_show_who_is_alive(t: Opened) {
    let beat = |name: &str, active_workers| Heartbeat {
        host: HostId::new(),
        name: name.into(),
        version: "0.1.0".into(),
        roles: "api,workers".into(),
        active_workers,
    };
    let alive = Duration::from_secs(10);
    let (one, two) = (beat("one", 3), beat("two", 0));
    let seen = t.store.heartbeat(&one, T0, alive).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].host, seen[0].active_workers, seen[0].started_at), (one.host, 3, T0));
    assert_eq!(t.store.heartbeat(&two, at(10), alive).await.unwrap().len(), 2, "exactly as old as allowed");
    let seen = t.store.heartbeat(&two, at(11), alive).await.unwrap();
    assert_eq!(seen.iter().map(|h| h.host).collect::<Vec<_>>(), [two.host]);
    assert_eq!((seen[0].started_at, seen[0].heartbeat_at), (at(10), at(11)));
    t.store.leave(two.host).await.unwrap();
    t.store.leave(two.host).await.unwrap();
    let seen = t.store.heartbeat(&Heartbeat { active_workers: 4, ..one.clone() }, at(12), alive).await.unwrap();
    assert_eq!(seen.iter().map(|h| (h.host, h.active_workers)).collect::<Vec<_>>(), [(one.host, 4)]);
}

async fn tokens_are_found_by_their_secret(t: Opened) {
    let before = t.store.revisions().await.unwrap().tokens;
    let row = |name: &str, s| TokenRow {
        id: TokenId::new(),
        name: name.into(),
        scopes: vec!["campaigns:write".into(), "devices:read".into()],
        created_at: at(s),
        revoked_at: None,
    };
    let (first, second) = (row("first", 0), row("second", 1));
    t.store.create_token(&second, Digest::of(b"2")).await.unwrap();
    t.store.create_token(&first, Digest::of(b"1")).await.unwrap();
    assert!(t.store.revisions().await.unwrap().tokens > before);
    assert!(matches!(t.store.create_token(&first, Digest::of(b"3")).await, Err(StoreError::Exists { .. })));
    assert_eq!(t.store.token_by_secret(Digest::of(b"1")).await.unwrap().as_ref(), Some(&first));
    assert_eq!(t.store.token_by_secret(Digest::of(b"9")).await.unwrap(), None);
    assert_eq!(t.store.tokens().await.unwrap(), [first.clone(), second.clone()]);
    assert!(t.store.revoke_token(first.id, at(5)).await.unwrap());
    assert!(!t.store.revoke_token(first.id, at(6)).await.unwrap());
    assert!(!t.store.revoke_token(TokenId::new(), at(6)).await.unwrap());
    let revoked = t.store.token_by_secret(Digest::of(b"1")).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(at(5)), "revoked ones are found, and are what they are");
}

/// A token that idempotency keys can belong to.
async fn owner(store: &dyn Store) -> TokenId {
    let id = TokenId::new();
    let row = TokenRow { id, name: "t".into(), scopes: vec![], created_at: T0, revoked_at: None };
    store.create_token(&row, Digest::of(id.to_string().as_bytes())).await.unwrap();
    id
}

async fn an_idempotency_key_is_held_then_kept(t: Opened) {
    let (mine, theirs) = (owner(&*t.store).await, owner(&*t.store).await);
    let (request, other) = (Digest::of(b"request"), Digest::of(b"other"));
    let claim = async |owner, digest, s| t.store.claim_key(owner, "k", digest, at(s)).await.unwrap();
    assert_eq!(claim(mine, request, 0).await, None);
    let held = KeptAnswer { request, status: 0, body: String::new() };
    assert_eq!(claim(mine, other, 60).await, Some(held), "the first call is still running");
    assert_eq!(claim(theirs, other, 1).await, None, "keys belong to a token");
    t.store.keep_answer(mine, "k", 201, "{}").await.unwrap();
    let kept = KeptAnswer { request, status: 201, body: "{}".into() };
    assert_eq!(claim(mine, request, 62).await, Some(kept.clone()));
    assert_eq!(claim(mine, other, 86_400).await, Some(kept));
    assert_eq!(claim(mine, other, 86_401).await, None, "a day is over");
    let held = claim(mine, request, 86_402).await.unwrap();
    assert_eq!((held.request, held.status), (other, 0));

    t.store.drop_key(mine, "k").await.unwrap();
    assert_eq!(claim(mine, request, 86_403).await, None);
    assert_eq!(claim(mine, other, 86_464).await, None, "its holder died more than a minute ago");
}

async fn one_of_many_callers_gets_a_key(t: Opened) {
    let mine = owner(&*t.store).await;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let store = t.store.clone();
            tokio::spawn(async move { store.claim_key(mine, "k", Digest::of(b"r"), T0).await.unwrap() })
        })
        .collect();
    let mut new = 0;
    for caller in callers {
        new += u32::from(caller.await.unwrap().is_none());
    }
    assert_eq!(new, 1);
}

async fn the_audit_log_is_read_backwards(t: Opened) {
    let row = |s: u64| AuditRow {
        at: at(s),
        actor: "admin".into(),
        action: "campaign.pause".into(),
        subject: format!("subject {s}"),
    };
    for s in 0..5 {
        t.store.audit(&row(s)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = t.store.audit_log(cursor, 2).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..5).rev().map(row).collect::<Vec<_>>());
}

super::on_every_store!(
    it_opens_and_says_what_it_is,
    servers_that_start_at_once_migrate_once,
    heartbeats_show_who_is_alive,
    tokens_are_found_by_their_secret,
    an_idempotency_key_is_held_then_kept,
    one_of_many_callers_gets_a_key,
    the_audit_log_is_read_backwards,
);

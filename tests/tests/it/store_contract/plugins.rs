use bytes::Bytes;
use carillon::grants::{Grants, GrantsRow};
use carillon::id::{Digest, VersionNo};
use carillon::plugin::PluginKind;
use carillon::store::{Change, Granting, NewCase, StoreError, Stored};
use carillon::vault::Vault;
use carillon_tests::fleet::{T0, at, plugin, put_plugin};
use carillon_tests::stores::Opened;

async fn a_version_is_stored_once(t: Opened) {
    let new = plugin("jinja", "1.0.0", PluginKind::Template, "one");
    let before = t.store.revisions().await.unwrap().plugins;
    let Stored::New(first) = t.store.put_plugin(&new, false, T0).await.unwrap() else { panic!("it is new") };
    assert!(t.store.revisions().await.unwrap().plugins > before);
    assert!(!first.active);
    assert_eq!((first.name.as_str(), first.version.as_str(), first.size), ("jinja", "1.0.0", 3));
    assert_eq!((first.kind, first.digest, first.info), (PluginKind::Template, Digest::of(b"one"), new.info.clone()));
    assert_eq!(first.imports, new.imports);
    let Stored::Same(again) = t.store.put_plugin(&new, false, at(1)).await.unwrap() else { panic!("it is the same") };
    assert_eq!((again.no, again.uploaded_at), (first.no, T0));

    let other_bytes = plugin("jinja", "1.0.0", PluginKind::Template, "two");
    assert!(matches!(t.store.put_plugin(&other_bytes, true, T0).await, Err(StoreError::Conflict(_))));
    let other_kind = plugin("jinja", "1.1.0", PluginKind::Delay, "three");
    assert!(matches!(t.store.put_plugin(&other_kind, true, T0).await, Err(StoreError::Conflict(_))));
    assert_eq!(t.store.plugins().await.unwrap().len(), 1);
    assert_eq!(t.store.plugin_bytes(first.no).await.unwrap(), Some(Bytes::from_static(b"one")));
    assert_eq!(t.store.plugin_bytes(VersionNo(first.no.0 + 1_000)).await.unwrap(), None);
}

async fn one_version_of_a_name_is_active(t: Opened) {
    for (version, activate) in [("1.0.0", true), ("1.1.0", false), ("1.2.0", true)] {
        let new = plugin("jinja", version, PluginKind::Template, version);
        t.store.put_plugin(&new, activate, T0).await.unwrap();
    }
    t.store.put_plugin(&plugin("alpha", "0.1.0", PluginKind::Delay, "alpha"), true, at(1)).await.unwrap();
    let listed = async || {
        let all = t.store.plugins().await.unwrap();
        all.into_iter().map(|v| format!("{} {}{}", v.name, v.version, if v.active { " *" } else { "" })).collect()
    };
    let shown: Vec<String> = listed().await;
    assert_eq!(shown, ["alpha 0.1.0 *", "jinja 1.2.0 *", "jinja 1.1.0", "jinja 1.0.0"]);
    let before = t.store.revisions().await.unwrap().plugins;
    let change = Change { actor: "ann", reason: "back", force: false, watch: None };
    let now_active = t.store.activate_plugin("jinja", "1.0.0", &change, at(2)).await.unwrap().unwrap();
    assert!(now_active.active && now_active.version == "1.0.0");
    assert!(t.store.revisions().await.unwrap().plugins > before);
    let shown: Vec<String> = listed().await;
    assert_eq!(shown, ["alpha 0.1.0 *", "jinja 1.2.0", "jinja 1.1.0", "jinja 1.0.0 *"]);
    assert!(t.store.activate_plugin("jinja", "9.0.0", &change, at(2)).await.unwrap().is_none());
    assert!(t.store.activate_plugin("nobody", "1.0.0", &change, at(2)).await.unwrap().is_none());
    let shown: Vec<String> = listed().await;
    assert!(shown.contains(&"jinja 1.0.0 *".to_owned()), "the active one stays");
}

async fn two_uploads_of_a_version_at_once_make_one(t: Opened) {
    let uploads = ["same", "same", "other"].map(|bytes| {
        let store = t.store.clone();
        tokio::spawn(
            async move { store.put_plugin(&plugin("jinja", "1.0.0", PluginKind::Template, bytes), true, T0).await },
        )
    });
    let mut new = 0;
    for upload in uploads {
        match upload.await.unwrap() {
            Ok(Stored::New(_)) => new += 1,
            Ok(Stored::Same(_)) | Err(StoreError::Conflict(_)) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(new, 1);
    assert_eq!(t.store.plugins().await.unwrap().iter().filter(|v| v.active).count(), 1);
}

async fn the_newest_cases_of_a_version_are_kept_and_old_ones_go(t: Opened) {
    let first = put_plugin(&*t.store, &plugin("jinja", "1.0.0", PluginKind::Template, "one")).await;
    let second = put_plugin(&*t.store, &plugin("jinja", "1.1.0", PluginKind::Template, "two")).await;
    let other = put_plugin(&*t.store, &plugin("uniform", "1.0.0", PluginKind::Delay, "three")).await;
    let case = |plugin, n: u64, code: Option<&str>| NewCase {
        plugin,
        at: at(n),
        call: "render".into(),
        code: code.map(Into::into),
        detail: code.map(|_| "it crashed".into()),
        masked: n.is_multiple_of(2),
        reproduces: n.is_multiple_of(3),
        complete: true,
        case: format!(r#"{{"random":{n}}}"#),
    };
    for n in 0..5 {
        t.store.put_case(&case(first, n, Some("plugin-trap")), 3).await.unwrap();
        t.store.put_case(&case(first, n, None), 3).await.unwrap();
    }
    t.store.put_case(&case(second, 10, Some("plugin-deadline")), 3).await.unwrap();
    t.store.put_case(&case(other, 11, Some("plugin-memory")), 3).await.unwrap();
    let all = t.store.cases("jinja", None, 100).await.unwrap();
    assert!(all.next.is_none() && all.items.iter().all(|c| c.kept.case.is_empty()), "{all:?}");
    let shown: Vec<_> = all.items.iter().map(|c| (c.kept.at, c.kept.code.is_some(), c.version.as_str())).collect();
    let (old, new) = ("1.0.0", "1.1.0");
    assert_eq!(
        shown,
        [
            (at(10), true, new),
            (at(4), false, old),
            (at(4), true, old),
            (at(3), false, old),
            (at(3), true, old),
            (at(2), false, old),
            (at(2), true, old)
        ],
        "three of each kind, the newest first"
    );
    // A page at a time.
    let page = t.store.cases("jinja", None, 2).await.unwrap();
    let next = t.store.cases("jinja", page.next, 2).await.unwrap();
    assert_eq!((page.items.as_slice(), next.items.as_slice()), (&all.items[..2], &all.items[2..4]));
    let whole = t.store.case("jinja", all.items[0].id).await.unwrap().unwrap();
    assert_eq!((whole.name.as_str(), whole.digest), ("jinja", Digest::of(b"two")));
    assert_eq!(whole.kept, case(second, 10, Some("plugin-deadline")));
    assert!(t.store.case("uniform", whole.id).await.unwrap().is_none(), "it is another plugin's");
    assert!(t.store.cases("nobody", None, 5).await.unwrap().items.is_empty());

    assert_eq!(t.store.prune_cases(at(4), 3).await.unwrap(), 3);
    assert_eq!(t.store.prune_cases(at(4), 3).await.unwrap(), 1);
    assert_eq!(t.store.prune_cases(at(4), 3).await.unwrap(), 0);
    assert_eq!(t.store.cases("jinja", None, 100).await.unwrap().items.len(), 3);
}

async fn grants_belong_to_a_plugins_name(t: Opened) {
    put_plugin(&*t.store, &plugin("acme", "1.0.0", PluginKind::Sender, "one")).await;
    let before = t.store.revisions().await.unwrap().plugins;
    let (all, some) = (
        Grants::everything(),
        Grants {
            hosts: vec!["api.example.com".into()],
            methods: vec!["POST".into()],
            secrets: vec!["KEY".into()],
            memory_bytes: Some(8 << 20),
            call_ms: Some(50),
            requests_per_second: Some(2.5),
        },
    );
    assert!(t.store.grants().await.unwrap().is_empty());
    assert!(!t.store.grant("nobody", &all, "ann", Granting::Replace, at(1)).await.unwrap(), "there is no such plugin");
    assert_eq!(t.store.revisions().await.unwrap().plugins, before);
    assert!(t.store.grant("acme", &all, "system", Granting::First, at(1)).await.unwrap());
    assert!(!t.store.grant("acme", &some, "system", Granting::First, at(2)).await.unwrap(), "it was granted something");
    let row = |grants: &Grants, n, by: &str| GrantsRow {
        plugin: "acme".into(),
        grants: grants.clone(),
        granted_at: at(n),
        granted_by: by.into(),
    };
    assert_eq!(t.store.grants().await.unwrap(), [row(&all, 1, "system")]);
    assert!(t.store.grant("acme", &some, "ann", Granting::Replace, at(3)).await.unwrap());
    assert_eq!(t.store.grants().await.unwrap(), [row(&some, 3, "ann")]);
    assert_eq!(t.store.revisions().await.unwrap().plugins, before + 2, "servers are told");
    // Another version changes nothing.
    put_plugin(&*t.store, &plugin("acme", "2.0.0", PluginKind::Sender, "two")).await;
    assert_eq!(t.store.grants().await.unwrap(), [row(&some, 3, "ann")]);
}

async fn secrets_come_back_as_they_were_sealed(t: Opened) {
    let vault = Vault::parse(Some(&Vault::new_key())).unwrap();
    let seal = |name: &str, value: &str, n| vault.seal(name, "api.example.com:8443", value, at(n)).unwrap();
    let (first, second, other) = (seal("KEY", "hush", 1), seal("KEY", "hush-2", 2), seal("A", "a", 3));
    let before = t.store.revisions().await.unwrap().secrets;
    assert!(t.store.put_secret(&first).await.unwrap());
    assert!(t.store.put_secret(&other).await.unwrap());
    assert_eq!(t.store.secrets().await.unwrap(), [other.clone(), first.clone()], "by name");
    assert!(!t.store.put_secret(&second).await.unwrap(), "there was one");
    let found = t.store.secrets().await.unwrap();
    assert_eq!(found, [other, second.clone()]);
    assert_eq!(vault.open(&found[1]).unwrap(), "hush-2");
    // Encrypted anew only as long as it is what was read.
    let again = seal("KEY", "hush-2", 2);
    assert!(!t.store.reseal_secret(&first, &again).await.unwrap());
    assert!(t.store.reseal_secret(&second, &again).await.unwrap());
    assert!(!t.store.reseal_secret(&second, &again).await.unwrap());
    assert_eq!(t.store.secrets().await.unwrap()[1], again);
    assert!(t.store.delete_secret("KEY").await.unwrap());
    assert!(!t.store.delete_secret("KEY").await.unwrap());
    assert_eq!(t.store.secrets().await.unwrap().len(), 1);
    assert_eq!(t.store.revisions().await.unwrap().secrets, before + 5, "each change is told");
}

super::on_every_store!(
    grants_belong_to_a_plugins_name,
    secrets_come_back_as_they_were_sealed,
    the_newest_cases_of_a_version_are_kept_and_old_ones_go,
    a_version_is_stored_once,
    one_version_of_a_name_is_active,
    two_uploads_of_a_version_at_once_make_one,
);

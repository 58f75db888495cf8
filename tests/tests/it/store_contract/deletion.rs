use bytes::Bytes;
use carillon::campaign::{CampaignEvent, CampaignStatus};
use carillon::device::DeviceSpec;
use carillon::id::{CampaignId, Digest, MessageId, SequenceId, VersionNo};
use carillon::plugin::PluginKind;
use carillon::rollout::{Ending, Finding, Mode, RolloutSpec};
use carillon::store::{Change, NewCase, Store, StoreError, Stored};
use carillon_tests::fleet::{
    T0, at, audience, campaign_spec, device_spec, plugin, put_plugin, running, sent, sequence_spec,
};
use carillon_tests::stores::Opened;
use serde_json::json;

const NAME: &str = "jinja";

/// Stores a version whose bytes are its number, and returns its own; it is not active.
async fn put(store: &dyn Store, name: &str, version: &str, kind: PluginKind) -> VersionNo {
    match store.put_plugin(&plugin(name, version, kind, version), false, T0).await.unwrap() {
        Stored::New(stored) | Stored::Same(stored) => stored.no,
    }
}

/// Versions 1.0.0 (active), 1.1.0 and 1.2.0.
async fn three(store: &dyn Store) -> [VersionNo; 3] {
    let first = put_plugin(store, &plugin(NAME, "1.0.0", PluginKind::Template, "1.0.0")).await;
    let second = put(store, NAME, "1.1.0", PluginKind::Template).await;
    [first, second, put(store, NAME, "1.2.0", PluginKind::Template).await]
}

async fn activate(store: &dyn Store, version: &str, watch: Option<&RolloutSpec>) {
    let change = Change { actor: "ann", reason: "because", force: false, watch };
    store.activate_plugin(NAME, version, &change, at(1)).await.unwrap().unwrap();
}

async fn versions(store: &dyn Store) -> Vec<String> {
    store.plugins().await.unwrap().into_iter().map(|version| version.version).collect()
}

async fn deleted(store: &dyn Store, name: &str, version: &str) -> bool {
    store.delete_version(name, version, at(9)).await.unwrap()
}

/// Why a version is kept.
async fn kept(store: &dyn Store, name: &str, version: &str) -> String {
    match store.delete_version(name, version, at(9)).await {
        Err(StoreError::Conflict(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn what_nothing_uses_can_be_deleted_and_uploaded_again(t: Opened) {
    let store = &*t.store;
    let [_, second, _] = three(store).await;
    let case = NewCase {
        plugin: second,
        at: T0,
        call: "render".into(),
        code: Some("plugin-trap".into()),
        detail: None,
        masked: true,
        reproduces: true,
        complete: true,
        case: "{}".into(),
    };
    store.put_case(&case, 3).await.unwrap();
    let canary = RolloutSpec { mode: Mode::Canary, share: 0.1, for_ms: None, ..RolloutSpec::watch(1) };
    let rollout = store.start_rollout(NAME, "1.1.0", &canary, false, "ann", T0).await.unwrap().unwrap();
    let (message, device, field, detail) = (MessageId(7), "a".into(), "fault".into(), "it crashed".into());
    let finding = Finding { at: T0, message, device, field, detail };
    store.add_findings(&[(rollout.no, finding.clone())]).await.unwrap();
    store.end_rollout(rollout.no, &Ending::RolledBack, "ann", "no", at(1)).await.unwrap().unwrap();

    for (name, version) in [(NAME, "9.9.9"), ("nobody", "1.1.0"), (NAME, "%"), (NAME, "1.1")] {
        assert!(!deleted(store, name, version).await, "{name} {version}");
    }
    let before = store.revisions().await.unwrap().plugins;
    assert!(deleted(store, NAME, "1.1.0").await);
    assert_eq!(store.revisions().await.unwrap().plugins, before + 1, "servers are told");
    assert!(!deleted(store, NAME, "1.1.0").await);
    assert_eq!(store.revisions().await.unwrap().plugins, before + 1);
    assert_eq!(versions(store).await, ["1.2.0", "1.0.0"]);
    assert_eq!(store.plugin_bytes(second).await.unwrap(), None);
    let change = Change { actor: "ann", reason: "", force: true, watch: None };
    assert!(store.activate_plugin(NAME, "1.1.0", &change, at(2)).await.unwrap().is_none());
    assert!(store.start_rollout(NAME, "1.1.0", &canary, true, "ann", at(2)).await.unwrap().is_none());

    // What named it still does.
    let still = async || {
        let cases = store.cases(NAME, None, 10).await.unwrap().items;
        assert_eq!((cases.len(), cases[0].version.as_str(), cases[0].digest), (1, "1.1.0", Digest::of(b"1.1.0")));
        assert_eq!(store.case(NAME, cases[0].id).await.unwrap().unwrap().kept, case);
        let rollouts = store.rollouts(NAME, 10).await.unwrap();
        assert_eq!((rollouts.len(), &rollouts[0].candidate), (1, &(second, "1.1.0".to_owned())));
        assert_eq!(store.findings(rollout.no, 10).await.unwrap(), std::slice::from_ref(&finding));
    };
    still().await;

    // Other bytes under its name and version are another version, without its quarantine.
    let other = plugin(NAME, "1.1.0", PluginKind::Template, "other bytes");
    let Stored::New(again) = store.put_plugin(&other, false, at(3)).await.unwrap() else { panic!("it is new") };
    assert!(again.no > second && again.quarantine.is_none(), "{again:?}");
    assert_eq!(store.plugin_bytes(again.no).await.unwrap(), Some(Bytes::from_static(b"other bytes")));
    assert_eq!(versions(store).await, ["1.1.0", "1.2.0", "1.0.0"]);
    still().await;
    assert!(deleted(store, NAME, "1.1.0").await);
    let Stored::New(_) = store.put_plugin(&other, false, at(4)).await.unwrap() else { panic!("it is new") };
}

async fn what_is_active_tried_or_gone_back_to_is_kept(t: Opened) {
    let store = &*t.store;
    three(store).await;
    assert!(kept(store, NAME, "1.0.0").await.contains("jinja 1.0.0 cannot be deleted: it is the active version"));
    let watch = RolloutSpec::watch(600_000);
    let rollout = store.start_rollout(NAME, "1.1.0", &watch, false, "ann", T0).await.unwrap().unwrap();
    assert!(kept(store, NAME, "1.1.0").await.contains("promote or abort it first"));
    store.end_rollout(rollout.no, &Ending::Aborted, "ann", "", at(1)).await.unwrap().unwrap();

    activate(store, "1.1.0", Some(&watch)).await;
    let running = store.running_rollouts().await.unwrap().remove(0);
    assert!(kept(store, NAME, "1.0.0").await.contains("promote or abort it first"));
    store.end_rollout(running.no, &Ending::Passed, "system", "", at(2)).await.unwrap().unwrap();
    assert!(kept(store, NAME, "1.0.0").await.contains("a roll-back would go back to it"));
    assert_eq!(versions(store).await.len(), 3, "a refusal changes nothing");

    activate(store, "1.2.0", None).await;
    assert!(kept(store, NAME, "1.1.0").await.contains("a roll-back would go back to it"));
    assert!(deleted(store, NAME, "1.0.0").await);
    let back = async || store.rollback_plugin(NAME, "ann", "", at(3)).await;
    assert_eq!(back().await.unwrap().unwrap().version, "1.1.0");
    assert!(matches!(back().await, Err(StoreError::Conflict(_))), "what was before that is gone");
    let history = store.plugin_history(NAME, 10).await.unwrap();
    let history: Vec<_> = history.iter().map(|row| row.version.as_str()).collect();
    assert_eq!(history, ["1.1.0", "1.2.0", "1.1.0", "1.0.0"]);
}

async fn what_stays_on_a_version_keeps_it(t: Opened) {
    let store = &*t.store;
    for (name, kind) in
        [(NAME, PluginKind::Template), ("uniform", PluginKind::Delay), ("simulator", PluginKind::Sender)]
    {
        put(store, name, "1.0.0", kind).await;
        put_plugin(store, &plugin(name, "2.0.0", kind, "active")).await;
    }
    audience(store, "people", &["+1".to_owned()]).await;
    // Neither another version, nor another plugin of this version, nor what looks like one and is somebody's configuration.
    let mut spec = campaign_spec("people");
    spec.delay.version = Some("2.0.0".into());
    spec.sender = serde_json::from_value(json!({ "plugin": "simulator", "version": "1.0.0" })).unwrap();
    spec.template.config = serde_json::from_value(json!({ "plugin": NAME, "version": "1.0.0" })).unwrap();
    let others = CampaignId::new();
    store.create_campaign(others, &spec, T0).await.unwrap();

    spec.template.version = Some("1.0.0".into());
    let campaign = CampaignId::new();
    store.create_campaign(campaign, &spec, T0).await.unwrap();
    assert!(kept(store, NAME, "1.0.0").await.contains(&format!("campaign {campaign} stays on it; cancel that")));
    let cancel = async |id| {
        let moved = store.move_campaign(id, CampaignStatus::Draft, CampaignEvent::Cancel, None, at(1)).await.unwrap();
        assert_eq!(moved.unwrap().status, CampaignStatus::Cancelled);
    };
    cancel(campaign).await;
    assert!(deleted(store, NAME, "1.0.0").await);

    let mut steps = sequence_spec(2);
    steps.steps[1].delay.version = Some("1.0.0".into());
    let sequence = SequenceId::new();
    store.create_sequence(sequence, &steps, T0).await.unwrap();
    assert!(kept(store, "uniform", "1.0.0").await.contains(&format!("sequence {sequence} stays on it")));

    let sender = json!({ "plugin": "simulator", "version": "1.0.0" });
    let device =
        DeviceSpec { sender: Some(serde_json::from_value(sender).unwrap()), ..device_spec("dev-with-its-own") };
    store.put_devices(&[device], T0).await.unwrap();
    assert!(kept(store, "simulator", "1.0.0").await.contains(&format!("campaign {others} stays on it")));
    cancel(others).await;
    assert!(kept(store, "simulator", "1.0.0").await.contains("device dev-with-its-own stays on it"));
    assert!(store.delete_device(&"dev-with-its-own".parse().unwrap(), at(2)).await.unwrap());
    assert!(deleted(store, "simulator", "1.0.0").await);
}

async fn what_is_being_sent_with_a_version_ends_with_it(t: Opened) {
    let s = running(&*t.store, &["a"], 2).await;
    let (store, device, first) = (&*t.store, s.devices[0], s.message(1));
    let work = s.take(store, first, device, 7, at(1)).await;
    let digests = store.message(first).await.unwrap().unwrap().digests.unwrap();
    for version in ["2.0.0", "3.0.0"] {
        put(store, NAME, version, PluginKind::Template).await;
        activate(store, version, None).await;
    }
    assert!(kept(store, NAME, "1.0.0").await.contains("a message is being sent with it"));
    assert_eq!(store.settle(&[s.settlement(&work, device, 7, sent(), at(1))]).await.unwrap(), [true]);
    assert!(deleted(store, NAME, "1.0.0").await);
    assert_eq!(
        store.message(first).await.unwrap().unwrap().digests,
        Some(digests),
        "what it was sent with is still told"
    );

    // A server that has not heard yet may begin another one with it, which ends as well.
    let second = s.message(2);
    let work = s.take(store, second, device, 8, at(3)).await;
    assert_eq!(store.settle(&[s.settlement(&work, device, 8, sent(), at(3))]).await.unwrap(), [true]);
    assert_eq!(store.message(second).await.unwrap().unwrap().digests, Some(digests));
}

async fn a_deletion_and_an_activation_at_once_leave_no_active_version_that_is_gone(t: Opened) {
    three(&*t.store).await;
    for version in ["1.1.0", "1.2.0"] {
        let (one, other) = (t.store.clone(), t.store.clone());
        let deletion = tokio::spawn(async move { one.delete_version(NAME, version, at(1)).await });
        let activation = tokio::spawn(async move {
            let change = Change { actor: "ann", reason: "", force: false, watch: None };
            other.activate_plugin(NAME, version, &change, at(1)).await.unwrap()
        });
        let (deletion, activation) = (deletion.await.unwrap(), activation.await.unwrap());
        let is_deleted = match deletion {
            Ok(is_deleted) => is_deleted,
            Err(StoreError::Conflict(_)) => false,
            Err(error) => panic!("{error:?}"),
        };
        assert_ne!(is_deleted, activation.is_some(), "one of them");
        let active = t.store.plugins().await.unwrap().into_iter().find(|v| v.active).unwrap();
        assert!(t.store.plugin_bytes(active.no).await.unwrap().is_some_and(|bytes| !bytes.is_empty()));
    }
}

super::on_every_store!(
    what_nothing_uses_can_be_deleted_and_uploaded_again,
    what_is_active_tried_or_gone_back_to_is_kept,
    what_stays_on_a_version_keeps_it,
    what_is_being_sent_with_a_version_ends_with_it,
    a_deletion_and_an_activation_at_once_leave_no_active_version_that_is_gone,
);

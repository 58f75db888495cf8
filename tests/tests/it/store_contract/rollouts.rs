use carillon::clock::Time;
use carillon::id::{HostId, MessageId, RolloutNo};
use carillon::plugin::PluginKind;
use carillon::rollout::{
    Counts, Ending, Finding, KEPT_FINDINGS, Mode, Rollout, RolloutSpec, RolloutStatus, ShareStep, SideCounts,
};
use carillon::store::{Change, Store, StoreError};
use carillon_tests::fleet::{T0, at, plugin};
use carillon_tests::stores::Opened;

const NAME: &str = "jinja";

/// Versions 1.0.0 (active), 1.1.0 and 1.2.0.
async fn three(store: &dyn Store) {
    for (version, activate) in [("1.0.0", true), ("1.1.0", false), ("1.2.0", false)] {
        store.put_plugin(&plugin(NAME, version, PluginKind::Template, version), activate, T0).await.unwrap();
    }
}

fn canary() -> RolloutSpec {
    RolloutSpec { mode: Mode::Canary, share: 0.1, for_ms: None, ..RolloutSpec::watch(1) }
}

async fn start(store: &dyn Store, version: &str, now: Time) -> Result<Option<Rollout>, StoreError> {
    store.start_rollout(NAME, version, &canary(), false, "ann", now).await
}

async fn activate(store: &dyn Store, version: &str, watch: Option<&RolloutSpec>, now: Time) {
    let change = Change { actor: "ann", reason: "because", force: false, watch };
    store.activate_plugin(NAME, version, &change, now).await.unwrap().unwrap();
}

async fn active(store: &dyn Store) -> String {
    store.plugins().await.unwrap().into_iter().find(|v| v.active).unwrap().version
}

async fn history(store: &dyn Store) -> Vec<String> {
    store.plugin_history(NAME, 100).await.unwrap().into_iter().map(|row| row.version).collect()
}

/// What a refusal says.
fn conflict<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Conflict(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn a_roll_back_goes_to_the_version_before_again_and_again(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let back = async |now| store.rollback_plugin(NAME, "bob", "oh no", at(now)).await;
    assert!(conflict(back(1).await).contains("no version"));
    activate(store, "1.1.0", None, at(2)).await;
    activate(store, "1.2.0", None, at(3)).await;
    activate(store, "1.2.0", None, at(4)).await;
    let before = store.revisions().await.unwrap().plugins;
    let is = back(5).await.unwrap().unwrap();
    assert!(is.active && is.version == "1.1.0");
    assert!(store.revisions().await.unwrap().plugins > before);
    assert_eq!(back(6).await.unwrap().unwrap().version, "1.0.0", "not forth and back between two");
    conflict(back(7).await);
    assert_eq!(history(store).await, ["1.0.0", "1.1.0", "1.2.0", "1.1.0", "1.0.0"]);
    let rows = store.plugin_history(NAME, 2).await.unwrap();
    assert_eq!((rows.len(), rows[0].at, rows[0].actor.as_str(), rows[0].reason.as_str()), (2, at(6), "bob", "oh no"));
    activate(store, "1.2.0", None, at(8)).await;
    assert_eq!(back(9).await.unwrap().unwrap().version, "1.0.0");
    assert!(store.rollback_plugin("nobody", "bob", "", at(9)).await.unwrap().is_none());
}

async fn one_rollout_of_a_plugin_runs_at_a_time(t: Opened) {
    let store = &*t.store;
    three(store).await;
    assert!(start(store, "9.0.0", T0).await.unwrap().is_none());
    assert!(conflict(start(store, "1.0.0", T0).await).contains("is the active version"));
    let before = store.revisions().await.unwrap().plugins;
    let first = start(store, "1.1.0", at(1)).await.unwrap().unwrap();
    assert!(store.revisions().await.unwrap().plugins > before, "servers hear of it");
    assert_eq!((first.candidate.1.as_str(), first.stable.1.as_str()), ("1.1.0", "1.0.0"));
    assert_eq!((first.status, &first.started), (RolloutStatus::Running, &(at(1), "ann".to_owned())));
    assert_eq!((&first.spec, &first.ended, &first.reason), (&canary(), &None, &None));
    assert!(conflict(start(store, "1.2.0", at(2)).await).contains("rollout 1 (canary of jinja 1.1.0) is running"));
    assert_eq!(store.running_rollouts().await.unwrap(), std::slice::from_ref(&first));

    let ended = store.end_rollout(first.no, &Ending::Aborted, "bob", "enough", at(3)).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.ended), (RolloutStatus::Aborted, Some((at(3), "bob".to_owned()))));
    assert_eq!(ended.reason.as_deref(), Some("enough"));
    assert_eq!((active(store).await, store.running_rollouts().await.unwrap()), ("1.0.0".to_owned(), vec![]));
    let again = store.end_rollout(first.no, &Ending::RolledBack, "bob", "late", at(4)).await.unwrap();
    assert_eq!(again, None, "who is late changes nothing");
    assert!(store.plugins().await.unwrap().iter().all(|v| v.quarantine.is_none()));
    assert!(store.end_rollout(RolloutNo(99), &Ending::Aborted, "bob", "", at(4)).await.unwrap().is_none());

    let second = start(store, "1.2.0", at(5)).await.unwrap().unwrap();
    let numbers: Vec<_> = store.rollouts(NAME, 10).await.unwrap().into_iter().map(|r| r.no).collect();
    assert_eq!(numbers, [second.no, first.no], "newest first");
    assert!(store.rollouts("nobody", 10).await.unwrap().is_empty());
}

async fn a_version_that_was_rolled_back_is_in_quarantine(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let rollout = start(store, "1.1.0", at(1)).await.unwrap().unwrap();
    store.end_rollout(rollout.no, &Ending::RolledBack, "system", "it crashed", at(2)).await.unwrap().unwrap();
    assert_eq!(active(store).await, "1.0.0");
    let quarantine = async || {
        let versions = store.plugins().await.unwrap();
        let one = versions.into_iter().find(|v| v.version == "1.1.0").unwrap();
        one.quarantine.map(|q| (q.at, q.reason))
    };
    assert_eq!(quarantine().await, Some((at(2), "it crashed".to_owned())));
    assert!(conflict(start(store, "1.1.0", at(3)).await).contains("in quarantine (it crashed)"));
    let change = |force| Change { actor: "ann", reason: "", force, watch: None };
    conflict(store.activate_plugin(NAME, "1.1.0", &change(false), at(3)).await);
    assert!(quarantine().await.is_some(), "a refusal changes nothing");
    store.activate_plugin(NAME, "1.1.0", &change(true), at(4)).await.unwrap().unwrap();
    assert_eq!((active(store).await, quarantine().await), ("1.1.0".to_owned(), None));
    // Forced once more, now by a rollout.
    activate(store, "1.0.0", None, at(5)).await;
    let rollout = start(store, "1.1.0", at(6)).await.unwrap().unwrap();
    store.end_rollout(rollout.no, &Ending::RolledBack, "system", "again", at(7)).await.unwrap().unwrap();
    let forced = store.start_rollout(NAME, "1.1.0", &canary(), true, "ann", at(8)).await.unwrap();
    assert!(forced.is_some() && quarantine().await.is_none());
}

async fn a_promoted_version_is_active_and_watched(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let rollout = start(store, "1.1.0", at(1)).await.unwrap().unwrap();
    let watch = RolloutSpec::watch(600_000);
    let ending = Ending::Promoted(Some(watch.clone()));
    let ended = store.end_rollout(rollout.no, &ending, "ann", "good", at(2)).await.unwrap().unwrap();
    assert_eq!((ended.status, active(store).await), (RolloutStatus::Promoted, "1.1.0".to_owned()));
    let watching = store.running_rollouts().await.unwrap().remove(0);
    assert_eq!((watching.spec.mode, &watching.spec), (Mode::Watch, &watch));
    assert_eq!((watching.candidate.1.as_str(), watching.stable.1.as_str()), ("1.1.0", "1.0.0"));
    let ended = store.end_rollout(watching.no, &Ending::Passed, "system", "over", at(3)).await.unwrap().unwrap();
    assert_eq!((ended.status, active(store).await), (RolloutStatus::Passed, "1.1.0".to_owned()));
    let change = |watch| Change { actor: "ann", reason: "", force: false, watch };
    // The first version of a name has none before it to go back to.
    let other = plugin("uniform", "1.0.0", PluginKind::Delay, "uniform");
    store.put_plugin(&other, false, at(4)).await.unwrap();
    store.activate_plugin("uniform", "1.0.0", &change(Some(&watch)), at(4)).await.unwrap().unwrap();
    assert_eq!(store.running_rollouts().await.unwrap(), []);
}

async fn a_watched_version_that_went_wrong_makes_way_for_the_one_before(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let watch = RolloutSpec::watch(600_000);
    activate(store, "1.1.0", Some(&watch), at(1)).await;
    let first = store.running_rollouts().await.unwrap().remove(0);
    activate(store, "1.2.0", Some(&watch), at(2)).await;
    let running = store.running_rollouts().await.unwrap();
    assert_eq!((running.len(), running[0].candidate.1.as_str(), running[0].stable.1.as_str()), (1, "1.2.0", "1.1.0"));
    let superseded = store.rollouts(NAME, 10).await.unwrap().into_iter().find(|r| r.no == first.no).unwrap();
    assert_eq!(superseded.status, RolloutStatus::Superseded);
    let ended = store.end_rollout(running[0].no, &Ending::RolledBack, "system", "it hung", at(3)).await.unwrap();
    assert_eq!(ended.unwrap().status, RolloutStatus::RolledBack);
    assert_eq!((active(store).await, history(store).await.len()), ("1.1.0".to_owned(), 4));
    activate(store, "1.0.0", None, at(4)).await;
    let change = Change { actor: "ann", reason: "", force: true, watch: Some(&watch) };
    store.activate_plugin(NAME, "1.2.0", &change, at(5)).await.unwrap().unwrap();
    let back = store.rollback_plugin(NAME, "ann", "", at(6)).await.unwrap().unwrap();
    assert_eq!(back.version, "1.0.0");
    assert_eq!(store.running_rollouts().await.unwrap(), [], "an operator's roll-back ends the watch");
}

async fn of_many_servers_one_ends_a_rollout(t: Opened) {
    three(&*t.store).await;
    let rollout = start(&*t.store, "1.1.0", at(1)).await.unwrap().unwrap();
    let ends = (0..8).map(|n| {
        let store = t.store.clone();
        let ending = if n % 2 == 0 { Ending::RolledBack } else { Ending::Promoted(None) };
        tokio::spawn(async move { store.end_rollout(rollout.no, &ending, "x", "y", at(2)).await.unwrap() })
    });
    let ended: Vec<Rollout> =
        futures::future::join_all(ends).await.into_iter().filter_map(|end| end.unwrap()).collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    let expected = if ended[0].status == RolloutStatus::Promoted { "1.1.0" } else { "1.0.0" };
    assert_eq!(active(&*t.store).await, expected);
}

async fn what_servers_saw_is_added_up_and_a_repeat_counts_once(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let no = start(store, "1.1.0", at(1)).await.unwrap().unwrap().no;
    let saw = |calls, traps| {
        let candidate = SideCounts { calls, traps, latencies: vec![0, calls], ..SideCounts::default() };
        vec![(no, Counts { candidate, ..Counts::default() })]
    };
    let (one, two) = (HostId::new(), HostId::new());
    for (host, calls, traps) in [(one, 5, 1), (one, 10, 1), (one, 10, 1), (two, 7, 2)] {
        store.put_rollout_counts(host, &saw(calls, traps)).await.unwrap();
    }
    let sums = store.rollout_counts(&[no, RolloutNo(99)]).await.unwrap();
    assert_eq!((sums[0].1.candidate.calls, sums[0].1.candidate.traps), (17, 3));
    assert_eq!(sums[0].1.candidate.latencies, [0, 17]);
    assert_eq!((sums.len(), &sums[1].1), (2, &Counts::default()));
    assert_eq!(store.rollout_counts(&[]).await.unwrap(), []);
}

async fn the_newest_findings_are_kept(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let no = start(store, "1.1.0", at(1)).await.unwrap().unwrap().no;
    let finding = |n: i64| Finding {
        at: at(1),
        message: MessageId(1_000_000_000_000_000_000 + n),
        device: "dev-1".to_owned(),
        field: "text".to_owned(),
        detail: n.to_string(),
    };
    let kept = i64::from(KEPT_FINDINGS);
    for first in [1, 150] {
        let batch: Vec<_> = (first..first + 149).map(|n| (no, finding(n))).collect();
        store.add_findings(&batch).await.unwrap();
    }
    let found = store.findings(no, 1_000).await.unwrap();
    assert_eq!(found.len(), usize::try_from(kept).unwrap());
    assert_eq!((&found[0], found.last()), (&finding(298), Some(&finding(298 - kept + 1))));
    assert_eq!(store.findings(no, 3).await.unwrap().len(), 3);
    assert!(store.findings(RolloutNo(99), 3).await.unwrap().is_empty());
}

async fn a_rollouts_plan_survives(t: Opened) {
    let store = &*t.store;
    three(store).await;
    let mut spec = canary();
    spec.steps = vec![ShareStep { after_ms: 1_000, share: 0.25 }, ShareStep { after_ms: 5_000, share: 1.0 }];
    (spec.for_ms, spec.thresholds.fault_rate, spec.excerpts) = (Some(60_000), 0.25, true);
    store.start_rollout(NAME, "1.1.0", &spec, false, "ann", T0).await.unwrap().unwrap();
    let read = store.running_rollouts().await.unwrap().remove(0);
    assert_eq!(read.spec, spec);
    assert_eq!([0, 1, 4, 5, 60].map(|s| read.share(at(s))), [0.1, 0.25, 0.25, 1.0, 1.0]);
    assert_eq!([0, 59, 60].map(|s| read.is_over(at(s))), [false, false, true]);
}

super::on_every_store!(
    a_roll_back_goes_to_the_version_before_again_and_again,
    one_rollout_of_a_plugin_runs_at_a_time,
    a_version_that_was_rolled_back_is_in_quarantine,
    a_promoted_version_is_active_and_watched,
    a_watched_version_that_went_wrong_makes_way_for_the_one_before,
    of_many_servers_one_ends_a_rollout,
    what_servers_saw_is_added_up_and_a_repeat_counts_once,
    the_newest_findings_are_kept,
    a_rollouts_plan_survives,
);

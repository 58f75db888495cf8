use std::collections::BTreeMap;

use carillon::campaign::{CampaignEvent as E, CampaignStatus as S, RunOwner, Schedule, SpreadPolicy};
use carillon::consent::NewSuppression;
use carillon::id::CampaignId;
use carillon::message::{Counts, MessageStatus, Reason, Settled};
use carillon::store::StoreError;
use carillon_tests::fleet::{
    T0, addresses, at, audience, campaign_spec, device_spec, devices, exact_counts, expand, launch, running, sent,
};
use carillon_tests::stores::Opened;

async fn a_campaign_is_a_draft_at_first(t: Opened) {
    let spec = campaign_spec("people");
    let id = CampaignId::new();
    t.store.create_campaign(id, &spec, T0).await.unwrap();
    let c = t.store.campaign(id).await.unwrap().unwrap();
    assert_eq!((c.status, c.run, c.created_at, c.launched_at, c.finished_at), (S::Draft, None, T0, None, None));
    assert_eq!(serde_json::to_value(&c.spec).unwrap(), serde_json::to_value(&spec).unwrap());
    assert!(matches!(t.store.create_campaign(id, &spec, T0).await, Err(StoreError::Exists { .. })));
    assert!(t.store.campaign(CampaignId::new()).await.unwrap().is_none());
}

async fn campaigns_are_listed_newest_first(t: Opened) {
    let ids: Vec<_> = (0..5).map(|_| CampaignId::new()).collect();
    for (n, id) in ids.iter().enumerate() {
        t.store.create_campaign(*id, &campaign_spec("people"), at(n as u64)).await.unwrap();
    }
    t.store.move_campaign(ids[2], S::Draft, E::Cancel, None, at(9)).await.unwrap().unwrap();
    let listed = async |status| {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = t.store.campaigns(status, cursor, 2).await.unwrap();
            assert!(page.items.len() <= 2);
            seen.extend(page.items.into_iter().map(|c| c.id));
            cursor = page.next;
            if cursor.is_none() {
                return seen;
            }
        }
    };
    assert_eq!(listed(None).await, ids.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(listed(Some(S::Draft)).await, [ids[4], ids[3], ids[1], ids[0]]);
    assert_eq!(listed(Some(S::Cancelled)).await, [ids[2]]);
}

async fn campaigns_that_are_open_are_counted(t: Opened) {
    let count = async || {
        let found = t.store.open_campaigns().await.unwrap();
        found.into_iter().map(|of| ((of.status.as_str(), of.reason), of.count)).collect::<BTreeMap<_, _>>()
    };
    let of = |status, reason: &str, count| ((status, reason.to_owned()), count);
    assert_eq!(count().await, BTreeMap::new());
    let ids: Vec<_> = (0..6).map(|_| CampaignId::new()).collect();
    for id in &ids {
        t.store.create_campaign(*id, &campaign_spec("people"), T0).await.unwrap();
    }
    t.store.move_campaign(ids[0], S::Draft, E::Cancel, None, T0).await.unwrap().unwrap();
    for (id, reason) in
        ids[1..5].iter().zip([None, Some("plugin-fault: 50 in a row: trap"), Some("lunch"), Some("lunch")])
    {
        t.store.move_campaign(*id, S::Draft, E::Schedule, None, T0).await.unwrap().unwrap();
        if reason.is_some() {
            t.store.move_campaign(*id, S::Scheduled, E::Pause, reason, T0).await.unwrap().unwrap();
        }
    }
    let expected =
        [of("draft", "", 1), of("scheduled", "", 1), of("paused", "plugin-fault", 1), of("paused", "lunch", 2)];
    assert_eq!(count().await, expected.into());
}

async fn a_move_compares_and_sets(t: Opened) {
    let s = running(&*t.store, &["a"], 2).await;
    let active = async || t.store.run(s.run.key).await.unwrap().unwrap().active;
    let go = async |from, event, sec| t.store.move_campaign(s.campaign, from, event, Some("by hand"), at(sec)).await;
    assert!(active().await);
    let before = t.store.revisions().await.unwrap().runs;
    let paused = go(S::Running, E::Pause, 1).await.unwrap().unwrap();
    assert_eq!((paused.status, paused.paused_reason.as_deref()), (S::Paused, Some("by hand")));
    assert!(!active().await);
    assert!(t.store.revisions().await.unwrap().runs > before);
    assert!(go(S::Running, E::Pause, 2).await.unwrap().is_none(), "somebody else was first");
    let resumed = go(S::Paused, E::Resume, 3).await.unwrap().unwrap();
    assert_eq!((resumed.status, resumed.paused_reason), (S::Running, None));
    assert!(active().await);
    assert!(!matches!(go(S::Running, E::Schedule, 4).await, Ok(Some(_))), "not allowed in this state");
    let cancelled = go(S::Running, E::Cancel, 5).await.unwrap().unwrap();
    assert_eq!((cancelled.status, cancelled.finished_at), (S::Cancelled, Some(at(5))));
    assert_eq!(cancelled.launched_at, Some(T0));
    assert!(!active().await);
    let nobody = t.store.move_campaign(CampaignId::new(), S::Draft, E::Cancel, None, T0).await.unwrap();
    assert!(nobody.is_none());
}

async fn a_scheduled_campaign_is_found_when_it_is_due(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    let audience = audience(&*t.store, "people", &addresses(1)).await;
    let mut ids = Vec::new();
    for start in [30, 10, 20, 90] {
        let mut spec = campaign_spec("people");
        spec.schedule = Schedule { at: Some(at(start)) };
        let id = CampaignId::new();
        t.store.create_campaign(id, &spec, T0).await.unwrap();
        let c = t.store.move_campaign(id, S::Draft, E::Schedule, None, at(1)).await.unwrap().unwrap();
        assert_eq!((c.status, c.launched_at), (S::Scheduled, Some(at(1))));
        ids.push(id);
    }
    let (due, next) = t.store.due_campaigns(at(5), 10).await.unwrap();
    assert_eq!((due.len(), next), (0, Some(at(10))));
    let (due, next) = t.store.due_campaigns(at(30), 2).await.unwrap();
    assert_eq!((due.iter().map(|c| c.id).collect::<Vec<_>>(), next), (vec![ids[1], ids[2]], Some(at(30))));
    let (due, next) = t.store.due_campaigns(at(30), 10).await.unwrap();
    assert_eq!((due.len(), next), (3, Some(at(90))));
    t.store.start_run(&due[0], audience, &nos, at(31)).await.unwrap().unwrap();
    let c = t.store.campaign(due[0].id).await.unwrap().unwrap();
    assert_eq!((c.status, c.launched_at), (S::Expanding, Some(at(1))), "it was launched when it was scheduled");
    assert_eq!(t.store.due_campaigns(at(31), 10).await.unwrap().0.len(), 2);
    t.store.move_campaign(ids[3], S::Scheduled, E::Pause, Some("wait"), at(32)).await.unwrap().unwrap();
    assert_eq!(t.store.due_campaigns(at(31), 10).await.unwrap().1, None);
}

async fn a_campaign_starts_once(t: Opened) {
    let nos = devices(&*t.store, &["a", "b", "c"]).await;
    let audience = audience(&*t.store, "people", &addresses(1)).await;
    let id = CampaignId::new();
    t.store.create_campaign(id, &campaign_spec("people"), T0).await.unwrap();
    let c = t.store.campaign(id).await.unwrap().unwrap();
    let order = [nos[2], nos[0], nos[1]];
    let starters: Vec<_> = (0..4)
        .map(|_| {
            let (store, c) = (t.store.clone(), c.clone());
            tokio::spawn(async move { store.start_run(&c, audience, &order, at(1)).await.unwrap() })
        })
        .collect();
    let mut runs = Vec::new();
    for starter in starters {
        runs.extend(starter.await.unwrap());
    }
    assert_eq!(runs.len(), 1);
    let run = &runs[0];
    assert_eq!(
        (run.owner, run.audience, run.active, run.expanded, run.cursor),
        (RunOwner::Campaign(id), audience, true, false, 0)
    );
    assert_eq!((run.name.as_str(), run.started_at), ("Spring", at(1)));
    assert_eq!(t.store.run_devices(run.key).await.unwrap(), order);
    let c = t.store.campaign(id).await.unwrap().unwrap();
    assert_eq!((c.status, c.run, c.launched_at), (S::Expanding, Some(run.key), Some(at(1))));
    assert_eq!(t.store.run(run.key).await.unwrap().unwrap().rank(), run.rank());
}

async fn open_runs_are_in_rank_order(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    audience(&*t.store, "people", &addresses(1)).await;
    let mut started = Vec::new();
    for (priority, s) in [(5, 3), (5, 1), (0, 9), (9, 0)] {
        let mut spec = campaign_spec("people");
        spec.priority = priority;
        started.push(launch(&*t.store, &spec, &nos, at(s)).await);
    }
    let open = async || t.store.open_runs().await.unwrap().into_iter().map(|r| (r.key, r.active)).collect::<Vec<_>>();
    let key = |n: usize| started[n].run.key;
    assert_eq!(open().await, [(key(2), true), (key(1), true), (key(0), true), (key(3), true)]);
    t.store.move_campaign(started[1].campaign, S::Expanding, E::Pause, Some("wait"), at(10)).await.unwrap().unwrap();
    t.store.move_campaign(started[0].campaign, S::Expanding, E::Cancel, None, at(10)).await.unwrap().unwrap();
    assert_eq!(open().await, [(key(2), true), (key(1), false), (key(3), true)], "paused ones are open");
    assert!(t.store.run(key(0)).await.unwrap().is_some(), "a closed one is still there");
}

async fn an_edit_reaches_the_open_run(t: Opened) {
    let s = running(&*t.store, &["a"], 1).await;
    let before = t.store.revisions().await.unwrap().runs;
    let mut spec = campaign_spec("people");
    (spec.priority, spec.expires_at, spec.delay.min_ms) = (1, Some(at(100)), 7_000);
    assert!(t.store.edit_campaign(s.campaign, &spec, at(1)).await.unwrap());
    let run = t.store.run(s.run.key).await.unwrap().unwrap();
    assert_eq!((run.plan.priority, run.plan.expires_at, run.plan.delay.min_ms), (1, Some(at(100)), 7_000));
    assert_eq!(t.store.open_runs().await.unwrap()[0].rank(), run.rank());
    assert!(t.store.revisions().await.unwrap().runs > before);
    assert!(t.store.campaigns_past_expiry(at(99)).await.unwrap().is_empty());
    assert_eq!(t.store.campaigns_past_expiry(at(101)).await.unwrap()[0].id, s.campaign);
    t.store.move_campaign(s.campaign, S::Running, E::Expire, None, at(101)).await.unwrap().unwrap();
    assert!(t.store.campaigns_past_expiry(at(101)).await.unwrap().is_empty());
    assert!(!t.store.edit_campaign(s.campaign, &spec, at(102)).await.unwrap(), "it is final");
}

async fn an_expansion_that_is_repeated_adds_nothing(t: Opened) {
    let nos = devices(&*t.store, &["a", "b"]).await;
    audience(&*t.store, "people", &addresses(7)).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    let page = async |cursor| t.store.expand_page(s.run.key, cursor, 3, at(1)).await.unwrap();
    let first = page(0).await.unwrap();
    assert_eq!((first.pending, first.suppressed, first.cursor, first.done), (3, 0, 3, false));
    assert!(page(0).await.is_none(), "the answer was lost and the page asked for again");
    assert!(page(6).await.is_none(), "nor is any page left out");
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 3, ..Counts::default() });
    let found = t.store.run(s.run.key).await.unwrap().unwrap();
    assert_eq!((found.cursor, found.expanded), (3, false), "a server that starts now goes on here");
    assert_eq!(page(3).await.unwrap().cursor, 6);
    let last = page(6).await.unwrap();
    assert!(last.done || page(last.cursor).await.unwrap().done);
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 7, ..Counts::default() });
    assert!(t.store.run(s.run.key).await.unwrap().unwrap().expanded);
    let per_device = [s.ready(&*t.store, nos[0]).await.len(), s.ready(&*t.store, nos[1]).await.len()];
    assert!(per_device == [4, 3] || per_device == [3, 4], "in turn: {per_device:?}");
}

async fn two_expanders_share_the_pages(t: Opened) {
    let nos = devices(&*t.store, &["a", "b", "c"]).await;
    audience(&*t.store, "people", &addresses(200)).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    let key = s.run.key;
    let expanders: Vec<_> = (0..3)
        .map(|_| {
            let store = t.store.clone();
            tokio::spawn(async move {
                let mut made = 0;
                loop {
                    let run = store.run(key).await.unwrap().unwrap();
                    if run.expanded {
                        return made;
                    }
                    if let Some(page) = store.expand_page(key, run.cursor, 9, T0).await.unwrap() {
                        made += page.pending;
                    }
                }
            })
        })
        .collect();
    let mut made = 0;
    for expander in expanders {
        made += expander.await.unwrap();
    }
    assert_eq!(made, 200, "each page was counted by one of them");
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 200, ..Counts::default() });
}

async fn the_suppressed_are_left_out_at_expansion(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    let entry = |address: &str, channel: Option<&str>| NewSuppression {
        address: address.into(),
        channel: channel.map(Into::into),
        reason: "opted-out".into(),
    };
    let entries = [entry("+1", None), entry("+2", Some("sms")), entry("+3", Some("push"))];
    t.store.suppress(&entries, T0).await.unwrap();
    audience(&*t.store, "people", &addresses(4)).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    let page = t.store.expand_page(s.run.key, 0, 100, at(1)).await.unwrap().unwrap();
    assert_eq!((page.pending, page.suppressed), (2, 2));
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 2, suppressed: 2, ..Counts::default() });
    assert_eq!(s.status(&*t.store, s.message(2)).await, MessageStatus::Suppressed);
    assert_eq!(s.status(&*t.store, s.message(3)).await, MessageStatus::Pending, "suppressed on another channel");
    assert_eq!(s.ready(&*t.store, nos[0]).await, [s.message(3), s.message(4)]);
}

async fn an_expansion_waits_while_its_campaign_is_paused(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    audience(&*t.store, "people", &addresses(4)).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    t.store.move_campaign(s.campaign, S::Expanding, E::Pause, Some("wait"), at(1)).await.unwrap().unwrap();
    assert!(t.store.expand_page(s.run.key, 0, 3, at(1)).await.unwrap().is_none());
    t.store.move_campaign(s.campaign, S::Paused, E::ResumeExpanding, None, at(2)).await.unwrap().unwrap();
    expand(&*t.store, &s, 3, at(3)).await;
    assert_eq!(s.counts(&*t.store).await.pending, 4);
}

async fn a_recipient_sticks_to_its_device(t: Opened) {
    let nos = devices(&*t.store, &["a", "b", "c"]).await;
    audience(&*t.store, "people", &addresses(40)).await;
    let mut backwards = addresses(40);
    backwards.reverse();
    let mut spec = campaign_spec("people");
    spec.devices.policy = SpreadPolicy::Sticky;
    let first = launch(&*t.store, &spec, &nos, T0).await;
    expand(&*t.store, &first, 7, T0).await;
    audience(&*t.store, "people", &backwards).await;
    let second = launch(&*t.store, &spec, &nos, at(1)).await;
    expand(&*t.store, &second, 11, T0).await;
    let mut homes = Vec::new();
    for s in [&first, &second] {
        let rows = t.store.messages(s.run.key, None, None, 100).await.unwrap().items;
        homes.push(rows.into_iter().map(|m| (m.address, m.device.to_string())).collect::<BTreeMap<_, _>>());
    }
    assert_eq!(homes[0], homes[1]);
    let used: std::collections::BTreeSet<_> = homes[0].values().collect();
    assert_eq!(used.len(), 3, "all devices have recipients");
}

async fn idle_devices_get_their_share_first(t: Opened) {
    let busy = running(&*t.store, &["busy"], 30).await;
    t.store.put_devices(&[device_spec("idle")], T0).await.unwrap();
    let idle = devices(&*t.store, &["idle"]).await[0];
    let mut spec = campaign_spec("people");
    spec.devices.policy = SpreadPolicy::LeastLoaded;
    let s = launch(&*t.store, &spec, &[busy.devices[0], idle], at(1)).await;
    expand(&*t.store, &s, 5, at(1)).await;
    let waiting = s.ready(&*t.store, idle).await.len();
    assert!(waiting >= 15, "the idle device has at least its half: {waiting}");
    assert_eq!(s.counts(&*t.store).await.pending, 30);
}

async fn a_campaign_completes_when_nothing_is_open(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    audience(&*t.store, "people", &addresses(2)).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    assert!(t.store.complete_campaigns(at(1)).await.unwrap().is_empty(), "it has no messages yet");
    expand(&*t.store, &s, 100, at(1)).await;
    assert!(t.store.complete_campaigns(at(1)).await.unwrap().is_empty());
    s.send(&*t.store, s.message(1), nos[0], sent(), at(2)).await;
    let work = s.take(&*t.store, s.message(2), nos[0], 2, at(3)).await;
    assert!(t.store.complete_campaigns(at(3)).await.unwrap().is_empty(), "one is being sent");
    let failed = Settled::Failed(Reason::new("invalid", ""));
    t.store.settle(&[s.settlement(&work, nos[0], 2, failed, at(3))]).await.unwrap();
    assert_eq!(t.store.complete_campaigns(at(4)).await.unwrap(), [s.campaign]);
    assert!(t.store.complete_campaigns(at(5)).await.unwrap().is_empty());
    let c = t.store.campaign(s.campaign).await.unwrap().unwrap();
    assert_eq!((c.status, c.finished_at), (S::Completed, Some(at(4))));
    assert!(t.store.open_runs().await.unwrap().is_empty());

    assert_eq!(t.store.retry_failed(s.run.key, 10, at(6)).await.unwrap(), 1);
    t.store.move_campaign(s.campaign, S::Completed, E::Reopen, None, at(6)).await.unwrap().unwrap();
    let row = t.store.message(s.message(2)).await.unwrap().unwrap();
    assert_eq!((row.status, row.failures, row.finished_at), (MessageStatus::Pending, 0, None));
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 1, sent: 1, ..Counts::default() });
    assert_eq!(t.store.campaign(s.campaign).await.unwrap().unwrap().finished_at, None);
    assert!(t.store.complete_campaigns(at(7)).await.unwrap().is_empty());
    let work = s.take(&*t.store, s.message(2), nos[0], 2, at(8)).await;
    assert_eq!((work.attempt, work.failures), (2, 0), "attempts are numbered on, and count afresh");
    t.store.settle(&[s.settlement(&work, nos[0], 2, sent(), at(8))]).await.unwrap();
    assert_eq!(t.store.complete_campaigns(at(9)).await.unwrap(), [s.campaign]);
}

async fn a_campaign_to_nobody_completes(t: Opened) {
    let nos = devices(&*t.store, &["a"]).await;
    audience(&*t.store, "people", &[]).await;
    let s = launch(&*t.store, &campaign_spec("people"), &nos, T0).await;
    expand(&*t.store, &s, 100, at(1)).await;
    assert_eq!(t.store.complete_campaigns(at(2)).await.unwrap(), [s.campaign]);
    assert_eq!(exact_counts(&*t.store, s.run.key).await, Counts::default());
}

async fn pending_messages_are_closed_in_pages(t: Opened) {
    let s = running(&*t.store, &["a"], 6).await;
    let device = s.devices[0];
    s.send(&*t.store, s.message(1), device, sent(), at(1)).await;
    let later = Settled::Retry { due_at: at(500), counts: true, reason: Reason::new("http_503", "") };
    s.send(&*t.store, s.message(2), device, later, at(1)).await;
    let work = s.take(&*t.store, s.message(3), device, 1, at(1)).await;
    assert!(t.store.runs_to_close().await.unwrap().is_empty());
    t.store.move_campaign(s.campaign, S::Running, E::Cancel, None, at(2)).await.unwrap().unwrap();
    assert_eq!(t.store.runs_to_close().await.unwrap(), [(s.run.key, S::Cancelled)]);
    let close = async |limit| t.store.close_pending(s.run.key, MessageStatus::Cancelled, limit, at(3)).await.unwrap();
    assert_eq!(close(3).await, 3);
    assert_eq!(close(3).await, 1);
    assert_eq!(close(3).await, 0);
    assert!(t.store.runs_to_close().await.unwrap().is_empty());
    assert_eq!(s.counts(&*t.store).await, Counts { sent: 1, processing: 1, cancelled: 4, ..Counts::default() });
    assert_eq!(t.store.message(s.message(5)).await.unwrap().unwrap().finished_at, Some(at(3)));
    assert_eq!(t.store.settle(&[s.settlement(&work, device, 1, sent(), at(4))]).await.unwrap(), [true], "it was sent");
    assert_eq!(s.counts(&*t.store).await, Counts { sent: 2, cancelled: 4, ..Counts::default() });
}

async fn failed_messages_are_tried_again_in_pages(t: Opened) {
    let s = running(&*t.store, &["a"], 4).await;
    for contact in 1..=3 {
        let failed = Settled::Failed(Reason::new("invalid", "no such number"));
        s.send(&*t.store, s.message(contact), s.devices[0], failed, at(1)).await;
    }
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 1, failed: 3, ..Counts::default() });
    assert_eq!(t.store.retry_failed(s.run.key, 2, at(2)).await.unwrap(), 2);
    assert_eq!(t.store.retry_failed(s.run.key, 2, at(2)).await.unwrap(), 1);
    assert_eq!(t.store.retry_failed(s.run.key, 2, at(2)).await.unwrap(), 0);
    assert_eq!(s.counts(&*t.store).await, Counts { pending: 4, ..Counts::default() });
    assert_eq!(s.ready(&*t.store, s.devices[0]).await.len(), 4);
}

super::on_every_store!(
    a_campaign_is_a_draft_at_first,
    campaigns_are_listed_newest_first,
    campaigns_that_are_open_are_counted,
    a_move_compares_and_sets,
    a_scheduled_campaign_is_found_when_it_is_due,
    a_campaign_starts_once,
    open_runs_are_in_rank_order,
    an_edit_reaches_the_open_run,
    an_expansion_that_is_repeated_adds_nothing,
    two_expanders_share_the_pages,
    the_suppressed_are_left_out_at_expansion,
    an_expansion_waits_while_its_campaign_is_paused,
    a_recipient_sticks_to_its_device,
    idle_devices_get_their_share_first,
    a_campaign_completes_when_nothing_is_open,
    a_campaign_to_nobody_completes,
    pending_messages_are_closed_in_pages,
    failed_messages_are_tried_again_in_pages,
);

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use carillon::campaign::{CampaignEvent as E, CampaignStatus as S};
use carillon::id::RunKey;
use carillon::message::{Counts, MessageStatus, Reason, Settled};
use carillon::store::{Store, StoreError};
use carillon_tests::fleet::{Started, addresses, at, audience, running, sent};
use carillon_tests::stores::Opened;

/// A campaign over two devices whose five messages ended within six seconds: one failed, after a retry. Completed at 9 s.
async fn finished(store: &dyn Store, devices: [&str; 2]) -> Started {
    let s = running(store, &devices, 5).await;
    for device in &s.devices {
        for id in s.ready(store, *device).await {
            if id == s.message(3) {
                let retry = Settled::Retry { due_at: at(3), counts: true, reason: Reason::new("http_503", "") };
                s.send(store, id, *device, retry, at(2)).await;
                store.promote_due(at(3), 10).await.unwrap();
                s.send(store, id, *device, Settled::Failed(Reason::new("invalid", "")), at(4)).await;
            } else {
                s.send(store, id, *device, sent(), at(if id < s.message(3) { 1 } else { 5 })).await;
            }
        }
    }
    assert_eq!(store.complete_campaigns(at(9)).await.unwrap(), [s.campaign]);
    s
}

async fn counts(store: &dyn Store, run: RunKey) -> Counts {
    store.counts(&[run]).await.unwrap()[0].1
}

async fn messages_of_a_finished_campaign_go_step_by_step(t: Opened) {
    let other = t.again().await;
    let (store, s) = (&*t.store, finished(&*t.store, ["a", "b"]).await);
    let expected = Counts { sent: 4, failed: 1, ..Counts::default() };
    assert_eq!(s.counts(store).await, expected);
    assert_eq!(store.attempts(s.message(3)).await.unwrap().len(), 2);
    assert_eq!(store.prune_run(at(8), 2, at(100)).await.unwrap(), None, "it finished later");
    assert_eq!(store.campaign(s.campaign).await.unwrap().unwrap().messages_pruned_at, None);

    let mut steps = Vec::new();
    // By turns on two servers: each goes on where the other one stopped.
    for server in [&t.store, &other].into_iter().cycle() {
        let Some(step) = server.prune_run(at(9), 2, at(100 + steps.len() as u64)).await.unwrap() else { break };
        assert_eq!((step.campaign, step.run), (s.campaign, s.run.key));
        steps.push((step.messages, step.done));
        assert_eq!(counts(store, s.run.key).await, expected, "counts stay");
        assert_eq!(server.campaign(s.campaign).await.unwrap().unwrap().messages_pruned_at, Some(at(100)));
    }
    assert_eq!(steps, [(2, false), (2, false), (1, true)]);
    assert!(store.messages(s.run.key, None, None, 10).await.unwrap().items.is_empty());
    for contact in 1..=5 {
        assert!(store.message(s.message(contact)).await.unwrap().is_none());
        assert!(store.attempts(s.message(contact)).await.unwrap().is_empty());
    }
    assert!(store.run_devices(s.run.key).await.unwrap().is_empty());
    let listed = store.campaigns(Some(S::Completed), None, 10).await.unwrap().items;
    assert_eq!(listed.iter().map(|c| (c.id, c.messages_pruned_at)).collect::<Vec<_>>(), [(s.campaign, Some(at(100)))]);
    other.close().await;
}

async fn what_is_being_removed_is_not_tried_again(t: Opened) {
    let (store, s) = (&*t.store, finished(&*t.store, ["a", "b"]).await);
    assert_eq!(store.prune_run(at(9), 1, at(100)).await.unwrap().unwrap().messages, 1);
    assert!(matches!(store.retry_failed(s.run.key, 10, at(101)).await, Err(StoreError::Conflict(_))));
    let reopened = store.move_campaign(s.campaign, S::Completed, E::Reopen, None, at(101)).await;
    assert!(matches!(reopened, Err(StoreError::Conflict(_))), "{reopened:?}");
    assert_eq!(store.campaign(s.campaign).await.unwrap().unwrap().status, S::Completed);
    assert_eq!(counts(store, s.run.key).await, Counts { sent: 4, failed: 1, ..Counts::default() });
}

async fn what_is_tried_again_is_not_removed(t: Opened) {
    let (store, s) = (&*t.store, finished(&*t.store, ["a", "b"]).await);
    // The server that was asked to died before it reopened the campaign.
    assert_eq!(store.retry_failed(s.run.key, 10, at(20)).await.unwrap(), 1);
    assert_eq!(store.prune_run(at(1000), 10, at(1000)).await.unwrap(), None);
    store.move_campaign(s.campaign, S::Completed, E::Reopen, None, at(1001)).await.unwrap().unwrap();
    assert_eq!(store.prune_run(at(2000), 10, at(2000)).await.unwrap(), None);
    assert_eq!(s.counts(store).await, Counts { pending: 1, sent: 4, ..Counts::default() });
}

async fn open_messages_keep_a_run(t: Opened) {
    let store = &*t.store;
    let s = running(store, &["a"], 4).await;
    let device = s.devices[0];
    s.send(store, s.message(1), device, sent(), at(1)).await;
    let work = s.take(store, s.message(2), device, 1, at(1)).await;
    let prune = async || store.prune_run(at(1000), 10, at(1000)).await.unwrap();
    assert_eq!(prune().await, None, "it runs");
    store.move_campaign(s.campaign, S::Running, E::Cancel, None, at(2)).await.unwrap().unwrap();
    assert_eq!(prune().await, None, "its messages are not closed");
    store.close_pending(s.run.key, MessageStatus::Cancelled, 100, at(3)).await.unwrap();
    assert!(store.runs_to_close().await.unwrap().is_empty());
    assert_eq!(prune().await, None, "one is being sent");
    assert_eq!(store.settle(&[s.settlement(&work, device, 1, sent(), at(4))]).await.unwrap(), [true]);
    let _closed = store.runs_to_close().await.unwrap();
    let step = prune().await.unwrap();
    assert_eq!((step.run, step.messages, step.done), (s.run.key, 4, true));
    assert_eq!(counts(store, s.run.key).await, Counts { sent: 2, cancelled: 2, ..Counts::default() });
    assert_eq!(prune().await, None);
}

async fn other_runs_and_the_audience_stay_until_nothing_needs_them(t: Opened) {
    let store = &*t.store;
    let old = finished(store, ["a", "b"]).await;
    let current = audience(store, "people", &addresses(3)).await;
    let later = at(3 * 86_400);
    assert_eq!(store.prune_audiences(later, 100).await.unwrap(), 0, "its messages are shown");
    assert_eq!(store.prune_run(at(9), 3, later).await.unwrap().map(|p| p.done), Some(false));
    assert_eq!(store.prune_audiences(later, 100).await.unwrap(), 0, "some of them may still be");
    assert_eq!(store.prune_run(at(9), 3, later).await.unwrap().map(|p| p.done), Some(true));
    assert_eq!(store.prune_audiences(later, 100).await.unwrap(), 5);
    assert!(store.contacts(old.run.audience, 0, 10).await.unwrap().is_empty());
    assert_eq!(store.contacts(current, 0, 10).await.unwrap().len(), 3);

    let live = running(store, &["a"], 2).await;
    assert_eq!(store.prune_run(later, 100, later).await.unwrap(), None);
    assert_eq!(live.counts(store).await, Counts { pending: 2, ..Counts::default() });
}

async fn many_servers_remove_each_message_once(t: Opened) {
    let store = &*t.store;
    let mut runs = Vec::new();
    for devices in [["a", "b"], ["c", "d"], ["e", "f"]] {
        runs.push(finished(store, devices).await);
    }
    let removed = Arc::new(AtomicU64::new(0));
    let servers: Vec<_> = (0..4)
        .map(|_| {
            let (store, removed) = (t.store.clone(), Arc::clone(&removed));
            tokio::spawn(async move {
                // Who finds a run taken is told that there is none: it is asked for until all are done, and a few times more.
                let mut after = 0;
                while after < 5 {
                    after += u32::from(removed.load(Ordering::SeqCst) >= 15);
                    match store.prune_run(at(9), 1, at(100)).await.unwrap() {
                        Some(step) => _ = removed.fetch_add(step.messages, Ordering::SeqCst),
                        None => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            })
        })
        .collect();
    for server in servers {
        tokio::time::timeout(Duration::from_secs(60), server).await.expect("everything is removed").unwrap();
    }
    assert_eq!(removed.load(Ordering::SeqCst), 15);
    for s in runs {
        assert!(store.messages(s.run.key, None, None, 10).await.unwrap().items.is_empty());
        assert_eq!(counts(store, s.run.key).await, Counts { sent: 4, failed: 1, ..Counts::default() });
    }
}

super::on_every_store!(
    messages_of_a_finished_campaign_go_step_by_step,
    what_is_being_removed_is_not_tried_again,
    what_is_tried_again_is_not_removed,
    open_messages_keep_a_run,
    other_runs_and_the_audience_stay_until_nothing_needs_them,
    many_servers_remove_each_message_once,
);

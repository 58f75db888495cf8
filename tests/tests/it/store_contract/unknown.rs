use std::time::Duration;

use carillon::campaign::{CampaignEvent as E, CampaignStatus as S};
use carillon::consent::NewSuppression;
use carillon::id::{MessageId, RunKey};
use carillon::message::{Begun, Counts, MessageStatus, Reason, Settled};
use carillon::resolution::{Resolution, Resolved, Way};
use carillon::store::{Store, UnknownOf};
use carillon_tests::fleet::{Started, at, running, sent};
use carillon_tests::stores::Opened;

fn unknown() -> Settled {
    Settled::Unknown(Reason::new("interrupted", "the server ended"))
}

fn said(message: MessageId, outcome: Settled) -> Resolution {
    let note = "ops: seen in the log".to_owned();
    Resolution { message, attempt: 1, outcome, way: Way::Operator, note, suppress: None, sequence: None }
}

fn again(second: u64) -> Settled {
    Settled::Retry { due_at: at(second), counts: true, reason: Reason::new("resolved-retry", "") }
}

/// A campaign over these devices, each of whose first messages up to `contacts` ended unknown.
async fn unproved(store: &dyn Store, ids: &[&str], contacts: u32, unproved: &[u32]) -> Started {
    let s = running(store, ids, contacts).await;
    for (n, contact) in unproved.iter().enumerate() {
        let device = s.devices[(*contact as usize - 1) % s.devices.len()];
        s.send(store, s.message(*contact), device, unknown(), at(10 * n as u64 + 1)).await;
    }
    s
}

async fn ids(store: &dyn Store, of: &UnknownOf, limit: u32) -> Vec<MessageId> {
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.unknown(of, cursor, limit).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        assert!(page.items.iter().all(|m| m.status == MessageStatus::Unknown && !m.address.is_empty()));
        seen.extend(page.items.into_iter().map(|m| m.id));
        cursor = page.next;
        if cursor.is_none() {
            return seen;
        }
    }
}

async fn attempts(store: &dyn Store, id: MessageId) -> Vec<(u32, String)> {
    store.attempts(id).await.unwrap().into_iter().map(|a| (a.attempt, a.outcome)).collect()
}

async fn unknown_outcomes_are_found_over_all_runs(t: Opened) {
    let store = &*t.store;
    assert!(store.unknown_runs(10).await.unwrap().is_empty());
    let one = unproved(store, &["a", "b"], 6, &[1, 2, 4, 5]).await;
    let two = unproved(store, &["c"], 3, &[2]).await;
    let none = running(store, &["a"], 2).await;
    let of = |s: &Started, contacts: &[u32]| contacts.iter().map(|c| s.message(*c)).collect::<Vec<_>>();
    let mut all = [of(&one, &[1, 2, 4, 5]), of(&two, &[2])].concat();
    all.sort();
    let runs = |runs: &[RunKey]| Some(runs.to_vec());
    for limit in [1, 2, 3, 100] {
        assert_eq!(ids(store, &UnknownOf::default(), limit).await, all, "pages of {limit}");
        let both = UnknownOf { runs: runs(&[one.run.key, none.run.key, two.run.key]), device: None };
        assert_eq!(ids(store, &both, limit).await, all, "pages of {limit} of runs");
        let of_one = UnknownOf { runs: runs(&[one.run.key]), device: None };
        assert_eq!(ids(store, &of_one, limit).await, of(&one, &[1, 2, 4, 5]));
        let b = UnknownOf { runs: None, device: Some(one.devices[1]) };
        assert_eq!(ids(store, &b, limit).await, of(&one, &[2, 4]));
        let a = UnknownOf { runs: runs(&[two.run.key, one.run.key]), device: Some(one.devices[0]) };
        assert_eq!(ids(store, &a, limit).await, of(&one, &[1, 5]));
    }
    assert!(ids(store, &UnknownOf { runs: runs(&[]), device: None }, 10).await.is_empty());
    assert!(ids(store, &UnknownOf { runs: runs(&[none.run.key]), device: None }, 10).await.is_empty());
    let mut counted = vec![(one.run.key, 4), (two.run.key, 1)];
    counted.sort();
    assert_eq!(store.unknown_runs(10).await.unwrap(), counted);
    assert_eq!(store.unknown_runs(1).await.unwrap(), counted[..1]);
    let found = store.runs(&[two.run.key, one.run.key]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(store.runs(&[]).await.unwrap().is_empty());
}

async fn an_unknown_outcome_is_resolved_once(t: Opened) {
    let store = &*t.store;
    let s = unproved(store, &["a"], 5, &[1, 2, 3, 4]).await;
    let as_sent = Settled::Sent { provider_id: Some("p-9".into()), delivered: false };
    let mut other_attempt = said(s.message(1), as_sent.clone());
    other_attempt.attempt = 2;
    let pending = said(s.message(5), as_sent.clone());
    let nothing = said(s.message(2), Settled::Released);
    let answers = store.resolve(&[other_attempt, pending, nothing], at(100)).await.unwrap();
    assert_eq!(answers, vec![Resolved::NotUnknown; 3]);
    assert_eq!(s.counts(store).await, Counts { pending: 1, unknown: 4, ..Counts::default() });

    let refused = Reason::new("resolved-failed", "no trace of it");
    let all = [
        said(s.message(1), as_sent.clone()),
        said(s.message(2), Settled::Sent { provider_id: None, delivered: true }),
        said(s.message(1), Settled::Failed(refused.clone())),
        said(s.message(3), Settled::Failed(refused.clone())),
        said(s.message(4), again(101)),
    ];
    let answers = store.resolve(&all, at(101)).await.unwrap();
    assert_eq!(
        answers,
        [Resolved::Done, Resolved::Done, Resolved::NotUnknown, Resolved::Done, Resolved::Done],
        "the first word about a message counts"
    );
    let expected = Counts { pending: 2, sent: 1, delivered: 1, failed: 1, ..Counts::default() };
    assert_eq!(s.counts(store).await, expected);
    assert!(store.unknown_runs(10).await.unwrap().is_empty());
    let answers = store.resolve(&all, at(102)).await.unwrap();
    assert_eq!(answers, vec![Resolved::NotUnknown; 5], "a repeat changes nothing");
    assert_eq!(s.counts(store).await, expected);

    let row = store.message(s.message(1)).await.unwrap().unwrap();
    assert_eq!((row.status, row.provider_id.as_deref()), (MessageStatus::Sent, Some("p-9")));
    assert_eq!((row.finished_at, row.reason, row.attempt), (Some(at(101)), None, 1));
    let kept = store.attempts(s.message(1)).await.unwrap();
    assert_eq!(
        kept.iter().map(|a| (a.attempt, a.outcome.as_str())).collect::<Vec<_>>(),
        [(1, "unknown"), (1, "resolved-sent")]
    );
    assert_eq!(kept[1].reason, Some(Reason::new("operator", "ops: seen in the log")));
    assert_eq!((kept[1].started_at, kept[1].finished_at, kept[1].device.as_str()), (at(101), at(101), "a"));
    assert!(kept[1].digests.is_some());
    let row = store.message(s.message(3)).await.unwrap().unwrap();
    assert_eq!((row.status, row.reason), (MessageStatus::Failed, Some(refused)));

    // The one to be sent again waits in its place, and its attempt counts.
    let row = store.message(s.message(4)).await.unwrap().unwrap();
    assert_eq!((row.status, row.failures, row.finished_at), (MessageStatus::Pending, 1, None));
    assert_eq!(s.ready(store, s.devices[0]).await, [s.message(4), s.message(5)]);
    let work = s.take(store, s.message(4), s.devices[0], 200, at(200)).await;
    assert_eq!((work.attempt, work.failures), (2, 1));
    assert_eq!(store.settle(&[s.settlement(&work, s.devices[0], 200, unknown(), at(200))]).await.unwrap(), [true]);
    let second = Resolution { attempt: 2, ..said(s.message(4), again(400)) };
    assert_eq!(store.resolve(&[second], at(300)).await.unwrap(), [Resolved::Done]);
    assert_eq!(store.message(s.message(4)).await.unwrap().unwrap().due_at, Some(at(400)), "it waits for its time");
    let history = ["unknown", "resolved-retry", "unknown", "resolved-retry"];
    let expected: Vec<_> = [1, 1, 2, 2].into_iter().zip(history.map(ToOwned::to_owned)).collect();
    assert_eq!(attempts(store, s.message(4)).await, expected);
    assert_eq!(store.promote_due(at(400), 10).await.unwrap().0, s.devices);
    assert!(store.resolve(&[], at(1)).await.unwrap().is_empty());
}

async fn of_two_servers_one_resolves(t: Opened) {
    let contacts: Vec<u32> = (1..=10).collect();
    let s = unproved(&*t.store, &["a"], 10, &contacts).await;
    let other = t.again().await;
    for contact in contacts {
        let words = [(t.store.clone(), sent()), (other.clone(), again(200))].map(|(store, outcome)| {
            let word = said(s.message(contact), outcome);
            tokio::spawn(async move { store.resolve(&[word], at(200)).await.unwrap() == [Resolved::Done] })
        });
        let mut applied = 0;
        for word in words {
            applied += u32::from(word.await.unwrap());
        }
        assert_eq!(applied, 1);
        assert_eq!(attempts(&*t.store, s.message(contact)).await.len(), 2);
    }
    let counts = s.counts(&*t.store).await;
    assert_eq!((counts.sent + counts.pending, counts.total()), (10, 10));
    other.close().await;
}

async fn a_completed_campaign_goes_on_for_what_is_sent_again(t: Opened) {
    let store = &*t.store;
    let s = unproved(store, &["a"], 2, &[1, 2]).await;
    assert_eq!(store.complete_campaigns(at(50)).await.unwrap(), [s.campaign]);
    let before = store.revisions().await.unwrap().runs;
    assert_eq!(store.resolve(&[said(s.message(1), sent())], at(60)).await.unwrap(), [Resolved::Done]);
    let campaign = store.campaign(s.campaign).await.unwrap().unwrap();
    assert_eq!((campaign.status, campaign.finished_at), (S::Completed, Some(at(50))), "nothing is to be sent");
    assert_eq!(store.revisions().await.unwrap().runs, before);

    let other = t.again().await;
    assert_eq!(other.resolve(&[said(s.message(2), again(61))], at(61)).await.unwrap(), [Resolved::Done]);
    let campaign = store.campaign(s.campaign).await.unwrap().unwrap();
    assert_eq!((campaign.status, campaign.finished_at), (S::Running, None));
    assert!(store.revisions().await.unwrap().runs > before, "the servers are told");
    assert!(store.open_runs().await.unwrap().iter().any(|run| run.key == s.run.key && run.active));
    assert_eq!(store.complete_campaigns(at(62)).await.unwrap(), [], "one message is open");
    s.send(store, s.message(2), s.devices[0], sent(), at(70)).await;
    assert_eq!(store.complete_campaigns(at(80)).await.unwrap(), [s.campaign]);
    assert_eq!(s.counts(store).await, Counts { sent: 2, ..Counts::default() });
    other.close().await;
}

async fn what_cannot_be_sent_again_is_refused(t: Opened) {
    let store = &*t.store;
    let why = async |s: &Started, now: u64| match store
        .resolve(&[said(s.message(1), again(now))], at(now))
        .await
        .unwrap()
        .remove(0)
    {
        Resolved::Refused(why) => why,
        other => panic!("{other:?}"),
    };
    for (event, word) in [(E::Cancel, "cancelled"), (E::Expire, "expired")] {
        let s = unproved(store, &["a"], 2, &[1]).await;
        store.move_campaign(s.campaign, S::Running, event, None, at(50)).await.unwrap().unwrap();
        assert!(why(&s, 60).await.contains(word));
        assert_eq!(s.status(store, s.message(1)).await, MessageStatus::Unknown);
        assert_eq!(attempts(store, s.message(1)).await.len(), 1, "a refusal leaves no trace");
        assert_eq!(store.resolve(&[said(s.message(1), sent())], at(61)).await.unwrap(), [Resolved::Done]);
        assert_eq!(s.status(store, s.message(1)).await, MessageStatus::Sent, "what happened can be said at any time");
    }
    let s = unproved(store, &["a"], 1, &[1]).await;
    let mut spec = store.campaign(s.campaign).await.unwrap().unwrap().spec;
    spec.expires_at = Some(at(100));
    assert!(store.edit_campaign(s.campaign, &spec, at(40)).await.unwrap());
    assert_eq!(store.complete_campaigns(at(50)).await.unwrap(), [s.campaign]);
    assert!(why(&s, 100).await.contains("expiry"));
    // Its messages are about to go.
    let s = unproved(store, &["a"], 2, &[1]).await;
    s.send(store, s.message(2), s.devices[0], sent(), at(200)).await;
    assert_eq!(store.complete_campaigns(at(300)).await.unwrap(), [s.campaign]);
    let claimed =
        store.claim_lookups(&[s.message(1)], 5, Duration::from_secs(1), Duration::from_secs(9), at(300)).await;
    assert_eq!(claimed.unwrap().len(), 1);
    while store.prune_run(at(300), 1, at(400)).await.unwrap().is_none_or(|p| p.run != s.run.key) {}
    let answer = store.resolve(&[said(s.message(1), again(401))], at(401)).await.unwrap().remove(0);
    assert_ne!(answer, Resolved::Done);
}

async fn a_suppressed_address_is_not_sent_to_again(t: Opened) {
    let store = &*t.store;
    let s = unproved(store, &["a"], 2, &[1, 2]).await;
    let entry = |address: &str| NewSuppression { address: address.into(), channel: None, reason: "opted-out".into() };
    store.suppress(&[entry("+1")], at(50)).await.unwrap();
    assert_eq!(store.resolve(&[said(s.message(1), again(60))], at(60)).await.unwrap(), [Resolved::Done]);
    assert_eq!(s.begin(store, s.message(1), s.devices[0], 100, at(61)).await, Begun::Suppressed);
    let mut found = said(s.message(2), Settled::Failed(Reason::new("opted-out", "")));
    found.suppress = Some(entry("+2"));
    assert_eq!(store.resolve(&[found], at(70)).await.unwrap(), [Resolved::Done]);
    let list = store.suppressions(Some("+2"), None, 10).await.unwrap().items;
    assert_eq!((list.len(), list[0].created_at), (1, at(70)));
    assert_eq!(s.counts(store).await, Counts { failed: 1, suppressed: 1, ..Counts::default() });
}

async fn a_look_up_is_claimed_once_and_waits_longer_each_time(t: Opened) {
    let store = &*t.store;
    let s = unproved(store, &["a"], 4, &[1, 2, 3]).await;
    let other = t.again().await;
    let all: Vec<_> = (1..=4).map(|c| s.message(c)).collect();
    let claim = async |store: &dyn Store, times: u32, second: u64| {
        let (first, longest) = (Duration::from_secs(10), Duration::from_secs(25));
        let mut claimed = store.claim_lookups(&all, times, first, longest, at(second)).await.unwrap();
        claimed.sort();
        claimed.into_iter().map(|(id, time)| (id.contact(), time)).collect::<Vec<_>>()
    };
    assert_eq!(claim(store, 3, 100).await, [(1, 1), (2, 1), (3, 1)], "only what is unknown");
    assert_eq!(claim(&*other, 3, 100).await, []);
    assert_eq!(claim(&*other, 3, 109).await, []);
    assert_eq!(claim(&*other, 3, 110).await, [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(claim(store, 3, 129).await, [], "twice as long");
    assert_eq!(store.resolve(&[said(s.message(2), sent())], at(129)).await.unwrap(), [Resolved::Done]);
    assert_eq!(claim(store, 3, 130).await, [(1, 3), (3, 3)]);
    assert_eq!(claim(store, 3, 9_999).await, [], "no more than that");
    assert_eq!(claim(store, u32::MAX, 154).await, [], "no wait is longer than the longest");
    assert_eq!(claim(store, u32::MAX, 155).await, [(1, 4), (3, 4)]);
    // What is sent again and unknown again begins anew.
    assert_eq!(store.resolve(&[said(s.message(1), again(200))], at(200)).await.unwrap(), [Resolved::Done]);
    s.send(store, s.message(1), s.devices[0], unknown(), at(300)).await;
    assert_eq!(claim(store, 1, 400).await, [(1, 1)]);
    assert!(store.claim_lookups(&[], 1, Duration::ZERO, Duration::ZERO, at(1)).await.unwrap().is_empty());
    other.close().await;
}

super::on_every_store!(
    unknown_outcomes_are_found_over_all_runs,
    an_unknown_outcome_is_resolved_once,
    of_two_servers_one_resolves,
    a_completed_campaign_goes_on_for_what_is_sent_again,
    what_cannot_be_sent_again_is_refused,
    a_suppressed_address_is_not_sent_to_again,
    a_look_up_is_claimed_once_and_waits_longer_each_time,
);

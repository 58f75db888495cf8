//! The plans of every statement that a message, a page or a loop's round meets, on a million messages over 3,000 devices.
//!
//! They are the plans of the store's own calls, not of copies of its texts (see [`carillon_tests::plans`]). Two checks: no
//! such statement reads messages, contacts or attempts from end to end; and no plan has changed unnoticed. After a change
//! that is wanted, this writes the snapshots anew:
//!
//! ```sh
//! INSTA_UPDATE=always cargo test --release -p carillon-tests --test it -- plans::
//! ```
//!
//! Planners differ: snapshots are compared on the version of PostgreSQL that they were taken with only.

mod filled;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use carillon::campaign::CampaignStatus as C;
use carillon::consent::NewSuppression;
use carillon::device::PaceUpdate;
use carillon::id::{DeviceNo, Digest, MessageId};
use carillon::message::{Begun, MessageRow, MessageStatus as M, Reason, Settled, Settlement, Work};
use carillon::receipt::{AddressKey, Expected, News, ReceiptKey, ReceiptState};
use carillon::resolution::{Resolution, Resolved, Way};
use carillon::store::{Store, UnknownOf};
use carillon_tests::fleet::{at, sent};
use carillon_tests::plans::plans_of;
use parking_lot::Mutex;

use filled::{Filled, KEY, NOW};

/// The major version of PostgreSQL that the snapshots were taken with.
const SNAPSHOTS_OF: i32 = 15;
/// Tables that no statement here may read from end to end.
const LARGE: [&str; 4] = ["messages", "contacts", "attempts", "receipts"];
/// Checked, but not compared: statements that run only when a suppressed contact happens to be enrolled, and one whose two
/// plans, both by its key, cost the same.
const SOMETIMES: [&str; 3] = [
    "DELETE FROM run_devices WHERE run_key = $1 AND pos",
    "SELECT key FROM runs WHERE sequence_no",
    "WITH exited AS ( UPDATE enrolments e SET status = 3, exit_reason = n.reason",
];
/// Messages that are taken or settled by one call.
const GROUP: usize = 100;

/// Sections of a snapshot.
struct Plans<'a> {
    filled: &'a Filled,
    text: String,
    shown: BTreeSet<String>,
    wrong: BTreeSet<String>,
}

impl<'a> Plans<'a> {
    fn of(filled: &'a Filled) -> Self {
        Self { filled, text: String::new(), shown: BTreeSet::new(), wrong: BTreeSet::new() }
    }

    /// Adds the plans of a call.
    async fn add(&mut self, name: &str, call: impl AsyncFn(Arc<dyn Store>, u32)) {
        let _ = writeln!(self.text, "## {name}");
        for plan in plans_of(&self.filled.server, &self.filled.url, call).await {
            let start: String = plan.statement.chars().take(100).collect();
            // A call that only prepares this one was shown where it belongs.
            let always = !SOMETIMES.iter().any(|start| plan.statement.starts_with(start));
            if always && self.shown.insert(plan.statement.clone()) {
                let _ = write!(self.text, "{start}\n{plan}");
            }
            for table in plan.read_whole().iter().filter(|table| LARGE.contains(&table.as_str())) {
                self.wrong.insert(format!("{name} reads all of {table}: {}\n{plan}", plan.statement));
            }
        }
        self.text.push('\n');
    }

    /// Checks what was added.
    fn check(self, snapshot: &str) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.into_iter().collect::<Vec<_>>().join("\n"));
        if self.filled.version == SNAPSHOTS_OF {
            insta::assert_snapshot!(snapshot, self.text);
        } else {
            eprintln!("{snapshot}: taken with PostgreSQL {SNAPSHOTS_OF}, not compared on {}", self.filled.version);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_reads_a_large_table_whole_and_no_plan_changes_unnoticed() {
    let filled = Filled::new().await;
    queues(&filled).await;
    sending(&filled).await;
    reading(&filled).await;
    rounds(&filled).await;
    figures(&filled).await;
    receipts(&filled).await;
}

/// The processor: what goes into which queue.
async fn queues(filled: &Filled) {
    let mut plans = Plans::of(filled);
    let ranked = &filled.ranked;
    let batch = |n: u32| filled.devices[n as usize * GROUP..][..GROUP].to_vec();
    plans
        .add("devices_with_ready", async |store, n| {
            let after = (n > 0).then_some(filled.devices[n as usize * GROUP]);
            assert_eq!(store.devices_with_ready(after, 100).await.unwrap().len(), 100);
        })
        .await;
    plans
        .add("top_up", async |store, n| {
            assert_eq!(store.top_up(&batch(n), ranked, 100).await.unwrap().len(), GROUP);
        })
        .await;
    plans
        .add("promote_due", async |store, _| {
            assert!(!store.promote_due(NOW, 10).await.unwrap().0.is_empty());
        })
        .await;
    plans
        .add("defer", async |store, n| {
            let waiting = store.top_up(&batch(20 + n % 2), ranked, 1).await.unwrap();
            let ids: Vec<MessageId> = waiting.iter().skip(n as usize).take(5).map(|top| top.messages[0].0).collect();
            assert!(store.defer(&ids, at(900_000), "quiet-hours").await.unwrap() > 0);
        })
        .await;
    plans
        .add("saved_paces", async |store, n| {
            store.saved_paces(&batch(n)).await.unwrap();
        })
        .await;
    plans
        .add("save_paces", async |store, n| {
            let pace = |device| PaceUpdate { device, token: i64::from(n), next_at: NOW, pace: "{}".to_owned() };
            store.save_paces(&batch(n).into_iter().map(pace).collect::<Vec<_>>()).await.unwrap();
        })
        .await;
    plans.check("queues");
}

/// The workers: messages are taken, and attempts end.
async fn sending(filled: &Filled) {
    let mut plans = Plans::of(filled);
    let taken: Mutex<Vec<(Work, DeviceNo)>> = Mutex::default();
    let take = async |store: Arc<dyn Store>, n: u32| {
        let devices = &filled.devices[n as usize * GROUP..][..GROUP];
        let waiting = store.top_up(devices, &filled.ranked, 1).await.unwrap();
        let claims: Vec<_> = waiting.iter().map(|top| filled.live.claim(top.messages[0].0, top.device, 7)).collect();
        for (claim, answer) in claims.iter().zip(store.begin(filled.live.host, &claims, NOW).await.unwrap()) {
            match answer {
                Begun::Started(work) => taken.lock().push((*work, claim.device)),
                other => panic!("not taken: {other:?}"),
            }
        }
    };
    plans.add("begin", take).await;
    plans
        .add("begin, refused", async |store, n| {
            // Sent long ago, or suppressed: the answer takes another statement, and another one ends what is suppressed.
            let mut claims: Vec<_> =
                (1..50).map(|c| filled.live.claim(filled.live.message(c), DeviceNo(1), 7)).collect();
            let waiting = store.top_up(&filled.devices[2_000 + n as usize..][..1], &filled.ranked, 1).await.unwrap();
            let (id, device) = (waiting[0].messages[0].0, waiting[0].device);
            let address = store.message(id).await.unwrap().unwrap().address;
            store.suppress(&[NewSuppression { address, channel: None, reason: "test".into() }], NOW).await.unwrap();
            claims.push(filled.live.claim(id, device, 7));
            assert_eq!(store.begin(filled.live.host, &claims, NOW).await.unwrap().pop(), Some(Begun::Suppressed));
        })
        .await;
    let end = |outcome: fn() -> Settled, pace: bool| -> Vec<Settlement> {
        let mut taken = taken.lock();
        let first = taken.len() - GROUP / 2;
        taken
            .drain(first..)
            .map(|(work, device)| {
                let mut end = filled.live.settlement(&work, device, 7, outcome(), NOW);
                end.pace = pace.then(|| PaceUpdate { device, token: 7, next_at: NOW, pace: "{}".to_owned() });
                end
            })
            .collect()
    };
    plans
        .add("in_flight", async |store, _| {
            let all = store.in_flight(None, None, 2_000, NOW, Duration::from_secs(10)).await.unwrap();
            let one = store.in_flight(Some(all[0].device), None, 10, NOW, Duration::from_secs(10)).await.unwrap();
            assert_eq!((all.len(), one.len()), (7 * GROUP + filled.in_flight, 1));
        })
        .await;
    plans
        .add("settle, sent", async |store, _| {
            assert!(store.settle(&end(sent, false)).await.unwrap().into_iter().all(|applied| applied));
        })
        .await;
    plans
        .add("settle, to be tried again", async |store, _| {
            assert!(store.settle(&end(retry, true)).await.unwrap().into_iter().all(|applied| applied));
        })
        .await;
    plans
        .add("suppressed_since", async |store, _| {
            store.suppressed_since(NOW, 1_000).await.unwrap();
        })
        .await;
    plans.check("sending");
}

fn retry() -> Settled {
    Settled::Retry { due_at: at(800_000), counts: true, reason: Reason::new("http_503", "") }
}

/// What people look at.
async fn reading(filled: &Filled) {
    let mut plans = Plans::of(filled);
    plans
        .add("campaigns", async |store, _| {
            let first = store.campaigns(None, None, 50).await.unwrap();
            store.campaigns(Some(C::Completed), first.next, 50).await.unwrap();
            store.campaign(filled.live.campaign).await.unwrap();
        })
        .await;
    plans
        .add("counts", async |store, _| {
            assert_eq!(store.counts(&filled.runs).await.unwrap().len(), filled.runs.len());
        })
        .await;
    plans
        .add("messages", async |store, n| {
            let cursor = filled.live.message(50_000 * n + 1);
            assert_eq!(store.messages(filled.live.run.key, None, Some(cursor), 100).await.unwrap().items.len(), 100);
        })
        .await;
    for status in M::ALL {
        plans
            .add(&format!("messages, {}", status.as_str()), async |store, n| {
                let cursor = (n > 3).then(|| filled.live.message(1_000 * n));
                store.messages(filled.live.run.key, Some(status), cursor, 100).await.unwrap();
            })
            .await;
    }
    let (mut pages, mut cursor) = (0, Some(filled.live.message(250_000)));
    let store = carillon::store::open(&filled.url, 2).await.unwrap();
    while let Some(after) = cursor {
        let page = store.messages(filled.live.run.key, Some(M::Sent), Some(after), 100).await.unwrap();
        (pages, cursor) = (pages + 1, page.next);
    }
    store.close().await;
    assert!((5..=12).contains(&pages), "a page looks at a part of the run, and there is an end: {pages}");
    plans
        .add("unknown", async |store, n| {
            let device = Some(filled.devices[n as usize]);
            let cursor = (n > 3).then(|| filled.live.message(1_000 * n));
            for runs in [None, Some(filled.runs.clone())] {
                for device in [None, device] {
                    store.unknown(&UnknownOf { runs: runs.clone(), device }, cursor, 100).await.unwrap();
                }
            }
        })
        .await;
    plans
        .add("unknown_runs", async |store, _| {
            assert!(!store.unknown_runs(1_000).await.unwrap().is_empty());
        })
        .await;
    plans
        .add("runs", async |store, _| {
            assert_eq!(store.runs(&filled.runs).await.unwrap().len(), filled.runs.len());
        })
        .await;
    plans
        .add("message", async |store, n| {
            let id = filled.live.message(1_000 * n + 100);
            assert!(store.message(id).await.unwrap().is_some());
            store.attempts(id).await.unwrap();
        })
        .await;
    plans
        .add("ahead_of", async |store, n| {
            let device = filled.devices[n as usize];
            let waiting = store.top_up(&[device], &filled.ranked, 100).await.unwrap();
            let last = waiting[0].messages.last().unwrap().0;
            assert!(store.ahead_of(last, device, &filled.ranked, 1_000).await.unwrap() > 0);
        })
        .await;
    plans
        .add("devices", async |store, n| {
            let cursor = filled.ids[n as usize * 100].clone();
            store.devices(None, None, Some(&cursor), 100).await.unwrap();
            store.devices(Some("fleet"), None, Some(&cursor), 100).await.unwrap();
            store.devices(None, Some("sms"), Some(&cursor), 100).await.unwrap();
        })
        .await;
    plans.check("reading");
}

/// What trigger and recovery do in a round.
async fn rounds(filled: &Filled) {
    let mut plans = Plans::of(filled);
    let cursor = Mutex::new(0);
    plans
        .add("expand_page", async |store, _| {
            let from = *cursor.lock();
            let page = store.expand_page(filled.fresh.run.key, from, 1_000, NOW).await.unwrap().unwrap();
            assert_eq!(page.pending + page.suppressed, 1_000);
            *cursor.lock() = page.cursor;
        })
        .await;
    plans
        .add("complete_campaigns", async |store, _| {
            assert!(store.complete_campaigns(NOW).await.unwrap().is_empty());
        })
        .await;
    plans
        .add("runs_to_close", async |store, _| {
            assert_eq!(store.runs_to_close().await.unwrap(), [(filled.cancelled.run.key, C::Cancelled)]);
        })
        .await;
    plans
        .add("close_pending", async |store, _| {
            assert_eq!(store.close_pending(filled.cancelled.run.key, M::Cancelled, 100, NOW).await.unwrap(), 100);
        })
        .await;
    plans
        .add("reassign", async |store, n| {
            let from = filled.devices[2_900 + n as usize];
            assert!(store.reassign(from, filled.live.run.key, &filled.devices[..50], 1_000).await.unwrap() > 0);
        })
        .await;
    plans
        .add("retry_failed", async |store, _| {
            assert_eq!(store.retry_failed(filled.live.run.key, 100, NOW).await.unwrap(), 100);
        })
        .await;
    plans
        .add("claim_lookups", async |store, n| {
            let page = store.unknown(&UnknownOf::default(), Some(filled.live.message(10_000 * n)), 50).await.unwrap();
            let ids: Vec<MessageId> = page.items.iter().map(|m| m.id).collect();
            let wait = Duration::from_secs(60);
            assert!(!store.claim_lookups(&ids, 5, wait, wait, NOW).await.unwrap().is_empty());
        })
        .await;
    plans
        .add("resolve", async |store, n| {
            let page = store.unknown(&UnknownOf::default(), Some(filled.live.message(10_000 * n)), 20).await.unwrap();
            let word = |row: &MessageRow| Resolution {
                message: row.id,
                attempt: row.attempt,
                outcome: if (row.id.contact() / 1_000).is_multiple_of(2) { sent() } else { retry() },
                way: Way::Operator,
                note: "test".to_owned(),
                suppress: None,
                sequence: None,
            };
            let words: Vec<_> = page.items.iter().filter(|m| m.id.run() == filled.live.run.key).map(word).collect();
            let answers = store.resolve(&words, NOW).await.unwrap();
            assert!(!answers.is_empty() && answers.iter().all(|a| *a == Resolved::Done));
        })
        .await;
    plans
        .add("step_due", async |store, _| {
            assert!(!store.step_due(NOW, 50).await.unwrap().0.is_empty());
        })
        .await;
    plans
        .add("prune_run", async |store, _| {
            let step = store.prune_run(at(86_400), 1_000, NOW).await.unwrap().expect("the old campaign");
            assert_eq!((step.run, step.messages), (filled.old.run.key, 1_000));
        })
        .await;
    plans
        .add("prune_audiences", async |store, _| {
            assert_eq!(store.prune_audiences(NOW, 100).await.unwrap(), 100);
        })
        .await;
    plans.check("rounds");
}

/// What is looked at every few seconds for `/metrics`. Not compared: one index is as good as the other for the campaigns.
async fn figures(filled: &Filled) {
    let mut plans = Plans::of(filled);
    plans
        .add("figures", async |store, _| {
            let runs = [filled.live.run.key, filled.fresh.run.key];
            assert!(store.deferred(&runs, 1_000_000).await.unwrap() > 0);
            assert!(!store.open_campaigns().await.unwrap().is_empty());
        })
        .await;
    assert!(plans.wrong.is_empty(), "{}", plans.wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// What providers report.
async fn receipts(filled: &Filled) {
    let mut plans = Plans::of(filled);
    let news = |n: u32, state| -> Vec<News> {
        let key = |contact: u32| ReceiptKey(i64::from(contact) * KEY);
        (1..500).map(|c| News { key: key(1_000 * n + c), state, at: NOW, reason: None }).collect()
    };
    plans
        .add("note_receipts", async |store, n| {
            let noted = store.note_receipts(&news(n, ReceiptState::Read), 10_000, NOW).await.unwrap();
            assert!(noted.changed.read > 400 && noted.early > 0, "{noted:?}");
        })
        .await;
    plans
        .add("settle_early_receipts", async |store, _| {
            let (noted, given_up) = store.settle_early_receipts(at(0), 100).await.unwrap();
            assert_eq!((noted.repeated, given_up), (0, 0));
        })
        .await;
    plans
        .add("expect_receipts", async |store, n| {
            let of = |c: u32| {
                let (key, address) = (ReceiptKey(-i64::from(c)), AddressKey(i64::from(c)));
                (filled.live.message(300_000 + 1_000 * n + c), Expected { key, address })
            };
            store.expect_receipts(&(1..170).map(of).collect::<Vec<_>>()).await.unwrap();
        })
        .await;
    plans
        .add("receipt", async |store, n| {
            store.receipt(filled.live.message(1_000 * n + 1)).await.unwrap();
        })
        .await;
    plans
        .add("receipt_counts", async |store, _| {
            assert_eq!(store.receipt_counts(&filled.runs).await.unwrap().len(), 1);
        })
        .await;
    plans
        .add("addresses_of_receipts", async |store, n| {
            let keys: Vec<_> = (1..100).map(|c| ReceiptKey(i64::from(1_000 * n + c) * KEY)).collect();
            let addresses: Vec<_> = (1..100).map(|c| AddressKey(i64::from(c))).collect();
            assert!(store.addresses_of_receipts(&keys, &addresses, 200).await.unwrap().len() > 100);
        })
        .await;
    plans
        .add("webhooks", async |store, n| {
            store.webhook_by_key(Digest::of(&[u8::try_from(n).unwrap()])).await.unwrap();
            store.webhooks(Some("none")).await.unwrap();
        })
        .await;
    plans.check("receipts");
}

//! Receipts and webhooks.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{broken, from_json, ms, reason, time, to_u64};
use crate::clock::Time;
use crate::id::{MessageId, RunKey, WebhookId};
use crate::receipt::{News, Noted, Receipt, ReceiptCounts, ReceiptDelta, ReceiptKey, ReceiptState, Webhook};
use crate::store::Result;

from_row! {
    /// A row of `webhooks`.
    #[derive(Debug)]
    #[allow(missing_docs)] // The columns of the query.
    pub struct WebhookSql {
        pub id: Uuid,
        pub plugin: String,
        pub spec: String,
        pub created_at: i64,
    }
}

impl WebhookSql {
    /// The webhook.
    pub fn read(self) -> Result<Webhook> {
        Ok(Webhook {
            id: WebhookId(self.id),
            plugin: self.plugin,
            spec: from_json("a webhook", &self.spec)?,
            created_at: Time::from_ms(self.created_at),
        })
    }
}

from_row! {
    /// A row of `receipts`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct ReceiptSql {
        pub message_id: i64,
        pub key: i64,
        pub state: i16,
        pub delivered_at: Option<i64>,
        pub read_at: Option<i64>,
        pub failed_at: Option<i64>,
        pub reason_code: Option<String>,
        pub reason_detail: Option<String>,
    }
}

fn state(code: i16) -> Result<ReceiptState> {
    ReceiptState::from_code(code).ok_or_else(|| broken("a receipt's state"))
}

impl ReceiptSql {
    /// The receipt.
    pub fn read(self) -> Result<Receipt> {
        Ok(Receipt {
            state: state(self.state)?,
            delivered_at: time(self.delivered_at),
            read_at: time(self.read_at),
            failed_at: time(self.failed_at),
            reason: reason(self.reason_code, self.reason_detail),
        })
    }
}

/// A receipt that has changed, as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ChangedSql {
    pub message_id: i64,
    pub state: i16,
    pub delivered_at: Option<i64>,
    pub read_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub reason_code: Option<String>,
    pub reason_detail: Option<String>,
}

impl ChangedSql {
    fn new(message_id: i64, receipt: Receipt) -> Self {
        let Receipt { state, delivered_at, read_at, failed_at, reason } = receipt;
        let (reason_code, reason_detail) = reason.map(|r| (r.code, r.detail)).unzip();
        Self {
            message_id,
            state: state.code(),
            delivered_at: ms(delivered_at),
            read_at: ms(read_at),
            failed_at: ms(failed_at),
            reason_code,
            reason_detail,
        }
    }
}

/// What reports come to: what is to be written, in message order, and what is left.
#[derive(Debug, Default)]
pub struct Heard<'a> {
    /// Receipts that change.
    pub changed: Vec<ChangedSql>,
    /// What that changes in the counts of each run.
    pub counts: BTreeMap<RunKey, ReceiptDelta>,
    /// Reports of messages that are not known: of each message and state the first.
    pub early: Vec<&'a News>,
    /// What is known so far.
    pub noted: Noted,
}

/// Takes reports in, given the receipts that they are about.
pub fn hear(news: &[News], known: Vec<ReceiptSql>) -> Result<Heard<'_>> {
    let mut heard = Heard::default();
    let mut by_key: HashMap<i64, Vec<&News>> = HashMap::new();
    for one in news {
        by_key.entry(one.key.0).or_default().push(one);
    }
    let mut met = HashSet::new();
    for row in known {
        let (message, key) = (MessageId(row.message_id), row.key);
        met.insert(key);
        let mut receipt = row.read()?;
        let before = receipt.state;
        for one in by_key.get(&key).into_iter().flatten() {
            heard.noted.repeated += u64::from(!receipt.hear(one));
        }
        if receipt.state != before {
            heard.counts.entry(message.run()).or_default().step(before, receipt.state);
            heard.noted.changed.step(before, receipt.state);
            heard.changed.push(ChangedSql::new(message.0, receipt));
        }
    }
    heard.changed.sort_unstable_by_key(|row| row.message_id);
    let mut seen = HashSet::new();
    for one in news.iter().filter(|one| !met.contains(&one.key.0)) {
        if seen.insert((one.key, one.state)) {
            heard.early.push(one);
        } else {
            heard.noted.repeated += 1;
        }
    }
    heard.early.sort_unstable_by_key(|one| (one.key, one.state));
    Ok(heard)
}

from_row! {
    /// A row of `early_receipts`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct EarlySql {
        pub key: i64,
        pub state: i16,
        pub at: i64,
        pub reason_code: Option<String>,
        pub reason_detail: Option<String>,
    }
}

impl EarlySql {
    /// The report.
    pub fn read(self) -> Result<News> {
        Ok(News {
            key: ReceiptKey(self.key),
            state: state(self.state)?,
            at: Time::from_ms(self.at),
            reason: reason(self.reason_code, self.reason_detail),
        })
    }
}

/// The counts of a run.
pub fn receipt_counts((run, delivered, read, failed): (i32, i64, i64, i64)) -> (RunKey, ReceiptCounts) {
    (RunKey(run), ReceiptCounts { delivered: to_u64(delivered), read: to_u64(read), failed: to_u64(failed) })
}

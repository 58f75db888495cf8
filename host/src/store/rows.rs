//! What both stores share: rows as SQL gives them, turned into the domain's types, and what an SQL error means.

mod campaigns;
mod catalogue;
mod contacts;
mod errors;
mod messages;
mod receipts;
mod rollouts;

pub use campaigns::*;
pub use catalogue::*;
pub use contacts::*;
pub use errors::*;
pub use messages::*;
pub use receipts::*;
pub use rollouts::*;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Page, Result, StoreError};
use crate::clock::Time;
use crate::id::{DeviceId, Digest, MessageId, RunKey};
use crate::message::{MessageRow, Reason};

/// How old a kept answer is when it counts as gone.
pub const KEY_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// How long a key is held by a call that does not end.
pub const KEY_HELD_MS: i64 = 60 * 1000;
/// How old an unfinished audience is when its upload counts as given up.
pub const UPLOAD_GIVEN_UP_MS: i64 = 24 * 60 * 60 * 1000;

/// JSON for a text column.
pub fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Internal(anyhow::Error::new(e).context("writing JSON")))
}

/// The value of a JSON text column; `what` names it in the error.
pub fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    // The parser's own words may quote the value, so only the place is kept.
    serde_json::from_str(text).map_err(|e| broken(format_args!("{what} (line {}, column {})", e.line(), e.column())))
}

/// A number of SQL as one that cannot be negative; what is out of range becomes the nearest that is not.
pub fn to_u32(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}

/// A count of SQL.
pub fn to_u64(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// A number for a 32-bit column; one that is too large becomes the largest.
pub fn to_i32(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A time column that may be NULL.
pub fn time(ms: Option<i64>) -> Option<Time> {
    ms.map(Time::from_ms)
}

/// A column for a time that may be missing.
pub fn ms(time: Option<Time>) -> Option<i64> {
    time.map(Time::as_ms)
}

/// A sha256 column.
pub fn digest(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| broken("a digest"))
}

/// A device id column.
pub fn device_id(text: &str) -> Result<DeviceId> {
    text.parse().map_err(|_| broken("a device id"))
}

/// The channel of a suppression as a column: empty for every channel.
pub fn channel_column(channel: Option<&str>) -> &str {
    channel.unwrap_or_default()
}

fn reason(code: Option<String>, detail: Option<String>) -> Option<Reason> {
    code.map(|code| Reason { code, detail: detail.unwrap_or_default() })
}

fn digests(template: Option<&[u8]>, delay: Option<&[u8]>, sender: Option<&[u8]>) -> Result<Option<[Digest; 3]>> {
    let (Some(template), Some(delay), Some(sender)) = (template, delay, sender) else { return Ok(None) };
    Ok(Some([digest(template)?, digest(delay)?, digest(sender)?]))
}

/// Cuts a listing that was read with one row too many, and finds where the next page begins.
pub fn page<T, C>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Page<T, C> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    Page { items, next }
}

/// How many messages are looked at for a page of those with a status that no index knows. (An index on what is sent would
/// cost more in sending than its lists are worth.)
const WALK: i64 = 50_000;

/// Where the walk for a page ends that begins after this message, in a run with this last one: the run's end if it is near.
pub fn end_of_walk(after: i64, last: MessageId, run: RunKey) -> MessageId {
    let end = after.saturating_add(WALK);
    if end < last.0 { MessageId(end) } else { run.last() }
}

/// A page of a run's messages up to `upto`: when that is not the run's end, the next page goes on there, whether this one is
/// full or not.
pub fn page_of_walk(items: Vec<MessageRow>, limit: u32, upto: MessageId, run: RunKey) -> Page<MessageRow, MessageId> {
    let mut page = page(items, limit, |m| m.id);
    if page.next.is_none() && upto != run.last() {
        page.next = Some(upto);
    }
    page
}

/// The `LIMIT` for [`page`]: one row more than asked for.
pub fn one_more(limit: u32) -> i64 {
    i64::from(limit) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_on_until_its_run_ends() {
        let run = RunKey(7);
        let id = |contact| MessageId::new(run, contact);
        let last = id(120_000);
        let mut after = run.first().0 - 1;
        let mut ends = Vec::new();
        loop {
            let upto = end_of_walk(after, last, run);
            let page = page_of_walk(Vec::new(), 10, upto, run);
            ends.push(page.next);
            match page.next {
                Some(next) => after = next.0,
                None => break,
            }
        }
        assert_eq!(ends, [Some(id(49_999)), Some(id(99_999)), None]);
        assert_eq!(end_of_walk(run.first().0 - 1, id(50), run), run.last(), "a small run is one walk");
    }
}

//! Reads the answers of the scripts.

use std::str::FromStr;
use std::time::Duration;

use redis::{FromRedisValue, Value};

use crate::id::MessageId;
use crate::queue::{Claimed, QueueError, Result};

/// An answer that is not what the script gives.
pub(super) fn odd(what: &str) -> QueueError {
    QueueError::Internal(anyhow::anyhow!("the answer to {what} is not understood"))
}

/// The answer as `T`.
pub(super) fn read<T: FromRedisValue>(value: Value, what: &str) -> Result<T> {
    redis::from_redis_value(value).map_err(|_| odd(what))
}

fn text<T: FromStr>(value: Option<String>, what: &str) -> Result<T> {
    value.and_then(|v| v.parse().ok()).ok_or_else(|| odd(what))
}

/// A score that holds an integer.
fn rank(score: Option<String>) -> Result<i64> {
    let score = score.unwrap_or_default();
    // Sorted sets hold doubles, which some servers write with an exponent; ranks are exact in a double.
    score.parse().or_else(|_| score.parse::<f64>().map(|s| s as i64)).map_err(|_| odd("claim"))
}

/// Milliseconds that a script gave; `None` for its -1.
pub(super) fn wait(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// What claim.lua answered.
pub(super) fn claimed(value: Value) -> Result<Claimed> {
    let mut parts = read::<Vec<String>>(value, "claim")?.into_iter();
    Ok(match parts.next().as_deref() {
        Some("empty") => Claimed::Empty,
        Some("wait") => Claimed::NotYet(Duration::from_millis(text(parts.next(), "claim")?)),
        Some("orphans") => {
            let token = text(parts.next(), "claim")?;
            let mut messages = parts.map(|id| text(Some(id), "claim")).collect::<Result<Vec<MessageId>>>()?;
            messages.sort_unstable();
            Claimed::Orphans { token, messages }
        }
        Some("messages") => {
            let token = text(parts.next(), "claim")?;
            let pace = parts.next().unwrap_or_default();
            let depth = text(parts.next(), "claim")?;
            let mut messages = Vec::with_capacity(parts.len() / 2);
            while let Some(id) = parts.next() {
                messages.push((text(Some(id), "claim")?, rank(parts.next())?));
            }
            Claimed::Messages { messages, token, pace, depth }
        }
        _ => return Err(odd("claim")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_read_however_they_are_written() {
        assert_eq!(rank(Some("9007199254740991".into())).unwrap(), 9_007_199_254_740_991);
        assert_eq!(rank(Some("-3".into())).unwrap(), -3);
        assert_eq!(rank(Some("1e+17".into())).unwrap(), 100_000_000_000_000_000);
        assert!(rank(None).is_err());
    }
}

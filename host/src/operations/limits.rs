//! The brake: how many sends may be in flight in the whole cluster.

use crate::core::Core;
use crate::queue::Wake;

use super::{Actor, OpError, Result, done};

/// More than any cluster has: beyond it is a slip of the hand.
const MOST_WORKERS: u32 = 1_000_000;

/// Sets the limit on sends in flight in the whole cluster; 0 stops every send. In force on every server within a second.
///
/// # Errors
/// [`OpError::Invalid`] above a million; when the queue is away.
pub async fn set_max_workers(core: &Core, actor: &Actor, limit: u32) -> Result<()> {
    if limit > MOST_WORKERS {
        return Err(OpError::invalid("max_workers", format!("give a number from 0 to {MOST_WORKERS}")));
    }
    core.queue.set_max_workers(limit).await?;
    done(core, actor, "workers.limit", limit.to_string(), &[Wake::Changed]).await
}

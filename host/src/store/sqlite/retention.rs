//! Retention: what is no longer wanted of runs that finished long ago.

use super::*;

from_row! {
    /// The oldest run with something left to remove, and how far its removal is.
    struct Pruning {
        campaign: uuid::Uuid,
        run: i32,
        begun: bool,
        cursor: i32,
        last: i32,
        pool_size: i32,
    }
}

macro_rules! oldest_run {
    () => {
        "SELECT p.id AS campaign, r.key AS run, p.messages_pruned_at IS NOT NULL AS begun, r.prune_cursor AS cursor, r.last,
                r.pool_size
         FROM runs r INDEXED BY runs_to_prune JOIN campaigns p ON p.id = r.campaign_id
         WHERE r.campaign_id IS NOT NULL AND r.pruned = 0 AND r.finished_at <= $1 AND r.closing = 0
           AND coalesce((SELECT c.total - c.sent - c.delivered - c.read - c.failed - c.unknown - c.suppressed - c.expired
                                - c.cancelled
                         FROM run_counts c WHERE c.run_key = r.key AND c.shard = 0), 0) = 0
         ORDER BY r.finished_at LIMIT 1"
    };
}

pub(super) async fn prune_run(lite: &Sqlite, before: Time, limit: u32, now: Time) -> Result<Option<Pruned>> {
    // The writer is left alone while there is nothing to remove.
    let found: Option<Pruning> = lite.rows(oldest_run!()).bind(before.as_ms()).fetch_optional(&lite.readers).await?;
    if found.is_none() {
        return Ok(None);
    }
    let mut tx = lite.begin().await?;
    let found: Option<Pruning> = lite.rows(oldest_run!()).bind(before.as_ms()).fetch_optional(&mut *tx).await?;
    let Some(state) = found else { return Ok(None) };
    let run = RunKey(state.run);
    if !state.begun {
        // From here on the list of the campaign's messages is not whole.
        lite.sql("UPDATE campaigns SET messages_pruned_at = $2 WHERE id = $1")
            .bind(state.campaign)
            .bind(now.as_ms())
            .execute(&mut *tx)
            .await?;
    }
    let step = rows::prune_step(run, state.cursor, state.last.max(state.pool_size), limit);
    // A run is a range of each primary key.
    let messages = lite
        .sql("DELETE FROM messages WHERE id > $1 AND id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    lite.sql("DELETE FROM attempts WHERE message_id > $1 AND message_id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?;
    lite.sql("DELETE FROM lookups WHERE message_id > $1 AND message_id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?;
    lite.sql("DELETE FROM receipts WHERE message_id > $1 AND message_id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?;
    lite.sql("DELETE FROM run_devices WHERE run_key = $1 AND pos >= $2 AND pos < $3")
        .bind(run.0)
        .bind(state.cursor)
        .bind(step.cursor)
        .execute(&mut *tx)
        .await?;
    lite.sql("UPDATE runs SET prune_cursor = $2, pruned = $3 WHERE key = $1")
        .bind(run.0)
        .bind(step.cursor)
        .bind(step.done)
        .execute(&mut *tx)
        .await?;
    lite.commit(tx).await?;
    Ok(Some(Pruned { campaign: CampaignId(state.campaign), run, messages, done: step.done }))
}

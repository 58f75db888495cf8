//! Retention: what is no longer wanted of runs that finished long ago.

use super::*;

/// Messages of a run without a final state, from its counts.
macro_rules! no_open_message {
    () => {
        "(SELECT coalesce(sum(c.total - c.sent - c.delivered - c.read - c.failed - c.unknown - c.suppressed - c.expired
                              - c.cancelled), 0)
          FROM run_counts c WHERE c.run_key = r.key) = 0"
    };
}

from_row! {
    /// How far the removal of a run is.
    struct Pruning {
        begun: bool,
        cursor: i32,
        last: i32,
        pool_size: i32,
    }
}

pub(super) async fn prune_run(pg: &Postgres, before: Time, limit: u32, now: Time) -> Result<Option<Pruned>> {
    let mut tx = pg.begin().await?;
    // The oldest run or none: a server that finds it locked leaves the work to the one that holds it. The campaign's lock
    // is the one that trying failed messages again takes.
    let oldest: Option<(uuid::Uuid, i32)> = pg
        .rows(concat!(
            "SELECT c.id, o.key FROM (
                 SELECT r.key, r.campaign_id FROM runs r
                 WHERE r.campaign_id IS NOT NULL AND NOT r.pruned AND r.finished_at <= $1 AND NOT r.closing AND ",
            no_open_message!(),
            "    ORDER BY r.finished_at LIMIT 1) AS o
             JOIN campaigns c ON c.id = o.campaign_id FOR UPDATE OF c SKIP LOCKED"
        ))
        .bind(before.as_ms())
        .fetch_optional(&mut *tx)
        .await?;
    let Some((campaign, key)) = oldest else { return Ok(None) };
    // Looked at again under the lock: it may have been reopened in between.
    let state: Option<Pruning> = pg
        .rows(concat!(
            "SELECT p.messages_pruned_at IS NOT NULL AS begun, r.prune_cursor AS cursor, r.last, r.pool_size
             FROM runs r JOIN campaigns p ON p.id = r.campaign_id
             WHERE r.key = $1 AND NOT r.pruned AND r.finished_at <= $2 AND NOT r.closing AND ",
            no_open_message!(),
            " FOR NO KEY UPDATE OF r"
        ))
        .bind(key)
        .bind(before.as_ms())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(state) = state else { return Ok(None) };
    let run = RunKey(key);
    if !state.begun {
        begin_pruning(pg, &mut tx, campaign, run, now).await?;
    }
    let step = rows::prune_step(run, state.cursor, state.last.max(state.pool_size), limit);
    // A run is a range of each primary key.
    let messages = pg
        .sql("DELETE FROM messages WHERE id > $1 AND id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    pg.sql("DELETE FROM attempts WHERE message_id > $1 AND message_id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?;
    pg.sql("DELETE FROM lookups WHERE message_id > $1 AND message_id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?;
    pg.sql("DELETE FROM receipts WHERE message_id > $1 AND message_id <= $2")
        .bind(step.after.0)
        .bind(step.upto.0)
        .execute(&mut *tx)
        .await?;
    pg.sql("DELETE FROM run_devices WHERE run_key = $1 AND pos >= $2 AND pos < $3")
        .bind(key)
        .bind(state.cursor)
        .bind(step.cursor)
        .execute(&mut *tx)
        .await?;
    pg.sql("UPDATE runs SET prune_cursor = $2, pruned = $3 WHERE key = $1")
        .bind(key)
        .bind(step.cursor)
        .bind(step.done)
        .execute(&mut *tx)
        .await?;
    pg.commit(tx).await?;
    Ok(Some(Pruned { campaign: CampaignId(campaign), run, messages, done: step.done }))
}

/// From here on the list of the campaign's messages is not whole, and its counts do not change: one row of them is enough.
async fn begin_pruning(pg: &Postgres, tx: &mut Tx, campaign: uuid::Uuid, run: RunKey, now: Time) -> Result<()> {
    pg.sql("UPDATE campaigns SET messages_pruned_at = $2 WHERE id = $1")
        .bind(campaign)
        .bind(now.as_ms())
        .execute(&mut **tx)
        .await?;
    pg.sql(
        "WITH shards AS (DELETE FROM run_counts WHERE run_key = $1 RETURNING *)
         INSERT INTO run_counts (run_key, shard, total, sent, delivered, read, failed, unknown, suppressed, expired, cancelled)
         SELECT run_key, 0, sum(total), sum(sent), sum(delivered), sum(read), sum(failed), sum(unknown), sum(suppressed),
                sum(expired), sum(cancelled)
         FROM shards GROUP BY run_key",
    )
    .bind(run.0)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

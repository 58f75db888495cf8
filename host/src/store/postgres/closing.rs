//! How far runs are, and how they end: counts, completion, closing, and failed messages tried again.

use super::campaigns::{lock_campaign, write_move};
use super::*;
use crate::message::code;

pub(super) async fn counts(pg: &Postgres, runs: &[RunKey]) -> Result<Vec<(RunKey, Counts)>> {
    // What is processing is counted where it stands: one row per device.
    let found: Vec<rows::CountsSql> = pg
        .rows(
            "SELECT n.key AS run_key, coalesce(sum(c.total), 0)::bigint AS total,
                    coalesce(sum(c.sent), 0)::bigint AS sent, coalesce(sum(c.delivered), 0)::bigint AS delivered,
                    coalesce(sum(c.read), 0)::bigint AS read, coalesce(sum(c.failed), 0)::bigint AS failed,
                    coalesce(sum(c.unknown), 0)::bigint AS unknown,
                    coalesce(sum(c.suppressed), 0)::bigint AS suppressed,
                    coalesce(sum(c.expired), 0)::bigint AS expired,
                    coalesce(sum(c.cancelled), 0)::bigint AS cancelled,
                    coalesce(max(p.processing), 0)::bigint AS processing
             FROM unnest($1::int[]) WITH ORDINALITY AS n (key, pos)
             LEFT JOIN run_counts c ON c.run_key = n.key
             LEFT JOIN (SELECT (message_id >> 32)::int AS key, count(*) AS processing FROM in_flight
                        WHERE message_id IS NOT NULL GROUP BY 1) p
                 ON p.key = n.key
             GROUP BY n.key, n.pos ORDER BY n.pos",
        )
        .bind(runs.iter().map(|run| run.0).collect::<Vec<_>>())
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(rows::CountsSql::read).collect())
}

/// Messages of a run without a final state, from its counts.
macro_rules! open_messages {
    ($run:literal) => {
        concat!(
            "(SELECT coalesce(sum(c.total - c.sent - c.delivered - c.read - c.failed - c.unknown - c.suppressed - c.expired
                                  - c.cancelled), 0)
              FROM run_counts c WHERE c.run_key = ",
            $run,
            ")"
        )
    };
}

pub(super) async fn deferred(pg: &Postgres, runs: &[RunKey], limit: u32) -> Result<u64> {
    // In the order of the index that has the ids, so that it alone is read.
    let found: i64 = pg
        .scalar(
            "SELECT count(*) FROM (
                 SELECT id FROM messages WHERE status = 1 ORDER BY device_no, id LIMIT $2) d
             WHERE (d.id >> 32)::int = ANY ($1)",
        )
        .bind(runs.iter().map(|run| run.0).collect::<Vec<_>>())
        .bind(i64::from(limit))
        .fetch_one(&pg.pool)
        .await?;
    Ok(rows::to_u64(found))
}

pub(super) async fn complete_campaigns(pg: &Postgres, now: Time) -> Result<Vec<CampaignId>> {
    let candidates: Vec<uuid::Uuid> = pg
        .scalar(concat!(
            "SELECT c.id FROM campaigns c JOIN runs r ON r.key = c.run_key
             WHERE c.status = 'running' AND r.expanded AND ",
            open_messages!("r.key"),
            " = 0 ORDER BY c.id"
        ))
        .fetch_all(&pg.pool)
        .await?;
    let mut completed = Vec::new();
    for id in candidates {
        let id = CampaignId(id);
        // Looked at again under the campaign's lock: a retry of failed messages takes the same lock.
        let done = repeating(|| async {
            let mut tx = pg.begin().await?;
            let Some(campaign) = lock_campaign(pg, &mut tx, id).await? else { return Ok(false) };
            let (CampaignStatus::Running, Some(run)) = (campaign.status, campaign.run) else { return Ok(false) };
            let open: bool = pg
                .scalar(concat!("SELECT NOT expanded OR ", open_messages!("key"), " <> 0 FROM runs WHERE key = $1"))
                .bind(run.0)
                .fetch_one(&mut *tx)
                .await?;
            if open {
                return Ok(false);
            }
            let campaign = rows::moved(campaign, CampaignEvent::Complete, None, now)?;
            write_move(pg, &mut tx, &campaign).await?;
            pg.bump(&mut tx, "runs").await?;
            pg.commit(tx).await?;
            Ok(true)
        })
        .await?;
        if done {
            completed.push(id);
        }
    }
    Ok(completed)
}

pub(super) async fn close_pending(pg: &Postgres, run: RunKey, to: MessageStatus, limit: u32, now: Time) -> Result<u64> {
    let code = match to {
        MessageStatus::Cancelled => code::CANCELLED,
        MessageStatus::Expired => code::EXPIRED,
        _ => return Err(StoreError::Internal(anyhow::anyhow!("messages are closed as cancelled or expired only"))),
    };
    repeating(|| async {
        let mut tx = pg.begin().await?;
        // The cursor spares each call the way over what the calls before it closed.
        let cursor: Option<i64> = pg
            .scalar("SELECT close_cursor FROM runs WHERE key = $1 AND closed_as IS NOT NULL FOR NO KEY UPDATE")
            .bind(run.0)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(cursor) = cursor else { return Ok(0) };
        still_runs(pg, &mut tx, [run]).await?;
        let (closed, last): (i64, Option<i64>) = pg
            .rows(concat!(
                "WITH open AS MATERIALIZED (
                     SELECT id FROM messages m WHERE id > $1 AND id <= $2 AND status IN (0, 1) AND ",
                not_in_flight!("m"),
                " ORDER BY id LIMIT $3 FOR UPDATE),
                 closed AS (
                     UPDATE messages m SET status = $4, finished_at = $5 FROM open o
                     WHERE m.id = o.id AND m.status IN (0, 1) RETURNING m.id),
                 counted AS (
                     INSERT INTO run_counts AS c (run_key, shard, cancelled, expired)
                     SELECT $6, $7, CASE WHEN $4 = 10 THEN count(*) ELSE 0 END,
                            CASE WHEN $4 = 9 THEN count(*) ELSE 0 END
                     FROM closed HAVING count(*) > 0
                     ON CONFLICT (run_key, shard) DO UPDATE
                         SET cancelled = c.cancelled + excluded.cancelled, expired = c.expired + excluded.expired)
                 SELECT count(*), max(id) FROM closed"
            ))
            .bind(cursor.max(run.first().0 - 1))
            .bind(run.last().0)
            .bind(i64::from(limit))
            .bind(code)
            .bind(now.as_ms())
            .bind(run.0)
            .bind(pg.shard())
            .fetch_one(&mut *tx)
            .await?;
        // At the end it starts over: an attempt that ended meanwhile may have left a pending message behind the cursor.
        pg.sql("UPDATE runs SET close_cursor = $2 WHERE key = $1")
            .bind(run.0)
            .bind(last.unwrap_or(0))
            .execute(&mut *tx)
            .await?;
        pg.commit(tx).await?;
        Ok(rows::to_u64(closed))
    })
    .await
}

pub(super) async fn runs_to_close(pg: &Postgres) -> Result<Vec<(RunKey, CampaignStatus)>> {
    let closing: Vec<(i32, String, i64, i64)> = pg
        .rows(concat!(
            "SELECT r.key, c.status, ",
            open_messages!("r.key"),
            "::bigint, (SELECT count(*) FROM in_flight f WHERE (f.message_id >> 32)::int = r.key)
             FROM runs r JOIN campaigns c ON c.id = r.campaign_id WHERE r.closing ORDER BY r.key"
        ))
        .fetch_all(&pg.pool)
        .await?;
    let done: Vec<i32> = closing.iter().filter(|(_, _, open, _)| *open <= 0).map(|(key, ..)| *key).collect();
    if !done.is_empty() {
        pg.sql("UPDATE runs SET closing = FALSE WHERE key = ANY($1) AND closing").bind(done).execute(&pg.pool).await?;
    }
    closing
        .into_iter()
        .filter(|(_, _, open, processing)| open > processing)
        .map(|(key, status, ..)| Ok((RunKey(key), rows::campaign_status(&status)?)))
        .collect()
}

pub(super) async fn retry_failed(pg: &Postgres, run: RunKey, limit: u32, now: Time) -> Result<u64> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        // The lock keeps the campaign from being completed, closed or pruned at the same time.
        let owner: Option<(String, bool)> = pg
            .rows(
                "SELECT c.status, c.messages_pruned_at IS NOT NULL FROM runs r JOIN campaigns c ON c.id = r.campaign_id
                 WHERE r.key = $1 FOR UPDATE OF c",
            )
            .bind(run.0)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some((status, pruned)) = owner {
            rows::may_be_reopened(&status, pruned)?;
        }
        let reopened: i64 = pg
            .scalar(
                "WITH failed AS MATERIALIZED (
                     SELECT id FROM messages WHERE status = 6 AND id BETWEEN $1 AND $2 ORDER BY id LIMIT $3 FOR UPDATE),
                 reopened AS (
                     UPDATE messages m SET status = 0, failures = 0, due_at = $4, finished_at = NULL FROM failed f
                     WHERE m.id = f.id AND m.status = 6 RETURNING m.id),
                 counted AS (
                     INSERT INTO run_counts AS c (run_key, shard, failed)
                     SELECT $5, $6, -count(*) FROM reopened HAVING count(*) > 0
                     ON CONFLICT (run_key, shard) DO UPDATE SET failed = c.failed + excluded.failed)
                 SELECT count(*) FROM reopened",
            )
            .bind(run.first().0)
            .bind(run.last().0)
            .bind(i64::from(limit))
            .bind(now.as_ms())
            .bind(run.0)
            .bind(pg.shard())
            .fetch_one(&mut *tx)
            .await?;
        pg.commit(tx).await?;
        Ok(rows::to_u64(reopened))
    })
    .await
}

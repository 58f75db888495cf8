//! How far runs are, and how they end: counts, completion, closing, and failed messages tried again.

use super::campaigns::{campaign_in, write_move};
use super::*;

pub(super) async fn counts(lite: &Sqlite, runs: &[RunKey]) -> Result<Vec<(RunKey, Counts)>> {
    // What is processing is counted where it stands: one row per device.
    let found: Vec<rows::CountsSql> = lite
        .rows(
            "WITH processing AS MATERIALIZED (
                 SELECT message_id >> 32 AS key, count(*) AS n FROM in_flight WHERE message_id IS NOT NULL GROUP BY 1)
             SELECT CAST(n.value AS INTEGER) AS run_key, coalesce(c.total, 0) AS total, coalesce(c.sent, 0) AS sent,
                    coalesce(c.delivered, 0) AS delivered, coalesce(c.read, 0) AS read,
                    coalesce(c.failed, 0) AS failed, coalesce(c.unknown, 0) AS unknown,
                    coalesce(c.suppressed, 0) AS suppressed, coalesce(c.expired, 0) AS expired,
                    coalesce(c.cancelled, 0) AS cancelled, coalesce(p.n, 0) AS processing
             FROM json_each($1) n
             LEFT JOIN run_counts c ON c.run_key = n.value AND c.shard = 0
             LEFT JOIN processing p ON p.key = n.value
             ORDER BY n.key",
        )
        .bind(list(runs.iter().map(|run| run.0))?)
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(rows::CountsSql::read).collect())
}

/// Messages of a run without a final state, from its counts.
macro_rules! open_messages {
    ($run:literal) => {
        concat!(
            "coalesce((SELECT c.total - c.sent - c.delivered - c.read - c.failed - c.unknown - c.suppressed - c.expired
                              - c.cancelled
                       FROM run_counts c WHERE c.run_key = ",
            $run,
            " AND c.shard = 0), 0)"
        )
    };
}

pub(super) async fn deferred(lite: &Sqlite, runs: &[RunKey], limit: u32) -> Result<u64> {
    let found: i64 = lite
        .scalar(
            "SELECT count(*) FROM (
                 SELECT id FROM messages INDEXED BY messages_deferred WHERE status = 1 LIMIT $2) d
             WHERE (d.id >> 32) IN (SELECT value FROM json_each($1))",
        )
        .bind(list(runs.iter().map(|run| run.0))?)
        .bind(limit)
        .fetch_one(&lite.readers)
        .await?;
    Ok(rows::to_u64(found))
}

pub(super) async fn complete_campaigns(lite: &Sqlite, now: Time) -> Result<Vec<CampaignId>> {
    let candidates: Vec<uuid::Uuid> = lite
        .scalar(concat!(
            "SELECT c.id FROM campaigns c JOIN runs r ON r.key = c.run_key
             WHERE c.status = 'running' AND r.expanded AND ",
            open_messages!("r.key"),
            " = 0 ORDER BY c.id"
        ))
        .fetch_all(&lite.readers)
        .await?;
    let mut completed = Vec::new();
    for id in candidates.into_iter().map(CampaignId) {
        // Looked at again: failed messages may be tried again meanwhile.
        let mut tx = lite.begin().await?;
        let Some(campaign) = campaign_in(lite, &mut tx, id).await? else { continue };
        let (CampaignStatus::Running, Some(run)) = (campaign.status, campaign.run) else { continue };
        let open: bool = lite
            .scalar(concat!("SELECT NOT expanded OR ", open_messages!("key"), " <> 0 FROM runs WHERE key = $1"))
            .bind(run.0)
            .fetch_one(&mut *tx)
            .await?;
        if open {
            continue;
        }
        let campaign = rows::moved(campaign, CampaignEvent::Complete, None, now)?;
        write_move(lite, &mut tx, &campaign).await?;
        lite.bump(&mut tx, "runs").await?;
        lite.commit(tx).await?;
        completed.push(id);
    }
    Ok(completed)
}

pub(super) async fn close_pending(lite: &Sqlite, run: RunKey, to: MessageStatus, limit: u32, now: Time) -> Result<u64> {
    let code = match to {
        MessageStatus::Cancelled => code::CANCELLED,
        MessageStatus::Expired => code::EXPIRED,
        _ => return Err(StoreError::Internal(anyhow::anyhow!("messages are closed as cancelled or expired only"))),
    };
    let mut tx = lite.begin().await?;
    // The cursor spares each call the way over what the calls before it closed.
    let cursor: Option<i64> = lite
        .scalar("SELECT close_cursor FROM runs WHERE key = $1 AND closed_as IS NOT NULL")
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(cursor) = cursor else { return Ok(0) };
    let closed: Vec<i64> = lite
        .scalar(concat!(
            "UPDATE messages SET status = $4, finished_at = $5 WHERE id IN (
                 SELECT id FROM messages m NOT INDEXED WHERE id > $1 AND id <= $2 AND status IN (0, 1) AND ",
            not_in_flight!("m"),
            " ORDER BY id LIMIT $3) RETURNING id"
        ))
        .bind(cursor.max(run.first().0 - 1))
        .bind(run.last().0)
        .bind(limit)
        .bind(code)
        .bind(now.as_ms())
        .fetch_all(&mut *tx)
        .await?;
    let mut tally = Tally::default();
    let count = i64::try_from(closed.len()).unwrap_or(i64::MAX);
    tally.status(run, code, count);
    tally.write(lite, &mut tx).await?;
    // At the end it starts over: an attempt that ended meanwhile may have left a pending message behind the cursor.
    lite.sql("UPDATE runs SET close_cursor = $2 WHERE key = $1")
        .bind(run.0)
        .bind(closed.into_iter().max().unwrap_or(0))
        .execute(&mut *tx)
        .await?;
    lite.commit(tx).await?;
    Ok(rows::to_u64(count))
}

pub(super) async fn runs_to_close(lite: &Sqlite) -> Result<Vec<(RunKey, CampaignStatus)>> {
    let closing: Vec<(i32, String, i64, i64)> = lite
        .rows(concat!(
            "SELECT r.key, c.status, ",
            open_messages!("r.key"),
            ", (SELECT count(*) FROM in_flight f WHERE f.message_id >> 32 = r.key)
             FROM runs r JOIN campaigns c ON c.id = r.campaign_id WHERE r.closing = 1 ORDER BY r.key"
        ))
        .fetch_all(&lite.readers)
        .await?;
    let done: Vec<i32> = closing.iter().filter(|(_, _, open, _)| *open <= 0).map(|(key, ..)| *key).collect();
    if !done.is_empty() {
        lite.sql("UPDATE runs SET closing = 0 WHERE key IN (SELECT value FROM json_each($1)) AND closing = 1")
            .bind(list(done)?)
            .execute(&lite.writer)
            .await?;
    }
    closing
        .into_iter()
        .filter(|(_, _, open, processing)| open > processing)
        .map(|(key, status, ..)| Ok((RunKey(key), rows::campaign_status(&status)?)))
        .collect()
}

pub(super) async fn retry_failed(lite: &Sqlite, run: RunKey, limit: u32, now: Time) -> Result<u64> {
    let mut tx = lite.begin().await?;
    let owner: Option<(String, bool)> = lite
        .rows(
            "SELECT c.status, c.messages_pruned_at IS NOT NULL FROM runs r JOIN campaigns c ON c.id = r.campaign_id
             WHERE r.key = $1",
        )
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some((status, pruned)) = owner {
        rows::may_be_reopened(&status, pruned)?;
    }
    let reopened = lite
        .sql(
            "UPDATE messages SET status = 0, failures = 0, due_at = $4, finished_at = NULL WHERE id IN (
                 SELECT id FROM messages INDEXED BY messages_not_sent
                 WHERE status >= 6 AND status = 6 AND id BETWEEN $1 AND $2 ORDER BY id LIMIT $3)",
        )
        .bind(run.first().0)
        .bind(run.last().0)
        .bind(limit)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?
        .rows_affected();
    let mut tally = Tally::default();
    tally.status(run, code::FAILED, -i64::try_from(reopened).unwrap_or(i64::MAX));
    tally.write(lite, &mut tx).await?;
    lite.commit(tx).await?;
    Ok(reopened)
}

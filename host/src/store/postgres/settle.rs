//! The end of attempts: one transaction for everything that follows from them.

use std::collections::HashSet;

use super::consent::suppress_in;
use super::devices::save_paces_in;
use super::*;
use crate::sequence::EnrolmentStatus;

pub(super) async fn settle(pg: &Postgres, batch: &[Settlement]) -> Result<Vec<bool>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    // In id order against deadlocks; of a message that is named twice the first counts.
    let mut seen = HashSet::new();
    let mut unique: Vec<&Settlement> = batch.iter().filter(|s| seen.insert(s.message)).collect();
    unique.sort_unstable_by_key(|s| s.message);
    let applied = repeating(|| apply(pg, &unique)).await?;
    // A repeat is told that it was not applied, which is the truth about it.
    let mut left = applied;
    Ok(batch.iter().map(|s| left.remove(&s.message.0)).collect())
}

/// Whether an attempt changes more than its message and the counts, which are one statement.
fn has_more(settlement: &Settlement) -> bool {
    rows::attempt_outcome(&settlement.outcome).is_some()
        || settlement.pace.is_some()
        || settlement.suppress.is_some()
        || settlement.sequence.is_some()
}

async fn apply(pg: &Postgres, batch: &[&Settlement]) -> Result<HashSet<i64>> {
    if !batch.iter().any(|s| has_more(s)) {
        return end_attempts(pg, &pg.pool, batch).await;
    }
    let mut tx = pg.begin().await?;
    let applied = end_attempts(pg, &mut *tx, batch).await?;
    let batch: Vec<&Settlement> = batch.iter().copied().filter(|s| applied.contains(&s.message.0)).collect();
    keep_attempts(pg, &mut tx, &batch).await?;
    if batch.iter().any(|s| s.pace.is_some()) {
        save_paces_in(pg, &mut tx, batch.iter().filter_map(|s| s.pace.as_ref())).await?;
    }
    advance_enrolments(pg, &mut tx, &batch).await?;
    let suppress: Vec<_> = batch.iter().filter_map(|s| Some((s.suppress.as_ref()?, s.finished_at))).collect();
    if !suppress.is_empty() {
        suppress_in(pg, &mut tx, &suppress).await?;
    }
    pg.commit(tx).await?;
    Ok(applied)
}

/// Ends the attempts that are still the callers', and counts them. Returns the ids of their messages.
async fn end_attempts<'e>(
    pg: &Postgres,
    executor: impl sqlx::Executor<'e, Database = sqlx::Postgres>,
    batch: &[&Settlement],
) -> Result<HashSet<i64>> {
    let ends: Vec<rows::SettleSql<'_>> = batch.iter().map(|s| rows::SettleSql::from(*s)).collect();
    // What would be pending again in a run that was closed meanwhile is closed with it.
    let done: Vec<i64> = pg
        .scalar(
            "WITH done AS (
                 UPDATE messages m SET
                     status = CASE WHEN s.status < 2 THEN coalesce(r.closed_as, s.status) ELSE s.status END,
                     due_at = coalesce(s.due_at, m.due_at),
                     attempt = m.attempt - s.released::int,
                     failures = least(m.failures + s.counts, 32767),
                     template_no = CASE WHEN s.released AND m.attempt = 1 THEN NULL ELSE m.template_no END,
                     delay_no = CASE WHEN s.released AND m.attempt = 1 THEN NULL ELSE m.delay_no END,
                     sender_no = CASE WHEN s.released AND m.attempt = 1 THEN NULL ELSE m.sender_no END,
                     started_at = CASE WHEN s.released AND m.attempt = 1 THEN NULL ELSE m.started_at END,
                     finished_at = CASE WHEN s.status < 2 AND r.closed_as IS NULL THEN NULL ELSE s.finished_at END,
                     provider_id = s.provider_id,
                     reason_code = CASE WHEN s.released THEN m.reason_code ELSE s.reason_code END,
                     reason_detail = CASE WHEN s.released THEN m.reason_detail ELSE s.reason_detail END,
                     lease_token = NULL, host_id = NULL
                 FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::int[], $5::smallint[], $6::bigint[],
                             $7::smallint[], $8::bool[], $9::bigint[], $10::text[], $11::text[], $12::text[])
                      AS s (id, device_no, token, attempt, status, due_at, counts, released, finished_at, provider_id,
                            reason_code, reason_detail)
                 JOIN runs r ON r.key = (s.id >> 32)::int
                 WHERE m.id = s.id AND m.status = 2 AND m.lease_token = s.token AND m.attempt = s.attempt
                   AND m.device_no = s.device_no
                 RETURNING m.id, m.status),
             counted AS (
                 INSERT INTO run_counts AS c
                     (run_key, shard, sent, delivered, failed, unknown, suppressed, expired, cancelled)
                 SELECT (id >> 32)::int, $13, count(*) FILTER (WHERE status = 3), count(*) FILTER (WHERE status = 4),
                        count(*) FILTER (WHERE status = 6), count(*) FILTER (WHERE status = 7),
                        count(*) FILTER (WHERE status = 8), count(*) FILTER (WHERE status = 9),
                        count(*) FILTER (WHERE status = 10)
                 FROM done WHERE status > 2 GROUP BY 1 ORDER BY 1
                 ON CONFLICT (run_key, shard) DO UPDATE SET
                     sent = c.sent + excluded.sent, delivered = c.delivered + excluded.delivered,
                     failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown,
                     suppressed = c.suppressed + excluded.suppressed, expired = c.expired + excluded.expired,
                     cancelled = c.cancelled + excluded.cancelled)
             SELECT id FROM done",
        )
        .bind(batch.iter().map(|s| s.message.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.device.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.token).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| rows::to_i32(s.attempt)).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.status).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.due_at).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.counts).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.released).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.finished_at.as_ms()).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.provider_id).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.reason_code).collect::<Vec<_>>())
        .bind(ends.iter().map(|e| e.reason_detail).collect::<Vec<_>>())
        .bind(pg.shard)
        .fetch_all(executor)
        .await?;
    Ok(done.into_iter().collect())
}

/// Writes a row for each attempt that was not a clean send.
async fn keep_attempts(pg: &Postgres, tx: &mut Tx, batch: &[&Settlement]) -> Result<()> {
    let ended: Vec<(&Settlement, &str, rows::SettleSql<'_>)> = batch
        .iter()
        .filter_map(|s| Some((*s, rows::attempt_outcome(&s.outcome)?, rows::SettleSql::from(*s))))
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    pg.sql(
        "INSERT INTO attempts (message_id, attempt, device_no, outcome, reason_code, reason_detail, started_at, finished_at,
                               provider_id, template_no, delay_no, sender_no)
         SELECT n.id, n.attempt, n.device_no, n.outcome, n.reason_code, n.reason_detail, n.started_at, n.finished_at,
                m.provider_id, m.template_no, m.delay_no, m.sender_no
         FROM unnest($1::bigint[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
              AS n (id, attempt, device_no, outcome, reason_code, reason_detail, started_at, finished_at)
         JOIN messages m ON m.id = n.id
         ON CONFLICT (message_id, attempt) DO NOTHING",
    )
    .bind(ended.iter().map(|(s, ..)| s.message.0).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| rows::to_i32(s.attempt)).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| s.device.0).collect::<Vec<_>>())
    .bind(ended.iter().map(|(_, outcome, _)| *outcome).collect::<Vec<_>>())
    .bind(ended.iter().map(|(.., e)| e.reason_code).collect::<Vec<_>>())
    .bind(ended.iter().map(|(.., e)| e.reason_detail).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| s.started_at.as_ms()).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| s.finished_at.as_ms()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Moves the enrolments that still stand at the step of their message.
async fn advance_enrolments(pg: &Postgres, tx: &mut Tx, batch: &[&Settlement]) -> Result<()> {
    let steps: Vec<rows::AdvanceSql<'_>> =
        batch.iter().filter_map(|s| Some(rows::AdvanceSql::new(s.message, s.sequence.as_ref()?))).collect();
    if steps.is_empty() {
        return Ok(());
    }
    pg.sql(
        "UPDATE enrolments e SET status = a.status, step = e.step + a.steps, due_at = coalesce(a.due_at, e.due_at),
                exit_reason = a.exit_reason
         FROM unnest($1::int[], $2::int[], $3::int[], $4::smallint[], $5::int[], $6::bigint[], $7::text[])
              AS a (sequence_no, contact_no, step, status, steps, due_at, exit_reason)
         WHERE e.sequence_no = a.sequence_no AND e.contact_no = a.contact_no AND e.step = a.step AND e.status = $8",
    )
    .bind(steps.iter().map(|a| a.sequence_no).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.contact_no).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.step).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.status.code()).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| i32::from(a.status == EnrolmentStatus::Waiting)).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.due_at).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.exit_reason).collect::<Vec<_>>())
    .bind(EnrolmentStatus::InStep.code())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

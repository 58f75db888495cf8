//! The end of attempts: one transaction for everything that follows from them.

use std::collections::HashSet;

use super::consent::suppress_in;
use super::devices::save_paces_in;
use super::*;
use crate::sequence::EnrolmentStatus;

pub(super) async fn settle(lite: &Sqlite, batch: &[Settlement]) -> Result<Vec<bool>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    // Of a message that is named twice the first counts.
    let mut seen = HashSet::new();
    let unique: Vec<&Settlement> = batch.iter().filter(|s| seen.insert(s.message)).collect();
    let mut tx = lite.begin().await?;
    let mut applied = end_attempts(lite, &mut tx, &unique).await?;
    let ended: Vec<&Settlement> = unique.into_iter().filter(|s| applied.contains(&s.message)).collect();
    keep_attempts(lite, &mut tx, &ended).await?;
    save_paces_in(lite, &mut tx, ended.iter().filter_map(|s| s.pace.as_ref())).await?;
    advance_enrolments(lite, &mut tx, &ended).await?;
    for end in &ended {
        if let Some(entry) = &end.suppress {
            suppress_in(lite, &mut tx, std::slice::from_ref(entry), end.finished_at).await?;
        }
    }
    lite.commit(tx).await?;
    // A repeat is told that it was not applied, which is the truth about it.
    Ok(batch.iter().map(|s| applied.remove(&s.message)).collect())
}

/// Ends the attempts that are still the callers', and counts them. Returns their messages.
async fn end_attempts(lite: &Sqlite, tx: &mut Tx, batch: &[&Settlement]) -> Result<HashSet<MessageId>> {
    let ends = batch.iter().map(|s| {
        let end = rows::SettleSql::from(*s);
        (
            (s.message.0, s.device.0, s.token, s.attempt, s.finished_at.as_ms()),
            (end.status, end.due_at, end.counts, u8::from(end.released)),
            (end.provider_id, end.reason_code, end.reason_detail),
        )
    });
    // What would be pending again in a run that was closed meanwhile is closed with it.
    let done: Vec<(i64, i16)> = lite
        .rows(
            "UPDATE messages SET
                 status = CASE WHEN s.status < 2 THEN coalesce(r.closed_as, s.status) ELSE s.status END,
                 due_at = coalesce(s.due_at, messages.due_at),
                 attempt = messages.attempt - s.released,
                 failures = min(messages.failures + s.counts, 32767),
                 template_no = CASE WHEN s.released AND messages.attempt = 1 THEN NULL ELSE template_no END,
                 delay_no = CASE WHEN s.released AND messages.attempt = 1 THEN NULL ELSE delay_no END,
                 sender_no = CASE WHEN s.released AND messages.attempt = 1 THEN NULL ELSE sender_no END,
                 started_at = CASE WHEN s.released AND messages.attempt = 1 THEN NULL ELSE messages.started_at END,
                 finished_at = CASE WHEN s.status < 2 AND r.closed_as IS NULL THEN NULL ELSE s.finished_at END,
                 provider_id = s.provider_id,
                 reason_code = CASE WHEN s.released THEN messages.reason_code ELSE s.reason_code END,
                 reason_detail = CASE WHEN s.released THEN messages.reason_detail ELSE s.reason_detail END,
                 lease_token = NULL, host_id = NULL
             FROM (SELECT value ->> '$[0][0]' AS id, value ->> '$[0][1]' AS device_no, value ->> '$[0][2]' AS token,
                          value ->> '$[0][3]' AS attempt, value ->> '$[0][4]' AS finished_at,
                          value ->> '$[1][0]' AS status, value ->> '$[1][1]' AS due_at, value ->> '$[1][2]' AS counts,
                          value ->> '$[1][3]' AS released, value ->> '$[2][0]' AS provider_id,
                          value ->> '$[2][1]' AS reason_code, value ->> '$[2][2]' AS reason_detail
                   FROM json_each($1)) AS s
             JOIN runs r ON r.key = s.id >> 32
             WHERE messages.id = s.id AND messages.status = 2 AND messages.lease_token = s.token
               AND messages.attempt = s.attempt AND messages.device_no = s.device_no
             RETURNING id, status",
        )
        .bind(list(ends)?)
        .fetch_all(&mut **tx)
        .await?;
    let mut tally = Tally::default();
    for (id, status) in &done {
        tally.status(MessageId(*id).run(), *status, 1);
    }
    tally.write(lite, tx).await?;
    Ok(done.into_iter().map(|(id, _)| MessageId(id)).collect())
}

/// Writes a row for each attempt that was not a clean send.
async fn keep_attempts(lite: &Sqlite, tx: &mut Tx, batch: &[&Settlement]) -> Result<()> {
    for end in batch {
        let Some(outcome) = rows::attempt_outcome(&end.outcome) else { continue };
        let columns = rows::SettleSql::from(*end);
        lite.sql(
            "INSERT INTO attempts (message_id, attempt, device_no, outcome, reason_code, reason_detail, started_at,
                                   finished_at, provider_id, template_no, delay_no, sender_no)
             SELECT m.id, $2, $3, $4, $5, $6, $7, $8, m.provider_id, m.template_no, m.delay_no, m.sender_no
             FROM messages m WHERE m.id = $1
             ON CONFLICT (message_id, attempt) DO NOTHING",
        )
        .bind(end.message.0)
        .bind(rows::to_i32(end.attempt))
        .bind(end.device.0)
        .bind(outcome)
        .bind(columns.reason_code)
        .bind(columns.reason_detail)
        .bind(end.started_at.as_ms())
        .bind(end.finished_at.as_ms())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Moves the enrolments that still stand at the step of their message.
async fn advance_enrolments(lite: &Sqlite, tx: &mut Tx, batch: &[&Settlement]) -> Result<()> {
    for end in batch {
        let Some(advance) = &end.sequence else { continue };
        let to = rows::AdvanceSql::new(end.message, advance);
        lite.sql(
            "UPDATE enrolments SET status = $4, step = step + $5, due_at = coalesce($6, due_at), exit_reason = $7
             WHERE sequence_no = $1 AND contact_no = $2 AND step = $3 AND status = $8",
        )
        .bind(to.sequence_no)
        .bind(to.contact_no)
        .bind(to.step)
        .bind(to.status.code())
        .bind(i32::from(to.status == EnrolmentStatus::Waiting))
        .bind(to.due_at)
        .bind(to.exit_reason)
        .bind(EnrolmentStatus::InStep.code())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

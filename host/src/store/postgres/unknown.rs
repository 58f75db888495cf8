//! Unknown outcomes: found, looked after by a policy, and resolved.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::campaigns::{lock_campaign, write_move};
use super::consent::suppress_in;
use super::reading::message_columns;
use super::turn::advance_enrolments;
use super::*;

/// Unknown messages after `$1`, at most `$2`, over an index of theirs.
macro_rules! unknown {
    ($from:literal) => {
        message_columns!("m.id", "(", $from, ")")
    };
}

/// Run by run in the order of their keys, which is that of their messages' ids: the inner LIMIT has no ORDER BY because a
/// LATERAL join is a nested loop over the list as it was passed.
macro_rules! unknown_of_runs {
    ($of:literal) => {
        message_columns!(
            "m.id",
            "(SELECT u.* FROM unnest($3::int[]) AS r (key)
              CROSS JOIN LATERAL (
                  SELECT * FROM messages p WHERE ",
            $of,
            "       AND status = 7 AND id > greatest($1, (r.key::bigint << 32) - 1) AND id <= (r.key::bigint << 32) + 4294967295
                  ORDER BY id LIMIT $2) AS u
              LIMIT $2)"
        )
    };
}

pub(super) async fn unknown(
    pg: &Postgres,
    of: &UnknownOf,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<MessageRow, MessageId>> {
    let query = match (&of.runs, of.device) {
        (None, None) => pg.rows(unknown!("SELECT * FROM messages p WHERE status = 7 AND id > $1 ORDER BY id LIMIT $2")),
        (None, Some(_)) => pg.rows(unknown!(
            "SELECT * FROM messages p WHERE device_no = $3 AND status = 7 AND id > $1 ORDER BY id LIMIT $2"
        )),
        (Some(_), None) => pg.rows(unknown_of_runs!("TRUE")),
        (Some(_), Some(_)) => pg.rows(unknown_of_runs!("device_no = $4")),
    };
    let mut query = query.bind(cursor.map_or(0, |id| id.0)).bind(rows::one_more(limit));
    if let Some(runs) = &of.runs {
        query = query.bind(runs.iter().map(|run| run.0).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    }
    if let Some(device) = of.device {
        query = query.bind(device.0);
    }
    let found: Vec<rows::MessageSql> = query.fetch_all(&pg.pool).await?;
    let items = found.into_iter().map(rows::MessageSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |m| m.id))
}

pub(super) async fn unknown_runs(pg: &Postgres, limit: u32) -> Result<Vec<(RunKey, u64)>> {
    // Jumps from run to run in the index; how many each has is known.
    let found: Vec<(i32, i64)> = pg
        .rows(
            "WITH RECURSIVE u (key) AS (
                 (SELECT (id >> 32)::int FROM messages WHERE status = 7 ORDER BY id LIMIT 1)
                 UNION ALL
                 SELECT (SELECT (m.id >> 32)::int FROM messages m
                         WHERE m.status = 7 AND m.id > (u.key::bigint << 32) + 4294967295 ORDER BY m.id LIMIT 1)
                 FROM u WHERE u.key IS NOT NULL)
             SELECT u.key, (SELECT coalesce(sum(c.unknown), 0)::bigint FROM run_counts c WHERE c.run_key = u.key)
             FROM u WHERE u.key IS NOT NULL LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(|(key, count)| (RunKey(key), rows::to_u64(count))).collect())
}

pub(super) async fn claim_lookups(
    pg: &Postgres,
    messages: &[MessageId],
    times: u32,
    first: Duration,
    longest: Duration,
    now: Time,
) -> Result<Vec<(MessageId, u32)>> {
    let ms = |wait: Duration| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
    // Looked at first, because a conflict locks its row whether or not it is changed. By their keys: the plus keeps the
    // planner from an index that is small today.
    let claimed: Vec<(i64, i32)> = pg
        .rows(
            "WITH due AS MATERIALIZED (
                 SELECT m.id FROM unnest($1::bigint[]) AS n (id)
                 JOIN messages m ON m.id = n.id AND +m.status = 7
                 LEFT JOIN LATERAL (SELECT tries, next_at FROM lookups l WHERE l.message_id = n.id LIMIT 1) l ON TRUE
                 WHERE coalesce(l.tries, 0) < $2 AND coalesce(l.next_at, 0) <= $3)
             INSERT INTO lookups AS l (message_id, next_at, tries)
             SELECT id, $3 + $4, 1 FROM due ORDER BY id
             ON CONFLICT (message_id) DO UPDATE SET tries = l.tries + 1, next_at = $3 + least($4 << least(l.tries, 20), $5)
                 WHERE l.tries < $2 AND l.next_at <= $3
             RETURNING message_id, tries",
        )
        .bind(messages.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(rows::to_i32(times))
        .bind(now.as_ms())
        .bind(ms(first))
        .bind(ms(longest))
        .fetch_all(&pg.pool)
        .await?;
    Ok(claimed.into_iter().map(|(id, tries)| (MessageId(id), rows::to_u32(tries.into()))).collect())
}

pub(super) async fn resolve(pg: &Postgres, resolutions: &[Resolution], now: Time) -> Result<Vec<Resolved>> {
    if resolutions.is_empty() {
        return Ok(Vec::new());
    }
    repeating(|| resolve_in_one(pg, resolutions, now)).await
}

/// What holds of the runs whose messages are to be sent again.
#[derive(Default)]
struct Again {
    refused: HashMap<RunKey, String>,
    /// Completed campaigns, as they are when they go on.
    reopened: Vec<Campaign>,
}

/// Locks the campaigns whose messages are to be sent again, and keeps enrolments from being left meanwhile.
async fn lock_runs(pg: &Postgres, tx: &mut Tx, resolutions: &[Resolution], now: Time) -> Result<Again> {
    let runs: BTreeSet<i32> = resolutions.iter().filter(|r| r.sends_again()).map(|r| r.message.run().0).collect();
    let mut again = Again::default();
    if runs.is_empty() {
        return Ok(again);
    }
    let owners: Vec<(i32, Option<uuid::Uuid>)> = pg
        .rows("SELECT key, campaign_id FROM runs WHERE key = ANY($1) ORDER BY campaign_id, key")
        .bind(runs.into_iter().collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    let mut steps = Vec::new();
    for (key, campaign) in owners {
        let run = RunKey(key);
        let Some(id) = campaign else {
            steps.push(run);
            continue;
        };
        let Some(campaign) = lock_campaign(pg, tx, CampaignId(id)).await? else { continue };
        match rows::why_not_again(&campaign, now) {
            Some(why) => {
                again.refused.insert(run, why);
            }
            None if campaign.status == CampaignStatus::Completed => {
                again.reopened.push(rows::moved(campaign, CampaignEvent::Reopen, None, now)?);
            }
            None => {}
        }
    }
    if !steps.is_empty() {
        still_runs(pg, tx, steps).await?;
    }
    Ok(again)
}

async fn resolve_in_one(pg: &Postgres, resolutions: &[Resolution], now: Time) -> Result<Vec<Resolved>> {
    let mut tx = pg.begin().await?;
    let again = lock_runs(pg, &mut tx, resolutions, now).await?;
    let mut named = HashSet::new();
    let mut wanted: Vec<&Resolution> = resolutions
        .iter()
        .filter(|r| !(r.sends_again() && again.refused.contains_key(&r.message.run())))
        .filter(|r| rows::resolution_outcome(&r.outcome).is_some() && named.insert(r.message))
        .collect();
    // In one order for all transactions.
    wanted.sort_unstable_by_key(|r| r.message);
    let done = write(pg, &mut tx, &wanted, now).await?;
    let applied: Vec<&Resolution> = wanted.iter().copied().filter(|r| done.contains(&r.message)).collect();
    let steps = applied.iter().filter_map(|r| Some(rows::AdvanceSql::new(r.message, r.sequence.as_ref()?)));
    advance_enrolments(pg, &mut tx, &steps.collect::<Vec<_>>()).await?;
    let suppress: Vec<_> = applied.iter().filter_map(|r| Some((r.suppress.as_ref()?, now))).collect();
    if !suppress.is_empty() {
        suppress_in(pg, &mut tx, &suppress).await?;
    }
    let mut reopened = false;
    for campaign in &again.reopened {
        if applied.iter().any(|r| r.sends_again() && Some(r.message.run()) == campaign.run) {
            write_move(pg, &mut tx, campaign).await?;
            reopened = true;
        }
    }
    // Those that are unknown still: their contacts have left the step.
    let left: Vec<i64> =
        wanted.iter().filter(|r| r.sends_again() && !done.contains(&r.message)).map(|r| r.message.0).collect();
    let unknown: Vec<(i64, i32)> = if left.is_empty() {
        Vec::new()
    } else {
        pg.rows("SELECT id, attempt FROM messages WHERE id = ANY($1) AND +status = 7")
            .bind(left)
            .fetch_all(&mut *tx)
            .await?
    };
    if reopened {
        pg.bump(&mut tx, "runs").await?;
    }
    pg.commit(tx).await?;
    let unknown = unknown.into_iter().map(|(id, attempt)| (MessageId(id), rows::to_u32(attempt.into())));
    Ok(rows::resolved(resolutions, &done, &again.refused, &unknown.collect()))
}

/// Resolves messages that are unknown after these very attempts; returns those that were.
async fn write(pg: &Postgres, tx: &mut Tx, wanted: &[&Resolution], now: Time) -> Result<HashSet<MessageId>> {
    let outcomes: Vec<rows::SettleSql<'_>> = wanted.iter().map(|r| rows::SettleSql::of(&r.outcome, now)).collect();
    let notes: Vec<_> = wanted.iter().map(|r| r.reason()).collect();
    let done: Vec<i64> = pg
        .scalar(
            "WITH resolved AS (
                 UPDATE messages m SET
                     status = n.status, due_at = coalesce(n.due_at, m.due_at),
                     failures = least(m.failures + n.counts, 32767),
                     finished_at = CASE WHEN n.status > 2 THEN $12 END,
                     provider_id = coalesce(n.provider_id, m.provider_id),
                     reason_code = n.reason_code, reason_detail = n.reason_detail
                 FROM unnest($1::bigint[], $2::int[], $3::smallint[], $4::bigint[], $5::smallint[], $6::text[], $7::text[],
                             $8::text[], $9::text[], $10::text[], $11::text[])
                      AS n (id, attempt, status, due_at, counts, provider_id, reason_code, reason_detail, outcome,
                            note_code, note_detail)
                 LEFT JOIN runs r ON r.key = (n.id >> 32)::int
                 WHERE m.id = n.id AND +m.status = 7 AND m.attempt = n.attempt
                   AND (n.status > 2 OR r.sequence_no IS NULL OR EXISTS (
                       SELECT FROM enrolments e
                       WHERE e.sequence_no = r.sequence_no AND e.contact_no = (n.id & 4294967295)::int
                         AND e.step = r.step AND e.status = 1))
                 RETURNING m.id, m.attempt, m.device_no, m.status, m.provider_id, m.template_no, m.delay_no, m.sender_no,
                           n.outcome, n.note_code, n.note_detail),
             counted AS (
                 INSERT INTO run_counts AS c (run_key, shard, sent, delivered, failed, unknown)
                 SELECT (id >> 32)::int, $13, count(*) FILTER (WHERE status = 3), count(*) FILTER (WHERE status = 4),
                        count(*) FILTER (WHERE status = 6), -count(*)
                 FROM resolved GROUP BY 1 ORDER BY 1
                 ON CONFLICT (run_key, shard) DO UPDATE SET
                     sent = c.sent + excluded.sent, delivered = c.delivered + excluded.delivered,
                     failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown),
             kept AS (
                 INSERT INTO attempts (message_id, attempt, device_no, outcome, reason_code, reason_detail, started_at,
                                       finished_at, provider_id, template_no, delay_no, sender_no)
                 SELECT id, -attempt, device_no, outcome, note_code, note_detail, $12, $12, provider_id, template_no,
                        delay_no, sender_no
                 FROM resolved
                 ON CONFLICT (message_id, attempt) DO NOTHING),
             cared_for AS (
                 DELETE FROM lookups WHERE message_id = ANY(ARRAY(SELECT id FROM resolved)))
             SELECT id FROM resolved",
        )
        .bind(wanted.iter().map(|r| r.message.0).collect::<Vec<_>>())
        .bind(wanted.iter().map(|r| rows::to_i32(r.attempt)).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.status).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.due_at).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.counts).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.provider_id).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.reason_code).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.reason_detail).collect::<Vec<_>>())
        .bind(wanted.iter().map(|r| rows::resolution_outcome(&r.outcome)).collect::<Vec<_>>())
        .bind(notes.iter().map(|n| n.code.as_str()).collect::<Vec<_>>())
        .bind(notes.iter().map(|n| n.detail.as_str()).collect::<Vec<_>>())
        .bind(now.as_ms())
        .bind(pg.shard())
        .fetch_all(&mut **tx)
        .await?;
    Ok(done.into_iter().map(MessageId).collect())
}

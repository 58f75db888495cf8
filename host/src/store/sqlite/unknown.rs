//! Unknown outcomes: found, looked after by a policy, and resolved.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::campaigns::{campaign_in, write_move};
use super::consent::suppress_in;
use super::reading::message_columns;
use super::turn::advance_enrolments;
use super::*;

/// Unknown messages after `$1`, at most `$2`, over an index of theirs: each is used only where its own condition is repeated.
macro_rules! unknown {
    ($from:literal) => {
        message_columns!("m.id", "(", $from, ")")
    };
}

/// Run by run in the order of their keys, which is that of their messages' ids: a CROSS JOIN is a nested loop over the list
/// as it was passed.
macro_rules! unknown_of_runs {
    ($of:literal) => {
        message_columns!(
            "m.id",
            "(SELECT p.* FROM json_each($3) r CROSS JOIN messages p INDEXED BY ",
            $of,
            "     AND p.id > max($1, (r.value << 32) - 1) AND p.id <= (r.value << 32) + 4294967295
              LIMIT $2)"
        )
    };
}

pub(super) async fn unknown(
    lite: &Sqlite,
    of: &UnknownOf,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<MessageRow, MessageId>> {
    let query = match (&of.runs, of.device) {
        (None, None) => lite.rows(unknown!(
            "SELECT * FROM messages p INDEXED BY messages_not_sent WHERE status >= 6 AND status = 7 AND id > $1
             ORDER BY id LIMIT $2"
        )),
        (None, Some(_)) => lite.rows(unknown!(
            "SELECT * FROM messages p INDEXED BY messages_unknown_by_device WHERE device_no = $3 AND status = 7 AND id > $1
             ORDER BY id LIMIT $2"
        )),
        (Some(_), None) => lite.rows(unknown_of_runs!("messages_not_sent WHERE p.status >= 6 AND p.status = 7")),
        (Some(_), Some(_)) => {
            lite.rows(unknown_of_runs!("messages_unknown_by_device WHERE p.device_no = $4 AND p.status = 7"))
        }
    };
    let mut query = query.bind(cursor.map_or(0, |id| id.0)).bind(rows::one_more(limit));
    if let Some(runs) = &of.runs {
        query = query.bind(list(runs.iter().map(|run| run.0).collect::<BTreeSet<_>>())?);
    }
    if let Some(device) = of.device {
        query = query.bind(device.0);
    }
    let found: Vec<rows::MessageSql> = query.fetch_all(&lite.readers).await?;
    let items = found.into_iter().map(rows::MessageSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |m| m.id))
}

pub(super) async fn unknown_runs(lite: &Sqlite, limit: u32) -> Result<Vec<(RunKey, u64)>> {
    // Jumps from run to run in the index; how many each has is known.
    let found: Vec<(i32, i64)> = lite
        .rows(
            "WITH RECURSIVE u (key) AS (
                 SELECT (SELECT id >> 32 FROM messages INDEXED BY messages_not_sent
                         WHERE status >= 6 AND status = 7 ORDER BY id LIMIT 1)
                 UNION ALL
                 SELECT (SELECT m.id >> 32 FROM messages m INDEXED BY messages_not_sent
                         WHERE m.status >= 6 AND m.status = 7 AND m.id > (u.key << 32) + 4294967295 ORDER BY m.id LIMIT 1)
                 FROM u WHERE u.key IS NOT NULL)
             SELECT CAST(u.key AS INTEGER),
                    coalesce((SELECT sum(c.unknown) FROM run_counts c WHERE c.run_key = u.key), 0)
             FROM u WHERE u.key IS NOT NULL LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(|(key, count)| (RunKey(key), rows::to_u64(count))).collect())
}

pub(super) async fn claim_lookups(
    lite: &Sqlite,
    messages: &[MessageId],
    times: u32,
    first: Duration,
    longest: Duration,
    now: Time,
) -> Result<Vec<(MessageId, u32)>> {
    macro_rules! due {
        () => {
            "SELECT m.id FROM json_each($1) n
             CROSS JOIN messages m ON m.id = n.value AND +m.status = 7
             LEFT JOIN lookups l ON l.message_id = m.id
             WHERE coalesce(l.tries, 0) < $2 AND coalesce(l.next_at, 0) <= $3"
        };
    }
    let messages = list(messages.iter().map(|id| id.0))?;
    let ms = |wait: Duration| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
    // The writer is left alone while nothing is due.
    let due: Option<i64> = lite
        .scalar(concat!(due!(), " LIMIT 1"))
        .bind(&messages)
        .bind(rows::to_i32(times))
        .bind(now.as_ms())
        .fetch_optional(&lite.readers)
        .await?;
    if due.is_none() {
        return Ok(Vec::new());
    }
    let claimed: Vec<(i64, i32)> = lite
        .rows(concat!(
            "INSERT INTO lookups AS l (message_id, next_at, tries)
             SELECT id, $3 + $4, 1 FROM (",
            due!(),
            ") WHERE TRUE
             ON CONFLICT (message_id) DO UPDATE SET tries = l.tries + 1, next_at = $3 + min($4 << min(l.tries, 20), $5)
             RETURNING message_id, tries"
        ))
        .bind(&messages)
        .bind(rows::to_i32(times))
        .bind(now.as_ms())
        .bind(ms(first))
        .bind(ms(longest))
        .fetch_all(&lite.writer)
        .await?;
    Ok(claimed.into_iter().map(|(id, tries)| (MessageId(id), rows::to_u32(tries.into()))).collect())
}

from_row! {
    /// A message to be resolved.
    struct Unproved {
        id: i64,
        attempt: i32,
        device_no: i32,
        provider_id: Option<String>,
        template_no: Option<i32>,
        delay_no: Option<i32>,
        sender_no: Option<i32>,
        /// Whether its contact still stands at its step; true for a campaign.
        in_step: bool,
    }
}

pub(super) async fn resolve(lite: &Sqlite, resolutions: &[Resolution], now: Time) -> Result<Vec<Resolved>> {
    if resolutions.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = lite.begin().await?;
    let found: Vec<Unproved> = lite
        .rows(
            "SELECT m.id, m.attempt, m.device_no, m.provider_id, m.template_no, m.delay_no, m.sender_no,
                    r.sequence_no IS NULL OR EXISTS (
                        SELECT 1 FROM enrolments e
                        WHERE e.sequence_no = r.sequence_no AND e.contact_no = m.id & 4294967295
                          AND e.step = r.step AND e.status = 1) AS in_step
             FROM json_each($1) n
             CROSS JOIN messages m ON m.id = n.value AND +m.status = 7
             LEFT JOIN runs r ON r.key = m.id >> 32",
        )
        .bind(list(resolutions.iter().map(|r| r.message.0).collect::<BTreeSet<_>>())?)
        .fetch_all(&mut *tx)
        .await?;
    let unknown: HashMap<MessageId, u32> =
        found.iter().map(|m| (MessageId(m.id), rows::to_u32(m.attempt.into()))).collect();
    let found: HashMap<MessageId, Unproved> = found.into_iter().map(|m| (MessageId(m.id), m)).collect();
    let (refused, reopened) = campaigns_of(lite, &mut tx, resolutions, now).await?;
    let mut done = HashSet::new();
    let applied: Vec<(&Resolution, &Unproved)> = resolutions
        .iter()
        .filter_map(|r| Some((r, found.get(&r.message)?)))
        .filter(|(r, m)| rows::to_u32(m.attempt.into()) == r.attempt)
        .filter(|(r, m)| !r.sends_again() || (m.in_step && !refused.contains_key(&r.message.run())))
        .filter(|(r, _)| rows::resolution_outcome(&r.outcome).is_some() && done.insert(r.message))
        .collect();
    write(lite, &mut tx, &applied, now).await?;
    let steps = applied.iter().filter_map(|(r, _)| Some(rows::AdvanceSql::new(r.message, r.sequence.as_ref()?)));
    advance_enrolments(lite, &mut tx, steps).await?;
    let suppress: Vec<_> = applied.iter().filter_map(|(r, _)| Some((r.suppress.as_ref()?, now))).collect();
    suppress_in(lite, &mut tx, &suppress).await?;
    for campaign in &reopened {
        if applied.iter().any(|(r, _)| r.sends_again() && Some(r.message.run()) == campaign.run) {
            write_move(lite, &mut tx, campaign).await?;
            lite.bump(&mut tx, "runs").await?;
        }
    }
    lite.commit(tx).await?;
    Ok(rows::resolved(resolutions, &done, &refused, &unknown))
}

/// Of the campaigns whose messages are to be sent again: why those of some runs cannot be, and the completed ones, as they
/// are when they go on.
async fn campaigns_of(
    lite: &Sqlite,
    tx: &mut Tx,
    resolutions: &[Resolution],
    now: Time,
) -> Result<(HashMap<RunKey, String>, Vec<Campaign>)> {
    let runs: BTreeSet<i32> = resolutions.iter().filter(|r| r.sends_again()).map(|r| r.message.run().0).collect();
    let owners: Vec<(i32, uuid::Uuid)> = lite
        .rows(
            "SELECT key, campaign_id FROM runs
             WHERE key IN (SELECT value FROM json_each($1)) AND campaign_id IS NOT NULL",
        )
        .bind(list(runs)?)
        .fetch_all(&mut **tx)
        .await?;
    let (mut refused, mut reopened) = (HashMap::new(), Vec::new());
    for (key, id) in owners {
        let Some(campaign) = campaign_in(lite, tx, CampaignId(id)).await? else { continue };
        match rows::why_not_again(&campaign, now) {
            Some(why) => {
                refused.insert(RunKey(key), why);
            }
            None if campaign.status == CampaignStatus::Completed => {
                reopened.push(rows::moved(campaign, CampaignEvent::Reopen, None, now)?);
            }
            None => {}
        }
    }
    Ok((refused, reopened))
}

async fn write(lite: &Sqlite, tx: &mut Tx, applied: &[(&Resolution, &Unproved)], now: Time) -> Result<()> {
    let mut tally = Tally::default();
    let (mut ends, mut kept) = (Vec::new(), Vec::new());
    for (resolution, message) in applied {
        let end = rows::SettleSql::of(&resolution.outcome, now);
        let note = resolution.reason();
        let finished_at = (end.status > code::PROCESSING).then_some(now.as_ms());
        let provider_id = end.provider_id.or(message.provider_id.as_deref());
        tally.status(resolution.message.run(), code::UNKNOWN, -1);
        tally.status(resolution.message.run(), end.status, 1);
        ends.push((
            (message.id, end.status, end.due_at, end.counts, finished_at),
            (provider_id, end.reason_code, end.reason_detail),
        ));
        kept.push((
            (message.id, -message.attempt, message.device_no, now.as_ms()),
            (message.template_no, message.delay_no, message.sender_no),
            (rows::resolution_outcome(&resolution.outcome), note.code, note.detail, provider_id),
        ));
    }
    lite.sql(
        "UPDATE messages SET status = n.value ->> '$[0][1]', due_at = coalesce(n.value ->> '$[0][2]', due_at),
                failures = min(failures + (n.value ->> '$[0][3]'), 32767), finished_at = n.value ->> '$[0][4]',
                provider_id = n.value ->> '$[1][0]', reason_code = n.value ->> '$[1][1]',
                reason_detail = n.value ->> '$[1][2]'
         FROM json_each($1) n WHERE messages.id = n.value ->> '$[0][0]' AND +messages.status = 7",
    )
    .bind(rows::to_json(&ends)?)
    .execute(&mut **tx)
    .await?;
    lite.sql(
        "INSERT INTO attempts (message_id, attempt, device_no, started_at, finished_at, template_no, delay_no, sender_no,
                               outcome, reason_code, reason_detail, provider_id)
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]', value ->> '$[0][3]',
                value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]',
                value ->> '$[2][0]', value ->> '$[2][1]', value ->> '$[2][2]', value ->> '$[2][3]'
         FROM json_each($1) WHERE TRUE
         ON CONFLICT (message_id, attempt) DO NOTHING",
    )
    .bind(rows::to_json(&kept)?)
    .execute(&mut **tx)
    .await?;
    lite.sql("DELETE FROM lookups WHERE message_id IN (SELECT value FROM json_each($1))")
        .bind(list(applied.iter().map(|(r, _)| r.message.0))?)
        .execute(&mut **tx)
        .await?;
    tally.write(lite, tx).await
}

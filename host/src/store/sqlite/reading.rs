//! Reading messages and their attempts.

use super::runs::counts;
use super::*;

/// Messages `m` as they are shown, in this order, of the given parts of a FROM.
macro_rules! message_columns {
    ($order:literal, $($from:expr),* $(,)?) => {
        concat!(
            "SELECT m.id, iif(f.message_id IS NULL, m.status, 2) AS status, coalesce(k.address, '') AS address,
                    d.id AS device_id, coalesce(f.attempt, m.attempt) AS attempt, m.failures, m.due_at,
                    coalesce(f.started_at, m.started_at) AS started_at, m.finished_at, m.provider_id,
                    m.reason_code, m.reason_detail, t.digest AS template, y.digest AS delay, s.digest AS sender
             FROM ",
            $($from,)*
            " AS m
             JOIN devices d ON d.no = m.device_no
             LEFT JOIN in_flight f ON f.device_no = m.device_no AND f.message_id = m.id
             JOIN runs r ON r.key = m.id >> 32
             LEFT JOIN contacts k ON k.audience_no = r.audience_no AND k.no = m.id & 4294967295
             LEFT JOIN plugin_versions t ON t.no = coalesce(f.template_no, m.template_no)
             LEFT JOIN plugin_versions y ON y.no = coalesce(f.delay_no, m.delay_no)
             LEFT JOIN plugin_versions s ON s.no = coalesce(f.sender_no, m.sender_no)
             ORDER BY ",
            $order
        )
    };
}

pub(super) use message_columns;

/// Messages of the run after `$1` and up to `$2`, at most `$3`.
macro_rules! page_of_messages {
    ($of:literal) => {
        message_columns!(
            "m.id",
            "(SELECT * FROM messages p WHERE id > $1 AND id <= $2 AND ",
            $of,
            " ORDER BY id LIMIT $3)"
        )
    };
}

/// What waits with this status, device by device; `$4` is the run, `$5` the device where the page begins. The order is that
/// of the loops, which a CROSS JOIN keeps; the limit within keeps that of the devices.
macro_rules! waiting {
    ($by_device:literal, $status:literal) => {
        concat!(
            "SELECT * FROM (
                 SELECT m.* FROM (SELECT DISTINCT device_no FROM run_devices WHERE run_key = $4 AND device_no >= $5
                                  ORDER BY device_no LIMIT -1) d
                 CROSS JOIN ",
            $by_device,
            "    WHERE w.device_no = d.device_no AND m.device_no = d.device_no AND m.status = ",
            $status,
            "      AND w.id > iif(d.device_no = $5, $1, $4 << 32) AND w.id <= $2
                    AND NOT EXISTS (SELECT 1 FROM in_flight f WHERE f.device_no = d.device_no AND f.message_id = m.id)
                 LIMIT $3)"
        )
    };
}

/// Device by device, because what waits is indexed by device: by id, the way to the next one may lead over millions of final
/// messages.
macro_rules! pending {
    () => {
        message_columns!(
            "m.device_no, m.id",
            "(",
            waiting!("waiting w CROSS JOIN messages m ON m.id = w.id", "0"),
            " UNION ALL ",
            waiting!(
                "messages w INDEXED BY messages_deferred_by_device CROSS JOIN messages m ON m.id = w.id",
                "1 AND w.status = 1"
            ),
            " ORDER BY device_no, id LIMIT $3)"
        )
    };
}

pub(super) async fn messages(
    lite: &Sqlite,
    run: RunKey,
    status: Option<MessageStatus>,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<MessageRow, MessageId>> {
    // What the counts know to be nowhere is not looked for.
    if let Some(status) = status
        && counts(lite, &[run]).await?.iter().all(|(_, counts)| counts.of(status) == 0)
    {
        return Ok(Page { items: Vec::new(), next: None });
    }
    let after = cursor.map_or(run.first().0 - 1, |id| id.0).max(run.first().0 - 1);
    let mut upto = run.last();
    let mut query = match status {
        None => lite.rows(page_of_messages!("TRUE")),
        Some(MessageStatus::Pending) => lite.rows(pending!()),
        Some(MessageStatus::Processing) => lite.rows(message_columns!(
            "m.id",
            "(SELECT p.* FROM in_flight f CROSS JOIN messages p ON p.id = f.message_id
              WHERE f.message_id > $1 AND f.message_id <= $2 ORDER BY f.message_id LIMIT $3)"
        )),
        // A partial index is used only where its own condition is repeated.
        Some(MessageStatus::Failed) => lite.rows(page_of_messages!("status >= 6 AND status = 6")),
        Some(MessageStatus::Unknown) => lite.rows(page_of_messages!("status >= 6 AND status = 7")),
        Some(MessageStatus::Suppressed) => lite.rows(page_of_messages!("status >= 6 AND status = 8")),
        Some(MessageStatus::Expired) => lite.rows(page_of_messages!("status >= 6 AND status = 9")),
        Some(MessageStatus::Cancelled) => lite.rows(page_of_messages!("status >= 6 AND status = 10")),
        Some(MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read) => {
            upto = rows::end_of_walk(after, last_message(lite, run).await?, run);
            lite.rows(page_of_messages!("status = $4"))
        }
    };
    query = query.bind(after).bind(upto.0).bind(rows::one_more(limit));
    query = match status {
        Some(MessageStatus::Pending) => {
            let device: Option<i32> = lite
                .scalar("SELECT device_no FROM messages WHERE id = $1")
                .bind(after)
                .fetch_optional(&lite.readers)
                .await?;
            query.bind(run.0).bind(device.unwrap_or(i32::MIN))
        }
        Some(status @ (MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read)) => {
            query.bind(status.codes().first().copied())
        }
        _ => query,
    };
    let found: Vec<rows::MessageSql> = query.fetch_all(&lite.readers).await?;
    let items = found.into_iter().map(rows::MessageSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page_of_walk(items, limit, upto, run))
}

/// The last message of a run; before its first one where there is none.
async fn last_message(lite: &Sqlite, run: RunKey) -> Result<MessageId> {
    let last: Option<i64> = lite
        .scalar("SELECT id FROM messages WHERE id BETWEEN $1 AND $2 ORDER BY id DESC LIMIT 1")
        .bind(run.first().0)
        .bind(run.last().0)
        .fetch_optional(&lite.readers)
        .await?;
    Ok(MessageId(last.unwrap_or(run.first().0 - 1)))
}

pub(super) async fn message(lite: &Sqlite, id: MessageId) -> Result<Option<MessageRow>> {
    lite.rows(message_columns!("m.id", "(SELECT * FROM messages WHERE id = $1)"))
        .bind(id.0)
        .fetch_optional(&lite.readers)
        .await?
        .map(rows::MessageSql::read)
        .transpose()
}

pub(super) async fn attempts(lite: &Sqlite, id: MessageId) -> Result<Vec<AttemptRow>> {
    lite.rows(
        "SELECT a.attempt, d.id AS device_id, a.outcome, a.reason_code, a.reason_detail, a.started_at, a.finished_at,
                t.digest AS template, y.digest AS delay, s.digest AS sender
         FROM attempts a
         JOIN devices d ON d.no = a.device_no
         LEFT JOIN plugin_versions t ON t.no = a.template_no
         LEFT JOIN plugin_versions y ON y.no = a.delay_no
         LEFT JOIN plugin_versions s ON s.no = a.sender_no
         WHERE a.message_id = $1 ORDER BY abs(a.attempt), a.attempt DESC",
    )
    .bind(id.0)
    .fetch_all(&lite.readers)
    .await?
    .into_iter()
    .map(rows::AttemptSql::read)
    .collect()
}

pub(super) async fn ahead_of(
    lite: &Sqlite,
    id: MessageId,
    device: DeviceNo,
    runs: &[RankedRun],
    limit: u32,
) -> Result<u32> {
    let mut ranges = Vec::new();
    for run in runs {
        // Of its own run those that come before it; of the runs before that all.
        let own = run.run == id.run();
        let last = if own { id.0 - 1 } else { run.run.last().0 };
        ranges.push((run.run.first().0, last));
        if own {
            break;
        }
    }
    let count: i64 = lite
        .scalar(
            "SELECT count(*) FROM (
                 SELECT 1 FROM json_each($1) r CROSS JOIN waiting w CROSS JOIN messages m ON m.id = w.id
                 WHERE w.device_no = $2 AND w.id BETWEEN r.value ->> 0 AND r.value ->> 1
                   AND m.status = 0 AND m.device_no = $2 AND m.id IS NOT (SELECT message_id FROM in_flight WHERE device_no = $2)
                 LIMIT $3)",
        )
        .bind(list(ranges)?)
        .bind(device.0)
        .bind(limit)
        .fetch_one(&lite.readers)
        .await?;
    Ok(rows::to_u32(count))
}

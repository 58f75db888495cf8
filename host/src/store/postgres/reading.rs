//! Reading messages and their attempts.

use super::runs::counts;
use super::*;

/// Messages `m` as they are shown, in this order, of the given parts of a FROM.
macro_rules! message_columns {
    ($order:literal, $($from:expr),* $(,)?) => {
        concat!(
            "SELECT m.id, CASE WHEN f.message_id IS NULL THEN m.status ELSE 2::smallint END AS status,
                    coalesce(k.address, '') AS address, d.id AS device_id, coalesce(f.attempt, m.attempt) AS attempt,
                    m.failures, m.due_at, coalesce(f.started_at, m.started_at) AS started_at, m.finished_at, m.provider_id,
                    m.reason_code, m.reason_detail,
                    t.digest AS template, y.digest AS delay, s.digest AS sender
             FROM ",
            $($from,)*
            " AS m
             JOIN devices d ON d.no = m.device_no
             LEFT JOIN in_flight f ON f.device_no = m.device_no AND f.message_id = m.id
             JOIN runs r ON r.key = (m.id >> 32)::int
             LEFT JOIN LATERAL (
                 -- Looked up one by one: the planner would rather read the whole audience for a page.
                 SELECT address FROM contacts
                 WHERE audience_no = r.audience_no AND no = (m.id & 4294967295)::int OFFSET 0) AS k ON TRUE
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

/// Of one device, those that wait with this status; `$4` is the run, `$5` the device where the page begins.
macro_rules! waiting_on_device {
    ($status:literal) => {
        concat!(
            "(SELECT * FROM messages
              WHERE device_no = d.device_no AND status = ",
            $status,
            "   AND id > CASE WHEN d.device_no = $5 THEN $1 ELSE $4::bigint << 32 END AND id <= $2
              ORDER BY id LIMIT $3)"
        )
    };
}

/// Device by device, because what waits is indexed by device: by id, the way to the next one may lead over millions of final
/// messages. No outer ORDER BY: a LATERAL join keeps the order of its left side.
macro_rules! pending {
    () => {
        message_columns!(
            "m.device_no, m.id",
            "(SELECT w.* FROM (SELECT device_no FROM run_devices WHERE run_key = $4 AND device_no >= $5
                               GROUP BY device_no ORDER BY device_no OFFSET 0) AS d
              CROSS JOIN LATERAL (",
            waiting_on_device!("0"),
            " UNION ALL ",
            waiting_on_device!("1"),
            " ORDER BY id LIMIT $3) AS w LIMIT $3)"
        )
    };
}

pub(super) async fn messages(
    pg: &Postgres,
    run: RunKey,
    status: Option<MessageStatus>,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<MessageRow, MessageId>> {
    // What the counts know to be nowhere is not looked for.
    if let Some(status) = status
        && counts(pg, &[run]).await?.iter().all(|(_, counts)| counts.of(status) == 0)
    {
        return Ok(Page { items: Vec::new(), next: None });
    }
    let after = cursor.map_or(run.first().0 - 1, |id| id.0).max(run.first().0 - 1);
    let mut upto = run.last();
    let mut query = match status {
        None => pg.rows(page_of_messages!("TRUE")),
        Some(MessageStatus::Pending) => pg.rows(pending!()),
        Some(MessageStatus::Processing) => pg.rows(message_columns!(
            "m.id",
            "(SELECT p.* FROM in_flight f JOIN messages p ON p.id = f.message_id
              WHERE f.message_id > $1 AND f.message_id <= $2 ORDER BY f.message_id LIMIT $3)"
        )),
        Some(MessageStatus::Failed) => pg.rows(page_of_messages!("status = 6")),
        Some(MessageStatus::Unknown) => pg.rows(page_of_messages!("status = 7")),
        Some(MessageStatus::Suppressed) => pg.rows(page_of_messages!("status = 8")),
        Some(MessageStatus::Expired) => pg.rows(page_of_messages!("status = 9")),
        Some(MessageStatus::Cancelled) => pg.rows(page_of_messages!("status = 10")),
        Some(MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read) => {
            upto = rows::end_of_walk(after, last_message(pg, run).await?, run);
            pg.rows(page_of_messages!("status = $4"))
        }
    };
    query = query.bind(after).bind(upto.0).bind(rows::one_more(limit));
    query = match status {
        Some(MessageStatus::Pending) => {
            let device: Option<i32> =
                pg.scalar("SELECT device_no FROM messages WHERE id = $1").bind(after).fetch_optional(&pg.pool).await?;
            query.bind(run.0).bind(device.unwrap_or(i32::MIN))
        }
        Some(status @ (MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read)) => {
            query.bind(status.codes().first().copied())
        }
        _ => query,
    };
    let found: Vec<rows::MessageSql> = query.fetch_all(&pg.pool).await?;
    let items = found.into_iter().map(rows::MessageSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page_of_walk(items, limit, upto, run))
}

/// The last message of a run; before its first one where there is none.
async fn last_message(pg: &Postgres, run: RunKey) -> Result<MessageId> {
    let last: Option<i64> = pg
        .scalar("SELECT id FROM messages WHERE id BETWEEN $1 AND $2 ORDER BY id DESC LIMIT 1")
        .bind(run.first().0)
        .bind(run.last().0)
        .fetch_optional(&pg.pool)
        .await?;
    Ok(MessageId(last.unwrap_or(run.first().0 - 1)))
}

pub(super) async fn message(pg: &Postgres, id: MessageId) -> Result<Option<MessageRow>> {
    pg.rows(message_columns!("m.id", "(SELECT * FROM messages WHERE id = $1)"))
        .bind(id.0)
        .fetch_optional(&pg.pool)
        .await?
        .map(rows::MessageSql::read)
        .transpose()
}

pub(super) async fn attempts(pg: &Postgres, id: MessageId) -> Result<Vec<AttemptRow>> {
    pg.rows(
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
    .fetch_all(&pg.pool)
    .await?
    .into_iter()
    .map(rows::AttemptSql::read)
    .collect()
}

pub(super) async fn ahead_of(
    pg: &Postgres,
    id: MessageId,
    device: DeviceNo,
    runs: &[RankedRun],
    limit: u32,
) -> Result<u32> {
    let mut keys = Vec::new();
    for run in runs {
        keys.push(run.run.0);
        if run.run == id.run() {
            break;
        }
    }
    let count: i64 = pg
        .scalar(
            "SELECT count(*) FROM (
                 SELECT FROM unnest($1::int[]) AS r (key)
                 CROSS JOIN LATERAL (
                     SELECT FROM messages p
                     WHERE device_no = $2 AND status = 0
                       AND NOT EXISTS (SELECT FROM in_flight f WHERE f.device_no = $2 AND f.message_id = p.id)
                       AND id >= r.key::bigint << 32
                       AND id < CASE WHEN r.key = ($3::bigint >> 32)::int THEN $3 ELSE (r.key::bigint + 1) << 32 END
                     LIMIT $4) AS m
                 LIMIT $4) AS ahead",
        )
        .bind(keys)
        .bind(device.0)
        .bind(id.0)
        .bind(i64::from(limit))
        .fetch_one(&pg.pool)
        .await?;
    Ok(rows::to_u32(count))
}

//! Reading messages and their attempts.

use super::*;

macro_rules! message_columns {
    ($($from:tt)*) => {
        concat!(
            "SELECT m.id, CASE WHEN f.message_id IS NULL THEN m.status ELSE 2::smallint END AS status,
                    coalesce(k.address, '') AS address, d.id AS device_id, coalesce(f.attempt, m.attempt) AS attempt,
                    m.failures, m.due_at, coalesce(f.started_at, m.started_at) AS started_at, m.finished_at, m.provider_id,
                    m.reason_code, m.reason_detail,
                    t.digest AS template, y.digest AS delay, s.digest AS sender
             FROM ",
            $($from)*,
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
             ORDER BY m.id"
        )
    };
}

macro_rules! page_of_messages {
    ($of:literal) => {
        message_columns!(concat!(
            "(SELECT * FROM messages p WHERE id > $1 AND id <= $2 AND ",
            $of,
            " ORDER BY id LIMIT $3)"
        ))
    };
}

pub(super) async fn messages(
    pg: &Postgres,
    run: RunKey,
    status: Option<MessageStatus>,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<MessageRow, MessageId>> {
    // A text per status where an index knows it; the others walk the run's part of the primary key.
    let query = match status {
        None => pg.rows(page_of_messages!("TRUE")),
        Some(MessageStatus::Pending) => pg.rows(page_of_messages!(
            "status IN (0, 1)
                 AND NOT EXISTS (SELECT FROM in_flight f WHERE f.device_no = p.device_no AND f.message_id = p.id)"
        )),
        Some(MessageStatus::Processing) => pg.rows(message_columns!(
            "(SELECT p.* FROM in_flight f JOIN messages p ON p.id = f.message_id
              WHERE f.message_id > $1 AND f.message_id <= $2 ORDER BY f.message_id LIMIT $3)"
        )),
        Some(MessageStatus::Failed) => pg.rows(page_of_messages!("status = 6")),
        Some(MessageStatus::Unknown) => pg.rows(page_of_messages!("status = 7")),
        Some(_) => pg.rows(page_of_messages!("status = $4")),
    };
    let before = cursor.map_or(run.first().0 - 1, |id| id.0).max(run.first().0 - 1);
    let query = query.bind(before).bind(run.last().0).bind(rows::one_more(limit));
    let query = match status {
        Some(
            status @ (MessageStatus::Sent
            | MessageStatus::Delivered
            | MessageStatus::Read
            | MessageStatus::Suppressed
            | MessageStatus::Expired
            | MessageStatus::Cancelled),
        ) => query.bind(status.codes().first().copied()),
        _ => query,
    };
    let found: Vec<rows::MessageSql> = query.fetch_all(&pg.pool).await?;
    let items = found.into_iter().map(rows::MessageSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |m| m.id))
}

pub(super) async fn message(pg: &Postgres, id: MessageId) -> Result<Option<MessageRow>> {
    pg.rows(message_columns!("(SELECT * FROM messages WHERE id = $1)"))
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
         WHERE a.message_id = $1 ORDER BY a.attempt",
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

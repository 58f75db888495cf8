//! What waits and what is being sent; from the one to the other and to the end goes `turn`.

use std::collections::BTreeSet;

pub(super) use super::turn::turn;
pub(super) use super::waiting::{devices_with_ready, top_up};
use super::*;
use crate::message::Reason;

/// When the first deferred message is due.
async fn next_deferred(lite: &Sqlite) -> Result<Option<Time>> {
    let next: Option<i64> = lite
        .scalar("SELECT due_at FROM messages INDEXED BY messages_deferred WHERE status = 1 ORDER BY due_at LIMIT 1")
        .fetch_optional(&lite.readers)
        .await?;
    Ok(rows::time(next))
}

pub(super) async fn promote_due(lite: &Sqlite, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
    // The writer is left alone while nothing is due.
    let next = next_deferred(lite).await?;
    if next.is_none_or(|at| at > now) {
        return Ok((Vec::new(), next));
    }
    let devices: Vec<i32> = lite
        .scalar(
            "UPDATE messages SET status = 0 WHERE id IN (
                 SELECT id FROM messages INDEXED BY messages_deferred WHERE status = 1 AND due_at <= $1
                 ORDER BY due_at, id LIMIT $2)
             RETURNING device_no",
        )
        .bind(now.as_ms())
        .bind(limit)
        .fetch_all(&lite.writer)
        .await?;
    let devices: BTreeSet<i32> = devices.into_iter().collect();
    Ok((devices.into_iter().map(DeviceNo).collect(), next_deferred(lite).await?))
}

macro_rules! in_flight {
    ($of:literal) => {
        concat!(
            "SELECT f.message_id AS id, f.device_no, f.token AS lease_token, f.attempt, m.failures, f.started_at, f.host_id,
                    f.template_no, f.delay_no, f.sender_no, coalesce(h.heartbeat_at >= $2, 0) AS host_alive
             FROM in_flight f CROSS JOIN messages m ON m.id = f.message_id LEFT JOIN hosts h ON h.id = f.host_id
             WHERE f.message_id > $1 ",
            $of,
            " ORDER BY f.message_id LIMIT $3"
        )
    };
}

pub(super) async fn in_flight(
    lite: &Sqlite,
    device: Option<DeviceNo>,
    after: Option<MessageId>,
    limit: u32,
    now: Time,
    alive: Duration,
) -> Result<Vec<InFlight>> {
    let query = match device {
        None => lite.rows::<rows::InFlightSql>(in_flight!("")),
        Some(_) => lite.rows(in_flight!("AND f.device_no = $4")),
    };
    let query = query.bind(after.map_or(0, |id| id.0)).bind(now.minus(alive).as_ms()).bind(limit);
    let query = match device {
        None => query,
        Some(device) => query.bind(device.0),
    };
    Ok(query.fetch_all(&lite.readers).await?.into_iter().map(InFlight::from).collect())
}

pub(super) async fn defer(lite: &Sqlite, messages: &[MessageId], due_at: Time, reason: &str) -> Result<u64> {
    let done = lite
        .sql(concat!(
            "UPDATE messages SET status = 1, due_at = $2, reason_code = $3, reason_detail = NULL
             WHERE id IN (SELECT value FROM json_each($1)) AND +status = 0 AND ",
            not_in_flight!("messages")
        ))
        .bind(list(messages.iter().map(|id| id.0))?)
        .bind(due_at.as_ms())
        .bind(Reason::new(reason, "").code)
        .execute(&lite.writer)
        .await?;
    Ok(done.rows_affected())
}

macro_rules! reassign {
    ($from:literal) => {
        concat!(
            "UPDATE messages SET device_no = t.value
             FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM (
                       SELECT m.id FROM ",
            $from,
            " AND m.device_no = $1 AND m.id BETWEEN $2 AND $3 AND ",
            not_in_flight!("m"),
            " ORDER BY m.id LIMIT $4)) AS v
             JOIN json_each($5) AS t ON t.key = v.n % json_array_length($5)
             WHERE messages.id = v.id"
        )
    };
}

pub(super) async fn reassign(lite: &Sqlite, from: DeviceNo, run: RunKey, to: &[DeviceNo], limit: u32) -> Result<u64> {
    let to: Vec<i32> = to.iter().filter(|no| **no != from).map(|no| no.0).collect();
    if to.is_empty() {
        return Ok(0);
    }
    let to = list(to)?;
    let mut tx = lite.begin().await?;
    let mut moved = 0;
    for text in [
        reassign!(
            "waiting w CROSS JOIN messages m ON m.id = w.id
             WHERE w.device_no = $1 AND w.id BETWEEN $2 AND $3 AND m.status = 0"
        ),
        reassign!("messages m INDEXED BY messages_deferred_by_device WHERE m.status = 1"),
    ] {
        let left = u64::from(limit).saturating_sub(moved);
        moved += lite
            .sql(text)
            .bind(from.0)
            .bind(run.first().0)
            .bind(run.last().0)
            .bind(i64::try_from(left).unwrap_or(0))
            .bind(&to)
            .execute(&mut *tx)
            .await?
            .rows_affected();
    }
    lite.commit(tx).await?;
    Ok(moved)
}

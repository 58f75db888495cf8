//! What waits and what is being sent; from the one to the other and to the end goes `turn`.

pub(super) use super::turn::turn;
use super::*;
use crate::message::Reason;

from_row! {
    struct TopUpSql {
        device_no: i32,
        ids: Vec<i64>,
        ranks: Vec<i64>,
        next_at: Option<i64>,
        pace: Option<String>,
    }
}

pub(super) async fn top_up(pg: &Postgres, devices: &[DeviceNo], runs: &[RankedRun], window: u32) -> Result<Vec<TopUp>> {
    if devices.is_empty() || runs.is_empty() {
        return Ok(Vec::new());
    }
    // For each device one probe of the index per run, in the runs' order, until the window is full. The inner LIMIT has no
    // ORDER BY on purpose: a LATERAL join can only be a nested loop over the list as it was passed, and a sort would
    // read every run to its window before it dropped all but one window.
    let found: Vec<TopUpSql> = pg
        .rows(
            "SELECT d.device_no, t.ids, t.ranks, s.next_at, s.pace
             FROM unnest($1::int[]) AS d (device_no)
             CROSS JOIN LATERAL (
                 SELECT array_agg(w.id) AS ids, array_agg(w.rank) AS ranks FROM (
                     SELECT m.id, r.rank
                     FROM unnest($2::int[], $3::bigint[]) AS r (key, rank)
                     CROSS JOIN LATERAL (
                         SELECT id FROM messages
                         WHERE device_no = d.device_no AND status = 0
                           AND id >= r.key::bigint << 32 AND id < (r.key::bigint + 1) << 32
                         ORDER BY id LIMIT $4) AS m
                     LIMIT $4) AS w) AS t
             LEFT JOIN device_state s ON s.device_no = d.device_no
             WHERE t.ids IS NOT NULL",
        )
        .bind(devices.iter().map(|no| no.0).collect::<Vec<_>>())
        .bind(runs.iter().map(|r| r.run.0).collect::<Vec<_>>())
        .bind(runs.iter().map(|r| r.rank).collect::<Vec<_>>())
        .bind(i64::from(window))
        .fetch_all(&pg.pool)
        .await?;
    let read = |row: TopUpSql| TopUp {
        device: DeviceNo(row.device_no),
        messages: row.ids.into_iter().map(MessageId).zip(row.ranks).collect(),
        pace: rows::saved_pace(row.next_at, row.pace),
    };
    Ok(found.into_iter().map(read).collect())
}

pub(super) async fn devices_with_ready(pg: &Postgres, after: Option<DeviceNo>, limit: u32) -> Result<Vec<DeviceNo>> {
    // Jumps from device to device in the index instead of reading every ready message.
    let found: Vec<i32> = pg
        .scalar(
            "WITH RECURSIVE d (no) AS (
                 (SELECT device_no FROM messages WHERE status = 0 AND device_no > $1 ORDER BY device_no LIMIT 1)
                 UNION ALL
                 SELECT (SELECT m.device_no FROM messages m WHERE m.status = 0 AND m.device_no > d.no
                         ORDER BY m.device_no LIMIT 1)
                 FROM d WHERE d.no IS NOT NULL)
             SELECT no FROM d WHERE no IS NOT NULL LIMIT $2",
        )
        .bind(after.map_or(i32::MIN, |no| no.0))
        .bind(i64::from(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(DeviceNo).collect())
}

pub(super) async fn promote_due(pg: &Postgres, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
    let devices: Vec<i32> = pg
        .scalar(
            "WITH due AS MATERIALIZED (
                 SELECT id FROM messages WHERE status = 1 AND due_at <= $1
                 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED),
             promoted AS (
                 UPDATE messages m SET status = 0 FROM due WHERE m.id = due.id RETURNING m.device_no)
             SELECT DISTINCT device_no FROM promoted ORDER BY device_no",
        )
        .bind(now.as_ms())
        .bind(i64::from(limit))
        .fetch_all(&pg.pool)
        .await?;
    let next: Option<i64> = pg
        .scalar("SELECT due_at FROM messages WHERE status = 1 ORDER BY due_at LIMIT 1")
        .fetch_optional(&pg.pool)
        .await?;
    Ok((devices.into_iter().map(DeviceNo).collect(), rows::time(next)))
}

macro_rules! in_flight {
    ($of:literal) => {
        concat!(
            "SELECT f.message_id AS id, f.device_no, f.token AS lease_token, f.attempt, m.failures, f.started_at, f.host_id,
                    f.template_no, f.delay_no, f.sender_no, coalesce(h.heartbeat_at >= $2, FALSE) AS host_alive
             FROM in_flight f JOIN messages m ON m.id = f.message_id LEFT JOIN hosts h ON h.id = f.host_id
             WHERE f.message_id > $1",
            $of,
            " ORDER BY f.message_id LIMIT $3"
        )
    };
}

pub(super) async fn in_flight(
    pg: &Postgres,
    device: Option<DeviceNo>,
    after: Option<MessageId>,
    limit: u32,
    now: Time,
    alive: Duration,
) -> Result<Vec<InFlight>> {
    let query = match device {
        Some(device) => pg
            .rows::<rows::InFlightSql>(in_flight!(" AND f.device_no = $4"))
            .bind(after.map_or(0, |id| id.0))
            .bind(now.minus(alive).as_ms())
            .bind(i64::from(limit))
            .bind(device.0),
        None => pg
            .rows(in_flight!(""))
            .bind(after.map_or(0, |id| id.0))
            .bind(now.minus(alive).as_ms())
            .bind(i64::from(limit)),
    };
    Ok(query.fetch_all(&pg.pool).await?.into_iter().map(InFlight::from).collect())
}

pub(super) async fn defer(pg: &Postgres, messages: &[MessageId], due_at: Time, reason: &str) -> Result<u64> {
    let mut ids: Vec<i64> = messages.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    repeating(|| async {
        let mut tx = pg.begin().await?;
        still_runs(pg, &mut tx, messages.iter().map(|id| id.run())).await?;
        let done = pg
            .sql(concat!(
                "UPDATE messages m SET status = 1, due_at = $2, reason_code = $3, reason_detail = NULL
                 WHERE id = ANY($1) AND status = 0 AND ",
                not_in_flight!("m")
            ))
            .bind(&ids)
            .bind(due_at.as_ms())
            .bind(Reason::new(reason, "").code)
            .execute(&mut *tx)
            .await?;
        pg.commit(tx).await?;
        Ok(done.rows_affected())
    })
    .await
}

macro_rules! reassign {
    ($status:literal) => {
        concat!(
            "WITH moving AS MATERIALIZED (
                 SELECT id, row_number() OVER (ORDER BY id) AS n FROM (
                     SELECT id FROM messages m WHERE device_no = $1 AND id BETWEEN $2 AND $3 AND status = ",
            $status,
            " AND ",
            not_in_flight!("m"),
            " ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED) AS locked)
             UPDATE messages m SET device_no = ($5::int[])[1 + (v.n - 1) % cardinality($5::int[])]
             FROM moving v WHERE m.id = v.id"
        )
    };
}

pub(super) async fn reassign(pg: &Postgres, from: DeviceNo, run: RunKey, to: &[DeviceNo], limit: u32) -> Result<u64> {
    let to: Vec<i32> = to.iter().filter(|no| **no != from).map(|no| no.0).collect();
    if to.is_empty() {
        return Ok(0);
    }
    repeating(|| async {
        let mut tx = pg.begin().await?;
        still_runs(pg, &mut tx, [run]).await?;
        let mut left = i64::from(limit);
        let mut moved = 0;
        for text in [reassign!("0"), reassign!("1")] {
            if left > 0 {
                let done = pg
                    .sql(text)
                    .bind(from.0)
                    .bind(run.first().0)
                    .bind(run.last().0)
                    .bind(left)
                    .bind(&to)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                moved += done;
                left -= i64::try_from(done).unwrap_or(left);
            }
        }
        pg.commit(tx).await?;
        Ok(moved)
    })
    .await
}

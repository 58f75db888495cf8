//! The hot path, up to the begin of an attempt; its end is in `settle`.

use std::collections::{HashMap, HashSet};

pub(super) use super::settle::settle;
use super::*;
use crate::message::{Reason, Work, code};

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

pub(super) async fn begin(pg: &Postgres, host: HostId, claims: &[Claim], now: Time) -> Result<Vec<Begun>> {
    // A device or a message that is named twice would break the statement for all: repeats go one by one, after.
    let (mut devices, mut messages) = (HashSet::new(), HashSet::new());
    let (first, repeats): (Vec<&Claim>, Vec<&Claim>) =
        claims.iter().partition(|c| devices.insert(c.device) & messages.insert(c.message));
    let mut started: HashMap<(MessageId, i64), Work> = HashMap::new();
    let mut keep = |claim: &Claim, work| started.insert((claim.message, claim.token), work);
    let batches = std::iter::once(first.as_slice()).chain(repeats.chunks(1));
    for batch in batches.filter(|b| !b.is_empty()) {
        match take(pg, host, batch, now).await {
            Ok(taken) => {
                for (claim, work) in taken {
                    keep(claim, work);
                }
            }
            // Another server took a message of one of the devices at this very moment. Only that device's claim loses.
            Err(error) if rows::is_taken(&error) => {
                for claim in batch {
                    match take(pg, host, std::slice::from_ref(claim), now).await {
                        Ok(taken) => {
                            for (claim, work) in taken {
                                keep(claim, work);
                            }
                        }
                        Err(error) if rows::is_taken(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    let left: Vec<&Claim> = claims.iter().filter(|c| !started.contains_key(&(c.message, c.token))).collect();
    let mut refused = if left.is_empty() { Vec::new() } else { refuse(pg, &left, now).await? }.into_iter();
    Ok(claims
        .iter()
        .map(|claim| match started.remove(&(claim.message, claim.token)) {
            Some(work) => Begun::Started(Box::new(work)),
            // Gone: the same claim twice in one call; the first of them started.
            None => refused.next().unwrap_or(Begun::Gone),
        })
        .collect())
}

/// Takes the messages of claims that name different devices: one statement, committed when it returns.
async fn take<'a>(pg: &Postgres, host: HostId, claims: &[&'a Claim], now: Time) -> Result<Vec<(&'a Claim, Work)>> {
    let column = |of: fn(&Claim) -> i32| claims.iter().map(|c| of(c)).collect::<Vec<_>>();
    let taken: Vec<rows::WorkSql> = repeating(|| async {
        Ok(pg
            .rows(
                "UPDATE messages m SET status = 2, attempt = m.attempt + 1, lease_token = c.token, host_id = $7,
                        started_at = $8, template_no = c.template_no, delay_no = c.delay_no, sender_no = c.sender_no
                 FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::int[], $5::int[], $6::int[])
                      AS c (id, device_no, token, template_no, delay_no, sender_no)
                 JOIN runs r ON r.key = (c.id >> 32)::int
                 JOIN contacts k ON k.audience_no = r.audience_no AND k.no = (c.id & 4294967295)::int
                 JOIN devices d ON d.no = c.device_no
                 WHERE m.id = c.id AND m.status = 0 AND m.device_no = c.device_no
                   AND r.active AND (r.expires_at IS NULL OR r.expires_at > $8)
                   AND NOT EXISTS (SELECT FROM suppressions s
                                   WHERE s.address = k.address AND s.channel IN ('', d.channel))
                   AND NOT EXISTS (SELECT FROM messages b WHERE b.device_no = c.device_no AND b.status = 2)
                 RETURNING m.id, m.attempt, m.failures, m.due_at, k.address, k.locale, k.zone, k.variables",
            )
            .bind(claims.iter().map(|c| c.message.0).collect::<Vec<_>>())
            .bind(column(|c| c.device.0))
            .bind(claims.iter().map(|c| c.token).collect::<Vec<_>>())
            .bind(column(|c| c.versions.template.0))
            .bind(column(|c| c.versions.delay.0))
            .bind(column(|c| c.versions.sender.0))
            .bind(host.0)
            .bind(now.as_ms())
            .fetch_all(&pg.pool)
            .await?)
    })
    .await?;
    let by_id: HashMap<i64, &Claim> = claims.iter().map(|c| (c.message.0, *c)).collect();
    let mut out = Vec::with_capacity(taken.len());
    for row in taken {
        if let Some(claim) = by_id.get(&row.id) {
            out.push((*claim, row.read()?));
        }
    }
    Ok(out)
}

from_row! {
    /// Why a claim was not taken.
    struct Refusal {
        waiting: bool,
        active: bool,
        expired: bool,
        suppressed: bool,
    }
}

/// Says why these claims were not taken, and makes those final that must not be sent at all. In the claims' order.
async fn refuse(pg: &Postgres, claims: &[&Claim], now: Time) -> Result<Vec<Begun>> {
    let ids: Vec<i64> = claims.iter().map(|c| c.message.0).collect();
    let devices: Vec<i32> = claims.iter().map(|c| c.device.0).collect();
    let refusals: Vec<Refusal> = pg
        .rows(
            "SELECT coalesce(m.status = 0 AND m.device_no = c.device_no, FALSE) AS waiting,
                    coalesce(r.active, FALSE) AS active, coalesce(r.expires_at <= $3, FALSE) AS expired,
                    EXISTS (SELECT FROM suppressions s
                            WHERE s.address = k.address AND s.channel IN ('', d.channel)) AS suppressed
             FROM unnest($1::bigint[], $2::int[]) WITH ORDINALITY AS c (id, device_no, pos)
             LEFT JOIN messages m ON m.id = c.id
             LEFT JOIN runs r ON r.key = (c.id >> 32)::int
             LEFT JOIN contacts k ON k.audience_no = r.audience_no AND k.no = (c.id & 4294967295)::int
             LEFT JOIN devices d ON d.no = c.device_no
             ORDER BY c.pos",
        )
        .bind(&ids)
        .bind(&devices)
        .bind(now.as_ms())
        .fetch_all(&pg.pool)
        .await?;
    let mut answers: Vec<Begun> = refusals
        .iter()
        .map(|r| match r {
            Refusal { waiting: false, .. } => Begun::Gone,
            Refusal { active: false, .. } => Begun::Inactive,
            Refusal { expired: true, .. } => Begun::Expired,
            Refusal { suppressed: true, .. } => Begun::Suppressed,
            _ => Begun::DeviceBusy,
        })
        .collect();
    let mut last = Vec::new();
    for (claim, answer) in claims.iter().zip(&answers) {
        match answer {
            Begun::Suppressed => last.push((claim.message.0, claim.device.0, code::SUPPRESSED)),
            Begun::Expired => last.push((claim.message.0, claim.device.0, code::EXPIRED)),
            _ => {}
        }
    }
    if !last.is_empty() {
        last.sort_unstable();
        last.dedup();
        let done = end_unsent(pg, &last, now).await?;
        for (claim, answer) in claims.iter().zip(&mut answers) {
            if matches!(answer, Begun::Suppressed | Begun::Expired) && !done.contains(&claim.message.0) {
                *answer = Begun::Gone;
            }
        }
    }
    Ok(answers)
}

/// Makes ready messages final without a send: `(message, device, code)`. Returns those that were.
async fn end_unsent(pg: &Postgres, messages: &[(i64, i32, i16)], now: Time) -> Result<HashSet<i64>> {
    repeating(|| async {
        let done: Vec<i64> = pg
            .scalar(
                "WITH done AS (
                     UPDATE messages m SET status = f.code, finished_at = $4
                     FROM unnest($1::bigint[], $2::int[], $3::smallint[]) AS f (id, device_no, code)
                     WHERE m.id = f.id AND m.status = 0 AND m.device_no = f.device_no
                     RETURNING m.id, m.status),
                 counted AS (
                     INSERT INTO run_counts AS c (run_key, shard, suppressed, expired)
                     SELECT (id >> 32)::int, $5, count(*) FILTER (WHERE status = 8), count(*) FILTER (WHERE status = 9)
                     FROM done GROUP BY 1 ORDER BY 1
                     ON CONFLICT (run_key, shard) DO UPDATE
                         SET suppressed = c.suppressed + excluded.suppressed, expired = c.expired + excluded.expired),
                 exited AS (
                     UPDATE enrolments e SET status = 3, exit_reason = 'suppressed'
                     FROM done m JOIN runs r ON r.key = (m.id >> 32)::int
                     WHERE m.status = 8 AND e.sequence_no = r.sequence_no AND e.step = r.step AND e.status = 1
                       AND e.contact_no = (m.id & 4294967295)::int)
                 SELECT id FROM done",
            )
            .bind(messages.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
            .bind(messages.iter().map(|(_, device, _)| *device).collect::<Vec<_>>())
            .bind(messages.iter().map(|(.., code)| *code).collect::<Vec<_>>())
            .bind(now.as_ms())
            .bind(pg.shard)
            .fetch_all(&pg.pool)
            .await?;
        Ok(done.into_iter().collect())
    })
    .await
}

macro_rules! in_flight {
    ($of:literal) => {
        concat!(
            // Materialized, or the order by id could lure the planner into walking the primary key.
            "WITH busy AS MATERIALIZED (
                 SELECT id, device_no, lease_token, attempt, failures, started_at, host_id, sender_no
                 FROM messages WHERE status = 2 AND ",
            $of,
            ")
             SELECT b.*, coalesce(h.heartbeat_at >= $2, FALSE) AS host_alive
             FROM busy b LEFT JOIN hosts h ON h.id = b.host_id ORDER BY b.id LIMIT $3"
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
            .rows::<rows::InFlightSql>(in_flight!("id > $1 AND device_no = $4"))
            .bind(after.map_or(0, |id| id.0))
            .bind(now.minus(alive).as_ms())
            .bind(i64::from(limit))
            .bind(device.0),
        None => pg
            .rows(in_flight!("id > $1"))
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
        let done = pg
            .sql(
                "UPDATE messages SET status = 1, due_at = $2, reason_code = $3, reason_detail = NULL
                 WHERE id = ANY($1) AND status = 0",
            )
            .bind(&ids)
            .bind(due_at.as_ms())
            .bind(Reason::new(reason, "").code)
            .execute(&pg.pool)
            .await?;
        Ok(done.rows_affected())
    })
    .await
}

macro_rules! reassign {
    ($status:literal) => {
        concat!(
            "WITH moving AS MATERIALIZED (
                 SELECT id, row_number() OVER (ORDER BY id) AS n FROM (
                     SELECT id FROM messages WHERE device_no = $1 AND id BETWEEN $2 AND $3 AND status = ",
            $status,
            " ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED) AS locked)
             UPDATE messages m SET device_no = ($5::int[])[1 + (v.n - 1) % cardinality($5::int[])]
             FROM moving v WHERE m.id = v.id"
        )
    };
}

pub(super) async fn reassign(pg: &Postgres, from: DeviceNo, run: RunKey, to: &[DeviceNo], limit: u32) -> Result<u64> {
    let to: Vec<i32> = to.iter().filter(|no| **no != from).map(|no| no.0).collect();
    let mut left = i64::from(limit);
    let mut moved = 0;
    if to.is_empty() {
        return Ok(0);
    }
    for text in [reassign!("0"), reassign!("1")] {
        if left > 0 {
            let done = pg
                .sql(text)
                .bind(from.0)
                .bind(run.first().0)
                .bind(run.last().0)
                .bind(left)
                .bind(&to)
                .execute(&pg.pool)
                .await?
                .rows_affected();
            moved += done;
            left -= i64::try_from(done).unwrap_or(left);
        }
    }
    Ok(moved)
}

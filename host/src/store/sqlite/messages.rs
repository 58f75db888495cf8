//! The hot path, up to the begin of an attempt; its end is in `settle`.

use std::collections::{BTreeSet, HashSet};

pub(super) use super::settle::settle;
use super::*;
use crate::message::Reason;

pub(super) async fn top_up(lite: &Sqlite, devices: &[DeviceNo], runs: &[RankedRun], window: u32) -> Result<Vec<TopUp>> {
    if devices.is_empty() || runs.is_empty() {
        return Ok(Vec::new());
    }
    let ranges = list(runs.iter().map(|r| (r.run.first().0, r.run.last().0, r.rank)))?;
    let mut out = Vec::new();
    for device in devices {
        // One probe of the index per run, in the runs' order, until the window is full. There is no ORDER BY on purpose: a
        // CROSS JOIN is a nested loop over the list as it was passed, and a sort would read every run to its end.
        let found: Vec<(i64, i64)> = lite
            .rows(
                "SELECT m.id, r.value ->> 2 FROM json_each($1) r CROSS JOIN messages m INDEXED BY messages_ready
                 WHERE m.device_no = $2 AND m.status = 0 AND m.id BETWEEN r.value ->> 0 AND r.value ->> 1 LIMIT $3",
            )
            .bind(&ranges)
            .bind(device.0)
            .bind(window)
            .fetch_all(&lite.readers)
            .await?;
        if found.is_empty() {
            continue;
        }
        let pace: Option<(i64, String)> = lite
            .rows("SELECT next_at, pace FROM device_state WHERE device_no = $1")
            .bind(device.0)
            .fetch_optional(&lite.readers)
            .await?;
        let (next_at, pace) = pace.unzip();
        out.push(TopUp {
            device: *device,
            messages: found.into_iter().map(|(id, rank)| (MessageId(id), rank)).collect(),
            pace: rows::saved_pace(next_at, pace),
        });
    }
    Ok(out)
}

pub(super) async fn devices_with_ready(lite: &Sqlite, after: Option<DeviceNo>, limit: u32) -> Result<Vec<DeviceNo>> {
    // Jumps from device to device in the index instead of reading every ready message.
    let found: Vec<i32> = lite
        .scalar(
            "WITH RECURSIVE d (no) AS (
                 SELECT min(device_no) FROM messages INDEXED BY messages_ready WHERE status = 0 AND device_no > $1
                 UNION ALL
                 SELECT (SELECT min(m.device_no) FROM messages m INDEXED BY messages_ready
                         WHERE m.status = 0 AND m.device_no > d.no)
                 FROM d WHERE d.no IS NOT NULL)
             SELECT no FROM d WHERE no IS NOT NULL LIMIT $2",
        )
        .bind(after.map_or(i64::from(i32::MIN) - 1, |no| i64::from(no.0)))
        .bind(limit)
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(DeviceNo).collect())
}

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

from_row! {
    /// A claim's message, and all that decides whether it may be taken.
    struct Claimed {
        waiting: bool,
        active: bool,
        expired: bool,
        suppressed: bool,
        busy: bool,
        attempt: Option<i32>,
        failures: Option<i16>,
        due_at: Option<i64>,
        address: Option<String>,
        locale: Option<String>,
        zone: Option<String>,
        variables: Option<String>,
    }
}

impl Claimed {
    fn work(self, message: MessageId) -> Option<rows::WorkSql> {
        Some(rows::WorkSql {
            id: message.0,
            attempt: self.attempt? + 1,
            failures: self.failures?,
            due_at: self.due_at?,
            address: self.address?,
            locale: self.locale,
            zone: self.zone,
            variables: self.variables?,
        })
    }
}

pub(super) async fn begin(lite: &Sqlite, host: HostId, claims: &[Claim], now: Time) -> Result<Vec<Begun>> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = lite.begin().await?;
    let found: Vec<Claimed> = lite
        .rows(
            "SELECT coalesce(m.status = 0 AND m.device_no = c.device_no, 0) AS waiting, coalesce(r.active, 0) AS active,
                    coalesce(r.expires_at <= $2, 0) AS expired,
                    EXISTS (SELECT 1 FROM suppressions s
                            WHERE s.address = k.address AND s.channel IN ('', d.channel)) AS suppressed,
                    EXISTS (SELECT 1 FROM messages b INDEXED BY messages_processing
                            WHERE b.device_no = c.device_no AND b.status = 2) AS busy,
                    m.attempt, m.failures, m.due_at, k.address, k.locale, k.zone, k.variables
             FROM (SELECT key AS pos, value ->> 0 AS id, value ->> 1 AS device_no FROM json_each($1)) AS c
             LEFT JOIN messages m ON m.id = c.id
             LEFT JOIN runs r ON r.key = m.id >> 32
             LEFT JOIN contacts k ON k.audience_no = r.audience_no AND k.no = m.id & 4294967295
             LEFT JOIN devices d ON d.no = c.device_no
             ORDER BY c.pos",
        )
        .bind(list(claims.iter().map(|c| (c.message.0, c.device.0)))?)
        .bind(now.as_ms())
        .fetch_all(&mut *tx)
        .await?;
    // The write lock is held: what was read stays true, and only this batch itself can come in its own way.
    let (mut devices, mut messages) = (HashSet::new(), HashSet::new());
    let mut answers = Vec::with_capacity(claims.len());
    let mut taken = Vec::new();
    let mut ended = Vec::new();
    for (claim, row) in claims.iter().zip(found) {
        let answer = match row {
            _ if messages.contains(&claim.message) => Begun::Gone,
            Claimed { waiting: false, .. } => Begun::Gone,
            Claimed { active: false, .. } => Begun::Inactive,
            Claimed { expired: true, .. } => Begun::Expired,
            Claimed { suppressed: true, .. } => Begun::Suppressed,
            Claimed { busy: true, .. } => Begun::DeviceBusy,
            _ if devices.contains(&claim.device) => Begun::DeviceBusy,
            row => match row.work(claim.message) {
                Some(work) => Begun::Started(Box::new(work.read()?)),
                None => return Err(rows::broken("a message without its contact")),
            },
        };
        match &answer {
            Begun::Started(_) => {
                devices.insert(claim.device);
                messages.insert(claim.message);
                let v = claim.versions;
                taken.push((claim.message.0, claim.token, v.template.0, v.delay.0, v.sender.0));
            }
            Begun::Suppressed | Begun::Expired => {
                messages.insert(claim.message);
                let code = if answer == Begun::Expired { code::EXPIRED } else { code::SUPPRESSED };
                ended.push((claim.message, code));
            }
            _ => {}
        }
        answers.push(answer);
    }
    if taken.is_empty() && ended.is_empty() {
        return Ok(answers);
    }
    if !taken.is_empty() {
        lite.sql(
            "UPDATE messages SET status = 2, attempt = attempt + 1, lease_token = c.value ->> 1, host_id = $2,
                    started_at = $3, template_no = c.value ->> 2, delay_no = c.value ->> 3, sender_no = c.value ->> 4
             FROM json_each($1) c WHERE messages.id = c.value ->> 0 AND messages.status = 0",
        )
        .bind(list(taken)?)
        .bind(host.0)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    }
    end_unsent(lite, &mut tx, &ended, now).await?;
    lite.commit(tx).await?;
    Ok(answers)
}

/// Makes ready messages final without a send.
async fn end_unsent(lite: &Sqlite, tx: &mut Tx, messages: &[(MessageId, i16)], now: Time) -> Result<()> {
    let mut tally = Tally::default();
    for (message, status) in messages {
        lite.sql("UPDATE messages SET status = $2, finished_at = $3 WHERE id = $1")
            .bind(message.0)
            .bind(*status)
            .bind(now.as_ms())
            .execute(&mut **tx)
            .await?;
        tally.status(message.run(), *status, 1);
        if *status == code::SUPPRESSED {
            lite.sql(
                "UPDATE enrolments SET status = 3, exit_reason = 'suppressed'
                 FROM runs r WHERE r.key = $1 AND enrolments.sequence_no = r.sequence_no AND enrolments.step = r.step
                   AND enrolments.contact_no = $2 AND enrolments.status = 1",
            )
            .bind(message.run().0)
            .bind(rows::to_i32(message.contact()))
            .execute(&mut **tx)
            .await?;
        }
    }
    tally.write(lite, tx).await
}

macro_rules! in_flight {
    ($of:literal) => {
        concat!(
            "SELECT b.id, b.device_no, b.lease_token, b.attempt, b.failures, b.started_at, b.host_id, b.sender_no,
                    coalesce(h.heartbeat_at >= $2, 0) AS host_alive
             FROM messages b INDEXED BY messages_processing LEFT JOIN hosts h ON h.id = b.host_id
             WHERE b.status = 2 AND b.id > $1 ",
            $of,
            " ORDER BY b.id LIMIT $3"
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
        Some(_) => lite.rows(in_flight!("AND b.device_no = $4")),
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
        .sql(
            "UPDATE messages SET status = 1, due_at = $2, reason_code = $3, reason_detail = NULL
             WHERE id IN (SELECT value FROM json_each($1)) AND +status = 0",
        )
        .bind(list(messages.iter().map(|id| id.0))?)
        .bind(due_at.as_ms())
        .bind(Reason::new(reason, "").code)
        .execute(&lite.writer)
        .await?;
    Ok(done.rows_affected())
}

macro_rules! reassign {
    ($index:literal, $status:literal) => {
        concat!(
            "UPDATE messages SET device_no = t.value
             FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM (
                       SELECT id FROM messages INDEXED BY ",
            $index,
            " WHERE device_no = $1 AND id BETWEEN $2 AND $3 AND status = ",
            $status,
            " ORDER BY id LIMIT $4)) AS v
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
    for text in [reassign!("messages_ready", "0"), reassign!("messages_deferred_by_device", "1")] {
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

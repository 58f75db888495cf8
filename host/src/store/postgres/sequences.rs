//! Sequences and the contacts that go through them.

use super::runs::{NewRun, insert_run};
use super::*;
use crate::campaign::RunOwner;

macro_rules! sequence_columns {
    ($rest:literal) => {
        concat!("SELECT no, id, spec, status, paused_reason, audience_no, created_at FROM sequences ", $rest)
    };
}

pub(super) async fn create_sequence(pg: &Postgres, id: SequenceId, spec: &SequenceSpec, now: Time) -> Result<Sequence> {
    let mut tx = pg.begin().await?;
    let audience: i32 = pg
        .scalar(
            "INSERT INTO audiences (name, state, columns, created_at, updated_at) VALUES ($1, 3, '[]', $2, $2)
             RETURNING no",
        )
        .bind(id.to_string())
        .bind(now.as_ms())
        .fetch_one(&mut *tx)
        .await?;
    let made: Option<rows::SequenceSql> = pg
        .rows(
            "INSERT INTO sequences (id, spec, status, audience_no, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO NOTHING
             RETURNING no, id, spec, status, paused_reason, audience_no, created_at",
        )
        .bind(id.0)
        .bind(rows::to_json(spec)?)
        .bind(SequenceStatus::Draft.as_str())
        .bind(audience)
        .bind(now.as_ms())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(made) = made else { return Err(StoreError::Exists { what: format!("sequence {id}") }) };
    pg.commit(tx).await?;
    made.read(Vec::new())
}

/// The sequences with the runs of their steps.
async fn with_runs(pg: &Postgres, found: Vec<rows::SequenceSql>) -> Result<Vec<Sequence>> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let runs: Vec<(i32, i32)> = pg
        .rows("SELECT sequence_no, key FROM runs WHERE sequence_no = ANY($1) ORDER BY sequence_no, step")
        .bind(found.iter().map(|s| s.no).collect::<Vec<_>>())
        .fetch_all(&pg.pool)
        .await?;
    let of = |no| runs.iter().filter(|(s, _)| *s == no).map(|(_, key)| RunKey(*key)).collect();
    found
        .into_iter()
        .map(|row| {
            let runs = of(row.no);
            row.read(runs)
        })
        .collect()
}

pub(super) async fn sequence(pg: &Postgres, id: SequenceId) -> Result<Option<Sequence>> {
    let found = pg.rows(sequence_columns!("WHERE id = $1")).bind(id.0).fetch_all(&pg.pool).await?;
    Ok(with_runs(pg, found).await?.pop())
}

pub(super) async fn sequence_by_no(pg: &Postgres, no: SequenceNo) -> Result<Option<Sequence>> {
    let found = pg.rows(sequence_columns!("WHERE no = $1")).bind(no.0).fetch_all(&pg.pool).await?;
    Ok(with_runs(pg, found).await?.pop())
}

pub(super) async fn sequences(
    pg: &Postgres,
    cursor: Option<SequenceId>,
    limit: u32,
) -> Result<Page<Sequence, SequenceId>> {
    let found = pg
        .rows(sequence_columns!("WHERE id < $1 ORDER BY id DESC LIMIT $2"))
        .bind(cursor.map_or(uuid::Uuid::max(), |id| id.0))
        .bind(rows::one_more(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(rows::page(with_runs(pg, found).await?, limit, |s| s.id))
}

pub(super) async fn move_sequence(
    pg: &Postgres,
    id: SequenceId,
    from: SequenceStatus,
    to: SequenceStatus,
    reason: Option<&str>,
    devices: &[DeviceNo],
    now: Time,
) -> Result<Option<Sequence>> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let found: Option<rows::SequenceSql> = pg
            .rows(
                "UPDATE sequences SET status = $3, paused_reason = $4 WHERE id = $1 AND status = $2
                 RETURNING no, id, spec, status, paused_reason, audience_no, created_at",
            )
            .bind(id.0)
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(reason.filter(|_| to == SequenceStatus::Paused))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(found) = found else { return Ok(None) };
        let active = to == SequenceStatus::Running;
        let runs: Vec<(i32, i32)> = pg
            .rows("UPDATE runs SET active = $2 WHERE sequence_no = $1 RETURNING step, key")
            .bind(found.no)
            .bind(active)
            .fetch_all(&mut *tx)
            .await?;
        let mut runs: Vec<(u32, RunKey)> =
            runs.into_iter().map(|(step, key)| (rows::to_u32(step.into()), RunKey(key))).collect();
        runs.sort_unstable();
        let mut sequence = found.read(runs.into_iter().map(|(_, key)| key).collect())?;
        if active && sequence.runs.is_empty() {
            for (step, spec) in (0u32..).zip(&sequence.spec.steps) {
                let new = NewRun {
                    owner: RunOwner::Step { sequence: sequence.no, step },
                    name: &sequence.spec.name,
                    audience: sequence.audience,
                    plan: &sequence.spec.plan(spec),
                    active,
                    expanded: true,
                    devices,
                    now,
                };
                sequence.runs.push(insert_run(pg, &mut tx, &new).await?.key);
            }
        }
        pg.bump(&mut tx, "runs").await?;
        pg.commit(tx).await?;
        Ok(Some(sequence))
    })
    .await
}

/// Enrols the contacts of a source `(no, address, locale, zone, variables)`: $1 is the sequence, $2 its audience, $3
/// when the first step is due, $4 now.
macro_rules! enrol {
    ($source:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (",
            $source,
            "),
             judged AS MATERIALIZED (
                 SELECT p.*,
                        EXISTS (SELECT FROM contacts k WHERE k.audience_no = $2 AND k.address = p.address) AS known,
                        EXISTS (SELECT FROM suppressions s WHERE s.address = p.address AND (s.channel = '' OR EXISTS (
                            SELECT FROM runs r JOIN run_devices rd ON rd.run_key = r.key
                            JOIN devices d ON d.no = rd.device_no
                            WHERE r.sequence_no = $1 AND r.step = 0 AND d.channel = s.channel))) AS suppressed
                 FROM page p),
             fresh AS MATERIALIZED (
                 SELECT j.*, (a.last + row_number() OVER (ORDER BY j.no))::int AS contact_no
                 FROM judged j, audiences a WHERE a.no = $2 AND NOT j.known AND NOT j.suppressed),
             added AS (
                 INSERT INTO contacts (audience_no, no, address, locale, zone, variables)
                 SELECT $2, contact_no, address, locale, zone, variables FROM fresh),
             enrolled AS (
                 INSERT INTO enrolments (sequence_no, contact_no, status, step, due_at, enrolled_at)
                 SELECT $1, contact_no, 0, 0, $3, $4 FROM fresh),
             grown AS (
                 UPDATE audiences SET last = last + (SELECT count(*) FROM fresh)::int,
                        contacts = contacts + (SELECT count(*) FROM fresh)::int, updated_at = $4
                 WHERE no = $2)
             SELECT count(*) AS seen, max(no) AS last, count(*) FILTER (WHERE known) AS already,
                    count(*) FILTER (WHERE suppressed AND NOT known) AS suppressed
             FROM judged"
        )
    };
}

from_row! {
    /// What enrolling a page came to.
    struct EnrolledSql {
        seen: i64,
        last: Option<i32>,
        already: i64,
        suppressed: i64,
    }
}

impl EnrolledSql {
    fn read(&self) -> Enrolled {
        Enrolled {
            enrolled: rows::to_u32(self.seen - self.already - self.suppressed),
            already: rows::to_u32(self.already),
            suppressed: rows::to_u32(self.suppressed),
        }
    }
}

/// The sequence's audience, locked: its numbers are given out one after the other.
async fn lock_audience(pg: &Postgres, tx: &mut Tx, sequence: SequenceNo) -> Result<i32> {
    pg.scalar("SELECT a.no FROM sequences s JOIN audiences a ON a.no = s.audience_no WHERE s.no = $1 FOR UPDATE OF a")
        .bind(sequence.0)
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| StoreError::Conflict(format!("there is no sequence {sequence}")))
}

pub(super) async fn enrol_audience(
    pg: &Postgres,
    sequence: SequenceNo,
    audience: AudienceNo,
    after: u32,
    limit: u32,
    due_at: Time,
    now: Time,
) -> Result<(Enrolled, Option<u32>)> {
    let mut tx = pg.begin().await?;
    let own = lock_audience(pg, &mut tx, sequence).await?;
    let page: EnrolledSql = pg
        .rows(enrol!(
            "SELECT no, address, locale, zone, variables FROM contacts
             WHERE audience_no = $5 AND no > $6 ORDER BY no LIMIT $7"
        ))
        .bind(sequence.0)
        .bind(own)
        .bind(due_at.as_ms())
        .bind(now.as_ms())
        .bind(audience.0)
        .bind(rows::to_i32(after))
        .bind(i64::from(limit))
        .fetch_one(&mut *tx)
        .await?;
    pg.commit(tx).await?;
    let more = page.seen >= i64::from(limit);
    Ok((page.read(), page.last.filter(|_| more).map(|no| rows::to_u32(no.into()))))
}

pub(super) async fn enrol_contact(
    pg: &Postgres,
    sequence: SequenceNo,
    contact: &NewContact,
    due_at: Time,
    now: Time,
) -> Result<Enrolled> {
    let mut tx = pg.begin().await?;
    let own = lock_audience(pg, &mut tx, sequence).await?;
    let page: EnrolledSql = pg
        .rows(enrol!(
            "SELECT 1 AS no, $5::text AS address, $6::text AS locale, $7::text AS zone, $8::text AS variables"
        ))
        .bind(sequence.0)
        .bind(own)
        .bind(due_at.as_ms())
        .bind(now.as_ms())
        .bind(&contact.address)
        .bind(&contact.locale)
        .bind(&contact.zone)
        .bind(&contact.variables)
        .fetch_one(&mut *tx)
        .await?;
    pg.commit(tx).await?;
    Ok(page.read())
}

pub(super) async fn step_due(pg: &Postgres, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
    let devices: Vec<i32> = repeating(|| async {
        Ok(pg
            .scalar(
                "WITH due AS MATERIALIZED (
                     SELECT s.no AS sequence_no, s.audience_no, e.contact_no, e.step
                     FROM sequences s CROSS JOIN LATERAL (
                         SELECT contact_no, step FROM enrolments
                         WHERE sequence_no = s.no AND status = 0 AND due_at <= $1
                         ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS e
                     WHERE s.status = 'running' LIMIT $2),
                 assigned AS MATERIALIZED (
                     SELECT u.sequence_no, u.contact_no, u.step, r.key, d.no AS device_no,
                            EXISTS (SELECT FROM suppressions s
                                    WHERE s.address = k.address AND s.channel IN ('', d.channel)) AS suppressed
                     FROM due u
                     JOIN runs r ON r.sequence_no = u.sequence_no AND r.step = u.step
                     JOIN contacts k ON k.audience_no = u.audience_no AND k.no = u.contact_no
                     JOIN run_devices rd ON rd.run_key = r.key AND rd.pos =
                         CASE WHEN r.sticky THEN hashtext(k.address) & 2147483647 ELSE k.no - 1 END % r.pool_size
                     JOIN devices d ON d.no = rd.device_no),
                 made AS (
                     INSERT INTO messages (id, device_no, status, due_at)
                     SELECT (key::bigint << 32) | contact_no, device_no, 0, $1 FROM assigned WHERE NOT suppressed
                     ORDER BY 1
                     ON CONFLICT (id) DO NOTHING RETURNING id, device_no),
                 moved AS (
                     UPDATE enrolments e SET status = CASE WHEN a.suppressed THEN 3 ELSE 1 END,
                            exit_reason = CASE WHEN a.suppressed THEN 'suppressed' END
                     FROM assigned a WHERE e.sequence_no = a.sequence_no AND e.contact_no = a.contact_no),
                 counted AS (
                     INSERT INTO run_counts AS c (run_key, shard, total)
                     SELECT (id >> 32)::int, $3, count(*) FROM made GROUP BY 1 ORDER BY 1
                     ON CONFLICT (run_key, shard) DO UPDATE SET total = c.total + excluded.total)
                 SELECT DISTINCT device_no FROM made ORDER BY device_no",
            )
            .bind(now.as_ms())
            .bind(i64::from(limit))
            .bind(pg.shard())
            .fetch_all(&pg.pool)
            .await?)
    })
    .await?;
    let next: Option<i64> = pg
        .scalar(
            "SELECT min(e.due_at) FROM sequences s CROSS JOIN LATERAL (
                 SELECT due_at FROM enrolments WHERE sequence_no = s.no AND status = 0 ORDER BY due_at LIMIT 1) AS e
             WHERE s.status = 'running'",
        )
        .fetch_one(&pg.pool)
        .await?;
    Ok((devices.into_iter().map(DeviceNo).collect(), rows::time(next)))
}

pub(super) async fn exit_enrolment(
    pg: &Postgres,
    sequence: SequenceNo,
    address: &str,
    reason: &str,
    now: Time,
) -> Result<bool> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        still_sequences(pg, &mut tx, &[sequence.0]).await?;
        let exited: i64 = pg
            .scalar(concat!(
                "WITH exited AS (
                     UPDATE enrolments e SET status = 3, exit_reason = $3
                     FROM sequences s JOIN contacts k ON k.audience_no = s.audience_no AND k.address = $2
                     WHERE s.no = $1 AND e.sequence_no = s.no AND e.contact_no = k.no AND e.status IN (0, 1)
                     RETURNING e.sequence_no, e.contact_no, e.step),
                 done AS (
                     UPDATE messages m SET status = 10, finished_at = $4
                     FROM exited x JOIN runs r ON r.sequence_no = x.sequence_no AND r.step = x.step
                     WHERE m.id = (r.key::bigint << 32) | x.contact_no AND m.status IN (0, 1) AND ",
                not_in_flight!("m"),
                " RETURNING m.id),
                 counted AS (
                     INSERT INTO run_counts AS c (run_key, shard, cancelled)
                     SELECT (id >> 32)::int, $5, count(*) FROM done GROUP BY 1
                     ON CONFLICT (run_key, shard) DO UPDATE SET cancelled = c.cancelled + excluded.cancelled)
                 SELECT count(*) FROM exited"
            ))
            .bind(sequence.0)
            .bind(address)
            .bind(reason)
            .bind(now.as_ms())
            .bind(pg.shard())
            .fetch_one(&mut *tx)
            .await?;
        pg.commit(tx).await?;
        Ok(exited > 0)
    })
    .await
}

pub(super) async fn enrolments(
    pg: &Postgres,
    sequence: SequenceNo,
    status: Option<EnrolmentStatus>,
    cursor: Option<u32>,
    limit: u32,
) -> Result<Page<Enrolment, u32>> {
    macro_rules! text {
        ($of:literal) => {
            concat!(
                "SELECT e.contact_no, k.address, e.status, e.step, e.due_at, e.exit_reason, e.enrolled_at
                 FROM enrolments e
                 JOIN sequences s ON s.no = e.sequence_no
                 JOIN contacts k ON k.audience_no = s.audience_no AND k.no = e.contact_no
                 WHERE e.sequence_no = $1 AND e.contact_no > $2 ",
                $of,
                " ORDER BY e.contact_no LIMIT $3"
            )
        };
    }
    let query = match status {
        None => pg.rows(text!("")),
        Some(_) => pg.rows(text!("AND e.status = $4")),
    };
    let query = query.bind(sequence.0).bind(rows::to_i32(cursor.unwrap_or(0))).bind(rows::one_more(limit));
    let query = match status {
        None => query,
        Some(status) => query.bind(status.code()),
    };
    let found: Vec<rows::EnrolmentSql> = query.fetch_all(&pg.pool).await?;
    let items = found.into_iter().map(rows::EnrolmentSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |e| e.contact))
}

pub(super) async fn enrolment_counts(pg: &Postgres, sequence: SequenceNo) -> Result<[u64; 4]> {
    let found: Vec<(i16, i64)> = pg
        .rows("SELECT status, count(*) FROM enrolments WHERE sequence_no = $1 GROUP BY status")
        .bind(sequence.0)
        .fetch_all(&pg.pool)
        .await?;
    let mut counts = [0; 4];
    for (status, count) in found {
        if let Some(slot) = usize::try_from(status).ok().and_then(|n| counts.get_mut(n)) {
            *slot = rows::to_u64(count);
        }
    }
    Ok(counts)
}

//! Sequences and the contacts that go through them.

use super::consent::{Exited, end_steps};
use super::runs::{NewRun, insert_run};
pub(super) use super::steps::step_due;
use super::*;
use crate::campaign::RunOwner;

macro_rules! sequence_columns {
    ($rest:literal) => {
        concat!("SELECT no, id, spec, status, paused_reason, audience_no, created_at FROM sequences ", $rest)
    };
}

pub(super) async fn create_sequence(lite: &Sqlite, id: SequenceId, spec: &SequenceSpec, now: Time) -> Result<Sequence> {
    let mut tx = lite.begin().await?;
    let audience: i32 = lite
        .scalar(
            "INSERT INTO audiences (name, state, columns, created_at, updated_at) VALUES ($1, 3, '[]', $2, $2)
             RETURNING no",
        )
        .bind(id.to_string())
        .bind(now.as_ms())
        .fetch_one(&mut *tx)
        .await?;
    let made: Option<rows::SequenceSql> = lite
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
    lite.commit(tx).await?;
    made.read(Vec::new())
}

/// The sequences with the runs of their steps.
async fn with_runs(lite: &Sqlite, found: Vec<rows::SequenceSql>) -> Result<Vec<Sequence>> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let runs: Vec<(i32, i32)> = lite
        .rows("SELECT sequence_no, key FROM runs WHERE sequence_no IN (SELECT value FROM json_each($1)) ORDER BY sequence_no, step")
        .bind(list(found.iter().map(|s| s.no))?)
        .fetch_all(&lite.readers)
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

pub(super) async fn sequence(lite: &Sqlite, id: SequenceId) -> Result<Option<Sequence>> {
    let found = lite.rows(sequence_columns!("WHERE id = $1")).bind(id.0).fetch_all(&lite.readers).await?;
    Ok(with_runs(lite, found).await?.pop())
}

pub(super) async fn sequence_by_no(lite: &Sqlite, no: SequenceNo) -> Result<Option<Sequence>> {
    let found = lite.rows(sequence_columns!("WHERE no = $1")).bind(no.0).fetch_all(&lite.readers).await?;
    Ok(with_runs(lite, found).await?.pop())
}

pub(super) async fn sequences(
    lite: &Sqlite,
    cursor: Option<SequenceId>,
    limit: u32,
) -> Result<Page<Sequence, SequenceId>> {
    let found = lite
        .rows(sequence_columns!("WHERE id < $1 ORDER BY id DESC LIMIT $2"))
        .bind(cursor.map_or(uuid::Uuid::max(), |id| id.0))
        .bind(rows::one_more(limit))
        .fetch_all(&lite.readers)
        .await?;
    Ok(rows::page(with_runs(lite, found).await?, limit, |s| s.id))
}

pub(super) async fn move_sequence(
    lite: &Sqlite,
    id: SequenceId,
    from: SequenceStatus,
    to: SequenceStatus,
    reason: Option<&str>,
    devices: &[DeviceNo],
    now: Time,
) -> Result<Option<Sequence>> {
    let mut tx = lite.begin().await?;
    let found: Option<rows::SequenceSql> = lite
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
    let runs: Vec<(i32, i32)> = lite
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
            sequence.runs.push(insert_run(lite, &mut tx, &new).await?.key);
        }
    }
    lite.bump(&mut tx, "runs").await?;
    lite.commit(tx).await?;
    Ok(Some(sequence))
}

from_row! {
    /// A contact to be enrolled.
    struct Judged {
        no: i32,
        address: String,
        locale: Option<String>,
        zone: Option<String>,
        variables: String,
        known: bool,
        suppressed: bool,
    }
}

macro_rules! judged {
    ($source:literal) => {
        concat!(
            "SELECT p.no, p.address, p.locale, p.zone, p.variables,
                    EXISTS (SELECT 1 FROM contacts k WHERE k.audience_no = $2 AND k.address = p.address) AS known,
                    EXISTS (SELECT 1 FROM suppressions s WHERE s.address = p.address AND (s.channel = '' OR EXISTS (
                        SELECT 1 FROM runs r JOIN run_devices rd ON rd.run_key = r.key
                        JOIN devices d ON d.no = rd.device_no
                        WHERE r.sequence_no = $1 AND r.step = 0 AND d.channel = s.channel))) AS suppressed
             FROM ",
            $source
        )
    };
}

/// The sequence's audience.
async fn audience_of(lite: &Sqlite, tx: &mut Tx, sequence: SequenceNo) -> Result<i32> {
    lite.scalar("SELECT audience_no FROM sequences WHERE no = $1")
        .bind(sequence.0)
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| StoreError::Conflict(format!("there is no sequence {sequence}")))
}

/// Enrols those who are neither known nor suppressed, under the next free numbers of the sequence's audience `own`.
async fn enrol(
    lite: &Sqlite,
    tx: &mut Tx,
    (sequence, own): (SequenceNo, i32),
    page: &[Judged],
    due_at: Time,
    now: Time,
) -> Result<Enrolled> {
    let mut last: i32 = lite.scalar("SELECT last FROM audiences WHERE no = $1").bind(own).fetch_one(&mut **tx).await?;
    let mut out = Enrolled::default();
    for contact in page {
        if contact.known {
            out.already += 1;
        } else if contact.suppressed {
            out.suppressed += 1;
        } else {
            out.enrolled += 1;
            last += 1;
            lite.sql(
                "INSERT INTO contacts (audience_no, no, address, locale, zone, variables) VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(own)
            .bind(last)
            .bind(&contact.address)
            .bind(&contact.locale)
            .bind(&contact.zone)
            .bind(&contact.variables)
            .execute(&mut **tx)
            .await?;
            lite.sql(
                "INSERT INTO enrolments (sequence_no, contact_no, status, step, due_at, enrolled_at)
                 VALUES ($1, $2, 0, 0, $3, $4)",
            )
            .bind(sequence.0)
            .bind(last)
            .bind(due_at.as_ms())
            .bind(now.as_ms())
            .execute(&mut **tx)
            .await?;
        }
    }
    if out.enrolled > 0 {
        lite.sql("UPDATE audiences SET last = $2, contacts = contacts + $3, updated_at = $4 WHERE no = $1")
            .bind(own)
            .bind(last)
            .bind(out.enrolled)
            .bind(now.as_ms())
            .execute(&mut **tx)
            .await?;
    }
    Ok(out)
}

pub(super) async fn enrol_audience(
    lite: &Sqlite,
    sequence: SequenceNo,
    audience: AudienceNo,
    after: u32,
    limit: u32,
    due_at: Time,
    now: Time,
) -> Result<(Enrolled, Option<u32>)> {
    let mut tx = lite.begin().await?;
    let own = audience_of(lite, &mut tx, sequence).await?;
    let page: Vec<Judged> = lite
        .rows(judged!("contacts p WHERE p.audience_no = $3 AND p.no > $4 ORDER BY p.no LIMIT $5"))
        .bind(sequence.0)
        .bind(own)
        .bind(audience.0)
        .bind(rows::to_i32(after))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
    let enrolled = enrol(lite, &mut tx, (sequence, own), &page, due_at, now).await?;
    lite.commit(tx).await?;
    let more = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    Ok((enrolled, page.last().filter(|_| more).map(|c| rows::to_u32(c.no.into()))))
}

pub(super) async fn enrol_contact(
    lite: &Sqlite,
    sequence: SequenceNo,
    contact: &NewContact,
    due_at: Time,
    now: Time,
) -> Result<Enrolled> {
    let mut tx = lite.begin().await?;
    let own = audience_of(lite, &mut tx, sequence).await?;
    let page: Vec<Judged> = lite
        .rows(judged!("(SELECT 1 AS no, $3 AS address, $4 AS locale, $5 AS zone, $6 AS variables) AS p"))
        .bind(sequence.0)
        .bind(own)
        .bind(&contact.address)
        .bind(&contact.locale)
        .bind(&contact.zone)
        .bind(&contact.variables)
        .fetch_all(&mut *tx)
        .await?;
    let enrolled = enrol(lite, &mut tx, (sequence, own), &page, due_at, now).await?;
    lite.commit(tx).await?;
    Ok(enrolled)
}

pub(super) async fn exit_enrolment(
    lite: &Sqlite,
    sequence: SequenceNo,
    address: &str,
    reason: &str,
    now: Time,
) -> Result<bool> {
    let mut tx = lite.begin().await?;
    let exited: Vec<(i32, i32, i32)> = lite
        .rows(
            "UPDATE enrolments SET status = 3, exit_reason = $3
             FROM sequences s JOIN contacts k ON k.audience_no = s.audience_no AND k.address = $2
             WHERE s.no = $1 AND enrolments.sequence_no = s.no AND enrolments.contact_no = k.no
               AND enrolments.status IN (0, 1)
             RETURNING sequence_no, contact_no, step",
        )
        .bind(sequence.0)
        .bind(address)
        .bind(reason)
        .fetch_all(&mut *tx)
        .await?;
    let exited: Vec<Exited> =
        exited.into_iter().map(|(sequence, contact, step)| (sequence, contact, step, now.as_ms())).collect();
    end_steps(lite, &mut tx, &exited, code::CANCELLED).await?;
    lite.commit(tx).await?;
    Ok(!exited.is_empty())
}

pub(super) async fn enrolments(
    lite: &Sqlite,
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
        None => lite.rows(text!("")),
        Some(_) => lite.rows(text!("AND e.status = $4")),
    };
    let query = query.bind(sequence.0).bind(rows::to_i32(cursor.unwrap_or(0))).bind(rows::one_more(limit));
    let query = match status {
        None => query,
        Some(status) => query.bind(status.code()),
    };
    let found: Vec<rows::EnrolmentSql> = query.fetch_all(&lite.readers).await?;
    let items = found.into_iter().map(rows::EnrolmentSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |e| e.contact))
}

pub(super) async fn enrolment_counts(lite: &Sqlite, sequence: SequenceNo) -> Result<[u64; 4]> {
    let found: Vec<(i16, i64)> = lite
        .rows("SELECT status, count(*) FROM enrolments WHERE sequence_no = $1 GROUP BY status")
        .bind(sequence.0)
        .fetch_all(&lite.readers)
        .await?;
    let mut counts = [0; 4];
    for (status, count) in found {
        if let Some(slot) = usize::try_from(status).ok().and_then(|n| counts.get_mut(n)) {
            *slot = rows::to_u64(count);
        }
    }
    Ok(counts)
}

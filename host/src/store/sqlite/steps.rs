//! Steps of sequences that are due become messages.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use super::runs::{PoolDevice, address_hash, device_at, is_suppressed, pool_of};
use super::*;

/// When the first enrolment of a running sequence is due.
async fn next_step(lite: &Sqlite) -> Result<Option<Time>> {
    let next: Option<i64> = lite
        .scalar(
            "SELECT min((SELECT e.due_at FROM enrolments e INDEXED BY enrolments_due
                         WHERE e.sequence_no = s.no AND e.status = 0 ORDER BY e.due_at LIMIT 1))
             FROM sequences s WHERE s.status = 'running'",
        )
        .fetch_one(&lite.readers)
        .await?;
    Ok(rows::time(next))
}

from_row! {
    /// An enrolment whose step is due.
    struct Due {
        contact_no: i32,
        step: i32,
        address: String,
        suppressed_on: Option<String>,
    }
}

/// The run of a step, and its devices.
struct StepRun {
    key: RunKey,
    sticky: bool,
    pool: Vec<PoolDevice>,
}

async fn step_run(lite: &Sqlite, tx: &mut Tx, sequence: i32, step: i32) -> Result<StepRun> {
    let (key, sticky): (i32, bool) = lite
        .rows("SELECT key, sticky FROM runs WHERE sequence_no = $1 AND step = $2")
        .bind(sequence)
        .bind(step)
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| rows::broken("a running sequence without its runs"))?;
    let key = RunKey(key);
    Ok(StepRun { key, sticky, pool: pool_of(lite, tx, key).await? })
}

pub(super) async fn step_due(lite: &Sqlite, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
    // The writer is left alone while nothing is due.
    let next = next_step(lite).await?;
    if next.is_none_or(|at| at > now) {
        return Ok((Vec::new(), next));
    }
    let mut tx = lite.begin().await?;
    let running: Vec<(i32, i32)> = lite
        .rows("SELECT no, audience_no FROM sequences WHERE status = 'running' ORDER BY no")
        .fetch_all(&mut *tx)
        .await?;
    let mut left = limit;
    let mut devices = BTreeSet::new();
    let mut tally = Tally::default();
    for (sequence, audience) in running {
        let due: Vec<Due> = lite
            .rows(
                "SELECT e.contact_no, e.step, k.address,
                        (SELECT json_group_array(s.channel) FROM suppressions s WHERE s.address = k.address
                         HAVING count(*) > 0) AS suppressed_on
                 FROM enrolments e INDEXED BY enrolments_due
                 JOIN contacts k ON k.audience_no = $2 AND k.no = e.contact_no
                 WHERE e.sequence_no = $1 AND e.status = 0 AND e.due_at <= $3 ORDER BY e.due_at LIMIT $4",
            )
            .bind(sequence)
            .bind(audience)
            .bind(now.as_ms())
            .bind(left)
            .fetch_all(&mut *tx)
            .await?;
        left = left.saturating_sub(u32::try_from(due.len()).unwrap_or(u32::MAX));
        let mut runs: BTreeMap<i32, StepRun> = BTreeMap::new();
        for enrolment in due {
            let run = match runs.entry(enrolment.step) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(step_run(lite, &mut tx, sequence, enrolment.step).await?),
            };
            let no = rows::to_u32(enrolment.contact_no.into());
            let pos = if run.sticky { address_hash(&enrolment.address) } else { no.saturating_sub(1) };
            let device = device_at(&run.pool, pos)?;
            let suppressed = is_suppressed(enrolment.suppressed_on.as_deref(), &device.channel)?;
            if !suppressed {
                let made = lite
                    .sql(
                        "INSERT INTO messages (id, device_no, status, due_at) VALUES ($1, $2, 0, $3)
                         ON CONFLICT (id) DO NOTHING",
                    )
                    .bind(MessageId::new(run.key, no).0)
                    .bind(device.device_no)
                    .bind(now.as_ms())
                    .execute(&mut *tx)
                    .await?;
                if made.rows_affected() > 0 {
                    tally.made(run.key, 1);
                    devices.insert(device.device_no);
                }
            }
            lite.sql("UPDATE enrolments SET status = $3, exit_reason = $4 WHERE sequence_no = $1 AND contact_no = $2")
                .bind(sequence)
                .bind(enrolment.contact_no)
                .bind(if suppressed { EnrolmentStatus::Exited.code() } else { EnrolmentStatus::InStep.code() })
                .bind(suppressed.then_some("suppressed"))
                .execute(&mut *tx)
                .await?;
        }
        if left == 0 {
            break;
        }
    }
    tally.write(lite, &mut tx).await?;
    lite.commit(tx).await?;
    Ok((devices.into_iter().map(DeviceNo).collect(), next_step(lite).await?))
}

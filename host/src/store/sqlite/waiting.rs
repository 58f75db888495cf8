//! What waits on devices: their queues are filled from the table `waiting`, which is swept here.

use std::collections::HashMap;

use super::*;

/// Leftovers that are worth a transaction.
const SWEEP: i64 = 1_000;

/// That a row of `waiting` stands for a ready message of its device. `messages` is looked up by its key: the join must not
/// begin there.
macro_rules! ready {
    () => {
        "CROSS JOIN messages m ON m.id = w.id AND m.device_no = w.device_no AND m.status = 0"
    };
}

/// That a row of `waiting` is a leftover.
macro_rules! left_over {
    ($row:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM messages m
                         WHERE m.id = ",
            $row,
            ".id AND m.device_no = ",
            $row,
            ".device_no AND m.status = 0)"
        )
    };
}

from_row! {
    struct TopUpSql {
        device_no: i32,
        /// A JSON array.
        ids: String,
        next_at: Option<i64>,
        pace: Option<String>,
    }
}

pub(super) async fn top_up(lite: &Sqlite, devices: &[DeviceNo], runs: &[RankedRun], window: u32) -> Result<Vec<TopUp>> {
    if devices.is_empty() || runs.is_empty() {
        return Ok(Vec::new());
    }
    // For each device one probe of the index per run, in the runs' order, until the window is full. There is no ORDER BY on
    // purpose: a CROSS JOIN is a nested loop over the list as it was passed, and a sort would read every run to its end.
    let found: Vec<TopUpSql> = lite
        .rows(concat!(
            "SELECT CAST(d.value AS INTEGER) AS device_no, s.next_at, s.pace, (
                 SELECT json_group_array(id) FROM (
                     SELECT w.id FROM json_each($2) r CROSS JOIN waiting w ",
            ready!(),
            "        WHERE w.device_no = d.value AND w.id BETWEEN r.value ->> 0 AND r.value ->> 1 LIMIT $3)) AS ids
             FROM json_each($1) d
             LEFT JOIN device_state s ON s.device_no = d.value"
        ))
        .bind(list(devices.iter().map(|no| no.0))?)
        .bind(list(runs.iter().map(|r| (r.run.first().0, r.run.last().0)))?)
        .bind(window)
        .fetch_all(&lite.readers)
        .await?;
    let ranks: HashMap<RunKey, i64> = runs.iter().map(|r| (r.run, r.rank)).collect();
    let full = usize::try_from(window).unwrap_or(usize::MAX);
    let mut out = Vec::with_capacity(found.len());
    let mut passed = Vec::new();
    for row in found {
        let ids: Vec<i64> = rows::from_json("message ids", &row.ids)?;
        passed_over(row.device_no, &ids, runs, ids.len() < full, &mut passed);
        if ids.is_empty() {
            continue;
        }
        let ranked = ids.into_iter().map(MessageId).filter_map(|id| Some((id, *ranks.get(&id.run())?)));
        out.push(TopUp {
            device: DeviceNo(row.device_no),
            messages: ranked.collect(),
            pace: rows::saved_pace(row.next_at, row.pace),
        });
    }
    sweep_passed(lite, &passed).await?;
    Ok(out)
}

/// The parts of a device's rows, `(device, first, last)`, in which nothing was ready: per run what comes before its first
/// ready message, or all of it.
fn passed_over(device: i32, ids: &[i64], runs: &[RankedRun], saw_all: bool, out: &mut Vec<(i32, i64, i64)>) {
    let mut first_of: HashMap<RunKey, i64> = HashMap::new();
    for id in ids {
        first_of.entry(MessageId(*id).run()).or_insert(*id);
    }
    // Runs after the one in which the window was full were not looked at.
    let last_seen = ids.last().map(|id| MessageId(*id).run());
    for run in runs {
        let (first, last) = (run.run.first().0, run.run.last().0);
        match first_of.get(&run.run) {
            Some(ready) => out.push((device, first, ready - 1)),
            None => out.push((device, first, last)),
        }
        if !saw_all && Some(run.run) == last_seen {
            break;
        }
    }
}

/// Sweeps where nothing was ready, once it is worth it.
async fn sweep_passed(lite: &Sqlite, passed: &[(i32, i64, i64)]) -> Result<()> {
    let passed = rows::to_json(&passed)?;
    let left: i64 = lite
        .scalar(
            "SELECT count(*) FROM json_each($1) r CROSS JOIN waiting w
             WHERE w.device_no = r.value ->> 0 AND w.id BETWEEN r.value ->> 1 AND r.value ->> 2",
        )
        .bind(&passed)
        .fetch_one(&lite.readers)
        .await?;
    if left < SWEEP {
        return Ok(());
    }
    // Asked again, now that nobody else writes: a message may be ready again.
    lite.sql(concat!(
        "DELETE FROM waiting WHERE (device_no, id) IN (
             SELECT w.device_no, w.id FROM json_each($1) r CROSS JOIN waiting w
             WHERE w.device_no = r.value ->> 0 AND w.id BETWEEN r.value ->> 1 AND r.value ->> 2 AND ",
        left_over!("w"),
        ")"
    ))
    .bind(&passed)
    .execute(&lite.writer)
    .await?;
    Ok(())
}

pub(super) async fn devices_with_ready(lite: &Sqlite, after: Option<DeviceNo>, limit: u32) -> Result<Vec<DeviceNo>> {
    let mut after = after.map_or(i64::from(i32::MIN) - 1, |no| i64::from(no.0));
    let mut ready = Vec::new();
    loop {
        let wanted = i64::from(limit) - i64::try_from(ready.len()).unwrap_or(i64::MAX);
        if wanted <= 0 {
            return Ok(ready);
        }
        // Jumps from device to device instead of reading every row.
        let found: Vec<(i32, bool)> = lite
            .rows(concat!(
                "WITH RECURSIVE d (no) AS (
                     SELECT min(device_no) FROM waiting WHERE device_no > $1
                     UNION ALL
                     SELECT (SELECT min(w.device_no) FROM waiting w WHERE w.device_no > d.no) FROM d WHERE d.no IS NOT NULL)
                 SELECT no, EXISTS (SELECT 1 FROM waiting w ",
                ready!(),
                " WHERE w.device_no = d.no) FROM d WHERE no IS NOT NULL LIMIT $2"
            ))
            .bind(after)
            .bind(wanted)
            .fetch_all(&lite.readers)
            .await?;
        ready.extend(found.iter().filter(|(_, ready)| *ready).map(|(no, _)| DeviceNo(*no)));
        let idle: Vec<i32> = found.iter().filter(|(_, ready)| !ready).map(|(no, _)| *no).collect();
        if !idle.is_empty() {
            sweep_idle(lite, &idle).await?;
        }
        match found.last() {
            Some((no, _)) if i64::try_from(found.len()) == Ok(wanted) => after = i64::from(*no),
            _ => return Ok(ready),
        }
    }
}

/// Sweeps devices on which nothing was ready, so that the next walk does not meet them.
async fn sweep_idle(lite: &Sqlite, devices: &[i32]) -> Result<()> {
    lite.sql(concat!(
        "DELETE FROM waiting WHERE device_no IN (SELECT value FROM json_each($1)) AND ",
        left_over!("waiting")
    ))
    .bind(rows::to_json(&devices)?)
    .execute(&lite.writer)
    .await?;
    Ok(())
}

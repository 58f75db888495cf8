//! Rollouts, quarantine, and the history of stable versions.

use super::*;

macro_rules! rollout_columns {
    ($rest:literal) => {
        concat!(
            "SELECT r.no, r.name, r.candidate_no, c.version AS candidate, r.stable_no, s.version AS stable, r.spec, r.status,
                    r.started_at, r.started_by, r.ended_at, r.ended_by, r.reason
             FROM rollouts r
             JOIN plugin_versions c ON c.no = r.candidate_no
             JOIN plugin_versions s ON s.no = r.stable_no ",
            $rest
        )
    };
}

/// Who changes something, and why, and when.
pub(super) struct By<'a> {
    pub(super) actor: &'a str,
    pub(super) reason: &'a str,
    pub(super) now: Time,
}

/// What is stable, and whether there is such a plugin, which nobody else changes until the transaction ends.
pub(super) async fn lock(db: &Backend, tx: &mut Tx, name: &str) -> Result<Option<Option<i32>>> {
    let active: Option<(Option<i32>,)> = db.rows(LOCKED_PLUGIN).bind(name).fetch_optional(&mut **tx).await?;
    Ok(active.map(|(no,)| no))
}

/// Makes a version the stable one; a roll-back from it goes to the step `back`.
pub(super) async fn set_stable(
    db: &Backend,
    tx: &mut Tx,
    name: &str,
    no: i32,
    back: Option<i32>,
    by: &By<'_>,
) -> Result<()> {
    db.sql("UPDATE plugins SET active_no = $2 WHERE name = $1").bind(name).bind(no).execute(&mut **tx).await?;
    db.sql(
        "INSERT INTO plugin_history (name, step, version_no, back, at, actor, reason)
         SELECT $1, coalesce(max(step), 0) + 1, $2, $3, $4, $5, $6 FROM plugin_history WHERE name = $1",
    )
    .bind(name)
    .bind(no)
    .bind(back)
    .bind(by.now.as_ms())
    .bind(by.actor)
    .bind(by.reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The last step of a plugin's history.
pub(super) async fn last_step(db: &Backend, tx: &mut Tx, name: &str) -> Result<Option<i32>> {
    let last: Option<i32> =
        db.scalar("SELECT max(step) FROM plugin_history WHERE name = $1").bind(name).fetch_one(&mut **tx).await?;
    Ok(last)
}

/// The version that was stable before the current one, if there is one that is there and not in quarantine; and the step that
/// a roll-back from it goes to.
pub(super) async fn before_current(db: &Backend, tx: &mut Tx, name: &str) -> Result<Option<(i32, Option<i32>)>> {
    let mut at = last_step(db, tx, name).await?;
    let mut current = None;
    while let Some(step) = at {
        let (no, back, good): (i32, Option<i32>, bool) = db
            .rows(
                "SELECT h.version_no, h.back, v.quarantined_at IS NULL AND v.deleted_at IS NULL AS good
                 FROM plugin_history h JOIN plugin_versions v ON v.no = h.version_no
                 WHERE h.name = $1 AND h.step = $2",
            )
            .bind(name)
            .bind(step)
            .fetch_one(&mut **tx)
            .await?;
        if current.is_some_and(|current| current != no) && good {
            return Ok(Some((no, back)));
        }
        current = current.or(Some(no));
        at = back;
    }
    Ok(None)
}

/// Makes that version stable.
async fn go_back(db: &Backend, tx: &mut Tx, name: &str, by: &By<'_>) -> Result<Option<i32>> {
    let Some((no, back)) = before_current(db, tx, name).await? else { return Ok(None) };
    set_stable(db, tx, name, no, back, by).await?;
    Ok(Some(no))
}

/// The running rollout of a plugin.
pub(super) async fn running(db: &Backend, tx: &mut Tx, name: &str) -> Result<Option<Rollout>> {
    let found: Option<rows::RolloutSql> = db
        .rows(rollout_columns!("WHERE r.name = $1 AND r.status = 'running'"))
        .bind(name)
        .fetch_optional(&mut **tx)
        .await?;
    found.map(rows::RolloutSql::read).transpose()
}

/// Ends the running rollout of a plugin, if there is one.
async fn end_running(db: &Backend, tx: &mut Tx, name: &str, status: RolloutStatus, by: &By<'_>) -> Result<()> {
    db.sql(
        "UPDATE rollouts SET status = $2, ended_at = $3, ended_by = $4, reason = $5
         WHERE name = $1 AND status = 'running'",
    )
    .bind(name)
    .bind(status.as_str())
    .bind(by.now.as_ms())
    .bind(by.actor)
    .bind(by.reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn insert_rollout(
    db: &Backend,
    tx: &mut Tx,
    name: &str,
    (candidate, stable): (i32, i32),
    spec: &RolloutSpec,
    by: &By<'_>,
) -> Result<i32> {
    let no: i32 = db
        .scalar(
            "INSERT INTO rollouts (name, candidate_no, stable_no, spec, status, started_at, started_by)
             VALUES ($1, $2, $3, $4, 'running', $5, $6) RETURNING no",
        )
        .bind(name)
        .bind(candidate)
        .bind(stable)
        .bind(rows::to_json(spec)?)
        .bind(by.now.as_ms())
        .bind(by.actor)
        .fetch_one(&mut **tx)
        .await?;
    Ok(no)
}

async fn rollout_in(db: &Backend, tx: &mut Tx, no: i32) -> Result<Rollout> {
    let found: rows::RolloutSql = db.rows(rollout_columns!("WHERE r.no = $1")).bind(no).fetch_one(&mut **tx).await?;
    found.read()
}

/// The number of a version, and why it is in quarantine.
pub(super) async fn find(
    db: &Backend,
    tx: &mut Tx,
    name: &str,
    version: &str,
) -> Result<Option<(i32, Option<String>)>> {
    Ok(db
        .rows(
            "SELECT no, quarantine_reason FROM plugin_versions WHERE name = $1 AND version = $2 AND deleted_at IS NULL",
        )
        .bind(name)
        .bind(version)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Refuses a version that is in quarantine, unless it is forced: then it leaves it.
async fn release(db: &Backend, tx: &mut Tx, no: i32, quarantine: Option<String>, force: bool) -> Result<()> {
    let Some(reason) = quarantine else { return Ok(()) };
    if !force {
        return Err(StoreError::Conflict(format!(
            "the version is in quarantine ({reason}); \"force\" uses it all the same"
        )));
    }
    db.sql("UPDATE plugin_versions SET quarantined_at = NULL, quarantine_reason = NULL WHERE no = $1")
        .bind(no)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn activate_plugin(
    db: &Backend,
    name: &str,
    version: &str,
    change: &Change<'_>,
    now: Time,
) -> Result<Option<PluginVersion>> {
    let mut tx = db.begin().await?;
    let Some(before) = lock(db, &mut tx, name).await? else { return Ok(None) };
    let Some((no, quarantine)) = find(db, &mut tx, name, version).await? else { return Ok(None) };
    release(db, &mut tx, no, quarantine, change.force).await?;
    let by = By { actor: change.actor, reason: change.reason, now };
    if before != Some(no) {
        end_running(
            db,
            &mut tx,
            name,
            RolloutStatus::Superseded,
            &By { reason: "another version was activated", ..by },
        )
        .await?;
        let back = last_step(db, &mut tx, name).await?;
        set_stable(db, &mut tx, name, no, back, &by).await?;
        if let (Some(before), Some(watch)) = (before, change.watch) {
            insert_rollout(db, &mut tx, name, (no, before), watch, &by).await?;
        }
    }
    let version = plugins::version(db, &mut tx, no).await?;
    db.commit_change(tx, "plugins").await?;
    Ok(Some(version))
}

pub(super) async fn rollback_plugin(
    db: &Backend,
    name: &str,
    actor: &str,
    reason: &str,
    now: Time,
) -> Result<Option<PluginVersion>> {
    let mut tx = db.begin().await?;
    if lock(db, &mut tx, name).await?.is_none() {
        return Ok(None);
    }
    let by = By { actor, reason, now };
    let Some(no) = go_back(db, &mut tx, name, &by).await? else {
        return Err(StoreError::Conflict(format!(
            "no version of {name} was stable before this one that is not in quarantine"
        )));
    };
    end_running(
        db,
        &mut tx,
        name,
        RolloutStatus::Superseded,
        &By { reason: "the version before was brought back", ..by },
    )
    .await?;
    let version = plugins::version(db, &mut tx, no).await?;
    db.commit_change(tx, "plugins").await?;
    Ok(Some(version))
}

pub(super) async fn plugin_history(db: &Backend, name: &str, limit: u32) -> Result<Vec<StableRow>> {
    let found: Vec<rows::StableSql> = db
        .rows(
            "SELECT v.version, h.at, h.actor, h.reason FROM plugin_history h
             JOIN plugin_versions v ON v.no = h.version_no WHERE h.name = $1 ORDER BY h.step DESC LIMIT $2",
        )
        .bind(name)
        .bind(i64::from(limit))
        .fetch_all(db.reading())
        .await?;
    Ok(found.into_iter().map(StableRow::from).collect())
}

pub(super) async fn start_rollout(
    db: &Backend,
    name: &str,
    version: &str,
    spec: &RolloutSpec,
    force: bool,
    actor: &str,
    now: Time,
) -> Result<Option<Rollout>> {
    let mut tx = db.begin().await?;
    let Some(active) = lock(db, &mut tx, name).await? else { return Ok(None) };
    let Some((no, quarantine)) = find(db, &mut tx, name, version).await? else { return Ok(None) };
    let Some(stable) = active else {
        return Err(StoreError::Conflict(format!("{name} has no active version to try another one against")));
    };
    if stable == no {
        return Err(StoreError::Conflict(format!("{name} {version} is the active version")));
    }
    if let Some(running) = running(db, &mut tx, name).await? {
        return Err(StoreError::Conflict(rows::still_running(&running)));
    }
    release(db, &mut tx, no, quarantine, force).await?;
    let no = insert_rollout(db, &mut tx, name, (no, stable), spec, &By { actor, reason: "", now }).await?;
    let rollout = rollout_in(db, &mut tx, no).await?;
    db.commit_change(tx, "plugins").await?;
    Ok(Some(rollout))
}

pub(super) async fn end_rollout(
    db: &Backend,
    no: RolloutNo,
    ending: &Ending,
    actor: &str,
    reason: &str,
    now: Time,
) -> Result<Option<Rollout>> {
    let mut tx = db.begin().await?;
    let name: Option<String> =
        db.scalar("SELECT name FROM rollouts WHERE no = $1").bind(no.0).fetch_optional(&mut *tx).await?;
    let Some(name) = name else { return Ok(None) };
    let active = lock(db, &mut tx, &name).await?.flatten();
    let by = By { actor, reason, now };
    let ended = db
        .sql(
            "UPDATE rollouts SET status = $2, ended_at = $3, ended_by = $4, reason = $5
             WHERE no = $1 AND status = 'running'",
        )
        .bind(no.0)
        .bind(ending.status().as_str())
        .bind(now.as_ms())
        .bind(actor)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    if ended.rows_affected() == 0 {
        return Ok(None);
    }
    let rollout = rollout_in(db, &mut tx, no.0).await?;
    let (candidate, _) = rollout.candidate;
    match ending {
        Ending::Promoted(watch) => {
            if active != Some(candidate.0) {
                let back = last_step(db, &mut tx, &name).await?;
                let promoted = By { reason: "its rollout was promoted", ..by };
                set_stable(db, &mut tx, &name, candidate.0, back, &promoted).await?;
                if let (Some(before), Some(watch)) = (active, watch) {
                    insert_rollout(db, &mut tx, &name, (candidate.0, before), watch, &promoted).await?;
                }
            }
        }
        Ending::RolledBack => {
            db.sql("UPDATE plugin_versions SET quarantined_at = $2, quarantine_reason = $3 WHERE no = $1")
                .bind(candidate.0)
                .bind(now.as_ms())
                .bind(reason)
                .execute(&mut *tx)
                .await?;
            if active == Some(candidate.0) {
                go_back(db, &mut tx, &name, &by).await?;
            }
        }
        Ending::Aborted | Ending::Passed => {}
    }
    db.commit_change(tx, "plugins").await?;
    Ok(Some(rollout))
}

pub(super) async fn rollouts(db: &Backend, name: &str, limit: u32) -> Result<Vec<Rollout>> {
    let found: Vec<rows::RolloutSql> = db
        .rows(rollout_columns!("WHERE r.name = $1 ORDER BY r.no DESC LIMIT $2"))
        .bind(name)
        .bind(i64::from(limit))
        .fetch_all(db.reading())
        .await?;
    found.into_iter().map(rows::RolloutSql::read).collect()
}

pub(super) async fn running_rollouts(db: &Backend) -> Result<Vec<Rollout>> {
    let found: Vec<rows::RolloutSql> =
        db.rows(rollout_columns!("WHERE r.status = 'running' ORDER BY r.no")).fetch_all(db.reading()).await?;
    found.into_iter().map(rows::RolloutSql::read).collect()
}

pub(super) async fn put_rollout_counts(
    db: &Backend,
    host: HostId,
    counts: &[(RolloutNo, RolloutCounts)],
) -> Result<()> {
    for (no, counts) in counts {
        db.sql(
            "INSERT INTO rollout_counts (rollout_no, host_id, counts) VALUES ($1, $2, $3)
             ON CONFLICT (rollout_no, host_id) DO UPDATE SET counts = excluded.counts",
        )
        .bind(no.0)
        .bind(host.0)
        .bind(rows::to_json(counts)?)
        .execute(db.writing())
        .await?;
    }
    Ok(())
}

pub(super) async fn rollout_counts(db: &Backend, nos: &[RolloutNo]) -> Result<Vec<(RolloutNo, RolloutCounts)>> {
    let found: Vec<(i32, String)> =
        db.rows(COUNTS_OF_ROLLOUTS).bind(list(nos.iter().map(|no| no.0))?).fetch_all(db.reading()).await?;
    rows::rollout_sums(nos, found)
}

pub(super) async fn add_findings(db: &Backend, findings: &[(RolloutNo, Finding)]) -> Result<()> {
    let mut tx = db.begin().await?;
    for (no, finding) in findings {
        db.sql(
            "INSERT INTO rollout_findings (rollout_no, at, message_id, device, field, detail)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(no.0)
        .bind(finding.at.as_ms())
        .bind(finding.message.0)
        .bind(&finding.device)
        .bind(&finding.field)
        .bind(&finding.detail)
        .execute(&mut *tx)
        .await?;
    }
    let nos: std::collections::BTreeSet<_> = findings.iter().map(|(no, _)| no.0).collect();
    for no in nos {
        db.sql(
            "DELETE FROM rollout_findings WHERE rollout_no = $1 AND no <= (
                 SELECT no FROM rollout_findings WHERE rollout_no = $1 ORDER BY no DESC LIMIT 1 OFFSET $2)",
        )
        .bind(no)
        .bind(i64::from(KEPT_FINDINGS))
        .execute(&mut *tx)
        .await?;
    }
    db.commit(tx).await
}

pub(super) async fn findings(db: &Backend, no: RolloutNo, limit: u32) -> Result<Vec<Finding>> {
    let found: Vec<rows::FindingSql> = db
        .rows(
            "SELECT at, message_id, device, field, detail FROM rollout_findings
             WHERE rollout_no = $1 ORDER BY no DESC LIMIT $2",
        )
        .bind(no.0)
        .bind(i64::from(limit))
        .fetch_all(db.reading())
        .await?;
    Ok(found.into_iter().map(Finding::from).collect())
}

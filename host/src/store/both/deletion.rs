//! Plugin versions are deleted, when nothing uses them. The row stays without its component.

use uuid::Uuid;

use super::*;
use crate::campaign::SendPlan;

pub(super) async fn delete_version(db: &Backend, name: &str, version: &str, now: Time) -> Result<bool> {
    let in_use = |why: String| StoreError::Conflict(format!("{name} {version} cannot be deleted: {why}"));
    // Not within the transaction, in which the one backend has everybody wait. Who comes to name the version in this very
    // moment is told by whatever uses it that it is not there, as of any version that is not.
    let named = named_by(db, name, version).await?;
    let mut tx = db.begin().await?;
    let Some(active) = rollouts::lock(db, &mut tx, name).await? else { return Ok(false) };
    let Some((no, _)) = rollouts::find(db, &mut tx, name, version).await? else { return Ok(false) };
    if active == Some(no) {
        return Err(in_use("it is the active version; activate another one first".to_owned()));
    }
    if let Some(running) = rollouts::running(db, &mut tx, name).await?
        && (running.candidate.0.0 == no || running.stable.0.0 == no)
    {
        return Err(in_use(rows::still_running(&running)));
    }
    if rollouts::before_current(db, &mut tx, name).await?.is_some_and(|(before, _)| before == no) {
        let why = "a roll-back would go back to it; it can go when another version has been activated since";
        return Err(in_use(why.to_owned()));
    }
    if let Some(why) = named {
        return Err(in_use(why));
    }
    let is_sending: bool = db
        .scalar(
            "SELECT EXISTS (SELECT 1 FROM in_flight WHERE message_id IS NOT NULL
                            AND (template_no = $1 OR delay_no = $1 OR sender_no = $1))",
        )
        .bind(no)
        .fetch_one(&mut *tx)
        .await?;
    if is_sending {
        return Err(in_use("a message is being sent with it; try again in a minute".to_owned()));
    }
    db.sql("UPDATE plugin_versions SET deleted_at = $2, bytes = $3 WHERE no = $1")
        .bind(no)
        .bind(now.as_ms())
        .bind(b"".as_slice())
        .execute(&mut *tx)
        .await?;
    db.commit_change(tx, "plugins").await?;
    Ok(true)
}

/// What stays on this version by its name, and what to do about it.
async fn named_by(db: &Backend, name: &str, version: &str) -> Result<Option<String>> {
    // Neither a pattern nor JSON has a meaning of its own for what a version is made of. What may be, is read to be sure.
    let may = format!("%\"version\":\"{version}\"%");
    let campaigns: Vec<(Uuid, String)> = db
        .rows(
            "SELECT id, spec FROM campaigns
             WHERE status IN ('draft', 'scheduled', 'expanding', 'running', 'paused') AND spec LIKE $1",
        )
        .bind(&may)
        .fetch_all(db.reading())
        .await?;
    for (id, spec) in campaigns {
        let spec: CampaignSpec = rows::from_json("a campaign", &spec)?;
        if SendPlan::from(&spec).stays_on(name, version) {
            return Ok(Some(format!("campaign {id} stays on it; cancel that, or wait until it has ended")));
        }
    }
    let sequences: Vec<(Uuid, String)> =
        db.rows("SELECT id, spec FROM sequences WHERE spec LIKE $1").bind(&may).fetch_all(db.reading()).await?;
    for (id, spec) in sequences {
        let spec: SequenceSpec = rows::from_json("a sequence", &spec)?;
        if spec.steps.iter().any(|step| spec.plan(step).stays_on(name, version)) {
            return Ok(Some(format!("sequence {id} stays on it, and a sequence has no end: it is kept")));
        }
    }
    let devices: Vec<(String, String)> = db
        .rows("SELECT id, spec FROM devices WHERE deleted_at IS NULL AND spec LIKE $1")
        .bind(&may)
        .fetch_all(db.reading())
        .await?;
    for (id, spec) in devices {
        let spec: DeviceSpec = rows::from_json("a device", &spec)?;
        if spec.sender.is_some_and(|sender| sender.stays_on(name, version)) {
            return Ok(Some(format!("device {id} stays on it; give the device another sender first")));
        }
    }
    Ok(None)
}

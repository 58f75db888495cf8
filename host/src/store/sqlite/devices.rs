//! Devices and their saved paces.

use super::*;

pub(super) async fn put_devices(lite: &Sqlite, devices: &[DeviceSpec], now: Time) -> Result<u32> {
    // Of repeats the last one counts.
    let devices: BTreeMap<&str, &DeviceSpec> = devices.iter().map(|d| (d.id.as_str(), d)).collect();
    if devices.is_empty() {
        return Ok(0);
    }
    let mut columns = Vec::with_capacity(devices.len());
    for (id, device) in devices {
        let tags = rows::unique_tags(&device.tags);
        columns.push((id, &device.channel, &device.account, rows::to_json(device)?, tags));
    }
    let specs = rows::to_json(&columns)?;
    let mut tx = lite.begin().await?;
    let known: i64 = lite
        .scalar(
            "SELECT count(*) FROM json_each($1) n JOIN devices d ON d.id = n.value ->> 0 WHERE d.deleted_at IS NULL",
        )
        .bind(&specs)
        .fetch_one(&mut *tx)
        .await?;
    // A deleted device that is made again gets its old number, but starts without a hold.
    lite.sql(
        "INSERT INTO devices AS d (id, channel, account, spec, created_at, updated_at)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, $2, $2 FROM json_each($1) WHERE TRUE
         ON CONFLICT (id) DO UPDATE SET
             channel = excluded.channel, account = excluded.account, spec = excluded.spec,
             held = CASE WHEN d.deleted_at IS NULL THEN d.held END,
             created_at = CASE WHEN d.deleted_at IS NULL THEN d.created_at ELSE excluded.created_at END,
             updated_at = max(excluded.updated_at, d.updated_at + 1),
             deleted_at = NULL",
    )
    .bind(&specs)
    .bind(now.as_ms())
    .execute(&mut *tx)
    .await?;
    lite.sql(
        "DELETE FROM device_tags WHERE device_no IN (
             SELECT d.no FROM json_each($1) n JOIN devices d ON d.id = n.value ->> 0)",
    )
    .bind(&specs)
    .execute(&mut *tx)
    .await?;
    lite.sql(
        "INSERT INTO device_tags (tag, device_no)
         SELECT t.value, d.no FROM json_each($1) n JOIN devices d ON d.id = n.value ->> 0 JOIN json_each(n.value, '$[4]') t",
    )
    .bind(&specs)
    .execute(&mut *tx)
    .await?;
    lite.bump(&mut tx, "devices").await?;
    lite.commit(tx).await?;
    Ok(u32::try_from(columns.len()).unwrap_or(u32::MAX).saturating_sub(rows::to_u32(known)))
}

async fn put_tags(lite: &Sqlite, tx: &mut Tx, device: i32, tags: &[String]) -> Result<()> {
    lite.sql("DELETE FROM device_tags WHERE device_no = $1").bind(device).execute(&mut **tx).await?;
    if !tags.is_empty() {
        lite.sql("INSERT INTO device_tags (tag, device_no) SELECT value, $2 FROM json_each($1)")
            .bind(rows::to_json(&rows::unique_tags(tags))?)
            .bind(device)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn update_device(
    lite: &Sqlite,
    spec: &DeviceSpec,
    held: Option<&str>,
    ends_wait: bool,
    seen_updated_at: Time,
    now: Time,
) -> Result<bool> {
    let mut tx = lite.begin().await?;
    // The time of change always moves, or a second change within the same millisecond would pass unseen.
    let no: Option<i32> = lite
        .scalar(
            "UPDATE devices SET channel = $2, account = $3, spec = $4, held = $5, updated_at = max($7, updated_at + 1)
             WHERE id = $1 AND updated_at = $6 AND deleted_at IS NULL RETURNING no",
        )
        .bind(spec.id.as_str())
        .bind(&spec.channel)
        .bind(&spec.account)
        .bind(rows::to_json(spec)?)
        .bind(held)
        .bind(seen_updated_at.as_ms())
        .bind(now.as_ms())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(no) = no else { return Ok(false) };
    put_tags(lite, &mut tx, no, &spec.tags).await?;
    if ends_wait {
        lite.sql("UPDATE device_state SET next_at = min(next_at, $2) WHERE device_no = $1")
            .bind(no)
            .bind(now.as_ms())
            .execute(&mut *tx)
            .await?;
    }
    lite.bump(&mut tx, "devices").await?;
    lite.commit(tx).await?;
    Ok(true)
}

pub(super) async fn delete_device(lite: &Sqlite, id: &DeviceId, now: Time) -> Result<bool> {
    let mut tx = lite.begin().await?;
    let no: Option<i32> = lite
        .scalar("SELECT no FROM devices WHERE id = $1 AND deleted_at IS NULL")
        .bind(id.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(no) = no else { return Ok(false) };
    let busy: bool = lite
        .scalar(
            "SELECT EXISTS (SELECT 1 FROM waiting w CROSS JOIN messages m ON m.id = w.id
                            WHERE w.device_no = $1 AND m.device_no = $1 AND m.status = 0)
                 OR EXISTS (SELECT 1 FROM messages WHERE device_no = $1 AND status = 1)",
        )
        .bind(no)
        .fetch_one(&mut *tx)
        .await?;
    if busy {
        return Err(StoreError::Conflict(format!("device {id} has messages that are not final")));
    }
    lite.sql("UPDATE devices SET deleted_at = $2, updated_at = max($2, updated_at + 1) WHERE no = $1")
        .bind(no)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    lite.sql("DELETE FROM device_tags WHERE device_no = $1").bind(no).execute(&mut *tx).await?;
    lite.bump(&mut tx, "devices").await?;
    lite.commit(tx).await?;
    Ok(true)
}

pub(super) async fn device(lite: &Sqlite, id: &DeviceId) -> Result<Option<Device>> {
    lite.rows("SELECT no, spec, held, created_at, updated_at FROM devices WHERE id = $1 AND deleted_at IS NULL")
        .bind(id.as_str())
        .fetch_optional(&lite.readers)
        .await?
        .map(rows::DeviceSql::read)
        .transpose()
}

pub(super) async fn devices(
    lite: &Sqlite,
    tag: Option<&str>,
    channel: Option<&str>,
    cursor: Option<&DeviceId>,
    limit: u32,
) -> Result<Page<Device, DeviceId>> {
    let found: Vec<rows::DeviceSql> = lite
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices d
             WHERE deleted_at IS NULL AND id > $3 AND ($2 IS NULL OR channel = $2)
               AND ($1 IS NULL OR EXISTS (SELECT 1 FROM device_tags t WHERE t.tag = $1 AND t.device_no = d.no))
             ORDER BY id LIMIT $4",
        )
        .bind(tag)
        .bind(channel)
        .bind(cursor.map_or("", DeviceId::as_str))
        .bind(rows::one_more(limit))
        .fetch_all(&lite.readers)
        .await?;
    Ok(rows::page(read_all(found)?, limit, |d| d.spec.id.clone()))
}

fn read_all(found: Vec<rows::DeviceSql>) -> Result<Vec<Device>> {
    found.into_iter().map(rows::DeviceSql::read).collect()
}

fn numbers(nos: &[DeviceNo]) -> Result<String> {
    list(nos.iter().map(|no| no.0))
}

pub(super) async fn devices_by_no(lite: &Sqlite, nos: &[DeviceNo]) -> Result<Vec<Device>> {
    let found = lite
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices
             WHERE no IN (SELECT value FROM json_each($1)) AND deleted_at IS NULL ORDER BY no",
        )
        .bind(numbers(nos)?)
        .fetch_all(&lite.readers)
        .await?;
    read_all(found)
}

pub(super) async fn devices_changed(lite: &Sqlite, since: Time) -> Result<(Vec<Device>, Vec<DeviceNo>)> {
    let found = lite
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices INDEXED BY devices_by_change
             WHERE updated_at >= $1 AND deleted_at IS NULL ORDER BY no",
        )
        .bind(since.as_ms())
        .fetch_all(&lite.readers)
        .await?;
    let deleted: Vec<i32> = lite
        .scalar("SELECT no FROM devices INDEXED BY devices_by_change WHERE updated_at >= $1 AND deleted_at IS NOT NULL ORDER BY no")
        .bind(since.as_ms())
        .fetch_all(&lite.readers)
        .await?;
    Ok((read_all(found)?, deleted.into_iter().map(DeviceNo).collect()))
}

pub(super) async fn devices_of_account(lite: &Sqlite, account: &str) -> Result<Vec<Device>> {
    let found = lite
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices
             WHERE account = $1 AND deleted_at IS NULL ORDER BY no",
        )
        .bind(account)
        .fetch_all(&lite.readers)
        .await?;
    read_all(found)
}

pub(super) async fn count_devices(lite: &Sqlite) -> Result<u64> {
    let count: i64 =
        lite.scalar("SELECT count(*) FROM devices WHERE deleted_at IS NULL").fetch_one(&lite.readers).await?;
    Ok(rows::to_u64(count))
}

pub(super) async fn hold_devices(lite: &Sqlite, nos: &[DeviceNo], reason: Option<&str>, now: Time) -> Result<()> {
    let mut tx = lite.begin().await?;
    let held = lite
        .sql(
            "UPDATE devices SET held = $2, updated_at = max($3, updated_at + 1)
             WHERE no IN (SELECT value FROM json_each($1)) AND deleted_at IS NULL AND held IS NOT $2",
        )
        .bind(numbers(nos)?)
        .bind(reason)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    if held.rows_affected() > 0 {
        lite.bump(&mut tx, "devices").await?;
    }
    lite.commit(tx).await
}

pub(super) async fn save_paces(lite: &Sqlite, paces: &[PaceUpdate]) -> Result<()> {
    if paces.is_empty() {
        return Ok(());
    }
    let mut tx = lite.begin().await?;
    save_paces_in(lite, &mut tx, paces.iter()).await?;
    lite.commit(tx).await
}

/// Saves paces within a transaction.
pub(super) async fn save_paces_in(lite: &Sqlite, tx: &mut Tx, paces: impl Iterator<Item = &PaceUpdate>) -> Result<()> {
    let paces: Vec<_> = paces.map(|p| (p.device.0, p.next_at.as_ms(), p.token, p.pace.as_str())).collect();
    if paces.is_empty() {
        return Ok(());
    }
    lite.sql(
        "INSERT INTO device_state AS s (device_no, next_at, token, pace)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE TRUE
         ON CONFLICT (device_no) DO UPDATE
             SET next_at = excluded.next_at, token = excluded.token, pace = excluded.pace
             WHERE s.token <= excluded.token",
    )
    .bind(rows::to_json(&paces)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

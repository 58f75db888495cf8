//! Devices and their saved paces.

use super::*;

pub(super) async fn put_devices(pg: &Postgres, devices: &[DeviceSpec], now: Time) -> Result<u32> {
    // In id order, so that two imports of the same devices wait for each other instead of dying; of repeats the last one
    // counts.
    let devices: BTreeMap<&str, &DeviceSpec> = devices.iter().map(|d| (d.id.as_str(), d)).collect();
    if devices.is_empty() {
        return Ok(0);
    }
    let specs = devices.values().map(rows::to_json).collect::<Result<Vec<_>>>()?;
    let devices: Vec<&DeviceSpec> = devices.into_values().collect();
    repeating(|| put_in_one(pg, &devices, &specs, now)).await
}

async fn put_in_one(pg: &Postgres, devices: &[&DeviceSpec], specs: &[String], now: Time) -> Result<u32> {
    let mut tx = pg.begin().await?;
    let ids: Vec<&str> = devices.iter().map(|d| d.id.as_str()).collect();
    let known: i64 = pg
        .scalar("SELECT count(*) FROM devices WHERE id = ANY($1) AND deleted_at IS NULL")
        .bind(&ids)
        .fetch_one(&mut *tx)
        .await?;
    // A deleted device that is made again gets its old number, but starts without a hold.
    let put: Vec<(i32, String)> = pg
        .rows(
            "INSERT INTO devices AS d (id, channel, account, spec, created_at, updated_at)
             SELECT n.id, n.channel, n.account, n.spec, $5, $5
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n (id, channel, account, spec)
             ORDER BY n.id COLLATE \"C\"
             ON CONFLICT (id) DO UPDATE SET
                 channel = excluded.channel, account = excluded.account, spec = excluded.spec,
                 held = CASE WHEN d.deleted_at IS NULL THEN d.held END,
                 created_at = CASE WHEN d.deleted_at IS NULL THEN d.created_at ELSE excluded.created_at END,
                 updated_at = greatest(excluded.updated_at, d.updated_at + 1),
                 deleted_at = NULL
             RETURNING no, id",
        )
        .bind(&ids)
        .bind(devices.iter().map(|d| d.channel.as_str()).collect::<Vec<_>>())
        .bind(devices.iter().map(|d| d.account.as_deref()).collect::<Vec<_>>())
        .bind(specs)
        .bind(now.as_ms())
        .fetch_all(&mut *tx)
        .await?;
    let numbers: BTreeMap<String, i32> = put.into_iter().map(|(no, id)| (id, no)).collect();
    pg.sql("INSERT INTO in_flight (device_no) SELECT * FROM unnest($1::int[]) ON CONFLICT (device_no) DO NOTHING")
        .bind(numbers.values().copied().collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    let tagged: Vec<(i32, &[String])> =
        devices.iter().filter_map(|d| numbers.get(d.id.as_str()).map(|no| (*no, d.tags.as_slice()))).collect();
    put_tags(pg, &mut tx, &tagged).await?;
    pg.bump(&mut tx, "devices").await?;
    pg.commit(tx).await?;
    Ok(rows::to_u32(i64::try_from(devices.len()).unwrap_or(i64::MAX) - known))
}

async fn put_tags(pg: &Postgres, tx: &mut Tx, devices: &[(i32, &[String])]) -> Result<()> {
    pg.sql("DELETE FROM device_tags WHERE device_no = ANY($1)")
        .bind(devices.iter().map(|(no, _)| *no).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    let (mut numbers, mut tags) = (Vec::new(), Vec::new());
    for (no, of_device) in devices {
        for tag in rows::unique_tags(of_device) {
            numbers.push(*no);
            tags.push(tag);
        }
    }
    pg.sql("INSERT INTO device_tags (tag, device_no) SELECT * FROM unnest($1::text[], $2::int[])")
        .bind(tags)
        .bind(numbers)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn update_device(
    pg: &Postgres,
    spec: &DeviceSpec,
    held: Option<&str>,
    ends_wait: bool,
    seen_updated_at: Time,
    now: Time,
) -> Result<bool> {
    let mut tx = pg.begin().await?;
    // The time of change always moves, or a second change within the same millisecond would pass unseen.
    let no: Option<i32> = pg
        .scalar(
            "UPDATE devices SET channel = $2, account = $3, spec = $4, held = $5, updated_at = greatest($7, updated_at + 1)
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
    put_tags(pg, &mut tx, &[(no, &spec.tags)]).await?;
    if ends_wait {
        pg.sql("UPDATE device_state SET next_at = least(next_at, $2) WHERE device_no = $1")
            .bind(no)
            .bind(now.as_ms())
            .execute(&mut *tx)
            .await?;
    }
    pg.bump(&mut tx, "devices").await?;
    pg.commit(tx).await?;
    Ok(true)
}

pub(super) async fn delete_device(pg: &Postgres, id: &DeviceId, now: Time) -> Result<bool> {
    let mut tx = pg.begin().await?;
    let no: Option<i32> = pg
        .scalar("SELECT no FROM devices WHERE id = $1 AND deleted_at IS NULL FOR UPDATE")
        .bind(id.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(no) = no else { return Ok(false) };
    let busy: bool = pg
        .scalar(
            "SELECT EXISTS (SELECT FROM messages WHERE device_no = $1 AND status = 0)
                 OR EXISTS (SELECT FROM messages WHERE device_no = $1 AND status = 1)",
        )
        .bind(no)
        .fetch_one(&mut *tx)
        .await?;
    if busy {
        return Err(StoreError::Conflict(format!("device {id} has messages that are not final")));
    }
    pg.sql("UPDATE devices SET deleted_at = $2, updated_at = greatest($2, updated_at + 1) WHERE no = $1")
        .bind(no)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    pg.sql("DELETE FROM device_tags WHERE device_no = $1").bind(no).execute(&mut *tx).await?;
    pg.bump(&mut tx, "devices").await?;
    pg.commit(tx).await?;
    Ok(true)
}

pub(super) async fn device(pg: &Postgres, id: &DeviceId) -> Result<Option<Device>> {
    pg.rows("SELECT no, spec, held, created_at, updated_at FROM devices WHERE id = $1 AND deleted_at IS NULL")
        .bind(id.as_str())
        .fetch_optional(&pg.pool)
        .await?
        .map(rows::DeviceSql::read)
        .transpose()
}

pub(super) async fn devices(
    pg: &Postgres,
    tag: Option<&str>,
    channel: Option<&str>,
    cursor: Option<&DeviceId>,
    limit: u32,
) -> Result<Page<Device, DeviceId>> {
    let found: Vec<rows::DeviceSql> = pg
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices d
             WHERE deleted_at IS NULL AND id > $3 AND ($2::text IS NULL OR channel = $2)
               AND ($1::text IS NULL OR EXISTS (SELECT FROM device_tags t WHERE t.tag = $1 AND t.device_no = d.no))
             ORDER BY id LIMIT $4",
        )
        .bind(tag)
        .bind(channel)
        .bind(cursor.map_or("", DeviceId::as_str))
        .bind(rows::one_more(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(rows::page(read_all(found)?, limit, |d| d.spec.id.clone()))
}

fn read_all(found: Vec<rows::DeviceSql>) -> Result<Vec<Device>> {
    found.into_iter().map(rows::DeviceSql::read).collect()
}

fn numbers(nos: &[DeviceNo]) -> Vec<i32> {
    nos.iter().map(|no| no.0).collect()
}

pub(super) async fn devices_by_no(pg: &Postgres, nos: &[DeviceNo]) -> Result<Vec<Device>> {
    let found = pg
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices
             WHERE no = ANY($1) AND deleted_at IS NULL ORDER BY no",
        )
        .bind(numbers(nos))
        .fetch_all(&pg.pool)
        .await?;
    read_all(found)
}

pub(super) async fn devices_changed(pg: &Postgres, since: Time) -> Result<(Vec<Device>, Vec<DeviceNo>)> {
    let found = pg
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices
             WHERE updated_at >= $1 AND deleted_at IS NULL ORDER BY no",
        )
        .bind(since.as_ms())
        .fetch_all(&pg.pool)
        .await?;
    let deleted: Vec<i32> = pg
        .scalar("SELECT no FROM devices WHERE updated_at >= $1 AND deleted_at IS NOT NULL ORDER BY no")
        .bind(since.as_ms())
        .fetch_all(&pg.pool)
        .await?;
    Ok((read_all(found)?, deleted.into_iter().map(DeviceNo).collect()))
}

pub(super) async fn devices_of_account(pg: &Postgres, account: &str) -> Result<Vec<Device>> {
    let found = pg
        .rows(
            "SELECT no, spec, held, created_at, updated_at FROM devices
             WHERE account = $1 AND deleted_at IS NULL ORDER BY no",
        )
        .bind(account)
        .fetch_all(&pg.pool)
        .await?;
    read_all(found)
}

pub(super) async fn count_devices(pg: &Postgres) -> Result<u64> {
    let count: i64 = pg.scalar("SELECT count(*) FROM devices WHERE deleted_at IS NULL").fetch_one(&pg.pool).await?;
    Ok(rows::to_u64(count))
}

pub(super) async fn hold_devices(pg: &Postgres, nos: &[DeviceNo], reason: Option<&str>, now: Time) -> Result<()> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let held = pg
            .sql(
                "UPDATE devices SET held = $2, updated_at = greatest($3, updated_at + 1)
                 WHERE no = ANY($1) AND deleted_at IS NULL AND held IS DISTINCT FROM $2",
            )
            .bind(numbers(nos))
            .bind(reason)
            .bind(now.as_ms())
            .execute(&mut *tx)
            .await?;
        if held.rows_affected() > 0 {
            pg.bump(&mut tx, "devices").await?;
        }
        pg.commit(tx).await
    })
    .await
}

pub(super) async fn save_paces(pg: &Postgres, paces: &[PaceUpdate]) -> Result<()> {
    if paces.is_empty() {
        return Ok(());
    }
    repeating(|| async {
        let mut tx = pg.begin().await?;
        save_paces_in(pg, &mut tx, paces.iter()).await?;
        pg.commit(tx).await
    })
    .await
}

/// Saves paces within a transaction.
pub(super) async fn save_paces_in(pg: &Postgres, tx: &mut Tx, paces: impl Iterator<Item = &PaceUpdate>) -> Result<()> {
    // One row per device, of repeats the newest; in device order against deadlocks.
    let mut newest: BTreeMap<DeviceNo, &PaceUpdate> = BTreeMap::new();
    for pace in paces {
        let known = newest.entry(pace.device).or_insert(pace);
        if known.token <= pace.token {
            *known = pace;
        }
    }
    pg.sql(
        "INSERT INTO device_state AS s (device_no, next_at, token, pace)
         SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::text[]) AS n (device_no, next_at, token, pace)
         ORDER BY n.device_no
         ON CONFLICT (device_no) DO UPDATE
             SET next_at = excluded.next_at, token = excluded.token, pace = excluded.pace
             WHERE s.token <= excluded.token",
    )
    .bind(newest.keys().map(|no| no.0).collect::<Vec<_>>())
    .bind(newest.values().map(|p| p.next_at.as_ms()).collect::<Vec<_>>())
    .bind(newest.values().map(|p| p.token).collect::<Vec<_>>())
    .bind(newest.values().map(|p| p.pace.as_str()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

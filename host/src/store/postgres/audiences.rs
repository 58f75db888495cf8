//! Audiences: versions of lists of contacts.

use super::*;

pub(super) async fn begin_audience(pg: &Postgres, name: &str, columns: &[String], now: Time) -> Result<AudienceNo> {
    let no = pg
        .scalar(
            "INSERT INTO audiences (name, state, columns, created_at, updated_at) VALUES ($1, 0, $2, $3, $3) RETURNING no",
        )
        .bind(name)
        .bind(rows::to_json(&columns)?)
        .bind(now.as_ms())
        .fetch_one(&pg.pool)
        .await?;
    Ok(AudienceNo(no))
}

pub(super) async fn append_contacts(
    pg: &Postgres,
    audience: AudienceNo,
    first: u32,
    contacts: &[NewContact],
) -> Result<Vec<u32>> {
    if contacts.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = pg.begin().await?;
    // Locked against an abort or a finish that comes in between.
    let building: Option<i32> = pg
        .scalar("SELECT no FROM audiences WHERE no = $1 AND state = 0 FOR SHARE")
        .bind(audience.0)
        .fetch_optional(&mut *tx)
        .await?;
    if building.is_none() {
        return Err(StoreError::Conflict("the upload of this audience has ended".into()));
    }
    // Of an address that comes twice in the batch the first one counts, because rows go in in their order.
    let accepted: Vec<i32> = pg
        .scalar(
            "INSERT INTO contacts (audience_no, no, address, locale, zone, variables)
             SELECT $1, ($2::bigint + n.pos - 1)::int, n.address, n.locale, n.zone, n.variables
             FROM unnest($3::text[], $4::text[], $5::text[], $6::text[])
                 WITH ORDINALITY AS n (address, locale, zone, variables, pos)
             ORDER BY n.pos
             ON CONFLICT (audience_no, address) DO NOTHING RETURNING no",
        )
        .bind(audience.0)
        .bind(i64::from(first))
        .bind(contacts.iter().map(|c| c.address.as_str()).collect::<Vec<_>>())
        .bind(contacts.iter().map(|c| c.locale.as_deref()).collect::<Vec<_>>())
        .bind(contacts.iter().map(|c| c.zone.as_deref()).collect::<Vec<_>>())
        .bind(contacts.iter().map(|c| c.variables.as_str()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    pg.commit(tx).await?;
    let accepted: std::collections::BTreeSet<i64> = accepted.into_iter().map(i64::from).collect();
    let count = u32::try_from(contacts.len()).unwrap_or(u32::MAX);
    Ok((0..count).filter(|pos| !accepted.contains(&(i64::from(first) + i64::from(*pos)))).collect())
}

pub(super) async fn finish_audience(
    pg: &Postgres,
    audience: AudienceNo,
    contacts: u32,
    last: u32,
    now: Time,
) -> Result<()> {
    let mut tx = pg.begin().await?;
    // All open versions of the name are locked, so that two uploads that finish together take turns.
    let open: Vec<(i32, i16)> = pg
        .rows(
            "SELECT no, state FROM audiences
             WHERE name = (SELECT name FROM audiences WHERE no = $1) AND state IN (0, 1) ORDER BY no FOR UPDATE",
        )
        .bind(audience.0)
        .fetch_all(&mut *tx)
        .await?;
    if !open.contains(&(audience.0, 0)) {
        return Err(StoreError::Conflict("the upload of this audience has ended".into()));
    }
    pg.sql(
        "UPDATE audiences SET state = 2
         WHERE name = (SELECT name FROM audiences WHERE no = $1) AND state = 1",
    )
    .bind(audience.0)
    .execute(&mut *tx)
    .await?;
    pg.sql("UPDATE audiences SET state = 1, contacts = $2, last = $3, updated_at = $4 WHERE no = $1")
        .bind(audience.0)
        .bind(rows::to_i32(contacts))
        .bind(rows::to_i32(last))
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    pg.commit(tx).await
}

pub(super) async fn abort_audience(pg: &Postgres, audience: AudienceNo) -> Result<()> {
    // Its contacts go with the next pruning: there may be millions.
    pg.sql("UPDATE audiences SET state = 2 WHERE no = $1 AND state = 0").bind(audience.0).execute(&pg.pool).await?;
    Ok(())
}

pub(super) async fn audience(pg: &Postgres, name: &str) -> Result<Option<AudienceRow>> {
    pg.rows("SELECT no, name, columns, contacts, updated_at FROM audiences WHERE name = $1 AND state = 1")
        .bind(name)
        .fetch_optional(&pg.pool)
        .await?
        .map(rows::AudienceSql::read)
        .transpose()
}

pub(super) async fn audiences(pg: &Postgres, cursor: Option<&str>, limit: u32) -> Result<Page<AudienceRow, String>> {
    let found: Vec<rows::AudienceSql> = pg
        .rows(
            "SELECT no, name, columns, contacts, updated_at FROM audiences
             WHERE name > $1 AND state = 1 ORDER BY name LIMIT $2",
        )
        .bind(cursor.unwrap_or_default())
        .bind(rows::one_more(limit))
        .fetch_all(&pg.pool)
        .await?;
    let items = found.into_iter().map(rows::AudienceSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |a| a.name.clone()))
}

pub(super) async fn contacts(
    pg: &Postgres,
    audience: AudienceNo,
    after: u32,
    limit: u32,
) -> Result<Vec<(u32, NewContact)>> {
    let found: Vec<rows::ContactSql> = pg
        .rows(
            "SELECT no, address, locale, zone, variables FROM contacts
             WHERE audience_no = $1 AND no > $2 ORDER BY no LIMIT $3",
        )
        .bind(audience.0)
        .bind(rows::to_i32(after))
        .bind(i64::from(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

pub(super) async fn prune_audiences(pg: &Postgres, now: Time, limit: u32) -> Result<u64> {
    loop {
        match prune_one(pg, now, limit).await? {
            // A version that never had contacts: what is left of it is gone, look at the next one.
            Some(0) => {}
            Some(deleted) => return Ok(deleted),
            None => return Ok(0),
        }
    }
}

/// Deletes contacts of one version, and the version with its last one. `None` when there is none to prune.
async fn prune_one(pg: &Postgres, now: Time, limit: u32) -> Result<Option<u64>> {
    let mut tx = pg.begin().await?;
    // A run locks the version it freezes; one that is locked is looked at next time.
    let no: Option<i32> = pg
        .scalar(
            "SELECT a.no FROM audiences a
             WHERE (a.state = 2 OR (a.state = 0 AND a.updated_at < $1))
               AND NOT EXISTS (SELECT FROM runs r WHERE r.audience_no = a.no AND NOT r.pruned)
             ORDER BY a.no LIMIT 1 FOR UPDATE SKIP LOCKED",
        )
        .bind(now.as_ms() - rows::UPLOAD_GIVEN_UP_MS)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(no) = no else { return Ok(None) };
    let deleted = pg
        .sql(
            "DELETE FROM contacts WHERE audience_no = $1 AND no IN (
                 SELECT no FROM contacts WHERE audience_no = $1 ORDER BY no LIMIT $2)",
        )
        .bind(no)
        .bind(i64::from(limit))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    if deleted < u64::from(limit) {
        pg.sql("DELETE FROM audiences WHERE no = $1").bind(no).execute(&mut *tx).await?;
    } else {
        // From the first contact that goes, the version cannot be finished any more.
        pg.sql("UPDATE audiences SET state = 2 WHERE no = $1").bind(no).execute(&mut *tx).await?;
    }
    pg.commit(tx).await?;
    Ok(Some(deleted))
}

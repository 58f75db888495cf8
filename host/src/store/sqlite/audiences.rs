//! Audiences: versions of lists of contacts.

use super::*;

pub(super) async fn begin_audience(lite: &Sqlite, name: &str, columns: &[String], now: Time) -> Result<AudienceNo> {
    let no = lite
        .scalar(
            "INSERT INTO audiences (name, state, columns, created_at, updated_at) VALUES ($1, 0, $2, $3, $3) RETURNING no",
        )
        .bind(name)
        .bind(rows::to_json(&columns)?)
        .bind(now.as_ms())
        .fetch_one(&lite.writer)
        .await?;
    Ok(AudienceNo(no))
}

pub(super) async fn append_contacts(
    lite: &Sqlite,
    audience: AudienceNo,
    first: u32,
    contacts: &[NewContact],
) -> Result<Vec<u32>> {
    if contacts.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = lite.begin().await?;
    let building: Option<i32> = lite
        .scalar("SELECT no FROM audiences WHERE no = $1 AND state = 0")
        .bind(audience.0)
        .fetch_optional(&mut *tx)
        .await?;
    if building.is_none() {
        return Err(StoreError::Conflict("the upload of this audience has ended".into()));
    }
    // One statement for all: a call for each contact would take longer than its insertion.
    let fields: Vec<_> = contacts.iter().map(|c| (&c.address, &c.locale, &c.zone, &c.variables)).collect();
    let made = lite
        .sql(
            "INSERT INTO contacts (audience_no, no, address, locale, zone, variables)
             SELECT $1, $2 + key, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($3) WHERE TRUE
             ON CONFLICT (audience_no, address) DO NOTHING",
        )
        .bind(audience.0)
        .bind(rows::to_i32(first))
        .bind(rows::to_json(&fields)?)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    let mut skipped = Vec::new();
    if usize::try_from(made).is_ok_and(|made| made < contacts.len()) {
        skipped = lite
            .scalar(
                "SELECT key FROM json_each($3) AS n
                 WHERE NOT EXISTS (SELECT 1 FROM contacts WHERE audience_no = $1 AND no = $2 + n.key) ORDER BY key",
            )
            .bind(audience.0)
            .bind(rows::to_i32(first))
            .bind(rows::to_json(&vec![0; contacts.len()])?)
            .fetch_all(&mut *tx)
            .await?;
    }
    lite.commit(tx).await?;
    Ok(skipped)
}

pub(super) async fn finish_audience(
    lite: &Sqlite,
    audience: AudienceNo,
    contacts: u32,
    last: u32,
    now: Time,
) -> Result<()> {
    let mut tx = lite.begin().await?;
    let open: Vec<(i32, i16)> = lite
        .rows(
            "SELECT no, state FROM audiences
             WHERE name = (SELECT name FROM audiences WHERE no = $1) AND state IN (0, 1) ORDER BY no",
        )
        .bind(audience.0)
        .fetch_all(&mut *tx)
        .await?;
    if !open.contains(&(audience.0, 0)) {
        return Err(StoreError::Conflict("the upload of this audience has ended".into()));
    }
    lite.sql(
        "UPDATE audiences SET state = 2
         WHERE name = (SELECT name FROM audiences WHERE no = $1) AND state = 1",
    )
    .bind(audience.0)
    .execute(&mut *tx)
    .await?;
    lite.sql("UPDATE audiences SET state = 1, contacts = $2, last = $3, updated_at = $4 WHERE no = $1")
        .bind(audience.0)
        .bind(rows::to_i32(contacts))
        .bind(rows::to_i32(last))
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    lite.commit(tx).await
}

pub(super) async fn abort_audience(lite: &Sqlite, audience: AudienceNo) -> Result<()> {
    // Its contacts go with the next pruning: there may be millions.
    lite.sql("UPDATE audiences SET state = 2 WHERE no = $1 AND state = 0")
        .bind(audience.0)
        .execute(&lite.writer)
        .await?;
    Ok(())
}

pub(super) async fn audience(lite: &Sqlite, name: &str) -> Result<Option<AudienceRow>> {
    lite.rows("SELECT no, name, columns, contacts, updated_at FROM audiences WHERE name = $1 AND state = 1")
        .bind(name)
        .fetch_optional(&lite.readers)
        .await?
        .map(rows::AudienceSql::read)
        .transpose()
}

pub(super) async fn audiences(lite: &Sqlite, cursor: Option<&str>, limit: u32) -> Result<Page<AudienceRow, String>> {
    let found: Vec<rows::AudienceSql> = lite
        .rows(
            "SELECT no, name, columns, contacts, updated_at FROM audiences
             WHERE name > $1 AND state = 1 ORDER BY name LIMIT $2",
        )
        .bind(cursor.unwrap_or_default())
        .bind(rows::one_more(limit))
        .fetch_all(&lite.readers)
        .await?;
    let items = found.into_iter().map(rows::AudienceSql::read).collect::<Result<Vec<_>>>()?;
    Ok(rows::page(items, limit, |a| a.name.clone()))
}

pub(super) async fn contacts(
    lite: &Sqlite,
    audience: AudienceNo,
    after: u32,
    limit: u32,
) -> Result<Vec<(u32, NewContact)>> {
    let found: Vec<rows::ContactSql> = lite
        .rows(
            "SELECT no, address, locale, zone, variables FROM contacts
             WHERE audience_no = $1 AND no > $2 ORDER BY no LIMIT $3",
        )
        .bind(audience.0)
        .bind(rows::to_i32(after))
        .bind(i64::from(limit))
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

pub(super) async fn prune_audiences(lite: &Sqlite, now: Time, limit: u32) -> Result<u64> {
    loop {
        match prune_one(lite, now, limit).await? {
            // A version that never had contacts: what is left of it is gone, look at the next one.
            Some(0) => {}
            Some(deleted) => return Ok(deleted),
            None => return Ok(0),
        }
    }
}

/// Deletes contacts of one version, and the version with its last one. `None` when there is none to prune.
async fn prune_one(lite: &Sqlite, now: Time, limit: u32) -> Result<Option<u64>> {
    let mut tx = lite.begin().await?;
    let no: Option<i32> = lite
        .scalar(
            "SELECT a.no FROM audiences a
             WHERE (a.state = 2 OR (a.state = 0 AND a.updated_at < $1))
               AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.audience_no = a.no AND r.pruned = 0)
             ORDER BY a.no LIMIT 1",
        )
        .bind(now.as_ms() - rows::UPLOAD_GIVEN_UP_MS)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(no) = no else { return Ok(None) };
    let deleted = lite
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
        lite.sql("DELETE FROM audiences WHERE no = $1").bind(no).execute(&mut *tx).await?;
    } else {
        // From the first contact that goes, the version cannot be finished any more.
        lite.sql("UPDATE audiences SET state = 2 WHERE no = $1").bind(no).execute(&mut *tx).await?;
    }
    lite.commit(tx).await?;
    Ok(Some(deleted))
}

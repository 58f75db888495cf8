//! What plugins were granted.

use super::*;

pub(super) async fn grant(
    db: &Backend,
    plugin: &str,
    grants: &Grants,
    actor: &str,
    when: Granting,
    now: Time,
) -> Result<bool> {
    let mut tx = db.begin().await?;
    let written = db
        .sql(
            "INSERT INTO plugin_grants (name, grants, granted_at, granted_by)
             SELECT name, $2, $3, $4 FROM plugins WHERE name = $1
             ON CONFLICT (name) DO UPDATE
                 SET grants = excluded.grants, granted_at = excluded.granted_at, granted_by = excluded.granted_by
                 WHERE $5",
        )
        .bind(plugin)
        .bind(rows::to_json(grants)?)
        .bind(now.as_ms())
        .bind(actor)
        .bind(when == Granting::Replace)
        .execute(&mut *tx)
        .await?
        .rows_affected()
        > 0;
    if written {
        db.commit_change(tx, "plugins").await?;
    }
    Ok(written)
}

pub(super) async fn grants(db: &Backend) -> Result<Vec<GrantsRow>> {
    db.rows("SELECT name, grants, granted_at, granted_by FROM plugin_grants ORDER BY name")
        .fetch_all(db.reading())
        .await?
        .into_iter()
        .map(rows::GrantsSql::read)
        .collect()
}

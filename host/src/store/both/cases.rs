//! Calls of plugins that were kept.

use super::*;

macro_rules! case_columns {
    ($body:literal, $rest:literal) => {
        concat!(
            "SELECT c.id, c.version_no, v.name, v.version, v.digest, c.at, c.call, c.code, c.detail, c.masked, c.reproduces,
                    c.complete, ",
            $body,
            " AS body FROM plugin_cases c JOIN plugin_versions v ON v.no = c.version_no ",
            $rest
        )
    };
}

pub(super) async fn put_case(db: &Backend, new: &NewCase, keep: u32) -> Result<()> {
    let mut tx = db.begin().await?;
    db.sql(
        "INSERT INTO plugin_cases (version_no, at, call, code, detail, masked, reproduces, complete, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.plugin.0)
    .bind(new.at.as_ms())
    .bind(&new.call)
    .bind(&new.code)
    .bind(&new.detail)
    .bind(new.masked)
    .bind(new.reproduces)
    .bind(new.complete)
    .bind(&new.case)
    .execute(&mut *tx)
    .await?;
    // Those that failed and those that were sampled do not push each other out.
    db.sql(
        "DELETE FROM plugin_cases WHERE version_no = $1 AND (code IS NULL) = $2 AND id <= (
             SELECT id FROM plugin_cases WHERE version_no = $1 AND (code IS NULL) = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)",
    )
    .bind(new.plugin.0)
    .bind(new.code.is_none())
    .bind(i64::from(keep))
    .execute(&mut *tx)
    .await?;
    db.commit(tx).await
}

pub(super) async fn cases(db: &Backend, plugin: &str, cursor: Option<i64>, limit: u32) -> Result<Page<KeptCase, i64>> {
    let found = db
        .rows(case_columns!("NULL", "WHERE v.name = $1 AND c.id < $2 ORDER BY c.id DESC LIMIT $3"))
        .bind(plugin)
        .bind(cursor.unwrap_or(i64::MAX))
        .bind(rows::one_more(limit))
        .fetch_all(db.reading())
        .await?;
    rows::case_page(found, limit)
}

pub(super) async fn case(db: &Backend, plugin: &str, id: i64) -> Result<Option<KeptCase>> {
    let found: Option<rows::CaseSql> = db
        .rows(case_columns!("c.body", "WHERE v.name = $1 AND c.id = $2"))
        .bind(plugin)
        .bind(id)
        .fetch_optional(db.reading())
        .await?;
    found.map(rows::CaseSql::read).transpose()
}

pub(super) async fn prune_cases(db: &Backend, before: Time, limit: u32) -> Result<u64> {
    let gone = db
        .sql("DELETE FROM plugin_cases WHERE id IN (SELECT id FROM plugin_cases WHERE at < $1 ORDER BY at LIMIT $2)")
        .bind(before.as_ms())
        .bind(i64::from(limit))
        .execute(db.writing())
        .await?;
    Ok(gone.rows_affected())
}

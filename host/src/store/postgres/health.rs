//! What the server is, and which of its settings break promises.

use super::*;

pub(super) async fn health(pg: &Postgres) -> Result<StoreHealth> {
    let setting = async |name: &str| -> Result<String> {
        Ok(pg.scalar("SELECT current_setting($1)").bind(name).fetch_one(&pg.pool).await?)
    };
    let mut warnings = Vec::new();
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        if setting(name).await? == "off" {
            warnings.push(format!("{name} is off: a crash of the server can lose or double messages; set it to on"));
        }
    }
    let server = format!("PostgreSQL {}", setting("server_version").await?);
    // NULL, not an error, on a server that is in recovery.
    let log: Option<i64> = pg
        .scalar("SELECT CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_insert_lsn() - '0/0')::bigint END")
        .fetch_one(&pg.pool)
        .await?;
    Ok(StoreHealth { server, warnings, log_bytes: log.and_then(|bytes| u64::try_from(bytes).ok()) })
}

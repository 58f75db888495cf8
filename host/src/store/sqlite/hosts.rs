//! Servers and change counters.

use super::*;

pub(super) async fn heartbeat(lite: &Sqlite, beat: &Heartbeat, now: Time, alive: Duration) -> Result<Vec<HostRow>> {
    let mut tx = lite.begin().await?;
    lite.sql(
        "INSERT INTO hosts (id, name, version, roles, active_workers, started_at, heartbeat_at)
         VALUES ($1, $2, $3, $4, $5, $6, $6)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version, roles = excluded.roles,
             active_workers = excluded.active_workers, heartbeat_at = max(heartbeat_at, excluded.heartbeat_at)",
    )
    .bind(beat.host.0)
    .bind(&beat.name)
    .bind(&beat.version)
    .bind(&beat.roles)
    .bind(beat.active_workers)
    .bind(now.as_ms())
    .execute(&mut *tx)
    .await?;
    let hosts: Vec<rows::HostSql> = lite
        .rows(
            "SELECT id, name, version, roles, active_workers, started_at, heartbeat_at FROM hosts
             WHERE id = $1 OR heartbeat_at >= $2 ORDER BY started_at, id",
        )
        .bind(beat.host.0)
        .bind(now.minus(alive).as_ms())
        .fetch_all(&mut *tx)
        .await?;
    lite.commit(tx).await?;
    Ok(hosts.into_iter().map(HostRow::from).collect())
}

pub(super) async fn leave(lite: &Sqlite, host: HostId) -> Result<()> {
    lite.sql("DELETE FROM hosts WHERE id = $1").bind(host.0).execute(&lite.writer).await?;
    Ok(())
}

pub(super) async fn revisions(lite: &Sqlite) -> Result<Revisions> {
    let found: Vec<(String, i64)> = lite.rows("SELECT topic, n FROM revisions").fetch_all(&lite.readers).await?;
    let of = |topic: &str| found.iter().find(|(t, _)| t == topic).map_or(0, |(_, n)| *n);
    Ok(Revisions {
        runs: of("runs"),
        devices: of("devices"),
        plugins: of("plugins"),
        suppressions: of("suppressions"),
        tokens: of("tokens"),
        secrets: of("secrets"),
    })
}

//! Servers and change counters.

use super::*;

pub(super) async fn heartbeat(pg: &Postgres, beat: &Heartbeat, now: Time, alive: Duration) -> Result<Vec<HostRow>> {
    // The list is read from the state before the insert, hence the union with its result.
    let hosts: Vec<rows::HostSql> = pg
        .rows(
            "WITH mine AS (
                 INSERT INTO hosts (id, name, version, roles, active_workers, started_at, heartbeat_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $6)
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version,
                     roles = excluded.roles, active_workers = excluded.active_workers,
                     heartbeat_at = greatest(hosts.heartbeat_at, excluded.heartbeat_at)
                 RETURNING *)
             SELECT * FROM mine
             UNION ALL SELECT * FROM hosts WHERE id <> $1 AND heartbeat_at >= $7
             ORDER BY started_at, id",
        )
        .bind(beat.host.0)
        .bind(&beat.name)
        .bind(&beat.version)
        .bind(&beat.roles)
        .bind(rows::to_i32(beat.active_workers))
        .bind(now.as_ms())
        .bind(now.minus(alive).as_ms())
        .fetch_all(&pg.pool)
        .await?;
    Ok(hosts.into_iter().map(HostRow::from).collect())
}

pub(super) async fn leave(pg: &Postgres, host: HostId) -> Result<()> {
    pg.sql("DELETE FROM hosts WHERE id = $1").bind(host.0).execute(&pg.pool).await?;
    Ok(())
}

pub(super) async fn revisions(pg: &Postgres) -> Result<Revisions> {
    let found: Vec<(String, i64)> = pg.rows("SELECT topic, n FROM revisions").fetch_all(&pg.pool).await?;
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

//! Plugin versions; which of them are active is changed in `rollouts`.

use super::*;

macro_rules! version_columns {
    ($rest:literal) => {
        concat!(
            "SELECT v.no, v.name, v.version, v.kind, v.digest, v.size, v.info, v.imports, v.uploaded_at,
                    v.quarantined_at, v.quarantine_reason,
                    coalesce(p.active_no = v.no, 0) AS active
             FROM plugin_versions v JOIN plugins p ON p.name = v.name ",
            $rest
        )
    };
}

pub(super) async fn put_plugin(lite: &Sqlite, new: &NewPluginVersion, activate: bool, now: Time) -> Result<Stored> {
    let mut tx = lite.begin().await?;
    let info = &new.info;
    lite.sql("INSERT INTO plugins (name, kind) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(&info.name)
        .bind(new.kind.as_str())
        .execute(&mut *tx)
        .await?;
    let kind: String =
        lite.scalar("SELECT kind FROM plugins WHERE name = $1").bind(&info.name).fetch_one(&mut *tx).await?;
    if kind != new.kind.as_str() {
        return Err(StoreError::Conflict(format!("the name {} belongs to a plugin of kind {kind}", info.name)));
    }
    let known: Option<(i32, Vec<u8>)> = lite
        .rows("SELECT no, digest FROM plugin_versions WHERE name = $1 AND version = $2 AND deleted_at IS NULL")
        .bind(&info.name)
        .bind(&info.version)
        .fetch_optional(&mut *tx)
        .await?;
    let is_new = known.is_none();
    let no: i32 = match known {
        Some((_, digest)) if digest != new.digest.0 => {
            return Err(StoreError::Conflict(format!("{} {} exists with other bytes", info.name, info.version)));
        }
        Some((no, _)) => no,
        None => {
            lite.scalar(
                "INSERT INTO plugin_versions (name, version, kind, digest, size, info, imports, uploaded_at, bytes)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING no",
            )
            .bind(&info.name)
            .bind(&info.version)
            .bind(new.kind.as_str())
            .bind(new.digest.0.as_slice())
            .bind(i64::try_from(new.bytes.len()).unwrap_or(i64::MAX))
            .bind(rows::to_json(info)?)
            .bind(rows::to_json(&new.imports)?)
            .bind(now.as_ms())
            .bind(new.bytes.as_ref())
            .fetch_one(&mut *tx)
            .await?
        }
    };
    if activate {
        let back = rollouts::last_step(lite, &mut tx, &info.name).await?;
        let by = rollouts::By { actor: "system", reason: "its upload", now };
        rollouts::set_stable(lite, &mut tx, &info.name, no, back, &by).await?;
    }
    let version = version(lite, &mut tx, no).await?;
    if is_new || activate {
        lite.bump(&mut tx, "plugins").await?;
    }
    lite.commit(tx).await?;
    Ok(if is_new { Stored::New(version) } else { Stored::Same(version) })
}

pub(super) async fn version(lite: &Sqlite, tx: &mut Tx, no: i32) -> Result<PluginVersion> {
    let found: rows::PluginSql = lite.rows(version_columns!("WHERE v.no = $1")).bind(no).fetch_one(&mut **tx).await?;
    found.read()
}

pub(super) async fn plugins(lite: &Sqlite) -> Result<Vec<PluginVersion>> {
    lite.rows(version_columns!("WHERE v.deleted_at IS NULL ORDER BY v.name, v.no DESC"))
        .fetch_all(&lite.readers)
        .await?
        .into_iter()
        .map(rows::PluginSql::read)
        .collect()
}

pub(super) async fn plugin_bytes(lite: &Sqlite, no: VersionNo) -> Result<Option<Bytes>> {
    let bytes: Option<Vec<u8>> = lite
        .scalar("SELECT bytes FROM plugin_versions WHERE no = $1 AND deleted_at IS NULL")
        .bind(no.0)
        .fetch_optional(&lite.readers)
        .await?;
    Ok(bytes.map(Bytes::from))
}

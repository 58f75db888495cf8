//! Secrets for senders, which come and go encrypted.

use super::*;

pub(super) async fn put_secret(db: &Backend, secret: &Sealed) -> Result<bool> {
    let mut tx = db.begin().await?;
    let replaced = db
        .sql("UPDATE secrets SET host = $2, key_id = $3, nonce = $4, ciphertext = $5, updated_at = $6 WHERE name = $1")
        .bind(&secret.name)
        .bind(&secret.host)
        .bind(&secret.key_id)
        .bind(secret.nonce.as_slice())
        .bind(secret.ciphertext.as_slice())
        .bind(secret.updated_at.as_ms())
        .execute(&mut *tx)
        .await?
        .rows_affected()
        > 0;
    if !replaced {
        db.sql(
            "INSERT INTO secrets (name, host, key_id, nonce, ciphertext, updated_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (name) DO UPDATE
                 SET host = excluded.host, key_id = excluded.key_id, nonce = excluded.nonce,
                     ciphertext = excluded.ciphertext, updated_at = excluded.updated_at",
        )
        .bind(&secret.name)
        .bind(&secret.host)
        .bind(&secret.key_id)
        .bind(secret.nonce.as_slice())
        .bind(secret.ciphertext.as_slice())
        .bind(secret.updated_at.as_ms())
        .execute(&mut *tx)
        .await?;
    }
    db.commit_change(tx, "secrets").await?;
    Ok(!replaced)
}

pub(super) async fn secrets(db: &Backend) -> Result<Vec<Sealed>> {
    let found: Vec<rows::SecretSql> = db
        .rows("SELECT name, host, key_id, nonce, ciphertext, updated_at FROM secrets ORDER BY name")
        .fetch_all(db.reading())
        .await?;
    Ok(found.into_iter().map(Sealed::from).collect())
}

pub(super) async fn reseal_secret(db: &Backend, seen: &Sealed, secret: &Sealed) -> Result<bool> {
    let mut tx = db.begin().await?;
    let resealed = db
        .sql("UPDATE secrets SET key_id = $4, nonce = $5, ciphertext = $6 WHERE name = $1 AND nonce = $2 AND key_id = $3")
        .bind(&seen.name)
        .bind(seen.nonce.as_slice())
        .bind(&seen.key_id)
        .bind(&secret.key_id)
        .bind(secret.nonce.as_slice())
        .bind(secret.ciphertext.as_slice())
        .execute(&mut *tx)
        .await?
        .rows_affected()
        > 0;
    if resealed {
        db.commit_change(tx, "secrets").await?;
    }
    Ok(resealed)
}

pub(super) async fn delete_secret(db: &Backend, name: &str) -> Result<bool> {
    let mut tx = db.begin().await?;
    let deleted = db.sql("DELETE FROM secrets WHERE name = $1").bind(name).execute(&mut *tx).await?.rows_affected() > 0;
    if deleted {
        db.commit_change(tx, "secrets").await?;
    }
    Ok(deleted)
}

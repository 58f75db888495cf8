//! API tokens, idempotency keys and the audit log.

use super::*;

pub(super) async fn create_token(lite: &Sqlite, row: &TokenRow, secret: Digest) -> Result<()> {
    let mut tx = lite.begin().await?;
    let made = lite
        .sql(
            "INSERT INTO tokens (id, secret, name, scopes, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING",
        )
        .bind(row.id.0)
        .bind(secret.0.as_slice())
        .bind(&row.name)
        .bind(rows::to_json(&row.scopes)?)
        .bind(row.created_at.as_ms())
        .bind(rows::ms(row.revoked_at))
        .execute(&mut *tx)
        .await?;
    if made.rows_affected() == 0 {
        return Err(StoreError::Exists { what: format!("token {}", row.id) });
    }
    lite.bump(&mut tx, "tokens").await?;
    lite.commit(tx).await
}

pub(super) async fn token_by_secret(lite: &Sqlite, secret: Digest) -> Result<Option<TokenRow>> {
    lite.rows("SELECT id, name, scopes, created_at, revoked_at FROM tokens WHERE secret = $1")
        .bind(secret.0.as_slice())
        .fetch_optional(&lite.readers)
        .await?
        .map(rows::TokenSql::read)
        .transpose()
}

pub(super) async fn tokens(lite: &Sqlite) -> Result<Vec<TokenRow>> {
    lite.rows("SELECT id, name, scopes, created_at, revoked_at FROM tokens ORDER BY created_at, id")
        .fetch_all(&lite.readers)
        .await?
        .into_iter()
        .map(rows::TokenSql::read)
        .collect()
}

pub(super) async fn revoke_token(lite: &Sqlite, id: TokenId, now: Time) -> Result<bool> {
    let mut tx = lite.begin().await?;
    let revoked = lite
        .sql("UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
        .bind(id.0)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?
        .rows_affected()
        > 0;
    if revoked {
        lite.bump(&mut tx, "tokens").await?;
    }
    lite.commit(tx).await?;
    Ok(revoked)
}

pub(super) async fn claim_key(
    lite: &Sqlite,
    owner: TokenId,
    key: &str,
    request: Digest,
    now: Time,
) -> Result<Option<KeptAnswer>> {
    let (forgotten, given_up) = (now.as_ms() - rows::KEY_KEPT_MS, now.as_ms() - rows::KEY_HELD_MS);
    let mut tx = lite.begin().await?;
    // Each claim clears a few old keys away, so that the table never grows past a day's worth.
    lite.sql(
        "DELETE FROM idempotency_keys WHERE (owner, key) IN (
             SELECT owner, key FROM idempotency_keys WHERE claimed_at < $1 ORDER BY claimed_at LIMIT 4)",
    )
    .bind(forgotten)
    .execute(&mut *tx)
    .await?;
    let kept: Option<rows::KeySql> = lite
        .rows(
            "SELECT request, status, body FROM idempotency_keys
             WHERE owner = $1 AND key = $2 AND claimed_at >= $3 AND (status <> 0 OR claimed_at >= $4)",
        )
        .bind(owner.0)
        .bind(key)
        .bind(forgotten)
        .bind(given_up)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(kept) = kept {
        lite.commit(tx).await?;
        return kept.read().map(Some);
    }
    lite.sql(
        "INSERT INTO idempotency_keys (owner, key, request, status, body, claimed_at) VALUES ($1, $2, $3, 0, '', $4)
         ON CONFLICT (owner, key) DO UPDATE
             SET request = excluded.request, status = 0, body = '', claimed_at = excluded.claimed_at",
    )
    .bind(owner.0)
    .bind(key)
    .bind(request.0.as_slice())
    .bind(now.as_ms())
    .execute(&mut *tx)
    .await?;
    lite.commit(tx).await?;
    Ok(None)
}

pub(super) async fn keep_answer(lite: &Sqlite, owner: TokenId, key: &str, status: u16, body: &str) -> Result<()> {
    lite.sql("UPDATE idempotency_keys SET status = $3, body = $4 WHERE owner = $1 AND key = $2 AND status = 0")
        .bind(owner.0)
        .bind(key)
        .bind(i32::from(status))
        .bind(body)
        .execute(&lite.writer)
        .await?;
    Ok(())
}

pub(super) async fn drop_key(lite: &Sqlite, owner: TokenId, key: &str) -> Result<()> {
    lite.sql("DELETE FROM idempotency_keys WHERE owner = $1 AND key = $2 AND status = 0")
        .bind(owner.0)
        .bind(key)
        .execute(&lite.writer)
        .await?;
    Ok(())
}

pub(super) async fn audit(lite: &Sqlite, row: &AuditRow) -> Result<()> {
    lite.sql("INSERT INTO audit_log (at, actor, action, subject) VALUES ($1, $2, $3, $4)")
        .bind(row.at.as_ms())
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.subject)
        .execute(&lite.writer)
        .await?;
    Ok(())
}

pub(super) async fn audit_log(lite: &Sqlite, cursor: Option<i64>, limit: u32) -> Result<Page<AuditRow, i64>> {
    let found = lite
        .rows("SELECT no, at, actor, action, subject FROM audit_log WHERE no < $1 ORDER BY no DESC LIMIT $2")
        .bind(cursor.unwrap_or(i64::MAX))
        .bind(rows::one_more(limit))
        .fetch_all(&lite.readers)
        .await?;
    Ok(rows::audit_page(found, limit))
}

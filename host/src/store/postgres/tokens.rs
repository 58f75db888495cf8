//! API tokens, idempotency keys and the audit log.

use super::*;

pub(super) async fn create_token(pg: &Postgres, row: &TokenRow, secret: Digest) -> Result<()> {
    let mut tx = pg.begin().await?;
    let made = pg
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
    pg.bump(&mut tx, "tokens").await?;
    pg.commit(tx).await
}

pub(super) async fn token_by_secret(pg: &Postgres, secret: Digest) -> Result<Option<TokenRow>> {
    pg.rows("SELECT id, name, scopes, created_at, revoked_at FROM tokens WHERE secret = $1")
        .bind(secret.0.as_slice())
        .fetch_optional(&pg.pool)
        .await?
        .map(rows::TokenSql::read)
        .transpose()
}

pub(super) async fn tokens(pg: &Postgres) -> Result<Vec<TokenRow>> {
    pg.rows("SELECT id, name, scopes, created_at, revoked_at FROM tokens ORDER BY created_at, id")
        .fetch_all(&pg.pool)
        .await?
        .into_iter()
        .map(rows::TokenSql::read)
        .collect()
}

pub(super) async fn revoke_token(pg: &Postgres, id: TokenId, now: Time) -> Result<bool> {
    let mut tx = pg.begin().await?;
    let revoked = pg
        .sql("UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
        .bind(id.0)
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?
        .rows_affected()
        > 0;
    if revoked {
        pg.bump(&mut tx, "tokens").await?;
    }
    pg.commit(tx).await?;
    Ok(revoked)
}

pub(super) async fn claim_key(
    pg: &Postgres,
    owner: TokenId,
    key: &str,
    request: Digest,
    now: Time,
) -> Result<Option<KeptAnswer>> {
    let (forgotten, given_up) = (now.as_ms() - rows::KEY_KEPT_MS, now.as_ms() - rows::KEY_HELD_MS);
    // Each claim clears a few old keys away, so that the table never grows past a day's worth.
    pg.sql(
        "DELETE FROM idempotency_keys WHERE (owner, key) IN (
             SELECT owner, key FROM idempotency_keys WHERE claimed_at < $1 ORDER BY claimed_at LIMIT 4
             FOR UPDATE SKIP LOCKED)",
    )
    .bind(forgotten)
    .execute(&pg.pool)
    .await?;
    loop {
        let held = pg
            .sql(
                "INSERT INTO idempotency_keys AS k (owner, key, request, status, body, claimed_at)
                 VALUES ($1, $2, $3, 0, '', $4)
                 ON CONFLICT (owner, key) DO UPDATE
                     SET request = excluded.request, status = 0, body = '', claimed_at = excluded.claimed_at
                     WHERE k.claimed_at < $5 OR (k.status = 0 AND k.claimed_at < $6)",
            )
            .bind(owner.0)
            .bind(key)
            .bind(request.0.as_slice())
            .bind(now.as_ms())
            .bind(forgotten)
            .bind(given_up)
            .execute(&pg.pool)
            .await?;
        if held.rows_affected() > 0 {
            return Ok(None);
        }
        let kept: Option<rows::KeySql> = pg
            .rows("SELECT request, status, body FROM idempotency_keys WHERE owner = $1 AND key = $2")
            .bind(owner.0)
            .bind(key)
            .fetch_optional(&pg.pool)
            .await?;
        // None: its holder gave it up in between, so it is free again.
        if let Some(kept) = kept {
            return kept.read().map(Some);
        }
    }
}

pub(super) async fn keep_answer(pg: &Postgres, owner: TokenId, key: &str, status: u16, body: &str) -> Result<()> {
    pg.sql("UPDATE idempotency_keys SET status = $3, body = $4 WHERE owner = $1 AND key = $2 AND status = 0")
        .bind(owner.0)
        .bind(key)
        .bind(i32::from(status))
        .bind(body)
        .execute(&pg.pool)
        .await?;
    Ok(())
}

pub(super) async fn drop_key(pg: &Postgres, owner: TokenId, key: &str) -> Result<()> {
    pg.sql("DELETE FROM idempotency_keys WHERE owner = $1 AND key = $2 AND status = 0")
        .bind(owner.0)
        .bind(key)
        .execute(&pg.pool)
        .await?;
    Ok(())
}

pub(super) async fn audit(pg: &Postgres, row: &AuditRow) -> Result<()> {
    pg.sql("INSERT INTO audit_log (at, actor, action, subject) VALUES ($1, $2, $3, $4)")
        .bind(row.at.as_ms())
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.subject)
        .execute(&pg.pool)
        .await?;
    Ok(())
}

pub(super) async fn audit_log(pg: &Postgres, cursor: Option<i64>, limit: u32) -> Result<Page<AuditRow, i64>> {
    let found = pg
        .rows("SELECT no, at, actor, action, subject FROM audit_log WHERE no < $1 ORDER BY no DESC LIMIT $2")
        .bind(cursor.unwrap_or(i64::MAX))
        .bind(rows::one_more(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(rows::audit_page(found, limit))
}

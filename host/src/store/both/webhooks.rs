//! Webhooks: where receipts come to.

use super::*;

pub(super) async fn create_webhook(db: &Backend, webhook: &Webhook, key: Digest) -> Result<()> {
    let mut tx = db.begin().await?;
    db.sql("INSERT INTO webhooks (id, key, plugin, spec, created_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(webhook.id.0)
        .bind(key.0.as_slice())
        .bind(&webhook.plugin)
        .bind(rows::to_json(&webhook.spec)?)
        .bind(webhook.created_at.as_ms())
        .execute(&mut *tx)
        .await?;
    // Servers learn with the plugins who is listened to.
    db.commit_change(tx, "plugins").await
}

pub(super) async fn webhooks(db: &Backend, plugin: Option<&str>) -> Result<Vec<Webhook>> {
    let query = match plugin {
        None => db.rows("SELECT id, plugin, spec, created_at FROM webhooks ORDER BY plugin, id"),
        Some(plugin) => {
            db.rows("SELECT id, plugin, spec, created_at FROM webhooks WHERE plugin = $1 ORDER BY id").bind(plugin)
        }
    };
    query.fetch_all(db.reading()).await?.into_iter().map(rows::WebhookSql::read).collect()
}

pub(super) async fn webhook_by_key(db: &Backend, key: Digest) -> Result<Option<Webhook>> {
    db.rows("SELECT id, plugin, spec, created_at FROM webhooks WHERE key = $1")
        .bind(key.0.as_slice())
        .fetch_optional(db.reading())
        .await?
        .map(rows::WebhookSql::read)
        .transpose()
}

pub(super) async fn delete_webhook(db: &Backend, plugin: &str, id: WebhookId) -> Result<bool> {
    let mut tx = db.begin().await?;
    let gone = db
        .sql("DELETE FROM webhooks WHERE id = $1 AND plugin = $2")
        .bind(id.0)
        .bind(plugin)
        .execute(&mut *tx)
        .await?
        .rows_affected()
        > 0;
    if gone {
        db.commit_change(tx, "plugins").await?;
    }
    Ok(gone)
}

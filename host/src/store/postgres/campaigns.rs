//! Campaigns and the states they go through.

use super::*;

macro_rules! campaign_columns {
    ($rest:literal) => {
        concat!(
            "SELECT id, spec, status, paused_reason, run_key, created_at, launched_at, finished_at,
                    messages_pruned_at
             FROM campaigns ",
            $rest
        )
    };
}

pub(super) async fn create_campaign(pg: &Postgres, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<()> {
    let mut tx = pg.begin().await?;
    let made = pg
        .sql(
            "INSERT INTO campaigns (id, spec, status, start_at, expires_at, created_at)
             VALUES ($1, $2, 'draft', $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(id.0)
        .bind(rows::to_json(spec)?)
        .bind(rows::ms(spec.schedule.at))
        .bind(rows::ms(spec.expires_at))
        .bind(now.as_ms())
        .execute(&mut *tx)
        .await?;
    if made.rows_affected() == 0 {
        return Err(StoreError::Exists { what: format!("campaign {id}") });
    }
    pg.bump(&mut tx, "runs").await?;
    pg.commit(tx).await
}

pub(super) async fn campaign(pg: &Postgres, id: CampaignId) -> Result<Option<Campaign>> {
    pg.rows(campaign_columns!("WHERE id = $1"))
        .bind(id.0)
        .fetch_optional(&pg.pool)
        .await?
        .map(rows::CampaignSql::read)
        .transpose()
}

/// The campaign, locked until the end of the transaction.
pub(super) async fn lock_campaign(pg: &Postgres, tx: &mut Tx, id: CampaignId) -> Result<Option<Campaign>> {
    pg.rows(campaign_columns!("WHERE id = $1 FOR UPDATE"))
        .bind(id.0)
        .fetch_optional(&mut **tx)
        .await?
        .map(rows::CampaignSql::read)
        .transpose()
}

pub(super) async fn campaigns(
    pg: &Postgres,
    status: Option<CampaignStatus>,
    cursor: Option<CampaignId>,
    limit: u32,
) -> Result<Page<Campaign, CampaignId>> {
    let before = cursor.map_or(uuid::Uuid::max(), |id| id.0);
    // Two texts, because one plan cannot use the index by status and do without a status.
    let query = match status {
        None => pg.rows(campaign_columns!("WHERE id < $1 ORDER BY id DESC LIMIT $2")),
        Some(_) => pg.rows(campaign_columns!("WHERE id < $1 AND status = $3 ORDER BY id DESC LIMIT $2")),
    };
    let query = query.bind(before).bind(rows::one_more(limit));
    let query = match status {
        None => query,
        Some(status) => query.bind(status.as_str()),
    };
    Ok(rows::page(read_all(query.fetch_all(&pg.pool).await?)?, limit, |c| c.id))
}

fn read_all(found: Vec<rows::CampaignSql>) -> Result<Vec<Campaign>> {
    found.into_iter().map(rows::CampaignSql::read).collect()
}

pub(super) async fn move_campaign(
    pg: &Postgres,
    id: CampaignId,
    from: CampaignStatus,
    event: CampaignEvent,
    reason: Option<&str>,
    now: Time,
) -> Result<Option<Campaign>> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let Some(campaign) = lock_campaign(pg, &mut tx, id).await?.filter(|c| c.status == from) else {
            return Ok(None);
        };
        let campaign = rows::moved(campaign, event, reason, now)?;
        write_move(pg, &mut tx, &campaign).await?;
        pg.bump(&mut tx, "runs").await?;
        pg.commit(tx).await?;
        Ok(Some(campaign))
    })
    .await
}

/// Writes a campaign's new status, and what it means for its runs.
pub(super) async fn write_move(pg: &Postgres, tx: &mut Tx, campaign: &Campaign) -> Result<()> {
    pg.sql(
        "UPDATE campaigns SET status = $2, paused_reason = $3, launched_at = $4, finished_at = $5, run_key = $6
         WHERE id = $1",
    )
    .bind(campaign.id.0)
    .bind(campaign.status.as_str())
    .bind(&campaign.paused_reason)
    .bind(rows::ms(campaign.launched_at))
    .bind(rows::ms(campaign.finished_at))
    .bind(campaign.run.map(|run| run.0))
    .execute(&mut **tx)
    .await?;
    let closed_as = rows::closed_as(campaign.status);
    pg.sql("UPDATE runs SET active = $2, finished_at = $3, closed_as = $4, closing = $5 WHERE campaign_id = $1")
        .bind(campaign.id.0)
        .bind(rows::is_sending(campaign.status))
        .bind(rows::ms(campaign.finished_at))
        .bind(closed_as)
        .bind(closed_as.is_some())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn edit_campaign(pg: &Postgres, id: CampaignId, spec: &CampaignSpec, _now: Time) -> Result<bool> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let edited = pg
            .sql(
                "UPDATE campaigns SET spec = $2, start_at = $3, expires_at = $4
                 WHERE id = $1 AND status NOT IN ('completed', 'cancelled', 'expired')",
            )
            .bind(id.0)
            .bind(rows::to_json(spec)?)
            .bind(rows::ms(spec.schedule.at))
            .bind(rows::ms(spec.expires_at))
            .execute(&mut *tx)
            .await?;
        if edited.rows_affected() == 0 {
            return Ok(false);
        }
        pg.sql(
            "UPDATE runs SET name = $2, plan = $3, priority = $4, expires_at = $5
             WHERE campaign_id = $1 AND finished_at IS NULL",
        )
        .bind(id.0)
        .bind(&spec.name)
        .bind(rows::to_json(&crate::campaign::SendPlan::from(spec))?)
        .bind(i16::from(spec.priority))
        .bind(rows::ms(spec.expires_at))
        .execute(&mut *tx)
        .await?;
        pg.bump(&mut tx, "runs").await?;
        pg.commit(tx).await?;
        Ok(true)
    })
    .await
}

pub(super) async fn due_campaigns(pg: &Postgres, now: Time, limit: u32) -> Result<(Vec<Campaign>, Option<Time>)> {
    // One more than asked for says when the next one is due.
    let mut found: Vec<rows::CampaignSql> = pg
        .rows(campaign_columns!(
            "WHERE status = 'scheduled' AND coalesce(start_at, 0) <= $1 ORDER BY start_at, id LIMIT $2"
        ))
        .bind(now.as_ms())
        .bind(rows::one_more(limit))
        .fetch_all(&pg.pool)
        .await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if found.len() > limit {
        let next = found.pop().map(rows::CampaignSql::read).transpose()?;
        return Ok((read_all(found)?, next.map(|c| c.spec.schedule.at.unwrap_or(now))));
    }
    let next: Option<i64> = pg
        .scalar("SELECT min(start_at) FROM campaigns WHERE status = 'scheduled' AND start_at > $1")
        .bind(now.as_ms())
        .fetch_one(&pg.pool)
        .await?;
    Ok((read_all(found)?, rows::time(next)))
}

pub(super) async fn campaigns_past_expiry(pg: &Postgres, now: Time) -> Result<Vec<Campaign>> {
    let found = pg
        .rows(campaign_columns!(
            "WHERE status IN ('scheduled', 'expanding', 'running', 'paused') AND expires_at <= $1
             ORDER BY expires_at, id LIMIT 1000"
        ))
        .bind(now.as_ms())
        .fetch_all(&pg.pool)
        .await?;
    read_all(found)
}

pub(super) async fn open_campaigns(pg: &Postgres) -> Result<Vec<OpenCampaigns>> {
    let found: Vec<(String, String, i64)> = pg
        .rows(
            "SELECT status, CASE WHEN status = 'paused' THEN split_part(coalesce(paused_reason, ''), ':', 1) ELSE '' END,
                    count(*)
             FROM campaigns WHERE status IN ('draft', 'scheduled', 'expanding', 'running', 'paused')
             GROUP BY 1, 2",
        )
        .fetch_all(&pg.pool)
        .await?;
    found.into_iter().map(rows::open_campaigns).collect()
}

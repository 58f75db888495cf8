//! Runs: their start and their expansion into messages; their end is in `closing`.

use super::campaigns::{lock_campaign, write_move};
pub(super) use super::closing::*;
use super::*;
use crate::campaign::{RunOwner, SendPlan};

macro_rules! run_columns {
    ($rest:literal) => {
        concat!(
            "SELECT key, campaign_id, sequence_no, step, audience_no, name, plan, active, expanded, cursor, started_at
             FROM runs ",
            $rest
        )
    };
}

/// A run to be made.
pub(super) struct NewRun<'a> {
    pub(super) owner: RunOwner,
    pub(super) name: &'a str,
    pub(super) audience: AudienceNo,
    pub(super) plan: &'a SendPlan,
    pub(super) active: bool,
    /// A step of a sequence makes its messages one by one: nothing is left to expand.
    pub(super) expanded: bool,
    pub(super) devices: &'a [DeviceNo],
    pub(super) now: Time,
}

/// Makes a run under a free key.
pub(super) async fn insert_run(pg: &Postgres, tx: &mut Tx, new: &NewRun<'_>) -> Result<Run> {
    if new.devices.is_empty() {
        return Err(StoreError::Conflict("a run needs at least one device".into()));
    }
    let (campaign, sequence, step) = match new.owner {
        RunOwner::Campaign(id) => (Some(id.0), None, None),
        RunOwner::Step { sequence, step } => (None, Some(sequence.0), Some(rows::to_i32(step))),
    };
    let plan = rows::to_json(new.plan)?;
    let key = loop {
        let key = RunKey::random();
        let made = pg
            .sql(
                "INSERT INTO runs (key, campaign_id, sequence_no, step, audience_no, name, plan, priority, sticky, pool_size,
                                   expires_at, active, expanded, cursor, last, started_at)
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, a.last, $14
                 FROM audiences a WHERE a.no = $5
                 ON CONFLICT (key) DO NOTHING",
            )
            .bind(key.0)
            .bind(campaign)
            .bind(sequence)
            .bind(step)
            .bind(new.audience.0)
            .bind(new.name)
            .bind(&plan)
            .bind(i16::from(new.plan.priority))
            .bind(rows::is_sticky(new.plan))
            .bind(i32::try_from(new.devices.len()).unwrap_or(i32::MAX))
            .bind(rows::ms(new.plan.expires_at))
            .bind(new.active)
            .bind(new.expanded)
            .bind(new.now.as_ms())
            .execute(&mut **tx)
            .await?;
        if made.rows_affected() > 0 {
            break key;
        }
    };
    pg.sql(
        "INSERT INTO run_devices (run_key, pos, device_no)
         SELECT $1, (n.pos - 1)::int, n.device_no FROM unnest($2::int[]) WITH ORDINALITY AS n (device_no, pos)",
    )
    .bind(key.0)
    .bind(new.devices.iter().map(|no| no.0).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    let found: rows::RunSql = pg.rows(run_columns!("WHERE key = $1")).bind(key.0).fetch_one(&mut **tx).await?;
    found.read()
}

pub(super) async fn start_run(
    pg: &Postgres,
    campaign: &Campaign,
    audience: AudienceNo,
    devices: &[DeviceNo],
    now: Time,
) -> Result<Option<Run>> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let Some(stored) = lock_campaign(pg, &mut tx, campaign.id).await? else { return Ok(None) };
        if !matches!(stored.status, CampaignStatus::Draft | CampaignStatus::Scheduled) {
            return Ok(None);
        }
        // The lock keeps the pruning away from the version until the run that refers to it is there.
        let current: Option<i32> = pg
            .scalar("SELECT no FROM audiences WHERE no = $1 AND state = 1 FOR SHARE")
            .bind(audience.0)
            .fetch_optional(&mut *tx)
            .await?;
        if current.is_none() {
            return Err(StoreError::Conflict("this version of the audience is no longer the current one".into()));
        }
        let mut moved = rows::moved(stored, CampaignEvent::Start, None, now)?;
        let run = insert_run(
            pg,
            &mut tx,
            &NewRun {
                owner: RunOwner::Campaign(moved.id),
                name: &moved.spec.name,
                audience,
                plan: &SendPlan::from(&moved.spec),
                active: true,
                expanded: false,
                devices,
                now,
            },
        )
        .await?;
        moved.run = Some(run.key);
        write_move(pg, &mut tx, &moved).await?;
        pg.bump(&mut tx, "runs").await?;
        pg.commit(tx).await?;
        Ok(Some(run))
    })
    .await
}

pub(super) async fn open_runs(pg: &Postgres) -> Result<Vec<Run>> {
    rows::in_rank_order(pg.rows(run_columns!("WHERE finished_at IS NULL")).fetch_all(&pg.pool).await?)
}

pub(super) async fn run(pg: &Postgres, key: RunKey) -> Result<Option<Run>> {
    pg.rows(run_columns!("WHERE key = $1"))
        .bind(key.0)
        .fetch_optional(&pg.pool)
        .await?
        .map(rows::RunSql::read)
        .transpose()
}

pub(super) async fn runs(pg: &Postgres, keys: &[RunKey]) -> Result<Vec<Run>> {
    rows::in_rank_order(
        pg.rows(run_columns!("WHERE key = ANY($1)"))
            .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
            .fetch_all(&pg.pool)
            .await?,
    )
}

pub(super) async fn run_devices(pg: &Postgres, key: RunKey) -> Result<Vec<DeviceNo>> {
    let found: Vec<i32> = pg
        .scalar("SELECT device_no FROM run_devices WHERE run_key = $1 ORDER BY pos")
        .bind(key.0)
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(DeviceNo).collect())
}

from_row! {
    /// What of a run decides how it expands; locked, so that one server expands it at a time.
    struct Expanding {
        campaign_id: Option<uuid::Uuid>,
        audience_no: i32,
        active: bool,
        expanded: bool,
        cursor: i32,
        last: i32,
    }
}

from_row! {
    /// What a page came to.
    struct Expanded {
        contacts: i64,
        last: Option<i32>,
        pending: i64,
        suppressed: i64,
    }
}

pub(super) async fn expand_page(
    pg: &Postgres,
    run: RunKey,
    cursor: u32,
    page: u32,
    now: Time,
) -> Result<Option<ExpandedPage>> {
    repeating(|| expand_in_one(pg, run, cursor, page, now)).await
}

async fn expand_in_one(pg: &Postgres, run: RunKey, cursor: u32, page: u32, now: Time) -> Result<Option<ExpandedPage>> {
    let mut tx = pg.begin().await?;
    let state: Option<Expanding> = pg
        .rows(
            "SELECT campaign_id, audience_no, active, expanded, cursor, last FROM runs
             WHERE key = $1 FOR NO KEY UPDATE",
        )
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(state) = state.filter(|s| s.active && s.cursor == rows::to_i32(cursor)) else { return Ok(None) };
    if state.expanded {
        return Ok(Some(ExpandedPage { pending: 0, suppressed: 0, cursor, done: true }));
    }
    let expanded: Expanded = pg
        .rows(
            "WITH page AS MATERIALIZED (
                 SELECT no, address FROM contacts WHERE audience_no = $2 AND no > $3 ORDER BY no LIMIT $4),
             assigned AS MATERIALIZED (
                 SELECT ($1::bigint << 32) | p.no AS id, d.no AS device_no,
                        EXISTS (SELECT FROM suppressions s
                                WHERE s.address = p.address AND s.channel IN ('', d.channel)) AS suppressed
                 FROM page p
                 JOIN runs r ON r.key = $1
                 JOIN run_devices rd ON rd.run_key = r.key AND rd.pos =
                     CASE WHEN r.sticky THEN hashtext(p.address) & 2147483647 ELSE p.no - 1 END % r.pool_size
                 JOIN devices d ON d.no = rd.device_no),
             made AS (
                 INSERT INTO messages (id, device_no, status, due_at, finished_at)
                 SELECT id, device_no, CASE WHEN suppressed THEN 8 ELSE 0 END, $5, CASE WHEN suppressed THEN $5 END
                 FROM assigned ORDER BY id
                 ON CONFLICT (id) DO NOTHING RETURNING status),
             counted AS (
                 INSERT INTO run_counts AS c (run_key, shard, total, suppressed)
                 SELECT $1, $6, count(*), count(*) FILTER (WHERE status = 8) FROM made HAVING count(*) > 0
                 ON CONFLICT (run_key, shard) DO UPDATE
                     SET total = c.total + excluded.total, suppressed = c.suppressed + excluded.suppressed)
             SELECT (SELECT count(*) FROM page) AS contacts, (SELECT max(no) FROM page) AS last,
                    count(*) FILTER (WHERE NOT suppressed) AS pending, count(*) FILTER (WHERE suppressed) AS suppressed
             FROM assigned",
        )
        .bind(run.0)
        .bind(state.audience_no)
        .bind(state.cursor)
        .bind(i64::from(page.max(1)))
        .bind(now.as_ms())
        .bind(pg.shard())
        .fetch_one(&mut *tx)
        .await?;
    if expanded.pending + expanded.suppressed != expanded.contacts {
        return Err(rows::broken("a run's devices"));
    }
    let last = expanded.last.unwrap_or(state.last).max(state.cursor);
    let done = expanded.contacts < i64::from(page.max(1)) || last >= state.last;
    pg.sql("UPDATE runs SET cursor = $2, expanded = $3 WHERE key = $1")
        .bind(run.0)
        .bind(last)
        .bind(done)
        .execute(&mut *tx)
        .await?;
    if done {
        pg.sql("UPDATE campaigns SET status = 'running' WHERE id = $1 AND status = 'expanding'")
            .bind(state.campaign_id)
            .execute(&mut *tx)
            .await?;
        pg.bump(&mut tx, "runs").await?;
    }
    pg.commit(tx).await?;
    Ok(Some(ExpandedPage {
        pending: rows::to_u32(expanded.pending),
        suppressed: rows::to_u32(expanded.suppressed),
        cursor: rows::to_u32(last.into()),
        done,
    }))
}

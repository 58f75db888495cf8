//! Runs: their start and their expansion into messages; their end is in `closing`.

use super::campaigns::{campaign_in, write_move};
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
pub(super) async fn insert_run(lite: &Sqlite, tx: &mut Tx, new: &NewRun<'_>) -> Result<Run> {
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
        let made = lite
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
    lite.sql("INSERT INTO run_devices (run_key, pos, device_no) SELECT $1, key, value FROM json_each($2)")
        .bind(key.0)
        .bind(list(new.devices.iter().map(|no| no.0))?)
        .execute(&mut **tx)
        .await?;
    let found: rows::RunSql = lite.rows(run_columns!("WHERE key = $1")).bind(key.0).fetch_one(&mut **tx).await?;
    found.read()
}

pub(super) async fn start_run(
    lite: &Sqlite,
    campaign: &Campaign,
    audience: AudienceNo,
    devices: &[DeviceNo],
    now: Time,
) -> Result<Option<Run>> {
    let mut tx = lite.begin().await?;
    let Some(stored) = campaign_in(lite, &mut tx, campaign.id).await? else { return Ok(None) };
    if !matches!(stored.status, CampaignStatus::Draft | CampaignStatus::Scheduled) {
        return Ok(None);
    }
    let current: Option<i32> = lite
        .scalar("SELECT no FROM audiences WHERE no = $1 AND state = 1")
        .bind(audience.0)
        .fetch_optional(&mut *tx)
        .await?;
    if current.is_none() {
        return Err(StoreError::Conflict("this version of the audience is no longer the current one".into()));
    }
    let mut moved = rows::moved(stored, CampaignEvent::Start, None, now)?;
    let run = insert_run(
        lite,
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
    write_move(lite, &mut tx, &moved).await?;
    lite.bump(&mut tx, "runs").await?;
    lite.commit(tx).await?;
    Ok(Some(run))
}

pub(super) async fn open_runs(lite: &Sqlite) -> Result<Vec<Run>> {
    rows::in_rank_order(lite.rows(run_columns!("WHERE finished_at IS NULL")).fetch_all(&lite.readers).await?)
}

pub(super) async fn run(lite: &Sqlite, key: RunKey) -> Result<Option<Run>> {
    lite.rows(run_columns!("WHERE key = $1"))
        .bind(key.0)
        .fetch_optional(&lite.readers)
        .await?
        .map(rows::RunSql::read)
        .transpose()
}

pub(super) async fn runs(lite: &Sqlite, keys: &[RunKey]) -> Result<Vec<Run>> {
    rows::in_rank_order(
        lite.rows(run_columns!("WHERE key IN (SELECT value FROM json_each($1))"))
            .bind(list(keys.iter().map(|key| key.0))?)
            .fetch_all(&lite.readers)
            .await?,
    )
}

pub(super) async fn run_devices(lite: &Sqlite, key: RunKey) -> Result<Vec<DeviceNo>> {
    let found: Vec<i32> = lite
        .scalar("SELECT device_no FROM run_devices WHERE run_key = $1 ORDER BY pos")
        .bind(key.0)
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(DeviceNo).collect())
}

from_row! {
    /// What of a run decides how it expands.
    struct Expanding {
        campaign_id: Option<uuid::Uuid>,
        audience_no: i32,
        sticky: bool,
        pool_size: i32,
        cursor: i32,
        last: i32,
        active: bool,
        expanded: bool,
    }
}

from_row! {
    /// A device of a run's pool.
    pub(super) struct PoolDevice {
        pub(super) device_no: i32,
        pub(super) channel: String,
    }
}

from_row! {
    /// A contact to become a message.
    struct Candidate {
        no: i32,
        address: String,
        /// The channels it is suppressed on, a JSON array; an empty one stands for every channel.
        suppressed_on: Option<String>,
    }
}

pub(super) async fn expand_page(
    lite: &Sqlite,
    run: RunKey,
    cursor: u32,
    page: u32,
    now: Time,
) -> Result<Option<ExpandedPage>> {
    let mut tx = lite.begin().await?;
    let state: Option<Expanding> = lite
        .rows("SELECT campaign_id, audience_no, sticky, pool_size, cursor, last, active, expanded FROM runs WHERE key = $1")
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(state) = state.filter(|s| s.active && s.cursor == rows::to_i32(cursor)) else { return Ok(None) };
    if state.expanded {
        return Ok(Some(ExpandedPage { pending: 0, suppressed: 0, cursor, done: true }));
    }
    let page = page.max(1);
    let made = if state.sticky {
        make_by_address(lite, &mut tx, run, &state, page, now).await?
    } else {
        make_in_turn(lite, &mut tx, run, &state, page, now).await?
    };
    let mut tally = Tally::default();
    tally.made(run, made.contacts);
    tally.status(run, code::SUPPRESSED, made.suppressed);
    tally.write(lite, &mut tx).await?;
    let last = made.last.unwrap_or(state.last).max(state.cursor);
    let done = made.contacts < i64::from(page) || last >= state.last;
    lite.sql("UPDATE runs SET cursor = $2, expanded = $3 WHERE key = $1")
        .bind(run.0)
        .bind(last)
        .bind(done)
        .execute(&mut *tx)
        .await?;
    if done {
        lite.sql("UPDATE campaigns SET status = 'running' WHERE id = $1 AND status = 'expanding'")
            .bind(state.campaign_id)
            .execute(&mut *tx)
            .await?;
        lite.bump(&mut tx, "runs").await?;
    }
    lite.commit(tx).await?;
    Ok(Some(ExpandedPage {
        pending: rows::to_u32(made.contacts - made.suppressed),
        suppressed: rows::to_u32(made.suppressed),
        cursor: rows::to_u32(last.into()),
        done,
    }))
}

from_row! {
    /// What a page came to. Each contact became a message: none was there before, because the cursor moves with them.
    struct Made {
        contacts: i64,
        last: Option<i32>,
        suppressed: i64,
    }
}

/// Makes the messages of a page whose contacts go to the devices in turn.
async fn make_in_turn(
    lite: &Sqlite,
    tx: &mut Tx,
    run: RunKey,
    state: &Expanding,
    page: u32,
    now: Time,
) -> Result<Made> {
    macro_rules! suppressed {
        () => {
            "EXISTS (SELECT 1 FROM suppressions s WHERE s.address = c.address AND (s.channel = '' OR s.channel = (
                 SELECT d.channel FROM run_devices rd JOIN devices d ON d.no = rd.device_no
                 WHERE rd.run_key = $1 AND rd.pos = (c.no - 1) % $5)))"
        };
    }
    let found: Made = lite
        .rows(concat!(
            "SELECT count(*) AS contacts, max(no) AS last, coalesce(sum(",
            suppressed!(),
            "), 0) AS suppressed
             FROM (SELECT no, address FROM contacts WHERE audience_no = $2 AND no > $3 ORDER BY no LIMIT $4) AS c"
        ))
        .bind(run.0)
        .bind(state.audience_no)
        .bind(state.cursor)
        .bind(page)
        .bind(state.pool_size)
        .fetch_one(&mut **tx)
        .await?;
    // Most pages have nobody who is suppressed; theirs is not asked again.
    let text = if found.suppressed == 0 {
        "INSERT INTO messages (id, device_no, status, due_at)
         SELECT ($1 << 32) | c.no, rd.device_no, 0, $6
         FROM (SELECT no FROM contacts WHERE audience_no = $2 AND no > $3 ORDER BY no LIMIT $4) AS c
         CROSS JOIN run_devices rd ON rd.run_key = $1 AND rd.pos = (c.no - 1) % $5"
    } else {
        concat!(
            "INSERT INTO messages (id, device_no, status, due_at, finished_at)
             SELECT ($1 << 32) | c.no, rd.device_no, iif(",
            suppressed!(),
            ", 8, 0), $6, iif(",
            suppressed!(),
            ", $6, NULL)
             FROM (SELECT no, address FROM contacts WHERE audience_no = $2 AND no > $3 ORDER BY no LIMIT $4) AS c
             CROSS JOIN run_devices rd ON rd.run_key = $1 AND rd.pos = (c.no - 1) % $5"
        )
    };
    let made = lite
        .sql(text)
        .bind(run.0)
        .bind(state.audience_no)
        .bind(state.cursor)
        .bind(page)
        .bind(state.pool_size)
        .bind(now.as_ms())
        .execute(&mut **tx)
        .await?;
    if i64::try_from(made.rows_affected()) == Ok(found.contacts) {
        Ok(found)
    } else {
        Err(rows::broken("a run's devices"))
    }
}

/// Makes the messages of a page whose contacts stick to devices by their addresses.
async fn make_by_address(
    lite: &Sqlite,
    tx: &mut Tx,
    run: RunKey,
    state: &Expanding,
    page: u32,
    now: Time,
) -> Result<Made> {
    let pool = pool_of(lite, tx, run).await?;
    let found: Vec<Candidate> = lite
        .rows(
            "SELECT no, address,
                    (SELECT json_group_array(s.channel) FROM suppressions s WHERE s.address = c.address
                     HAVING count(*) > 0) AS suppressed_on
             FROM contacts c WHERE audience_no = $1 AND no > $2 ORDER BY no LIMIT $3",
        )
        .bind(state.audience_no)
        .bind(state.cursor)
        .bind(page)
        .fetch_all(&mut **tx)
        .await?;
    let mut suppressed = 0;
    let mut messages = Vec::with_capacity(found.len());
    for contact in &found {
        let device = device_at(&pool, address_hash(&contact.address))?;
        let is_suppressed = is_suppressed(contact.suppressed_on.as_deref(), &device.channel)?;
        suppressed += i64::from(is_suppressed);
        let status = if is_suppressed { code::SUPPRESSED } else { code::READY };
        messages.push((MessageId::new(run, rows::to_u32(contact.no.into())).0, device.device_no, status));
    }
    lite.sql(
        "INSERT INTO messages (id, device_no, status, due_at, finished_at)
         SELECT value ->> 0, value ->> 1, value ->> 2, $2, CASE WHEN value ->> 2 = 8 THEN $2 END FROM json_each($1)",
    )
    .bind(rows::to_json(&messages)?)
    .bind(now.as_ms())
    .execute(&mut **tx)
    .await?;
    let contacts = i64::try_from(found.len()).unwrap_or(i64::MAX);
    Ok(Made { contacts, last: found.last().map(|c| c.no), suppressed })
}

/// The devices of a run, in their order.
pub(super) async fn pool_of(lite: &Sqlite, tx: &mut Tx, run: RunKey) -> Result<Vec<PoolDevice>> {
    Ok(lite
        .rows(
            "SELECT rd.device_no, d.channel FROM run_devices rd JOIN devices d ON d.no = rd.device_no
             WHERE rd.run_key = $1 ORDER BY rd.pos",
        )
        .bind(run.0)
        .fetch_all(&mut **tx)
        .await?)
}

pub(super) fn device_at(pool: &[PoolDevice], pos: u32) -> Result<&PoolDevice> {
    usize::try_from(pos)
        .ok()
        .and_then(|pos| pos.checked_rem(pool.len()))
        .and_then(|pos| pool.get(pos))
        .ok_or_else(|| rows::broken("a run's devices"))
}

/// Whether an address that is suppressed on `channels` (a JSON array; an empty one stands for all) is so on `channel`.
pub(super) fn is_suppressed(channels: Option<&str>, channel: &str) -> Result<bool> {
    let Some(channels) = channels else { return Ok(false) };
    let channels: Vec<String> = rows::from_json("suppressed channels", channels)?;
    Ok(channels.iter().any(|c| c.is_empty() || c == channel))
}

/// FNV-1a: spreads addresses evenly, and always alike.
pub(super) fn address_hash(address: &str) -> u32 {
    address.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

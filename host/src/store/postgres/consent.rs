//! The suppression list and the ledger behind it.

use std::collections::BTreeMap;

use super::*;

pub(super) async fn suppress(pg: &Postgres, entries: &[NewSuppression], now: Time) -> Result<u32> {
    if entries.is_empty() {
        return Ok(0);
    }
    let entries: Vec<_> = entries.iter().map(|e| (e, now)).collect();
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let added = suppress_in(pg, &mut tx, &entries).await?;
        pg.commit(tx).await?;
        Ok(added)
    })
    .await
}

/// Suppresses within a transaction; returns how many entries are new.
pub(super) async fn suppress_in(pg: &Postgres, tx: &mut Tx, entries: &[(&NewSuppression, Time)]) -> Result<u32> {
    // Each once, in one order for all transactions.
    let unique: BTreeMap<(&str, &str), (&str, i64)> = entries
        .iter()
        .rev()
        .map(|(e, at)| {
            ((e.address.trim(), rows::channel_column(e.channel.as_deref())), (e.reason.as_str(), at.as_ms()))
        })
        .collect();
    let addresses: Vec<&str> = unique.keys().map(|(address, _)| *address).collect();
    let channels: Vec<&str> = unique.keys().map(|(_, channel)| *channel).collect();
    let reasons: Vec<&str> = unique.values().map(|(reason, _)| *reason).collect();
    let times: Vec<i64> = unique.values().map(|(_, at)| *at).collect();
    let added: i64 = pg
        .scalar(
            "WITH added AS (
                 INSERT INTO suppressions (address, channel, reason, created_at)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                 ON CONFLICT DO NOTHING RETURNING *),
             noted AS (
                 INSERT INTO consent_ledger (address, channel, event, reason, at)
                 SELECT address, channel, 'opt-out', reason, created_at FROM added)
             SELECT count(*) FROM added",
        )
        .bind(&addresses)
        .bind(&channels)
        .bind(&reasons)
        .bind(&times)
        .fetch_one(&mut **tx)
        .await?;
    exit_suppressed(pg, tx, &addresses, &channels, &reasons, &times).await?;
    if added > 0 {
        pg.bump(tx, "suppressions").await?;
    }
    Ok(rows::to_u32(added))
}

/// Ends the open enrolments of suppressed addresses in sequences that use the channel; their pending messages become
/// suppressed.
async fn exit_suppressed(
    pg: &Postgres,
    tx: &mut Tx,
    addresses: &[&str],
    channels: &[&str],
    reasons: &[&str],
    times: &[i64],
) -> Result<()> {
    let sequences: Vec<i32> = pg
        .scalar(
            "SELECT DISTINCT e.sequence_no FROM sequences s
             JOIN contacts k ON k.audience_no = s.audience_no AND k.address = ANY($1)
             JOIN enrolments e ON e.sequence_no = s.no AND e.contact_no = k.no AND e.status IN (0, 1)",
        )
        .bind(addresses)
        .fetch_all(&mut **tx)
        .await?;
    if sequences.is_empty() {
        return Ok(());
    }
    still_sequences(pg, tx, &sequences).await?;
    pg.sql(concat!(
        "WITH exited AS (
             UPDATE enrolments e SET status = 3, exit_reason = n.reason
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS n (address, channel, reason, at)
             CROSS JOIN sequences s
             JOIN contacts k ON k.audience_no = s.audience_no AND k.address = n.address
             WHERE e.sequence_no = s.no AND e.contact_no = k.no AND e.status IN (0, 1)
               AND (n.channel = '' OR EXISTS (
                   SELECT FROM runs r JOIN run_devices rd ON rd.run_key = r.key JOIN devices d ON d.no = rd.device_no
                   WHERE r.sequence_no = s.no AND r.step = e.step AND d.channel = n.channel))
             RETURNING e.sequence_no, e.contact_no, e.step, n.at),
         done AS (
             UPDATE messages m SET status = 8, finished_at = x.at
             FROM exited x JOIN runs r ON r.sequence_no = x.sequence_no AND r.step = x.step
             WHERE m.id = (r.key::bigint << 32) | x.contact_no AND m.status IN (0, 1) AND ",
        not_in_flight!("m"),
        " RETURNING m.id)
         INSERT INTO run_counts AS c (run_key, shard, suppressed)
         SELECT (id >> 32)::int, $5, count(*) FROM done GROUP BY 1 ORDER BY 1
         ON CONFLICT (run_key, shard) DO UPDATE SET suppressed = c.suppressed + excluded.suppressed"
    ))
    .bind(addresses)
    .bind(channels)
    .bind(reasons)
    .bind(times)
    .bind(pg.shard())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn unsuppress(pg: &Postgres, entries: &[(String, Option<String>)], now: Time) -> Result<u32> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let removed: i64 = pg
            .scalar(
                "WITH removed AS (
                     DELETE FROM suppressions s USING unnest($1::text[], $2::text[]) AS n (address, channel)
                     WHERE s.address = n.address AND s.channel = n.channel RETURNING s.address, s.channel),
                 noted AS (
                     INSERT INTO consent_ledger (address, channel, event, reason, at)
                     SELECT address, channel, 'opt-in', 'removed', $3 FROM removed)
                 SELECT count(*) FROM removed",
            )
            .bind(entries.iter().map(|(address, _)| address.trim()).collect::<Vec<_>>())
            .bind(entries.iter().map(|(_, c)| rows::channel_column(c.as_deref())).collect::<Vec<_>>())
            .bind(now.as_ms())
            .fetch_one(&mut *tx)
            .await?;
        if removed > 0 {
            pg.bump(&mut tx, "suppressions").await?;
        }
        pg.commit(tx).await?;
        Ok(rows::to_u32(removed))
    })
    .await
}

pub(super) async fn suppressions(
    pg: &Postgres,
    address: Option<&str>,
    cursor: Option<(String, String)>,
    limit: u32,
) -> Result<Page<Suppression, (String, String)>> {
    let query = match address {
        None => pg.rows(
            "SELECT address, channel, reason, created_at FROM suppressions
             WHERE (address, channel) > ($1, $2) ORDER BY address, channel LIMIT $3",
        ),
        Some(_) => pg.rows(
            "SELECT address, channel, reason, created_at FROM suppressions
             WHERE (address, channel) > ($1, $2) AND address = $4 ORDER BY address, channel LIMIT $3",
        ),
    };
    // No channel is smaller than the empty one, and no address is empty, so this is before everything.
    let (after, after_channel) = cursor.unwrap_or_default();
    let query = query.bind(after).bind(after_channel).bind(rows::one_more(limit));
    let query = match address {
        None => query,
        Some(address) => query.bind(address),
    };
    let found: Vec<rows::SuppressionSql> = query.fetch_all(&pg.pool).await?;
    let items: Vec<Suppression> = found.into_iter().map(Suppression::from).collect();
    Ok(rows::page(items, limit, |s| (s.address.clone(), s.channel.clone().unwrap_or_default())))
}

pub(super) async fn suppressed_since(pg: &Postgres, since: Time, limit: u32) -> Result<Vec<Suppression>> {
    let found: Vec<rows::SuppressionSql> = pg
        .rows(
            "SELECT address, channel, reason, created_at FROM suppressions
             WHERE created_at >= $1 ORDER BY created_at, address, channel LIMIT $2",
        )
        .bind(since.as_ms())
        .bind(i64::from(limit))
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(Suppression::from).collect())
}

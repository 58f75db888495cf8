//! Receipts: what is expected, and what comes.

use super::*;

pub(super) async fn expect_receipts(pg: &Postgres, expected: &[(MessageId, Expected)]) -> Result<()> {
    if expected.is_empty() {
        return Ok(());
    }
    repeating(|| async {
        let mut tx = pg.begin().await?;
        expect_in(pg, &mut tx, expected).await?;
        pg.commit(tx).await
    })
    .await
}

/// Notes within a transaction what reports will find these messages by.
pub(super) async fn expect_in(pg: &Postgres, tx: &mut Tx, expected: &[(MessageId, Expected)]) -> Result<()> {
    if expected.is_empty() {
        return Ok(());
    }
    pg.sql(
        "INSERT INTO receipts (message_id, key, address_key)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n (message_id, key, address_key)
         ORDER BY n.message_id
         ON CONFLICT (message_id) DO UPDATE SET key = excluded.key, address_key = excluded.address_key
             WHERE receipts.key <> excluded.key",
    )
    .bind(expected.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
    .bind(expected.iter().map(|(_, e)| e.key.0).collect::<Vec<_>>())
    .bind(expected.iter().map(|(_, e)| e.address.0).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn note_receipts(pg: &Postgres, news: &[News], room: u32, now: Time) -> Result<Noted> {
    if news.is_empty() {
        return Ok(Noted::default());
    }
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let mut heard = hear_in(pg, &mut tx, news).await?;
        let early = std::mem::take(&mut heard.early);
        if !early.is_empty() {
            let kept: i64 = pg
                .scalar(
                    "WITH kept AS (
                         INSERT INTO early_receipts (key, state, at, arrived_at, reason_code, reason_detail)
                         SELECT n.key, n.state, n.at, $6, n.code, n.detail
                         FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::text[], $5::text[])
                              AS n (key, state, at, code, detail)
                         LIMIT greatest($7 - (SELECT count(*) FROM early_receipts), 0)
                         ON CONFLICT DO NOTHING RETURNING key)
                     SELECT count(*) FROM kept",
                )
                .bind(early.iter().map(|n| n.key.0).collect::<Vec<_>>())
                .bind(early.iter().map(|n| n.state.code()).collect::<Vec<_>>())
                .bind(early.iter().map(|n| n.at.as_ms()).collect::<Vec<_>>())
                .bind(early.iter().map(|n| n.reason.as_ref().map(|r| r.code.as_str())).collect::<Vec<_>>())
                .bind(early.iter().map(|n| n.reason.as_ref().map(|r| r.detail.as_str())).collect::<Vec<_>>())
                .bind(now.as_ms())
                .bind(i64::from(room))
                .fetch_one(&mut *tx)
                .await?;
            heard.noted.early = rows::to_u64(kept);
            heard.noted.dropped = (early.len() as u64).saturating_sub(heard.noted.early);
        }
        pg.commit(tx).await?;
        Ok(heard.noted)
    })
    .await
}

/// Takes reports in within a transaction; those of messages that are not known are left.
async fn hear_in<'a>(pg: &Postgres, tx: &mut Tx, news: &'a [News]) -> Result<rows::Heard<'a>> {
    // In message order, against deadlocks.
    let known: Vec<rows::ReceiptSql> = pg
        .rows(
            "SELECT message_id, key, state, delivered_at, read_at, failed_at, reason_code, reason_detail
             FROM receipts WHERE key = ANY($1) ORDER BY message_id FOR NO KEY UPDATE",
        )
        .bind(news.iter().map(|n| n.key.0).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    let heard = rows::hear(news, known)?;
    if heard.changed.is_empty() {
        return Ok(heard);
    }
    let changed = &heard.changed;
    pg.sql(
        "UPDATE receipts r SET state = n.state, delivered_at = n.delivered_at, read_at = n.read_at, failed_at = n.failed_at,
                reason_code = n.code, reason_detail = n.detail
         FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
              AS n (message_id, state, delivered_at, read_at, failed_at, code, detail)
         WHERE r.message_id = n.message_id",
    )
    .bind(changed.iter().map(|c| c.message_id).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.state).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.delivered_at).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.read_at).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.failed_at).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.reason_code.as_deref()).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.reason_detail.as_deref()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    pg.sql(
        "INSERT INTO receipt_counts AS c (run_key, shard, delivered, read, failed)
         SELECT n.run_key, $5, n.delivered, n.read, n.failed
         FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[]) AS n (run_key, delivered, read, failed)
         ORDER BY n.run_key
         ON CONFLICT (run_key, shard) DO UPDATE SET
             delivered = c.delivered + excluded.delivered, read = c.read + excluded.read, failed = c.failed + excluded.failed",
    )
    .bind(heard.counts.keys().map(|run| run.0).collect::<Vec<_>>())
    .bind(heard.counts.values().map(|d| d.delivered).collect::<Vec<_>>())
    .bind(heard.counts.values().map(|d| d.read).collect::<Vec<_>>())
    .bind(heard.counts.values().map(|d| d.failed).collect::<Vec<_>>())
    .bind(pg.shard())
    .execute(&mut **tx)
    .await?;
    Ok(heard)
}

pub(super) async fn settle_early_receipts(pg: &Postgres, before: Time, limit: u32) -> Result<(Noted, u64)> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        let found: Vec<rows::EarlySql> = pg
            .rows(
                "DELETE FROM early_receipts WHERE (key, state) IN (
                     SELECT e.key, e.state FROM early_receipts e
                     CROSS JOIN LATERAL (SELECT FROM receipts r WHERE r.key = e.key LIMIT 1) AS known
                     LIMIT $1 FOR UPDATE OF e SKIP LOCKED)
                 RETURNING key, state, at, reason_code, reason_detail",
            )
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
        let news = found.into_iter().map(rows::EarlySql::read).collect::<Result<Vec<_>>>()?;
        let noted = if news.is_empty() { Noted::default() } else { hear_in(pg, &mut tx, &news).await?.noted };
        let given_up = pg
            .sql(
                "DELETE FROM early_receipts WHERE (key, state) IN (
                     SELECT key, state FROM early_receipts WHERE arrived_at < $1 ORDER BY arrived_at LIMIT $2
                     FOR UPDATE SKIP LOCKED)",
            )
            .bind(before.as_ms())
            .bind(i64::from(limit))
            .execute(&mut *tx)
            .await?
            .rows_affected();
        pg.commit(tx).await?;
        Ok((noted, given_up))
    })
    .await
}

pub(super) async fn receipt(pg: &Postgres, id: MessageId) -> Result<Option<Receipt>> {
    pg.rows(
        "SELECT message_id, key, state, delivered_at, read_at, failed_at, reason_code, reason_detail
         FROM receipts WHERE message_id = $1",
    )
    .bind(id.0)
    .fetch_optional(&pg.pool)
    .await?
    .map(rows::ReceiptSql::read)
    .transpose()
}

pub(super) async fn receipt_counts(pg: &Postgres, runs: &[RunKey]) -> Result<Vec<(RunKey, ReceiptCounts)>> {
    let found: Vec<(i32, i64, i64, i64)> = pg
        .rows(
            "SELECT run_key, sum(delivered)::bigint, sum(read)::bigint, sum(failed)::bigint
             FROM receipt_counts WHERE run_key = ANY($1) GROUP BY run_key ORDER BY run_key",
        )
        .bind(runs.iter().map(|run| run.0).collect::<Vec<_>>())
        .fetch_all(&pg.pool)
        .await?;
    Ok(found.into_iter().map(rows::receipt_counts).collect())
}

/// Addresses behind what reports name, of at most `$2` messages each; looked up one by one, so that no plan is slow.
macro_rules! addresses_by {
    ($column:literal) => {
        concat!(
            "SELECT DISTINCT n.key, k.address
             FROM unnest($1::bigint[]) AS n (key)
             CROSS JOIN LATERAL (SELECT message_id FROM receipts WHERE ",
            $column,
            " = n.key LIMIT $2) AS x
             JOIN runs r ON r.key = (x.message_id >> 32)::int
             CROSS JOIN LATERAL (
                 SELECT address FROM contacts
                 WHERE audience_no = r.audience_no AND no = (x.message_id & 4294967295)::int OFFSET 0) AS k
             ORDER BY n.key, k.address"
        )
    };
}

pub(super) async fn addresses_of_receipts(
    pg: &Postgres,
    keys: &[ReceiptKey],
    addresses: &[AddressKey],
    limit: u32,
) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (sql, keys) in [
        (addresses_by!("key"), keys.iter().map(|k| k.0).collect::<Vec<_>>()),
        (addresses_by!("address_key"), addresses.iter().map(|a| a.0).collect::<Vec<_>>()),
    ] {
        if keys.is_empty() {
            continue;
        }
        let found: Vec<(i64, String)> = pg.rows(sql).bind(keys).bind(i64::from(limit)).fetch_all(&pg.pool).await?;
        out.extend(found.into_iter().map(|(_, address)| address));
    }
    Ok(out)
}

//! Receipts: what is expected, and what comes.

use super::*;

/// Reports per transaction, so that a large batch does not hold the writer.
const PAGE: usize = 1_000;

pub(super) async fn expect_receipts(lite: &Sqlite, expected: &[(MessageId, Expected)]) -> Result<()> {
    if expected.is_empty() {
        return Ok(());
    }
    let mut tx = lite.begin().await?;
    expect_in(lite, &mut tx, expected).await?;
    lite.commit(tx).await
}

/// Notes within a transaction what reports will find these messages by.
pub(super) async fn expect_in(lite: &Sqlite, tx: &mut Tx, expected: &[(MessageId, Expected)]) -> Result<()> {
    if expected.is_empty() {
        return Ok(());
    }
    lite.sql(
        "INSERT INTO receipts AS r (message_id, key, address_key)
         SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1) WHERE TRUE
         ON CONFLICT (message_id) DO UPDATE SET key = excluded.key, address_key = excluded.address_key
             WHERE r.key <> excluded.key",
    )
    .bind(list(expected.iter().map(|(id, e)| (id.0, e.key.0, e.address.0)))?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn note_receipts(lite: &Sqlite, news: &[News], room: u32, now: Time) -> Result<Noted> {
    let mut all = Noted::default();
    for page in news.chunks(PAGE) {
        let mut tx = lite.begin().await?;
        let mut heard = hear_in(lite, &mut tx, page).await?;
        let early = std::mem::take(&mut heard.early);
        if !early.is_empty() {
            let rows = early.iter().map(|n| {
                let reason = n.reason.as_ref();
                (n.key.0, n.state.code(), n.at.as_ms(), reason.map(|r| &r.code), reason.map(|r| &r.detail))
            });
            let kept = lite
                .sql(
                    "INSERT INTO early_receipts (key, state, at, arrived_at, reason_code, reason_detail)
                     SELECT value ->> 0, value ->> 1, value ->> 2, $2, value ->> 3, value ->> 4 FROM json_each($1) WHERE TRUE
                     LIMIT max($3 - (SELECT count(*) FROM early_receipts), 0)
                     ON CONFLICT DO NOTHING",
                )
                .bind(list(rows)?)
                .bind(now.as_ms())
                .bind(i64::from(room))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            heard.noted.early = kept;
            heard.noted.dropped = (early.len() as u64).saturating_sub(kept);
        }
        lite.commit(tx).await?;
        all.add(&heard.noted);
    }
    Ok(all)
}

/// Takes reports in within a transaction; those of messages that are not known are left.
async fn hear_in<'a>(lite: &Sqlite, tx: &mut Tx, news: &'a [News]) -> Result<rows::Heard<'a>> {
    let known: Vec<rows::ReceiptSql> = lite
        .rows(
            "SELECT message_id, key, state, delivered_at, read_at, failed_at, reason_code, reason_detail
             FROM receipts WHERE key IN (SELECT value FROM json_each($1)) ORDER BY message_id",
        )
        .bind(list(news.iter().map(|n| n.key.0))?)
        .fetch_all(&mut **tx)
        .await?;
    let heard = rows::hear(news, known)?;
    if heard.changed.is_empty() {
        return Ok(heard);
    }
    let changed = heard.changed.iter().map(|c| {
        (
            c.message_id,
            c.state,
            c.delivered_at,
            c.read_at,
            c.failed_at,
            c.reason_code.as_deref(),
            c.reason_detail.as_deref(),
        )
    });
    lite.sql(
        "UPDATE receipts SET state = n.value ->> 1, delivered_at = n.value ->> 2, read_at = n.value ->> 3,
                failed_at = n.value ->> 4, reason_code = n.value ->> 5, reason_detail = n.value ->> 6
         FROM json_each($1) n WHERE receipts.message_id = n.value ->> 0",
    )
    .bind(list(changed)?)
    .execute(&mut **tx)
    .await?;
    lite.sql(
        "INSERT INTO receipt_counts AS c (run_key, delivered, read, failed)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE TRUE
         ON CONFLICT (run_key) DO UPDATE SET
             delivered = c.delivered + excluded.delivered, read = c.read + excluded.read, failed = c.failed + excluded.failed",
    )
    .bind(list(heard.counts.iter().map(|(run, d)| (run.0, d.delivered, d.read, d.failed)))?)
    .execute(&mut **tx)
    .await?;
    Ok(heard)
}

macro_rules! settled {
    () => {
        "FROM early_receipts e WHERE EXISTS (SELECT 1 FROM receipts r WHERE r.key = e.key)"
    };
}

pub(super) async fn settle_early_receipts(lite: &Sqlite, before: Time, limit: u32) -> Result<(Noted, u64)> {
    // The writer is left alone while there is nothing to do.
    let work: bool = lite
        .scalar(concat!(
            "SELECT EXISTS (SELECT 1 ",
            settled!(),
            ") OR EXISTS (SELECT 1 FROM early_receipts WHERE arrived_at < $1)"
        ))
        .bind(before.as_ms())
        .fetch_one(&lite.readers)
        .await?;
    if !work {
        return Ok((Noted::default(), 0));
    }
    let mut tx = lite.begin().await?;
    let found: Vec<rows::EarlySql> = lite
        .rows(concat!(
            "DELETE FROM early_receipts WHERE (key, state) IN (SELECT e.key, e.state ",
            settled!(),
            " LIMIT $1) RETURNING key, state, at, reason_code, reason_detail"
        ))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
    let news = found.into_iter().map(rows::EarlySql::read).collect::<Result<Vec<_>>>()?;
    let noted = if news.is_empty() { Noted::default() } else { hear_in(lite, &mut tx, &news).await?.noted };
    let given_up = lite
        .sql(
            "DELETE FROM early_receipts WHERE (key, state) IN (
                 SELECT key, state FROM early_receipts WHERE arrived_at < $1 ORDER BY arrived_at LIMIT $2)",
        )
        .bind(before.as_ms())
        .bind(i64::from(limit))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    lite.commit(tx).await?;
    Ok((noted, given_up))
}

pub(super) async fn receipt(lite: &Sqlite, id: MessageId) -> Result<Option<Receipt>> {
    lite.rows(
        "SELECT message_id, key, state, delivered_at, read_at, failed_at, reason_code, reason_detail
         FROM receipts WHERE message_id = $1",
    )
    .bind(id.0)
    .fetch_optional(&lite.readers)
    .await?
    .map(rows::ReceiptSql::read)
    .transpose()
}

pub(super) async fn receipt_counts(lite: &Sqlite, runs: &[RunKey]) -> Result<Vec<(RunKey, ReceiptCounts)>> {
    let found: Vec<(i32, i64, i64, i64)> = lite
        .rows(
            "SELECT run_key, delivered, read, failed FROM receipt_counts
             WHERE run_key IN (SELECT value FROM json_each($1)) ORDER BY run_key",
        )
        .bind(list(runs.iter().map(|run| run.0))?)
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(rows::receipt_counts).collect())
}

/// Addresses behind what a report names, of at most `$2` messages.
macro_rules! addresses_by {
    ($column:literal) => {
        concat!(
            "SELECT DISTINCT k.address
             FROM (SELECT message_id FROM receipts WHERE ",
            $column,
            " = $1 LIMIT $2) x
             CROSS JOIN runs r ON r.key = x.message_id >> 32
             CROSS JOIN contacts k ON k.audience_no = r.audience_no AND k.no = x.message_id & 4294967295
             ORDER BY k.address"
        )
    };
}

pub(super) async fn addresses_of_receipts(
    lite: &Sqlite,
    keys: &[ReceiptKey],
    addresses: &[AddressKey],
    limit: u32,
) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let by_key = keys.iter().map(|key| (addresses_by!("key"), key.0));
    let by_address = addresses.iter().map(|address| (addresses_by!("address_key"), address.0));
    for (sql, key) in by_key.chain(by_address) {
        let found: Vec<String> = lite.scalar(sql).bind(key).bind(i64::from(limit)).fetch_all(&lite.readers).await?;
        out.extend(found);
    }
    Ok(out)
}

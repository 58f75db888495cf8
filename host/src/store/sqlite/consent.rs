//! The suppression list and the ledger behind it.

use super::*;

/// Entries per transaction, so that an import of a long list does not hold the writer.
const PAGE: usize = 1_000;

pub(super) async fn suppress(lite: &Sqlite, entries: &[NewSuppression], now: Time) -> Result<u32> {
    let mut added = 0;
    for page in entries.chunks(PAGE) {
        let mut tx = lite.begin().await?;
        added += suppress_in(lite, &mut tx, page, now).await?;
        lite.commit(tx).await?;
    }
    Ok(added)
}

/// Suppresses within a transaction; returns how many entries are new.
pub(super) async fn suppress_in(lite: &Sqlite, tx: &mut Tx, entries: &[NewSuppression], at: Time) -> Result<u32> {
    let columns = list(
        entries.iter().map(|e| (e.address.trim(), rows::channel_column(e.channel.as_deref()), e.reason.as_str())),
    )?;
    let added: Vec<(String, String, String)> = lite
        .rows(
            "INSERT INTO suppressions (address, channel, reason, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, $2 FROM json_each($1) WHERE TRUE
             ON CONFLICT DO NOTHING RETURNING address, channel, reason",
        )
        .bind(&columns)
        .bind(at.as_ms())
        .fetch_all(&mut **tx)
        .await?;
    exit_suppressed(lite, tx, &columns, at).await?;
    if !added.is_empty() {
        note(lite, tx, "opt-out", &list(&added)?, at).await?;
        lite.bump(tx, "suppressions").await?;
    }
    Ok(u32::try_from(added.len()).unwrap_or(u32::MAX))
}

/// Writes the ledger: `[address, channel, reason]` each.
async fn note(lite: &Sqlite, tx: &mut Tx, event: &'static str, entries: &str, at: Time) -> Result<()> {
    lite.sql(
        "INSERT INTO consent_ledger (address, channel, event, reason, at)
         SELECT value ->> 0, value ->> 1, $2, value ->> 2, $3 FROM json_each($1)",
    )
    .bind(entries)
    .bind(event)
    .bind(at.as_ms())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends the open enrolments of suppressed addresses in sequences that use the channel; their pending messages become
/// suppressed.
async fn exit_suppressed(lite: &Sqlite, tx: &mut Tx, entries: &str, at: Time) -> Result<()> {
    let exited: Vec<(i32, i32, i32)> = lite
        .rows(
            "UPDATE enrolments SET status = 3, exit_reason = n.reason
             FROM (SELECT value ->> 0 AS address, value ->> 1 AS channel, value ->> 2 AS reason FROM json_each($1)) AS n
             CROSS JOIN sequences s
             CROSS JOIN contacts k ON k.audience_no = s.audience_no AND k.address = n.address
             WHERE enrolments.sequence_no = s.no AND enrolments.contact_no = k.no AND enrolments.status IN (0, 1)
               AND (n.channel = '' OR EXISTS (
                   SELECT 1 FROM runs r JOIN run_devices rd ON rd.run_key = r.key JOIN devices d ON d.no = rd.device_no
                   WHERE r.sequence_no = s.no AND r.step = enrolments.step AND d.channel = n.channel))
             RETURNING sequence_no, contact_no, step",
        )
        .bind(entries)
        .fetch_all(&mut **tx)
        .await?;
    end_steps(lite, tx, &exited, code::SUPPRESSED, at).await
}

/// Ends the pending messages of enrolments `(sequence, contact, step)` that were left.
pub(super) async fn end_steps(
    lite: &Sqlite,
    tx: &mut Tx,
    exited: &[(i32, i32, i32)],
    status: i16,
    at: Time,
) -> Result<()> {
    if exited.is_empty() {
        return Ok(());
    }
    let ended: Vec<i64> = lite
        .scalar(
            "UPDATE messages SET status = $2, finished_at = $3
             FROM json_each($1) x JOIN runs r ON r.sequence_no = x.value ->> 0 AND r.step = x.value ->> 2
             WHERE messages.id = (r.key << 32) | (x.value ->> 1) AND messages.status IN (0, 1) RETURNING id",
        )
        .bind(list(exited)?)
        .bind(status)
        .bind(at.as_ms())
        .fetch_all(&mut **tx)
        .await?;
    let mut tally = Tally::default();
    for id in ended {
        tally.status(MessageId(id).run(), status, 1);
    }
    tally.write(lite, tx).await
}

pub(super) async fn unsuppress(lite: &Sqlite, entries: &[(String, Option<String>)], now: Time) -> Result<u32> {
    let mut tx = lite.begin().await?;
    let removed: Vec<(String, String)> = lite
        .rows(
            "DELETE FROM suppressions WHERE (address, channel) IN (
                 SELECT value ->> 0, value ->> 1 FROM json_each($1))
             RETURNING address, channel",
        )
        .bind(list(entries.iter().map(|(a, c)| (a.trim(), rows::channel_column(c.as_deref()))))?)
        .fetch_all(&mut *tx)
        .await?;
    if !removed.is_empty() {
        let lines = list(removed.iter().map(|(address, channel)| (address, channel, "removed")))?;
        note(lite, &mut tx, "opt-in", &lines, now).await?;
        lite.bump(&mut tx, "suppressions").await?;
    }
    lite.commit(tx).await?;
    Ok(u32::try_from(removed.len()).unwrap_or(u32::MAX))
}

pub(super) async fn suppressions(
    lite: &Sqlite,
    address: Option<&str>,
    cursor: Option<(String, String)>,
    limit: u32,
) -> Result<Page<Suppression, (String, String)>> {
    let query = match address {
        None => lite.rows(
            "SELECT address, channel, reason, created_at FROM suppressions
             WHERE (address, channel) > ($1, $2) ORDER BY address, channel LIMIT $3",
        ),
        Some(_) => lite.rows(
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
    let found: Vec<rows::SuppressionSql> = query.fetch_all(&lite.readers).await?;
    let items: Vec<Suppression> = found.into_iter().map(Suppression::from).collect();
    Ok(rows::page(items, limit, |s| (s.address.clone(), s.channel.clone().unwrap_or_default())))
}

pub(super) async fn suppressed_since(lite: &Sqlite, since: Time, limit: u32) -> Result<Vec<Suppression>> {
    let found: Vec<rows::SuppressionSql> = lite
        .rows(
            "SELECT address, channel, reason, created_at FROM suppressions
             WHERE created_at >= $1 ORDER BY created_at, address, channel LIMIT $2",
        )
        .bind(since.as_ms())
        .bind(i64::from(limit))
        .fetch_all(&lite.readers)
        .await?;
    Ok(found.into_iter().map(Suppression::from).collect())
}

//! The suppression list and the ledger behind it.

use super::*;

/// Entries per transaction, so that an import of a long list does not hold the writer.
const PAGE: usize = 1_000;

pub(super) async fn suppress(lite: &Sqlite, entries: &[NewSuppression], now: Time) -> Result<u32> {
    let mut added = 0;
    for page in entries.chunks(PAGE) {
        let mut tx = lite.begin().await?;
        let page: Vec<_> = page.iter().map(|entry| (entry, now)).collect();
        added += suppress_in(lite, &mut tx, &page).await?;
        lite.commit(tx).await?;
    }
    Ok(added)
}

/// Suppresses within a transaction, each entry at its time; returns how many entries are new.
pub(super) async fn suppress_in(lite: &Sqlite, tx: &mut Tx, entries: &[(&NewSuppression, Time)]) -> Result<u32> {
    if entries.is_empty() {
        return Ok(0);
    }
    let columns =
        list(entries.iter().map(|(e, at)| {
            (e.address.trim(), rows::channel_column(e.channel.as_deref()), e.reason.as_str(), at.as_ms())
        }))?;
    let added: Vec<(String, String, String, i64)> = lite
        .rows(
            "INSERT INTO suppressions (address, channel, reason, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE TRUE
             ON CONFLICT DO NOTHING RETURNING address, channel, reason, created_at",
        )
        .bind(&columns)
        .fetch_all(&mut **tx)
        .await?;
    exit_suppressed(lite, tx, &columns).await?;
    if !added.is_empty() {
        note(lite, tx, "opt-out", &list(&added)?).await?;
        lite.bump(tx, "suppressions").await?;
    }
    Ok(u32::try_from(added.len()).unwrap_or(u32::MAX))
}

/// Writes the ledger: `[address, channel, reason, time]` each.
async fn note(lite: &Sqlite, tx: &mut Tx, event: &'static str, entries: &str) -> Result<()> {
    lite.sql(
        "INSERT INTO consent_ledger (address, channel, event, reason, at)
         SELECT value ->> 0, value ->> 1, $2, value ->> 2, value ->> 3 FROM json_each($1)",
    )
    .bind(entries)
    .bind(event)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends the open enrolments of suppressed addresses in sequences that use the channel; their pending messages become
/// suppressed.
async fn exit_suppressed(lite: &Sqlite, tx: &mut Tx, entries: &str) -> Result<()> {
    // From the entries to the enrolments, in this order: the other way round would read every enrolment there is.
    let open: Vec<(i32, i32, i32, String, i64)> = lite
        .rows(
            "SELECT e.sequence_no, e.contact_no, e.step, n.value ->> 2, n.value ->> 3
             FROM json_each($1) n
             CROSS JOIN sequences s
             CROSS JOIN contacts k ON k.audience_no = s.audience_no AND k.address = n.value ->> 0
             CROSS JOIN enrolments e ON e.sequence_no = s.no AND e.contact_no = k.no
             WHERE e.status IN (0, 1) AND (n.value ->> 1 = '' OR EXISTS (
                 SELECT 1 FROM runs r JOIN run_devices rd ON rd.run_key = r.key JOIN devices d ON d.no = rd.device_no
                 WHERE r.sequence_no = s.no AND r.step = e.step AND d.channel = n.value ->> 1))
             ORDER BY n.key",
        )
        .bind(entries)
        .fetch_all(&mut **tx)
        .await?;
    if open.is_empty() {
        return Ok(());
    }
    lite.sql(
        "UPDATE enrolments SET status = 3, exit_reason = x.value ->> 3 FROM json_each($1) x
         WHERE sequence_no = x.value ->> 0 AND contact_no = x.value ->> 1 AND status IN (0, 1)",
    )
    .bind(rows::to_json(&open)?)
    .execute(&mut **tx)
    .await?;
    let exited: Vec<Exited> =
        open.into_iter().map(|(sequence, contact, step, _, at)| (sequence, contact, step, at)).collect();
    end_steps(lite, tx, &exited, code::SUPPRESSED).await
}

/// An enrolment that was left: `(sequence, contact, step, when)`.
pub(super) type Exited = (i32, i32, i32, i64);

/// Ends the pending messages of enrolments that were left.
pub(super) async fn end_steps(lite: &Sqlite, tx: &mut Tx, exited: &[Exited], status: i16) -> Result<()> {
    if exited.is_empty() {
        return Ok(());
    }
    let ended: Vec<i64> = lite
        .scalar(concat!(
            "UPDATE messages SET status = $2, finished_at = x.value ->> 3
             FROM json_each($1) x JOIN runs r ON r.sequence_no = x.value ->> 0 AND r.step = x.value ->> 2
             WHERE messages.id = (r.key << 32) | (x.value ->> 1) AND messages.status IN (0, 1) AND ",
            not_in_flight!("messages"),
            " RETURNING id"
        ))
        .bind(list(exited)?)
        .bind(status)
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
        let lines = list(removed.iter().map(|(address, channel)| (address, channel, "removed", now.as_ms())))?;
        note(lite, &mut tx, "opt-in", &lines).await?;
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

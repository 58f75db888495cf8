//! Turns: attempts end and others begin, with the same few statements however many devices take part. The write lock
//! is held from the start, so what the first statement reads decides everything, and the others only write it down.

use std::sync::LazyLock;

use super::consent::suppress_in;
use super::devices::save_paces_in;
use super::receipts::expect_in;
use super::turns::{Step, groups, has_more};
use super::*;
use crate::sequence::EnrolmentStatus;

pub(super) async fn turn(
    lite: &Sqlite,
    host: HostId,
    ends: &[Settlement],
    claims: &[Claim],
    now: Time,
) -> Result<Turned> {
    let mut turned = Turned { applied: vec![false; ends.len()], begun: vec![Begun::Gone; claims.len()] };
    let groups = groups(ends, claims);
    if groups.is_empty() {
        return Ok(turned);
    }
    let mut tx = lite.begin().await?;
    for steps in groups {
        let done = take_steps(lite, &mut tx, host, &steps, now).await?;
        for (step, stepped) in steps.iter().zip(done) {
            if let Some(applied) = step.end.and_then(|(place, _)| turned.applied.get_mut(place)) {
                *applied = stepped.ended.is_some();
            }
            if let (Some((place, _)), Some(answer)) = (step.claim, stepped.begun)
                && let Some(begun) = turned.begun.get_mut(place)
            {
                *begun = answer;
            }
        }
    }
    lite.commit(tx).await?;
    Ok(turned)
}

/// What becomes of a step.
struct Stepped {
    /// The status that its ended message gets, where the end is applied.
    ended: Option<i16>,
    begun: Option<Begun>,
}

/// One group.
async fn take_steps(lite: &Sqlite, tx: &mut Tx, host: HostId, steps: &[Step<'_>], now: Time) -> Result<Vec<Stepped>> {
    let stepped = decide(lite, tx, steps, now).await?;
    let mut tally = Tally::default();
    let mut turns = Turns::default();
    let mut ended = Vec::with_capacity(steps.len());
    let mut unsent = Vec::new();
    for (step, done) in steps.iter().zip(&stepped) {
        if let (Some((_, end)), Some(status)) = (step.end, done.ended) {
            tally.status(end.message.run(), status, 1);
            ended.push((end, status));
        }
        match (&step.claim, &done.begun) {
            (Some((_, claim)), Some(Begun::Started(work))) => turns.begun.push((claim, work.attempt)),
            (Some((_, claim)), Some(Begun::Suppressed)) => unsent.push((claim.message, code::SUPPRESSED)),
            (Some((_, claim)), Some(Begun::Expired)) => unsent.push((claim.message, code::EXPIRED)),
            _ => {}
        }
        if let (Some((_, end)), Some(_)) = (step.end, done.ended)
            && !matches!(done.begun, Some(Begun::Started(_)))
        {
            turns.ends(end);
        }
    }
    turns.write(lite, tx, host, now).await?;
    end_attempts(lite, tx, &ended).await?;
    end_unsent(lite, tx, &unsent, now).await?;
    for (message, status) in unsent {
        tally.status(message.run(), status, 1);
    }
    tally.write(lite, tx).await?;
    if ended.iter().any(|(end, _)| has_more(end)) {
        keep_attempts(lite, tx, &ended).await?;
        save_paces_in(lite, tx, ended.iter().filter_map(|(end, _)| end.pace.as_ref())).await?;
        let steps = ended.iter().filter_map(|(s, _)| Some(rows::AdvanceSql::new(s.message, s.sequence.as_ref()?)));
        advance_enrolments(lite, tx, steps).await?;
        let expected: Vec<_> = ended.iter().filter_map(|(end, _)| Some((end.message, end.receipt?))).collect();
        expect_in(lite, tx, &expected).await?;
        let suppress: Vec<_> =
            ended.iter().filter_map(|(end, _)| Some((end.suppress.as_ref()?, end.finished_at))).collect();
        suppress_in(lite, tx, &suppress).await?;
    }
    Ok(stepped)
}

/// All that decides a step, as the columns of a JSON array.
#[derive(serde::Deserialize)]
struct Facts(
    /// The step's place in its chunk.
    usize,
    /// What holds, see below.
    u8,
    /// What the ended message's run was closed as.
    Option<i16>,
    Option<Claimed>,
    /// When the device may send again, by its saved pace.
    Option<i64>,
);

/// The message that a claim is for, with its contact: attempt, failures, due time, address, locale, zone, variables.
type Claimed = (i32, i16, i64, String, Option<String>, Option<String>, String);

/// The attempt that is to end is the one that the device is at.
const HOLDS: u8 = 1;
/// The device is sending nothing, and the claim's lease is not older than the newest that it sent under.
const FREE: u8 = 2;
/// The claim's message is ready, on this device.
const WAITING: u8 = 4;
/// Its run is active.
const ACTIVE: u8 = 8;
/// Its run has expired.
const EXPIRED: u8 = 16;
/// Its address is suppressed.
const SUPPRESSED: u8 = 32;
/// The claim's message is being sent.
const SENDING: u8 = 64;
/// The device may not send yet, by its saved pace. Of no weight where an attempt of it ends: with that comes the pace that has
/// just been computed.
const TOO_SOON: u8 = 128;

impl Facts {
    fn are(&self, flag: u8) -> bool {
        self.1 & flag != 0
    }

    fn decide(self, step: &Step<'_>) -> Result<Stepped> {
        let ended = match step.end {
            Some((_, end)) if self.are(HOLDS) => {
                let status = rows::SettleSql::from(end).status;
                // What would be pending again in a run that was closed meanwhile is closed with it.
                Some(if status < code::PROCESSING { self.2.unwrap_or(status) } else { status })
            }
            _ => None,
        };
        let free = if step.end.is_some() { ended.is_some() } else { self.are(FREE) };
        let begun = step.claim.map(|(_, claim)| self.begin(claim.message, free)).transpose()?;
        Ok(Stepped { ended, begun })
    }

    fn begin(self, message: MessageId, free: bool) -> Result<Begun> {
        if !self.are(WAITING) {
            return Ok(Begun::Gone);
        } else if !self.are(ACTIVE) {
            return Ok(Begun::Inactive);
        } else if self.are(SENDING) {
            return Ok(Begun::DeviceBusy);
        } else if self.are(EXPIRED) {
            return Ok(Begun::Expired);
        } else if self.are(SUPPRESSED) {
            return Ok(Begun::Suppressed);
        } else if let Some(next_at) = self.4.filter(|_| self.are(TOO_SOON)) {
            return Ok(Begun::TooSoon(Time::from_ms(next_at)));
        } else if !free {
            return Ok(Begun::DeviceBusy);
        }
        let Some((attempt, failures, due_at, address, locale, zone, variables)) = self.3 else {
            return Err(rows::broken("a message without its contact"));
        };
        let attempt = attempt.saturating_add(1);
        let work = rows::WorkSql { id: message.0, attempt, failures, due_at, address, locale, zone, variables };
        Ok(Begun::Started(Box::new(work.read()?)))
    }
}

/// One row comes back for a chunk of steps: each value of a row is memory that passes from the connection's thread to the
/// caller's, and both wait for each other at SQLite's allocator.
static DECIDE: LazyLock<String> = LazyLock::new(|| {
    let steps = values(8);
    format!(
        "SELECT json_group_array(json_array(s.pos,
                coalesce(f.message_id = s.ends AND f.token = s.end_token AND f.attempt = s.end_attempt, 0) * {HOLDS}
                + coalesce(f.message_id IS NULL AND max(coalesce(f.token, 0), coalesce(p.token, 0)) <= s.token, 0) * {FREE}
                + coalesce(m.status = 0 AND m.device_no = s.device_no, 0) * {WAITING} + coalesce(f.message_id = m.id, 0) * {SENDING}
                + coalesce(r.active, 0) * {ACTIVE} + coalesce(r.expires_at <= ?, 0) * {EXPIRED}
                + EXISTS (SELECT 1 FROM suppressions x
                          WHERE x.address = k.address AND x.channel IN ('', s.channel)) * {SUPPRESSED}
                + coalesce(s.ends IS NULL AND p.next_at > ?, 0) * {TOO_SOON},
                er.closed_as,
                iif(k.no IS NULL, NULL,
                    json_array(m.attempt, m.failures, m.due_at, k.address, k.locale, k.zone, k.variables)),
                p.next_at))
         FROM (SELECT column1 AS pos, column2 AS device_no, column3 AS ends, column4 AS end_token, column5 AS end_attempt,
                      column6 AS begins, column7 AS token, column8 AS channel
               FROM ({steps})) AS s
         LEFT JOIN in_flight f ON f.device_no = s.device_no
         LEFT JOIN device_state p ON p.device_no = s.device_no
         LEFT JOIN runs er ON er.key = s.ends >> 32
         LEFT JOIN messages m ON m.id = s.begins
         LEFT JOIN runs r ON r.key = m.id >> 32
         LEFT JOIN contacts k ON k.audience_no = r.audience_no AND k.no = m.id & 4294967295
         WHERE s.pos IS NOT NULL"
    )
});

/// Says what becomes of each step, in their order.
async fn decide(lite: &Sqlite, tx: &mut Tx, steps: &[Step<'_>], now: Time) -> Result<Vec<Stepped>> {
    let mut stepped = Vec::with_capacity(steps.len());
    for chunk in steps.chunks(CHUNK) {
        let uncertainties = chunk.iter().filter_map(|s| Some(s.claim?.1.uncertainty));
        let may_begin = Claim::may_begin_up_to(uncertainties, now);
        let mut query = lite.scalar::<String>(&DECIDE).bind(now.as_ms()).bind(may_begin.as_ms());
        for (pos, step) in (0_i64..).zip(chunk) {
            let end = step.end.map(|(_, end)| end);
            let claim = step.claim.map(|(_, claim)| claim);
            query = query
                .bind(pos)
                .bind(step.device.0)
                .bind(end.map(|e| e.message.0))
                .bind(end.map(|e| e.token))
                .bind(end.map(|e| i64::from(e.attempt)))
                .bind(claim.map(|c| c.message.0))
                .bind(claim.map(|c| c.token))
                .bind(claim.map(|c| c.channel.as_str()));
        }
        let text = query.fetch_one(&mut **tx).await?;
        let mut facts: Vec<Facts> = rows::from_json("what decides a turn", &text)?;
        facts.sort_unstable_by_key(|f| f.0);
        if facts.len() != chunk.len() {
            return Err(rows::broken("a turn"));
        }
        for (step, facts) in chunk.iter().zip(facts) {
            stepped.push(facts.decide(step)?);
        }
    }
    Ok(stepped)
}

/// What devices are sending after their steps.
#[derive(Default)]
struct Turns<'a> {
    /// Devices that begin a message, with the attempt's number.
    begun: Vec<(&'a Claim, u32)>,
    /// Devices that send nothing.
    idle: Vec<&'a Settlement>,
    /// Devices that send nothing, and whose token goes into `device_state` with their pace.
    paced: Vec<i32>,
}

static IN_FLIGHT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT OR REPLACE INTO in_flight
             (host_id, started_at, device_no, message_id, token, attempt, template_no, delay_no, sender_no)
         SELECT ?, ?, * FROM ({}) WHERE column1 IS NOT NULL",
        values(7)
    )
});

impl<'a> Turns<'a> {
    fn ends(&mut self, end: &'a Settlement) {
        if end.pace.as_ref().is_some_and(|p| p.device == end.device && p.token >= end.token) {
            self.paced.push(end.device.0);
        } else {
            self.idle.push(end);
        }
    }

    async fn write(&self, lite: &Sqlite, tx: &mut Tx, host: HostId, now: Time) -> Result<()> {
        let begun = self.begun.iter().map(|(c, n)| (c.device, Some(c.message.0), c.token, *n, c.versions));
        let idle = self.idle.iter().map(|e| (e.device, None, e.token, e.attempt, e.versions));
        let rows: Vec<_> = begun.chain(idle).collect();
        for chunk in rows.chunks(CHUNK) {
            let mut query = lite.sql(&IN_FLIGHT).bind(host.0).bind(now.as_ms());
            for (device, message, token, attempt, versions) in chunk {
                query = query
                    .bind(device.0)
                    .bind(*message)
                    .bind(*token)
                    .bind(i64::from(*attempt))
                    .bind(versions.template.0)
                    .bind(versions.delay.0)
                    .bind(versions.sender.0);
            }
            query.execute(&mut **tx).await?;
        }
        if !self.paced.is_empty() {
            lite.sql("DELETE FROM in_flight WHERE device_no IN (SELECT value FROM json_each($1))")
                .bind(rows::to_json(&self.paced)?)
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }
}

static END: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE messages SET
             status = s.status, due_at = coalesce(s.due_at, messages.due_at),
             attempt = iif(s.released, messages.attempt, s.attempt),
             failures = min(messages.failures + s.counts, 32767),
             template_no = iif(s.released, messages.template_no, s.template_no),
             delay_no = iif(s.released, messages.delay_no, s.delay_no),
             sender_no = iif(s.released, messages.sender_no, s.sender_no),
             started_at = iif(s.released, messages.started_at, s.started_at),
             finished_at = s.finished_at, provider_id = s.provider_id,
             reason_code = iif(s.released, messages.reason_code, s.reason_code),
             reason_detail = iif(s.released, messages.reason_detail, s.reason_detail)
         FROM (SELECT column1 AS id, column2 AS status, column3 AS due_at, column4 AS attempt, column5 AS counts,
                      column6 AS released, column7 AS template_no, column8 AS delay_no, column9 AS sender_no,
                      column10 AS started_at, column11 AS finished_at, column12 AS provider_id, column13 AS reason_code,
                      column14 AS reason_detail
               FROM ({})) AS s
         WHERE messages.id = s.id AND +messages.status = 0",
        values(14)
    )
});

/// Writes the ends of attempts into their messages.
async fn end_attempts(lite: &Sqlite, tx: &mut Tx, ended: &[(&Settlement, i16)]) -> Result<()> {
    for chunk in ended.chunks(CHUNK) {
        let mut query = lite.sql(&END);
        for (s, status) in chunk {
            let end = rows::SettleSql::from(*s);
            query = query
                .bind(s.message.0)
                .bind(*status)
                .bind(end.due_at)
                .bind(i64::from(s.attempt))
                .bind(end.counts)
                .bind(end.released)
                .bind(s.versions.template.0)
                .bind(s.versions.delay.0)
                .bind(s.versions.sender.0)
                .bind(s.started_at.as_ms())
                .bind((*status > code::PROCESSING).then_some(s.finished_at.as_ms()))
                .bind(end.provider_id)
                .bind(end.reason_code)
                .bind(end.reason_detail);
        }
        let done = query.execute(&mut **tx).await?;
        if done.rows_affected() != u64::try_from(chunk.len()).unwrap_or(u64::MAX) {
            return Err(rows::broken("a message in flight that is not pending"));
        }
    }
    Ok(())
}

/// Makes ready messages final without a send.
async fn end_unsent(lite: &Sqlite, tx: &mut Tx, messages: &[(MessageId, i16)], now: Time) -> Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let columns = list(messages.iter().map(|(id, status)| (id.0, status)))?;
    lite.sql(
        "UPDATE messages SET status = n.value ->> 1, finished_at = $2
         FROM json_each($1) n WHERE messages.id = n.value ->> 0",
    )
    .bind(&columns)
    .bind(now.as_ms())
    .execute(&mut **tx)
    .await?;
    lite.sql(
        "UPDATE enrolments SET status = 3, exit_reason = 'suppressed'
         FROM json_each($1) n JOIN runs r ON r.key = (n.value ->> 0) >> 32
         WHERE n.value ->> 1 = 8 AND enrolments.sequence_no = r.sequence_no AND enrolments.step = r.step
           AND enrolments.contact_no = (n.value ->> 0) & 4294967295 AND enrolments.status = 1",
    )
    .bind(&columns)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes a row for each attempt that was not a clean send.
async fn keep_attempts(lite: &Sqlite, tx: &mut Tx, ended: &[(&Settlement, i16)]) -> Result<()> {
    let rows = ended.iter().filter_map(|(s, _)| {
        let outcome = rows::attempt_outcome(&s.outcome)?;
        let end = rows::SettleSql::from(*s);
        let v = s.versions;
        Some((
            (s.message.0, s.attempt, s.device.0, s.started_at.as_ms(), s.finished_at.as_ms()),
            (v.template.0, v.delay.0, v.sender.0),
            (outcome, end.reason_code, end.reason_detail, end.provider_id),
        ))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    lite.sql(
        "INSERT INTO attempts (message_id, attempt, device_no, started_at, finished_at, template_no, delay_no, sender_no,
                               outcome, reason_code, reason_detail, provider_id)
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]', value ->> '$[0][4]',
                value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]',
                value ->> '$[2][0]', value ->> '$[2][1]', value ->> '$[2][2]', value ->> '$[2][3]'
         FROM json_each($1) WHERE TRUE
         ON CONFLICT (message_id, attempt) DO NOTHING",
    )
    .bind(rows::to_json(&rows)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Moves the enrolments that still stand at the step of their message.
pub(super) async fn advance_enrolments<'a>(
    lite: &Sqlite,
    tx: &mut Tx,
    steps: impl Iterator<Item = rows::AdvanceSql<'a>>,
) -> Result<()> {
    let steps = steps.map(|to| {
        let steps = i32::from(to.status == EnrolmentStatus::Waiting);
        (to.sequence_no, to.contact_no, to.step, to.status.code(), steps, to.due_at, to.exit_reason)
    });
    let steps: Vec<_> = steps.collect();
    if steps.is_empty() {
        return Ok(());
    }
    lite.sql(
        "UPDATE enrolments SET status = a.value ->> 3, step = step + (a.value ->> 4),
                due_at = coalesce(a.value ->> 5, due_at), exit_reason = a.value ->> 6
         FROM json_each($1) a
         WHERE sequence_no = a.value ->> 0 AND contact_no = a.value ->> 1 AND step = a.value ->> 2 AND status = $2",
    )
    .bind(rows::to_json(&steps)?)
    .bind(EnrolmentStatus::InStep.code())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

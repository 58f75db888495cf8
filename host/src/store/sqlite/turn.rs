//! Turns: attempts end and others begin, with the same few statements however many devices take part. The write lock
//! is held from the start, so what the first statement reads decides everything, and the others only write it down.

use super::consent::suppress_in;
use super::devices::save_paces_in;
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
            (Some((_, claim)), Some(Begun::Started(work))) => turns.begins(claim, work.attempt),
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
        advance_enrolments(lite, tx, &ended).await?;
        let suppress: Vec<_> =
            ended.iter().filter_map(|(end, _)| Some((end.suppress.as_ref()?, end.finished_at))).collect();
        suppress_in(lite, tx, &suppress).await?;
    }
    Ok(stepped)
}

from_row! {
    /// All that decides a step.
    struct Facts {
        /// The attempt that is to end is the one that the device is at.
        holds: bool,
        /// What the ended message's run was closed as.
        closed_as: Option<i16>,
        /// The device is sending nothing, and the claim's lease is not older than the newest that it sent under.
        free: Option<bool>,
        /// The claim's message is ready, on this device, and not being sent.
        waiting: bool,
        active: bool,
        expired: bool,
        suppressed: bool,
        attempt: Option<i32>,
        failures: Option<i16>,
        due_at: Option<i64>,
        address: Option<String>,
        locale: Option<String>,
        zone: Option<String>,
        variables: Option<String>,
    }
}

impl Facts {
    fn decide(self, step: &Step<'_>) -> Result<Stepped> {
        let ended = match step.end {
            Some((_, end)) if self.holds => {
                let status = rows::SettleSql::from(end).status;
                // What would be pending again in a run that was closed meanwhile is closed with it.
                Some(if status < code::PROCESSING { self.closed_as.unwrap_or(status) } else { status })
            }
            _ => None,
        };
        let free = if step.end.is_some() { ended.is_some() } else { self.free.unwrap_or(false) };
        let begun = step.claim.map(|(_, claim)| self.begin(claim.message, free)).transpose()?;
        Ok(Stepped { ended, begun })
    }

    fn begin(self, message: MessageId, free: bool) -> Result<Begun> {
        Ok(match self {
            Self { waiting: false, .. } => Begun::Gone,
            Self { active: false, .. } => Begun::Inactive,
            Self { expired: true, .. } => Begun::Expired,
            Self { suppressed: true, .. } => Begun::Suppressed,
            _ if !free => Begun::DeviceBusy,
            Self {
                attempt: Some(attempt),
                failures: Some(failures),
                due_at: Some(due_at),
                address: Some(address),
                locale,
                zone,
                variables: Some(variables),
                ..
            } => {
                let attempt = attempt.saturating_add(1);
                let work = rows::WorkSql { id: message.0, attempt, failures, due_at, address, locale, zone, variables };
                Begun::Started(Box::new(work.read()?))
            }
            _ => return Err(rows::broken("a message without its contact")),
        })
    }
}

/// Says what becomes of each step, in their order.
async fn decide(lite: &Sqlite, tx: &mut Tx, steps: &[Step<'_>], now: Time) -> Result<Vec<Stepped>> {
    let asked = steps.iter().map(|s| {
        let end = s.end.map(|(_, end)| (end.message.0, end.token, end.attempt));
        let claim = s.claim.map(|(_, claim)| (claim.message.0, claim.token));
        let (ends, end_token, end_attempt) = end.map_or((None, None, None), |(m, t, a)| (Some(m), Some(t), Some(a)));
        let (begins, token) = claim.unzip();
        (s.device.0, ends, end_token, end_attempt, begins, token)
    });
    let found: Vec<Facts> = lite
        .rows(
            "SELECT coalesce(f.message_id = s.ends AND f.token = s.end_token AND f.attempt = s.end_attempt, 0) AS holds,
                    er.closed_as,
                    f.message_id IS NULL AND max(coalesce(f.token, 0), coalesce(p.token, 0)) <= s.token AS free,
                    coalesce(m.status = 0 AND m.device_no = s.device_no AND f.message_id IS NOT m.id, 0) AS waiting,
                    coalesce(r.active, 0) AS active, coalesce(r.expires_at <= $2, 0) AS expired,
                    EXISTS (SELECT 1 FROM suppressions x
                            WHERE x.address = k.address AND x.channel IN ('', d.channel)) AS suppressed,
                    m.attempt, m.failures, m.due_at, k.address, k.locale, k.zone, k.variables
             FROM (SELECT key AS pos, value ->> 0 AS device_no, value ->> 1 AS ends, value ->> 2 AS end_token,
                          value ->> 3 AS end_attempt, value ->> 4 AS begins, value ->> 5 AS token
                   FROM json_each($1)) AS s
             LEFT JOIN in_flight f ON f.device_no = s.device_no
             LEFT JOIN device_state p ON p.device_no = s.device_no
             LEFT JOIN runs er ON er.key = s.ends >> 32
             LEFT JOIN messages m ON m.id = s.begins
             LEFT JOIN runs r ON r.key = m.id >> 32
             LEFT JOIN contacts k ON k.audience_no = r.audience_no AND k.no = m.id & 4294967295
             LEFT JOIN devices d ON d.no = m.device_no
             ORDER BY s.pos",
        )
        .bind(list(asked)?)
        .bind(now.as_ms())
        .fetch_all(&mut **tx)
        .await?;
    steps.iter().zip(found).map(|(step, facts)| facts.decide(step)).collect()
}

/// What devices are sending after their steps.
#[derive(Default)]
struct Turns {
    /// Rows of `in_flight`: `(device, message, token, attempt, template, delay, sender)`.
    rows: Vec<(i32, Option<i64>, i64, u32, i32, i32, i32)>,
    /// Devices that send nothing, and whose token goes into `device_state` with their pace.
    paced: Vec<i32>,
}

impl Turns {
    fn begins(&mut self, claim: &Claim, attempt: u32) {
        let v = claim.versions;
        let message = Some(claim.message.0);
        self.rows.push((claim.device.0, message, claim.token, attempt, v.template.0, v.delay.0, v.sender.0));
    }

    fn ends(&mut self, end: &Settlement) {
        if end.pace.as_ref().is_some_and(|p| p.device == end.device && p.token >= end.token) {
            self.paced.push(end.device.0);
        } else {
            let v = end.versions;
            self.rows.push((end.device.0, None, end.token, end.attempt, v.template.0, v.delay.0, v.sender.0));
        }
    }

    async fn write(&self, lite: &Sqlite, tx: &mut Tx, host: HostId, now: Time) -> Result<()> {
        if !self.rows.is_empty() {
            lite.sql(
                "INSERT OR REPLACE INTO in_flight
                     (device_no, message_id, token, attempt, template_no, delay_no, sender_no, host_id, started_at)
                 SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, $2, $3
                 FROM json_each($1)",
            )
            .bind(rows::to_json(&self.rows)?)
            .bind(host.0)
            .bind(now.as_ms())
            .execute(&mut **tx)
            .await?;
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

/// Writes the ends of attempts into their messages.
async fn end_attempts(lite: &Sqlite, tx: &mut Tx, ended: &[(&Settlement, i16)]) -> Result<()> {
    if ended.is_empty() {
        return Ok(());
    }
    let columns = ended.iter().map(|(s, status)| {
        let end = rows::SettleSql::from(*s);
        let v = s.versions;
        let finished_at = (*status > code::PROCESSING).then_some(s.finished_at.as_ms());
        (
            (s.message.0, *status, end.due_at, s.attempt, end.counts, u8::from(end.released)),
            (v.template.0, v.delay.0, v.sender.0, s.started_at.as_ms(), finished_at),
            (end.provider_id, end.reason_code, end.reason_detail),
        )
    });
    let done = lite
        .sql(
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
             FROM (SELECT value ->> '$[0][0]' AS id, value ->> '$[0][1]' AS status, value ->> '$[0][2]' AS due_at,
                          value ->> '$[0][3]' AS attempt, value ->> '$[0][4]' AS counts,
                          value ->> '$[0][5]' AS released, value ->> '$[1][0]' AS template_no,
                          value ->> '$[1][1]' AS delay_no, value ->> '$[1][2]' AS sender_no,
                          value ->> '$[1][3]' AS started_at, value ->> '$[1][4]' AS finished_at,
                          value ->> '$[2][0]' AS provider_id, value ->> '$[2][1]' AS reason_code,
                          value ->> '$[2][2]' AS reason_detail
                   FROM json_each($1)) AS s
             WHERE messages.id = s.id AND +messages.status = 0",
        )
        .bind(list(columns)?)
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == u64::try_from(ended.len()).unwrap_or(u64::MAX) {
        Ok(())
    } else {
        Err(rows::broken("a message in flight that is not pending"))
    }
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
async fn advance_enrolments(lite: &Sqlite, tx: &mut Tx, ended: &[(&Settlement, i16)]) -> Result<()> {
    let steps = ended.iter().filter_map(|(s, _)| {
        let to = rows::AdvanceSql::new(s.message, s.sequence.as_ref()?);
        let steps = i32::from(to.status == EnrolmentStatus::Waiting);
        Some((to.sequence_no, to.contact_no, to.step, to.status.code(), steps, to.due_at, to.exit_reason))
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

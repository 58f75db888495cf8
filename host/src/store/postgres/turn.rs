//! Turns: attempts end and others begin, in one statement for every device of a group. In the same transaction everything
//! else that follows from an end.
//!
//! What is pending is changed elsewhere too (closed, deferred, moved to another device), and those statements must not
//! touch a message that is being sent, which `messages` alone does not tell. So who begins messages holds its runs'
//! advisory locks, shared, and who changes pending ones holds them alone ([`still_runs`]); both take them in a statement
//! before, because a statement sees what was committed when it began.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::consent::suppress_in;
use super::devices::save_paces_in;
use super::receipts::expect_in;
use super::turns::{Step, groups, has_more};
use super::*;
use crate::message::{Work, code};
use crate::sequence::EnrolmentStatus;

/// The class of the runs' advisory locks; the second key is the run's.
macro_rules! run_locks {
    () => {
        "7201"
    };
}

/// That a pending message is not being sent: only under its run's lock.
macro_rules! not_in_flight {
    ($message:literal) => {
        concat!(
            "NOT EXISTS (SELECT FROM in_flight f WHERE f.device_no = ",
            $message,
            ".device_no AND f.message_id = ",
            $message,
            ".id)"
        )
    };
}

pub(super) use not_in_flight;

/// Keeps messages of these runs from being begun until the transaction ends.
pub(super) async fn still_runs(pg: &Postgres, tx: &mut Tx, runs: impl IntoIterator<Item = RunKey>) -> Result<()> {
    pg.sql(concat!("SELECT pg_advisory_xact_lock(", run_locks!(), ", key) FROM unnest($1::int[]) AS r (key)"))
        .bind(keys(runs))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Each run's key once, in the order in which everybody takes their locks.
fn keys(runs: impl IntoIterator<Item = RunKey>) -> Vec<i32> {
    runs.into_iter().map(|run| run.0).collect::<BTreeSet<_>>().into_iter().collect()
}

/// [`still_runs`] for all steps of these sequences.
pub(super) async fn still_sequences(pg: &Postgres, tx: &mut Tx, sequences: &[i32]) -> Result<()> {
    let keys: Vec<i32> =
        pg.scalar("SELECT key FROM runs WHERE sequence_no = ANY($1)").bind(sequences).fetch_all(&mut **tx).await?;
    still_runs(pg, tx, keys.into_iter().map(RunKey)).await
}

/// What became of a step.
#[derive(Default)]
struct Stepped {
    ended: bool,
    work: Option<Work>,
}

pub(super) async fn turn(
    pg: &Postgres,
    host: HostId,
    ends: &[Settlement],
    claims: &[Claim],
    now: Time,
) -> Result<Turned> {
    let mut applied = vec![false; ends.len()];
    let mut started: HashMap<usize, Work> = HashMap::new();
    for steps in groups(ends, claims) {
        let done = repeating(|| step(pg, host, &steps, now)).await?;
        for (step, stepped) in steps.iter().zip(done) {
            if let Some(applied) = step.end.and_then(|(place, _)| applied.get_mut(place)) {
                *applied = stepped.ended;
            }
            if let (Some((place, _)), Some(work)) = (step.claim, stepped.work) {
                started.insert(place, work);
            }
        }
    }
    let left: Vec<&Claim> =
        claims.iter().enumerate().filter(|(place, _)| !started.contains_key(place)).map(|(_, claim)| claim).collect();
    let mut refused = if left.is_empty() { Vec::new() } else { refuse(pg, &left, now).await? }.into_iter();
    let begun = (0..claims.len()).map(|place| match started.remove(&place) {
        Some(work) => Begun::Started(Box::new(work)),
        None => refused.next().unwrap_or(Begun::Gone),
    });
    Ok(Turned { applied, begun: begun.collect() })
}

/// One group, in one transaction.
async fn step(pg: &Postgres, host: HostId, steps: &[Step<'_>], now: Time) -> Result<Vec<Stepped>> {
    let more = steps.iter().any(|s| s.end.is_some_and(|(_, end)| has_more(end)));
    let begins = steps.iter().any(|s| s.claim.is_some());
    if !more && !begins {
        return statement(pg, &pg.pool, host, steps, now).await;
    }
    let mut tx = pg.begin().await?;
    if begins {
        pg.sql(concat!(
            "SELECT pg_advisory_xact_lock_shared(",
            run_locks!(),
            ", key) FROM unnest($1::int[]) AS r (key)"
        ))
        .bind(keys(steps.iter().filter_map(|s| Some(s.claim?.1.message.run()))))
        .execute(&mut *tx)
        .await?;
    }
    let stepped = statement(pg, &mut *tx, host, steps, now).await?;
    if more {
        let ended: Vec<&Settlement> = steps
            .iter()
            .zip(&stepped)
            .filter(|(_, done)| done.ended)
            .filter_map(|(step, _)| Some(step.end?.1))
            .collect();
        keep_attempts(pg, &mut tx, &ended).await?;
        if ended.iter().any(|s| s.pace.is_some()) {
            save_paces_in(pg, &mut tx, ended.iter().filter_map(|s| s.pace.as_ref())).await?;
        }
        let steps = ended.iter().filter_map(|s| Some(rows::AdvanceSql::new(s.message, s.sequence.as_ref()?)));
        advance_enrolments(pg, &mut tx, &steps.collect::<Vec<_>>()).await?;
        let expected: Vec<_> = ended.iter().filter_map(|s| Some((s.message, s.receipt?))).collect();
        expect_in(pg, &mut tx, &expected).await?;
        let suppress: Vec<_> = ended.iter().filter_map(|s| Some((s.suppress.as_ref()?, s.finished_at))).collect();
        if !suppress.is_empty() {
            suppress_in(pg, &mut tx, &suppress).await?;
        }
    }
    pg.commit(tx).await?;
    Ok(stepped)
}

from_row! {
    struct TurnSql {
        device_no: i32,
        ended: bool,
        started: bool,
        id: Option<i64>,
        attempt: Option<i32>,
        failures: Option<i16>,
        due_at: Option<i64>,
        address: Option<String>,
        locale: Option<String>,
        zone: Option<String>,
        variables: Option<String>,
    }
}

impl TurnSql {
    fn read(self) -> Result<Stepped> {
        let work = match self {
            Self {
                started: true,
                id: Some(id),
                attempt: Some(attempt),
                failures: Some(failures),
                due_at: Some(due_at),
                address: Some(address),
                locale,
                zone,
                variables: Some(variables),
                ..
            } => Some(rows::WorkSql { id, attempt, failures, due_at, address, locale, zone, variables }.read()?),
            _ => None,
        };
        Ok(Stepped { ended: self.ended, work })
    }
}

/// The hot statement. In the steps' order.
async fn statement<'e>(
    pg: &Postgres,
    executor: impl sqlx::Executor<'e, Database = sqlx::Postgres>,
    host: HostId,
    steps: &[Step<'_>],
    now: Time,
) -> Result<Vec<Stepped>> {
    let messages =
        steps.iter().flat_map(|s| [s.end.map(|(_, end)| end.message), s.claim.map(|(_, claim)| claim.message)]);
    let runs = keys(messages.flatten().map(MessageId::run));
    let ends: Vec<Option<rows::SettleSql<'_>>> =
        steps.iter().map(|s| s.end.map(|(_, end)| rows::SettleSql::from(end))).collect();
    macro_rules! of_end {
        ($end:ident => $value:expr) => {
            steps.iter().map(|s| s.end.map(|(_, $end)| $value)).collect::<Vec<_>>()
        };
    }
    macro_rules! of_outcome {
        ($end:ident => $value:expr) => {
            ends.iter().map(|e| e.as_ref().and_then(|$end| $value)).collect::<Vec<_>>()
        };
    }
    macro_rules! of_claim {
        ($claim:ident => $value:expr) => {
            steps.iter().map(|s| s.claim.map(|(_, $claim)| $value)).collect::<Vec<_>>()
        };
    }
    // A device's row goes from the ended message to the begun one in one change, and that change carries all conditions.
    // The row may change hands while this waits for it, and with it the message that is to begin, of which only the state
    // before is known: so a device begins only what it was seen idle for. Its saved pace counts where it begins its first
    // message under a lease; with an end comes the pace that has just been computed.
    // What would be pending again in a run that was closed meanwhile is closed with it.
    // It is written so that no plan can be slow, whatever the planner knows about the tables: each row is passed on
    // rather than joined again, and the contact is looked up on its own (LATERAL, LIMIT), by both parts of its key.
    let found: Vec<TurnSql> = pg
        .rows(
            "WITH run AS MATERIALIZED (
                 SELECT key, audience_no, closed_as, active AND (expires_at IS NULL OR expires_at > $24) AS sends
                 FROM runs WHERE key = ANY($1)),
             step AS MATERIALIZED (
                 SELECT n.*, ended.closed_as, s.message_id IS NULL AS idle, s.token AS seen_token,
                        s.attempt AS seen_attempt, s.started_at AS seen_at, m.attempt + 1 AS next_attempt, m.failures,
                        m.due_at AS waits_since, k.address, k.locale, k.zone, k.variables,
                        coalesce(m.status = 0 AND m.device_no = n.device_no AND r.sends AND coalesce(p.next_at <= $27, TRUE)
                            AND NOT EXISTS (SELECT FROM suppressions s
                                            WHERE s.address = k.address AND s.channel IN ('', n.channel)), FALSE) AS may_start
                 FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::smallint[], $7::bigint[], $8::smallint[],
                             $9::bool[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::int[],
                             $16::int[], $17::int[], $18::bigint[], $19::bigint[], $20::text[], $21::int[], $22::int[],
                             $23::int[])
                      AS n (device_no, end_id, end_token, end_attempt, status, due_at, counts, released, started_at,
                            finished_at, provider_id, reason_code, reason_detail, end_template, end_delay, end_sender,
                            next_id, token, channel, template_no, delay_no, sender_no)
                 LEFT JOIN in_flight s ON s.device_no = CASE WHEN n.end_id IS NULL THEN n.device_no END
                 LEFT JOIN LATERAL (SELECT next_at FROM device_state p
                                    WHERE p.device_no = n.device_no AND n.end_id IS NULL
                                    LIMIT 1) p ON TRUE
                 LEFT JOIN messages m ON m.id = n.next_id
                 LEFT JOIN run r ON r.key = (n.next_id >> 32)::int
                 LEFT JOIN run ended ON ended.key = (n.end_id >> 32)::int
                 LEFT JOIN LATERAL (SELECT * FROM contacts k
                                    WHERE k.audience_no = r.audience_no AND k.no = (n.next_id & 4294967295)::int
                                    LIMIT 1) k ON TRUE),
             turned AS (
                 UPDATE in_flight f SET
                     message_id = CASE WHEN t.may_start THEN t.next_id END,
                     token = CASE WHEN t.may_start THEN t.token ELSE f.token END,
                     attempt = CASE WHEN t.may_start THEN t.next_attempt ELSE f.attempt END,
                     started_at = $24, host_id = $25, template_no = t.template_no, delay_no = t.delay_no,
                     sender_no = t.sender_no
                 FROM step t
                 WHERE f.device_no = t.device_no
                   AND CASE WHEN t.end_id IS NULL
                            THEN t.may_start AND f.message_id IS NULL AND f.token <= t.token
                                 AND t.idle AND f.token = t.seen_token AND f.attempt = t.seen_attempt
                                 AND f.started_at = t.seen_at
                            ELSE f.message_id = t.end_id AND f.token = t.end_token AND f.attempt = t.end_attempt END
                 RETURNING t.*),
             done AS (
                 UPDATE messages m SET
                     status = CASE WHEN t.status < 2 THEN coalesce(t.closed_as, t.status) ELSE t.status END,
                     due_at = coalesce(t.due_at, m.due_at),
                     attempt = CASE WHEN t.released THEN m.attempt ELSE t.end_attempt END,
                     failures = least(m.failures + t.counts, 32767),
                     template_no = CASE WHEN t.released THEN m.template_no ELSE t.end_template END,
                     delay_no = CASE WHEN t.released THEN m.delay_no ELSE t.end_delay END,
                     sender_no = CASE WHEN t.released THEN m.sender_no ELSE t.end_sender END,
                     started_at = CASE WHEN t.released THEN m.started_at ELSE t.started_at END,
                     finished_at = CASE WHEN t.status < 2 AND t.closed_as IS NULL THEN NULL ELSE t.finished_at END,
                     provider_id = t.provider_id,
                     reason_code = CASE WHEN t.released THEN m.reason_code ELSE t.reason_code END,
                     reason_detail = CASE WHEN t.released THEN m.reason_detail ELSE t.reason_detail END
                 FROM turned t
                 WHERE m.id = t.end_id AND m.status = 0
                 RETURNING m.id, m.status),
             counted AS (
                 INSERT INTO run_counts AS c
                     (run_key, shard, sent, delivered, failed, unknown, suppressed, expired, cancelled)
                 SELECT (id >> 32)::int, $26, count(*) FILTER (WHERE status = 3), count(*) FILTER (WHERE status = 4),
                        count(*) FILTER (WHERE status = 6), count(*) FILTER (WHERE status = 7),
                        count(*) FILTER (WHERE status = 8), count(*) FILTER (WHERE status = 9),
                        count(*) FILTER (WHERE status = 10)
                 FROM done WHERE status > 2 GROUP BY 1 ORDER BY 1
                 ON CONFLICT (run_key, shard) DO UPDATE SET
                     sent = c.sent + excluded.sent, delivered = c.delivered + excluded.delivered,
                     failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown,
                     suppressed = c.suppressed + excluded.suppressed, expired = c.expired + excluded.expired,
                     cancelled = c.cancelled + excluded.cancelled)
             SELECT device_no, coalesce(end_id IN (SELECT id FROM done), FALSE) AS ended, may_start AS started, next_id AS id,
                    next_attempt AS attempt, failures, waits_since AS due_at, address, locale, zone, variables
             FROM turned",
        )
        .bind(&runs)
        .bind(steps.iter().map(|s| s.device.0).collect::<Vec<_>>())
        .bind(of_end!(e => e.message.0))
        .bind(of_end!(e => e.token))
        .bind(of_end!(e => rows::to_i32(e.attempt)))
        .bind(of_outcome!(e => Some(e.status)))
        .bind(of_outcome!(e => e.due_at))
        .bind(of_outcome!(e => Some(e.counts)))
        .bind(of_outcome!(e => Some(e.released)))
        .bind(of_end!(e => e.started_at.as_ms()))
        .bind(of_end!(e => e.finished_at.as_ms()))
        .bind(of_outcome!(e => e.provider_id))
        .bind(of_outcome!(e => e.reason_code))
        .bind(of_outcome!(e => e.reason_detail))
        .bind(of_end!(e => e.versions.template.0))
        .bind(of_end!(e => e.versions.delay.0))
        .bind(of_end!(e => e.versions.sender.0))
        .bind(of_claim!(c => c.message.0))
        .bind(of_claim!(c => c.token))
        .bind(of_claim!(c => c.channel.as_str()))
        .bind(of_claim!(c => c.versions.template.0))
        .bind(of_claim!(c => c.versions.delay.0))
        .bind(of_claim!(c => c.versions.sender.0))
        .bind(now.as_ms())
        .bind(host.0)
        .bind(pg.shard())
        .bind(Claim::may_begin_up_to(steps.iter().filter_map(|s| Some(s.claim?.1.uncertainty)), now).as_ms())
        .fetch_all(executor)
        .await?;
    let mut by_device: HashMap<i32, TurnSql> = found.into_iter().map(|row| (row.device_no, row)).collect();
    steps.iter().map(|s| by_device.remove(&s.device.0).map_or_else(|| Ok(Stepped::default()), TurnSql::read)).collect()
}

from_row! {
    /// Why a claim was not taken.
    struct Refusal {
        waiting: bool,
        active: bool,
        sending: bool,
        expired: bool,
        suppressed: bool,
        /// When the device may send again, when that is later.
        next_at: Option<i64>,
    }
}

/// Says why these claims were not taken, and makes those final that must not be sent at all. In the claims' order.
async fn refuse(pg: &Postgres, claims: &[&Claim], now: Time) -> Result<Vec<Begun>> {
    let ids: Vec<i64> = claims.iter().map(|c| c.message.0).collect();
    let devices: Vec<i32> = claims.iter().map(|c| c.device.0).collect();
    let refusals: Vec<Refusal> = pg
        .rows(
            "SELECT coalesce(m.status = 0 AND m.device_no = c.device_no, FALSE) AS waiting,
                    coalesce(r.active, FALSE) AS active, coalesce(f.message_id = m.id, FALSE) AS sending, coalesce(r.expires_at <= $3, FALSE) AS expired,
                    EXISTS (SELECT FROM suppressions s
                            WHERE s.address = k.address AND s.channel IN ('', c.channel)) AS suppressed, p.next_at
             FROM unnest($1::bigint[], $2::int[], $4::text[]) WITH ORDINALITY AS c (id, device_no, channel, pos)
             LEFT JOIN messages m ON m.id = c.id
             LEFT JOIN runs r ON r.key = (c.id >> 32)::int
             LEFT JOIN LATERAL (SELECT * FROM contacts k
                                WHERE k.audience_no = r.audience_no AND k.no = (c.id & 4294967295)::int
                                LIMIT 1) k ON TRUE
             LEFT JOIN in_flight f ON f.device_no = c.device_no
             LEFT JOIN device_state p ON p.device_no = c.device_no AND p.next_at > $5
             ORDER BY c.pos",
        )
        .bind(&ids)
        .bind(&devices)
        .bind(now.as_ms())
        .bind(claims.iter().map(|c| c.channel.as_str()).collect::<Vec<_>>())
        .bind(Claim::may_begin_up_to(claims.iter().map(|c| c.uncertainty), now).as_ms())
        .fetch_all(&pg.pool)
        .await?;
    let mut answers: Vec<Begun> = refusals
        .iter()
        .map(|r| match r {
            Refusal { waiting: false, .. } => Begun::Gone,
            Refusal { active: false, .. } => Begun::Inactive,
            Refusal { sending: true, .. } => Begun::DeviceBusy,
            Refusal { expired: true, .. } => Begun::Expired,
            Refusal { suppressed: true, .. } => Begun::Suppressed,
            Refusal { next_at: Some(ms), .. } => Begun::TooSoon(Time::from_ms(*ms)),
            _ => Begun::DeviceBusy,
        })
        .collect();
    let mut last = Vec::new();
    for (claim, answer) in claims.iter().zip(&answers) {
        match answer {
            Begun::Suppressed => last.push((claim.message.0, claim.device.0, code::SUPPRESSED)),
            Begun::Expired => last.push((claim.message.0, claim.device.0, code::EXPIRED)),
            _ => {}
        }
    }
    if !last.is_empty() {
        last.sort_unstable();
        last.dedup();
        let done = end_unsent(pg, &last, now).await?;
        for (claim, answer) in claims.iter().zip(&mut answers) {
            if matches!(answer, Begun::Suppressed | Begun::Expired) && !done.contains(&claim.message.0) {
                *answer = Begun::Gone;
            }
        }
    }
    Ok(answers)
}

/// Makes ready messages final without a send: `(message, device, code)`. Returns those that were.
async fn end_unsent(pg: &Postgres, messages: &[(i64, i32, i16)], now: Time) -> Result<HashSet<i64>> {
    repeating(|| async {
        let mut tx = pg.begin().await?;
        still_runs(pg, &mut tx, messages.iter().map(|(id, ..)| MessageId(*id).run())).await?;
        let done: Vec<i64> = pg
            .scalar(concat!(
                "WITH done AS (
                     UPDATE messages m SET status = n.code, finished_at = $4
                     FROM unnest($1::bigint[], $2::int[], $3::smallint[]) AS n (id, device_no, code)
                     WHERE m.id = n.id AND m.status = 0 AND m.device_no = n.device_no AND ",
                not_in_flight!("m"),
                " RETURNING m.id, m.status),
                 counted AS (
                     INSERT INTO run_counts AS c (run_key, shard, suppressed, expired)
                     SELECT (id >> 32)::int, $5, count(*) FILTER (WHERE status = 8), count(*) FILTER (WHERE status = 9)
                     FROM done GROUP BY 1 ORDER BY 1
                     ON CONFLICT (run_key, shard) DO UPDATE
                         SET suppressed = c.suppressed + excluded.suppressed, expired = c.expired + excluded.expired),
                 exited AS (
                     UPDATE enrolments e SET status = 3, exit_reason = 'suppressed'
                     FROM done m JOIN runs r ON r.key = (m.id >> 32)::int
                     WHERE m.status = 8 AND e.sequence_no = r.sequence_no AND e.step = r.step AND e.status = 1
                       AND e.contact_no = (m.id & 4294967295)::int)
                 SELECT id FROM done"
            ))
            .bind(messages.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
            .bind(messages.iter().map(|(_, device, _)| *device).collect::<Vec<_>>())
            .bind(messages.iter().map(|(.., code)| *code).collect::<Vec<_>>())
            .bind(now.as_ms())
            .bind(pg.shard())
            .fetch_all(&mut *tx)
            .await?;
        pg.commit(tx).await?;
        Ok(done.into_iter().collect())
    })
    .await
}

/// Writes a row for each attempt that was not a clean send.
async fn keep_attempts(pg: &Postgres, tx: &mut Tx, batch: &[&Settlement]) -> Result<()> {
    let ended: Vec<(&Settlement, &str, rows::SettleSql<'_>)> = batch
        .iter()
        .filter_map(|s| Some((*s, rows::attempt_outcome(&s.outcome)?, rows::SettleSql::from(*s))))
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    pg.sql(
        "INSERT INTO attempts (message_id, attempt, device_no, outcome, reason_code, reason_detail, started_at, finished_at,
                               provider_id, template_no, delay_no, sender_no)
         SELECT n.id, n.attempt, n.device_no, n.outcome, n.reason_code, n.reason_detail, n.started_at, n.finished_at,
                m.provider_id, m.template_no, m.delay_no, m.sender_no
         FROM unnest($1::bigint[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
              AS n (id, attempt, device_no, outcome, reason_code, reason_detail, started_at, finished_at)
         JOIN messages m ON m.id = n.id
         ON CONFLICT (message_id, attempt) DO NOTHING",
    )
    .bind(ended.iter().map(|(s, ..)| s.message.0).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| rows::to_i32(s.attempt)).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| s.device.0).collect::<Vec<_>>())
    .bind(ended.iter().map(|(_, outcome, _)| *outcome).collect::<Vec<_>>())
    .bind(ended.iter().map(|(.., e)| e.reason_code).collect::<Vec<_>>())
    .bind(ended.iter().map(|(.., e)| e.reason_detail).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| s.started_at.as_ms()).collect::<Vec<_>>())
    .bind(ended.iter().map(|(s, ..)| s.finished_at.as_ms()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Moves the enrolments that still stand at the step of their message.
pub(super) async fn advance_enrolments(pg: &Postgres, tx: &mut Tx, steps: &[rows::AdvanceSql<'_>]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    pg.sql(
        "UPDATE enrolments e SET status = a.status, step = e.step + a.steps, due_at = coalesce(a.due_at, e.due_at),
                exit_reason = a.exit_reason
         FROM unnest($1::int[], $2::int[], $3::int[], $4::smallint[], $5::int[], $6::bigint[], $7::text[])
              AS a (sequence_no, contact_no, step, status, steps, due_at, exit_reason)
         WHERE e.sequence_no = a.sequence_no AND e.contact_no = a.contact_no AND e.step = a.step AND e.status = $8",
    )
    .bind(steps.iter().map(|a| a.sequence_no).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.contact_no).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.step).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.status.code()).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| i32::from(a.status == EnrolmentStatus::Waiting)).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.due_at).collect::<Vec<_>>())
    .bind(steps.iter().map(|a| a.exit_reason).collect::<Vec<_>>())
    .bind(EnrolmentStatus::InStep.code())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

//! Messages, settlements and attempts.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{broken, device_id, digests, from_json, reason, time, to_i32, to_u32};
use crate::clock::Time;
use crate::id::{DeviceNo, HostId, MessageId, RunKey, VersionNo};
use crate::message::{
    AdvanceTo, AttemptRow, EnrolmentAdvance, InFlight, MessageRow, MessageStatus, Reason, Recipient, Settled,
    Settlement, Versions, Work, code,
};
use crate::resolution::{Resolution, ResolveAs, Resolved};
use crate::sequence::EnrolmentStatus;
use crate::store::Result;

from_row! {
    /// A message with the contact it goes to, as `begin` reads it.
    #[derive(Debug)]
    #[allow(missing_docs)] // The columns of the query.
    pub struct WorkSql {
        pub id: i64,
        pub attempt: i32,
        pub failures: i16,
        pub due_at: i64,
        pub address: String,
        pub locale: Option<String>,
        pub zone: Option<String>,
        pub variables: String,
    }
}

impl WorkSql {
    /// What a worker needs to send it.
    pub fn read(self) -> Result<Work> {
        Ok(Work {
            message: MessageId(self.id),
            attempt: to_u32(self.attempt.into()),
            failures: to_u32(self.failures.into()),
            recipient: Recipient {
                address: self.address,
                locale: self.locale,
                zone: self.zone,
                variables: from_json("a contact's variables", &self.variables)?,
            },
            due_at: Time::from_ms(self.due_at),
        })
    }
}

/// A settlement as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SettleSql<'a> {
    /// The code that the message gets (unless its run was closed meanwhile).
    pub status: i16,
    /// When it may go again; `None` leaves the column.
    pub due_at: Option<i64>,
    /// Added to `failures`.
    pub counts: i16,
    /// Given back untouched: the take is undone.
    pub released: bool,
    pub provider_id: Option<&'a str>,
    pub reason_code: Option<&'a str>,
    pub reason_detail: Option<&'a str>,
}

impl<'a> From<&'a Settlement> for SettleSql<'a> {
    fn from(settlement: &'a Settlement) -> Self {
        Self::of(&settlement.outcome, settlement.finished_at)
    }
}

impl<'a> SettleSql<'a> {
    /// The columns of an outcome at this time.
    pub fn of(outcome: &'a Settled, finished_at: Time) -> Self {
        let plain = |status| Self {
            status,
            due_at: None,
            counts: 0,
            released: false,
            provider_id: None,
            reason_code: None,
            reason_detail: None,
        };
        let because = |status, reason: &'a Reason| Self {
            reason_code: Some(&reason.code),
            reason_detail: Some(&reason.detail),
            ..plain(status)
        };
        match outcome {
            Settled::Sent { provider_id, delivered } => {
                let status = if *delivered { code::DELIVERED } else { code::SENT };
                Self { provider_id: provider_id.as_deref(), ..plain(status) }
            }
            Settled::Failed(reason) => because(code::FAILED, reason),
            Settled::Unknown(reason) => because(code::UNKNOWN, reason),
            Settled::Suppressed => plain(code::SUPPRESSED),
            Settled::Expired => plain(code::EXPIRED),
            Settled::Retry { due_at, counts, reason } => {
                let ready = *due_at <= finished_at;
                let status = if ready { code::READY } else { code::DEFERRED };
                Self { due_at: Some(due_at.as_ms()), counts: i16::from(*counts), ..because(status, reason) }
            }
            Settled::Released => Self { released: true, ..plain(code::READY) },
        }
    }
}

/// What a settlement means for an enrolment, as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AdvanceSql<'a> {
    pub sequence_no: i32,
    pub contact_no: i32,
    /// The step it must stand at.
    pub step: i32,
    /// The status it gets; `Waiting` means for the next step.
    pub status: EnrolmentStatus,
    /// When the next step is due.
    pub due_at: Option<i64>,
    pub exit_reason: Option<&'a str>,
}

impl<'a> AdvanceSql<'a> {
    /// The columns for the enrolment that `message` belongs to.
    pub fn new(message: MessageId, advance: &'a EnrolmentAdvance) -> Self {
        let (status, due_at, exit_reason) = match &advance.to {
            AdvanceTo::NextStep(at) => (EnrolmentStatus::Waiting, Some(at.as_ms()), None),
            AdvanceTo::Completed => (EnrolmentStatus::Completed, None, None),
            AdvanceTo::Exited(reason) => (EnrolmentStatus::Exited, None, Some(reason.as_str())),
        };
        Self {
            sequence_no: advance.sequence.0,
            contact_no: to_i32(message.contact()),
            step: to_i32(advance.step),
            status,
            due_at,
            exit_reason,
        }
    }
}

/// The word in `attempts.outcome` for what an unknown outcome turned out to be; `None` for what resolves nothing.
///
/// Its row stands under the attempt's number with the sign changed: an attempt is resolved once.
pub const fn resolution_outcome(outcome: &Settled) -> Option<&'static str> {
    match ResolveAs::of(outcome) {
        Some(ResolveAs::Sent) => Some("resolved-sent"),
        Some(ResolveAs::Failed) => Some("resolved-failed"),
        Some(ResolveAs::Retry) => Some("resolved-retry"),
        None => None,
    }
}

/// What became of each resolution: those that were applied are `done`; `unknown` are the attempts of messages that were
/// unknown, or still are.
pub fn resolved(
    resolutions: &[Resolution],
    done: &HashSet<MessageId>,
    refused: &HashMap<RunKey, String>,
    unknown: &HashMap<MessageId, u32>,
) -> Vec<Resolved> {
    let mut told = HashSet::new();
    let one = |r: &Resolution| {
        if done.contains(&r.message) && told.insert(r.message) {
            return Resolved::Done;
        }
        match refused.get(&r.message.run()) {
            Some(why) if r.sends_again() => Resolved::Refused(why.clone()),
            _ if r.sends_again() && unknown.get(&r.message) == Some(&r.attempt) && !told.contains(&r.message) => {
                Resolved::Refused("its contact is no longer at this step of the sequence".to_owned())
            }
            _ => Resolved::NotUnknown,
        }
    };
    resolutions.iter().map(one).collect()
}

/// The word in `attempts.outcome`; `None` for an outcome that leaves no row.
pub fn attempt_outcome(outcome: &Settled) -> Option<&'static str> {
    match outcome {
        Settled::Sent { .. } | Settled::Released => None,
        Settled::Failed(_) => Some("failed"),
        Settled::Unknown(_) => Some("unknown"),
        Settled::Suppressed => Some("suppressed"),
        Settled::Expired => Some("expired"),
        Settled::Retry { .. } => Some("retry"),
    }
}

from_row! {
    /// A message that is `processing`, with its server's heartbeat.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct InFlightSql {
        pub id: i64,
        pub device_no: i32,
        pub lease_token: i64,
        pub attempt: i32,
        pub failures: i16,
        pub started_at: i64,
        pub host_id: Uuid,
        pub host_alive: bool,
        pub template_no: i32,
        pub delay_no: i32,
        pub sender_no: i32,
    }
}

impl From<InFlightSql> for InFlight {
    fn from(row: InFlightSql) -> Self {
        Self {
            message: MessageId(row.id),
            device: DeviceNo(row.device_no),
            token: row.lease_token,
            attempt: to_u32(row.attempt.into()),
            failures: to_u32(row.failures.into()),
            started_at: Time::from_ms(row.started_at),
            host: HostId(row.host_id),
            host_alive: row.host_alive,
            versions: Versions {
                template: VersionNo(row.template_no),
                delay: VersionNo(row.delay_no),
                sender: VersionNo(row.sender_no),
            },
        }
    }
}

from_row! {
    /// A message joined with its contact, its device and the digests of its plugin versions.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct MessageSql {
        pub id: i64,
        pub status: i16,
        pub address: String,
        pub device_id: String,
        pub attempt: i32,
        pub failures: i16,
        pub due_at: i64,
        pub started_at: Option<i64>,
        pub finished_at: Option<i64>,
        pub provider_id: Option<String>,
        pub reason_code: Option<String>,
        pub reason_detail: Option<String>,
        pub template: Option<Vec<u8>>,
        pub delay: Option<Vec<u8>>,
        pub sender: Option<Vec<u8>>,
    }
}

impl MessageSql {
    /// The message.
    pub fn read(self) -> Result<MessageRow> {
        Ok(MessageRow {
            id: MessageId(self.id),
            status: MessageStatus::from_code(self.status).ok_or_else(|| broken("a message's status"))?,
            device: device_id(&self.device_id)?,
            attempt: to_u32(self.attempt.into()),
            failures: to_u32(self.failures.into()),
            due_at: (self.status == code::DEFERRED).then_some(Time::from_ms(self.due_at)),
            started_at: time(self.started_at),
            finished_at: time(self.finished_at),
            digests: digests(self.template.as_deref(), self.delay.as_deref(), self.sender.as_deref())?,
            address: self.address,
            provider_id: self.provider_id,
            reason: reason(self.reason_code, self.reason_detail),
        })
    }
}

from_row! {
    /// An attempt joined with its device and the digests of its plugin versions.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct AttemptSql {
        pub attempt: i32,
        pub device_id: String,
        pub outcome: String,
        pub reason_code: Option<String>,
        pub reason_detail: Option<String>,
        pub started_at: i64,
        pub finished_at: i64,
        pub template: Option<Vec<u8>>,
        pub delay: Option<Vec<u8>>,
        pub sender: Option<Vec<u8>>,
    }
}

impl AttemptSql {
    /// The attempt.
    pub fn read(self) -> Result<AttemptRow> {
        Ok(AttemptRow {
            attempt: self.attempt.unsigned_abs(),
            device: device_id(&self.device_id)?,
            outcome: self.outcome,
            reason: reason(self.reason_code, self.reason_detail),
            started_at: Time::from_ms(self.started_at),
            finished_at: Time::from_ms(self.finished_at),
            digests: digests(self.template.as_deref(), self.delay.as_deref(), self.sender.as_deref())?,
        })
    }
}

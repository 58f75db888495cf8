//! The suppression list, sequences and enrolments.

use uuid::Uuid;

use super::{broken, from_json, to_u32};
use crate::clock::Time;
use crate::consent::Suppression;
use crate::id::{AudienceNo, RunKey, SequenceId, SequenceNo};
use crate::sequence::{Enrolment, EnrolmentStatus, Sequence, SequenceStatus};
use crate::store::Result;

from_row! {
    /// A row of `suppressions`.
    #[derive(Debug)]
    #[allow(missing_docs)] // The columns of the query.
    pub struct SuppressionSql {
        pub address: String,
        pub channel: String,
        pub reason: String,
        pub created_at: i64,
    }
}

impl From<SuppressionSql> for Suppression {
    fn from(row: SuppressionSql) -> Self {
        Self {
            address: row.address,
            channel: Some(row.channel).filter(|c| !c.is_empty()),
            reason: row.reason,
            created_at: Time::from_ms(row.created_at),
        }
    }
}

from_row! {
    /// A row of `sequences`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct SequenceSql {
        pub no: i32,
        pub id: Uuid,
        pub spec: String,
        pub status: String,
        pub paused_reason: Option<String>,
        pub audience_no: i32,
        pub created_at: i64,
    }
}

impl SequenceSql {
    /// The sequence with the runs of its steps.
    pub fn read(self, runs: Vec<RunKey>) -> Result<Sequence> {
        Ok(Sequence {
            no: SequenceNo(self.no),
            id: SequenceId(self.id),
            spec: from_json("a sequence", &self.spec)?,
            status: SequenceStatus::parse(&self.status).ok_or_else(|| broken("a sequence's status"))?,
            paused_reason: self.paused_reason,
            audience: AudienceNo(self.audience_no),
            runs,
            created_at: Time::from_ms(self.created_at),
        })
    }
}

from_row! {
    /// An enrolment joined with its contact.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct EnrolmentSql {
        pub contact_no: i32,
        pub address: String,
        pub status: i16,
        pub step: i32,
        pub due_at: i64,
        pub exit_reason: Option<String>,
        pub enrolled_at: i64,
    }
}

impl EnrolmentSql {
    /// The enrolment.
    pub fn read(self) -> Result<Enrolment> {
        let status = EnrolmentStatus::from_code(self.status).ok_or_else(|| broken("an enrolment's status"))?;
        Ok(Enrolment {
            contact: to_u32(self.contact_no.into()),
            address: self.address,
            status,
            step: to_u32(self.step.into()),
            due_at: (status == EnrolmentStatus::Waiting).then_some(Time::from_ms(self.due_at)),
            exit_reason: self.exit_reason,
            enrolled_at: Time::from_ms(self.enrolled_at),
        })
    }
}

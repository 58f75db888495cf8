//! What the API, the dashboard and the command line do, once: each operation validates, writes to the store, adds a line
//! to the audit log and wakes the loops that have work now.

pub mod audiences;
pub mod campaigns;
pub mod devices;
pub mod explain;
pub(crate) mod fields;
pub mod grants;
pub mod health;
pub mod limits;
pub mod messages;
mod plan;
pub mod plugins;
mod pool;
pub mod rates;
pub mod rollouts;
pub mod secrets;
pub mod sequences;
pub mod stats;
pub mod suppressions;
pub mod tokens;
pub mod trials;
pub mod unknown;
pub mod webhooks;

use crate::campaign::{BadField, BadTransition};
use crate::core::Core;
use crate::queue::{QueueError, Wake};
use crate::store::{AuditRow, StoreError};

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// There is no such thing.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for, such as `campaign 0190…`.
        what: String,
    },
    /// What was asked for cannot work; every problem found.
    #[error("{}", list(.0))]
    Invalid(Vec<BadField>),
    /// It was there, and is not kept any more.
    #[error("{0}")]
    Gone(String),
    /// The state that things are in does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// A plugin that cannot be accepted.
    #[error("{detail}")]
    Refused {
        /// Which check refused it, such as `wrong-world`.
        code: String,
        /// What is wrong, and how to mend it.
        detail: String,
        /// Each item of a component that does not fit its world.
        items: Vec<BadField>,
    },
    /// The store or the queue is away: the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// A bug, or a misconfiguration of a server.
    #[error("the operation failed")]
    Internal(#[source] anyhow::Error),
}

fn list(problems: &[BadField]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(source) => {
                tracing::warn!(error = format!("{source:#}"), "the store is unavailable");
                Self::Unavailable("the store cannot be reached now".to_owned())
            }
            StoreError::Exists { .. } | StoreError::Conflict(_) => Self::Conflict(error.to_string()),
            StoreError::Internal(source) => Self::Internal(source.context("the store failed")),
        }
    }
}

impl From<QueueError> for OpError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Unavailable(source) => {
                tracing::warn!(error = format!("{source:#}"), "the queue is unavailable");
                Self::Unavailable("the queue cannot be reached now".to_owned())
            }
            QueueError::Internal(source) => Self::Internal(source.context("the queue failed")),
        }
    }
}

impl From<BadTransition> for OpError {
    fn from(error: BadTransition) -> Self {
        Self::Conflict(error.to_string())
    }
}

impl OpError {
    /// There is no such thing.
    pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { what: format!("{kind} {id}") }
    }

    /// One field that cannot work.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid(vec![BadField::new(field, problem)])
    }
}

/// A result of an operation.
pub type Result<T, E = OpError> = std::result::Result<T, E>;

/// Who does something, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The token's name; `system` for the engine, `cli` for the command line.
    pub name: String,
}

impl Actor {
    /// An actor with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// Writes what was done to the audit log, and wakes the loops.
async fn done(core: &Core, actor: &Actor, action: &str, subject: impl Into<String>, wakes: &[Wake]) -> Result<()> {
    let row = AuditRow {
        at: core.clock.now(),
        actor: actor.name.clone(),
        action: action.to_owned(),
        subject: subject.into(),
    };
    let audited = core.store.audit(&row).await;
    // What was written is in force whether or not its line could be added: the loops are told in any case.
    for wake in wakes {
        core.wake(*wake).await;
    }
    Ok(audited?)
}

/// Fails with every problem that was found, if there is one.
fn check(problems: Vec<BadField>) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(OpError::Invalid(problems)) }
}

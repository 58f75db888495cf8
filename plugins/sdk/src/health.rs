//! What a check of a device is made of: the same requests and answers as a send, ending in a verdict.

pub use crate::bindings::health::exports::carillon::plugin::health::{CheckProgress, CheckStep, Subject, Verdict};
use crate::sending::{Failure, HttpRequest, Outage, Round};

/// A step, and the account as it was.
pub const fn progress(step: CheckStep) -> CheckProgress {
    CheckProgress { step, account_state: None }
}

/// A request, and nothing to remember until its answer comes.
pub const fn ask(request: HttpRequest) -> CheckProgress {
    progress(CheckStep::Request(Round { request, state: String::new() }))
}

/// The end of a check.
pub const fn done(verdict: Verdict) -> CheckProgress {
    progress(CheckStep::Done(verdict))
}

/// The device cannot send now.
pub const fn down(retry_ms: Option<f64>, reason: Failure) -> Verdict {
    Verdict::Down(Outage { retry_ms, reason })
}

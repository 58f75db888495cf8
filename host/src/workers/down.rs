//! A device that was down, when its wait is over: its sender is asked whether it can send again, where it can tell.

use std::time::Duration;

use crate::fleet::Configured;
use crate::health::check;
use crate::id::MessageId;
use crate::plugins::HealthVerdict;
use crate::trial::Side;
use crate::workers::Pool;
use crate::workers::attempt::note_fault;
use crate::workers::session::{Session, UNAVAILABLE};
use crate::workers::verdict::{Consequence, account_blocked, down_for};

/// How long a device that is down is left alone at least, whatever its sender says: its provider is asked each time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Session {
    /// Asks the sender whether the device, which was down, can send again, so that no message has to find that out. How long it
    /// still waits; `None` when it may be given the message, also because nobody can tell.
    ///
    /// The lease is what keeps others from asking meanwhile. Nothing is begun yet, so a server that dies here leaves nothing
    /// behind; and the device was due, so whatever this comes to, no send is earlier than its pace allows.
    pub(super) async fn still_down(
        &mut self,
        pool: &Pool,
        message: MessageId,
        sender: &Configured,
        side: Side,
    ) -> Option<Duration> {
        let core = &pool.core;
        let checked = check(core, sender, side, &self.device, true).await;
        if let (Some(fault), Some(trial)) = (&checked.fault, sender.to_blame(side)) {
            note_fault(core, trial, message, &self.device, fault, None);
        }
        // Whoever has the device by now knows it better.
        if !self.lease.is_valid(core.clock.monotonic()) {
            return Some(Duration::ZERO);
        }
        tracing::debug!(device.id = %self.device.spec.id, verdict = checked.verdict.as_str(), "asked whether a device can send");
        match checked.verdict {
            HealthVerdict::Healthy | HealthVerdict::Unknown(_) => {
                self.pace.down = false;
                self.due_at = core.clock.monotonic();
                // It may have been disabled or put on hold since it was claimed.
                if let Some(device) =
                    pool.sending.fleet.known(std::slice::from_ref(&self.device.spec.id)).into_values().next()
                {
                    self.device = device;
                }
                None
            }
            HealthVerdict::Down(outage) => Some(down_for(outage.retry_ms).max(ASK_AGAIN)),
            HealthVerdict::Blocked(failure) => {
                pool.carry_out(&self.device, Some(Consequence::HoldAccount(account_blocked(failure)))).await;
                Some(UNAVAILABLE)
            }
        }
    }
}

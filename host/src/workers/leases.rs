//! The leases that this server holds, and their renewal.
//!
//! A worker asks [`Leases::holds`] before every byte it sends: validity is measured with the monotonic clock from
//! *before* the claim was sent, so a process that was stopped for longer than a lease finds it out by itself, whatever
//! the queue's clock says.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::Core;
use crate::id::{DeviceId, MessageId};

#[derive(Debug, Clone, Copy)]
struct Held {
    token: i64,
    message: MessageId,
    /// On the monotonic clock.
    valid_until: Duration,
}

/// The leases that this server holds; at most one per device.
#[derive(Default)]
pub struct Leases {
    held: Mutex<HashMap<DeviceId, Held>>,
}

impl Leases {
    /// Notes a lease that is valid until `valid_until` on the monotonic clock.
    pub fn insert(&self, device: DeviceId, token: i64, message: MessageId, valid_until: Duration) {
        self.held.lock().insert(device, Held { token, message, valid_until });
    }

    /// Notes that the holder of a lease goes on to another message.
    pub fn goes_on(&self, device: &DeviceId, token: i64, message: MessageId) {
        if let Some(held) = self.held.lock().get_mut(device).filter(|h| h.token == token) {
            held.message = message;
        }
    }

    /// Forgets a lease.
    pub fn remove(&self, device: &DeviceId, token: i64) {
        let mut held = self.held.lock();
        if held.get(device).is_some_and(|h| h.token == token) {
            held.remove(device);
        }
    }

    /// Whether the lease is certainly still ours at `monotonic_now`.
    pub fn holds(&self, device: &DeviceId, token: i64, monotonic_now: Duration) -> bool {
        self.held.lock().get(device).is_some_and(|h| h.token == token && monotonic_now < h.valid_until)
    }

    /// Whether a worker of this server is at work on the message.
    pub fn works_on(&self, message: MessageId) -> bool {
        self.held.lock().values().any(|h| h.message == message)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extends every lease that has used up a third of its time. A renewal that fails or is refused leaves the lease to run
    /// out: its worker then sends nothing more.
    pub async fn renew(&self, core: &Core) {
        let lease = core.config.lease();
        let margin = lease / 8;
        let asked_at = core.clock.monotonic();
        let due: Vec<_> = {
            let held = self.held.lock();
            held.iter()
                .filter(|(_, h)| h.valid_until.saturating_sub(asked_at) < lease - margin - lease / 3)
                .map(|(device, h)| (device.clone(), h.token))
                .collect()
        };
        if due.is_empty() {
            return;
        }
        match core.queue.renew(&due, lease).await {
            Ok(answers) => {
                let mut held = self.held.lock();
                for ((device, token), renewed) in due.iter().zip(answers) {
                    let Some(h) = held.get_mut(device).filter(|h| h.token == *token) else { continue };
                    if renewed {
                        h.valid_until = asked_at + lease - margin;
                    } else {
                        tracing::warn!(device.id = %device, "a lease was lost while its message was being sent");
                        h.valid_until = Duration::ZERO;
                    }
                }
            }
            Err(error) => tracing::warn!(error = %error, leases = due.len(), "leases could not be renewed"),
        }
    }
}

/// How long after a claim was sent its lease is certainly ours: the lease less a margin for clocks that run differently.
pub fn safe_part(lease: Duration) -> Duration {
    lease - lease / 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunKey;

    #[test]
    fn a_lease_is_ours_until_its_time_or_another_token() {
        let leases = Leases::default();
        let device: DeviceId = "d1".parse().unwrap();
        let message = MessageId::new(RunKey(RunKey::MIN), 1);
        leases.insert(device.clone(), 7, message, Duration::from_secs(5));
        assert!(leases.holds(&device, 7, Duration::from_secs(4)));
        assert!(!leases.holds(&device, 7, Duration::from_secs(5)));
        assert!(!leases.holds(&device, 8, Duration::from_secs(1)));
        leases.remove(&device, 6);
        assert!(leases.works_on(message));
        leases.remove(&device, 7);
        assert!(leases.is_empty());
    }
}

//! The leases that this server holds, and their renewal.
//!
//! A worker asks [`Lease::is_valid`] before every byte it sends: validity is measured with the monotonic clock from
//! *before* the claim was sent, so a process that was stopped for longer than a lease finds it out by itself, whatever
//! the queue's clock says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::Core;
use crate::id::{DeviceId, MessageId};

/// A lease that this server holds, or held: its worker keeps it at hand, so that asking costs no lookup.
#[derive(Debug)]
pub struct Lease {
    token: i64,
    /// The message that is being sent.
    message: AtomicI64,
    /// On the monotonic clock, in microseconds; 0 when it was lost.
    valid_until_us: AtomicU64,
}

impl Lease {
    /// The fencing token.
    pub fn token(&self) -> i64 {
        self.token
    }

    /// Whether the lease is certainly still ours at `monotonic_now`.
    pub fn is_valid(&self, monotonic_now: Duration) -> bool {
        us(monotonic_now) < self.valid_until_us.load(Ordering::Acquire)
    }

    /// Notes that the worker goes on to another message.
    pub fn goes_on(&self, message: MessageId) {
        self.message.store(message.0, Ordering::Release);
    }
}

fn us(monotonic: Duration) -> u64 {
    u64::try_from(monotonic.as_micros()).unwrap_or(u64::MAX)
}

/// The leases that this server holds; at most one per device.
#[derive(Default)]
pub struct Leases {
    held: Mutex<HashMap<DeviceId, Arc<Lease>>>,
}

impl Leases {
    /// Notes a lease that is valid until `valid_until` on the monotonic clock.
    pub fn insert(&self, device: DeviceId, token: i64, message: MessageId, valid_until: Duration) -> Arc<Lease> {
        let lease = Arc::new(Lease {
            token,
            message: AtomicI64::new(message.0),
            valid_until_us: AtomicU64::new(us(valid_until)),
        });
        self.held.lock().insert(device, Arc::clone(&lease));
        lease
    }

    /// Forgets a lease.
    pub fn remove(&self, device: &DeviceId, token: i64) {
        let mut held = self.held.lock();
        if held.get(device).is_some_and(|h| h.token == token) {
            held.remove(device);
        }
    }

    /// Whether a worker of this server is at work on the message.
    pub fn works_on(&self, message: MessageId) -> bool {
        self.held.lock().values().any(|h| h.message.load(Ordering::Acquire) == message.0)
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
        let due: Vec<(DeviceId, Arc<Lease>)> = {
            let held = self.held.lock();
            held.iter()
                .filter(|(_, h)| !h.is_valid(asked_at + lease - margin - lease / 3))
                .map(|(device, h)| (device.clone(), Arc::clone(h)))
                .collect()
        };
        if due.is_empty() {
            return;
        }
        let asked: Vec<(DeviceId, i64)> = due.iter().map(|(device, lease)| (device.clone(), lease.token)).collect();
        match core.queue.renew(&asked, lease).await {
            Ok(answers) => {
                let valid_until = us(asked_at + lease - margin);
                for ((device, held), renewed) in due.iter().zip(answers) {
                    if renewed {
                        held.valid_until_us.store(valid_until, Ordering::Release);
                    } else {
                        // One that was given back meanwhile is refused too; it concerns nobody any more.
                        if self.held.lock().get(device).is_some_and(|h| h.token == held.token) {
                            tracing::warn!(device.id = %device, "a lease was lost while its message was being sent");
                        }
                        held.valid_until_us.store(0, Ordering::Release);
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
    fn a_lease_is_ours_until_its_time() {
        let leases = Leases::default();
        let device: DeviceId = "d1".parse().unwrap();
        let message = MessageId::new(RunKey(RunKey::MIN), 1);
        let lease = leases.insert(device.clone(), 7, message, Duration::from_secs(5));
        assert!(lease.is_valid(Duration::from_secs(4)));
        assert!(!lease.is_valid(Duration::from_secs(5)));
        assert_eq!(lease.token(), 7);
        leases.remove(&device, 6);
        assert!(leases.works_on(message));
        let next = MessageId::new(RunKey(RunKey::MIN), 2);
        lease.goes_on(next);
        assert!(leases.works_on(next) && !leases.works_on(message));
        leases.remove(&device, 7);
        assert!(leases.is_empty());
    }
}

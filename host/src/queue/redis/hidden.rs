//! What this process has hidden on the ready index.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::id::DeviceId;

/// Scores that [`ready`](crate::queue::Queue::ready) gave devices, remembered until their claim or finish changes the
/// index. An entry that is missing is always safe: the device then stays on the index, and a claim in vain mends it.
#[derive(Default)]
pub(super) struct Hidden {
    seen: HashMap<DeviceId, (String, Instant)>,
    sweep_at: usize,
}

impl Hidden {
    pub(super) fn insert(&mut self, device: DeviceId, score: String, lease: Duration) {
        let now = Instant::now();
        // Entries of devices that were never claimed must not pile up.
        if self.seen.len() >= self.sweep_at.max(1024) {
            self.seen.retain(|_, (_, until)| *until > now);
            self.sweep_at = self.seen.len() * 2;
        }
        // Twice the lease, because leases are renewed while a send takes long.
        let until = now.checked_add(lease.saturating_mul(2)).unwrap_or(now);
        self.seen.insert(device, (score, until));
    }

    pub(super) fn contains(&self, device: &DeviceId) -> bool {
        self.seen.contains_key(device)
    }

    pub(super) fn take(&mut self, device: &DeviceId) -> Option<String> {
        self.seen.remove(device).map(|(score, _)| score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_claimed_is_forgotten() {
        let mut hidden = Hidden::default();
        for n in 0..5000 {
            hidden.insert(format!("d{n}").parse().unwrap(), "1".into(), Duration::ZERO);
        }
        assert!(hidden.seen.len() <= 1024);
    }
}

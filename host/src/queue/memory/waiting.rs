//! The messages that wait on one device.

use crate::id::{MessageId, RunKey};

/// Messages in order: by rank, then by id. What waits on a device is a stretch of one run or of a few, so runs are kept
/// once and messages as contact numbers: four bytes each. A device's window bounds how far anything is moved.
#[derive(Default)]
pub(super) struct Waiting {
    /// The last first, so that the front of the queue is the cheap end. None is empty.
    runs: Vec<Run>,
}

/// Messages of one run and rank.
struct Run {
    rank: i64,
    key: RunKey,
    /// The last first.
    contacts: Vec<u32>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(|run| run.contacts.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn contains(&self, message: MessageId) -> bool {
        self.runs.iter().any(|run| run.place(message).is_ok())
    }

    /// Adds a message that is not there; `others` more of its run and rank are likely to follow.
    pub(super) fn insert(&mut self, message: MessageId, rank: i64, others: usize) {
        let (key, contact) = (message.run(), message.contact());
        let place = match self.runs.binary_search_by(|run| (rank, key).cmp(&(run.rank, run.key))) {
            Ok(place) => place,
            Err(place) => {
                // Most devices hold one run: room for four would be wasted on them.
                self.runs.reserve_exact(1);
                self.runs.insert(place, Run { rank, key, contacts: Vec::new() });
                place
            }
        };
        let Some(run) = self.runs.get_mut(place) else { return };
        if let Err(place) = run.place(message) {
            if run.contacts.len() == run.contacts.capacity() {
                run.contacts.reserve_exact((others + 1).max(run.contacts.len() / 8));
            }
            run.contacts.insert(place, contact);
        }
    }

    pub(super) fn pop_first(&mut self) -> Option<(MessageId, i64)> {
        let run = self.runs.last_mut()?;
        let first = (MessageId::new(run.key, run.contacts.pop()?), run.rank);
        self.forget_empty();
        Some(first)
    }

    pub(super) fn remove(&mut self, message: MessageId) {
        for run in &mut self.runs {
            if let Ok(place) = run.place(message) {
                run.contacts.remove(place);
                break;
            }
        }
        self.forget_empty();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = MessageId> {
        self.runs.iter().rev().flat_map(|run| run.contacts.iter().rev().map(|c| MessageId::new(run.key, *c)))
    }

    fn forget_empty(&mut self) {
        if self.runs.iter().any(|run| run.contacts.is_empty()) {
            self.runs.retain(|run| !run.contacts.is_empty());
        }
    }
}

impl Run {
    /// Where the message stands, or would.
    fn place(&self, message: MessageId) -> Result<usize, usize> {
        match message.run() == self.key {
            true => self.contacts.binary_search_by(|c| message.contact().cmp(c)),
            false => Err(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_order_is_that_of_a_sorted_set() {
        let (mut waiting, mut set) = (Waiting::default(), BTreeSet::new());
        let mut random = 1_u64;
        for step in 0..5000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let n = random >> 33;
            let message = MessageId::new(RunKey(RunKey::MIN + (n % 3) as i32), (n / 3 % 50) as u32);
            let rank = (n % 7 % 2) as i64 - 1;
            let known = set.iter().find(|(_, m)| *m == message).copied();
            assert_eq!(waiting.contains(message), known.is_some());
            match (random >> 20) % 5 {
                0 => assert_eq!(waiting.pop_first(), set.pop_first().map(|(rank, m)| (m, rank))),
                1 => {
                    waiting.remove(message);
                    known.map(|known| set.remove(&known));
                }
                _ if known.is_none() => {
                    waiting.insert(message, rank, step % 3);
                    set.insert((rank, message));
                }
                _ => {}
            }
            assert!(waiting.iter().eq(set.iter().map(|(_, m)| *m)), "step {step}");
            assert_eq!((waiting.len(), waiting.is_empty()), (set.len(), set.is_empty()));
        }
    }
}

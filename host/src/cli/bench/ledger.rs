//! What the store says of every message: outcome, order and pace per device, latency.

use std::collections::HashMap;

use super::pacing::{Asked, Pacing, Summary, Times};
use crate::clock::Time;
use crate::id::DeviceId;
use crate::message::{MessageRow, MessageStatus};

/// The messages of a run, added in the order of their ids, which is the order in which a device shall send its own.
pub struct Ledger {
    asked: Asked,
    opened_at: Time,
    devices: HashMap<DeviceId, Sent>,
    pacing: Pacing,
    latency: Times,
    first_begin: Option<Time>,
    last_end: Time,
    rows: u64,
    ended: u64,
    accepted: u64,
    repeated: u64,
    order_violations: u64,
}

/// The last send of a device.
struct Sent {
    began: Time,
    ended: Time,
}

impl Ledger {
    /// Nothing added yet; workers may start at `opened_at`.
    pub fn new(asked: Asked, opened_at: Time) -> anyhow::Result<Self> {
        Ok(Self {
            asked,
            opened_at,
            devices: HashMap::new(),
            pacing: Pacing::new(asked)?,
            latency: Times::new()?,
            first_begin: None,
            last_end: opened_at,
            rows: 0,
            ended: 0,
            accepted: 0,
            repeated: 0,
            order_violations: 0,
        })
    }

    /// Adds a message.
    pub fn add(&mut self, row: &MessageRow) {
        self.rows += 1;
        if !row.status.is_final() {
            return;
        }
        self.ended += 1;
        self.last_end = self.last_end.max(row.finished_at.unwrap_or_default());
        if matches!(row.status, MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read) {
            self.accepted += 1;
        }
        if row.attempt > 1 {
            self.repeated += 1;
        }
        let (Some(began), Some(ended)) = (row.started_at, row.finished_at) else { return };
        self.first_begin = Some(self.first_begin.map_or(began, |first| first.min(began)));
        // A message is due when its device may send it: when workers may start, then after the shortest delay asked for.
        let mut due = self.opened_at;
        if let Some(before) = self.devices.insert(row.device.clone(), Sent { began, ended }) {
            due = before.ended.plus(self.asked.min);
            if before.began > began {
                self.order_violations += 1;
            }
            if row.attempt == 1 {
                self.pacing.add(began.since(before.ended));
            }
        }
        self.latency.add(ended.since(due));
    }

    /// When the first message was begun.
    pub fn first_begin(&self) -> Time {
        self.first_begin.unwrap_or(self.opened_at)
    }

    /// When the last message ended.
    pub fn last_end(&self) -> Time {
        self.last_end
    }

    /// Messages added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Those that are final.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// Messages that were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Messages that were taken more than once.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Messages that their device sent before one with a smaller id.
    pub fn order_violations(&self) -> u64 {
        self.order_violations
    }

    /// Messages that their device sent sooner than asked.
    pub fn early(&self) -> u64 {
        self.pacing.early()
    }

    /// By how much devices waited longer than asked.
    pub fn pacing_error(&self) -> Summary {
        self.pacing.error()
    }

    /// From due to sent.
    pub fn latency(&self) -> Summary {
        self.latency.summary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MessageId, RunKey};

    fn row(contact: u32, device: &str, began: i64, ended: i64) -> MessageRow {
        MessageRow {
            id: MessageId::new(RunKey(RunKey::MIN), contact),
            status: MessageStatus::Sent,
            address: format!("+{contact}"),
            device: device.parse().unwrap(),
            attempt: 1,
            failures: 0,
            due_at: None,
            started_at: Some(Time::from_ms(began)),
            finished_at: Some(Time::from_ms(ended)),
            provider_id: None,
            reason: None,
            digests: None,
        }
    }

    #[test]
    fn order_pace_and_latency_are_per_device() {
        let mut ledger = Ledger::new("100".parse().unwrap(), Time::from_ms(1000)).unwrap();
        ledger.add(&row(1, "a", 1010, 1020));
        ledger.add(&row(2, "b", 1300, 1310));
        ledger.add(&row(3, "a", 1140, 1150)); // 120 ms after: 20 late
        ledger.add(&row(4, "a", 1240, 1250)); // 90 ms after: early
        ledger.add(&row(5, "b", 1200, 1210)); // before message 2
        assert_eq!((ledger.rows(), ledger.accepted(), ledger.repeated()), (5, 5, 0));
        assert_eq!(ledger.order_violations(), 1);
        assert_eq!(ledger.early(), 2);
        assert!((19.9..20.1).contains(&ledger.pacing_error().max));
        assert!((309.0..311.0).contains(&ledger.latency().max), "message 2 waited from the launch");
        assert_eq!(ledger.last_end(), Time::from_ms(1310));
    }
}

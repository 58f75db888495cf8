//! The dispatcher: takes devices that are due, claims their next messages, and hands each device to a worker. It runs
//! one round at a time, so that everything that became free during a round makes up the next one: batches grow with the
//! load by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;

use crate::device::{Device, Pace};
use crate::id::DeviceId;
use crate::metrics::Group;
use crate::queue::{Claimed, Disposal, Finish};
use crate::store::StoreError;
use crate::workers::leases::safe_part;
use crate::workers::session::Session;
use crate::workers::{Pool, orphans};

/// Devices claimed in one round at most.
pub const ROUND: usize = 256;
/// Messages claimed at once for a device whose last one was followed by no wait.
pub const BURST: u32 = 16;

/// What a round came to.
pub struct Round {
    /// Devices that were due.
    pub devices: usize,
    /// When the next one is due.
    pub next_in: Option<Duration>,
}

impl Pool {
    /// One round with these permits.
    ///
    /// # Errors
    /// When store or queue are away; what was claimed comes back when its lease runs out.
    pub async fn round(self: &Arc<Self>, mut permits: Vec<OwnedSemaphorePermit>) -> anyhow::Result<Round> {
        let core = &self.core;
        let lease = core.config.lease();
        let limit = u32::try_from(permits.len().min(ROUND)).unwrap_or(1);
        let ready = core.queue.ready(limit, lease).await?;
        if ready.devices.is_empty() {
            return Ok(Round { devices: 0, next_in: ready.next_in });
        }
        let asked = core.clock.monotonic();
        let valid_until = asked + safe_part(lease);
        let answers = core.queue.claim(core.host, &ready.devices, lease, BURST).await?;
        self.metrics.batch(Group::Claim, ready.devices.len(), core.clock.monotonic().saturating_sub(asked));
        let devices = self.meet(&ready.devices).await?;

        let mut over = Vec::new();
        for ((id, late), answer) in ready.devices.iter().zip(&ready.late).zip(answers) {
            match answer {
                Claimed::Messages { messages, token, pace, depth } => {
                    let (Some(device), Some(first)) = (devices.get(id), messages.first()) else {
                        // The device was deleted; the store says what becomes of its messages.
                        over.push(Finish {
                            device: id.clone(),
                            token,
                            messages: messages.into_iter().map(|(message, _)| (message, Disposal::Drop)).collect(),
                            next_in: Duration::ZERO,
                            pace: None,
                        });
                        continue;
                    };
                    let Some(permit) = permits.pop() else {
                        // Cannot be: there are as many permits as devices. The lease runs out.
                        tracing::error!("a device was claimed without a permit");
                        continue;
                    };
                    let lease = self.sending.leases.insert(id.clone(), token, first.0, valid_until);
                    let session = Session {
                        device: device.clone(),
                        lease,
                        messages: messages.into(),
                        due_at: asked.saturating_sub(*late),
                        pace: Pace::parse(Some(pace.as_str()).filter(|p| !p.is_empty())),
                        depth,
                    };
                    self.spawn(session, permit);
                }
                Claimed::Orphans { token, messages } => {
                    if let Some(device) = devices.get(id) {
                        let pool = self.clone();
                        let device = device.clone();
                        self.tasks.spawn(async move { orphans::adopt(&pool, &device, token, &messages).await });
                    }
                }
                Claimed::Empty | Claimed::NotYet(_) => {}
            }
        }
        if !over.is_empty() {
            core.queue.finish(&over).await?;
        }
        Ok(Round { devices: ready.devices.len(), next_in: ready.next_in })
    }

    /// The devices by their ids, from memory where possible.
    async fn meet(&self, ids: &[DeviceId]) -> Result<HashMap<DeviceId, Arc<Device>>, StoreError> {
        let mut devices = self.sending.fleet.known(ids);
        let missing: Vec<_> = ids.iter().filter(|id| !devices.contains_key(*id)).cloned().collect();
        let mut found = stream::iter(missing)
            .map(|id| async move { self.sending.fleet.device(&id).await.map(|d| (id, d)) })
            .buffer_unordered(8);
        while let Some(entry) = found.next().await {
            let (id, device) = entry?;
            if let Some(device) = device {
                devices.insert(id, device);
            }
        }
        Ok(devices)
    }
}

//! Which devices a campaign or a sequence sends with.

use crate::campaign::{DevicePool, SpreadPolicy};
use crate::core::Core;
use crate::device::Device;
use crate::id::DeviceNo;

use super::Result;

const PAGE: u32 = 1_000;

/// The devices of a pool, available or not, in id order (or in the order they are named).
pub(super) async fn members(core: &Core, pool: &DevicePool, at_most: usize) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    match (&pool.tag, &pool.ids) {
        (Some(tag), _) => {
            let mut cursor = None;
            loop {
                let limit = PAGE.min(u32::try_from(at_most.saturating_sub(found.len())).unwrap_or(PAGE)).max(1);
                let page = core.store.devices(Some(tag), None, cursor.as_ref(), limit).await?;
                found.extend(page.items);
                cursor = page.next;
                if cursor.is_none() || found.len() >= at_most {
                    return Ok(found);
                }
            }
        }
        (None, Some(ids)) => {
            let mut seen = std::collections::HashSet::new();
            for id in ids.iter().filter(|id| seen.insert(*id)).take(at_most) {
                found.extend(core.store.device(id).await?);
            }
            Ok(found)
        }
        (None, None) => Ok(found),
    }
}

/// The devices of a pool that messages are spread over at launch: the enabled ones, for `least-loaded` those with the
/// shortest queues first.
pub(super) async fn resolve(core: &Core, pool: &DevicePool) -> Result<Vec<DeviceNo>> {
    let mut devices = members(core, pool, usize::MAX).await?;
    devices.retain(|d| d.spec.enabled);
    if pool.policy == SpreadPolicy::LeastLoaded {
        let mut with_depth = Vec::with_capacity(devices.len());
        for chunk in devices.chunks(PAGE as usize) {
            let ids: Vec<_> = chunk.iter().map(|d| d.spec.id.clone()).collect();
            let depths = core.queue.depths(&ids).await?;
            with_depth.extend(chunk.iter().zip(depths).map(|(d, depth)| (depth.queued + depth.processing, d.no)));
        }
        with_depth.sort_by_key(|(depth, _)| *depth);
        return Ok(with_depth.into_iter().map(|(_, no)| no).collect());
    }
    Ok(devices.into_iter().map(|d| d.no).collect())
}

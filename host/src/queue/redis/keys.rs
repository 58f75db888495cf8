//! The names of the keys.

use crate::id::DeviceId;

/// Parts of the ready index; the same for one server and for a cluster, so that the key space is the same.
pub(super) const SHARDS: u32 = 8;
pub(super) const GENERATION: &str = "broadcast:generation";
pub(super) const ACTIVE_WORKERS: &str = "ultra:stats:active_workers";
pub(super) const MAX_WORKERS: &str = "ultra:stats:max_workers";
/// With the other key's name as its hash tag: both are in one slot, so a script may touch both.
pub(super) const CONFIGURED_WORKERS: &str = "{ultra:stats:max_workers}:configured";

/// The part of the ready index where a device stands: FNV-1a, because it must be the same in every process.
pub(super) fn shard(device: &DeviceId) -> u32 {
    let hash = device.as_str().bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) % SHARDS
}

pub(super) fn ready_key(shard: u32) -> String {
    format!("broadcast:ready:{{{shard}}}")
}

pub(super) fn device_keys(device: &DeviceId) -> [String; 3] {
    [
        format!("broadcast:queue:{{{device}}}"),
        format!("broadcast:processing:{{{device}}}"),
        format!("broadcast:device:{{{device}}}"),
    ]
}

pub(super) fn metrics_key(device: &DeviceId) -> String {
    format!("broadcast:metrics:{{{device}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_spread_over_the_shards() {
        let mut counts = [0_u32; SHARDS as usize];
        for n in 0..8000 {
            counts[shard(&format!("device-{n}").parse().unwrap()) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }
}

//! What is simulated: campaigns, devices, and which device is whose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Args;
use crate::campaign::rank;
use crate::clock::Time;
use crate::device::{Device, DeviceSpec};
use crate::id::{DeviceId, DeviceNo, MessageId, RunKey};

/// When the simulation begins: the start of a day.
pub const START: Time = Time::from_ms(1_900_022_400_000);
/// A capped device is one in this many.
const CAPPED_EVERY: u32 = 50;
/// A device with a second campaign is one in this many.
const SHARED_EVERY: u64 = 10;
/// What a shared device's better campaign may use of it is one part of this many.
const BETTER_PART: f64 = 3.0;

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform between two times, as the `uniform` plugin chooses.
    pub fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        min + max.saturating_sub(min).mul_f64(unit)
    }
}

/// A campaign.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    pub run: RunKey,
    pub rank: i64,
}

/// The campaigns of a device, by their numbers, the better ranked first.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    pub first: u16,
    pub second: Option<u16>,
}

/// The devices as a server keeps them in memory, and what the campaigns want of them.
pub struct World {
    pub campaigns: Vec<Campaign>,
    pub sharing: Vec<Sharing>,
    by_no: HashMap<DeviceNo, Arc<Device>>,
    no_by_id: HashMap<DeviceId, DeviceNo>,
    pub mean_delay: Duration,
    pub mean_send: Duration,
    pub seconds: f64,
}

impl World {
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let mut random = Random::new(args.seed);
        let campaigns: Vec<_> = (0..args.campaigns)
            .map(|n| Campaign {
                run: RunKey(RunKey::MIN + i32::from(n)),
                rank: rank((n % 10) as u8, START.plus(Duration::from_millis(n.into()))),
            })
            .collect();
        let mean = |asked: super::Asked| (asked.min + asked.max) / 2;
        let mut world = Self {
            sharing: Vec::with_capacity(args.devices as usize),
            by_no: HashMap::new(),
            no_by_id: HashMap::new(),
            mean_delay: mean(args.delay_ms),
            mean_send: mean(args.send_ms),
            seconds: f64::from(args.seconds),
            campaigns,
        };
        // Half of what it could send: the cap is what holds it back.
        let cap = ((30.0 / world.period()) as u32).max(1);
        for n in 0..args.devices {
            let caps = if n % CAPPED_EVERY == 0 { json!({"per_minute": cap}) } else { json!({}) };
            let spec: DeviceSpec = serde_json::from_value(json!({
                "id": format!("device-{n:07}"), "channel": "sms", "tags": ["simulated"], "caps": caps,
            }))?;
            let no = DeviceNo(i32::try_from(n)?);
            world.no_by_id.insert(spec.id.clone(), no);
            let device = Device { no, spec, held: None, created_at: START, updated_at: START };
            world.by_no.insert(no, Arc::new(device));
            let sharing = world.share(&mut random, args.campaigns);
            world.sharing.push(sharing);
        }
        Ok(world)
    }

    /// Draws a device's campaigns, the better ranked first.
    fn share(&self, random: &mut Random, campaigns: u16) -> Sharing {
        let (home, other) = (draw(random, campaigns), draw(random, campaigns));
        if !random.next().is_multiple_of(SHARED_EVERY) || home == other {
            return Sharing { first: home, second: None };
        }
        let rank = |n: u16| self.campaigns.get(usize::from(n)).map(|c| c.rank);
        let (first, second) = if rank(home) < rank(other) { (home, other) } else { (other, home) };
        Sharing { first, second: Some(second) }
    }

    /// A device by its id, as the dispatcher finds it.
    pub fn device(&self, id: &DeviceId) -> Option<&Arc<Device>> {
        self.by_no.get(self.no_by_id.get(id)?)
    }

    /// A device by its number.
    pub fn device_no(&self, n: usize) -> Option<&Arc<Device>> {
        self.by_no.get(&DeviceNo(i32::try_from(n).ok()?))
    }

    /// The number of the campaign whose message this is.
    pub fn campaign_of(message: MessageId) -> u16 {
        u16::try_from(message.run().0 - RunKey::MIN).unwrap_or(u16::MAX)
    }

    /// Seconds from one send of a device to the next, when a worker is always free.
    fn period(&self) -> f64 {
        (self.mean_delay + self.mean_send).as_secs_f64()
    }

    /// Workers that are busy at any time if no device ever waits for one.
    pub fn workers_needed(&self) -> u32 {
        let busy = self.sharing.len() as f64 * self.mean_send.as_secs_f64() / self.period();
        busy.ceil() as u32
    }

    /// Seconds in which so many workers can serve every device once.
    pub fn cycle(&self, workers: u32) -> f64 {
        self.sharing.len() as f64 * self.mean_send.as_secs_f64() / f64::from(workers)
    }

    /// How many messages a device can send when so many workers are shared evenly among the devices.
    pub fn part(&self, workers: u32, device: &Device) -> f64 {
        let part = self.seconds / self.period().max(self.cycle(workers));
        device.spec.caps.per_minute.map_or(part, |cap| part.min(f64::from(cap) * (self.seconds / 60.0).ceil()))
    }

    /// Messages that the better campaign of a shared device has for it.
    pub fn better_part(part: f64) -> u32 {
        ((part / BETTER_PART) as u32).max(1)
    }

    /// What each campaign is entitled to: an even part of the workers for each of its devices, on shared devices after
    /// the better campaign.
    pub fn entitled(&self, workers: u32) -> Vec<f64> {
        let mut entitled = vec![0.0; self.campaigns.len()];
        let mut give = |campaign: u16, part: f64| {
            if let Some(sum) = entitled.get_mut(usize::from(campaign)) {
                *sum += part;
            }
        };
        for (n, sharing) in self.sharing.iter().enumerate() {
            let Some(device) = self.device_no(n) else { continue };
            let part = self.part(workers, device);
            match sharing.second {
                None => give(sharing.first, part),
                Some(second) => {
                    let better = f64::from(Self::better_part(part)).min(part);
                    give(sharing.first, better);
                    give(second, part - better);
                }
            }
        }
        entitled
    }
}

/// Draws a campaign: `n` has `n + 1` times the chance of the first.
fn draw(random: &mut Random, campaigns: u16) -> u16 {
    let count = u64::from(campaigns);
    let mut ticket = random.next() % (count * (count + 1) / 2);
    for n in 0..campaigns {
        match ticket.checked_sub(u64::from(n) + 1) {
            Some(rest) => ticket = rest,
            None => return n,
        }
    }
    0
}

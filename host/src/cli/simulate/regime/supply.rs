//! Messages without a store: each campaign's messages on a device are numbered from 0, and made when a queue runs low.

use std::time::Duration;

use super::super::world::{Sharing, World};
use crate::device::Device;
use crate::id::MessageId;
use crate::queue::{Enqueue, InitialPace};

/// A campaign's messages on one device.
#[derive(Debug, Clone, Copy, Default)]
struct Messages {
    /// How many there will have been.
    all: u32,
    /// How many were put in the queue.
    queued: u32,
    /// How many were sent.
    sent: u32,
}

/// The messages of every device; of a shared device first those of the better campaign.
pub struct Supply {
    devices: Vec<[Messages; 2]>,
    /// Whether the better campaigns have reached the devices that they share.
    is_open: bool,
    window: u32,
}

impl Supply {
    pub fn new(world: &World, workers: u32, window: u32) -> Self {
        let of = |(n, sharing): (usize, &Sharing)| {
            let endless = Messages { all: u32::MAX, ..Messages::default() };
            let part = world.device_no(n).map_or(0.0, |device| world.part(workers, device));
            match sharing.second {
                Some(_) => [Messages { all: World::better_part(part), ..Messages::default() }, endless],
                None => [endless, Messages::default()],
            }
        };
        Self { devices: world.sharing.iter().enumerate().map(of).collect(), is_open: false, window }
    }

    /// From now on the better campaigns have messages.
    pub fn open(&mut self) {
        self.is_open = true;
    }

    /// A queue with so many messages or fewer is topped up.
    pub const fn low_water(&self) -> u32 {
        self.window / 2
    }

    /// What the processor adds to a device's queue: of the first `window` messages by rank those that are not there.
    pub fn top_up(&mut self, world: &World, n: usize, device: &Device, next_in: Duration) -> Option<Enqueue> {
        let mut room = self.window;
        let mut messages = Vec::new();
        for (place, campaign) in campaigns(world, n).into_iter().enumerate() {
            let (Some(campaign), Some(of)) = (campaign, self.devices.get_mut(n).and_then(|d| d.get_mut(place))) else {
                continue;
            };
            if is_closed(world, n, place, self.is_open) {
                continue;
            }
            let Some(campaign) = world.campaigns.get(usize::from(campaign)) else { continue };
            let wanted = room.min(of.all - of.sent);
            room -= wanted;
            let until = (of.sent + wanted).max(of.queued);
            messages.extend((of.queued..until).map(|contact| (MessageId::new(campaign.run, contact), campaign.rank)));
            of.queued = until;
        }
        let initial = InitialPace { next_in, pace: String::new() };
        (!messages.is_empty()).then(|| Enqueue { device: device.spec.id.clone(), messages, initial })
    }

    /// Whether both campaigns of the device have messages in its queue, and if so whether this one is the better one's.
    pub fn is_better_of_two(&self, world: &World, device: &Device, message: MessageId) -> Option<bool> {
        let n = usize::try_from(device.no.0).ok()?;
        let both = self.devices.get(n)?.iter().all(|messages| messages.queued > messages.sent);
        both.then(|| world.sharing.get(n).is_some_and(|s| s.first == World::campaign_of(message)))
    }

    /// Notes a message that was sent; `false` when it was not its campaign's next on the device.
    pub fn sent(&mut self, world: &World, n: usize, message: MessageId) -> bool {
        let place = campaigns(world, n).iter().position(|c| *c == Some(World::campaign_of(message)));
        let Some(of) = place.and_then(|place| self.devices.get_mut(n)?.get_mut(place)) else { return false };
        let is_next = message.contact() == of.sent && of.sent < of.queued;
        of.sent = message.contact() + 1;
        is_next
    }
}

fn campaigns(world: &World, n: usize) -> [Option<u16>; 2] {
    world.sharing.get(n).map_or([None, None], |sharing| [Some(sharing.first), sharing.second])
}

/// The better campaign of a shared device comes later than the other.
fn is_closed(world: &World, n: usize, place: usize, is_open: bool) -> bool {
    place == 0 && !is_open && world.sharing.get(n).is_some_and(|s| s.second.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::simulate::tests::args;

    #[test]
    fn what_goes_wrong_would_be_seen() {
        let args = args("--devices 200 --campaigns 5");
        let world = World::new(&args).unwrap();
        let mut supply = Supply::new(&world, 10, 4);
        let n = world.sharing.iter().position(|s| s.second.is_some()).unwrap();
        let device = world.device_no(n).unwrap();
        let worse = supply.top_up(&world, n, device, Duration::ZERO).unwrap().messages;
        assert_eq!(worse.len(), 4);
        assert_eq!(supply.is_better_of_two(&world, device, worse[0].0), None, "the better campaign is not there yet");
        supply.open();
        let better = supply.top_up(&world, n, device, Duration::ZERO).unwrap().messages;
        assert!(better[0].1 < worse[0].1);
        assert_eq!(supply.is_better_of_two(&world, device, worse[0].0), Some(false));
        assert_eq!(supply.is_better_of_two(&world, device, better[0].0), Some(true));
        assert!(supply.sent(&world, n, worse[0].0));
        assert!(!supply.sent(&world, n, worse[0].0), "doubled");
        assert!(!supply.sent(&world, n, worse[2].0), "overtaken");
        assert!(!supply.sent(&world, n, MessageId::new(worse[0].0.run(), 99)), "never queued");
    }
}

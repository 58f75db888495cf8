//! The calls that the model knows.

use proptest::prelude::*;

use super::{DEVICES, MESSAGES};

/// A call. Times are in units that are long beside what a sequence takes.
#[derive(Debug, Clone)]
pub enum Call {
    /// Messages with their ranks for a device, and what the store knows of its pace.
    Enqueue {
        device: usize,
        messages: Vec<(u8, i64)>,
        next_in: u32,
        pace: u8,
    },
    /// A server claims a device without having been told that it is ready.
    Claim {
        server: usize,
        device: usize,
        lease: u32,
        burst: u32,
    },
    /// A server asks what is ready, and claims every device at once.
    Serve {
        server: usize,
        lease: u32,
        burst: u32,
    },
    /// A server asks what is ready, and dies.
    Hide {
        server: usize,
        lease: u32,
    },
    /// The holder of the lease that was given so many leases ago does something: it may have lost it long since.
    Renew {
        ago: usize,
        lease: u32,
    },
    Finish {
        ago: usize,
        fates: Vec<Fate>,
        next_in: u32,
        pace: Option<u8>,
    },
    Adopt {
        ago: usize,
        fates: Vec<Fate>,
    },
    Hold {
        device: usize,
        wait: u32,
    },
    Unhold {
        device: usize,
    },
    /// A run was paused: its messages are taken off.
    Clear {
        run: u8,
    },
    Pass {
        units: u32,
    },
    /// The queue loses its data, and is filled again from what the store knows.
    Lose,
}

/// What becomes of a claimed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Drop,
    PutBack,
    Leave,
}

pub fn any() -> BoxedStrategy<Call> {
    let device = 0..DEVICES;
    let server = 0..2_usize;
    let lease = 1..6_u32;
    let burst = 1..5_u32;
    // Mostly the last ones, and now and then one that was lost long ago.
    let ago = prop_oneof![6 => Just(0_usize), 3 => 1..3_usize, 1 => 0..20_usize];
    let fates = || {
        let fate = prop_oneof![4 => Just(Fate::Drop), 3 => Just(Fate::PutBack), 1 => Just(Fate::Leave)];
        proptest::collection::vec(fate, 1..4)
    };
    let messages = proptest::collection::vec((0..MESSAGES, 0..3_i64), 0..6);
    let wait = || prop_oneof![2 => Just(0_u32), 1 => 1..8_u32];
    prop_oneof![
        4 => (device.clone(), messages, wait(), 0..3_u8)
            .prop_map(|(device, messages, next_in, pace)| Call::Enqueue { device, messages, next_in, pace }),
        4 => (server.clone(), device.clone(), lease.clone(), burst.clone())
            .prop_map(|(server, device, lease, burst)| Call::Claim { server, device, lease, burst }),
        3 => (server.clone(), lease.clone(), burst)
            .prop_map(|(server, lease, burst)| Call::Serve { server, lease, burst }),
        1 => (server, lease.clone()).prop_map(|(server, lease)| Call::Hide { server, lease }),
        1 => (ago.clone(), lease).prop_map(|(ago, lease)| Call::Renew { ago, lease }),
        6 => (ago.clone(), fates(), wait(), proptest::option::of(1..4_u8))
            .prop_map(|(ago, fates, next_in, pace)| Call::Finish { ago, fates, next_in, pace }),
        3 => (ago, fates()).prop_map(|(ago, fates)| Call::Adopt { ago, fates }),
        1 => (device.clone(), 1..8_u32).prop_map(|(device, wait)| Call::Hold { device, wait }),
        1 => device.prop_map(|device| Call::Unhold { device }),
        1 => (0..2_u8).prop_map(|run| Call::Clear { run }),
        4 => (1..6_u32).prop_map(|units| Call::Pass { units }),
        1 => Just(Call::Lose),
    ]
    .boxed()
}

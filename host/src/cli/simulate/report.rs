//! The JSON object that the simulation prints.

use serde::Serialize;

use super::Args;
use crate::cli::bench::pacing::Summary;
use crate::cli::bench::report::peak_rss;

/// What was simulated and found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// Whether nothing was early, overtaken, over its cap or starved, and the shares were even.
    pub ok: bool,
    /// Devices.
    pub devices: u32,
    /// Campaigns.
    pub campaigns: u16,
    /// Servers that shared the workers.
    pub servers: u32,
    /// Most messages in a device's queue.
    pub window: u32,
    /// The delay asked for, shortest and longest, in milliseconds.
    pub delay_ms: [u64; 2],
    /// How long a send took, shortest and longest, in milliseconds.
    pub send_ms: [u64; 2],
    /// Simulated seconds.
    pub seconds: u32,
    /// The seed.
    pub seed: u64,
    /// Twice the workers that the devices need (or as many as asked for); devices begin at times spread over a delay.
    pub enough_workers: Outcome,
    /// Half the workers that the devices need, and every device is due at the start.
    pub half_the_workers: Outcome,
    /// Memory.
    pub memory: Memory,
}

/// What one regime came to.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Most sends in flight.
    pub workers: u32,
    /// Sends that ended.
    pub sends: u64,
    /// Sends per simulated second.
    pub sends_per_s: f64,
    /// Rounds of the dispatchers.
    pub rounds: u64,
    /// How long the simulation took.
    pub real_seconds: f64,
    /// Sends that began before their device's pace allowed.
    pub early: u64,
    /// By how much later than their device's pace allowed sends began.
    pub late_ms: Summary,
    /// Jain's index of the campaigns' shares: what each sent, divided by what it was entitled to (an even part of the
    /// workers for each of its devices, on shared devices after the better campaign).
    pub jain: f64,
    /// The smallest such share.
    pub smallest_share: f64,
    /// The largest.
    pub largest_share: f64,
    /// The longest time that a due device waited, those that still waited at the end included.
    pub longest_wait_ms: f64,
    /// The time in which the workers can serve every device once.
    pub cycle_ms: f64,
    /// How often a due device waited longer than a cycle and a quarter, and a second.
    pub starved: u64,
    /// Claims of the better campaign's message while another campaign had one in the same queue.
    pub priority_claims: u64,
    /// Claims the other way round.
    pub priority_inversions: u64,
    /// Messages of a campaign on a device that were lost, doubled or overtaken.
    pub order_violations: u64,
    /// Sends beyond a device's cap.
    pub over_cap: u64,
}

impl Outcome {
    /// Whether scheduling kept its promises.
    pub fn is_ok(&self) -> bool {
        let broken = self.early + self.starved + self.priority_inversions + self.order_violations + self.over_cap;
        broken == 0 && self.sends > 0 && self.jain >= 0.99
    }

    /// Whether two runs came to the same, but for the time they took.
    #[cfg(test)]
    pub fn same_as(&self, other: &Self) -> bool {
        let one = Self { real_seconds: 0.0, ..self.clone() };
        let other = Self { real_seconds: 0.0, ..other.clone() };
        format!("{one:?}") == format!("{other:?}")
    }
}

/// Memory of the process; what the kernel does not tell is missing.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// The most that it ever had, both regimes and what only the simulation keeps included.
    pub peak_rss_bytes: Option<u64>,
    /// What a server keeps in memory of a device's settings.
    pub fleet_bytes_per_device: Option<u64>,
    /// What the in-process queue keeps of a device after the first regime: window, pace, place on the ready index.
    pub queue_bytes_per_device: Option<u64>,
}

/// What a regime took of memory.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// When the queue was still empty.
    pub before: Option<u64>,
    /// At the end.
    pub after: Option<u64>,
}

impl Memory {
    /// Of so many devices, from what was resident before there were any, with the fleet, and around the first regime.
    pub fn new(devices: u32, before: Option<u64>, fleet: Option<u64>, regime: Taken) -> Self {
        let per_device =
            |after: Option<u64>, before: Option<u64>| after?.saturating_sub(before?).checked_div(u64::from(devices));
        Self {
            peak_rss_bytes: peak_rss(),
            fleet_bytes_per_device: per_device(fleet, before),
            queue_bytes_per_device: per_device(regime.after, regime.before),
        }
    }
}

impl Report {
    /// Both regimes.
    pub fn new(args: &Args, enough_workers: Outcome, half_the_workers: Outcome, memory: Memory) -> Self {
        let ms = |asked: super::Asked| {
            [asked.min, asked.max].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ok: enough_workers.is_ok() && half_the_workers.is_ok(),
            devices: args.devices,
            campaigns: args.campaigns,
            servers: args.servers(),
            window: args.window,
            delay_ms: ms(args.delay_ms),
            send_ms: ms(args.send_ms),
            seconds: args.seconds,
            seed: args.seed,
            enough_workers,
            half_the_workers,
            memory,
        }
    }
}

/// The memory that this process has now, where the kernel tells.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

//! `carillon simulate`: the scheduling of a cluster with up to millions of devices, on one machine and against a clock of
//! its own; prints one JSON object.
//!
//! Real are the in-process queue with its ready index, leases, order and bursts, each device's pace with its saved form,
//! caps and clamp, and the limits of the dispatcher's rounds and of workers' sessions. In place of the store stands an
//! endless supply of messages, topped up by the processor's rule; in place of the network a time for each send. The
//! delay is the `uniform` plugin's rule in Rust: a million plugin calls a simulated second would measure plugins.

mod regime;
mod report;
mod tally;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use super::bad_input;
use super::bench::pacing::Asked;
use crate::config::Config;
use regime::Regime;
use report::Report;
use world::World;

/// Devices that one server of the simulated cluster is there for.
const DEVICES_A_SERVER: u32 = 100_000;
/// Longest time of one send: a lease, which nobody renews here, must outlast it.
const LONGEST_SEND: Duration = Duration::from_secs(5);

/// What is simulated.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Devices.
    #[arg(long, default_value_t = 100_000, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    devices: u32,
    /// Campaigns; the second has about twice the devices of the first, and so on. One device in ten has two campaigns.
    #[arg(long, default_value_t = 100, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    campaigns: u16,
    /// How long a device waits after each send, in milliseconds.
    #[arg(long, default_value = "8000..12000", value_name = "A..B")]
    delay_ms: Asked,
    /// How long a send takes, store and plugins included, in milliseconds.
    #[arg(long, default_value = "20..80", value_name = "A..B")]
    send_ms: Asked,
    /// Most sends in flight when there are enough workers; twice what the devices need when absent.
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// Servers that share the workers; one for each 100,000 devices when absent.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    servers: Option<u32>,
    /// Most messages in a device's queue.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    window: u32,
    /// Simulated seconds.
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// The same seed gives the same result.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Print the JSON object on one line.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    fn servers(&self) -> u32 {
        self.servers.unwrap_or_else(|| self.devices.div_ceil(DEVICES_A_SERVER))
    }
}

/// Runs the command.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.send_ms.max > LONGEST_SEND || args.send_ms.max.is_zero() {
        return Err(bad_input("--send-ms: give times from 1 to 5000, such as 20..80"));
    }
    let report = simulate(&args).await?;
    println!("{}", if args.json { serde_json::to_string(&report)? } else { serde_json::to_string_pretty(&report)? });
    if report.ok { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
}

/// Both regimes, one after the other, each from an empty queue.
async fn simulate(args: &Args) -> anyhow::Result<Report> {
    let before = report::resident();
    let world = World::new(args)?;
    let fleet = report::resident();
    let needed = world.workers_needed();
    let ample = args.workers.unwrap_or_else(|| needed.saturating_mul(2)).max(args.servers());
    let scarce = (needed / 2).max(args.servers());
    let (enough, at_end) = Regime::new(&world, args, ample, true)?.run().await?;
    let (short, _) = Regime::new(&world, args, scarce, false)?.run().await?;
    let memory = report::Memory::new(args.devices, before, fleet, at_end);
    Ok(Report::new(args, enough, short, memory))
}

/// The settings that a server would run with.
fn config(args: &Args) -> Config {
    Config { window: args.window, ..Config::default() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    pub(super) fn args(line: &str) -> Args {
        <Cli as clap::Parser>::parse_from(std::iter::once("simulate").chain(line.split_whitespace())).args
    }

    #[tokio::test]
    async fn a_thousand_devices_are_served_in_time_and_evenly() {
        let args = args("--devices 1000 --campaigns 10 --seconds 300 --window 4 --servers 3");
        let report = simulate(&args).await.unwrap();
        for outcome in [&report.enough_workers, &report.half_the_workers] {
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!((outcome.early, outcome.starved, outcome.priority_inversions), (0, 0, 0));
            assert_eq!((outcome.order_violations, outcome.over_cap), (0, 0));
            assert!(outcome.priority_claims > 50, "priorities were to matter: {outcome:?}");
            assert!(outcome.jain >= 0.99, "{outcome:?}");
        }
        assert!(report.enough_workers.late_ms.p99 <= 100.0, "{:?}", report.enough_workers);
        assert!(report.half_the_workers.late_ms.p50 > 1000.0, "workers are to be short");
        assert!(report.ok);

        let again = simulate(&args).await.unwrap();
        assert!(report.enough_workers.same_as(&again.enough_workers));
        assert!(report.half_the_workers.same_as(&again.half_the_workers));
        let other = simulate(&Args { seed: 2, ..args }).await.unwrap();
        assert!(!report.enough_workers.same_as(&other.enough_workers));
    }

    #[tokio::test]
    async fn devices_without_a_delay_send_in_bursts() {
        let report = simulate(&args("--devices 50 --campaigns 5 --seconds 20 --window 50 --delay-ms 0")).await.unwrap();
        assert!(report.ok, "{:?} {:?}", report.enough_workers, report.half_the_workers);
    }
}

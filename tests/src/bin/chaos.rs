//! A long run of faults by hand: `tests/run chaos --kills 1000`. Prints what it did and what the books say; exit code 1 when
//! anything was lost, doubled without a reason, out of order or early.

use std::process::ExitCode;
use std::time::Duration;

use carillon_tests::chaos::{self, Plan};
use clap::Parser;

/// Kills and disturbs three servers, their database and their queue while campaigns run, and checks the books.
#[derive(Debug, Parser)]
struct Args {
    /// Where all that is random comes from; one is drawn and printed when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Campaigns run until so many servers were killed.
    #[arg(long, default_value_t = 1_000)]
    kills: u64,
    /// Only kill servers, one after the other, and tell how soon their devices send again.
    #[arg(long)]
    recovery: bool,
    /// Messages of each campaign.
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    /// Devices.
    #[arg(long, default_value_t = 3_000)]
    devices: usize,
    /// How long a device waits after each send, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    delay_ms: u64,
    /// How long a server's devices stay with it when it no longer answers, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    lease_ms: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let plan = Plan {
        seed,
        messages: args.messages,
        devices: args.devices,
        delay: Duration::from_millis(args.delay_ms),
        kills: args.kills,
        lease: Duration::from_millis(args.lease_ms),
        patience: Duration::from_secs(300),
    };
    if args.recovery {
        let times = chaos::recovery(&plan).await;
        let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
        println!("{} devices resumed after {:?} (median), {:?} (longest)", times.len(), at(50), at(100));
        return ExitCode::SUCCESS;
    }
    let outcome = chaos::run(&plan).await;
    println!("{outcome:#?}");
    println!("seed {seed}: {} kills, {} violations", outcome.kills(), outcome.findings.violations.len());
    if outcome.findings.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! What plugins that mean harm cost others, measured by hand: `tests/run neighbours`. Prints a line for each row of
//! `docs/HOSTILE-PLUGINS.md`; exit code 1 when one costs more than the limit.

use std::process::ExitCode;
use std::time::Duration;

use carillon_tests::neighbours::{Plan, measure};
use clap::Parser;

/// Runs a paced campaign on good plugins and does to its server what plugins that mean harm do.
#[derive(Debug, Parser)]
struct Args {
    /// How long each window is, in seconds: two for each row in each round.
    #[arg(long, default_value_t = 2)]
    window_s: u64,
    /// How often each row is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Devices of the good campaign.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// The campaign's share of what the machine can. With much more, two cores have no room for the clients, and the clean
    /// windows differ by more than what is measured.
    #[arg(long, default_value_t = 0.2)]
    share: f64,
    /// What a row may cost, in percent.
    #[arg(long, default_value_t = 5.0)]
    limit: f64,
    /// Only rows with this text.
    #[arg(default_value = "")]
    only: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let plan = Plan {
        window: Duration::from_secs(args.window_s),
        rounds: args.rounds.into(),
        devices: args.devices,
        share: args.share,
        only: args.only,
    };
    println!("  cost    least   most   clean    times row");
    let effects = measure(&plan, |line| println!("{line}")).await;
    let dear = effects.iter().filter(|effect| effect.cost() > args.limit).count();
    println!("{dear} of {} rows cost more than {} %", effects.len(), args.limit);
    if dear == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! A long run of faults by hand: `tests/run chaos --kills 1000 --each 100`. Prints what it did and what the books say; exit code
//! 1 when anything was lost, doubled without a reason, out of order or early.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
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
    /// And until each kind of fault happened so many times: the kinds that lack most come most often. 0: as they come.
    #[arg(long, default_value_t = 0)]
    each: u64,
    /// With a Redis Cluster of three masters and three replicas for a queue; its masters are killed.
    #[arg(long)]
    cluster: bool,
    /// Instead: one server with the embedded store, whose disk is filled so many times.
    #[arg(long, value_name = "N")]
    disk_full: Option<u64>,
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

/// Set in the namespace that a run which may not mount makes for itself.
const IN_NAMESPACE: &str = "CARILLON_CHAOS_NAMESPACE";

fn main() -> ExitCode {
    let args = Args::parse();
    if args.disk_full.is_some() && !may_mount() && std::env::var_os(IN_NAMESPACE).is_none() {
        println!("not root: the small disk is mounted in a namespace of its own (unshare)");
        let this = std::env::current_exe().expect("a path");
        let error = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--"])
            .arg(this)
            .args(std::env::args_os().skip(1))
            .env(IN_NAMESPACE, "1")
            .exec();
        eprintln!("neither root nor a namespace (unshare: {error}): no disk can be mounted and filled here");
        return ExitCode::FAILURE;
    }
    tokio::runtime::Runtime::new().expect("threads").block_on(run(args))
}

/// Whether this process is root.
fn may_mount() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

async fn run(args: Args) -> ExitCode {
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let plan = Plan {
        seed,
        messages: args.messages,
        devices: args.devices,
        delay: Duration::from_millis(args.delay_ms),
        kills: args.kills,
        campaigns: 1,
        each: args.disk_full.unwrap_or(args.each),
        cluster: args.cluster,
        lease: Duration::from_millis(args.lease_ms),
        patience: Duration::from_secs(300),
    };
    if args.recovery {
        let times = chaos::recovery(&plan).await;
        let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
        println!("{} devices resumed after {:?} (median), {:?} (longest)", times.len(), at(50), at(100));
        return ExitCode::SUCCESS;
    }
    let began = tokio::time::Instant::now();
    let outcome = match args.disk_full {
        Some(_) => chaos::full_disk::run(&plan).await,
        None => chaos::run(&plan).await,
    };
    for violation in &outcome.findings.violations {
        println!("VIOLATION {violation}");
    }
    println!("\n{}", chaos::report::markdown(&outcome, seed, began.elapsed()));
    println!("seed {seed}: {} kills, {} violations", outcome.kills(), outcome.findings.violations.len());
    if outcome.findings.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

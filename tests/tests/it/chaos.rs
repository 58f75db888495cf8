//! The short run of faults: what `tests/run chaos` does for long. `CARILLON_TEST_SEED` is the number that the faults are drawn
//! from, one that a failed run printed for instance; another one each time when absent.

use std::process::Command;
use std::time::Duration;

use carillon_tests::chaos::{self, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_in_a_storm() {
    let seed = match std::env::var("CARILLON_TEST_SEED") {
        Ok(text) => text.parse().expect("CARILLON_TEST_SEED is a number, as a failed run printed it"),
        Err(_) => rand::random(),
    };
    println!("CARILLON_TEST_SEED={seed}");
    let outcome = chaos::run(&Plan {
        seed,
        messages: 1_800,
        devices: 150,
        // Longer than what a server that finds no pace waits anyway.
        delay: Duration::from_millis(1_500),
        kills: 40,
        // Also when the first one had all of them: what must not come twice is the second.
        campaigns: 2,
        each: 0,
        cluster: false,
        lease: Duration::from_secs(2),
        patience: Duration::from_secs(90),
    })
    .await;
    println!("{outcome:#?}");
    assert!(outcome.findings.violations.is_empty(), "seed {seed}: {:#?}", outcome.findings.violations);
    assert!(outcome.findings.gaps > 1_000 && outcome.kills() > 0, "the storm was none");
    assert!(outcome.campaigns >= 2, "no campaign was at_most_once");
}

/// `tests/run chaos --disk-full` for a short while, as a program of its own, which makes itself a namespace where it is not root.
#[test]
fn a_full_disk_stops_nothing_for_longer_than_it_is_full() {
    let seed: u64 = rand::random();
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    chaos.args(["--disk-full", "4", "--messages", "4000", "--devices", "100", "--delay-ms", "500"]);
    let ran = chaos.args(["--seed", &seed.to_string()]).output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    println!("{said}");
    if ["no disk can be mounted", "disk cannot be mounted", "unshare failed"].iter().any(|no| said.contains(no)) {
        println!("left out: this needs root, or a machine where users may make namespaces");
        return;
    }
    assert!(ran.status.success(), "seed {seed}: {said}");
}

//! The short run of faults: what `tests/run chaos` does for long. `CARILLON_TEST_SEED` is the number that the faults are drawn
//! from, one that a failed run printed for instance; another one each time when absent.

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
        lease: Duration::from_secs(2),
        patience: Duration::from_secs(90),
    })
    .await;
    println!("{outcome:#?}");
    assert!(outcome.findings.violations.is_empty(), "seed {seed}: {:#?}", outcome.findings.violations);
    assert!(outcome.findings.overtaken <= 2, "seed {seed}: {} messages out of order", outcome.findings.overtaken);
    assert!(outcome.findings.gaps > 1_000 && outcome.kills() > 0, "the storm was none");
}

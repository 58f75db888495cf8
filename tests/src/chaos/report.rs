//! What a run came to, as rows for `docs/RELIABILITY.md`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::chaos::Outcome;
use crate::chaos::faults::is_kill;

/// The table of faults, and the row of the books.
pub fn markdown(outcome: &Outcome, seed: u64, took: Duration) -> String {
    let mut text = String::from("| fault | times |\n|---|---|\n");
    for (kind, n) in &outcome.faults {
        // What fits into a string always does.
        let _always = writeln!(text, "| {kind} | {n} |");
    }
    let found = &outcome.findings;
    let others: u64 = outcome.faults.iter().filter(|(kind, _)| !is_kill(kind)).map(|(_, n)| n).sum();
    let states: Vec<String> = found.states.iter().map(|(state, n)| format!("{state} {n}")).collect();
    let _always = writeln!(
        text,
        "\n| seed | minutes | campaigns, messages | ended as | requests | servers killed | other faults | doubled, each with its \
         reason | violations |\n|---|---|---|---|---|---|---|---|---|\n\
         | {seed} | {:.1} | {}, {} | {} | {} | {} | {others} | {} | {} |",
        took.as_secs_f64() / 60.0,
        outcome.campaigns,
        found.messages,
        states.join(", "),
        found.requests,
        outcome.kills(),
        found.explained,
        found.violations.len(),
    );
    let mut recovered = found.recovered.clone();
    recovered.sort_unstable();
    if let (Some(median), Some(longest)) = (recovered.get(recovered.len() / 2), recovered.last()) {
        let _always = writeln!(
            text,
            "\nA device whose server was killed in the middle of its send was sending again after {:.1} s (median of {}), {:.1} s \
             (longest), with whatever else was disturbed meanwhile.",
            median.as_secs_f64(),
            recovered.len(),
            longest.as_secs_f64(),
        );
    }
    if !found.made_by.is_empty() {
        let _always = writeln!(text, "Requests by the version of the template plugin: {:?}.", found.made_by);
    }
    text
}

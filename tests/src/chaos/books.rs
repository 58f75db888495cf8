//! The books of a campaign: what the servers say became of each message, against what the sink has on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;

use crate::chaos::Plan;
use crate::chaos::driver::{Driver, Row};
use crate::chaos::sink::{Arrival, Manner, Sink};

/// The store keeps whole milliseconds, and the answer is noted a moment before it leaves.
const GRAIN: Duration = Duration::from_millis(2);
/// Violations that are kept; more say nothing more.
const MOST: usize = 50;

/// What a campaign does with a message of which nobody knows whether it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Sends it again, with the same idempotency key.
    AtLeastOnce,
    /// Leaves it to a person.
    AtMostOnce,
}

impl Policy {
    /// Both, one after the other: what may come twice, and what must not.
    pub fn of(campaign: u32) -> Self {
        if campaign.is_multiple_of(2) { Self::AtLeastOnce } else { Self::AtMostOnce }
    }
}

/// What the books say.
#[derive(Debug, Default)]
pub struct Findings {
    /// Messages.
    pub messages: u64,
    /// Messages by their last state.
    pub states: BTreeMap<String, u64>,
    /// Requests at the sink.
    pub requests: u64,
    /// Messages that were taken more than once, each with an attempt that says why.
    pub explained: u64,
    /// Gaps between two sends of a device that were measured.
    pub gaps: u64,
    /// Requests by the version of the template plugin that made their text: `old` or `new`.
    pub made_by: BTreeMap<String, u64>,
    /// How long after a server was killed in the middle of a send the device of that send was sending again, whatever else
    /// was disturbed meanwhile.
    pub recovered: Vec<Duration>,
    /// What must not be.
    pub violations: Vec<String>,
}

impl Findings {
    /// Adds another campaign's.
    pub fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.requests += other.requests;
        self.explained += other.explained;
        self.gaps += other.gaps;
        for (state, n) in other.states {
            *self.states.entry(state).or_default() += n;
        }
        for (version, n) in other.made_by {
            *self.made_by.entry(version).or_default() += n;
        }
        self.recovered.extend(other.recovered);
        self.violations.extend(other.violations);
    }

    fn wrong(&mut self, what: String) {
        if self.violations.len() < MOST {
            self.violations.push(what);
        }
    }
}

/// Checks a campaign that is completed, and empties the sink.
pub async fn check(sink: &Sink, driver: &Driver, plan: &Plan, policy: Policy, rows: &[Row]) -> Findings {
    let arrivals = sink.take();
    let mut found = Findings { messages: rows.len() as u64, requests: arrivals.len() as u64, ..Findings::default() };
    let mut by_message: HashMap<&str, Vec<&Arrival>> = HashMap::new();
    for arrival in &arrivals {
        by_message.entry(&arrival.message).or_default().push(arrival);
    }
    if rows.len() != plan.messages {
        found.wrong(format!("{} messages instead of {}", rows.len(), plan.messages));
    }
    let known: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    for stranger in by_message.keys().filter(|id| !known.contains(**id)) {
        found.wrong(format!("{stranger}: the sink has it, the servers do not know it"));
    }
    for row in rows {
        *found.states.entry(row.status.clone()).or_default() += 1;
        let requests = by_message.get(row.id.as_str()).map_or(&[] as &[_], Vec::as_slice);
        message(driver, policy, row, requests, &mut found).await;
    }
    for arrival in &arrivals {
        *found.made_by.entry(arrival.made_by.clone()).or_default() += 1;
    }
    let by_device = Sink::by_device(&arrivals);
    for (device, struck_at) in sink.take_struck() {
        let sends = by_device.get(device.as_str()).map_or(&[] as &[_], Vec::as_slice);
        found.recovered.extend(sends.iter().find(|a| a.at > struck_at).map(|next| next.at - struck_at));
    }
    for (device, arrivals) in by_device {
        in_turn(driver, device, &arrivals, plan.delay, &mut found).await;
    }
    found
}

async fn message(driver: &Driver, policy: Policy, row: &Row, requests: &[&Arrival], found: &mut Findings) {
    let taken = requests.iter().filter(|a| a.manner.takes()).count();
    match (row.status.as_str(), policy) {
        ("sent", _) if taken == 0 => found.wrong(format!("{}: sent, and the sink never took it", row.id)),
        ("sent", _) | ("unknown", Policy::AtMostOnce) => {}
        _ => found.wrong(format!("{}: ended as {} under {policy:?}", row.id, row.status)),
    }
    let numbers: HashSet<u64> = requests.iter().map(|a| a.attempt).collect();
    if numbers.len() != requests.len() {
        found.wrong(format!("{}: one attempt came twice: {}", row.id, told(requests)));
    }
    if taken > 1 && policy == Policy::AtMostOnce {
        found.wrong(format!("{}: at most once, and taken {taken} times: {}", row.id, told(requests)));
    }
    if taken < 2 && row.status == "sent" {
        return;
    }
    // Each time but the one that counts must have left an attempt that says that nobody knows.
    let kept = driver.get(&format!("/api/v1/messages/{}", row.id)).await;
    let doubtful = doubtful(&kept);
    let open = requests.iter().filter(|a| a.manner.takes() && !doubtful.contains(&a.attempt)).count();
    let counts = usize::from(row.status == "sent");
    if open > counts {
        found.wrong(format!("{}: {open} sends without an attempt that says why: {} {kept}", row.id, told(requests)));
    } else if taken > 1 {
        found.explained += 1;
    }
}

/// Whether the servers say that they got the sink's answer.
async fn heard(driver: &Driver, arrival: &Arrival) -> bool {
    let kept = driver.get(&format!("/api/v1/messages/{}", arrival.message)).await;
    !doubtful(&kept).contains(&arrival.attempt)
}

/// The attempts of which the servers say that they do not know what became of them.
fn doubtful(message: &Value) -> HashSet<u64> {
    message["attempts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|a| matches!(a["outcome"].as_str(), Some("retry" | "unknown")))
        .filter_map(|a| a["attempt"].as_u64())
        .collect()
}

/// One device: one request at a time, in order, never sooner than asked.
async fn in_turn(driver: &Driver, device: &str, arrivals: &[&Arrival], delay: Duration, found: &mut Findings) {
    for pair in arrivals.windows(2) {
        let [before, after] = pair else { continue };
        found.gaps += 1;
        let in_turn = |ended_at| ended_at <= after.at + GRAIN;
        let on_time = |ended_at| {
            !before.manner.takes() || after.at.saturating_duration_since(ended_at) + GRAIN >= delay && in_turn(ended_at)
        };
        let told_so = before.manner != Manner::TakesAndHangs;
        if told_so && in_turn(before.ended_at) && on_time(before.ended_at) {
            continue;
        }
        // An answer that its sender did not hear, because it had given up, was stopped or had died, says nothing of when the
        // device was free: only what the recipient would see is sure.
        let heard = told_so && heard(driver, before).await;
        let ended_at = if heard { before.ended_at } else { before.at };
        if !in_turn(ended_at) {
            found.wrong(format!("{device}: two at a time: {}", told(pair)));
        } else if !on_time(ended_at) {
            let gap = after.at.saturating_duration_since(ended_at);
            found.wrong(format!("{device}: {gap:?} instead of {delay:?} between: {}", told(pair)));
        }
    }
    let first: Vec<&Arrival> = arrivals.iter().filter(|a| a.attempt == 1).copied().collect();
    for pair in first.windows(2) {
        let number = |a: &Arrival| a.message.parse::<u64>().ok();
        if number(pair[0]) > number(pair[1]) {
            found.wrong(format!("{device}: overtaken: {}", told(pair)));
        }
    }
}

fn told(arrivals: &[&Arrival]) -> String {
    let Some(first) = arrivals.first() else { return String::new() };
    let one = |a: &&Arrival| {
        let at = |t: tokio::time::Instant| t.saturating_duration_since(first.at).as_millis();
        format!("[{} attempt {} {:?} at {}..{} ms]", a.message, a.attempt, a.manner, at(a.at), at(a.ended_at))
    };
    arrivals.iter().map(one).collect::<Vec<_>>().join(" ")
}

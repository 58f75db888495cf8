//! What a turn consists of, for both stores: each device ends an attempt, begins one, or goes from one to the next.

use std::collections::{BTreeMap, HashSet};

use super::rows;
use crate::id::DeviceNo;
use crate::message::{Claim, Settlement};

/// What one device does.
pub struct Step<'a> {
    /// The device.
    pub device: DeviceNo,
    /// The attempt that ends, and its place in the call.
    pub end: Option<(usize, &'a Settlement)>,
    /// The message that it wants to begin, and its place in the call.
    pub claim: Option<(usize, &'a Claim)>,
}

/// Steps in groups that name each device and message once: as a rule one group. In device order, against deadlocks.
///
/// A claim goes with its device's end unless it is for the very message that ends, or under an older lease: whether
/// such a one may begin is only known when the end has been written.
pub fn groups<'a>(ends: &'a [Settlement], claims: &'a [Claim]) -> Vec<Vec<Step<'a>>> {
    let mut first: BTreeMap<DeviceNo, Step<'a>> = BTreeMap::new();
    let (mut ended, mut begun) = (HashSet::new(), HashSet::new());
    let mut repeats = Vec::new();
    for (place, end) in ends.iter().enumerate() {
        let step = Step { device: end.device, end: Some((place, end)), claim: None };
        if ended.insert(end.message) && !first.contains_key(&end.device) {
            first.insert(end.device, step);
        } else {
            repeats.push(vec![step]);
        }
    }
    for (place, claim) in claims.iter().enumerate() {
        let step = first.entry(claim.device).or_insert(Step { device: claim.device, end: None, claim: None });
        let follows = step.end.is_none_or(|(_, end)| end.message != claim.message && end.token <= claim.token);
        if begun.insert(claim.message) && follows && step.claim.is_none() {
            step.claim = Some((place, claim));
        } else {
            repeats.push(vec![Step { device: claim.device, end: None, claim: Some((place, claim)) }]);
        }
    }
    let mut groups = Vec::with_capacity(1 + repeats.len());
    groups.push(first.into_values().filter(|step| step.end.is_some() || step.claim.is_some()).collect::<Vec<_>>());
    groups.append(&mut repeats);
    groups.retain(|group| !group.is_empty());
    groups
}

/// Whether an attempt's end changes more than its message and the counts.
pub fn has_more(end: &Settlement) -> bool {
    rows::attempt_outcome(&end.outcome).is_some()
        || end.pace.is_some()
        || end.suppress.is_some()
        || end.sequence.is_some()
        || end.receipt.is_some()
}

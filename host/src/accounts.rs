//! What sender plugins keep per provider account (a session id, a token's expiry): a cache in this process, bounded.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::device::Device;
use crate::id::Digest;

/// Accounts remembered at most; beyond that the cache starts anew, which a sender must survive anyway.
const MAX_ACCOUNTS: usize = 10_000;
/// The longest state, in bytes; a longer one is not kept.
const MAX_STATE: usize = 16 * 1024;

/// States by plugin version and account, which a device without one is by itself: another version starts afresh, another plugin
/// never sees them.
#[derive(Default)]
pub struct AccountStates {
    states: Mutex<HashMap<(Digest, String), String>>,
}

impl AccountStates {
    /// What the version last kept for the device's account; empty when nothing.
    pub fn get(&self, plugin: Digest, device: &Device) -> String {
        let states = self.states.lock();
        if states.is_empty() {
            return String::new();
        }
        states.get(&(plugin, account(device).to_owned())).cloned().unwrap_or_default()
    }

    /// Keeps a state for the device's account.
    pub fn put(&self, plugin: Digest, device: &Device, state: String) {
        if state.len() > MAX_STATE {
            return;
        }
        let mut states = self.states.lock();
        if states.len() >= MAX_ACCOUNTS {
            states.clear();
        }
        states.insert((plugin, account(device).to_owned()), state);
    }
}

fn account(device: &Device) -> &str {
    device.spec.account.as_deref().unwrap_or(device.spec.id.as_str())
}

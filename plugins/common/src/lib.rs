//! What the first-party plugins share: configurations that are parsed once, random numbers that follow from the call's own, what
//! senders of HTTP APIs have in common, and a heap for short calls.

pub mod arrival;
pub mod contract;
pub mod provider;

// Its blocks are those of one thread: not for other machines, where tests compile this.
#[cfg(target_family = "wasm")]
mod heap;

use std::cell::RefCell;
use std::rc::Rc;

use serde::de::DeserializeOwned;

/// Keeps what was made from a text, by that text: a campaign's configuration comes with every call.
pub struct Cache<T> {
    entries: RefCell<Vec<(String, Rc<T>)>>,
}

/// One instance serves the campaigns of a moment; more entries only cost memory.
const ENTRIES: usize = 8;

impl<T> Cache<T> {
    /// An empty cache.
    pub const fn new() -> Self {
        Self { entries: RefCell::new(Vec::new()) }
    }

    /// What was made from `text`, or what `make` makes of it now. Errors are not kept.
    pub fn get<E>(&self, text: &str, make: impl FnOnce(&str) -> Result<T, E>) -> Result<Rc<T>, E> {
        let mut entries = self.entries.borrow_mut();
        if let Some(at) = entries.iter().position(|(key, _)| key == text) {
            // The latest goes first, so that what is not used any more falls off the end.
            if at > 0 {
                let entry = entries.remove(at);
                entries.insert(0, entry);
            }
            if let Some((_, value)) = entries.first() {
                return Ok(Rc::clone(value));
            }
        }
        let value = Rc::new(make(text)?);
        entries.insert(0, (text.to_owned(), Rc::clone(&value)));
        entries.truncate(ENTRIES);
        Ok(value)
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Days since 1970-01-01 in the Gregorian calendar (years that begin in March).
pub(crate) const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (m * 153 + 2) / 5 + day - 1 - 719_468
}

/// Reads a configuration; the error says where it goes wrong.
pub fn parse<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    serde_json::from_str(config).map_err(|e| format!("the configuration cannot be read: {e}"))
}

/// Numbers that follow from one random number (splitmix64): the same call always decides the same.
pub struct Random(u64);

impl Random {
    /// Starts from a call's random number.
    pub const fn new(seed: u32) -> Self {
        Self(seed as u64)
    }

    /// Uniform in 0 ≤ x < 1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform between `min` and `max`.
    pub fn between(&mut self, min: f64, max: f64) -> f64 {
        min + self.unit() * (max - min)
    }
}

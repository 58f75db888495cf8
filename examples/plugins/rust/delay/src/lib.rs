//! A delay strategy: a random pause and the time to type the text, longer for as long as the provider asks to slow down.

use carillon_plugin::{Call, Delay, Error, LastOutcome, Pace, Plugin, Result};
use serde::Deserialize;

/// At most this many times slower.
const SLOWEST: u32 = 64;

/// The configuration, as `config.schema.json` describes it.
#[derive(Deserialize)]
struct Typist {
    min_ms: f64,
    max_ms: f64,
    #[serde(default)]
    per_character_ms: f64,
}

impl Plugin for Typist {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");

    fn checked(self) -> Result<Self> {
        if self.min_ms > self.max_ms {
            return Err(Error::config("min_ms must not be greater than max_ms"));
        }
        Ok(self)
    }
}

impl Delay for Typist {
    /// How many times slower the device is; nothing at first.
    type State = Option<u32>;

    fn next_delay(&self, call: &Call, pace: &Pace, state: &mut Option<u32>) -> Result<f64> {
        // Twice as slow each time that the provider asks to slow down, half as slow with each message that it takes.
        let slower = state.unwrap_or(1);
        let slower = match pace.last_outcome {
            LastOutcome::Throttled => SLOWEST.min(slower.saturating_mul(2)),
            LastOutcome::Sent => 1.max(slower / 2),
            _ => slower,
        };
        *state = Some(slower);
        // All randomness comes with the call, so that a call can be repeated exactly.
        let share = f64::from(call.random) / 4_294_967_296.0;
        let pause_ms = self.min_ms + (self.max_ms - self.min_ms) * share;
        let typing_ms = self.per_character_ms * f64::from(pace.text_length);
        Ok((pause_ms + typing_ms) * f64::from(slower))
    }
}

carillon_plugin::export!(Typist: Delay);

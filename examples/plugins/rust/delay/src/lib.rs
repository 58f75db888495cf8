//! A delay strategy: a random pause and the time to type the text, longer for as long as the provider asks to slow down.

wit_bindgen::generate!({ path: "../../../../wit", world: "delay-strategy" });

use carillon::plugin::types::{Context, PluginError};
use exports::carillon::plugin::delay::{LastOutcome, Next, Pace};
use exports::carillon::plugin::{delay, describe};
use serde::Deserialize;

/// At most this many times slower.
const SLOWEST: u32 = 64;

#[derive(Deserialize)]
struct Config {
    min_ms: f64,
    max_ms: f64,
    #[serde(default)]
    per_character_ms: f64,
}

struct Plugin;

impl describe::Guest for Plugin {
    fn get() -> describe::Info {
        describe::Info {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Waits as a person would who types, and slows down when asked to.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: vec![],
            secrets: vec![],
            capabilities: vec![],
        }
    }
}

impl delay::Guest for Plugin {
    fn next_delay(ctx: Context, pace: Pace, state: String) -> Result<Next, PluginError> {
        let config: Config =
            serde_json::from_str(&ctx.config).map_err(|e| PluginError::InvalidConfig(e.to_string()))?;
        if config.min_ms > config.max_ms {
            return Err(PluginError::InvalidConfig("min_ms must not be greater than max_ms".into()));
        }
        // The state is how many times slower the device is; empty at first. Twice as slow each time that the provider asks to
        // slow down, half as slow with each message that it takes.
        let slower = state.parse().unwrap_or(1);
        let slower = match pace.last_outcome {
            LastOutcome::Throttled => SLOWEST.min(slower * 2),
            LastOutcome::Sent => 1.max(slower / 2),
            _ => slower,
        };
        // All randomness comes with the call, so that a call can be repeated exactly.
        let share = f64::from(ctx.random) / 4_294_967_296.0;
        let pause_ms = config.min_ms + (config.max_ms - config.min_ms) * share;
        let typing_ms = config.per_character_ms * f64::from(pace.text_length);
        Ok(Next { delay_ms: (pause_ms + typing_ms) * f64::from(slower), state: slower.to_string() })
    }
}

export!(Plugin);

//! A device finds its own pace: faster with each success, slower when sends fail or the provider asks for it.
// Only WebAssembly exports it: a test is of the pace.
#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use common::{Cache, Random};

use crate::bindings::carillon::plugin::types::{Context, PluginError};
use crate::bindings::exports::carillon::plugin::delay::{Guest as Delay, LastOutcome, Next, Pace};
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::pace::{Config, Sign};

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "delay-strategy" });
}
mod pace;

fn read(text: &str) -> Result<Config, PluginError> {
    common::parse::<Config>(text).and_then(Config::checked).map_err(PluginError::InvalidConfig)
}

thread_local! {
    static CONFIGS: Cache<Config> = const { Cache::new() };
}

struct Adaptive;

impl Describe for Adaptive {
    fn get() -> Info {
        Info {
            name: "adaptive".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Speeds up with each success, and slows down when sends fail or the provider asks for it.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: Vec::new(),
        }
    }
}

impl Delay for Adaptive {
    fn next_delay(ctx: Context, pace: Pace, state: String) -> Result<Next, PluginError> {
        let config = CONFIGS.with(|c| c.get(&ctx.config, read))?;
        let sign = match pace.last_outcome {
            LastOutcome::None => Sign::Nothing,
            LastOutcome::Sent => Sign::Success,
            LastOutcome::Throttled => Sign::Throttled,
            LastOutcome::Retried | LastOutcome::Failed => Sign::Failure { in_a_row: pace.failures_in_a_row },
        };
        let now = config.pace_ms(config.remembered_ms(&state), sign);
        let delay_ms = config.delay_ms(now, Random::new(ctx.random).unit());
        Ok(Next { delay_ms, state: now.to_string() })
    }
}

#[cfg(target_family = "wasm")]
bindings::export!(Adaptive with_types_in bindings);

//! A new device ramps up: few messages on its first day, a little more on each day that follows, until it sends as many as it may.
// Only WebAssembly exports it: a test is of the curve.
#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use common::{Cache, Random};

use crate::bindings::carillon::plugin::types::{Context, PluginError};
use crate::bindings::exports::carillon::plugin::delay::{Guest as Delay, Next, Pace};
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::curve::Config;

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "delay-strategy" });
}
mod curve;

fn read(text: &str) -> Result<Config, PluginError> {
    common::parse::<Config>(text).and_then(Config::checked).map_err(PluginError::InvalidConfig)
}

thread_local! {
    static CONFIGS: Cache<Config> = const { Cache::new() };
}

struct Warmup;

impl Describe for Warmup {
    fn get() -> Info {
        Info {
            name: "warmup".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Lets a new device send a few messages on its first day and more on each that follows.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: Vec::new(),
        }
    }
}

impl Delay for Warmup {
    fn next_delay(ctx: Context, pace: Pace, _state: String) -> Result<Next, PluginError> {
        let config = CONFIGS.with(|c| c.get(&ctx.config, read))?;
        let dice = Random::new(ctx.random).unit();
        Ok(Next { delay_ms: config.delay_ms(pace.age_days, pace.sent_today, ctx.now, dice), state: String::new() })
    }
}

#[cfg(target_family = "wasm")]
bindings::export!(Warmup with_types_in bindings);

//! The classic delay: a uniform random time between a minimum and a maximum.

use common::Random;
use serde::Deserialize;

use crate::bindings::carillon::plugin::types::{Context, PluginError};
use crate::bindings::exports::carillon::plugin::delay::{Guest as Delay, Next, Pace};
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "delay-strategy" });
}

#[derive(Deserialize)]
struct Config {
    min_ms: f64,
    max_ms: f64,
}

struct Uniform;

impl Describe for Uniform {
    fn get() -> Info {
        Info {
            name: "uniform".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Waits a uniform random time between a minimum and a maximum.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: Vec::new(),
        }
    }
}

impl Delay for Uniform {
    fn next_delay(ctx: Context, _pace: Pace, _state: String) -> Result<Next, PluginError> {
        let Config { min_ms, max_ms } = common::parse(&ctx.config).map_err(PluginError::InvalidConfig)?;
        if !(0.0 <= min_ms && min_ms <= max_ms) {
            return Err(PluginError::InvalidConfig("min_ms must be 0 or more and not greater than max_ms".into()));
        }
        Ok(Next { delay_ms: Random::new(ctx.random).between(min_ms, max_ms), state: String::new() })
    }
}

bindings::export!(Uniform with_types_in bindings);

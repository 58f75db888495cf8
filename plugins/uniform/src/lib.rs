//! The classic delay: a uniform random time between a minimum and a maximum.

use common::{Cache, Random};
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

impl Config {
    fn read(text: &str) -> Result<Self, PluginError> {
        let config: Self = common::parse(text).map_err(PluginError::InvalidConfig)?;
        if 0.0 <= config.min_ms && config.min_ms <= config.max_ms {
            Ok(config)
        } else {
            Err(PluginError::InvalidConfig("min_ms must be 0 or more and not greater than max_ms".into()))
        }
    }
}

thread_local! {
    static CONFIGS: Cache<Config> = const { Cache::new() };
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
        let config = CONFIGS.with(|c| c.get(&ctx.config, Config::read))?;
        let delay_ms = Random::new(ctx.random).between(config.min_ms, config.max_ms);
        Ok(Next { delay_ms, state: String::new() })
    }
}

bindings::export!(Uniform with_types_in bindings);

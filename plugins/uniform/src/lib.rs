//! The classic delay: a uniform random time between a minimum and a maximum.

use carillon_plugin::{Call, Delay, Error, Pace, Plugin, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Uniform {
    min_ms: f64,
    max_ms: f64,
}

impl Plugin for Uniform {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");

    fn checked(self) -> Result<Self> {
        if 0.0 <= self.min_ms && self.min_ms <= self.max_ms {
            Ok(self)
        } else {
            Err(Error::config("min_ms must be 0 or more and not greater than max_ms"))
        }
    }
}

impl Delay for Uniform {
    type State = ();

    fn next_delay(&self, call: &Call, _: &Pace, _: &mut ()) -> Result<f64> {
        Ok(call.dice().between(self.min_ms, self.max_ms))
    }
}

carillon_plugin::export!(Uniform: Delay);

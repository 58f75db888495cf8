//! A new device ramps up: few messages on its first day, a little more on each day that follows, until it sends as many as it may.

use carillon_plugin::{Call, Delay, Error, Pace, Plugin, Result};

use crate::curve::Curve;

mod curve;

impl Plugin for Curve {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");

    fn checked(self) -> Result<Self> {
        match self.misfit() {
            Some(why) => Err(Error::config(why)),
            None => Ok(self),
        }
    }
}

impl Delay for Curve {
    type State = ();

    fn next_delay(&self, call: &Call, pace: &Pace, _: &mut ()) -> Result<f64> {
        Ok(self.delay_ms(pace.age_days, pace.sent_today, call.now_ms, call.dice().unit()))
    }
}

carillon_plugin::export!(Curve: Delay);

//! A device finds its own pace: faster with each success, slower when sends fail or the provider asks for it.

use carillon_plugin::{Call, Delay, Error, LastOutcome, Pace, Plugin, Result};

use crate::pace::{Adaptive, Sign};

mod pace;

impl Plugin for Adaptive {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");

    fn checked(self) -> Result<Self> {
        match self.misfit() {
            Some(why) => Err(Error::config(why)),
            None => Ok(self),
        }
    }
}

impl Delay for Adaptive {
    /// The device's pace.
    type State = Option<f64>;

    fn next_delay(&self, call: &Call, pace: &Pace, state: &mut Option<f64>) -> Result<f64> {
        let sign = match pace.last_outcome {
            LastOutcome::None => Sign::Nothing,
            LastOutcome::Sent => Sign::Success,
            LastOutcome::Throttled => Sign::Throttled,
            LastOutcome::Retried | LastOutcome::Failed => Sign::Failure { in_a_row: pace.failures_in_a_row },
        };
        let now = self.pace_ms(self.remembered_ms(*state), sign);
        *state = Some(now);
        Ok(self.delay_ms(now, call.dice().unit()))
    }
}

carillon_plugin::export!(Adaptive: Delay);

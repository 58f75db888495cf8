//! World `delay-strategy`: how long a device waits before its next message.

use super::instance::Functions;
use super::record::Input;
use super::stats::Function;
use super::types::{CallContext, NextDelay, PaceFacts, PluginFault};
use super::wire::{Context, Pace};
use super::{Plugin, duration, wrong_world};

impl Plugin {
    /// Asks a delay strategy how long to wait after a send.
    ///
    /// # Errors
    /// The call's fault; also when the plugin is of another kind, or its answer breaks a limit.
    pub async fn next_delay(&self, ctx: &CallContext, pace: PaceFacts, state: &str) -> Result<NextDelay, PluginFault> {
        // Next to nothing: the device is shared, and there are no other facts yet.
        let kept = pace.clone();
        let next = self.ask_next_delay(ctx, pace, state).await;
        self.record(ctx, next.as_ref().err(), || Some(Input::NextDelay { pace: kept, state: state.to_owned() }));
        next
    }

    async fn ask_next_delay(&self, ctx: &CallContext, pace: PaceFacts, state: &str) -> Result<NextDelay, PluginFault> {
        let (context, pace, state) = (Context::from(ctx), Pace::from(pace), state.to_owned());
        let room = self.limits().pace_state_bytes + SLACK;
        let next = self
            .call(Function::NextDelay, ctx, room, move |instance| match &instance.functions {
                Functions::Delay { next_delay } => next_delay.call(&mut instance.store, (context, pace, state)),
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::NextDelay, || {
            let max = self.limits().pace_state_bytes;
            if next.state.len() > max {
                return Err(PluginFault::Output(format!("a delay strategy's state has at most {max} bytes")));
            }
            Ok(NextDelay { delay_ms: duration("delay-ms", next.delay_ms)?, state: next.state })
        })
    }
}

/// For what is around the texts.
const SLACK: usize = 4 << 10;

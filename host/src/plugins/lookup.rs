//! Interface `lookup`, which a sender may have: whether a message with unknown outcome was sent.

use super::instance::Functions;
use super::stats::Function;
use super::types::{Answer, CallContext, Outbound, PluginFault, Progress};
use super::wire::Context;
use super::{Plugin, wrong_world};

impl Plugin {
    /// Whether the plugin says that it can look messages up.
    pub fn can_look_up(&self) -> bool {
        self.info.can("lookup")
    }

    /// Begins a look-up.
    ///
    /// # Errors
    /// The call's fault; also when the plugin has no look-up, or its answer breaks a limit.
    pub async fn start_lookup(&self, ctx: &CallContext, message: Outbound) -> Result<Progress, PluginFault> {
        let context = Context::from(ctx);
        let progress = self
            .call(Function::StartLookup, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { lookup: Some((start, _)), .. } => {
                    start.call(&mut instance.store, (context, message))
                }
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::StartLookup, || self.check_progress(progress.into()))
    }

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// As for [`Plugin::start_lookup`].
    pub async fn resume_lookup(&self, ctx: &CallContext, state: &str, answer: Answer) -> Result<Progress, PluginFault> {
        let (context, state) = (Context::from(ctx), state.to_owned());
        let progress = self
            .call(Function::ResumeLookup, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { lookup: Some((_, resume)), .. } => {
                    resume.call(&mut instance.store, (context, state, answer))
                }
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::ResumeLookup, || self.check_progress(progress.into()))
    }
}

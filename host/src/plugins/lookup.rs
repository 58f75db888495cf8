//! Interface `lookup`, which a sender may have: whether a message with unknown outcome was sent.

use std::sync::Arc;

use super::instance::Functions;
use super::record::Input;
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
        let message = Arc::new(message);
        let progress = self.ask_start_lookup(ctx, Arc::clone(&message)).await;
        self.record(ctx, progress.as_ref().err(), || Some(Input::Start { lookup: true, message }));
        progress
    }

    async fn ask_start_lookup(&self, ctx: &CallContext, message: Arc<Outbound>) -> Result<Progress, PluginFault> {
        let context = Context::from(ctx);
        let progress = self
            .call(Function::StartLookup, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { lookup: Some((start, _)), .. } => {
                    start.call(&mut instance.store, (context, message))
                }
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::StartLookup, || self.check_progress(progress))
    }

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// As for [`Plugin::start_lookup`].
    pub async fn resume_lookup(&self, ctx: &CallContext, state: &str, answer: Answer) -> Result<Progress, PluginFault> {
        let answer = Arc::new(answer);
        let progress = self.ask_resume_lookup(ctx, state, Arc::clone(&answer)).await;
        let input = || Some(Input::Resume { lookup: true, state: state.to_owned(), answer });
        self.record(ctx, progress.as_ref().err(), input);
        progress
    }

    async fn ask_resume_lookup(
        &self,
        ctx: &CallContext,
        state: &str,
        answer: Arc<Answer>,
    ) -> Result<Progress, PluginFault> {
        let (context, state) = (Context::from(ctx), state.to_owned());
        let progress = self
            .call(Function::ResumeLookup, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { lookup: Some((_, resume)), .. } => {
                    resume.call(&mut instance.store, (context, state, answer))
                }
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::ResumeLookup, || self.check_progress(progress))
    }
}

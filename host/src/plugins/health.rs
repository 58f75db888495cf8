//! Interface `health`, which a sender may have: whether a device can send.

use std::sync::Arc;

use super::instance::Functions;
use super::record::Input;
use super::stats::Function;
use super::types::{Answer, CallContext, HealthSubject, HealthVerdict, PluginFault, Progress};
use super::wire::Context;
use super::{Plugin, wrong_world};

impl Plugin {
    /// Whether the plugin says that it can tell whether a device can send.
    pub fn checks_health(&self) -> bool {
        self.info.can("health")
    }

    /// Begins a check of a device.
    ///
    /// # Errors
    /// The call's fault; also when the plugin has no checks, or its answer breaks a limit.
    pub async fn start_health(
        &self,
        ctx: &CallContext,
        subject: HealthSubject,
    ) -> Result<Progress<HealthVerdict>, PluginFault> {
        let subject = Arc::new(subject);
        let progress = self.ask_start_health(ctx, Arc::clone(&subject)).await;
        self.record(ctx, progress.as_ref().err(), || Some(Input::StartHealth(subject)));
        progress
    }

    async fn ask_start_health(
        &self,
        ctx: &CallContext,
        subject: Arc<HealthSubject>,
    ) -> Result<Progress<HealthVerdict>, PluginFault> {
        let context = Context::from(ctx);
        let progress = self
            .call(Function::StartHealth, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { health: Some((start, _)), .. } => {
                    start.call(&mut instance.store, (context, subject))
                }
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::StartHealth, || self.check_progress(progress))
    }

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// As for [`Plugin::start_health`].
    pub async fn resume_health(
        &self,
        ctx: &CallContext,
        state: &str,
        answer: Answer,
    ) -> Result<Progress<HealthVerdict>, PluginFault> {
        let answer = Arc::new(answer);
        let progress = self.ask_resume_health(ctx, state, Arc::clone(&answer)).await;
        let input = || Some(Input::ResumeHealth { state: state.to_owned(), answer });
        self.record(ctx, progress.as_ref().err(), input);
        progress
    }

    async fn ask_resume_health(
        &self,
        ctx: &CallContext,
        state: &str,
        answer: Arc<Answer>,
    ) -> Result<Progress<HealthVerdict>, PluginFault> {
        let (context, state) = (Context::from(ctx), state.to_owned());
        let progress = self
            .call(Function::ResumeHealth, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { health: Some((_, resume)), .. } => {
                    resume.call(&mut instance.store, (context, state, answer))
                }
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::ResumeHealth, || self.check_progress(progress))
    }
}

//! World `device-sender`, how a device sends; and the interfaces that a sender may have and that are conversations like a send:
//! `lookup`, whether a message with unknown outcome was sent, and `health`, whether a device can send.

use std::sync::Arc;

use wasmtime::component::Lower;

use super::instance::{Functions, Talk};
use super::record::Input;
use super::stats::Function;
use super::types::{
    Answer, CallContext, Ending, HealthSubject, HealthVerdict, HttpRequest, Outbound, PluginBody, PluginFault,
    Progress, Round, Step,
};
use super::wire::Context;
use super::{Plugin, duration, wrong_world};

/// For what is around the texts of a request.
const SLACK: usize = 64 << 10;

impl Plugin {
    /// Begins a send.
    ///
    /// # Errors
    /// The call's fault; also when the plugin is of another kind, or its answer breaks a limit. Nothing has left then.
    pub async fn start(&self, ctx: &CallContext, message: Outbound) -> Result<Progress, PluginFault> {
        let message = Arc::new(message);
        let progress = self.ask_start(Function::Start, Functions::send, ctx, Arc::clone(&message)).await;
        self.record(ctx, progress.as_ref().err(), || Some(Input::Start { lookup: false, message }));
        progress
    }

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// As for [`Plugin::start`]; but a request may have left.
    pub async fn resume(&self, ctx: &CallContext, state: &str, answer: Answer) -> Result<Progress, PluginFault> {
        let answer = Arc::new(answer);
        let progress = self.ask_resume(Function::Resume, Functions::send, ctx, state, Arc::clone(&answer)).await;
        let input = || Some(Input::Resume { lookup: false, state: state.to_owned(), answer });
        self.record(ctx, progress.as_ref().err(), input);
        progress
    }

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
        let progress = self.ask_start(Function::StartLookup, Functions::lookup, ctx, Arc::clone(&message)).await;
        self.record(ctx, progress.as_ref().err(), || Some(Input::Start { lookup: true, message }));
        progress
    }

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// As for [`Plugin::start_lookup`].
    pub async fn resume_lookup(&self, ctx: &CallContext, state: &str, answer: Answer) -> Result<Progress, PluginFault> {
        let answer = Arc::new(answer);
        let progress =
            self.ask_resume(Function::ResumeLookup, Functions::lookup, ctx, state, Arc::clone(&answer)).await;
        let input = || Some(Input::Resume { lookup: true, state: state.to_owned(), answer });
        self.record(ctx, progress.as_ref().err(), input);
        progress
    }

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
        let progress = self.ask_start(Function::StartHealth, Functions::health, ctx, Arc::clone(&subject)).await;
        self.record(ctx, progress.as_ref().err(), || Some(Input::StartHealth(subject)));
        progress
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
        let progress =
            self.ask_resume(Function::ResumeHealth, Functions::health, ctx, state, Arc::clone(&answer)).await;
        let input = || Some(Input::ResumeHealth { state: state.to_owned(), answer });
        self.record(ctx, progress.as_ref().err(), input);
        progress
    }

    /// Begins a conversation, with the pair of functions that `talk` finds.
    async fn ask_start<Subject: Lower + 'static, End: Ending>(
        &self,
        function: Function,
        talk: impl FnOnce(&Functions) -> Option<&Talk<Subject, End>> + Send + 'static,
        ctx: &CallContext,
        subject: Arc<Subject>,
    ) -> Result<Progress<End>, PluginFault> {
        let context = Context::from(ctx);
        let progress = self
            .call(function, ctx, self.request_room(), move |instance| match talk(&instance.functions) {
                Some(talk) => talk.start.call(&mut instance.store, (context, subject)),
                None => wrong_world(),
            })
            .await?;
        self.checked(function, || self.check_progress(progress))
    }

    /// Goes on with a conversation.
    async fn ask_resume<Subject: Lower + 'static, End: Ending>(
        &self,
        function: Function,
        talk: impl FnOnce(&Functions) -> Option<&Talk<Subject, End>> + Send + 'static,
        ctx: &CallContext,
        state: &str,
        answer: Arc<Answer>,
    ) -> Result<Progress<End>, PluginFault> {
        let (context, state) = (Context::from(ctx), state.to_owned());
        let progress = self
            .call(function, ctx, self.request_room(), move |instance| match talk(&instance.functions) {
                Some(talk) => talk.resume.call(&mut instance.store, (context, state, answer)),
                None => wrong_world(),
            })
            .await?;
        self.checked(function, || self.check_progress(progress))
    }

    fn request_room(&self) -> usize {
        let limits = self.limits();
        limits.body_bytes + limits.url_bytes + limits.header_bytes + 2 * limits.send_state_bytes + SLACK
    }

    /// Checks an answer against the limits, and cuts its texts.
    fn check_progress<End: Ending>(&self, mut progress: Progress<End>) -> Result<Progress<End>, PluginFault> {
        let max = self.limits().send_state_bytes;
        match &mut progress.step {
            Step::Done(end) => {
                if let Some(ms) = end.wait_ms() {
                    duration("the time to wait", ms)?;
                }
                end.trim();
            }
            Step::Request(Round { request, state }) => {
                if state.len() > max {
                    return Err(PluginFault::Output(format!("a sender's state has at most {max} bytes")));
                }
                self.check_request(request)?;
            }
        }
        if progress.account_state.as_ref().is_some_and(|state| state.len() > max) {
            return Err(PluginFault::Output(format!("an account's state has at most {max} bytes")));
        }
        Ok(progress)
    }

    fn check_request(&self, request: &HttpRequest) -> Result<(), PluginFault> {
        let limits = self.limits();
        duration("timeout-ms", request.timeout_ms)?;
        let body = match &request.body {
            PluginBody::Empty => 0,
            PluginBody::Text(text) => text.len(),
            PluginBody::Bytes(bytes) => bytes.len(),
        };
        let headers: usize = request.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        for (what, size, max) in [
            ("a URL has at most {} bytes", request.url.len(), limits.url_bytes),
            ("a request has at most {} headers", request.headers.len(), limits.headers),
            ("headers have at most {} bytes together", headers, limits.header_bytes),
            ("a body has at most {} bytes", body, limits.body_bytes),
        ] {
            if size > max {
                return Err(PluginFault::Output(what.replace("{}", &max.to_string())));
            }
        }
        Ok(())
    }
}

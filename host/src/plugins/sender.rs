//! World `device-sender`: how a device sends.

use std::sync::Arc;

use super::instance::Functions;
use super::record::Input;
use super::stats::Function;
use super::types::{
    Answer, CallContext, Ending, HttpRequest, Outbound, PluginBody, PluginFault, Progress, Round, Step,
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
        let progress = self.ask_start(ctx, Arc::clone(&message)).await;
        self.record(ctx, progress.as_ref().err(), || Some(Input::Start { lookup: false, message }));
        progress
    }

    async fn ask_start(&self, ctx: &CallContext, message: Arc<Outbound>) -> Result<Progress, PluginFault> {
        let context = Context::from(ctx);
        let progress = self
            .call(Function::Start, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { start, .. } => start.call(&mut instance.store, (context, message)),
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::Start, || self.check_progress(progress))
    }

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// As for [`Plugin::start`]; but a request may have left.
    pub async fn resume(&self, ctx: &CallContext, state: &str, answer: Answer) -> Result<Progress, PluginFault> {
        let answer = Arc::new(answer);
        let progress = self.ask_resume(ctx, state, Arc::clone(&answer)).await;
        let input = || Some(Input::Resume { lookup: false, state: state.to_owned(), answer });
        self.record(ctx, progress.as_ref().err(), input);
        progress
    }

    async fn ask_resume(&self, ctx: &CallContext, state: &str, answer: Arc<Answer>) -> Result<Progress, PluginFault> {
        let (context, state) = (Context::from(ctx), state.to_owned());
        let progress = self
            .call(Function::Resume, ctx, self.request_room(), move |instance| match &instance.functions {
                Functions::Sender { resume, .. } => resume.call(&mut instance.store, (context, state, answer)),
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::Resume, || self.check_progress(progress))
    }

    pub(super) fn request_room(&self) -> usize {
        let limits = self.limits();
        limits.body_bytes + limits.url_bytes + limits.header_bytes + 2 * limits.send_state_bytes + SLACK
    }

    /// Checks an answer against the limits, and cuts its texts.
    pub(super) fn check_progress<End: Ending>(
        &self,
        mut progress: Progress<End>,
    ) -> Result<Progress<End>, PluginFault> {
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

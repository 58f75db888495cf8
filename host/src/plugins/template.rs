//! World `message-template`: what each message says.

use super::instance::Functions;
use super::record::Input;
use super::stats::Function;
use super::types::{CallContext, Content, PluginFault, RenderJob};
use super::wire::Context;
use super::{Plugin, wrong_world};

/// Variables that a template can name.
const MAX_VARIABLES: usize = 1_000;

impl Plugin {
    /// Makes messages: one answer per job, in order.
    ///
    /// # Errors
    /// The call's fault; also when the plugin is of another kind, or its answer has another number of messages.
    pub async fn render(
        &self,
        ctx: &CallContext,
        jobs: Vec<RenderJob>,
    ) -> Result<Vec<Result<Content, PluginFault>>, PluginFault> {
        // Its parts are shared. A batch is kept by none of its messages: which one failed cannot be told.
        let kept = if let [job] = jobs.as_slice() { Some(job.clone()) } else { None };
        let contents = self.ask_render(ctx, jobs).await;
        let fault = match &contents {
            Err(fault) => Some(fault),
            Ok(contents) => contents.iter().find_map(|content| content.as_ref().err()),
        };
        self.record(ctx, fault, || kept.map(Input::Render));
        contents
    }

    async fn ask_render(
        &self,
        ctx: &CallContext,
        jobs: Vec<RenderJob>,
    ) -> Result<Vec<Result<Content, PluginFault>>, PluginFault> {
        let asked = jobs.len();
        let context = Context::from(ctx);
        // A message that is a little too large fails alone; only one that is far too large ends the call.
        let room = self.limits().content_bytes.saturating_mul(asked.saturating_add(1));
        let contents = self
            .call(Function::Render, ctx, room, move |instance| match &instance.functions {
                Functions::Template { render, .. } => render.call(&mut instance.store, (context, jobs)),
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::Render, || {
            if contents.len() != asked {
                let answered = contents.len();
                return Err(PluginFault::Output(format!("{asked} messages were asked for and {answered} answered")));
            }
            Ok(contents
                .into_iter()
                .map(|content| self.checked(Function::Render, || self.check_content(content?)))
                .collect())
        })
    }

    /// The recipients' variables that a configuration uses.
    ///
    /// # Errors
    /// The call's fault; also when the plugin is of another kind.
    pub async fn variables(&self, ctx: &CallContext) -> Result<Vec<String>, PluginFault> {
        let variables = self.ask_variables(ctx).await;
        self.record(ctx, variables.as_ref().err(), || Some(Input::Variables));
        variables
    }

    async fn ask_variables(&self, ctx: &CallContext) -> Result<Vec<String>, PluginFault> {
        let context = Context::from(ctx);
        let variables = self
            .call(Function::Variables, ctx, self.limits().content_bytes, move |instance| match &instance.functions {
                Functions::Template { variables, .. } => variables.call(&mut instance.store, (context,)),
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::Variables, || {
            if variables.len() > MAX_VARIABLES {
                return Err(PluginFault::Output(format!("a template names at most {MAX_VARIABLES} variables")));
            }
            Ok(variables)
        })
    }

    fn check_content(&self, content: Content) -> Result<Content, PluginFault> {
        let size = content.text.len()
            + content.subject.as_ref().map_or(0, String::len)
            + content.media.iter().map(|m| m.kind.len() + m.url.len()).sum::<usize>()
            + content.attributes.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
        let max = self.limits().content_bytes;
        if size > max {
            return Err(PluginFault::Output(format!("a message has at most {max} bytes")));
        }
        Ok(content)
    }
}

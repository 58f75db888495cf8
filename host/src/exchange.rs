//! Between plugins and egress: a request that a plugin wants made, what it is told came of it, and conversations that consist of
//! nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Core;
use crate::egress::{Body, EgressAnswer, EgressRequest};
use crate::plugins::{
    Answer, CallContext, HttpRequest, HttpResponse, Plugin, PluginBody, PluginFault, Progress, Round, Step,
};

/// Requests that a plugin may make for one message, for one look-up, or for one check of a device.
pub const MAX_ROUNDS: u32 = 8;

/// A plugin's request as the way out takes it.
pub fn egress_request(request: HttpRequest) -> EgressRequest {
    let HttpRequest { method, url, headers, body, timeout_ms } = request;
    EgressRequest {
        method,
        url,
        headers,
        body: match body {
            PluginBody::Empty => Body::Empty,
            PluginBody::Text(text) => Body::Text(text),
            PluginBody::Bytes(bytes) => Body::Bytes(bytes.into()),
        },
        timeout: Duration::try_from_secs_f64(timeout_ms / 1000.0).unwrap_or(Duration::MAX),
    }
}

/// What came of a request, as the plugin is told.
pub fn plugin_answer(answer: EgressAnswer) -> Answer {
    match answer {
        EgressAnswer::Response(response) => Answer::Response(HttpResponse {
            status: u32::from(response.status),
            headers: response.headers,
            body: if response.body.is_empty() {
                PluginBody::Empty
            } else {
                match String::from_utf8(response.body.into()) {
                    Ok(text) => PluginBody::Text(text),
                    Err(bytes) => PluginBody::Bytes(bytes.into_bytes()),
                }
            },
        }),
        EgressAnswer::NotSent(why) | EgressAnswer::NotGranted(why) => Answer::NotSent(why),
        EgressAnswer::Unanswered(why) => Answer::Unanswered(why),
    }
}

/// A conversation with a sender that sends nothing: a look-up, or a check of a device. A send is carried out by its worker, which
/// looks at its lease before each request and has another version to go on with.
pub struct Inquiry<'a> {
    /// The server's parts.
    pub core: &'a Core,
    /// Who is asked.
    pub plugin: &'a Plugin,
    /// The sender's configuration, JSON.
    pub config: &'a Arc<str>,
    /// What it is called, for people.
    pub name: &'static str,
    /// The code of one that takes longer than a send may.
    pub timeout: &'static str,
    /// Whether the first request has a place in the sender's rate.
    pub has_place: bool,
}

/// What an inquiry came to.
#[derive(Debug)]
pub struct Learned<End> {
    /// What the sender says.
    pub end: Result<End, Unclear>,
    /// Requests that were made for it.
    pub requests: u32,
    /// New account state, if it changed.
    pub account_state: Option<String>,
}

/// Why an inquiry led nowhere.
#[derive(Debug)]
pub struct Unclear {
    /// A word for machines, such as `too-many-requests`.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// How the plugin failed, if it did.
    pub fault: Option<PluginFault>,
}

impl Inquiry<'_> {
    /// What a call may know that is made now.
    pub fn context(&self) -> CallContext {
        let (config, now) = (Arc::clone(self.config), self.core.clock.now());
        CallContext { config, now, random: rand::random(), timer: None }
    }

    /// Asks: `start` is the first call, which is not made before, and `resume` makes those that follow.
    pub async fn ask<End, Resumed>(
        &self,
        start: impl Future<Output = Result<Progress<End>, PluginFault>>,
        resume: impl Fn(CallContext, String, Answer) -> Resumed,
    ) -> Learned<End>
    where
        Resumed: Future<Output = Result<Progress<End>, PluginFault>>,
    {
        let Self { core, plugin, name, .. } = self;
        let unclear = |code, detail| Err(Unclear { code, detail, fault: None });
        let (mut requests, mut kept) = (0, None);
        let deadline = Instant::now() + core.config.send_timeout();
        let mut progress = start.await;
        let end = loop {
            let Progress { step, account_state } = match progress {
                Ok(progress) => progress,
                Err(fault) => {
                    let (code, detail) = (fault.code(), format!("the {name}: {fault}"));
                    break Err(Unclear { code, detail, fault: Some(fault) });
                }
            };
            kept = account_state.or(kept);
            let Round { request, state } = match step {
                Step::Done(end) => break Ok(end),
                Step::Request(round) => round,
            };
            if requests == MAX_ROUNDS {
                let detail = format!("the sender asked for more than {MAX_ROUNDS} requests for one {name}");
                break unclear("too-many-requests", detail);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                break unclear(self.timeout, format!("the {name} took longer than the send time-out"));
            }
            if requests > 0 || !self.has_place {
                plugin.licence.requested();
            }
            requests += 1;
            let answer = core.egress.send(&plugin.licence, egress_request(request), remaining).await;
            progress = resume(self.context(), state, plugin_answer(answer)).await;
        };
        Learned { end, requests, account_state: kept }
    }
}

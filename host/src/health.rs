//! Checks of devices: whether one can send, asked of its provider through the sender.
//!
//! A check goes the way of a send (the same steps, limits and egress rules) and sends nothing: it changes no message, no pace
//! and no hold. What follows from it is its caller's business.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Core;
use crate::device::Device;
use crate::exchange::{MAX_ROUNDS, egress_request, plugin_answer};
use crate::plugins::{
    CallContext, DeviceFacts, Failure, HealthSubject, HealthVerdict, Plugin, PluginFault, Progress, Round, Step,
};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Of whom: a version of the device's sender.
    pub plugin: &'a Plugin,
    /// The sender's configuration, JSON.
    pub config: &'a Arc<str>,
    /// About which device.
    pub device: &'a Device,
    /// What the sender last kept for the device's account.
    pub account_state: &'a str,
    /// Whether the first request has a place in the sender's rate.
    pub has_place: bool,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What is known of the device.
    pub verdict: HealthVerdict,
    /// Requests that were made for it.
    pub requests: u32,
    /// How long it took.
    pub took: Duration,
    /// New account state, if it changed.
    pub account_state: Option<String>,
    /// How the plugin failed, if it did: the verdict is unknown then.
    pub fault: Option<PluginFault>,
}

/// Asks a sender whether a device can send. What cannot be told is a verdict, too.
pub async fn check(core: &Core, question: Question<'_>) -> Checked {
    let began = Instant::now();
    let (mut requests, mut account_state) = (0, None);
    let (verdict, fault) = match ask(core, question, &mut requests, &mut account_state).await {
        Ok(verdict) => (verdict, None),
        Err(fault) => (unknown(fault.code(), format!("the check: {fault}")), Some(fault)),
    };
    core.metrics.health_check(&verdict);
    Checked { verdict, requests, took: began.elapsed(), account_state, fault }
}

/// The steps of a check.
async fn ask(
    core: &Core,
    question: Question<'_>,
    requests: &mut u32,
    kept: &mut Option<String>,
) -> Result<HealthVerdict, PluginFault> {
    let Question { plugin, config, device, account_state, has_place } = question;
    let subject = HealthSubject { device: Arc::new(DeviceFacts::of(device)), account_state: account_state.to_owned() };
    let context =
        || CallContext { config: Arc::clone(config), now: core.clock.now(), random: rand::random(), timer: None };
    let deadline = Instant::now() + core.config.send_timeout();
    let mut progress = plugin.start_health(&context(), subject).await?;
    loop {
        let Progress { step, account_state } = progress;
        if account_state.is_some() {
            *kept = account_state;
        }
        let (request, state) = match step {
            Step::Done(verdict) => return Ok(verdict),
            Step::Request(Round { request, state }) => (request, state),
        };
        if *requests == MAX_ROUNDS {
            return Ok(unknown("too-many-requests", "the sender asked for more than 8 requests for one check"));
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(unknown("check-timeout", "the check took longer than the send time-out"));
        }
        if *requests > 0 || !has_place {
            plugin.licence.requested();
        }
        *requests += 1;
        let answer = core.egress.send(&plugin.licence, egress_request(request), remaining).await;
        progress = plugin.resume_health(&context(), &state, plugin_answer(answer)).await?;
    }
}

fn unknown(code: &str, detail: impl Into<String>) -> HealthVerdict {
    HealthVerdict::Unknown(Failure { code: code.to_owned(), detail: detail.into(), attributes: Vec::new() })
}

//! Checks of devices: whether one can send, asked of its provider through the sender.
//!
//! A check goes the way of a send (the same steps, limits and egress rules) and sends nothing: it changes no message, no pace
//! and no hold. What follows from it is its caller's business.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Core;
use crate::device::Device;
use crate::exchange::{Inquiry, Unclear};
use crate::plugins::{DeviceFacts, Failure, HealthSubject, HealthVerdict, Plugin, PluginFault};

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
    let Question { plugin, config, device, account_state, has_place } = question;
    let began = Instant::now();
    let inquiry = Inquiry { core, plugin, config, name: "check", timeout: "check-timeout", has_place };
    let subject = HealthSubject { device: Arc::new(DeviceFacts::of(device)), account_state: account_state.to_owned() };
    let context = inquiry.context();
    let resume = |ctx, state: String, answer| async move { plugin.resume_health(&ctx, &state, answer).await };
    let learned = inquiry.ask(plugin.start_health(&context, subject), resume).await;
    let (verdict, fault) = match learned.end {
        Ok(verdict) => (verdict, None),
        Err(Unclear { code, detail, fault }) => {
            let failure = Failure { code: code.to_owned(), detail, attributes: Vec::new() };
            (HealthVerdict::Unknown(failure), fault)
        }
    };
    core.metrics.health_check(&verdict);
    Checked { verdict, requests: learned.requests, took: began.elapsed(), account_state: learned.account_state, fault }
}

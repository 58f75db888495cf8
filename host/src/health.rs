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
use crate::fleet::Configured;
use crate::plugins::{DeviceFacts, Failure, HealthSubject, HealthVerdict, Plugin, PluginFault};
use crate::trial::Side;

/// What a check came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What is known of the device.
    pub verdict: HealthVerdict,
    /// Requests that were made for it.
    pub requests: u32,
    /// How long it took.
    pub took: Duration,
    /// How the plugin failed, if it did: the verdict is unknown then.
    pub fault: Option<PluginFault>,
}

/// Asks the sender's version of this side whether a device can send. What cannot be told is a verdict, too. `has_place`: whether
/// the first request has a place in the sender's rate.
///
/// The sender is given what it last kept for the device's account on this server, as for a send, and what it changes is kept.
pub async fn check(core: &Core, sender: &Configured, side: Side, device: &Device, has_place: bool) -> Checked {
    let began = Instant::now();
    let plugin: &Plugin = sender.at(side);
    let config = &sender.config;
    let inquiry = Inquiry { core, plugin, config, name: "check", timeout: "check-timeout", has_place };
    let account_state = core.accounts.get(plugin.digest, device);
    let subject = HealthSubject { device: Arc::new(DeviceFacts::of(device)), account_state };
    let context = inquiry.context();
    let resume = |ctx, state: String, answer| async move { plugin.resume_health(&ctx, &state, answer).await };
    let learned = inquiry.ask(plugin.start_health(&context, subject), resume).await;
    if let Some(state) = learned.account_state {
        core.accounts.put(plugin.digest, device, state);
    }
    let (verdict, fault) = match learned.end {
        Ok(verdict) => (verdict, None),
        Err(Unclear { code, detail, fault }) => {
            let failure = Failure { code: code.to_owned(), detail, attributes: Vec::new() };
            (HealthVerdict::Unknown(failure), fault)
        }
    };
    core.metrics.health_check(&verdict);
    Checked { verdict, requests: learned.requests, took: began.elapsed(), fault }
}

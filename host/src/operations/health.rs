//! Whether a device can send, asked of its provider because somebody wants to know.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::PluginUse;
use crate::core::Core;
use crate::device::Device;
use crate::fleet::configured;
use crate::health::check;
use crate::id::{CampaignId, DeviceId};

use super::{Actor, OpError, Result, campaigns, done};

/// With which sender a device is checked.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckDevice {
    /// With that of this campaign, as its messages would be sent; with the device's own when absent, or when the campaign
    /// names none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub campaign: Option<CampaignId>,
}

/// What a check of a device came to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeviceCheck {
    /// The device.
    pub device: DeviceId,
    /// The sender that was asked.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// `healthy`, `down`, `blocked` (the account), or `unknown`: it cannot be told.
    #[schema(pattern = "^(healthy|down|blocked|unknown)$")]
    pub verdict: &'static str,
    /// Why; `null` for a device that can send.
    pub reason: Option<CheckReason>,
    /// When to look again, in milliseconds, where the provider says so.
    pub retry_ms: Option<u64>,
    /// Requests that were made for it.
    pub requests: u32,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Why a device cannot send, or why that cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CheckReason {
    /// The provider's code, or the sender's own word for it.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// Asks a device's provider whether it can send. Nothing follows from it: who waits goes on waiting. Where the workers are another
/// server's, the sender has kept nothing for the device's account here, and begins afresh.
///
/// # Errors
/// [`OpError::NotFound`], [`OpError::Invalid`] when there is no such campaign, [`OpError::Conflict`] when there is no sender that
/// could be asked.
pub async fn check_device(core: &Core, actor: &Actor, id: &DeviceId, request: CheckDevice) -> Result<DeviceCheck> {
    let device = core.store.device(id).await?.ok_or_else(|| OpError::not_found("device", id))?;
    let used = sender_of(core, &device, request.campaign).await?;
    let sender = configured(&core.plugins, &used).ok_or_else(|| {
        OpError::Conflict(format!("the sender plugin {} is not there or cannot be loaded", used.plugin))
    })?;
    let side = sender.side(device.no);
    let plugin = sender.at(side);
    let info = &plugin.info;
    if !plugin.checks_health() {
        let why = format!("the sender {} {} cannot tell whether a device can send", info.name, info.version);
        return Err(OpError::Conflict(why));
    }
    let checked = check(core, &sender, side, &device, false).await;
    done(core, actor, "device.check", id.to_string(), &[]).await?;
    Ok(DeviceCheck {
        device: id.clone(),
        plugin: info.name.clone(),
        version: info.version.clone(),
        verdict: checked.verdict.as_str(),
        reason: checked
            .verdict
            .reason()
            .map(|reason| CheckReason { code: reason.code.clone(), detail: reason.detail.clone() }),
        retry_ms: checked.verdict.retry_ms().map(whole_ms),
        requests: checked.requests,
        took_ms: ms(checked.took),
    })
}

/// The sender that a device's messages are sent with: the campaign's, as it is being sent, or the device's own.
async fn sender_of(core: &Core, device: &Device, campaign: Option<CampaignId>) -> Result<PluginUse> {
    let of_campaign = match campaign {
        None => None,
        Some(id) => {
            let campaign = campaigns::campaign(core, id).await.map_err(|error| match error {
                OpError::NotFound { what } => OpError::invalid("campaign", format!("there is no {what}")),
                other => other,
            })?;
            let run = match campaign.run {
                Some(key) => core.store.run(key).await?,
                None => None,
            };
            run.map_or(campaign.spec.sender, |run| run.plan.sender)
        }
    };
    of_campaign.or_else(|| device.spec.sender.clone()).ok_or_else(|| {
        OpError::Conflict(match campaign {
            None => {
                format!("device {} names no sender of its own: name a campaign, whose sender is asked", device.spec.id)
            }
            Some(_) => format!("neither the campaign nor device {} names a sender", device.spec.id),
        })
    })
}

/// Whole milliseconds of those that a sender gave.
fn whole_ms(wait: f64) -> u64 {
    ms(Duration::try_from_secs_f64(wait / 1000.0).unwrap_or(Duration::MAX))
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

//! Consent: the suppression list and the ledger of opt-ins and opt-outs. No I/O.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Time;

/// An entry for the suppression list: an element of `POST /api/v1/suppressions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSuppression {
    /// The address, as audiences have it. Compared exactly, after trimming.
    #[schema(min_length = 1, max_length = 1024)]
    pub address: String,
    /// The channel it holds for; every channel when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub channel: Option<String>,
    /// Why, such as `opted-out`, `complaint` or `invalid`.
    #[serde(default = "default_reason")]
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
}

fn default_reason() -> String {
    "manual".to_owned()
}

/// An entry of the suppression list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Suppression {
    /// The address.
    pub address: String,
    /// The channel it holds for; every channel when absent.
    pub channel: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub created_at: Time,
}

impl NewSuppression {
    /// Whether it forbids to send to `address` over `channel`.
    pub fn covers(&self, address: &str, channel: &str) -> bool {
        self.address == address && self.channel.as_deref().is_none_or(|c| c == channel)
    }
}

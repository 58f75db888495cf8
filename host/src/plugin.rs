//! What a plugin is, as far as everything outside `plugins/` needs to know: its kind and what it says of itself. No I/O.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which of the three worlds a plugin was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PluginKind {
    /// World `delay-strategy`.
    Delay,
    /// World `message-template`.
    Template,
    /// World `device-sender`.
    Sender,
}

impl PluginKind {
    /// The word on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Template => "template",
            Self::Sender => "sender",
        }
    }

    /// The kind with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Delay, Self::Template, Self::Sender].into_iter().find(|k| k.as_str() == word)
    }
}

/// What a plugin's `describe` said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginInfo {
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// What it is for.
    pub summary: String,
    /// JSON Schema (2020-12) of its configuration, as text.
    pub config_schema: String,
    /// Senders: JSON Schema of a device's `adapter`, as text; empty otherwise.
    pub adapter_schema: String,
    /// Senders: hosts wanted.
    pub hosts: Vec<String>,
    /// Senders: secrets wanted, by name.
    pub secrets: Vec<String>,
    /// For example `provider-deduplicates` = `true`.
    pub capabilities: Vec<(String, String)>,
}

impl PluginInfo {
    /// Whether a capability is declared as `true`.
    pub fn can(&self, name: &str) -> bool {
        self.capabilities.iter().any(|(n, v)| n == name && v == "true")
    }
}

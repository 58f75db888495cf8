//! What the first-party senders share: settings, what an HTTP API's statuses mean, and how configurations are read.

pub mod arrival;
pub mod contract;
pub mod provider;

pub use carillon_plugin::Cache;
use serde::de::DeserializeOwned;

/// Reads a configuration; the error says where it goes wrong.
pub fn parse<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    carillon_plugin::parse("the configuration", config)
}

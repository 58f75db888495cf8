//! What plugins say of themselves: the texts of `describe`, and configurations that are checked against their schemas.

use super::check::check_info;
use super::schema::Schema;
use crate::plugin::{PluginInfo, PluginKind};

/// Name, version, summary, schema of the configuration, schema of devices, and a configuration: a zero byte after each.
pub fn description(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut texts = text.split('\0').map(str::to_owned);
    let mut next = || texts.next().unwrap_or_default();
    let info = PluginInfo {
        name: next(),
        version: next(),
        summary: next(),
        config_schema: next(),
        adapter_schema: next(),
        hosts: Vec::new(),
        secrets: Vec::new(),
        capabilities: Vec::new(),
    };
    if let Err(refused) = check_info(&info, PluginKind::Sender) {
        assert_eq!(refused.code, "invalid-description");
    }
    let (Ok(schema), Ok(config)) = (Schema::new(&info.config_schema), serde_json::from_str(&next())) else { return };
    if let Err(problems) = schema.check(&config) {
        assert!(!problems.is_empty() && problems.iter().all(|p| p.starts_with('/')), "{problems:?}");
    }
}

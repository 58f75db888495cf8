//! Whether a campaign or a step can be carried out: its plugins are there and take its configuration.

use serde_json::Value;

use crate::campaign::{BadField, DelayUse, PluginUse, SendPlan};
use crate::core::Core;
use crate::plugin::PluginKind;

use super::{Result, pool};

/// Devices whose adapters are tried against a sender; a pool may have many thousands that are all alike.
const SAMPLE: usize = 200;
/// Devices whose problems are told; more would not say more.
const TOLD: usize = 5;

/// Every problem of a plan that takes looking things up; `prefix` is its path in the request, such as `steps[0].`.
pub(super) async fn problems(core: &Core, plan: &SendPlan, prefix: &str) -> Result<Vec<BadField>> {
    let mut out = plugin_problems(core, &plan.template, PluginKind::Template, &format!("{prefix}template"));
    out.extend(delay_problems(core, &plan.delay, prefix));
    if let Some(sender) = &plan.sender {
        out.extend(plugin_problems(core, sender, PluginKind::Sender, &format!("{prefix}sender")));
    }
    out.extend(device_problems(core, plan, prefix).await?);
    Ok(out)
}

/// Every problem of a delay strategy.
pub(super) fn delay_problems(core: &Core, delay: &DelayUse, prefix: &str) -> Vec<BadField> {
    plugin_problems(core, &delay.plugin_use(), PluginKind::Delay, &format!("{prefix}delay"))
}

/// Every problem of a plugin and the configuration that it is given; `at` is the path of the use.
pub(super) fn plugin_problems(core: &Core, of: &PluginUse, kind: PluginKind, at: &str) -> Vec<BadField> {
    let Some(plugin) = core.plugins.resolve(&of.plugin, of.version.as_deref()) else {
        // Another version of the name may be there: then the version is what is wrong.
        return match (&of.version, core.plugins.resolve(&of.plugin, None)) {
            (Some(version), Some(_)) => {
                vec![BadField::new(format!("{at}.version"), format!("plugin {} has no version {version:?}", of.plugin))]
            }
            _ => vec![BadField::new(format!("{at}.plugin"), format!("there is no plugin {:?}", of.plugin))],
        };
    };
    if plugin.kind != kind {
        let problem = format!("{} is a {} plugin, not a {} plugin", of.plugin, plugin.kind.as_str(), kind.as_str());
        return vec![BadField::new(format!("{at}.plugin"), problem)];
    }
    match plugin.check_config(of.config.get()) {
        Ok(()) => Vec::new(),
        Err(problems) => problems.into_iter().map(|p| located(&format!("{at}.config"), &p)).collect(),
    }
}

/// A problem that the schema found, at its place: `/retry/count: …` under `sender.config` becomes
/// `sender.config.retry.count`.
fn located(at: &str, problem: &str) -> BadField {
    match problem.split_once(": ") {
        Some(("/", text)) => BadField::new(at, text),
        Some((pointer, text)) if pointer.starts_with('/') => {
            BadField::new(format!("{at}{}", pointer.replace('/', ".")), text)
        }
        _ => BadField::new(at, problem),
    }
}

/// What is wrong with a device's adapter for a sender; `None` when nothing is, or the sender is not there.
pub(super) fn adapter_problem(core: &Core, sender: &PluginUse, adapter: &Value) -> Option<String> {
    let plugin = core.plugins.resolve(&sender.plugin, sender.version.as_deref())?;
    if plugin.kind != PluginKind::Sender {
        return None;
    }
    plugin.check_adapter(adapter).err().map(|problems| problems.join("; "))
}

/// Devices that are missing, have no sender, or whose adapters the sender does not take.
async fn device_problems(core: &Core, plan: &SendPlan, prefix: &str) -> Result<Vec<BadField>> {
    let mut out = Vec::new();
    let sample = pool::members(core, &plan.devices, SAMPLE).await?;
    match (&plan.devices.tag, &plan.devices.ids) {
        (Some(tag), None) if sample.is_empty() && !tag.is_empty() => {
            out.push(BadField::new(format!("{prefix}devices.tag"), format!("no device has the tag {tag:?}")));
        }
        (None, Some(ids)) => {
            for (n, id) in ids.iter().enumerate() {
                let is_known = sample.iter().any(|d| d.spec.id == *id);
                if !is_known && core.store.device(id).await?.is_none() {
                    out.push(BadField::new(format!("{prefix}devices.ids[{n}]"), format!("there is no device {id}")));
                    if out.len() >= SAMPLE {
                        break;
                    }
                }
            }
        }
        _ => {}
    }
    for device in &sample {
        let id = &device.spec.id;
        let problem = match (&plan.sender, &device.spec.sender) {
            (Some(sender), _) => adapter_problem(core, sender, &device.spec.adapter)
                .map(|p| BadField::new(format!("{prefix}devices"), format!("the adapter of device {id}: {p}"))),
            (None, None) => Some(BadField::new(
                format!("{prefix}sender"),
                format!("name a sender: device {id} has no sender of its own"),
            )),
            (None, Some(own)) => core.plugins.resolve(&own.plugin, own.version.as_deref()).is_none().then(|| {
                BadField::new(
                    format!("{prefix}sender"),
                    format!("the sender {:?} of device {id} is not there", own.plugin),
                )
            }),
        };
        out.extend(problem);
        if out.len() >= TOLD && plan.devices.ids.is_none() {
            break;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_problem_is_located_in_the_request() {
        assert_eq!(located("sender.config", "/retry/count: 5 is too much").field, "sender.config.retry.count");
        assert_eq!(located("delay.config", "/: \"min_ms\" is missing").field, "delay.config");
    }
}

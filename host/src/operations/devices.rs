//! Devices: made, changed, deleted, looked at.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::campaign::BadField;
use crate::clock::Time;
use crate::core::Core;
use crate::device::{Device, DeviceSpec};
use crate::id::DeviceId;
use crate::plugin::PluginKind;
use crate::queue::{DeviceMetrics, QueueDepth, Wake};
use crate::store::Page;

use super::{Actor, OpError, Result, check, done, plan};

/// How often a change is tried again when another one came first.
const TRIES: usize = 5;
/// Problems listed at most for one request of many devices.
const MAX_PROBLEMS: usize = 100;

/// What putting devices came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct PutDevices {
    /// Devices that are new.
    pub created: u32,
    /// Devices that were there and have been replaced.
    pub updated: u32,
}

/// A device with its part in the queue.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeviceView {
    /// What was said of it.
    #[serde(flatten)]
    pub spec: DeviceSpec,
    /// Why it is on hold, until an operator lifts it.
    pub held: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// Its part in the queue; `null` while the queue is away.
    pub queue: Option<QueueDepth>,
    /// What it has done since the queue was made; `null` while the queue is away.
    pub metrics: Option<DeviceMetrics>,
}

/// Makes or replaces devices, all or none.
///
/// # Errors
/// [`OpError::Invalid`] with the problems of every device, the first of them 100.
pub async fn put_devices(core: &Core, actor: &Actor, mut devices: Vec<DeviceSpec>) -> Result<PutDevices> {
    if devices.is_empty() {
        return Err(OpError::invalid("", "give at least one device"));
    }
    let mut problems = Vec::new();
    let mut seen = HashMap::with_capacity(devices.len());
    let is_one = devices.len() == 1;
    for (n, device) in devices.iter_mut().enumerate() {
        let at = |field: &str| if is_one { field.to_owned() } else { format!("[{n}].{field}") };
        if device.name.is_empty() {
            device.name = device.id.to_string();
        }
        problems.extend(all_problems(core, device).into_iter().map(|p| BadField::new(at(&p.field), p.problem)));
        if let Some(first) = seen.insert(device.id.clone(), n) {
            problems.push(BadField::new(at("id"), format!("is the id of element {first} too")));
        }
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    check(problems)?;
    let created = core.store.put_devices(&devices, core.clock.now()).await?;
    let total = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    let subject = match devices.as_slice() {
        [device] => device.id.to_string(),
        _ => format!("{total} devices"),
    };
    done(core, actor, "device.put", subject, &[Wake::Changed, Wake::Processor]).await?;
    Ok(PutDevices { created, updated: total.saturating_sub(created) })
}

fn all_problems(core: &Core, device: &DeviceSpec) -> Vec<BadField> {
    let mut problems = device.problems();
    if let Some(sender) = &device.sender {
        problems.extend(plan::plugin_problems(core, sender, PluginKind::Sender, "sender"));
        problems.extend(plan::adapter_problem(core, sender, &device.adapter).map(|p| BadField::new("adapter", p)));
    }
    if device.account.as_ref().is_some_and(|a| a.is_empty() || a.len() > 128 || a.chars().any(char::is_control)) {
        problems.push(BadField::new("account", "give 1 to 128 bytes without control characters"));
    }
    problems
}

/// Changes a device by a JSON merge patch (RFC 7396) onto what `GET` shows of it: the fields of [`DeviceSpec`], and `held`
/// (`null` lifts a hold, a text puts the device on hold).
///
/// # Errors
/// [`OpError::NotFound`], [`OpError::Invalid`], or [`OpError::Conflict`] when others change it all the time.
pub async fn patch_device(core: &Core, actor: &Actor, id: &DeviceId, patch: &Value) -> Result<Device> {
    let Value::Object(fields) = patch else {
        return Err(OpError::invalid("", "give a JSON object with the fields to change"));
    };
    for _ in 0..TRIES {
        let current = device(core, id).await?;
        let mut document = serde_json::to_value(&current.spec).map_err(|e| OpError::Internal(e.into()))?;
        let mut fields = fields.clone();
        let held = match fields.remove("held") {
            None => current.held.clone(),
            Some(Value::Null) => None,
            Some(Value::String(reason)) if !reason.trim().is_empty() && reason.len() <= 200 => Some(reason),
            Some(_) => return Err(OpError::invalid("held", "give null to lift a hold, or a reason of 1 to 200 bytes")),
        };
        merge(&mut document, &Value::Object(fields));
        let spec = serde_path_to_error::deserialize::<_, DeviceSpec>(document).map_err(|error| {
            let field = crate::operations::fields::name(&error.path().to_string(), &error.inner().to_string());
            OpError::invalid(field, error.inner().to_string())
        })?;
        if spec.id != *id {
            return Err(OpError::invalid("id", "cannot be changed"));
        }
        check(all_problems(core, &spec))?;
        let lifted = current.held.is_some() && held.is_none();
        if core.store.update_device(&spec, held.as_deref(), lifted, current.updated_at, core.clock.now()).await? {
            if lifted {
                core.queue.unhold(std::slice::from_ref(id)).await?;
            }
            done(core, actor, "device.change", id.to_string(), &[Wake::Changed, Wake::Processor]).await?;
            return device(core, id).await;
        }
    }
    Err(OpError::Conflict("the device is being changed by other calls".to_owned()))
}

/// Applies an RFC 7396 merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = target else { return };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Deletes a device.
///
/// # Errors
/// [`OpError::Conflict`] while it has messages that are not final.
pub async fn delete_device(core: &Core, actor: &Actor, id: &DeviceId) -> Result<()> {
    if !core.store.delete_device(id, core.clock.now()).await? {
        return Err(OpError::not_found("device", id));
    }
    done(core, actor, "device.delete", id.to_string(), &[Wake::Changed]).await
}

async fn device(core: &Core, id: &DeviceId) -> Result<Device> {
    core.store.device(id).await?.ok_or_else(|| OpError::not_found("device", id))
}

/// A device with its part in the queue.
///
/// # Errors
/// [`OpError::NotFound`] when there is none.
pub async fn device_view(core: &Core, id: &DeviceId) -> Result<DeviceView> {
    let found = device(core, id).await?;
    views(core, vec![found]).await.pop().ok_or_else(|| OpError::not_found("device", id))
}

/// Devices by id, with their parts in the queue.
///
/// # Errors
/// When the store is away.
pub async fn device_views(
    core: &Core,
    tag: Option<&str>,
    channel: Option<&str>,
    cursor: Option<&DeviceId>,
    limit: u32,
) -> Result<Page<DeviceView, DeviceId>> {
    let page = core.store.devices(tag, channel, cursor, limit).await?;
    Ok(Page { items: views(core, page.items).await, next: page.next })
}

async fn views(core: &Core, devices: Vec<Device>) -> Vec<DeviceView> {
    let ids: Vec<_> = devices.iter().map(|d| d.spec.id.clone()).collect();
    let depths = core.queue.depths(&ids).await.ok();
    let metrics = core.queue.metrics(&ids).await.ok();
    let view = |(n, device): (usize, Device)| DeviceView {
        queue: depths.as_ref().and_then(|d| d.get(n)).cloned(),
        metrics: metrics.as_ref().and_then(|m| m.get(n)).cloned(),
        spec: device.spec,
        held: device.held,
        created_at: device.created_at,
        updated_at: device.updated_at,
    };
    devices.into_iter().enumerate().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches_as_in_rfc_7396() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = target;
            merge(&mut merged, &patch);
            assert_eq!(merged, result);
        }
    }
}

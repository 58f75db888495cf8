//! Webhooks: the addresses at which providers report to plugins. Only the sha256 of a key is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::campaign::BadField;
use crate::core::Core;
use crate::id::{Digest, WebhookId};
use crate::queue::Wake;
use crate::receipt::{Webhook, WebhookSpec};

use super::{Actor, OpError, Result, check, done, plugins};

/// Webhooks of a plugin.
const MAX_WEBHOOKS: usize = 100;
/// What a key begins with.
const PREFIX: &str = "hook_";

/// Makes a webhook. Its key is returned once and kept nowhere.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin, [`OpError::Conflict`] when its active version reads no webhooks or it has
/// too many, [`OpError::Invalid`] with every problem of the specification.
pub async fn create(core: &Core, actor: &Actor, plugin: &str, spec: WebhookSpec) -> Result<(Webhook, String)> {
    plugins::versions(core, plugin).await?;
    let Some(active) = core.plugins.resolve(plugin, None) else {
        return Err(OpError::Conflict(format!("plugin {plugin} has no active version that is loaded")));
    };
    if !active.reads_receipts() {
        let version = &active.info.version;
        return Err(OpError::Conflict(format!(
            "plugin {plugin} {version} reads no webhooks: it lacks the capability receipts"
        )));
    }
    let mut problems = Vec::new();
    spec.problems(&mut problems);
    if spec.config.is_object()
        && let Err(wrong) = active.check_config(&spec.config.to_string())
    {
        problems.extend(wrong.into_iter().map(|problem| BadField::new("config", problem)));
    }
    if let Some(name) = spec.signature.as_ref().map(crate::receipt::Signature::secret)
        && core.egress.secret_value(name).is_none()
    {
        let problem = format!("there is no secret {name:?} here: carillon secret set {name} --host HOST");
        problems.push(BadField::new("signature.secret", problem));
    }
    check(problems)?;
    if core.store.webhooks(Some(plugin)).await?.len() >= MAX_WEBHOOKS {
        return Err(OpError::Conflict(format!(
            "plugin {plugin} has {MAX_WEBHOOKS} webhooks: delete one that is not used"
        )));
    }
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let webhook = Webhook { id: WebhookId::new(), plugin: plugin.to_owned(), spec, created_at: core.clock.now() };
    core.store.create_webhook(&webhook, digest(&key)).await?;
    plugins::reload(core).await;
    done(core, actor, "webhook.create", subject(&webhook.plugin, webhook.id), &[Wake::Changed]).await?;
    Ok((webhook, key))
}

/// What the store knows a key by.
pub fn digest(key: &str) -> Digest {
    Digest::of(key.as_bytes())
}

/// Whether this can be a key at all: what cannot is not looked for.
pub fn is_key(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == 43 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    })
}

/// The webhooks of a plugin, oldest first.
///
/// # Errors
/// [`OpError::NotFound`] when there is no such plugin.
pub async fn list(core: &Core, plugin: &str) -> Result<Vec<Webhook>> {
    plugins::versions(core, plugin).await?;
    Ok(core.store.webhooks(Some(plugin)).await?)
}

/// Deletes a webhook: its address is unknown everywhere within a second.
///
/// # Errors
/// [`OpError::NotFound`] when there is none.
pub async fn delete(core: &Core, actor: &Actor, plugin: &str, id: WebhookId) -> Result<()> {
    if !core.store.delete_webhook(plugin, id).await? {
        return Err(OpError::not_found("webhook", id));
    }
    plugins::reload(core).await;
    done(core, actor, "webhook.delete", subject(plugin, id), &[Wake::Changed]).await
}

fn subject(plugin: &str, id: WebhookId) -> String {
    format!("{plugin} {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_key_is_one() {
        assert!(is_key(&format!("hook_{}", "aZ09-_".repeat(7) + "x")));
        for not in ["", "hook_", "hook_abc", &format!("hook_{}", "a".repeat(44)), &format!("hook_{}!", "a".repeat(42))]
        {
            assert!(!is_key(not), "{not}");
        }
    }
}

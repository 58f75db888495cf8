//! Secrets for senders that are kept in the store: written, listed without their values, deleted, encrypted anew. Values go in
//! and never come out.

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::config::Role;
use crate::core::Core;
use crate::egress::{PolicyError, Secret};
use crate::grants::GrantsRow;
use crate::queue::Wake;
use crate::vault::{Sealed, Vault, VaultError};

use super::{Actor, OpError, Result, done, grants};

/// Secrets at most.
const MAX_SECRETS: usize = 1_000;
/// The longest value, in bytes.
const MAX_VALUE: usize = 8 * 1024;

/// Where a secret is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeptIn {
    /// In the store, encrypted.
    Store,
    /// In this server's settings. It wins over one of the store with its name.
    Settings,
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SecretView {
    /// What plugins call it.
    pub name: String,
    /// The host, or host and port, that it may go to.
    pub host: String,
    /// Where it is kept.
    pub kept_in: KeptIn,
    /// When its value was given; null for one of the settings.
    pub updated_at: Option<Time>,
    /// Which key it is encrypted with: the first digits of a hash of it. Null for one of the settings.
    pub key_id: Option<String>,
    /// Why this server cannot use it; null when it can.
    pub problem: Option<String>,
    /// The plugins that were granted it.
    pub granted_to: Vec<String>,
}

/// What encrypting all secrets with the first key came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rotated {
    /// The key that all of them are encrypted with now.
    pub key_id: String,
    /// Secrets that were encrypted anew.
    pub rotated: usize,
    /// Secrets that were encrypted with this key before.
    pub current: usize,
    /// Secrets that this server cannot read, and left as they are.
    pub unreadable: Vec<String>,
}

/// The keys of the settings. They were checked at the start.
fn vault(core: &Core) -> Result<Vault> {
    Vault::parse(core.config.secrets_key.as_deref()).map_err(|error| OpError::Internal(error.into()))
}

fn refused(error: VaultError) -> OpError {
    match error {
        VaultError::NoKey => OpError::Conflict(format!("this server cannot encrypt secrets: {error}")),
        other => OpError::Internal(other.into()),
    }
}

/// Keeps a secret, in place of the one of its name. Returns it, and whether it is new.
///
/// # Errors
/// [`OpError::Invalid`] with the field that cannot work, [`OpError::Conflict`] when this server has no key.
pub async fn put(core: &Core, actor: &Actor, name: &str, host: &str, value: &str) -> Result<(SecretView, bool)> {
    if value.len() > MAX_VALUE {
        return Err(OpError::invalid("value", format!("has more than {MAX_VALUE} bytes")));
    }
    let secret = Secret::new(name, value, host).map_err(|error| {
        let field = match error {
            PolicyError::SecretHost(_) | PolicyError::Allowed(_) => "host",
            PolicyError::SecretValue(_) => "value",
            PolicyError::Secret => "name",
        };
        let problem = match error {
            PolicyError::SecretHost(_) => {
                "give the one host that it may be sent to, such as api.example.com or api.example.com:8443"
            }
            PolicyError::SecretValue(_) => "is empty or has control characters, which no header may have",
            _ => crate::grants::SECRET_NAME,
        };
        OpError::invalid(field, problem)
    })?;
    let sealed = vault(core)?.seal(name, &secret.destination(), value, core.clock.now()).map_err(refused)?;
    let known = core.store.secrets().await?;
    if known.len() >= MAX_SECRETS && !known.iter().any(|s| s.name == name) {
        return Err(OpError::Conflict(format!(
            "there are {MAX_SECRETS} secrets, as many as there may be: delete one first"
        )));
    }
    let is_new = core.store.put_secret(&sealed).await?;
    load(core).await?;
    done(core, actor, "secret.put", format!("{name} for {}", sealed.host), &[Wake::Changed]).await?;
    Ok((stored(core, &vault(core)?, &core.store.grants().await?, sealed), is_new))
}

/// All secrets that this server knows of: those of the store, and those of its settings.
///
/// # Errors
/// When the store is away.
pub async fn list(core: &Core) -> Result<Vec<SecretView>> {
    let (vault, granted) = (vault(core)?, core.store.grants().await?);
    let mut out: Vec<_> =
        core.store.secrets().await?.into_iter().map(|sealed| stored(core, &vault, &granted, sealed)).collect();
    out.extend(core.egress.own_secrets().iter().map(|secret| SecretView {
        name: secret.name().to_owned(),
        host: secret.destination(),
        kept_in: KeptIn::Settings,
        updated_at: None,
        key_id: None,
        problem: None,
        granted_to: grants::with_secret(&granted, secret.name()),
    }));
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn stored(core: &Core, vault: &Vault, granted: &[GrantsRow], sealed: Sealed) -> SecretView {
    let problem = match vault.open(&sealed) {
        Err(error) => Some(error.to_string()),
        Ok(_) if core.egress.own_secrets().iter().any(|own| own.name() == sealed.name) => {
            Some("this server's settings have a secret of this name, which is used instead".to_owned())
        }
        Ok(_) => None,
    };
    let granted_to = grants::with_secret(granted, &sealed.name);
    let Sealed { name, host, key_id, updated_at, .. } = sealed;
    let (updated_at, key_id) = (Some(updated_at), Some(key_id));
    SecretView { name, host, kept_in: KeptIn::Store, updated_at, key_id, problem, granted_to }
}

/// Deletes a secret of the store: no request has it any more, on any server, within a second.
///
/// # Errors
/// [`OpError::NotFound`] when there is none of this name.
pub async fn delete(core: &Core, actor: &Actor, name: &str) -> Result<()> {
    if !core.store.delete_secret(name).await? {
        return Err(OpError::not_found("stored secret", name));
    }
    load(core).await?;
    done(core, actor, "secret.delete", name, &[Wake::Changed]).await
}

/// Encrypts all secrets that are encrypted with another key with the first one.
///
/// # Errors
/// [`OpError::Conflict`] when this server has no key.
pub async fn rotate(core: &Core, actor: &Actor) -> Result<Rotated> {
    let vault = vault(core)?;
    let key_id = vault.current().map_err(refused)?.to_owned();
    let mut out = Rotated { key_id, rotated: 0, current: 0, unreadable: Vec::new() };
    for seen in core.store.secrets().await? {
        if seen.key_id == out.key_id {
            out.current += 1;
            continue;
        }
        let Ok(value) = vault.open(&seen) else {
            out.unreadable.push(seen.name);
            continue;
        };
        let sealed = vault.seal(&seen.name, &seen.host, &value, seen.updated_at).map_err(refused)?;
        // One that was written meanwhile was encrypted by whoever wrote it.
        if core.store.reseal_secret(&seen, &sealed).await? {
            out.rotated += 1;
        } else {
            out.current += 1;
        }
    }
    load(core).await?;
    let subject = format!("{} secrets to key {}", out.rotated, out.key_id);
    done(core, actor, "secret.rotate", subject, &[Wake::Changed]).await?;
    Ok(out)
}

/// Takes over what the store has. A secret that cannot be read counts as one that is not there, and the log says so in a line.
///
/// # Errors
/// When the store is away; what was there stays.
pub async fn load(core: &Core) -> Result<()> {
    let vault = vault(core)?;
    let (mut secrets, mut unreadable) = (Vec::new(), Vec::new());
    for sealed in core.store.secrets().await? {
        let read = vault
            .open(&sealed)
            .and_then(|value| Secret::new(&sealed.name, &value, &sealed.host).map_err(|_| VaultError::Damaged));
        match read {
            Ok(secret) => secrets.push(secret),
            Err(error) => unreadable.push((sealed.name, error)),
        }
    }
    // A server that sends nothing does without.
    if let Some((_, error)) = unreadable.first()
        && (core.config.has(Role::Workers) || *error != VaultError::NoKey)
    {
        let names: Vec<_> = unreadable.iter().map(|(name, _)| name.as_str()).take(20).collect();
        tracing::warn!(
            secret.names = names.join(" "),
            secret.count = unreadable.len(),
            %error,
            "stored secrets cannot be read and count as missing"
        );
    }
    core.egress.set_stored(secrets);
    Ok(())
}

//! API tokens: made, listed, revoked. Only the sha256 of a secret is stored.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::campaign::{BadField, check_name};
use crate::core::Core;
use crate::id::{Digest, TokenId};
use crate::queue::Wake;
use crate::store::{StoreError, TokenRow};

use super::{Actor, OpError, Result, check, done};

/// Every scope there is. `admin` includes all others.
pub const SCOPES: [&str; 13] = [
    "admin",
    "campaigns:read",
    "campaigns:write",
    "devices:read",
    "devices:write",
    "plugins:read",
    "plugins:write",
    "audiences:read",
    "audiences:write",
    "suppressions:read",
    "suppressions:write",
    "secrets:read",
    "secrets:write",
];

/// The audit log's names for the engine and the command line.
const OWN_ACTORS: [&str; 2] = ["system", "cli"];

/// The file in the data folder that keeps the first admin token.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// Adds what is wrong with a token's name. The audit log knows callers by it, so it must not be the engine's own.
pub fn check_token_name(field: &str, name: &str, problems: &mut Vec<BadField>) {
    check_name(field, name, problems);
    if OWN_ACTORS.contains(&name.trim()) {
        problems.push(BadField::new(field, format!("{} are the audit log's own names", OWN_ACTORS.join(" and "))));
    }
}

/// Makes a token. The secret is returned once and kept nowhere.
///
/// # Errors
/// [`OpError::Invalid`] for a bad name or an unknown scope.
pub async fn create(core: &Core, actor: &Actor, name: String, scopes: Vec<String>) -> Result<(TokenRow, String)> {
    let mut problems = Vec::new();
    check_token_name("name", &name, &mut problems);
    if scopes.is_empty() {
        problems.push(BadField::new("scopes", format!("give at least one of {}", SCOPES.join(", "))));
    }
    for (n, scope) in scopes.iter().enumerate().filter(|(_, s)| !SCOPES.contains(&s.as_str())) {
        let problem = format!("{scope:?} is not one of {}", SCOPES.join(", "));
        problems.push(BadField::new(format!("scopes[{n}]"), problem));
    }
    check(problems)?;
    let secret = new_secret();
    let row = TokenRow { id: TokenId::new(), name, scopes, created_at: core.clock.now(), revoked_at: None };
    core.store.create_token(&row, digest(&secret)).await?;
    done(core, actor, "token.create", row.id.to_string(), &[Wake::Changed]).await?;
    Ok((row, secret))
}

/// Revokes a token: it is refused everywhere within a second.
///
/// # Errors
/// [`OpError::NotFound`] when there is none, or it was revoked before.
pub async fn revoke(core: &Core, actor: &Actor, id: TokenId) -> Result<()> {
    if !core.store.revoke_token(id, core.clock.now()).await? {
        return Err(OpError::not_found("valid token", id));
    }
    done(core, actor, "token.revoke", id.to_string(), &[Wake::Changed]).await
}

/// All tokens, oldest first, revoked ones included.
///
/// # Errors
/// When the store is away.
pub async fn list(core: &Core) -> Result<Vec<TokenRow>> {
    Ok(core.store.tokens().await?)
}

/// What the store knows a secret by.
pub fn digest(secret: &str) -> Digest {
    Digest::of(secret.as_bytes())
}

/// A new secret, unguessable.
pub fn new_secret() -> String {
    format!("car_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// Makes sure that there is an admin token: the one in the settings, else the one in the data folder's `admin.token`, else
/// (when the store has none that is valid) a new one, kept in that file for its owner only. Returns the secret when it
/// is new, to be shown once.
///
/// # Errors
/// When the store is away, or the file cannot be read or written.
pub async fn ensure_admin_token(core: &Core) -> anyhow::Result<Option<String>> {
    if let Some(secret) = &core.config.admin_token {
        know(core, secret).await?;
        return Ok(None);
    }
    let path = core.config.data.join(ADMIN_TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(secret) if secret.trim().len() >= 16 => {
            know(core, secret.trim()).await?;
            return Ok(None);
        }
        Ok(_) => anyhow::bail!("{} does not hold a token: delete it to have a new one made", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    let is_admin = |t: &TokenRow| t.revoked_at.is_none() && t.scopes.iter().any(|s| s == "admin");
    if core.store.tokens().await?.iter().any(is_admin) {
        return Ok(None);
    }
    let secret = new_secret();
    // The file comes first: a token whose secret nobody has would keep the next start from making another.
    keep(&path, &secret).with_context(|| format!("writing {}", path.display()))?;
    know(core, &secret).await?;
    Ok(Some(secret))
}

/// Makes the secret an admin token if the store does not know it.
async fn know(core: &Core, secret: &str) -> anyhow::Result<()> {
    let digest = digest(secret);
    if let Some(known) = core.store.token_by_secret(digest).await? {
        if known.revoked_at.is_some() {
            tracing::warn!(token.id = %known.id, "the first admin token has been revoked and is not made anew");
        }
        return Ok(());
    }
    let row = TokenRow {
        id: TokenId::new(),
        name: "admin".to_owned(),
        scopes: vec!["admin".to_owned()],
        created_at: core.clock.now(),
        revoked_at: None,
    };
    match core.store.create_token(&row, digest).await {
        Ok(()) => Ok(done(core, &Actor::new("system"), "token.create", row.id.to_string(), &[]).await?),
        // Another server with the same settings was first.
        Err(StoreError::Exists { .. } | StoreError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn keep(path: &Path, secret: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}

//! `carillon token create|list|revoke`: API tokens, directly in the store. Only the sha256 of a secret is stored.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::bad_input;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::id::TokenId;
use crate::operations::tokens::{SCOPES, check_token_name, digest, new_secret};
use crate::store::{self, AuditRow, Store, TokenRow};

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token; its secret is printed once.
    Create {
        /// A name for people.
        name: String,
        /// What it may do, comma-separated: admin, campaigns:read, campaigns:write, devices:read, …
        #[arg(long, value_delimiter = ',', required = true, value_name = "LIST")]
        scopes: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List tokens, revoked ones included.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a token: every server refuses it within a second.
    Revoke {
        /// The token's id, as `list` shows it.
        id: TokenId,
        #[command(flatten)]
        place: Place,
    },
}

/// Which store.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// `sqlite:PATH` or `postgres://…`; the embedded SQLite in the data folder when absent.
    #[arg(long, env = "CARILLON_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
    /// The data folder.
    #[arg(long, env = "CARILLON_DATA", default_value = "data", value_name = "DIR")]
    data: PathBuf,
}

/// Runs the command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (Command::Create { place, .. } | Command::List { place } | Command::Revoke { place, .. }) = &command;
    let config = Config { store: place.store.clone(), data: place.data.clone(), ..Config::default() };
    super::check_config(&config)?;
    if config.store.is_none() && !config.data.is_dir() {
        return Err(bad_input(format!("--data: there is no folder {}", config.data.display())));
    }
    let clock = SystemClock::new();
    let store = store::open(&config.store_url(), 1).await.context("--store")?;
    let result = act(&*store, &clock, command).await;
    store.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn act(store: &dyn Store, clock: &dyn Clock, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { name, scopes, .. } => {
            let row = TokenRow { id: TokenId::new(), name, scopes, created_at: clock.now(), revoked_at: None };
            check(&row)?;
            let secret = new_secret();
            store.create_token(&row, digest(&secret)).await?;
            audit(store, clock, "token.create", row.id).await?;
            println!("{secret}");
            eprintln!("token {} ({}) made; its secret is shown only now", row.id, row.name);
        }
        Command::List { .. } => {
            for row in store.tokens().await? {
                let state = row.revoked_at.map_or_else(|| "valid".to_owned(), |at| format!("revoked {at}"));
                println!("{}  {}  {}  {}  {state}", row.id, row.created_at, row.name, row.scopes.join(","));
            }
        }
        Command::Revoke { id, .. } => {
            if !store.revoke_token(id, clock.now()).await? {
                return Err(bad_input(format!("there is no valid token {id}; see carillon token list")));
            }
            audit(store, clock, "token.revoke", id).await?;
        }
    }
    Ok(())
}

fn check(row: &TokenRow) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    check_token_name("NAME", &row.name, &mut problems);
    if let Some(problem) = problems.first() {
        return Err(bad_input(problem));
    }
    match row.scopes.iter().find(|scope| !SCOPES.contains(&scope.as_str())) {
        Some(scope) => Err(bad_input(format!("--scopes: {scope:?} is not one of {}", SCOPES.join(", ")))),
        None => Ok(()),
    }
}

async fn audit(store: &dyn Store, clock: &dyn Clock, action: &str, subject: TokenId) -> anyhow::Result<()> {
    let row =
        AuditRow { at: clock.now(), actor: "cli".to_owned(), action: action.to_owned(), subject: subject.to_string() };
    Ok(store.audit(&row).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scope_is_named() {
        let row = |scope: &str| TokenRow {
            id: TokenId::new(),
            name: "ci".into(),
            scopes: vec![scope.into()],
            created_at: SystemClock::new().now(),
            revoked_at: None,
        };
        assert!(check(&row("admin")).is_ok());
        assert!(
            check(&TokenRow { name: "system".into(), ..row("admin") }).unwrap_err().to_string().starts_with("NAME: ")
        );
        assert!(check(&row("everything")).unwrap_err().to_string().starts_with("--scopes: \"everything\""));
    }
}

//! `carillon doctor`: looks at everything that a server depends on, and says what to change. Exit code 1 when something
//! must change.

mod machine;
mod secrets;

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Role};
use crate::vault::Vault;
use crate::{queue, store};

/// Longest wait for the store, and for the queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// The store's clock may differ from this machine's by this much before it is worth a word: servers follow the store's.
const SKEW: Duration = Duration::from_secs(2);

/// The settings that a server would have.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Config,
}

/// What was found, one line each.
#[derive(Default)]
struct Findings {
    must_change: usize,
}

impl Findings {
    fn ok(&self, what: &str, text: impl Display) {
        println!("ok    {what:<9} {text}");
    }

    /// Works, but could be better.
    fn advise(&self, what: &str, text: impl Display) {
        println!("note  {what:<9} {text}");
    }

    /// Must be changed.
    fn change(&mut self, what: &str, text: impl Display) {
        self.must_change += 1;
        println!("FIX   {what:<9} {text}");
    }
}

/// Runs the checks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config;
    let mut findings = Findings::default();
    for problem in config.problems() {
        findings.change("settings", problem);
    }
    machine::data_folder(&config.data, &mut findings);
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        match crate::http::Tls::load(cert, key) {
            Ok(_) => findings.ok("tls", format!("the certificate in {} fits its key", cert.display())),
            Err(error) => findings.change("tls", format!("{error:#}")),
        }
    }
    machine::limits(config.max_workers, &mut findings);
    machine::egress(&config.allow_egress, &mut findings).await;
    let vault = secrets::keys(config.secrets_key.as_deref(), &mut findings);
    check_store(&config, vault.as_ref(), &mut findings).await;
    check_queue(&config, &mut findings).await;
    match findings.must_change {
        0 => Ok(ExitCode::SUCCESS),
        n => {
            println!("{n} to fix");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn check_store(config: &Config, vault: Option<&Vault>, findings: &mut Findings) {
    if config.store.is_none() && !config.data.exists() {
        // Looking must not make what a server would make.
        return findings.ok("store", "the embedded SQLite; a server makes it in the data folder");
    }
    let clock = SystemClock::new();
    let opened = in_time(store::open(&config.store_url(), 1)).await;
    let store = match opened {
        Ok(store) => store,
        Err(problem) => return findings.change("store", format!("--store: {problem}")),
    };
    match store.health().await {
        Ok(health) => {
            findings.ok("store", format!("{}; its tables are up to date", health.server));
            for warning in health.warnings {
                findings.change("store", warning);
            }
        }
        Err(error) => findings.change("store", error),
    }
    match store.now().await {
        Ok(theirs) => {
            let ours = clock.now();
            let skew = ours.since(theirs).max(theirs.since(ours));
            let text = format!("the store's differs from this machine's by {} ms", skew.as_millis());
            if skew > SKEW {
                findings.advise("clock", format!("{text}; servers follow the store's, but run NTP on both"));
            } else {
                findings.ok("clock", text);
            }
        }
        Err(error) => findings.change("clock", error),
    }
    if let Some(vault) = vault {
        let makes_requests = [Role::Api, Role::Workers, Role::Recovery].iter().any(|role| config.has(*role));
        match store.secrets().await {
            Ok(stored) => secrets::stored(vault, &stored, makes_requests, findings),
            Err(error) => findings.change("secrets", error),
        }
    }
    store.close().await;
}

async fn check_queue(config: &Config, findings: &mut Findings) {
    let opened = in_time(queue::open(&config.queue, Arc::new(SystemClock::new()))).await;
    let queue = match opened {
        Ok(queue) => queue,
        Err(problem) => return findings.change("queue", format!("--queue: {problem}")),
    };
    match queue.health().await {
        Ok(health) => {
            findings.ok("queue", format!("{}; its time is its own, servers only tell it durations", health.server));
            for warning in health.warnings {
                findings.change("queue", warning);
            }
        }
        Err(error) => return findings.change("queue", format!("{:#}", anyhow::Error::from(error))),
    }
    let configured = config.max_workers;
    match queue.max_workers().await {
        Ok(None) => findings.ok("workers", format!("at most {configured}, once a server has started")),
        Ok(Some(limit)) if limit == configured => findings.ok("workers", format!("at most {limit}")),
        Ok(Some(0)) => findings.advise(
            "workers",
            "the limit is 0: nothing is sent anywhere until an operator ends it: DELETE /api/v1/max-workers",
        ),
        Ok(Some(limit)) => findings.advise(
            "workers",
            format!("at most {limit}, not the {configured} of --max-workers: an operator set it, or settings differ"),
        ),
        Err(error) => findings.change("workers", format!("{:#}", anyhow::Error::from(error))),
    }
}

/// What `opening` opens, or why it cannot be opened, in one line.
async fn in_time<T, E>(opening: impl Future<Output = Result<T, E>>) -> Result<T, String>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::time::timeout(PATIENCE, opening).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

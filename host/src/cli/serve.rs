//! `carillon serve`: a server with the roles that its settings name.

use std::process::ExitCode;

use crate::app::App;
use crate::config::Config;
use crate::operations::tokens::ADMIN_TOKEN_FILE;

/// Settings of a server.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Config,
}

/// Runs until a signal (clean: 0) or until a part of the server dies (1).
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::check_config(&args.config)?;
    let data = args.config.data.clone();
    let app = App::start(args.config).await?;
    if let Some(addr) = app.addr {
        let scheme = if app.core.config.tls_cert.is_some() { "https" } else { "http" };
        println!("carillon listens on {scheme}://{addr}");
    }
    if let Some(token) = app.new_admin_token() {
        println!("admin token (shown this once, kept in {}): {token}", data.join(ADMIN_TOKEN_FILE).display());
    }
    crate::lifecycle::run_until_signal(app).await?;
    Ok(ExitCode::SUCCESS)
}

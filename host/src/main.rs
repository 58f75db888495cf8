//! The `carillon` program.

use std::process::ExitCode;

use carillon::cli::Cli;

fn main() -> ExitCode {
    match Cli::read() {
        Ok(cli) => cli.run(),
        Err(code) => code,
    }
}

//! The `carillon` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    carillon::cli::Cli::read().run()
}

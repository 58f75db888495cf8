//! The command line: one subcommand per file.
//!
//! Results go to stdout, progress and logs to stderr. Exit codes: 0 done, 1 failed, 2 what was given cannot work (one
//! line says what and how to mend it), 3 a campaign ran to its end and not every message was sent.

mod bench;
mod bookmark;
mod campaign;
mod client;
mod demo;
mod device;
mod doctor;
mod fleet_csv;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod local;
mod message;
mod plugin;
mod progress;
mod secret;
mod serve;
mod simulate;
mod token;
mod usage;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::operations::OpError;
use crate::plugin::PluginKind;
use crate::plugins::{CompilerTask, SUBCOMMAND, Urgency, compile_here};

/// A broadcast engine for fleets of sending devices, programmable with WebAssembly.
#[derive(Debug, Parser)]
#[command(name = "carillon", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written to stderr; `CARILLON_LOG` says which (such as `info,carillon::workers=debug`).
    #[arg(long, global = true, env = "CARILLON_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server.
    Serve(Box<serve::Args>),
    /// Show it all in a minute: 3,000 simulated devices, 30,000 recipients, a plugin replaced halfway.
    Demo(demo::Args),
    /// Measure: run a campaign from an empty store to its end, check the ledger, print one JSON object.
    Bench(Box<bench::Args>),
    /// Simulate up to millions of devices: the scheduling of a cluster against a clock of its own, one JSON object.
    Simulate(simulate::Args),
    /// Run a campaign that a file describes; resolve the unknown outcomes of one.
    #[command(subcommand)]
    Campaign(campaign::Command),
    /// Show a message; list and resolve those of which nobody knows whether they were sent.
    #[command(subcommand)]
    Message(message::Command),
    /// Ask whether a device can send.
    #[command(subcommand)]
    Device(device::Command),
    /// Make, check and upload plugins.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Keep secrets for senders in a server's store, encrypted.
    #[command(subcommand)]
    Secret(secret::Command),
    /// Make, list and revoke API tokens.
    #[command(subcommand)]
    Token(token::Command),
    /// Check the store, its secrets, the queue, the clocks and the machine's limits, and say what to change.
    Doctor(Box<doctor::Args>),
    /// What a server starts for each component that it compiles: standard input to standard output.
    #[command(name = SUBCOMMAND, hide = true)]
    CompilePlugin {
        /// Processor time, in seconds.
        seconds: u64,
        /// Memory, in bytes.
        memory_bytes: u64,
        /// Who waits for it.
        #[arg(value_enum, default_value = "now")]
        urgency: Urgency,
        /// Say what does not fit the world of this kind, instead.
        #[arg(long, value_name = "KIND", value_parser = plugin_kind)]
        misfits: Option<PluginKind>,
    },
}

/// What was given cannot work; the text is one line that names it and the fix.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

/// The error for something that was given and cannot work.
fn bad_input(text: impl Display) -> anyhow::Error {
    anyhow::Error::new(BadInput(text.to_string()))
}

/// What the operations refuse is the user's to mend; everything else is a failure.
fn from_op(error: OpError) -> anyhow::Error {
    match error {
        OpError::Invalid(_) | OpError::Refused { .. } | OpError::NotFound { .. } | OpError::Gone(_) => bad_input(error),
        other => anyhow::Error::new(other),
    }
}

fn plugin_kind(word: &str) -> Result<PluginKind, &'static str> {
    PluginKind::parse(word).ok_or("give delay, template or sender")
}

/// Refuses settings that cannot work together.
fn check_config(config: &Config) -> anyhow::Result<()> {
    if let Some(problem) = config.problems().first() {
        return Err(bad_input(problem));
    }
    let store = config.store_url();
    if !["sqlite:", "postgres://", "postgresql://"].iter().any(|p| store.starts_with(p)) {
        return Err(bad_input("--store: give sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE"));
    }
    if !["memory:", "redis://", "rediss://", "redis-cluster://"].iter().any(|p| config.queue.starts_with(p)) {
        return Err(bad_input(
            "--queue: give memory:, redis://HOST:PORT, rediss://HOST:PORT or redis-cluster://HOST:PORT,HOST:PORT",
        ));
    }
    Ok(())
}

/// Takes empty variables from the arguments of a command: what starts a server often cannot leave a variable out, only leave
/// it empty, and means the same by it.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

impl Cli {
    /// What the command line and the environment say. A variable that is empty counts as one that is not there. Ends the
    /// process when help or the version is asked for.
    ///
    /// # Errors
    /// The process's exit code, when something does not read: a line has said what.
    pub fn read() -> Result<Self, ExitCode> {
        let words: Vec<OsString> = std::env::args_os().collect();
        Self::from_words(&words).map_err(|error| match error.downcast_ref::<clap::Error>() {
            Some(asked) => asked.exit(),
            None => report(&error),
        })
    }

    /// What these words say, the program's name first. Help and version, where they are asked for, are a `clap::Error`.
    fn from_words(words: &[OsString]) -> anyhow::Result<Self> {
        let mut program = usage::without_help_as_error(without_empty_variables(Self::command()));
        let read = program.try_get_matches_from_mut(words).and_then(|matches| Self::from_arg_matches(&matches));
        match read {
            Err(error) if error.use_stderr() => Err(usage::error(&program, words, error)),
            read => Ok(read?),
        }
    }

    /// Runs the command; returns the process's exit code.
    pub fn run(self) -> ExitCode {
        if let Command::CompilePlugin { seconds, memory_bytes, urgency, misfits } = self.command {
            let task = misfits.map_or(CompilerTask::Compile(urgency), CompilerTask::Misfits);
            return compile_here(seconds, memory_bytes, task).map_or_else(|error| report(&error), ExitCode::from);
        }
        self.log();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return report(&anyhow::Error::new(error).context("no threads to run on")),
        };
        let result = runtime.block_on(async {
            match self.command {
                Command::Serve(args) => serve::run(*args).await,
                Command::Demo(args) => demo::run(args).await,
                Command::Bench(args) => bench::run(*args).await,
                Command::Simulate(args) => simulate::run(args).await,
                Command::Campaign(command) => campaign::run(command).await,
                Command::Message(command) => message::run(command).await,
                Command::Device(command) => device::run(command).await,
                Command::Plugin(command) => plugin::run(command).await,
                Command::Secret(command) => secret::run(command).await,
                Command::Token(command) => token::run(command).await,
                Command::Doctor(args) => doctor::run(*args).await,
                // Done above, before there are threads.
                Command::CompilePlugin { .. } => Ok(ExitCode::SUCCESS),
            }
        });
        result.unwrap_or_else(|error| report(&error))
    }

    /// Logs go to stderr. Commands other than `serve` talk to a person already: of their logs only warnings show.
    fn log(&self) {
        let default = if matches!(self.command, Command::Serve(_)) { "info" } else { "warn" };
        let wanted = std::env::var("CARILLON_LOG").ok().filter(|filter| !filter.is_empty());
        let filter =
            EnvFilter::try_new(wanted.as_deref().unwrap_or(default)).unwrap_or_else(|_| EnvFilter::new(default));
        // A line that cannot be written is lost. To tell stderr about it, as is the default, would be a panic when stderr is
        // what cannot be written: a file on a full disk.
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
        // A subscriber that is set already (by a test) stays.
        let _ = match self.log_format {
            LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
    }
}

/// Says what went wrong, in one line, and picks the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("carillon: {error:#}");
    if error.downcast_ref::<BadInput>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_of_a_server_is_documented_with_its_default() {
        let document = include_str!("../../docs/SETTINGS.md");
        let rows = document.lines().filter(|line| line.starts_with("| `--"));
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
        let program = Cli::command();
        let serve = program.find_subcommand("serve").unwrap();
        let settings: Vec<_> = program.get_arguments().chain(serve.get_arguments()).collect();
        for setting in &settings {
            let flag = format!("`--{}`", setting.get_long().unwrap());
            let row = rows.iter().find(|row| row[1] == flag).unwrap_or_else(|| panic!("no {flag} in docs/SETTINGS.md"));
            let variable = setting.get_env().unwrap().to_string_lossy();
            assert_eq!(row[2], format!("`{variable}`"), "{flag}");
            for default in setting.get_default_values() {
                let default = format!("`{}`", default.to_string_lossy());
                assert!(row[4].starts_with(&default), "{flag}: not {default} but {}", row[4]);
            }
        }
        assert_eq!(rows.len(), settings.len(), "docs/SETTINGS.md names one twice, or one that is gone");
    }

    #[test]
    fn settings_that_cannot_work_name_the_flag() {
        for (config, flag) in [
            (Config { window: 1, ..Config::default() }, "--window"),
            (Config { store: Some("mysql://x".into()), ..Config::default() }, "--store"),
            (Config { queue: "amqp://x".into(), ..Config::default() }, "--queue"),
        ] {
            let error = check_config(&config).unwrap_err();
            assert!(error.to_string().starts_with(flag), "{error}");
            assert!(error.downcast_ref::<BadInput>().is_some());
        }
        assert!(check_config(&Config::default()).is_ok());
    }
}

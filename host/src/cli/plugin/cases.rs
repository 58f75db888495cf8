//! `carillon plugin run|test|replay`: calls of a component that JSON describes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::super::bad_input;
use super::super::client::Server;
use super::load;
use crate::case::Case;
use crate::case::expect::differences;
use crate::case::run::{Net, Ran, run as carry_out};
use crate::egress::{Egress, EgressPolicy};
use crate::json::Object;
use crate::operations::fields;
use crate::plugins::Plugin;

/// How long the requests of one case may take together.
const NET_TIMEOUT: Duration = Duration::from_secs(30);

/// What is called, and with what.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The component, a .wasm file.
    file: PathBuf,
    /// The case, a .json file; an invented message when absent.
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
    #[command(flatten)]
    way_out: WayOut,
}

/// What is called with which cases.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// The component, a .wasm file.
    file: PathBuf,
    /// Cases: .json files, and folders of them.
    #[arg(required = true)]
    cases: Vec<PathBuf>,
    #[command(flatten)]
    way_out: WayOut,
}

/// Which call is made again, and of what.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// A kept call: NAME/NUMBER on the server, or a .json file with one (or with a case).
    case: String,
    /// Call this component, in place of the server's version.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// Where requests may go that a case wants made.
#[derive(Debug, clap::Args)]
struct WayOut {
    /// Private or loopback destinations that a case with `"send": true` may reach, as `HOST:PORT`.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    allow_egress: Vec<String>,
}

impl WayOut {
    fn net(&self) -> anyhow::Result<Net> {
        let allow = self
            .allow_egress
            .iter()
            .map(|text| text.parse().map_err(|error| bad_input(format!("--allow-egress: {error}"))));
        let policy = EgressPolicy { allow: allow.collect::<anyhow::Result<_>>()?, ..EgressPolicy::default() };
        Ok(Net { egress: Egress::new(policy)?, timeout: NET_TIMEOUT })
    }
}

/// Calls once and prints what came of it; exits with 1 when that is not what the case expects, or when the call failed and
/// nothing is expected.
pub async fn run(args: Run) -> anyhow::Result<ExitCode> {
    let case = args.case.as_deref().map(read_case).transpose()?.unwrap_or_default();
    let net = args.way_out.net()?;
    let (_, plugin) = load(&args.file).await?;
    let name = args.case.as_deref().unwrap_or(&args.file).display().to_string();
    let (ran, problems) = outcome(&plugin, &name, &case, &net).await?;
    println!("{}", serde_json::to_string_pretty(&ran)?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Calls with each case; a line for each.
pub async fn test(args: Test) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for path in &args.cases {
        collect(path, &mut files)?;
    }
    if files.is_empty() {
        return Err(bad_input("no case was found: a case is a file whose name ends in .json"));
    }
    let cases = files.iter().map(|file| read_case(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let net = args.way_out.net()?;
    let (_, plugin) = load(&args.file).await?;
    let mut failed = 0;
    for (file, case) in files.iter().zip(&cases) {
        let name = file.display().to_string();
        let (ran, problems) = outcome(&plugin, &name, case, &net).await?;
        let us: u64 = ran.calls.iter().map(|call| call.us).sum();
        if problems.is_empty() {
            println!("ok    {name} ({us} µs)");
        } else {
            failed += 1;
            println!("FAIL  {name}: {}", problems.join("; "));
        }
    }
    println!("{} passed, {failed} failed", files.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes a kept call again and prints what came of it; exits with 1 when it is not what it was.
pub async fn replay(args: Replay) -> anyhow::Result<ExitCode> {
    let path = Path::new(&args.case);
    let (kept, api) = match (path.is_file(), args.case.rsplit_once('/')) {
        (true, _) => {
            let text = std::fs::read_to_string(path).map_err(|error| bad_input(format!("{}: {error}", args.case)))?;
            let read: Value =
                serde_json::from_str(&text).map_err(|error| bad_input(format!("{}: {error}", args.case)))?;
            (read, None)
        }
        (false, Some((name, id))) if id.parse::<i64>().is_ok() => {
            let api = args.server.clone().api()?;
            let path = format!("/api/v1/plugins/{name}/cases/{id}");
            (api.ask("GET", &path, "application/json", Bytes::new()).await?, Some(api))
        }
        _ => return Err(bad_input(format!("{}: give a .json file, or NAME/NUMBER of a kept call", args.case))),
    };
    // A file may hold a case alone; then nothing is known of what it was.
    let case = kept.get("case").unwrap_or(&kept);
    let text = |field: &str| kept.get(field).and_then(Value::as_str);
    let ran = match &args.file {
        Some(file) => {
            let case = parse_case(&args.case, &case.to_string())?;
            let (_, plugin) = load(file).await?;
            if let Some(problem) = case.problems(plugin.kind).first() {
                return Err(bad_input(format!("{}: {problem}", args.case)));
            }
            serde_json::to_value(carry_out(&plugin, &case, None).await)?
        }
        None => {
            let (Some(name), Some(version)) = (text("plugin"), text("version")) else {
                return Err(bad_input(format!("{}: it does not say which plugin it is of; give --file", args.case)));
            };
            let api = api.map_or_else(|| args.server.api(), Ok)?;
            let path = format!("/api/v1/plugins/{name}/versions/{version}/try");
            api.ask("POST", &path, "application/json", Bytes::from(case.to_string())).await?
        }
    };
    println!("{}", serde_json::to_string_pretty(&ran)?);
    let now = ran.pointer("/fault/code").and_then(Value::as_str);
    let was = text("code");
    let is_known = kept.get("case").is_some();
    let word = |code: Option<&str>| code.unwrap_or("an answer").to_owned();
    if is_known && now != was {
        eprintln!("it does not reproduce: it was {}, now it is {}", word(was), word(now));
        return Ok(ExitCode::FAILURE);
    }
    eprintln!("{}: {}", if is_known { "it reproduces" } else { "it came to" }, word(now));
    Ok(ExitCode::SUCCESS)
}

/// What a case came to, and where that differs from what it expects: from an answer, when it expects nothing.
async fn outcome(plugin: &Plugin, name: &str, case: &Case, net: &Net) -> anyhow::Result<(Ran, Vec<String>)> {
    if let Some(problem) = case.problems(plugin.kind).first() {
        return Err(bad_input(format!("{name}: {problem}")));
    }
    let ran = carry_out(plugin, case, Some(net)).await;
    let problems = match (&case.expect, &ran.fault) {
        (Some(expected), _) => differences(expected, &serde_json::to_value(&ran)?),
        (None, Some(fault)) => vec![fault.detail.clone()],
        (None, None) => Vec::new(),
    };
    Ok((ran, problems))
}

fn read_case(path: &Path) -> anyhow::Result<Case> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| bad_input(format!("{name}: {error}")))?;
    parse_case(&name.to_string(), &text)
}

fn parse_case(name: &str, text: &str) -> anyhow::Result<Case> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read: Result<Object<Case>, _> = serde_path_to_error::deserialize(&mut reader);
    read.map(|Object(case)| case).map_err(|error| {
        let message = error.inner().to_string();
        let field = fields::name(&error.path().to_string(), &message);
        bad_input(if field.is_empty() { format!("{name}: {message}") } else { format!("{name}: {field}: {message}") })
    })
}

/// The cases of a folder in the order of their names, those in folders within it included.
fn collect(path: &Path, out: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let unreadable = |error: std::io::Error| bad_input(format!("{}: {error}", path.display()));
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        out.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for inner in paths {
        if inner.is_dir() || inner.extension().is_some_and(|extension| extension == "json") {
            collect(&inner, out)?;
        }
    }
    Ok(())
}

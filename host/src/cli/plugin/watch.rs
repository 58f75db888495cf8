//! `carillon plugin watch`: from a saved file to the version that messages meet, again and again.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::super::bad_input;
use super::super::client::{Api, Server};
use super::grants::missing;
use super::{load, print_warnings, read};
use crate::case::sample::self_check;
use crate::clock::{Clock as _, SystemClock};

/// How often the sources are looked at. What changed is built when it has not changed again within this time.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Folders that builds write to, or that are not the author's.
const SKIPPED: [&str; 5] = ["target", "node_modules", "build", "dist", "__pycache__"];

/// What is watched, and where it goes.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// The folder of the sources; or the component itself, when something else builds it.
    path: PathBuf,
    /// The command that builds the component, run by `sh` in the folder.
    #[arg(long, value_name = "COMMAND", requires = "wasm")]
    build: Option<String>,
    /// The component that the command leaves, a .wasm file; seen from the folder.
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// Runs until it is interrupted.
pub async fn watch(args: Watch) -> anyhow::Result<ExitCode> {
    let Watch { path, build, wasm, server } = args;
    let found = std::fs::metadata(&path).map_err(|error| bad_input(format!("{}: {error}", path.display())))?;
    let component = match (found.is_dir(), wasm) {
        (true, Some(wasm)) => path.join(wasm),
        (true, None) => return Err(bad_input("--wasm: name the component that the build leaves in the folder")),
        (false, _) => path.clone(),
    };
    let api = server.api()?;
    let mut built = None;
    loop {
        let seen = state(&path, &component);
        tokio::time::sleep(LOOK_EVERY).await;
        if built == Some(seen) || state(&path, &component) != seen {
            continue;
        }
        // What is saved while it builds is built next.
        built = Some(seen);
        if let Err(error) = round(&path, build.as_deref(), &component, &api).await {
            eprintln!("{error:#}");
        }
        eprintln!("watching {} (end with Ctrl-C)", path.display());
    }
}

async fn round(folder: &Path, build: Option<&str>, component: &Path, api: &Api) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let started = clock.monotonic();
    if let Some(build) = build {
        let status = tokio::process::Command::new("sh").arg("-c").arg(build).current_dir(folder).status().await?;
        anyhow::ensure!(status.success(), "the build failed ({status})");
    }
    let built = clock.monotonic();
    let (_, plugin) = load(component).await?;
    print_warnings(&self_check(&plugin).await);
    let path = format!("/api/v1/plugins?activate=true&suffix=dev.{}", clock.now().as_ms());
    let uploaded = api.ask("POST", &path, "application/wasm", read(component)?).await?;
    if let Some(how) = uploaded.pointer("/grants/how_to_grant").and_then(Value::as_str) {
        println!("not granted: {}; grant it with {how}", missing(&uploaded, "/grants"));
    }
    let text = |field: &str| uploaded.get(field).and_then(Value::as_str).unwrap_or_default();
    let ms = |from: Duration, to: Duration| to.saturating_sub(from).as_millis();
    let now = clock.monotonic();
    println!(
        "{} {} is active: built in {} ms, uploaded in {} ms",
        text("name"),
        text("version"),
        ms(started, built),
        ms(built, now)
    );
    Ok(())
}

/// Stands for the sources as they are: each file's name, size and time. The component is one of them only when it is all that is
/// watched.
fn state(path: &Path, component: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    walk(path, path, component, &mut hasher);
    hasher.finish()
}

fn walk(root: &Path, path: &Path, component: &Path, hasher: &mut DefaultHasher) {
    // A file that goes while it is looked at counts as gone.
    let Ok(found) = std::fs::symlink_metadata(path) else { return };
    if found.is_dir() {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        let mut inner: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        inner.sort();
        for path in inner {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with('.') && !SKIPPED.contains(&name) {
                walk(root, &path, component, hasher);
            }
        }
    } else if path == root || path != component {
        path.hash(hasher);
        found.len().hash(hasher);
        found.modified().unwrap_or(SystemTime::UNIX_EPOCH).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_seen_to_change_and_what_is_built_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let component = folder.path().join("out.wasm");
        let now = || state(folder.path(), &component);
        write("src/lib.rs", "one");
        let first = now();
        write("target/release/x", "built");
        write(".git/index", "x");
        write("out.wasm", "built");
        assert_eq!(now(), first);
        write("src/lib.rs", "longer");
        let second = now();
        assert_ne!(second, first);
        write("src/more.rs", "");
        assert_ne!(now(), second);
        let alone = state(&component, &component);
        write("out.wasm", "built again");
        assert_ne!(state(&component, &component), alone);
    }
}

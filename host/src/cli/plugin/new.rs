//! `carillon plugin new`: a folder with a plugin in it that builds, made from the examples.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;

use super::super::bad_input;
use super::wit::WIT;

/// What building leaves behind.
const GITIGNORE: &str = "/build\n/target\nnode_modules\n__pycache__\n";

macro_rules! examples {
    ($($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../../examples/plugins/", $path)))),*]
    };
}

/// The files of the examples, by their paths in `examples/plugins`.
const EXAMPLES: &[(&str, &str)] = examples!(
    "c/build.sh"
    "c/delay/plugin.c"
    "c/json.h"
    "c/requirements.txt"
    "c/sender/plugin.c"
    "c/template/plugin.c"
    "go/build.sh"
    "go/delay/export_carillon_plugin_delay/plugin.go"
    "go/delay/export_carillon_plugin_describe/config.schema.json"
    "go/delay/export_carillon_plugin_describe/describe.go"
    "go/go.mod"
    "go/requirements.txt"
    "go/sender/export_carillon_plugin_describe/adapter.schema.json"
    "go/sender/export_carillon_plugin_describe/config.schema.json"
    "go/sender/export_carillon_plugin_describe/describe.go"
    "go/sender/export_carillon_plugin_sender/plugin.go"
    "go/support/go.mod"
    "go/support/wit/runtime/runtime.go"
    "go/support/wit/types/types.go"
    "go/template/export_carillon_plugin_describe/config.schema.json"
    "go/template/export_carillon_plugin_describe/describe.go"
    "go/template/export_carillon_plugin_template/plugin.go"
    "js/build.sh"
    "js/delay/plugin.js"
    "js/package-lock.json"
    "js/package.json"
    "js/sender/plugin.js"
    "js/template/plugin.js"
    "python/build.sh"
    "python/delay/plugin.py"
    "python/requirements.txt"
    "python/sender/plugin.py"
    "python/template/plugin.py"
    "rust/delay/.cargo/config.toml"
    "rust/delay/Cargo.lock"
    "rust/delay/Cargo.toml"
    "rust/delay/src/config.schema.json"
    "rust/delay/src/lib.rs"
    "rust/sender/.cargo/config.toml"
    "rust/sender/Cargo.lock"
    "rust/sender/Cargo.toml"
    "rust/sender/src/adapter.schema.json"
    "rust/sender/src/config.schema.json"
    "rust/sender/src/lib.rs"
    "rust/template/.cargo/config.toml"
    "rust/template/Cargo.lock"
    "rust/template/Cargo.toml"
    "rust/template/src/config.schema.json"
    "rust/template/src/lib.rs"
    "tool/Cargo.lock"
    "tool/Cargo.toml"
    "tool/src/main.rs"
    "tool/src/preview1.wat"
);

macro_rules! sdk {
    ($($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../../plugins/sdk/", $path)))),*]
    };
}

/// The crate that plugins in Rust stand on: a new one has it beside itself, so that it needs this program and crates.io only, and
/// is built in years as it is today.
const SDK: &[(&str, &str)] = sdk!(
    "Cargo.toml"
    "src/bindings.rs"
    "src/cache.rs"
    "src/error.rs"
    "src/glue.rs"
    "src/health.rs"
    "src/heap.rs"
    "src/lib.rs"
    "src/random.rs"
    "src/sending.rs"
);

/// What is made.
#[derive(Debug, clap::Args)]
pub struct New {
    /// The plugin's name, and that of the folder that is made here: 1 to 64 of a-z, 0-9 and -, a letter first.
    name: String,
    /// The language that it is written in.
    #[arg(long, value_enum)]
    lang: Language,
    /// What it decides.
    #[arg(long, value_enum)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Js,
    Python,
    C,
    Go,
}

impl Language {
    const fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
            Self::C => "c",
            Self::Go => "go",
        }
    }

    /// What has to be there to build it.
    const fn needs(self) -> &'static str {
        match self {
            Self::Rust => "Rust (https://rustup.rs) with `rustup target add wasm32-wasip2`",
            Self::Js => "Node.js 18 or newer, with npm",
            Self::Python => "Python 3.10 or newer, with pip",
            Self::C | Self::Go => {
                "Python 3.10 or newer with pip, which brings the compiler, and Rust (https://rustup.rs)"
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// How long a device waits before its next message.
    Delay,
    /// What each message says.
    Template,
    /// How a device sends.
    Sender,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Delay, Self::Template, Self::Sender];

    const fn folder(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Template => "template",
            Self::Sender => "sender",
        }
    }

    /// A configuration to try it with.
    const fn config(self) -> &'static str {
        match self {
            Self::Delay => r#"{"min_ms":1000,"max_ms":3000}"#,
            Self::Template => r#"{"text":"Hello {name}."}"#,
            Self::Sender => r#"{"url":"https://api.example.com/messages"}"#,
        }
    }
}

/// Makes the folder and says what comes next.
pub fn run(args: &New) -> anyhow::Result<ExitCode> {
    let New { name, lang, kind } = args;
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 64 && name.bytes().all(letters)) {
        return Err(bad_input(format!("{name}: a plugin's name is 1 to 64 of a-z, 0-9 and -, a letter first")));
    }
    let root = Path::new(name);
    match fs::create_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(bad_input(format!("{name} is there already: give another name, or remove it")));
        }
        made => made.with_context(|| format!("cannot make the folder {name}"))?,
    }
    for (path, text) in files(name, *lang, *kind) {
        write(&root.join(&path), &text).with_context(|| format!("cannot write {name}/{path}"))?;
    }
    let (build, file) = match lang {
        Language::Rust => {
            ("cargo build --release", format!("target/wasm32-wasip2/release/{}.wasm", name.replace('-', "_")))
        }
        _ => ("./build.sh", format!("build/{}.wasm", kind.folder())),
    };
    println!("{name} is a {} in {name}/. To build it takes {}.", kind.folder(), lang.needs());
    println!("  cd {name}");
    println!("  {build}");
    println!("  carillon plugin check {file} --config '{}'", kind.config());
    println!("  carillon plugin push {file} --activate    # CARILLON_URL and CARILLON_TOKEN say where to");
    Ok(ExitCode::SUCCESS)
}

/// The files of a new plugin: their paths in its folder, and what is in them.
fn files(name: &str, lang: Language, kind: Kind) -> Vec<(String, String)> {
    let (lang_folder, kind_folder) = (lang.folder(), kind.folder());
    let other_kinds = Kind::ALL.into_iter().filter(|other| *other != kind);
    let others: Vec<String> = other_kinds.map(|other| format!("{}/", other.folder())).collect();
    let example = format!("{lang_folder}-{kind_folder}");
    let needs_tool = matches!(lang, Language::C | Language::Go);
    let contract = if lang == Language::Rust { "sdk/wit/plugin.wit" } else { "wit/plugin.wit" };
    let mut files = vec![(contract.to_owned(), WIT.to_owned()), (".gitignore".to_owned(), GITIGNORE.to_owned())];
    if lang == Language::Rust {
        files.extend(SDK.iter().map(|(path, text)| (format!("sdk/{path}"), (*text).to_owned())));
    }
    for (path, text) in EXAMPLES {
        let of_language = path.strip_prefix(lang_folder).and_then(|path| path.strip_prefix('/'));
        let path = match of_language {
            // A crate is a folder of its own; elsewhere what is common to the kinds stands beside them.
            Some(path) if lang == Language::Rust => {
                path.strip_prefix(kind_folder).and_then(|path| path.strip_prefix('/'))
            }
            Some(path) => (!others.iter().any(|other| path.starts_with(other))).then_some(path),
            None => (needs_tool && path.starts_with("tool/")).then_some(*path),
        };
        let Some(path) = path else { continue };
        let text = text.replace(&example, name).replace(&example.replace('-', "_"), &name.replace('-', "_"));
        let text = text.replace("../../../../wit", "wit").replace("../../../../plugins/sdk", "sdk");
        files.push((path.to_owned(), text));
    }
    files
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)?;
    if path.extension().is_some_and(|extension| extension == "sh") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Every file below `folder` that is not made by building.
    fn found(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                out.push(path);
            } else if !["build", "node_modules", "target", "__pycache__"].iter().any(|name| path.ends_with(name)) {
                found(&path, out);
            }
        }
    }

    #[test]
    fn every_file_of_the_examples_is_in_the_program() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plugins");
        let mut paths = Vec::new();
        for folder in ["c", "go", "js", "python", "rust", "tool"] {
            found(&examples.join(folder), &mut paths);
        }
        let mut paths: Vec<_> =
            paths.iter().map(|path| path.strip_prefix(&examples).unwrap().to_str().unwrap()).collect();
        // A new crate is built by cargo alone.
        paths.retain(|path| *path != "rust/build.sh");
        paths.sort_unstable();
        let known: Vec<_> = EXAMPLES.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, known);
    }

    #[test]
    fn every_file_of_the_sdk_is_in_the_program() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/sdk");
        let mut paths = vec![sdk.join("Cargo.toml")];
        found(&sdk.join("src"), &mut paths);
        let mut paths: Vec<_> = paths.iter().map(|path| path.strip_prefix(&sdk).unwrap().to_str().unwrap()).collect();
        paths.sort_unstable();
        let known: Vec<_> = SDK.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, known);
    }

    #[test]
    fn a_new_plugin_has_its_name_and_nothing_of_other_kinds() {
        for lang in [Language::Rust, Language::Js, Language::Python, Language::C, Language::Go] {
            for kind in Kind::ALL {
                let files = files("my-own", lang, kind);
                let name = |text: &str| text.contains("\"my-own\"");
                assert!(files.iter().any(|(_, text)| name(text)), "{lang:?} {kind:?} is not named");
                for (path, text) in files.iter().filter(|(path, _)| !path.starts_with("sdk/")) {
                    let other = Kind::ALL.into_iter().find(|other| *other != kind && path.contains(other.folder()));
                    assert_eq!(other, None, "{lang:?} {kind:?}: {path}");
                    let example = format!("{}-{}", lang.folder(), kind.folder());
                    assert!(!text.contains(&example), "{lang:?} {kind:?}: {path}");
                    assert!(!text.contains("../../../../"), "{lang:?} {kind:?}: {path}");
                }
            }
        }
    }
}

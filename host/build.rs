//! Builds the first-party plugins for WebAssembly and embeds them: `first_party.rs` holds their names and bytes.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-wasip2";
const PLUGINS: [&str; 10] = [
    "uniform",
    "warmup",
    "adaptive",
    "jinja",
    "webhook",
    "android-sms-gateway",
    "whatsapp-cloud",
    "telegram",
    "fcm",
    "simulator",
];
/// The next version of `jinja`, which the demo activates while its campaign runs.
const NEXT_JINJA: &str = "jinja-next";

fn main() {
    if let Err(problem) = build() {
        eprintln!("error: the first-party plugins cannot be built: {problem}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let plugins = root.join("plugins");
    let out = PathBuf::from(variable("OUT_DIR")?);

    for path in
        PLUGINS.iter().copied().chain([NEXT_JINJA, "common", "sdk", "Cargo.toml", "Cargo.lock", ".cargo/config.toml"])
    {
        println!("cargo::rerun-if-changed={}", plugins.join(path).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("wit").display());
    println!("cargo::rerun-if-changed={}", root.join("rust-toolchain.toml").display());
    println!("cargo::rerun-if-changed=build.rs");

    ensure_target()?;
    let target_dir = out.join("plugins");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(&plugins)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    // What was said to the outer build is not meant for this one: flags for the machine's own code, wrappers such as clippy's
    // driver, profiles. An empty list of flags would also hide those of plugins/.cargo/config.toml.
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_outer_build =
            matches!(text, "RUSTFLAGS" | "RUSTDOCFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "CLIPPY_ARGS")
                || [
                    "CARGO_ENCODED_",
                    "CARGO_BUILD_",
                    "CARGO_TARGET_",
                    "CARGO_PROFILE_",
                    "CARGO_UNSTABLE_",
                    "CARGO_LLVM_COV",
                ]
                .iter()
                .any(|prefix| text.starts_with(prefix));
        if of_outer_build {
            cargo.env_remove(&name);
        }
    }
    run(&mut cargo)?;

    let mut code = String::from(
        "/// The plugins that come with the program: name and component.\npub static FIRST_PARTY: &[(&str, &[u8])] = &[\n",
    );
    let component = |name: &str| -> Result<String, String> {
        // Cargo names the file after the library, in which a hyphen is an underscore.
        let path = target_dir.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
        Ok(format!("include_bytes!({:?})", path.to_str().ok_or("the path of the build folder is not UTF-8")?))
    };
    for name in PLUGINS {
        writeln!(code, "    ({name:?}, {}),", component(name)?).map_err(|e| e.to_string())?;
    }
    code.push_str("];\n");
    writeln!(
        code,
        "/// The next version of `jinja`: a component that the demo uploads.\npub static NEXT_JINJA: &[u8] = {};",
        component(NEXT_JINJA)?
    )
    .map_err(|e| e.to_string())?;
    fs::write(out.join("first_party.rs"), code).map_err(|e| format!("cannot write first_party.rs: {e}"))
}

/// Makes sure that the compiler has the target's standard library.
fn ensure_target() -> Result<(), String> {
    let rustc = variable("RUSTC")?;
    let libdir = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|e| format!("cannot run {rustc}: {e}"))?;
    if Path::new(String::from_utf8_lossy(&libdir.stdout).trim()).is_dir() {
        return Ok(());
    }
    run(Command::new("rustup").args(["target", "add", TARGET])).map_err(|e| {
        format!("the Rust target {TARGET} is missing and cannot be added ({e}); run `rustup target add {TARGET}`, or install the target's standard library with your system's packages")
    })
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| format!("cannot run {program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} failed ({status})")) }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set"))
}

//! A plugin in Rust, built by the compiler that built this: as a core module, before any component linker has seen it.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;

/// `examples/plugins/EXAMPLE` for `wasm32-unknown-unknown`, as the plain linker leaves it.
///
/// # Panics
/// When it cannot be built: the target is missing (`tests/run` adds it).
pub fn core_module(example: &str, build_folder: &Path) -> Bytes {
    const TARGET: &str = "wasm32-unknown-unknown";
    let source: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "examples", "plugins", example].iter().collect();
    // One folder for all examples: they share what they stand on.
    let folder = build_folder.join("rust-guests");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(source)
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", "-Clinker=rust-lld -Clinker-flavor=wasm-ld");
    // What was said to the outer build is not meant for this one.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the example cannot be built: `rustup target add {TARGET}`, or use tests/run");
    let file = format!("{}.wasm", example.replace('-', "_"));
    std::fs::read(folder.join(TARGET).join("release").join(file)).expect("the module").into()
}

#!/usr/bin/env bash
# Builds the plugins of this folder with cargo: build.sh [OUT [KIND…]] leaves OUT/KIND.wasm. OUT is `build` by default; KIND is
# delay, template or sender, and all that are here by default.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-$here/build}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
cd "$here"
shift || true
[ $# -gt 0 ] || set -- $(ls -d delay template sender 2>/dev/null)

command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
if ! ls "$(rustc --print sysroot)"/lib/rustlib/wasm32-wasip2/lib/libstd-*.rlib >/dev/null 2>&1; then
  rustup target add wasm32-wasip2
fi

# One target folder, so that what the plugins have in common is compiled once.
export CARGO_TARGET_DIR="$out/target"
for kind in "$@"; do
  (cd "$kind" && cargo build --quiet --release --locked)
  cp "$out/target/wasm32-wasip2/release/rust_$kind.wasm" "$out/$kind.wasm"
done

#!/usr/bin/env bash
# Builds the plugins of this folder with Zig's C compiler (PyPI's ziglang) and generated bindings: build.sh [OUT [KIND…]] leaves
# OUT/KIND.wasm. OUT is `build` by default; KIND is delay, template or sender, and all that are here by default.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-$here/build}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
cd "$here"
shift || true
[ $# -gt 0 ] || set -- $(ls -d delay template sender 2>/dev/null)
wit=wit tool=tool
[ -d "$wit" ] || wit=../../../wit tool=../tool

# The tools of requirements.txt in a folder of their own: nothing is changed in the system's or anybody's environment.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/carillon-tools"
python3 -m pip --version >/dev/null || { echo "pip is missing: install Python 3.10 or newer with pip" >&2; exit 1; }
tools="$cache/$(cksum < requirements.txt | tr ' ' -)"
if [ ! -e "$tools/complete" ]; then
  python3 -m pip install --quiet --root-user-action ignore --no-deps --upgrade --target "$tools" -r requirements.txt
  touch "$tools/complete"
fi
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
cargo build --quiet --locked --manifest-path "$tool/Cargo.toml" --target-dir "$cache/plugin-tool"
plugin_tool="$cache/plugin-tool/debug/plugin-tool"

for kind in "$@"; do
  case $kind in delay) world=delay-strategy ;; template) world=message-template ;; *) world=device-sender ;; esac
  generated="$out/$kind"
  rm -rf "$generated"
  "$plugin_tool" bindings c "$wit" "$world" "$generated"
  # The default stack of 16 MiB would be most of an instance's memory.
  "$tools/ziglang/zig" cc --target=wasm32-wasi -mexec-model=reactor -std=c17 -Os -Wall -Wextra -Wno-unused-parameter -I "$generated" \
    -Wl,-z,stack-size=65536 "$kind/plugin.c" "$generated"/*.c "$generated"/*.o -o "$generated/module.wasm"
  "$plugin_tool" component "$wit" "$world" "$generated/module.wasm" "$out/$kind.wasm"
done

#!/usr/bin/env bash
# Builds the plugins of this folder with componentize-qjs (npm): build.sh [OUT [KIND…]] leaves OUT/KIND.wasm. OUT is `build` by
# default; KIND is delay, template or sender, and all that are here by default.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-$here/build}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
cd "$here"
shift || true
[ $# -gt 0 ] || set -- $(ls -d delay template sender 2>/dev/null)
wit=wit
[ -d "$wit" ] || wit=../../../wit

command -v npm >/dev/null || { echo "npm is missing: install Node.js 18 or newer" >&2; exit 1; }
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --silent --no-audit --no-fund

for kind in "$@"; do
  case $kind in delay) world=delay-strategy ;; template) world=message-template ;; *) world=device-sender ;; esac
  # A plugin needs no WASI: time and randomness come with each call. What is not asked for cannot fail.
  npx componentize-qjs --sync --stub-wasi --wit "$wit" --world "$world" --js "$kind/plugin.js" --output "$out/$kind.wasm"
done

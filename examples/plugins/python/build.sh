#!/usr/bin/env bash
# Builds the plugins of this folder with componentize-py (PyPI): build.sh [OUT [KIND…]] leaves OUT/KIND.wasm. OUT is `build` by
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

# The tools of requirements.txt in a folder of their own: nothing is changed in the system's or anybody's environment.
python3 -m pip --version >/dev/null || { echo "pip is missing: install Python 3.10 or newer with pip" >&2; exit 1; }
tools="${XDG_CACHE_HOME:-$HOME/.cache}/carillon-tools/$(cksum < requirements.txt | tr ' ' -)"
if [ ! -e "$tools/complete" ]; then
  python3 -m pip install --quiet --root-user-action ignore --no-deps --upgrade --target "$tools" -r requirements.txt
  touch "$tools/complete"
fi

for kind in "$@"; do
  case $kind in delay) world=delay-strategy ;; template) world=message-template ;; *) world=device-sender ;; esac
  # A plugin needs no WASI: time and randomness come with each call. What is not asked for cannot fail.
  PYTHONPATH="$tools" python3 -c 'import componentize_py; componentize_py.script()' \
    -d "$wit" -w "$world" componentize --stub-wasi -p "$kind" plugin -o "$out/$kind.wasm"
done

#!/usr/bin/env bash
# The tour of README.md, all of it: a server, a device, an audience, a campaign, and a plugin of your own that changes the
# text while the campaign runs. Needs curl, and `carillon` built (cargo build --release). Takes about half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
CARILLON=${CARILLON:-${CARGO_TARGET_DIR:-target}/release/carillon}
URL=http://127.0.0.1:${PORT:-8080} SINK=127.0.0.1:${SINK_PORT:-9000}
export CARILLON_ADMIN_TOKEN=${CARILLON_ADMIN_TOKEN:-tour-token-$RANDOM-$RANDOM-$RANDOM}
DATA=$(mktemp -d) NEXT=$(mktemp -d examples/plugins/tour.XXXXXX)
export CARGO_TARGET_DIR=$PWD/examples/plugins/rust-greeting/target
started=()
finish() { for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$DATA" "$NEXT"; }
trap finish EXIT

say() { printf '\n==> %s\n' "$*"; }
api() { # api METHOD PATH [CURL OPTIONS...]
  local method=$1 path=$2; shift 2
  curl -sS --fail-with-body -X "$method" -H "Authorization: Bearer $CARILLON_ADMIN_TOKEN" "$@" "$URL/api/v1$path"; echo
}
json=(-H 'Content-Type: application/json' --data-binary)

say "a provider that takes everything and counts, and a server that may reach it"
"$CARILLON" bench --sink "$SINK" & started+=($!)
"$CARILLON" serve --data "$DATA" --listen "${URL#http://}" --allow-egress "$SINK" & started+=($!)
for _ in $(seq 100); do curl -sf "$URL/readyz" >/dev/null && break; sleep 0.1; done

say "a device and an audience"
api POST /devices "${json[@]}" '[{"id":"dev-1","channel":"sms","tags":["eu"]}]'
api PUT /audiences/friends -H 'Content-Type: text/csv' --data-binary @examples/audiences/friends.csv

say "a plugin in Rust: built, uploaded, active"
(cd examples/plugins/rust-greeting && cargo build --release --quiet)
WASM=$CARGO_TARGET_DIR/wasm32-wasip2/release/rust_greeting.wasm
api POST /plugins -H 'Content-Type: application/wasm' --data-binary @"$WASM"

say "a campaign that uses it"
CAMPAIGN=$(api POST /campaigns "${json[@]}" '{
  "name": "tour", "audience": "friends", "devices": {"tag": "eu"},
  "template": {"plugin": "greeting"},
  "delay": {"plugin": "uniform", "config": {"min_ms": 4000, "max_ms": 4000}},
  "sender": {"plugin": "webhook", "config": {"url": "http://'"$SINK"'/send"}},
  "delivery": "at_least_once"}' | sed -E 's/.*"id":"([0-9a-f-]{36})".*/\1/')
api POST "/campaigns/$CAMPAIGN/launch"

say "its next version, while the campaign runs"
cp -r examples/plugins/rust-greeting/{.cargo,Cargo.toml,Cargo.lock,src} "$NEXT"
sed -i.old -e 's/^version = "1.0.0"/version = "1.1.0"/' "$NEXT/Cargo.toml"
sed -i.old -e 's/Hello {name}\./HELLO {name}!/' "$NEXT/src/lib.rs"
(cd "$NEXT" && cargo build --release --quiet)
api POST /plugins -H 'Content-Type: application/wasm' --data-binary @"$WASM"
api POST /plugins/greeting/activate "${json[@]}" '{"version":"1.1.0"}'

say "until every message is sent; the attempts name the plugin versions that they ran with"
for _ in $(seq 300); do
  STATUS=$(api GET "/campaigns/$CAMPAIGN" | sed -E 's/.*"status":"([a-z_]+)".*/\1/')
  [ "$STATUS" = completed ] && break
  sleep 0.2
done
api GET "/campaigns/$CAMPAIGN/messages"
say "what the provider saw"
curl -sS "http://$SINK/report"; echo
[ "$STATUS" = completed ]

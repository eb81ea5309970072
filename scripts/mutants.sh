#!/usr/bin/env bash
# Mutation testing of the named rules (docs/mutants.md): each is changed in a thousand small ways, and a test must notice.
# Works on a copy, so that nobody sees a mutated file; ends after MINUTES at the latest. Prints what survived.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
minutes="${MINUTES:-20}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/node_modules/baileys/WAProto" "$work/seeds"
cp -r "$root/worker" "$root/tests" "$root/testkit" "$root/docs" "$work/"
cp -r "$root/seeds/media" "$work/seeds/"
cp "$root/node_modules/baileys/WAProto/WAProto.proto" "$work/node_modules/baileys/WAProto/"
cp "$root/scripts/mutants.toml" "$work/pyproject.toml"
cd "$work"
timeout "${minutes}m" "$root/.venv/bin/python" -m mutmut run --max-children 2 > run.log 2>&1 || tail -c 2000 run.log
"$root/.venv/bin/python" -m mutmut results | awk '/survived|timeout|suspicious/ {sub(/:.*/, "", $1); print $1}' | while read -r name; do
  echo "== $name"
  "$root/.venv/bin/python" -m mutmut show "$name" | grep -E '^[-+] ' || true
done
echo
tr '\r' '\n' < run.log | grep '🎉' | tail -1

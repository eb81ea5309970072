#!/usr/bin/env bash
# Writes requirements.lock: what the worker needs to run (no developer tools), at the versions of constraints.txt, each with
# its hashes. setuptools is among them because the image's build stage installs the worker itself with it.
# Run it after every change of pyproject.toml or constraints.txt; `pip install --require-hashes -r requirements.lock` reads it.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.make/audit/bin/uv}
command -v "$uv" >/dev/null || { echo "lock: $uv is not here: run 'make audit' once, it installs the tools" >&2; exit 1; }
{
  echo "# Made by scripts/lock_runtime.sh; do not edit."
  echo 'setuptools>=77' | "$uv" pip compile --quiet pyproject.toml - --constraint constraints.txt \
    --generate-hashes --python-version 3.11 --python-platform linux --no-annotate --no-header --native-tls
} >requirements.lock.new
mv requirements.lock.new requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages"

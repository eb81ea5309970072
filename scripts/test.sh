#!/usr/bin/env bash
# Every test but the chaos run. The end-to-end tests mostly wait, so they run beside the others; their output comes last.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p .make
trap 'kill $(jobs -p) 2>/dev/null' EXIT
.venv/bin/python -m pytest tests/e2e -o cache_dir=.make/e2e-cache >.make/e2e.log 2>&1 &
e2e=$!
echo "test: the end-to-end tests have begun in the background (.make/e2e.log)"
failed=0
.venv/bin/npm test --workspaces --if-present || failed=1
.venv/bin/python -m pytest tests/unit tests/integration || failed=1
echo "test: waiting for the end-to-end tests"
wait "$e2e" || failed=1
cat .make/e2e.log
exit "$failed"

#!/usr/bin/env bash
# Says in one line what is missing before pip says it in forty.
set -euo pipefail
python=${1:-python3}
if ! command -v "$python" >/dev/null; then
  echo "setup: $python is not here. Install Python 3.11 or newer, or say which: make setup PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "setup: $("$python" --version) is too old; Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  echo "setup: $python has no venv module. On Debian: apt-get install python3-venv" >&2
  exit 1
fi

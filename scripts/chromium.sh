#!/usr/bin/env bash
# Chromium for the browser tests: Debian's own, with fonts. Installs it where that is possible. Ends with 0 in any case:
# without it those tests are skipped, and say so.
set -uo pipefail
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done
if ! command -v apt-get >/dev/null; then
  echo "chromium: missing, and there is no apt-get to install it; the browser tests are skipped" >&2
elif [ "$(id -u)" != 0 ]; then
  echo "chromium: missing; install it with: sudo apt-get install chromium fonts-noto-core fonts-noto-color-emoji" >&2
elif echo "chromium: installing it with its fonts (a minute or two)" \
  && timeout 600 sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
       chromium fonts-noto-core fonts-noto-color-emoji' >/dev/null 2>&1; then
  echo "chromium: installed"
else
  echo "chromium: could not be installed (no network, or no such package); the browser tests are skipped" >&2
fi
exit 0

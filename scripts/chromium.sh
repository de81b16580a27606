#!/usr/bin/env bash
# Install Debian's Chromium, for the tests that drive docs/verifier.html in a real browser. Does nothing if it is there.
set -euo pipefail
command -v chromium >/dev/null && exit 0
[[ $(id -u) == 0 ]] || { echo "chromium is missing: sudo apt-get install chromium" >&2; exit 2; }
apt-get update --quiet=2
apt-get install --yes --quiet=2 --no-install-recommends chromium >/dev/null

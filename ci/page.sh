#!/usr/bin/env bash
# Looks at the live page with a real Chromium, headless: bash ci/page.sh. Installs Chromium by apt
# if there is none, and says aloud when it cannot; nothing else is needed but Python.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
. ci/chromium.sh
need_chromium page || exit 0
cargo build --quiet -p goumemd -p goumemctl
cargo build --quiet -p goumem --example busy
python3 ci/page.py "$target/debug"

#!/usr/bin/env bash
# Makes the pictures in docs/images again, from a daemon with something to show. Each step makes its
# own; without arguments all of them are done: bash ci/screenshots.sh [STEP]…
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
images=docs/images

# The live page: dark, light, and on a phone.
page() {
    . ci/chromium.sh
    need_chromium screenshots || return 0
    cargo build --quiet -p goumemd -p goumemctl
    cargo build --quiet -p goumem --example busy
    python3 ci/screenshots.py "$target/debug" "$images"
}

# The terminal: goumemctl top, as it draws itself.
top() {
    cargo build --quiet -p goumemd -p goumemctl
    cargo build --quiet -p goumem --example busy
    python3 ci/top.py "$target/debug" "$images/top.svg"
}

steps=("$@")
[ "${#steps[@]}" -gt 0 ] || steps=(page top)
mkdir -p "$images"
for step in "${steps[@]}"; do
    printf '\n== %s\n' "$step"
    "$step"
done
ls -l "$images"

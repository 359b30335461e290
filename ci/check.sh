#!/usr/bin/env bash
# Everything a change must pass: formatting, lints, tests, docs, layers, tags.
# Prints how many tests ran last.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "cargo fmt --check"
cargo fmt --all --check
step "layers: which crate may know which"
bash ci/layers.sh
step "tags: SAFETY, ORDERING, CRASH"
bash ci/tags.sh
step "cargo clippy -D warnings"
cargo clippy --workspace --all-targets --quiet -- -D warnings
step "cargo doc -D warnings"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
step "loom models"
bash ci/loom.sh
step "deaths at every write"
bash ci/crash.sh
step "interop: Python over gRPC and the fd socket"
bash ci/interop.sh
step "units: systemd's own checks"
bash ci/units.sh
step "the package: built, installed, used, purged"
bash ci/package.sh
step "the package under a systemd of its own"
bash ci/systemd.sh
step "containers: files, and two that share a pool"
bash ci/containers.sh
step "the live page in a real browser"
bash ci/page.sh
step "the campaign: a minute of kills"
bash ci/campaign.sh
step "traces: the feature otel"
cargo clippy -p goumemd -p goumem -p goumem-tests --features goumemd/otel,goumem/otel,goumem-tests/otel \
    --all-targets --quiet -- -D warnings
cargo test --quiet -p goumem-tests --features otel --test it -- otel::
step "cargo test --workspace"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --workspace 2>&1 | tee "$log"

# The runner prints a line for each test binary, the last of them often for one without tests.
step "all of it"
grep '^test result:' "$log" | awk '
    { passed += $4; failed += $6; ignored += $8 }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored; exit passed == 0 }
'

#!/usr/bin/env bash
# Everything a change must pass: formatting, lints, tests, docs, layers, tags.
# Prints the test runner's own summary lines last.
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
step "interop: Python over gRPC and the fd socket"
bash ci/interop.sh
step "cargo test --workspace"
cargo test --workspace

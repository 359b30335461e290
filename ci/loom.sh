#!/usr/bin/env bash
# Explores the interleavings of the shared words with loom: every model in shm's `loom_models`.
# LOOM_MAX_PREEMPTIONS (default 3) bounds how often a thread is interrupted where it need not be;
# three find every bug of this kind that we know of, and each more costs about ten times the time.
set -euo pipefail
cd "$(dirname "$0")/.."

export LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}"
export RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}"
# A directory of its own: the flag reaches every dependency and would have them all built again.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"

command=(cargo test -p goumem-shm --release --quiet --lib loom_models)
printf 'loom: %s preemptions, RUSTFLAGS=%s\nloom: %s\n' \
    "$LOOM_MAX_PREEMPTIONS" "$RUSTFLAGS" "${command[*]}"
"${command[@]}"

# A filter that matches nothing passes too, so say what there is.
listed=$("${command[@]}" -- --list 2>/dev/null | grep -c ': test$') || {
    echo "loom: no model was found" >&2
    exit 1
}
printf 'loom: %s models hold\n' "$listed"

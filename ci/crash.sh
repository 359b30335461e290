#!/usr/bin/env bash
# Stops every operation on both sides of each of its writes to shared memory, has it repaired, and
# checks what is there: the walks of the daemon's `crash` tests, and the tests of the countdown.
# Prints how many operations, writes and deaths that were.
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTFLAGS="--cfg crash ${RUSTFLAGS:-}"
# A directory of its own: the flag reaches every dependency and would have them all built again.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/crash"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for crate in goumem-shm goumemd; do
    command=(cargo test -p "$crate" --quiet --lib crash:: -- --nocapture)
    printf 'crash: RUSTFLAGS=%s %s\n' "$RUSTFLAGS" "${command[*]}"
    "${command[@]}" 2>&1 | tee -a "$log"
done

# A filter that matches nothing passes too, so say what there was.
awk '
    /^\.*crash: .* operations, .* deaths$/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^operations/) operations += $(i - 1)
            if ($i ~ /^writes/) writes += $(i - 1)
            if ($i ~ /^deaths/) deaths += $(i - 1)
        }
    }
    END {
        printf "crash: %d operations, stopped at %d writes, died %d deaths\n",
            operations, writes, deaths
        exit deaths == 0
    }
' "$log"

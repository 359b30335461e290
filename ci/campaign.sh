#!/usr/bin/env bash
# Stress under kills: half of the time with a fixed seed and half with a random one, which is
# printed. What is checked, and how a run is replayed: docs/reliability.md. CAMPAIGN_SECONDS sets
# how long (60); more arguments go to the campaign.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${CAMPAIGN_SECONDS:-60}"
fixed=20260117
random=$((RANDOM << 15 | RANDOM))
cargo build --release --quiet -p goumem-tests --bin campaign
for seed in "$fixed" "$random"; do
    echo "campaign: seed $seed, $((seconds / 2)) s"
    "${CARGO_TARGET_DIR:-target}/release/campaign" \
        --json --seconds "$((seconds / 2))" --seed "$seed" "$@"
done

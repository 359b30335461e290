#!/usr/bin/env bash
# Fuzzes every target of fuzz/ for so many seconds each: bash ci/fuzz.sh [SECONDS] [TARGET…].
# What it finds new goes to target/fuzz/corpus, what fails to target/fuzz/artifacts; the committed
# corpus is only read. The end says how many executions there were. What it cannot do it says.
#
# cargo-fuzz wants a nightly compiler; without one the stable compiler is told to be one. Without
# cargo-fuzz nothing is fuzzed: the corpus itself runs in `cargo test` (tests/it/corpus.rs).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-60}"
shift || true
targets=("$@")
sanitizer="${FUZZ_SANITIZER:-none}"

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz is not here (cargo install cargo-fuzz --locked): NOT fuzzed" >&2
    exit 2
fi
if ! command -v c++ >/dev/null && ! command -v clang++ >/dev/null; then
    echo "fuzz: no C++ compiler for libFuzzer: NOT fuzzed" >&2
    exit 2
fi
cargo=(cargo)
if cargo +nightly --version >/dev/null 2>&1; then
    cargo=(cargo +nightly)
else
    echo "fuzz: no nightly compiler: the stable one is used with RUSTC_BOOTSTRAP"
    export RUSTC_BOOTSTRAP=1
fi
if [ "${#targets[@]}" = 0 ]; then
    mapfile -t targets < <(basename -s .rs fuzz/targets/*.rs)
fi
[ "$sanitizer" != none ] || echo "fuzz: without a sanitizer (FUZZ_SANITIZER=address for one)"

out="$PWD/target/fuzz"
"${cargo[@]}" fuzz build --fuzz-dir fuzz --release -s "$sanitizer" --target-dir "$out"

# Not by `cargo fuzz run`, which builds anew whenever a file has changed meanwhile.
bin="$out/$(rustc -vV | sed -n 's/^host: //p')/release"
summary=()
status=0
for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    log="$out/$target.log"
    printf '\n== %s, %s s\n' "$target" "$seconds"
    rc=0
    "$bin/$target" "$out/corpus/$target" "fuzz/corpus/$target" \
        -max_total_time="$seconds" -max_len=4096 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="$out/artifacts/$target/" >"$log" 2>&1 || rc=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
    if [ "$rc" = 0 ]; then
        summary+=("$(printf '%-10s %12s executions  %s' "$target" "${runs:-?}" "$edges")")
    else
        status=1
        tail -40 "$log"
        summary+=("$(printf '%-10s FAILED, see %s' "$target" "$out/artifacts/$target")")
    fi
done
printf '\n== all of it\n'
printf '%s\n' "${summary[@]}"
exit "$status"

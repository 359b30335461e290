#!/usr/bin/env bash
# Runs the tests of shm and client under AddressSanitizer and ThreadSanitizer, and says what it
# could not run, and why: bash ci/sanitize.sh [address|thread]…
# SANITIZE_PACKAGES and SANITIZE_FILTER choose packages and tests.
#
# ThreadSanitizer sees only what was compiled for it. With the standard library's sources (rustup
# component add rust-src) that is all; without them, what happens inside of std's own compiled code
# (parking a thread, the slow path of a lock, the first use of a OnceLock) is unseen, and correct
# programs may be reported. ci/tsan.supp is for those, each with its argument.
set -uo pipefail
cd "$(dirname "$0")/.."

sanitizers=("$@")
[ "${#sanitizers[@]}" -gt 0 ] || sanitizers=(address thread)
read -ra packages <<<"${SANITIZE_PACKAGES:-goumem-shm goumem}"
filter="${SANITIZE_FILTER:-}"

host=$(rustc -vV | sed -n 's/^host: //p')
cargo=(cargo)
sysroot=$(rustc --print sysroot)
if cargo +nightly --version >/dev/null 2>&1; then
    cargo=(cargo +nightly)
    sysroot=$(rustc +nightly --print sysroot)
else
    echo "sanitize: no nightly compiler: the stable one is used with RUSTC_BOOTSTRAP"
    export RUSTC_BOOTSTRAP=1
fi
said=()
std=()
if [ -d "$sysroot/lib/rustlib/src/rust/library" ]; then
    std=(-Zbuild-std)
else
    said+=("the standard library was not built for the sanitizer: its sources (rust-src) are not here")
fi
if ! "${cargo[@]}" miri --version >/dev/null 2>&1; then
    said+=("Miri was not run: it is not installed (rustup component add miri)")
else
    said+=("Miri was not run: it knows neither memfd nor mappings, which all that is unsafe here is about")
fi

# Where the tests make a process fault on purpose (guards) or fork, that is not the sanitizer's.
# Blocks that outlive their span keep it for good, which is no leak but the rule: no leak check.
export ASAN_OPTIONS="detect_leaks=0 handle_segv=0 handle_sigbus=0 ${ASAN_OPTIONS:-}"
export TSAN_OPTIONS="suppressions=$PWD/ci/tsan.supp die_after_fork=0 handle_segv=0 handle_sigbus=0 halt_on_error=0 ${TSAN_OPTIONS:-}"

status=0
summary=()
for sanitizer in "${sanitizers[@]}"; do
    if ! compgen -G "$sysroot/lib/rustlib/$host/lib/librustc-*_rt.${sanitizer:0:1}san.a" >/dev/null; then
        said+=("$sanitizer: this compiler has no runtime for it on $host")
        continue
    fi
    for package in "${packages[@]}"; do
        printf '\n== %s, %s\n' "$package" "$sanitizer"
        log="target/sanitize/$package-$sanitizer.log"
        mkdir -p target/sanitize
        rc=0
        RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" \
            CARGO_TARGET_DIR="target/sanitize/$sanitizer" \
            "${cargo[@]}" test "${std[@]}" --target "$host" -p "$package" --lib --tests -- \
            $filter >"$log" 2>&1 || rc=$?
        reports=$(grep -cE '(WARNING|ERROR): (Thread|Address)Sanitizer' "$log")
        passed=$(awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0 " passed, " failed + 0 " failed" }' "$log")
        summary+=("$package, $sanitizer: $passed, $reports reports")
        if [ "$rc" != 0 ] || [ "$reports" != 0 ]; then
            status=1
            grep -E -A25 '(WARNING|ERROR): (Thread|Address)Sanitizer|^error|panicked at' "$log" | head -80
        fi
    done
done
printf '\n== all of it\n'
printf '%s\n' "${summary[@]}"
[ "${#said[@]}" = 0 ] || printf 'sanitize: %s\n' "${said[@]}"
exit "$status"

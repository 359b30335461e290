#!/usr/bin/env bash
# Builds the Debian package: target/debian/goumem_*.deb. Needs `cargo install cargo-deb`.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
made="$target/package" # named in cli/Cargo.toml, [package.metadata.deb]
cargo build --release --locked --quiet -p goumemd -p goumemctl

rm -rf "$made"
mkdir -p "$made"
"$target/release/goumemctl" manual "$made"
find "$made/man" -type f -exec gzip -9n {} +
# Every key, commented out: what holds without the file holds with it.
"$target/release/goumemd" config default >"$made/goumemd.toml"
if grep -vE '^(#|$)' "$made/goumemd.toml"; then
    echo "build-deb: the default configuration says something" >&2
    exit 1
fi
cargo deb --quiet --no-build --locked -p goumemctl --output "$target/debian/"

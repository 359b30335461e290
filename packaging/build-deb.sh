#!/usr/bin/env bash
# Builds the Debian package: target/debian/goumem_*.deb. Needs `cargo install cargo-deb`. PROFILE=dev
# packs the debug build, which is there sooner, for trying the package itself.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
profile=${PROFILE:-release}
programs="$target/${profile/dev/debug}"
cargo build --profile "$profile" --locked --quiet -p goumemd -p goumemctl

# Beside the programs, what is made by them. The list is in cli/Cargo.toml, [package.metadata.deb].
made=target/package
rm -rf "$made"
mkdir -p "$made"
install -s -t "$made" "$programs/goumemd" "$programs/goumemctl"
"$made/goumemctl" manual "$made"
find "$made/man" -type f -exec gzip -9n {} +
# Every key, commented out: what holds without the file holds with it.
"$made/goumemd" config default >"$made/goumemd.toml"
if grep -vE '^(#|\[[a-z]+\]$|$)' "$made/goumemd.toml"; then
    echo "build-deb: the default configuration says something" >&2
    exit 1
fi
small=--compress-type=xz
[ "$profile" = release ] || small=--fast
cargo deb --quiet --no-build --no-strip --locked "$small" -p goumemctl --output "$target/debian/"

#!/usr/bin/env bash
# Checks Dockerfile, compose file and Kubernetes manifests; builds the image and runs it where a
# container engine answers, and says aloud where none does. That containers share memory is tested
# without an engine: cargo test -p goumem-tests containers.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
cargo build --quiet -p goumemd -p goumemctl
if python3 -c 'import yaml' 2>/dev/null; then
    python3 ci/containers.py "$target/debug"
else
    echo "containers: SKIPPED, not checked: files (no PyYAML: apt install python3-yaml)"
fi

if ! docker info >/dev/null 2>&1; then
    echo "containers: SKIPPED, not checked: the image (no container engine answers)"
    exit 0
fi
name="goumem-ci-$$"
cleanup() {
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker volume rm "$name" >/dev/null 2>&1 || true
    docker rmi "$name" >/dev/null 2>&1 || true
}
trap cleanup EXIT
docker build --quiet -t "$name" . >/dev/null
docker run -d --name "$name" --network none -v "$name:/run/goumem" "$name" --socket-mode 0666 >/dev/null
client() {
    docker run --rm -i --network none --user 1000:1000 -v "$name:/run/goumem" --entrypoint goumemctl "$name" "$@"
}
for _ in $(seq 100); do
    client ping >/dev/null 2>&1 && break
    sleep 0.1
done
client pool create --mode 0666 frames 64MiB >/dev/null
echo hello | client put frames greeting >/dev/null
[ "$(client get frames greeting)" = hello ]
echo "containers: two containers shared memory through the sockets' directory"

#!/usr/bin/env bash
# Drives goumemd from Python's grpcio and the mapping it hands out, with no Rust client in the
# path: any gRPC client works. Installs grpcio into a virtual environment under target/.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
venv="$target/interop-venv"
if ! "$venv/bin/python" -c 'import grpc_tools, grpc' 2>/dev/null; then
    rm -rf "$venv"
    if ! python3 -m venv "$venv" 2>/dev/null; then
        (apt-get update -qq && apt-get install -y -qq python3-venv) >/dev/null
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio grpcio-tools
fi

cargo build --quiet -p goumemd
work=$(mktemp -d)
daemon=

# Ends the daemon, by force if it does not end by itself; returns how it ended.
end_daemon() {
    local pid=$daemon
    daemon=
    [ -n "$pid" ] || return 0
    kill "$pid" 2>/dev/null || true
    timeout 15 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid"
}
cleanup() {
    local outcome=$?
    end_daemon || true
    rm -rf "$work"
    exit "$outcome"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$work" --grpc_python_out="$work" \
    goumem/v1/goumem.proto
"$target/debug/goumemd" --listen "$work/goumemd.sock" --data-dir "$work/data" --log-level warn --keeper none &
daemon=$!
PYTHONPATH="$work" "$venv/bin/python" ci/interop.py "$work/goumemd.sock"
end_daemon || { echo "interop: goumemd ended with exit code $?" >&2; exit 1; }

#!/usr/bin/env bash
# Checks the edges between our crates against docs/design.md, "Crates and who may know whom".
set -euo pipefail
cd "$(dirname "$0")/.."
cargo metadata --format-version 1 --no-deps --locked | python3 -c '
import json, sys
allowed = {
    "goumem-alloc": set(),
    "goumem-shm": {"goumem-alloc"},
    "goumem-proto": {"goumem-alloc"},
    "goumemd": {"goumem-alloc", "goumem-shm", "goumem-proto"},
    "goumem": {"goumem-alloc", "goumem-shm", "goumem-proto", "goumemd"},  # goumemd: feature embedded
    "goumemctl": {"goumem", "goumemd"},
    "goumem-tests": {"goumem", "goumemd", "goumem-alloc", "goumem-shm", "goumem-proto"},
    "goumem-bench": {"goumem", "goumemd", "goumem-alloc", "goumem-shm", "goumem-proto"},
}
bad = 0
for package in json.load(sys.stdin)["packages"]:
    name = package["name"]
    ours = {d["name"] for d in package["dependencies"] if d.get("path") and d["kind"] != "dev"}
    if name not in allowed:
        print(f"{name}: not in the table"); bad += 1
    for extra in sorted(ours - allowed.get(name, set())):
        print(f"{name} must not depend on {extra}"); bad += 1
    if name == "goumem":
        for d in package["dependencies"]:
            if d["name"] == "goumemd" and d["kind"] is None and not d["optional"]:
                print("goumem may know goumemd only under its feature embedded"); bad += 1
    if name == "goumem-shm" and any(d["name"] == "tokio" for d in package["dependencies"]):
        print("goumem-shm must not know tokio"); bad += 1
sys.exit(1 if bad else 0)
'
echo "layers hold"

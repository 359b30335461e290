#!/usr/bin/env bash
# Checks the tags that reviews rest on: every unsafe block argued, unsafe only where it may be,
# every ordering stronger than Relaxed beside a word on its partner.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 - <<'PY'
import re, subprocess, sys
files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.rs"],
                       capture_output=True, text=True, check=True).stdout.split()
bad = []
unsafe_ok = lambda f: f.startswith(("shm/", "bench/src/peers")) or f == "tests/harness/sys.rs"
code = lambda line: line.split("//")[0]
for path in files:
    lines = open(path).read().split("\n")
    is_test = "/tests" in path or path.startswith("tests/")
    for i, line in enumerate(lines):
        text = code(line)
        if re.search(r"\bunsafe\b", text) and not re.search(r"unsafe_code|unsafe_op", text) \
                and not unsafe_ok(path) and '"' not in text:
            bad.append(f"{path}:{i+1}: unsafe outside shm")
        if path.startswith("shm/src") and not is_test and not path.startswith("shm/src/os") \
                and re.search(r"Ordering::(Acquire|Release|AcqRel|SeqCst)", text):
            near = "\n".join(lines[max(0, i - 25):i + 1])
            if "ORDERING" not in near:
                bad.append(f"{path}:{i+1}: ordering without ORDERING comment")
        if re.search(r"\b(todo|unimplemented)!\(|\bFIXME\b", text):
            bad.append(f"{path}:{i+1}: left undone")
print("\n".join(bad) or "tags hold")
sys.exit(1 if bad else 0)
PY

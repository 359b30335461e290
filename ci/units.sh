#!/usr/bin/env bash
# Checks what the package tells systemd: the units by systemd-analyze verify, how much the service
# is exposed by systemd-analyze security (UNITS_THRESHOLD is the most, of 100), and the user and the
# directories by dry runs into an empty root. Says which tool is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# 1.9 of 10 with systemd 252. What is left: it is on the network if asked to, it has CAP_KILL, and
# it sees other processes.
threshold="${UNITS_THRESHOLD:-22}"
units=packaging/systemd
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

missing() { echo "units: no $1 here: $2 not checked"; }

# The units as they are installed, beside programs of the names in them.
mkdir -p "$root"/{etc,run,var/lib,usr/bin,bin,usr/lib/systemd/system,usr/lib/sysusers.d,usr/lib/tmpfiles.d}
cp "$units"/goumemd.{service,socket} "$root/usr/lib/systemd/system/"
cp "$units/sysusers.conf" "$root/usr/lib/sysusers.d/goumem.conf"
cp "$units/tmpfiles.conf" "$root/usr/lib/tmpfiles.d/goumem.conf"
for program in usr/bin/goumemd bin/kill; do
    printf '#!/bin/sh\n' >"$root/$program"
    chmod 755 "$root/$program"
done

if command -v systemd-analyze >/dev/null; then
    # The targets that the units name are systemd's own.
    found=$(find /usr/lib/systemd/system /lib/systemd/system -maxdepth 1 -name '*.target' 2>/dev/null || true)
    for target in $found; do cp -n "$target" "$root/usr/lib/systemd/system/" 2>/dev/null || true; done
    said=$(systemd-analyze verify --root="$root" --man=no goumemd.service goumemd.socket 2>&1) || {
        echo "$said" >&2
        exit 1
    }
    # It warns and says yes: an unknown key, a bad value.
    if grep -E "$root|goumemd" <<<"$said"; then
        echo "units: systemd-analyze verify has something to say" >&2
        exit 1
    fi
    systemd-analyze security --offline=yes --no-pager --threshold="$threshold" \
        "$units/goumemd.service" | tail -n 1
else
    missing systemd-analyze "units"
fi

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers --root="$root" goumem.conf 2>/dev/null
    grep -q '^goumem:' "$root/etc/passwd" && grep -q '^goumem:' "$root/etc/group"
else
    missing systemd-sysusers "user"
fi
if command -v systemd-tmpfiles >/dev/null && [ -f "$root/etc/passwd" ]; then
    if [ "$(id -u)" = 0 ]; then
        systemd-tmpfiles --root="$root" --create goumem.conf
        [ "$(stat -c '%a %u' "$root/run/goumem")" = "755 $(sed -n 's/^goumem:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/passwd")" ]
    else
        missing root "directories"
    fi
else
    missing systemd-tmpfiles "directories"
fi
echo "units hold"

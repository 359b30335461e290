#!/usr/bin/env bash
# Builds the Debian package, installs it on this machine, uses it, removes it and purges it. Whatever
# happens, nothing of it is left. Skipped, aloud, without root or dpkg, and where goumem is installed
# already. Installs cargo-deb under target/tools if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
skip() {
    echo "package: SKIPPED, not checked: $*"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "only root can install packages"
command -v dpkg >/dev/null || skip "no dpkg here"
for mine in /usr/bin/goumemd /etc/goumem /var/lib/goumem /run/goumem; do
    [ ! -e "$mine" ] || skip "$mine is there already"
done
! dpkg -s goumem >/dev/null 2>&1 || skip "goumem is installed"
! getent passwd goumem >/dev/null || skip "there is a user goumem"

export PATH="$target/tools/bin:$PATH"
if ! command -v cargo-deb >/dev/null; then
    echo "package: installing cargo-deb"
    # It runs once: to have it soon is worth more than to have it fast.
    CARGO_TARGET_DIR="$target/tools/build" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --locked --quiet --root "$target/tools" cargo-deb
    rm -rf "$target/tools/build"
fi
rm -f "$target"/debian/goumem_*.deb
bash packaging/build-deb.sh
package=$(ls "$target"/debian/goumem_*.deb)
echo "package: $(basename "$package"), $(stat -c %s "$package") bytes"

daemon=
end_daemon() {
    local pid=$daemon
    daemon=
    [ -n "$pid" ] || return 0
    kill -INT "$pid" 2>/dev/null || true
    timeout 15 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid"
}
log=$(mktemp)
cleanup() {
    local outcome=$?
    [ "$outcome" = 0 ] || cat "$log" >&2
    end_daemon 2>/dev/null || true
    # What dpkg has to say is of interest only above.
    dpkg -P --force-all goumem >/dev/null 2>&1 || true
    rm -f "$log"
    exit "$outcome"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
fail() {
    echo "package: $*" >&2
    exit 1
}

dpkg -i "$package" >"$log" 2>&1
[ "$(dpkg -s goumem | grep ^Status)" = "Status: install ok installed" ] || fail "not installed"
for file in /usr/bin/goumemd /usr/bin/goumemctl /etc/goumem/goumemd.toml \
    /usr/lib/systemd/system/goumemd.service /usr/lib/systemd/system/goumemd.socket \
    /usr/lib/sysusers.d/goumem.conf /usr/lib/tmpfiles.d/goumem.conf \
    /usr/share/man/man8/goumemd.8.gz /usr/share/man/man1/goumemctl.1.gz \
    /usr/share/man/man1/goumemctl-pool-create.1.gz \
    /usr/share/bash-completion/completions/goumemctl /usr/share/zsh/vendor-completions/_goumemd \
    /usr/share/fish/vendor_completions.d/goumemctl.fish \
    /usr/share/doc/goumem/copyright /usr/share/doc/goumem/README.md; do
    [ -f "$file" ] || fail "$file is missing"
done
[ "$(dpkg-query -W -f='${Conffiles}' goumem | awk '{print $1}' | xargs)" = /etc/goumem/goumemd.toml ] ||
    fail "the configuration is no conffile"
getent passwd goumem >/dev/null && getent group goumem >/dev/null || fail "no user goumem"
[ "$(stat -c '%U %a' /run/goumem)" = "goumem 755" ] || fail "/run/goumem is not goumem's"
[[ "$(goumemd --version)" = "goumemd "* ]] || fail "goumemd --version"
goumemd config check >"$log" 2>&1

# As the unit runs it: as the user goumem, with CAP_KILL alone.
as_goumem=(setpriv --reuid goumem --regid goumem --init-groups --no-new-privs)
if setpriv --help 2>&1 | grep -q ambient-caps; then
    as_goumem+=(--inh-caps=-all,+kill --ambient-caps=-all,+kill --bounding-set=-all,+kill)
fi
env -u XDG_RUNTIME_DIR -u GOUMEM_SOCKET STATE_DIRECTORY=/var/lib/goumem \
    "${as_goumem[@]}" goumemd --keeper none >"$log" 2>&1 &
daemon=$!
ctl=(env -u XDG_RUNTIME_DIR -u GOUMEM_SOCKET goumemctl)
for _ in $(seq 200); do
    "${ctl[@]}" ping >/dev/null 2>&1 && break
    kill -0 "$daemon" 2>/dev/null || fail "goumemd has ended"
    sleep 0.05
done
"${ctl[@]}" ping
[ "$(stat -c '%U:%G %a' /run/goumem/goumemd.sock)" = "goumem:goumem 660" ] || fail "socket's mode"
"${ctl[@]}" pool create installed 8MiB >/dev/null
echo hello | "${ctl[@]}" put installed greeting >/dev/null
[ "$("${ctl[@]}" get installed greeting)" = hello ] || fail "put and get"
end_daemon || fail "goumemd ended with exit code $?"
[ ! -e /run/goumem/goumemd.sock ] || fail "the socket is left"

echo '# mine' >>/etc/goumem/goumemd.toml
dpkg -r goumem >"$log" 2>&1
[ ! -e /usr/bin/goumemd ] || fail "removed, and there"
grep -q '^# mine' /etc/goumem/goumemd.toml || fail "removal took the configuration"
dpkg -P goumem >"$log" 2>&1
for gone in /etc/goumem /var/lib/goumem /run/goumem /usr/share/doc/goumem \
    /usr/lib/systemd/system/goumemd.service; do
    [ ! -e "$gone" ] || fail "purged, and $gone is there"
done
! getent passwd goumem >/dev/null && ! getent group goumem >/dev/null || fail "the user is left"
echo "package: installed, ran as goumem, removed, purged"

#!/usr/bin/env bash
# The package under a real systemd: boots one in namespaces of its own, on a copy-on-write view of
# this machine's root, installs the package there, and has the daemon restarted, killed, hung,
# stopped, started by a client's connection, and removed. Nothing of this machine is changed. Needs
# the package (packaging/build-deb.sh) or its path as an argument, root, systemd and overlayfs; says
# aloud what is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "systemd: SKIPPED, not checked: $*"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "only root can boot a systemd"
for program in /lib/systemd/systemd /usr/bin/unshare /usr/bin/nsenter /usr/bin/dpkg; do
    [ -x "$program" ] || skip "no $program here"
done
grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || skip "no overlayfs"
! dpkg -s goumem >/dev/null 2>&1 || skip "goumem is installed"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
package=${1:-$(ls "$target"/debian/goumem_*.deb 2>/dev/null | tail -n 1)}
[ -n "$package" ] || skip "no package: packaging/build-deb.sh"

work=$(mktemp -d)
name="goumem-ci-$$"
boot=
cleanup() {
    local outcome=$?
    [ "$outcome" = 0 ] || cat "$work/log" >&2
    if [ "$outcome" != 0 ] && [ -n "${pid1:-}" ]; then
        within journalctl --no-pager -n 60 -u goumemd.service -u goumemd.socket >&2 || true
    fi
    # The first process of a pid namespace takes all of it along.
    [ -z "${pid1:-}" ] || kill -KILL "$pid1" 2>/dev/null || true
    [ -z "$boot" ] || kill -KILL "$boot" 2>/dev/null || true
    [ -z "$boot" ] || wait "$boot" 2>/dev/null || true
    if [ -d "$work/cgroup/$name" ]; then
        echo $$ >"$work/cgroup/cgroup.procs" 2>/dev/null || true
        for _ in $(seq 50); do
            find "$work/cgroup/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    fi
    umount "$work/cgroup" 2>/dev/null || true
    rm -rf --one-file-system "$work"
    exit "$outcome"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What the first process does before it becomes systemd.
cat >"$work/boot" <<'BOOT'
set -euo pipefail
work=$1 package=$2
mount --make-rprivate /
mkdir "$work/root"
mount -t tmpfs tmpfs "$work/root"
mkdir "$work/root/"{over,work,new}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/root/over,workdir=$work/root/work" "$work/root/new"
mkdir -p "$work/root/new/opt/goumem-ci"
cp "$package" "$work/root/new/opt/goumem-ci/goumem.deb"
cd "$work/root/new"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o ro tmpfs sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 sys/fs/cgroup
# A container's: nothing that systemd sets reaches the kernel of this machine.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm dev/mqueue
ln -s /proc/self/fd dev/fd
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p tmp opt/goumem-ci/old
mount -t tmpfs tmpfs tmp
pivot_root . opt/goumem-ci/old
umount -l /opt/goumem-ci/old
cat >/etc/systemd/system/goumem-ci.target <<'UNIT'
[Unit]
Requires=dbus.socket systemd-journald.service systemd-tmpfiles-setup.service
After=dbus.socket systemd-journald.service systemd-tmpfiles-setup.service
UNIT
exec env -i container=goumem-ci PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=goumem-ci.target --log-target=journal --show-status=0
BOOT

mkdir "$work/cgroup"
mount -t cgroup2 cgroup2 "$work/cgroup" 2>/dev/null || skip "no cgroup2"
mkdir "$work/cgroup/$name"
(
    echo "$BASHPID" >"$work/cgroup/$name/cgroup.procs"
    exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child \
        bash "$work/boot" "$work" "$package"
) >"$work/log" 2>&1 </dev/null &
boot=$!

fail() {
    echo "systemd: $*" >&2
    exit 1
}
within() { nsenter --target "$pid1" --all --wdns=/ -- "$@"; }
# Waits for a condition, at most so many seconds.
eventually() {
    local seconds=$1
    shift
    for _ in $(seq $((seconds * 20))); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    fail "not within $seconds s: $*"
}
booted() {
    pid1=$(pgrep -P "$boot" | head -n 1) && [ -n "$pid1" ] &&
        [ "$(cat "/proc/$pid1/comm")" = systemd ] &&
        within systemctl is-active --quiet goumem-ci.target
}
eventually 30 booted
echo "systemd: $(within systemctl --version | head -n 1) runs as process 1"

service() { within systemctl show -P "$1" goumemd.service; }
ctl() { within env -i PATH=/usr/bin goumemctl "$@"; }
as_member() { within setpriv --reuid tester --regid tester --init-groups env -i PATH=/usr/bin XDG_RUNTIME_DIR=/run/user/7 "$@"; }
as_stranger() { within setpriv --reuid 64999 --regid 64999 --clear-groups env -i PATH=/usr/bin "$@"; }
says_hello() { [ "$(as_member goumemctl get frames greeting)" = hello ]; }

within dpkg -i /opt/goumem-ci/goumem.deb >"$work/log" 2>&1 || fail "dpkg"
for unit in goumemd.socket goumemd.service; do
    within systemctl is-active --quiet "$unit" || fail "$unit is not active after the installation"
    within systemctl is-enabled --quiet "$unit" || fail "$unit is not enabled"
done
[ "$(service StatusText)" = serving ] || fail "STATUS is $(service StatusText)"
ctl ping
within useradd --no-create-home --groups goumem tester
as_member goumemctl pool create frames 8MiB >/dev/null
echo hello | as_member goumemctl put frames greeting >/dev/null
says_hello || fail "put and get"
as_stranger goumemctl ping >/dev/null 2>&1 && fail "a user outside of the group may connect"

# It takes a new configuration over.
within sed -i 's/^#level = .*/level = "debug"/' /etc/goumem/goumemd.toml
before=$(service MainPID)
within systemctl reload goumemd
reloaded() { within journalctl --no-pager -u goumemd.service | grep -q 'log.level'; }
eventually 10 reloaded
[ "$(service MainPID) $(service ActiveState)" = "$before active" ] || fail "not the same after a reload"

# Restarted, killed and hung, it goes on with what it had.
stored=$(service NFileDescriptorStore)
[ "$stored" -ge 3 ] || fail "$stored fds in the store"
before=$(service MainPID)
within systemctl restart goumemd
[ "$(service MainPID)" != "$before" ] || fail "not restarted"
says_hello || fail "a restart lost the pool"
before=$(service MainPID)
within kill -KILL "$before"
is_another() { [ "$(service MainPID)" != "$before" ] && [ "$(service ActiveState)" = active ]; }
eventually 10 is_another
says_hello || fail "a crash lost the pool"

within mkdir -p /run/systemd/system/goumemd.service.d
printf '[Service]\nWatchdogSec=2s\n' | within tee /run/systemd/system/goumemd.service.d/ci.conf >/dev/null
within systemctl daemon-reload
within systemctl restart goumemd
before=$(service MainPID)
within sleep 4 # longer than the watchdog waits
[ "$(service MainPID)" = "$before" ] || fail "the watchdog ended a daemon that was well"
within kill -STOP "$before"
eventually 20 is_another
within journalctl --no-pager -u goumemd.service | grep -q 'atchdog timeout' || fail "no watchdog"
says_hello || fail "the watchdog lost the pool"

# Stopped, it gives the pools up, and systemd goes on listening: the next client starts it.
within systemctl stop goumemd.service 2>/dev/null
[ "$(service ActiveState)" = inactive ] || fail "not stopped"
as_member goumemctl ping >/dev/null
[ "$(service ActiveState)" = active ] || fail "not started by a connection"
as_member goumemctl get frames greeting >/dev/null 2>&1 && fail "stop kept the pool"
# What another user than the daemon's can have under the sandbox.
as_member goumemctl pool create --backing file files 8MiB >/dev/null
echo hello | as_member goumemctl put files greeting >/dev/null
[ "$(as_member goumemctl get files greeting)" = hello ] || fail "a file-backed pool"
[ -n "$(within ls /var/lib/goumem)" ] || fail "file-backed pools lie elsewhere"
as_member goumemctl pool create --backing named named 8MiB >"$work/log" 2>&1 &&
    fail "a named pool was given away without CAP_CHOWN"
grep -q 'cannot be given the owner' "$work/log" || fail "refused for another reason"

within systemd-analyze security --no-pager goumemd.service | tail -n 1
within dpkg -r goumem >"$work/log" 2>&1 || fail "dpkg"
! within systemctl is-active --quiet goumemd.service || fail "removed, and active"
! within systemctl is-active --quiet goumemd.socket || fail "removed, and listening"
within test -f /etc/goumem/goumemd.toml || fail "removal took the configuration"
within dpkg -P goumem >"$work/log" 2>&1 || fail "dpkg"
for gone in /etc/goumem /run/goumem /var/lib/goumem /usr/bin/goumemd; do
    ! within test -e "$gone" || fail "purged, and $gone is there"
done
echo "systemd: installed, restarted, killed, hung, stopped, started by a client, removed, purged"

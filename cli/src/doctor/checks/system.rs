//! What the system does to shared memory by itself: at logout, in a container, in the kernel.

use std::fs;

use super::super::finding::{Finding, Level};
use super::super::machine::Machine;
use super::leftovers::named_segments;

/// Users up to it are the system's, unless `/etc/login.defs` says otherwise.
const DEFAULT_SYS_UID_MAX: u32 = 999;
/// `pidfd_open(2)`.
const OLDEST: (u32, u32) = (5, 3);
/// From there on a process in another PID namespace is seen too, and may map.
const PEER_PIDFD: (u32, u32) = (6, 9);

/// Does logind remove the named segments of a user who logs out?
pub(super) fn remove_ipc(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "remove_ipc";
    if !machine.path("run/systemd/system").is_dir() {
        return vec![Finding::ok(
            CHECK,
            "no systemd runs here, which would remove anything",
        )];
    }
    let uid = machine.daemon_uid();
    let max = sys_uid_max(machine);
    let is_on = remove_ipc_is_on(machine);
    let own = named_segments(machine)
        .into_iter()
        .filter(|segment| segment.uid == uid)
        .count() as u64;
    let finding = if uid <= max {
        let message = format!("user {uid} is the system's: nothing of it is removed at logout");
        Finding::ok(CHECK, message)
    } else if !is_on {
        Finding::ok(CHECK, "RemoveIPC=no: nothing is removed at logout")
    } else {
        let (level, extent) = match own {
            0 => (
                Level::Note,
                "pools of the default backing are not touched".to_owned(),
            ),
            n => (Level::Warning, format!("{n} segments are there now")),
        };
        let message = format!(
            "RemoveIPC is on: when user {uid} logs out, logind removes the segments of its named \
             pools; {extent}"
        );
        Finding::new(CHECK, level, message)
            .mend(format!("loginctl enable-linger {uid}"))
            .mend(
                "mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nRemoveIPC=no\\n' > \
                 /etc/systemd/logind.conf.d/goumem.conf && systemctl restart systemd-logind",
            )
    };
    vec![
        finding
            .number("uid", uid)
            .number("sys_uid_max", max)
            .number("remove_ipc", is_on)
            .number("named_segments", own),
    ]
}

/// Reads logind's configuration in the order in which later files win. Unset, it is on.
fn remove_ipc_is_on(machine: &Machine) -> bool {
    let mut files = vec!["etc/systemd/logind.conf".to_owned()];
    for directory in ["usr/lib/systemd/logind.conf.d", "etc/systemd/logind.conf.d"] {
        let names = machine.names(directory).into_iter();
        files.extend(
            names
                .filter(|name| name.ends_with(".conf"))
                .map(|name| format!("{directory}/{name}")),
        );
    }
    let mut is_on = true;
    for file in files {
        for line in machine.read(&file).unwrap_or_default().lines() {
            if let Some((key, value)) = line.split_once('=')
                && key.trim() == "RemoveIPC"
            {
                let value = value.trim().to_ascii_lowercase();
                is_on = matches!(value.as_str(), "yes" | "true" | "on" | "1" | "y" | "t" | "");
            }
        }
    }
    is_on
}

fn sys_uid_max(machine: &Machine) -> u32 {
    let defs = machine.read("etc/login.defs").unwrap_or_default();
    let found = defs.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "SYS_UID_MAX").then(|| words.next()?.parse().ok())?
    });
    found.unwrap_or(DEFAULT_SYS_UID_MAX)
}

/// Can the daemon see when this process dies, and may it map?
pub(super) fn namespaces(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "namespaces";
    let container = container(machine);
    let mut findings = Vec::new();
    if let Some(facts) = machine.facts() {
        let own = fs::read_link(machine.path("proc/self/ns/pid")).ok();
        let its = facts
            .pid
            .and_then(|pid| fs::read_link(machine.path(format!("proc/{pid}/ns/pid"))).ok());
        if facts.may_map == Some(false) {
            let message = "goumemd cannot see when processes of here die, so they may not map \
                           pools; their bytes go by RPC";
            findings.push(
                Finding::new(CHECK, Level::Problem, message)
                    .mend("docker run --pid=container:GOUMEMD …")
                    .mend("docker run --pid=host …"),
            );
        } else if facts.pid.is_none() || (own.is_some() && its.is_some() && own != its) {
            let message = "goumemd lives in another PID namespace: pids that it shows mean other \
                           processes here";
            findings.push(Finding::new(CHECK, Level::Note, message));
        }
    }
    if findings.is_empty() {
        let message = match container {
            Some(kind) => format!("this is a container ({kind}), with goumemd to be seen"),
            None => "no container, one PID namespace".to_owned(),
        };
        findings.push(Finding::ok(CHECK, message));
    }
    let may_map = machine.facts().and_then(|facts| facts.may_map);
    findings
        .into_iter()
        .map(|finding| {
            finding
                .number("container", container)
                .number("may_map", may_map)
        })
        .collect()
}

fn container(machine: &Machine) -> Option<&'static str> {
    if machine.path(".dockerenv").exists() {
        return Some("docker");
    }
    if machine.path("run/.containerenv").exists() {
        return Some("podman");
    }
    let cgroup = machine.read("proc/1/cgroup").unwrap_or_default();
    if cgroup.contains("kubepods") {
        return Some("kubernetes");
    }
    None
}

/// Has the kernel what goumem stands on?
pub(super) fn kernel(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let release = machine
        .read("proc/sys/kernel/osrelease")
        .unwrap_or_default();
    let release = release.trim();
    let version = parse_release(release);
    let has = machine.kernel;
    let mut findings = Vec::new();
    for (there, what, consequence, level) in [
        (
            has.memfd_seals,
            "memfd_create with seals",
            "pools of the default backing cannot be created",
            Level::Problem,
        ),
        (
            has.pidfd,
            "pidfd_open",
            "no session that maps can be opened",
            Level::Problem,
        ),
        (
            has.membarrier,
            "membarrier",
            "every allocation pays for a fence of its own",
            Level::Warning,
        ),
    ] {
        if !there {
            let message = format!(
                "{what} is not to be had (kernel {release}, or a seccomp filter): {consequence}"
            );
            findings.push(
                Finding::new(CHECK, level, message)
                    .mend("uname -r; grep Seccomp /proc/self/status"),
            );
        }
    }
    if version.is_some_and(|version| version < OLDEST) {
        let message = format!("kernel {release} is older than 5.3, the oldest that goumem runs on");
        findings.push(Finding::new(CHECK, Level::Problem, message));
    } else if version.is_some_and(|version| version < PEER_PIDFD) {
        let message = format!(
            "kernel {release} is older than 6.9: processes in other PID namespaces may not map"
        );
        findings.push(Finding::new(CHECK, Level::Note, message));
    }
    if findings.is_empty() {
        let message = format!("kernel {release} has memfd seals, pidfd and membarrier");
        findings.push(Finding::ok(CHECK, message));
    }
    findings
        .into_iter()
        .map(|finding| {
            finding
                .number("release", release)
                .number("memfd_seals", has.memfd_seals)
                .number("pidfd", has.pidfd)
                .number("membarrier", has.membarrier)
        })
        .collect()
}

/// Reads the beginning of `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

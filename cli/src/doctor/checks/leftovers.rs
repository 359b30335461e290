//! What the dead left behind, and what outlives them on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::finding::{Finding, Level};
use super::super::machine::{Machine, SocketState, is_locked, socket_state};
use crate::output::{Cell, human_bytes};

/// How the daemon names a segment in `/dev/shm`: `goumem-UID-` and 11 random digits.
const RANDOM_DIGITS: usize = 11;

/// A named segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedSegment {
    pub(super) uid: u32,
    path: PathBuf,
    committed_bytes: u64,
    /// Whether a daemon or keeper has it; unknown if it is not the caller's to know.
    is_held: Option<bool>,
}

/// Returns what the daemons of all users have in `/dev/shm`.
pub(super) fn named_segments(machine: &Machine) -> Vec<NamedSegment> {
    let segment = |name: String| {
        let (uid, random) = name.strip_prefix("goumem-")?.split_once('-')?;
        if random.len() != RANDOM_DIGITS || !random.chars().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let path = machine.path("dev/shm").join(&name);
        let found = fs::symlink_metadata(&path)
            .ok()
            .filter(|found| found.is_file())?;
        Some(NamedSegment {
            uid: uid.parse().ok()?,
            committed_bytes: found.blocks().saturating_mul(512),
            is_held: is_locked(&path),
            path,
        })
    };
    let names = machine.names("dev/shm").into_iter();
    names.filter_map(segment).collect()
}

/// Are there named segments of daemons that are dead?
pub(super) fn segments(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "segments";
    let all = named_segments(machine);
    let orphans: Vec<_> = all
        .iter()
        .filter(|segment| segment.is_held == Some(false))
        .collect();
    let bytes = orphans.iter().map(|segment| segment.committed_bytes).sum();
    let finding = if orphans.is_empty() {
        let message = match all.len() {
            0 => "no named segments in /dev/shm".to_owned(),
            n => format!("{n} named segments in /dev/shm, none of a dead daemon"),
        };
        Finding::ok(CHECK, message)
    } else {
        let message = format!(
            "{} named segments of dead daemons hold {}; the next goumemd of their user removes \
             them",
            orphans.len(),
            human_bytes(bytes)
        );
        let paths: Vec<_> = orphans
            .iter()
            .map(|segment| segment.path.display().to_string())
            .collect();
        Finding::new(CHECK, Level::Warning, message).mend(format!("rm {}", paths.join(" ")))
    };
    vec![
        finding
            .number("segments", all.len() as u64)
            .number("orphans", orphans.len() as u64)
            .number("orphaned_bytes", Cell::Bytes(bytes)),
    ]
}

/// Are there sockets that nobody listens on?
pub(super) fn sockets(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "sockets";
    let instances = machine.instances();
    let stale: Vec<_> = instances
        .iter()
        .flat_map(|instance| instance.sockets())
        .filter(|path| socket_state(path) == SocketState::Stale)
        .map(|path| path.display().to_string())
        .collect();
    if stale.is_empty() {
        return vec![Finding::ok(CHECK, "every socket has its daemon")];
    }
    let message = format!(
        "nobody listens on {}; the next goumemd there removes what it replaces",
        stale.join(", ")
    );
    vec![
        Finding::new(CHECK, Level::Note, message)
            .number("stale", stale.len() as u64)
            .mend(format!("rm {}", stale.join(" "))),
    ]
}

/// Does a process hold an instance's lock, or its data directory's, and serve nobody?
pub(super) fn locks(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "locks";
    let mut findings = Vec::new();
    for instance in machine.instances() {
        let socket = &instance.socket;
        let is_served = matches!(socket_state(socket), SocketState::Live { .. });
        let directory = socket.parent().unwrap_or_else(|| Path::new("."));
        for lock in [instance.beside("lock"), directory.join("data/goumemd.lock")] {
            if is_served || is_locked(&lock) != Some(true) {
                continue;
            }
            let pid = fs::read_to_string(&lock).ok();
            let pid = pid.and_then(|pid| pid.trim().parse::<u32>().ok());
            let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("pid {pid}"));
            let message = format!(
                "{who} holds {}, but nobody answers at {}: no other goumemd can start there",
                lock.display(),
                socket.display()
            );
            let finding = Finding::new(CHECK, Level::Problem, message)
                .number("lock", lock.display().to_string())
                .number("pid", pid);
            findings.push(match pid {
                Some(pid) => finding.mend(format!("kill {pid}")),
                None => finding.mend(format!("fuser -k {}", lock.display())),
            });
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no lock without a daemon that answers"));
    }
    findings
}

/// Does a keeper hold memory for a daemon that does not run?
pub(super) fn keepers(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "keepers";
    let mut findings = Vec::new();
    for instance in machine.instances() {
        let socket = &instance.socket;
        let is_served = matches!(
            socket_state(socket),
            SocketState::Live { .. } | SocketState::Unknown
        );
        let keeper = socket_state(&instance.beside("keeper.sock"));
        let SocketState::Live { pid } = keeper else {
            continue;
        };
        if is_served {
            continue;
        }
        let held = pid.and_then(|pid| held_by(machine, pid));
        let extent = held.map_or_else(String::new, |(segments, bytes)| {
            format!(": {segments} segments, {}", human_bytes(bytes))
        });
        let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        let message = format!(
            "a keeper{who} holds what the daemon at {} left{extent}; the next one there takes it \
             over",
            socket.display()
        );
        let place = socket.display();
        findings.push(
            Finding::new(CHECK, Level::Warning, message)
                .number("pid", pid)
                .number("segments", held.map(|(segments, _)| segments))
                .number("held_bytes", held.map(|(_, bytes)| Cell::Bytes(bytes)))
                .mend(format!("goumemd --listen {place}"))
                .mend(format!("goumemd --listen {place} --drop")),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no keeper without a daemon"));
    }
    findings
}

/// Returns how many memfds of goumem's a process has open, and their memory. None: not to be seen.
fn held_by(machine: &Machine, pid: u32) -> Option<(u64, u64)> {
    let directory = machine.path(format!("proc/{pid}/fd"));
    let mut held = BTreeMap::new();
    for entry in fs::read_dir(directory).ok()? {
        let path = entry.ok()?.path();
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        if target.to_string_lossy().contains("memfd:goumem")
            && let Ok(found) = fs::metadata(&path)
        {
            held.insert(
                (found.dev(), found.ino()),
                found.blocks().saturating_mul(512),
            );
        }
    }
    Some((held.len() as u64, held.values().sum()))
}

/// Do processes map pools that the daemon does not have any more?
pub(super) fn mappings(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "mappings";
    let Some(facts) = machine.facts() else {
        return Vec::new();
    };
    // Other instances' pools are not this daemon's to know.
    if machine.instances().iter().any(|instance| {
        instance.socket != facts.socket
            && matches!(socket_state(&instance.socket), SocketState::Live { .. })
    }) {
        let message = "several daemons run, so whose pool a mapping is cannot be said";
        return vec![Finding::ok(CHECK, message)];
    }
    let known: BTreeSet<&str> = facts.pools.iter().map(|(name, _)| name.as_str()).collect();
    let mut findings = Vec::new();
    for name in machine.names("proc") {
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        if Some(pid) == facts.pid {
            continue;
        }
        let maps = machine.read(format!("proc/{pid}/maps")).unwrap_or_default();
        let lost: BTreeSet<_> = maps
            .lines()
            .filter_map(mapped_pool)
            .filter(|pool| !known.contains(pool))
            .collect();
        if lost.is_empty() {
            continue;
        }
        let pools: Vec<_> = lost.into_iter().collect();
        let message = format!(
            "pid {pid} maps {}, which goumemd does not have: destroyed, lost, or of an earlier \
             daemon; the memory goes with the mapping",
            pools.join(", ")
        );
        findings.push(
            Finding::new(CHECK, Level::Note, message)
                .number("pid", pid)
                .number("pools", pools.len() as u64)
                .mend(format!("kill {pid}")),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "nobody maps a pool that is gone, as far as you may see",
        ));
    }
    findings
}

/// Returns the pool of a line of `/proc/PID/maps`: its memfds are called `goumem-POOL-data`.
fn mapped_pool(line: &str) -> Option<&str> {
    let (_, name) = line.split_once("/memfd:goumem-")?;
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let name = name.strip_prefix("goumem-").unwrap_or(name);
    name.strip_suffix("-data")
        .or_else(|| name.strip_suffix("-control"))
}

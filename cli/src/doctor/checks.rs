//! The checks, in the order of the report: first the daemon, then what it has to work with, then
//! what others left behind.

mod leftovers;
mod limits;
mod system;

use super::finding::{Finding, Level};
use super::machine::{Daemon, Machine};
use crate::observation::percent;
use crate::output::{Cell, human_bytes, human_time};

/// Looks at one thing; says at least one.
pub(super) type Check = fn(&Machine) -> Vec<Finding>;

/// All of them.
pub(super) const CHECKS: &[Check] = &[
    daemon,
    version,
    budget,
    limits::cgroup,
    limits::open_files,
    limits::dev_shm,
    limits::memlock,
    limits::huge_pages,
    system::remove_ipc,
    system::namespaces,
    system::kernel,
    leftovers::segments,
    leftovers::sockets,
    leftovers::locks,
    leftovers::keepers,
    leftovers::mappings,
];

/// Does a daemon answer, and is it well?
fn daemon(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    match &machine.daemon {
        Daemon::Away { socket, why } => vec![
            Finding::new(CHECK, Level::Problem, why.as_str())
                .number("socket", socket.display().to_string())
                .mend(format!("goumemd --listen {}", socket.display()))
                .mend("systemctl start goumemd"),
        ],
        Daemon::Answers(facts) => {
            let info = &facts.info;
            let message = format!(
                "goumemd {} answers at {}, pid {}, up {}",
                info.version,
                facts.socket.display(),
                info.pid,
                human_time(info.uptime)
            );
            let mut findings = vec![
                Finding::ok(CHECK, message)
                    .number("pid", info.pid)
                    .number("epoch", info.epoch)
                    .number("uptime_ms", info.uptime),
            ];
            if info.quarantined > 0 {
                let message = format!(
                    "goumemd could not believe {} of the pools, sessions and records that it \
                     found at its start, and withholds them; its log says which",
                    info.quarantined
                );
                findings.push(
                    Finding::new(CHECK, Level::Warning, message)
                        .number("quarantined", info.quarantined)
                        .mend("journalctl -u goumemd -g quarantine"),
                );
            }
            findings
        }
    }
}

/// Are client, daemon and the memory's layout of one version, and is the daemon the program that
/// is installed?
fn version(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "version";
    let Some(facts) = machine.facts() else {
        return vec![Finding::ok(
            CHECK,
            format!("goumemctl is {}", env!("CARGO_PKG_VERSION")),
        )];
    };
    let (own, daemons) = (env!("CARGO_PKG_VERSION"), facts.info.version.as_str());
    let (own_layout, layout) = (goumem::LAYOUT_VERSION, facts.info.layout_version);
    let restart = match facts.pid {
        Some(pid) => format!("kill {pid} && goumemd --listen {}", facts.socket.display()),
        None => "systemctl restart goumemd".to_owned(),
    };
    let mut findings = Vec::new();
    if own_layout != layout {
        let message = format!(
            "goumemd {daemons} lays memory out by version {layout}, this client by version \
             {own_layout}: pools cannot be mapped"
        );
        let finding = Finding::new(CHECK, Level::Problem, message);
        findings.push(finding.mend("systemctl restart goumemd"));
    } else if own != daemons {
        let message = format!("goumemd is {daemons}, this client {own}; layout {layout} is both's");
        findings.push(Finding::new(CHECK, Level::Note, message).mend(restart.clone()));
    }
    // The kernel marks a program that has been replaced since it was started.
    let program = facts
        .pid
        .and_then(|pid| std::fs::read_link(machine.path(format!("proc/{pid}/exe"))).ok());
    if let Some(program) = program
        && program.to_string_lossy().ends_with(" (deleted)")
    {
        let message = "the program that goumemd runs has been replaced since it was started; \
                       a restart keeps pools and sessions";
        findings.push(Finding::new(CHECK, Level::Warning, message).mend(restart));
    }
    if findings.is_empty() {
        let message = format!("client and daemon are {own}, layout {layout}");
        findings.push(Finding::ok(CHECK, message));
    }
    let add = |finding: Finding| {
        finding
            .number("client", own)
            .number("daemon", daemons)
            .number("client_layout", own_layout)
            .number("daemon_layout", layout)
    };
    findings.into_iter().map(add).collect()
}

/// Is there room within the budget?
fn budget(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "budget";
    let Some(facts) = machine.facts() else {
        return Vec::new();
    };
    let info = &facts.info;
    let room = info.committed_bytes.saturating_add(info.available_bytes);
    let limit = info.budget_limit_bytes.min(room);
    let full = percent(info.committed_bytes, limit);
    let numbers = format!(
        "{} of {} are committed, {full} %",
        human_bytes(info.committed_bytes),
        human_bytes(limit)
    );
    let finding = if full >= 90 {
        let message = format!("the budget is nearly used up: {numbers}");
        Finding::new(CHECK, Level::Warning, message)
            .mend("goumemctl top")
            .mend("goumemd --budget SIZE")
    } else if room < info.budget_limit_bytes {
        let message = format!(
            "the machine or its cgroup ends before the budget of {}: {numbers}",
            human_bytes(info.budget_limit_bytes)
        );
        Finding::new(CHECK, Level::Note, message)
    } else {
        Finding::ok(CHECK, numbers)
    };
    vec![
        finding
            .number("committed_bytes", Cell::Bytes(info.committed_bytes))
            .number("budget_limit_bytes", Cell::Bytes(info.budget_limit_bytes))
            .number("available_bytes", Cell::Bytes(info.available_bytes)),
    ]
}

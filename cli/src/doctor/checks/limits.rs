//! What the daemon may use of the machine.

use std::path::{Path, PathBuf};

use goumem::Backing;

use super::super::finding::{Finding, Level};
use super::super::machine::Machine;
use crate::observation::percent;
use crate::output::{Cell, human_bytes};

/// What Docker gives a container, and little for anybody.
const DOCKER_SHM_BYTES: u64 = 64 << 20;
/// `limits.md`: fds for a connection, a session and a pool.
const FDS: [(&str, u64); 3] = [
    ("max-connections", 2),
    ("max-sessions", 1),
    ("max-pools", 2),
];
/// What each of these is unless the daemon's command line says otherwise.
const DEFAULT_MAX: u64 = 4096;
/// The daemon refuses new pools from there on.
const FD_PRESSURE_PERCENT: u64 = 75;

/// Does the cgroup end before the budget, and is it nearly full?
pub(super) fn cgroup(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "cgroup";
    let pid = machine.daemon_pid();
    let of = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let who = pid.map_or("this process", |_| "goumemd");
    let Some((path, limit, usage)) = tightest(machine, &of) else {
        return vec![Finding::ok(
            CHECK,
            format!("the memory of {who}'s cgroup has no limit"),
        )];
    };
    let full = percent(usage, limit);
    let numbers = format!("{} of {} in use", human_bytes(usage), human_bytes(limit));
    let budget = machine.facts().map(|facts| facts.info.budget_limit_bytes);
    let place = path.display();
    let finding = if full >= 90 {
        let message = format!("{who}'s cgroup is nearly full: {numbers}; the kernel kills beyond");
        Finding::new(CHECK, Level::Warning, message)
            .mend("goumemctl top")
            .mend(format!("echo {} > {place}", limit.saturating_mul(2)))
    } else if budget.is_some_and(|budget| budget > limit) {
        let message = format!(
            "{who}'s cgroup ends at {}, before its budget of {}; goumemd refuses in time",
            human_bytes(limit),
            human_bytes(budget.unwrap_or_default())
        );
        Finding::new(CHECK, Level::Note, message)
            .mend(format!("goumemd --budget {}", limit / 2))
            .mend("systemctl set-property goumemd MemoryMax=infinity")
    } else {
        Finding::ok(CHECK, format!("{who}'s cgroup has {numbers}"))
    };
    vec![
        finding
            .number("limit_bytes", Cell::Bytes(limit))
            .number("usage_bytes", Cell::Bytes(usage))
            .number("budget_limit_bytes", budget.map(Cell::Bytes))
            .number("file", place.to_string()),
    ]
}

/// Returns the file of the limit that leaves least room, of the process's cgroup and those above,
/// the limit and what is used.
fn tightest(machine: &Machine, pid: &str) -> Option<(PathBuf, u64, u64)> {
    let mut found = Vec::new();
    for line in machine.read(format!("proc/{pid}/cgroup"))?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mount, limit, usage) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|one| one == "memory") {
            (
                "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        } else {
            continue;
        };
        // In a container the mount shows the container's own part.
        for below in Path::new(path.trim_start_matches('/')).ancestors() {
            let file = |name: &str| Path::new(mount).join(below).join(name);
            let number = |name| machine.read(file(name))?.trim().parse::<u64>().ok();
            if let (Some(limit_bytes), Some(usage_bytes)) = (number(limit), number(usage))
                && limit_bytes < 1 << 62
            {
                found.push((machine.path(file(limit)), limit_bytes, usage_bytes));
            }
        }
    }
    found
        .into_iter()
        .min_by_key(|&(_, limit, usage)| limit.saturating_sub(usage))
}

/// May the daemon have as many files open as its limits promise?
pub(super) fn open_files(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "open_files";
    let Some(pid) = machine.daemon_pid() else {
        return Vec::new();
    };
    let Some((soft, hard)) = limit_of(machine, pid, "Max open files") else {
        let message = format!("the limits of goumemd (pid {pid}) are not yours to read");
        return vec![Finding::new(CHECK, Level::Note, message).mend("sudo goumemctl doctor")];
    };
    let line = machine
        .read(format!("proc/{pid}/cmdline"))
        .unwrap_or_default();
    let need: u64 = FDS
        .iter()
        .map(|(flag, fds)| fds * flag_of(&line, flag).unwrap_or(DEFAULT_MAX))
        .sum();
    let open = machine.names(format!("proc/{pid}/fd")).len() as u64;
    let wanted = need.next_power_of_two();
    let mend = format!("prlimit --pid {pid} --nofile={wanted}:{wanted}");
    let in_use = percent(open, soft);
    let finding = if in_use >= FD_PRESSURE_PERCENT {
        let message = format!(
            "goumemd has {open} of {soft} files open: it refuses new pools, soon new sessions"
        );
        Finding::new(CHECK, Level::Problem, message).mend(mend)
    } else if soft < need {
        let message = format!(
            "goumemd may have {soft} files open, and {need} are needed for as many connections, \
             sessions and pools as it is set up for: it refuses before that"
        );
        let finding = Finding::new(CHECK, Level::Warning, message).mend(mend);
        finding.mend(format!(
            "systemctl edit goumemd   # [Service] LimitNOFILE={wanted}"
        ))
    } else {
        Finding::ok(
            CHECK,
            format!("goumemd may have {soft} files open, {need} are needed"),
        )
    };
    vec![
        finding
            .number("open", open)
            .number("soft_limit", soft)
            .number("hard_limit", hard)
            .number("needed", need),
    ]
}

/// Is `/dev/shm` there, large enough and not full? Only named pools need it.
pub(super) fn dev_shm(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "dev_shm";
    let Some(space) = machine.dev_shm else {
        let message = "there is no /dev/shm: pools of the backing `named` cannot be created";
        let finding = Finding::new(CHECK, Level::Note, message);
        return vec![finding.mend("mount -t tmpfs -o mode=1777 tmpfs /dev/shm")];
    };
    let used = space.size_bytes.saturating_sub(space.free_bytes);
    let full = percent(used, space.size_bytes);
    let named = machine.facts().map_or(0, |facts| {
        let is_named = |(_, backing): &&(String, Backing)| *backing == Backing::Named;
        facts.pools.iter().filter(is_named).count() as u64
    });
    let numbers = format!(
        "{} of {} used, {full} %",
        human_bytes(used),
        human_bytes(space.size_bytes)
    );
    let larger = "mount -o remount,size=50% /dev/shm";
    let finding = if full >= 90 {
        let level = if named > 0 {
            Level::Problem
        } else {
            Level::Warning
        };
        let message = format!("/dev/shm is nearly full: {numbers}; named pools cannot grow");
        Finding::new(CHECK, level, message)
            .mend("ls -lS /dev/shm")
            .mend(larger)
    } else if space.size_bytes <= DOCKER_SHM_BYTES {
        let message = format!(
            "/dev/shm is small: {numbers}; pools of the default backing do not need it, named \
             ones do"
        );
        Finding::new(CHECK, Level::Note, message)
            .mend(larger)
            .mend("docker run --shm-size=1g …")
    } else {
        Finding::ok(CHECK, format!("/dev/shm: {numbers}"))
    };
    vec![
        finding
            .number("size_bytes", Cell::Bytes(space.size_bytes))
            .number("used_bytes", Cell::Bytes(used))
            .number("named_pools", named),
    ]
}

/// May memory be locked? goumem locks none by itself; programs that lock what they map need it.
pub(super) fn memlock(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "memlock";
    let limits = machine.read("proc/self/limits").unwrap_or_default();
    let Some((soft, hard)) = parse_limit(&limits, "Max locked memory") else {
        return vec![Finding::ok(
            CHECK,
            "no limit on locked memory is to be seen",
        )];
    };
    let finding = if soft == u64::MAX {
        Finding::ok(CHECK, "memory may be locked without a limit")
    } else {
        let message = format!(
            "a program may lock {} in memory; goumem locks none, and pools may be swapped out",
            human_bytes(soft)
        );
        let finding = if soft < 64 << 20 {
            Finding::new(CHECK, Level::Note, message)
        } else {
            Finding::ok(CHECK, message)
        };
        finding.mend(match hard {
            u64::MAX => "ulimit -l unlimited".to_owned(),
            hard => format!("ulimit -l {}", hard / 1024),
        })
    };
    vec![
        finding
            .number("soft_limit_bytes", Cell::Bytes(soft))
            .number("hard_limit_bytes", Cell::Bytes(hard)),
    ]
}

/// Does the kernel use huge pages for shared memory?
pub(super) fn huge_pages(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "huge_pages";
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let Some(text) = machine.read(FILE) else {
        return vec![Finding::ok(
            CHECK,
            "the kernel has no huge pages for shared memory",
        )];
    };
    let chosen = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .unwrap_or("unknown");
    let finding = match chosen {
        "always" | "force" => {
            let message = format!(
                "huge pages for shared memory are `{chosen}`: a pool may take up to 2 MiB more \
                 for each run of pages that is in use"
            );
            Finding::new(CHECK, Level::Note, message).mend(format!("echo within_size > {FILE}"))
        }
        "never" | "deny" => {
            let message = format!(
                "huge pages for shared memory are `{chosen}`; pools above some GiB are faster \
                 with them"
            );
            Finding::new(CHECK, Level::Note, message).mend(format!("echo within_size > {FILE}"))
        }
        _ => Finding::ok(
            CHECK,
            format!("huge pages for shared memory are `{chosen}`"),
        ),
    };
    vec![finding.number("shmem_enabled", chosen)]
}

/// Returns a limit of a process, soft and hard; [`u64::MAX`] is none.
fn limit_of(machine: &Machine, pid: u32, name: &str) -> Option<(u64, u64)> {
    parse_limit(&machine.read(format!("proc/{pid}/limits"))?, name)
}

fn parse_limit(limits: &str, name: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut numbers = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    });
    Some((numbers.next()??, numbers.next()??))
}

/// Returns the number of a flag in `/proc/PID/cmdline`: `--max-pools\0100` or `--max-pools=100`.
fn flag_of(line: &str, flag: &str) -> Option<u64> {
    let mut words = line.split('\0');
    while let Some(word) = words.next() {
        let Some(rest) = word.strip_prefix("--").and_then(|w| w.strip_prefix(flag)) else {
            continue;
        };
        return match rest.strip_prefix('=') {
            Some(value) => value.parse().ok(),
            None => words.next()?.parse().ok(),
        };
    }
    None
}

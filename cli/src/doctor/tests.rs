//! Each check with its fault planted in a directory that looks like a machine, and without it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use goumem::{Backing, DaemonInfo};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::finding::{Finding, Level};
use super::machine::{Daemon, Facts, Kernel, Machine, Space};
use super::*;
use crate::output::Format;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The daemon's, in the directory.
const PID: u32 = 4100;

/// A machine on which all is well.
struct Fixture {
    machine: Machine,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/goumem/goumemd.sock");
        let info = DaemonInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: PID,
            committed_bytes: 100 * MIB,
            budget_limit_bytes: GIB,
            available_bytes: 8 * GIB,
            pools: 1,
            arena_pools: 0,
            sessions: 1,
            page_bytes: 65_536,
            fd_socket: None,
            layout_version: goumem::LAYOUT_VERSION,
            epoch: 7,
            quarantined: 0,
            uptime: Duration::from_secs(3600),
        };
        let facts = Facts {
            socket,
            pid: Some(PID),
            info,
            may_map: Some(true),
            pools: vec![("frames".to_owned(), Backing::Memfd)],
        };
        let fixture = Self {
            machine: Machine {
                root: directory.path().to_owned(),
                uid: 1000,
                daemon: Daemon::Answers(Box::new(facts)),
                dev_shm: Some(Space {
                    size_bytes: 8 * GIB,
                    free_bytes: 7 * GIB,
                }),
                kernel: Kernel {
                    membarrier: true,
                    memfd_seals: true,
                    pidfd: true,
                },
            },
            directory,
        };
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            131072               131072               files     \n\
                      Max locked memory         unlimited            unlimited            bytes     \n";
        fixture
            .file("proc/self/limits", limits)
            .file(&format!("proc/{PID}/limits"), limits)
            .file(
                &format!("proc/{PID}/status"),
                "Name:\tgoumemd\nUid:\t900\t900\t900\t900\n",
            )
            .file(&format!("proc/{PID}/cmdline"), "goumemd\0")
            .file(
                &format!("proc/{PID}/cgroup"),
                "0::/system.slice/goumemd.service\n",
            )
            .file(&format!("proc/{PID}/fd/0"), "")
            .file("proc/sys/kernel/osrelease", "6.12.3-amd64\n")
            .file(
                "sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always [within_size] advise never deny force\n",
            )
            .file("run/systemd/system/x", "")
    }

    fn file(self, path: &str, text: &str) -> Self {
        self.put(path, text);
        self
    }

    fn put(&self, path: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn facts(&mut self) -> &mut Facts {
        match &mut self.machine.daemon {
            Daemon::Answers(facts) => facts,
            Daemon::Away { .. } => panic!("no daemon"),
        }
    }

    fn without_daemon(mut self) -> Self {
        self.machine.daemon = Daemon::Away {
            socket: self.path("run/goumem/goumemd.sock"),
            why: "no goumemd answers at /run/goumem/goumemd.sock: connection refused".to_owned(),
        };
        self
    }

    fn findings(&self, check: &str) -> Vec<Finding> {
        let mut found = examine(&self.machine);
        found.retain(|finding| finding.check == check);
        found
    }

    /// Returns the one finding of a check.
    fn finding(&self, check: &str) -> Finding {
        let mut found = self.findings(check);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// Looks that a check says that, with these texts in it and this command.
    fn says(&self, check: &str, level: Level, texts: &[&str], mend: &str) {
        let finding = self.finding(check);
        assert_eq!(finding.level, level, "{finding:?}");
        for text in texts {
            assert!(finding.message.contains(text), "{text:?} in {finding:?}");
        }
        let mends = finding.mend.iter().any(|command| command.contains(mend));
        assert!(mends, "{mend:?} in {finding:?}");
    }
}

/// Holds the lock of a file, as a daemon does.
fn lock(path: &Path) -> File {
    let file = File::options().read(true).write(true).open(path).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

#[test]
fn a_machine_without_faults_is_well() {
    let fixture = Fixture::new();
    let findings = examine(&fixture.machine);
    let bad: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(findings.len() >= CHECKS.len(), "a check has said nothing");
    let output = report(&findings);
    assert!(matches!(output, Output::Report { failed: false, .. }));
}

#[test]
fn a_daemon_that_does_not_answer_is_a_problem() {
    let fixture = Fixture::new().without_daemon();
    fixture.says(
        "daemon",
        Level::Problem,
        &["no goumemd answers"],
        "goumemd --listen ",
    );
    let output = report(&examine(&fixture.machine));
    assert!(matches!(output, Output::Report { failed: true, .. }));
}

#[test]
fn what_was_quarantined_is_a_warning() {
    let mut fixture = Fixture::new();
    fixture.facts().info.quarantined = 3;
    let findings = fixture.findings("daemon");
    assert_eq!(findings[1].level, Level::Warning);
    assert!(findings[1].message.contains("believe 3 of"), "{findings:?}");
}

#[test]
fn versions_that_differ_are_said() {
    let mut fixture = Fixture::new();
    fixture.facts().info.version = "0.0.9".to_owned();
    fixture.says(
        "version",
        Level::Note,
        &["goumemd is 0.0.9"],
        "kill 4100 && goumemd",
    );
    fixture.facts().info.layout_version = goumem::LAYOUT_VERSION + 1;
    fixture.says(
        "version",
        Level::Problem,
        &["cannot be mapped"],
        "restart goumemd",
    );
}

#[test]
fn a_program_that_was_replaced_is_a_warning() {
    let fixture = Fixture::new();
    symlink("/usr/bin/goumemd (deleted)", fixture.path("proc/4100/exe")).unwrap();
    fixture.says(
        "version",
        Level::Warning,
        &["replaced"],
        "kill 4100 && goumemd",
    );
}

#[test]
fn a_budget_that_is_nearly_used_up_is_a_warning() {
    let mut fixture = Fixture::new();
    fixture.facts().info.committed_bytes = 1000 * MIB;
    fixture.says(
        "budget",
        Level::Warning,
        &["1000 MiB of 1 GiB", "97 %"],
        "goumemctl top",
    );
}

#[test]
fn a_machine_that_ends_before_the_budget_is_a_note() {
    let mut fixture = Fixture::new();
    fixture.facts().info.available_bytes = 200 * MIB;
    let finding = fixture.finding("budget");
    assert_eq!(finding.level, Level::Note);
    assert!(
        finding.message.contains("100 MiB of 300 MiB"),
        "{finding:?}"
    );
}

#[test]
fn a_cgroup_below_the_budget_is_a_note_and_a_full_one_a_warning() {
    let cgroup = "sys/fs/cgroup/system.slice";
    let fixture = Fixture::new()
        .file(&format!("{cgroup}/memory.max"), "536870912\n")
        .file(&format!("{cgroup}/memory.current"), "1048576\n")
        .file(&format!("{cgroup}/goumemd.service/memory.max"), "max\n")
        .file(
            &format!("{cgroup}/goumemd.service/memory.current"),
            "1048576\n",
        );
    fixture.says(
        "cgroup",
        Level::Note,
        &["512 MiB", "1 GiB"],
        "goumemd --budget 268435456",
    );
    fixture.put(&format!("{cgroup}/memory.current"), "500000000\n");
    fixture.says(
        "cgroup",
        Level::Warning,
        &["nearly full"],
        "system.slice/memory.max",
    );
}

#[test]
fn a_cgroup_of_version_1_is_read_too() {
    let cgroup = "sys/fs/cgroup/memory/docker/abc";
    let fixture = Fixture::new()
        .file(
            &format!("proc/{PID}/cgroup"),
            "4:cpu:/\n3:memory:/docker/abc\n0::/\n",
        )
        .file(&format!("{cgroup}/memory.limit_in_bytes"), "104857600\n")
        .file(&format!("{cgroup}/memory.usage_in_bytes"), "104000000\n")
        .file(
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        )
        .file("sys/fs/cgroup/memory/memory.usage_in_bytes", "104000000\n");
    fixture.says(
        "cgroup",
        Level::Warning,
        &["100 MiB"],
        "memory.limit_in_bytes",
    );
}

#[test]
fn too_few_open_files_are_a_warning_and_a_full_table_a_problem() {
    let limits = "Max open files            1024                 4096                 files     \n";
    let fixture = Fixture::new().file(&format!("proc/{PID}/limits"), limits);
    fixture.says(
        "open_files",
        Level::Warning,
        &["1024", "20480"],
        "prlimit --pid 4100 --nofile=32768:32768",
    );
    for fd in 0..800 {
        fixture.put(&format!("proc/{PID}/fd/{fd}"), "");
    }
    fixture.says(
        "open_files",
        Level::Problem,
        &["800 of 1024"],
        "prlimit --pid 4100",
    );
}

#[test]
fn open_files_are_counted_by_the_daemons_own_limits() {
    let limits = "Max open files            1024                 4096                 files     \n";
    let line = [
        "goumemd",
        "--max-sessions",
        "100",
        "--max-pools=50",
        "--max-connections",
        "100",
    ]
    .join("\0");
    let fixture = Fixture::new()
        .file(&format!("proc/{PID}/limits"), limits)
        .file(&format!("proc/{PID}/cmdline"), &line);
    let finding = fixture.finding("open_files");
    assert_eq!(finding.level, Level::Ok);
    assert!(finding.message.contains("400 are needed"), "{finding:?}");
}

#[test]
fn dev_shm_that_is_small_full_or_not_there_is_said() {
    let mut fixture = Fixture::new();
    let space = |size_bytes, free_bytes| {
        Some(Space {
            size_bytes,
            free_bytes,
        })
    };
    fixture.machine.dev_shm = space(64 * MIB, 64 * MIB);
    fixture.says(
        "dev_shm",
        Level::Note,
        &["64 MiB"],
        "mount -o remount,size=50% /dev/shm",
    );
    fixture.machine.dev_shm = space(GIB, 10 * MIB);
    fixture.says(
        "dev_shm",
        Level::Warning,
        &["nearly full"],
        "ls -lS /dev/shm",
    );
    fixture.facts().pools.push(("n".to_owned(), Backing::Named));
    assert_eq!(fixture.finding("dev_shm").level, Level::Problem);
    fixture.machine.dev_shm = None;
    fixture.says("dev_shm", Level::Note, &["no /dev/shm"], "mount -t tmpfs");
}

#[test]
fn a_small_memlock_limit_is_a_note() {
    let limits = "Max locked memory         65536                8388608              bytes     \n";
    let fixture = Fixture::new().file("proc/self/limits", limits);
    fixture.says("memlock", Level::Note, &["64 KiB"], "ulimit -l 8192");
}

#[test]
fn huge_pages_that_waste_or_are_off_are_a_note() {
    let file = "sys/kernel/mm/transparent_hugepage/shmem_enabled";
    for chosen in ["[always] never", "always [never]"] {
        let fixture = Fixture::new().file(file, chosen);
        fixture.says(
            "huge_pages",
            Level::Note,
            &[],
            "echo within_size > /sys/kernel/mm",
        );
    }
}

#[test]
fn remove_ipc_is_about_users_who_log_out() {
    let mut fixture = Fixture::new();
    fixture.put(
        &format!("proc/{PID}/status"),
        "Uid:\t1000\t1000\t1000\t1000\n",
    );
    fixture.says(
        "remove_ipc",
        Level::Note,
        &["user 1000"],
        "loginctl enable-linger 1000",
    );
    let segment = fixture.put("dev/shm/goumem-1000-0123456789a", "x");
    let held = lock(&segment);
    fixture.says(
        "remove_ipc",
        Level::Warning,
        &["1 segments"],
        "RemoveIPC=no",
    );
    drop(held);
    fixture.put("etc/login.defs", "# comment\nSYS_UID_MAX\t\t1500\n");
    assert_eq!(fixture.finding("remove_ipc").level, Level::Ok);
    fixture.put("etc/login.defs", "");
    fixture.put(
        "etc/systemd/logind.conf",
        "[Login]\n#RemoveIPC=yes\nRemoveIPC=yes\n",
    );
    fixture.put(
        "etc/systemd/logind.conf.d/x.conf",
        "[Login]\nRemoveIPC = no\n",
    );
    assert_eq!(fixture.finding("remove_ipc").level, Level::Ok);
    fixture.machine.root = fixture.path("proc");
    assert!(fixture.finding("remove_ipc").message.contains("no systemd"));
}

#[test]
fn a_session_that_may_not_map_is_a_problem_and_a_foreign_namespace_a_note() {
    let mut fixture = Fixture::new().file(".dockerenv", "");
    assert!(fixture.finding("namespaces").message.contains("docker"));
    fixture.facts().may_map = Some(false);
    fixture.says(
        "namespaces",
        Level::Problem,
        &["may not map"],
        "docker run --pid=",
    );
    fixture.facts().may_map = Some(true);
    for (process, namespace) in [("self", "pid:[1]"), ("4100", "pid:[2]")] {
        let directory = fixture.path(&format!("proc/{process}/ns"));
        fs::create_dir_all(&directory).unwrap();
        symlink(namespace, directory.join("pid")).unwrap();
    }
    assert_eq!(fixture.finding("namespaces").level, Level::Note);
}

#[test]
fn a_kernel_without_what_it_takes_is_a_problem() {
    let mut fixture = Fixture::new();
    fixture.machine.kernel.memfd_seals = false;
    fixture.says("kernel", Level::Problem, &["memfd_create"], "Seccomp");
    fixture.machine.kernel = Kernel {
        memfd_seals: true,
        pidfd: false,
        membarrier: true,
    };
    fixture.says("kernel", Level::Problem, &["pidfd_open"], "uname -r");
    fixture.machine.kernel = Kernel {
        memfd_seals: true,
        pidfd: true,
        membarrier: false,
    };
    fixture.says("kernel", Level::Warning, &["membarrier"], "uname -r");
    fixture.machine.kernel.membarrier = true;
    for (release, level) in [
        ("5.2.0", Level::Problem),
        ("5.15.0-91-generic", Level::Note),
        ("6.9.0", Level::Ok),
        ("7.0", Level::Ok),
        ("odd", Level::Ok),
    ] {
        fixture.put("proc/sys/kernel/osrelease", release);
        assert_eq!(fixture.finding("kernel").level, level, "{release}");
    }
}

#[test]
fn segments_that_nobody_holds_are_a_warning() {
    let fixture = Fixture::new();
    let held = fixture.put("dev/shm/goumem-900-0123456789a", "x");
    let _lock = lock(&held);
    fixture.put("dev/shm/goumem-900-other", "not one of ours");
    fixture.put("dev/shm/psm_x", "not one of ours");
    assert_eq!(fixture.finding("segments").level, Level::Ok);
    fixture.put("dev/shm/goumem-900-abcdefghijk", &"x".repeat(8192));
    fixture.says(
        "segments",
        Level::Warning,
        &["1 named segments of dead daemons"],
        "dev/shm/goumem-900-abcdefghijk",
    );
    let finding = fixture.finding("segments");
    assert_eq!(finding.mend.len(), 1);
    assert!(
        !finding.mend[0].contains("0123456789a"),
        "the living one's stays"
    );
}

#[test]
fn sockets_that_nobody_listens_on_are_a_note() {
    let fixture = Fixture::new();
    let live = fixture.path("tmp/goumem-1000/goumemd.sock");
    fs::create_dir_all(live.parent().unwrap()).unwrap();
    let _listener = UnixListener::bind(&live).unwrap();
    assert_eq!(fixture.finding("sockets").level, Level::Ok);
    let stale = fixture.path("run/user/7/goumem/goumemd.fd.sock");
    fs::create_dir_all(stale.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&stale).unwrap());
    fixture.says(
        "sockets",
        Level::Note,
        &["goumemd.fd.sock"],
        "run/user/7/goumem/goumemd.fd.sock",
    );
}

#[test]
fn a_lock_without_a_daemon_that_answers_is_a_problem() {
    for name in ["goumemd.lock", "data/goumemd.lock"] {
        let fixture = Fixture::new().without_daemon();
        let path = fixture.put(&format!("run/goumem/{name}"), "4242\n");
        assert_eq!(fixture.finding("locks").level, Level::Ok, "nobody holds it");
        let held = lock(&path);
        fixture.says("locks", Level::Problem, &["pid 4242 holds"], "kill 4242");
        // With somebody who answers it is as it should be.
        let socket = fixture.path("run/goumem/goumemd.sock");
        let _listener = UnixListener::bind(socket).unwrap();
        assert_eq!(fixture.finding("locks").level, Level::Ok);
        drop(held);
    }
}

#[test]
fn a_keeper_without_a_daemon_is_a_warning_with_what_it_holds() {
    let fixture = Fixture::new().without_daemon();
    let keeper = fixture.path("run/goumem/goumemd.keeper.sock");
    fs::create_dir_all(keeper.parent().unwrap()).unwrap();
    let _listener = UnixListener::bind(keeper).unwrap();
    // The kernel says that the keeper is this process.
    let pid = std::process::id();
    let memory = fixture.put(
        "memfd:goumem-goumem-frames-data (deleted)",
        &"x".repeat(65_536),
    );
    fs::create_dir_all(fixture.path(&format!("proc/{pid}/fd"))).unwrap();
    for fd in [3, 4] {
        symlink(&memory, fixture.path(&format!("proc/{pid}/fd/{fd}"))).unwrap();
    }
    let expected = format!("a keeper (pid {pid}) holds");
    fixture.says(
        "keepers",
        Level::Warning,
        &[&expected, "1 segments"],
        "--drop",
    );
    let _daemon = UnixListener::bind(fixture.path("run/goumem/goumemd.sock")).unwrap();
    assert_eq!(fixture.finding("keepers").level, Level::Ok);
}

#[test]
fn mappings_of_pools_that_are_gone_are_a_note() {
    let fixture = Fixture::new();
    let line = |pool: &str| {
        format!("7f00-7f10 rw-s 00000000 00:01 99 /memfd:goumem-goumem-{pool}-data (deleted)\n")
    };
    fixture.put("proc/5000/maps", &line("frames"));
    assert_eq!(fixture.finding("mappings").level, Level::Ok);
    fixture.put(
        "proc/5001/maps",
        &format!("{}{}", line("frames"), line("old-one")),
    );
    fixture.says(
        "mappings",
        Level::Note,
        &["pid 5001 maps old-one,"],
        "kill 5001",
    );
}

#[test]
fn the_report_reads_well_and_has_every_number() {
    let mut fixture = Fixture::new();
    fixture.facts().info.committed_bytes = 1000 * MIB;
    let finding = fixture.finding("budget");
    let output = report(&[
        finding,
        Finding::ok("dev_shm", "/dev/shm: 1 GiB of 8 GiB used, 12 %"),
    ]);
    let printed = |format| {
        let mut text = Vec::new();
        output.write(format, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    insta::assert_snapshot!(printed(Format::Table));
    let value: serde_json::Value = serde_json::from_str(&printed(Format::Json)).unwrap();
    assert_eq!(value["warnings"], 1);
    assert_eq!(
        value["findings"][0]["numbers"]["committed_bytes"],
        1000 * MIB
    );
    assert_eq!(value["findings"][0]["try"][0], "goumemctl top");
}

#[test]
fn this_machine_can_be_examined() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let machine = Machine::this(Some(&socket)).unwrap();
    let findings = examine(&machine);
    let daemon = findings.iter().find(|finding| finding.check == "daemon");
    assert_eq!(daemon.map(|finding| finding.level), Some(Level::Problem));
    assert!(machine.kernel.memfd_seals && machine.kernel.pidfd);
}

//! Programs that clients and the daemon start: they inherit nothing of goumem's.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use harness::{DaemonProcess, TestDaemon};

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

/// Returns what a process has open: `socket:[4711]`, `/memfd:goumem-p (deleted)` and the like.
fn open_by(pid: u32) -> BTreeSet<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .collect()
}

#[test]
fn program_started_by_a_client_inherits_no_fd() {
    let daemon = TestDaemon::start();
    let mut alice = PUPPETS.client();
    // What the test itself was started with, and could not help passing on.
    let before = alice.must("exec");
    alice.must(&format!("connect {}", daemon.socket().display()));
    for backing in ["memfd", "named", "file"] {
        alice.must(&format!("create-pool {backing} {MIB} backing={backing}"));
        alice.must(&format!("alloc {backing} {backing} 1000 7"));
    }
    alice.must("create-arenas q 2 4096");
    alice.must("get q a 1000");
    let own = open_by(alice.pid());
    let sockets = |open: &BTreeSet<PathBuf>| {
        let is_socket = |path: &&PathBuf| path.to_string_lossy().starts_with("socket:");
        open.iter().filter(is_socket).count()
    };
    assert!(sockets(&own) > 0, "there is something to inherit: {own:?}");
    assert_eq!(alice.must("exec"), before);
}

/// The one program that a daemon starts is its keeper, which is handed what it keeps and nothing
/// else: a keeper that held the lock or the sockets would keep the next daemon from starting.
#[test]
fn keeper_inherits_nothing_of_the_daemon_that_starts_it() {
    // What the test itself was started with, and could not help passing on.
    let inherited = open_by(std::process::id());
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    rpc.create_pool("p", MIB);
    // Another keeper, from a daemon that has sessions and pools by now.
    let first = daemon.keeper().unwrap();
    let process = rustix::process::Pid::from_raw(first.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    harness::eventually(harness::PATIENCE, "there is another keeper", || {
        daemon.keeper().is_some_and(|pid| pid != first)
    });
    rpc.create_pool("q", MIB);
    let (of_daemon, of_keeper) = (
        open_by(daemon.puppet().pid()),
        open_by(daemon.keeper().unwrap()),
    );
    let shared: Vec<_> = of_daemon
        .intersection(&of_keeper)
        .filter(|path| !inherited.contains(*path))
        .map(|path| path.to_string_lossy())
        // What it is there for.
        .filter(|path| !path.starts_with("/memfd:goumem") && !path.contains("[pidfd]"))
        .filter(|path| path != "/dev/null")
        .collect();
    assert!(
        of_keeper
            .iter()
            .any(|path| path.to_string_lossy().starts_with("/memfd:goumem")),
        "it keeps something: {of_keeper:?}"
    );
    assert_eq!(shared, [""; 0], "{of_keeper:?}");
}

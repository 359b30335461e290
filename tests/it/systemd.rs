//! The daemon under a service manager, whose part the test plays: what it is told and when, sockets
//! that are there before the daemon and after it, and fds that it keeps over a restart.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::thread;

use goumem_proto::v1;
use goumem_shm::os::Access;
use goumem_shm::os::frame::MapStatus;
use goumem_shm::os::peer::{PidFd, peer_identity};
use harness::{PATIENCE, Puppet, Rpc, ServiceManager, call, eventually};
use rustix::process::Signal;

use crate::PUPPETS;

const MIB: u64 = 1 << 20;
const STORE: (&str, &str) = ("FDSTORE", "100");

fn end(mut daemon: Puppet) {
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().success());
}

#[test]
fn ready_is_said_once_calls_are_answered_and_not_before() {
    let mut manager = ServiceManager::start();
    manager.bind("grpc", "goumemd.sock");
    manager.bind("fd", "goumemd.fd.sock");
    manager.hold_up();
    let daemon = manager.spawn(PUPPETS, &[], &[STORE]);
    // It stands at the first fd that it stores, and cannot answer.
    eventually(PATIENCE, "the daemon waits", || manager.holds_up());
    let calling = {
        let socket = manager.socket();
        thread::spawn(move || Rpc::open(&socket).info())
    };
    assert_eq!(manager.count("READY=1"), 0, "{:?}", manager.messages());
    assert!(!calling.is_finished());
    manager.let_go();
    manager.wait_for("READY=1", 1);
    manager.wait_for("STATUS=serving", 1);
    let info = calling.join().unwrap();
    assert_eq!(info.sessions, 1);
    assert_eq!(manager.count("STOPPING=1"), 0);
    end(daemon);
    manager.wait_for("STOPPING=1", 1);
    // 10 s of draining, and 10 s more.
    manager.wait_for("EXTEND_TIMEOUT_USEC=20000000", 1);
    assert_eq!(manager.count("READY=1"), 1);
    assert_eq!(manager.count("WATCHDOG=1"), 0, "nobody has asked for it");
}

#[test]
fn reload_is_told_from_its_begin_to_its_end() {
    let manager = ServiceManager::start();
    let daemon = manager.spawn(PUPPETS, &["--keeper", "none"], &[]);
    manager.wait_for("READY=1", 1);
    for reloads in 1..3 {
        daemon.signal(Signal::HUP);
        manager.wait_for("READY=1", reloads + 1);
        assert_eq!(manager.count("RELOADING=1"), reloads);
    }
    let messages = manager.messages();
    let begin = messages
        .iter()
        .find(|text| text.starts_with("RELOADING=1"))
        .unwrap();
    // systemd 253 and later wants to know when.
    assert!(begin.contains("\nMONOTONIC_USEC="), "{begin}");
    Rpc::open(&manager.socket());
    end(daemon);
}

#[test]
fn watchdog_hears_from_the_daemon_again_and_again() {
    let manager = ServiceManager::start();
    let args = ["--keeper", "none"];
    let daemon = manager.spawn(PUPPETS, &args, &[("WATCHDOG_USEC", "20000")]);
    manager.wait_for("WATCHDOG=1", 10);
    end(daemon);
}

#[test]
fn activated_sockets_are_used_and_stay_when_the_daemon_has_ended() {
    // By name, and by path as a socket unit of one name for both has them.
    for names in [["grpc", "fd"], ["goumemd.socket", "goumemd.socket"]] {
        let mut manager = ServiceManager::start();
        manager.bind(names[0], "goumemd.sock");
        manager.bind(names[1], "goumemd.fd.sock");
        let inodes = || {
            let files = ["goumemd.sock", "goumemd.fd.sock"];
            files.map(|file| fs::symlink_metadata(manager.path(file)).unwrap().ino())
        };
        let before = inodes();
        for _ in 0..2 {
            // Calls before there is a daemon, and is answered by it.
            let calling = {
                let socket = manager.socket();
                thread::spawn(move || Rpc::open(&socket))
            };
            let daemon = manager.spawn(PUPPETS, &["--keeper", "none"], &[]);
            let rpc = calling.join().unwrap();
            let pool = rpc.create_pool("p", MIB);
            assert_eq!(rpc.ask_for_memory(pool, Access::ReadWrite).0, MapStatus::Ok);
            let mut alice = PUPPETS.client();
            alice.must(&format!("connect {}", manager.socket().display()));
            alice.must(&format!("create-pool q {MIB}"));
            alice.must("alloc q a 1000 7");
            alice.must("check a 7");
            end(daemon);
            assert_eq!(inodes(), before);
        }
        let log = fs::read_to_string(manager.path("goumemd.log")).unwrap();
        assert_eq!(log, "");
    }
}

#[test]
fn sockets_that_are_for_nothing_or_elsewhere_are_refused() {
    for (name, file, says) in [
        ("other", "x.sock", "which is for nothing"),
        ("grpc", "x.sock", "the configuration says"),
    ] {
        let mut manager = ServiceManager::start();
        manager.bind(name, file);
        let mut daemon = manager.spawn(PUPPETS, &["--keeper", "none"], &[]);
        assert_eq!(daemon.ended().code(), Some(1));
        let log = fs::read_to_string(manager.path("goumemd.log")).unwrap();
        assert!(log.contains(says), "{log}");
        assert!(manager.path(file).exists());
    }
}

#[test]
fn instance_lock_holds_over_activated_sockets() {
    let mut manager = ServiceManager::start();
    manager.bind("grpc", "goumemd.sock");
    manager.bind("fd", "goumemd.fd.sock");
    let daemon = manager.spawn(PUPPETS, &["--keeper", "none"], &[]);
    manager.wait_for("READY=1", 1);
    let mut second = manager.spawn(PUPPETS, &["--keeper", "none"], &[]);
    assert_eq!(second.ended().code(), Some(1));
    let log = fs::read_to_string(manager.path("goumemd.log")).unwrap();
    assert!(log.contains("another daemon serves"), "{log}");
    Rpc::open(&manager.socket());
    end(daemon);
}

#[test]
fn what_is_in_the_fd_store_goes_on_with_the_next_daemon() {
    let mut manager = ServiceManager::start();
    manager.bind("grpc", "goumemd.sock");
    manager.bind("fd", "goumemd.fd.sock");
    let mut daemon = manager.spawn(PUPPETS, &[], &[STORE]);
    let rpc = Rpc::open(&manager.socket());
    let pool = rpc.create_pool("p", MIB);
    let block = rpc.alloc(pool, 100).unwrap();
    rpc.write(block, 0, b"still here").unwrap();
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", manager.socket().display()));
    alice.must(&format!("create-pool q {}", 8 * MIB));
    alice.must("alloc q a 1000 7");
    let stored = manager.stored().len();
    assert!(!manager.path("goumemd.keeper.sock").exists());
    for killed in [true, false] {
        if killed {
            daemon.kill();
        } else {
            end(daemon);
        }
        daemon = manager.spawn(PUPPETS, &[], &[STORE]);
        let again = Rpc::connect(&manager.socket()).with_token(rpc.token.clone());
        call!(again, sessions.resume(v1::ResumeSessionRequest {})).unwrap();
        assert_eq!(again.read(block, 0, 10).unwrap(), b"still here");
        alice.must(&format!("alloc q b-{killed} {} 8", 2 * MIB));
        alice.must("check a 7");
        assert_eq!(manager.stored().len(), stored, "{:?}", manager.stored());
    }
    // Ctrl-C means: nothing shall be left.
    daemon.signal(Signal::INT);
    assert!(daemon.ended().success());
    eventually(PATIENCE, "all is given up", || manager.stored().is_empty());
}

#[test]
fn daemon_without_the_store_does_not_lose_in_silence_what_is_in_it() {
    let manager = ServiceManager::start();
    let mut daemon = manager.spawn(PUPPETS, &[], &[STORE]);
    manager.wait_for("READY=1", 1);
    let rpc = Rpc::open(&manager.socket());
    rpc.create_pool("p", MIB);
    daemon.kill();
    let mut next = manager.spawn(PUPPETS, &["--keeper", "none"], &[]);
    assert_eq!(next.ended().code(), Some(1));
    let log = fs::read_to_string(manager.path("goumemd.log")).unwrap();
    assert!(log.contains("fds of an earlier daemon"), "{log}");
    assert!(!manager.stored().is_empty());
}

#[test]
fn keeper_does_not_inherit_what_is_between_manager_and_daemon() {
    let mut manager = ServiceManager::start();
    manager.bind("grpc", "goumemd.sock");
    manager.bind("fd", "goumemd.fd.sock");
    let environment = [("WATCHDOG_USEC", "60000000")];
    let daemon = manager.spawn(PUPPETS, &["--keeper", "process"], &environment);
    manager.wait_for("READY=1", 1);
    let connection = UnixStream::connect(manager.path("goumemd.keeper.sock")).unwrap();
    let keeper = peer_identity(&connection).unwrap().pid;
    let environment = fs::read(format!("/proc/{keeper}/environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    for variable in ["NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_"] {
        assert!(!environment.contains(variable), "{environment}");
    }
    let of_daemon = fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    assert!(String::from_utf8(of_daemon).unwrap().contains("LISTEN_PID"));
    let keeper = PidFd::open(keeper).unwrap();
    drop(connection);
    // Nobody has anything, so it ends with the daemon.
    end(daemon);
    eventually(PATIENCE, "the keeper ends", || keeper.is_dead());
}

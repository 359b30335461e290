//! Clients that break every rule, and clients that are broken: whatever they do, the daemon lives,
//! no thread of it panics, and others are served meanwhile.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use goumem_shm::os::paths::fd_socket_path;
use harness::{DaemonProcess, PATIENCE, eventually};

use crate::PUPPETS;

mod connections;
mod fd_socket;
mod messages;
mod streams;
mod words;

const MIB: u64 = 1 << 20;

/// How long another client's whole life may take meanwhile, on a machine that is busy besides. One
/// that finds no place fails at once, and one that is not served gives up after its own 30 s.
const IN_TIME: Duration = Duration::from_secs(20);

/// Has another process connect, make a pool of its own, map it and use it.
fn others_are_served(socket: &Path) {
    let mut bob = PUPPETS.client();
    let pool = format!("others-{}", bob.pid());
    let start = Instant::now();
    bob.must(&format!("connect {}", socket.display()));
    bob.must(&format!("create-pool {pool} {MIB}"));
    bob.must(&format!("alloc {pool} a 1000 7"));
    let handle = bob.must("share a");
    bob.must(&format!("look {pool} {handle} 7"));
    bob.must("drop a");
    bob.must("close");
    let took = start.elapsed();
    assert!(took < IN_TIME, "another client's work took {took:?}");
}

/// Connects to the socket where memory is handed out.
fn fd_socket(socket: &Path) -> UnixStream {
    UnixStream::connect(fd_socket_path(socket).unwrap()).unwrap()
}

/// Returns how many fds a daemon has open.
fn fds_of(daemon: &mut DaemonProcess) -> usize {
    let pid = daemon.puppet().pid();
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Returns how much memory a daemon has for itself, in bytes.
fn private_bytes_of(daemon: &mut DaemonProcess) -> u64 {
    let pid = daemon.puppet().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

/// Waits until the daemon has let go of all but a few of the fds beyond `before`.
fn fds_come_down_to(daemon: &mut DaemonProcess, before: usize) {
    eventually(PATIENCE, "the daemon lets go of their fds", || {
        fds_of(daemon) <= before + 4
    });
}

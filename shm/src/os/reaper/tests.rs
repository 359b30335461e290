//! Children die, and are seen to.

use std::env;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::*;
use crate::os::peer::peer_pidfd;

/// What a test waits for that should happen at once.
const DEADLINE: Option<Duration> = Some(Duration::from_secs(20));
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

fn child() -> (Child, PidFd) {
    let child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pidfd = PidFd::open(child.id()).unwrap();
    (child, pidfd)
}

fn end((mut child, pidfd): (Child, PidFd)) {
    // It may have been killed already.
    let _ = pidfd.kill();
    child.wait().unwrap();
}

#[test]
fn each_death_is_reported_once() {
    let watch = DeathWatch::new().unwrap();
    let (alice, bob) = (child(), child());
    watch.add(&alice.1, 1).unwrap();
    watch.add(&bob.1, 2).unwrap();
    assert_eq!(watch.wait(AT_ONCE).unwrap(), []);
    alice.1.kill().unwrap();
    assert_eq!(watch.wait(DEADLINE).unwrap(), [1]);
    assert_eq!(watch.wait(AT_ONCE).unwrap(), []);
    // Reaping it changes nothing.
    end(alice);
    assert_eq!(watch.wait(AT_ONCE).unwrap(), []);
    bob.1.kill().unwrap();
    assert_eq!(watch.wait(DEADLINE).unwrap(), [2]);
    end(bob);
}

#[test]
fn process_that_died_before_it_was_added_is_reported() {
    let watch = DeathWatch::new().unwrap();
    let (mut child, pidfd) = child();
    pidfd.kill().unwrap();
    child.wait().unwrap();
    watch.add(&pidfd, 7).unwrap();
    assert_eq!(watch.wait(DEADLINE).unwrap(), [7]);
}

#[test]
fn removed_process_is_not_reported() {
    let watch = DeathWatch::new().unwrap();
    let dead = child();
    watch.add(&dead.1, 1).unwrap();
    assert_eq!(
        watch.add(&dead.1, 2).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    watch.remove(&dead.1).unwrap();
    assert_eq!(
        watch.remove(&dead.1).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    end(dead);
    assert_eq!(watch.wait(AT_ONCE).unwrap(), []);
}

#[test]
fn key_of_the_waker_is_refused() {
    let watch = DeathWatch::new().unwrap();
    let myself = PidFd::open(std::process::id()).unwrap();
    assert_eq!(
        watch.add(&myself, u64::MAX).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[test]
fn more_deaths_than_one_wait_reports_are_reported_by_the_next() {
    let watch = DeathWatch::new().unwrap();
    let (mut child, pidfd) = child();
    pidfd.kill().unwrap();
    child.wait().unwrap();
    // Each duplicate is a process of its own to the watch.
    let n_deaths = MAX_EVENTS as u64 + 9;
    let held: Vec<PidFd> = (0..n_deaths)
        .map(|key| {
            let again = rustix::io::fcntl_dupfd_cloexec(&pidfd, 0).unwrap();
            let again = PidFd::from_fd(again, pidfd.pid());
            watch.add(&again, key).unwrap();
            again
        })
        .collect();
    let mut seen = watch.wait(DEADLINE).unwrap();
    assert_eq!(seen.len(), MAX_EVENTS);
    seen.extend(watch.wait(DEADLINE).unwrap());
    seen.sort_unstable();
    assert_eq!(seen, (0..n_deaths).collect::<Vec<_>>());
    drop(held);
}

#[test]
fn waiting_thread_is_woken_and_sees_what_is_added_meanwhile() {
    let watch = DeathWatch::new().unwrap();
    watch.wake().unwrap();
    watch.wake().unwrap();
    assert_eq!(watch.wait(DEADLINE).unwrap(), []);
    assert_eq!(watch.wait(AT_ONCE).unwrap(), []);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| watch.wait(None).unwrap());
        watch.wake().unwrap();
        assert_eq!(waiter.join().unwrap(), []);
        let dead = child();
        let waiter = scope.spawn(|| watch.wait(None).unwrap());
        watch.add(&dead.1, 3).unwrap();
        dead.1.kill().unwrap();
        assert_eq!(waiter.join().unwrap(), [3]);
        end(dead);
    });
}

const SOCKET_VARIABLE: &str = "GOUMEM_TEST_REAPER_SOCKET";

/// Not a test: the other side of the next one. Connects, gives its connection to a child of its
/// own, tells that child's pid, and waits to be killed.
#[test]
#[ignore = "started by death_is_seen_while_a_grandchild_holds_the_socket"]
fn puppet() {
    let Some(path) = env::var_os(SOCKET_VARIABLE) else {
        return;
    };
    let mut stream = UnixStream::connect(path).unwrap();
    let inherited = OwnedFd::from(stream.try_clone().unwrap());
    let mut sleep = Command::new("sleep")
        .arg("1000")
        .stdout(inherited)
        .spawn()
        .unwrap();
    stream.write_all(&sleep.id().to_le_bytes()).unwrap();
    sleep.wait().unwrap();
}

#[test]
fn death_is_seen_while_a_grandchild_holds_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut alice = Command::new(env::current_exe().unwrap())
        .args(["--exact", "os::reaper::tests::puppet", "--ignored"])
        .env(SOCKET_VARIABLE, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(DEADLINE).unwrap();
    let pidfd = peer_pidfd(&stream).unwrap();
    assert_eq!(pidfd.pid(), alice.id());
    let mut pid = [0; 4];
    stream.read_exact(&mut pid).unwrap();
    let grandchild = PidFd::open(u32::from_le_bytes(pid)).unwrap();

    let watch = DeathWatch::new().unwrap();
    watch.add(&pidfd, 5).unwrap();
    assert_eq!(watch.wait(AT_ONCE).unwrap(), []);
    pidfd.kill().unwrap();
    assert_eq!(watch.wait(DEADLINE).unwrap(), [5]);

    // The socket would not have told: the grandchild has it open.
    stream.set_nonblocking(true).unwrap();
    assert_eq!(
        stream.read(&mut pid).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert!(!grandchild.is_dead());
    alice.wait().unwrap();
    grandchild.kill().unwrap();
    stream.set_nonblocking(false).unwrap();
    assert_eq!(stream.read(&mut pid).unwrap(), 0);
}

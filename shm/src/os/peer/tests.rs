//! Peers that are this process, its children, and nobody.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::*;

fn child() -> Child {
    Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn peer_is_who_made_the_other_end() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let expected = PeerIdentity {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    };
    assert_eq!(peer_identity(&ours).unwrap(), expected);
    let pidfd = peer_pidfd(&ours).unwrap();
    assert_eq!(pidfd.pid(), std::process::id());
    assert!(!pidfd.is_dead());
    assert!(
        rustix::io::fcntl_getfd(&pidfd)
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
}

#[test]
fn what_is_no_socket_has_no_peer() {
    let file = tempfile::tempfile().unwrap();
    assert_eq!(
        peer_identity(&file).unwrap_err().raw_os_error(),
        Some(libc::ENOTSOCK)
    );
    assert!(matches!(peer_pidfd(&file), Err(PeerError::Os { .. })));
}

#[test]
fn inode_is_the_process_and_not_the_fd() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (one, other) = (
        peer_pidfd(&ours).unwrap(),
        PidFd::open(std::process::id()).unwrap(),
    );
    let Some(inode) = one.inode() else {
        println!("skipped: this kernel has no pidfs");
        return;
    };
    assert_eq!(other.inode(), Some(inode));
    let mut child = child();
    let pidfd = PidFd::open(child.id()).unwrap();
    assert_ne!(pidfd.inode(), Some(inode));
    pidfd.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_process_is_dead_before_and_after_it_is_reaped() {
    let mut child = child();
    let pidfd = PidFd::open(child.id()).unwrap();
    assert!(!pidfd.is_dead());
    pidfd.kill().unwrap();
    // Readable at the latest when it can be waited for.
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    rustix::event::poll(&mut polled, None).unwrap();
    assert!(pidfd.is_dead());
    child.wait().unwrap();
    assert!(pidfd.is_dead());
    assert_eq!(pidfd.kill().unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn older_kernels_are_served_by_pid_and_start_time() {
    let mut child = child();
    let pid = child.id();
    let pidfd = pidfd_by_pid(pid).unwrap();
    assert_eq!((pidfd.pid(), pidfd.is_dead()), (pid, false));
    pidfd.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(pidfd_by_pid(pid), Err(PeerError::Gone { pid: gone }) if gone == pid));
}

#[test]
fn number_that_is_no_pid_is_refused() {
    for pid in [0, u32::MAX] {
        assert_eq!(
            PidFd::open(pid).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}

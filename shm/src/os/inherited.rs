//! Fds that a service manager left open for this process (`sd_listen_fds(3)`): from number 3 on,
//! and this process's to close.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Std fds come before.
const FIRST: RawFd = 3;

/// Whether they have their owners already.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over `count` inherited fds, and has them closed on exec. `listen_pid` is what the manager
/// has put into `LISTEN_PID`: fds of another process are left alone. Only the first call gets any.
///
/// # Errors
///
/// `InvalidInput` when the fds are not there, or not this process's, or taken.
pub fn take_inherited(listen_pid: u32, count: usize) -> io::Result<Vec<OwnedFd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let Some(end) = RawFd::try_from(count)
        .ok()
        .and_then(|n| FIRST.checked_add(n))
    else {
        return refused("so many fds cannot be");
    };
    if listen_pid != std::process::id() {
        return refused("inherited fds are another process's");
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return refused("inherited fds are taken");
    }
    for fd in FIRST..end {
        // SAFETY: only asked for its flags, which fails for a number that is not open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let flags = rustix::io::fcntl_getfd(borrowed.as_fd())?;
        rustix::io::fcntl_setfd(borrowed.as_fd(), flags | rustix::io::FdFlags::CLOEXEC)?;
    }
    let take = |fd| {
        // SAFETY:
        // - The fd is open: its flags have just been set.
        // - It is this process's to close, by the manager's word (`LISTEN_PID` is this process),
        //   and nobody else's in it: whatever this process opened itself got another number, since
        //   these were open before it began, and nobody was given them before (`TAKEN`).
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    Ok((FIRST..end).map(take).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fds_of_another_process_are_left_alone() {
        assert!(take_inherited(1, 0).unwrap().is_empty());
        for (pid, count) in [
            (std::process::id() + 1, 1),
            (std::process::id(), usize::MAX),
        ] {
            let refused = take_inherited(pid, count).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

//! Who is at the other end of a Unix socket, by the kernel's word and never by the peer's, and
//! whether it still lives. Only a pidfd proves death: a closed socket may be held open by a forked
//! child, a silent one may be stopped, and a pid may be a new process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::process::start_time_of;

#[cfg(test)]
mod tests;

/// `f_type` of a kernel with a file system for pidfds (6.9 and later), "PIDF".
const PID_FS_MAGIC: rustix::fs::FsWord = 0x5049_4446;

/// Who made the socket's other end, at the moment it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process, for display and for comparing two sockets; 0 if it is in another pid
    /// namespace.
    pub pid: u32,
}

/// Why the peer's process could not be held on to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer's pid means nothing here, and the kernel is too old to tell its death from others'
    /// without.
    #[error("peer is in another pid namespace")]
    ForeignPidNamespace,
    /// The peer died, or its pid is another process already.
    #[error("peer process {pid} is gone")]
    Gone {
        /// Its pid.
        pid: u32,
    },
    /// Anything else the OS refused.
    #[error("could not {doing} of a socket's peer")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the OS said.
        source: io::Error,
    },
}

/// Returns who is at the other end of a connected Unix socket.
///
/// # Errors
///
/// `ENOTSOCK` and the like. A socket that is not a Unix one gives uid and gid 4294967295.
pub fn peer_identity(socket: &impl AsFd) -> io::Result<PeerIdentity> {
    // Not rustix's socket_peercred: its pid may not be 0, and across pid namespaces it is.
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut len = socklen_of::<libc::ucred>();
    // SAFETY:
    // - The value pointer is valid for writes of `len` bytes, and `len` for reads and writes.
    // - Any bytes the kernel writes there are a valid `ucred`: three integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerIdentity {
        uid: credentials.uid,
        gid: credentials.gid,
        pid: u32::try_from(credentials.pid).unwrap_or(0),
    })
}

/// Returns a pidfd of the process at the other end of a connected Unix socket. Its pid is 0 for a
/// process of a pid namespace that cannot be seen from this one, a sibling container's: such a
/// process is told from others by the pidfd's inode alone, and is refused where the kernel keeps
/// none (before 6.9).
///
/// # Errors
///
/// Any [`PeerError`].
pub fn peer_pidfd(socket: &impl AsFd) -> Result<PidFd, PeerError> {
    let os_error = |doing| move |source| PeerError::Os { doing, source };
    let pid = peer_identity(socket)
        .map_err(os_error("read the credentials"))?
        .pid;
    match peer_pidfd_of_socket(socket.as_fd()) {
        Ok(fd) => {
            let pidfd = PidFd { fd, pid };
            if pid == 0 && pidfd.inode().is_none() {
                return Err(PeerError::ForeignPidNamespace);
            }
            Ok(pidfd)
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) if pid == 0 => Err(PeerError::ForeignPidNamespace),
            // Before Linux 6.5.
            Some(libc::ENOPROTOOPT) => pidfd_by_pid(pid),
            // Reaped already: which of them depends on the kernel.
            Some(libc::ESRCH | libc::EINVAL | libc::ENODATA) => Err(PeerError::Gone { pid }),
            _ => Err(os_error("open the pidfd")(error)),
        },
    }
}

/// `SO_PEERPIDFD`: made by the kernel from the process that connected, so no pid is looked up.
fn peer_pidfd_of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = socklen_of::<libc::c_int>();
    // SAFETY: the value pointer is valid for writes of `len` bytes, and `len` for both.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if fd < 0 {
        return Err(io::Error::other(format!("SO_PEERPIDFD gave the fd {fd}")));
    }
    // SAFETY: the kernel has just made `fd` for us, closed on exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a pidfd by number. If the process that has the pid started at the same time before and
/// after, the pidfd is of that process.
fn pidfd_by_pid(pid: u32) -> Result<PidFd, PeerError> {
    let started = |pid| start_time_of(pid).map_err(|_| PeerError::Gone { pid });
    let before = started(pid)?;
    let pidfd = PidFd::open(pid).map_err(|source| match source.raw_os_error() {
        Some(libc::ESRCH) => PeerError::Gone { pid },
        _ => PeerError::Os {
            doing: "open the pidfd",
            source,
        },
    })?;
    if started(pid)? != before {
        return Err(PeerError::Gone { pid });
    }
    Ok(pidfd)
}

/// A hold on one process, by which its death is known and never mistaken for another's.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: u32,
}

impl PidFd {
    /// Opens the process that has this pid now. Sure to be the right one for an unreaped child of
    /// the caller, and for the caller itself.
    ///
    /// # Errors
    ///
    /// `ESRCH` when there is no such process, `EINVAL` when the pid cannot be one.
    pub fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(Errno::INVAL)?;
        let fd = rustix::process::pidfd_open(raw, PidfdFlags::empty())?;
        Ok(Self { fd, pid })
    }

    /// Takes over a pidfd that was kept elsewhere, with the pid that it was kept under.
    pub fn from_fd(fd: OwnedFd, pid: u32) -> Self {
        Self { fd, pid }
    }

    /// Returns the pid, for display; 0 if it has none in this pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether the process has ended. A zombie has. If the kernel cannot say, it lives.
    pub fn is_dead(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&now)));
        ready.is_ok_and(|n| n > 0) && polled[0].revents().contains(PollFlags::IN)
    }

    /// Returns a number that no other process has had since boot, or `None` where the kernel
    /// keeps none (before 6.9).
    pub fn inode(&self) -> Option<u64> {
        let file_system = rustix::fs::fstatfs(&self.fd).ok()?;
        if file_system.f_type != PID_FS_MAGIC {
            // There all pidfds are one anonymous inode.
            return None;
        }
        Some(rustix::fs::fstat(&self.fd).ok()?.st_ino)
    }

    /// Sends `SIGKILL`.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the process is gone, `EPERM` when this one may not.
    pub fn kill(&self) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.fd, Signal::KILL)?)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the length of a socket option.
#[expect(clippy::cast_possible_truncation, reason = "options have a few bytes")]
const fn socklen_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

//! How near the process is to its limit of open fds. The last of them are kept for what matters
//! most: a pool more is worth less than a place for whoever wants to free something.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// What a new fd is for, from what is refused first to what is refused last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The memory of a new pool.
    Pool,
    /// A new session.
    Session,
    /// A new connection.
    Connection,
}

impl Purpose {
    /// The part of the limit, in sixteenths, that is open to it and to what comes before it. What
    /// is left over everything is for memory on its way to clients.
    const fn sixteenths(self) -> u64 {
        match self {
            Self::Pool => 12,
            Self::Session => 14,
            Self::Connection => 15,
        }
    }
}

/// Refuses an fd that leaves too few for other purposes. The kernel gives the lowest number that
/// is free, so the number of a new fd says how many there are already.
///
/// # Errors
/// `EMFILE`, before the kernel would say it.
pub(crate) fn check(fd: impl AsFd, purpose: Purpose) -> io::Result<()> {
    let number = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or(u64::MAX);
    if number < limit() / 16 * purpose.sixteenths() {
        Ok(())
    } else {
        Err(Errno::MFILE.into())
    }
}

/// Returns how many connections there may be, of the number that was configured: each costs two
/// fds, and all of them together may have half of the limit.
pub(crate) fn connections(configured: u32) -> u32 {
    let affordable = u32::try_from(limit() / 4).unwrap_or(u32::MAX).max(1);
    if affordable < configured {
        tracing::warn!(
            connections = affordable,
            configured,
            open_files = limit(),
            "the limit of open files allows fewer connections than configured"
        );
    }
    configured.min(affordable)
}

/// Returns whether the OS, or the keeper, has no room for one fd more.
pub(crate) fn is_out_of_fds(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::StorageFull && errno.is_none()
        || [Errno::MFILE, Errno::NFILE]
            .map(|e| Some(e.raw_os_error()))
            .contains(&errno)
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fds_are_for_everything_and_running_out_is_recognized() {
        let fd = std::fs::File::open("/dev/null").unwrap();
        for purpose in [Purpose::Pool, Purpose::Session, Purpose::Connection] {
            check(&fd, purpose).unwrap();
        }
        assert!(is_out_of_fds(&Errno::MFILE.into()) && is_out_of_fds(&Errno::NFILE.into()));
        assert!(
            !is_out_of_fds(&Errno::NOSPC.into()),
            "a full disk is something else"
        );
        assert_eq!(connections(1), 1);
        assert!(u64::from(connections(u32::MAX)) <= limit());
    }
}

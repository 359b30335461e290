//! Where a service manager listens: one datagram for each thing that it is told, with the fds that
//! belong to it. The messages are sd-notify's; the socket is ours, since that crate looks into the
//! environment at each message, and knows no abstract sockets.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use goumem_shm::os::fd_pass;
use rustix::event::{PollFd, PollFlags, Timespec};
use sd_notify::NotifyState;

/// A manager answers at once unless the machine is at its limits.
const DEADLINE: Duration = Duration::from_secs(10);

/// A connection to a service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: UnixDatagram,
}

impl Notifier {
    /// Connects to a path, or to `@` and an abstract name.
    ///
    /// # Errors
    /// What the OS says of it.
    pub(crate) fn connect(socket: &OsStr) -> io::Result<Self> {
        let manager = UnixDatagram::unbound()?;
        match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => manager.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => manager.connect(socket)?,
        }
        manager.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { manager })
    }

    /// Says something to the manager, in one message.
    ///
    /// # Errors
    /// What the OS says; `WouldBlock` when the manager does not read.
    pub(crate) fn notify(
        &self,
        states: &[NotifyState<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut message = String::new();
        for state in states {
            writeln!(message, "{state}").map_err(io::Error::other)?;
        }
        fd_pass::send(&self.manager, message.as_bytes(), fds)
    }

    /// Waits until the manager has seen what it was sent before: it closes the fd that comes with
    /// this when its turn has come.
    ///
    /// # Errors
    /// As `notify`; `TimedOut` when it does not.
    pub(crate) fn barrier(&self) -> io::Result<()> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.notify(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
        drop(theirs);
        let mut polled = [PollFd::new(&ours, PollFlags::IN)];
        let deadline = Timespec::try_from(DEADLINE).map_err(io::Error::other)?;
        match rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&deadline)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

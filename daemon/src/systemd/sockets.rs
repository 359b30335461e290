//! Socket activation (`sd_listen_fds(3)`): sockets that the service manager bound and listens on,
//! also while no daemon runs. Which is which is told by its name, else by the path that it is bound
//! to. They stay the manager's: their files are not removed, nor their modes changed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// Why a socket of the service manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A datagram socket, a connection (`Accept=yes`), or of another family.
    #[error("it is not a listening Unix stream socket")]
    Kind,
    /// Clients look elsewhere, and the lock would be another instance's.
    #[error(
        "it is bound to {}, and the configuration says {}",
        found.as_ref().map_or_else(|| "no path".to_owned(), |path| path.display().to_string()),
        expected.display()
    )]
    Elsewhere {
        /// Where it is.
        found: Option<PathBuf>,
        /// Where it should be.
        expected: PathBuf,
    },
    /// It could not be looked at.
    #[error("could not look at it")]
    Os(#[from] io::Error),
}

impl From<rustix::io::Errno> for ActivationError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Os(error.into())
    }
}

/// The sockets that a service manager has handed over and nobody has taken yet.
#[derive(Debug, Default)]
pub struct ActivatedSockets(Vec<(String, OwnedFd)>);

impl ActivatedSockets {
    /// Adds one with the name that the manager calls it by; empty if it calls it nothing.
    pub fn add(&mut self, name: String, socket: OwnedFd) {
        self.0.push((name, socket));
    }

    /// Takes the Unix socket that has the name, or is bound to the path, ready for use.
    ///
    /// # Errors
    /// Any [`ActivationError`].
    pub(crate) fn take(
        &mut self,
        name: &str,
        path: &Path,
    ) -> Result<Option<UnixListener>, ActivationError> {
        let is_it = |(called, socket): &(String, OwnedFd)| {
            called == name || bound_to(socket).is_some_and(|found| found == path)
        };
        let Some(at) = self.0.iter().position(is_it) else {
            return Ok(None);
        };
        let (_, socket) = self.0.remove(at);
        if sockopt::socket_domain(&socket)? != AddressFamily::UNIX
            || sockopt::socket_type(&socket)? != SocketType::STREAM
            || !sockopt::socket_acceptconn(&socket)?
        {
            return Err(ActivationError::Kind);
        }
        let found = bound_to(&socket);
        if found.as_deref() != Some(path) {
            return Err(ActivationError::Elsewhere {
                found,
                expected: path.to_owned(),
            });
        }
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Some(listener))
    }

    /// Returns the names of those that nobody has taken.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

/// Returns the path that a Unix socket is bound to.
fn bound_to(socket: &OwnedFd) -> Option<PathBuf> {
    let address = rustix::net::getsockname(socket).ok()?;
    let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
    let path = address.path_bytes()?;
    Some(PathBuf::from(
        <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path),
    ))
}

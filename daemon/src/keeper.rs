//! The keeper: a process that holds the daemon's fds for the next daemon, and does nothing else. It
//! is this program again, started by the daemon, and listens on a socket of its own beside the
//! daemon's. The daemon talks to it through [`KeeperStore`]; the other side is [`keeper_main`].

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

mod connection;
mod server;
mod store;
#[cfg(test)]
mod tests;

pub use server::keeper_main;
pub(crate) use store::KeeperStore;

use connection::Connection;

/// How a keeper is started, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    /// A program that calls [`keeper_main`] when it has `args`, and what it adds to them.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The keeper's socket.
    pub(crate) socket: PathBuf,
}

/// Ends the keeper at `socket` and everything it holds. Returns whether there was one. The caller
/// has the instance's lock.
pub(crate) fn drop_kept(socket: &std::path::Path) -> io::Result<bool> {
    match Connection::connect(socket)? {
        Some(mut connection) => connection.end().map(|()| true),
        None => Ok(false),
    }
}

//! The keeper's side: one loop over two sockets and a table of fds. It ends when no daemon is
//! connected and nothing is left that a daemon could miss.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use goumem_shm::os::fd_pass;
use goumem_shm::os::keep_frame::{
    FdName, KEEP_BATCH, KEEP_REQUEST_BYTES, KeepReply, KeepRequest, KeepStatus,
};
use goumem_shm::os::peer::peer_identity;
use goumem_shm::os::process::own_uid;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::connection::receive;
use crate::fd_store::StoredFd;

/// How long a daemon may take over one frame: it sends them whole.
const FRAME_DEADLINE: Duration = Duration::from_secs(1);
/// A daemon that lists reads at once.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// Fds that the keeper needs for itself: sockets, std fds, one on its way.
const OWN_FDS: u64 = 16;
/// There is one daemon; the rest are people who look.
const MAX_CONNECTIONS: usize = 8;
/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// Is a keeper, until nothing is left to keep. `args` are the arguments behind those that made the
/// program call this: the path of the socket to listen on. Its stdin is its first connection.
///
/// It leaves the session and terminal of whoever started it, so that it outlives them.
pub fn keeper_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (Some(socket), None) = (args.next(), args.next()) else {
        return ExitCode::from(EXIT_USAGE);
    };
    match serve(Path::new(&socket)) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads what it says: the daemon sees that it has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(socket: &Path) -> io::Result<()> {
    let path = std::path::absolute(socket)?;
    let first = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    // What ps shows by default; the arguments say which instance's it is.
    let _ = fs::write("/proc/self/comm", "goumemd-keeper");
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let max_fds = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |limit| limit.saturating_sub(OWN_FDS));
    keep(path, first, usize::try_from(max_fds).unwrap_or(usize::MAX))
}

/// Keeps, until nothing is left to keep.
pub(super) fn keep(path: PathBuf, first: UnixStream, max_fds: usize) -> io::Result<()> {
    let mut keeper = Keeper {
        connections: vec![admit(first)?],
        listener: listen(&path)?,
        path,
        held: HashMap::new(),
        ends: false,
        max_fds,
    };
    while keeper.is_needed() {
        keeper.step()?;
    }
    Ok(())
}

/// The caller of the daemon has its lock, so whoever listened here before is dead.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes a connection of this user's.
fn admit(socket: UnixStream) -> io::Result<UnixStream> {
    if peer_identity(&socket)?.uid != own_uid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(FRAME_DEADLINE))?;
    socket.set_write_timeout(Some(SEND_DEADLINE))?;
    Ok(socket)
}

#[derive(Debug)]
struct Keeper {
    listener: UnixListener,
    path: PathBuf,
    /// The daemon's, and of others of this user who look whether somebody listens.
    connections: Vec<UnixStream>,
    held: HashMap<FdName, OwnedFd>,
    /// It was told to end.
    ends: bool,
    max_fds: usize,
}

impl Keeper {
    /// ROOT alone is nothing that anybody could miss: it speaks of no session and no pool.
    fn is_needed(&self) -> bool {
        if self.ends {
            return false;
        }
        let root = StoredFd::Root.name();
        !self.connections.is_empty() || self.held.keys().any(|name| *name != root)
    }

    /// Waits for the next thing to do, and does it.
    fn step(&mut self) -> io::Result<()> {
        let (accepts, readable, dead) = {
            let processes = self.watched_processes();
            let sockets = self.connections.iter().map(|socket| socket.as_fd());
            let mut polled: Vec<PollFd<'_>> = std::iter::once(self.listener.as_fd())
                .chain(sockets)
                .chain(processes.iter().map(|&(_, process)| process))
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
            let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
            let accepts = ready.next().unwrap_or(false);
            let readable: Vec<bool> = ready.by_ref().take(self.connections.len()).collect();
            let dead = processes.iter().zip(ready).filter(|&(_, ready)| ready);
            let dead: Vec<FdName> = dead.map(|((name, _), _)| (*name).clone()).collect();
            (accepts, readable, dead)
        };
        for name in dead {
            self.held.remove(&name);
        }
        let connections = std::mem::take(&mut self.connections);
        for (connection, is_readable) in connections.into_iter().zip(readable) {
            // Else whoever it was has gone, or speaks something else; another may come.
            if !is_readable || matches!(self.answer(&connection), Ok(true)) {
                self.connections.push(connection);
            }
        }
        if accepts {
            match self.listener.accept() {
                Ok((socket, _)) if self.connections.len() < MAX_CONNECTIONS => {
                    self.connections.extend(admit(socket));
                }
                // Closed again.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // One that is gone already, or no fd left for it: what is held is held.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Ok(())
    }

    /// Returns the sessions' processes while there is no daemon to watch them. That one has died the
    /// next daemon finds out without its pidfd; and if there is none, nobody misses it.
    fn watched_processes(&self) -> Vec<(&FdName, BorrowedFd<'_>)> {
        if !self.connections.is_empty() {
            return Vec::new();
        }
        let is_process = |name| matches!(StoredFd::parse(name), Some(StoredFd::Process(..)));
        let processes = self.held.iter().filter(|&(name, _)| is_process(name));
        processes.map(|(name, fd)| (name, fd.as_fd())).collect()
    }

    /// Answers one request; returns whether to go on with the connection.
    fn answer(&mut self, connection: &UnixStream) -> io::Result<bool> {
        let mut frame = [0; KEEP_REQUEST_BYTES];
        let mut fds = receive(connection, &mut frame, 1)?;
        let request = KeepRequest::decode(&frame);
        let reply = |status, count| {
            let bytes = KeepReply { status, count }.encode();
            fd_pass::send(connection, &bytes, &[])
        };
        match (request, fds.pop()) {
            (Ok(KeepRequest::Store(name)), Some(fd)) => {
                if self.held.len() >= self.max_fds && !self.held.contains_key(&name) {
                    reply(KeepStatus::Full, 0)?;
                } else {
                    self.held.insert(name, fd);
                    reply(KeepStatus::Done, 0)?;
                }
            }
            (Ok(KeepRequest::Remove(name)), None) => {
                self.held.remove(&name);
                reply(KeepStatus::Done, 0)?;
            }
            (Ok(KeepRequest::List), None) => {
                reply(
                    KeepStatus::Done,
                    u32::try_from(self.held.len()).unwrap_or(u32::MAX),
                )?;
                self.send_all(connection)?;
            }
            (Ok(KeepRequest::End), None) => {
                self.held.clear();
                self.ends = true;
                reply(KeepStatus::Done, 0)?;
                return Ok(false);
            }
            (Ok(_), _) | (Err(_), _) => {
                reply(KeepStatus::BadFrame, 0)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send_all(&self, connection: &UnixStream) -> io::Result<()> {
        let held: Vec<(&FdName, BorrowedFd<'_>)> = self
            .held
            .iter()
            .map(|(name, fd)| (name, fd.as_fd()))
            .collect();
        for batch in held.chunks(KEEP_BATCH) {
            let names: Vec<u8> = batch
                .iter()
                .flat_map(|(name, _)| KeepRequest::Store((*name).clone()).encode())
                .collect();
            let fds: Vec<BorrowedFd<'_>> = batch.iter().map(|&(_, fd)| fd).collect();
            fd_pass::send(connection, &names, &fds)?;
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // While the listener is open: a daemon that finds nobody here starts the next keeper, whose
        // socket lies in the same place.
        let _ = fs::remove_file(&self.path);
    }
}

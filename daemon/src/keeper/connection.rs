//! One end of the daemon's connection to its keeper: requests, one at a time, each answered before
//! the next. Blocking, with a deadline: a keeper that is stopped holds nothing up for ever.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use goumem_shm::os::fd_pass;
use goumem_shm::os::keep_frame::{
    FdName, KEEP_BATCH, KEEP_REPLY_BYTES, KEEP_REQUEST_BYTES, KeepReply, KeepRequest, KeepStatus,
};
use goumem_shm::os::peer::{PidFd, peer_identity, peer_pidfd};
use goumem_shm::os::process::own_uid;
use goumem_shm::os::reaper::DeathWatch;

use super::Launch;
use crate::systemd::VARIABLES;

/// A keeper answers within microseconds; one that is stopped does not answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a keeper that was told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// A connection to a living keeper.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    /// Tells its death.
    pub(super) keeper: PidFd,
    /// If this process started it.
    child: Option<Child>,
}

impl Connection {
    /// Connects to the keeper that listens there, if there is one.
    ///
    /// # Errors
    /// What the OS says; `PermissionDenied` for a keeper of another user.
    pub(super) fn connect(path: &Path) -> io::Result<Option<Self>> {
        let socket = match UnixStream::connect(path) {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let uid = peer_identity(&socket)?.uid;
        if uid != own_uid() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("keeper at {} is of user {uid}", path.display()),
            ));
        }
        let keeper = peer_pidfd(&socket).map_err(io::Error::other)?;
        Self::new(socket, keeper, None).map(Some)
    }

    /// Starts a keeper. It listens when this returns.
    ///
    /// # Errors
    /// What the OS says of its start, or that it has ended at once.
    pub(super) fn start(launch: &Launch) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&launch.program);
        // They are between the service manager and this process.
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        let child = command
            // For people who look at ps.
            .arg0("goumemd-keeper")
            .args(&launch.args)
            .arg(&launch.socket)
            // Its first connection: the one to its socket is for daemons to come.
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Not reaped, so the pid is its own.
        let keeper = PidFd::open(child.id())?;
        let mut connection = Self::new(ours, keeper, Some(child))?;
        // It answers once it listens.
        match connection.list() {
            Ok(_) => Ok(connection),
            Err(error) => {
                let _ = connection.keeper.kill();
                connection.reap();
                Err(error)
            }
        }
    }

    pub(super) fn new(socket: UnixStream, keeper: PidFd, child: Option<Child>) -> io::Result<Self> {
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(Self {
            socket,
            keeper,
            child,
        })
    }

    pub(super) fn store(&mut self, name: &FdName, fd: &(impl AsFd + ?Sized)) -> io::Result<()> {
        let request = KeepRequest::Store(name.clone());
        fd_pass::send(&self.socket, &request.encode(), &[fd.as_fd()])?;
        self.reply().map(|_| ())
    }

    pub(super) fn remove(&mut self, name: &FdName) -> io::Result<()> {
        self.ask(&KeepRequest::Remove(name.clone())).map(|_| ())
    }

    /// Returns duplicates of everything it holds.
    pub(super) fn list(&mut self) -> io::Result<HashMap<FdName, OwnedFd>> {
        let mut left = usize::try_from(self.ask(&KeepRequest::List)?.count).unwrap_or(usize::MAX);
        let mut held = HashMap::new();
        while left > 0 {
            let n = left.min(KEEP_BATCH);
            let mut names = vec![0; n * KEEP_REQUEST_BYTES];
            let fds = receive(&self.socket, &mut names, n)?;
            if fds.len() != n {
                return Err(invalid(format!("keeper sent {} fds of {n}", fds.len())));
            }
            let (frames, _) = names.as_chunks::<KEEP_REQUEST_BYTES>();
            for (frame, fd) in frames.iter().zip(fds) {
                match KeepRequest::decode(frame).map_err(invalid)? {
                    KeepRequest::Store(name) => held.insert(name, fd),
                    other => return Err(invalid(format!("keeper listed {other:?}"))),
                };
            }
            left -= n;
        }
        Ok(held)
    }

    /// Has it close everything, and waits for its end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.tell_end()?;
        self.wait_for_end()?;
        self.reap();
        Ok(())
    }

    /// Waits until it is dead, for a while.
    pub(super) fn wait_for_end(&self) -> io::Result<()> {
        let watch = DeathWatch::new()?;
        watch.add(&self.keeper, 0)?;
        watch.wait(Some(END_DEADLINE)).map(|_| ())
    }

    /// Has it close everything.
    pub(super) fn tell_end(&mut self) -> io::Result<()> {
        self.ask(&KeepRequest::End).map(|_| ())
    }

    /// Takes leave of a child that has ended.
    pub(super) fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && self.keeper.is_dead()
        {
            let _ = child.wait();
        }
    }

    fn ask(&mut self, request: &KeepRequest) -> io::Result<KeepReply> {
        fd_pass::send(&self.socket, &request.encode(), &[])?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<KeepReply> {
        let mut frame = [0; KEEP_REPLY_BYTES];
        receive(&self.socket, &mut frame, 0)?;
        let reply = KeepReply::decode(&frame).map_err(invalid)?;
        match reply.status {
            KeepStatus::Done => Ok(reply),
            KeepStatus::BadFrame => Err(invalid("keeper did not understand".to_owned())),
            KeepStatus::Full => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "keeper may hold no more fds",
            )),
        }
    }
}

/// Fills a buffer, and returns the fds that came along, at most `max_fds`.
pub(super) fn receive(
    socket: &UnixStream,
    into: &mut [u8],
    max_fds: usize,
) -> io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..)
        && !rest.is_empty()
    {
        let (n, more) = fd_pass::recv(socket, rest, max_fds.saturating_sub(fds.len()))?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += n;
        fds.extend(more);
    }
    Ok(fds)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

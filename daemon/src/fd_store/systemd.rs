//! systemd's fd store in the place of a keeper (`sd_notify(3)`, FDSTORE): the service manager holds
//! the fds, and gives them back when it starts the daemon again. Done here and not by a crate since
//! it is a datagram, and so it can be tried without systemd and without changing the environment.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use goumem_shm::os::fd_pass;
use goumem_shm::os::inherited::take_inherited;
use rustix::event::{PollFd, PollFlags, Timespec};
use tracing::warn;

use super::{FdName, FdStore, KeptFd};

/// A manager answers at once unless the machine is at its limits.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the environment says of the service manager's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdStore {
    /// `NOTIFY_SOCKET`.
    pub notify_socket: OsString,
    /// `FDSTORE`: how many fds it holds for this service. It drops more of them without a word.
    pub max_fds: usize,
    /// `LISTEN_PID`, `LISTEN_FDNAMES`: what it gives back.
    pub listen_pid: u32,
    /// See `listen_pid`.
    pub names: Vec<String>,
}

impl SystemdStore {
    /// Reads it, if there is such a store: a manager that says where to notify it, and how many fds
    /// it takes (systemd 254 and later, with `FileDescriptorStoreMax=`).
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let text = |name| variable(name)?.into_string().ok();
        let max_fds = text("FDSTORE")?.parse().ok().filter(|&max| max > 0)?;
        let listen_pid = text("LISTEN_PID")
            .and_then(|pid| pid.parse().ok())
            .unwrap_or(0);
        let count = text("LISTEN_FDS").and_then(|n| n.parse().ok()).unwrap_or(0);
        let names = text("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = names.split(':').map(str::to_owned).collect();
        names.resize(count, String::new());
        Some(Self {
            notify_socket: variable("NOTIFY_SOCKET").filter(|path| !path.is_empty())?,
            max_fds,
            listen_pid,
            names,
        })
    }

    /// Takes over what the manager gives back.
    ///
    /// # Errors
    /// What the OS says of the fds, or of the manager's socket.
    pub(crate) fn open(self) -> io::Result<(OpenStore, HashMap<FdName, OwnedFd>)> {
        let fds = take_inherited(self.listen_pid, self.names.len())?;
        let named = self.names.iter().zip(fds);
        let fds: HashMap<FdName, OwnedFd> = named
            .filter_map(|(name, fd)| Some((FdName::new(name.as_str())?, fd)))
            .collect();
        let store = OpenStore {
            manager: connect(&self.notify_socket)?,
            max_fds: self.max_fds,
            stored: Mutex::new(fds.keys().cloned().collect()),
        };
        Ok((store, fds))
    }
}

/// The manager's store, in use.
#[derive(Debug)]
pub(crate) struct OpenStore {
    manager: UnixDatagram,
    max_fds: usize,
    stored: Mutex<HashSet<FdName>>,
}

impl OpenStore {
    /// Says something to the manager.
    pub(crate) fn notify(&self, message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        fd_pass::send(&self.manager, message.as_bytes(), fds)
    }

    /// Waits until the manager has seen what it was sent before: it closes the fd that comes with
    /// this when its turn has come.
    fn barrier(&self) -> io::Result<()> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.notify("BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        let mut polled = [PollFd::new(&ours, PollFlags::IN)];
        let deadline = Timespec::try_from(DEADLINE).map_err(io::Error::other)?;
        match rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&deadline)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<FdName>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FdStore for OpenStore {
    fn store(&self, name: FdName, fd: Arc<dyn KeptFd>) -> io::Result<()> {
        {
            let mut stored = self.lock();
            if stored.len() >= self.max_fds && !stored.contains(&name) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!("service manager holds {} fds at the most", self.max_fds),
                ));
            }
            stored.insert(name.clone());
        }
        let message = format!("FDSTORE=1\nFDNAME={name}");
        self.notify(&message, &[fd.as_fd()])
            .and_then(|()| self.barrier())
            .inspect_err(|_| self.remove(&name))
    }

    fn took_over(&self, _: FdName, _: Arc<dyn KeptFd>) {}

    fn keeps(&self) -> bool {
        true
    }

    fn remove(&self, name: &FdName) {
        self.lock().remove(name);
        let message = format!("FDSTOREREMOVE=1\nFDNAME={name}");
        if let Err(error) = self.notify(&message, &[]) {
            warn!(%error, %name, "service manager did not give an fd up");
        }
    }

    fn end(&self) {
        let stored: Vec<FdName> = self.lock().iter().cloned().collect();
        for name in stored {
            self.remove(&name);
        }
    }
}

/// A path, or `@` and an abstract name.
fn connect(socket: &OsStr) -> io::Result<UnixDatagram> {
    let datagram = UnixDatagram::unbound()?;
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => datagram.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => datagram.connect(socket)?,
    }
    datagram.set_write_timeout(Some(DEADLINE))?;
    Ok(datagram)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::fd_store::StoredFd;

    /// A service manager: what it holds, after the last message was sent.
    fn manager(socket: UnixDatagram) -> thread::JoinHandle<Vec<String>> {
        thread::spawn(move || {
            let mut held: Vec<(String, OwnedFd)> = Vec::new();
            loop {
                let mut message = [0; 256];
                let (n, mut fds) = fd_pass::recv(&socket, &mut message, 1).unwrap();
                let text = std::str::from_utf8(&message[..n]).unwrap();
                let name = text.split_once("FDNAME=").map_or("", |(_, name)| name);
                if text.starts_with("FDSTORE=1") {
                    held.push((name.to_owned(), fds.pop().unwrap()));
                } else if text.starts_with("FDSTOREREMOVE=1") {
                    held.retain(|(other, _)| other != name);
                } else if text == "STOPPING=1" {
                    return held.into_iter().map(|(name, _)| name).collect();
                } else {
                    // The barrier's fd is closed when this turn ends.
                    assert_eq!((text, fds.len()), ("BARRIER=1", 1));
                }
            }
        })
    }

    fn environment(socket: &OsStr, max: &str) -> Option<SystemdStore> {
        SystemdStore::from_environment(|name| match name {
            "NOTIFY_SOCKET" => Some(socket.to_owned()),
            "FDSTORE" => Some(max.into()),
            _ => None,
        })
    }

    #[test]
    fn fds_are_with_the_manager_when_store_returns_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = manager(UnixDatagram::bind(&path).unwrap());
        let (store, fds) = environment(path.as_os_str(), "2").unwrap().open().unwrap();
        assert!(fds.is_empty() && store.keeps());
        let fd: Arc<dyn KeptFd> = Arc::new(tempfile::tempfile().unwrap());
        let name = |serial| StoredFd::Process(goumem_alloc::SessionNumber::new(1), serial).name();
        store.store(name(1), Arc::clone(&fd)).unwrap();
        store.store(name(2), Arc::clone(&fd)).unwrap();
        let full = store.store(name(3), Arc::clone(&fd)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        store.remove(&name(1));
        store.store(name(3), fd).unwrap();
        store.notify("STOPPING=1", &[]).unwrap();
        assert_eq!(manager.join().unwrap(), ["process-1-2", "process-1-3"]);
    }

    #[test]
    fn a_manager_without_a_store_is_none() {
        assert_eq!(environment(OsStr::new(""), "2"), None);
        assert_eq!(environment(OsStr::new("/x"), "0"), None);
        assert_eq!(environment(OsStr::new("/x"), "many"), None);
        let given = SystemdStore::from_environment(|name| {
            Some(match name {
                "NOTIFY_SOCKET" => "@abstract".into(),
                "FDSTORE" => "4096".into(),
                "LISTEN_PID" => "77".into(),
                "LISTEN_FDS" => "2".into(),
                "LISTEN_FDNAMES" => "root:stored".into(),
                _ => return None,
            })
        })
        .unwrap();
        assert_eq!(
            (given.listen_pid, given.names.as_slice()),
            (77, ["root".to_owned(), "stored".to_owned()].as_slice())
        );
        // Fds of another process are not touched.
        assert!(given.open().is_err());
    }
}

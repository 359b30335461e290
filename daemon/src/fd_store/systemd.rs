//! systemd's fd store in the place of a keeper (`sd_notify(3)`, FDSTORE): the service manager holds
//! the fds, and gives them back when it starts the daemon again.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sd_notify::NotifyState;
use tracing::warn;

use super::{FdName, FdStore, KeptFd};
use crate::systemd::notifier::Notifier;

/// What the environment says of the service manager's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemdStore {
    /// `FDSTORE`: how many fds it holds for this service. It drops more of them without a word.
    pub max_fds: usize,
}

impl SystemdStore {
    /// Reads it, if there is such a store: a manager that says where to notify it, and how many fds
    /// it takes. systemd says so from 254 on (`FileDescriptorStoreMax=`); for earlier ones, which
    /// have the store, the unit says it.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let max_fds = variable("FDSTORE")?.into_string().ok()?.parse().ok()?;
        let is_there = variable("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        (is_there && max_fds > 0).then_some(Self { max_fds })
    }

    /// Begins to use it. `fds` is what the manager gave back.
    pub(crate) fn open(self, manager: Arc<Notifier>, fds: &HashMap<FdName, OwnedFd>) -> OpenStore {
        OpenStore {
            manager,
            max_fds: self.max_fds,
            stored: Mutex::new(fds.keys().cloned().collect()),
        }
    }
}

/// The manager's store, in use.
#[derive(Debug)]
pub(crate) struct OpenStore {
    manager: Arc<Notifier>,
    max_fds: usize,
    stored: Mutex<HashSet<FdName>>,
}

impl OpenStore {
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
        // FDPOLL=0: the pidfd of a process that dies meanwhile is to be found dead, not to be missed.
        let states = [
            NotifyState::FdStore,
            NotifyState::FdName(name.as_str()),
            NotifyState::Custom("FDPOLL=0"),
        ];
        self.manager
            .notify(&states, &[fd.as_fd()])
            .and_then(|()| self.manager.barrier())
            .inspect_err(|_| self.remove(&name))
    }

    fn took_over(&self, _: FdName, _: Arc<dyn KeptFd>) {}

    fn keeps(&self) -> bool {
        true
    }

    fn remove(&self, name: &FdName) {
        self.lock().remove(name);
        let states = [
            NotifyState::FdStoreRemove,
            NotifyState::FdName(name.as_str()),
        ];
        if let Err(error) = self.manager.notify(&states, &[]) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::thread;

    use goumem_shm::os::fd_pass;

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
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
                let name = name.unwrap_or_default();
                match text.lines().next().unwrap() {
                    "FDSTORE=1" => held.push((name.to_owned(), fds.pop().unwrap())),
                    "FDSTOREREMOVE=1" => held.retain(|(other, _)| other != name),
                    "STOPPING=1" => return held.into_iter().map(|(name, _)| name).collect(),
                    // The barrier's fd is closed when this turn ends.
                    other => assert_eq!((other, fds.len()), ("BARRIER=1", 1)),
                }
            }
        })
    }

    #[test]
    fn fds_are_with_the_manager_when_store_returns_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = manager(UnixDatagram::bind(&path).unwrap());
        let notifier = Arc::new(Notifier::connect(path.as_os_str()).unwrap());
        let store = SystemdStore { max_fds: 2 }.open(Arc::clone(&notifier), &HashMap::new());
        assert!(store.keeps());
        let fd: Arc<dyn KeptFd> = Arc::new(tempfile::tempfile().unwrap());
        let name = |serial| StoredFd::Process(goumem_alloc::SessionNumber::new(1), serial).name();
        store.store(name(1), Arc::clone(&fd)).unwrap();
        store.store(name(2), Arc::clone(&fd)).unwrap();
        let full = store.store(name(3), Arc::clone(&fd)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        store.remove(&name(1));
        store.store(name(3), fd).unwrap();
        notifier.notify(&[NotifyState::Stopping], &[]).unwrap();
        assert_eq!(manager.join().unwrap(), ["process-1-2", "process-1-3"]);
    }

    #[test]
    fn a_manager_without_a_store_is_none() {
        let environment = |socket: &'static str, max: &'static str| {
            SystemdStore::from_environment(|name| match name {
                "NOTIFY_SOCKET" => Some(socket.into()),
                "FDSTORE" => Some(max.into()),
                _ => None,
            })
        };
        assert_eq!(environment("", "2"), None);
        assert_eq!(environment("/x", "0"), None);
        assert_eq!(environment("/x", "many"), None);
        assert_eq!(
            environment("@x", "4096"),
            Some(SystemdStore { max_fds: 4096 })
        );
    }
}

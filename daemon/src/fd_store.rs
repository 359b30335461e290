//! Where the daemon's fds outlive it: the memory of pools, and the pidfds of sessions. An fd is
//! stored, and known to be so, before the record that it belongs to is committed; it is removed
//! before the record goes. So the next daemon finds an fd for each record, and an fd without one
//! is nobody's.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use goumem_alloc::{PoolId, SessionNumber};
use goumem_shm::os::BackingKind;
pub use goumem_shm::os::keep_frame::FdName;

mod systemd;
#[cfg(test)]
mod tests;

pub use systemd::SystemdStore;

/// An fd that the daemon uses and a store refers to.
pub trait KeptFd: AsFd + fmt::Debug + Send + Sync {}
impl<T: AsFd + fmt::Debug + Send + Sync> KeptFd for T {}

/// Holds fds for the next daemon.
pub trait FdStore: fmt::Debug + Send + Sync {
    /// Stores an fd under a name, in place of one that has it. When it returns, the fd outlives
    /// this process.
    ///
    /// # Errors
    /// What kept it from that.
    fn store(&self, name: FdName, fd: Arc<dyn KeptFd>) -> io::Result<()>;

    /// Notes by which value of this process an fd is known that came out of the store.
    fn took_over(&self, name: FdName, fd: Arc<dyn KeptFd>);

    /// Returns whether anything outlives this process here.
    fn keeps(&self) -> bool;

    /// Gives up the fd of that name. What could not be given up is nobody's, and the next daemon
    /// closes it.
    fn remove(&self, name: &FdName);

    /// Gives up everything: nothing shall outlive this daemon.
    fn end(&self);

    /// Has `told` called each time that what holds the fds was lost, and everything stored anew.
    fn on_replaced(&self, _told: Box<dyn Fn() + Send + Sync>) {}
}

/// A store, and what an earlier daemon left in it.
#[derive(Debug)]
pub struct Kept {
    /// Where fds are stored from now on.
    pub store: Arc<dyn FdStore>,
    /// What was in it.
    pub fds: HashMap<FdName, OwnedFd>,
}

impl Kept {
    /// Nothing, and nowhere to keep it.
    pub fn nothing() -> Self {
        Self {
            store: Arc::new(NoStore),
            fds: HashMap::new(),
        }
    }
}

/// Keeps nothing: whatever the daemon has ends with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStore;

impl FdStore for NoStore {
    fn store(&self, _: FdName, _: Arc<dyn KeptFd>) -> io::Result<()> {
        Ok(())
    }

    fn took_over(&self, _: FdName, _: Arc<dyn KeptFd>) {}

    fn keeps(&self) -> bool {
        false
    }

    fn remove(&self, _: &FdName) {}

    fn end(&self) {}
}

/// Keeps fds in this process, for tests in which one core takes over from another.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<FdName, OwnedFd>>>);

impl MemoryStore {
    /// Returns the store with duplicates of what is in it, for the next core.
    ///
    /// # Errors
    /// When the process is at its limit of open files.
    pub fn kept(&self) -> io::Result<Kept> {
        let fds = self.lock();
        let duplicate = |(name, fd): (&FdName, &OwnedFd)| Ok((name.clone(), fd.try_clone()?));
        Ok(Kept {
            store: Arc::new(self.clone()),
            fds: fds.iter().map(duplicate).collect::<io::Result<_>>()?,
        })
    }

    /// Returns the names in it, sorted.
    pub fn names(&self) -> Vec<FdName> {
        let mut names: Vec<FdName> = self.lock().keys().cloned().collect();
        names.sort();
        names
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FdName, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FdStore for MemoryStore {
    fn store(&self, name: FdName, fd: Arc<dyn KeptFd>) -> io::Result<()> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        self.lock().insert(name, fd);
        Ok(())
    }

    fn took_over(&self, _: FdName, _: Arc<dyn KeptFd>) {}

    fn keeps(&self) -> bool {
        true
    }

    fn remove(&self, name: &FdName) {
        self.lock().remove(name);
    }

    fn end(&self) {
        self.lock().clear();
    }
}

/// What a stored fd is. Its name says so, and [`parse`](Self::parse) reads it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StoredFd {
    /// ROOT.
    Root,
    /// CONTROL of a pool.
    Control(PoolId, BackingKind),
    /// DATA of a pool.
    Data(PoolId, BackingKind),
    /// The pidfd of a session, by number and serial.
    Process(SessionNumber, u64),
}

impl StoredFd {
    /// Returns the name.
    pub(crate) fn name(self) -> FdName {
        let text = match self {
            Self::Root => "root".to_owned(),
            Self::Control(id, kind) => format!("control-{kind}-{:08x}", id.get()),
            Self::Data(id, kind) => format!("data-{kind}-{:08x}", id.get()),
            Self::Process(number, serial) => format!("process-{}-{serial:x}", number.get()),
        };
        FdName::new(text).expect("at most 32 letters, digits and dashes")
    }

    /// Returns what the name says, if a daemon made it.
    pub(crate) fn parse(name: &FdName) -> Option<Self> {
        let mut parts = name.as_str().split('-');
        let what = parts.next()?;
        let (one, two) = (parts.next(), parts.next());
        let stored = match what {
            "root" => Self::Root,
            "control" => Self::Control(pool_id(two?)?, kind(one?)?),
            "data" => Self::Data(pool_id(two?)?, kind(one?)?),
            "process" => Self::Process(
                SessionNumber::new(one?.parse().ok()?),
                u64::from_str_radix(two?, 16).ok()?,
            ),
            _ => return None,
        };
        (stored.name() == *name).then_some(stored)
    }
}

fn pool_id(text: &str) -> Option<PoolId> {
    PoolId::new(u32::from_str_radix(text, 16).ok()?)
}

fn kind(text: &str) -> Option<BackingKind> {
    [BackingKind::Memfd, BackingKind::Named, BackingKind::File]
        .into_iter()
        .find(|kind| kind.to_string() == text)
}

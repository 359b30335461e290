//! The daemon without its edge: what every call does, synchronously, with the time as an
//! argument. The edge (`service.rs`, `fd_server.rs`, `reaper.rs`, `ticker.rs`) calls down into
//! here and is never called back, but for two wires: a deadline that has come closer, and the
//! pidfds to watch.
//!
//! Locks, in the order they may be taken: registry → pool or arena pool → session → budget. No
//! two pools' locks are held at once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use goumem_alloc::{HandleKind, PAGE_BYTES};
use goumem_proto::model::{Backing, DaemonInfo, EndCause, Read};
use goumem_shm::header::LAYOUT_VERSION;
use goumem_shm::os::BackingKind;
use goumem_shm::os::lock::InstanceLock;
use goumem_shm::os::reaper::DeathWatch;
use tokio::sync::Notify;

use crate::budget::{Budget, Quotas};
use crate::config::Limits;
use crate::error::Error;
use crate::events::Hub;
use crate::fd_store::{FdStore, Kept, StoredFd};
use crate::metrics::Metrics;
use crate::pool::Shared;
use crate::root::{Root, RootError};
use crate::session::{Caller, Sessions};

mod arenas;
mod blocks;
mod check;
mod create;
mod declare;
mod files;
mod observe;
mod pools;
mod recover;
mod registry;
mod sessions;
mod tell;

pub use declare::DeclareError;
pub use observe::Viewer;

use registry::{AnyPool, Registry};

/// How the core reaches the threads around it.
#[derive(Debug, Clone)]
pub struct Wires {
    /// Learns of pidfds.
    pub watch: Arc<DeathWatch>,
    /// Learns that a deadline has come closer.
    pub earlier: Arc<Notify>,
}

/// The daemon's state and everything it does to it.
#[derive(Debug)]
pub struct Core {
    /// Pools and arena pools at a time.
    max_pools: AtomicU32,
    /// Directory of file-backed pools.
    data_dir: PathBuf,
    /// What backs a pool whose creator leaves it open.
    default_backing: Backing,
    fd_socket: Option<String>,
    /// What the next daemon needs to know.
    root: Arc<Root>,
    store: Arc<dyn FdStore>,
    /// What could not be believed of an earlier daemon.
    quarantined: AtomicU32,
    shared: Arc<Shared>,
    registry: Mutex<Registry>,
    sessions: Sessions,
    watch: Arc<DeathWatch>,
    earlier: Arc<Notify>,
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    /// When the ticker wakes next, as far as the core knows.
    due: Mutex<Option<Instant>>,
    /// Held once there are file-backed pools.
    data_dir_lock: Mutex<Option<InstanceLock>>,
}

impl Core {
    /// Starts a core: takes over what an earlier daemon kept, removes what dead daemons left behind,
    /// and opens file-backed pools again. The caller holds the instance lock.
    ///
    /// # Errors
    /// Any [`RootError`]; what was kept is untouched then.
    pub fn start(
        limits: Limits,
        fd_socket: Option<String>,
        wires: Wires,
        kept: Kept,
        now: Instant,
    ) -> Result<Self, RootError> {
        let Kept { store, mut fds } = kept;
        let taken_over = match fds.remove(&StoredFd::Root.name()) {
            Some(fd) => Root::take_over(fd, &*store)?,
            None => None,
        };
        let root = match taken_over {
            Some(root) => root,
            None => Root::create(&*store)?,
        };
        let root = Arc::new(root);
        let shared = Arc::new(Shared {
            budget: Budget::new(limits.budget_bytes, limits.reserve_bytes),
            quotas: Quotas::new(limits.quota_per_user_bytes),
            started: now,
            purge_after: RwLock::new(limits.purge_after),
        });
        let most_pools = usize::try_from(limits.metrics_pools).unwrap_or(usize::MAX);
        let metrics = Arc::new(Metrics::new(most_pools));
        let core = Self {
            hub: Arc::new(Hub::new(Arc::clone(&metrics), now)),
            metrics,
            sessions: Sessions::new(limits.max_sessions, Arc::clone(&root), Arc::clone(&store)),
            max_pools: AtomicU32::new(limits.max_pools),
            data_dir: limits.data_dir,
            default_backing: limits.backing,
            fd_socket,
            root,
            store,
            quarantined: AtomicU32::new(0),
            shared,
            registry: Mutex::new(Registry::default()),
            watch: wires.watch,
            earlier: wires.earlier,
            due: Mutex::new(None),
            data_dir_lock: Mutex::new(None),
        };
        core.recover(fds, now);
        Ok(core)
    }

    /// Leaves everything to the next daemon: what has a name keeps it.
    pub fn leave(&self) {
        self.registry().all().iter().for_each(AnyPool::leave);
    }

    /// Returns whether anybody could miss what this core has: a pool that is more than a file, or a
    /// session.
    pub fn has_anything(&self) -> bool {
        let has_memory = |pool: &AnyPool| pool.kind() != BackingKind::File;
        self.sessions.count() > 0 || self.registry().all().iter().any(has_memory)
    }

    /// Returns the sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns what counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns what tells watchers, and counts what happens.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Describes the daemon.
    ///
    /// # Errors
    /// None.
    pub fn info(&self, caller: &Caller, now: Instant) -> Result<DaemonInfo, Error> {
        let (committed_bytes, budget_limit_bytes, available_bytes) = self.shared.budget.report();
        let (pools, arena_pools) = self.registry().counts();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(DaemonInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            committed_bytes,
            budget_limit_bytes,
            available_bytes,
            pools: count(pools),
            arena_pools: count(arena_pools),
            sessions: count(self.sessions.count()),
            page_bytes: PAGE_BYTES,
            fd_socket: self.fd_socket.clone().filter(|_| caller.pidfd.is_some()),
            layout_version: LAYOUT_VERSION,
            epoch: self.root.epoch(),
            quarantined: self.quarantined.load(Ordering::Relaxed),
            uptime: now.saturating_duration_since(self.shared.started),
        })
    }

    /// Returns when `tick` has something to do, if it has.
    pub fn next_deadline(&self) -> Option<Instant> {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due: gives free memory back, looks at abandoned spans, ends remote sessions
    /// that were silent for too long.
    pub fn tick(&self, now: Instant) {
        // Cleared first: a deadline that comes up while this runs is noted beside it.
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for session in self.sessions.all() {
            match session.expires_at() {
                Some(at) if at <= now => {
                    self.end_session(&session, EndCause::Expired, now);
                }
                Some(at) => self.note_deadline(at),
                None => {}
            }
        }
        let pools = self.registry().all();
        for pool in pools {
            if let AnyPool::Blocks(pool) = pool {
                pool.purge(self.shared.purge_after(), now);
                if let Some(at) = pool.purge_due(now) {
                    self.note_deadline(at);
                }
            }
        }
    }

    /// Returns how many bytes a read of a block or arena comes to.
    ///
    /// # Errors
    /// `Access`, `PermissionDenied`, `SessionRequired`.
    pub fn readable_bytes(&self, caller: &Caller, read: &Read) -> Result<u64, Error> {
        let limit_bytes = match self.readable(caller, read.handle)? {
            AnyPool::Blocks(pool) => pool.resolve(read.handle)?.size_bytes,
            AnyPool::Arenas(pool) if read.length_bytes.is_some() => {
                // The copy is checked against the arena's end.
                return pool
                    .used_from(read.handle)
                    .map(|_| read.length_bytes.unwrap_or(0));
            }
            AnyPool::Arenas(pool) => pool.used_from(read.handle)?,
        };
        let out_of_range = |length_bytes: u64| {
            Error::from(goumem_shm::AccessError::OutOfRange {
                offset_bytes: read.offset_bytes,
                length_bytes,
                limit_bytes,
            })
        };
        match read.length_bytes {
            Some(length) => match read.offset_bytes.checked_add(length) {
                Some(end) if end <= limit_bytes => Ok(length),
                _ => Err(out_of_range(length)),
            },
            None => limit_bytes
                .checked_sub(read.offset_bytes)
                .ok_or_else(|| out_of_range(0)),
        }
    }

    /// Copies bytes of a block or arena.
    ///
    /// # Errors
    /// `Access`, `PermissionDenied`, `SessionRequired`.
    pub fn read_bytes(
        &self,
        caller: &Caller,
        handle: goumem_alloc::Handle,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), Error> {
        match self.readable(caller, handle)? {
            AnyPool::Blocks(pool) => pool.read(handle, offset_bytes, into),
            AnyPool::Arenas(pool) => pool.read(handle, offset_bytes, into),
        }
    }

    /// Copies bytes into a block, or an arena that the session holds.
    ///
    /// # Errors
    /// `Access`, `PermissionDenied`, `SessionRequired`.
    pub fn write_bytes(
        &self,
        caller: &Caller,
        handle: goumem_alloc::Handle,
        offset_bytes: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let session = caller.session()?;
        match self.pool_of(handle)? {
            AnyPool::Blocks(pool) => {
                pool.require(caller, goumem_proto::model::Access::ReadWrite)?;
                pool.write(session, handle, offset_bytes, bytes)
            }
            AnyPool::Arenas(pool) => {
                pool.require(caller, goumem_proto::model::Access::ReadWrite)?;
                pool.write(session, handle, offset_bytes, bytes)
            }
        }
    }

    /// Returns the pool that a handle names, if the caller may read it.
    fn readable(&self, caller: &Caller, handle: goumem_alloc::Handle) -> Result<AnyPool, Error> {
        caller.session()?;
        let pool = self.pool_of(handle)?;
        match &pool {
            AnyPool::Blocks(pool) => pool.require(caller, goumem_proto::model::Access::ReadOnly)?,
            AnyPool::Arenas(pool) => pool.require(caller, goumem_proto::model::Access::ReadOnly)?,
        }
        Ok(pool)
    }

    fn pool_of(&self, handle: goumem_alloc::Handle) -> Result<AnyPool, Error> {
        let pool = self.registry().by_id(handle.pool())?;
        let fits = match pool {
            AnyPool::Blocks(_) => handle.kind() == HandleKind::Block,
            AnyPool::Arenas(_) => handle.kind() != HandleKind::Block,
        };
        if fits {
            Ok(pool)
        } else {
            let expected = match pool {
                AnyPool::Blocks(_) => "block",
                AnyPool::Arenas(_) => "arena",
            };
            Err(goumem_shm::AccessError::WrongKind { handle, expected }.into())
        }
    }

    /// Tells the ticker that something is due at `at`, if that is sooner than it knows.
    fn note_deadline(&self, at: Instant) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            self.earlier.notify_one();
        }
    }

    /// Notes that free memory may have come to a pool.
    fn note_freed(&self, pool: &crate::pool::Pool, now: Instant) {
        // Nothing that is free by now is due before.
        let soon = now + self.shared.purge_after();
        if self.next_deadline().is_none_or(|due| due > soon)
            && let Some(at) = pool.purge_due(now)
        {
            self.note_deadline(at);
        }
    }

    /// Gives back what a pool has if it is destroyed and nobody maps it any more. The registry's
    /// lock is not held while the pool's is waited for, so that one busy pool stalls no other.
    fn drop_if_gone(&self, pool: &AnyPool) {
        if pool.is_gone() && self.registry().remove(pool.id()) {
            // The fds before the memory: one that is stored without a pool is nobody's.
            self.unstore_pool(pool.id(), pool.kind());
            pool.dismantle();
        }
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

//! The core without its edge: several callers in one process, each with its own session, and the
//! time as an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use goumem_alloc::{Generation, Handle, PoolId, SizeClass, TypeTag};
use goumem_proto::model::{
    Access, Alloc, AttachArena, Backing, BlockSpec, CloseSession, CreateArenaPool, CreatePool,
    DestroyPool, DetachArena, Free, FreeBatch, GetArena, HandleRequest, Lease, ListHolders,
    ListKept, Lookup, OpenPool, OpenSession, PoolStat, Publish, PurgePool, Realloc, RequestId,
    ReturnArena, ReturnSpans, SetCapacity, ShareArena, SpanInfo, SpanSpec, StatPool, Unmap,
    Withdraw,
};
use goumem_proto::name::{ArenaName, BlockName, Label, PoolName};
use goumem_proto::reason::Reason;
use goumem_shm::os::peer::PidFd;
use goumem_shm::os::reaper::DeathWatch;
use goumem_shm::os::{self, BackingKind, MapPlan, Mapping, Segment};
use goumem_shm::page_map::SpanEpoch;
use goumem_shm::{
    ArenaMemory, LeasedSpan, PoolMemory, SpanLease, arena_data_plan, data_plan, pool_geometry,
};
use proptest::prelude::*;
use tokio::sync::Notify;

use super::registry::AnyPool;
use super::{Core, Wires};
use crate::arena_pool::Waited;
use crate::config::Config;
use crate::error::Error;
use crate::fd_store::MemoryStore;
use crate::session::Caller;

mod accounts;
mod arenas;
mod blocks;
#[cfg(crash)]
mod crash;
mod declare;
mod files;
mod hostile;
mod model;
mod observe;
mod pools;
mod restart;
mod scale;
mod sessions;
mod watch;

const MIB: u64 = 1 << 20;

/// A core on a directory of its own.
struct Daemon {
    core: Core,
    now: Instant,
    dir: tempfile::TempDir,
    /// What the next core finds.
    store: MemoryStore,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), MemoryStore::default(), |_| {})
    }

    fn start_with(change: impl FnOnce(&mut crate::config::Limits)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), MemoryStore::default(), change)
    }

    fn start_in(
        dir: tempfile::TempDir,
        store: MemoryStore,
        change: impl FnOnce(&mut crate::config::Limits),
    ) -> Self {
        let mut limits = Config::private(dir.path()).limits;
        change(&mut limits);
        let wires = Wires {
            watch: Arc::new(DeathWatch::new().unwrap()),
            earlier: Arc::new(Notify::new()),
        };
        let now = Instant::now();
        let core = Core::start(limits, None, wires, store.kept().unwrap(), now).unwrap();
        Self {
            core,
            now,
            dir,
            store,
        }
    }

    /// Ends this daemon and starts another on the same directory, which has only the files of it.
    fn restart(self) -> Self {
        let Self { core, dir, .. } = self;
        drop(core);
        Self::start_in(dir, MemoryStore::default(), |_| {})
    }

    /// Drops this daemon as a SIGKILL does, and starts the next one on what was stored. Returns the
    /// callers as that one knows them.
    fn kill_and_restart<const N: usize>(self, callers: [&Caller; N]) -> (Self, [Caller; N]) {
        let Self {
            core, dir, store, ..
        } = self;
        drop(core);
        let next = Self::start_in(dir, store, |_| {});
        let callers = callers.map(|caller| next.resumed(caller).unwrap());
        (next, callers)
    }

    /// A caller of an earlier daemon, if its session is still there.
    fn resumed(&self, caller: &Caller) -> Option<Caller> {
        let old = caller.session.as_ref().unwrap();
        let session = self.core.sessions().by_number(old.number)?;
        (session.serial == old.serial && session.is_of(caller)).then(|| Caller {
            session: Some(session),
            ..caller.clone()
        })
    }

    /// A caller with a session. Its process is this one, which the tests never see die: they say
    /// that a session has died.
    fn caller(&self, uid: u32) -> Caller {
        let pidfd = Arc::new(PidFd::open(std::process::id()).unwrap());
        self.caller_of(Caller {
            uid,
            gid: uid,
            pid: std::process::id(),
            local: true,
            pidfd: Some(pidfd),
            session: None,
        })
    }

    /// The same caller with a new session.
    fn caller_of(&self, anonymous: Caller) -> Caller {
        let open = OpenSession {
            label: Label::default(),
            nonce: None,
            ttl: Duration::from_secs(30),
        };
        let opened = self.core.open_session(&anonymous, open, self.now).unwrap();
        let session = self.core.sessions().by_token(&opened.token).unwrap();
        Caller {
            session: Some(session),
            ..anonymous
        }
    }

    fn die(&self, caller: &Caller) {
        self.core
            .session_died(caller.session.as_ref().unwrap().serial, self.now);
    }

    fn pool(&self, caller: &Caller, name: &str, capacity_bytes: u64) -> PoolId {
        self.core
            .create_pool(caller, create(name, capacity_bytes), self.now)
            .unwrap()
            .pool
            .pool_id
    }

    fn alloc(&self, caller: &Caller, pool: PoolId, size_bytes: u64) -> Result<Handle, Error> {
        let spec = BlockSpec::new(size_bytes);
        let request = Alloc {
            pool_id: pool,
            spec,
            request_id: RequestId::NONE,
        };
        Ok(self.core.alloc(caller, request, self.now)?.block.handle)
    }

    fn free(&self, caller: &Caller, handle: Handle) -> Result<(), Error> {
        self.core.free(
            caller,
            Free {
                handle,
                request_id: RequestId::NONE,
            },
            self.now,
        )
    }

    fn stat(&self, caller: &Caller, name: &str) -> PoolStat {
        let name = PoolName::try_from(name).unwrap();
        self.core
            .stat_pool(caller, StatPool { name }, self.now)
            .unwrap()
    }

    fn lease(
        &self,
        caller: &Caller,
        pool_id: PoolId,
        class: SizeClass,
    ) -> Result<Vec<SpanInfo>, Error> {
        let spec = SpanSpec::Class(class);
        let request = Lease {
            pool_id,
            spec,
            count: 1,
            request_id: RequestId::NONE,
        };
        self.core.lease(caller, request, self.now)
    }

    fn return_span(&self, caller: &Caller, pool_id: PoolId, span: SpanInfo) -> Result<u32, Error> {
        let request = ReturnSpans {
            pool_id,
            spans: vec![span],
            request_id: RequestId::NONE,
        };
        Ok(self.core.return_spans(caller, request, self.now)?.returned)
    }

    fn publish(&self, caller: &Caller, handle: Handle, name: &str) -> Result<(), Error> {
        let name = BlockName::try_from(name).unwrap();
        let request = Publish {
            handle,
            name,
            replace: true,
            request_id: RequestId::NONE,
        };
        self.core.publish(caller, request, self.now).map(|_| ())
    }

    fn lookup(&self, caller: &Caller, pool_id: PoolId, name: &str) -> Result<Handle, Error> {
        let name = BlockName::try_from(name).unwrap();
        Ok(self
            .core
            .lookup(caller, Lookup { pool_id, name }, self.now)?
            .handle)
    }

    fn destroy(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let name = PoolName::try_from(name).unwrap();
        self.core.destroy_pool(
            caller,
            DestroyPool {
                name,
                request_id: RequestId::NONE,
            },
            self.now,
        )
    }

    fn purge(&self, caller: &Caller, name: &str) {
        let name = PoolName::try_from(name).unwrap();
        self.core
            .purge_pool(caller, PurgePool { name }, self.now)
            .unwrap();
    }

    fn block_pool(&self, id: PoolId) -> Arc<crate::pool::Pool> {
        match self.core.registry().by_id(id).unwrap() {
            AnyPool::Blocks(pool) => pool,
            AnyPool::Arenas(_) => panic!("{id} is an arena pool"),
        }
    }

    fn arena_pool(&self, caller: &Caller, name: &str, arenas: u32) -> PoolId {
        let request = CreateArenaPool {
            name: PoolName::try_from(name).unwrap(),
            arenas,
            arena_bytes: 1000,
            backing: None,
            gid: None,
            mode: 0o666,
            request_id: RequestId::NONE,
        };
        self.core
            .create_arena_pool(caller, request, self.now)
            .unwrap()
            .pool
            .pool_id
    }

    /// Maps a pool as a client of the caller's session does.
    fn map(&self, caller: &Caller, id: PoolId) -> Arc<PoolMemory> {
        let n_pages = self.block_pool(id).info().max_capacity_bytes / goumem_alloc::PAGE_BYTES;
        let geometry = pool_geometry(u32::try_from(n_pages).unwrap()).unwrap();
        let plan = data_plan(&geometry);
        let (control, data) = self.map_fds(caller, id, geometry.control_bytes(), plan);
        Arc::new(PoolMemory::open(control, data).unwrap().0)
    }

    /// The same for an arena pool.
    fn map_arenas(&self, caller: &Caller, id: PoolId, arenas: u32) -> ArenaMemory {
        let geometry = goumem_alloc::ArenaGeometry::new(arenas, 1000).unwrap();
        let plan = arena_data_plan(&geometry);
        let (control, data) = self.map_fds(caller, id, geometry.control_bytes(), plan);
        ArenaMemory::open(control, data).unwrap().0
    }

    fn map_fds(
        &self,
        caller: &Caller,
        id: PoolId,
        control_bytes: u64,
        data_plan: MapPlan,
    ) -> (Mapping, Mapping) {
        let session = caller.session.as_ref().unwrap();
        let fds = self
            .core
            .map_request(session, id, Access::ReadWrite, self.now)
            .unwrap();
        let any = self.core.registry().by_id(id).unwrap();
        let kind = match any {
            AnyPool::Blocks(pool) if pool.backing == Backing::File => BackingKind::File,
            AnyPool::Arenas(pool) if pool.backing == Backing::File => BackingKind::File,
            _ => BackingKind::Memfd,
        };
        let plans = [MapPlan::whole(control_bytes), data_plan];
        let accesses = [os::Access::ReadOnly, os::Access::ReadWrite];
        let [control, data] = [0, 1].map(|i: usize| {
            let fd = if i == 0 { &fds.0 } else { &fds.1 };
            let (plan, fd) = (plans[i].clone(), fd.try_clone().unwrap());
            let segment = Segment::from_fd(fd, kind, plan.len_bytes).unwrap();
            Mapping::map(&segment, accesses[i], plan).unwrap()
        });
        (control, data)
    }

    /// Asserts that everything holds together.
    fn check(&self) {
        self.core.check();
    }
}

fn create(name: &str, capacity_bytes: u64) -> CreatePool {
    CreatePool {
        name: PoolName::try_from(name).unwrap(),
        capacity_bytes,
        max_capacity_bytes: None,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    }
}

fn about(handle: Handle) -> HandleRequest {
    HandleRequest {
        handle,
        request_id: RequestId::NONE,
    }
}

fn reason<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Reason {
    outcome.unwrap_err().reason()
}

fn lease_of(span: &SpanInfo) -> SpanLease {
    SpanLease {
        first_page: span.first_page,
        pages: span.pages,
        class: span.size_class,
        epoch: SpanEpoch::new(span.epoch.into()).unwrap(),
    }
}

/// Writes a slot word as only a writer outside of the library does.
fn forge(
    memory: &PoolMemory,
    handle: Handle,
    generation: u64,
    owner: u16,
    state: u64,
    pinned: u64,
) {
    let at = memory.block_at(handle.offset()).unwrap();
    let offset = memory
        .geometry()
        .slot_offset(at.first_page, at.class, at.pages, at.slot);
    let word = generation << 20 | u64::from(owner) << 4 | state << 1 | pinned;
    memory
        .data()
        .atomic_u64(offset)
        .unwrap()
        .store(word, Ordering::SeqCst);
}

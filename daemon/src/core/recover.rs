//! Taking over from an earlier daemon: its sessions, its pools, the requests it was working on.
//! What cannot be believed is withheld, counted and said; the rest is served.
//!
//! Sessions → pools by fd → pools by file → requests → the sweep of the dead → fds of nobody.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use goumem_alloc::{PoolId, SessionNumber};
use goumem_proto::model::{Access, EndCause, OpenedArenaPool, OpenedPool};
use goumem_shm::SegmentRefusal;
use goumem_shm::os::peer::PidFd;
use goumem_shm::os::process::start_time_of;
use goumem_shm::os::{BackingKind, Segment};
use goumem_shm::root::{RequestOp, RequestRecord, SessionRecord, SessionRowState};

use super::Core;
use super::files::{FoundPool, header_of, map_control};
use super::registry::AnyPool;
use crate::error::Error;
use crate::fd_store::{FdName, StoredFd};
use crate::session::{Recalled, Remembered, Session};

/// Threads that take over pools. More of them would wait for each other: they all change one
/// address space.
const MAX_RECOVERY_THREADS: usize = 4;
/// Fewer pools are taken over before another thread has started.
const POOLS_A_THREAD: usize = 16;

/// What an earlier daemon stored, by what it is.
#[derive(Debug, Default)]
struct Found {
    processes: HashMap<(SessionNumber, u64), OwnedFd>,
    pools: BTreeMap<(PoolId, Kind), Halves>,
}

#[derive(Debug, Default)]
struct Halves {
    control: Option<OwnedFd>,
    data: Option<OwnedFd>,
}

/// A backing, in an order.
type Kind = u8;

const KINDS: [BackingKind; 3] = [BackingKind::Memfd, BackingKind::Named, BackingKind::File];

impl Core {
    /// Takes over what an earlier daemon stored.
    pub(super) fn recover(&self, fds: HashMap<FdName, OwnedFd>, now: Instant) {
        let restarted = !fds.is_empty();
        let mut found = self.sort(fds);
        let dead = self.recover_sessions(&mut found.processes, now);
        self.recover_pools(found.pools, now);
        self.open_files_again(now);
        self.recall_requests(now);
        for pool in self.registry().all() {
            if let AnyPool::Arenas(pool) = &pool {
                pool.end_recovery();
            }
        }
        for session in &dead {
            self.sweep_session(session, EndCause::Lost, now);
        }
        for (number, serial) in found.processes.into_keys() {
            self.store.remove(&StoredFd::Process(number, serial).name());
        }
        // Not in the loop's head: the registry would be locked for as long as the loop runs.
        let pools = self.registry().all();
        for pool in pools {
            self.drop_if_gone(&pool);
            if let AnyPool::Blocks(pool) = &pool {
                self.note_freed(pool, now);
            }
        }
        if restarted {
            let (pools, arena_pools) = self.registry().counts();
            tracing::info!(
                epoch = self.root.epoch(),
                pools,
                arena_pools,
                sessions = self.sessions.count(),
                dead = dead.len(),
                quarantined = self.quarantined.load(Ordering::Relaxed),
                "took over from an earlier daemon"
            );
        }
    }

    /// Counts what could not be believed.
    pub(super) fn quarantine(&self, odd: u32) {
        self.quarantined.fetch_add(odd, Ordering::Relaxed);
    }

    /// Claims the id and the name of a pool that is taken over, until the claim is dropped; `None`
    /// if another pool has one of them.
    pub(super) fn claim<'a>(&'a self, id: PoolId, name: Option<&String>) -> Option<Claim<'a>> {
        let name = name.cloned();
        let claimed = self.registry().claim(id, name.as_ref());
        claimed.then_some(Claim {
            core: self,
            id,
            name,
        })
    }

    fn sort(&self, fds: HashMap<FdName, OwnedFd>) -> Found {
        let mut found = Found::default();
        for (name, fd) in fds {
            match StoredFd::parse(&name) {
                Some(StoredFd::Control(id, kind)) => {
                    let halves = found.pools.entry((id, order_of(kind))).or_default();
                    halves.control = Some(fd);
                }
                Some(StoredFd::Data(id, kind)) => {
                    let halves = found.pools.entry((id, order_of(kind))).or_default();
                    halves.data = Some(fd);
                }
                Some(StoredFd::Process(number, serial)) => {
                    found.processes.insert((number, serial), fd);
                }
                Some(StoredFd::Root) => {}
                // Not of a goumemd; whoever stored it may want it back.
                None => tracing::warn!(%name, "an fd that no daemon stored is left alone"),
            }
        }
        found
    }

    /// Takes over every session of ROOT; returns those whose sweep is owed.
    fn recover_sessions(
        &self,
        processes: &mut HashMap<(SessionNumber, u64), OwnedFd>,
        now: Instant,
    ) -> Vec<Arc<Session>> {
        let numbers = self.root.written_rows().unwrap_or_else(|error| {
            tracing::error!(%error, "could not look at the root table");
            Vec::new()
        });
        let mut dead = Vec::new();
        for number in numbers {
            match self.root.row(number).session().load(number) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let stored = processes.remove(&(number, record.serial));
                    match self.recover_session(&record, stored, now) {
                        Ok(session) if session.is_live() => {}
                        Ok(session) => dead.push(session),
                        Err(error) => {
                            self.quarantine(1);
                            self.sessions.withhold(number);
                            tracing::error!(
                                session = %number,
                                error = crate::status::chain(&error),
                                "could not take over a session"
                            );
                        }
                    }
                }
                Err(commit) => {
                    self.quarantine(1);
                    self.sessions.withhold(number);
                    tracing::warn!(session = %number, commit, "unbelievable session withheld");
                }
            }
        }
        dead
    }

    fn recover_session(
        &self,
        record: &SessionRecord,
        stored: Option<OwnedFd>,
        now: Instant,
    ) -> Result<Arc<Session>, Error> {
        let pidfd = self.process_of(record, stored);
        let ended = match &pidfd {
            Process::Held(pidfd) => pidfd.is_dead(),
            Process::Gone => true,
            Process::Unknown => false,
        };
        let pidfd = pidfd.into_pidfd();
        let session = self.sessions.take_over(record, pidfd, now);
        if ended || record.state == SessionRowState::Dead {
            session.mark_dead();
            return Ok(session);
        }
        if let Some(watched) = &session.watched {
            let name = StoredFd::Process(session.number, session.serial).name();
            self.store.took_over(name, Arc::clone(watched) as _);
            self.watch
                .add(watched, session.serial)
                .map_err(|e| Error::os("watch a session's process", e))?;
        }
        if let Some(at) = session.expires_at() {
            self.note_deadline(at);
        }
        Ok(session)
    }

    /// Finds the process of a session: by its stored pidfd, else by pid and start time, which are
    /// of one process only.
    fn process_of(&self, record: &SessionRecord, stored: Option<OwnedFd>) -> Process {
        if !record.may_map {
            return Process::Unknown;
        }
        let same = |pidfd: &PidFd| match (record.pidfd_inode, pidfd.inode()) {
            (Some(written), Some(found)) => written == found,
            _ => true,
        };
        if let Some(pidfd) = stored.map(|fd| PidFd::from_fd(fd, record.pid))
            && same(&pidfd)
        {
            return Process::Held(Arc::new(pidfd));
        }
        if record.pid == 0 {
            tracing::warn!(
                session = %record.number,
                "a session's process in another pid namespace is not to be found: it counts as alive"
            );
            return Process::Unknown;
        }
        // A missing pidfd is not death.
        match (PidFd::open(record.pid), start_time_of(record.pid)) {
            (Ok(pidfd), Ok(start)) if start == record.start_time && same(&pidfd) => {
                let pidfd = Arc::new(pidfd);
                let name = StoredFd::Process(record.number, record.serial).name();
                if let Err(error) = self.store.store(name, Arc::clone(&pidfd) as _) {
                    tracing::warn!(%error, "a session's process is not held for a restart");
                }
                Process::Held(pidfd)
            }
            // Another process has the pid by now.
            (Ok(_), Ok(_)) => Process::Gone,
            (Err(error), _) if error.raw_os_error() == Some(libc_esrch()) => Process::Gone,
            _ => {
                tracing::warn!(
                    session = %record.number, pid = record.pid,
                    "cannot tell whether a session's process lives: it counts as alive"
                );
                Process::Unknown
            }
        }
    }

    /// Takes over the pools, on several threads if there are many: half of the time goes to the
    /// system, for mapping them.
    fn recover_pools(&self, pools: BTreeMap<(PoolId, Kind), Halves>, now: Instant) {
        let n_threads = thread::available_parallelism().map_or(1, usize::from);
        let n_threads = n_threads
            .min(MAX_RECOVERY_THREADS)
            .min(pools.len() / POOLS_A_THREAD);
        let left = Mutex::new(pools.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let recover = || {
            while let Some(((id, kind), halves)) = next() {
                let kind = KINDS[usize::from(kind)];
                self.recover_pool(id, kind, halves, now);
            }
        };
        thread::scope(|scope| {
            for _ in 1..n_threads {
                let thread = thread::Builder::new().name("goumemd-recover".to_owned());
                // What a thread that could not be started would have done, the others do.
                let _ = thread.spawn_scoped(scope, recover);
            }
            recover();
        });
    }

    fn recover_pool(&self, id: PoolId, kind: BackingKind, halves: Halves, now: Instant) {
        match self.try_recover_pool(id, kind, halves, now) {
            Ok(true) => tracing::debug!(%id, "pool taken over"),
            Ok(false) => {
                self.unstore_pool(id, kind);
                tracing::debug!(%id, "closed a pool that was not finished");
            }
            // Its fds stay where they are: what they hold may be of use to somebody.
            Err(error) => {
                self.quarantine(1);
                tracing::error!(
                    %id, error = crate::status::chain(&error), "a pool is withheld"
                );
            }
        }
    }

    /// Returns whether there was a pool.
    fn try_recover_pool(
        &self,
        id: PoolId,
        kind: BackingKind,
        halves: Halves,
        now: Instant,
    ) -> Result<bool, Error> {
        // DATA is stored first, and CONTROL removed first.
        let (Some(control), Some(data)) = (halves.control, halves.data) else {
            return Ok(false);
        };
        let reopen = |fd| {
            Segment::reopen(fd, kind)
                .map(Arc::new)
                .map_err(|e| Error::os("open a segment that was kept", e))
        };
        let control = reopen(control)?;
        let mapped_control = map_control(&control)?;
        let header = match header_of(&mapped_control) {
            Ok(header) => header,
            // Killed before the pool was there.
            Err(Error::Segment(SegmentRefusal::NotReady { magic: 0 })) => return Ok(false),
            Err(error) => return Err(error),
        };
        if header.pool_id != id || header.instance != self.root.instance() {
            let (field, value) = ("pool id", u64::from(header.pool_id.get()));
            return Err(SegmentRefusal::Corrupt { field, value }.into());
        }
        let data = reopen(data)?;
        let found = FoundPool {
            header,
            own: true,
            mapped_control,
            control: Arc::clone(&control),
            data: Arc::clone(&data),
        };
        self.take_over_pool(found, now)?;
        let store = &self.store;
        store.took_over(StoredFd::Control(id, kind).name(), control);
        store.took_over(StoredFd::Data(id, kind).name(), data);
        Ok(true)
    }

    /// Finds out what became of the requests that the earlier daemon knew, and remembers it for
    /// their retries.
    fn recall_requests(&self, now: Instant) {
        let sessions: HashMap<u64, Arc<Session>> = self
            .sessions
            .all()
            .into_iter()
            .filter(|session| session.is_live())
            .map(|session| (session.serial, session))
            .collect();
        for session in sessions.values() {
            let odd = session.take_over_requests(|request| self.recall(session, request, now));
            self.quarantine(odd);
        }
        for pool in self.registry().all() {
            let made_by = pool.made_by();
            let effects = match &pool {
                AnyPool::Blocks(pool) => pool.effects(),
                AnyPool::Arenas(pool) => pool.effects(),
            };
            let made = (made_by.request_id != 0).then(|| {
                let opened = opened(&pool);
                (made_by.serial, made_by.request_id, opened)
            });
            for (serial, id, outcome) in effects.into_iter().chain(made) {
                if let Some(session) = sessions.get(&serial) {
                    session.recall_requests([(id, Recalled::Done(outcome))]);
                }
            }
        }
    }

    /// Says what became of a request; `None` if it changed nothing yet.
    fn recall(&self, session: &Session, request: &RequestRecord, now: Instant) -> Option<Recalled> {
        let pool = PoolId::new(request.pool_id).and_then(|id| self.registry().by_id(id).ok());
        match (request.op, pool) {
            (RequestOp::DestroyPool, pool) => {
                let stands = pool.is_some_and(|pool| !pool.is_destroying());
                (request.done || !stands).then(|| Recalled::Done(Remembered::new(&())))
            }
            (_, Some(AnyPool::Blocks(pool))) => pool.recall(session, request, now),
            (_, Some(AnyPool::Arenas(pool))) => pool.recall(session, request),
            // With its pool went what it was about.
            (_, None) => Some(Recalled::Unknown),
        }
    }
}

/// An id and a name that no other pool gets.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    core: &'a Core,
    id: PoolId,
    name: Option<String>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.core.registry().end_claim(self.id, self.name.as_ref());
    }
}

/// What is known of the process of a session.
#[derive(Debug)]
enum Process {
    Held(Arc<PidFd>),
    /// It has ended.
    Gone,
    /// It has none that can be held: it is remote, in another pid namespace, or hidden.
    Unknown,
}

impl Process {
    fn into_pidfd(self) -> Option<Arc<PidFd>> {
        match self {
            Self::Held(pidfd) => Some(pidfd),
            Self::Gone | Self::Unknown => None,
        }
    }
}

/// What the call that made a pool was answered.
fn opened(pool: &AnyPool) -> Remembered {
    let (created, access) = (true, Access::ReadWrite);
    match pool {
        AnyPool::Blocks(pool) => Remembered::new(&OpenedPool {
            pool: pool.info(),
            created,
            access,
        }),
        AnyPool::Arenas(pool) => Remembered::new(&OpenedArenaPool {
            pool: pool.info(),
            created,
            access,
        }),
    }
}

fn order_of(kind: BackingKind) -> Kind {
    match kind {
        BackingKind::Memfd => 0,
        BackingKind::Named => 1,
        BackingKind::File => 2,
    }
}

fn libc_esrch() -> i32 {
    rustix::io::Errno::SRCH.raw_os_error()
}

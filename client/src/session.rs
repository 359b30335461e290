//! A session with the daemon, shared by a client and everything that came from it. How its calls
//! are made is in `calls.rs`; its end is the housekeeper's business.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use goumem_alloc::{PoolId, SessionNumber};
use goumem_proto::name::Label;
use goumem_shm::AccessError;
use goumem_shm::os::fork::Born;
use goumem_shm::os::{Access, paths};
use goumem_shm::sync::Ordering;
use tokio::sync::{mpsc, watch};

use crate::arena_pool::ArenaCore;
use crate::end::End;
use crate::error::Error;
use crate::fd::FdSocket;
use crate::housekeeper::{self, Chore, LastAct};
use crate::in_use::{CountsUsers, InUse};
use crate::io_thread::{IoThread, KeepRunning};
use crate::link::{self, Link};
use crate::named_arenas::NamedArenas;
use crate::pool::PoolCore;
use crate::request_ids::RequestIds;

/// Pools by id, and by whether they are mapped writable: the two are different mappings.
type Mapped<T> = Mutex<HashMap<(PoolId, Access), Arc<T>>>;

/// A session with the daemon.
pub(crate) struct Session {
    pub(crate) born: Born,
    pub(crate) io: IoThread,
    pub(crate) link: Link,
    pub(crate) fd: FdSocket,
    pub(crate) socket: PathBuf,
    pub(crate) number: SessionNumber,
    pub(crate) serial: u64,
    pub(crate) may_map: bool,
    pub(crate) pools: Mapped<PoolCore>,
    pub(crate) arena_pools: Mapped<ArenaCore>,
    pub(crate) named_arenas: NamedArenas,
    /// Pins held, among them those that are being made.
    pub(crate) pins: AtomicUsize,
    /// Nothing new begins.
    pub(crate) closed: AtomicBool,
    /// Tells long waits that the session ends.
    pub(crate) ending: watch::Sender<bool>,
    /// Only what the session holds can be given back, so its holdings bound this queue.
    chores: mpsc::UnboundedSender<Chore>,
    pub(crate) end: Arc<End>,
    users: AtomicUsize,
    pub(crate) request_ids: RequestIds,
    /// How long a call waits for the daemon.
    pub(crate) deadline: Duration,
    /// Bytes of spans without a block that the client may keep, in all pools.
    pub(crate) max_idle_bytes: u64,
}

/// How a session is to be.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) label: Label,
    pub(crate) call_deadline: Duration,
    pub(crate) max_idle_bytes: u64,
}

impl Session {
    /// Opens a session on the I/O thread, which ends with it.
    pub(crate) async fn open(
        io: IoThread,
        running: KeepRunning,
        settings: Settings,
        end: Arc<End>,
        last_act: Option<LastAct>,
    ) -> Result<InUse<Self>, Error> {
        let Settings {
            socket,
            label,
            call_deadline,
            max_idle_bytes,
        } = settings;
        let (opened, connection, incoming) = link::open(&socket, label, call_deadline).await?;
        // Beside the socket that was reached, and not where the daemon sees it: the two differ
        // when a container mounts the directory elsewhere.
        let fd_socket = paths::fd_socket_path(&socket)?;
        let (chores, queue) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            born: Born::here(),
            io,
            link: Link::new(Arc::clone(&connection), opened.token),
            fd: FdSocket::new(fd_socket, opened.token),
            socket,
            number: opened.session,
            serial: opened.serial,
            may_map: opened.may_map,
            pools: Mutex::default(),
            arena_pools: Mutex::default(),
            pins: AtomicUsize::new(0),
            named_arenas: NamedArenas::default(),
            closed: AtomicBool::new(false),
            ending: watch::Sender::new(false),
            chores,
            end,
            users: AtomicUsize::new(0),
            request_ids: RequestIds::default(),
            deadline: call_deadline,
            max_idle_bytes,
        });
        let user = InUse::new(Arc::clone(&session));
        let link = tokio::spawn(link::keep_up(Arc::clone(&session), connection, incoming));
        housekeeper::start(session, queue, link, running, last_act);
        Ok(user)
    }

    /// Refuses what cannot be done any more.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.born.is_elsewhere() {
            return Err(AccessError::Forked.into());
        }
        // ORDERING: Relaxed; who must not miss the end looks again under the pool's lock.
        if self.closed.load(Ordering::Relaxed) {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Runs something on the I/O thread.
    pub(crate) async fn run<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.check_open()?;
        self.io.run(work(Arc::clone(self))).await
    }

    /// Queues something for the housekeeper.
    pub(crate) fn queue(&self, chore: Chore) {
        // In a forked child nobody would hear it, and the queue's locks may be held for ever.
        if !self.born.is_elsewhere() {
            // It fails after the end of the session, when there is nothing left to do.
            let _ = self.chores.send(chore);
        }
    }

    /// Has the housekeeper look at what is still in use.
    pub(crate) fn look(&self) {
        let look = self.end.next_look();
        self.queue(Chore::Look(look));
        // ORDERING: Acquire; pairs with the AcqRel of the last user's drop.
        if self.users.load(Ordering::Acquire) == 0 && !self.io.is_current() {
            self.end.wait_for(look);
        }
    }

    /// Returns whether any client uses it.
    pub(crate) fn has_users(&self) -> bool {
        // ORDERING: Acquire; pairs with the AcqRel of the last user's drop.
        self.users.load(Ordering::Acquire) != 0
    }
}

impl CountsUsers for Session {
    fn users(&self) -> &AtomicUsize {
        &self.users
    }

    fn born(&self) -> Born {
        self.born
    }

    fn last_user_gone(&self) {
        self.look();
    }
}

/// A pin that a session holds: it is not closed before this is dropped.
#[derive(Debug)]
pub(crate) struct HeldPin(Arc<Session>);

impl HeldPin {
    /// Counts it, unless the session is closed.
    pub(crate) fn new(session: &Arc<Session>) -> Result<Self, Error> {
        // ORDERING: SeqCst; pairs with the housekeeper, which sets `closed` and then looks at the
        // count: one of the two sees the other.
        session.pins.fetch_add(1, Ordering::SeqCst);
        let held = Self(Arc::clone(session));
        if session.closed.load(Ordering::SeqCst) {
            Err(Error::Closed)
        } else {
            Ok(held)
        }
    }
}

impl Drop for HeldPin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("number", &self.number)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Locks a mutex whose every change is one step, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns what is mapped under a key.
pub(crate) fn mapped<K: Eq + Hash, T: CountsUsers>(
    table: &Mutex<HashMap<K, Arc<T>>>,
    key: &K,
) -> Option<InUse<T>> {
    // A user is made under the lock: whoever removes a pool does so under it, when it has none.
    lock(table)
        .get(key)
        .map(|found| InUse::new(Arc::clone(found)))
}

/// Puts a mapping under a key, unless somebody else was faster.
pub(crate) fn insert_mapped<K: Eq + Hash, T: CountsUsers>(
    table: &Mutex<HashMap<K, Arc<T>>>,
    key: K,
    made: Arc<T>,
) -> InUse<T> {
    let mut table = lock(table);
    InUse::new(Arc::clone(table.entry(key).or_insert(made)))
}

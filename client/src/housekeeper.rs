//! The task that looks after a session: it gives back what is idle or no longer held, sees when
//! nobody uses the session any more, and ends it once its last block is gone. It sleeps when
//! there is nothing to do.

use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use goumem_alloc::{PoolId, SizeClass};
use goumem_proto::model::{CloseSession, Unmap};
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use goumem_shm::os::Access;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::calls::PATIENT;
use crate::connect::Rpc;
use crate::error::Error;
use crate::io_thread::KeepRunning;
use crate::local_heap::{HeapAgent, Seen, Trim};
use crate::pool::PoolCore;
use crate::session::{Session, lock};

/// How often a client is looked at for what is idle: a few times before anybody watches a pool
/// fill up. When nothing has happened since the last look, the pauses double up to the other one.
const IDLE_CHECK: Duration = Duration::from_secs(1);
const MAX_IDLE_CHECK: Duration = Duration::from_secs(64);
/// How soon it is seen that the last block of a dropped client or pool is gone, at first; the
/// pauses double up to the other one.
const FIRST_LINGER: Duration = Duration::from_millis(50);
const MAX_LINGER: Duration = Duration::from_secs(1);
/// How long the end of a session waits for a daemon that is away.
const MAX_FAREWELL: Duration = Duration::from_secs(2);
/// Something to do at the very end: an embedded daemon's shutdown.
pub(crate) type LastAct = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the housekeeper is told.
pub(crate) enum Chore {
    /// Somebody's use is over: look at what is left. Carries the number of the look.
    Look(usize),
    /// Spans were leased, which may become idle.
    Watch,
    /// A thread's heap is about to run out of a class.
    Prefetch {
        pool_id: PoolId,
        class: SizeClass,
        home: &'static HeapAgent,
    },
    /// The pool is short of spans.
    Pressure(PoolId),
    /// Make this call; nobody waits for it.
    Call(LastAct),
    /// End the session, if it holds nothing.
    Close(oneshot::Sender<Result<(), Error>>),
}

/// Starts the task. With the session it ends `link`, the task that keeps it connected.
pub(crate) fn start(
    session: Arc<Session>,
    chores: mpsc::UnboundedReceiver<Chore>,
    link: JoinHandle<()>,
    running: KeepRunning,
    last_act: Option<LastAct>,
) {
    let io = session.io.clone();
    let mut keeper = Housekeeper {
        session,
        chores,
        calls: JoinSet::new(),
        next: None,
        linger: FIRST_LINGER,
        idle_check: IDLE_CHECK,
        seen: Vec::new(),
    };
    io.spawn(async move {
        let closing = keeper.work().await;
        link.abort();
        keeper.leave();
        drop(keeper);
        if let Some(act) = last_act {
            act.await;
        }
        if let Some(reply) = closing {
            // The caller may have lost interest.
            let _ = reply.send(Ok(()));
        }
        drop(running);
    });
}

struct Housekeeper {
    session: Arc<Session>,
    chores: mpsc::UnboundedReceiver<Chore>,
    calls: JoinSet<()>,
    next: Option<Instant>,
    linger: Duration,
    idle_check: Duration,
    /// What the last look at each pool has seen.
    seen: Vec<Seen>,
}

/// Who wants to hear that the session has ended.
type Closing = Option<oneshot::Sender<Result<(), Error>>>;

impl Housekeeper {
    /// Works until the session has ended.
    async fn work(&mut self) -> Closing {
        loop {
            let due = async {
                match self.next {
                    Some(at) => sleep_until(at).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                chore = self.chores.recv() => match chore {
                    None => return None,
                    Some(Chore::Call(call)) => {
                        self.calls.spawn(call);
                    }
                    Some(Chore::Watch) => {
                        self.idle_check = IDLE_CHECK;
                        self.check_within(IDLE_CHECK);
                    }
                    Some(Chore::Prefetch { pool_id, class, home }) => {
                        self.prefetch(pool_id, class, home);
                    }
                    Some(Chore::Pressure(pool)) => self.relieve(pool),
                    Some(Chore::Look(look)) => {
                        self.linger = FIRST_LINGER;
                        if self.tend().await {
                            return None;
                        }
                        self.session.end.looked(look);
                    }
                    Some(Chore::Close(reply)) => match self.close().await {
                        Ok(()) => return Some(reply),
                        Err(error) => {
                            let _ = reply.send(Err(error));
                        }
                    },
                },
                () = due => {
                    self.linger = (2 * self.linger).min(MAX_LINGER);
                    if self.tend().await {
                        return None;
                    }
                }
                Some(_) = self.calls.join_next(), if !self.calls.is_empty() => {}
            }
        }
    }

    /// Gives back what is idle, unmaps what is unused, and plans the next look. Returns whether
    /// the session has ended.
    async fn tend(&mut self) -> bool {
        self.next = None;
        let mut keep_bytes = self.session.max_idle_bytes;
        let mut seen = Vec::new();
        let mut again = false;
        for pool in self.pools() {
            if !pool.has_users() {
                self.trim(&pool, Trim::everything());
                if !self.retire(&pool) {
                    self.check_within(self.linger);
                }
            } else if self.session.link.now().is_some() {
                // Without a daemon nobody would take the spans, and the pool can still use them.
                let trim = self.trim(&pool, Trim::idle(keep_bytes));
                keep_bytes = trim.keep_bytes;
                again |= trim.again;
                seen.push(trim.seen);
            }
        }
        // A client that holds blocks and does nothing is looked at ever more rarely.
        let is_quiet = seen == self.seen;
        self.idle_check = match is_quiet {
            true => (2 * self.idle_check).min(MAX_IDLE_CHECK),
            false => IDLE_CHECK,
        };
        self.seen = seen;
        if again {
            self.check_within(self.idle_check);
        }
        let mut gone = Vec::new();
        lock(&self.session.arena_pools).retain(|&(id, _), pool| {
            let used = pool.has_users();
            if !used {
                gone.push(id);
            }
            used
        });
        gone.into_iter().for_each(|id| self.unmapped(id));
        let unused = !self.session.has_users()
            && lock(&self.session.pools).is_empty()
            && lock(&self.session.arena_pools).is_empty();
        if !unused {
            return false;
        }
        match self.end_session().await {
            Err(Error::BlocksOutstanding { n }) => {
                tracing::debug!(n, "blocks that were handed out keep the session open");
                self.check_within(MAX_LINGER);
                false
            }
            _ => true,
        }
    }

    /// Ends the session if nothing of it is held.
    async fn close(&mut self) -> Result<(), Error> {
        // ORDERING: SeqCst; pairs with the SeqCst of whoever counts itself among the holders and
        // then looks at this flag: one of the two sees the other.
        self.session.closed.store(true, Ordering::SeqCst);
        let pools = self.pools();
        for pool in &pools {
            pool.fence(true);
            self.trim(pool, Trim::everything());
        }
        let pins = self.session.pins.load(Ordering::SeqCst) as u64;
        let arenas: u64 = lock(&self.session.arena_pools)
            .values()
            .map(|pool| pool.arenas_held())
            .sum();
        let n = pins + arenas + pools.iter().map(|pool| pool.owned_count()).sum::<u64>();
        let outcome = match n {
            0 => self.end_session().await,
            n => Err(Error::BlocksOutstanding { n }),
        };
        match outcome {
            Err(error @ Error::BlocksOutstanding { .. }) => {
                for pool in &pools {
                    pool.fence(false);
                }
                self.session.closed.store(false, Ordering::SeqCst);
                Err(error)
            }
            // Whatever else the daemon said, or if it is gone: there is nothing to come back to.
            _ => Ok(()),
        }
    }

    /// Tells the daemon, when nothing is held here any more.
    async fn end_session(&mut self) -> Result<(), Error> {
        let patience = self.patience();
        let calls = async { while self.calls.join_next().await.is_some() {} };
        if timeout(patience, calls).await.is_err() {
            self.calls.shutdown().await;
        }
        let session = &self.session;
        session.ending.send_replace(true);
        let patience = self.patience();
        let (blocks, error) = match tell(session, false, patience).await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        if blocks == Some(0) {
            // Leases of spans in which blocks of others lie, or an arena that came for a wait
            // that was given up: the daemon takes them as they are.
            return tell(session, true, patience)
                .await
                .map_err(|(_, error)| error);
        }
        session.ending.send_replace(false);
        Err(error)
    }

    /// Returns how long the end of the session waits for the daemon: while it is away, not longer
    /// than its restart takes. If it comes later, it takes back what was held when this process
    /// ends.
    fn patience(&self) -> Duration {
        match self.session.link.now() {
            Some(_) => self.session.deadline,
            None => self.session.deadline.min(MAX_FAREWELL),
        }
    }

    /// Lets go of everything that the session keeps.
    fn leave(&self) {
        self.session.closed.store(true, Ordering::SeqCst);
        self.session.ending.send_replace(true);
        // Dropped when the locks are released: a pool's drop may ask for them.
        let pools = std::mem::take(&mut *lock(&self.session.pools));
        let arena_pools = std::mem::take(&mut *lock(&self.session.arena_pools));
        drop((pools, arena_pools));
    }

    /// Gives back every empty span of a pool.
    fn relieve(&mut self, id: PoolId) {
        for pool in self.pools() {
            if pool.info.pool_id == id {
                self.trim(&pool, Trim::everything());
            }
        }
    }

    /// Gives back what a walk finds.
    fn trim(&mut self, pool: &Arc<PoolCore>, trim: Trim) -> Trim {
        let mut trim = pool.trim(trim);
        let leases = std::mem::take(&mut trim.leases);
        if !leases.is_empty() {
            let pool = Arc::clone(pool);
            self.calls.spawn(async move {
                if let Err(error) = pool.return_spans(leases).await {
                    tracing::debug!(%error, "spans were not returned");
                }
            });
        }
        trim
    }

    /// Leases for a heap before it has run out.
    fn prefetch(&mut self, pool_id: PoolId, class: SizeClass, home: &'static HeapAgent) {
        let key = (pool_id, Access::ReadWrite);
        let Some(pool) = lock(&self.session.pools).get(&key).map(Arc::clone) else {
            return;
        };
        self.calls.spawn(async move {
            if let Err(error) = pool.prefetch(class, home).await {
                tracing::debug!(%error, "nothing was leased ahead");
            }
        });
    }

    /// Unmaps a pool that nobody uses and that has no block; returns whether it did.
    fn retire(&mut self, pool: &Arc<PoolCore>) -> bool {
        let mut pools = lock(&self.session.pools);
        // A new user would come by this table, which is locked, or by a block, which is counted:
        // so one that comes after the first look is seen by the second.
        if pool.has_users() || pool.owned_count() > 0 {
            return false;
        }
        // Blocks of others may lie in its spans. Those go back when the session ends, or as soon
        // as they are empty; until then they stay at hand, for when the pool is opened again.
        if self.session.has_users() && !pool.has_no_spans() {
            return false;
        }
        pool.fence(true);
        pools.remove(&pool.key());
        drop(pools);
        self.unmapped(pool.info.pool_id);
        true
    }

    /// Tells the daemon that a pool is not mapped here any more, so that a destroyed one can go
    /// before this session does.
    fn unmapped(&mut self, pool_id: PoolId) {
        let session = Arc::clone(&self.session);
        self.calls.spawn(async move {
            let request: v1::UnmapRequest = Unmap { pool_id }.into();
            let unmap = |rpc: Rpc| async move { rpc.sessions().unmap(request).await };
            if let Err(error) = session.ask_once(PATIENT, unmap).await {
                tracing::debug!(%error, "the daemon did not hear that a pool is unmapped");
            }
        });
    }

    fn pools(&self) -> Vec<Arc<PoolCore>> {
        lock(&self.session.pools).values().cloned().collect()
    }

    fn check_within(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// Asks the daemon to end the session. A refusal says how many blocks of it are alive.
async fn tell(
    session: &Session,
    force: bool,
    patience: Duration,
) -> Result<(), (Option<u64>, Error)> {
    let no_answer = Error::NoAnswer { waited: patience };
    let close = async {
        let until = Instant::now() + patience;
        let connection = session.link.up(&session.socket, until).await;
        let connection = connection.map_err(|error| (None, error))?;
        let close = v1::CloseSessionRequest::from(CloseSession { force });
        match connection.rpc.sessions().close(close).await {
            Ok(_) => Ok(()),
            Err(status) => {
                let detail = ErrorDetail::from_status(&status);
                let blocks = detail.and_then(|detail| detail.number("blocks"));
                Err((blocks, Error::from_status(&status)))
            }
        }
    };
    timeout(patience, close)
        .await
        .unwrap_or(Err((None, no_answer)))
}

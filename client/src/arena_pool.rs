//! An arena pool as its users see it: how to get an arena.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use goumem_alloc::PoolId;
use goumem_proto::model::{
    Access, ArenaHolders, ArenaInfo, ArenaPoolInfo, ArenaPoolStat, AttachArena, GetArena,
    ListHolders, MAX_WAIT, RequestId,
};
use goumem_proto::name::ArenaName;
use goumem_proto::reason::Reason;
use goumem_proto::v1;
use goumem_proto::v1::control_request::Call;
use goumem_shm::os::fork::Born;
use goumem_shm::{AccessError, ArenaMemory, HeldArena};

use crate::arena::Arena;
use crate::client::parse_name;
use crate::connect::Rpc;
use crate::error::Error;
use crate::in_use::{CountsUsers, InUse};
use crate::named_arenas;
use crate::session::Session;

/// The longest wait of one call. A caller that has lost interest is not taken out of the
/// daemon's queue, since its arena may be on the way: it gives it back when it comes. So this is
/// also how long it may stay there.
const MAX_CALL_WAIT: Duration = Duration::from_secs(60);
const _: () = assert!(MAX_CALL_WAIT.as_secs() <= MAX_WAIT.as_secs());

/// A mapped arena pool.
pub(crate) struct ArenaCore {
    pub(crate) session: Arc<Session>,
    pub(crate) info: ArenaPoolInfo,
    memory: ArenaMemory,
    /// Where the search for a free arena begins: at the one that was returned last, whose bytes
    /// are in the processor's cache, or behind the one that was found last. A hint.
    next: AtomicU32,
    /// Pools in use, and in the upper half the arenas held: one count, for there is no time for
    /// two in getting an arena.
    users: AtomicUsize,
}

/// An arena held, among the users.
const ARENA: usize = 1 << 32;

impl ArenaCore {
    pub(crate) fn new(
        session: Arc<Session>,
        info: ArenaPoolInfo,
        memory: ArenaMemory,
    ) -> Arc<Self> {
        Arc::new(Self {
            session,
            info,
            memory,
            next: AtomicU32::new(0),
            users: AtomicUsize::new(0),
        })
    }

    /// Says what an error means for this pool.
    pub(crate) fn name_loss(&self, error: Error) -> Error {
        error.in_pool(self.info.name.as_str())
    }

    pub(crate) fn has_users(&self) -> bool {
        // ORDERING: Acquire; pairs with the AcqRel of the last user's drop.
        self.users.load(Ordering::Acquire) != 0
    }

    /// Returns how many arenas are held, or about to be.
    pub(crate) fn arenas_held(&self) -> u64 {
        // ORDERING: SeqCst; see `Holding::new`.
        (self.users.load(Ordering::SeqCst) / ARENA) as u64
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.memory.is_writable()
    }

    /// Makes a guard of an arena that the daemon has granted.
    fn hold(self: &Arc<Self>, granted: v1::ArenaReply) -> Result<Arena, Error> {
        let arena = ArenaInfo::try_from(granted)?.arena;
        let number = self.session.number;
        match Holding::new(self) {
            Ok(holding) => {
                let held = HeldArena::of(self, number, arena, true)?;
                Ok(Arena::exclusive(held, holding))
            }
            Err(error) => {
                self.memory.give_back(arena, number)?;
                let at = self.memory.locate(arena)?;
                self.given_back(at.index);
                Err(error)
            }
        }
    }

    /// Sees to it that whoever waits gets an arena that was given back just now.
    #[inline]
    pub(crate) fn given_back(&self, index: u32) {
        self.next.store(index, Ordering::Relaxed);
        if self.memory.somebody_waits() {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let pool_id = self.info.pool_id.get();
        self.session
            .queue_control::<v1::WakeReply>("wake", move |_| {
                Call::Wake(v1::WakeRequest { pool_id })
            });
    }
}

impl AsRef<ArenaMemory> for ArenaCore {
    #[inline]
    fn as_ref(&self) -> &ArenaMemory {
        &self.memory
    }
}

/// Counts an arena as held: the session is not closed before it is given back.
pub(crate) struct Holding<'a>(&'a ArenaCore);

impl<'a> Holding<'a> {
    /// Counts it, unless the session is closed.
    #[inline]
    pub(crate) fn new(core: &'a ArenaCore) -> Result<Self, Error> {
        // ORDERING: SeqCst; pairs with the housekeeper, which sets `closed` and then looks at the
        // count: one of the two sees the other.
        core.users.fetch_add(ARENA, Ordering::SeqCst);
        let holding = Self(core);
        if core.session.closed.load(Ordering::SeqCst) {
            Err(Error::Closed)
        } else {
            Ok(holding)
        }
    }

    /// Leaves the count to the arena that is held now.
    #[inline]
    pub(crate) fn keep(self) {
        let _kept = ManuallyDrop::new(self);
    }

    /// Takes the count back over from it.
    #[inline]
    pub(crate) fn of(core: &'a ArenaCore) -> Self {
        Self(core)
    }
}

impl Drop for Holding<'_> {
    #[inline]
    fn drop(&mut self) {
        // ORDERING: as in the drop of `InUse`.
        if self.0.users.fetch_sub(ARENA, Ordering::AcqRel) == ARENA
            && !self.0.session.born.is_elsewhere()
        {
            self.0.last_user_gone();
        }
    }
}

/// Says that a wait is over.
fn timed_out(error: Error, waited: Duration) -> Error {
    match error.reason() {
        Some(Reason::DeadlineExceeded | Reason::NoFreeArena) => Error::TimedOut { waited },
        _ => error,
    }
}

impl CountsUsers for ArenaCore {
    fn users(&self) -> &AtomicUsize {
        &self.users
    }

    fn born(&self) -> Born {
        self.session.born
    }

    fn last_user_gone(&self) {
        self.session.look();
    }
}

impl std::fmt::Debug for ArenaCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArenaCore")
            .field("name", &self.info.name)
            .field("pool_id", &self.info.pool_id)
            .finish_non_exhaustive()
    }
}

/// An arena pool, mapped into this process: so many arenas of one size, each for one holder at a
/// time, or for several by name.
///
/// ```
/// # goumem::blocking::wait(async {
/// use goumem::{ArenaPoolOptions, Client};
///
/// let client = Client::embedded().await?;
/// let pool = client.create_arena_pool("batches", ArenaPoolOptions::new(2, 1000)).await?;
/// let arena = pool.get().await?;
/// let numbers = arena.alloc_slice::<u32>(100)?;
/// numbers.write(&[7; 100])?;
/// assert_eq!(arena.used_bytes()?, 400);
/// drop(arena); // all of it is free again
/// # Ok::<(), goumem::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ArenaPool {
    core: InUse<ArenaCore>,
}

impl ArenaPool {
    pub(crate) fn new(core: InUse<ArenaCore>) -> Self {
        Self { core }
    }

    /// Returns the pool's name.
    pub fn name(&self) -> &str {
        self.core.info.name.as_str()
    }

    /// Returns the pool's id, which its handles carry. It is never used again.
    pub fn id(&self) -> PoolId {
        self.core.info.pool_id
    }

    /// Returns what the pool is.
    pub fn info(&self) -> &ArenaPoolInfo {
        &self.core.info
    }

    /// Gets an arena if one is free, without waiting and mostly without a call.
    ///
    /// # Errors
    /// [`Error::NoFreeArena`] when none is, or when others have waited longer; [`Error::Access`]
    /// with `ReadOnly`.
    #[inline]
    pub fn try_get(&self) -> Result<Arena, Error> {
        let core = self.core.arc();
        core.session.check_open()?;
        if !core.is_writable() {
            return Err(AccessError::ReadOnly { pool: self.id() }.into());
        }
        let holding = Holding::new(core)?;
        // Who has waited goes first.
        if core.memory.seems_waited_for() {
            return Err(Error::NoFreeArena);
        }
        let from = core.next.load(Ordering::Relaxed);
        let held = HeldArena::get(core, core.session.number, from).ok_or(Error::NoFreeArena)?;
        core.next.store(held.bytes().index() + 1, Ordering::Relaxed);
        Ok(Arena::exclusive(held, holding))
    }

    /// Gets an arena, and waits for one as long as it takes: in one queue with everybody else.
    ///
    /// # Errors
    /// [`Error::Access`] with `ReadOnly`; [`Error::Closed`]; [`Error::Transport`].
    pub async fn get(&self) -> Result<Arena, Error> {
        match self.try_get() {
            Err(Error::NoFreeArena) => {}
            outcome => return outcome,
        }
        loop {
            match self.wait_for(MAX_CALL_WAIT).await {
                Err(Error::TimedOut { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    /// Gets an arena, and waits for one no longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; as [`get`](Self::get).
    pub async fn get_timeout(&self, timeout: Duration) -> Result<Arena, Error> {
        match self.try_get() {
            Err(Error::NoFreeArena) if !timeout.is_zero() => {}
            Err(Error::NoFreeArena) => return Err(Error::TimedOut { waited: timeout }),
            outcome => return outcome,
        }
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::TimedOut { waited: timeout });
            }
            match self.wait_for(left.min(MAX_CALL_WAIT)).await {
                Err(Error::TimedOut { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    /// Waits in the daemon's queue.
    async fn wait_for(&self, wait: Duration) -> Result<Arena, Error> {
        // Not as a user: who has lost interest does not keep the session open.
        let core = Arc::clone(self.core.arc());
        let pool_id = self.id();
        self.core
            .session
            .run(move |session| async move {
                let mut ending = session.ending.subscribe();
                let get = move |rpc: Rpc, request_id, left| {
                    let request_id = RequestId::new(request_id);
                    let get = v1::GetArenaRequest::from(GetArena {
                        pool_id,
                        request_id,
                        wait: left,
                    });
                    async move { rpc.arenas().get(get).await }
                };
                let late = Arc::clone(&core);
                let give_back = move |reply| {
                    if let Err(error) = late.hold(reply) {
                        tracing::debug!(%error, "an arena that came late was not given back");
                    }
                };
                let reply = tokio::select! {
                    reply = session.wait_or_undo(wait, get, give_back) => reply,
                    _ = ending.wait_for(|&ending| ending) => return Err(Error::Closed),
                };
                // A guard at once: if the caller has lost interest, its drop gives it back.
                core.hold(reply.map_err(|error| core.name_loss(timed_out(error, wait)))?)
            })
            .await
    }

    /// Becomes a holder of the arena that another process [shared](Arena::share) by that name.
    ///
    /// # Errors
    /// [`Error::NameNotFound`]; [`Error::PermissionDenied`]; [`Error::Name`].
    pub async fn attach(&self, name: &str, access: Access) -> Result<Arena, Error> {
        let name: ArenaName = parse_name("arena", name)?;
        let core = self.core.clone();
        let pool_id = self.id();
        self.core
            .session
            .run(move |session| async move {
                let holding = Holding::new(&core)?;
                let _turn = session.named_arenas.turn().await;
                let call = move |request_id| {
                    let attach = AttachArena {
                        pool_id,
                        name: name.clone(),
                        access,
                        request_id: RequestId::new(request_id),
                    };
                    Call::Attach(attach.into())
                };
                let late = Arc::clone(&session);
                let undo = |reply: v1::ArenaReply| async move {
                    if let Ok(arena) = ArenaInfo::try_from(reply)
                        && let Err(error) = named_arenas::detach(&late, arena.arena).await
                    {
                        tracing::debug!(%error, "an arena attached to late was not detached from");
                    }
                };
                let reply = session.control_or_undo(call, undo).await;
                let reply = reply.map_err(|error| core.name_loss(error))?;
                let arena = ArenaInfo::try_from(reply)?;
                let writable = arena.access == Access::ReadWrite;
                let held = HeldArena::of(core.arc(), session.number, arena.arena, writable)?;
                session.named_arenas.add(arena.arena);
                Ok(Arena::attached(held, holding, arena.access))
            })
            .await
    }

    /// Returns the arenas that are not free, and who holds them, as far as the caller may know.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn holders(&self) -> Result<Vec<ArenaHolders>, Error> {
        let pool_id = self.id();
        self.core
            .session
            .run(move |session| async move {
                let request = v1::ListHoldersRequest::from(ListHolders { pool_id });
                let list = |rpc: Rpc| async move { rpc.arenas().list_holders(request).await };
                let reply = session.ask(list).await?;
                Ok(Vec::try_from(reply)?)
            })
            .await
    }

    /// Returns how full the pool is.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`] after its destruction; [`Error::Transport`].
    pub async fn stat(&self) -> Result<ArenaPoolStat, Error> {
        let name = self.name().to_owned();
        self.core
            .session
            .run(|session| async move {
                let request = v1::StatPoolRequest { name };
                let stat = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.arenas().stat(request).await }
                };
                let reply = session.ask(stat).await?;
                Ok(ArenaPoolStat::try_from(reply)?)
            })
            .await
    }
}

//! What all users of a mapped pool share: its memory and its heaps. How spans come and go is in
//! `leases.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use goumem_alloc::{Handle, Placement, PoolId, SizeClass};
use goumem_proto::model::PoolInfo;
use goumem_shm::os::Access;
use goumem_shm::os::fork::Born;
use goumem_shm::shape::Shape;
use goumem_shm::{AccessError, PoolMemory, RawBlock, TakenBlocks};

use crate::error::{AllocError, Error};
use crate::housekeeper::Chore;
use crate::in_use::{CountsUsers, InUse};
use crate::local_heap::Trim;
use crate::pool::alloc::Want;
use crate::pool::heaps::Heaps;
use crate::session::Session;

/// A mapped pool.
pub(crate) struct PoolCore {
    pub(crate) session: Arc<Session>,
    pub(crate) info: PoolInfo,
    pub(crate) memory: Arc<PoolMemory>,
    pub(super) heaps: Heaps,
    /// One lease at a time for each class: who waited finds what the other leased.
    pub(super) leases: Box<[tokio::sync::Mutex<()>]>,
    /// The last lease was refused for want of room: nothing is leased ahead then.
    pub(super) is_full: AtomicBool,
    taken: Option<TakenBlocks>,
    /// Adopted blocks that are alive: they lie in spans of others.
    adopted: AtomicUsize,
    users: AtomicUsize,
}

impl PoolCore {
    pub(crate) fn new(
        session: Arc<Session>,
        info: PoolInfo,
        memory: PoolMemory,
    ) -> Result<Arc<Self>, Error> {
        let memory = Arc::new(memory);
        let (taken, refuses) = if memory.is_writable() {
            (Some(TakenBlocks::new(&memory, session.number)?), None)
        } else {
            (None, Some(AllocError::ReadOnly))
        };
        let max_idle_bytes = session.max_idle_bytes;
        let core = Arc::new(Self {
            session,
            info,
            heaps: Heaps::new(refuses, max_idle_bytes),
            leases: SizeClass::all()
                .map(|_| tokio::sync::Mutex::new(()))
                .collect(),
            is_full: AtomicBool::new(false),
            taken,
            adopted: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            memory,
        });
        let companion = Arc::downgrade(&core);
        let first = core.memory.set_companion(companion);
        debug_assert!(first, "the memory was mapped for this core alone");
        Ok(core)
    }

    /// Returns the pool of a block, as a user.
    pub(crate) fn of(block: &RawBlock) -> Result<InUse<Self>, Error> {
        let companion = block.memory().companion().ok_or(Error::Closed)?;
        companion
            .downcast()
            .map(InUse::new)
            .map_err(|_| Error::Closed)
    }

    /// Returns what the session's table has it under.
    pub(crate) fn key(&self) -> (PoolId, Access) {
        let writable = self.memory.is_writable();
        (
            self.info.pool_id,
            if writable {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            },
        )
    }

    pub(crate) fn has_users(&self) -> bool {
        // ORDERING: Acquire; pairs with the AcqRel of the last user's drop.
        self.users.load(Ordering::Acquire) != 0
    }

    /// Takes a block of a class from the calling thread's heap: the short way.
    #[inline(always)]
    pub(crate) fn at_hand(&self, class: Option<SizeClass>) -> Option<RawBlock> {
        self.heaps.alloc(class?)
    }

    /// Takes a block that is at hand anywhere in this process: the long way, after `at_hand`.
    #[cold]
    pub(crate) fn try_raw(&self, want: &Want) -> Result<RawBlock, AllocError> {
        if self.session.born.is_elsewhere() {
            return Err(AllocError::Forked);
        }
        let (block, runs_dry) = self.heaps.alloc_elsewhere(want)?;
        if let (Some(home), Placement::Class(class)) = (runs_dry, want.placement) {
            let pool_id = self.info.pool_id;
            self.session.queue(Chore::Prefetch {
                pool_id,
                class,
                home,
            });
        }
        Ok(block)
    }

    /// Takes a block, after leasing spans if it must.
    pub(crate) async fn raw(pool: &InUse<Self>, want: Want) -> Result<RawBlock, Error> {
        if let Placement::Class(class) = want.placement
            && let Some(block) = pool.at_hand(Some(class))
        {
            return Ok(block);
        }
        match pool.try_raw(&want) {
            Err(AllocError::NeedsSpan) => {}
            outcome => return Ok(outcome?),
        }
        // The spans are for this thread; it is another that leases them.
        let home = pool.heaps.home()?;
        // A user while it runs, so that the pool is not unmapped when its caller loses interest.
        let user = pool.clone();
        pool.session
            .run(|_| async move { user.arc().lease_for(want, home).await })
            .await
    }

    /// Says what an error means for this pool.
    pub(crate) fn name_loss(&self, error: Error) -> Error {
        error.in_pool(self.info.name.as_str())
    }

    /// Walks through the heaps for spans to give back.
    pub(crate) fn trim(&self, trim: Trim) -> Trim {
        self.heaps.trim(trim)
    }

    /// Takes the block that a handle names, for this session alone.
    #[inline]
    pub(crate) fn take(
        &self,
        handle: Handle,
        check: impl FnOnce(Shape) -> Result<(), AccessError>,
    ) -> Result<(RawBlock, Shape), Error> {
        let Some(taken) = &self.taken else {
            return Err(AccessError::ReadOnly {
                pool: self.info.pool_id,
            }
            .into());
        };
        // Refused by the same name as every other use of a handle in a forked child.
        if self.session.born.is_elsewhere() {
            return Err(AccessError::Forked.into());
        }
        // The session must not end between the look and the take.
        let take = || taken.take_over_if(handle, check);
        let (block, shape, _was_kept) = self.heaps.while_open(take)??;
        Ok((block, shape))
    }

    /// Makes this session the owner of a block; the handle stays good.
    pub(crate) fn adopt(&self, handle: Handle) -> Result<(), Error> {
        // If the block was kept, the daemon drops its record when it next looks.
        self.heaps.while_open(|| {
            self.memory.adopt(handle, self.session.number)?;
            self.adopted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })?
    }

    /// Counts an adopted block as gone, or as no longer this handle's to free.
    pub(crate) fn forget_adopted(&self) {
        self.adopted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Refuses allocations from now on, or allows them again.
    pub(crate) fn fence(&self, closed: bool) {
        self.heaps.set_refuses(match closed {
            true => Some(AllocError::Closed),
            false if self.memory.is_writable() => None,
            false => Some(AllocError::ReadOnly),
        });
    }

    /// Returns how many blocks of this session are alive.
    pub(crate) fn owned_count(&self) -> u64 {
        let elsewhere = self.n_taken() + self.adopted.load(Ordering::Relaxed);
        let owner = self.session.number;
        self.heaps.owned_count(&self.memory, owner) + elsewhere as u64
    }

    /// Returns whether no span is left. Blocks of others may lie in spans of this session; they
    /// go back when the session ends.
    pub(crate) fn has_no_spans(&self) -> bool {
        self.heaps.is_empty()
    }

    fn n_taken(&self) -> usize {
        self.taken.as_ref().map_or(0, TakenBlocks::live_count)
    }
}

impl CountsUsers for PoolCore {
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

impl std::fmt::Debug for PoolCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolCore")
            .field("name", &self.info.name)
            .field("pool_id", &self.info.pool_id)
            .finish_non_exhaustive()
    }
}

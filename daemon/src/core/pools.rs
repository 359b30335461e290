//! Calls about pools of blocks: who may, then the pool's own method.

use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::{Handle, PoolId};
use goumem_proto::model::{
    Access, Alloc, AllocBatch, Allocated, AllocatedBatch, BlockInfo, CreatePool, DestroyPool,
    Event, FlushPool, Free, FreeBatch, FreedBatch, HandleReply, HandleRequest, Holder, KeptBlock,
    Lease,
    ListKept, Lookup, OpenPool, OpenedPool, PoolInfo, PoolStat, Publish, PurgePool, PurgedPool,
    Realloc, ReturnSpans, ReturnedSpans, SetCapacity, SpanInfo, StatPool, Withdraw,
};

use super::Core;
use super::registry::AnyPool;
use crate::error::{Error, backing_name};
use crate::permission;
use crate::pool::Pool;
use crate::session::Caller;

impl Core {
    /// Creates a pool.
    ///
    /// # Errors
    /// `PoolExists`, `BackingUnsupported`, `BudgetExhausted`, `TooMany`, `PermissionDenied`.
    pub fn create_pool(
        &self,
        caller: &Caller,
        request: CreatePool,
        now: Instant,
    ) -> Result<OpenedPool, Error> {
        let create = || {
            let pool = self.new_pool(caller, &request, now)?;
            Ok(OpenedPool { pool: pool.info(), created: true, access: Access::ReadWrite })
        };
        match &caller.session {
            Some(session) => session.once(request.request_id, create),
            None => create(),
        }
    }

    /// Opens a pool.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `GeometryMismatch`.
    pub fn open_pool(
        &self,
        caller: &Caller,
        request: OpenPool,
        _now: Instant,
    ) -> Result<OpenedPool, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, request.access)?;
        let info = pool.info();
        if let Some(expected) = request.expect_capacity_bytes
            && rounded(expected) != info.capacity_bytes
        {
            return Err(mismatch(&info, "capacity_bytes", expected, info.capacity_bytes));
        }
        Ok(OpenedPool { pool: info, created: false, access: request.access })
    }

    /// Opens a pool, or creates it.
    ///
    /// # Errors
    /// As both.
    pub fn open_or_create_pool(
        &self,
        caller: &Caller,
        request: CreatePool,
        now: Instant,
    ) -> Result<OpenedPool, Error> {
        // Two callers may find no pool and both create it: the loser opens the winner's.
        for _ in 0..2 {
            match self.blocks_named(request.name.as_str()) {
                Ok(pool) => {
                    pool.require(caller, Access::ReadWrite)?;
                    let info = pool.info();
                    if rounded(request.capacity_bytes) != info.capacity_bytes {
                        let (expected, found) = (request.capacity_bytes, info.capacity_bytes);
                        return Err(mismatch(&info, "capacity_bytes", expected, found));
                    }
                    if let Some(backing) = request.backing
                        && backing != info.backing
                    {
                        let (expected, found) = (backing_name(backing), backing_name(info.backing));
                        return Err(mismatch(&info, "backing", expected, found));
                    }
                    return Ok(OpenedPool { pool: info, created: false, access: Access::ReadWrite });
                }
                Err(Error::PoolNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            match self.create_pool(caller, request.clone(), now) {
                Err(Error::PoolExists { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(Error::PoolExists { name: request.name.to_string() })
    }

    /// Takes a pool's name away; its memory goes with the last session that maps it.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn destroy_pool(
        &self,
        caller: &Caller,
        request: DestroyPool,
        _now: Instant,
    ) -> Result<(), Error> {
        let destroy = || {
            let pool = self.blocks_named(request.name.as_str())?;
            permission::require_owner(caller, &pool.permissions, || {
                format!("destroy pool {}", pool.name)
            })?;
            // Whoever comes second finds no pool of that name, or soon another.
            let sessions = pool.destroy().ok_or_else(|| Error::PoolNotFound {
                pool: request.name.to_string(),
            })?;
            tracing::info!(pool = %pool.name, "pool destroyed");
            self.let_go(&AnyPool::Blocks(pool), &sessions);
            Ok(())
        };
        match &caller.session {
            Some(session) => session.once(request.request_id, destroy),
            None => destroy(),
        }
    }

    /// Lists the pools that the caller may read.
    ///
    /// # Errors
    /// None.
    pub fn list_pools(&self, caller: &Caller) -> Result<Vec<PoolInfo>, Error> {
        let pools = self.registry().named();
        Ok(pools
            .iter()
            .filter_map(|pool| match pool {
                AnyPool::Blocks(pool) => Some(pool),
                AnyPool::Arenas(_) => None,
            })
            .filter(|pool| pool.require(caller, Access::ReadOnly).is_ok())
            .map(|pool| pool.info())
            .collect())
    }

    /// Counts what is in a pool.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn stat_pool(
        &self,
        caller: &Caller,
        request: StatPool,
        now: Instant,
    ) -> Result<PoolStat, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, Access::ReadOnly)?;
        let mut stat = pool.stat(caller, now);
        self.name_processes(&mut stat.top_holders);
        Ok(stat)
    }

    /// Sets a pool's quota.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `CapacityTooSmall`, `CapacityTooLarge`.
    pub fn set_capacity(
        &self,
        caller: &Caller,
        request: SetCapacity,
        now: Instant,
    ) -> Result<PoolStat, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        permission::require_owner(caller, &pool.permissions, || {
            format!("resize pool {}", pool.name)
        })?;
        pool.set_capacity(request.capacity_bytes)?;
        Ok(pool.stat(caller, now))
    }

    /// Allocates a block.
    ///
    /// # Errors
    /// As [`Pool::alloc`].
    pub fn alloc(&self, caller: &Caller, request: Alloc, now: Instant) -> Result<Allocated, Error> {
        let pool = self.writable(caller, request.pool_id)?;
        let block = self.or_pressure(&pool, pool.alloc(caller, &request, now))?;
        Ok(Allocated { block })
    }

    /// Allocates many blocks, all or none.
    ///
    /// # Errors
    /// As [`Pool::alloc_batch`].
    pub fn alloc_batch(
        &self,
        caller: &Caller,
        request: AllocBatch,
        now: Instant,
    ) -> Result<AllocatedBatch, Error> {
        let pool = self.writable(caller, request.pool_id)?;
        let handles = self.or_pressure(&pool, pool.alloc_batch(caller, &request, now))?;
        Ok(AllocatedBatch { handles })
    }

    /// Frees a block.
    ///
    /// # Errors
    /// As [`Pool::free`].
    pub fn free(&self, caller: &Caller, request: Free, now: Instant) -> Result<(), Error> {
        let pool = self.writable_by(caller, request.handle)?;
        pool.free(caller.session()?, request.handle, request.request_id, now)?;
        self.note_freed(&pool, now);
        Ok(())
    }

    /// Frees many blocks of one pool.
    ///
    /// # Errors
    /// `PermissionDenied`, `SessionExpired`, `PoolNotFound` for the first handle's pool.
    pub fn free_batch(
        &self,
        caller: &Caller,
        request: FreeBatch,
        now: Instant,
    ) -> Result<FreedBatch, Error> {
        let session = caller.session()?;
        let Some(&first) = request.handles.first() else {
            return Ok(FreedBatch { freed: 0, failures: Vec::new() });
        };
        let pool = self.writable_by(caller, first)?;
        let freed = pool.free_batch(session, &request, now)?;
        self.note_freed(&pool, now);
        Ok(freed)
    }

    /// Changes a block's size.
    ///
    /// # Errors
    /// As [`Pool::realloc`].
    pub fn realloc(
        &self,
        caller: &Caller,
        request: Realloc,
        now: Instant,
    ) -> Result<Allocated, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        let block = self.or_pressure(&pool, pool.realloc(caller, &request, now))?;
        self.note_freed(&pool, now);
        Ok(Allocated { block })
    }

    /// Makes a block outlive its owner.
    ///
    /// # Errors
    /// As [`Pool::keep`].
    pub fn keep(
        &self,
        caller: &Caller,
        request: HandleRequest,
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        pool.keep(caller.session()?, request.handle, request.request_id, now)?;
        Ok(HandleReply { handle: request.handle })
    }

    /// Makes the caller the owner of a block.
    ///
    /// # Errors
    /// As [`Pool::adopt`].
    pub fn adopt(
        &self,
        caller: &Caller,
        request: HandleRequest,
        _now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        let handle = pool.adopt(caller.session()?, request.handle, request.request_id)?;
        Ok(HandleReply { handle })
    }

    /// Makes the caller the owner of a block and every other handle stale.
    ///
    /// # Errors
    /// As [`Pool::take`].
    pub fn take(
        &self,
        caller: &Caller,
        request: HandleRequest,
        _now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        let handle = pool.take(caller.session()?, request.handle, request.request_id)?;
        Ok(HandleReply { handle })
    }

    /// Pins a block for the caller.
    ///
    /// # Errors
    /// As [`Pool::pin`].
    pub fn pin(
        &self,
        caller: &Caller,
        request: HandleRequest,
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.readable_by(caller, request.handle)?;
        pool.pin(caller.session()?, request.handle, request.request_id, now)?;
        Ok(HandleReply { handle: request.handle })
    }

    /// Drops one of the caller's pins.
    ///
    /// # Errors
    /// As [`Pool::unpin`].
    pub fn unpin(
        &self,
        caller: &Caller,
        request: HandleRequest,
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.readable_by(caller, request.handle)?;
        pool.unpin(caller.session()?, request.handle, request.request_id, now)?;
        self.note_freed(&pool, now);
        Ok(HandleReply { handle: request.handle })
    }

    /// Says what a handle names.
    ///
    /// # Errors
    /// `Access`, `PermissionDenied`.
    pub fn resolve(
        &self,
        caller: &Caller,
        request: HandleRequest,
        _now: Instant,
    ) -> Result<BlockInfo, Error> {
        self.readable_by(caller, request.handle)?.resolve(request.handle)
    }

    /// Gives a block a name.
    ///
    /// # Errors
    /// As [`Pool::publish`].
    pub fn publish(
        &self,
        caller: &Caller,
        request: Publish,
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        pool.publish(caller.session()?, &request, now)?;
        Ok(HandleReply { handle: request.handle })
    }

    /// Finds a block by name.
    ///
    /// # Errors
    /// `NameNotFound`, `PermissionDenied`.
    pub fn lookup(
        &self,
        caller: &Caller,
        request: Lookup,
        _now: Instant,
    ) -> Result<BlockInfo, Error> {
        let pool = self.blocks(request.pool_id)?;
        pool.require(caller, Access::ReadOnly)?;
        pool.lookup(&request.name)
    }

    /// Takes a block's name away.
    ///
    /// # Errors
    /// `NameNotFound`, `PermissionDenied`.
    pub fn withdraw(
        &self,
        caller: &Caller,
        request: Withdraw,
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable(caller, request.pool_id)?;
        let handle = pool.withdraw(caller.session()?, &request, now)?;
        self.note_freed(&pool, now);
        Ok(HandleReply { handle })
    }

    /// Lists the blocks that outlive sessions.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn list_kept(
        &self,
        caller: &Caller,
        request: ListKept,
        _now: Instant,
    ) -> Result<Vec<KeptBlock>, Error> {
        let pool = self.blocks(request.pool_id)?;
        pool.require(caller, Access::ReadOnly)?;
        Ok(pool.kept())
    }

    /// Leases spans.
    ///
    /// # Errors
    /// As [`Pool::lease`].
    pub fn lease(
        &self,
        caller: &Caller,
        request: Lease,
        now: Instant,
    ) -> Result<Vec<SpanInfo>, Error> {
        let pool = self.writable(caller, request.pool_id)?;
        self.or_pressure(&pool, pool.lease(caller, &request, now))
    }

    /// Takes leased spans back.
    ///
    /// # Errors
    /// As [`Pool::return_spans`].
    pub fn return_spans(
        &self,
        caller: &Caller,
        request: ReturnSpans,
        now: Instant,
    ) -> Result<ReturnedSpans, Error> {
        let pool = self.blocks(request.pool_id)?;
        let returned = pool.return_spans(caller.session()?, &request, now)?;
        self.note_freed(&pool, now);
        Ok(ReturnedSpans { returned })
    }

    /// Writes a file-backed pool to the disk.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `BackingUnsupported`, `Os`.
    pub fn flush_pool(
        &self,
        caller: &Caller,
        request: FlushPool,
        _now: Instant,
    ) -> Result<(), Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, Access::ReadWrite)?;
        pool.flush()
    }

    /// Gives free committed memory back to the OS.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn purge_pool(
        &self,
        caller: &Caller,
        request: PurgePool,
        now: Instant,
    ) -> Result<PurgedPool, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, Access::ReadWrite)?;
        Ok(PurgedPool { purged_bytes: pool.purge(Duration::ZERO, now) })
    }

    /// Takes the name of a destroyed pool away and tells those who map it.
    pub(super) fn let_go(&self, pool: &AnyPool, sessions: &[goumem_alloc::SessionNumber]) {
        self.registry().remove_name(pool.name(), pool.id());
        self.drop_if_gone(pool);
        self.tell(sessions, Event::PoolDestroyed { pool_id: pool.id() });
    }

    /// Asks whoever sits on idle spans of a full pool to give them back; the caller tries again.
    fn or_pressure<T>(&self, pool: &Pool, mut outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::PoolExhausted { .. } | Error::BudgetExhausted { .. }) = &outcome {
            self.tell(&pool.lessees(), Event::Pressure { pool_id: pool.id });
        }
        if let Err(Error::PoolExhausted { top_holders, .. }) = &mut outcome {
            self.name_processes(top_holders);
        }
        outcome
    }

    /// Fills in the pids of holders, which a pool does not know.
    fn name_processes(&self, holders: &mut [Holder]) {
        for holder in holders {
            if let Some(session) = self.sessions.by_number(holder.session) {
                holder.pid = session.pid;
            }
        }
    }

    fn writable(&self, caller: &Caller, id: PoolId) -> Result<Arc<Pool>, Error> {
        let pool = self.blocks(id)?;
        pool.require(caller, Access::ReadWrite)?;
        Ok(pool)
    }

    fn writable_by(&self, caller: &Caller, handle: Handle) -> Result<Arc<Pool>, Error> {
        self.writable(caller, handle.pool())
    }

    fn readable_by(&self, caller: &Caller, handle: Handle) -> Result<Arc<Pool>, Error> {
        let pool = self.blocks(handle.pool())?;
        pool.require(caller, Access::ReadOnly)?;
        Ok(pool)
    }

    fn blocks(&self, id: PoolId) -> Result<Arc<Pool>, Error> {
        blocks(self.registry().by_id(id)?)
    }

    fn blocks_named(&self, name: &str) -> Result<Arc<Pool>, Error> {
        blocks(self.registry().by_name(name)?)
    }
}

/// An arena pool is no pool of blocks: to its callers there is none.
fn blocks(pool: AnyPool) -> Result<Arc<Pool>, Error> {
    match pool {
        AnyPool::Blocks(pool) => Ok(pool),
        AnyPool::Arenas(pool) => Err(Error::PoolNotFound { pool: pool.name.to_string() }),
    }
}

/// A capacity as the daemon would round it.
fn rounded(bytes: u64) -> u64 {
    goumem_alloc::PageCount::for_bytes(bytes).map_or(u64::MAX, |pages| pages.bytes())
}

fn mismatch(
    info: &PoolInfo,
    what: &'static str,
    expected: impl ToString,
    found: impl ToString,
) -> Error {
    Error::GeometryMismatch {
        pool: info.name.to_string(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

//! Calls about the blocks and spans of a pool: who may, then the pool's own method.

use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{Handle, PoolId};
use goumem_proto::model::{
    Access, Alloc, AllocBatch, Allocated, AllocatedBatch, BlockInfo, Event, Free, FreeBatch,
    FreedBatch, HandleReply, HandleRequest, Happening, KeptBlock, Lease, ListKept, Lookup, Publish,
    Realloc, ReturnSpans, ReturnedSpans, SpanInfo, Withdraw,
};

use super::Core;
use super::registry::AnyPool;
use crate::error::Error;
use crate::pool::Pool;
use crate::session::Caller;

impl Core {
    /// Allocates a block.
    ///
    /// # Errors
    /// As [`Pool::alloc`].
    pub fn alloc(&self, caller: &Caller, request: Alloc, now: Instant) -> Result<Allocated, Error> {
        let pool = self.writable(caller, request.pool_id)?;
        let block = self.or_pressure(caller, &pool, pool.alloc(caller, &request, now), now)?;
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
        let handles =
            self.or_pressure(caller, &pool, pool.alloc_batch(caller, &request, now), now)?;
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
            return Ok(FreedBatch {
                freed: 0,
                failures: Vec::new(),
            });
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
        let block = self.or_pressure(caller, &pool, pool.realloc(caller, &request, now), now)?;
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
        Ok(HandleReply {
            handle: request.handle,
        })
    }

    /// Makes the caller the owner of a block.
    ///
    /// # Errors
    /// As [`Pool::adopt`].
    pub fn adopt(
        &self,
        caller: &Caller,
        request: HandleRequest,
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        let session = caller.session()?;
        let handle = pool.adopt(session, request.handle, request.request_id, now)?;
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
        now: Instant,
    ) -> Result<HandleReply, Error> {
        let pool = self.writable_by(caller, request.handle)?;
        let session = caller.session()?;
        let handle = pool.take(session, request.handle, request.request_id, now)?;
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
        Ok(HandleReply {
            handle: request.handle,
        })
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
        Ok(HandleReply {
            handle: request.handle,
        })
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
        self.readable_by(caller, request.handle)?
            .resolve(request.handle)
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
        Ok(HandleReply {
            handle: request.handle,
        })
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
        self.or_pressure(caller, &pool, pool.lease(caller, &request, now), now)
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

    /// Asks whoever sits on idle spans of a full pool to give them back; the caller tries again.
    fn or_pressure<T>(
        &self,
        caller: &Caller,
        pool: &Arc<Pool>,
        mut outcome: Result<T, Error>,
        now: Instant,
    ) -> Result<T, Error> {
        if let Err(Error::PoolExhausted { .. } | Error::BudgetExhausted { .. }) = &outcome {
            self.tell(&pool.lessees(), Event::Pressure { pool_id: pool.id });
            self.tell_of_pool(&AnyPool::Blocks(Arc::clone(pool)), Happening::Pressure, now);
        }
        if let Err(Error::PoolExhausted { top_holders, .. }) = &mut outcome {
            self.name_processes(top_holders);
        }
        if let Err(error) = &outcome {
            self.tell_of_refusal(caller, &pool.name, error, now);
        }
        outcome
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
}

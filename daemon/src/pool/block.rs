//! Alloc and free by RPC, for clients that do not map the pool, and for any who like.

use std::time::Instant;

use goumem_alloc::{Handle, Offset, PageCount, PageIndex, Placement, SessionNumber};
use goumem_proto::model::{
    Alloc, AllocBatch, BlockInfo, BlockSpec, FreeBatch, FreeFailure, FreedBatch, Realloc,
};
use goumem_shm::LeasedSpan;
use goumem_shm::pool_memory::BlockPlace;
use goumem_shm::shape::Shape;
use goumem_shm::slot::Freed;

use super::span::{Lessee, Want, large};
use super::{Charge, Pool, PoolState};
use crate::error::Error;
use crate::session::{Caller, Session};

impl Pool {
    /// Allocates a zeroed block for the calling session.
    ///
    /// # Errors
    /// `SessionRequired`, `SessionExpired`, `PoolDestroyed`, `PoolExhausted`, `QuotaExceeded`,
    /// `BudgetExhausted`, `NoSpace`.
    pub fn alloc(&self, caller: &Caller, request: &Alloc, now: Instant) -> Result<BlockInfo, Error> {
        let session = caller.session()?;
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            self.alloc_one(&mut state, session, request.spec, now)
                .map_err(|error| self.with_holders(&state, caller, error))
        })
    }

    /// Allocates many blocks, all or none.
    ///
    /// # Errors
    /// As `alloc`; nothing is allocated then.
    pub fn alloc_batch(
        &self,
        caller: &Caller,
        request: &AllocBatch,
        now: Instant,
    ) -> Result<Vec<Handle>, Error> {
        let session = caller.session()?;
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            let n_blocks = usize::try_from(request.n_blocks()).unwrap_or(0);
            let mut handles = Vec::with_capacity(n_blocks);
            for counted in &request.specs {
                for _ in 0..counted.count {
                    match self.alloc_one(&mut state, session, counted.spec, now) {
                        Ok(block) => handles.push(block.handle),
                        Err(error) => {
                            let error = self.with_holders(&state, caller, error);
                            for handle in handles {
                                // Just made and known to nobody, so the free cannot fail.
                                let _ = self.free_one(&mut state, handle, now);
                            }
                            return Err(error);
                        }
                    }
                }
            }
            Ok(handles)
        })
    }

    /// Frees a block.
    ///
    /// # Errors
    /// `Access`: stale, double free, wrong pool.
    pub fn free(
        &self,
        session: &Session,
        handle: Handle,
        request_id: goumem_proto::model::RequestId,
        now: Instant,
    ) -> Result<(), Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.free_one(&mut state, handle, now)
        })
    }

    /// Frees each block that can be freed and says which could not.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub fn free_batch(
        &self,
        session: &Session,
        request: &FreeBatch,
        now: Instant,
    ) -> Result<FreedBatch, Error> {
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let mut batch = FreedBatch { freed: 0, failures: Vec::new() };
            for (index, &handle) in request.handles.iter().enumerate() {
                match self.free_one(&mut state, handle, now) {
                    Ok(()) => batch.freed += 1,
                    Err(error) => batch.failures.push(FreeFailure {
                        index: u32::try_from(index).unwrap_or(u32::MAX),
                        reason: error.reason(),
                    }),
                }
            }
            Ok(batch)
        })
    }

    /// Changes a block's size. It keeps its handle if it stays in its class; else its contents
    /// move to a new block and the old one is freed.
    ///
    /// # Errors
    /// `Access`, and as `alloc`; the block is as it was then.
    pub fn realloc(
        &self,
        caller: &Caller,
        request: &Realloc,
        now: Instant,
    ) -> Result<BlockInfo, Error> {
        let session = caller.session()?;
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let at = self.memory.resolve(request.handle)?;
            let old = self.memory.checked_shape(&at)?;
            let start = at.offset.get();
            if request.size_bytes <= at.usable_bytes() && !at.class.is_large() {
                let shape = Shape { length_bytes: request.size_bytes, ..old };
                if request.size_bytes > old.length_bytes {
                    let tail = start + old.length_bytes..start + request.size_bytes;
                    self.zero(tail)?;
                }
                self.memory.shape(&at).store(shape);
                return Ok(block_info(request.handle, shape, &at));
            }
            self.require_usable(&state)?;
            let spec = BlockSpec {
                size_bytes: request.size_bytes,
                align_bytes: goumem_proto::model::DEFAULT_ALIGN_BYTES,
                type_tag: old.type_tag,
            };
            let block = self
                .alloc_one(&mut state, session, spec, now)
                .map_err(|error| self.with_holders(&state, caller, error))?;
            let length = old.length_bytes.min(request.size_bytes);
            if let Err(error) = self.copy(request.handle, block.handle, length) {
                let _ = self.free_one(&mut state, block.handle, now);
                return Err(error);
            }
            if let Err(error) = self.free_one(&mut state, request.handle, now) {
                let _ = self.free_one(&mut state, block.handle, now);
                return Err(error);
            }
            Ok(block)
        })
    }

    /// Says what a handle names.
    ///
    /// # Errors
    /// `Access`.
    pub fn resolve(&self, handle: Handle) -> Result<BlockInfo, Error> {
        let at = self.memory.resolve(handle)?;
        let shape = self.memory.checked_shape(&at)?;
        Ok(block_info(handle, shape, &at))
    }

    /// Copies bytes out of a block, checked again after the copy.
    ///
    /// # Errors
    /// `Access`.
    pub fn read(&self, handle: Handle, offset_bytes: u64, into: &mut [u8]) -> Result<(), Error> {
        Ok(self.memory.read(handle, offset_bytes, into)?)
    }

    /// Copies bytes into a block.
    ///
    /// # Errors
    /// `Access`, `SessionExpired`.
    pub fn write(
        &self,
        session: &Session,
        handle: Handle,
        offset_bytes: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        // Under the lock, so that the block is not freed by RPC, recycled and handed on between
        // the check and the copy; a free through a mapping is the documented race of `write`.
        let _state = self.lock();
        session.require_live()?;
        Ok(self.memory.write(handle, offset_bytes, bytes)?)
    }

    fn alloc_one(
        &self,
        state: &mut PoolState,
        session: &Session,
        spec: BlockSpec,
        now: Instant,
    ) -> Result<BlockInfo, Error> {
        let want = match spec.placement() {
            Ok(Placement::Class(class)) => {
                Want { requested_bytes: spec.size_bytes, ..Want::class(class) }
            }
            Ok(Placement::Large { .. }) => large(spec.size_bytes, spec.align_bytes)?,
            Err(_) => return Err(Error::Invariant { what: "specs are checked at the edge" }),
        };
        let used_bytes = if want.class.is_large() {
            want.pages.bytes()
        } else {
            want.class.stride_bytes()
        };
        self.shared.quotas.charge(session.uid, used_bytes)?;
        let allocated = self.take_block(state, want, session.number, spec, now);
        match allocated {
            Ok(handle) => {
                let charge = Charge { uid: session.uid, bytes: used_bytes };
                state.charges.insert(handle.offset(), charge);
                Ok(BlockInfo {
                    handle,
                    size_bytes: spec.size_bytes,
                    used_bytes,
                    type_tag: spec.type_tag,
                })
            }
            Err(error) => {
                self.shared.quotas.discharge(session.uid, used_bytes);
                Err(error)
            }
        }
    }

    /// Takes a free block of the daemon's heap and exports it for `owner`.
    fn take_block(
        &self,
        state: &mut PoolState,
        want: Want,
        owner: SessionNumber,
        spec: BlockSpec,
        now: Instant,
    ) -> Result<Handle, Error> {
        let mut block = state.local.alloc(want.class).filter(|_| !want.class.is_large());
        if block.is_none() {
            let (lease, survivors) = self.grant(state, want, Lessee::DAEMON, now)?;
            let span =
                LeasedSpan::attach(&self.memory, lease, SessionNumber::DAEMON, survivors)?;
            state.local.insert(span);
            block = state.local.alloc(want.class);
        }
        let mut block = block.ok_or(Error::Invariant { what: "a granted span has a free block" })?;
        // A block whose earlier charge was not taken back yet: it was freed through a mapping.
        self.discharge(state, block.offset());
        block.fill_zero(spec.size_bytes);
        let shape = Shape { type_tag: spec.type_tag, length_bytes: spec.size_bytes };
        block.export(owner, shape).map_err(|(_, error)| error.into())
    }

    pub(super) fn free_one(
        &self,
        state: &mut PoolState,
        handle: Handle,
        now: Instant,
    ) -> Result<(), Error> {
        let at = self.memory.locate(handle)?;
        let freed = self.memory.free(handle)?;
        self.drop_keep_records(state, handle.offset());
        if freed == Freed::Free {
            self.block_is_free(state, &at, now);
        }
        Ok(())
    }

    /// Does what follows when a block's word has become FREE.
    pub(super) fn block_is_free(&self, state: &mut PoolState, at: &BlockPlace, now: Instant) {
        self.discharge(state, at.offset);
        if at.lessee == SessionNumber::DAEMON
            && let Some(lease) = state.local.freed(at.first_page, at.slot)
        {
            self.take_back(state, lease.first_page, Some(self.shared.millis(now)));
        } else if state.abandoned.contains(&at.first_page)
            && let Some(span) = state.spans.get(&at.first_page).copied()
            && self.survivors(at.first_page, span) == 0
        {
            self.take_back(state, at.first_page, Some(self.shared.millis(now)));
        }
    }

    /// Takes back the charge for a block, if one stands.
    pub(super) fn discharge(&self, state: &mut PoolState, offset: Offset) {
        if let Some(charge) = state.charges.remove(&offset) {
            self.shared.quotas.discharge(charge.uid, charge.bytes);
        }
    }

    /// Takes back the charges for every block of a span.
    pub(super) fn discharge_blocks(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        pages: PageCount,
    ) {
        for offset in self.charged_in(state, first, pages) {
            self.discharge(state, offset);
        }
    }

    /// Returns the charged blocks of a span.
    pub(super) fn charged_in(
        &self,
        state: &PoolState,
        first: PageIndex,
        pages: PageCount,
    ) -> Vec<Offset> {
        let start = self.memory.geometry().page_offset(first);
        let end = Offset::new(start.get() + pages.bytes());
        state.charges.range(start..end).map(|(&offset, _)| offset).collect()
    }

    fn zero(&self, range: std::ops::Range<u64>) -> Result<(), Error> {
        self.memory.data().fill_zero(range).map_err(|e| Error::os("zero a block", e))
    }

    /// Copies the first bytes of one block into another, a piece at a time.
    fn copy(&self, from: Handle, to: Handle, length_bytes: u64) -> Result<(), Error> {
        const PIECE: u64 = 64 << 10;
        let mut buffer = vec![0u8; usize::try_from(PIECE.min(length_bytes)).unwrap_or(0)];
        let mut done = 0;
        while done < length_bytes {
            let piece = usize::try_from(PIECE.min(length_bytes - done)).unwrap_or(0);
            let Some(bytes) = buffer.get_mut(..piece) else { break };
            self.memory.read(from, done, bytes)?;
            self.memory.write(to, done, bytes)?;
            done += piece as u64;
        }
        Ok(())
    }
}

/// Describes a block.
pub(super) fn block_info(handle: Handle, shape: Shape, at: &BlockPlace) -> BlockInfo {
    let used_bytes =
        if at.class.is_large() { at.pages.bytes() } else { at.class.stride_bytes() };
    BlockInfo { handle, size_bytes: shape.length_bytes, used_bytes, type_tag: shape.type_tag }
}

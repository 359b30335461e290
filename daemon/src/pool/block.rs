//! Alloc and free by RPC, for clients that do not map the pool, and for any who like.

use std::collections::BTreeMap;
use std::time::Instant;

use goumem_alloc::{Handle, Offset, PageCount, PageIndex, Placement, SessionNumber};
use goumem_proto::model::{
    Alloc, AllocBatch, BlockInfo, BlockSpec, CountedSpec, FreeBatch, FreeFailure, FreedBatch,
    Realloc, RequestId,
};
use goumem_shm::pool_memory::BlockPlace;
use goumem_shm::root::RequestOp;
use goumem_shm::shape::Shape;
use goumem_shm::slot::Freed;
use goumem_shm::{AccessError, LeasedSpan};

use super::span::{Lessee, Want, large};
use super::{Charge, Pool, PoolState};
use crate::error::Error;
use crate::session::{Caller, Intent, Session};

/// Blocks of one kind to allocate.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    spec: BlockSpec,
    count: u32,
    note: Note,
}

/// What is written down of the request before a block is exported. Of many blocks no note has room.
#[derive(Debug, Clone, Copy)]
enum Note {
    Nothing,
    /// It is what the request allocates.
    Alloc(RequestId),
    /// It is where the block goes of which the request is.
    Move(RequestId),
}

impl Pool {
    /// Allocates a zeroed block for the calling session.
    ///
    /// # Errors
    /// `SessionRequired`, `SessionExpired`, `PoolDestroyed`, `PoolExhausted`, `QuotaExceeded`,
    /// `BudgetExhausted`, `NoSpace`.
    pub fn alloc(
        &self,
        caller: &Caller,
        request: &Alloc,
        now: Instant,
    ) -> Result<BlockInfo, Error> {
        let session = caller.session()?;
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            let note = Note::Alloc(request.request_id);
            self.alloc_one(&mut state, session, request.spec, note, now)
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
            let intent = Intent::of(RequestOp::AllocBatch, self.id);
            session.intend(request.request_id, intent);
            for &CountedSpec { spec, count } in &request.specs {
                let each = |handle| handles.push(handle);
                let blocks = Blocks {
                    spec,
                    count,
                    note: Note::Nothing,
                };
                let allocated = self.alloc_some(&mut state, session, blocks, now, each);
                if let Err(error) = allocated {
                    let error = self.with_holders(&state, caller, error);
                    for handle in handles {
                        // Just made and known to nobody, so the free cannot fail.
                        let _ = self.free_one(&mut state, handle, now);
                    }
                    return Err(error);
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
        request_id: RequestId,
        now: Instant,
    ) -> Result<(), Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            if self.memory.resolve(handle).is_ok() {
                session.intend(request_id, Intent::about(RequestOp::Free, handle));
            }
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
            let mut batch = FreedBatch {
                freed: 0,
                failures: Vec::new(),
            };
            let mut refunds = BTreeMap::<u32, u64>::new();
            let cut_off = session.was_cut_off(request.request_id);
            let intent = Intent::of(RequestOp::FreeBatch, self.id);
            session.intend(request.request_id, intent);
            for (index, &handle) in request.handles.iter().enumerate() {
                match self.free_unpaid(&mut state, handle, now) {
                    Ok(charge) => {
                        batch.freed += 1;
                        if let Some(Charge { uid, bytes }) = charge {
                            *refunds.entry(uid).or_default() += bytes;
                        }
                    }
                    // The first try, which was cut off, has freed it.
                    Err(Error::Access(
                        AccessError::Stale { .. } | AccessError::DoubleFree { .. },
                    )) if cut_off => batch.freed += 1,
                    Err(error) => batch.failures.push(FreeFailure {
                        index: u32::try_from(index).unwrap_or(u32::MAX),
                        reason: error.reason(),
                    }),
                }
            }
            for (uid, bytes) in refunds {
                self.refund(Some(Charge { uid, bytes }));
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
            let intent = Intent::about(RequestOp::Realloc, request.handle);
            session.intend(request.request_id, intent);
            let old = self.memory.checked_shape(&at)?;
            let start = at.offset.get();
            if request.size_bytes <= at.usable_bytes() && !at.class.is_large() {
                let shape = Shape {
                    length_bytes: request.size_bytes,
                    ..old
                };
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
            let note = Note::Move(request.request_id);
            let block = self
                .alloc_one(&mut state, session, spec, note, now)
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
        note: Note,
        now: Instant,
    ) -> Result<BlockInfo, Error> {
        let mut block = None;
        let each = |handle| block = Some(handle);
        let one = Blocks {
            spec,
            count: 1,
            note,
        };
        let used_bytes = self.alloc_some(state, session, one, now, each)?;
        Ok(BlockInfo {
            handle: block.ok_or(Error::Invariant {
                what: "one block was allocated",
            })?,
            size_bytes: spec.size_bytes,
            used_bytes,
            type_tag: spec.type_tag,
        })
    }

    /// Allocates `count` blocks of one kind; returns how many bytes each takes. After an error
    /// those that `each` was told of are there.
    fn alloc_some(
        &self,
        state: &mut PoolState,
        session: &Session,
        blocks: Blocks,
        now: Instant,
        mut each: impl FnMut(Handle),
    ) -> Result<u64, Error> {
        let Blocks { spec, count, .. } = blocks;
        let want = match spec.placement() {
            Ok(Placement::Class(class)) => Want {
                requested_bytes: spec.size_bytes,
                ..Want::class(class)
            },
            Ok(Placement::Large { .. }) => large(spec.size_bytes, spec.align_bytes)?,
            Err(_) => {
                return Err(Error::Invariant {
                    what: "specs are checked at the edge",
                });
            }
        };
        let used_bytes = if want.class.is_large() {
            want.pages.bytes()
        } else {
            want.class.stride_bytes()
        };
        self.note_use(state, session, now)?;
        self.charge(state, session.uid, used_bytes * u64::from(count))?;
        for n_done in 0..count {
            match self.take_block(state, want, session, blocks, now) {
                Ok(handle) => {
                    let charge = Charge {
                        uid: session.uid,
                        bytes: used_bytes,
                    };
                    // One may stand: the block was freed through a mapping.
                    self.replace_charge(state, handle.offset(), charge);
                    each(handle);
                }
                Err(error) => {
                    let unused = used_bytes * u64::from(count - n_done);
                    self.shared.quotas.discharge(session.uid, unused);
                    return Err(error);
                }
            }
        }
        Ok(used_bytes)
    }

    /// Takes a free block of the daemon's heap and exports it for `owner`: note of the request, then
    /// word.
    fn take_block(
        &self,
        state: &mut PoolState,
        want: Want,
        owner: &Session,
        blocks: Blocks,
        now: Instant,
    ) -> Result<Handle, Error> {
        let Blocks { spec, note, .. } = blocks;
        // A large block has a span of its own, of its own length.
        let mut block = if want.class.is_large() {
            None
        } else {
            state.local.alloc(want.class)
        };
        if block.is_none() {
            let (lease, survivors) = self.grant(state, want, Lessee::DAEMON, now)?;
            let span = LeasedSpan::attach(&self.memory, lease, SessionNumber::DAEMON, survivors)?;
            state.local.insert(span);
            block = state.local.alloc_in(lease.first_page);
        }
        let mut block = block.ok_or(Error::Invariant {
            what: "a granted span has a free block",
        })?;
        block.fill_zero(spec.size_bytes);
        let shape = Shape {
            type_tag: spec.type_tag,
            length_bytes: spec.size_bytes,
        };
        if let Note::Alloc(id) | Note::Move(id) = note
            && id.is_some()
            && let Some(at) = self.memory.block_at(block.offset())
        {
            // The word's life is the handle's.
            let generation = self.memory.slot(&at).load().generation();
            let handle = self.memory.handle(generation, block.offset());
            if let Note::Alloc(_) = note {
                let intent = Intent::about(RequestOp::Alloc, handle).with(spec.size_bytes);
                owner.intend(id, intent);
            } else {
                owner.expect(id, &handle);
            }
        }
        block
            .export(owner.number, shape)
            .map_err(|(_, error)| error.into())
    }

    pub(super) fn free_one(
        &self,
        state: &mut PoolState,
        handle: Handle,
        now: Instant,
    ) -> Result<(), Error> {
        let charge = self.free_unpaid(state, handle, now)?;
        self.refund(charge);
        Ok(())
    }

    /// As `free_one`, but for the user's quota: returns the charge to take back.
    fn free_unpaid(
        &self,
        state: &mut PoolState,
        handle: Handle,
        now: Instant,
    ) -> Result<Option<Charge>, Error> {
        let at = self.memory.locate(handle)?;
        let freed = self.memory.free_at(&at, handle)?;
        self.drop_keep_records(state, handle.offset());
        if freed == Freed::Condemned {
            return Ok(None);
        }
        if at.lessee != SessionNumber::DAEMON {
            self.memory.note(at.first_page).hint_free();
        }
        Ok(self.block_is_free(state, &at, now))
    }

    /// Does what follows when a block's word has become FREE; returns the charge to take back.
    pub(super) fn block_is_free(
        &self,
        state: &mut PoolState,
        at: &BlockPlace,
        now: Instant,
    ) -> Option<Charge> {
        let charge = state.charges.remove(at.offset);
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
        charge
    }

    /// Takes a charge back that stands no more.
    pub(super) fn refund(&self, charge: Option<Charge>) {
        if let Some(Charge { uid, bytes }) = charge {
            self.shared.quotas.discharge(uid, bytes);
        }
    }

    /// Charges a user, after a look for what was freed unnoticed if its quota is spent.
    pub(super) fn charge(&self, state: &mut PoolState, uid: u32, bytes: u64) -> Result<(), Error> {
        if self.shared.quotas.charge(uid, bytes).is_ok() {
            return Ok(());
        }
        self.drop_stale_charges(state);
        self.shared.quotas.charge(uid, bytes)
    }

    /// Notes a charge that the user's quota has taken, in place of what stood for the block.
    pub(super) fn replace_charge(&self, state: &mut PoolState, offset: Offset, charge: Charge) {
        let earlier = state.charges.insert(offset, charge);
        self.refund(earlier);
    }

    /// Takes a step that gives a block to another user, who pays for it from then on. Without the
    /// step nothing changes hands.
    pub(super) fn paid_by<T>(
        &self,
        state: &mut PoolState,
        at: &BlockPlace,
        uid: u32,
        step: impl FnOnce(&mut PoolState) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Everywhere else it is whoever pays for the span.
        let by_block = at.lessee == SessionNumber::DAEMON;
        if !by_block
            || state
                .charges
                .get(at.offset)
                .is_some_and(|charge| charge.uid == uid)
        {
            return step(state);
        }
        let charge = Charge {
            uid,
            bytes: used_bytes(at),
        };
        self.charge(state, uid, charge.bytes)?;
        match step(state) {
            Ok(done) => {
                self.replace_charge(state, at.offset, charge);
                Ok(done)
            }
            Err(error) => {
                self.shared.quotas.discharge(uid, charge.bytes);
                Err(error)
            }
        }
    }

    /// Takes back the charge for a block, if one stands.
    pub(super) fn discharge(&self, state: &mut PoolState, offset: Offset) {
        let charge = state.charges.remove(offset);
        self.refund(charge);
    }

    /// Takes back the charges for every block of a span.
    pub(super) fn discharge_blocks(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        pages: PageCount,
    ) {
        let start = self.memory.geometry().page_offset(first);
        let end = Offset::new(start.get() + pages.bytes());
        for charge in state.charges.remove_span(start..end) {
            self.shared.quotas.discharge(charge.uid, charge.bytes);
        }
    }

    fn zero(&self, range: std::ops::Range<u64>) -> Result<(), Error> {
        self.memory
            .data()
            .fill_zero(range)
            .map_err(|e| Error::os("zero a block", e))
    }

    /// Copies the first bytes of one block into another, a piece at a time.
    fn copy(&self, from: Handle, to: Handle, length_bytes: u64) -> Result<(), Error> {
        const PIECE: u64 = 64 << 10;
        let mut buffer = vec![0u8; usize::try_from(PIECE.min(length_bytes)).unwrap_or(0)];
        let mut done = 0;
        while done < length_bytes {
            let piece = usize::try_from(PIECE.min(length_bytes - done)).unwrap_or(0);
            let Some(bytes) = buffer.get_mut(..piece) else {
                break;
            };
            self.memory.read(from, done, bytes)?;
            self.memory.write(to, done, bytes)?;
            done += piece as u64;
        }
        Ok(())
    }
}

/// Describes a block.
pub(super) fn block_info(handle: Handle, shape: Shape, at: &BlockPlace) -> BlockInfo {
    let used_bytes = used_bytes(at);
    BlockInfo {
        handle,
        size_bytes: shape.length_bytes,
        used_bytes,
        type_tag: shape.type_tag,
    }
}

/// Returns what a block takes of the pool.
fn used_bytes(at: &BlockPlace) -> u64 {
    if at.class.is_large() {
        at.pages.bytes()
    } else {
        at.class.stride_bytes()
    }
}

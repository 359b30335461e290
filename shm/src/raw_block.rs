//! A block that its holder has alone, without a type: private in a leased span, or taken over
//! from whoever shared it.
//!
//! Blocks point at what their span has in common without counting: the record of a leased span is
//! only let go when no slot of it is private, and is leaked when its agent goes before its blocks.
//! So a [`RawBlock`] is 16 bytes and its record is alive as long as it is. Each taken block counts.

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use goumem_alloc::{Handle, Offset, SessionNumber};

use crate::agent::AgentCore;
use crate::bitmap::{BitWord, ExportedBits, FreeBits, RemoteBits};
use crate::error::AccessError;
use crate::leased_span::SpanLease;
use crate::os::{to_u64, to_usize};
use crate::pool_memory::{BlockPlace, PoolMemory};
use crate::recent::FreedBlock;
use crate::shape::Shape;
use crate::slot::{SlotRefusal, SlotState};
use crate::sync::{AtomicPtr, Ordering};

/// What the blocks of a span share. What every alloc and free touches stands first.
///
/// # Invariants
/// * `base` points at the first slot's block in `memory`'s mapping (leased), or at the first byte
///   of DATA (taken), and the mapping lives as long as the record. The block of slot n of a leased
///   span starts n × `stride` behind it, and all are inside the span.
/// * `side` is reached by the span's agent alone: by whoever has the span's `LeasedSpan` mutably,
///   or, while `agent` is not null, has the turn at that agent (and has seen `agent` in it). It
///   changes only in such a turn.
/// * While a [`RawBlock`] points here, the record is alive.
#[repr(C)]
pub(crate) struct SpanRecord {
    base: NonNull<u8>,
    /// Who the agent is, if the span is bound to one; null otherwise, and for taken blocks.
    agent: AtomicPtr<AgentCore>,
    side: UnsafeCell<AgentSide>,
    /// The index of its blocks' class.
    class: usize,
    stride: usize,
    /// ceil(2^64 / stride), or 0: see [`goumem_alloc::SizeClass::reciprocal`].
    reciprocal: u64,
    /// What each block has; 0 for taken blocks, which differ.
    usable_bytes: u64,
    session: SessionNumber,
    memory: Arc<PoolMemory>,
    kind: RecordKind,
}

/// What the agent knows of its span.
pub(crate) struct AgentSide {
    pub(crate) free: FreeBits,
    /// The page note's count at the last re-read.
    pub(crate) seen_frees: u64,
    /// What the span is called in its heap.
    pub(crate) key: u64,
    /// Whether the heap wants to hear of the next free slot.
    pub(crate) set_aside: bool,
}

enum RecordKind {
    Leased(LeasedRecord),
    /// Blocks taken over from other spans: exported, ours alone, freed by their slot words.
    Taken,
}

/// What a leased span tells its agent.
pub(crate) struct LeasedRecord {
    pub(crate) lease: SpanLease,
    pub(crate) remote: RemoteBits,
    pub(crate) exported: ExportedBits,
}

// SAFETY: `base` is an address inside `memory`'s mapping, which is Send + Sync and outlives the
// record; everything behind it is reached through atomics or by the one owner of a block.
unsafe impl Send for SpanRecord {}
// SAFETY: as for Send; `side` is reached by one thread at a time (invariant), each having what
// the one before did: a LeasedSpan is moved between threads, and turns come one after the other.
unsafe impl Sync for SpanRecord {}

impl SpanRecord {
    /// Makes the record of a leased span. The caller is its one agent.
    ///
    /// # Errors
    /// `ReadOnly`; `Corrupt` when the pool has no such pages.
    pub(crate) fn leased(
        memory: &Arc<PoolMemory>,
        session: SessionNumber,
        leased: LeasedRecord,
    ) -> Result<Self, AccessError> {
        let SpanLease { class, pages, .. } = leased.lease;
        let start = memory.geometry().page_offset(leased.lease.first_page);
        let span = memory.writable_pointer(start, pages.bytes())?;
        let colour = to_usize(class.colour_bytes());
        // SAFETY: the colour is less than a page, and the span has one; it is inside one mapping.
        let base = unsafe { span.add(colour) };
        // INVARIANT: `base` is the first block in the mapping that `memory` keeps; `side` is
        // nobody's but the caller's.
        Ok(Self {
            base,
            agent: AtomicPtr::new(ptr::null_mut()),
            side: UnsafeCell::new(AgentSide::new(FreeBits::none(class.slots(pages)))),
            class: usize::from(class.index()),
            stride: to_usize(class.stride_bytes()),
            reciprocal: class.reciprocal(),
            usable_bytes: class.usable_in(pages),
            session,
            memory: Arc::clone(memory),
            kind: RecordKind::Leased(leased),
        })
    }

    /// Returns what only the agent may look at.
    pub(crate) fn side(&self) -> *mut AgentSide {
        self.side.get()
    }

    /// Returns whether the span is bound to `core`.
    #[inline]
    pub(crate) fn is_bound_to(&self, core: &AgentCore) -> bool {
        // ORDERING: Relaxed: what it says of `core` is only believed in a turn at it, which is
        // where it changes.
        ptr::eq(self.agent.load(Ordering::Relaxed), core)
    }

    /// Binds the span to an agent, or unbinds it. In a turn at that agent.
    pub(crate) fn set_agent(&self, core: Option<&AgentCore>) {
        let core = core.map_or(ptr::null_mut(), |core| ptr::from_ref(core).cast_mut());
        // ORDERING: pairs with the Acquire in `give_to_own_agent`: the agent was made before.
        self.agent.store(core, Ordering::Release);
    }

    /// Gives a slot back to the agent, if it is bound to one that the calling thread owns.
    #[inline]
    fn give_to_own_agent(&self, block: NonNull<u8>) -> bool {
        // ORDERING: pairs with the Release in `set_agent`.
        let core = NonNull::new(self.agent.load(Ordering::Acquire));
        // SAFETY: an agent that a span was ever bound to lives for ever (`Agent::leak`).
        let Some(core) = core.map(|core| unsafe { core.as_ref() }) else {
            return false;
        };
        if !core.begin_if_mine() {
            return false;
        }
        // Another agent may have come by the span before this turn.
        let ours = self.is_bound_to(core);
        if ours {
            let record = NonNull::from(self);
            let block = FreedBlock {
                pointer: block,
                record,
            };
            // SAFETY: this thread has the turn at the agent that the span is bound to, and the
            // block is free from here on.
            unsafe { core.keep_recent(self.class, block) };
        }
        core.end();
        ours
    }

    /// Gives a block of the span its bit back, and wakes the span if it was set aside.
    ///
    /// # Safety
    /// The caller has the turn at `core`, to which the span is bound, and the block is free.
    pub(crate) unsafe fn give_bit(&self, core: &AgentCore, block: NonNull<u8>) {
        // SAFETY: the caller has the turn at the agent that the span is bound to.
        let side = unsafe { &mut *self.side.get() };
        side.free.give(self.slot_at(block));
        if side.set_aside {
            side.set_aside = false;
            let key = side.key;
            // SAFETY: the caller has the turn.
            unsafe { core.wake(key) };
        }
    }

    /// Returns the address of the block of a slot of this leased span.
    #[inline]
    pub(crate) fn block_at(&self, slot: u32) -> NonNull<u8> {
        // Inside the span (invariant), so it does not wrap.
        let offset = (slot as usize).wrapping_mul(self.stride);
        // SAFETY:
        // - `slot` is one of the span, as its bitmap has no others, so the offset is inside it;
        // - the span is inside one mapping (checked by `writable_pointer` in `leased`).
        unsafe { self.base.add(offset) }
    }

    /// Returns the slot of a private block of this leased span.
    #[inline]
    pub(crate) fn slot_at(&self, block: NonNull<u8>) -> u32 {
        // Not before the base (invariant), so it does not wrap.
        let from_base = to_u64(block.addr().get().wrapping_sub(self.base.addr().get()));
        // Exact: see `SizeClass::reciprocal`. A span has less than 2^32 slots.
        let slot = (u128::from(from_base) * u128::from(self.reciprocal)) >> 64;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a span has at most 2^18 slots"
        )]
        let slot = slot as u32;
        slot
    }

    pub(crate) fn memory(&self) -> &Arc<PoolMemory> {
        &self.memory
    }

    /// Returns the same of a record that is known to be a leased span's.
    ///
    /// # Panics
    /// For the record of taken blocks.
    pub(crate) fn leased_part(&self) -> &LeasedRecord {
        self.as_leased().expect("the record of a leased span")
    }

    /// Returns what a leased span tells its agent; `None` for the record of taken blocks.
    pub(crate) fn as_leased(&self) -> Option<&LeasedRecord> {
        match &self.kind {
            RecordKind::Leased(leased) => Some(leased),
            RecordKind::Taken => None,
        }
    }
}

impl AgentSide {
    fn new(free: FreeBits) -> Self {
        Self {
            free,
            seen_frees: 0,
            key: 0,
            set_aside: false,
        }
    }
}

/// One block that its holder has alone: private in a leased span, or taken over.
///
/// # Invariants
/// * `pointer` is the start of a block of `span`, and no other `RawBlock` of any process that
///   uses this library has it: its bit is taken in the agent's bitmap, or its word is
///   TAKEN(this session) and this value came of that.
/// * `span` is alive (see `SpanRecord`).
pub struct RawBlock {
    pointer: NonNull<u8>,
    span: NonNull<SpanRecord>,
}

// SAFETY: a RawBlock is the only way to its bytes; the record behind it is Send + Sync.
unsafe impl Send for RawBlock {}
// SAFETY: a shared RawBlock gives away addresses and numbers only.
unsafe impl Sync for RawBlock {}

impl RawBlock {
    /// Returns a block of a leased span.
    ///
    /// # Safety
    /// * The caller is the span's agent, and has just taken the block from its side.
    /// * It does not let go of the record while a private block of the span lives.
    #[inline]
    pub(crate) unsafe fn private(record: &Arc<SpanRecord>, pointer: NonNull<u8>) -> Self {
        // INVARIANT: the block is taken and the record stays, by this function's contract.
        Self {
            pointer,
            span: NonNull::from(record.as_ref()),
        }
    }

    /// Returns the address of the block's first byte.
    #[inline]
    pub(crate) fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    #[inline]
    pub(crate) fn into_parts(self) -> (NonNull<u8>, NonNull<SpanRecord>) {
        let block = ManuallyDrop::new(self);
        (block.pointer, block.span)
    }

    /// # Safety
    /// `pointer` and `span` come from one `into_parts`, and are put together once.
    #[inline]
    pub(crate) unsafe fn from_parts(pointer: NonNull<u8>, span: NonNull<SpanRecord>) -> Self {
        // INVARIANT: the parts satisfied both when they were taken apart.
        Self { pointer, span }
    }

    /// Returns how many bytes the block has, at least what was asked for.
    #[inline]
    pub fn usable_bytes(&self) -> u64 {
        match self.record().usable_bytes {
            0 => self.usable_bytes_of_taken(),
            bytes => bytes,
        }
    }

    #[cold]
    fn usable_bytes_of_taken(&self) -> u64 {
        let at = self.record().memory.block_at(self.offset());
        at.map_or(0, |at| at.usable_bytes())
    }

    /// Returns where the block starts in DATA.
    pub fn offset(&self) -> Offset {
        let span = self.record();
        let base = match &span.kind {
            RecordKind::Leased(leased) => {
                let SpanLease {
                    first_page, class, ..
                } = leased.lease;
                span.memory.geometry().page_offset(first_page).get() + class.colour_bytes()
            }
            RecordKind::Taken => 0,
        };
        Offset::new(base + self.bytes_from_base())
    }

    /// Returns the pool's memory.
    pub fn memory(&self) -> &Arc<PoolMemory> {
        &self.record().memory
    }

    /// Sets the first `length_bytes` bytes to zero, or as many as the block has.
    #[inline]
    pub fn fill_zero(&mut self, length_bytes: u64) {
        let length = to_usize(length_bytes.min(self.usable_bytes()));
        // SAFETY:
        // - the block has `length` bytes from `pointer`, mapped writable (only writable
        //   mappings lease spans or take blocks);
        // - nobody else reads or writes them: the block is held alone.
        unsafe { ptr::write_bytes(self.pointer.as_ptr(), 0, length) }
    }

    /// Returns the session that has the block: that of the lease, or that took it over.
    #[inline]
    pub fn session(&self) -> SessionNumber {
        self.record().session
    }

    /// Makes the block visible to other processes, owned by `owner`, and returns its handle.
    ///
    /// # Errors
    /// Gives the block back with `WrongLength` when the shape does not fit it, `Forked`,
    /// `GenerationsSpent`, or `Corrupt` when a writer outside this library has overwritten the
    /// slot word.
    #[inline(always)]
    pub fn export(self, owner: SessionNumber, shape: Shape) -> Result<Handle, (Self, AccessError)> {
        if self.record().memory.is_inherited() {
            return Err((self, AccessError::Forked));
        }
        let found_bytes = self.usable_bytes();
        if shape.length_bytes == 0 || shape.length_bytes > found_bytes {
            let expected_bytes = shape.length_bytes;
            let error = AccessError::WrongLength {
                expected_bytes,
                found_bytes,
            };
            return Err((self, error));
        }
        let block = ManuallyDrop::new(self);
        match block.make_visible(owner, shape) {
            Ok((handle, after)) => {
                match after {
                    // Word first, bit second (see `ExportedBits::place`). It is the last use of
                    // the record: to its agent, on another thread, this block is no reason to
                    // keep it any more. No reference to the record is an argument of a function
                    // that still runs, so it may go before `set` returns.
                    AfterExport::Mark(word, bit) => word.set(bit),
                    AfterExport::LetGo => block.let_go_of_taken(),
                }
                Ok(handle)
            }
            Err(refusal) => {
                let offset = block.offset();
                let error = match refusal {
                    SlotRefusal::GenerationsSpent => AccessError::GenerationsSpent {
                        offset_bytes: offset.get(),
                    },
                    _ => block.memory().corrupt("slot word", offset),
                };
                Err((ManuallyDrop::into_inner(block), error))
            }
        }
    }

    /// Writes shape and slot word; says what is left to do to be rid of the block.
    #[inline(always)]
    fn make_visible(
        &self,
        owner: SessionNumber,
        shape: Shape,
    ) -> Result<(Handle, AfterExport<'_>), SlotRefusal> {
        let span = self.record();
        let (at, leased) = match &span.kind {
            RecordKind::Leased(leased) => (self.private_place(leased), Some(leased)),
            RecordKind::Taken => {
                let at = span.memory.block_at(self.offset());
                (at.ok_or(SlotRefusal::Stale)?, None)
            }
        };
        if owner != span.session {
            // Flag first: a sweep of `owner` must find the block in a span it does not lease.
            span.memory.note(at.first_page).set_holds_adopted();
        }
        span.memory.shape(&at).store(shape);
        let word = span.memory.slot(&at);
        let (generation, after) = if let Some(leased) = leased {
            let generation = word.export(owner)?;
            let (word, bit) = leased.exported.place(at.slot);
            (generation, AfterExport::Mark(word, bit))
        } else {
            let generation = word.export_taken(span.session, owner)?;
            (generation, AfterExport::LetGo)
        };
        Ok((span.memory.handle(generation, at.offset), after))
    }

    #[inline(always)]
    fn private_place(&self, leased: &LeasedRecord) -> BlockPlace {
        let SpanLease {
            first_page,
            pages,
            class,
            ..
        } = leased.lease;
        BlockPlace {
            first_page,
            pages,
            class,
            lessee: self.record().session,
            slot: self.record().slot_at(self.pointer),
            offset: self.offset(),
        }
    }

    fn bytes_from_base(&self) -> u64 {
        to_u64(self.pointer.addr().get() - self.record().base.addr().get())
    }

    #[inline]
    fn record(&self) -> &SpanRecord {
        // SAFETY: the record is alive as long as this block (invariant), and is only ever
        // reached through shared references.
        unsafe { self.span.as_ref() }
    }

    /// Ends a taken block's count of the record, of which nothing is used afterwards.
    fn let_go_of_taken(&self) {
        // SAFETY: `take_over` left one count of the record's Arc with this block, whose end this
        // is: its callers are `export` and `drop`.
        unsafe { Arc::decrement_strong_count(self.span.as_ptr()) };
    }
}

/// How an exported block is let go of.
enum AfterExport<'a> {
    /// A private one: set this bit.
    Mark(&'a BitWord, u64),
    /// A taken one: it counts.
    LetGo,
}

impl Drop for RawBlock {
    #[inline]
    fn drop(&mut self) {
        if !self.record().give_to_own_agent(self.pointer) {
            self.give_from_afar();
        }
    }
}

impl RawBlock {
    /// Frees the block of a span of which the calling thread is not the agent.
    #[cold]
    fn give_from_afar(&self) {
        if self.record().memory.is_inherited() {
            return; // the parent's block; nothing of it is mapped here
        }
        let span = self.record();
        match &span.kind {
            RecordKind::Leased(leased) => {
                let (word, bit) = leased.remote.place(span.slot_at(self.pointer));
                // The record may be gone after this, as in `export`.
                word.set(bit);
            }
            RecordKind::Taken => {
                if let Some(at) = span.memory.block_at(self.offset()) {
                    // A refusal means that a writer outside this library was there before us.
                    let _ = span.memory.free_taken_at(&at, span.session);
                }
                self.let_go_of_taken();
            }
        }
    }
}

impl fmt::Debug for RawBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBlock")
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

/// Where blocks that were taken over belong: one for each session and pool.
#[derive(Clone)]
pub struct TakenBlocks(Arc<SpanRecord>);

impl TakenBlocks {
    /// Returns the place for the blocks that `session` takes over in `memory`.
    ///
    /// # Errors
    /// `ReadOnly`.
    pub fn new(memory: &Arc<PoolMemory>, session: SessionNumber) -> Result<Self, AccessError> {
        let base = memory.writable_pointer(Offset::new(0), 1)?;
        // INVARIANT: `base` is the first byte of DATA in the mapping that `memory` keeps.
        Ok(Self(Arc::new(SpanRecord {
            base,
            agent: AtomicPtr::new(ptr::null_mut()),
            side: UnsafeCell::new(AgentSide::new(FreeBits::none(0))),
            class: 0,
            stride: 0,
            reciprocal: 0,
            usable_bytes: 0,
            session,
            memory: Arc::clone(memory),
            kind: RecordKind::Taken,
        })))
    }

    /// Returns how many blocks that were taken over are alive.
    pub fn live_count(&self) -> usize {
        // One count for each block, and one for this value (a clone counts as a block).
        Arc::strong_count(&self.0) - 1
    }

    /// Takes the block that `handle` names, for this session alone: every handle of it is stale.
    /// Returns the block, its shape, and whether a keep record stands for it (drop it by RPC).
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind`, `Stale`, `Pinned`, `GenerationsSpent`, `Forked`; `Corrupt` when
    /// its shape word is unbelievable. Nothing has changed then.
    pub fn take_over(&self, handle: Handle) -> Result<(RawBlock, Shape, bool), AccessError> {
        self.take_over_if(handle, |_| Ok(()))
    }

    /// As [`take_over`](Self::take_over), if `check` likes the shape.
    ///
    /// # Errors
    /// As `take_over`, and what `check` says.
    #[inline(always)]
    pub fn take_over_if(
        &self,
        handle: Handle,
        check: impl FnOnce(Shape) -> Result<(), AccessError>,
    ) -> Result<(RawBlock, Shape, bool), AccessError> {
        let memory = &self.0.memory;
        let living = memory.living(handle)?;
        let shape = living.shape();
        check(shape).map_err(|error| living.unless_stale(error))?;
        let pointer = memory.writable_pointer(handle.offset(), living.usable_bytes())?;
        // Flag first: a sweep of this session must find the block, whoever leases the span.
        memory
            .flag_adopted(handle.offset())
            .ok_or(AccessError::Stale { handle })?;
        let (_, before) = living
            .word()
            .take_over(handle.generation(), self.0.session)
            .map_err(|refusal| memory.refusal(refusal, handle))?;
        let was_kept = before.state() == Some(SlotState::Kept);
        let span = NonNull::new(Arc::into_raw(Arc::clone(&self.0)).cast_mut())
            .expect("an Arc's address is not null");
        // INVARIANT: the word is TAKEN(session) by us, and the block holds a count of the Arc.
        Ok((RawBlock { pointer, span }, shape, was_kept))
    }
}

impl fmt::Debug for TakenBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenBlocks")
            .field("session", &self.0.session)
            .finish_non_exhaustive()
    }
}

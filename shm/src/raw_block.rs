//! A block that its holder has alone, without a type: private in a leased span, or taken over
//! from whoever shared it.
//!
//! Blocks point at what their span has in common without counting: the record of a leased span is
//! only let go when no slot of it is private, and is leaked when its agent goes before its blocks.
//! So a [`RawBlock`] is 16 bytes and its record is alive as long as it is. Each taken block counts.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use goumem_alloc::{Handle, Offset, SessionNumber};

use crate::bitmap::{BitWord, ExportedBits, RemoteBits};
use crate::error::AccessError;
use crate::leased_span::SpanLease;
use crate::os::fork::in_child_of_init;
use crate::os::{to_u64, to_usize};
use crate::pool_memory::{BlockPlace, PoolMemory};
use crate::shape::Shape;
use crate::slot::{SlotRefusal, SlotState};

/// What the blocks of a span share.
///
/// # Invariants
/// * `base` points at the first byte of the span in `memory`'s mapping (leased), or at the first
///   byte of DATA (taken), and the mapping lives as long as the record.
/// * While a [`RawBlock`] points here, the record is alive.
pub(crate) struct SpanRecord {
    memory: Arc<PoolMemory>,
    session: SessionNumber,
    base: NonNull<u8>,
    kind: RecordKind,
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
// SAFETY: as for Send; the record itself has no interior mutability but atomics.
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
        let start = memory.geometry().page_offset(leased.lease.first_page);
        let base = memory.writable_pointer(start, leased.lease.pages.bytes())?;
        // INVARIANT: `base` is the span's first byte in the mapping that `memory` keeps.
        Ok(Self {
            memory: Arc::clone(memory),
            session,
            base,
            kind: RecordKind::Leased(leased),
        })
    }

    pub(crate) fn memory(&self) -> &Arc<PoolMemory> {
        &self.memory
    }

    /// Returns what a leased span tells its agent; `None` for the record of taken blocks.
    pub(crate) fn as_leased(&self) -> Option<&LeasedRecord> {
        match &self.kind {
            RecordKind::Leased(leased) => Some(leased),
            RecordKind::Taken => None,
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
    /// Returns the block of a slot of a leased span.
    ///
    /// # Safety
    /// * The caller is the span's agent, and has just taken the bit of `slot`, a slot of it.
    /// * It does not let go of the record while a private block of the span lives.
    #[inline]
    pub(crate) unsafe fn private(record: &Arc<SpanRecord>, lease: SpanLease, slot: u32) -> Self {
        let offset = to_usize(lease.class.offset_of_slot(slot));
        // SAFETY:
        // - `slot` is one of the span, so the offset is inside the span;
        // - the span is inside one mapping (checked by `writable_pointer` in `leased`).
        let pointer = unsafe { record.base.add(offset) };
        let span = NonNull::new(Arc::as_ptr(record).cast_mut());
        // INVARIANT: the bit is taken and the record stays, by this function's contract.
        Self {
            pointer,
            span: span.expect("an Arc's address is not null"),
        }
    }

    /// Returns the address of the block's first byte.
    pub(crate) fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    pub(crate) fn into_parts(self) -> (NonNull<u8>, NonNull<SpanRecord>) {
        let block = ManuallyDrop::new(self);
        (block.pointer, block.span)
    }

    /// # Safety
    /// `pointer` and `span` come from one `into_parts`, and are put together once.
    pub(crate) unsafe fn from_parts(pointer: NonNull<u8>, span: NonNull<SpanRecord>) -> Self {
        // INVARIANT: the parts satisfied both when they were taken apart.
        Self { pointer, span }
    }

    /// Returns how many bytes the block has, at least what was asked for.
    #[inline]
    pub fn usable_bytes(&self) -> u64 {
        let span = self.record();
        match &span.kind {
            RecordKind::Leased(leased) => leased.lease.class.usable_in(leased.lease.pages),
            RecordKind::Taken => span
                .memory
                .block_at(self.offset())
                .map_or(0, |at| at.usable_bytes()),
        }
    }

    /// Returns where the block starts in DATA.
    pub fn offset(&self) -> Offset {
        let span = self.record();
        let base = match &span.kind {
            RecordKind::Leased(leased) => {
                let first_page = leased.lease.first_page;
                span.memory.geometry().page_offset(first_page).get()
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
        unsafe { std::ptr::write_bytes(self.pointer.as_ptr(), 0, length) }
    }

    /// Makes the block visible to other processes, owned by `owner`, and returns its handle.
    ///
    /// # Errors
    /// Gives the block back with `WrongLength` when the shape does not fit it, `Forked`,
    /// `GenerationsSpent`, or `Corrupt` when a writer outside this library has overwritten the
    /// slot word.
    #[inline]
    pub fn export(self, owner: SessionNumber, shape: Shape) -> Result<Handle, (Self, AccessError)> {
        if in_child_of_init() {
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
            slot: self.private_slot(leased),
            offset: self.offset(),
        }
    }

    fn private_slot(&self, leased: &LeasedRecord) -> u32 {
        let SpanLease { class, pages, .. } = leased.lease;
        let slot = class.slot_of(self.bytes_from_base(), pages);
        slot.expect("a block starts at a slot of its span")
    }

    fn bytes_from_base(&self) -> u64 {
        to_u64(self.pointer.addr().get() - self.record().base.addr().get())
    }

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
    fn drop(&mut self) {
        if in_child_of_init() {
            return; // the parent's block; nothing of it is mapped here
        }
        let span = self.record();
        match &span.kind {
            RecordKind::Leased(leased) => {
                let (word, bit) = leased.remote.place(self.private_slot(leased));
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
            memory: Arc::clone(memory),
            session,
            base,
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
    /// its shape word is unbelievable.
    pub fn take_over(&self, handle: Handle) -> Result<(RawBlock, Shape, bool), AccessError> {
        let memory = &self.0.memory;
        // Resolved, not only located: its Acquire shows the shape of this life.
        let at = memory.resolve(handle)?;
        let shape = memory.live_shape(&at, handle)?;
        let pointer = memory.writable_pointer(at.offset, at.usable_bytes())?;
        memory.note(at.first_page).set_holds_adopted();
        let (_, before) = memory
            .slot(&at)
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

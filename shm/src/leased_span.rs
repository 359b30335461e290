//! A leased span: which of its blocks are free, known to its one agent alone.
//!
//! The agent is whoever has the [`LeasedSpan`], and so `&mut`. It takes and gives bits of a
//! private bitmap; everybody else in the process only tells it things, through the two bitmaps of
//! the span's record (see `bitmap.rs`). So safe code cannot have one slot handed out twice.

use std::fmt;
use std::sync::Arc;

use goumem_alloc::{PageCount, PageIndex, SessionNumber, SizeClass};

use crate::bitmap::{ExportedBits, FreeBits, RemoteBits};
use crate::error::AccessError;
use crate::page_map::{PageEntry, SpanEpoch};
use crate::pool_memory::{Attached, PoolMemory, SlotRun};
use crate::raw_block::{AgentSide, LeasedRecord, SpanRecord};
use crate::slot::{SlotState, fence_before_reuse};

pub use crate::raw_block::{RawBlock, TakenBlocks};

/// What the daemon granted: a span, by the page map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLease {
    /// The span's first page.
    pub first_page: PageIndex,
    /// Its length.
    pub pages: PageCount,
    /// The class of its blocks.
    pub class: SizeClass,
    /// Which lease of the page this is.
    pub epoch: SpanEpoch,
}

/// The agent's side of a span: its free slots.
///
/// # Invariants
/// * `record` is that of a leased span, and no other `LeasedSpan` of this process works on it.
/// * It is not bound to an agent, or whoever has this mutably has the turn at that agent: so the
///   record's `side` is reached here alone.
/// * A slot is in the side's `free`, or in the record's `remote` or `exported`, or a [`RawBlock`]
///   has it, or it is on its way from the last to one of the others.
pub struct LeasedSpan {
    record: Arc<SpanRecord>,
}

impl LeasedSpan {
    /// Starts work on a span that the daemon has leased to `session`. With `survivors`, the slots
    /// of living blocks are told from the free ones by their words; without, the daemon has
    /// granted the span with every word FREE, and none is read.
    ///
    /// A lease that this process has worked on before is always read.
    ///
    /// # Errors
    /// `ReadOnly`, `Forked`; `Corrupt` when the page map does not say so, or this process works
    /// on the span already.
    pub fn attach(
        memory: &Arc<PoolMemory>,
        lease: SpanLease,
        session: SessionNumber,
        survivors: bool,
    ) -> Result<Self, AccessError> {
        if memory.is_inherited() {
            return Err(AccessError::Forked);
        }
        let offset = memory.geometry().page_offset(lease.first_page);
        let head = PageEntry::Head {
            class: lease.class,
            lessee: session,
            epoch: lease.epoch,
            pages: lease.pages,
        };
        if session == SessionNumber::NOBODY || memory.entry(lease.first_page) != Some(head) {
            return Err(memory.corrupt("lease", offset));
        }
        let slots = lease.class.slots(lease.pages);
        let Some(words) = memory.slot_run(lease.first_page, lease.class, lease.pages) else {
            return Err(memory.corrupt("lease", offset));
        };
        let leased = LeasedRecord {
            lease,
            remote: RemoteBits::new(slots),
            exported: ExportedBits::new(slots),
        };
        let record = Arc::new(SpanRecord::leased(memory, session, leased)?);
        let frees = memory.note(lease.first_page).frees();
        let free = match memory.note_attached(lease.first_page, lease.epoch) {
            Attached::Busy => return Err(memory.corrupt("second lease", offset)),
            Attached::First if !survivors => FreeBits::all(slots),
            Attached::First | Attached::Again => free_by_the_words(&record, words, slots),
        };
        fence_before_reuse();
        // INVARIANT: `note_attached` let only us through; each slot is marked as exported or free.
        let mut span = Self { record };
        let side = span.side_mut();
        side.free = free;
        side.seen_frees = frees;
        Ok(span)
    }

    /// Takes a free block, or returns `None` when none is at hand; `collect` may find more.
    #[inline]
    pub fn alloc(&mut self) -> Option<RawBlock> {
        let (record, side) = self.parts_mut();
        let block = record.block_at(side.free.take()?);
        // SAFETY:
        // - `&mut self` makes the caller the agent, and the block was taken just now;
        // - `drop` keeps the record while a private block lives.
        Some(unsafe { RawBlock::private(&self.record, block) })
    }

    /// Finds slots that became free elsewhere: private blocks dropped on any thread, and exported
    /// ones that somebody freed. Without `thorough`, exported slots are re-read only if the page
    /// note says that one was freed.
    pub fn collect(&mut self, thorough: bool) {
        let (record, side) = self.parts_mut();
        let Some((leased, words)) = agents_view(record) else {
            return;
        };
        leased.remote.collect(&mut side.free);
        let frees = record.memory().note(leased.lease.first_page).frees();
        if thorough || frees != side.seen_frees {
            side.seen_frees = frees;
            let is_free = |slot| is_free(words, slot);
            leased.exported.collect(&mut side.free, is_free);
        }
    }

    /// Takes an exported slot back if its block was freed; returns whether it did. For whoever
    /// knows which block that was: it costs one re-read, where `collect` costs one for each
    /// exported block.
    pub fn reclaim(&mut self, slot: u32) -> bool {
        let (record, side) = self.parts_mut();
        let Some((leased, words)) = agents_view(record) else {
            return false;
        };
        let is_free = |slot| is_free(words, slot);
        (slot as usize) < words.len() && leased.exported.collect_one(slot, &mut side.free, is_free)
    }

    /// Ends work on a span whose every block is free, so that it can be returned to the daemon;
    /// gives the span back when a block is alive.
    ///
    /// # Errors
    /// The span itself.
    pub fn detach(mut self) -> Result<SpanLease, Self> {
        self.collect(true);
        if self.is_empty() {
            Ok(self.lease())
        } else {
            Err(self)
        }
    }

    /// Ends work on a span of which only exported blocks may be alive; they stay with their
    /// words. For a session's end, when the daemon sweeps the span.
    ///
    /// # Errors
    /// The span itself, while a private block is alive.
    pub fn abandon(mut self) -> Result<SpanLease, Self> {
        self.collect(true);
        if self.has_private_blocks() {
            Err(self)
        } else {
            Ok(self.lease())
        }
    }

    /// Returns the lease.
    pub fn lease(&self) -> SpanLease {
        self.record.leased_part().lease
    }

    /// Returns how many free slots are known.
    #[inline]
    pub fn free_count(&self) -> u32 {
        self.side().free.count()
    }

    /// Returns how many slots the span has.
    pub fn slots(&self) -> u32 {
        let SpanLease { class, pages, .. } = self.lease();
        class.slots(pages)
    }

    /// Returns whether every slot is known to be free.
    pub fn is_empty(&self) -> bool {
        self.free_count() == self.slots()
    }

    /// Returns how many blocks are alive: private ones and those exported.
    pub fn live_count(&self) -> u32 {
        self.slots() - self.free_count()
    }

    /// Returns how many [`RawBlock`]s point at the record, as far as is known: a block on its way
    /// into a bitmap counts.
    pub fn private_count(&self) -> u32 {
        let exported = self.record.leased_part().exported.count();
        self.live_count().saturating_sub(exported)
    }

    fn has_private_blocks(&self) -> bool {
        self.private_count() > 0
    }

    pub(crate) fn record(&self) -> &SpanRecord {
        &self.record
    }

    #[inline]
    pub(crate) fn side(&self) -> &AgentSide {
        // SAFETY: whoever has the span is its agent (invariant), and `&self` keeps everybody from
        // having it mutably.
        unsafe { &*self.record.side() }
    }

    #[inline]
    pub(crate) fn side_mut(&mut self) -> &mut AgentSide {
        self.parts_mut().1
    }

    #[inline]
    fn parts_mut(&mut self) -> (&SpanRecord, &mut AgentSide) {
        // SAFETY: whoever has the span is its agent (invariant), and `&mut self` is the only way
        // to it; nothing else of the record is in the side.
        let side = unsafe { &mut *self.record.side() };
        (&self.record, side)
    }
}

impl Drop for LeasedSpan {
    fn drop(&mut self) {
        self.collect(true);
        if self.record.memory().is_inherited() || self.has_private_blocks() {
            // Private blocks are alive and point at the record (in a forked child: nothing can be
            // known): it stays for good, and with it the mapping.
            std::mem::forget(Arc::clone(&self.record));
        } else {
            self.record.memory().note_detached(self.lease().first_page);
        }
    }
}

impl fmt::Debug for LeasedSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedSpan")
            .field("lease", &self.lease())
            .field("free_count", &self.free_count())
            .finish_non_exhaustive()
    }
}

/// Returns what the agent reads of a leased span; `None` in a forked child, where nothing of it
/// is mapped.
#[inline]
fn agents_view(record: &SpanRecord) -> Option<(&LeasedRecord, SlotRun<'_>)> {
    if record.memory().is_inherited() {
        return None;
    }
    let leased = record.as_leased()?;
    let SpanLease {
        first_page,
        pages,
        class,
        ..
    } = leased.lease;
    let words = record.memory().slot_run(first_page, class, pages)?;
    Some((leased, words))
}

/// Tells the slots of living blocks from the free ones: marks the former, returns the latter.
fn free_by_the_words(record: &SpanRecord, words: SlotRun<'_>, slots: u32) -> FreeBits {
    let mut free = FreeBits::none(slots);
    for slot in 0..slots {
        if is_free(words, slot) {
            free.give(slot);
        } else if let Some(leased) = record.as_leased() {
            let (word, bit) = leased.exported.place(slot);
            word.set(bit);
        }
    }
    free
}

#[inline]
fn is_free(words: SlotRun<'_>, slot: u32) -> bool {
    words.word(slot).load().state() == Some(SlotState::Free)
}

#[cfg(test)]
mod tests;

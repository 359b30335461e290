//! The geometry of a pool: where everything lies in its two segments, as a pure function of the
//! pool's greatest length.
//!
//! `n` is that length in pages of 64 KiB. All parts start at a multiple of 4 KiB.
//!
//! ```text
//! DATA      header         4 KiB
//!           notes          n × 128 B    what a page's agent should look at
//!           dense slots    n × 512 B    slot words of spans with strides of 1 KiB and more
//!           dense shapes   n × 512 B    shape words, same index
//!           fine slots     n × 32 KiB   slot words of spans with strides below 1 KiB
//!           fine shapes    n × 32 KiB   shape words, same index
//!           guard          64 KiB and on to a multiple of 2 MiB; no access in any mapping
//!           payload        n × 64 KiB
//!
//! CONTROL   header         4 KiB
//!           entries        n × 8 B      the page map
//!           page records   n × 32 B
//!           records        65 536 × 128 B
//!           members        65 536 × 8 B, one for each session number
//! ```
//!
//! The tables are sparse: they are committed with the spans that use them.

use core::ops::Range;

use crate::size_class::SizeClass;
use crate::units::{
    HUGE_BYTES, MAX_POOL_PAGES, OS_PAGE_BYTES, Offset, PAGE_BYTES, PAGE_SHIFT, PageCount,
    PageIndex, low_u32, round_up,
};

mod arena;

pub use arena::{
    ARENA_SLOT_BYTES, ArenaGeometry, MAX_ARENA_BYTES, MAX_ARENA_POOL_BYTES, MAX_ARENAS,
};

/// Bytes of the header that every segment begins with.
pub const HEADER_BYTES: u64 = OS_PAGE_BYTES;
/// Bytes of a slot word or a shape word.
pub const WORD_BYTES: u64 = 8;
/// Bytes of a page note: the 128 keep two pages' notes out of one pair of cache lines.
pub const NOTE_BYTES: u64 = 128;
/// Bytes of an entry of the page map.
pub const ENTRY_BYTES: u64 = 8;
/// Bytes of a page record.
pub const PAGE_RECORD_BYTES: u64 = 32;
/// Bytes of a record of a pin, a keep or a holder.
pub const RECORD_BYTES: u64 = 128;
/// Records of each pool and arena pool.
pub const MAX_RECORDS: u32 = 1 << 16;
/// Bytes of all member words of a pool: one for each session number.
pub const MEMBERS_BYTES: u64 = (1 << 16) * WORD_BYTES;

/// Bytes of dense slot words per page: 64 slots of 1 KiB.
const DENSE_BYTES: u64 = PAGE_BYTES / 1024 * WORD_BYTES;
/// Bytes of fine slot words per page: 4096 slots of 16 bytes.
const FINE_BYTES: u64 = PAGE_BYTES / 16 * WORD_BYTES;
/// The shortest guard.
const MIN_GUARD_BYTES: u64 = PAGE_BYTES;
/// The longest payload of a pool, 1 TiB.
const MAX_CAPACITY_BYTES: u64 = PageCount::new(MAX_POOL_PAGES).bytes();

/// Where everything lies in the segments of one pool.
///
/// # Invariants
///
/// 1 ≤ `capacity_pages` ≤ `n_pages` ≤ [`MAX_POOL_PAGES`]; the offsets are those of the drawing
/// above for `n_pages`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolGeometry {
    capacity_pages: PageCount,
    n_pages: PageCount,
    dense_slots: u64,
    dense_shapes: u64,
    fine_slots: u64,
    fine_shapes: u64,
    guard: u64,
    payload: u64,
    page_records: u64,
    records: u64,
}

impl PoolGeometry {
    /// Makes the geometry of a pool that begins with a quota of `capacity_bytes` and can be given
    /// at most `max_capacity_bytes`, or twice the capacity (within the limit) if that is `None`.
    /// Both are rounded up to pages.
    ///
    /// # Errors
    ///
    /// [`GeometryError::Empty`], [`GeometryError::TooLarge`] and
    /// [`GeometryError::MaxBelowCapacity`].
    pub fn new(
        capacity_bytes: u64,
        max_capacity_bytes: Option<u64>,
    ) -> Result<Self, GeometryError> {
        let too_large = |requested_bytes| GeometryError::TooLarge {
            requested_bytes,
            limit_bytes: MAX_CAPACITY_BYTES,
        };
        let pages_of = |bytes| PageCount::for_bytes(bytes).ok_or_else(|| too_large(bytes));
        if capacity_bytes == 0 {
            return Err(GeometryError::Empty);
        }
        let capacity_pages = pages_of(capacity_bytes)?;
        let n_pages = match max_capacity_bytes {
            Some(max_bytes) => pages_of(max_bytes)?,
            None => PageCount::new((2 * capacity_pages.get()).min(MAX_POOL_PAGES)),
        };
        if n_pages < capacity_pages {
            return Err(GeometryError::MaxBelowCapacity {
                capacity_bytes,
                max_capacity_bytes: max_capacity_bytes.unwrap_or_default(),
            });
        }
        Ok(Self::of_pages(capacity_pages, n_pages))
    }

    fn of_pages(capacity_pages: PageCount, n_pages: PageCount) -> Self {
        let n = u64::from(n_pages.get());
        let dense_slots = align(HEADER_BYTES + n * NOTE_BYTES, OS_PAGE_BYTES);
        let dense_shapes = align(dense_slots + n * DENSE_BYTES, OS_PAGE_BYTES);
        let fine_slots = align(dense_shapes + n * DENSE_BYTES, OS_PAGE_BYTES);
        let fine_shapes = fine_slots + n * FINE_BYTES;
        let guard = fine_shapes + n * FINE_BYTES;
        let page_records = align(HEADER_BYTES + n * ENTRY_BYTES, OS_PAGE_BYTES);
        Self {
            capacity_pages,
            n_pages,
            dense_slots,
            dense_shapes,
            fine_slots,
            fine_shapes,
            guard,
            payload: payload_after(guard),
            page_records,
            records: align(page_records + n * PAGE_RECORD_BYTES, OS_PAGE_BYTES),
        }
    }

    /// Returns the quota that the pool begins with; it may be changed later, the geometry not.
    #[must_use]
    pub const fn capacity_pages(&self) -> PageCount {
        self.capacity_pages
    }

    /// Returns the pages of the payload, granted or not.
    #[inline]
    #[must_use]
    pub const fn n_pages(&self) -> PageCount {
        self.n_pages
    }

    /// Returns the length of the DATA segment, a multiple of 64 KiB.
    #[must_use]
    pub const fn data_bytes(&self) -> u64 {
        self.payload + self.n_pages.bytes()
    }

    /// Returns the length of the CONTROL segment, a multiple of 64 KiB.
    #[must_use]
    pub const fn control_bytes(&self) -> u64 {
        align(self.members_range().end, PAGE_BYTES)
    }

    /// Returns where the page notes lie in DATA.
    #[must_use]
    pub const fn notes_range(&self) -> Range<u64> {
        HEADER_BYTES..HEADER_BYTES + self.n_pages.get() as u64 * NOTE_BYTES
    }

    /// Returns where the dense slot words lie in DATA.
    #[must_use]
    pub const fn dense_slots_range(&self) -> Range<u64> {
        self.dense_slots..self.dense_slots + self.n_pages.get() as u64 * DENSE_BYTES
    }

    /// Returns where the dense shape words lie in DATA.
    #[must_use]
    pub const fn dense_shapes_range(&self) -> Range<u64> {
        self.dense_shapes..self.dense_shapes + self.n_pages.get() as u64 * DENSE_BYTES
    }

    /// Returns where the fine slot words lie in DATA.
    #[must_use]
    pub const fn fine_slots_range(&self) -> Range<u64> {
        self.fine_slots..self.fine_shapes
    }

    /// Returns where the fine shape words lie in DATA.
    #[must_use]
    pub const fn fine_shapes_range(&self) -> Range<u64> {
        self.fine_shapes..self.guard
    }

    /// Returns where the guard lies in DATA, to be mapped without access.
    #[must_use]
    pub const fn guard_range(&self) -> Range<u64> {
        self.guard..self.payload
    }

    /// Returns where the payload lies in DATA; it starts at a multiple of 2 MiB.
    #[must_use]
    pub const fn payload_range(&self) -> Range<u64> {
        self.payload..self.data_bytes()
    }

    /// Returns where the page map lies in CONTROL.
    #[must_use]
    pub const fn entries_range(&self) -> Range<u64> {
        HEADER_BYTES..HEADER_BYTES + self.n_pages.get() as u64 * ENTRY_BYTES
    }

    /// Returns where the page records lie in CONTROL.
    #[must_use]
    pub const fn page_records_range(&self) -> Range<u64> {
        self.page_records..self.page_records + self.n_pages.get() as u64 * PAGE_RECORD_BYTES
    }

    /// Returns where the records lie in CONTROL.
    #[must_use]
    pub const fn records_range(&self) -> Range<u64> {
        self.records..self.records + MAX_RECORDS as u64 * RECORD_BYTES
    }

    /// Returns where the member words lie in CONTROL.
    #[must_use]
    pub const fn members_range(&self) -> Range<u64> {
        let start = self.records_range().end;
        start..start + MEMBERS_BYTES
    }

    /// Returns the page that `offset` in DATA lies on, or `None` outside the payload.
    #[inline]
    #[must_use]
    pub const fn page_of(&self, offset: Offset) -> Option<PageIndex> {
        let Some(in_payload) = offset.get().checked_sub(self.payload) else {
            return None;
        };
        if in_payload < self.n_pages.bytes() {
            Some(PageIndex::new(low_u32(in_payload >> PAGE_SHIFT)))
        } else {
            None
        }
    }

    /// Returns where `page` starts in DATA.
    #[inline]
    #[must_use]
    pub const fn page_offset(&self, page: PageIndex) -> Offset {
        Offset::new(self.payload + ((page.get() as u64) << PAGE_SHIFT))
    }

    /// Returns where the note of `page` lies in DATA.
    #[inline]
    #[must_use]
    pub const fn note_offset(&self, page: PageIndex) -> u64 {
        debug_assert!(page.get() < self.n_pages.get());
        HEADER_BYTES + page.get() as u64 * NOTE_BYTES
    }

    /// Returns where the slot word of slot `slot` lies in DATA, for the span of `class` that
    /// starts at `first` and has `pages`.
    #[inline]
    #[must_use]
    pub const fn slot_offset(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
        slot: u32,
    ) -> u64 {
        self.slots_start(first, class) + word_position(first, class, pages, slot)
    }

    /// Returns where the shape word of slot `slot` lies in DATA, as [`Self::slot_offset`].
    #[inline]
    #[must_use]
    pub const fn shape_offset(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
        slot: u32,
    ) -> u64 {
        self.shapes_start(first, class) + word_position(first, class, pages, slot)
    }

    /// Returns [`Self::slot_offset`] and [`Self::shape_offset`] of a slot.
    #[inline(always)]
    #[must_use]
    pub const fn word_offsets(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
        slot: u32,
    ) -> (u64, u64) {
        let position = word_position(first, class, pages, slot);
        (
            self.slots_start(first, class) + position,
            self.shapes_start(first, class) + position,
        )
    }

    /// Returns where all slot words of a span lie in DATA, in an order that is not that of its
    /// slots.
    #[must_use]
    #[inline]
    pub const fn slot_run(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
    ) -> Range<u64> {
        let start = self.slots_start(first, class);
        start..start + class.slots(pages) as u64 * WORD_BYTES
    }

    /// Returns where all shape words of a span lie in DATA, in the order of [`Self::slot_run`].
    #[must_use]
    #[inline]
    pub const fn shape_run(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
    ) -> Range<u64> {
        let start = self.shapes_start(first, class);
        start..start + class.slots(pages) as u64 * WORD_BYTES
    }

    /// Returns where the page-map entry of `page` lies in CONTROL.
    #[inline]
    #[must_use]
    pub const fn entry_offset(&self, page: PageIndex) -> u64 {
        debug_assert!(page.get() < self.n_pages.get());
        HEADER_BYTES + page.get() as u64 * ENTRY_BYTES
    }

    /// Returns where the record of `page` lies in CONTROL.
    #[must_use]
    pub const fn page_record_offset(&self, page: PageIndex) -> u64 {
        debug_assert!(page.get() < self.n_pages.get());
        self.page_records + page.get() as u64 * PAGE_RECORD_BYTES
    }

    /// Returns where record `index`, below [`MAX_RECORDS`], lies in CONTROL.
    #[must_use]
    pub const fn record_offset(&self, index: u32) -> u64 {
        debug_assert!(index < MAX_RECORDS);
        self.records + index as u64 * RECORD_BYTES
    }

    #[inline]
    const fn slots_start(&self, first: PageIndex, class: SizeClass) -> u64 {
        debug_assert!(first.get() < self.n_pages.get());
        if class.is_fine() {
            self.fine_slots + first.get() as u64 * FINE_BYTES
        } else {
            self.dense_slots + first.get() as u64 * DENSE_BYTES
        }
    }

    #[inline]
    const fn shapes_start(&self, first: PageIndex, class: SizeClass) -> u64 {
        debug_assert!(first.get() < self.n_pages.get());
        if class.is_fine() {
            self.fine_shapes + first.get() as u64 * FINE_BYTES
        } else {
            self.dense_shapes + first.get() as u64 * DENSE_BYTES
        }
    }
}

/// Returns how far into the run of a span's words the word of `slot` lies, in bytes.
///
/// Fine runs start 32 KiB apart, so the first words of all spans would share one cache set: each
/// run is turned by two cache lines more than that of the page before, over 32 pages. Dense runs
/// start 512 bytes apart and need none of this.
#[inline(always)]
const fn word_position(first: PageIndex, class: SizeClass, pages: PageCount, slot: u32) -> u64 {
    let n = class.slots(pages);
    debug_assert!(slot < n);
    let turn = if class.is_fine() {
        16 * (first.get() % 32)
    } else {
        0
    };
    // Few spans have so few slots that the turn goes round: a branch spares the others a division.
    // A span has at least one slot; 0 is excluded here only so that no input divides by it.
    let turn = if turn < n || n == 0 { turn } else { turn % n };
    let position = slot as u64 + turn as u64;
    (if position < n as u64 {
        position
    } else {
        position - n as u64
    }) * WORD_BYTES
}

/// Returns where the payload starts if the guard before it starts at `guard`.
const fn payload_after(guard: u64) -> u64 {
    align(guard + MIN_GUARD_BYTES, HUGE_BYTES)
}

/// Returns an offset of a geometry, far below `u64::MAX`, rounded up.
const fn align(bytes: u64, step_bytes: u64) -> u64 {
    match round_up(bytes, step_bytes) {
        Some(bytes) => bytes,
        None => unreachable!(),
    }
}

/// Why no pool or arena pool has the sizes asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// A pool of no bytes.
    #[error("a pool of 0 bytes was asked for")]
    Empty,
    /// A pool, an arena pool or one arena above the limit.
    #[error("{requested_bytes} bytes were asked for, above the limit of {limit_bytes}")]
    TooLarge {
        /// What was asked for.
        requested_bytes: u64,
        /// The most there can be.
        limit_bytes: u64,
    },
    /// A pool that could never be given its capacity.
    #[error("maximum of {max_capacity_bytes} bytes is below the capacity of {capacity_bytes}")]
    MaxBelowCapacity {
        /// The capacity asked for.
        capacity_bytes: u64,
        /// The maximum asked for.
        max_capacity_bytes: u64,
    },
    /// An arena pool of no arenas or too many.
    #[error("{arenas} arenas were asked for, not 1 to {limit}")]
    ArenaCount {
        /// What was asked for.
        arenas: u32,
        /// The most there can be.
        limit: u32,
    },
    /// Arenas of no bytes.
    #[error("arenas of 0 bytes were asked for")]
    EmptyArena,
}

#[cfg(test)]
mod tests;

//! Size classes, pool geometry and the page heap of goumem: arithmetic on offsets and nothing else.
//!
//! Nothing here maps memory, does I/O or reads a clock, so every rule of the layout can be tested
//! without a pool. Each module imports only what stands before it: [units](PageIndex) →
//! [handle](Handle) → [size class](SizeClass) → [geometry](PoolGeometry) → [page heap](PageHeap).

#![forbid(unsafe_code)]

mod geometry;
mod handle;
mod page_heap;
mod size_class;
mod units;

pub use geometry::{
    ARENA_SLOT_BYTES, ArenaGeometry, ENTRY_BYTES, GeometryError, HEADER_BYTES, MAX_ARENA_BYTES,
    MAX_ARENA_POOL_BYTES, MAX_ARENAS, MAX_RECORDS, MEMBERS_BYTES, NOTE_BYTES, PAGE_RECORD_BYTES,
    PoolGeometry, RECORD_BYTES, WORD_BYTES,
};
pub use handle::{Handle, HandleError, HandleKind};
pub use page_heap::{PageHeap, PageState, QuotaError, Recorded, Reservation, ReserveError};
pub use size_class::{
    COLOUR_BYTES, LayoutError, MAX_BLOCK_PAGES, MAX_CLASS_BYTES, MAX_SPAN_PAGES, Placement,
    SizeClass,
};
pub use units::{
    GRAIN_BYTES, Generation, HUGE_BYTES, MAX_POOL_PAGES, OS_PAGE_BYTES, Offset, PAGE_BYTES,
    PAGE_SHIFT, PageCount, PageIndex, PoolId, SessionNumber, TypeTag, round_up,
};

//! What goumem asks of the operating system: shared memory objects and their mappings, handing
//! fds over, knowing who the peer is and when it died, and how much memory the machine has.
//! Linux only; nothing here knows what the bytes mean.

pub mod backing;
pub mod error;
pub mod fd_pass;
pub mod fork;
pub mod frame;
pub mod inherited;
pub mod keep_frame;
pub mod lock;
pub mod machine;
pub mod mapping;
pub(crate) mod membarrier;
pub mod paths;
pub mod peer;
pub mod process;
pub mod reaper;
pub mod segment;

pub use backing::{
    Backing, BackingKind, FileBacking, MemfdBacking, NamedBacking, Promises, SegmentSpec,
};
pub use error::{MapError, SegmentError};
pub use mapping::{Access, MapPlan, Mapping};
pub use segment::Segment;

/// The kernel's page: what `fallocate`, `mmap` and `madvise` count in.
pub const OS_PAGE_BYTES: u64 = 4096;

/// A huge page, and the alignment that lets two processes share one.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

const _: () = assert!(
    size_of::<usize>() == size_of::<u64>(),
    "goumem needs 64-bit addresses"
);

/// Returns `n` as a `usize`. Lossless: see the assertion above.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits here, asserted above"
)]
pub(crate) const fn to_usize(n: u64) -> usize {
    n as usize
}

/// Returns `n` as a `u64`. Lossless on every target.
pub(crate) const fn to_u64(n: usize) -> u64 {
    n as u64
}

//! The numbers of goumem, each with a type of its own, and the page sizes they are counted in.
//!
//! Two integers of different meaning are two types, so that an offset is never passed for a page
//! or a page for a count. All are plain values: `new` and `get` cost nothing.

use core::fmt;
use core::num::NonZeroU32;

/// log2 of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 16;

/// Bytes in a heap page, the unit of spans: 64 KiB.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Bytes in a page of the operating system, the unit of commit and purge: 4 KiB.
pub const OS_PAGE_BYTES: u64 = 4096;

/// Bytes in the smallest step between two blocks: every block starts at a multiple of 16.
pub const GRAIN_BYTES: u64 = 16;

/// The most pages of one pool: 2^24, that is 1 TiB of payload.
pub const MAX_POOL_PAGES: u32 = 1 << 24;

/// Bytes in a huge page, to which a pool's payload is aligned: 2 MiB.
pub const HUGE_BYTES: u64 = 2 << 20;

/// Returns `bytes` rounded up to a multiple of `step_bytes`, a power of two, or `None` past
/// `u64::MAX`.
#[must_use]
pub const fn round_up(bytes: u64, step_bytes: u64) -> Option<u64> {
    debug_assert!(step_bytes.is_power_of_two());
    match bytes.checked_add(step_bytes - 1) {
        Some(sum) => Some(sum & !(step_bytes - 1)),
        None => None,
    }
}

/// Bytes from the start of a pool's DATA segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Offset(u64);

impl Offset {
    /// Makes an offset of any number of bytes.
    #[inline]
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the offset in bytes.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the offset `bytes` further on, or `None` past `u64::MAX`.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

/// The number of a heap page in its pool, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct PageIndex(u32);

impl PageIndex {
    /// Makes the index of page `index`; whether a pool has that page is the pool's to say.
    #[inline]
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the page number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the page `pages` further on, or `None` past [`MAX_POOL_PAGES`] (the end of the
    /// longest pool itself is an index: it ends a run).
    #[inline]
    #[must_use]
    pub const fn checked_add(self, pages: PageCount) -> Option<Self> {
        match self.0.checked_add(pages.0) {
            Some(sum) if sum <= MAX_POOL_PAGES => Some(Self(sum)),
            _ => None,
        }
    }

    /// Returns the page `pages` further back, or `None` before page 0.
    #[inline]
    #[must_use]
    pub const fn checked_sub(self, pages: PageCount) -> Option<Self> {
        match self.0.checked_sub(pages.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// Returns how many pages lie from `earlier` up to this one, or `None` if it is not earlier.
    #[inline]
    #[must_use]
    pub const fn pages_since(self, earlier: Self) -> Option<PageCount> {
        match self.0.checked_sub(earlier.0) {
            Some(pages) => Some(PageCount(pages)),
            None => None,
        }
    }
}

/// A number of heap pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct PageCount(u32);

impl PageCount {
    /// No pages.
    pub const ZERO: Self = Self(0);
    /// One page.
    pub const ONE: Self = Self(1);

    /// Makes a count of `pages` pages.
    #[inline]
    #[must_use]
    pub const fn new(pages: u32) -> Self {
        Self(pages)
    }

    /// Returns the fewest pages that hold `bytes`, or `None` if no pool has that many.
    #[inline]
    #[must_use]
    pub const fn for_bytes(bytes: u64) -> Option<Self> {
        let pages = bytes.div_ceil(PAGE_BYTES);
        if pages > MAX_POOL_PAGES as u64 {
            return None;
        }
        Some(Self(low_u32(pages)))
    }

    /// Returns the number of pages.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the bytes in that many pages.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << PAGE_SHIFT
    }

    /// Returns the sum, or `None` past [`MAX_POOL_PAGES`].
    #[inline]
    #[must_use]
    pub const fn checked_add(self, more: Self) -> Option<Self> {
        match self.0.checked_add(more.0) {
            Some(sum) if sum <= MAX_POOL_PAGES => Some(Self(sum)),
            _ => None,
        }
    }

    /// Returns the difference, or `None` below zero.
    #[inline]
    #[must_use]
    pub const fn checked_sub(self, less: Self) -> Option<Self> {
        match self.0.checked_sub(less.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }
}

/// The number of a pool or arena pool, never 0 and never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PoolId(NonZeroU32);

impl PoolId {
    /// Makes a pool number, or `None` of 0.
    #[inline]
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// Returns the number, which is not 0.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// Counts the lives of a slot: 44 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Generation(u64);

impl Generation {
    /// Bits in a generation.
    pub const BITS: u32 = 44;
    /// The first generation.
    pub const ZERO: Self = Self(0);
    /// The last generation, 2^44 − 1.
    pub const MAX: Self = Self((1 << Self::BITS) - 1);

    /// Makes a generation, or `None` above [`Self::MAX`].
    #[inline]
    #[must_use]
    pub const fn new(generation: u64) -> Option<Self> {
        if generation > Self::MAX.0 {
            None
        } else {
            Some(Self(generation))
        }
    }

    /// Makes a generation of the low 44 bits of `bits`, for unpacking a word.
    #[inline]
    #[must_use]
    pub const fn from_low_bits(bits: u64) -> Self {
        Self(bits & Self::MAX.0)
    }

    /// Returns the generation as a number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the next generation, or `None` after [`Self::MAX`].
    #[inline]
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// Returns the low 32 bits, as an arena's cursor carries them.
    #[inline]
    #[must_use]
    pub const fn low32(self) -> u32 {
        low_u32(self.0)
    }
}

/// The 16-bit number of a session, which names the owner in a slot word and the lessee of a span.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct SessionNumber(u16);

impl SessionNumber {
    /// No session.
    pub const NOBODY: Self = Self(0);
    /// The daemon itself, which owns the blocks that it allocates for others.
    pub const DAEMON: Self = Self(u16::MAX);

    /// Makes a session number of any 16 bits.
    #[inline]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns whether this is a client's number: neither nobody's nor the daemon's.
    #[inline]
    #[must_use]
    pub const fn is_client(self) -> bool {
        self.0 != Self::NOBODY.0 && self.0 != Self::DAEMON.0
    }
}

/// Names the element type of a block: 24 bits, 0 for bytes of no stated type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct TypeTag(u32);

impl TypeTag {
    /// Bits in a tag.
    pub const BITS: u32 = 24;
    /// The tag of a block that may be read as anything of fitting length.
    pub const UNTYPED: Self = Self(0);
    /// The largest tag, 2^24 − 1.
    pub const MAX: Self = Self((1 << Self::BITS) - 1);

    /// Makes a tag, or `None` above [`Self::MAX`].
    #[inline]
    #[must_use]
    pub const fn new(tag: u32) -> Option<Self> {
        if tag > Self::MAX.0 {
            None
        } else {
            Some(Self(tag))
        }
    }

    /// Makes a tag of the low 24 bits of `bits`, for unpacking a word and for hashing.
    #[inline]
    #[must_use]
    pub const fn from_low_bits(bits: u32) -> Self {
        Self(bits & Self::MAX.0)
    }

    /// Returns the tag as a number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TypeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// Implements `Display` as the bare number.
macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_as_number!(
    Offset,
    PageIndex,
    PageCount,
    PoolId,
    Generation,
    SessionNumber
);

/// Returns the low 32 bits of `bits`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
pub(crate) const fn low_u32(bits: u64) -> u32 {
    bits as u32
}

#[cfg(test)]
mod tests;

//! Size classes: the block sizes that requests are rounded up to, and how a span is cut into them.
//!
//! Plain classes have strides of 16, 32, 48 and 64 bytes, then four per doubling up to 1 MiB, so
//! that rounding costs at most a fifth of a slot above 64 bytes, and an eighth just below each
//! power of two. Each class with a stride of at least 16 KiB has a *coloured* twin, whose payloads
//! begin 128 bytes into their slots: some processors copy at a twentieth of their speed from page
//! offset 0 to page offset 16, which is where malloc's large blocks begin. A block that fits no
//! class is a *large* one, the only block of its span.
//!
//! ```text
//! index  0 …  59   plain              16 B … 1 MiB
//!       60 …  84   coloured twins   16 KiB … 1 MiB
//!            126   large              payload at 0
//!            127   large, coloured    payload at 128
//! ```

use crate::units::{GRAIN_BYTES, HUGE_BYTES, MAX_POOL_PAGES, PAGE_BYTES, PageCount, low_u32};

/// The most bytes of a block that is not large: 1 MiB.
pub const MAX_CLASS_BYTES: u64 = 1 << 20;

/// How far into its slot the payload of a coloured class begins: two cache lines, since the
/// hardware fetches lines in pairs.
pub const COLOUR_BYTES: u64 = 128;

/// The most pages of a span that is cut into blocks: 4 MiB.
pub const MAX_SPAN_PAGES: PageCount = PageCount::new(64);

/// The most pages of a large block: a page-map entry has 24 bits for the length of a span.
pub const MAX_BLOCK_PAGES: PageCount = PageCount::new(MAX_POOL_PAGES - 1);

const N_PLAIN: u8 = 60;
const N_CLASSES: u8 = 85;
/// Index of the first plain class that has a coloured twin, of 16 KiB.
const FIRST_TWINNED: u8 = N_PLAIN - (N_CLASSES - N_PLAIN);
const TWINNED_BYTES: u64 = 16 << 10;
/// Classes below this stride use the fine slot table.
const FINE_BELOW_BYTES: u64 = 1 << 10;

/// A size class, one of the 87 that exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SizeClass(u8);

/// Where a block of some size and alignment goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// A slot of a span of this class.
    Class(SizeClass),
    /// A span of its own.
    Large {
        /// [`SizeClass::LARGE`] or [`SizeClass::LARGE_COLOURED`].
        class: SizeClass,
        /// Length of the span.
        pages: PageCount,
        /// What the span's first page must be a multiple of: a power of two from 1 to 32.
        align_pages: PageCount,
    },
}

/// Why no block has the size and alignment asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// The size is 0.
    #[error("a block of 0 bytes was asked for")]
    Empty,
    /// The alignment is not a power of two, or above 2 MiB.
    #[error("alignment of {align_bytes} bytes is not a power of two up to {HUGE_BYTES}")]
    Alignment {
        /// The alignment asked for.
        align_bytes: u64,
    },
    /// The size is more than a pool of the greatest length could hold.
    #[error(
        "a block of {size_bytes} bytes was asked for, and none has more than {}",
        MAX_BLOCK_PAGES.bytes()
    )]
    TooLarge {
        /// The size asked for.
        size_bytes: u64,
    },
}

/// One row of the class table.
#[derive(Clone, Copy)]
struct Row {
    /// ceil(2^64 / stride), 0 for the large classes. See [`SizeClass::slot_of`].
    reciprocal: u64,
    /// 0 for the large classes.
    stride_bytes: u32,
    colour_bytes: u16,
    span_pages: u8,
    min_span_pages: u8,
}

/// Indexed by class; 128 rows, so that seven bits never need a bounds check.
const ROWS: [Row; 128] = rows();

impl SizeClass {
    /// One block per span, at its start.
    pub const LARGE: Self = Self(126);
    /// One block per span, 128 bytes into it.
    pub const LARGE_COLOURED: Self = Self(127);

    /// Returns where a block of `size_bytes` at a multiple of `align_bytes` goes: the smallest
    /// stride that fits and honours the alignment, coloured if size and alignment leave room.
    ///
    /// # Errors
    ///
    /// All of [`LayoutError`].
    #[inline]
    pub const fn for_layout(size_bytes: u64, align_bytes: u64) -> Result<Placement, LayoutError> {
        if size_bytes == 0 {
            return Err(LayoutError::Empty);
        }
        if !align_bytes.is_power_of_two() || align_bytes > HUGE_BYTES {
            return Err(LayoutError::Alignment { align_bytes });
        }
        if size_bytes > MAX_CLASS_BYTES || align_bytes > PAGE_BYTES {
            return Self::for_large_layout(size_bytes, align_bytes);
        }
        let mut index = plain_index(size_bytes);
        // Ends at 1 MiB at the latest, a multiple of every alignment that comes here.
        while plain_stride_bytes(index) & (align_bytes - 1) != 0 {
            index += 1;
        }
        let roomy = size_bytes + COLOUR_BYTES <= plain_stride_bytes(index);
        if index >= FIRST_TWINNED && align_bytes <= COLOUR_BYTES && roomy {
            index += N_PLAIN - FIRST_TWINNED;
        }
        Ok(Placement::Class(Self(index)))
    }

    /// Returns the class that [`for_layout`](Self::for_layout) chooses, where that is simple: for
    /// alignments up to 16. For the short way of an allocation, which wants a byte and no enum.
    #[inline(always)]
    #[must_use]
    pub const fn for_simple_layout(size_bytes: u64, align_bytes: u64) -> Option<Self> {
        if size_bytes == 0 || size_bytes > MAX_CLASS_BYTES || align_bytes > GRAIN_BYTES {
            return None;
        }
        let index = plain_index(size_bytes);
        let roomy = size_bytes + COLOUR_BYTES <= plain_stride_bytes(index);
        if index >= FIRST_TWINNED && roomy {
            return Some(Self(index + (N_PLAIN - FIRST_TWINNED)));
        }
        Some(Self(index))
    }

    #[cold]
    const fn for_large_layout(size_bytes: u64, align_bytes: u64) -> Result<Placement, LayoutError> {
        let (class, colour_bytes) = if align_bytes <= COLOUR_BYTES {
            (Self::LARGE_COLOURED, COLOUR_BYTES)
        } else {
            (Self::LARGE, 0)
        };
        if size_bytes > MAX_BLOCK_PAGES.bytes() - colour_bytes {
            return Err(LayoutError::TooLarge { size_bytes });
        }
        Ok(Placement::Large {
            class,
            pages: page_count(size_bytes + colour_bytes),
            align_pages: page_count(align_bytes),
        })
    }

    /// Returns the class of that index, or `None` if there is none.
    #[inline]
    #[must_use]
    pub const fn from_index(index: u8) -> Option<Self> {
        match index {
            0..N_CLASSES | 126 | 127 => Some(Self(index)),
            _ => None,
        }
    }

    /// Returns every class, by index.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).filter_map(Self::from_index)
    }

    /// Returns the index, below 128.
    #[inline]
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// Returns the bytes from one slot to the next, or 0 for the large classes, whose spans have
    /// one slot.
    #[inline]
    #[must_use]
    pub const fn stride_bytes(self) -> u64 {
        self.row().stride_bytes as u64
    }

    /// Returns ceil(2^64 / stride), or 0 for the large classes: the high half of its product with
    /// a number of bytes below 2^44 is that number divided by the stride, or 0.
    #[inline]
    #[must_use]
    pub const fn reciprocal(self) -> u64 {
        self.row().reciprocal
    }

    /// Returns how far into its slot the payload begins: 0 or 128.
    #[inline]
    #[must_use]
    pub const fn colour_bytes(self) -> u64 {
        self.row().colour_bytes as u64
    }

    /// Returns the most bytes of a block, or 0 for the large classes: ask
    /// [`Self::usable_in`].
    #[inline]
    #[must_use]
    pub const fn usable_bytes(self) -> u64 {
        self.stride_bytes().saturating_sub(self.colour_bytes())
    }

    /// Returns the most bytes of a block in a span of `pages`, of any class.
    #[inline]
    #[must_use]
    pub const fn usable_in(self, pages: PageCount) -> u64 {
        if self.is_large() {
            pages.bytes().saturating_sub(self.colour_bytes())
        } else {
            self.usable_bytes()
        }
    }

    /// Returns whether a span of the class is one block.
    #[inline]
    #[must_use]
    pub const fn is_large(self) -> bool {
        self.0 >= Self::LARGE.0
    }

    /// Returns whether the class uses the fine slot table: its stride is below 1 KiB.
    #[inline]
    #[must_use]
    pub const fn is_fine(self) -> bool {
        self.stride_bytes() < FINE_BELOW_BYTES && !self.is_large()
    }

    /// Returns how many pages a span of the class has unless the pool is nearly full; 1 for the
    /// large classes, whose spans are as long as their block.
    #[inline]
    #[must_use]
    pub const fn span_pages(self) -> PageCount {
        PageCount::new(self.row().span_pages as u32)
    }

    /// Returns the fewest pages of a span of the class: those that hold one block.
    #[inline]
    #[must_use]
    pub const fn min_span_pages(self) -> PageCount {
        PageCount::new(self.row().min_span_pages as u32)
    }

    /// Returns how many slots a span of `pages` has: 0 if a span of the class cannot have that
    /// length.
    #[inline]
    #[must_use]
    pub const fn slots(self, pages: PageCount) -> u32 {
        if self.is_large() {
            (pages.get() > 0) as u32
        } else if pages.get() > MAX_SPAN_PAGES.get() {
            0
        } else {
            low_u32(self.divide(pages.bytes()))
        }
    }

    /// Returns the slot whose payload starts exactly `offset_in_span` bytes into a span of
    /// `pages`, or `None` if none does.
    #[inline]
    #[must_use]
    pub const fn slot_of(self, offset_in_span: u64, pages: PageCount) -> Option<u32> {
        let Some(start_bytes) = offset_in_span.checked_sub(self.colour_bytes()) else {
            return None;
        };
        // A stride of 0, of the large classes, lets through 0 alone. The product wraps only far
        // beyond any span, where it differs from the start.
        let slot = self.divide(start_bytes);
        let exact = slot.wrapping_mul(self.stride_bytes()) == start_bytes;
        // The slot's end instead of the number of slots, which would be a second division.
        let inside = start_bytes.saturating_add(self.stride_bytes()) <= pages.bytes();
        let usual = pages.get() <= MAX_SPAN_PAGES.get();
        if exact && inside && (usual || self.is_large()) && pages.get() > 0 {
            Some(low_u32(slot))
        } else {
            None
        }
    }

    /// Returns how many bytes into the span the payload of `slot` starts.
    #[inline]
    #[must_use]
    pub const fn offset_of_slot(self, slot: u32) -> u64 {
        slot as u64 * self.stride_bytes() + self.colour_bytes()
    }

    /// Returns `bytes / stride`, exact for `bytes` below 2^44 and close beyond; 0 for the large
    /// classes.
    ///
    /// With `m = ceil(2^64 / stride) = (2^64 + e) / stride` and `e < stride`, the high half of
    /// `bytes × m` is the quotient as long as `bytes × e < 2^64`, and a stride is at most 2^20.
    #[inline(always)]
    const fn divide(self, bytes: u64) -> u64 {
        high_half(bytes as u128 * self.row().reciprocal as u128)
    }

    #[inline(always)]
    const fn row(self) -> &'static Row {
        &ROWS[(self.0 & 127) as usize]
    }
}

/// Returns the smallest plain class that holds `size_bytes`, from 1 to 1 MiB.
#[inline]
const fn plain_index(size_bytes: u64) -> u8 {
    let last = size_bytes - 1;
    let index = if last < 64 {
        last / 16
    } else {
        // The two bits below the highest choose among the four classes of a doubling.
        let doubling = last.ilog2() as u64 - 6;
        4 + 4 * doubling + ((last >> (doubling + 4)) & 3)
    };
    low_u8(index)
}

/// Returns the stride of a plain class.
#[inline]
const fn plain_stride_bytes(index: u8) -> u64 {
    if index < 4 {
        16 * (index as u64 + 1)
    } else {
        let step = index as u64 - 4;
        (5 + step % 4) << (4 + step / 4)
    }
}

/// Returns the usual span length of a stride: the shortest that wastes at most a sixteenth in its
/// tail, and has slots enough that a span is not asked for at every few blocks.
const fn span_pages(stride_bytes: u64) -> u64 {
    let min_slots = match stride_bytes {
        0..0x8000 => 8,
        0x8000..0x4_0000 => 4,
        _ => 1,
    };
    let mut pages = 1;
    loop {
        let bytes = pages * PAGE_BYTES;
        if bytes / stride_bytes >= min_slots && bytes % stride_bytes <= bytes / 16 {
            assert!(pages <= MAX_SPAN_PAGES.get() as u64);
            return pages;
        }
        pages += 1;
    }
}

const fn rows() -> [Row; 128] {
    const LARGE: Row = Row {
        reciprocal: 0,
        stride_bytes: 0,
        colour_bytes: 0,
        span_pages: 1,
        min_span_pages: 1,
    };
    let mut rows = [LARGE; 128];
    rows[SizeClass::LARGE_COLOURED.0 as usize].colour_bytes = low_u16(COLOUR_BYTES);
    let mut index = 0;
    while index < N_PLAIN {
        let stride_bytes = plain_stride_bytes(index);
        let row = Row {
            reciprocal: u64::MAX / stride_bytes + 1,
            stride_bytes: low_u32(stride_bytes),
            colour_bytes: 0,
            span_pages: low_u8(span_pages(stride_bytes)),
            min_span_pages: low_u8(stride_bytes.div_ceil(PAGE_BYTES)),
        };
        rows[index as usize] = row;
        if index >= FIRST_TWINNED {
            let twin = (index + N_PLAIN - FIRST_TWINNED) as usize;
            rows[twin] = Row {
                colour_bytes: low_u16(COLOUR_BYTES),
                ..row
            };
        }
        index += 1;
    }
    rows
}

const _: () = assert!(plain_stride_bytes(FIRST_TWINNED) == TWINNED_BYTES);
const _: () = assert!(plain_stride_bytes(N_PLAIN - 1) == MAX_CLASS_BYTES);

/// Returns the pages that hold `bytes`, which the caller knows to be few enough.
const fn page_count(bytes: u64) -> PageCount {
    match PageCount::for_bytes(bytes) {
        Some(pages) => pages,
        None => unreachable!(),
    }
}

#[inline]
const fn high_half(product: u128) -> u64 {
    (product >> 64) as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the table's numbers are small"
)]
const fn low_u16(number: u64) -> u16 {
    assert!(number <= u16::MAX as u64);
    number as u16
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the table's numbers are small"
)]
#[inline]
const fn low_u8(number: u64) -> u8 {
    assert!(number <= u8::MAX as u64);
    number as u8
}

#[cfg(test)]
mod tests;

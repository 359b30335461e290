//! The geometry of an arena pool.
//!
//! ```text
//! DATA      header    4 KiB
//!           slots     arenas × 128 B   arena word, cursor, waiting
//!           guard     64 KiB and on to a multiple of 2 MiB; no access in any mapping
//!           arenas    each at the next multiple of 4 KiB
//!
//! CONTROL   header    4 KiB
//!           records   65 536 × 128 B
//! ```

use core::ops::Range;

use super::{
    GeometryError, HEADER_BYTES, MAX_RECORDS, MEMBERS_BYTES, OS_PAGE_BYTES, Offset, PAGE_BYTES,
    RECORD_BYTES, align, payload_after,
};
use crate::units::{GRAIN_BYTES, low_u32, round_up};

/// Bytes of an arena's slot.
pub const ARENA_SLOT_BYTES: u64 = 128;
/// The most arenas of a pool.
pub const MAX_ARENAS: u32 = 1 << 16;
/// The most bytes of one arena: a cursor counts units of 16 bytes in 32 bits, 64 GiB less 16.
pub const MAX_ARENA_BYTES: u64 = u32::MAX as u64 * GRAIN_BYTES;
/// The most bytes of all arenas of a pool, each rounded up to 4 KiB: 1 TiB.
pub const MAX_ARENA_POOL_BYTES: u64 = 1 << 40;

/// Where everything lies in the segments of one arena pool.
///
/// # Invariants
///
/// 1 ≤ `arenas` ≤ [`MAX_ARENAS`], 1 ≤ `arena_bytes` ≤ [`MAX_ARENA_BYTES`], and all arenas together
/// are at most [`MAX_ARENA_POOL_BYTES`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArenaGeometry {
    arenas: u32,
    arena_bytes: u64,
    stride_bytes: u64,
    payload: u64,
}

impl ArenaGeometry {
    /// Makes the geometry of a pool of `arenas` arenas with `arena_bytes` each.
    ///
    /// # Errors
    ///
    /// [`GeometryError::ArenaCount`], [`GeometryError::EmptyArena`] and
    /// [`GeometryError::TooLarge`], of one arena or of all.
    pub fn new(arenas: u32, arena_bytes: u64) -> Result<Self, GeometryError> {
        if arenas == 0 || arenas > MAX_ARENAS {
            return Err(GeometryError::ArenaCount {
                arenas,
                limit: MAX_ARENAS,
            });
        }
        if arena_bytes == 0 {
            return Err(GeometryError::EmptyArena);
        }
        let too_large = |requested_bytes, limit_bytes| {
            Err(GeometryError::TooLarge {
                requested_bytes,
                limit_bytes,
            })
        };
        let stride_bytes = match round_up(arena_bytes, OS_PAGE_BYTES) {
            Some(stride_bytes) if arena_bytes <= MAX_ARENA_BYTES => stride_bytes,
            _ => return too_large(arena_bytes, MAX_ARENA_BYTES),
        };
        let total_bytes = stride_bytes * u64::from(arenas);
        if total_bytes > MAX_ARENA_POOL_BYTES {
            return too_large(total_bytes, MAX_ARENA_POOL_BYTES);
        }
        let payload = payload_after(guard_start(arenas));
        Ok(Self {
            arenas,
            arena_bytes,
            stride_bytes,
            payload,
        })
    }

    /// Returns the number of arenas.
    #[inline]
    #[must_use]
    pub const fn arenas(&self) -> u32 {
        self.arenas
    }

    /// Returns the usable bytes of each arena.
    #[inline]
    #[must_use]
    pub const fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// Returns the bytes from one arena to the next, a multiple of 4 KiB.
    #[inline]
    #[must_use]
    pub const fn stride_bytes(&self) -> u64 {
        self.stride_bytes
    }

    /// Returns the length of the DATA segment, a multiple of 64 KiB.
    #[must_use]
    pub const fn data_bytes(&self) -> u64 {
        align(self.payload_range().end, PAGE_BYTES)
    }

    /// Returns the length of the CONTROL segment, a multiple of 64 KiB.
    #[must_use]
    pub const fn control_bytes(&self) -> u64 {
        align(self.members_range().end, PAGE_BYTES)
    }

    /// Returns where the arena slots lie in DATA.
    #[must_use]
    pub const fn slots_range(&self) -> Range<u64> {
        HEADER_BYTES..HEADER_BYTES + self.arenas as u64 * ARENA_SLOT_BYTES
    }

    /// Returns where the guard lies in DATA, to be mapped without access.
    #[must_use]
    pub const fn guard_range(&self) -> Range<u64> {
        guard_start(self.arenas)..self.payload
    }

    /// Returns where the arenas lie in DATA; the first starts at a multiple of 2 MiB.
    #[must_use]
    pub const fn payload_range(&self) -> Range<u64> {
        self.payload..self.payload + self.arenas as u64 * self.stride_bytes
    }

    /// Returns where the records lie in CONTROL.
    #[must_use]
    pub const fn records_range(&self) -> Range<u64> {
        HEADER_BYTES..HEADER_BYTES + MAX_RECORDS as u64 * RECORD_BYTES
    }

    /// Returns where the member words lie in CONTROL.
    #[must_use]
    pub const fn members_range(&self) -> Range<u64> {
        let start = self.records_range().end;
        start..start + MEMBERS_BYTES
    }

    /// Returns where arena `index` starts in DATA.
    #[inline]
    #[must_use]
    pub const fn arena_offset(&self, index: u32) -> Offset {
        debug_assert!(index < self.arenas);
        Offset::new(self.payload + index as u64 * self.stride_bytes)
    }

    /// Returns where the slot of arena `index` lies in DATA.
    #[inline]
    #[must_use]
    pub const fn arena_slot_offset(&self, index: u32) -> u64 {
        debug_assert!(index < self.arenas);
        HEADER_BYTES + index as u64 * ARENA_SLOT_BYTES
    }

    /// Returns the arena that `offset` in DATA lies in and how many bytes into it, or `None`
    /// outside the usable bytes of every arena.
    #[inline]
    #[must_use]
    pub const fn arena_of(&self, offset: Offset) -> Option<(u32, u64)> {
        let Some(in_payload) = offset.get().checked_sub(self.payload) else {
            return None;
        };
        let (index, inside) = (
            in_payload / self.stride_bytes,
            in_payload % self.stride_bytes,
        );
        if index < self.arenas as u64 && inside < self.arena_bytes {
            Some((low_u32(index), inside))
        } else {
            None
        }
    }

    /// Returns where record `index`, below [`MAX_RECORDS`], lies in CONTROL.
    #[must_use]
    pub const fn record_offset(&self, index: u32) -> u64 {
        debug_assert!(index < MAX_RECORDS);
        HEADER_BYTES + index as u64 * RECORD_BYTES
    }
}

/// Returns where the guard starts: at the first multiple of 4 KiB after the slots.
const fn guard_start(arenas: u32) -> u64 {
    align(
        HEADER_BYTES + arenas as u64 * ARENA_SLOT_BYTES,
        OS_PAGE_BYTES,
    )
}

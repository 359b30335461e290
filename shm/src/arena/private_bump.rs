//! What the holder of an arena keeps for itself: how far it is with the part that it reserved.
//!
//! ```text
//!            base        next           end                              limit
//! ├───────────┼───────────┼──────────────┼─────────────────────────────────┤
//!  others of   allocated   reserved       free: the shared cursor points to `end`
//!  the session
//! ```
//!
//! The holder moves the shared cursor ahead, a step at a time, and bumps in what it got by that
//! without a shared write. So the cursor is never behind an allocation, and whoever bumps by it
//! meanwhile, as another thread of the session or the daemon for it may, gets other bytes. The
//! reservations count as one allocation in the shared count, which therefore does not fall to
//! zero, and the arena is not emptied under them.
//!
//! A thread-local allocation buffer, as in the garbage collectors that made bump allocation
//! their fast path.

use std::cell::Cell;

use goumem_alloc::{GRAIN_BYTES, Generation, MAX_ARENA_BYTES, OS_PAGE_BYTES};

use super::{ArenaWords, Units};

/// How far ahead the cursor is moved: by this much at most does an arena look fuller from outside
/// than it is. An exchange in 64 allocations of 64 bytes does not show beside them.
pub(crate) const STEP_BYTES: u64 = 4096;
const STEP: u64 = STEP_BYTES / GRAIN_BYTES;

/// Why an allocation is not to be had in what is left of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReserveRefusal {
    /// The cursor belongs to another life.
    Stale,
    /// It does not fit: so many bytes are left.
    Full(u64),
}

/// The reserved part of an arena.
#[derive(Debug)]
pub(crate) struct PrivateBump {
    /// In one word, so that an allocation changes one: the allocations alive from `base` on in its
    /// upper half (each has a unit at least, so they fit), and `next` in its lower one, in units.
    at: Cell<u64>,
    /// Whole units that are reserved: where the last one of the arena is short, without that.
    end: Cell<u64>,
    /// Where the shared cursor was put last: `end`, and the short last unit.
    cursor: Cell<Units>,
    base: Cell<Units>,
    /// Others of the session have bumped in between, so that of the allocations alive some lie
    /// before `base`.
    split: Cell<bool>,
    limit_bytes: u64,
}

/// One more in the upper half of `at`.
const ONE_ALIVE: u64 = 1 << 32;

impl PrivateBump {
    /// Begins with nothing, in an arena of `limit_bytes` whose cursor is at `cursor`.
    #[inline]
    pub(crate) fn new(cursor: Units, limit_bytes: u64) -> Self {
        Self {
            at: Cell::new(cursor.into()),
            end: Cell::new(cursor.into()),
            cursor: Cell::new(cursor),
            base: Cell::new(cursor),
            split: Cell::new(false),
            limit_bytes,
        }
    }

    /// Allocates in what is reserved; `None` if that does not do. Returns where it starts, in
    /// bytes.
    #[inline]
    pub(crate) fn alloc(&self, size_bytes: u64, align_bytes: u64) -> Option<u64> {
        if !is_possible(size_bytes, align_bytes) {
            return None;
        }
        let at = self.at.get();
        let next = at & u64::from(Units::MAX);
        // Nothing here wraps: units and sizes are far from 2^64, and `end` is in the lower half of
        // `at` as `self.end` is. Saying so spares as many instructions as all the rest takes.
        let start = align_up(next, align_bytes);
        let end = start.wrapping_add(size_bytes.div_ceil(GRAIN_BYTES));
        if end > self.end.get() {
            return None;
        }
        let taken = end.wrapping_sub(next).wrapping_add(ONE_ALIVE);
        self.at.set(at.wrapping_add(taken));
        Some(start * GRAIN_BYTES)
    }

    /// As `alloc`, after reserving more. Size and alignment are possible ones.
    ///
    /// # Errors
    /// `Full`, `Stale`.
    #[cold]
    pub(crate) fn reserve_and_alloc(
        &self,
        words: ArenaWords<'_>,
        generation: Generation,
        size_bytes: u64,
        align_bytes: u64,
    ) -> Result<u64, ReserveRefusal> {
        loop {
            if let Some(start) = self.alloc(size_bytes, align_bytes) {
                return Ok(start);
            }
            let next = u64::from(self.next());
            let start = align_up(next, align_bytes);
            let end_bytes = (start * GRAIN_BYTES).checked_add(size_bytes);
            if end_bytes.is_none_or(|end| end > self.limit_bytes) {
                let left = self.limit_bytes.saturating_sub(next * GRAIN_BYTES);
                return Err(ReserveRefusal::Full(left));
            }
            let end = start + size_bytes.div_ceil(GRAIN_BYTES);
            let cursor = self.cursor.get();
            if end <= cursor.into() {
                // It ends in the short last unit, which is reserved already.
                let at = self.at.get();
                self.at.set(at + (end - next) + ONE_ALIVE);
                return Ok(start * GRAIN_BYTES);
            }
            let limit = self.limit_bytes.div_ceil(GRAIN_BYTES);
            let to = limit.min(u64::from(cursor) + STEP).max(end);
            let to = Units::try_from(to).expect("an arena has less than 2^32 units");
            match words.move_cursor(generation, cursor, to) {
                Ok(()) => self.set_cursor(to),
                Err(None) => return Err(ReserveRefusal::Stale),
                Err(Some(seen)) => {
                    // Others of the session have bumped: on behind them.
                    self.at.set(seen.into());
                    self.base.set(seen);
                    self.split.set(true);
                    self.set_cursor(seen);
                }
            }
        }
    }

    /// Frees one of its own, which starts at `start_bytes`: the newest one's bytes come back, and
    /// the last living one's free brings all of it back.
    #[inline]
    pub(crate) fn free(&self, start_bytes: u64, size_bytes: u64) {
        let at = self.at.get();
        let at = at.checked_sub(ONE_ALIVE).unwrap_or(at);
        let next = at & u64::from(Units::MAX);
        let start = start_bytes / GRAIN_BYTES;
        let to = if at < ONE_ALIVE && !self.split.get() {
            self.base.get().into()
        } else if start + size_bytes.div_ceil(GRAIN_BYTES) == next
            && start >= self.base.get().into()
        {
            start
        } else {
            next
        };
        self.at.set(at - next + to);
    }

    /// Gives up what is reserved and not allocated, so that the cursor says what is in use. Does
    /// nothing when others have bumped behind it.
    pub(crate) fn trim(&self, words: ArenaWords<'_>, generation: Generation) {
        let (next, cursor) = (self.next(), self.cursor.get());
        if next < cursor && words.move_cursor(generation, cursor, next).is_ok() {
            self.set_cursor(next);
        }
    }

    /// Returns where the next allocation starts, in units.
    #[inline]
    pub(crate) fn next(&self) -> Units {
        low32(self.at.get())
    }

    /// Returns where the cursor is if nobody else has bumped.
    #[inline]
    pub(crate) fn cursor(&self) -> Units {
        self.cursor.get()
    }

    fn set_cursor(&self, cursor: Units) {
        self.cursor.set(cursor);
        let whole = self.limit_bytes / GRAIN_BYTES;
        self.end.set(whole.min(cursor.into()));
    }
}

/// Returns whether any arena has room for so much, so aligned. Arenas start on OS pages, so what
/// is aligned in the arena is aligned in memory.
#[inline]
pub(crate) fn is_possible(size_bytes: u64, align_bytes: u64) -> bool {
    size_bytes != 0
        && size_bytes <= MAX_ARENA_BYTES
        && align_bytes <= OS_PAGE_BYTES
        && (align_bytes == 0 || align_bytes.is_power_of_two())
}

/// Returns the next multiple of an alignment in bytes, all else in units.
#[inline]
fn align_up(units: u64, align_bytes: u64) -> u64 {
    let mask = align_bytes.div_ceil(GRAIN_BYTES).max(1) - 1;
    units.wrapping_add(mask) & !mask
}

#[inline]
fn low32(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests;

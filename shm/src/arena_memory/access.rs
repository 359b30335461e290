//! What may be done in a held arena: allocating and freeing in it, copying in and out.

use goumem_alloc::{GRAIN_BYTES, Handle, HandleKind, OS_PAGE_BYTES, Offset, SessionNumber};

use super::{ArenaMemory, ArenaPlace};
use crate::arena::{ArenaState, ArenaWords};
use crate::element::AtomicElement;
use crate::error::AccessError;
use crate::os::to_u64;
use crate::sync::{Ordering, fence};

impl ArenaMemory {
    /// Allocates in an arena. Whether the caller holds it is the caller's to know for a named
    /// arena; an exclusive one is only bumped by its holder.
    ///
    /// # Errors
    /// As `resolve`; `NotOwner`, `ArenaFull`, `ZeroSize`, `ReadOnly`.
    pub fn alloc(
        &self,
        arena: Handle,
        session: SessionNumber,
        size_bytes: u64,
        align_bytes: u64,
    ) -> Result<Handle, AccessError> {
        check_size(size_bytes, align_bytes)?;
        let (at, words) = self.writable_words(arena)?;
        let generation = arena.generation();
        let held = words.load();
        if !held.is_held(generation) {
            return Err(AccessError::Stale { handle: arena });
        }
        let exclusive = held.state() == Some(ArenaState::Exclusive);
        if exclusive && held.owner() != session {
            return Err(AccessError::NotOwner {
                handle: arena,
                owner: held.owner(),
            });
        }
        if exclusive {
            words.count_alloc(generation);
        }
        let outcome = self.bump(words, arena, size_bytes, align_bytes);
        if outcome.is_err() && exclusive {
            words.uncount_alloc(generation);
        }
        let offset = self.geometry.arena_offset(at.index).get() + outcome?;
        let kind = HandleKind::ArenaAllocation;
        Ok(Handle::new(
            self.pool,
            generation,
            Offset::new(offset),
            kind,
        ))
    }

    /// Allocates by the shared cursor in an arena that is held by name; returns how many bytes into
    /// it. Size and alignment are possible ones.
    ///
    /// # Errors
    /// `Stale` when it is not; `ArenaFull`.
    #[inline]
    pub(crate) fn bump_named(
        &self,
        words: ArenaWords<'_>,
        arena: Handle,
        size_bytes: u64,
        align_bytes: u64,
    ) -> Result<u64, AccessError> {
        let held = words.load();
        if held.state() != Some(ArenaState::Named) || !held.is_held(arena.generation()) {
            return Err(AccessError::Stale { handle: arena });
        }
        self.bump(words, arena, size_bytes, align_bytes)
    }

    /// Advances the shared cursor. Size and alignment are possible ones.
    #[inline]
    fn bump(
        &self,
        words: ArenaWords<'_>,
        arena: Handle,
        size_bytes: u64,
        align_bytes: u64,
    ) -> Result<u64, AccessError> {
        let full = || AccessError::ArenaFull {
            requested_bytes: size_bytes,
            free_bytes: self.geometry.arena_bytes() - self.used_of(words, arena),
        };
        // The last unit may be short: what starts by `last_start` ends inside the arena.
        let last_start = self.geometry.arena_bytes().checked_sub(size_bytes);
        let last_start = last_start.ok_or_else(full)? / GRAIN_BYTES;
        let fits = "an arena has less than 2^32 units";
        let size = units(size_bytes).expect(fits);
        let limit = u32::try_from(last_start).expect(fits).saturating_add(size);
        let align = units(align_bytes.max(GRAIN_BYTES)).expect("at most an OS page");
        match words.bump(arena.generation(), size, align, limit) {
            Ok(start) => Ok(u64::from(start) * GRAIN_BYTES),
            Err(None) => Err(AccessError::Stale { handle: arena }),
            Err(Some(_)) => Err(full()),
        }
    }

    /// Frees an allocation: for the exclusive holder the newest one's bytes come back and the
    /// last living one empties the arena; in a shared arena nothing happens. Returns the bytes
    /// in use after.
    ///
    /// # Errors
    /// As `resolve`; `NotOwner`, `ReadOnly`, `OutOfRange` for bytes that are not in use.
    pub fn free(
        &self,
        allocation: Handle,
        session: SessionNumber,
        size_bytes: u64,
    ) -> Result<u64, AccessError> {
        self.require_writable()?;
        if allocation.kind() != HandleKind::ArenaAllocation {
            let expected = "allocation in an arena";
            return Err(AccessError::WrongKind {
                handle: allocation,
                expected,
            });
        }
        let (at, words) = self.resolve(allocation)?;
        let limit_bytes = self.used_of(words, allocation);
        let in_use = at
            .inside_bytes
            .checked_add(size_bytes)
            .is_some_and(|end| size_bytes > 0 && end <= limit_bytes);
        let (Some(start), Some(size), true) = (units(at.inside_bytes), units(size_bytes), in_use)
        else {
            return Err(AccessError::OutOfRange {
                offset_bytes: at.inside_bytes,
                length_bytes: size_bytes,
                limit_bytes,
            });
        };
        let held = words.load();
        if held.state() == Some(ArenaState::Exclusive) {
            if held.owner() != session {
                return Err(AccessError::NotOwner {
                    handle: allocation,
                    owner: held.owner(),
                });
            }
            words.free_newest(allocation.generation(), start, size);
        }
        Ok(self.used_of(words, allocation))
    }

    /// Returns how many bytes of a held arena are in use.
    ///
    /// # Errors
    /// As `resolve`.
    pub fn used_bytes(&self, arena: Handle) -> Result<u64, AccessError> {
        let (_, words) = self.resolve(arena)?;
        Ok(self.used_of(words, arena))
    }

    /// Copies bytes out of an arena from where the handle points, and checks afterwards that it
    /// is still the same life of it.
    ///
    /// # Errors
    /// As `resolve`; `OutOfRange` past the arena's end; `Stale` when it was returned or reset
    /// during the copy.
    pub fn read(
        &self,
        handle: Handle,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), AccessError> {
        let (at, words) = self.resolve(handle)?;
        let start = self.checked_range(&at, offset_bytes, into.len())?;
        self.data
            .copy_out(start, into)
            .map_err(|_| self.corrupt("geometry", handle.offset()))?;
        // ORDERING: keeps the copy before the second load; pairs with `fence_before_reuse`, as in
        // `PoolMemory::read_resolved`.
        fence(Ordering::Acquire);
        require_held(words, handle)
    }

    /// Copies bytes into an arena from where the handle points.
    ///
    /// # Errors
    /// As `resolve`; `OutOfRange`, `ReadOnly`; `Stale` when it was returned or reset meanwhile.
    pub fn write(
        &self,
        handle: Handle,
        offset_bytes: u64,
        bytes: &[u8],
    ) -> Result<(), AccessError> {
        self.require_writable()?;
        let (at, words) = self.resolve(handle)?;
        let start = self.checked_range(&at, offset_bytes, bytes.len())?;
        self.data
            .copy_in(start, bytes)
            .map_err(|_| self.corrupt("geometry", handle.offset()))?;
        require_held(words, handle)
    }

    /// Returns a reference to atomics at a place in an arena: valid memory for as long as the
    /// mapping, though another life of the arena may use it once this one is over.
    ///
    /// # Errors
    /// As `resolve`; `OutOfRange`, `WrongLength` (alignment), `ReadOnly`.
    pub fn atomics<A: AtomicElement>(
        &self,
        handle: Handle,
        offset_bytes: u64,
    ) -> Result<&A, AccessError> {
        self.require_writable()?;
        let (at, _) = self.resolve(handle)?;
        let start = self.checked_range(&at, offset_bytes, size_of::<A>())?;
        let pointer = self
            .data
            .pointer_mut(start, to_u64(size_of::<A>()))
            .map_err(|_| self.corrupt("geometry", handle.offset()))?
            .cast::<A>();
        if !pointer.is_aligned() {
            return Err(AccessError::WrongLength {
                expected_bytes: to_u64(align_of::<A>()),
                found_bytes: offset_bytes,
            });
        }
        // SAFETY:
        // - the bytes are mapped at the pointer and stay so while `self` is borrowed;
        // - aligned (checked); every bit pattern is valid and all of it is atomics
        //   (AtomicElement's contract), so concurrent writers make values, not data races.
        Ok(unsafe { pointer.as_ref() })
    }

    /// Returns how many bytes of the handle's life of an arena are in use, whatever its cursor
    /// says.
    fn used_of(&self, words: ArenaWords<'_>, handle: Handle) -> u64 {
        let used_bytes = u64::from(words.used(handle.generation())) * GRAIN_BYTES;
        used_bytes.min(self.geometry.arena_bytes())
    }

    fn checked_range(
        &self,
        at: &ArenaPlace,
        offset_bytes: u64,
        len: usize,
    ) -> Result<u64, AccessError> {
        let limit_bytes = self.geometry.arena_bytes() - at.inside_bytes;
        let length_bytes = to_u64(len);
        let start = self.geometry.arena_offset(at.index).get() + at.inside_bytes;
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= limit_bytes => Ok(start + offset_bytes),
            _ => Err(AccessError::OutOfRange {
                offset_bytes,
                length_bytes,
                limit_bytes,
            }),
        }
    }
}

/// Refuses a size or an alignment that no allocation has.
#[inline]
pub(crate) fn check_size(size_bytes: u64, align_bytes: u64) -> Result<(), AccessError> {
    if size_bytes == 0 {
        return Err(AccessError::ZeroSize);
    }
    // Arenas start on OS pages, so an offset aligned in the arena is aligned in memory.
    if align_bytes > OS_PAGE_BYTES || !align_bytes.max(1).is_power_of_two() {
        return Err(AccessError::WrongLength {
            expected_bytes: align_bytes,
            found_bytes: OS_PAGE_BYTES,
        });
    }
    Ok(())
}

#[inline]
fn units(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.div_ceil(GRAIN_BYTES)).ok()
}

fn require_held(words: ArenaWords<'_>, handle: Handle) -> Result<(), AccessError> {
    if words.load().is_held(handle.generation()) {
        Ok(())
    } else {
        Err(AccessError::Stale { handle })
    }
}

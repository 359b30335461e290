//! An arena that this process holds, and what of it is nobody else's: the fast way to bump.
//!
//! While a session holds an arena alone, one holder in one process has the right to bump it: it
//! moves the shared cursor ahead now and then, and what lies between is its own
//! (`arena/private_bump.rs`). By name, it bumps the shared cursor, as all others do.

use std::sync::Arc;

use goumem_alloc::{GRAIN_BYTES, Handle, SessionNumber};

use crate::arena::private_bump::{PrivateBump, ReserveRefusal};
use crate::arena::{ArenaSnapshot, ArenaState};
use crate::arena_memory::{ArenaMemory, check_size, refusal};
use crate::error::AccessError;

mod bytes;
#[cfg(test)]
mod tests;

pub use bytes::ArenaBytes;

/// An arena that a session holds, alone or by name. `M` is what keeps the memory mapped.
///
/// It is for one thread at a time, as a bump allocator is that takes a nanosecond; what points
/// into the arena ([`ArenaBytes`]) is for all. It does not give the arena back by itself.
#[derive(Debug)]
pub struct HeldArena<M> {
    bump: PrivateBump,
    /// The arena word for as long as the session holds it alone.
    alone: ArenaSnapshot,
    session: SessionNumber,
    bytes: ArenaBytes<M>,
}

impl<M: AsRef<ArenaMemory>> HeldArena<M> {
    /// Gets a free arena for `session` alone, looking from arena `from` on; `None` when none is
    /// free, or the memory is mapped read-only or in the parent of this process.
    #[inline]
    pub fn get(keeper: &Arc<M>, session: SessionNumber, from: u32) -> Option<Self> {
        let memory: &ArenaMemory = (**keeper).as_ref();
        let (index, generation) =
            memory.claim_from(from, |words| words.claim_privately(session))?;
        let handle = memory.handle(index, generation);
        Some(Self {
            bump: PrivateBump::new(0, memory.geometry().arena_bytes()),
            alone: ArenaSnapshot::exclusive(generation, session),
            session,
            bytes: ArenaBytes::new(Arc::clone(keeper), index, handle, true)?,
        })
    }

    /// Becomes the holder of an arena that the daemon has got for `session`, alone or by name, to
    /// write it or not.
    ///
    /// # Errors
    /// As [`ArenaMemory::resolve`]; `NotOwner`.
    pub fn of(
        keeper: &Arc<M>,
        session: SessionNumber,
        handle: Handle,
        writable: bool,
    ) -> Result<Self, AccessError> {
        let memory: &ArenaMemory = (**keeper).as_ref();
        let stale = AccessError::Stale { handle };
        let (at, words) = memory.resolve(handle)?;
        let generation = handle.generation();
        let word = words.load();
        if word.state() == Some(ArenaState::Exclusive) {
            if word.owner() != session {
                let owner = word.owner();
                return Err(AccessError::NotOwner { handle, owner });
            }
            memory.require_writable()?;
            words.count_alloc(generation);
        }
        let cursor = words.used(generation);
        let handle = memory.handle(at.index, generation);
        Ok(Self {
            bump: PrivateBump::new(cursor, memory.geometry().arena_bytes()),
            alone: ArenaSnapshot::exclusive(generation, session),
            session,
            bytes: ArenaBytes::new(Arc::clone(keeper), at.index, handle, writable).ok_or(stale)?,
        })
    }

    /// Empties an arena held alone: every handle into it is stale.
    ///
    /// # Errors
    /// As [`ArenaMemory::reset`].
    pub fn reset(&mut self) -> Result<(), AccessError> {
        self.bytes.require_writable()?;
        let (old, memory) = (self.handle(), self.bytes.memory());
        let words = self.bytes.words();
        let generation = words
            .reset_privately(old.generation(), self.session)
            .map_err(|r| refusal(r, old))?;
        self.alone = ArenaSnapshot::exclusive(generation, self.session);
        self.bump = PrivateBump::new(0, memory.geometry().arena_bytes());
        let handle = memory.handle(self.bytes.index(), generation);
        self.bytes.set_handle(handle);
        Ok(())
    }

    /// Gives the unused rest of what was reserved back to the arena, before others look at it.
    pub fn trim(&mut self) {
        if self.bytes.require_writable().is_ok() {
            self.bump
                .trim(self.bytes.words(), self.handle().generation());
        }
    }

    /// Returns the arena to its pool, if it is held alone.
    ///
    /// # Errors
    /// As [`ArenaMemory::give_back`].
    #[inline]
    pub fn give_back(&mut self) -> Result<(), AccessError> {
        self.bytes.require_writable()?;
        let handle = self.handle();
        self.bytes
            .words()
            .give_back(handle.generation(), self.session)
            .map_err(|r| refusal(r, handle))
    }

    /// Allocates; returns how many bytes into the arena.
    ///
    /// # Errors
    /// `Stale`, `ArenaFull`, `ZeroSize`, `WrongLength` (an impossible alignment), `ReadOnly`,
    /// `Forked`.
    #[inline]
    pub fn alloc(&self, size_bytes: u64, align_bytes: u64) -> Result<u64, AccessError> {
        // Nothing shared is looked at: that the arena was taken back is noticed when the next part
        // is reserved, and by every use of what was allocated.
        if !self.bytes.is_inherited()
            && let Some(inside_bytes) = self.bump.alloc(size_bytes, align_bytes)
        {
            return Ok(inside_bytes);
        }
        self.alloc_shared(size_bytes, align_bytes)
    }

    /// As `alloc`, by the shared cursor.
    #[cold]
    fn alloc_shared(&self, size_bytes: u64, align_bytes: u64) -> Result<u64, AccessError> {
        self.bytes.require_writable()?;
        let (handle, memory) = (self.handle(), self.bytes.memory());
        check_size(size_bytes, align_bytes)?;
        let words = self.bytes.words();
        if words.is_still(self.alone) {
            let generation = handle.generation();
            let outcome = self
                .bump
                .reserve_and_alloc(words, generation, size_bytes, align_bytes);
            return outcome.map_err(|refusal| match refusal {
                ReserveRefusal::Stale => AccessError::Stale { handle },
                ReserveRefusal::Full(free_bytes) => AccessError::ArenaFull {
                    requested_bytes: size_bytes,
                    free_bytes,
                },
            });
        }
        memory.bump_named(words, handle, size_bytes, align_bytes)
    }

    /// Frees an allocation: if the arena is held alone the newest one's bytes come back, and the
    /// last living one empties the arena; by name nothing happens. Returns the bytes in use after.
    ///
    /// # Errors
    /// `Stale`, `OutOfRange` for bytes that are not in use, `ReadOnly`, `Forked`.
    pub fn free(&self, inside_bytes: u64, size_bytes: u64) -> Result<u64, AccessError> {
        self.bytes.require_writable()?;
        let limit_bytes = self.used_bytes()?;
        let end = inside_bytes.checked_add(size_bytes);
        if size_bytes == 0 || end.is_none_or(|end| end > limit_bytes) {
            return Err(AccessError::OutOfRange {
                offset_bytes: inside_bytes,
                length_bytes: size_bytes,
                limit_bytes,
            });
        }
        if !self.bytes.words().is_still(self.alone) {
            return Ok(limit_bytes);
        }
        self.bump.free(inside_bytes, size_bytes);
        self.used_bytes()
    }

    /// Returns how many bytes of it are in use.
    ///
    /// # Errors
    /// `Stale`, `Forked`.
    pub fn used_bytes(&self) -> Result<u64, AccessError> {
        let handle = self.handle();
        self.bytes.require_held(|| handle)?;
        let words = self.bytes.words();
        let mut used = words.used(handle.generation());
        if words.is_still(self.alone) && used == self.bump.cursor() {
            used = self.bump.next();
        }
        let used_bytes = u64::from(used) * GRAIN_BYTES;
        Ok(used_bytes.min(self.bytes.memory().geometry().arena_bytes()))
    }

    /// Returns the arena's handle, which changes when it is reset.
    #[inline]
    pub fn handle(&self) -> Handle {
        self.bytes.handle()
    }

    /// Returns its bytes.
    #[inline]
    pub fn bytes(&self) -> &ArenaBytes<M> {
        &self.bytes
    }
}

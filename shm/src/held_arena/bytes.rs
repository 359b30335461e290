//! The bytes of a held arena: copying in and out, by places in it.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use goumem_alloc::Handle;

use crate::arena::ArenaWords;
use crate::arena_memory::ArenaMemory;
use crate::element::AtomicElement;
use crate::error::AccessError;
use crate::os::fork::Born;
use crate::os::to_u64;
use crate::sync::{AtomicU64, Ordering, fence};

/// An arena in one of its lives, found once, and what keeps it mapped. Whether it is still that
/// life is asked at every use.
///
/// # Invariants
/// `words` are the words of an arena in the mapping of the [`ArenaMemory`] that `keeper` gave when
/// this was made. It was borrowed from `*keeper`, which is not touched but by `&` for as long as
/// an [`Arc`] of it is here; so the words stay mapped.
pub struct ArenaBytes<M> {
    words: NonNull<[AtomicU64; 3]>,
    handle: Handle,
    index: u32,
    /// Whether its holder may write, which the mapping allows then.
    writable: bool,
    born: Born,
    keeper: Arc<M>,
}

// SAFETY: the words are atomics of memory that is mapped for all threads; the rest is an `Arc`.
unsafe impl<M: Send + Sync> Send for ArenaBytes<M> {}
// SAFETY: as for `Send`.
unsafe impl<M: Send + Sync> Sync for ArenaBytes<M> {}

impl<M: AsRef<ArenaMemory>> ArenaBytes<M> {
    /// Finds arena `index`; `handle` names it. `None` past the last one.
    #[inline]
    pub(super) fn new(keeper: Arc<M>, index: u32, handle: Handle, writable: bool) -> Option<Self> {
        let memory: &ArenaMemory = (*keeper).as_ref();
        let writable = writable && memory.is_writable();
        let words = NonNull::from(memory.raw_words(index)?);
        // INVARIANT: borrowed from `*keeper` just now.
        Some(Self {
            words,
            handle,
            index,
            writable,
            born: Born::here(),
            keeper,
        })
    }

    /// Goes on with another life of the arena.
    pub(super) fn set_handle(&mut self, handle: Handle) {
        self.handle = handle;
    }

    /// Returns what keeps the arena mapped.
    #[inline]
    pub fn keeper(&self) -> &Arc<M> {
        &self.keeper
    }

    /// Returns the arena's handle.
    #[inline]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns whether this process is a forked child of the one that holds it.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.born.is_elsewhere()
    }

    /// Returns which arena of the pool it is.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the handle of what lies `inside_bytes` into the arena, a multiple of 16.
    #[inline]
    pub fn handle_of(&self, inside_bytes: u64) -> Handle {
        self.handle.allocation_at(inside_bytes)
    }

    /// Returns how many bytes into the arena a handle of this life points.
    ///
    /// # Errors
    /// As [`ArenaMemory::resolve`]; `Stale` also for another arena.
    pub fn inside_of(&self, handle: Handle) -> Result<u64, AccessError> {
        let at = self.memory().locate(handle)?;
        if at.index != self.index || handle.generation() != self.handle.generation() {
            return Err(AccessError::Stale { handle });
        }
        self.require_held(|| handle)?;
        Ok(at.inside_bytes)
    }

    /// Copies out of the arena from `inside_bytes` on, and checks afterwards that it is still the
    /// same life of it.
    ///
    /// # Errors
    /// `OutOfRange` past the arena's end; `Stale` when it was returned or reset, also during the
    /// copy; `Forked`.
    #[inline]
    pub fn read(&self, inside_bytes: u64, into: &mut [u8]) -> Result<(), AccessError> {
        let start = self.checked_range(inside_bytes, into.len())?;
        let memory = self.memory();
        if memory.data().copy_out(start, into).is_err() {
            return Err(self.corrupt());
        }
        // ORDERING: keeps the copy before the look at the word; pairs with `fence_before_reuse`,
        // as in `PoolMemory::read_resolved`.
        fence(Ordering::Acquire);
        self.require_held(|| self.handle_of(inside_bytes))
    }

    /// Copies into the arena from `inside_bytes` on.
    ///
    /// # Errors
    /// As `read`; `ReadOnly`.
    #[inline]
    pub fn write(&self, inside_bytes: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let start = self.checked_range(inside_bytes, bytes.len())?;
        let memory = self.memory();
        self.require_writable()?;
        self.require_held(|| self.handle_of(inside_bytes))?;
        if memory.data().copy_in(start, bytes).is_err() {
            return Err(self.corrupt());
        }
        self.require_held(|| self.handle_of(inside_bytes))
    }

    /// Returns a reference to atomics at a place in the arena: valid memory for as long as the
    /// mapping, though another life of the arena may use it once this one is over.
    ///
    /// # Errors
    /// As `write`; `WrongLength` (alignment).
    pub fn atomics<A: AtomicElement>(&self, inside_bytes: u64) -> Result<&A, AccessError> {
        self.require_writable()?;
        self.require_held(|| self.handle_of(inside_bytes))?;
        self.memory().atomics(self.handle_of(inside_bytes), 0)
    }

    /// Refuses a holder who may not write, and a child of the process that mapped the arena.
    ///
    /// # Errors
    /// `ReadOnly`, `Forked`.
    #[inline]
    pub fn require_writable(&self) -> Result<(), AccessError> {
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        if self.writable {
            Ok(())
        } else {
            let pool = self.handle.pool();
            Err(AccessError::ReadOnly { pool })
        }
    }

    #[inline]
    pub(super) fn memory(&self) -> &ArenaMemory {
        (*self.keeper).as_ref()
    }

    #[inline]
    pub(super) fn words(&self) -> ArenaWords<'_> {
        // SAFETY: mapped for as long as `self` lives, and atomics (invariant).
        let [word, cursor, live] = unsafe { self.words.as_ref() };
        ArenaWords::new(word, cursor, live)
    }

    /// Refuses a life that is over, by the handle that `named` says was used.
    #[inline]
    pub(super) fn require_held(&self, named: impl FnOnce() -> Handle) -> Result<(), AccessError> {
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        if self.words().load().is_held(self.handle.generation()) {
            Ok(())
        } else {
            let handle = named();
            Err(AccessError::Stale { handle })
        }
    }

    /// Returns where so many bytes lie in DATA.
    #[inline]
    fn checked_range(&self, inside_bytes: u64, len: usize) -> Result<u64, AccessError> {
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        let limit_bytes = self.memory().geometry().arena_bytes();
        let length_bytes = to_u64(len);
        match inside_bytes.checked_add(length_bytes) {
            Some(end) if end <= limit_bytes => Ok(self.handle.offset().get() + inside_bytes),
            _ => Err(AccessError::OutOfRange {
                offset_bytes: inside_bytes,
                length_bytes,
                limit_bytes,
            }),
        }
    }

    #[cold]
    fn corrupt(&self) -> AccessError {
        self.memory().corrupt("geometry", self.handle.offset())
    }
}

impl<M> fmt::Debug for ArenaBytes<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaBytes")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

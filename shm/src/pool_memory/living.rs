//! A living block that a handle names: found once, looked at as often as wanted, each time with
//! the question whether it still is the same block.

use goumem_alloc::{Handle, HandleKind};
use zerocopy::TryFromBytes as _;

use super::{BlockPlace, PoolMemory};
use crate::element::ShmType;
use crate::error::AccessError;
use crate::os::{to_u64, to_usize};
use crate::shape::{Shape, ShapeWord};
use crate::slot::SlotWord;
use crate::sync::{Ordering, fence};

/// A block that was alive when it was looked up, with a shape to be believed.
///
/// # Invariants
/// `usable_bytes` bytes from the handle's offset on are payload of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Living<'a> {
    memory: &'a PoolMemory,
    word: &'a SlotWord,
    shape_word: &'a ShapeWord,
    handle: Handle,
    usable_bytes: u64,
    // As bits: every field has 8 bytes, so that no copy of this reads at once what was written in
    // two parts, for which the processor would have to wait.
    shape_bits: u64,
}

impl PoolMemory {
    /// Looks up the block that a handle names.
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind`, `Stale`, `Forked`; `Corrupt` when the block lives and its shape
    /// claims more bytes than it has, or none.
    #[inline]
    pub fn living(&self, handle: Handle) -> Result<Living<'_>, AccessError> {
        // Whatever is refused is looked at a second time, for the reason: an error in the way
        // would cost the look-ups that succeed as much as all the rest.
        match self.find_living(handle) {
            Some(living) => Ok(living),
            None => self.look_up_slowly(handle),
        }
    }

    #[inline(always)]
    fn find_living(&self, handle: Handle) -> Option<Living<'_>> {
        if handle.pool() != self.pool() || handle.kind() != HandleKind::Block {
            return None;
        }
        let at = self.block_at(handle.offset())?;
        let (word, shape_word) = self.words(&at);
        if !word.load().is_live(handle.generation()) {
            return None;
        }
        let living = self.with_shape(&at, word, shape_word, handle);
        living.believes(living.shape()).then_some(living)
    }

    #[cold]
    fn look_up_slowly(&self, handle: Handle) -> Result<Living<'_>, AccessError> {
        let at = self.resolve(handle)?;
        let living = self.with_shape(&at, self.slot(&at), self.shape(&at), handle);
        if living.believes(living.shape()) {
            Ok(living)
        } else {
            Err(living.unless_stale(self.corrupt("shape word", at.offset)))
        }
    }

    /// Goes on after the slot word was loaded: its Acquire shows the shape of this life.
    #[inline(always)]
    fn with_shape<'a>(
        &'a self,
        at: &BlockPlace,
        word: &'a SlotWord,
        shape_word: &'a ShapeWord,
        handle: Handle,
    ) -> Living<'a> {
        // INVARIANT: the place is a block of the pool, by the page map.
        Living {
            memory: self,
            word,
            shape_word,
            handle,
            usable_bytes: at.usable_bytes(),
            shape_bits: shape_word.load_bits(),
        }
    }
}

impl<'a> Living<'a> {
    #[inline]
    pub(crate) fn word(&self) -> &'a SlotWord {
        self.word
    }

    #[inline]
    pub(crate) fn usable_bytes(&self) -> u64 {
        self.usable_bytes
    }

    /// Returns the handle.
    #[inline]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns the shape that the block had when it was looked up.
    #[inline]
    pub fn shape(&self) -> Shape {
        Shape::from_bits(self.shape_bits)
    }

    /// Returns whether the handle still names the block.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.word.load().is_live(self.handle.generation())
    }

    /// Returns the error if the block still lives, or else that it does not: the words of another
    /// life say nothing about this one.
    #[cold]
    pub fn unless_stale(&self, error: AccessError) -> AccessError {
        if self.is_alive() {
            error
        } else {
            AccessError::Stale {
                handle: self.handle,
            }
        }
    }

    /// Copies bytes out, and checks afterwards that it is still the same block.
    ///
    /// # Errors
    /// `OutOfRange` past the block's length; `Stale` when it was freed or taken, also during the
    /// copy (what was copied is not to be used); `Forked`.
    #[inline]
    pub fn read(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), AccessError> {
        let start = self.checked_start(offset_bytes, to_u64(into.len()))?;
        self.memory
            .data
            .copy_out(start, into)
            .map_err(|_| self.memory.corrupt("page map entry", self.handle.offset()))?;
        self.look_again()
    }

    /// Copies the whole block out as elements: one copy into memory that nobody has zeroed before.
    ///
    /// # Errors
    /// As `read`; `WrongLength` when it is no whole number of elements; `Corrupt` when the bytes
    /// are no elements (a `bool` of 2).
    pub fn read_elements<E: ShmType>(&self) -> Result<Vec<E>, AccessError> {
        let size = size_of::<E>();
        let length_bytes = self.shape().length_bytes;
        if size == 0 || !to_usize(length_bytes).is_multiple_of(size) {
            return Err(AccessError::WrongLength {
                expected_bytes: to_u64(size),
                found_bytes: length_bytes,
            });
        }
        let start = self.checked_start(0, length_bytes)?;
        let from = self
            .memory
            .data
            .pointer(start, length_bytes)
            .map_err(|_| self.memory.corrupt("page map entry", self.handle.offset()))?;
        let (len, n_bytes) = (to_usize(length_bytes) / size, to_usize(length_bytes));
        let mut elements = Vec::<E>::with_capacity(len);
        let into = elements.as_mut_ptr().cast::<u8>();
        // SAFETY:
        // - `from` is readable for `n_bytes` (checked by `pointer`), `into` writable for as many:
        //   the vector has room for `len` elements;
        // - they do not overlap, one being ours alone; racing writers: the payload rule.
        unsafe { from.as_ptr().copy_to_nonoverlapping(into, n_bytes) };
        self.look_again()?;
        // SAFETY: the copy initialised these bytes, and nobody writes them while this lives.
        let bytes = unsafe { std::slice::from_raw_parts(into, n_bytes) };
        if <[E]>::try_ref_from_bytes(bytes).is_err() {
            return Err(self.memory.corrupt("value", self.handle.offset()));
        }
        // SAFETY: `len` is within the capacity, and so many elements are initialised and valid.
        unsafe { elements.set_len(len) };
        Ok(elements)
    }

    /// Returns the memory it lies in.
    #[inline]
    pub fn memory(&self) -> &'a PoolMemory {
        self.memory
    }

    /// Copies bytes into the block. A write that races with the block's free can land in its next
    /// life: hand blocks over with `take`, or pin them, before others may free them.
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`, `Forked`; `Stale` when the block was freed meanwhile.
    pub fn write(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.memory.write(self.handle, offset_bytes, bytes)
    }

    /// The second look after a copy.
    #[inline]
    fn look_again(&self) -> Result<(), AccessError> {
        // ORDERING: keeps the copy before the second load (the reader's fence of a seqlock);
        // pairs with `fence_before_reuse`: with one byte of the next life copied, the load sees
        // that this one is over.
        fence(Ordering::Acquire);
        if self.is_alive() {
            Ok(())
        } else {
            Err(AccessError::Stale {
                handle: self.handle,
            })
        }
    }

    /// Returns where a range of the block starts in DATA. Its length may have changed since it was
    /// looked up, in place.
    #[inline]
    fn checked_start(&self, offset_bytes: u64, length_bytes: u64) -> Result<u64, AccessError> {
        if self.memory.is_inherited() {
            return Err(AccessError::Forked);
        }
        let shape = self.shape_word.load();
        if !self.believes(shape) {
            let corrupt = self.memory.corrupt("shape word", self.handle.offset());
            return Err(self.unless_stale(corrupt));
        }
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= shape.length_bytes => Ok(self.handle.offset().get() + offset_bytes),
            _ => Err(self.unless_stale(AccessError::OutOfRange {
                offset_bytes,
                length_bytes,
                limit_bytes: shape.length_bytes,
            })),
        }
    }

    #[inline]
    fn believes(&self, shape: Shape) -> bool {
        shape.length_bytes != 0 && shape.length_bytes <= self.usable_bytes
    }
}

#[cfg(test)]
mod tests;

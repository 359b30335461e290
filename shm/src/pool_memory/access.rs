//! What may be done to the block that a handle names: freed, adopted, copied in and out.

use goumem_alloc::{Handle, SessionNumber, TypeTag};
use zerocopy::{FromBytes, IntoBytes};

use super::{BlockPlace, PoolMemory};
use crate::element::AtomicElement;
use crate::error::AccessError;
use crate::os::to_u64;
use crate::shape::Shape;
use crate::slot::{Freed, SlotRefusal, SlotState};
use crate::sync::{Ordering, fence};

impl PoolMemory {
    /// Frees the block a handle names and tells the agent of its span.
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind`, `Stale`, `DoubleFree`, `ReadOnly`, `Forked`.
    #[inline]
    pub fn free(&self, handle: Handle) -> Result<Freed, AccessError> {
        let at = self.locate(handle)?;
        let freed = self.free_at(&at, handle)?;
        self.tell_agent(&at, freed);
        Ok(freed)
    }

    /// As [`free`](Self::free), for a block located before, and without telling the agent of its
    /// span: for the agent itself, which takes the slot back by
    /// [`reclaim`](crate::LeasedSpan::reclaim).
    ///
    /// # Errors
    /// `Stale`, `DoubleFree`, `ReadOnly`, `Forked`.
    #[inline]
    pub fn free_at(&self, at: &BlockPlace, handle: Handle) -> Result<Freed, AccessError> {
        self.require_writable()?;
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        self.slot(at)
            .free(handle.generation())
            .map_err(|refusal| self.refusal(refusal, handle))
    }

    /// Frees the block at a place, which `holder` took over.
    #[inline]
    pub(crate) fn free_taken_at(
        &self,
        at: &BlockPlace,
        holder: SessionNumber,
    ) -> Result<Freed, SlotRefusal> {
        let freed = self.slot(at).free_taken(holder)?;
        self.tell_agent(at, freed);
        Ok(freed)
    }

    /// Makes `session` the owner of the block; the handle stays good. Returns whether a keep
    /// record stands for it (drop it by RPC).
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind`, `Stale`, `ReadOnly`, `Forked`.
    #[inline]
    pub fn adopt(&self, handle: Handle, session: SessionNumber) -> Result<bool, AccessError> {
        self.require_writable()?;
        let at = self.locate(handle)?;
        // Flag first: a sweep of `session` must find the block, whoever leases the span.
        self.note(at.first_page).set_holds_adopted();
        let before = self
            .slot(&at)
            .adopt(handle.generation(), session)
            .map_err(|refusal| self.refusal(refusal, handle))?;
        Ok(before.state() == Some(SlotState::Kept))
    }

    /// Copies bytes out of a block and checks afterwards that it is still the same block.
    ///
    /// # Errors
    /// As `resolve`; `OutOfRange` past the block's length; `Stale` when the block was freed or
    /// taken during the copy (what was copied is not to be used).
    #[inline]
    pub fn read(
        &self,
        handle: Handle,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), AccessError> {
        let at = self.resolve(handle)?;
        self.read_resolved(&at, handle, offset_bytes, into)
    }

    /// As [`read`](Self::read), for a block located before.
    ///
    /// # Errors
    /// As `read`.
    #[inline]
    pub fn read_resolved(
        &self,
        at: &BlockPlace,
        handle: Handle,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), AccessError> {
        let start = self.checked_range(at, offset_bytes, into.len());
        let start = start.map_err(|error| self.unless_stale(at, handle, error))?;
        self.data
            .copy_out(start, into)
            .map_err(|_| self.corrupt("page map entry", at.offset))?;
        // ORDERING: keeps the copy before the second load (the reader's fence of a seqlock);
        // pairs with `fence_before_reuse`: with one byte of the next life copied, the load sees
        // that this one is over.
        fence(Ordering::Acquire);
        self.require_live(at, handle)
    }

    /// Copies the bytes of a pinned block, whatever its word says: the pin keeps them in place.
    ///
    /// # Errors
    /// `OutOfRange`, `Corrupt`, `Forked`.
    pub fn read_pinned(
        &self,
        at: &BlockPlace,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), AccessError> {
        let start = self.checked_range(at, offset_bytes, into.len())?;
        self.data
            .copy_out(start, into)
            .map_err(|_| self.corrupt("page map entry", at.offset))
    }

    /// Copies bytes into a block. A write that races with the block's free can land in its next
    /// life: hand blocks over with `take`, or pin them, before others may free them.
    ///
    /// # Errors
    /// As `resolve`; `OutOfRange`, `ReadOnly`; `Stale` when the block was freed meanwhile.
    pub fn write(
        &self,
        handle: Handle,
        offset_bytes: u64,
        bytes: &[u8],
    ) -> Result<(), AccessError> {
        self.require_writable()?;
        let at = self.resolve(handle)?;
        let start = self.checked_range(&at, offset_bytes, bytes.len());
        let start = start.map_err(|error| self.unless_stale(&at, handle, error))?;
        self.data
            .copy_in(start, bytes)
            .map_err(|_| self.corrupt("page map entry", at.offset))?;
        self.require_live(&at, handle)
    }

    /// Returns a value copied out of a block, checked twice as by [`read`](Self::read).
    ///
    /// # Errors
    /// As `read`.
    pub fn read_value<T: FromBytes + IntoBytes>(
        &self,
        handle: Handle,
        offset_bytes: u64,
    ) -> Result<T, AccessError> {
        let mut value = T::new_zeroed();
        self.read(handle, offset_bytes, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Returns a reference to the atomics of a block: valid memory for as long as the mapping,
    /// though another block may lie there once this one is freed (see the crate's first page).
    ///
    /// # Errors
    /// As `resolve`; `WrongType`, `WrongLength`, `ReadOnly`.
    pub fn atomics<A: AtomicElement>(&self, handle: Handle) -> Result<&A, AccessError> {
        self.require_writable()?;
        let at = self.resolve(handle)?;
        let shape = self.live_shape(&at, handle)?;
        if ![TypeTag::UNTYPED, A::TYPE_TAG].contains(&shape.type_tag) {
            return Err(AccessError::WrongType {
                expected: A::TYPE_TAG,
                found: shape.type_tag,
            });
        }
        let length = shape.length_bytes;
        let expected_bytes = to_u64(size_of::<A>());
        if length != expected_bytes {
            return Err(AccessError::WrongLength {
                expected_bytes,
                found_bytes: length,
            });
        }
        let pointer = self.writable_pointer(at.offset, length)?.cast::<A>();
        if !pointer.is_aligned() {
            return Err(self.corrupt("alignment", at.offset));
        }
        // SAFETY:
        // - `length` bytes are mapped at the pointer, and stay so while `self` is borrowed;
        // - aligned (checked); every bit pattern is valid and all of it is atomics
        //   (AtomicElement's contract), so concurrent writers make values, never data races
        //   with plain accesses of this library while the block lives.
        Ok(unsafe { pointer.as_ref() })
    }

    /// As [`checked_shape`](Self::checked_shape), for a handle whose block was alive just now: a
    /// shape that makes no sense because the block was freed since is `Stale`.
    #[inline]
    pub(crate) fn live_shape(&self, at: &BlockPlace, handle: Handle) -> Result<Shape, AccessError> {
        let shape = self.checked_shape(at);
        shape.map_err(|error| self.unless_stale(at, handle, error))
    }

    /// Returns the error if the block still lives, or else that it does not: the words of another
    /// life say nothing about this one.
    fn unless_stale(&self, at: &BlockPlace, handle: Handle, error: AccessError) -> AccessError {
        if error == AccessError::Forked {
            return error;
        }
        self.require_live(at, handle).err().unwrap_or(error)
    }

    #[inline]
    fn require_live(&self, at: &BlockPlace, handle: Handle) -> Result<(), AccessError> {
        if self.slot(at).load().is_live(handle.generation()) {
            Ok(())
        } else {
            Err(AccessError::Stale { handle })
        }
    }

    #[inline]
    fn tell_agent(&self, at: &BlockPlace, freed: Freed) {
        if freed == Freed::Free {
            self.note(at.first_page).hint_free();
        }
    }

    fn checked_range(
        &self,
        at: &BlockPlace,
        offset_bytes: u64,
        len: usize,
    ) -> Result<u64, AccessError> {
        let limit_bytes = self.checked_shape(at)?.length_bytes;
        let length_bytes = to_u64(len);
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= limit_bytes => Ok(at.offset.get() + offset_bytes),
            _ => Err(AccessError::OutOfRange {
                offset_bytes,
                length_bytes,
                limit_bytes,
            }),
        }
    }
}

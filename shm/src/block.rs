//! A block with a type, held by one owner alone: `&T` and `&mut T` into shared memory.
//!
//! Why references are sound here: see the crate's first page, "Exclusivity".

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use goumem_alloc::{Handle, SessionNumber};

use crate::element::{Plain, ShmType};
use crate::error::AccessError;
use crate::raw_block::{RawBlock, SpanRecord};
use crate::shape::Shape;

/// A block of `T` (or of a slice `[E]`) that nobody else has: 16 bytes for a sized `T`.
///
/// # Invariants
/// `pointer` and `span` are the parts of one [`RawBlock`]; the block has at least the bytes of
/// the value (with its length, for a slice) and its alignment.
pub struct OwnedBlock<T: ?Sized> {
    pointer: NonNull<T>,
    span: NonNull<SpanRecord>,
    owns: PhantomData<T>,
}

// SAFETY: an OwnedBlock is the only way to its value, as a Box is.
unsafe impl<T: ?Sized + Send> Send for OwnedBlock<T> {}
// SAFETY: a shared OwnedBlock gives `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for OwnedBlock<T> {}

const _: () = assert!(size_of::<OwnedBlock<u64>>() == 16);

impl<T: ShmType> OwnedBlock<T> {
    /// Gives a raw block the type `T`, whatever bytes it holds.
    ///
    /// # Errors
    /// `ZeroSize`, or `WrongLength` when the block is too small or not aligned for `T`.
    #[inline]
    pub fn new(block: RawBlock) -> Result<Self, AccessError> {
        check_fit(&block, size_of::<T>(), align_of::<T>())?;
        let (pointer, span) = block.into_parts();
        // INVARIANT: the parts of one block that fits `T`.
        Ok(Self {
            pointer: pointer.cast(),
            span,
            owns: PhantomData,
        })
    }

    /// Returns the value, checked.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not a value of `T` (a `bool` of 2).
    pub fn get(&self) -> Result<T, AccessError> {
        T::try_read_from_bytes(self.bytes()).map_err(|_| self.invalid())
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY:
        // - the block has size_of::<T>() bytes (invariant), initialised as all shared memory is,
        //   and mapped for as long as it lives;
        // - nobody writes them while `&self` is held (exclusivity, see the crate's first page).
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr().cast::<u8>(), size_of::<T>()) }
    }

    /// Overwrites the value.
    #[inline]
    pub fn set(&mut self, value: &T) {
        let value = value.as_bytes();
        // SAFETY:
        // - source: a live slice of size_of::<T>() bytes;
        // - destination: the block has as many bytes (invariant), mapped writable, ours alone;
        // - `&mut self` is the only way to the destination, so the source is not in it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                value.as_ptr(),
                self.pointer.as_ptr().cast::<u8>(),
                value.len(),
            );
        }
    }

    /// Makes the block visible to other processes; returns its handle.
    ///
    /// # Errors
    /// As [`RawBlock::export`]; the block is given back.
    #[inline]
    pub fn export(self, owner: SessionNumber) -> Result<Handle, (Self, AccessError)> {
        let shape = Shape {
            type_tag: T::TYPE_TAG,
            length_bytes: size_of::<T>() as u64,
        };
        self.into_raw()
            .export(owner, shape)
            .map_err(|(block, error)| {
                let (pointer, span) = block.into_parts();
                // INVARIANT: the same parts as before.
                (
                    Self {
                        pointer: pointer.cast(),
                        span,
                        owns: PhantomData,
                    },
                    error,
                )
            })
    }
}

impl<E: ShmType> OwnedBlock<[E]> {
    /// Gives a raw block the type of a slice of `len` elements, whatever bytes it holds.
    ///
    /// # Errors
    /// `ZeroSize`, or `WrongLength` when the block is too small or not aligned.
    #[inline]
    pub fn new_slice(block: RawBlock, len: usize) -> Result<Self, AccessError> {
        let bytes = size_of::<E>()
            .checked_mul(len)
            .ok_or_else(|| AccessError::WrongLength {
                expected_bytes: u64::MAX,
                found_bytes: block.usable_bytes(),
            })?;
        check_fit(&block, bytes, align_of::<E>())?;
        let (pointer, span) = block.into_parts();
        let pointer = NonNull::slice_from_raw_parts(pointer.cast(), len);
        // INVARIANT: the parts of one block that fits the slice.
        Ok(Self {
            pointer,
            span,
            owns: PhantomData,
        })
    }

    /// Makes the block visible to other processes; returns its handle.
    ///
    /// # Errors
    /// As [`RawBlock::export`]; the block is given back.
    #[inline]
    pub fn export_slice(self, owner: SessionNumber) -> Result<Handle, (Self, AccessError)> {
        let len = self.pointer.len();
        let length_bytes = (len * size_of::<E>()) as u64;
        let shape = Shape {
            type_tag: E::TYPE_TAG,
            length_bytes,
        };
        self.into_raw()
            .export(owner, shape)
            .map_err(|(block, error)| {
                let (pointer, span) = block.into_parts();
                let pointer = NonNull::slice_from_raw_parts(pointer.cast(), len);
                // INVARIANT: the same parts as before.
                (
                    Self {
                        pointer,
                        span,
                        owns: PhantomData,
                    },
                    error,
                )
            })
    }
}

impl<T: ?Sized> OwnedBlock<T> {
    /// Returns the raw block.
    #[inline]
    pub fn into_raw(self) -> RawBlock {
        let block = ManuallyDrop::new(self);
        // SAFETY: the parts of one block (invariant), put together once: `self` is forgotten.
        unsafe { RawBlock::from_parts(block.pointer.cast(), block.span) }
    }

    /// Calls `look` with the raw block.
    #[inline]
    pub fn with_raw<R>(&self, look: impl FnOnce(&RawBlock) -> R) -> R {
        // SAFETY: the parts of one block (invariant); the copy is forgotten, never dropped.
        let raw = unsafe { RawBlock::from_parts(self.pointer.cast(), self.span) };
        look(&ManuallyDrop::new(raw))
    }

    fn invalid(&self) -> AccessError {
        self.with_raw(|raw| raw.memory().corrupt("value", raw.offset()))
    }
}

impl<T: Plain> std::ops::Deref for OwnedBlock<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY:
        // - non-null, aligned, dereferenceable: the block fits `T` (invariant) and is mapped;
        // - initialised and valid: shared memory has no uninitialised bytes, and `T: FromBytes`;
        // - no aliasing writer: exclusivity (see the crate's first page).
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: Plain> std::ops::DerefMut for OwnedBlock<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `&mut self` makes this the only reference.
        unsafe { self.pointer.as_mut() }
    }
}

impl<E: Plain> std::ops::Deref for OwnedBlock<[E]> {
    type Target = [E];

    #[inline]
    fn deref(&self) -> &[E] {
        // SAFETY: as for a sized value; the slice's bytes fit the block (invariant).
        unsafe { self.pointer.as_ref() }
    }
}

impl<E: Plain> std::ops::DerefMut for OwnedBlock<[E]> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [E] {
        // SAFETY: as for `deref`, and `&mut self` makes this the only reference.
        unsafe { self.pointer.as_mut() }
    }
}

impl<T: ?Sized> Drop for OwnedBlock<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the parts of one block (invariant), put together once: this is the end of it.
        drop(unsafe { RawBlock::from_parts(self.pointer.cast(), self.span) });
    }
}

impl<T: ?Sized> fmt::Debug for OwnedBlock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_raw(|raw| raw.fmt(f))
    }
}

#[inline]
fn check_fit(block: &RawBlock, size: usize, align: usize) -> Result<(), AccessError> {
    // An alignment is a power of two: a division here would cost as much as the whole alloc.
    let aligned = block.pointer().addr().get() & (align - 1) == 0;
    if size != 0 && size as u64 <= block.usable_bytes() && aligned {
        Ok(())
    } else {
        Err(misfit(block, size))
    }
}

#[cold]
fn misfit(block: &RawBlock, size: usize) -> AccessError {
    if size == 0 {
        return AccessError::ZeroSize;
    }
    AccessError::WrongLength {
        expected_bytes: size as u64,
        found_bytes: block.usable_bytes(),
    }
}

#[cfg(test)]
mod tests;

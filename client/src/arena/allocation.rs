//! Places in an arena.

use std::fmt;
use std::marker::PhantomData;

use goumem_alloc::Handle;
use goumem_shm::{AccessError, ArenaBytes, AtomicElement, Plain, ShmType};
use zerocopy::IntoBytes as _;

use crate::arena_pool::ArenaCore;
use crate::error::Error;
use crate::view::{check_type, offset_of, read_value};

/// An allocation in an arena: a place to copy values in and out. It is a plain reference, which
/// may go to other threads, frees nothing when dropped, and cannot outlive the
/// [`Arena`](super::Arena) value it came from; its [handle](Self::handle) can.
pub struct ArenaRef<'a, T: ?Sized> {
    arena: &'a ArenaBytes<ArenaCore>,
    inside_bytes: u64,
    length_bytes: u64,
    holds: PhantomData<fn() -> Box<T>>,
}

impl<'a, T: ?Sized> ArenaRef<'a, T> {
    #[inline]
    pub(super) fn new(
        arena: &'a ArenaBytes<ArenaCore>,
        inside_bytes: u64,
        length_bytes: u64,
    ) -> Self {
        Self {
            arena,
            inside_bytes,
            length_bytes,
            holds: PhantomData,
        }
    }

    /// Returns the handle, by which other holders of the arena find the allocation.
    #[inline]
    pub fn handle(&self) -> Handle {
        self.arena.handle_of(self.inside_bytes)
    }

    /// Returns how many bytes were allocated.
    #[inline]
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Returns how many bytes into the arena it starts.
    pub(super) fn inside_bytes(&self) -> u64 {
        self.inside_bytes
    }

    /// Returns whether it is in that arena.
    pub(super) fn is_in(&self, arena: &ArenaBytes<ArenaCore>) -> bool {
        self.arena.handle() == arena.handle()
    }

    #[inline]
    fn read_bytes(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), Error> {
        self.check_range(offset_bytes, into.len())?;
        Ok(self.arena.read(self.inside_bytes + offset_bytes, into)?)
    }

    #[inline]
    fn write_bytes(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), Error> {
        self.arena.require_writable()?;
        self.check_range(offset_bytes, bytes.len())?;
        Ok(self.arena.write(self.inside_bytes + offset_bytes, bytes)?)
    }

    #[inline]
    fn check_range(&self, offset_bytes: u64, len: usize) -> Result<(), AccessError> {
        let length_bytes = len as u64;
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= self.length_bytes => Ok(()),
            _ => {
                let limit_bytes = self.length_bytes;
                Err(AccessError::OutOfRange {
                    offset_bytes,
                    length_bytes,
                    limit_bytes,
                })
            }
        }
    }

    fn corrupt(&self) -> Error {
        let (pool, offset) = (self.handle().pool(), self.handle().offset());
        let offset_bytes = offset.get();
        AccessError::Corrupt {
            pool,
            what: "value",
            offset_bytes,
        }
        .into()
    }
}

impl<'a, T: ShmType> ArenaRef<'a, T> {
    /// Returns a copy of the value.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`; `Corrupt` when the bytes are no `T`.
    pub fn read(&self) -> Result<T, Error> {
        read_value(|into| self.read_bytes(0, into))?.ok_or_else(|| self.corrupt())
    }

    /// Overwrites the value.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale` or `ReadOnly`.
    pub fn write(&self, value: T) -> Result<(), Error> {
        self.write_bytes(0, value.as_bytes())
    }

    /// Returns the value as atomics of the same width.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `ReadOnly`, `WrongType` or `WrongLength`.
    pub fn atomics<A: AtomicElement>(&self) -> Result<&'a A, Error> {
        check_type(T::TYPE_TAG, A::TYPE_TAG)?;
        self.check_range(0, size_of::<A>())?;
        Ok(self.arena.atomics(self.inside_bytes)?)
    }
}

impl<'a, E: ShmType> ArenaRef<'a, [E]> {
    /// Returns how many elements there are: at least one.
    #[expect(
        clippy::len_without_is_empty,
        reason = "there are no empty allocations"
    )]
    pub fn len(&self) -> usize {
        usize::try_from(self.length_bytes / size_of::<E>() as u64).expect("64-bit addresses")
    }

    /// Returns a copy of the elements. [`copy_to`](Self::copy_to) is faster, having no memory to
    /// allocate.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`; `Corrupt` when the bytes are no elements.
    pub fn read_slice(&self) -> Result<Vec<E>, Error> {
        let length = usize::try_from(self.length_bytes).expect("64-bit addresses");
        let mut bytes = vec![0; length];
        self.read_bytes(0, &mut bytes)?;
        let element = |bytes| E::try_read_from_bytes(bytes).map_err(|_| self.corrupt());
        bytes.chunks_exact(size_of::<E>()).map(element).collect()
    }

    /// Copies the first `into.len()` elements.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, or `OutOfRange` when there are fewer.
    pub fn copy_to(&self, into: &mut [E]) -> Result<(), Error>
    where
        E: Plain,
    {
        self.read_bytes(0, into.as_mut_bytes())
    }

    /// Copies the elements from `index` on.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to).
    pub fn copy_at(&self, index: usize, into: &mut [E]) -> Result<(), Error>
    where
        E: Plain,
    {
        self.read_bytes(offset_of::<E>(index), into.as_mut_bytes())
    }

    /// Overwrites the first elements.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `ReadOnly`, or `OutOfRange` when there are fewer.
    pub fn write(&self, elements: &[E]) -> Result<(), Error> {
        self.write_at(0, elements)
    }

    /// Overwrites the elements from `index` on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_at(&self, index: usize, elements: &[E]) -> Result<(), Error> {
        self.write_bytes(offset_of::<E>(index), elements.as_bytes())
    }
}

impl<T: ?Sized> Clone for ArenaRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for ArenaRef<'_, T> {}

impl<T: ?Sized> fmt::Debug for ArenaRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaRef")
            .field("handle", &self.handle())
            .field("length_bytes", &self.length_bytes)
            .finish_non_exhaustive()
    }
}

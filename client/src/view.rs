//! A look at a block that may be anybody's. Every copy out of it is checked: was it still the
//! same block when the copy was done?

use std::fmt;
use std::marker::PhantomData;

use goumem_alloc::{Handle, TypeTag};
use goumem_shm::shape::Shape;
use goumem_shm::{AccessError, AtomicElement, Living, Plain, PoolMemory, ShmType};
use zerocopy::IntoBytes as _;

use crate::error::Error;

/// A block that a handle names: it can be read and, in a writable pool, written, by copy. It
/// owns nothing: whoever owns the block may free it at any time, which the next use of the view
/// reports as stale.
///
/// A *write* that races with a free by somebody else may land in the block that comes next in
/// the same place. Where that can happen, [take](crate::Pool::take) the block or
/// [pin](crate::Pool::pin) it first.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
/// let shared = pool.alloc_slice_from(&[1_u16, 2, 3])?.share()?;
/// let view = pool.resolve_slice::<u16>(shared.handle())?;
/// assert_eq!(view.len(), 3);
/// assert_eq!(view.read_slice()?, [1, 2, 3]);
/// # Ok::<(), goumem::Error>(())
/// ```
pub struct View<'a, T: ?Sized> {
    block: Living<'a>,
    holds: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> View<'_, T> {
    /// Returns the handle.
    pub fn handle(&self) -> Handle {
        self.block.handle()
    }

    /// Returns how many bytes the value has.
    pub fn length_bytes(&self) -> u64 {
        self.block.shape().length_bytes
    }

    fn corrupt(&self) -> Error {
        corrupt_value(self.block.memory(), self.handle())
    }
}

impl<'a, T: ShmType> View<'a, T> {
    #[inline]
    pub(crate) fn resolve(memory: &'a PoolMemory, handle: Handle) -> Result<Self, Error> {
        Self::new(memory, handle, check_sized::<T>)
    }

    /// Returns a copy of the value.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, also when the block went during the copy; `Corrupt` when
    /// the bytes are no `T`.
    pub fn read(&self) -> Result<T, Error> {
        read_value(|into| Ok(self.block.read(0, into)?))?.ok_or_else(|| self.corrupt())
    }

    /// Overwrites the value.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale` or `ReadOnly`.
    pub fn write(&self, value: T) -> Result<(), Error> {
        Ok(self.block.write(0, value.as_bytes())?)
    }

    /// Returns the block as atomics of the same width, the one way to see shared bytes without
    /// copying: `view.atomics::<AtomicU64>()` of a `u64`.
    ///
    /// The reference is good memory for as long as the pool, but another block may lie there
    /// when this one is freed.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `ReadOnly`, `WrongType` or `WrongLength`.
    ///
    /// ```
    /// # use goumem::{PoolOptions, blocking};
    /// # use std::sync::atomic::{AtomicU32, Ordering};
    /// # let client = blocking::Client::embedded()?;
    /// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
    /// let shared = pool.alloc_value(0_u32)?.share()?;
    /// shared.atomics::<AtomicU32>()?.fetch_add(3, Ordering::Relaxed);
    /// assert_eq!(shared.read()?, 3);
    /// # Ok::<(), goumem::Error>(())
    /// ```
    pub fn atomics<A: AtomicElement>(&self) -> Result<&'a A, Error> {
        Ok(self.block.memory().atomics(self.handle())?)
    }
}

impl<'a, E: ShmType> View<'a, [E]> {
    #[inline]
    pub(crate) fn resolve_slice(memory: &'a PoolMemory, handle: Handle) -> Result<Self, Error> {
        Self::new(memory, handle, check_slice::<E>)
    }

    /// Returns how many elements there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "there are no empty blocks")]
    pub fn len(&self) -> usize {
        usize::try_from(self.length_bytes() / size_of::<E>() as u64).expect("64-bit addresses")
    }

    /// Returns a copy of the elements.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, also when the block went during the copy; `Corrupt` when
    /// the bytes are no elements.
    pub fn read_slice(&self) -> Result<Vec<E>, Error> {
        Ok(self.block.read_elements()?)
    }

    /// Copies the first `into.len()` elements.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, also when the block went during the copy (what was copied
    /// is not to be used); `OutOfRange` when the block has fewer.
    pub fn copy_to(&self, into: &mut [E]) -> Result<(), Error>
    where
        E: Plain,
    {
        self.copy_at(0, into)
    }

    /// Copies the elements from `index` on.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to).
    pub fn copy_at(&self, index: usize, into: &mut [E]) -> Result<(), Error>
    where
        E: Plain,
    {
        Ok(self
            .block
            .read(offset_of::<E>(index), into.as_mut_bytes())?)
    }

    /// Overwrites the first elements.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `ReadOnly`, or `OutOfRange` when the block has fewer.
    pub fn write(&self, elements: &[E]) -> Result<(), Error> {
        self.write_at(0, elements)
    }

    /// Overwrites the elements from `index` on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_at(&self, index: usize, elements: &[E]) -> Result<(), Error> {
        Ok(self
            .block
            .write(offset_of::<E>(index), elements.as_bytes())?)
    }
}

impl<'a, T: ?Sized> View<'a, T> {
    #[inline]
    fn new(
        memory: &'a PoolMemory,
        handle: Handle,
        check: impl FnOnce(Shape) -> Result<(), AccessError>,
    ) -> Result<Self, Error> {
        let block = memory.living(handle)?;
        match check(block.shape()) {
            Ok(()) => Ok(Self {
                block,
                holds: PhantomData,
            }),
            // The shape of the next block in the same place says nothing of this one.
            Err(error) => Err(block.unless_stale(error).into()),
        }
    }
}

impl<T: ?Sized> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for View<'_, T> {}

impl<T: ?Sized> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("handle", &self.handle())
            .field("length_bytes", &self.length_bytes())
            .finish_non_exhaustive()
    }
}

/// Says whether a block of that shape holds a `T`.
#[inline]
pub(crate) fn check_sized<T: ShmType>(shape: Shape) -> Result<(), AccessError> {
    let size = size_of::<T>() as u64;
    check_shape(shape, T::TYPE_TAG, size, shape.length_bytes == size)
}

/// Says whether a block of that shape holds elements of `E`.
#[inline]
pub(crate) fn check_slice<E: ShmType>(shape: Shape) -> Result<(), AccessError> {
    let size = size_of::<E>() as u64;
    let whole = size != 0 && shape.length_bytes.is_multiple_of(size);
    check_shape(shape, E::TYPE_TAG, size, whole)
}

#[inline]
fn check_shape(
    shape: Shape,
    wanted: TypeTag,
    wanted_bytes: u64,
    fits: bool,
) -> Result<(), AccessError> {
    if wanted_bytes == 0 {
        return Err(AccessError::ZeroSize);
    }
    check_type(wanted, shape.type_tag)?;
    if fits {
        return Ok(());
    }
    Err(AccessError::WrongLength {
        expected_bytes: wanted_bytes,
        found_bytes: shape.length_bytes,
    })
}

#[inline]
pub(crate) fn check_type(expected: TypeTag, found: TypeTag) -> Result<(), AccessError> {
    let untyped = found == TypeTag::UNTYPED || expected == TypeTag::UNTYPED;
    if untyped || expected == found || expected == u8::TYPE_TAG {
        return Ok(());
    }
    Err(AccessError::WrongType { expected, found })
}

/// Says that the bytes of a block are no value of the type it has.
#[cold]
pub(crate) fn corrupt_value(memory: &PoolMemory, handle: Handle) -> Error {
    let (pool, offset_bytes) = (memory.pool(), handle.offset().get());
    AccessError::Corrupt {
        pool,
        what: "value",
        offset_bytes,
    }
    .into()
}

/// Where an element starts; past every block if that is past every number.
pub(crate) fn offset_of<E>(index: usize) -> u64 {
    (index as u64).saturating_mul(size_of::<E>() as u64)
}

/// Reads a value by way of bytes that `fill` fills; `None` if they are no value. The bytes of
/// the common small types lie on the stack.
pub(crate) fn read_value<T: ShmType>(
    fill: impl FnOnce(&mut [u8]) -> Result<(), Error>,
) -> Result<Option<T>, Error> {
    const SMALL: usize = 64;
    const MIDDLE: usize = 4096;
    fn read<T: ShmType>(
        bytes: &mut [u8],
        fill: impl FnOnce(&mut [u8]) -> Result<(), Error>,
    ) -> Result<Option<T>, Error> {
        let bytes = &mut bytes[..size_of::<T>()];
        fill(bytes)?;
        Ok(T::try_read_from_bytes(bytes).ok())
    }
    match size_of::<T>() {
        size if size <= SMALL => read(&mut [0; SMALL], fill),
        size if size <= MIDDLE => read(&mut [0; MIDDLE], fill),
        size => read(&mut vec![0; size], fill),
    }
}

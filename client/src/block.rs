//! Blocks that this process has alone, by reference: the allocation and its RAII guard in one.

use std::fmt;
use std::ops::{Deref, DerefMut};

use goumem_alloc::Handle;
use goumem_shm::{OwnedBlock, RawBlock, ShmType};

use crate::error::Error;
use crate::pool::PoolCore;
use crate::shared::Shared;

/// A block of shared memory that this process alone uses, holding a `T` or a slice `[E]`. It
/// works as a [`Box`] does, and dropping it frees the block, on any thread and without a call.
///
/// Nobody else knows of it until it is [shared](Block::share). It outlives the
/// [`Pool`](crate::Pool) and the [`Client`](crate::Client) it came from.
///
/// A value is reached by reference (`*block`) if every bit pattern is a valid `T`
/// ([`Plain`](crate::Plain): numbers, arrays of them, and your types that derive zerocopy's
/// `FromBytes`), else by value with [`get`](Block::get) and [`set`](Block::set): `bool`, `char`
/// and enums. Shared memory is what other processes may write to, and the references rely on
/// every writer of the pool using this library.
///
/// After a `fork`, the child does not have the parent's blocks: dropping one there does nothing,
/// and looking into one faults.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
/// let mut numbers = pool.alloc_slice_from(&[1_u32, 2, 3])?;
/// numbers[0] = 10;
/// assert_eq!(numbers.iter().sum::<u32>(), 15);
///
/// let mut letter = pool.alloc_value('x')?;
/// letter.set('y');
/// assert_eq!(letter.get()?, 'y');
/// # Ok::<(), goumem::Error>(())
/// ```
pub struct Block<T: ?Sized>(OwnedBlock<T>);

const _: () = assert!(size_of::<Block<u64>>() == 16);

impl<T: ?Sized> Block<T> {
    pub(crate) fn new(block: OwnedBlock<T>) -> Self {
        Self(block)
    }

    /// Returns how many bytes the block has, at least what the value needs: the rest is what its
    /// size class rounds up to.
    pub fn usable_bytes(&self) -> u64 {
        self.0.with_raw(|raw| raw.usable_bytes())
    }
}

impl<T: ShmType> Block<T> {
    pub(crate) fn write(&mut self, value: &T) {
        self.0.set(value);
    }

    /// Overwrites the value.
    pub fn set(&mut self, value: T) {
        self.0.set(&value);
    }

    /// Returns a copy of the value.
    ///
    /// # Errors
    /// [`Error::Access`] with `Corrupt` when the bytes are no `T`, for example because nothing
    /// was written to a newly allocated block of a `bool`.
    pub fn get(&self) -> Result<T, Error> {
        Ok(self.0.get()?)
    }

    /// Makes the block visible to every process that has the pool, owned by this one: its handle
    /// names it there. From now on others may write it, so it is copied in and out.
    ///
    /// # Errors
    /// [`Error::Closed`] without the client; [`Error::Access`] with `Corrupt` when something
    /// outside of this library has written into the pool's tables, or `GenerationsSpent`. The
    /// block is freed then.
    ///
    /// ```
    /// # use goumem::{PoolOptions, blocking};
    /// # let client = blocking::Client::embedded()?;
    /// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
    /// let shared = pool.alloc_value(1.5_f64)?.share()?;
    /// println!("{}", shared.handle()); // gm1-…
    /// assert_eq!(shared.read()?, 1.5);
    /// # Ok::<(), goumem::Error>(())
    /// ```
    pub fn share(self) -> Result<Shared<T>, Error> {
        let pool = self.0.with_raw(PoolCore::of)?;
        match self.0.export(pool.session.number) {
            Ok(handle) => Ok(Shared::new(pool, handle)),
            Err((_freed, error)) => Err(error.into()),
        }
    }
}

impl<T: ShmType> Block<T> {
    /// Makes the block visible, and leaves it to whoever is sent its handle:
    /// `share()?.into_handle()`, without the guard in between, which costs more than all the rest.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    ///
    /// ```
    /// # use goumem::{PoolOptions, blocking};
    /// # let client = blocking::Client::embedded()?;
    /// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
    /// let handle = pool.alloc_value(7_u64)?.into_handle()?; // send it to another process …
    /// let block = pool.take::<u64>(handle)?; // … which has the block alone
    /// assert_eq!(*block, 7);
    /// # Ok::<(), goumem::Error>(())
    /// ```
    #[inline]
    pub fn into_handle(self) -> Result<Handle, Error> {
        let session = self.0.with_raw(RawBlock::session);
        self.0
            .export(session)
            .map_err(|(_freed, error)| error.into())
    }
}

impl<E: ShmType> Block<[E]> {
    /// As for a sized value: makes the block visible, and leaves it to whoever is sent its handle.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    #[inline]
    pub fn into_handle(self) -> Result<Handle, Error> {
        let session = self.0.with_raw(RawBlock::session);
        let exported = self.0.export_slice(session);
        exported.map_err(|(_freed, error)| error.into())
    }

    /// As for a sized value: makes the block visible to every process that has the pool.
    ///
    /// # Errors
    /// [`Error::Closed`] without the client; [`Error::Access`] with `Corrupt` or
    /// `GenerationsSpent`. The block is freed then.
    pub fn share(self) -> Result<Shared<[E]>, Error> {
        let pool = self.0.with_raw(PoolCore::of)?;
        match self.0.export_slice(pool.session.number) {
            Ok(handle) => Ok(Shared::new(pool, handle)),
            Err((_freed, error)) => Err(error.into()),
        }
    }
}

impl<T: ?Sized> Deref for Block<T>
where
    OwnedBlock<T>: Deref<Target = T>,
{
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for Block<T>
where
    OwnedBlock<T>: DerefMut<Target = T>,
{
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.0.with_raw(|raw| raw.offset());
        f.debug_struct("Block")
            .field("offset", &offset)
            .finish_non_exhaustive()
    }
}

/// A block that holds a copy of a text.
///
/// Not every byte string is a text, and the bytes lie where other processes could write, so a
/// `&str` of them is never made: [`get`](Self::get) checks a copy.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
/// let name = pool.alloc_str("grüße")?;
/// assert_eq!(name.get()?, "grüße");
/// assert_eq!(name.as_bytes().len(), 7);
/// # Ok::<(), goumem::Error>(())
/// ```
#[derive(Debug)]
pub struct StrBlock(Block<[u8]>);

impl StrBlock {
    pub(crate) fn new(block: Block<[u8]>) -> Self {
        Self(block)
    }

    /// Returns a copy of the text.
    ///
    /// # Errors
    /// [`Error::Access`] with `Corrupt` when something outside of this library has written there.
    pub fn get(&self) -> Result<String, Error> {
        String::from_utf8(self.0.to_vec()).map_err(|_| {
            let corrupt = self.0.0.with_raw(|raw| goumem_shm::AccessError::Corrupt {
                pool: raw.memory().pool(),
                what: "text",
                offset_bytes: raw.offset().get(),
            });
            corrupt.into()
        })
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Makes the block visible to every process that has the pool, as bytes.
    ///
    /// # Errors
    /// As [`Block::share`].
    pub fn share(self) -> Result<Shared<[u8]>, Error> {
        self.0.share()
    }

    /// Returns the block.
    pub fn into_bytes(self) -> Block<[u8]> {
        self.0
    }
}

impl PartialEq<str> for StrBlock {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for StrBlock {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

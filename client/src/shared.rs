//! A block that this session owns and everybody may use.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use goumem_alloc::Handle;
use goumem_shm::{AtomicElement, Plain, ShmType};
use zerocopy::IntoBytes as _;

use crate::error::Error;
use crate::in_use::InUse;
use crate::pool::{Pool, PoolCore, keep};
use crate::view::{View, corrupt_value, offset_of, read_value};

/// A block that was shared: every process that has the pool can reach it by its
/// [handle](Self::handle), and this session owns it.
///
/// Dropping it frees the block, and every handle to it is stale then. Leave it to others with
/// [`into_handle`](Self::into_handle) (it still goes with this session, unless somebody takes or
/// adopts it), or to the pool with [`keep`](Self::keep) or [`publish`](Self::publish).
///
/// It is read and written by copy; see [`View`] for what a write may race with.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
/// let shared = pool.alloc_slice_from(&[1.0_f64, 2.0])?.share()?;
/// shared.write(&[3.0])?;
/// let mut copy = [0.0; 2];
/// shared.copy_to(&mut copy)?;
/// assert_eq!(copy, [3.0, 2.0]);
/// # Ok::<(), goumem::Error>(())
/// ```
pub struct Shared<T: ?Sized> {
    pool: InUse<PoolCore>,
    handle: Handle,
    /// Whether dropping it frees the block.
    owns: AtomicBool,
    /// Whether it lies in somebody else's span.
    adopted: bool,
    holds: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Shared<T> {
    pub(crate) fn new(pool: InUse<PoolCore>, handle: Handle) -> Self {
        let owns = AtomicBool::new(true);
        Self {
            pool,
            handle,
            owns,
            adopted: false,
            holds: PhantomData,
        }
    }

    pub(crate) fn adopted(pool: InUse<PoolCore>, handle: Handle) -> Self {
        let owns = AtomicBool::new(true);
        Self {
            pool,
            handle,
            owns,
            adopted: true,
            holds: PhantomData,
        }
    }

    /// Returns the handle, the block's name in every process.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Leaves the block to whoever has its handle, and returns that. It lives until somebody
    /// frees it, or until this session ends with nobody having taken, adopted or kept it.
    pub fn into_handle(self) -> Handle {
        self.disown();
        self.handle
    }

    /// Makes the block outlive its session: it stays in the pool, also when this is dropped,
    /// until somebody frees or takes it.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`; [`Error::Daemon`] with `TOO_MANY_RECORDS`. It is owned as
    /// before then.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let handle = pool.alloc_value(5_u8).await?.share()?.keep().await?;
    /// assert_eq!(pool.resolve::<u8>(handle)?.read()?, 5);
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn keep(&self) -> Result<Handle, Error> {
        let handle = keep(self.pool.arc(), self.handle).await?;
        self.disown();
        Ok(handle)
    }

    /// Gives the block a name in the pool, and keeps it, as [`Pool::publish`] does.
    ///
    /// # Errors
    /// As [`Pool::publish`]. It is owned as before then.
    pub async fn publish(&self, name: &str) -> Result<Handle, Error> {
        Pool::new(self.pool.clone())
            .publish(name, self.handle)
            .await?;
        self.disown();
        Ok(self.handle)
    }

    /// Gives up the block without freeing it.
    fn disown(&self) -> bool {
        // ORDERING: Relaxed; the flag says whose drop frees, and nothing of the block.
        let owned = self.owns.swap(false, Ordering::Relaxed);
        if owned && self.adopted {
            self.pool.forget_adopted();
        }
        owned
    }
}

impl<T: ShmType> Shared<T> {
    /// Returns a view of it, which can be copied and owns nothing.
    ///
    /// # Errors
    /// As [`Pool::resolve`].
    pub fn view(&self) -> Result<View<'_, T>, Error> {
        View::resolve(&self.pool.memory, self.handle)
    }

    /// Returns a copy of the value. As [`View::read`].
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn read(&self) -> Result<T, Error> {
        let memory = &self.pool.memory;
        let value = read_value(|into| Ok(memory.read(self.handle, 0, into)?))?;
        value.ok_or_else(|| corrupt_value(memory, self.handle))
    }

    /// Overwrites the value. As [`View::write`].
    ///
    /// # Errors
    /// As [`View::write`].
    pub fn write(&self, value: T) -> Result<(), Error> {
        Ok(self.pool.memory.write(self.handle, 0, value.as_bytes())?)
    }

    /// Returns the block as atomics of the same width. As [`View::atomics`].
    ///
    /// # Errors
    /// As [`View::atomics`].
    pub fn atomics<A: AtomicElement>(&self) -> Result<&A, Error> {
        Ok(self.pool.memory.atomics(self.handle)?)
    }
}

impl<E: ShmType> Shared<[E]> {
    /// Returns a view of it, which can be copied and owns nothing.
    ///
    /// # Errors
    /// As [`Pool::resolve_slice`].
    pub fn view(&self) -> Result<View<'_, [E]>, Error> {
        View::resolve_slice(&self.pool.memory, self.handle)
    }

    /// Returns a copy of the elements. As [`View::read_slice`].
    ///
    /// # Errors
    /// As [`View::read_slice`].
    pub fn read_slice(&self) -> Result<Vec<E>, Error> {
        self.view()?.read_slice()
    }

    /// Copies the first `into.len()` elements. As [`View::copy_to`].
    ///
    /// # Errors
    /// As [`View::copy_to`].
    pub fn copy_to(&self, into: &mut [E]) -> Result<(), Error>
    where
        E: Plain,
    {
        Ok(self.pool.memory.read(self.handle, 0, into.as_mut_bytes())?)
    }

    /// Overwrites the first elements. As [`View::write`].
    ///
    /// # Errors
    /// As [`View::write`].
    pub fn write(&self, elements: &[E]) -> Result<(), Error> {
        self.write_at(0, elements)
    }

    /// Overwrites the elements from `index` on.
    ///
    /// # Errors
    /// As [`View::write`].
    pub fn write_at(&self, index: usize, elements: &[E]) -> Result<(), Error> {
        let offset_bytes = offset_of::<E>(index);
        Ok(self
            .pool
            .memory
            .write(self.handle, offset_bytes, elements.as_bytes())?)
    }
}

impl<T: ?Sized> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.disown() {
            // Somebody else may have freed or taken it, which is as good. In a forked child it
            // does nothing.
            let _ = self.pool.memory.free(self.handle);
        }
    }
}

impl<T: ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

//! [`crate::Pool`] without `.await`.

use std::ops::Deref;

use goumem_alloc::Handle;
use goumem_proto::model::{KeptBlock, PoolStat};
use goumem_shm::{Plain, ShmType};

use super::wait;
use crate::block::{Block, StrBlock};
use crate::error::Error;
use crate::matrix::Matrix;
use crate::pin::Pin;

/// [`crate::Pool`], whose methods wait. Those that do not wait anyway (`try_alloc`, `resolve`,
/// `take`, `adopt`, `free`, `name` …) are the same, by `Deref`.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// let pool = client.create_pool("greetings", PoolOptions::new(1 << 20))?;
/// let handle = pool.alloc_str("hello")?.share()?.into_handle();
/// pool.publish("first", handle)?;
/// let bytes = pool.resolve_slice::<u8>(pool.lookup("first")?)?.read_slice()?;
/// assert_eq!(bytes, b"hello");
/// # Ok::<(), goumem::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Pool(crate::Pool);

// Each alloc tries first: to wait costs a hundred nanoseconds even when nothing is waited for.

impl Pool {
    pub(super) fn new(pool: crate::Pool) -> Self {
        Self(pool)
    }

    /// As [`crate::Pool::alloc`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn alloc<T: ShmType>(&self) -> Result<Block<T>, Error> {
        match self.0.try_alloc() {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc()),
        }
    }

    /// As [`crate::Pool::alloc_zeroed`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_zeroed<T: ShmType>(&self) -> Result<Block<T>, Error> {
        match self.0.try_alloc_zeroed() {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc_zeroed()),
        }
    }

    /// As [`crate::Pool::alloc_value`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_value<T: ShmType>(&self, value: T) -> Result<Block<T>, Error> {
        let mut block = self.alloc::<T>()?;
        block.set(value);
        Ok(block)
    }

    /// As [`crate::Pool::alloc_slice`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_slice<E: ShmType>(&self, len: usize) -> Result<Block<[E]>, Error> {
        match self.0.try_alloc_slice(len) {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc_slice(len)),
        }
    }

    /// As [`crate::Pool::alloc_slice_from`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_slice_from<E: ShmType>(&self, elements: &[E]) -> Result<Block<[E]>, Error> {
        match self.0.try_alloc_slice_from(elements) {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc_slice_from(elements)),
        }
    }

    /// As [`crate::Pool::alloc_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_bytes(&self, len_bytes: usize, align_bytes: usize) -> Result<Block<[u8]>, Error> {
        match self.0.try_alloc_bytes(len_bytes, align_bytes) {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc_bytes(len_bytes, align_bytes)),
        }
    }

    /// As [`crate::Pool::alloc_str`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_str(&self, text: &str) -> Result<StrBlock, Error> {
        match self.0.try_alloc_str(text) {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc_str(text)),
        }
    }

    /// As [`crate::Pool::alloc_matrix`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_matrix<T: Plain>(&self, rows: usize, columns: usize) -> Result<Matrix<T>, Error> {
        match self.0.try_alloc_matrix(rows, columns) {
            Ok(block) => Ok(block),
            Err(_) => wait(self.0.alloc_matrix(rows, columns)),
        }
    }

    /// As [`crate::Pool::keep`].
    ///
    /// # Errors
    /// As there.
    pub fn keep(&self, handle: Handle) -> Result<Handle, Error> {
        wait(self.0.keep(handle))
    }

    /// As [`crate::Pool::pin`].
    ///
    /// # Errors
    /// As there.
    pub fn pin(&self, handle: Handle) -> Result<Pin, Error> {
        wait(self.0.pin(handle))
    }

    /// As [`crate::Pool::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(&self, name: &str, handle: Handle) -> Result<(), Error> {
        wait(self.0.publish(name, handle))
    }

    /// As [`crate::Pool::publish_replacing`].
    ///
    /// # Errors
    /// As there.
    pub fn publish_replacing(&self, name: &str, handle: Handle) -> Result<(), Error> {
        wait(self.0.publish_replacing(name, handle))
    }

    /// As [`crate::Pool::lookup`].
    ///
    /// # Errors
    /// As there.
    pub fn lookup(&self, name: &str) -> Result<Handle, Error> {
        wait(self.0.lookup(name))
    }

    /// As [`crate::Pool::withdraw`].
    ///
    /// # Errors
    /// As there.
    pub fn withdraw(&self, name: &str) -> Result<Handle, Error> {
        wait(self.0.withdraw(name))
    }

    /// As [`crate::Pool::kept`].
    ///
    /// # Errors
    /// As there.
    pub fn kept(&self) -> Result<Vec<KeptBlock>, Error> {
        wait(self.0.kept())
    }

    /// As [`crate::Pool::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self) -> Result<PoolStat, Error> {
        wait(self.0.stat())
    }

    /// As [`crate::Pool::set_capacity`].
    ///
    /// # Errors
    /// As there.
    pub fn set_capacity(&self, capacity_bytes: u64) -> Result<PoolStat, Error> {
        wait(self.0.set_capacity(capacity_bytes))
    }

    /// As [`crate::Pool::purge`].
    ///
    /// # Errors
    /// As there.
    pub fn purge(&self) -> Result<u64, Error> {
        wait(self.0.purge())
    }

    /// As [`crate::Pool::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<(), Error> {
        wait(self.0.flush())
    }
}

impl Deref for Pool {
    type Target = crate::Pool;

    fn deref(&self) -> &crate::Pool {
        &self.0
    }
}

impl From<crate::Pool> for Pool {
    fn from(pool: crate::Pool) -> Self {
        Self(pool)
    }
}

//! [`crate::ArenaPool`] and [`crate::Arena`] without `.await`.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use goumem_proto::model::{Access, ArenaHolders, ArenaPoolStat};

use super::wait;
use crate::error::Error;

/// [`crate::ArenaPool`], whose methods wait. Those that do not wait anyway are the same, by
/// `Deref`.
///
/// ```
/// # use goumem::{ArenaPoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// let pool = client.create_arena_pool("batches", ArenaPoolOptions::new(1, 1000))?;
/// let arena = pool.get()?;
/// assert!(pool.get_timeout(std::time::Duration::from_millis(1)).is_err());
/// arena.return_arena()?;
/// assert!(pool.get().is_ok());
/// # Ok::<(), goumem::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ArenaPool(crate::ArenaPool);

impl ArenaPool {
    pub(super) fn new(pool: crate::ArenaPool) -> Self {
        Self(pool)
    }

    /// As [`crate::ArenaPool::try_get`].
    ///
    /// # Errors
    /// As there.
    pub fn try_get(&self) -> Result<Arena, Error> {
        self.0.try_get().map(Arena)
    }

    /// As [`crate::ArenaPool::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self) -> Result<Arena, Error> {
        wait(self.0.get()).map(Arena)
    }

    /// As [`crate::ArenaPool::get_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn get_timeout(&self, timeout: Duration) -> Result<Arena, Error> {
        wait(self.0.get_timeout(timeout)).map(Arena)
    }

    /// As [`crate::ArenaPool::attach`].
    ///
    /// # Errors
    /// As there.
    pub fn attach(&self, name: &str, access: Access) -> Result<Arena, Error> {
        wait(self.0.attach(name, access)).map(Arena)
    }

    /// As [`crate::ArenaPool::holders`].
    ///
    /// # Errors
    /// As there.
    pub fn holders(&self) -> Result<Vec<ArenaHolders>, Error> {
        wait(self.0.holders())
    }

    /// As [`crate::ArenaPool::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self) -> Result<ArenaPoolStat, Error> {
        wait(self.0.stat())
    }
}

impl Deref for ArenaPool {
    type Target = crate::ArenaPool;

    fn deref(&self) -> &crate::ArenaPool {
        &self.0
    }
}

impl From<crate::ArenaPool> for ArenaPool {
    fn from(pool: crate::ArenaPool) -> Self {
        Self(pool)
    }
}

/// [`crate::Arena`], whose methods wait. Those that do not wait anyway (`alloc`, `resolve`,
/// `free`, `reset` …) are the same, by `Deref`.
#[derive(Debug)]
pub struct Arena(crate::Arena);

impl Arena {
    /// As [`crate::Arena::share`].
    ///
    /// # Errors
    /// As there.
    pub fn share(&mut self, name: &str) -> Result<(), Error> {
        wait(self.0.share(name))
    }

    /// As [`crate::Arena::detach`].
    ///
    /// # Errors
    /// As there.
    pub fn detach(self) -> Result<bool, Error> {
        wait(self.0.detach())
    }

    /// As [`crate::Arena::return_arena`].
    ///
    /// # Errors
    /// As there.
    pub fn return_arena(self) -> Result<(), Error> {
        self.0.return_arena()
    }
}

impl Deref for Arena {
    type Target = crate::Arena;

    fn deref(&self) -> &crate::Arena {
        &self.0
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut crate::Arena {
        &mut self.0
    }
}

impl From<crate::Arena> for Arena {
    fn from(arena: crate::Arena) -> Self {
        Self(arena)
    }
}

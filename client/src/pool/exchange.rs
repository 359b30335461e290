//! Blocks of other processes: from a handle to a view, to ownership, or to nothing.

use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::v1::control_request::Call;
use goumem_shm::{AccessError, OwnedBlock, ShmType};

use super::Pool;
use crate::block::Block;
use crate::error::Error;
use crate::pin::Pin;
use crate::shared::Shared;
use crate::view::{self, View};

impl Pool {
    /// Looks at the block that a handle names, wherever it came from. No call is made.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `WrongPool` or `WrongKind`; `WrongType` when the block
    /// holds other elements (one allocated without a type may be seen as anything, and anything
    /// may be seen as `u8`); `WrongLength` when it is not as long as a `T`.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let shared = pool.alloc_value(42_u64).await?.share()?;
    /// let handle = shared.handle(); // 16 bytes: send them to another process
    /// assert_eq!(pool.resolve::<u64>(handle)?.read()?, 42);
    /// assert!(pool.resolve::<f64>(handle).is_err());
    /// drop(shared); // frees the block
    /// assert!(pool.resolve::<u64>(handle).unwrap_err().is_stale());
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn resolve<T: ShmType>(&self, handle: Handle) -> Result<View<'_, T>, Error> {
        self.core.session.check_open()?;
        View::resolve(&self.core.memory, handle)
    }

    /// As [`resolve`](Self::resolve), for as many elements as the block has.
    ///
    /// # Errors
    /// As `resolve`; `WrongLength` when the block is not a whole number of elements.
    #[inline]
    pub fn resolve_slice<E: ShmType>(&self, handle: Handle) -> Result<View<'_, [E]>, Error> {
        self.core.session.check_open()?;
        View::resolve_slice(&self.core.memory, handle)
    }

    /// Takes the block that a handle names, for this process alone: every other handle to it is
    /// stale from now on, and the block can be used by reference. No call is made. Of a block
    /// that was kept, the daemon forgets by itself that it was.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and nothing has changed then; `Pinned`; `ReadOnly`.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let handle = pool.alloc_value([1_u32, 2]).await?.share()?.into_handle();
    /// // … in the process that was sent the handle:
    /// let mut block = pool.take::<[u32; 2]>(handle)?;
    /// block[0] = 7;
    /// assert!(pool.resolve::<[u32; 2]>(handle).unwrap_err().is_stale());
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn take<T: ShmType>(&self, handle: Handle) -> Result<Block<T>, Error> {
        let check = |shape| {
            view::check_sized::<T>(shape)?;
            check_alignment(handle, align_of::<T>())
        };
        let (block, _) = self.core.take(handle, check)?;
        Ok(Block::new(OwnedBlock::new(block)?))
    }

    /// As [`take`](Self::take), for as many elements as the block has.
    ///
    /// # Errors
    /// As `take`; `WrongLength` when the block is not a whole number of elements.
    #[inline]
    pub fn take_slice<E: ShmType>(&self, handle: Handle) -> Result<Block<[E]>, Error> {
        let check = |shape| {
            view::check_slice::<E>(shape)?;
            check_alignment(handle, align_of::<E>())
        };
        let (block, shape) = self.core.take(handle, check)?;
        let len = shape.length_bytes / size_of::<E>() as u64;
        let len = usize::try_from(len).expect("64-bit addresses");
        Ok(Block::new(OwnedBlock::new_slice(block, len)?))
    }

    /// Makes this session the owner of the block that a handle names; the handle, and everybody
    /// else's, stays good. The block then lives as long as this session, or until it is freed. No
    /// call is made. Of a block that was kept, the daemon forgets by itself that it was.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and nothing has changed then; `ReadOnly`.
    pub fn adopt<T: ShmType>(&self, handle: Handle) -> Result<Shared<T>, Error> {
        View::<T>::resolve(&self.core.memory, handle)?;
        self.core.adopt(handle)?;
        Ok(Shared::adopted(self.core.clone(), handle))
    }

    /// As [`adopt`](Self::adopt), for as many elements as the block has.
    ///
    /// # Errors
    /// As `adopt`; `WrongLength` when the block is not a whole number of elements.
    pub fn adopt_slice<E: ShmType>(&self, handle: Handle) -> Result<Shared<[E]>, Error> {
        View::<[E]>::resolve_slice(&self.core.memory, handle)?;
        self.core.adopt(handle)?;
        Ok(Shared::adopted(self.core.clone(), handle))
    }

    /// Frees the block that a handle names, whoever allocated it. No call is made.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `DoubleFree`, `WrongPool`, `WrongKind` or `ReadOnly`.
    pub fn free(&self, handle: Handle) -> Result<(), Error> {
        self.core.session.check_open()?;
        // Free or condemned, as long as a pin holds it: gone for whoever has the handle.
        self.core.memory.free(handle).map(|_| ())?;
        Ok(())
    }

    /// Pins the block that a handle names: until the pin is dropped its bytes stay where they
    /// are, even if it is freed meanwhile (its handle is stale then all the same).
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale` and the like; [`Error::Daemon`] with `TOO_MANY_RECORDS`.
    pub async fn pin(&self, handle: Handle) -> Result<Pin, Error> {
        let pin = Pin::prepare(self.core.clone(), handle)?;
        self.core
            .session
            .control_on_handle(handle, Call::Pin)
            .await
            .map_err(|error| self.core.name_loss(error))?;
        Ok(pin.pinned())
    }

    /// Makes a block outlive its owner's session: the block of a handle that
    /// [`into_handle`](Shared::into_handle) gave. A [`Shared`] has a method of its own.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`; [`Error::Daemon`] with `NOT_OWNER` or `TOO_MANY_RECORDS`.
    pub async fn keep(&self, handle: Handle) -> Result<Handle, Error> {
        keep(self.core.arc(), handle).await
    }
}

/// Keeps a block by RPC.
pub(crate) async fn keep(core: &Arc<super::PoolCore>, handle: Handle) -> Result<Handle, Error> {
    let kept = core.session.control_on_handle(handle, Call::Keep).await;
    kept.map_err(|error| core.name_loss(error))
}

/// The payload starts at a multiple of 2 MiB in the mapping, so an offset is as aligned as its
/// address.
#[inline]
fn check_alignment(handle: Handle, align: usize) -> Result<(), AccessError> {
    let offset = handle.offset().get();
    // An alignment is a power of two.
    if offset & (align as u64 - 1) == 0 {
        return Ok(());
    }
    Err(AccessError::WrongLength {
        expected_bytes: align as u64,
        found_bytes: offset,
    })
}

//! A pin: holds the bytes of a block in place, whoever frees it.

use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::v1;
use goumem_proto::v1::control_request::Call;
use goumem_shm::{BlockPlace, Plain, ShmType};
use zerocopy::IntoBytes as _;

use crate::error::Error;
use crate::in_use::InUse;
use crate::pool::PoolCore;
use crate::session::{HeldPin, Session};
use crate::view::{corrupt_value, offset_of, read_value};

/// Holds a block's bytes in place until it is dropped, which the daemon hears in the background.
///
/// A free makes the block's handle stale at once, for everybody; its bytes are handed out again
/// only when the last pin is gone. So what is read here is the block's, whatever happens to it,
/// though its owner may still write it.
///
/// ```
/// # goumem::blocking::wait(async {
/// # let client = goumem::Client::embedded().await?;
/// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
/// let shared = pool.alloc_value(7_u64).await?.share()?;
/// let handle = shared.handle();
/// let pin = pool.pin(handle).await?;
/// drop(shared); // freed, as far as anybody with a handle can tell …
/// assert!(pool.resolve::<u64>(handle).unwrap_err().is_stale());
/// assert_eq!(pin.read::<u64>()?, 7); // … but the bytes are still there
/// # Ok::<(), goumem::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Pin {
    place: Place,
    /// Cleared by `unpin`.
    pinned: bool,
}

/// What is to be pinned. It counts as held by the session from before the call on.
#[derive(Debug)]
pub(crate) struct Place {
    pool: InUse<PoolCore>,
    handle: Handle,
    at: BlockPlace,
    length_bytes: u64,
    _held: HeldPin,
}

impl Place {
    /// The daemon has pinned it.
    pub(crate) fn pinned(self) -> Pin {
        Pin {
            place: self,
            pinned: true,
        }
    }
}

impl Pin {
    pub(crate) fn prepare(pool: InUse<PoolCore>, handle: Handle) -> Result<Place, Error> {
        let held = HeldPin::new(&pool.session)?;
        let at = pool.memory.resolve(handle)?;
        let length_bytes = pool.memory.checked_shape(&at)?.length_bytes;
        Ok(Place {
            at,
            length_bytes,
            pool,
            handle,
            _held: held,
        })
    }

    /// Returns the block's handle, which may be stale by now.
    pub fn handle(&self) -> Handle {
        self.place.handle
    }

    /// Returns how many bytes the block has.
    pub fn length_bytes(&self) -> u64 {
        self.place.length_bytes
    }

    /// Returns a copy of the first bytes as a `T`.
    ///
    /// # Errors
    /// [`Error::Access`] with `OutOfRange` when the block has fewer bytes; `Corrupt` when they
    /// are no `T`.
    pub fn read<T: ShmType>(&self) -> Result<T, Error> {
        let place = &self.place;
        read_value(|into| self.copy_bytes_to(0, into))?
            .ok_or_else(|| corrupt_value(&place.pool.memory, place.handle))
    }

    /// Copies the elements from `index` on.
    ///
    /// # Errors
    /// [`Error::Access`] with `OutOfRange` when the block has fewer.
    pub fn copy_at<E: Plain>(&self, index: usize, into: &mut [E]) -> Result<(), Error> {
        self.copy_bytes_to(offset_of::<E>(index), into.as_mut_bytes())
    }

    fn copy_bytes_to(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), Error> {
        Ok(self
            .place
            .pool
            .memory
            .read_pinned(&self.place.at, offset_bytes, into)?)
    }

    /// Lets the block go, and waits until the daemon has done so.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like; the pin is gone for this process all the same.
    pub async fn unpin(mut self) -> Result<(), Error> {
        self.pinned = false;
        let pool = &self.place.pool;
        pool.session
            .control_on_handle(self.place.handle, Call::Unpin)
            .await
            .map_err(|error| pool.name_loss(error))?;
        Ok(())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !self.pinned {
            return;
        }
        let handle = Some(self.place.handle.into());
        let session: &Arc<Session> = &self.place.pool.session;
        session.queue_control::<v1::HandleReply>("unpin", move |request_id| {
            Call::Unpin(v1::HandleRequest { handle, request_id })
        });
    }
}

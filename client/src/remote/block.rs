//! A block of a remote session.

use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::model::BlockInfo;

use super::bytes::RemoteReader;
use super::pool;
use super::session::{Chore, RemoteSession};
use crate::error::Error;

/// A block of this session in the memory of another machine: freed when it is dropped, by a call
/// that nobody waits for.
///
/// Every access is a call. What is read or written piece by piece may be freed by others
/// meanwhile, who have its handle: that is an error, and not the bytes of somebody else.
#[derive(Debug)]
#[must_use = "the block is freed when it is dropped"]
pub struct RemoteBlock {
    session: Arc<RemoteSession>,
    handle: Handle,
    size_bytes: u64,
    /// It has another owner, or is free.
    gone: bool,
}

impl RemoteBlock {
    pub(super) fn new(session: Arc<RemoteSession>, block: &BlockInfo) -> Self {
        Self {
            session,
            handle: block.handle,
            size_bytes: block.size_bytes,
            gone: false,
        }
    }

    /// Returns the handle, good in every process and on every machine.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns how many bytes it has.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads bytes from an offset on.
    ///
    /// # Errors
    /// `OUT_OF_RANGE`; `STALE_HANDLE`; [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn read(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<u8>, Error> {
        RemoteReader::start(&self.session, self.handle, offset_bytes, length_bytes)
            .await?
            .collect(length_bytes)
            .await
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_all(&self) -> Result<Vec<u8>, Error> {
        self.read(0, self.size_bytes).await
    }

    /// Begins to read piece by piece, for what does not fit into memory, or goes on to elsewhere.
    ///
    /// # Errors
    /// [`Error::Closed`]; others come with the pieces.
    pub async fn reader(
        &self,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<RemoteReader, Error> {
        RemoteReader::start(&self.session, self.handle, offset_bytes, length_bytes).await
    }

    /// Writes bytes from an offset on. When it fails, some of them may have been written.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn write(&self, offset_bytes: u64, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
        pool::write(&self.session, self.handle, offset_bytes, bytes.into()).await
    }

    /// Makes it outlive this session, and gives its handle.
    ///
    /// # Errors
    /// `TOO_MANY_RECORDS`, `STALE_HANDLE`; the block is freed then.
    pub async fn keep(mut self) -> Result<Handle, Error> {
        let kept = pool::on_handle(&self.session, self.handle, |rpc, request| async move {
            rpc.pools().keep(request).await
        });
        let handle = kept.await?;
        self.gone = true;
        Ok(handle)
    }

    /// Gives it a name in its pool, by which it outlives this session, and gives its handle.
    ///
    /// # Errors
    /// [`Error::NameExists`]; [`Error::Name`]; `TOO_MANY_RECORDS`; the block is freed then.
    pub async fn publish(mut self, name: &str) -> Result<Handle, Error> {
        pool::publish(&self.session, name, self.handle, false).await?;
        self.gone = true;
        Ok(self.handle)
    }

    /// Gives its handle, and leaves it to whoever takes, adopts or keeps it. Until then it ends
    /// with this session.
    pub fn into_handle(mut self) -> Handle {
        self.gone = true;
        self.handle
    }

    /// Frees it, and says whether it was there to be freed.
    ///
    /// # Errors
    /// `STALE_HANDLE`, `DOUBLE_FREE`; [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn free(mut self) -> Result<(), Error> {
        self.gone = true;
        pool::free(&self.session, self.handle).await
    }
}

impl Drop for RemoteBlock {
    fn drop(&mut self) {
        if !self.gone {
            self.session.queue(Chore::Free(self.handle));
        }
    }
}

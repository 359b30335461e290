//! A pool as its users see it. What it does is in the files below: allocating ([`alloc`]),
//! exchanging blocks with other processes ([`exchange`]) and naming them ([`names`]).

use goumem_alloc::PoolId;
use goumem_proto::model::{
    Access, FlushPool, PoolInfo, PoolStat, PurgePool, PurgedPool, SetCapacity,
};
use goumem_proto::v1;

use crate::connect::Rpc;
use crate::error::Error;
use crate::in_use::InUse;

mod alloc;
mod core;
mod exchange;
mod heaps;
mod leases;
mod names;

pub(crate) use self::core::PoolCore;
pub(crate) use self::exchange::keep;

/// A pool, mapped into this process: allocates blocks, and finds those of others.
///
/// Clones are the same pool. When the last one, and every [`Shared`](crate::Shared) of it, is
/// gone, its memory is unmapped as soon as its last [`Block`](crate::Block) is gone too: blocks
/// outlive the pool they came from.
///
/// ```
/// # goumem::blocking::wait(async {
/// use goumem::{Client, PoolOptions};
///
/// let client = Client::embedded().await?;
/// let pool = client.create_pool("numbers", PoolOptions::new(1 << 20)).await?;
/// let mut block = pool.alloc::<u64>().await?;
/// *block = 456;
/// assert_eq!(*block, 456);
/// # Ok::<(), goumem::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Pool {
    core: InUse<PoolCore>,
}

impl Pool {
    pub(crate) fn new(core: InUse<PoolCore>) -> Self {
        Self { core }
    }

    /// Returns the pool's name.
    pub fn name(&self) -> &str {
        self.core.info.name.as_str()
    }

    /// Returns the pool's id, which its handles carry. It is never used again.
    pub fn id(&self) -> PoolId {
        self.core.info.pool_id
    }

    /// Returns what the pool was when it was opened; its capacity may have changed since.
    pub fn info(&self) -> &PoolInfo {
        &self.core.info
    }

    /// Returns whether this process may write the pool.
    pub fn access(&self) -> Access {
        if self.core.memory.is_writable() {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        }
    }

    /// Returns how full the pool is.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`] after its destruction; [`Error::Transport`].
    pub async fn stat(&self) -> Result<PoolStat, Error> {
        let name = self.name().to_owned();
        self.core
            .session
            .run(|session| async move {
                let request = v1::StatPoolRequest { name };
                let stat = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.pools().stat(request).await }
                };
                let reply = session.ask(stat).await?;
                Ok(PoolStat::try_from(reply)?)
            })
            .await
    }

    /// Sets the quota on granted bytes; nothing is remapped. For the pool's owner and root.
    ///
    /// # Errors
    /// [`Error::Daemon`] with `CAPACITY_TOO_SMALL` (below what is granted) or
    /// `CAPACITY_TOO_LARGE` (above the maximum fixed at creation); [`Error::PermissionDenied`].
    pub async fn set_capacity(&self, capacity_bytes: u64) -> Result<PoolStat, Error> {
        let name = self.core.info.name.clone();
        self.core
            .session
            .run(move |session| async move {
                let request = v1::SetCapacityRequest::from(SetCapacity {
                    name,
                    capacity_bytes,
                });
                let set = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.pools().set_capacity(request).await }
                };
                let reply = session.ask(set).await?;
                Ok(PoolStat::try_from(reply)?)
            })
            .await
    }

    /// Gives free memory back to the OS now: the spans that are idle here, then what is free in
    /// the daemon. Returns how many bytes that was.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`], [`Error::Transport`].
    pub async fn purge(&self) -> Result<u64, Error> {
        let core = self.core.clone();
        self.core
            .session
            .run(move |session| async move {
                core.arc().return_idle().await?;
                let request = v1::PurgePoolRequest::from(PurgePool {
                    name: core.info.name.clone(),
                });
                let purge = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.pools().purge(request).await }
                };
                let reply = session.ask(purge).await?;
                Ok(PurgedPool::try_from(reply)?.purged_bytes)
            })
            .await
    }

    /// Writes a file-backed pool to its disk: what is kept or named then survives power loss.
    ///
    /// # Errors
    /// [`Error::Daemon`] with `BACKING_UNSUPPORTED` for a pool in memory.
    pub async fn flush(&self) -> Result<(), Error> {
        let name = self.core.info.name.clone();
        self.core
            .session
            .run(move |session| async move {
                let request = v1::FlushPoolRequest::from(FlushPool { name });
                let flush = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.pools().flush(request).await }
                };
                session.ask(flush).await?;
                Ok(())
            })
            .await
    }
}

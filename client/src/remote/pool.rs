//! A pool that is used by calls.

use std::sync::Arc;

use goumem_alloc::{Handle, PoolId};
use goumem_proto::model::{
    Allocated, BlockInfo, Free, HandleReply, KeptBlock, ListKept, Lookup, OpenedPool, PoolInfo,
    PoolStat, Publish, RequestId, Withdraw,
};
use goumem_proto::name::BlockName;
use goumem_proto::v1;
use tonic::codegen::Bytes;
use tonic::{Response, Status};

use super::block::RemoteBlock;
use super::bytes::{self, RemoteReader};
use super::session::RemoteSession;
use crate::client::parse_name;
use crate::connect::Rpc;
use crate::error::Error;

/// A pool of another machine, whose blocks are reached by calls. Clones are the same pool.
#[derive(Debug, Clone)]
pub struct RemotePool {
    session: Arc<RemoteSession>,
    info: Arc<PoolInfo>,
}

impl RemotePool {
    pub(super) fn new(session: Arc<RemoteSession>, opened: OpenedPool) -> Self {
        Self {
            session,
            info: Arc::new(opened.pool),
        }
    }

    /// Returns the pool's name.
    pub fn name(&self) -> &str {
        self.info.name.as_str()
    }

    /// Returns the pool's id, which its handles carry. It is never used again.
    pub fn id(&self) -> PoolId {
        self.info.pool_id
    }

    /// Returns what the pool was when it was opened.
    pub fn info(&self) -> &PoolInfo {
        &self.info
    }

    /// Allocates a block of zeros.
    ///
    /// # Errors
    /// [`Error::Exhausted`]; [`Error::PermissionDenied`]; [`Error::Layout`] for 0 bytes and for
    /// more than a pool can have; [`Error::PoolNotFound`] when it is destroyed.
    pub async fn alloc(&self, size_bytes: u64) -> Result<RemoteBlock, Error> {
        let pool_id = self.id();
        self.session
            .run(move |session| async move {
                let reply = session
                    .wire
                    .effect(|rpc, request_id| async move {
                        let request = v1::AllocRequest {
                            pool_id: pool_id.get(),
                            spec: Some(v1::BlockSpec {
                                size_bytes,
                                ..Default::default()
                            }),
                            request_id,
                        };
                        rpc.pools().alloc(request).await
                    })
                    .await?;
                let Allocated { block } = reply.try_into()?;
                Ok(RemoteBlock::new(session, &block))
            })
            .await
    }

    /// Allocates a block for these bytes, and writes them there.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub async fn alloc_bytes(&self, bytes: impl Into<Vec<u8>>) -> Result<RemoteBlock, Error> {
        let bytes = bytes.into();
        let block = self.alloc(bytes.len() as u64).await?;
        block.write(0, bytes).await?;
        Ok(block)
    }

    /// Reads bytes of what a handle names, from an offset on.
    ///
    /// # Errors
    /// `OUT_OF_RANGE`; `STALE_HANDLE`, `WRONG_POOL`; [`Error::PermissionDenied`];
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn read(
        &self,
        handle: Handle,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        self.reader(handle, offset_bytes, length_bytes)
            .await?
            .collect(length_bytes)
            .await
    }

    /// Reads all of a block.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_all(&self, handle: Handle) -> Result<Vec<u8>, Error> {
        let size_bytes = self.resolve(handle).await?.size_bytes;
        self.read(handle, 0, size_bytes).await
    }

    /// Begins to read piece by piece, for what does not fit into memory, or goes on to elsewhere.
    ///
    /// # Errors
    /// [`Error::Closed`]; others come with the pieces.
    pub async fn reader(
        &self,
        handle: Handle,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<RemoteReader, Error> {
        RemoteReader::start(&self.session, handle, offset_bytes, length_bytes).await
    }

    /// Writes bytes to what a handle names, from an offset on. When it fails, some of them may have
    /// been written.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn write(
        &self,
        handle: Handle,
        offset_bytes: u64,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        write(&self.session, handle, offset_bytes, bytes.into()).await
    }

    /// Says what a handle names.
    ///
    /// # Errors
    /// `STALE_HANDLE`, `WRONG_POOL`; [`Error::PermissionDenied`].
    pub async fn resolve(&self, handle: Handle) -> Result<BlockInfo, Error> {
        resolve(&self.session, handle).await
    }

    /// Frees any block of the pool.
    ///
    /// # Errors
    /// `STALE_HANDLE`, `DOUBLE_FREE`, `WRONG_POOL`; [`Error::PermissionDenied`].
    pub async fn free(&self, handle: Handle) -> Result<(), Error> {
        free(&self.session, handle).await
    }

    /// Becomes the owner of a block. Its handle stays good.
    ///
    /// # Errors
    /// As [`free`](Self::free).
    pub async fn adopt(&self, handle: Handle) -> Result<RemoteBlock, Error> {
        let adopted = on_handle(&self.session, handle, |rpc, request| async move {
            rpc.pools().adopt(request).await
        });
        self.own(adopted.await?).await
    }

    /// Becomes the owner of a block, and makes all of its handles stale but the new one.
    ///
    /// # Errors
    /// `BLOCK_PINNED`; as [`free`](Self::free).
    pub async fn take(&self, handle: Handle) -> Result<RemoteBlock, Error> {
        let taken = on_handle(&self.session, handle, |rpc, request| async move {
            rpc.pools().take(request).await
        });
        self.own(taken.await?).await
    }

    async fn own(&self, handle: Handle) -> Result<RemoteBlock, Error> {
        let block = resolve(&self.session, handle).await?;
        Ok(RemoteBlock::new(Arc::clone(&self.session), &block))
    }

    /// Gives a block of this session, or a kept one, a name, and keeps it.
    ///
    /// # Errors
    /// [`Error::NameExists`]; [`Error::Name`]; `TOO_MANY_RECORDS`, `NOT_OWNER`, `STALE_HANDLE`.
    pub async fn publish(&self, name: &str, handle: Handle) -> Result<(), Error> {
        publish(&self.session, name, handle, false).await
    }

    /// As [`publish`](Self::publish); a block that had the name is freed.
    ///
    /// # Errors
    /// As `publish`, but for `NameExists`.
    pub async fn publish_replacing(&self, name: &str, handle: Handle) -> Result<(), Error> {
        publish(&self.session, name, handle, true).await
    }

    /// Finds a block by its name.
    ///
    /// # Errors
    /// [`Error::NameNotFound`]; [`Error::Name`].
    pub async fn lookup(&self, name: &str) -> Result<BlockInfo, Error> {
        let lookup = v1::LookupRequest::from(Lookup {
            pool_id: self.id(),
            name: parse_name("block", name)?,
        });
        self.session
            .run(move |session| async move {
                let ask = |rpc: Rpc| {
                    let lookup = lookup.clone();
                    async move { rpc.pools().lookup(lookup).await }
                };
                Ok(session.wire.ask(ask).await?.try_into()?)
            })
            .await
    }

    /// Takes a name away, and gives the block's handle. The block stays, kept.
    ///
    /// # Errors
    /// [`Error::NameNotFound`]; [`Error::Name`].
    pub async fn withdraw(&self, name: &str) -> Result<Handle, Error> {
        let (pool_id, name) = (self.id(), parse_name::<BlockName>("block", name)?);
        self.session
            .run(move |session| async move {
                let withdraw = |rpc: Rpc, request_id| {
                    let request = v1::WithdrawRequest::from(Withdraw {
                        pool_id,
                        name: name.clone(),
                        free: false,
                        request_id: RequestId::new(request_id),
                    });
                    async move { rpc.pools().withdraw(request).await }
                };
                let reply = session.wire.effect(withdraw).await?;
                Ok(HandleReply::try_from(reply)?.handle)
            })
            .await
    }

    /// Returns the blocks that outlive sessions: those that are kept, and those with a name.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn kept(&self) -> Result<Vec<KeptBlock>, Error> {
        let list = v1::ListKeptRequest::from(ListKept { pool_id: self.id() });
        self.session
            .run(move |session| async move {
                let ask = |rpc: Rpc| async move { rpc.pools().list_kept(list).await };
                Ok(session.wire.ask(ask).await?.try_into()?)
            })
            .await
    }

    /// Returns how full the pool is.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Transport`] and the like.
    pub async fn stat(&self) -> Result<PoolStat, Error> {
        stat(&self.session, self.name().to_owned()).await
    }
}

/// Returns how full a pool is.
pub(super) async fn stat(session: &Arc<RemoteSession>, name: String) -> Result<PoolStat, Error> {
    session
        .run(move |session| async move {
            let ask = |rpc: Rpc| {
                let request = v1::StatPoolRequest { name: name.clone() };
                async move { rpc.pools().stat(request).await }
            };
            Ok(session.wire.ask(ask).await?.try_into()?)
        })
        .await
}

/// Writes bytes to what a handle names.
pub(super) async fn write(
    session: &Arc<RemoteSession>,
    handle: Handle,
    offset_bytes: u64,
    bytes: Vec<u8>,
) -> Result<(), Error> {
    let write = move |session: Arc<RemoteSession>| async move {
        bytes::write(&session.wire, handle, offset_bytes, Bytes::from(bytes)).await
    };
    session.run(write).await
}

/// Frees a block.
pub(super) async fn free(session: &Arc<RemoteSession>, handle: Handle) -> Result<(), Error> {
    session
        .run(move |session| async move {
            let free = |rpc: Rpc, request_id| async move {
                let request_id = RequestId::new(request_id);
                let request = v1::FreeRequest::from(Free { handle, request_id });
                rpc.pools().free(request).await
            };
            let freed = session.wire.effect(free).await;
            freed.map(drop).map_err(|error| error.about(handle))
        })
        .await
}

/// Gives a block a name.
pub(super) async fn publish(
    session: &Arc<RemoteSession>,
    name: &str,
    handle: Handle,
    replace: bool,
) -> Result<(), Error> {
    let name: BlockName = parse_name("block", name)?;
    session
        .run(move |session| async move {
            let publish = |rpc: Rpc, request_id| {
                let request = v1::PublishRequest::from(Publish {
                    handle,
                    name: name.clone(),
                    replace,
                    request_id: RequestId::new(request_id),
                });
                async move { rpc.pools().publish(request).await }
            };
            let published = session.wire.effect(publish).await;
            published.map(drop).map_err(|error| error.about(handle))
        })
        .await
}

async fn resolve(session: &Arc<RemoteSession>, handle: Handle) -> Result<BlockInfo, Error> {
    session
        .run(move |session| async move {
            let ask = |rpc: Rpc| async move {
                let request = v1::HandleRequest {
                    handle: Some(handle.into()),
                    request_id: 0,
                };
                rpc.pools().resolve(request).await
            };
            let found = session.wire.ask(ask).await;
            Ok(found.map_err(|error| error.about(handle))?.try_into()?)
        })
        .await
}

/// Makes a call that takes a handle and returns one.
pub(super) async fn on_handle<F>(
    session: &Arc<RemoteSession>,
    handle: Handle,
    call: impl Fn(Rpc, v1::HandleRequest) -> F + Send + Sync + 'static,
) -> Result<Handle, Error>
where
    F: Future<Output = Result<Response<v1::HandleReply>, Status>> + Send,
{
    session
        .run(move |session| async move {
            let send = |rpc, request_id| {
                let handle = Some(handle.into());
                call(rpc, v1::HandleRequest { handle, request_id })
            };
            let reply = session.wire.effect(send).await;
            let reply = reply.map_err(|error| error.about(handle))?;
            Ok(HandleReply::try_from(reply)?.handle)
        })
        .await
}

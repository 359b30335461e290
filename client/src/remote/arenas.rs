//! Arena pools that are used by calls.

use std::sync::Arc;
use std::time::Duration;

use goumem_alloc::{Handle, PoolId};
use goumem_proto::model::{
    ArenaAllocated, ArenaInfo, ArenaPoolInfo, ArenaPoolStat, GetArena, OpenedArenaPool, RequestId,
    ResetArena,
};
use goumem_proto::reason::Reason;
use goumem_proto::v1;

use super::bytes::RemoteReader;
use super::pool;
use super::session::{Chore, RemoteSession, return_arena};
use crate::connect::Rpc;
use crate::error::Error;

/// An arena pool of another machine. Clones are the same pool.
#[derive(Debug, Clone)]
pub struct RemoteArenaPool {
    session: Arc<RemoteSession>,
    info: Arc<ArenaPoolInfo>,
}

impl RemoteArenaPool {
    pub(super) fn new(session: Arc<RemoteSession>, opened: OpenedArenaPool) -> Self {
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
    pub fn info(&self) -> &ArenaPoolInfo {
        &self.info
    }

    /// Gets an arena if one is free.
    ///
    /// # Errors
    /// [`Error::NoFreeArena`]; [`Error::PermissionDenied`].
    pub async fn try_get(&self) -> Result<RemoteArena, Error> {
        self.get_within(Duration::ZERO).await
    }

    /// Gets an arena, and waits for one up to `timeout`, at most a day, in one queue with
    /// everybody.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::PermissionDenied`].
    pub async fn get_timeout(&self, timeout: Duration) -> Result<RemoteArena, Error> {
        self.get_within(timeout)
            .await
            .map_err(|error| match error.reason() {
                Some(Reason::DeadlineExceeded | Reason::NoFreeArena) => {
                    Error::TimedOut { waited: timeout }
                }
                _ => error,
            })
    }

    async fn get_within(&self, wait: Duration) -> Result<RemoteArena, Error> {
        let pool_id = self.id();
        self.session
            .run(move |session| async move {
                let get = |rpc: Rpc, request_id, wait| async move {
                    let request = v1::GetArenaRequest::from(GetArena {
                        pool_id,
                        wait,
                        request_id: RequestId::new(request_id),
                    });
                    rpc.arenas().get(request).await
                };
                let arena = ArenaInfo::try_from(session.wire.wait(wait, get).await?)?;
                Ok(RemoteArena {
                    session,
                    handle: arena.arena,
                    size_bytes: arena.size_bytes,
                    gone: false,
                })
            })
            .await
    }

    /// Returns how many arenas are free, and how full the others are.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Transport`] and the like.
    pub async fn stat(&self) -> Result<ArenaPoolStat, Error> {
        stat(&self.session, self.name().to_owned()).await
    }
}

/// Returns how full an arena pool is.
pub(super) async fn stat(
    session: &Arc<RemoteSession>,
    name: String,
) -> Result<ArenaPoolStat, Error> {
    session
        .run(move |session| async move {
            let ask = |rpc: Rpc| {
                let request = v1::StatPoolRequest { name: name.clone() };
                async move { rpc.arenas().stat(request).await }
            };
            Ok(session.wire.ask(ask).await?.try_into()?)
        })
        .await
}

/// An arena of another machine that this session alone holds: returned when it is dropped, by a
/// call that nobody waits for. All that was allocated in it goes with it.
#[derive(Debug)]
#[must_use = "the arena is returned when it is dropped"]
pub struct RemoteArena {
    session: Arc<RemoteSession>,
    handle: Handle,
    size_bytes: u64,
    /// It has been returned.
    gone: bool,
}

impl RemoteArena {
    /// Returns the handle of the arena in its present life.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns how many bytes it has.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Allocates in it, in units of 16 bytes.
    ///
    /// # Errors
    /// `ARENA_FULL`; `STALE_HANDLE` when the session has lost it.
    pub async fn alloc(&self, size_bytes: u64) -> Result<Handle, Error> {
        let arena = self.handle;
        self.session
            .run(move |session| async move {
                let alloc = |rpc: Rpc, request_id| async move {
                    let request = v1::ArenaAllocRequest {
                        arena: Some(arena.into()),
                        size_bytes,
                        align_bytes: 0,
                        request_id,
                    };
                    rpc.arenas().alloc(request).await
                };
                let reply = session.wire.effect(alloc).await;
                let reply = reply.map_err(|error| error.about(arena))?;
                Ok(ArenaAllocated::try_from(reply)?.handle)
            })
            .await
    }

    /// Reads bytes of an allocation in it, from an offset on.
    ///
    /// # Errors
    /// `OUT_OF_RANGE`; `STALE_HANDLE`; [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn read(
        &self,
        allocation: Handle,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        RemoteReader::start(&self.session, allocation, offset_bytes, length_bytes)
            .await?
            .collect(length_bytes)
            .await
    }

    /// Writes bytes to an allocation in it, from an offset on.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn write(
        &self,
        allocation: Handle,
        offset_bytes: u64,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        pool::write(&self.session, allocation, offset_bytes, bytes.into()).await
    }

    /// Frees all that was allocated in it.
    ///
    /// # Errors
    /// `STALE_HANDLE` when the session has lost it.
    pub async fn reset(&mut self) -> Result<(), Error> {
        let arena = self.handle;
        let reset = self.session.run(move |session| async move {
            let reset = |rpc: Rpc, request_id| async move {
                let request = v1::ResetArenaRequest::from(ResetArena {
                    arena,
                    request_id: RequestId::new(request_id),
                });
                rpc.arenas().reset(request).await
            };
            let reply = session.wire.effect(reset).await;
            Ok(ArenaInfo::try_from(
                reply.map_err(|error| error.about(arena))?,
            )?)
        });
        self.handle = reset.await?.arena;
        Ok(())
    }

    /// Returns it, and says whether it was there to be returned.
    ///
    /// # Errors
    /// `STALE_HANDLE` when the session has lost it; [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn return_arena(mut self) -> Result<(), Error> {
        self.gone = true;
        let arena = self.handle;
        self.session
            .run(move |session| async move {
                let give_back = |rpc, id| return_arena(rpc, arena, id);
                let returned = session.wire.effect(give_back).await;
                returned.map(drop).map_err(|error| error.about(arena))
            })
            .await
    }
}

impl Drop for RemoteArena {
    fn drop(&mut self) {
        if !self.gone {
            self.session.queue(Chore::Return(self.handle));
        }
    }
}

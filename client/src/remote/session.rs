//! A remote session: opened, kept alive while anything uses it, and ended when nothing does. What
//! is dropped is queued, and given back by a task on the client's I/O thread.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use goumem_alloc::{Handle, SessionNumber};
use goumem_proto::model::{
    CloseSession, DEFAULT_TTL, MAX_BATCH_BLOCKS, OpenSession, OpenedSession,
};
use goumem_proto::v1;
use goumem_shm::AccessError;
use goumem_shm::os::fork::Born;
use goumem_shm::sync::Ordering;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::wire::Wire;
use crate::calls::call;
use crate::connect::{Bearer, Rpc};
use crate::error::Error;
use crate::io_thread::{IoThread, KeepRunning};
use crate::link;
use crate::request_ids::RequestIds;

/// Blocks that are freed by one call.
const MAX_FREES: usize = MAX_BATCH_BLOCKS;

/// A session of a client that maps nothing.
pub(super) struct RemoteSession {
    /// In which process.
    born: Born,
    io: IoThread,
    pub(super) wire: Arc<Wire>,
    pub(super) address: String,
    pub(super) number: SessionNumber,
    pub(super) serial: u64,
    pub(super) ttl: Duration,
    closed: AtomicBool,
    /// Only what the session holds can be given back, so its holdings bound this queue.
    chores: mpsc::UnboundedSender<Chore>,
}

/// What the session is asked to do without anybody waiting for it, and its end.
#[derive(Debug)]
pub(super) enum Chore {
    /// Frees a block.
    Free(Handle),
    /// Returns an arena.
    Return(Handle),
    /// Closes the session, if nothing of it is held.
    Close(oneshot::Sender<Result<(), Error>>),
}

impl RemoteSession {
    /// Opens a session on the I/O thread, which ends with it.
    pub(super) async fn open(
        io: IoThread,
        running: KeepRunning,
        channel: Channel,
        bearer: Option<Bearer>,
        address: String,
        request: OpenSession,
        deadline: Duration,
    ) -> Result<Arc<Self>, Error> {
        let open = v1::OpenSessionRequest::from(OpenSession {
            nonce: Some(link::nonce()),
            ..request
        });
        let rpc = Rpc::new(channel, None).with_bearer(bearer);
        let reply = call(deadline, rpc.sessions().open(open)).await?;
        let opened = OpenedSession::try_from(reply)?;
        let wire = Arc::new(Wire {
            rpc: rpc.with_token(opened.token),
            deadline,
            request_ids: RequestIds::default(),
        });
        // None through a proxy on the daemon's machine, to which it is the proxy that lives.
        let ttl = opened.ttl.unwrap_or(DEFAULT_TTL);
        let alive = tokio::spawn(keep_alive(Arc::clone(&wire), ttl));
        let (chores, queue) = mpsc::unbounded_channel();
        tokio::spawn(work(Arc::clone(&wire), queue, alive, running));
        Ok(Arc::new(Self {
            born: Born::here(),
            io,
            wire,
            address,
            number: opened.session,
            serial: opened.serial,
            ttl,
            closed: AtomicBool::new(false),
            chores,
        }))
    }

    /// Runs something on the I/O thread. What comes of it when nobody waits any more is dropped
    /// there, and so given back.
    pub(super) async fn run<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        if self.born.is_elsewhere() {
            return Err(AccessError::Forked.into());
        }
        // ORDERING: Relaxed; the daemon refuses what comes too late all the same.
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        self.io.run(work(Arc::clone(self))).await
    }

    /// Queues something.
    pub(super) fn queue(&self, chore: Chore) {
        // In a forked child nobody would hear it, and the queue's locks may be held for ever.
        if !self.born.is_elsewhere() {
            // It fails after the end of the session, when there is nothing left to do.
            let _ = self.chores.send(chore);
        }
    }

    /// Closes the session, if nothing of it is held, once everything queued has been done.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        self.queue(Chore::Close(reply));
        outcome.await.unwrap_or(Err(Error::Closed))?;
        // ORDERING: Relaxed; nothing is published by it.
        self.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl std::fmt::Debug for RemoteSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteSession")
            .field("number", &self.number)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Renews the session until it is over: three times in its TTL, so that a lost packet or a slow
/// moment does not end it.
async fn keep_alive(wire: Arc<Wire>, ttl: Duration) {
    loop {
        tokio::time::sleep(ttl / 3).await;
        let renewed = wire
            .ask(|rpc| async move { rpc.sessions().keep_alive(v1::KeepAliveRequest {}).await })
            .await;
        match renewed {
            Err(Error::SessionExpired) => {
                tracing::warn!("goumemd does not know this session any more: what it held is lost");
                return;
            }
            Err(error) => tracing::debug!(%error, "could not renew the session"),
            Ok(_) => {}
        }
    }
}

/// Does what is queued, and ends the session when nobody uses it any more.
async fn work(
    wire: Arc<Wire>,
    mut queue: mpsc::UnboundedReceiver<Chore>,
    alive: JoinHandle<()>,
    running: KeepRunning,
) {
    let mut chores = Vec::new();
    let mut is_closed = false;
    while !is_closed && queue.recv_many(&mut chores, MAX_FREES).await > 0 {
        let mut frees = Vec::new();
        for chore in chores.drain(..) {
            match chore {
                Chore::Free(handle) => frees.push(handle.into()),
                Chore::Return(arena) => give_back(&wire, arena).await,
                Chore::Close(reply) => {
                    free_all(&wire, std::mem::take(&mut frees)).await;
                    let outcome = close(&wire, false).await;
                    is_closed |= outcome.is_ok();
                    // Who has lost interest does not hear it.
                    let _ = reply.send(outcome);
                }
            }
        }
        free_all(&wire, frees).await;
    }
    if !is_closed && let Err(error) = close(&wire, true).await {
        // It ends by itself, a TTL after its last call.
        tracing::debug!(%error, "could not end the session");
    }
    alive.abort();
    drop(running);
}

async fn free_all(wire: &Wire, handles: Vec<v1::Handle>) {
    if handles.is_empty() {
        return;
    }
    let free = |rpc: Rpc, request_id| {
        let handles = handles.clone();
        let request = v1::FreeBatchRequest {
            handles,
            request_id,
        };
        async move { rpc.pools().free_batch(request).await }
    };
    // Blocks that others have freed or taken already are none of ours any more.
    if let Err(error) = wire.effect(free).await {
        tracing::debug!(%error, n = handles.len(), "could not free blocks");
    }
}

async fn give_back(wire: &Wire, arena: Handle) {
    let outcome = wire.effect(|rpc, id| return_arena(rpc, arena, id)).await;
    if let Err(error) = outcome {
        tracing::debug!(%error, %arena, "could not return an arena");
    }
}

/// Returns an arena.
pub(super) async fn return_arena(
    rpc: Rpc,
    arena: Handle,
    request_id: u64,
) -> Result<tonic::Response<v1::ReturnArenaReply>, tonic::Status> {
    let request = v1::ReturnArenaRequest {
        arena: Some(arena.into()),
        request_id,
    };
    rpc.arenas().r#return(request).await
}

async fn close(wire: &Wire, force: bool) -> Result<(), Error> {
    let close = v1::CloseSessionRequest::from(CloseSession { force });
    match wire
        .ask(|rpc| async move { rpc.sessions().close(close).await })
        .await
    {
        // It has ended by itself, or the answer to an earlier attempt was lost.
        Ok(_) | Err(Error::SessionExpired) => Ok(()),
        Err(error) => Err(error),
    }
}

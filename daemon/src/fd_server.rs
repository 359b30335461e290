//! The socket that hands out memory, since gRPC cannot carry fds: a client shows its session's
//! token and gets the fds of a pool's CONTROL and DATA. Frames are in [`goumem_shm::os::frame`].

use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::PoolId;
use goumem_proto::model::{Access, SessionToken};
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_shm::os::frame::{FrameError, MapReply, MapRequest, MapStatus, REQUEST_BYTES};
use goumem_shm::os::peer::{PeerError, PeerIdentity, PidFd, peer_identity, peer_pidfd};
use goumem_shm::os::{self, fd_pass};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use crate::core::Core;
use crate::error::Error;
use crate::listen::{Acceptor, Holder, Shares};
use crate::session::Session;
use crate::status::chain;

/// Connections at a time. A client needs one, for as long as it takes to open a pool.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may be silent, and how long a peer may take to read a reply.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the socket until `stop`.
pub(crate) async fn serve(
    listener: UnixListener,
    core: Arc<Core>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shares = Shares::new("fd", MAX_CONNECTIONS).telling(Arc::clone(core.hub()));
    let mut acceptor = Acceptor::new(listener, "fd", limit).telling(Arc::clone(core.hub()));
    while let Some((socket, permit)) = stop.run_until_cancelled(acceptor.accept()).await {
        let Ok(identity) = peer_identity(&socket) else {
            continue; // gone already
        };
        let Some(share) = shares.take(Holder::of(identity)) else {
            continue;
        };
        let Ok(peer) = Peer::of(&socket, identity) else {
            continue;
        };
        let (core, stop) = (Arc::clone(&core), stop.clone());
        tasks.spawn(async move {
            if let Some(Err(error)) = stop
                .run_until_cancelled(converse(&socket, &peer, &core))
                .await
            {
                debug!(%error, "fd connection ended");
            }
            drop((permit, share));
        });
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
struct Peer {
    identity: PeerIdentity,
    /// Only where the pid does not tell: in another pid namespace.
    pidfd: Option<Arc<PidFd>>,
}

impl Peer {
    fn of(socket: &UnixStream, identity: PeerIdentity) -> Result<Self, PeerError> {
        let pidfd = (identity.pid == 0)
            .then(|| peer_pidfd(socket))
            .transpose()?;
        Ok(Self {
            identity,
            pidfd: pidfd.map(Arc::new),
        })
    }

    /// Returns whether a session is of that process. The process lives while the session does, so
    /// its pid is its own.
    fn has(&self, session: &Session) -> bool {
        let same_process = match (&self.pidfd, &session.pidfd) {
            (None, _) => session.pid == self.identity.pid,
            (Some(ours), Some(theirs)) => ours.inode().is_some() && ours.inode() == theirs.inode(),
            (Some(_), None) => false,
        };
        session.uid == self.identity.uid && same_process
    }
}

/// Answers one client until it closes the connection, breaks the protocol or falls silent.
async fn converse(socket: &UnixStream, peer: &Peer, core: &Arc<Core>) -> io::Result<()> {
    while let Some(frame) = in_time(read_frame(socket)).await? {
        let request = MapRequest::decode(&frame);
        let (reply, fds) = match &request {
            Ok(request) => answer(*request, peer, core).await,
            Err(error) => refuse_frame(*error),
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
        in_time(send(socket, &reply.encode(), &fds)).await?;
        if request.is_err() {
            // What follows cannot be told apart from the rest of the bad frame.
            return Ok(());
        }
    }
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(IDLE_TIMEOUT, work).await?
}

/// Returns the next request, or `None` when the peer has closed the connection between two.
async fn read_frame(socket: &UnixStream) -> io::Result<Option<[u8; REQUEST_BYTES]>> {
    let mut frame = [0; REQUEST_BYTES];
    let mut filled = 0;
    while filled < frame.len() {
        socket.readable().await?;
        // A plain read: fds that a peer sends along are closed by the kernel.
        match socket.try_read(&mut frame[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(frame))
}

async fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    loop {
        socket.writable().await?;
        let sent = socket.try_io(Interest::WRITABLE, || fd_pass::send(socket, bytes, fds));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

async fn answer(request: MapRequest, peer: &Peer, core: &Arc<Core>) -> (MapReply, Vec<OwnedFd>) {
    let (core, peer) = (Arc::clone(core), peer.clone());
    // Opens files, and waits for the pool's lock.
    let answered = tokio::task::spawn_blocking(move || map(&request, &peer, &core)).await;
    let status = match answered {
        Ok(Ok((control, data))) => {
            let reply = MapReply {
                status: MapStatus::Ok,
                n_fds: 2,
                access: request.access,
            };
            return (reply, vec![control, data]);
        }
        Ok(Err(error)) => status_of(&error),
        Err(_panicked) => MapStatus::Internal,
    };
    (refusal(status, request.access), Vec::new())
}

fn map(request: &MapRequest, peer: &Peer, core: &Core) -> Result<(OwnedFd, OwnedFd), Error> {
    // The socket that the token came on tells who has it.
    let session = core
        .sessions()
        .by_token(&SessionToken::new(request.token))
        .filter(|session| peer.has(session))
        .ok_or(Error::SessionExpired)?;
    let pool_id = PoolId::new(request.pool_id).ok_or_else(|| Error::PoolNotFound {
        pool: request.pool_id.to_string(),
    })?;
    let access = match request.access {
        os::Access::ReadOnly => Access::ReadOnly,
        os::Access::ReadWrite => Access::ReadWrite,
    };
    core.map_request(&session, pool_id, access, Instant::now())
}

fn refuse_frame(error: FrameError) -> (MapReply, Vec<OwnedFd>) {
    debug!(%error, "bad frame on the fd socket");
    (
        refusal(MapStatus::BadFrame, os::Access::ReadOnly),
        Vec::new(),
    )
}

fn refusal(status: MapStatus, access: os::Access) -> MapReply {
    MapReply {
        status,
        n_fds: 0,
        access,
    }
}

/// The few things that a client does differently here. Over gRPC it can ask for more.
fn status_of(error: &Error) -> MapStatus {
    let detail = ErrorDetail::from(error);
    match detail.reason {
        Reason::SessionExpired | Reason::SessionRequired => MapStatus::BadToken,
        Reason::PoolNotFound | Reason::PoolDestroyed => MapStatus::NotFound,
        Reason::PermissionDenied
        | Reason::NotLocal
        | Reason::ForeignPidNamespace
        | Reason::ShuttingDown => MapStatus::Denied,
        reason => {
            error!(%reason, error = chain(error), "could not hand out memory");
            MapStatus::Internal
        }
    }
}

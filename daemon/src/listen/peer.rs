//! A connection and who is at its other end, asked of the kernel once, when it is accepted.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use goumem_proto::name::Label;
use goumem_shm::os::peer::{self, PeerError, PeerIdentity, PidFd};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::shares::Share;
use crate::tls::{Access, Refused, RemoteIdentity};

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum PeerInfo {
    /// A process of this machine.
    Local(Arc<LocalPeer>),
    /// Somebody at a TCP address.
    Remote(Arc<RemotePeer>),
}

/// Somebody at the other end of a TCP connection.
#[derive(Debug)]
pub struct RemotePeer {
    address: SocketAddr,
    /// By its certificate, which the handshake has verified.
    name: Option<Label>,
    access: Arc<Access>,
    /// It is whom it says, or need not say.
    proven: AtomicBool,
    /// Places for its calls.
    pub(crate) calls: Arc<Semaphore>,
}

impl RemotePeer {
    /// Calls of one connection at a time. A client that waits for arenas on more threads than this
    /// may open another connection.
    pub(crate) const MAX_CALLS: usize = 128;

    pub(crate) fn new(address: SocketAddr, name: Option<Label>, access: Arc<Access>) -> Self {
        Self {
            address,
            proven: AtomicBool::new(name.is_some() || !access.wants_tokens()),
            name,
            access,
            calls: Arc::new(Semaphore::new(Self::MAX_CALLS)),
        }
    }

    /// Returns who makes a call that comes with this token.
    pub(crate) fn identify(
        &self,
        token: Option<&str>,
        now: Instant,
    ) -> Result<RemoteIdentity, Refused> {
        let name = self.name.as_ref();
        let identity = self.access.identify(self.address, name, token, now)?;
        // ORDERING: Relaxed; nothing is published by it.
        self.proven.store(true, Ordering::Relaxed);
        Ok(identity)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn name(&self) -> Option<&Label> {
        self.name.as_ref()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

/// A process at the other end of a Unix socket, by the kernel's word.
#[derive(Debug)]
pub struct LocalPeer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process; 0 if it is in another pid namespace.
    pub pid: u32,
    /// Tells its death; none if it is in another pid namespace and the kernel is before 6.9.
    pub pidfd: Option<Arc<PidFd>>,
}

impl LocalPeer {
    /// Asks the kernel who has connected.
    ///
    /// # Errors
    ///
    /// Any [`PeerError`] but `ForeignPidNamespace`: it has gone already, or there is no fd left to
    /// hold it by.
    pub fn of(socket: &UnixStream) -> Result<Self, PeerError> {
        let identity = peer::peer_identity(socket).map_err(|source| PeerError::Os {
            doing: "read the credentials",
            source,
        })?;
        let pidfd = match peer::peer_pidfd(socket) {
            Ok(pidfd) => Some(Arc::new(pidfd)),
            Err(PeerError::ForeignPidNamespace) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            uid: identity.uid,
            gid: identity.gid,
            pid: identity.pid,
            pidfd,
        })
    }

    /// Returns who it is.
    pub(crate) fn identity(&self) -> PeerIdentity {
        PeerIdentity {
            pid: self.pid,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

/// A connection that gRPC is served on. It fails when the daemon ends, which is how the calls that
/// outlast the drain are cut off.
#[derive(Debug)]
pub struct PeerStream {
    pub(super) socket: Socket,
    pub(super) peer: PeerInfo,
    pub(super) ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When it is closed unless a call has shown a token by then.
    pub(super) unproven: Option<Pin<Box<Sleep>>>,
    pub(super) _place: (OwnedSemaphorePermit, Share),
}

#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A connection always has a read under way, so this is where the end finds it.
        if self.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Some(late) = &mut self.unproven
            && late.as_mut().poll(context).is_ready()
        {
            self.unproven = None;
            if matches!(&self.peer, PeerInfo::Remote(peer) if !peer.is_proven()) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        match &mut self.socket {
            Socket::Unix(socket) => Pin::new(socket).poll_read(context, into),
            Socket::Tcp(socket) => Pin::new(socket).poll_read(context, into),
            Socket::Tls(socket) => Pin::new(socket).poll_read(context, into),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
            Socket::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Unix(socket) => socket.is_write_vectored(),
            Socket::Tcp(socket) => socket.is_write_vectored(),
            Socket::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Unix(socket) => Pin::new(socket).poll_flush(context),
            Socket::Tcp(socket) => Pin::new(socket).poll_flush(context),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(context),
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

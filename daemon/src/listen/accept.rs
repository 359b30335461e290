//! The accept loops. tonic's own tries again at once when the process is out of fds, and burns a
//! core until one is free; these pause. And they bound the number of connections, of all and of
//! each client: one too many is closed at once, so that its owner learns of it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::peer::{LocalPeer, PeerInfo, PeerStream, Socket};
use super::shares::{Holder, Shares};
use crate::fd_room::{self, Purpose};

/// Pauses after a failed accept: long enough to cost nothing, short enough not to be noticed.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a TCP connection may be silent before the kernel asks whether the peer is there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// A listening socket of either kind.
pub(crate) trait Listen {
    type Accepted;
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Accepted>>;
}

impl Listen for UnixListener {
    type Accepted = UnixStream;

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(context)
            .map_ok(|(socket, _address)| socket)
    }
}

impl Listen for TcpListener {
    type Accepted = (TcpStream, SocketAddr);

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Accepted>> {
        self.poll_accept(context)
    }
}

/// Accepts connections, up to a limit.
#[derive(Debug)]
pub(crate) struct Acceptor<L> {
    listener: L,
    name: &'static str,
    limit: Arc<Semaphore>,
    full: bool,
}

impl<L: Listen> Acceptor<L> {
    /// `limit` may be shared with other acceptors; `name` is for the log.
    pub(crate) fn new(listener: L, name: &'static str, limit: Arc<Semaphore>) -> Self {
        Self {
            listener,
            name,
            limit,
            full: false,
        }
    }

    /// Returns the next connection, however long that takes.
    pub(crate) async fn accept(&mut self) -> (L::Accepted, OwnedSemaphorePermit) {
        let mut pause = FIRST_PAUSE;
        loop {
            match poll_fn(|context| self.listener.poll_accept(context)).await {
                Ok(socket) => match Arc::clone(&self.limit).try_acquire_owned() {
                    Ok(permit) => {
                        self.full = false;
                        return (socket, permit);
                    }
                    // Said once, not for each of a flood.
                    Err(_) if !self.full => {
                        self.full = true;
                        warn!(socket = self.name, "too many connections: closing new ones");
                    }
                    Err(_) => {}
                },
                // Its owner has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if pause == FIRST_PAUSE {
                        warn!(socket = self.name, %error, "could not accept: pausing");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Accepts gRPC connections on both sockets until the stream is dropped. `ended` cuts them off.
pub(crate) fn incoming(
    unix: UnixListener,
    tcp: Option<TcpListener>,
    max_connections: u32,
    ended: &CancellationToken,
) -> ReceiverStream<Result<PeerStream, Infallible>> {
    let places = fd_room::connections(max_connections) as usize;
    let limit = Arc::new(Semaphore::new(places));
    let shares = Shares::new("grpc", places);
    let (sender, receiver) = mpsc::channel(1);
    let unix = Acceptor::new(unix, "grpc", Arc::clone(&limit));
    tokio::spawn(forward(
        unix,
        sender.clone(),
        shares.clone(),
        ended.clone(),
        local,
    ));
    if let Some(tcp) = tcp {
        let tcp = Acceptor::new(tcp, "tcp", limit);
        tokio::spawn(forward(tcp, sender, shares, ended.clone(), remote));
    }
    ReceiverStream::new(receiver)
}

async fn forward<L: Listen>(
    mut acceptor: Acceptor<L>,
    to: mpsc::Sender<Result<PeerStream, Infallible>>,
    shares: Shares,
    ended: CancellationToken,
    identify: fn(L::Accepted) -> io::Result<(Socket, PeerInfo)>,
) {
    loop {
        let (socket, permit) = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = to.closed() => return,
        };
        let (socket, peer) = match identify(socket) {
            Ok(identified) => identified,
            Err(error) => {
                debug!(socket = acceptor.name, %error, "closed a connection of nobody");
                continue;
            }
        };
        let Some(share) = shares.take(holders(&peer)) else {
            continue;
        };
        let stream = PeerStream {
            socket,
            peer,
            ended: Box::pin(ended.clone().cancelled_owned()),
            _place: (permit, share),
        };
        if to.send(Ok(stream)).await.is_err() {
            return;
        }
    }
}

fn holders(peer: &PeerInfo) -> Vec<Holder> {
    match peer {
        PeerInfo::Local(peer) => Holder::of(peer.identity()),
        PeerInfo::Remote { .. } => vec![Holder::Remote],
    }
}

fn local(socket: UnixStream) -> io::Result<(Socket, PeerInfo)> {
    fd_room::check(&socket, Purpose::Connection)?;
    let peer = LocalPeer::of(&socket).map_err(io::Error::other)?;
    Ok((Socket::Unix(socket), PeerInfo::Local(Arc::new(peer))))
}

fn remote((socket, address): (TcpStream, SocketAddr)) -> io::Result<(Socket, PeerInfo)> {
    fd_room::check(&socket, Purpose::Connection)?;
    // A call is one small message and waits for its answer.
    socket.set_nodelay(true)?;
    // A peer that lost its power says no goodbye, and its connection would count for ever.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_AFTER)?;
    Ok((Socket::Tcp(socket), PeerInfo::Remote { address }))
}

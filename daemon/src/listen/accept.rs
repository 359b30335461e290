//! The accept loops. tonic's own tries again at once when the process is out of fds, and burns a
//! core until one is free; these pause. And they bound the number of connections, of all and of
//! each client: one too many is closed at once, so that its owner learns of it. What is peculiar
//! to TCP is in `remote.rs`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Tcp;
use super::peer::{LocalPeer, PeerInfo, PeerStream, Socket};
use super::remote;
use super::shares::{Holder, Shares};
use crate::events::Hub;
use crate::fd_room::{self, Purpose};

/// Pauses after a failed accept: long enough to cost nothing, short enough not to be noticed.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    hub: Option<Arc<Hub>>,
}

impl<L: Listen> Acceptor<L> {
    /// `limit` may be shared with other acceptors; `name` is for the log.
    pub(crate) fn new(listener: L, name: &'static str, limit: Arc<Semaphore>) -> Self {
        Self {
            listener,
            name,
            limit,
            full: false,
            hub: None,
        }
    }

    /// Tells of each connection that was closed for want of a place.
    pub(crate) fn telling(self, hub: Arc<Hub>) -> Self {
        Self {
            hub: Some(hub),
            ..self
        }
    }

    /// Returns the next connection that there is a place for, however long that takes.
    pub(crate) async fn accept(&mut self) -> (L::Accepted, OwnedSemaphorePermit) {
        loop {
            let socket = self.next().await;
            match Arc::clone(&self.limit).try_acquire_owned() {
                Ok(permit) => {
                    self.full = false;
                    return (socket, permit);
                }
                Err(_) => {
                    if let Some(hub) = &self.hub {
                        hub.tell_of_connection(self.name);
                    }
                    // Said once, not for each of a flood.
                    if !std::mem::replace(&mut self.full, true) {
                        warn!(socket = self.name, "too many connections: closing new ones");
                    }
                }
            }
        }
    }

    /// Returns the next connection, whether there is a place for it or not.
    pub(super) async fn next(&mut self) -> L::Accepted {
        let mut pause = FIRST_PAUSE;
        loop {
            match poll_fn(|context| self.listener.poll_accept(context)).await {
                Ok(socket) => return socket,
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

/// Where connections go that have been let in.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    limit: Arc<Semaphore>,
    shares: Shares,
    hub: Arc<Hub>,
    to: mpsc::Sender<Result<PeerStream, Infallible>>,
    ended: CancellationToken,
}

impl Entrance {
    /// Lets a connection in, if its owner's share and the place in hand, or another one, allow it;
    /// else closes it.
    pub(super) async fn enter(
        &self,
        socket: Socket,
        peer: PeerInfo,
        place: Option<OwnedSemaphorePermit>,
        prove_within: Option<Duration>,
    ) {
        let place = place.or_else(|| Arc::clone(&self.limit).try_acquire_owned().ok());
        let Some(place) = place else {
            debug!("closed a connection: there is no place for it");
            self.hub.tell_of_connection("tcp");
            return;
        };
        let Some(share) = self.shares.take(holders(&peer)) else {
            return;
        };
        let stream = PeerStream {
            socket,
            peer,
            ended: Box::pin(self.ended.clone().cancelled_owned()),
            unproven: prove_within.map(|time| Box::pin(tokio::time::sleep(time))),
            _place: (place, share),
        };
        // Else the daemon ends.
        let _ = self.to.send(Ok(stream)).await;
    }

    /// Waits until nobody is let in any more.
    pub(super) async fn closed(&self) {
        self.to.closed().await;
    }
}

/// Accepts gRPC connections on both sockets until the stream is dropped. `ended` cuts them off.
pub(crate) fn incoming(
    unix: UnixListener,
    tcp: Option<Tcp<TcpListener>>,
    max_connections: u32,
    hub: &Arc<Hub>,
    ended: &CancellationToken,
) -> ReceiverStream<Result<PeerStream, Infallible>> {
    let places = fd_room::connections(max_connections) as usize;
    let limit = Arc::new(Semaphore::new(places));
    let (sender, receiver) = mpsc::channel(1);
    let entrance = Entrance {
        limit: Arc::clone(&limit),
        shares: Shares::new("grpc", places).telling(Arc::clone(hub)),
        hub: Arc::clone(hub),
        to: sender,
        ended: ended.clone(),
    };
    let unix = Acceptor::new(unix, "grpc", Arc::clone(&limit)).telling(Arc::clone(hub));
    tokio::spawn(forward_local(unix, entrance.clone()));
    if let Some(Tcp { listener, access }) = tcp {
        let tcp = Acceptor::new(listener, "tcp", limit).telling(Arc::clone(hub));
        tokio::spawn(remote::forward(tcp, access, entrance));
    }
    ReceiverStream::new(receiver)
}

async fn forward_local(mut acceptor: Acceptor<UnixListener>, entrance: Entrance) {
    loop {
        let (socket, place) = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = entrance.closed() => return,
        };
        match local(socket) {
            Ok((socket, peer)) => entrance.enter(socket, peer, Some(place), None).await,
            Err(error) => debug!(%error, "closed a connection of nobody"),
        }
    }
}

fn holders(peer: &PeerInfo) -> Vec<Holder> {
    match peer {
        PeerInfo::Local(peer) => Holder::of(peer.identity()),
        PeerInfo::Remote(peer) => Holder::of_remote(peer.address().ip(), peer.name()),
    }
}

fn local(socket: UnixStream) -> io::Result<(Socket, PeerInfo)> {
    fd_room::check(&socket, Purpose::Connection)?;
    let peer = LocalPeer::of(&socket).map_err(io::Error::other)?;
    Ok((Socket::Unix(socket), PeerInfo::Local(Arc::new(peer))))
}

//! What people and monitoring look at, over HTTP/1.1: health, metrics and the live page. It shows,
//! and changes nothing: there is no other method than GET and HEAD, and never a byte of anybody's
//! memory.
//!
//! On the Unix socket the kernel says who asks, and each user sees what it may see by gRPC. On a
//! loopback address nothing says so, and everybody sees all names and sizes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use goumem_shm::os::peer::PeerIdentity;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::caller::local_caller;
use crate::core::{Core, Viewer};
use crate::fd_room::{self, Purpose};
use crate::listen::{Acceptor, Holder, HttpSocket, Listen, LocalPeer, Shares};
use crate::session::Caller;

mod api;
mod assets;
mod connection;
mod guard;
mod health;
mod map_view;
mod place;
#[cfg(test)]
mod tests;

use api::Refusal;
pub use place::{HttpPlace, HttpPlaceError, LoopbackAddress};

/// Connections at a time. A browser makes one for each page that is open and some for a moment, a
/// monitor one.
const MAX_CONNECTIONS: usize = 128;
/// Pages that are told of changes, at a time.
const MAX_LIVE: usize = 32;
/// Looks at the core at a time; more of them wait. They have the threads of long calls, of which
/// most are for others.
const MAX_LOOKS: usize = 2;

/// How far the daemon is in its life.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// It takes over what an earlier daemon left, which may take a while.
    Recovering,
    /// It takes calls.
    Serving(Arc<Core>),
    /// It ends: calls under way go on, and new ones are refused.
    Draining,
}

/// Who asks.
#[derive(Debug, Clone)]
enum Visitor {
    /// A process of this machine, by the kernel's word.
    Local(Caller),
    /// Somebody at the loopback address.
    Loopback,
}

/// Whom requests may be for.
#[derive(Debug, Clone, Copy)]
enum Hosts {
    /// Anything: no browser gets at a Unix socket by a name.
    Any,
    /// The names of this machine, and the address that was bound.
    Named(IpAddr),
}

/// What all pages share.
#[derive(Debug, Clone)]
struct Site {
    stage: watch::Receiver<Stage>,
    /// What times in answers count from.
    started: Instant,
    live: Arc<Semaphore>,
    live_shares: Shares,
    looks: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Site {
    fn new(stage: watch::Receiver<Stage>, tasks: TaskTracker) -> Self {
        Self {
            stage,
            started: Instant::now(),
            live: Arc::new(Semaphore::new(MAX_LIVE)),
            live_shares: Shares::new("live pages", MAX_LIVE),
            looks: Arc::new(Semaphore::new(MAX_LOOKS)),
            tasks,
        }
    }

    /// Looks at the core, on a thread that may wait for it.
    ///
    /// # Errors
    /// Why it cannot.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let core = self.core()?;
        let turn = Arc::clone(&self.looks).acquire_owned().await;
        // Tracked: the core is let go of when all that look at it have ended.
        let looked = self.tasks.spawn_blocking(move || {
            let seen = look(&core);
            drop(turn);
            seen
        });
        looked.await.map_err(|_panicked| Refusal::panicked())
    }
}

/// The listener at work.
#[derive(Debug)]
pub(crate) struct Http {
    stage: watch::Sender<Stage>,
    tasks: TaskTracker,
}

impl Http {
    /// Starts it, unless there is nowhere to listen. It answers until `stop`.
    ///
    /// # Errors
    /// When the runtime cannot use the socket.
    pub(crate) fn start(socket: Option<HttpSocket>, stop: &CancellationToken) -> io::Result<Self> {
        let (sender, stage) = watch::channel(Stage::Recovering);
        let tasks = TaskTracker::new();
        let site = Site::new(stage, tasks.clone());
        match socket {
            None => {}
            Some(HttpSocket::Unix(listener)) => {
                let listener = UnixListener::from_std(listener)?;
                let pages = pages(site, Hosts::Any);
                tasks.spawn(serve(listener, local, pages, stop.clone(), tasks.clone()));
            }
            Some(HttpSocket::Tcp(listener, address)) => {
                let listener = TcpListener::from_std(listener)?;
                let pages = pages(site, Hosts::Named(address.ip()));
                tasks.spawn(serve(
                    listener,
                    loopback,
                    pages,
                    stop.clone(),
                    tasks.clone(),
                ));
            }
        }
        Ok(Self {
            stage: sender,
            tasks,
        })
    }

    /// Tells it how far the daemon is.
    pub(crate) fn tell(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Waits until the last connection has ended, after `stop`. Nothing here holds the core then.
    pub(crate) async fn end(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn pages(site: Site, hosts: Hosts) -> Router {
    Router::new()
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/healthz", get(health::healthy))
        .route("/metrics", get(api::metrics))
        .route("/api/v1/observation", get(api::observation))
        .route("/api/v1/live", get(api::live))
        .route("/api/v1/pools/{name}/map", get(api::map))
        .route("/api/v1/pools/{name}/live", get(api::live_pool))
        .with_state(site)
        .merge(assets::routes())
        .layer(from_fn_with_state(hosts, guard::pass))
}

async fn serve<L, S>(
    listener: L,
    identify: fn(L::Accepted) -> io::Result<(S, Visitor)>,
    pages: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) where
    L: Listen,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shares = Shares::new("http", MAX_CONNECTIONS);
    let mut acceptor = Acceptor::new(listener, "http", Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    while let Some((socket, permit)) = stop.run_until_cancelled(acceptor.accept()).await {
        let (socket, visitor) = match identify(socket) {
            Ok(identified) => identified,
            Err(error) => {
                debug!(%error, "closed an HTTP connection of nobody");
                continue;
            }
        };
        let Some(share) = shares.take(visitor.holders()) else {
            continue;
        };
        let (pages, stop) = (pages.clone(), stop.clone());
        tasks.spawn(async move {
            let talk = connection::converse(socket, visitor, pages);
            if let Some(Err(error)) = stop.run_until_cancelled(talk).await {
                debug!(%error, "HTTP connection ended");
            }
            drop((permit, share));
        });
    }
}

impl Visitor {
    /// Returns what it may see.
    fn viewer(&self) -> Viewer<'_> {
        match self {
            Self::Local(caller) => Viewer::Caller(caller),
            Self::Loopback => Viewer::Everything,
        }
    }

    /// Returns whose share of the places it takes.
    fn holders(&self) -> Vec<Holder> {
        match self {
            Self::Local(caller) => Holder::of(PeerIdentity {
                pid: caller.pid,
                uid: caller.uid,
                gid: caller.gid,
            }),
            Self::Loopback => vec![Holder::Remote],
        }
    }
}

fn local(socket: UnixStream) -> io::Result<(UnixStream, Visitor)> {
    fd_room::check(&socket, Purpose::Connection)?;
    let peer = LocalPeer::of(&socket).map_err(io::Error::other)?;
    Ok((socket, Visitor::Local(local_caller(&peer))))
}

fn loopback((socket, _): (TcpStream, SocketAddr)) -> io::Result<(TcpStream, Visitor)> {
    fd_room::check(&socket, Purpose::Connection)?;
    socket.set_nodelay(true)?;
    Ok((socket, Visitor::Loopback))
}

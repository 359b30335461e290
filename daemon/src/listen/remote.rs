//! Connections by TCP: what the kernel is told of them, and the TLS handshake. Handshakes are
//! bounded in number and in time, apart from connections: when there are too many, the one that
//! has taken longest is given up. So whoever opens connections and says nothing keeps nobody out
//! who gets on with it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_proto::name::Label;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::accept::{Acceptor, Entrance};
use super::peer::{PeerInfo, RemotePeer, Socket};
use crate::fd_room::{self, Purpose};
use crate::status::chain;
use crate::tls::{self, Access};

/// How long a connection may be silent before the kernel asks whether the peer is there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How long the kernel waits for a peer to take what was sent to it. One that is stopped for longer
/// loses its connection, not its session.
const TAKE_WITHIN_MS: u32 = 120_000;
/// Handshakes under way at a time. With a round trip of 100 ms that is 2 500 connections a second.
const MAX_HANDSHAKES: usize = 256;
/// A handshake is two round trips and a millisecond of work.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection without a certificate may take until a call of it shows a token.
const PROVE_WITHIN: Duration = Duration::from_secs(10);

/// Accepts connections and lets in who proves what it must.
pub(super) async fn forward(
    mut acceptor: Acceptor<TcpListener>,
    access: Arc<Access>,
    entrance: Entrance,
) {
    let mut handshakes = Handshakes::default();
    loop {
        let (socket, address) = tokio::select! {
            accepted = acceptor.next() => accepted,
            () = entrance.closed() => return,
        };
        if let Err(error) = prepare(&socket) {
            debug!(%address, %error, "closed a TCP connection");
            continue;
        }
        let (access, entrance) = (Arc::clone(&access), entrance.clone());
        match access.acceptor(Instant::now()) {
            None => enter(Socket::Tcp(socket), address, None, access, &entrance).await,
            Some(tls) => handshakes.begin(async move {
                match handshake(&tls, socket).await {
                    Ok((socket, name)) => enter(socket, address, name, access, &entrance).await,
                    Err(error) => {
                        let error = chain(&error);
                        debug!(%address, error, "closed a TCP connection that did not come to TLS");
                    }
                }
            }),
        }
    }
}

async fn enter(
    socket: Socket,
    address: SocketAddr,
    name: Option<Label>,
    access: Arc<Access>,
    entrance: &Entrance,
) {
    let peer = RemotePeer::new(address, name, access);
    let prove_within = (!peer.is_proven()).then_some(PROVE_WITHIN);
    let peer = PeerInfo::Remote(Arc::new(peer));
    entrance.enter(socket, peer, None, prove_within).await;
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    fd_room::check(socket, Purpose::Connection)?;
    // A call is one small message and waits for its answer.
    socket.set_nodelay(true)?;
    // A peer that lost its power says no goodbye, and its connection would count for ever.
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_user_timeout(socket, TAKE_WITHIN_MS)?;
    Ok(())
}

/// Returns the connection with the name in the peer's certificate, if it came with one.
async fn handshake(tls: &TlsAcceptor, socket: TcpStream) -> io::Result<(Socket, Option<Label>)> {
    let socket = timeout(HANDSHAKE_DEADLINE, tls.accept(socket)).await??;
    let (_, session) = socket.get_ref();
    let name = match session.peer_certificates() {
        Some([certificate, ..]) => {
            let name = tls::name_of(certificate);
            Some(name.ok_or_else(|| io::Error::other("certificate without a usable name"))?)
        }
        _ => None,
    };
    Ok((Socket::Tls(Box::new(socket)), name))
}

/// The handshakes under way, the oldest first.
#[derive(Debug, Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    oldest: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        // Those that have ended are let go of in passing: fewer than this many are left each time.
        self.oldest.retain(|task| !task.is_finished());
        if self.oldest.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        self.oldest.push_back(self.tasks.spawn(handshake));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_handshake_too_many_ends_the_oldest_and_those_that_ended_do_not_count() {
        let mut handshakes = Handshakes::default();
        let (first, ended) = tokio::sync::oneshot::channel::<()>();
        handshakes.begin(async move {
            let _first = first;
            std::future::pending::<()>().await;
        });
        for _ in 0..2 * MAX_HANDSHAKES {
            handshakes.begin(std::future::ready(()));
            tokio::task::yield_now().await;
        }
        for _ in 1..MAX_HANDSHAKES {
            handshakes.begin(std::future::pending());
        }
        tokio::task::yield_now().await;
        assert_eq!(handshakes.oldest.len(), MAX_HANDSHAKES);
        handshakes.begin(std::future::pending());
        // The sender goes with its task.
        assert!(ended.await.is_err());
        assert_eq!(handshakes.oldest.len(), MAX_HANDSHAKES);
    }
}

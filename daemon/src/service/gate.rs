//! The gate in front of the services: who calls from another machine proves who that is, and
//! nobody's calls, however many, take what the others need. A call too many is refused at once, in
//! place of a queue that nobody would see the end of.
//!
//! Calls of local clients are only counted. Those of remote ones have places of their own, of
//! which a connection, and a name or address, may have a part; they keep them until the last byte
//! of the answer has been taken, and have a deadline.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body as HttpBody, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};

use super::Answer;
use crate::error::{Crowd, Error};
use crate::listen::{Holder, PeerInfo, RemotePeer, Share, Shares};
use crate::tls::{Refused, RemoteIdentity};

/// Calls of local clients under way at a time: each may have some kilobytes, and threads that work
/// long have no bound of their own on who waits for them.
const MAX_LOCAL_CALLS: usize = 65_536;
/// How long a remote call may work, but for those that wait for arenas or take in bytes. A client
/// whose own deadline is nearer says so in `grpc-timeout`.
const REMOTE_DEADLINE: Duration = Duration::from_secs(60);
/// The calls that have time limits of their own.
const TIMED: [&str; 2] = [
    "/goumem.v1.ArenaPoolService/Get",
    "/goumem.v1.ByteService/Write",
];
const BEARER: &str = "Bearer ";

/// Services behind the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate<S> {
    services: S,
    local: Arc<Semaphore>,
    remote: Arc<Semaphore>,
    shares: Shares,
    max_remote_calls: usize,
}

/// Where a remote call counts: on its connection, with its client, and with all of them.
type Places = (OwnedSemaphorePermit, Share, OwnedSemaphorePermit);

impl<S> Gate<S> {
    pub(crate) fn new(services: S, max_remote_calls: u32) -> Self {
        let max_remote_calls = max_remote_calls as usize;
        Self {
            services,
            local: Arc::new(Semaphore::new(MAX_LOCAL_CALLS)),
            remote: Arc::new(Semaphore::new(max_remote_calls)),
            shares: Shares::new("remote calls", max_remote_calls),
            max_remote_calls,
        }
    }

    /// Finds places for a remote call; they are free again when they are dropped.
    fn admit(&self, peer: &RemotePeer, caller: &RemoteIdentity) -> Result<Places, Error> {
        let full = |crowd, limit| Error::Overloaded { crowd, limit };
        let of_connection =
            place(&peer.calls).ok_or_else(|| full(Crowd::Connection, RemotePeer::MAX_CALLS))?;
        let holder = match &caller.name {
            Some(name) => Holder::Name(name.clone()),
            None => Holder::Address(caller.address.ip()),
        };
        let share = self
            .shares
            .take(vec![holder])
            .ok_or_else(|| full(Crowd::Client, self.max_remote_calls.div_ceil(4)))?;
        let of_all =
            place(&self.remote).ok_or_else(|| full(Crowd::Remote, self.max_remote_calls))?;
        Ok((of_connection, share, of_all))
    }
}

fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok()
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = Answer,
        >,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answer {
        let Some(PeerInfo::Remote(peer)) = request.extensions().get() else {
            let Some(place) = place(&self.local) else {
                return refuse(Error::Overloaded {
                    crowd: Crowd::Local,
                    limit: MAX_LOCAL_CALLS,
                });
            };
            let answer = self.services.call(request);
            return Box::pin(async move {
                let answer = answer.await;
                drop(place);
                answer
            });
        };
        let peer = Arc::clone(peer);
        let caller = match peer.identify(bearer_token(&request), Instant::now()) {
            Ok(caller) => caller,
            Err(why) => {
                let why = match why {
                    Refused::NoProof => "it has neither a client certificate nor a bearer token",
                    Refused::UnknownToken => "its bearer token is not known",
                };
                return refuse(Error::CredentialsRequired { why });
            }
        };
        let places = match self.admit(&peer, &caller) {
            Ok(places) => places,
            Err(error) => return refuse(error),
        };
        request.extensions_mut().insert(caller);
        let timed = TIMED.contains(&request.uri().path());
        let answer = self.services.call(request);
        Box::pin(async move {
            let answer = if timed {
                answer.await
            } else {
                match timeout(REMOTE_DEADLINE, answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        refuse(Error::CallTimedOut {
                            after: REMOTE_DEADLINE,
                        })
                        .await
                    }
                }
            };
            Ok(answer?.map(|body| Body::new(Held { body, places })))
        })
    }
}

fn bearer_token(request: &http::Request<Body>) -> Option<&str> {
    let value = request.headers().get(http::header::AUTHORIZATION)?;
    value.to_str().ok()?.strip_prefix(BEARER)
}

fn refuse(error: Error) -> Answer {
    let refused = Status::from(error).into_http();
    Box::pin(std::future::ready(Ok(refused)))
}

/// An answer that keeps its call's places until it has been sent.
#[derive(Debug)]
struct Held {
    body: Body,
    #[expect(dead_code, reason = "dropped with the answer")]
    places: Places,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

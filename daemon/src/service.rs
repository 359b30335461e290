//! The gRPC services. A handler is five moves: who calls, parse, note it in the log's span, call
//! the core, answer. [`Edge`] makes them, so that each handler is one line which says what of the
//! core it calls, and where: in place, or on a thread that may wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use goumem_proto::model::ProtocolError;
use goumem_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::level_filters::LevelFilter;
use tracing::{Span, debug_span, field};

use crate::caller;
use crate::core::Core;
use crate::error::Error;
use crate::metrics::{MethodIndex, Metrics};
use crate::session::Caller;
use crate::traces;

mod arena_pool;
mod bytes;
mod control;
mod daemon;
mod gate;
mod pool;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use gate::Gate;

/// The largest message, either way: gRPC's usual limit. The largest batch has a third of it.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Calls at a time on one connection, waiting ones included; more of them queue at the client.
///
/// Each wait for an arena is one, and the call that returns an arena has to get past them: so this
/// is above the number of threads that may wait in one process.
const MAX_STREAMS: u32 = 1024;
/// What may be under way on one stream and on a connection, so that bytes sent by ByteService do
/// not wait for the reader after each message.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// The largest frame a client may send: a piece of ByteService, or a batch of three thousand
/// handles, is then one frame, and one system call at either end. HTTP/2's default is 16 KiB.
const MAX_FRAME_BYTES: u32 = 80 << 10;

/// What the services share.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) core: Arc<Core>,
    /// The daemon takes no more calls.
    pub(crate) draining: CancellationToken,
}

impl Edge {
    /// Serves a call in place if it is small: it touches a page or two. Else on a thread that may
    /// work long, and wait for the OS.
    async fn serve<W, D, R, O>(
        &self,
        request: Request<W>,
        is_small: impl FnOnce(&D) -> bool,
        work: impl FnOnce(&Core, &Caller, D, Instant) -> Result<R, Error> + Send + 'static,
    ) -> Result<Response<O>, Status>
    where
        D: TryFrom<W, Error = ProtocolError> + Send + 'static,
        R: Into<O> + Send + 'static,
    {
        let now = Instant::now();
        let (caller, request) = self.receive(request, now)?;
        let reply = if is_small(&request) {
            work(&self.core, &caller, request, now)?
        } else {
            let (core, span) = (Arc::clone(&self.core), Span::current());
            let work = move || span.in_scope(|| work(&core, &caller, request, now));
            let panicked = |_| Error::Invariant {
                what: "a call came to its end",
            };
            tokio::task::spawn_blocking(work)
                .await
                .map_err(panicked)??
        };
        Ok(Response::new(reply.into()))
    }

    /// The first three moves.
    fn receive<W, D>(&self, request: Request<W>, now: Instant) -> Result<(Caller, D), Error>
    where
        D: TryFrom<W, Error = ProtocolError>,
    {
        let caller = self.identify(&request, now)?;
        Ok((caller, request.into_inner().try_into()?))
    }

    /// The first move, and the third as far as it is known by then.
    fn identify<W>(&self, request: &Request<W>, now: Instant) -> Result<Caller, Error> {
        if self.draining.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let caller = caller::identify(request, self.core.sessions(), now)?;
        // Else there is no span, and to ask for it takes as long as all the rest here.
        if LevelFilter::current() >= LevelFilter::DEBUG {
            let span = Span::current();
            span.record("uid", caller.uid);
            if let Some(session) = &caller.session {
                span.record("session", session.number.get());
            }
        }
        Ok(caller)
    }
}

/// Implements a service of `v1`, one line per call: where it is served ("here" in place, "aside"
/// on a thread for long work, or by a rule on the parsed request), its name, its messages, and the
/// method of the core that does it. What does not fit a line follows in full.
macro_rules! service {
    (
        $module:ident::$trait:ident for $type:ident {
            $($place:tt $name:ident($request:ident) -> $reply:ident = $work:expr;)*
        }
        $(and { $($more:tt)* })?
    ) => {
        #[tonic::async_trait]
        impl v1::$module::$trait for $type {
            $(async fn $name(
                &self,
                request: tonic::Request<v1::$request>,
            ) -> Result<tonic::Response<v1::$reply>, tonic::Status> {
                self.0.serve(request, service!(@place $place), $work).await
            })*
            $($($more)*)?
        }
    };
    (@place here) => { |_| true };
    (@place aside) => { |_| false };
    (@place ($rule:expr)) => { $rule };
}
use service;

/// Stands for the messages without fields, which need no domain type of their own.
struct Nothing;

macro_rules! nothing {
    (requests [$($request:ident)*] replies [$($reply:ident)*]) => {
        $(impl TryFrom<v1::$request> for Nothing {
            type Error = ProtocolError;

            fn try_from(_: v1::$request) -> Result<Self, ProtocolError> {
                Ok(Self)
            }
        })*
        $(impl From<Nothing> for v1::$reply {
            fn from(_: Nothing) -> Self {
                Self {}
            }
        })*
    };
}
nothing! {
    requests [
        InfoRequest ResumeSessionRequest ListSessionsRequest KeepAliveRequest ListPoolsRequest
        ListArenaPoolsRequest
    ]
    replies [
        KillSessionReply DestroyPoolReply FreeReply FlushPoolReply ReturnArenaReply WakeReply UnmapReply
    ]
}

/// Makes the reply of a call that only succeeds.
fn done(_: ()) -> Nothing {
    Nothing
}

/// Builds the server: transport limits, and a log span for each call.
///
/// No HTTP/2 keepalive: it would cut off a client that is stopped in a debugger, and wake an idle
/// daemon for every connection. The kernel tells when the other end of a Unix socket has gone, and
/// TCP has keepalive of its own.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .trace_fn(|request| {
            let path = request.uri().path();
            let span = debug_span!(
                "call",
                path,
                uid = field::Empty,
                session = field::Empty,
                request = field::Empty,
                otel.kind = field::Empty,
                otel.name = field::Empty
            );
            let traceparent = request.headers().get("traceparent");
            let traceparent = traceparent.and_then(|value| value.to_str().ok());
            traces::continue_trace(&span, path.trim_start_matches('/'), traceparent);
            span
        })
}

/// Counts a call when it is over, also one that its client gave up.
struct Counted {
    metrics: Arc<Metrics>,
    method: MethodIndex,
    since: Instant,
    code: Code,
}

impl Counted {
    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics
            .called(self.method, self.code, self.since.elapsed());
    }
}

/// Every service of the daemon, by name. This stands in for tonic's own router, which would bring
/// a web framework along.
#[derive(Clone)]
pub(crate) struct Routes {
    routes: Arc<[(&'static str, Box<dyn Route>)]>,
    metrics: Arc<Metrics>,
}

/// The names of goumem's own services, of which Health tells.
pub(crate) const SERVICES: [&str; 5] = [
    v1::daemon_service_server::SERVICE_NAME,
    v1::session_service_server::SERVICE_NAME,
    v1::pool_service_server::SERVICE_NAME,
    v1::arena_pool_service_server::SERVICE_NAME,
    v1::byte_service_server::SERVICE_NAME,
];

impl Routes {
    /// Builds the services.
    pub(crate) fn new(edge: &Edge, health: HealthReporter) -> Self {
        macro_rules! ours {
            ($module:ident::$server:ident, $service:expr) => {
                route(
                    v1::$module::$server::new($service)
                        .max_decoding_message_size(MAX_MESSAGE_BYTES)
                        .max_encoding_message_size(MAX_MESSAGE_BYTES),
                )
            };
        }
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(goumem_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        const WHY: &str = "the descriptors were made with this program";
        let health = HealthService::from_health_reporter(health);
        let routes = vec![
            ours!(
                pool_service_server::PoolServiceServer,
                pool::Pools(edge.clone())
            ),
            ours!(
                arena_pool_service_server::ArenaPoolServiceServer,
                arena_pool::ArenaPools(edge.clone())
            ),
            ours!(
                byte_service_server::ByteServiceServer,
                bytes::Bytes(edge.clone())
            ),
            ours!(
                session_service_server::SessionServiceServer,
                session::Sessions(edge.clone())
            ),
            ours!(
                daemon_service_server::DaemonServiceServer,
                daemon::Daemon(edge.clone())
            ),
            route(HealthServer::new(health)),
            route(reflection().build_v1().expect(WHY)),
            // Postman and grpcui still ask for this one.
            route(reflection().build_v1alpha().expect(WHY)),
        ];
        Self {
            routes: routes.into(),
            metrics: Arc::clone(edge.core.metrics()),
        }
    }
}

/// A service behind its name.
trait Route: Send + Sync {
    fn call(&self, request: http::Request<Body>) -> Answer;
}

type Answer = BoxFuture<http::Response<Body>, Infallible>;

impl<S> Route for S
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = Answer,
        > + Clone
        + Send
        + Sync,
{
    fn call(&self, request: http::Request<Body>) -> Answer {
        // As cheap as the count of an Arc, and the services are always ready.
        Service::call(&mut self.clone(), request)
    }
}

fn route<S: NamedService + Route + 'static>(service: S) -> (&'static str, Box<dyn Route>) {
    (S::NAME, Box::new(service))
}

impl Service<http::Request<Body>> for Routes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        // "/goumem.v1.PoolService/Alloc"
        let path = request.uri().path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let counted = Counted {
            metrics: Arc::clone(&self.metrics),
            method: MethodIndex::of(path),
            since: Instant::now(),
            // Unless it comes to its end.
            code: Code::Cancelled,
        };
        let service = path.split('/').next().unwrap_or_default();
        let answer = match self.routes.iter().find(|(name, _)| *name == service) {
            Some((_, route)) => route.call(request),
            None => {
                let status = Status::unimplemented(format!("no service {service:?}"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        };
        Box::pin(async move {
            let answer = answer.await?;
            // A refusal has no body, so its code is in the head; else all went well so far.
            let refused = answer.headers().get("grpc-status");
            counted.end(refused.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())));
            Ok(answer)
        })
    }
}

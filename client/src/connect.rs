//! From a socket path to a gRPC channel that says whose session a call belongs to.

use std::future::{Ready, ready};
use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use goumem_proto::model::{SESSION_METADATA_KEY, SessionToken};
use goumem_proto::v1::arena_pool_service_client::ArenaPoolServiceClient;
use goumem_proto::v1::byte_service_client::ByteServiceClient;
use goumem_proto::v1::daemon_service_client::DaemonServiceClient;
use goumem_proto::v1::pool_service_client::PoolServiceClient;
use goumem_proto::v1::session_service_client::SessionServiceClient;
use goumem_shm::os::paths::{self, Environment, PathError, Side};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::codegen::Service;
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::error::Error;
use crate::trace;

/// A daemon that accepts at all does so at once; longer means that it is stopped.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Returns where the daemon's socket is, by the rule that the daemon uses too.
pub(crate) fn find_socket(explicit: Option<&Path>) -> Result<PathBuf, Error> {
    let environment = Environment::read(Side::Client);
    let socket = paths::socket_path(explicit, &environment)?;
    let named = explicit.is_some() || environment.goumem_socket.is_some();
    if let Some(directory) = socket.parent()
        && !named
        && directory.starts_with(std::env::temp_dir())
    {
        // Everybody may make files in /tmp: what is in the way of ours is not to be trusted.
        match paths::check_private_directory(directory, environment.uid) {
            Err(PathError::Os { source, .. }) => {
                return Err(Error::NoDaemon {
                    socket,
                    source: source.into(),
                });
            }
            checked => checked?,
        }
    }
    Ok(socket)
}

/// Connects to the socket, once: when the connection breaks, the channel stays broken. Whoever
/// connects again has the session to resume first.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Error> {
    let no_daemon = |source: Box<dyn std::error::Error + Send + Sync>| Error::NoDaemon {
        socket: socket.to_owned(),
        source,
    };
    let stream = timeout(CONNECT_DEADLINE, UnixStream::connect(socket))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| no_daemon(error.into()))?;
    // The authority is nobody's: a path would be refused by HTTP/2 servers.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(Once(Some(TokioIo::new(stream))))
        .await
        .map_err(|error| no_daemon(error.into()))
}

/// Gives a channel its connection, and no other when that is gone.
struct Once(Option<TokioIo<UnixStream>>);

impl Service<Uri> for Once {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0
                .take()
                .ok_or_else(|| io::ErrorKind::NotConnected.into()),
        )
    }
}

/// The services, each call with the session's token, and with what else says whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Rpc {
    channel: InterceptedService<Channel, SendToken>,
    plain: Channel,
    send: SendToken,
}

impl Rpc {
    /// Returns the services of a channel; without a token until a session is open.
    pub(crate) fn new(channel: Channel, token: Option<SessionToken>) -> Self {
        let send = SendToken {
            session: token.map(session_value),
            bearer: None,
        };
        Self::of(channel, send)
    }

    fn of(channel: Channel, send: SendToken) -> Self {
        Self {
            channel: InterceptedService::new(channel.clone(), send.clone()),
            plain: channel,
            send,
        }
    }

    /// Returns the same services; each call goes with a bearer token as well.
    pub(crate) fn with_bearer(self, bearer: Option<Bearer>) -> Self {
        let send = SendToken {
            bearer,
            ..self.send
        };
        Self::of(self.plain, send)
    }

    /// Returns the same services for a session.
    pub(crate) fn with_token(self, token: SessionToken) -> Self {
        let send = SendToken {
            session: Some(session_value(token)),
            ..self.send
        };
        Self::of(self.plain, send)
    }

    pub(crate) fn daemon(&self) -> DaemonServiceClient<InterceptedService<Channel, SendToken>> {
        DaemonServiceClient::new(self.channel.clone())
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<InterceptedService<Channel, SendToken>> {
        SessionServiceClient::new(self.channel.clone())
    }

    pub(crate) fn pools(&self) -> PoolServiceClient<InterceptedService<Channel, SendToken>> {
        PoolServiceClient::new(self.channel.clone())
    }

    pub(crate) fn bytes(&self) -> ByteServiceClient<InterceptedService<Channel, SendToken>> {
        ByteServiceClient::new(self.channel.clone())
    }

    pub(crate) fn arenas(&self) -> ArenaPoolServiceClient<InterceptedService<Channel, SendToken>> {
        ArenaPoolServiceClient::new(self.channel.clone())
    }
}

fn session_value(token: SessionToken) -> BinaryMetadataValue {
    MetadataValue::from_bytes(token.as_bytes())
}

/// A bearer token, as it is in a call's metadata.
#[derive(Clone)]
pub(crate) struct Bearer(AsciiMetadataValue);

impl Bearer {
    /// Makes it of its text.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it is quoted: it is a secret.
    pub(crate) fn parse(token: &str) -> Result<Self, &'static str> {
        let value = format!("Bearer {}", token.trim_end());
        let mut value: AsciiMetadataValue = value
            .parse()
            .map_err(|_| "the token has characters that do not go into a header")?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

/// Puts the tokens into a call's metadata.
#[derive(Clone)]
pub(crate) struct SendToken {
    session: Option<BinaryMetadataValue>,
    bearer: Option<Bearer>,
}

impl Interceptor for SendToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.session {
            request
                .metadata_mut()
                .insert_bin(SESSION_METADATA_KEY, token.clone());
        }
        trace::send(&mut request);
        if let Some(Bearer(token)) = &self.bearer {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl std::fmt::Debug for SendToken {
    /// Leaves the tokens out: they are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SendToken(..)")
    }
}

//! Pools over TCP, for programs on other machines: blocks are allocated, read and written by calls
//! in place of a mapping.
//!
//! ```no_run
//! # goumem::blocking::wait(async {
//! use goumem::{Client, PoolOptions};
//!
//! let client = Client::builder()
//!     .address("https://shm.example:7700")
//!     .ca_file("ca.pem")
//!     .token("0123456789abcdef")
//!     .connect()
//!     .await?;
//! let pool = client.create_pool("frames", PoolOptions::new(64 << 20)).await?;
//! let block = pool.alloc_bytes("hello").await?;
//! assert_eq!(block.read_all().await?, b"hello");
//! pool.publish("first", block.into_handle()).await?;
//! # Ok::<(), goumem::Error>(())
//! # }).unwrap();
//! ```
//!
//! # What is slower, and what differs
//!
//! Everything here is a call: a round trip of the network and some tens of microseconds, where a
//! [`Client`](crate::Client) on the daemon's machine takes tens of nanoseconds. Bytes are copied
//! twice and go through the network in pieces of 64 KiB. Blocks are untyped.
//!
//! The daemon cannot see this process die, so the session has a *TTL* instead: it ends, with what
//! it holds, when it has made no call for that long. The client makes one three times in that time
//! while it lives. A connection that breaks ends nothing: it is made again, and calls wait for that
//! up to their deadline. A process that is stopped, or cut off, for longer than the TTL finds
//! [`Error::SessionExpired`]; blocks that were kept or published are still there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use goumem_alloc::SessionNumber;
use goumem_proto::model::{
    ArenaPoolInfo, ArenaPoolStat, CreateArenaPool, CreatePool, DEFAULT_TTL, DaemonInfo,
    KillSession, OpenArenaPool, OpenPool, OpenSession, OpenedArenaPool, OpenedPool, PoolInfo,
    PoolStat, RequestId, SessionInfo,
};
use goumem_proto::name::{Label, PoolName};
use goumem_proto::v1;
use goumem_shm::os::fork;

use crate::calls::CALL_DEADLINE;
use crate::client::{destroy_request, parse_name};
use crate::connect::{Bearer, Rpc};
use crate::error::Error;
use crate::io_thread::IoThread;
use crate::options::{ArenaPoolOptions, PoolOptions};

mod arenas;
mod block;
mod bytes;
mod endpoint;
mod pool;
mod session;
mod wire;

pub use arenas::{RemoteArena, RemoteArenaPool};
pub use block::RemoteBlock;
pub use bytes::RemoteReader;
pub use pool::RemotePool;

use endpoint::Security;
use session::RemoteSession;

/// A session with a goumemd of another machine. Clones are the same session.
///
/// Its methods work under any executor, and none. When the last clone is gone, and everything that
/// came from it, the session ends in the background: blocks whose handles were given away, and
/// which nobody has taken, adopted or kept, go with it.
#[derive(Debug, Clone)]
pub struct RemoteClient {
    session: Arc<RemoteSession>,
}

/// Sets up a [`RemoteClient`]: [`ClientBuilder::address`](crate::ClientBuilder::address) begins.
#[derive(Debug, Clone)]
#[must_use]
pub struct RemoteClientBuilder {
    address: String,
    label: String,
    call_deadline: Option<Duration>,
    ttl: Duration,
    security: Security,
    token: Option<String>,
}

impl RemoteClientBuilder {
    pub(crate) fn new(address: String, label: String, call_deadline: Option<Duration>) -> Self {
        Self {
            address,
            label,
            call_deadline,
            ttl: DEFAULT_TTL,
            security: Security::default(),
            token: None,
        }
    }

    /// Sets what people see in lists of sessions: up to 64 bytes of printable text.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets how long a call waits for the daemon: while it is away, restarts, or does not answer.
    /// 30 seconds unless set; reading and writing have a second more for each MiB.
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = Some(deadline);
        self
    }

    /// Sets how long the session outlives its last call, 0.1 s to an hour. 30 seconds unless set:
    /// longer absences than that end it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the file of the CAs that the daemon's certificate is to be of, in PEM. Needed with
    /// `https`.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.security.ca = Some(path.into());
        self
    }

    /// Sets the files of this client's own certificate and its key, in PEM.
    pub fn identity_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.security.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the name that the daemon's certificate is to have, where that is not the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.security.server_name = Some(name.into());
        self
    }

    /// Sets the bearer token that goes with each call. It is not sent without TLS, but for loopback
    /// addresses.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Connects to the daemon and opens a session.
    ///
    /// # Errors
    /// [`Error::Address`] for an impossible address, files that cannot be used, and `https`
    /// without the feature `tls`; [`Error::NoDaemon`]; [`Error::Transport`] when the daemon breaks
    /// the connection off, which it does with certificates that it does not know;
    /// [`Error::Daemon`] with `CREDENTIALS_REQUIRED` or `TOO_MANY_SESSIONS`; [`Error::Name`] for
    /// an impossible label; [`Error::Os`] when no thread can be started.
    pub async fn connect(self) -> Result<RemoteClient, Error> {
        let label: Label = parse_name("label", &self.label)?;
        let endpoint = endpoint::endpoint(&self.address, &self.security, self.token.is_some())?;
        let bearer = self.token.as_deref().map(Bearer::parse).transpose();
        let bearer = bearer.map_err(|why| endpoint::refused(&self.address, why))?;
        let deadline = self.call_deadline.unwrap_or(CALL_DEADLINE);
        let request = OpenSession {
            label,
            ttl: self.ttl,
            nonce: None,
        };
        fork::install().map_err(Error::os("watch for forks"))?;
        let (io, running) = IoThread::start(|| {}).map_err(Error::os("start the I/O thread"))?;
        let address = self.address;
        let open = {
            let io = io.clone();
            async move {
                let channel = endpoint::connect(&endpoint, &address).await?;
                RemoteSession::open(io, running, channel, bearer, address, request, deadline).await
            }
        };
        let session = io.run(open).await?;
        Ok(RemoteClient { session })
    }
}

impl RemoteClient {
    /// Creates a pool.
    ///
    /// # Errors
    /// [`Error::PoolExists`]; [`Error::Name`]; [`Error::Exhausted`]; [`Error::Daemon`] with
    /// `INVALID_FIELD`, `BACKING_UNSUPPORTED` or `TOO_MANY_POOLS`.
    pub async fn create_pool(&self, name: &str, options: PoolOptions) -> Result<RemotePool, Error> {
        self.make_pool(options.into_request(parse_name("pool", name)?), false)
            .await
    }

    /// Opens a pool, or creates it.
    ///
    /// # Errors
    /// [`Error::Daemon`] with `GEOMETRY_MISMATCH` when it exists with another capacity or backing;
    /// those of [`create_pool`](Self::create_pool) but `PoolExists`.
    pub async fn open_or_create_pool(
        &self,
        name: &str,
        options: PoolOptions,
    ) -> Result<RemotePool, Error> {
        self.make_pool(options.into_request(parse_name("pool", name)?), true)
            .await
    }

    async fn make_pool(&self, create: CreatePool, or_open: bool) -> Result<RemotePool, Error> {
        self.session
            .run(move |session| async move {
                let make = |rpc: Rpc, request_id| {
                    let request = v1::CreatePoolRequest::from(CreatePool {
                        request_id: RequestId::new(request_id),
                        ..create.clone()
                    });
                    async move {
                        if or_open {
                            rpc.pools().open_or_create(request).await
                        } else {
                            rpc.pools().create(request).await
                        }
                    }
                };
                let opened = OpenedPool::try_from(session.wire.effect(make).await?)?;
                Ok(RemotePool::new(session, opened))
            })
            .await
    }

    /// Opens a pool. What the caller may do there is found out by doing it.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Name`]; [`Error::PermissionDenied`].
    pub async fn open_pool(&self, name: &str) -> Result<RemotePool, Error> {
        let open = v1::OpenPoolRequest::from(OpenPool {
            name: parse_name("pool", name)?,
            access: goumem_proto::model::Access::ReadOnly,
            expect_capacity_bytes: None,
        });
        self.session
            .run(move |session| async move {
                let ask = |rpc: Rpc| {
                    let open = open.clone();
                    async move { rpc.pools().open(open).await }
                };
                let opened = OpenedPool::try_from(session.wire.ask(ask).await?)?;
                Ok(RemotePool::new(session, opened))
            })
            .await
    }

    /// Removes a pool's name; its memory goes when the last session that maps it has gone. For its
    /// owner.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::PermissionDenied`]; [`Error::Name`].
    pub async fn destroy_pool(&self, name: &str) -> Result<(), Error> {
        let name: PoolName = parse_name("pool", name)?;
        self.session
            .run(move |session| async move {
                let destroy = |rpc: Rpc, request_id| {
                    let request = destroy_request(&name, request_id);
                    async move { rpc.pools().destroy(request).await }
                };
                session.wire.effect(destroy).await.map(drop)
            })
            .await
    }

    /// Returns the pools that the caller may read.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn list_pools(&self) -> Result<Vec<PoolInfo>, Error> {
        self.session
            .run(|session| async move {
                let ask = |rpc: Rpc| async move { rpc.pools().list(v1::ListPoolsRequest {}).await };
                Ok(session.wire.ask(ask).await?.try_into()?)
            })
            .await
    }

    /// Returns how full a pool is.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Name`]; [`Error::PermissionDenied`].
    pub async fn stat_pool(&self, name: &str) -> Result<PoolStat, Error> {
        let name: PoolName = parse_name("pool", name)?;
        pool::stat(&self.session, name.into()).await
    }

    /// Creates an arena pool.
    ///
    /// # Errors
    /// As [`create_pool`](Self::create_pool).
    pub async fn create_arena_pool(
        &self,
        name: &str,
        options: ArenaPoolOptions,
    ) -> Result<RemoteArenaPool, Error> {
        let create = options.into_request(parse_name("arena pool", name)?);
        self.session
            .run(move |session| async move {
                let make = |rpc: Rpc, request_id| {
                    let request = v1::CreateArenaPoolRequest::from(CreateArenaPool {
                        request_id: RequestId::new(request_id),
                        ..create.clone()
                    });
                    async move { rpc.arenas().create(request).await }
                };
                let opened = OpenedArenaPool::try_from(session.wire.effect(make).await?)?;
                Ok(RemoteArenaPool::new(session, opened))
            })
            .await
    }

    /// Opens an arena pool.
    ///
    /// # Errors
    /// As [`open_pool`](Self::open_pool).
    pub async fn open_arena_pool(&self, name: &str) -> Result<RemoteArenaPool, Error> {
        let open = v1::OpenArenaPoolRequest::from(OpenArenaPool {
            name: parse_name("arena pool", name)?,
            access: goumem_proto::model::Access::ReadOnly,
            expect_arenas: None,
            expect_arena_bytes: None,
        });
        self.session
            .run(move |session| async move {
                let ask = |rpc: Rpc| {
                    let open = open.clone();
                    async move { rpc.arenas().open(open).await }
                };
                let opened = OpenedArenaPool::try_from(session.wire.ask(ask).await?)?;
                Ok(RemoteArenaPool::new(session, opened))
            })
            .await
    }

    /// Removes an arena pool's name. For its owner.
    ///
    /// # Errors
    /// As [`destroy_pool`](Self::destroy_pool).
    pub async fn destroy_arena_pool(&self, name: &str) -> Result<(), Error> {
        let name: PoolName = parse_name("arena pool", name)?;
        self.session
            .run(move |session| async move {
                let destroy = |rpc: Rpc, request_id| {
                    let request = destroy_request(&name, request_id);
                    async move { rpc.arenas().destroy(request).await }
                };
                session.wire.effect(destroy).await.map(drop)
            })
            .await
    }

    /// Returns the arena pools that the caller may read.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn list_arena_pools(&self) -> Result<Vec<ArenaPoolInfo>, Error> {
        self.session
            .run(|session| async move {
                let ask =
                    |rpc: Rpc| async move { rpc.arenas().list(v1::ListArenaPoolsRequest {}).await };
                Ok(session.wire.ask(ask).await?.try_into()?)
            })
            .await
    }

    /// Returns how full an arena pool is.
    ///
    /// # Errors
    /// As [`stat_pool`](Self::stat_pool).
    pub async fn stat_arena_pool(&self, name: &str) -> Result<ArenaPoolStat, Error> {
        let name: PoolName = parse_name("arena pool", name)?;
        arenas::stat(&self.session, name.into()).await
    }

    /// Returns when the daemon has answered: the cost of a call.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn ping(&self) -> Result<(), Error> {
        self.session
            .run(|session| async move {
                let ask = |rpc: Rpc| async move { rpc.daemon().ping(v1::PingRequest {}).await };
                session.wire.ask(ask).await.map(drop)
            })
            .await
    }

    /// Returns what the daemon says of itself: version, budget, totals.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn info(&self) -> Result<DaemonInfo, Error> {
        self.session
            .run(|session| async move {
                let ask = |rpc: Rpc| async move { rpc.daemon().info(v1::InfoRequest {}).await };
                Ok(session.wire.ask(ask).await?.try_into()?)
            })
            .await
    }

    /// Returns the sessions of the caller's name; of the user that it stands for, if it does.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, Error> {
        self.session
            .run(|session| async move {
                let ask =
                    |rpc: Rpc| async move { rpc.sessions().list(v1::ListSessionsRequest {}).await };
                Ok(session.wire.ask(ask).await?.try_into()?)
            })
            .await
    }

    /// Ends another remote session of the caller's name, and takes back what it held.
    ///
    /// # Errors
    /// [`Error::Daemon`] with `SESSION_NOT_FOUND`; [`Error::PermissionDenied`].
    pub async fn kill_session(&self, session: SessionNumber, serial: u64) -> Result<(), Error> {
        let kill = v1::KillSessionRequest::from(KillSession {
            session,
            serial: std::num::NonZeroU64::new(serial),
        });
        self.session
            .run(move |session| async move {
                let ask = |rpc: Rpc| async move { rpc.sessions().kill(kill).await };
                session.wire.ask(ask).await.map(drop)
            })
            .await
    }

    /// Ends the session, if nothing of it is held. What was dropped before is given back first.
    ///
    /// # Errors
    /// [`Error::BlocksOutstanding`] while blocks or arenas of it are held, also blocks whose
    /// handles were given away; it goes on as before then. [`Error::Closed`] when it is closed
    /// already.
    pub async fn close(&self) -> Result<(), Error> {
        self.session.close().await
    }

    /// Returns the session's number.
    pub fn session(&self) -> SessionNumber {
        self.session.number
    }

    /// Returns the session's serial, which does not repeat while the daemon lives.
    pub fn session_serial(&self) -> u64 {
        self.session.serial
    }

    /// Returns how long the session outlives its last call.
    pub fn ttl(&self) -> Duration {
        self.session.ttl
    }

    /// Returns the daemon's address.
    pub fn address(&self) -> &str {
        &self.session.address
    }
}

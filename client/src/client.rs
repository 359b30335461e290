//! A client: one session with the daemon, and the way to pools and arena pools.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use goumem_alloc::SessionNumber;
use goumem_proto::model::{Access, DaemonInfo, DestroyPool, KillSession, RequestId, SessionInfo};
use goumem_proto::name::{NameError, PoolName};
use goumem_proto::v1;
use goumem_shm::os::{self, fork};
use tokio::sync::oneshot;

use crate::calls::CALL_DEADLINE;
use crate::connect::{self, Rpc};
use crate::end::End;
use crate::error::Error;
use crate::housekeeper::Chore;
use crate::in_use::InUse;
use crate::io_thread::IoThread;
use crate::remote::RemoteClientBuilder;
use crate::session::{Session, Settings};
use crate::thread_heaps;

mod arena_pools;
mod look;
mod pools;

pub use look::Watch;

/// Bytes without a block that a client keeps unless it is set up otherwise: little beside what a
/// program that needs them uses, and a thousand clients that keep nothing have nothing to lose.
pub(crate) const MAX_IDLE_BYTES: u64 = 64 << 20;

/// A session with goumemd. One for each process is enough; clones are the same session.
///
/// Its methods work under any executor, and none: the client has a thread of its own for what
/// goes over the socket. [`blocking::Client`](crate::blocking::Client) has the same methods
/// without `.await`.
///
/// When the last clone is gone, and every pool with its blocks, the session ends in the
/// background, and the thread with it. [`close`](Self::close) does so at once and tells what is
/// in the way.
///
/// ```
/// # goumem::blocking::wait(async {
/// use goumem::Client;
///
/// let client = Client::embedded().await?; // Client::connect() where a goumemd runs
/// client.ping().await?;
/// println!("session {} at {}", client.session(), client.socket().display());
/// client.close().await?;
/// # Ok::<(), goumem::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    session: InUse<Session>,
}

/// Sets up a [`Client`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ClientBuilder {
    socket: Option<PathBuf>,
    label: String,
    call_deadline: Option<Duration>,
    max_idle_bytes: Option<u64>,
}

impl ClientBuilder {
    /// Sets the path of the daemon's socket. Else it is where the environment says, or where a
    /// daemon of this machine has it: `GOUMEM_SOCKET`, `$XDG_RUNTIME_DIR/goumem/goumemd.sock`,
    /// `/run/goumem/goumemd.sock`, `/tmp/goumem-UID/goumemd.sock`.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Connects to a daemon over TCP in place of a socket of this machine:
    /// `http://127.0.0.1:7700`, `https://shm.example:7700`. What follows is for a client that maps
    /// nothing; label and deadline stay as they were set.
    pub fn address(self, address: impl Into<String>) -> RemoteClientBuilder {
        RemoteClientBuilder::new(address.into(), self.label, self.call_deadline)
    }

    /// Sets what people see in lists of sessions: up to 64 bytes of printable text.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets how long a call waits for the daemon: while it is away, restarts, or does not answer.
    /// 30 seconds unless set. What makes no call waits for nothing.
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = Some(deadline);
        self
    }

    /// Sets how many bytes of memory without a block in it the client may keep from others, in all
    /// pools together: for the next blocks, which then need no call. 64 MiB unless set.
    ///
    /// What was in use within the last three seconds is kept up to that bound, then an empty span
    /// (64 KiB to 1 MiB) for each size of block and thread. It is looked at every second, and up
    /// to a minute apart when nothing has happened in a while; when a pool runs out of memory for
    /// somebody else, everything idle goes back at once.
    pub fn max_idle_bytes(mut self, bytes: u64) -> Self {
        self.max_idle_bytes = Some(bytes);
        self
    }

    /// Connects to the daemon and opens a session. Once that is done, the client connects again
    /// by itself whenever it must.
    ///
    /// # Errors
    /// [`Error::NoDaemon`]; [`Error::SocketPath`]; [`Error::Name`] for an impossible label;
    /// [`Error::Daemon`] with `TOO_MANY_SESSIONS`; [`Error::Os`] when no thread can be started.
    pub async fn connect(self) -> Result<Client, Error> {
        let settings = Settings {
            socket: connect::find_socket(self.socket.as_deref())?,
            label: parse_name("label", &self.label)?,
            call_deadline: self.call_deadline.unwrap_or(CALL_DEADLINE),
            max_idle_bytes: self.max_idle_bytes.unwrap_or(MAX_IDLE_BYTES),
        };
        let end = Arc::new(End::new(false));
        start(Arc::clone(&end), move |io, running| {
            Session::open(io, running, settings, end, None)
        })
        .await
    }
}

/// Starts the I/O thread and opens a session there.
pub(crate) async fn start<F>(
    end: Arc<End>,
    open: impl FnOnce(IoThread, crate::io_thread::KeepRunning) -> F,
) -> Result<Client, Error>
where
    F: Future<Output = Result<InUse<Session>, Error>> + Send + 'static,
{
    // First the hook: no fork comes between.
    fork::on_child(thread_heaps::forget);
    fork::install().map_err(Error::os("watch for forks"))?;
    let started = IoThread::start(move || end.ended());
    let (io, running) = started.map_err(Error::os("start the I/O thread"))?;
    let session = io.run(open(io.clone(), running)).await?;
    Ok(Client { session })
}

impl Client {
    /// Connects to the daemon of this user or machine and opens a session.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect() -> Result<Self, Error> {
        Self::builder().connect().await
    }

    /// Returns a builder, to choose a socket or a label.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Returns when the daemon has answered: the cost of a call.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn ping(&self) -> Result<(), Error> {
        self.run(|session| async move {
            let ping = |rpc: Rpc| async move { rpc.daemon().ping(v1::PingRequest {}).await };
            session.ask(ping).await?;
            Ok(())
        })
        .await
    }

    /// Returns what the daemon says of itself: version, budget, totals.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn info(&self) -> Result<DaemonInfo, Error> {
        self.run(|session| async move {
            let info = |rpc: Rpc| async move { rpc.daemon().info(v1::InfoRequest {}).await };
            let reply = session.ask(info).await?;
            Ok(DaemonInfo::try_from(reply)?)
        })
        .await
    }

    /// Returns the sessions there are: this user's, or all for root and the daemon's user.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, Error> {
        self.run(|session| async move {
            let list =
                |rpc: Rpc| async move { rpc.sessions().list(v1::ListSessionsRequest {}).await };
            let reply = session.ask(list).await?;
            Ok(Vec::try_from(reply)?)
        })
        .await
    }

    /// Kills a session's process (`SIGKILL`) and takes back what it held. With `serial`, only if
    /// the number has not gone to another session since.
    ///
    /// # Errors
    /// [`Error::Daemon`] with `SESSION_NOT_FOUND`; [`Error::PermissionDenied`].
    pub async fn kill_session(
        &self,
        session: SessionNumber,
        serial: Option<u64>,
    ) -> Result<(), Error> {
        let kill = v1::KillSessionRequest::from(KillSession {
            session,
            serial: serial.and_then(NonZeroU64::new),
        });
        self.run(move |session| async move {
            let kill = |rpc: Rpc| async move { rpc.sessions().kill(kill).await };
            session.ask_once(session.deadline, kill).await?;
            Ok(())
        })
        .await
    }

    /// Ends the session, if nothing of it is held: all clones of the client, and its pools, are
    /// closed then.
    ///
    /// # Errors
    /// [`Error::BlocksOutstanding`] while blocks of this session are alive (also such whose
    /// handle was given away, until somebody takes, adopts or frees them), or arenas or pins are
    /// held; it goes on as before then. [`Error::Closed`] when it is closed already.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # use goumem::{Client, Error, PoolOptions};
    /// # let client = Client::embedded().await?;
    /// # let pool = client.create_pool("p", PoolOptions::new(1 << 20)).await?;
    /// let block = pool.alloc::<u64>().await?;
    /// assert!(matches!(client.close().await, Err(Error::BlocksOutstanding { n: 1 })));
    /// drop(block);
    /// client.close().await?;
    /// assert!(matches!(client.ping().await, Err(Error::Closed)));
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn close(&self) -> Result<(), Error> {
        self.session.check_open()?;
        let (reply, outcome) = oneshot::channel();
        self.session.queue(Chore::Close(reply));
        // No reply: the session has ended by itself.
        outcome.await.unwrap_or(Err(Error::Closed))
    }

    /// Returns the session's number, which the words of its blocks carry as their owner.
    pub fn session(&self) -> SessionNumber {
        self.session.number
    }

    /// Returns the session's serial, which does not repeat while the daemon lives.
    pub fn session_serial(&self) -> u64 {
        self.session.serial
    }

    /// Returns the path of the daemon's socket, for other processes to connect to.
    pub fn socket(&self) -> &Path {
        &self.session.socket
    }

    async fn run<T, F>(&self, work: impl FnOnce(Arc<Session>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.session.arc().run(work).await
    }

    fn require_mapping(&self) -> Result<(), Error> {
        if self.session.may_map {
            Ok(())
        } else {
            Err(Error::CannotMap)
        }
    }
}

pub(crate) fn destroy_request(name: &PoolName, request_id: u64) -> v1::DestroyPoolRequest {
    DestroyPool {
        name: name.clone(),
        request_id: RequestId::new(request_id),
    }
    .into()
}

fn os_access(access: Access) -> os::Access {
    match access {
        Access::ReadOnly => os::Access::ReadOnly,
        Access::ReadWrite => os::Access::ReadWrite,
    }
}

/// Parses a name, or says what it should have been the name of.
pub(crate) fn parse_name<N>(what: &'static str, text: &str) -> Result<N, Error>
where
    N: FromStr<Err = NameError>,
{
    // Of a text that is far too long, enough to recognise it.
    const MAX_QUOTED_CHARS: usize = 80;
    text.parse().map_err(|source| Error::Name {
        what,
        name: text.chars().take(MAX_QUOTED_CHARS).collect(),
        source,
    })
}

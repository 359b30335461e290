//! The way from a session to its daemon, over many connections. When one is gone, the next is made
//! with growing pauses, and the session resumed there; until then calls wait. What is held here
//! is not touched by it: memory needs no daemon.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use goumem_proto::model::{
    DEFAULT_TTL, OpenNonce, OpenSession, OpenedSession, ResumedSession, SessionToken,
};
use goumem_proto::name::Label;
use goumem_proto::reason::Reason;
use goumem_proto::v1;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::transport::Channel;

use crate::calls::call;
use crate::connect::{self, Rpc};
use crate::connection::{Connection, Incoming};
use crate::error::Error;
use crate::housekeeper::Chore;
use crate::session::Session;

/// Pauses between attempts to connect, doubling, half of each at random: a daemon that comes back
/// finds its clients spread over a second, and a client whose daemon never does wakes up about
/// once a second.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A daemon that takes a connection at all answers at once; one that is about to end does not.
const RESUME_DEADLINE: Duration = Duration::from_secs(10);

/// How things stand with the daemon.
#[derive(Debug)]
enum Standing {
    /// There is a connection, on which the session is known.
    Up(Arc<Connection>),
    /// There is none, for this reason; another is being made.
    Away(String),
    /// The daemon does not know the session: what it held is gone, and it cannot be resumed.
    Over,
}

/// A session's way to its daemon.
#[derive(Debug)]
pub(crate) struct Link {
    standing: watch::Sender<Standing>,
    token: SessionToken,
}

impl Link {
    /// Returns the link of a session that has just been opened on this connection.
    pub(crate) fn new(connection: Arc<Connection>, token: SessionToken) -> Self {
        Self {
            standing: watch::Sender::new(Standing::Up(connection)),
            token,
        }
    }

    /// Returns the connection, if there is one.
    pub(crate) fn now(&self) -> Option<Arc<Connection>> {
        match &*self.standing.borrow() {
            Standing::Up(connection) => Some(Arc::clone(connection)),
            Standing::Away(_) | Standing::Over => None,
        }
    }

    /// Waits for a connection.
    pub(crate) async fn up(&self, socket: &Path, until: Instant) -> Result<Arc<Connection>, Error> {
        let mut standing = self.standing.subscribe();
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Away(_)));
        // Either outcome of the wait leaves it to the standing itself.
        let _ = timeout_at(until, settled).await;
        match &*self.standing.borrow() {
            Standing::Up(connection) => Ok(Arc::clone(connection)),
            Standing::Over => Err(Error::SessionExpired),
            Standing::Away(why) => Err(Error::NoDaemon {
                socket: socket.to_owned(),
                source: why.clone().into(),
            }),
        }
    }

    /// Waits until this connection is gone; returns whether it is.
    pub(crate) async fn is_gone(&self, connection: &Arc<Connection>, wait: Duration) -> bool {
        let is_another = |standing: &Standing| match standing {
            Standing::Up(current) => !Arc::ptr_eq(current, connection),
            Standing::Away(_) | Standing::Over => true,
        };
        let mut standing = self.standing.subscribe();
        timeout(wait, standing.wait_for(is_another)).await.is_ok()
    }
}

/// Opens a session. A daemon that goes away meanwhile is asked again when it is back; with the same
/// nonce, so that it opens no second session if only its reply was lost.
pub(crate) async fn open(
    socket: &Path,
    label: Label,
    deadline: Duration,
) -> Result<(OpenedSession, Arc<Connection>, Incoming), Error> {
    let until = Instant::now() + deadline;
    let open = v1::OpenSessionRequest::from(OpenSession {
        label,
        nonce: Some(nonce()),
        // The daemon watches this process, not the clock.
        ttl: DEFAULT_TTL,
    });
    let mut channel = connect::connect(socket).await?;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match open_on(channel, open.clone(), until).await {
            Ok(opened) => return Ok(opened),
            Err(error) if is_away(&error) => error,
            Err(error) => return Err(error),
        };
        channel = loop {
            let at = Instant::now() + pause / 2 + random_part(pause / 2);
            if at >= until {
                return Err(error);
            }
            sleep_until(at).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            if let Ok(channel) = connect::connect(socket).await {
                break channel;
            }
        };
    }
}

async fn open_on(
    channel: Channel,
    open: v1::OpenSessionRequest,
    until: Instant,
) -> Result<(OpenedSession, Arc<Connection>, Incoming), Error> {
    let left = until.saturating_duration_since(Instant::now());
    let rpc = Rpc::new(channel.clone(), None);
    let opened = OpenedSession::try_from(call(left, rpc.sessions().open(open)).await?)?;
    let (connection, incoming) = Connection::open(Rpc::new(channel, Some(opened.token))).await?;
    Ok((opened, connection, incoming))
}

/// Returns whether a daemon goes away, or comes.
fn is_away(error: &Error) -> bool {
    match error {
        Error::Transport { .. } => true,
        _ => error.reason().is_some_and(Reason::is_retryable),
    }
}

/// Keeps a session connected until it is over.
pub(crate) async fn keep_up(
    session: Arc<Session>,
    mut connection: Arc<Connection>,
    mut incoming: Incoming,
) {
    let link = &session.link;
    loop {
        connection.listen(&session, incoming).await;
        tracing::info!("connection to goumemd is gone: connecting again");
        // First this, so that whoever hears that a call is lost waits for the next connection.
        let gone = Standing::Away("the connection is gone".to_owned());
        link.standing.send_replace(gone);
        connection.end();
        let Some(next) = connect_again(&session).await else {
            tracing::warn!("goumemd does not know this session any more: what it held is lost");
            link.standing.send_replace(Standing::Over);
            return;
        };
        (connection, incoming) = next;
        tracing::info!("connected to goumemd again");
        link.standing
            .send_replace(Standing::Up(Arc::clone(&connection)));
        // What became idle meanwhile can go back now.
        session.queue(Chore::Watch);
    }
}

/// Connects, and resumes the session. None when the daemon does not know it.
async fn connect_again(session: &Session) -> Option<(Arc<Connection>, Incoming)> {
    let mut pause = FIRST_PAUSE;
    loop {
        match resume(session).await {
            Ok(next) => return Some(next),
            Err(Error::SessionExpired) => return None,
            Err(error) => {
                tracing::debug!(%error, "could not connect again");
                let why = chain(&error);
                session.link.standing.send_replace(Standing::Away(why));
            }
        }
        sleep(pause / 2 + random_part(pause / 2)).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

async fn resume(session: &Session) -> Result<(Arc<Connection>, Incoming), Error> {
    let channel = connect::connect(&session.socket).await?;
    let rpc = Rpc::new(channel, Some(session.link.token));
    let request = v1::ResumeSessionRequest {};
    let reply = call(RESUME_DEADLINE, rpc.sessions().resume(request)).await?;
    let resumed = ResumedSession::try_from(reply)?;
    if (resumed.session, resumed.serial) != (session.number, session.serial) {
        // It took the token for another's, so it is not the daemon that gave it.
        return Err(Error::SessionExpired);
    }
    Connection::open(rpc).await
}

/// Returns a part of a pause, at random.
pub(crate) fn random_part(of: Duration) -> Duration {
    let millionths = u32::try_from(random() % 1_000_000).unwrap_or_default();
    of * millionths / 1_000_000
}

/// Returns what no other session of this process has; it need not be a secret.
pub(crate) fn nonce() -> OpenNonce {
    let mut nonce = OpenNonce::default();
    let (low, high) = nonce.split_at_mut(8);
    low.copy_from_slice(&random().to_le_bytes());
    high.copy_from_slice(&random().to_le_bytes());
    nonce
}

/// Returns a random number, by the standard library's only source of them: each hasher has keys
/// of its own.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Writes an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

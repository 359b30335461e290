//! SessionService.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use goumem_alloc::{PoolId, SessionNumber};

use super::message::{Field, list, message};
use super::{ProtocolError, RequestId, parse};
use crate::name::Label;
use crate::v1;

/// The binary metadata entry that carries the session's token with every call.
pub const SESSION_METADATA_KEY: &str = "goumem-session-bin";

/// How long a remote session lasts past its last call unless it asks otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// The shortest such time: below it a client on a busy machine would expire between two calls.
pub const MIN_TTL: Duration = Duration::from_millis(100);
/// The longest such time: so long is lost to others what a vanished client held.
pub const MAX_TTL: Duration = Duration::from_secs(3600);

/// The secret that proves which session a call belongs to. Its `Debug` shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken([u8; 16]);

/// The bytes are not a token: there are not 16 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session token has 16 bytes, not {len_bytes}")]
pub struct TokenError {
    /// How many there are.
    pub len_bytes: usize,
}

impl SessionToken {
    /// Makes a token of its bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, to be sent.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for SessionToken {
    type Error = TokenError;

    fn try_from(bytes: &[u8]) -> Result<Self, TokenError> {
        bytes.try_into().map(Self).map_err(|_| TokenError {
            len_bytes: bytes.len(),
        })
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

message! {
    /// Starts a session.
    OpenSession <=> OpenSessionRequest {
        /// For people.
        label: Label,
        /// Makes a retry open no second session.
        nonce: Option<OpenNonce>,
    }
    millis {
        /// Remote sessions: lifetime past the last call, [`MIN_TTL`] to [`MAX_TTL`].
        ttl <=> ttl_ms: Duration = ttl,
    }
}

/// What a process makes up so that opening a session may be retried.
pub type OpenNonce = [u8; 16];

fn ttl(field: &'static str, wire: u64) -> Result<Duration, ProtocolError> {
    let ttl = if wire == 0 {
        DEFAULT_TTL
    } else {
        Duration::from_millis(wire)
    };
    if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Err(ProtocolError::invalid(
            field,
            wire,
            "must be 100 to 3600000",
        ));
    }
    Ok(ttl)
}

message! {
    /// A session as it begins.
    OpenedSession <=> OpenSessionReply {
        /// The number that slot words carry as owner.
        session: SessionNumber = parse::client_session,
        /// Never repeats.
        serial: u64,
        /// The secret to send with every call.
        token: SessionToken,
        /// Whether it may map pools.
        may_map: bool,
        /// Path of the socket that hands out memory, if it may map.
        fd_socket: Option<String>,
        /// Which run of the daemon answers.
        epoch: u64,
    }
    millis {
        /// Lifetime past the last call; none if it ends with its process.
        ttl <=> ttl_ms: Option<Duration>,
    }
}

// In place of the generated one, which would show the token to a log.
impl fmt::Debug for v1::OpenSessionReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            session, serial, ..
        } = self;
        f.debug_struct("OpenSessionReply")
            .field("session", session)
            .field("serial", serial)
            .finish_non_exhaustive()
    }
}

message! {
    /// A session as it continues on a new connection.
    ResumedSession <=> ResumeSessionReply {
        /// The number that slot words carry as owner.
        session: SessionNumber = parse::client_session,
        /// Never repeats.
        serial: u64,
        /// The highest id of the session that the daemon knows.
        highest_request_id: RequestId,
        /// Which run of the daemon answers: another one after a restart.
        epoch: u64,
        /// Path of the socket that hands out memory, if it may map.
        fd_socket: Option<String>,
    }
}

/// What the daemon tells a session unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The stream is in place.
    Welcome,
    /// The pool is short of spans: give back what is idle.
    Pressure {
        /// Which pool.
        pool_id: PoolId,
    },
    /// The pool's name is gone; let go of it.
    PoolDestroyed {
        /// Which pool.
        pool_id: PoolId,
    },
    /// The daemon is ending.
    ShuttingDown {
        /// How long it still answers.
        deadline: Duration,
    },
}

impl From<Event> for v1::Event {
    fn from(event: Event) -> Self {
        use v1::event::Event as Wire;
        let wire = match event {
            Event::Welcome => Wire::Welcome(v1::Welcome {}),
            Event::Pressure { pool_id } => Wire::Pressure(v1::Pressure {
                pool_id: pool_id.into_wire(),
            }),
            Event::PoolDestroyed { pool_id } => Wire::PoolDestroyed(v1::PoolDestroyed {
                pool_id: pool_id.into_wire(),
            }),
            Event::ShuttingDown { deadline } => Wire::ShuttingDown(v1::ShuttingDown {
                deadline_ms: deadline.into_wire(),
            }),
        };
        Self { event: Some(wire) }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = ProtocolError;

    fn try_from(wire: v1::Event) -> Result<Self, ProtocolError> {
        use v1::event::Event as Wire;
        Ok(
            match wire.event.ok_or_else(|| ProtocolError::missing("event"))? {
                Wire::Welcome(v1::Welcome {}) => Self::Welcome,
                Wire::Pressure(v1::Pressure { pool_id }) => Self::Pressure {
                    pool_id: Field::from_wire("pressure.pool_id", pool_id)?,
                },
                Wire::PoolDestroyed(v1::PoolDestroyed { pool_id }) => Self::PoolDestroyed {
                    pool_id: Field::from_wire("pool_destroyed.pool_id", pool_id)?,
                },
                Wire::ShuttingDown(v1::ShuttingDown { deadline_ms }) => Self::ShuttingDown {
                    deadline: Duration::from_millis(deadline_ms),
                },
            },
        )
    }
}

message! {
    /// Ends the calling session.
    #[derive(Copy)]
    CloseSession <=> CloseSessionRequest {
        /// Even if it holds something.
        force: bool,
    }
}

message! {
    /// A session as it ends.
    #[derive(Copy)]
    ClosedSession <=> CloseSessionReply {
        /// Bytes taken back from it.
        reclaimed_bytes: u64,
    }
}

message! {
    /// Kills a session's process.
    #[derive(Copy)]
    KillSession <=> KillSessionRequest {
        /// Its number.
        session: SessionNumber = parse::client_session,
        /// Only if it has this serial; none: whichever has the number now.
        serial: Option<NonZeroU64>,
    }
}

message! {
    /// A session as others see it.
    SessionInfo <=> SessionInfo {
        /// Its number.
        session: SessionNumber = parse::client_session,
        /// Never repeats.
        serial: u64,
        /// Its user.
        uid: u32,
        /// Its process as the daemon sees it.
        pid: u32,
        /// What it calls itself.
        label: Label,
        /// Whether it may map pools.
        may_map: bool,
        /// Whether it has an event stream.
        connected: bool,
        /// Bytes in spans it leases.
        leased_bytes: u64,
        /// Bytes in blocks it allocated by RPC.
        rpc_bytes: u64,
        /// Arenas it holds.
        arenas_held: u32,
        /// Pins it holds.
        pins: u32,
        /// First word of its process's command line, if the daemon may read it. Whatever the
        /// process chose to write there: escape it before it goes to a terminal. Of a remote
        /// session who made its last call, and from where: `alice@10.0.0.5:4711`.
        command: Option<String>,
    }
    millis {
        /// How long it has lasted.
        age <=> age_ms: Duration,
    }
}
list!(SessionInfo => ListSessionsReply.sessions);

message! {
    /// Says that the session has unmapped a pool.
    #[derive(Copy)]
    Unmap <=> UnmapRequest {
        /// Which.
        pool_id: PoolId,
    }
}

message! {
    /// A remote session whose life has been prolonged.
    #[derive(Copy)]
    RenewedSession <=> KeepAliveReply {}
    millis {
        /// Lifetime past this call; none if it ends with its process.
        ttl <=> ttl_ms: Option<Duration>,
    }
}

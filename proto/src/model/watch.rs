//! DaemonService.Watch: what happens in the daemon, for people and monitors.

use std::time::Duration;

use goumem_alloc::{PoolId, SessionNumber};

use super::ProtocolError;
use super::message::{Field, message};
use crate::name::{ArenaName, Label, PoolName};
use crate::reason::Reason;
use crate::v1;

/// Asks to be told what happens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchRequest {
    /// Of which kind; none: all.
    pub kinds: Vec<EventKind>,
}

impl From<WatchRequest> for v1::WatchRequest {
    fn from(watch: WatchRequest) -> Self {
        let kinds = watch.kinds.into_iter();
        Self {
            kinds: kinds.map(|kind| v1::EventKind::from(kind).into()).collect(),
        }
    }
}

impl TryFrom<v1::WatchRequest> for WatchRequest {
    type Error = ProtocolError;

    fn try_from(wire: v1::WatchRequest) -> Result<Self, ProtocolError> {
        // Each kind once says all; more is a mistake, or worse.
        const MAX_KINDS: usize = 64;
        if wire.kinds.len() > MAX_KINDS {
            let n = wire.kinds.len();
            let why = format!("must be {MAX_KINDS} or less");
            return Err(ProtocolError::invalid("kinds", n, why));
        }
        let kind = |(i, number): (usize, &i32)| {
            let kind = v1::EventKind::try_from(*number).ok().and_then(known);
            let wrong = || ProtocolError::invalid(format!("kinds[{i}]"), number, "no such kind");
            kind.ok_or_else(wrong)
        };
        let kinds = wire.kinds.iter().enumerate().map(kind);
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
        })
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// Counts the events of this run of the daemon, those included that one may not see.
    pub sequence: u64,
    /// How long the daemon had run then.
    pub uptime: Duration,
    /// What it was.
    pub happening: Happening,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// The stream is in place: what happens from now on is told.
    Watching,
    /// The reader was too slow.
    Lagged {
        /// So many events were lost, also such that it would not have seen.
        missed: u64,
    },
    /// A pool or an arena pool was created.
    PoolCreated(WatchedPool),
    /// It has lost its name; its memory goes with the last session that maps it.
    PoolDestroyed(WatchedPool),
    /// A session was opened.
    SessionOpened(WatchedSession),
    /// A session has ended, and what it held is free.
    SessionEnded {
        /// Which one.
        session: WatchedSession,
        /// Why.
        cause: EndCause,
        /// Bytes that came back by it.
        reclaimed_bytes: u64,
    },
    /// An arena got a name, so that others may attach.
    ArenaShared(WatchedArena),
    /// The last holder of a named arena has let go of it.
    ArenaDetached(WatchedArena),
    /// A pool is short of memory: those who sit on idle spans were asked to give them back.
    Pressure(WatchedPool),
    /// Memory was not to be had.
    Refused(WatchedRefusal),
    /// A connection was closed because there were too many.
    ConnectionRefused {
        /// On which socket.
        socket: String,
    },
    /// The process that keeps fds had died, and there is another.
    KeeperReplaced,
    /// The configuration was read again.
    Reloaded {
        /// What is otherwise now.
        changes: String,
    },
    /// Something that this version does not know.
    Other {
        /// The number of its kind.
        kind: i32,
    },
}

impl Happening {
    /// Returns the kind; none for one that this version does not know.
    pub fn kind(&self) -> Option<EventKind> {
        Some(match self {
            Self::Watching => EventKind::Watching,
            Self::Lagged { .. } => EventKind::Lagged,
            Self::PoolCreated(_) => EventKind::PoolCreated,
            Self::PoolDestroyed(_) => EventKind::PoolDestroyed,
            Self::SessionOpened(_) => EventKind::SessionOpened,
            Self::SessionEnded { .. } => EventKind::SessionEnded,
            Self::ArenaShared(_) => EventKind::ArenaShared,
            Self::ArenaDetached(_) => EventKind::ArenaDetached,
            Self::Pressure(_) => EventKind::Pressure,
            Self::Refused(_) => EventKind::Refused,
            Self::ConnectionRefused { .. } => EventKind::ConnectionRefused,
            Self::KeeperReplaced => EventKind::KeeperReplaced,
            Self::Reloaded { .. } => EventKind::Reloaded,
            Self::Other { .. } => return None,
        })
    }
}

message! {
    /// A pool or an arena pool.
    WatchedPool <=> WatchedPool {
        /// Its id.
        pool_id: PoolId,
        /// Its name.
        name: PoolName,
        /// Whether it is an arena pool.
        arenas: bool,
        /// Its owner.
        uid: u32,
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedSession {
    /// Its number.
    pub session: SessionNumber,
    /// Never repeats.
    pub serial: u64,
    /// Its user.
    pub uid: u32,
    /// Its process, as the daemon sees it.
    pub pid: u32,
    /// What it calls itself.
    pub label: Label,
}

message! {
    /// A named arena.
    WatchedArena <=> WatchedArena {
        /// Its arena pool.
        pool_id: PoolId,
        /// The name of that.
        pool: PoolName,
        /// Which arena.
        index: u32,
        /// Its name.
        name: ArenaName,
        /// Who shared it, or let go of it.
        session: SessionNumber,
    }
}

message! {
    /// Memory that was not to be had.
    WatchedRefusal <=> WatchedRefusal {
        /// Why.
        reason: Reason,
        /// In which pool.
        pool: PoolName,
        /// Who asked for it.
        uid: u32,
        /// How much was asked for; none where it is not bytes.
        requested_bytes: Option<u64>,
    }
}

/// Declares an enum whose variants have the names of those of `v1`, of which 0 says nothing.
macro_rules! mirrored {
    ($(#[$meta:meta])* $name:ident, $known:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }

        impl From<$name> for v1::$name {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }

        fn $known(wire: v1::$name) -> Option<$name> {
            match wire {
                v1::$name::Unspecified => None,
                $(v1::$name::$variant => Some($name::$variant),)*
            }
        }
    };
}

mirrored! {
    /// The kinds of events.
    EventKind, known {
        /// [`Happening::Watching`].
        Watching,
        /// [`Happening::Lagged`].
        Lagged,
        /// [`Happening::PoolCreated`].
        PoolCreated,
        /// [`Happening::PoolDestroyed`].
        PoolDestroyed,
        /// [`Happening::SessionOpened`].
        SessionOpened,
        /// [`Happening::SessionEnded`].
        SessionEnded,
        /// [`Happening::ArenaShared`].
        ArenaShared,
        /// [`Happening::ArenaDetached`].
        ArenaDetached,
        /// [`Happening::Pressure`].
        Pressure,
        /// [`Happening::Refused`].
        Refused,
        /// [`Happening::ConnectionRefused`].
        ConnectionRefused,
        /// [`Happening::KeeperReplaced`].
        KeeperReplaced,
        /// [`Happening::Reloaded`].
        Reloaded,
    }
}

impl EventKind {
    /// Returns its name, as people write it: `session_ended`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Lagged => "lagged",
            Self::PoolCreated => "pool_created",
            Self::PoolDestroyed => "pool_destroyed",
            Self::SessionOpened => "session_opened",
            Self::SessionEnded => "session_ended",
            Self::ArenaShared => "arena_shared",
            Self::ArenaDetached => "arena_detached",
            Self::Pressure => "pressure",
            Self::Refused => "refused",
            Self::ConnectionRefused => "connection_refused",
            Self::KeeperReplaced => "keeper_replaced",
            Self::Reloaded => "reloaded",
        }
    }
}

mirrored! {
    /// Why a session has ended.
    EndCause, known_cause {
        /// By itself.
        Closed,
        /// Its process has ended.
        Died,
        /// A remote one, by Kill.
        Killed,
        /// A remote one, silent for longer than its time to live.
        Expired,
        /// Its process ended while no daemon ran.
        Lost,
    }
}

impl EndCause {
    /// Returns its name, as people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Died => "died",
            Self::Killed => "killed",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

impl From<WatchEvent> for v1::WatchEvent {
    fn from(event: WatchEvent) -> Self {
        let kind = event.happening.kind().map(v1::EventKind::from);
        let mut wire = Self {
            sequence: event.sequence,
            uptime_ms: event.uptime.into_wire(),
            kind: kind.map_or(0, Into::into),
            ..Self::default()
        };
        match event.happening {
            Happening::Watching | Happening::KeeperReplaced => {}
            Happening::Lagged { missed } => wire.missed = missed,
            Happening::PoolCreated(pool)
            | Happening::PoolDestroyed(pool)
            | Happening::Pressure(pool) => wire.pool = Some(pool.into()),
            Happening::SessionOpened(session) => wire.session = Some(session.into()),
            Happening::SessionEnded {
                session,
                cause,
                reclaimed_bytes,
            } => {
                wire.session = Some(v1::WatchedSession {
                    cause: v1::EndCause::from(cause).into(),
                    reclaimed_bytes,
                    ..session.into()
                });
            }
            Happening::ArenaShared(arena) | Happening::ArenaDetached(arena) => {
                wire.arena = Some(arena.into());
            }
            Happening::Refused(refusal) => wire.refusal = Some(refusal.into()),
            Happening::ConnectionRefused { socket: detail }
            | Happening::Reloaded { changes: detail } => wire.detail = detail,
            Happening::Other { kind } => wire.kind = kind,
        }
        wire
    }
}

impl TryFrom<v1::WatchEvent> for WatchEvent {
    type Error = ProtocolError;

    fn try_from(wire: v1::WatchEvent) -> Result<Self, ProtocolError> {
        let kind = v1::EventKind::try_from(wire.kind).ok().and_then(known);
        let happening = match kind {
            None => Happening::Other { kind: wire.kind },
            Some(EventKind::Watching) => Happening::Watching,
            Some(EventKind::Lagged) => Happening::Lagged {
                missed: wire.missed,
            },
            Some(EventKind::PoolCreated) => {
                Happening::PoolCreated(Field::from_wire("pool", wire.pool)?)
            }
            Some(EventKind::PoolDestroyed) => {
                Happening::PoolDestroyed(Field::from_wire("pool", wire.pool)?)
            }
            Some(EventKind::Pressure) => Happening::Pressure(Field::from_wire("pool", wire.pool)?),
            Some(EventKind::SessionOpened) => {
                Happening::SessionOpened(Field::from_wire("session", wire.session)?)
            }
            Some(EventKind::SessionEnded) => ended(wire.session)?,
            Some(EventKind::ArenaShared) => {
                Happening::ArenaShared(Field::from_wire("arena", wire.arena)?)
            }
            Some(EventKind::ArenaDetached) => {
                Happening::ArenaDetached(Field::from_wire("arena", wire.arena)?)
            }
            Some(EventKind::Refused) => {
                Happening::Refused(Field::from_wire("refusal", wire.refusal)?)
            }
            Some(EventKind::ConnectionRefused) => Happening::ConnectionRefused {
                socket: wire.detail,
            },
            Some(EventKind::KeeperReplaced) => Happening::KeeperReplaced,
            Some(EventKind::Reloaded) => Happening::Reloaded {
                changes: wire.detail,
            },
        };
        Ok(Self {
            sequence: wire.sequence,
            uptime: Duration::from_millis(wire.uptime_ms),
            happening,
        })
    }
}

fn ended(wire: Option<v1::WatchedSession>) -> Result<Happening, ProtocolError> {
    let number = wire.as_ref().map_or(0, |session| session.cause);
    let reclaimed_bytes = wire.as_ref().map_or(0, |session| session.reclaimed_bytes);
    let session = Field::from_wire("session", wire)?;
    let cause = v1::EndCause::try_from(number).ok().and_then(known_cause);
    let wrong = || ProtocolError::invalid("session.cause", number, "no such cause");
    Ok(Happening::SessionEnded {
        session,
        cause: cause.ok_or_else(wrong)?,
        reclaimed_bytes,
    })
}

impl From<WatchedSession> for v1::WatchedSession {
    fn from(session: WatchedSession) -> Self {
        Self {
            session: session.session.into_wire(),
            serial: session.serial,
            uid: session.uid,
            pid: session.pid,
            label: session.label.into_wire(),
            cause: 0,
            reclaimed_bytes: 0,
        }
    }
}

impl TryFrom<v1::WatchedSession> for WatchedSession {
    type Error = ProtocolError;

    fn try_from(wire: v1::WatchedSession) -> Result<Self, ProtocolError> {
        Ok(Self {
            session: Field::from_wire("session", wire.session)?,
            serial: wire.serial,
            uid: wire.uid,
            pid: wire.pid,
            label: Field::from_wire("label", wire.label)?,
        })
    }
}

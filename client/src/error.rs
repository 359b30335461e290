//! What can go wrong, with the numbers. One variant per thing a caller could do differently; what
//! the daemon said without a variant of its own is [`Error::Daemon`], and [`Error::reason`] gives
//! the machine-readable reason of either.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use goumem_alloc::{Handle, LayoutError};
use goumem_proto::model::ProtocolError;
use goumem_proto::name::NameError;
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_shm::os::SegmentError;
use goumem_shm::os::frame::{FrameError, MapStatus};
use goumem_shm::os::paths::PathError;
use goumem_shm::{AccessError, SegmentRefusal};
use tonic::Status;

/// Why something did not work. Nothing was changed, unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(
    clippy::error_impl_error,
    reason = "goumem::Error is what a caller looks for"
)]
pub enum Error {
    /// No daemon listens there: it is not started, or elsewhere, or has gone and not come back in
    /// time.
    #[error("no goumemd answers at {}", socket.display())]
    NoDaemon {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the gRPC library or the OS said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address of a daemon cannot be used as asked.
    #[error("address {address:?} cannot be used: {why}")]
    Address {
        /// The address.
        address: String,
        /// What is in the way.
        why: String,
    },
    /// The socket path cannot be used.
    #[error("socket path cannot be used")]
    SocketPath(#[from] PathError),
    /// The OS refused something on this side: a thread, a socket, a mapping.
    #[error("could not {doing}")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the OS said.
        source: io::Error,
    },
    /// The text is not a name of a pool, block or arena.
    #[error("{what} {name:?} is not valid")]
    Name {
        /// What it was to name.
        what: &'static str,
        /// The text, or its beginning.
        name: String,
        /// Which rule it breaks.
        source: NameError,
    },
    /// The gRPC library or the connection failed, and repeating the call has not helped or could
    /// do harm. Whether it took effect is not known. Blocks that are at hand stay good.
    #[error("connection to goumemd failed ({code}): {message}")]
    Transport {
        /// The gRPC code.
        code: tonic::Code,
        /// What the library said.
        message: String,
    },
    /// The daemon has not answered. Whether the call took effect is not known.
    #[error("goumemd has not answered within {waited:?}")]
    NoAnswer {
        /// How long the call has waited.
        waited: Duration,
    },
    /// The daemon's reply makes no sense to this version of the library.
    #[error("reply of goumemd makes no sense")]
    Protocol(#[from] ProtocolError),

    /// No pool or arena pool has that name, or it is destroyed.
    #[error("{message}")]
    PoolNotFound {
        /// What the daemon said.
        message: String,
    },
    /// A pool or arena pool has that name already.
    #[error("{message}")]
    PoolExists {
        /// What the daemon said.
        message: String,
    },
    /// No block or arena of the pool has that name.
    #[error("{message}")]
    NameNotFound {
        /// What the daemon said.
        message: String,
    },
    /// Another block or arena of the pool has that name.
    #[error("{message}")]
    NameExists {
        /// What the daemon said.
        message: String,
    },
    /// No room: in the pool, in the user's quota or in the machine's budget, as `reason` says.
    #[error("{message}")]
    Exhausted {
        /// [`Reason::PoolExhausted`], [`Reason::QuotaExceeded`] or [`Reason::BudgetExhausted`].
        reason: Reason,
        /// What the daemon said.
        message: String,
        /// What was asked for, after rounding.
        requested_bytes: Option<u64>,
        /// The largest block that could be had.
        largest_free_bytes: Option<u64>,
    },
    /// The user may not do that with the pool.
    #[error("{message}")]
    PermissionDenied {
        /// What the daemon said.
        message: String,
    },
    /// The daemon has ended the session, or is another one than before, which does not know it.
    /// What the session held has been taken back.
    #[error("session has ended")]
    SessionExpired,
    /// The daemon does not have the pool any more, though it is mapped here: the one that had it
    /// is gone with all that it knew, or could not make sense of the pool when it came back. What
    /// is mapped stays good until it is dropped, and free blocks at hand can still be had; but
    /// there will be no more, and nobody else finds anything in it.
    #[error("pool {pool} is lost: goumemd does not have it any more")]
    PoolLost {
        /// The pool's name.
        pool: String,
    },
    /// The session still has blocks, arenas or pins, so it was not closed.
    #[error("session still holds {n} blocks, arenas and pins")]
    BlocksOutstanding {
        /// How many.
        n: u64,
    },
    /// Every arena is held, or others have waited longer.
    #[error("no arena is free")]
    NoFreeArena,
    /// No arena became free in time.
    #[error("no arena became free within {waited:?}")]
    TimedOut {
        /// The time the caller gave.
        waited: Duration,
    },
    /// The client has been closed.
    #[error("client is closed")]
    Closed,
    /// The daemon cannot see when this process dies, because it lives on another machine or in
    /// another pid namespace; so it may not map memory.
    #[error("this process may not map memory: the daemon cannot see its life")]
    CannotMap,
    /// The daemon did not hand the memory over.
    #[error("fd socket refused pool {pool_id}: {status:?}")]
    HandOver {
        /// Which pool.
        pool_id: u32,
        /// What the daemon said.
        status: MapStatus,
    },
    /// The frame on the fd socket makes no sense to this version of the library.
    #[error("reply on the fd socket makes no sense")]
    Frame(#[from] FrameError),
    /// The memory that was handed over is not what it should be.
    #[error("segment cannot be mapped")]
    Segment(#[from] SegmentError),
    /// The memory that was handed over has an unusable header.
    #[error("segment cannot be used")]
    SegmentRefused(#[from] SegmentRefusal),

    /// A handle or a block could not be used as asked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A block could not be allocated on the spot.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// No block can have that size and alignment.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Anything else the daemon said.
    #[error("{message}")]
    Daemon {
        /// Why, for programs.
        reason: Reason,
        /// Why, for people.
        message: String,
        /// The numbers, by name.
        metadata: Vec<(String, String)>,
    },
}

/// Why `try_alloc` has no block. One byte, so that the way without a system call stays short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// No free block is at hand: a span must be leased, which `alloc().await` does.
    #[error("no free block of that size is at hand")]
    NeedsSpan,
    /// The type has no bytes, or the slice no elements.
    #[error("a block of zero bytes cannot be allocated")]
    ZeroSize,
    /// No pool has blocks of that size.
    #[error("no pool has blocks that large")]
    TooLarge,
    /// The alignment is no power of two, or above 2 MiB.
    #[error("alignment is not a power of two up to 2 MiB")]
    Alignment,
    /// The pool was opened read-only.
    #[error("pool is mapped read-only")]
    ReadOnly,
    /// The client has been closed.
    #[error("client is closed")]
    Closed,
    /// This process is a fork of the one that opened the pool.
    #[error("this process is a fork: its parent's shared memory is not here")]
    Forked,
}

const _: () = assert!(size_of::<Result<(), AllocError>>() <= 8);

impl From<LayoutError> for AllocError {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Empty => Self::ZeroSize,
            LayoutError::Alignment { .. } => Self::Alignment,
            LayoutError::TooLarge { .. } => Self::TooLarge,
        }
    }
}

impl Error {
    /// Returns the reason, if the daemon gave one or would have given one for the same: matching
    /// on it treats an error alike whether this process or the daemon found it.
    pub fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::Daemon { reason, .. } | Self::Exhausted { reason, .. } => *reason,
            Self::PoolNotFound { .. } | Self::PoolLost { .. } => Reason::PoolNotFound,
            Self::PoolExists { .. } => Reason::PoolExists,
            Self::NameNotFound { .. } => Reason::NameNotFound,
            Self::NameExists { .. } => Reason::NameExists,
            Self::PermissionDenied { .. } => Reason::PermissionDenied,
            Self::SessionExpired => Reason::SessionExpired,
            Self::BlocksOutstanding { .. } => Reason::BlocksOutstanding,
            Self::NoFreeArena => Reason::NoFreeArena,
            Self::TimedOut { .. } => Reason::DeadlineExceeded,
            Self::CannotMap => Reason::ForeignPidNamespace,
            Self::Name { .. } | Self::Layout(_) => Reason::InvalidField,
            Self::Access(error) => return access_reason(error),
            Self::SegmentRefused(_) => Reason::CorruptSegment,
            Self::NoDaemon { .. }
            | Self::Address { .. }
            | Self::SocketPath(_)
            | Self::Os { .. }
            | Self::Transport { .. }
            | Self::NoAnswer { .. }
            | Self::Protocol(_)
            | Self::Closed
            | Self::HandOver { .. }
            | Self::Frame(_)
            | Self::Segment(_)
            | Self::Alloc(_) => return None,
        })
    }

    /// Returns whether the handle is good no longer: what it named was freed, taken or reset.
    pub fn is_stale(&self) -> bool {
        matches!(
            self.reason(),
            Some(Reason::StaleHandle | Reason::DoubleFree)
        )
    }

    pub(crate) fn os(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { doing, source }
    }

    /// Reads what a failed call says.
    pub(crate) fn from_status(status: &Status) -> Self {
        let Some(detail) = ErrorDetail::from_status(status) else {
            // The library's own texts do not name their causes.
            let message = status.source().map_or_else(
                || status.message().to_owned(),
                |source| format!("{}: {}", status.message(), chain(source)),
            );
            return Self::Transport {
                code: status.code(),
                message,
            };
        };
        Self::from_detail(detail)
    }

    /// Reads what the daemon said.
    pub(crate) fn from_detail(detail: ErrorDetail) -> Self {
        let number = |key| detail.number(key);
        match detail.reason {
            Reason::PoolNotFound => Self::PoolNotFound {
                message: detail.message,
            },
            Reason::PoolExists => Self::PoolExists {
                message: detail.message,
            },
            Reason::NameNotFound => Self::NameNotFound {
                message: detail.message,
            },
            Reason::NameExists => Self::NameExists {
                message: detail.message,
            },
            Reason::PermissionDenied => Self::PermissionDenied {
                message: detail.message,
            },
            Reason::SessionExpired => Self::SessionExpired,
            Reason::NoFreeArena => Self::NoFreeArena,
            Reason::BlocksOutstanding => Self::BlocksOutstanding {
                n: number("blocks").unwrap_or(1) + number("arenas").unwrap_or(0),
            },
            reason @ (Reason::PoolExhausted | Reason::QuotaExceeded | Reason::BudgetExhausted) => {
                Self::Exhausted {
                    reason,
                    requested_bytes: number("requested_bytes"),
                    largest_free_bytes: number("largest_free_bytes"),
                    message: detail.message,
                }
            }
            reason => Self::Daemon {
                reason,
                message: detail.message,
                metadata: detail
                    .metadata
                    .into_iter()
                    .map(|(k, v)| (k.into_owned(), v))
                    .collect(),
            },
        }
    }

    /// Says what it means for a pool that is mapped.
    pub(crate) fn in_pool(self, pool: &str) -> Self {
        match self {
            Self::SessionExpired | Self::PoolNotFound { .. } => Self::PoolLost {
                pool: pool.to_owned(),
            },
            _ => self,
        }
    }

    /// Says the same of a handle as this process would have said.
    pub(crate) fn about(self, handle: Handle) -> Self {
        match self.reason() {
            Some(Reason::StaleHandle) => AccessError::Stale { handle }.into(),
            Some(Reason::DoubleFree) => AccessError::DoubleFree { handle }.into(),
            Some(Reason::ArenaShared) => AccessError::Shared { handle }.into(),
            _ => self,
        }
    }
}

fn access_reason(error: &AccessError) -> Option<Reason> {
    Some(match error {
        AccessError::WrongPool { .. } => Reason::WrongPool,
        AccessError::WrongKind { .. } => Reason::WrongKind,
        AccessError::Stale { .. } => Reason::StaleHandle,
        AccessError::DoubleFree { .. } => Reason::DoubleFree,
        AccessError::NotOwner { .. } => Reason::NotOwner,
        AccessError::Pinned { .. } => Reason::BlockPinned,
        AccessError::WrongType { .. } => Reason::WrongType,
        AccessError::WrongLength { .. } | AccessError::OutOfRange { .. } => Reason::OutOfRange,
        AccessError::ReadOnly { .. } => Reason::PermissionDenied,
        AccessError::Shared { .. } => Reason::ArenaShared,
        AccessError::ArenaFull { .. } => Reason::ArenaFull,
        AccessError::ZeroSize => Reason::InvalidField,
        AccessError::Corrupt { .. } => Reason::CorruptSegment,
        _ => return None,
    })
}

/// Writes an error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;

//! What the daemon refuses, with the numbers. One variant per thing a caller could do
//! differently; `status.rs` gives each its code and reason.

use goumem_alloc::{GeometryError, PageIndex, PoolId, SessionNumber};
use goumem_proto::model::{Backing, Holder, ProtocolError};
use goumem_shm::os::SegmentError;
use goumem_shm::{AccessError, SegmentRefusal};

use crate::fd_room::is_out_of_fds;

/// A table that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Pools and arena pools.
    Pools,
    /// Sessions.
    Sessions,
    /// Keep, pin and holder records of one pool.
    Records,
    /// Waiters for an arena.
    Waiters,
}

/// Whose calls are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// Those of this machine's processes.
    Local,
    /// Those of remote clients.
    Remote,
    /// Those of one remote client: a name, or an address without one.
    Client,
    /// Those of one connection.
    Connection,
}

impl Crowd {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local clients",
            Self::Remote => "remote clients",
            Self::Client => "this client",
            Self::Connection => "this connection",
        }
    }
}

/// Why a call was refused. The state is what it was before the call.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::error_impl_error, reason = "the one error of this crate")]
pub enum Error {
    /// A field is missing or wrong.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// No pool has the name or id.
    #[error("no pool {pool}")]
    PoolNotFound {
        /// Name or id, as asked for.
        pool: String,
    },
    /// No block or arena of the pool has the name.
    #[error("nothing in pool {pool} is named {name}")]
    NameNotFound {
        /// The pool's name.
        pool: String,
        /// The name asked for.
        name: String,
    },
    /// No session has the number, or not with that serial.
    #[error("no session {session}")]
    SessionNotFound {
        /// The number asked for.
        session: SessionNumber,
    },
    /// A pool or arena pool has the name already.
    #[error("pool {name} exists")]
    PoolExists {
        /// The name.
        name: String,
    },
    /// A block or arena of the pool has the name already.
    #[error("something in pool {pool} is named {name} already")]
    NameExists {
        /// The pool's name.
        pool: String,
        /// The name.
        name: String,
    },
    /// The pool is not as the caller expects it.
    #[error("pool {pool} has {what} {found}, not {expected}")]
    GeometryMismatch {
        /// The pool's name.
        pool: String,
        /// Which property.
        what: &'static str,
        /// What the caller expects.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The sizes asked for make no pool.
    #[error("no pool can be like this")]
    Geometry(#[from] GeometryError),
    /// The backing cannot keep what the call asks of it.
    #[error("a pool backed by {} cannot {what}", backing_name(*backing))]
    BackingUnsupported {
        /// The backing.
        backing: Backing,
        /// What was asked for.
        what: &'static str,
    },
    /// The daemon may not commit so much memory.
    #[error(
        "budget is spent: {requested_bytes} bytes asked for, {committed_bytes} of {limit_bytes} \
         committed, {available_bytes} available on this machine"
    )]
    BudgetExhausted {
        /// What had to be committed.
        requested_bytes: u64,
        /// What is committed, over all pools.
        committed_bytes: u64,
        /// The configured limit.
        limit_bytes: u64,
        /// What the machine and the cgroup have left, after the reserve.
        available_bytes: u64,
    },
    /// The pool has no room for the block.
    #[error(
        "pool {pool} is full: {requested_bytes} bytes asked for, largest free {largest_free_bytes} \
         ({granted_bytes} of {capacity_bytes} granted)"
    )]
    PoolExhausted {
        /// The pool's name.
        pool: String,
        /// What was asked for.
        requested_bytes: u64,
        /// The largest block that could be had.
        largest_free_bytes: u64,
        /// What spans hold.
        granted_bytes: u64,
        /// The pool's quota.
        capacity_bytes: u64,
        /// Who holds most, as far as the caller may know.
        top_holders: Vec<Holder>,
    },
    /// The user's quota is spent.
    #[error(
        "quota of user {uid} is spent: {requested_bytes} bytes asked for, {used_bytes} of \
         {quota_bytes} used"
    )]
    QuotaExceeded {
        /// The user.
        uid: u32,
        /// What was asked for.
        requested_bytes: u64,
        /// What the user has.
        used_bytes: u64,
        /// What the user may have.
        quota_bytes: u64,
    },
    /// A table is full.
    #[error("table of {table:?} is full with {limit} entries")]
    TooMany {
        /// Which one.
        table: Table,
        /// Its bound.
        limit: u64,
    },
    /// The capacity is below what is granted.
    #[error("capacity of {requested_bytes} bytes is below the {granted_bytes} granted")]
    CapacityTooSmall {
        /// What was asked for.
        requested_bytes: u64,
        /// What spans hold.
        granted_bytes: u64,
    },
    /// The capacity is above the pool's virtual size.
    #[error("capacity of {requested_bytes} bytes is above the pool's maximum of {max_bytes}")]
    CapacityTooLarge {
        /// What was asked for.
        requested_bytes: u64,
        /// Fixed at creation.
        max_bytes: u64,
    },
    /// A handle could not be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The caller may not do this.
    #[error("uid {uid} may not {what}")]
    PermissionDenied {
        /// The caller.
        uid: u32,
        /// What it wanted.
        what: String,
    },
    /// The call needs a session.
    #[error("this call needs a session: open one and send its token")]
    SessionRequired,
    /// The session has ended, or the token is another process's.
    #[error("session has ended")]
    SessionExpired,
    /// The peer lives in another pid namespace, and the kernel (before 6.9) could not tell its death
    /// from others'.
    #[error("peer is in another pid namespace and may not map memory")]
    ForeignPidNamespace,
    /// Only a process on the daemon's machine can map memory.
    #[error("peer is not on a local socket and may not map memory")]
    NotLocal,
    /// The session holds something.
    #[error(
        "session holds {blocks} blocks, {arenas} arenas and {leased_bytes} bytes of leased spans"
    )]
    BlocksOutstanding {
        /// Exported blocks it owns.
        blocks: u64,
        /// Arenas it holds.
        arenas: u64,
        /// Spans it leases.
        leased_bytes: u64,
    },
    /// The span is not leased to the caller in that epoch.
    #[error("span at page {first_page} is not leased to the caller in epoch {epoch}")]
    StaleLease {
        /// The span's first page.
        first_page: PageIndex,
        /// The epoch in the call.
        epoch: u16,
    },
    /// A block of the span is alive.
    #[error("span at page {first_page} holds {live} living blocks")]
    SpanInUse {
        /// The span's first page.
        first_page: PageIndex,
        /// How many.
        live: u64,
    },
    /// Every arena is held.
    #[error("no arena of pool {pool} is free: {arenas} held, {waiting} waiting")]
    NoFreeArena {
        /// The arena pool's name.
        pool: String,
        /// How many it has.
        arenas: u32,
        /// How many wait.
        waiting: u32,
    },
    /// The wait for an arena ended without one.
    #[error("no arena became free within {waited_ms} ms")]
    DeadlineExceeded {
        /// How long the caller waited.
        waited_ms: u64,
    },
    /// The request is too old to be known.
    #[error("request {request_id} is no longer known, the highest is {highest}")]
    RequestExpired {
        /// The id in the call.
        request_id: u64,
        /// The highest the session has used.
        highest: u64,
    },
    /// The first try of the request is still at work.
    #[error("request {request_id} is being worked on")]
    RequestInFlight {
        /// The id in the call.
        request_id: u64,
    },
    /// The pool is being destroyed.
    #[error("pool {pool_id} is destroyed")]
    PoolDestroyed {
        /// Its id.
        pool_id: PoolId,
    },
    /// A segment that cannot be believed.
    #[error("segment cannot be used")]
    Segment(#[from] SegmentRefusal),
    /// The OS has no room, whatever the budget said.
    #[error("the system has no room for {requested_bytes} bytes")]
    NoSpace {
        /// What was to be committed.
        requested_bytes: u64,
        /// What the OS said.
        source: SegmentError,
    },
    /// The OS refused something.
    #[error("could not {doing}")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the OS said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Calls under way are as many as there may be.
    #[error("{limit} calls of {} are under way already", crowd.as_str())]
    Overloaded {
        /// Whose.
        crowd: Crowd,
        /// How many there may be.
        limit: usize,
    },
    /// A call by TCP does not say, or prove, whose it is.
    #[error("call is nobody's: {why}")]
    CredentialsRequired {
        /// What is missing.
        why: &'static str,
    },
    /// A call by TCP has taken too long. What it asked for may still come to be.
    #[error("call was not over within {after:?}")]
    CallTimedOut {
        /// How long it was given.
        after: std::time::Duration,
    },
    /// The daemon is ending.
    #[error("daemon is shutting down")]
    ShuttingDown,
    /// Something that cannot be, was: a bug.
    #[error("invariant broken: {what}")]
    Invariant {
        /// Which one.
        what: &'static str,
    },
}

impl Error {
    /// Wraps what the OS said.
    pub fn os(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Os {
            doing,
            source: source.into(),
        }
    }

    /// The same, for a row of a table that costs an fd: without one, the table is full with what
    /// it has.
    pub(crate) fn no_fd(
        doing: &'static str,
        (table, n_rows): (Table, usize),
        source: std::io::Error,
    ) -> Self {
        if is_out_of_fds(&source) {
            let limit = n_rows as u64;
            return Self::TooMany { table, limit };
        }
        Self::os(doing, source)
    }
}

/// Returns the backing's name as people type it.
pub fn backing_name(backing: Backing) -> &'static str {
    match backing {
        Backing::Memfd => "memfd",
        Backing::Named => "named",
        Backing::File => "file",
    }
}

impl Error {
    /// Returns the machine-readable reason.
    pub fn reason(&self) -> goumem_proto::reason::Reason {
        goumem_proto::reason::ErrorDetail::from(self).reason
    }
}

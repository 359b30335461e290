//! Why a call failed, for programs: the `reason` of the `google.rpc.ErrorInfo` that every error of
//! goumemd carries. A status without one came from the gRPC library or the network, because a
//! code alone cannot tell them apart: the library makes `RESOURCE_EXHAUSTED` and `UNAVAILABLE`
//! statuses too (grpc/grpc doc/statuscodes.md).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::model::ProtocolError;

mod failure;

/// The `domain` of our `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "goumem";

/// The most metadata entries of one error: an error says a few numbers, it is not a report.
pub const MAX_METADATA_ENTRIES: usize = 16;

// A status travels in HTTP/2 headers, of which a client takes 16 KiB by default: longer ones
// become an error of the library in place of ours. 16 entries and a message of these lengths
// stay below that in base64.
const MAX_KEY_BYTES: usize = 64;
const MAX_VALUE_BYTES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 512;

/// How long a client that is one too many should wait before it tries again: long enough for a few
/// thousand calls to end.
const RETRY_DELAY: Duration = Duration::from_millis(100);

macro_rules! reasons {
    ($($reason:ident $code:ident $text:literal $meaning:literal $advice:literal)*) => {
        /// Why a call failed. Each has one gRPC code, and advice on what to do next.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $meaning] #[doc = ""] #[doc = $advice] $reason,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// Returns the reason as it is on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$reason => $text,)* }
            }

            /// Returns the gRPC code of a status with this reason.
            pub const fn code(self) -> Code {
                match self { $(Self::$reason => Code::$code,)* }
            }

            /// Returns what has happened, as a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$reason => $meaning,)* }
            }

            /// Returns what a client should do next, as a sentence.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$reason => $advice,)* }
            }
        }
    };
}

reasons! {
    InvalidField InvalidArgument "INVALID_FIELD"
        "A field of the request is missing or out of range."
        "Mend the request; `field` and `why` in the metadata say where."
    PoolNotFound NotFound "POOL_NOT_FOUND"
        "There is no pool or arena pool of that name or id."
        "Create it, or check the name; an id is good only until the pool is destroyed."
    NameNotFound NotFound "NAME_NOT_FOUND"
        "No block or arena has that name in the pool."
        "Look again when its owner has published it."
    SessionNotFound NotFound "SESSION_NOT_FOUND"
        "No session has that number and serial."
        "List the sessions; it may have ended by itself."
    PoolExists AlreadyExists "POOL_EXISTS"
        "A pool or arena pool of that name exists."
        "Open it, or call OpenOrCreate."
    NameExists AlreadyExists "NAME_EXISTS"
        "Another block or arena has that name in the pool."
        "Choose another name, or publish with `replace`."
    GeometryMismatch FailedPrecondition "GEOMETRY_MISMATCH"
        "The pool exists with another capacity, arena size or backing than asked for."
        "Ask for what the metadata says it has, or use another name."
    BackingUnsupported FailedPrecondition "BACKING_UNSUPPORTED"
        "The backing cannot keep a promise that the call needs."
        "Choose another backing."
    BudgetExhausted ResourceExhausted "BUDGET_EXHAUSTED"
        "The daemon may not commit that much more memory on this machine."
        "Free memory in any pool, purge, or raise the daemon's budget."
    PoolExhausted ResourceExhausted "POOL_EXHAUSTED"
        "The pool has no free run of pages that is long enough."
        "Free blocks, raise the pool's capacity, or ask for less."
    QuotaExceeded ResourceExhausted "QUOTA_EXCEEDED"
        "The caller's user has reached its quota."
        "Free what the user holds; kept blocks count too."
    TooManyPools ResourceExhausted "TOO_MANY_POOLS"
        "The daemon has as many pools as it may."
        "Destroy a pool that is no longer needed."
    TooManySessions ResourceExhausted "TOO_MANY_SESSIONS"
        "The daemon, or the caller's user, has as many sessions as it may."
        "Close a session, and share one client per process."
    TooManyRecords ResourceExhausted "TOO_MANY_RECORDS"
        "The pool's table of kept blocks, names, pins and holders is full."
        "Free kept blocks, or unpin."
    TooManyWaiters ResourceExhausted "TOO_MANY_WAITERS"
        "The queue for an arena of this pool is full."
        "Try again after a pause, or create the pool with more arenas."
    CapacityTooSmall FailedPrecondition "CAPACITY_TOO_SMALL"
        "The pool has granted more than the capacity asked for."
        "Free blocks first, or ask for at least what is granted."
    CapacityTooLarge FailedPrecondition "CAPACITY_TOO_LARGE"
        "The capacity asked for is above the address space set aside at creation."
        "Ask for at most the pool's max_capacity_bytes."
    StaleHandle FailedPrecondition "STALE_HANDLE"
        "What the handle named has been freed, taken or reset."
        "Drop the handle, and get a new one from whoever allocated it."
    DoubleFree FailedPrecondition "DOUBLE_FREE"
        "The block was free already, and its slot has not been used since."
        "Look for two owners of one handle in the program."
    BlockPinned FailedPrecondition "BLOCK_PINNED"
        "A pin holds the block in place, so nobody can have it alone."
        "Adopt it, or take it when the last pin is gone."
    WrongPool InvalidArgument "WRONG_POOL"
        "The handle names something in another pool."
        "Send it to the pool it came from; `pool_id` in the metadata says which."
    WrongKind InvalidArgument "WRONG_KIND"
        "The handle is of another kind than the call takes: block, arena, or allocation in an arena."
        "Call the service for that kind of handle."
    WrongType FailedPrecondition "WRONG_TYPE"
        "The block holds elements of another type than asked for."
        "Resolve it as the type it was allocated with, or as bytes."
    NotOwner PermissionDenied "NOT_OWNER"
        "The block or arena belongs to another session."
        "Adopt or take the block first, or leave it to its owner."
    NotPublished FailedPrecondition "NOT_PUBLISHED"
        "The block has no name to take away."
        "Nothing: it has no name."
    PermissionDenied PermissionDenied "PERMISSION_DENIED"
        "The pool's mode, or the daemon's rules, do not let this user do that."
        "Ask the pool's owner for another mode or group, or run as the owner."
    SessionRequired Unauthenticated "SESSION_REQUIRED"
        "The call needs a session, and its metadata carries no token."
        "Open a session, and send its token as `goumem-session-bin` with each call."
    CredentialsRequired Unauthenticated "CREDENTIALS_REQUIRED"
        "The call came by TCP, and neither a client certificate nor a bearer token says whose it is."
        "Connect with a certificate of the daemon's client CA, or send `authorization: Bearer TOKEN` with each call."
    SessionExpired Aborted "SESSION_EXPIRED"
        "The session has ended, or was lost with the daemon and its keeper; what it held has been taken back."
        "Open a new session and begin again; handles of kept blocks are still good."
    ForeignPidNamespace FailedPrecondition "FOREIGN_PID_NAMESPACE"
        "The daemon cannot see the caller's process, so it could not tell when it dies."
        "Share the daemon's PID namespace, or use ByteService."
    NotLocal FailedPrecondition "NOT_LOCAL"
        "Only a process on the daemon's own machine and Unix socket may do that."
        "Connect by the Unix socket, or use ByteService."
    BlocksOutstanding FailedPrecondition "BLOCKS_OUTSTANDING"
        "The session still holds blocks, arenas or leases."
        "Give them back, keep them, or close with `force`."
    StaleLease FailedPrecondition "STALE_LEASE"
        "The span has another lessee or epoch: the lease is over."
        "Forget the span; it is no longer this session's."
    SpanInUse FailedPrecondition "SPAN_IN_USE"
        "A block in the span is alive."
        "Return the span when its last block is free."
    NoFreeArena ResourceExhausted "NO_FREE_ARENA"
        "Every arena of the pool is held."
        "Wait with `wait_ms`, or return an arena."
    DeadlineExceeded DeadlineExceeded "DEADLINE_EXCEEDED"
        "No arena became free within the wait."
        "Wait again, or look with ListHolders who holds them."
    ArenaFull ResourceExhausted "ARENA_FULL"
        "The arena has not that many bytes left."
        "Reset it, or get another."
    ArenaShared FailedPrecondition "ARENA_SHARED"
        "The arena has a name and may have other holders."
        "Detach from it; the last holder's detach returns it."
    OutOfRange OutOfRange "OUT_OF_RANGE"
        "The bytes asked for reach past the end of what the handle names."
        "Stay within `size_bytes` of the metadata."
    RequestExpired Aborted "REQUEST_EXPIRED"
        "The request is an old one, or a crash of the daemon cut it off, and its outcome is not known."
        "Look whether the call took effect, then use a higher id."
    RequestInFlight Unavailable "REQUEST_IN_FLIGHT"
        "A call with the same request id is still being worked on."
        "Retry with the same id after a pause."
    PoolDestroyed FailedPrecondition "POOL_DESTROYED"
        "The pool has been destroyed; it lives only for those who still map it."
        "Free what is held in it and let go of it."
    CorruptSegment DataLoss "CORRUPT_SEGMENT"
        "The pool's memory contradicts itself where the call looked."
        "Stop using the pool; save what is readable and destroy it."
    CallTimedOut DeadlineExceeded "CALL_TIMED_OUT"
        "The call came by TCP and took too long: its client sent nothing, or the daemon had no time for it. It may still take effect."
        "Retry with the same id after a pause."
    Overloaded Unavailable "OVERLOADED"
        "As many calls are under way as there may be: of this connection, this client, or of all."
        "Retry after a pause (`RetryInfo` says how long), and make fewer calls at a time."
    ShuttingDown Unavailable "SHUTTING_DOWN"
        "The daemon is ending and takes no new work."
        "Retry with the same id when it is back."
    Recovering Unavailable "RECOVERING"
        "The daemon has just started and is rebuilding its state."
        "Retry with the same id after a pause."
    Internal Internal "INTERNAL"
        "The operating system refused, or the daemon has a fault; its log says more."
        "Do not retry; report it with the daemon's log."
}

impl Reason {
    /// Returns whether the same call may succeed if it is sent again, with the same request id,
    /// after a pause. Everything else needs the caller to decide.
    pub const fn is_retryable(self) -> bool {
        matches!(self.code(), Code::Unavailable)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not a reason this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason {0:?}")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let known = Self::ALL.iter().find(|reason| reason.as_str() == text);
        known
            .copied()
            .ok_or_else(|| UnknownReason(clip(text, MAX_KEY_BYTES)))
    }
}

/// An error of goumemd as it goes over the wire: a reason, a sentence, and the numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ErrorDetail {
    /// Why the call failed.
    pub reason: Reason,
    /// The same for people: lower case, no full stop.
    pub message: String,
    /// The numbers, by name (`requested_bytes`). Only the first [`MAX_METADATA_ENTRIES`] are sent,
    /// and they arrive sorted by name.
    pub metadata: Vec<(Cow<'static, str>, String)>,
}

impl ErrorDetail {
    /// Returns an error without metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: Vec::new(),
        }
    }

    /// Adds a number, or what else a program may want to know.
    #[must_use]
    pub fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        self.metadata.push((key.into(), value.to_string()));
        self
    }

    /// Returns the metadata of that name.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.metadata
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the number of that name.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// Returns what goumemd said in this status. `None` if it is not goumemd's: it came from the
    /// gRPC library or the network, or from a daemon with reasons this version does not know.
    pub fn from_status(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        if info.domain != ERROR_DOMAIN {
            return None;
        }
        let reason = info.reason.parse().ok()?;
        let mut metadata: Vec<_> = info
            .metadata
            .into_iter()
            .map(|(key, value)| (Cow::Owned(key), value))
            .collect();
        metadata.sort();
        metadata.truncate(MAX_METADATA_ENTRIES);
        Some(Self {
            reason,
            message: status.message().to_owned(),
            metadata,
        })
    }
}

impl From<ErrorDetail> for Status {
    fn from(detail: ErrorDetail) -> Self {
        let entries = detail.metadata.into_iter().take(MAX_METADATA_ENTRIES);
        let metadata: HashMap<_, _> = entries
            .map(|(key, value)| (clip(&key, MAX_KEY_BYTES), clip(&value, MAX_VALUE_BYTES)))
            .collect();
        let mut info =
            ErrorDetails::with_error_info(detail.reason.as_str(), ERROR_DOMAIN, metadata);
        if detail.reason == Reason::Overloaded {
            info.set_retry_info(Some(RETRY_DELAY));
        }
        let message = clip(&detail.message, MAX_MESSAGE_BYTES);
        Self::with_error_details(detail.reason.code(), message, info)
    }
}

impl From<ProtocolError> for ErrorDetail {
    fn from(error: ProtocolError) -> Self {
        let detail = Self::new(Reason::InvalidField, error.to_string());
        match error {
            ProtocolError::Missing { field } => detail.with("field", field).with("why", "missing"),
            ProtocolError::Invalid { field, value, why } => detail
                .with("field", field)
                .with("value", value)
                .with("why", why),
        }
    }
}

/// Cuts a text to at most `max_bytes`, at a character, and marks that it did.
pub(crate) fn clip(text: &str, max_bytes: usize) -> String {
    const MARK: char = '…';
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let mut end = max_bytes.saturating_sub(MARK.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &text[..end])
}

#[cfg(test)]
mod tests;

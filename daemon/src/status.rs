//! What an error looks like to a client: the one place that chooses reasons, and through them gRPC
//! codes. And the one place that logs an error.

use std::error::Error as StdError;

use goumem_proto::model::{Holder, ProtocolError};
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_shm::AccessError;
use tonic::{Code, Status};
use tracing::{debug, error};

use crate::error::{Error, Table, backing_name};

#[cfg(test)]
mod tests;

/// Holders that an error tells of; the rest are for Stat.
const MAX_HOLDERS: usize = 5;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        tell(error).into()
    }
}

/// Logs an error, and returns what the client hears of it.
pub(crate) fn tell(error: Error) -> ErrorDetail {
    let detail = ErrorDetail::from(&error);
    let reason = detail.reason;
    match reason.code() {
        // Nothing that a client does should come to this.
        Code::Internal | Code::DataLoss => {
            error!(%reason, error = chain(&error), "call failed")
        }
        _ => debug!(%reason, error = chain(&error), "call refused"),
    }
    detail
}

impl From<&Error> for ErrorDetail {
    /// Names every variant: a new one has to choose its reason before it compiles.
    fn from(error: &Error) -> Self {
        let detail = |reason| Self::new(reason, error.to_string());
        match error {
            Error::Protocol(error) => error.clone().into(),
            Error::PoolNotFound { pool } => detail(Reason::PoolNotFound).with("pool", pool),
            Error::NameNotFound { pool, name } => detail(Reason::NameNotFound)
                .with("pool", pool)
                .with("name", name),
            Error::SessionNotFound { session } => {
                detail(Reason::SessionNotFound).with("session", session.get())
            }
            Error::PoolExists { name } => detail(Reason::PoolExists).with("pool", name),
            Error::NameExists { pool, name } => detail(Reason::NameExists)
                .with("pool", pool)
                .with("name", name),
            Error::GeometryMismatch {
                pool,
                what,
                expected,
                found,
            } => detail(Reason::GeometryMismatch)
                .with("pool", pool)
                .with("what", what)
                .with("expected", expected)
                .with("found", found),
            // The source says which size; the caller knows by it what to change.
            Error::Geometry(source) => Self::new(Reason::InvalidField, chain(error))
                .with("field", "geometry")
                .with("why", source),
            Error::BackingUnsupported { backing, what } => detail(Reason::BackingUnsupported)
                .with("backing", backing_name(*backing))
                .with("what", what),
            Error::BudgetExhausted {
                requested_bytes,
                committed_bytes,
                limit_bytes,
                available_bytes,
            } => detail(Reason::BudgetExhausted)
                .with("requested_bytes", requested_bytes)
                .with("committed_bytes", committed_bytes)
                .with("limit_bytes", limit_bytes)
                .with("available_bytes", available_bytes),
            Error::PoolExhausted {
                pool,
                requested_bytes,
                largest_free_bytes,
                granted_bytes,
                capacity_bytes,
                top_holders,
            } => with_holders(
                detail(Reason::PoolExhausted)
                    .with("pool", pool)
                    .with("requested_bytes", requested_bytes)
                    .with("largest_free_bytes", largest_free_bytes)
                    .with("granted_bytes", granted_bytes)
                    .with("capacity_bytes", capacity_bytes),
                top_holders,
            ),
            Error::QuotaExceeded {
                uid,
                requested_bytes,
                used_bytes,
                quota_bytes,
            } => detail(Reason::QuotaExceeded)
                .with("uid", uid)
                .with("requested_bytes", requested_bytes)
                .with("used_bytes", used_bytes)
                .with("quota_bytes", quota_bytes),
            Error::TooMany { table, limit } => detail(match table {
                Table::Pools => Reason::TooManyPools,
                Table::Sessions => Reason::TooManySessions,
                Table::Records => Reason::TooManyRecords,
                Table::Waiters => Reason::TooManyWaiters,
            })
            .with("limit", limit),
            Error::CapacityTooSmall {
                requested_bytes,
                granted_bytes,
            } => detail(Reason::CapacityTooSmall)
                .with("requested_bytes", requested_bytes)
                .with("granted_bytes", granted_bytes),
            Error::CapacityTooLarge {
                requested_bytes,
                max_bytes,
            } => detail(Reason::CapacityTooLarge)
                .with("requested_bytes", requested_bytes)
                .with("max_bytes", max_bytes),
            Error::Access(error) => access(error),
            Error::PermissionDenied { uid, what } => detail(Reason::PermissionDenied)
                .with("uid", uid)
                .with("what", what),
            Error::SessionRequired => detail(Reason::SessionRequired),
            Error::SessionExpired => detail(Reason::SessionExpired),
            Error::ForeignPidNamespace => detail(Reason::ForeignPidNamespace),
            Error::NotLocal => detail(Reason::NotLocal),
            Error::BlocksOutstanding {
                blocks,
                arenas,
                leased_bytes,
            } => detail(Reason::BlocksOutstanding)
                .with("blocks", blocks)
                .with("arenas", arenas)
                .with("leased_bytes", leased_bytes),
            Error::StaleLease { first_page, epoch } => detail(Reason::StaleLease)
                .with("first_page", first_page.get())
                .with("epoch", epoch),
            Error::SpanInUse { first_page, live } => detail(Reason::SpanInUse)
                .with("first_page", first_page.get())
                .with("live", live),
            Error::NoFreeArena {
                pool,
                arenas,
                waiting,
            } => detail(Reason::NoFreeArena)
                .with("pool", pool)
                .with("arenas", arenas)
                .with("waiting", waiting),
            Error::DeadlineExceeded { waited_ms } => {
                detail(Reason::DeadlineExceeded).with("waited_ms", waited_ms)
            }
            Error::RequestExpired {
                request_id,
                highest,
            } => detail(Reason::RequestExpired)
                .with("request_id", request_id)
                .with("highest", highest),
            Error::RequestInFlight { request_id } => {
                detail(Reason::RequestInFlight).with("request_id", request_id)
            }
            Error::PoolDestroyed { pool_id } => {
                detail(Reason::PoolDestroyed).with("pool_id", pool_id.get())
            }
            Error::Segment(_) => detail(Reason::CorruptSegment),
            Error::NoSpace {
                requested_bytes, ..
            } => detail(Reason::BudgetExhausted).with("requested_bytes", requested_bytes),
            // What the OS said is for the log: it may speak of paths.
            Error::Os { doing, .. } => detail(Reason::Internal).with("doing", doing),
            Error::Invariant { .. } => detail(Reason::Internal),
            Error::Overloaded { crowd, limit } => detail(Reason::Overloaded)
                .with("calls_of", crowd.as_str())
                .with("limit", limit),
            Error::CredentialsRequired { why } => {
                detail(Reason::CredentialsRequired).with("why", why)
            }
            Error::CallTimedOut { after } => {
                detail(Reason::CallTimedOut).with("after_ms", after.as_millis())
            }
            Error::ShuttingDown => detail(Reason::ShuttingDown),
        }
    }
}

fn access(error: &AccessError) -> ErrorDetail {
    let detail = |reason| ErrorDetail::new(reason, error.to_string());
    match error {
        AccessError::WrongPool { handle, expected } => detail(Reason::WrongPool)
            .with("handle", handle)
            .with("pool_id", handle.pool().get())
            .with("expected_pool_id", expected.get()),
        AccessError::WrongKind { handle, expected } => detail(Reason::WrongKind)
            .with("handle", handle)
            .with("expected", expected),
        AccessError::Stale { handle } => detail(Reason::StaleHandle).with("handle", handle),
        AccessError::DoubleFree { handle } => detail(Reason::DoubleFree).with("handle", handle),
        AccessError::NotOwner { handle, owner } => detail(Reason::NotOwner)
            .with("handle", handle)
            .with("owner", owner.get()),
        AccessError::Pinned { handle } => detail(Reason::BlockPinned).with("handle", handle),
        AccessError::WrongType { expected, found } => detail(Reason::WrongType)
            .with("expected_type", expected.get())
            .with("found_type", found.get()),
        AccessError::WrongLength {
            expected_bytes,
            found_bytes,
        } => detail(Reason::WrongType)
            .with("expected_bytes", expected_bytes)
            .with("found_bytes", found_bytes),
        AccessError::OutOfRange {
            offset_bytes,
            length_bytes,
            limit_bytes,
        } => detail(Reason::OutOfRange)
            .with("offset_bytes", offset_bytes)
            .with("length_bytes", length_bytes)
            .with("size_bytes", limit_bytes),
        AccessError::ReadOnly { pool } => {
            detail(Reason::PermissionDenied).with("pool_id", pool.get())
        }
        AccessError::Shared { handle } => detail(Reason::ArenaShared).with("handle", handle),
        AccessError::ArenaFull {
            requested_bytes,
            free_bytes,
        } => detail(Reason::ArenaFull)
            .with("requested_bytes", requested_bytes)
            .with("free_bytes", free_bytes),
        AccessError::ZeroSize => {
            ErrorDetail::from(ProtocolError::invalid("size_bytes", 0, "must be 1 or more"))
        }
        AccessError::Corrupt {
            pool,
            what,
            offset_bytes,
        } => detail(Reason::CorruptSegment)
            .with("pool_id", pool.get())
            .with("what", what)
            .with("offset_bytes", offset_bytes),
        AccessError::GenerationsSpent { .. } | AccessError::Forked => detail(Reason::Internal),
        // The enum may grow, being another crate's. What is not named here is nothing that this
        // version of the daemon lets happen.
        _ => detail(Reason::Internal),
    }
}

/// As `holder_1: session 3 uid 1000 pid 4121 bytes 188743680`, the largest first.
fn with_holders(detail: ErrorDetail, holders: &[Holder]) -> ErrorDetail {
    let mut detail = detail;
    for (i, holder) in holders.iter().take(MAX_HOLDERS).enumerate() {
        let Holder {
            session,
            uid,
            pid,
            bytes,
        } = holder;
        let value = format!(
            "session {} uid {uid} pid {pid} bytes {bytes}",
            session.get()
        );
        detail = detail.with(format!("holder_{}", i + 1), value);
    }
    detail
}

/// Writes an error with its causes, each once.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // A transparent error says what its source says.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

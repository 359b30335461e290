//! The table of errors: every variant has its code and its reason, and the numbers arrive.

use std::collections::HashSet;
use std::mem::discriminant;

use goumem_alloc::{
    Generation, GeometryError, Handle, HandleKind, Offset, PageIndex, PoolId, SessionNumber,
};
use goumem_proto::model::{Backing, Holder};
use goumem_shm::SegmentRefusal;
use goumem_shm::os::{BackingKind, SegmentError};

use super::*;
use crate::error::Crowd;

/// To be raised with every new variant, which then has to appear in the table.
const N_VARIANTS: usize = 37;

fn handle() -> Handle {
    let pool = PoolId::new(7).unwrap();
    let generation = Generation::new(3).unwrap();
    Handle::new(pool, generation, Offset::new(4096), HandleKind::Block)
}

fn table() -> Vec<(Error, Code, Reason)> {
    use Code::*;
    let pool = || "p".to_owned();
    let name = || "n".to_owned();
    vec![
        (
            ProtocolError::missing("handle").into(),
            InvalidArgument,
            Reason::InvalidField,
        ),
        (
            Error::PoolNotFound { pool: pool() },
            NotFound,
            Reason::PoolNotFound,
        ),
        (
            Error::NameNotFound {
                pool: pool(),
                name: name(),
            },
            NotFound,
            Reason::NameNotFound,
        ),
        (
            Error::SessionNotFound {
                session: SessionNumber::new(4),
            },
            NotFound,
            Reason::SessionNotFound,
        ),
        (
            Error::PoolExists { name: name() },
            AlreadyExists,
            Reason::PoolExists,
        ),
        (
            Error::NameExists {
                pool: pool(),
                name: name(),
            },
            AlreadyExists,
            Reason::NameExists,
        ),
        (
            Error::GeometryMismatch {
                pool: pool(),
                what: "capacity_bytes",
                expected: "1".to_owned(),
                found: "2".to_owned(),
            },
            FailedPrecondition,
            Reason::GeometryMismatch,
        ),
        (
            GeometryError::Empty.into(),
            InvalidArgument,
            Reason::InvalidField,
        ),
        (
            Error::BackingUnsupported {
                backing: Backing::Named,
                what: "flush",
            },
            FailedPrecondition,
            Reason::BackingUnsupported,
        ),
        (
            Error::BudgetExhausted {
                requested_bytes: 1,
                committed_bytes: 2,
                limit_bytes: 3,
                available_bytes: 4,
            },
            ResourceExhausted,
            Reason::BudgetExhausted,
        ),
        (exhausted(0), ResourceExhausted, Reason::PoolExhausted),
        (
            Error::QuotaExceeded {
                uid: 1,
                requested_bytes: 2,
                used_bytes: 3,
                quota_bytes: 4,
            },
            ResourceExhausted,
            Reason::QuotaExceeded,
        ),
        (
            Error::TooMany {
                table: Table::Pools,
                limit: 5,
            },
            ResourceExhausted,
            Reason::TooManyPools,
        ),
        (
            Error::TooMany {
                table: Table::Sessions,
                limit: 5,
            },
            ResourceExhausted,
            Reason::TooManySessions,
        ),
        (
            Error::TooMany {
                table: Table::Records,
                limit: 5,
            },
            ResourceExhausted,
            Reason::TooManyRecords,
        ),
        (
            Error::TooMany {
                table: Table::Waiters,
                limit: 5,
            },
            ResourceExhausted,
            Reason::TooManyWaiters,
        ),
        (
            Error::CapacityTooSmall {
                requested_bytes: 1,
                granted_bytes: 2,
            },
            FailedPrecondition,
            Reason::CapacityTooSmall,
        ),
        (
            Error::CapacityTooLarge {
                requested_bytes: 2,
                max_bytes: 1,
            },
            FailedPrecondition,
            Reason::CapacityTooLarge,
        ),
        (
            AccessError::Stale { handle: handle() }.into(),
            FailedPrecondition,
            Reason::StaleHandle,
        ),
        (
            AccessError::DoubleFree { handle: handle() }.into(),
            FailedPrecondition,
            Reason::DoubleFree,
        ),
        (
            AccessError::WrongPool {
                handle: handle(),
                expected: PoolId::new(8).unwrap(),
            }
            .into(),
            InvalidArgument,
            Reason::WrongPool,
        ),
        (
            AccessError::WrongKind {
                handle: handle(),
                expected: "arena",
            }
            .into(),
            InvalidArgument,
            Reason::WrongKind,
        ),
        (
            AccessError::NotOwner {
                handle: handle(),
                owner: SessionNumber::new(4),
            }
            .into(),
            PermissionDenied,
            Reason::NotOwner,
        ),
        (
            AccessError::Pinned { handle: handle() }.into(),
            FailedPrecondition,
            Reason::BlockPinned,
        ),
        (
            AccessError::WrongLength {
                expected_bytes: 8,
                found_bytes: 4,
            }
            .into(),
            FailedPrecondition,
            Reason::WrongType,
        ),
        (
            AccessError::OutOfRange {
                offset_bytes: 1,
                length_bytes: 2,
                limit_bytes: 2,
            }
            .into(),
            OutOfRange,
            Reason::OutOfRange,
        ),
        (
            AccessError::ReadOnly {
                pool: PoolId::new(7).unwrap(),
            }
            .into(),
            PermissionDenied,
            Reason::PermissionDenied,
        ),
        (
            AccessError::Shared { handle: handle() }.into(),
            FailedPrecondition,
            Reason::ArenaShared,
        ),
        (
            AccessError::ArenaFull {
                requested_bytes: 2,
                free_bytes: 1,
            }
            .into(),
            ResourceExhausted,
            Reason::ArenaFull,
        ),
        (
            AccessError::ZeroSize.into(),
            InvalidArgument,
            Reason::InvalidField,
        ),
        (
            AccessError::Corrupt {
                pool: PoolId::new(7).unwrap(),
                what: "slot word",
                offset_bytes: 64,
            }
            .into(),
            DataLoss,
            Reason::CorruptSegment,
        ),
        (AccessError::Forked.into(), Internal, Reason::Internal),
        (
            Error::PermissionDenied {
                uid: 1,
                what: "read pool p".to_owned(),
            },
            PermissionDenied,
            Reason::PermissionDenied,
        ),
        (
            Error::SessionRequired,
            Unauthenticated,
            Reason::SessionRequired,
        ),
        (Error::SessionExpired, Aborted, Reason::SessionExpired),
        (
            Error::ForeignPidNamespace,
            FailedPrecondition,
            Reason::ForeignPidNamespace,
        ),
        (Error::NotLocal, FailedPrecondition, Reason::NotLocal),
        (
            Error::BlocksOutstanding {
                blocks: 1,
                arenas: 2,
                leased_bytes: 3,
            },
            FailedPrecondition,
            Reason::BlocksOutstanding,
        ),
        (
            Error::StaleLease {
                first_page: PageIndex::new(9),
                epoch: 2,
            },
            FailedPrecondition,
            Reason::StaleLease,
        ),
        (
            Error::SpanInUse {
                first_page: PageIndex::new(9),
                live: 2,
            },
            FailedPrecondition,
            Reason::SpanInUse,
        ),
        (
            Error::NoFreeArena {
                pool: pool(),
                arenas: 2,
                waiting: 0,
            },
            ResourceExhausted,
            Reason::NoFreeArena,
        ),
        (
            Error::DeadlineExceeded { waited_ms: 10 },
            DeadlineExceeded,
            Reason::DeadlineExceeded,
        ),
        (
            Error::RequestExpired {
                request_id: 1,
                highest: 9,
            },
            Aborted,
            Reason::RequestExpired,
        ),
        (
            Error::RequestInFlight { request_id: 1 },
            Unavailable,
            Reason::RequestInFlight,
        ),
        (
            Error::PoolDestroyed {
                pool_id: PoolId::new(7).unwrap(),
            },
            FailedPrecondition,
            Reason::PoolDestroyed,
        ),
        (
            SegmentRefusal::NotReady { magic: 0 }.into(),
            DataLoss,
            Reason::CorruptSegment,
        ),
        (
            Error::NoSpace {
                requested_bytes: 65_536,
                source: no_space(),
            },
            ResourceExhausted,
            Reason::BudgetExhausted,
        ),
        (
            Error::os("make a thread", "secret /path"),
            Internal,
            Reason::Internal,
        ),
        (
            Error::Overloaded {
                crowd: Crowd::Remote,
                limit: 9,
            },
            Unavailable,
            Reason::Overloaded,
        ),
        (
            Error::CredentialsRequired { why: "it has none" },
            Unauthenticated,
            Reason::CredentialsRequired,
        ),
        (
            Error::CallTimedOut {
                after: std::time::Duration::from_secs(1),
            },
            DeadlineExceeded,
            Reason::CallTimedOut,
        ),
        (Error::ShuttingDown, Unavailable, Reason::ShuttingDown),
        (Error::Invariant { what: "one" }, Internal, Reason::Internal),
    ]
}

fn no_space() -> SegmentError {
    SegmentError::NoSpace {
        kind: BackingKind::Memfd,
        offset_bytes: 0,
        len_bytes: 65_536,
        source: std::io::ErrorKind::StorageFull.into(),
    }
}

fn exhausted(n_holders: u16) -> Error {
    let holder = |n| Holder {
        session: SessionNumber::new(n),
        uid: 1000,
        pid: 4121,
        bytes: 188_743_680,
    };
    Error::PoolExhausted {
        pool: "frames".to_owned(),
        requested_bytes: 1,
        largest_free_bytes: 2,
        granted_bytes: 3,
        capacity_bytes: 4,
        top_holders: (1..=n_holders).map(holder).collect(),
    }
}

#[test]
fn every_error_has_its_code_and_reason() {
    let table = table();
    let variants: HashSet<_> = table
        .iter()
        .map(|(error, ..)| discriminant(error))
        .collect();
    assert_eq!(variants.len(), N_VARIANTS);
    for (error, code, reason) in table {
        let (message, numbers) = (error.to_string(), ErrorDetail::from(&error).metadata);
        let status = Status::from(error);
        let detail = ErrorDetail::from_status(&status).expect("it is one of ours");
        assert_eq!((status.code(), detail.reason), (code, reason), "{message}");
        assert_eq!(
            detail.metadata.len(),
            numbers.len(),
            "{message}: all numbers arrive"
        );
    }
}

#[test]
fn full_pool_tells_the_numbers_and_its_largest_holders() {
    let detail = ErrorDetail::from_status(&exhausted(9).into()).unwrap();
    assert_eq!(detail.number("largest_free_bytes"), Some(2));
    assert_eq!(
        detail.get("holder_1"),
        Some("session 1 uid 1000 pid 4121 bytes 188743680")
    );
    assert!(detail.get("holder_5").is_some() && detail.get("holder_6").is_none());
}

#[test]
fn what_the_system_said_stays_in_the_log() {
    let error = Error::os("make a thread", "secret /path");
    assert!(chain(&error).contains("secret /path"));
    let status = Status::from(error);
    assert!(!format!("{status:?}").contains("secret"));
}

#[test]
fn causes_are_told_once() {
    let error = Error::from(AccessError::Stale { handle: handle() });
    assert_eq!(chain(&error), error.to_string());
    let nested = Error::NoSpace {
        requested_bytes: 65_536,
        source: no_space(),
    };
    let text = chain(&nested);
    assert!(
        text.contains("no room for 65536 bytes: no space for"),
        "{text}"
    );
}

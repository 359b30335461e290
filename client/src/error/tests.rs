use std::path::PathBuf;

use goumem_alloc::{Generation, HandleKind, Offset, PoolId};

use super::*;

#[test]
fn every_reason_of_the_daemon_is_still_told_by_the_error() {
    for &reason in Reason::ALL {
        let detail = ErrorDetail::new(reason, "it did not work").with("blocks", 2);
        let error = Error::from_status(&detail.into());
        assert_eq!(error.reason(), Some(reason));
        let own_words = matches!(
            error,
            Error::SessionExpired | Error::BlocksOutstanding { .. } | Error::NoFreeArena
        );
        assert!(
            own_words || error.to_string() == "it did not work",
            "{error}"
        );
    }
}

#[test]
fn the_numbers_of_a_refusal_arrive() {
    let full = ErrorDetail::new(Reason::PoolExhausted, "full")
        .with("requested_bytes", 100)
        .with("largest_free_bytes", 64);
    let error = Error::from_status(&full.into());
    assert!(matches!(
        error,
        Error::Exhausted {
            reason: Reason::PoolExhausted,
            requested_bytes: Some(100),
            largest_free_bytes: Some(64),
            ..
        }
    ));
    let held = ErrorDetail::new(Reason::BlocksOutstanding, "held")
        .with("blocks", 3)
        .with("arenas", 1)
        .with("leased_bytes", 65_536);
    let error = Error::from_status(&held.into());
    assert!(matches!(error, Error::BlocksOutstanding { n: 4 }));
    let other = ErrorDetail::new(Reason::GeometryMismatch, "differs").with("what", "capacity");
    let error = Error::from_status(&other.into());
    assert!(matches!(
        error,
        Error::Daemon { metadata, .. } if metadata == [("what".to_owned(), "capacity".to_owned())]
    ));
}

#[test]
fn a_status_that_is_not_the_daemons_is_one_of_the_transport() {
    let error = Error::from_status(&Status::resource_exhausted("too many pings"));
    assert!(matches!(&error, Error::Transport { message, .. } if message == "too many pings"));
    assert_eq!(error.reason(), None);
}

#[test]
fn a_stale_handle_is_the_same_error_wherever_it_was_found() {
    let pool = PoolId::new(1).unwrap();
    let handle = Handle::new(pool, Generation::ZERO, Offset::new(0), HandleKind::Block);
    let stale = ErrorDetail::new(Reason::StaleHandle, "gone");
    let error = Error::from_status(&stale.into()).about(handle);
    assert!(error.is_stale());
    assert!(
        matches!(error, Error::Access(AccessError::Stale { handle: found }) if found == handle)
    );
    let other = Error::NoDaemon {
        socket: PathBuf::new(),
        source: "".into(),
    };
    assert!(matches!(other.about(handle), Error::NoDaemon { .. }));
}

//! Events on their way over the wire, and those of daemons that are newer than this.

use std::time::Duration;

use goumem_alloc::SessionNumber;

use super::wire::survives;
use super::*;
use crate::reason::Reason;

fn event(happening: Happening) -> WatchEvent {
    WatchEvent {
        sequence: 9,
        uptime: Duration::from_millis(70),
        happening,
    }
}

fn session() -> WatchedSession {
    WatchedSession {
        session: SessionNumber::new(3),
        serial: 4,
        uid: 1000,
        pid: 77,
        label: "trainer".parse().unwrap(),
    }
}

/// One of each kind.
fn all() -> Vec<Happening> {
    let pool = WatchedPool {
        pool_id: pool_id(),
        name: "frames".parse().unwrap(),
        arenas: true,
        uid: 1000,
    };
    let arena = WatchedArena {
        pool_id: pool_id(),
        pool: "frames".parse().unwrap(),
        index: 0,
        name: "batch/1".parse().unwrap(),
        session: SessionNumber::new(3),
    };
    let refusal = WatchedRefusal {
        reason: Reason::PoolExhausted,
        pool: "frames".parse().unwrap(),
        uid: 0,
        requested_bytes: Some(64),
    };
    vec![
        Happening::Watching,
        Happening::Lagged { missed: 5 },
        Happening::PoolCreated(pool.clone()),
        Happening::PoolDestroyed(pool.clone()),
        Happening::SessionOpened(session()),
        Happening::SessionEnded {
            session: session(),
            cause: EndCause::Died,
            reclaimed_bytes: MAX,
        },
        Happening::ArenaShared(arena.clone()),
        Happening::ArenaDetached(arena),
        Happening::Pressure(pool),
        Happening::Refused(refusal),
        Happening::ConnectionRefused {
            socket: "grpc".to_owned(),
        },
        Happening::KeeperReplaced,
        Happening::Reloaded {
            changes: "budget".to_owned(),
        },
    ]
}

#[test]
fn every_kind_of_event_survives_the_wire() {
    let kinds: Vec<_> = all().iter().filter_map(Happening::kind).collect();
    assert_eq!(kinds, EventKind::ALL);
    for happening in all() {
        survives::<v1::WatchEvent, _>(event(happening));
    }
    for cause in EndCause::ALL {
        survives::<v1::WatchEvent, _>(event(Happening::SessionEnded {
            session: session(),
            cause: *cause,
            reclaimed_bytes: 0,
        }));
    }
    survives::<v1::WatchRequest, _>(WatchRequest::default());
    survives::<v1::WatchRequest, _>(WatchRequest {
        kinds: EventKind::ALL.to_vec(),
    });
}

#[test]
fn kind_of_a_newer_daemon_is_passed_on() {
    let wire = v1::WatchEvent {
        kind: 4711,
        ..v1::WatchEvent::default()
    };
    let event = WatchEvent::try_from(wire).unwrap();
    assert_eq!(event.happening, Happening::Other { kind: 4711 });
    survives::<v1::WatchEvent, _>(event);
}

#[test]
fn requests_for_kinds_that_there_are_not_are_refused() {
    for kinds in [vec![0], vec![3, 4711], vec![3; 65]] {
        let error = WatchRequest::try_from(v1::WatchRequest { kinds }).unwrap_err();
        assert!(error.field().starts_with("kinds"), "{error}");
    }
    let wire = v1::WatchEvent {
        kind: v1::EventKind::SessionEnded.into(),
        session: Some(v1::WatchedSession::default()),
        ..v1::WatchEvent::default()
    };
    let error = WatchEvent::try_from(wire).unwrap_err();
    assert_eq!(error.field(), "session.cause");
}

use goumem::{EndCause, Label, PoolId, PoolName, SessionNumber, WatchedRefusal};

use super::*;

fn pool_named(name: &str) -> WatchedPool {
    WatchedPool {
        pool_id: PoolId::new(1).unwrap(),
        name: PoolName::try_from(name).unwrap(),
        arenas: false,
        uid: 1000,
    }
}

fn session_called(label: &str) -> WatchedSession {
    WatchedSession {
        session: SessionNumber::new(3),
        serial: 9,
        uid: 1000,
        pid: 4121,
        label: Label::try_from(label).unwrap(),
    }
}

fn line(happening: Happening) -> Line {
    record(&WatchEvent {
        sequence: 7,
        uptime: Duration::from_millis(61_234),
        happening,
    })
}

#[test]
fn events_are_a_line_each() {
    let refusal = WatchedRefusal {
        reason: Reason::PoolExhausted,
        pool: PoolName::try_from("frames").unwrap(),
        uid: 1000,
        requested_bytes: Some(64 << 20),
    };
    let lines: Vec<_> = [
        Happening::Watching,
        Happening::Lagged { missed: 12 },
        Happening::PoolCreated(pool_named("frames")),
        Happening::Pressure(pool_named("frames")),
        Happening::SessionOpened(session_called("trainer")),
        Happening::SessionEnded {
            session: session_called(""),
            cause: EndCause::Died,
            reclaimed_bytes: 180 << 20,
        },
        Happening::Refused(refusal),
        Happening::ConnectionRefused {
            socket: "gRPC socket".to_owned(),
        },
        Happening::KeeperReplaced,
        Happening::Reloaded {
            changes: "log.level".to_owned(),
        },
    ]
    .into_iter()
    .map(|happening| line(happening).text)
    .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_event_has_the_same_fields_for_programs() {
    let ended = line(Happening::SessionEnded {
        session: session_called("trainer"),
        cause: EndCause::Died,
        reclaimed_bytes: 4096,
    });
    let created = line(Happening::PoolCreated(pool_named("frames")));
    let gone = away(&Error::Closed);
    let keys = |line: &Line| {
        let json = line.facts.json();
        json.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&ended), keys(&created));
    assert_eq!(keys(&ended), keys(&gone));
    let json = ended.facts.json();
    assert_eq!(json["kind"], "session_ended");
    assert_eq!((&json["pid"], &json["bytes"]), (&4121.into(), &4096.into()));
    assert_eq!(created.facts.json()["pool"], "frames");
    assert_eq!(
        created.facts.values().split('\t').count(),
        keys(&created).len()
    );
}

#[test]
fn what_others_call_themselves_is_escaped() {
    let reloaded = line(Happening::Reloaded {
        changes: "\u{1b}[2Jevil\n".to_owned(),
    });
    assert!(
        reloaded.text.contains(r"\u{1b}[2Jevil\n"),
        "{}",
        reloaded.text
    );
    assert!(!reloaded.text.contains('\u{1b}'));
}

#[test]
fn a_daemon_may_come_back_but_a_refusal_stays() {
    for error in [Error::Closed, Error::SessionExpired] {
        assert!(may_come_back(&error), "{error}");
    }
    let message = "no".to_owned();
    assert!(!may_come_back(&Error::PermissionDenied { message }));
}

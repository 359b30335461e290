use clap::Parser as _;

use super::*;
use crate::args::Args;

mod every_reason;

fn command(line: &str) -> Command {
    Args::try_parse_from(line.split(' ')).unwrap().command
}

fn daemon_error(reason: Reason) -> Error {
    Error::Daemon {
        reason,
        message: "no".to_owned(),
        metadata: Vec::new(),
    }
}

#[test]
fn exit_codes_tell_what_a_script_can_do() {
    let socket = "/nowhere".into();
    let unreachable = Error::NoDaemon {
        socket,
        source: "connection refused".into(),
    };
    assert_eq!(exit_of(&unreachable), Exit::Unreachable);
    let socket = "/theirs".into();
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let theirs = Error::NoDaemon {
        socket,
        source: denied.into(),
    };
    assert_eq!(exit_of(&theirs), Exit::Permission);
    let waited = std::time::Duration::from_secs(1);
    assert_eq!(exit_of(&Error::NoAnswer { waited }), Exit::Unreachable);
    let message = || "no".to_owned();
    assert_eq!(
        exit_of(&Error::PoolNotFound { message: message() }),
        Exit::NotFound
    );
    assert_eq!(
        exit_of(&Error::NameNotFound { message: message() }),
        Exit::NotFound
    );
    assert_eq!(
        exit_of(&Error::PermissionDenied { message: message() }),
        Exit::Permission
    );
    assert_eq!(
        exit_of(&Error::PoolExists { message: message() }),
        Exit::Error
    );
    for (reason, exit) in [
        (Reason::SessionNotFound, Exit::NotFound),
        (Reason::StaleHandle, Exit::NotFound),
        (Reason::NotOwner, Exit::Permission),
        (Reason::InvalidField, Exit::Usage),
        (Reason::ShuttingDown, Exit::Unreachable),
        (Reason::CapacityTooLarge, Exit::Error),
        (Reason::Internal, Exit::Error),
    ] {
        assert_eq!(exit_of(&daemon_error(reason)), exit, "{reason}");
    }
}

#[test]
fn an_error_says_what_with_numbers_who_and_what_next() {
    let error = Error::Exhausted {
        reason: Reason::PoolExhausted,
        message: "pool frames is full".to_owned(),
        requested_bytes: Some(64 << 20),
        largest_free_bytes: Some(12 << 20),
    };
    let failure = Failure::from(error)
        .with_number("capacity_bytes", 256 << 20)
        .saying("pool \"frames\" is full: asked 64 MiB, largest free 12 MiB".to_owned())
        .held_by(vec![
            holder(4121, "trainer", 1000, 180 << 20),
            holder(4188, "", 1000, 40 << 20),
        ])
        .advise(&command("goumemctl put frames x"));
    let expected = "\
error: pool \"frames\" is full: asked 64 MiB, largest free 12 MiB
  held by: pid 4121 trainer (uid 1000) 180 MiB, pid 4188 (uid 1000) 40 MiB
  try:     goumemctl pool set-capacity frames 512MiB   |   goumemctl block ls frames
";
    assert_eq!(failure.to_string(), expected);
    assert_eq!(failure.exit(), Exit::Error);
    let json = failure.json();
    assert_eq!(json["error"]["reason"], "POOL_EXHAUSTED");
    assert_eq!(json["error"]["metadata"]["requested_bytes"], 64 << 20);
    assert_eq!(json["error"]["exit_code"], 1);
    assert_eq!(json["error"]["try"][1], "goumemctl block ls frames");
}

#[test]
fn an_unknown_pool_is_looked_for_among_its_kind() {
    for (line, expected) in [
        ("goumemctl pool stat frames", "goumemctl pool ls"),
        ("goumemctl arena ls frames", "goumemctl arena-pool ls"),
    ] {
        let error = Error::PoolNotFound {
            message: "no pool frames".to_owned(),
        };
        let failure = Failure::from(error).advise(&command(line));
        assert!(failure.to_string().contains(expected), "{failure}");
        assert_eq!(failure.exit(), Exit::NotFound);
    }
}

#[test]
fn advice_of_the_command_itself_stands() {
    let failure = Failure::new(Exit::Unreachable, "no answer").hint("wait");
    assert_eq!(
        failure.advise(&command("goumemctl ping")).to_string(),
        "error: no answer\n  try:     wait\n"
    );
}

#[test]
fn causes_are_said_once() {
    let source = "connection refused".into();
    let failure = Failure::from(Error::NoDaemon {
        socket: "/nowhere".into(),
        source,
    });
    let text = failure.to_string();
    assert_eq!(
        text,
        "error: no goumemd answers at /nowhere: connection refused\n"
    );
}

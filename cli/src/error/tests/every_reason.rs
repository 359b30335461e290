//! Every reason as goumemctl says it: the text, and that each command it suggests exists. The table
//! of docs/errors.md is made of the same.

use clap::error::ErrorKind;
use goumem::{AccessError, Backing, Handle, PoolId, SessionNumber, TypeTag};
use goumemd::error::{Crowd, Error as DaemonError, Table};

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn handle() -> Handle {
    "gm1-00000001000000000010000000000101".parse().unwrap()
}

/// Returns what the daemon says for a reason.
fn message(reason: Reason) -> String {
    let pool = || "frames".to_owned();
    let handle = handle();
    let error = match reason {
        // The daemon reads these from the request; they are said word by word.
        Reason::InvalidField => return "capacity_bytes is 0: must be 1 or more".to_owned(),
        Reason::StaleLease => {
            return "span at page 7 is not leased to the caller in epoch 3".to_owned();
        }
        Reason::SpanInUse => return "span at page 7 holds 12 living blocks".to_owned(),
        Reason::CorruptSegment => {
            return "pool 1 holds an unbelievable slot word at offset 4096".to_owned();
        }
        Reason::NotPublished => return "the block has no name".to_owned(),
        Reason::Recovering => return "daemon is rebuilding its state".to_owned(),
        Reason::PoolNotFound => DaemonError::PoolNotFound { pool: pool() },
        Reason::NameNotFound => DaemonError::NameNotFound {
            pool: pool(),
            name: "greeting".to_owned(),
        },
        Reason::SessionNotFound => DaemonError::SessionNotFound {
            session: SessionNumber::new(7),
        },
        Reason::PoolExists => DaemonError::PoolExists { name: pool() },
        Reason::NameExists => DaemonError::NameExists {
            pool: pool(),
            name: "greeting".to_owned(),
        },
        Reason::GeometryMismatch => DaemonError::GeometryMismatch {
            pool: pool(),
            what: "capacity_bytes",
            expected: (64 * MIB).to_string(),
            found: (32 * MIB).to_string(),
        },
        Reason::BackingUnsupported => DaemonError::BackingUnsupported {
            backing: Backing::Memfd,
            what: "be flushed",
        },
        Reason::BudgetExhausted => DaemonError::BudgetExhausted {
            requested_bytes: 64 * MIB,
            committed_bytes: 200 * MIB,
            limit_bytes: 256 * MIB,
            available_bytes: 3 * GIB,
        },
        Reason::PoolExhausted => DaemonError::PoolExhausted {
            pool: pool(),
            requested_bytes: 64 * MIB,
            largest_free_bytes: 12 * MIB,
            granted_bytes: 244 * MIB,
            capacity_bytes: 256 * MIB,
            top_holders: Vec::new(),
        },
        Reason::QuotaExceeded => DaemonError::QuotaExceeded {
            uid: 1000,
            requested_bytes: MIB,
            used_bytes: 32 * MIB,
            quota_bytes: 32 * MIB,
        },
        Reason::TooManyPools => too_many(Table::Pools, 4096),
        Reason::TooManySessions => too_many(Table::Sessions, 4096),
        Reason::TooManyRecords => too_many(Table::Records, 65_536),
        Reason::TooManyWaiters => too_many(Table::Waiters, 65_536),
        Reason::CapacityTooSmall => DaemonError::CapacityTooSmall {
            requested_bytes: 16 * MIB,
            granted_bytes: 24 * MIB,
        },
        Reason::CapacityTooLarge => DaemonError::CapacityTooLarge {
            requested_bytes: GIB,
            max_bytes: 512 * MIB,
        },
        Reason::StaleHandle => AccessError::Stale { handle }.into(),
        Reason::DoubleFree => AccessError::DoubleFree { handle }.into(),
        Reason::BlockPinned => AccessError::Pinned { handle }.into(),
        Reason::WrongPool => AccessError::WrongPool {
            handle,
            expected: PoolId::new(2).unwrap(),
        }
        .into(),
        Reason::WrongKind => AccessError::WrongKind {
            handle,
            expected: "arena",
        }
        .into(),
        Reason::WrongType => AccessError::WrongType {
            expected: TypeTag::default(),
            found: TypeTag::default(),
        }
        .into(),
        Reason::NotOwner => AccessError::NotOwner {
            handle,
            owner: SessionNumber::new(7),
        }
        .into(),
        Reason::PermissionDenied => DaemonError::PermissionDenied {
            uid: 1001,
            what: "destroy pool frames".to_owned(),
        },
        Reason::SessionRequired => DaemonError::SessionRequired,
        Reason::SessionExpired => DaemonError::SessionExpired,
        Reason::ForeignPidNamespace => DaemonError::ForeignPidNamespace,
        Reason::NotLocal => DaemonError::NotLocal,
        Reason::BlocksOutstanding => DaemonError::BlocksOutstanding {
            blocks: 3,
            arenas: 1,
            leased_bytes: 2 * MIB,
        },
        Reason::NoFreeArena => DaemonError::NoFreeArena {
            pool: pool(),
            arenas: 16,
            waiting: 2,
        },
        Reason::DeadlineExceeded => DaemonError::DeadlineExceeded { waited_ms: 1000 },
        Reason::ArenaFull => AccessError::ArenaFull {
            free_bytes: 4096,
            requested_bytes: MIB,
        }
        .into(),
        Reason::ArenaShared => AccessError::Shared { handle }.into(),
        Reason::OutOfRange => AccessError::OutOfRange {
            offset_bytes: 4096,
            length_bytes: 8192,
            limit_bytes: 10_000,
        }
        .into(),
        Reason::RequestExpired => DaemonError::RequestExpired {
            request_id: 5,
            highest: 2000,
        },
        Reason::RequestInFlight => DaemonError::RequestInFlight { request_id: 5 },
        Reason::PoolDestroyed => DaemonError::PoolDestroyed {
            pool_id: PoolId::new(1).unwrap(),
        },
        Reason::CredentialsRequired => DaemonError::CredentialsRequired {
            why: "no bearer token",
        },
        Reason::CallTimedOut => DaemonError::CallTimedOut {
            after: std::time::Duration::from_secs(30),
        },
        Reason::Overloaded => DaemonError::Overloaded {
            crowd: Crowd::Local,
            limit: 4096,
        },
        Reason::ShuttingDown => DaemonError::ShuttingDown,
        Reason::Internal => DaemonError::os("map CONTROL", io::Error::other("no more mappings")),
    };
    assert_eq!(error.reason(), reason, "the example is of another reason");
    error.to_string()
}

fn too_many(table: Table, limit: u64) -> DaemonError {
    DaemonError::TooMany { table, limit }
}

/// Returns a command that can fail for it.
fn line(reason: Reason) -> &'static str {
    match reason {
        Reason::InvalidField
        | Reason::PoolExists
        | Reason::GeometryMismatch
        | Reason::BackingUnsupported
        | Reason::BudgetExhausted
        | Reason::TooManyPools => "goumemctl pool create frames 64MiB",
        Reason::CapacityTooSmall | Reason::CapacityTooLarge => {
            "goumemctl pool set-capacity frames 16MiB"
        }
        Reason::PermissionDenied | Reason::PoolDestroyed => "goumemctl pool rm frames",
        Reason::SessionNotFound => "goumemctl session kill 7",
        Reason::NoFreeArena
        | Reason::DeadlineExceeded
        | Reason::ArenaFull
        | Reason::ArenaShared
        | Reason::TooManyWaiters => "goumemctl arena ls frames",
        Reason::StaleHandle
        | Reason::DoubleFree
        | Reason::WrongPool
        | Reason::WrongKind
        | Reason::WrongType
        | Reason::NotOwner => "goumemctl block free gm1-00000001000000000010000000000101",
        _ => "goumemctl put frames greeting",
    }
}

fn failure(reason: Reason) -> Failure {
    let error = Error::Daemon {
        reason,
        message: message(reason),
        metadata: match table(reason) {
            Some(_) => vec![("limit".to_owned(), "4096".to_owned())],
            None => Vec::new(),
        },
    };
    Failure::from(error).advise(&command(line(reason)))
}

/// Parses a suggested command as whoever types it would.
pub(super) fn assert_exists(suggested: &str) {
    // In a pipe it is the last one that is ours.
    let last = suggested.rsplit(" | ").next().unwrap();
    let words: Vec<&str> = last.split_whitespace().collect();
    match words.as_slice() {
        ["goumemctl", ..] => match Args::try_parse_from(&words) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
            Err(error) => panic!("{suggested:?} is no command: {error}"),
        },
        ["goumemd", ..] => {
            if let Err(error) = goumemd::config::command().try_get_matches_from(&words) {
                panic!("{suggested:?} is no command: {error}");
            }
        }
        ["id" | "journalctl" | "systemctl", ..] => {}
        _ => panic!("{suggested:?} is no command that is known"),
    }
}

#[test]
fn every_reason_says_what_and_what_to_type() {
    let mut all = String::new();
    for &reason in Reason::ALL {
        let text = failure(reason);
        all.push_str(&format!("{reason}: {}\n{text}\n", line(reason)));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_suggested_command_exists() {
    let lines = [
        "goumemctl ping",
        "goumemctl pool create frames 64MiB",
        "goumemctl pool create frames 64MiB --backing named --mode 0660",
        "goumemctl pool ls",
        "goumemctl pool stat frames",
        "goumemctl pool set-capacity frames 1000",
        "goumemctl arena-pool create batches 16 1MiB",
        "goumemctl arena-pool rm batches",
        "goumemctl arena ls batches",
        "goumemctl session ls",
        "goumemctl session kill 7",
        "goumemctl block ls frames",
        "goumemctl block stat gm1-00000001000000000010000000000101",
        "goumemctl put frames greeting",
        "goumemctl get frames greeting",
        "goumemctl withdraw frames greeting",
        "goumemctl top",
        "goumemctl doctor",
    ];
    for &reason in Reason::ALL {
        for line in lines {
            let error = Error::Daemon {
                reason,
                message: "no".to_owned(),
                metadata: Vec::new(),
            };
            let failure = Failure::from(error).advise(&command(line));
            assert!(
                !failure.hints.is_empty(),
                "{reason} of {line}: nothing to type"
            );
            for hint in &failure.hints {
                assert_exists(hint);
            }
        }
    }
    for exit in [Exit::Unreachable, Exit::Permission] {
        let failure = Failure::new(exit, "no").advise(&command("goumemctl ping"));
        assert!(!failure.hints.is_empty());
        failure.hints.iter().for_each(|hint| assert_exists(hint));
    }
}

#[test]
fn numbers_make_the_suggestion_fit() {
    let error = Error::Daemon {
        reason: Reason::TooManySessions,
        message: "full".to_owned(),
        metadata: vec![("limit".to_owned(), "100".to_owned())],
    };
    let failure = Failure::from(error).advise(&command("goumemctl ping"));
    assert_eq!(failure.hints[1], "goumemd --max-sessions 200");
    assert_eq!(advice::size_argument(3 << 29), "1536MiB");
    assert_eq!(advice::size_argument(1 << 30), "1GiB");
    assert_eq!(advice::size_argument(1001), "1001");
}

#[test]
fn sizes_in_messages_are_for_people() {
    for (said, expected) in [
        (
            "67108864 bytes asked for, 5 of 67108864 used",
            "64 MiB asked for, 5 B of 64 MiB used",
        ),
        (
            "largest free 7168 (2048 of 4096 granted)",
            "largest free 7 KiB (2 KiB of 4 KiB granted)",
        ),
        (
            "quota of user 100000 is spent",
            "quota of user 100000 is spent",
        ),
        (
            "the pool's maximum of 1048576",
            "the pool's maximum of 1 MiB",
        ),
        (
            "range of 8192 bytes at 4096 ends",
            "range of 8 KiB at 4096 ends",
        ),
        ("2097152 bytes, and more", "2 MiB, and more"),
        (
            "has capacity_bytes 2048, not 4096",
            "has capacity 2 KiB, not 4 KiB",
        ),
        ("has arenas 3, not 4", "has arenas 3, not 4"),
    ] {
        assert_eq!(human_sizes(said), expected);
    }
}

/// `GOUMEM_WRITE_DOCS=1 cargo test -p goumemctl` writes the table anew.
#[test]
fn the_error_reference_has_every_message() {
    const HEADING: &str = "\n## What goumemctl says\n";
    let mut table = format!(
        "{HEADING}\nEach error is `error: MESSAGE`, then who holds what is short, if that can be \
         told, then what to type:\n\n```\nerror: pool \"frames\" is full: asked 64 MiB, largest \
         free 12 MiB (held 244 MiB of 256 MiB, 31 % fragmented)\n  held by: pid 4121 trainer \
         (uid 1000) 180 MiB, pid 4188 viewer (uid 1000) 40 MiB\n  try:     goumemctl pool \
         set-capacity frames 512MiB   |   goumemctl block ls frames\n```\n\nThe names and numbers \
         below are examples.\n\n| message | reason | what to type |\n|---|---|---|\n"
    );
    for &reason in Reason::ALL {
        let failure = failure(reason);
        let hints: Vec<_> = failure
            .hints
            .iter()
            .map(|hint| format!("`{hint}`"))
            .collect();
        table += &format!(
            "| {} | `{reason}` | {} |\n",
            failure.message,
            hints.join(", ")
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let written = std::fs::read_to_string(path).unwrap();
    if std::env::var_os("GOUMEM_WRITE_DOCS").is_some() {
        let rest = written.split(HEADING).next().unwrap();
        std::fs::write(path, format!("{rest}{table}")).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written.ends_with(&table),
        "run GOUMEM_WRITE_DOCS=1 cargo test -p goumemctl"
    );
}

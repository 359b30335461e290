//! What goumemctl says when something cannot be done: against a real daemon, so that the numbers
//! and the holders are true.

use goumem::PoolOptions;
use harness::TestDaemon;

use crate::run::{Outcome, goumemctl, goumemctl_with};

const MIB: u64 = 1 << 20;

/// Returns what it said, with what differs from run to run redacted.
fn said(outcome: &Outcome) -> String {
    assert_eq!(outcome.stdout, "", "an error goes to stderr");
    let mut text = String::new();
    for word in outcome.stderr.split_inclusive([' ', '\n']) {
        let bare = word.trim_end();
        let end = &word[bare.len()..];
        let previous = text.trim_end().rsplit(' ').next().unwrap_or_default();
        let number = bare.trim_end_matches([',', ')']);
        match previous {
            "pid" | "(uid" | "uid" if number.parse::<u64>().is_ok() => {
                text.push_str("[N]");
                text.push_str(&bare[number.len()..]);
            }
            _ => text.push_str(bare),
        }
        text.push_str(end);
    }
    format!("exit {:?}\n{text}", outcome.code)
}

#[test]
fn a_full_pool_is_said_with_its_holders() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client
        .create_pool("frames", PoolOptions::new(8 * MIB))
        .unwrap();
    let _block = pool.alloc_slice::<u8>(6 << 20).unwrap();
    let outcome = goumemctl_with(daemon.socket(), "put frames greeting", &vec![1; 4 << 20]);
    insta::assert_snapshot!(said(&outcome));
}

#[test]
fn the_daemons_budget_is_said_with_its_pools() {
    let daemon = TestDaemon::start_with(|config| config.limits.budget_bytes = Some(16 * MIB));
    let client = daemon.client();
    let pool = client
        .create_pool("frames", PoolOptions::new(64 * MIB))
        .unwrap();
    let _block = pool.alloc_slice::<u8>(12 << 20).unwrap();
    let outcome = goumemctl_with(daemon.socket(), "put frames greeting", &vec![1; 8 << 20]);
    assert_eq!(outcome.code, Some(1));
    // How much the tables take is the daemon's to change.
    for text in [
        "error: the daemon's budget is spent: asked 8.",
        " MiB of 16 MiB, ",
        "  held by: pool frames (uid ",
        "  try:     goumemctl top --once   |   goumemd --budget 32MiB",
    ] {
        assert!(
            outcome.stderr.contains(text),
            "{text:?} in {}",
            outcome.stderr
        );
    }
}

#[test]
fn what_is_not_there_and_what_is_there_already() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    client
        .create_pool("frames", PoolOptions::new(8 * MIB))
        .unwrap();
    assert_eq!(
        goumemctl_with(daemon.socket(), "put frames greeting", b"hello").code,
        Some(0)
    );
    let run = |line: &str| said(&goumemctl_with(daemon.socket(), line, b"again"));
    let all = [
        "pool stat none",
        "arena ls frames",
        "get frames none",
        "pool create frames 8MiB",
        "pool create frames 16MiB --exist-ok",
        "put frames greeting",
        "pool set-capacity frames 1GiB",
        "pool flush frames",
        "session kill 999",
        "block free gm1-ffffffff000000000010000000000101",
        "pool create no/name 1MiB",
    ]
    .map(|line| format!("$ goumemctl {line}\n{}", run(line)))
    .join("\n");
    insta::assert_snapshot!(all);
}

#[test]
fn too_many_pools_are_said_with_the_largest() {
    let daemon = TestDaemon::start_with(|config| config.limits.max_pools = 1);
    let client = daemon.client();
    client
        .create_pool("frames", PoolOptions::new(8 * MIB))
        .unwrap();
    let outcome = goumemctl(daemon.socket(), "pool create more 1MiB");
    for text in [
        "there are 1 pools and arena pools, and no more may be",
        "held by: pool frames",
        "goumemd --max-pools 2",
    ] {
        assert!(
            outcome.stderr.contains(text),
            "{text:?} in {}",
            outcome.stderr
        );
    }
}

#[test]
fn an_error_as_json_and_yaml_has_the_same_in_it() {
    let daemon = TestDaemon::start();
    let outcome = goumemctl(daemon.socket(), "pool stat none -o json");
    let value: serde_json::Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!(value["error"]["reason"], "POOL_NOT_FOUND");
    assert_eq!(value["error"]["exit_code"], 3);
    assert_eq!(value["error"]["try"][0], "goumemctl pool ls");
    let outcome = goumemctl(daemon.socket(), "pool stat none -o yaml");
    assert!(
        outcome.stderr.contains("  reason: \"POOL_NOT_FOUND\"\n"),
        "{outcome:?}"
    );
}

#[test]
fn ping_is_a_health_check() {
    let daemon = TestDaemon::start();
    let alive = goumemctl(daemon.socket(), "ping -o json");
    assert_eq!(alive.code, Some(0));
    assert!(alive.json()["median_ms"].as_f64().unwrap() > 0.0);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let dead = goumemctl(&socket, "ping --timeout 5s");
    assert_eq!(dead.code, Some(5));
    let text = dead
        .stderr
        .replace(&*socket.display().to_string(), "SOCKET");
    insta::assert_snapshot!(text);
}

//! `doctor` on the machine that the tests run on, with a daemon and without.

use harness::TestDaemon;

use crate::run::goumemctl;

#[test]
fn a_daemon_that_answers_is_ok() {
    let daemon = TestDaemon::start();
    let outcome = goumemctl(daemon.socket(), "doctor -o json");
    let report = outcome.json();
    let findings = report["findings"].as_array().unwrap();
    let level = |check: &str| {
        let mut found = findings.iter().filter(|finding| finding["check"] == check);
        found.next().map(|finding| finding["level"].clone())
    };
    assert_eq!(level("daemon"), Some("ok".into()), "{report:#}");
    assert_eq!(level("version"), Some("ok".into()), "{report:#}");
    assert_eq!(level("kernel"), Some("ok".into()), "{report:#}");
    // The machine may have a problem of its own: the exit code says the same as the report.
    let problems = report["problems"].as_u64().unwrap();
    assert_eq!(outcome.code, Some(i32::from(problems > 0)), "{report:#}");
}

#[test]
fn without_a_daemon_there_is_a_problem_and_a_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let outcome = goumemctl(&socket, "doctor");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""));
    let listen = format!("goumemd --listen {}", socket.display());
    for text in ["problem  daemon", &listen, "1 problems"] {
        assert!(outcome.stdout.contains(text), "{text:?} in {outcome:?}");
    }
}

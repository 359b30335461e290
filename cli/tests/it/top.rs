//! `top` in a terminal: it shows what there is, reacts to keys, outlives the daemon, and leaves the
//! terminal as it was.

use goumem::PoolOptions;
use harness::TestDaemon;
use rustix::process::Signal;

use crate::run::goumemctl;
use crate::terminal::InTerminal;

const MIB: u64 = 1 << 20;

#[test]
fn it_shows_the_pools_and_q_leaves_a_clean_terminal() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client
        .create_pool("frames", PoolOptions::new(8 * MIB))
        .unwrap();
    let _block = pool.alloc_slice::<u8>(2 << 20).unwrap();
    let mut top = InTerminal::start(daemon.socket(), "top", 80, 24);
    top.until_it_shows("frames");
    top.until_it_shows("8 MiB");
    top.forget();
    top.press("3");
    // What a session is called; this test's client calls itself so.
    top.until_it_shows("test");
    top.press("?");
    top.until_it_shows("┌ keys");
    top.press("q");
    let status = top.ends_cleanly();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn signals_end_it_with_a_clean_terminal() {
    let daemon = TestDaemon::start();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut top = InTerminal::start(daemon.socket(), "top", 80, 24);
        top.until_it_shows("Sessions");
        top.signal(signal);
        assert_eq!(top.ends_cleanly().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn it_outlives_the_daemon_and_shows_the_next_one() {
    let daemon = TestDaemon::start();
    let socket = daemon.socket().to_owned();
    let mut top = InTerminal::start(&socket, "top --interval 250ms", 120, 24);
    top.until_it_shows("Sessions");
    let daemon = daemon.restart_after(|| top.until_it_shows("disconnected"));
    let client = daemon.client();
    client
        .create_pool("afterwards", PoolOptions::new(MIB))
        .unwrap();
    top.until_it_shows("afterwards");
    top.press("\u{3}"); // Ctrl-C
    assert_eq!(top.ends_cleanly().code(), Some(0));
}

#[test]
fn one_look_is_a_table_or_json_and_needs_no_terminal() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client
        .create_pool("frames", PoolOptions::new(8 * MIB))
        .unwrap();
    let _block = pool.alloc_slice::<u8>(2 << 20).unwrap();
    client
        .create_arena_pool("batches", goumem::ArenaPoolOptions::new(4, 4096))
        .unwrap();
    let once = goumemctl(daemon.socket(), "top --once");
    assert_eq!((once.code, once.stderr.as_str()), (Some(0), ""));
    for text in ["frames", "batches", "CAPACITY", "8 MiB", "test"] {
        assert!(once.stdout.contains(text), "{text} in {once:?}");
    }
    let once = goumemctl(daemon.socket(), "top --once -o json --interval 20ms").json();
    assert_eq!(once["pools"][0]["name"], "frames");
    assert_eq!(once["pools"][0]["capacity_bytes"], 8 * MIB);
    assert!(once["pools"][0]["held_bytes"].as_u64().unwrap() >= 2 * MIB);
    assert_eq!(once["pools"][0]["change_bytes_per_second"], 0);
    assert_eq!(once["arena_pools"][0]["free"], 4);
    let without = goumemctl(daemon.socket(), "top");
    assert_eq!(without.code, Some(2));
    assert!(
        without.stderr.contains("goumemctl top --once"),
        "{without:?}"
    );
}

#[test]
fn without_a_daemon_it_says_so_in_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    for line in ["top", "top --once"] {
        let outcome = goumemctl(&socket, line);
        let screen = InTerminal::start(&socket, line, 80, 24);
        screen.until_it_shows("no goumemd answers at");
        assert_eq!(outcome.stdout, "");
    }
    assert_eq!(goumemctl(&socket, "top --once").code, Some(5));
}

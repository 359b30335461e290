//! The end of a daemon that is told to end.

use std::time::{Duration, Instant};

use goumem::Reason;
use goumem_proto::v1;
use harness::{DaemonProcess, PATIENCE, Rpc, Setup, call, eventually};
use rustix::process::Signal;
use tokio_stream::StreamExt as _;

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

fn start(args: &[&str]) -> DaemonProcess {
    let args = [&["--log-level", "info"], args].concat();
    DaemonProcess::start_with(PUPPETS, &Setup::default(), &args).unwrap()
}

/// Begins a call that never ends by itself: a write whose next piece does not come.
fn begin_an_endless_call(rpc: &Rpc) -> tokio::task::JoinHandle<bool> {
    let pool_id = rpc.create_pool("p", MIB);
    let first = v1::WriteRequest {
        handle: Some(rpc.alloc(pool_id, 100).unwrap()),
        offset_bytes: 0,
        data: vec![1].into(),
    };
    let pieces = tokio_stream::once(first).chain(tokio_stream::pending());
    let (mut bytes, request) = (rpc.bytes(), rpc.with(pieces));
    let writing = harness::rpc::spawn(async move { bytes.write(request).await.is_err() });
    // Another call on the same connection, which comes after it.
    rpc.alloc(pool_id, 100).unwrap();
    writing
}

#[test]
fn drain_ends_when_the_last_call_does_and_says_so() {
    let mut daemon = start(&[]);
    let rpc = daemon.rpc();
    let arenas = rpc.create_arena_pool("a", 1, 4096);
    rpc.get_arena(arenas, 0).unwrap();
    let waiting = {
        let rpc = rpc.clone();
        std::thread::spawn(move || rpc.get_arena(arenas, 60_000))
    };
    eventually(PATIENCE, "a call waits", || {
        rpc.arena_stat("a").waiting == 1
    });
    daemon.puppet().signal(Signal::TERM);
    // Who waits for what will not come is told, and need not be waited for.
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::ShuttingDown);
    assert!(daemon.puppet().ended().success());
    let log = daemon.log();
    for said in [
        "SIGTERM",
        "draining",
        "drained: every call has ended",
        "ended",
    ] {
        assert!(log.contains(said), "{said} is missing: {log}");
    }
    assert!(!daemon.socket().exists());
}

#[test]
fn deadline_cuts_off_what_is_left_and_says_so() {
    let mut daemon = start(&["--drain-deadline", "200ms"]);
    let rpc = daemon.rpc();
    let writing = begin_an_endless_call(&rpc);
    daemon.puppet().signal(Signal::TERM);
    assert!(daemon.puppet().ended().success());
    assert!(
        daemon.log().contains("deadline has passed"),
        "{}",
        daemon.log()
    );
    assert!(harness::rpc::wait(writing).unwrap(), "the call has failed");
}

#[test]
fn second_signal_ends_it_at_once() {
    let mut daemon = start(&["--drain-deadline", "1h"]);
    let rpc = daemon.rpc();
    let writing = begin_an_endless_call(&rpc);
    daemon.puppet().signal(Signal::TERM);
    eventually(PATIENCE, "it drains", || daemon.log().contains("draining"));
    let begun = Instant::now();
    daemon.puppet().signal(Signal::TERM);
    let status = daemon.puppet().ended();
    assert_eq!(status.code(), Some(130), "{}", daemon.log());
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(daemon.log().contains("ending at once"));
    assert!(harness::rpc::wait(writing).unwrap());
}

#[test]
fn client_goes_on_with_the_next_daemon_and_keeps_what_it_has() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {}", 8 * MIB));
    alice.must("alloc p a 1000 7");
    daemon.puppet().signal(Signal::TERM);
    assert!(daemon.puppet().ended().success());
    // Inside her lease she needs nobody.
    alice.must("alloc p b 1000 8");
    let daemon = daemon.next(PUPPETS);
    alice.must(&format!("alloc p c {} 9", 2 * MIB));
    for (key, fill) in [("a", 7), ("b", 8), ("c", 9)] {
        alice.must(&format!("check {key} {fill}"));
    }
    let rpc = daemon.rpc();
    assert_eq!((rpc.info().pools, rpc.info().sessions), (1, 2));
}

#[test]
fn client_of_a_daemon_that_kept_nothing_gets_a_typed_error() {
    let mut daemon = start(&[]);
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {}", 8 * MIB));
    alice.must("alloc p a 1000 7");
    daemon.puppet().signal(Signal::TERM);
    assert!(daemon.puppet().ended().success());
    let daemon = daemon.next(PUPPETS);
    let error = alice.ask(&format!("alloc p b {} 8", 4 * MIB)).unwrap_err();
    let typed = ["POOL_NOT_FOUND: pool p is lost", "SESSION_EXPIRED"];
    assert!(
        typed.iter().any(|typed| error.starts_with(typed)),
        "{error}"
    );
    alice.must("check a 7");
    let rpc = daemon.rpc();
    let stat = v1::StatPoolRequest {
        name: "p".to_owned(),
    };
    assert_eq!(
        call!(rpc, pools.stat(stat)).unwrap_err().reason,
        Reason::PoolNotFound
    );
}

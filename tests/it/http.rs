//! What the HTTP socket shows to whom, and that it goes on while the daemon drains.

use std::io::{Read as _, Write as _};
use std::path::Path;

use goumem_proto::v1;
use harness::{DaemonProcess, PATIENCE, Setup, call, eventually, http_connect, http_get as get};
use rustix::process::Signal;
use serde_json::Value;
use tokio_stream::StreamExt as _;

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

fn json(grpc_socket: &Path, path: &str) -> Value {
    let (status, body) = get(grpc_socket, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn map_and_observation_show_blocks_with_their_owners_and_names() {
    let daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must("open-pool p rw");
    alice.must("alloc p a 1000 7");
    alice.must("share a");
    alice.must("publish a theirs");
    rpc.alloc(pool_id, 100).unwrap();

    let seen = json(daemon.socket(), "/api/v1/observation");
    let pool = &seen["pools"][0];
    assert_eq!(
        (&pool["blocks"], &pool["named_blocks"]),
        (&2.into(), &1.into())
    );
    let map = json(daemon.socket(), "/api/v1/pools/p/map");
    let columns = |part: &str, names: &[&str]| {
        let lengths: Vec<_> = names
            .iter()
            .map(|name| map[part][name].as_array().unwrap().len())
            .collect();
        assert!(lengths.iter().all(|len| *len == lengths[0]), "{lengths:?}");
        lengths[0]
    };
    let blocks = [
        "offset_bytes",
        "size_bytes",
        "used_bytes",
        "state",
        "pinned",
        "session",
    ];
    assert_eq!(columns("blocks", &blocks), 2);
    let runs = [
        "first_page",
        "pages",
        "state",
        "session",
        "block_bytes",
        "slots",
        "exported_blocks",
        "leased_at_ms",
    ];
    columns("runs", &runs);
    let sizes: Vec<u64> = serde_json::from_value(map["blocks"]["size_bytes"].clone()).unwrap();
    let named = sizes.iter().position(|size| *size == 1000).unwrap();
    assert_eq!(map["blocks"]["names"][named.to_string()], "theirs");
    assert_eq!(map["block_states"][1], "kept");
    assert_eq!(map["blocks"]["state"][named], 1);
    // All pages are there, in order and without gaps, and blocks lie in pages that are held.
    let ints =
        |name: &str| -> Vec<u64> { serde_json::from_value(map["runs"][name].clone()).unwrap() };
    let (first, pages, states) = (ints("first_page"), ints("pages"), ints("state"));
    let mut next = 0;
    for (first, pages) in first.iter().zip(&pages) {
        assert_eq!(*first, next);
        next += pages;
    }
    assert_eq!(map["total_pages"], next);
    let offsets: Vec<u64> = serde_json::from_value(map["blocks"]["offset_bytes"].clone()).unwrap();
    for offset in offsets {
        let run = first.partition_point(|first| first * 65_536 <= offset) - 1;
        assert!(
            [2, 3].contains(&states[run]),
            "state {} of run {run}",
            states[run]
        );
    }
}

#[test]
fn live_page_is_told_of_an_allocation_when_it_happens() {
    let daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let mut socket = http_connect(daemon.socket());
    socket
        .write_all(b"GET /api/v1/pools/p/live HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    let mut until = |what: &str| {
        while !text.contains(what) {
            let mut piece = [0; 4096];
            let n = socket.read(&mut piece).unwrap();
            assert_ne!(n, 0, "ended before {what}: {text}");
            text.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    };
    until("event: map");
    until("\"size_bytes\":[]");
    rpc.alloc(pool_id, 12_345).unwrap();
    until("\"size_bytes\":[12345]");
    until("\"blocks\":1,");
    let destroy = v1::DestroyPoolRequest {
        name: "p".to_owned(),
        request_id: 0,
    };
    call!(rpc, pools.destroy(destroy)).unwrap();
    until("event: gone");
}

#[test]
fn readiness_is_over_while_a_drain_goes_on_and_life_is_not() {
    let args = ["--drain-deadline", "1h", "--log-level", "info"];
    let mut daemon = DaemonProcess::start_with(PUPPETS, &Setup::default(), &args).unwrap();
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    // A write whose next piece does not come: the drain waits for it.
    let first = v1::WriteRequest {
        handle: Some(rpc.alloc(pool_id, 100).unwrap()),
        offset_bytes: 0,
        data: vec![1].into(),
    };
    let pieces = tokio_stream::once(first).chain(tokio_stream::pending());
    let (mut bytes, request) = (rpc.bytes(), rpc.with(pieces));
    let writing = harness::rpc::spawn(async move { bytes.write(request).await.is_err() });
    rpc.alloc(pool_id, 100).unwrap();
    assert_eq!(get(daemon.socket(), "/readyz"), (200, "ok\n".to_owned()));
    daemon.puppet().signal(Signal::TERM);
    let socket = daemon.socket().to_owned();
    eventually(PATIENCE, "it is not ready any more", || {
        get(&socket, "/readyz") == (503, "draining\n".to_owned())
    });
    assert_eq!(get(&socket, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get(&socket, "/api/v1/observation").0, 503);
    daemon.puppet().signal(Signal::TERM);
    assert_eq!(daemon.puppet().ended().code(), Some(130));
    assert!(harness::rpc::wait(writing).unwrap());
}

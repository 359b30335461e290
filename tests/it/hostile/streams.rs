//! Streams whose reader has fallen asleep.

use goumem_proto::v1;
use goumem_proto::v1::control_request::Call;
use harness::rpc::wait;
use tokio_stream::StreamExt as _;

use super::*;

/// What the daemon may set aside for replies that nobody reads: a window of each connection.
const SET_ASIDE: u64 = 128 * MIB;

#[test]
fn reads_that_nobody_reads_cost_a_window_and_hold_up_nobody() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", 32 * MIB);
    let block = rpc.alloc(pool_id, 16 * MIB).unwrap();
    rpc.write(block, 0, &vec![1; 1 << 20]).unwrap();
    let before = private_bytes_of(&mut daemon);
    // 16 connections, on each of them 16 reads of 16 MiB: 4 GiB if all of it were got ready.
    let mut streams = Vec::new();
    for _ in 0..16 {
        let rpc = daemon.rpc();
        for _ in 0..16 {
            let read = v1::ReadRequest {
                handle: Some(block),
                ..Default::default()
            };
            let stream = wait(rpc.bytes().read(rpc.with(read))).unwrap();
            streams.push(stream.into_inner());
        }
    }
    others_are_served(daemon.socket());
    let set_aside = private_bytes_of(&mut daemon).saturating_sub(before);
    assert!(set_aside < SET_ASIDE, "{set_aside} bytes set aside");
    // One that wakes up gets what it asked for, once the rest of its connection is out of the way.
    let mut stream = streams.swap_remove(100);
    drop(streams);
    let mut n_bytes = 0;
    while let Some(piece) = wait(stream.next()) {
        n_bytes += piece.unwrap().data.len() as u64;
    }
    assert_eq!(n_bytes, 16 * MIB);
    daemon.is_well();
}

#[test]
fn events_and_control_replies_that_nobody_reads_hold_up_nobody() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let handle = rpc.alloc(pool_id, 100).unwrap();
    let before = private_bytes_of(&mut daemon);
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let rpc = daemon.rpc();
        let events = wait(rpc.sessions().events(rpc.with(v1::EventsRequest {})));
        // Calls without an end, as fast as they are taken, each with a long answer: a refusal.
        let calls = (1..).map(move |sequence| v1::ControlRequest {
            sequence,
            call: Some(Call::Unpin(v1::HandleRequest {
                handle: Some(handle),
                request_id: sequence,
            })),
            traceparent: String::new(),
        });
        let control = rpc.with(tokio_stream::iter(calls));
        let control = wait(rpc.sessions().control(control)).unwrap();
        deaf.push((events.unwrap(), control));
    }
    // Events for all of them, more than one each.
    for round in 0..20 {
        let name = format!("short-lived-{round}");
        rpc.create_pool(&name, MIB);
        let destroy = v1::DestroyPoolRequest {
            name,
            request_id: 0,
        };
        harness::call!(rpc, pools.destroy(destroy)).unwrap();
    }
    others_are_served(daemon.socket());
    let set_aside = private_bytes_of(&mut daemon).saturating_sub(before);
    assert!(set_aside < SET_ASIDE, "{set_aside} bytes set aside");
    drop(deaf);
    daemon.is_well();
}

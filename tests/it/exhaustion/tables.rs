//! Tables with a last row.

use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use harness::rpc::wait;
use tokio_stream::StreamExt as _;

use super::*;

#[test]
fn full_table_of_pools_refuses_with_its_limit_and_takes_the_next_when_one_goes() {
    let daemon = TestDaemon::start_with(|config| config.limits.max_pools = 3);
    let rpc = daemon.rpc();
    rpc.create_pool("a", MIB);
    rpc.create_pool("b", MIB);
    rpc.create_arena_pool("c", 1, 4096);
    for backing in [v1::Backing::Memfd, v1::Backing::Named, v1::Backing::File] {
        let error = create(&rpc, "d", backing, MIB).unwrap_err();
        assert_eq!(error.reason, Reason::TooManyPools, "{error}");
        assert_eq!(error.number("limit"), Some(3));
    }
    assert_eq!((rpc.info().pools, rpc.info().arena_pools), (2, 1));
    destroy(&rpc, "b");
    create(&rpc, "d", v1::Backing::File, MIB).unwrap();
}

/// Names, kept blocks and pins of a pool share one table of 65 536 rows.
#[test]
fn full_table_of_records_refuses_with_its_limit_and_takes_the_next_when_one_goes() {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", 16 * MIB);
    let on = |handle| v1::HandleRequest {
        handle: Some(handle),
        request_id: 0,
    };
    let spec = v1::BlockSpec {
        size_bytes: 16,
        count: 65_536,
        ..Default::default()
    };
    let batch = v1::AllocBatchRequest {
        pool_id,
        specs: vec![spec],
        request_id: 0,
    };
    let blocks = call!(rpc, pools.alloc_batch(batch)).unwrap().handles;
    let more = rpc.alloc(pool_id, 16).unwrap();
    // On one stream: as many calls of their own take a minute in a debug build.
    let requests: Vec<_> = (1..)
        .zip(&blocks)
        .map(|(sequence, &handle)| v1::ControlRequest {
            traceparent: String::new(),
            sequence,
            call: Some(Call::Keep(on(handle))),
        })
        .collect();
    let n_kept = wait(async {
        let requests = rpc.with(tokio_stream::iter(requests));
        let replies = rpc.sessions().control(requests).await.unwrap();
        let kept = replies.into_inner().filter(|reply| {
            let outcome = reply.as_ref().ok().and_then(|reply| reply.outcome.as_ref());
            matches!(outcome, Some(Outcome::Block(_)))
        });
        kept.fold(0, |n, _| n + 1).await
    });
    assert_eq!(n_kept, 65_536);
    let error = call!(rpc, pools.keep(on(more))).unwrap_err();
    assert_eq!(error.reason, Reason::TooManyRecords, "{error}");
    assert_eq!(error.number("limit"), Some(65_536));
    let before = rpc.stat("p");
    // Names and pins are refused as well, and nothing is half done.
    let publish = v1::PublishRequest {
        handle: Some(more),
        name: "n".to_owned(),
        ..Default::default()
    };
    let error = call!(rpc, pools.publish(publish.clone())).unwrap_err();
    assert_eq!(error.reason, Reason::TooManyRecords, "{error}");
    let error = call!(rpc, pools.pin(on(more))).unwrap_err();
    assert_eq!(error.reason, Reason::TooManyRecords, "{error}");
    assert_eq!(rpc.stat("p"), before);
    // Blocks need no record, and a record that is given up can be had again.
    let block = rpc.alloc(pool_id, 100).unwrap();
    rpc.free(block).unwrap();
    rpc.free(blocks[0]).unwrap();
    call!(rpc, pools.publish(publish)).unwrap();
}

#[test]
fn full_table_of_sessions_refuses_with_its_limit_and_takes_the_next_when_one_goes() {
    let daemon = TestDaemon::start_with(|config| config.limits.max_sessions = 2);
    let (alice, bob) = (daemon.rpc(), daemon.rpc());
    let pool = alice.create_pool("p", MIB);
    let carol = Rpc::connect(daemon.socket());
    let open = || call!(carol, sessions.open(v1::OpenSessionRequest::default()));
    let error = open().unwrap_err();
    assert_eq!(error.reason, Reason::TooManySessions, "{error}");
    assert_eq!(error.number("limit"), Some(2));
    // The library says the same, and both who are there go on.
    let error = goumem::blocking::Client::builder()
        .socket(daemon.socket())
        .connect()
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::TooManySessions));
    alice.free(bob.alloc(pool, 100).unwrap()).unwrap();
    let close = v1::CloseSessionRequest { force: true };
    call!(bob, sessions.close(close)).unwrap();
    open().unwrap();
}

//! A call that is sent again happens once: request ids over the wire.

use std::thread;

use goumem::Reason;
use goumem_proto::v1;
use harness::{Rpc, TestDaemon, call};

const MIB: u64 = 1 << 20;

/// How many outcomes a session remembers, at least.
const REMEMBERED: u64 = 1024;

fn scene() -> (TestDaemon, Rpc, u32) {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", 8 * MIB);
    (daemon, rpc, pool_id)
}

fn alloc(pool_id: u32, size_bytes: u64, request_id: u64) -> v1::AllocRequest {
    v1::AllocRequest {
        pool_id,
        spec: Some(v1::BlockSpec {
            size_bytes,
            ..Default::default()
        }),
        request_id,
    }
}

fn on(handle: v1::Handle, request_id: u64) -> v1::HandleRequest {
    v1::HandleRequest {
        handle: Some(handle),
        request_id,
    }
}

#[test]
fn alloc_that_is_sent_again_gets_the_same_block() {
    let (daemon, rpc, pool_id) = scene();
    let first = call!(rpc, pools.alloc(alloc(pool_id, 100, 1))).unwrap();
    let again = call!(rpc, pools.alloc(alloc(pool_id, 100, 1))).unwrap();
    assert_eq!(first, again);
    // On another connection too, as after one that broke.
    let resumed = Rpc::connect(daemon.socket()).with_token(rpc.token.clone());
    let reply = call!(resumed, sessions.resume(v1::ResumeSessionRequest {})).unwrap();
    assert_eq!((reply.session, reply.highest_request_id), (rpc.session, 1));
    assert_eq!(
        call!(resumed, pools.alloc(alloc(pool_id, 100, 1))).unwrap(),
        first
    );
    assert_eq!(rpc.stat("p").blocks, 1);
    // Without an id it is another call.
    call!(rpc, pools.alloc(alloc(pool_id, 100, 0))).unwrap();
    call!(rpc, pools.alloc(alloc(pool_id, 100, 0))).unwrap();
    assert_eq!(rpc.stat("p").blocks, 3);
    // And ids are each session's own.
    let other = daemon.rpc();
    let theirs = call!(other, pools.alloc(alloc(pool_id, 100, 1))).unwrap();
    assert_ne!(theirs, first);
}

#[test]
fn every_effect_happens_once() {
    let (_daemon, rpc, pool_id) = scene();
    let twice = |call: &dyn Fn()| {
        call();
        call();
    };
    let block = rpc.alloc(pool_id, 100).unwrap();
    twice(&|| assert!(call!(rpc, pools.pin(on(block, 1))).is_ok()));
    assert_eq!(rpc.stat("p").pins, 1);
    twice(&|| assert!(call!(rpc, pools.unpin(on(block, 2))).is_ok()));
    assert_eq!(rpc.stat("p").pins, 0);
    twice(&|| assert!(call!(rpc, pools.keep(on(block, 3))).is_ok()));
    assert_eq!(rpc.stat("p").kept_blocks, 1);

    let taken = call!(rpc, pools.take(on(block, 4)))
        .unwrap()
        .handle
        .unwrap();
    let again = call!(rpc, pools.take(on(block, 4)))
        .unwrap()
        .handle
        .unwrap();
    assert_eq!(taken, again, "not taken a second time");
    rpc.read(taken, 0, 0).unwrap();
    let free = || {
        let free = v1::FreeRequest {
            handle: Some(taken),
            request_id: 5,
        };
        call!(rpc, pools.free(free)).unwrap();
    };
    twice(&free);
    assert_eq!(
        rpc.free(taken).unwrap_err().reason,
        Reason::DoubleFree,
        "another call is told"
    );

    let batch = || {
        let batch = v1::AllocBatchRequest {
            pool_id,
            specs: vec![v1::BlockSpec {
                size_bytes: 100,
                count: 10,
                ..Default::default()
            }],
            request_id: 6,
        };
        call!(rpc, pools.alloc_batch(batch)).unwrap().handles
    };
    assert_eq!(batch(), batch());
    assert_eq!(rpc.stat("p").blocks, 10);
    let free_batch = || {
        let free = v1::FreeBatchRequest {
            handles: batch(),
            request_id: 7,
        };
        call!(rpc, pools.free_batch(free)).unwrap()
    };
    assert_eq!(free_batch().freed, 10);
    assert_eq!(free_batch().freed, 10, "the same answer");

    let lease = || {
        let lease = v1::LeaseRequest {
            pool_id,
            size_class: 20,
            count: 2,
            request_id: 8,
            ..Default::default()
        };
        call!(rpc, pools.lease(lease)).unwrap().spans
    };
    let spans = lease();
    assert_eq!(lease(), spans);
    let give_back = || {
        let give_back = v1::ReturnSpansRequest {
            pool_id,
            spans: spans.clone(),
            request_id: 9,
        };
        call!(rpc, pools.return_spans(give_back)).unwrap().returned
    };
    assert_eq!((give_back(), give_back()), (2, 2));

    let create = || {
        let create = v1::CreatePoolRequest {
            name: "made".to_owned(),
            capacity_bytes: MIB,
            request_id: 10,
            ..Default::default()
        };
        call!(rpc, pools.create(create)).unwrap()
    };
    assert_eq!(create(), create(), "and it does not exist already");
    let destroy = || {
        let destroy = v1::DestroyPoolRequest {
            name: "made".to_owned(),
            request_id: 11,
        };
        call!(rpc, pools.destroy(destroy)).unwrap();
    };
    twice(&destroy);
}

#[test]
fn arena_calls_happen_once() {
    let (_daemon, rpc, _) = scene();
    let pool_id = rpc.create_arena_pool("q", 2, 4096);
    for (wait_ms, request_id) in [(0, 1), (1000, 2)] {
        let get = || {
            let get = v1::GetArenaRequest {
                pool_id,
                wait_ms,
                request_id,
            };
            call!(rpc, arenas.get(get)).unwrap().arena.unwrap()
        };
        assert_eq!(get(), get());
    }
    assert_eq!(rpc.arena_stat("q").exclusive, 2);
    let get = v1::GetArenaRequest {
        pool_id,
        wait_ms: 0,
        request_id: 1,
    };
    let arena = call!(rpc, arenas.get(get)).unwrap().arena.unwrap();
    let put = || {
        let alloc = v1::ArenaAllocRequest {
            arena: Some(arena),
            size_bytes: 100,
            align_bytes: 0,
            request_id: 3,
        };
        call!(rpc, arenas.alloc(alloc)).unwrap().handle.unwrap()
    };
    assert_eq!(put(), put());
    assert_eq!(rpc.arena_stat("q").used_bytes, 112);
    let share = || {
        let share = v1::ShareArenaRequest {
            arena: Some(arena),
            name: "x".to_owned(),
            request_id: 4,
        };
        call!(rpc, arenas.share(share)).unwrap()
    };
    assert_eq!(share(), share());
    let detach = || {
        let detach = v1::DetachArenaRequest {
            arena: Some(arena),
            request_id: 5,
        };
        call!(rpc, arenas.detach(detach)).unwrap().returned
    };
    assert_eq!((detach(), detach()), (true, true));
    assert_eq!(rpc.arena_stat("q").free, 1);
}

#[test]
fn refusal_is_final_for_its_id() {
    let (_daemon, rpc, pool_id) = scene();
    let error = call!(rpc, pools.alloc(alloc(pool_id, 100 * MIB, 1))).unwrap_err();
    assert_eq!(error.reason, Reason::PoolExhausted);
    // Whatever has changed since.
    let error = call!(rpc, pools.alloc(alloc(pool_id, 100, 1))).unwrap_err();
    assert_eq!(error.reason, Reason::RequestExpired);
    call!(rpc, pools.alloc(alloc(pool_id, 100, 2))).unwrap();
    // An id belongs to one kind of call.
    let lookup = v1::PublishRequest {
        handle: None,
        name: "x".to_owned(),
        replace: false,
        request_id: 3,
    };
    let error = call!(rpc, pools.publish(lookup)).unwrap_err();
    assert_eq!(
        error.reason,
        Reason::InvalidField,
        "refused before it was looked at"
    );
    call!(rpc, pools.alloc(alloc(pool_id, 100, 3))).unwrap();
    let error = call!(rpc, pools.pin(on(rpc.alloc(pool_id, 1).unwrap(), 3))).unwrap_err();
    assert_eq!(error.reason, Reason::RequestExpired);
}

#[test]
fn id_that_is_too_old_to_be_known_is_refused() {
    let (_daemon, rpc, pool_id) = scene();
    let first = call!(rpc, pools.alloc(alloc(pool_id, 16, 1))).unwrap();
    // Out of their order, as calls in flight arrive.
    for id in [5, 3, 4, 2] {
        call!(rpc, pools.alloc(alloc(pool_id, 16, id))).unwrap();
    }
    assert_eq!(
        call!(rpc, pools.alloc(alloc(pool_id, 16, 1))).unwrap(),
        first
    );
    call!(rpc, pools.alloc(alloc(pool_id, 16, 5 + 2 * REMEMBERED))).unwrap();
    let before = rpc.stat("p").blocks;
    for id in 1..=5 {
        let error = call!(rpc, pools.alloc(alloc(pool_id, 16, id))).unwrap_err();
        assert_eq!(error.reason, Reason::RequestExpired);
        assert_eq!(error.number("highest"), Some(5 + 2 * REMEMBERED));
    }
    assert_eq!(rpc.stat("p").blocks, before);
}

#[test]
fn same_call_from_many_threads_at_once_has_one_effect() {
    let (_daemon, rpc, pool_id) = scene();
    for id in 1..=20 {
        let replies: Vec<_> = thread::scope(|scope| {
            let send = || {
                // One that is still being worked on says so, and is sent again.
                loop {
                    match call!(rpc, pools.alloc(alloc(pool_id, 500_000, id))) {
                        Err(error) if error.reason == Reason::RequestInFlight => {}
                        outcome => return outcome.unwrap(),
                    }
                }
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(send)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(replies.iter().all(|reply| *reply == replies[0]));
        assert_eq!(rpc.stat("p").blocks, 1);
        rpc.free(replies[0].block.unwrap().handle.unwrap()).unwrap();
    }
}

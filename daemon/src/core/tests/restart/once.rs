//! Calls that a kill cuts off, or whose replies it takes along: their retries are answered, finished
//! or refused, and nothing is done twice.

use goumem_proto::model::AllocBatch;
use goumem_shm::root::RequestOp;

use super::*;
use crate::session::Intent;

#[test]
fn every_call_is_answered_once_whether_its_reply_was_lost_or_not() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 2);
    let now = daemon.now;
    let mut ids = (1..).map(RequestId::new);
    let mut id = || ids.next().unwrap();
    let core = &daemon.core;
    let kept = daemon.alloc(&alice, pool, 100).unwrap();
    let freed = daemon.alloc(&alice, pool, 100).unwrap();
    let taken = daemon.alloc(&alice, pool, 100).unwrap();
    let created = CreatePool {
        request_id: id(),
        ..create("made", MIB)
    };
    let made = core.create_pool(&bob, created.clone(), now).unwrap();
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(500),
        request_id: id(),
    };
    let allocated = core.alloc(&bob, alloc, now).unwrap();
    let class = SpanSpec::Class(SizeClass::from_index(5).unwrap());
    let lease = Lease {
        pool_id: pool,
        spec: class,
        count: 3,
        request_id: id(),
    };
    let leased = core.lease(&bob, lease, now).unwrap();
    let keep = HandleRequest {
        handle: kept,
        request_id: id(),
    };
    core.keep(&alice, keep, now).unwrap();
    let free = Free {
        handle: freed,
        request_id: id(),
    };
    core.free(&bob, free, now).unwrap();
    let take = HandleRequest {
        handle: taken,
        request_id: id(),
    };
    let took = core.take(&bob, take, now).unwrap();
    let pin = HandleRequest {
        handle: kept,
        request_id: id(),
    };
    core.pin(&bob, pin, now).unwrap();
    let get = id();
    let arena = got(daemon.get(&bob, arenas, get));
    let share = id();
    let shared = daemon.share(&bob, arena, "a", share).unwrap();
    let attach = id();
    daemon.attach(&alice, arenas, "a", attach).unwrap();
    let withdrawn = {
        let handle = daemon.alloc(&bob, pool, 64).unwrap();
        daemon.publish(&bob, handle, "w").unwrap();
        Withdraw {
            pool_id: pool,
            name: BlockName::try_from("w").unwrap(),
            free: true,
            request_id: id(),
        }
    };
    let withdrew = core.withdraw(&bob, withdrawn.clone(), now).unwrap();
    let give = ReturnSpans {
        pool_id: pool,
        spans: vec![leased[0]],
        request_id: id(),
    };
    core.return_spans(&bob, give.clone(), now).unwrap();
    let blocks = daemon.stat(&alice, "p").blocks;

    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    let core = &daemon.core;
    let again = core.create_pool(&bob, created, now).unwrap();
    assert_eq!(
        (again.pool.pool_id, again.created),
        (made.pool.pool_id, true)
    );
    assert_eq!(core.alloc(&bob, alloc, now).unwrap(), allocated);
    let spans = core.lease(&bob, lease, now).unwrap();
    let mut firsts: Vec<_> = spans
        .iter()
        .map(|span| (span.first_page, span.epoch))
        .collect();
    firsts.sort_unstable();
    let mut left: Vec<_> = leased[1..]
        .iter()
        .map(|span| (span.first_page, span.epoch))
        .collect();
    left.sort_unstable();
    assert_eq!(firsts, left, "those that were not returned");
    core.keep(&alice, keep, now).unwrap();
    core.free(&bob, free, now).unwrap();
    assert_eq!(core.take(&bob, take, now).unwrap().handle, took.handle);
    core.pin(&bob, pin, now).unwrap();
    assert_eq!(got(daemon.get(&bob, arenas, get)), arena);
    assert_eq!(daemon.share(&bob, arena, "a", share).unwrap(), shared);
    daemon.attach(&alice, arenas, "a", attach).unwrap();
    assert_eq!(core.withdraw(&bob, withdrawn, now).unwrap(), withdrew);
    assert_eq!(core.return_spans(&bob, give, now).unwrap().returned, 1);
    assert_eq!(
        daemon.stat(&alice, "p").blocks,
        blocks,
        "nothing happened twice"
    );
    assert_eq!(core.list_pools(&bob).unwrap().len(), 2);
    // One pin, however often it was asked for.
    core.unpin(&bob, about(kept), now).unwrap();
    assert_eq!(
        reason(core.unpin(&bob, about(kept), now)),
        Reason::StaleHandle
    );
    daemon.check();
}

#[test]
fn a_call_that_had_not_begun_is_done_by_its_retry() {
    let (daemon, alice, bob, pool) = scene();
    let freed = daemon.alloc(&alice, pool, 100).unwrap();
    let core = &daemon.core;
    // A later id is known, so this one is a straggler.
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(500),
        request_id: RequestId::new(9),
    };
    core.alloc(&bob, alloc, daemon.now).unwrap();
    let (daemon, [bob]) = daemon.kill_and_restart([&bob]);
    let free = Free {
        handle: freed,
        request_id: ID,
    };
    daemon.core.free(&bob, free, daemon.now).unwrap();
    assert_eq!(
        reason(daemon.core.resolve(&bob, about(freed), daemon.now)),
        Reason::StaleHandle
    );
    // One from before everything that is known is refused.
    let session = bob.session.as_ref().unwrap();
    let far = Alloc {
        request_id: RequestId::new(1000),
        ..alloc
    };
    daemon.core.alloc(&bob, far, daemon.now).unwrap();
    let (daemon, [bob]) = {
        let _ = session;
        daemon.kill_and_restart([&bob])
    };
    let old = Free {
        handle: freed,
        request_id: RequestId::new(800),
    };
    assert_eq!(
        reason(daemon.core.free(&bob, old, daemon.now)),
        Reason::RequestExpired
    );
}

/// The notes that a daemon leaves which is killed in the middle, and as much of the effect.
#[test]
fn a_call_that_was_cut_off_is_finished_by_its_retry() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 2);
    let session = Arc::clone(bob.session.as_ref().unwrap());
    let class = SizeClass::from_index(5).unwrap();
    let spans = [(); 2].map(|()| daemon.lease(&bob, pool, class).unwrap()[0]);
    let freed = [(); 2].map(|()| daemon.alloc(&bob, pool, 100).unwrap());
    let lost = daemon.alloc(&bob, pool, 100).unwrap();
    let id = RequestId::new;
    // One of two spans was returned, one of two blocks freed.
    session.intend(id(1), Intent::of(RequestOp::ReturnSpans, pool));
    daemon.return_span(&bob, pool, spans[0]).unwrap();
    session.intend(id(2), Intent::of(RequestOp::FreeBatch, pool));
    daemon.free(&bob, freed[0]).unwrap();
    // The block of an Alloc was not exported yet.
    daemon.free(&bob, lost).unwrap();
    session.intend(id(3), Intent::about(RequestOp::Alloc, lost));
    // An arena was claimed for bob and not handed over; another for somebody who left no note.
    let memory = daemon.map_arenas(&bob, arenas, 2);
    let claimed = [(); 2].map(|()| {
        let daemon = goumem_alloc::SessionNumber::DAEMON;
        memory.try_get(daemon, 0).unwrap()
    });
    session.intend(id(4), Intent::about(RequestOp::GetArena, claimed[0]));
    // A batch got as far as nobody knows.
    session.intend(id(5), Intent::of(RequestOp::AllocBatch, pool));

    let (daemon, [bob]) = daemon.kill_and_restart([&bob]);
    let (core, now) = (&daemon.core, daemon.now);
    let give = ReturnSpans {
        pool_id: pool,
        spans: spans.to_vec(),
        request_id: id(1),
    };
    for _ in 0..2 {
        let returned = core.return_spans(&bob, give.clone(), now).unwrap();
        assert_eq!(returned.returned, 2);
    }
    let batch = FreeBatch {
        handles: freed.to_vec(),
        request_id: id(2),
    };
    let freed = core.free_batch(&bob, batch, now).unwrap();
    assert_eq!((freed.freed, freed.failures.len()), (2, 0));
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(100),
        request_id: id(3),
    };
    let block = core.alloc(&bob, alloc, now).unwrap().block.handle;
    core.resolve(&bob, about(block), now).unwrap();
    assert_eq!(got(daemon.get(&bob, arenas, id(4))), claimed[0]);
    assert_ne!(got(daemon.get(&bob, arenas, RequestId::NONE)), claimed[1]);
    let count = goumem_proto::model::CountedSpec {
        spec: spec(100),
        count: 2,
    };
    let batch = AllocBatch {
        pool_id: pool,
        specs: vec![count],
        request_id: id(5),
    };
    assert_eq!(
        reason(core.alloc_batch(&bob, batch, now)),
        Reason::RequestExpired
    );
    daemon.check();
    assert_eq!(daemon.stat(&bob, "p").blocks, 1);
}

/// A block's word has the same generation before its export as after it: the note of an Alloc that
/// had not exported it was taken for the export of somebody else, by the second daemon.
#[test]
fn a_note_that_came_to_nothing_is_not_believed_by_the_daemon_after_the_next() {
    let (daemon, alice, bob, pool) = scene();
    // The other one keeps their span.
    let [freed, _other] = [(); 2].map(|()| daemon.alloc(&alice, pool, 100).unwrap());
    daemon.free(&alice, freed).unwrap();
    let memory = daemon.map(&alice, pool);
    let next = memory.handle(freed.generation().next().unwrap(), freed.offset());
    let session = alice.session.as_ref().unwrap();
    session.intend(ID, Intent::about(RequestOp::Alloc, next).with(100));

    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    // Somebody is faster than her retry.
    let theirs: Vec<Handle> = (0..64)
        .map(|_| daemon.alloc(&bob, pool, 100).unwrap())
        .collect();
    assert!(theirs.contains(&next), "{theirs:?}");

    let (daemon, [alice, _]) = daemon.kill_and_restart([&alice, &bob]);
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(100),
        request_id: ID,
    };
    let hers = daemon.core.alloc(&alice, alloc, daemon.now).unwrap();
    assert!(!theirs.contains(&hers.block.handle));
    daemon.check();
}

//! Sessions: retries, and what their end leaves.

use super::*;

#[test]
fn a_retried_call_happens_once_and_an_old_one_is_expired() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let call = |id: u64| {
        let request_id = RequestId::new(id);
        let request = Alloc {
            pool_id: pool,
            spec: BlockSpec::new(64),
            request_id,
        };
        daemon
            .core
            .alloc(&alice, request, daemon.now)
            .map(|allocated| allocated.block.handle)
    };
    let first = call(1).unwrap();
    assert_eq!(call(1).unwrap(), first);
    assert_eq!(daemon.stat(&alice, "p").blocks, 1);
    assert_ne!(call(2000).unwrap(), first);
    assert_eq!(reason(call(1)), Reason::RequestExpired);
    let other_kind = Free {
        handle: first,
        request_id: RequestId::new(2000),
    };
    assert_eq!(
        reason(daemon.core.free(&alice, other_kind, daemon.now)),
        Reason::RequestExpired
    );
}

/// Its id was in flight for ever, and a retry asked again and again.
#[test]
fn a_call_that_panicked_is_not_made_again() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let session = alice.session.as_ref().unwrap();
    let id = RequestId::new(1);
    let call = || {
        session.once(id, || -> Result<(), Error> {
            std::panic::resume_unwind(Box::new(()))
        })
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    for _ in 0..2 {
        let retry = session.once(id, || -> Result<(), Error> { panic!("made again") });
        assert_eq!(reason(retry), Reason::RequestExpired);
    }
    session.once(RequestId::new(2), || Ok(())).unwrap();
}

#[test]
fn one_connection_may_have_several_sessions_each_told_of_its_death() {
    let daemon = Daemon::start();
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pidfd = Some(Arc::new(PidFd::open(child.id()).unwrap()));
    let alice = daemon.caller_of(Caller {
        pidfd,
        ..daemon.caller(1000)
    });
    let bob = daemon.caller_of(alice.clone());
    let [first, second] = [&alice, &bob].map(|caller| caller.session.as_ref().unwrap().serial);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut dead = Vec::new();
    while dead.len() < 2 {
        let more = daemon
            .core
            .watch
            .wait(Some(Duration::from_secs(10)))
            .unwrap();
        assert!(
            !more.is_empty(),
            "only {dead:?} reported within ten seconds"
        );
        dead.extend(more);
    }
    dead.sort_unstable();
    assert_eq!(dead, [first, second]);
}

#[test]
fn everything_a_dead_session_held_comes_back_and_what_is_kept_stays() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", 8 * MIB);
    let baseline = daemon.stat(&bob, "p");
    for size in [16, 1000, 80_000, 2 * MIB] {
        daemon.alloc(&alice, pool, size).unwrap();
    }
    let named = daemon.alloc(&alice, pool, 500).unwrap();
    daemon.core.write_bytes(&alice, named, 0, b"stays").unwrap();
    let publish = Publish {
        handle: named,
        name: BlockName::try_from("answer").unwrap(),
        replace: false,
        request_id: RequestId::NONE,
    };
    daemon.core.publish(&alice, publish, daemon.now).unwrap();
    let pinned = daemon.alloc(&bob, pool, 64).unwrap();
    daemon.core.pin(&alice, about(pinned), daemon.now).unwrap();
    daemon
        .lease(&alice, pool, SizeClass::from_index(3).unwrap())
        .unwrap();

    daemon.die(&alice);

    let stat = daemon.stat(&bob, "p");
    assert_eq!(
        (stat.blocks, stat.kept_blocks, stat.named_blocks, stat.pins),
        (2, 1, 1, 0)
    );
    assert_eq!(
        reason(daemon.alloc(&alice, pool, 16)),
        Reason::SessionExpired
    );
    let lookup = Lookup {
        pool_id: pool,
        name: BlockName::try_from("answer").unwrap(),
    };
    let found = daemon
        .core
        .lookup(&bob, lookup.clone(), daemon.now)
        .unwrap();
    let mut bytes = [0; 5];
    daemon
        .core
        .read_bytes(&bob, found.handle, 0, &mut bytes)
        .unwrap();
    assert_eq!(&bytes, b"stays");
    daemon.free(&bob, found.handle).unwrap();
    daemon.free(&bob, pinned).unwrap();
    assert_eq!(
        reason(daemon.core.lookup(&bob, lookup, daemon.now)),
        Reason::NameNotFound
    );
    let purge = PurgePool {
        name: PoolName::try_from("p").unwrap(),
    };
    daemon.core.purge_pool(&bob, purge, daemon.now).unwrap();
    let after = daemon.stat(&bob, "p");
    assert_eq!(
        (after.committed_bytes, after.leased_bytes),
        (baseline.committed_bytes, baseline.leased_bytes)
    );
}

#[test]
fn words_cannot_make_a_session_hold_what_is_in_a_pool_it_never_used() {
    let daemon = Daemon::start();
    let (mallory, bob) = (daemon.caller(1001), daemon.caller(1000));
    let pool = daemon.pool(&mallory, "p", MIB);
    let arenas = daemon.arena_pool(&mallory, "a", 2);
    let block = daemon.alloc(&mallory, pool, 100).unwrap();
    let memory = daemon.map(&mallory, pool);
    let victim = bob.session.as_ref().unwrap().number;
    forge(&memory, block, block.generation().get(), victim.get(), 1, 0);
    let arena_memory = daemon.map_arenas(&mallory, arenas, 2);
    arena_memory.try_get(victim, 0).unwrap();
    let close = CloseSession { force: false };
    daemon.core.close_session(&bob, close, daemon.now).unwrap();
    daemon.check();
}

#[test]
fn forged_words_of_a_dead_session_do_not_keep_its_spans() {
    let daemon = Daemon::start();
    let (mallory, watcher) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&mallory, "p", 8 * MIB);
    let memory = daemon.map(&mallory, pool);
    let span = daemon
        .lease(&mallory, pool, SizeClass::from_index(7).unwrap())
        .unwrap()[0];
    let start = memory.geometry().page_offset(span.first_page).get();
    for (slot, state) in (0..8u32).zip(0..8u64) {
        let offset = goumem_alloc::Offset::new(start + span.size_class.offset_of_slot(slot));
        // Owned by nobody: KEPT without a record, CONDEMNED without a pin, TAKEN, nonsense.
        forge(
            &memory,
            memory.handle(Generation::ZERO, offset),
            5,
            0,
            state,
            u64::from(slot) % 2,
        );
    }
    // Owned by a session that there is not.
    let offset = goumem_alloc::Offset::new(start + span.size_class.offset_of_slot(9));
    forge(
        &memory,
        memory.handle(Generation::ZERO, offset),
        5,
        4321,
        1,
        0,
    );
    let by_rpc = daemon.alloc(&mallory, pool, 5000).unwrap();
    forge(&memory, by_rpc, 9, 0, 3, 1);
    daemon.die(&mallory);
    daemon.check();
    let stat = daemon.stat(&watcher, "p");
    assert_eq!(
        (stat.blocks, stat.condemned_blocks, stat.abandoned_bytes),
        (0, 0, 0)
    );
    assert_eq!(stat.leased_bytes, 0);
}

#[test]
fn outcomes_of_large_batches_are_forgotten_before_the_small_ones() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let block = daemon.alloc(&alice, pool, 10).unwrap();
    let small = |id: u64| {
        let request_id = RequestId::new(id);
        let request = Alloc {
            pool_id: pool,
            spec: BlockSpec::new(64),
            request_id,
        };
        daemon
            .core
            .alloc(&alice, request, daemon.now)
            .map(|allocated| allocated.block.handle)
    };
    let known = small(1).unwrap();
    let stale = Handle::new(
        pool,
        block.generation().next().unwrap(),
        block.offset(),
        goumem_alloc::HandleKind::Block,
    );
    let batch = |id: u64| {
        let (handles, request_id) = (vec![stale; 65_536], RequestId::new(id));
        daemon.core.free_batch(
            &alice,
            FreeBatch {
                handles,
                request_id,
            },
            daemon.now,
        )
    };
    for id in 2..20 {
        assert_eq!(batch(id).unwrap().failures.len(), 65_536);
    }
    assert_eq!(
        batch(19).unwrap().failures.len(),
        65_536,
        "the last is remembered"
    );
    assert_eq!(reason(batch(2)), Reason::RequestExpired);
    assert_eq!(small(1).unwrap(), known);
}

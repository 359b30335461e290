//! Much of everything: pools that several threads take over, sweeps that others work through, and
//! what is looked at ever more rarely because nothing comes of it.

use std::thread;

use super::*;

/// As many as are shared out among threads.
const POOLS: u32 = 100;

fn small() -> SizeClass {
    SizeClass::from_index(3).unwrap()
}

#[test]
fn many_pools_are_all_there_after_a_restart() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1001));
    let made: Vec<(Handle, SpanInfo)> = (0..POOLS)
        .map(|n| {
            let pool = daemon.pool(&alice, &format!("p{n}"), MIB);
            let span = daemon.lease(&alice, pool, small()).unwrap()[0];
            (daemon.alloc(&alice, pool, 100).unwrap(), span)
        })
        .collect();
    let before = daemon.core.info(&alice, daemon.now).unwrap();

    let (daemon, [alice, _bob]) = daemon.kill_and_restart([&alice, &bob]);
    daemon.check();
    let after = daemon.core.info(&alice, daemon.now).unwrap();
    assert_eq!((after.pools, after.quarantined), (POOLS, 0));
    assert_eq!(after.committed_bytes, before.committed_bytes);
    for (handle, span) in made {
        daemon.free(&alice, handle).unwrap();
        let returned = daemon.return_span(&alice, handle.pool(), span);
        assert_eq!(returned.unwrap(), 1);
    }
    daemon.check();
}

/// Exports every block of a new span of the caller's.
fn share_a_span(daemon: &Daemon, memory: &Arc<PoolMemory>, caller: &Caller, pool: PoolId) {
    let span = daemon.lease(caller, pool, small()).unwrap()[0];
    let number = caller.session.as_ref().unwrap().number;
    let mut leased = LeasedSpan::attach(memory, lease_of(&span), number, false).unwrap();
    let shape = goumem_shm::shape::Shape {
        type_tag: TypeTag::UNTYPED,
        length_bytes: 10,
    };
    while let Some(block) = leased.alloc() {
        let _ = block.export(number, shape).unwrap();
    }
}

#[test]
fn others_lease_and_return_while_a_session_is_swept() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", 16 * MIB);
    let memory = daemon.map(&alice, pool);
    for _ in 0..100 {
        share_a_span(&daemon, &memory, &alice, pool);
    }
    let kept = daemon.alloc(&bob, pool, 64).unwrap();
    let by_rpc = daemon.alloc(&alice, pool, 64).unwrap();
    thread::scope(|scope| {
        let sweep = scope.spawn(|| daemon.die(&alice));
        while !sweep.is_finished() {
            let span = daemon.lease(&bob, pool, small()).unwrap()[0];
            assert_eq!(daemon.return_span(&bob, pool, span).unwrap(), 1);
        }
    });
    daemon.check();
    daemon.core.resolve(&bob, about(kept), daemon.now).unwrap();
    assert!(
        daemon
            .core
            .resolve(&bob, about(by_rpc), daemon.now)
            .is_err()
    );
    let stat = daemon.stat(&bob, "p");
    assert_eq!((stat.blocks, stat.sessions), (1, 0));
    // All that was hers is punched by now, but for what Bob had meanwhile.
    daemon.core.tick(daemon.now + Duration::from_secs(2));
    assert_eq!(daemon.stat(&bob, "p").free_committed_bytes, 0);
}

#[test]
fn abandoned_spans_are_looked_at_ever_more_rarely() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let memory = daemon.map(&alice, pool);
    share_a_span(&daemon, &memory, &alice, pool);
    let span = memory
        .geometry()
        .page_offset(goumem_alloc::PageIndex::new(0));
    let first = memory.block_at(span).unwrap();
    let generation = memory.slot(&first).load().generation();
    let handle = memory.handle(generation, first.offset);
    daemon.core.adopt(&bob, about(handle), daemon.now).unwrap();
    daemon.die(&alice);

    let mut now = daemon.now;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let due = daemon
            .core
            .next_deadline()
            .expect("there is something to look at");
        pauses.push(due - now);
        now = due;
        daemon.core.tick(now);
    }
    assert!(pauses.is_sorted(), "{pauses:?}");
    let last = *pauses.last().unwrap();
    assert!(
        last > Duration::from_secs(30) && last < Duration::from_secs(120),
        "{pauses:?}"
    );
    // What comes free elsewhere does not wait for that.
    let other = daemon.alloc(&bob, pool, MIB / 2).unwrap();
    daemon.free(&bob, other).unwrap();
    let due = daemon.core.next_deadline().unwrap();
    assert!(due <= daemon.now + Duration::from_secs(1));
    // And what comes free in the span is found.
    daemon.free(&bob, handle).unwrap();
    daemon.core.tick(now + last);
    assert_eq!(daemon.stat(&bob, "p").abandoned_bytes, 0);
}

//! Pools as a whole: capacity, and the end.

use super::*;

#[test]
fn capacity_changes_in_use_but_not_below_what_is_granted() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let _block = daemon.alloc(&alice, pool, 500_000).unwrap();
    let set = |capacity_bytes| {
        let name = PoolName::try_from("p").unwrap();
        daemon.core.set_capacity(
            &alice,
            SetCapacity {
                name,
                capacity_bytes,
            },
            daemon.now,
        )
    };
    assert_eq!(reason(set(64 << 10)), Reason::CapacityTooSmall);
    assert_eq!(reason(set(3 * MIB)), Reason::CapacityTooLarge);
    assert_eq!(set(2 * MIB).unwrap().pool.capacity_bytes, 2 * MIB);
    assert!(daemon.alloc(&alice, pool, MIB).is_ok());
}

#[test]
fn a_destroyed_pool_goes_with_its_last_mapper() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let session = bob.session.clone().unwrap();
    let _fds = daemon
        .core
        .map_request(&session, pool, Access::ReadWrite, daemon.now)
        .unwrap();
    let destroy = || DestroyPool {
        name: PoolName::try_from("p").unwrap(),
        request_id: RequestId::NONE,
    };
    let stranger = daemon.caller(1001);
    assert_eq!(
        reason(daemon.core.destroy_pool(&stranger, destroy(), daemon.now)),
        Reason::PermissionDenied
    );
    daemon
        .core
        .destroy_pool(&alice, destroy(), daemon.now)
        .unwrap();
    let open = OpenPool {
        name: PoolName::try_from("p").unwrap(),
        access: Access::ReadWrite,
        expect_capacity_bytes: None,
    };
    assert_eq!(
        reason(daemon.core.open_pool(&alice, open, daemon.now)),
        Reason::PoolNotFound
    );
    assert_eq!(
        reason(daemon.alloc(&alice, pool, 16)),
        Reason::PoolDestroyed
    );
    daemon.pool(&alice, "p", MIB);
    let _twice = daemon
        .core
        .map_request(&session, pool, Access::ReadOnly, daemon.now);
    let unmap = Unmap { pool_id: pool };
    daemon.core.unmap(&alice, unmap, daemon.now).unwrap();
    assert_eq!(
        reason(daemon.alloc(&alice, pool, 16)),
        Reason::PoolDestroyed,
        "bob maps it"
    );
    daemon.core.unmap(&bob, unmap, daemon.now).unwrap();
    assert_eq!(reason(daemon.alloc(&alice, pool, 16)), Reason::PoolNotFound);
    assert_eq!(daemon.core.info(&alice, daemon.now).unwrap().pools, 1);
}

#[test]
fn a_destroy_that_comes_second_leaves_the_next_pool_of_the_name_alone() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    for backing in [Backing::Memfd, Backing::File] {
        let request = || CreatePool {
            backing: Some(backing),
            ..create("p", MIB)
        };
        let old = daemon
            .core
            .create_pool(&alice, request(), daemon.now)
            .unwrap()
            .pool
            .pool_id;
        // Both have looked the pool up before either destroys it.
        let found = daemon.block_pool(old);
        daemon.destroy(&alice, "p").unwrap();
        daemon
            .core
            .create_pool(&alice, request(), daemon.now)
            .unwrap();
        assert_eq!(found.destroy(), None);
        daemon.core.let_go(&AnyPool::Blocks(found), &[], daemon.now);
        let block = daemon.stat(&alice, "p").pool.pool_id;
        daemon.alloc(&alice, block, 10).unwrap();
        daemon.check();
        if backing == Backing::File {
            assert!(daemon.dir.path().join("data/p.control.goumem").exists());
        }
        daemon.destroy(&alice, "p").unwrap();
        assert_eq!(reason(daemon.destroy(&alice, "p")), Reason::PoolNotFound);
    }
}

#[test]
fn calls_that_come_late_to_a_dismantled_pool_give_nothing_back_twice() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let other = daemon.pool(&alice, "q", MIB);
    daemon.alloc(&alice, other, 1000).unwrap();
    let id = daemon.pool(&alice, "p", 8 * MIB);
    let (kept, freed) = (
        daemon.alloc(&alice, id, 100).unwrap(),
        daemon.alloc(&alice, id, 3 * MIB),
    );
    daemon.free(&alice, freed.unwrap()).unwrap();
    let pool = daemon.block_pool(id);
    daemon.destroy(&alice, "p").unwrap();
    pool.purge(Duration::ZERO, daemon.now);
    let session = alice.session.as_ref().unwrap();
    let _ = pool.free(session, kept, RequestId::NONE, daemon.now);
    let _ = pool.keep(session, kept, RequestId::NONE, daemon.now);
    let _ = pool.pin(session, kept, RequestId::NONE, daemon.now);
    pool.stat(&alice, daemon.now);
    pool.dismantle();
    daemon.check();
}

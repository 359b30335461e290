//! Arena pools.

use super::*;

#[test]
fn waiters_get_arenas_in_order_and_a_dead_one_gets_none() {
    let daemon = Daemon::start();
    let [alice, bob, carol, dave] = [0; 4].map(|_| daemon.caller(1000));
    let request = CreateArenaPool {
        name: PoolName::try_from("a").unwrap(),
        arenas: 1,
        arena_bytes: 1000,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    };
    let pool_id = daemon
        .core
        .create_arena_pool(&alice, request, daemon.now)
        .unwrap()
        .pool
        .pool_id;
    let get = |caller: &Caller, wait: Duration| {
        let request = GetArena {
            pool_id,
            request_id: RequestId::NONE,
            wait,
        };
        daemon.core.get_arena(caller, request, daemon.now)
    };
    let Waited::Now(first) = get(&alice, Duration::ZERO).unwrap() else {
        panic!()
    };
    assert_eq!(reason(get(&bob, Duration::ZERO)), Reason::NoFreeArena);
    let wait = Duration::from_secs(60);
    let [mut dead, mut bobs, mut daves] = [&carol, &bob, &dave].map(|caller| {
        let Waited::Queued(_, receiver) = get(caller, wait).unwrap() else {
            panic!()
        };
        receiver
    });
    daemon.die(&carol);
    assert!(dead.try_recv().is_err());
    let give_back = ReturnArena {
        arena: first.arena,
        request_id: RequestId::NONE,
    };
    assert_eq!(
        reason(daemon.core.return_arena(&bob, give_back, daemon.now)),
        Reason::NotOwner
    );
    daemon
        .core
        .return_arena(&alice, give_back, daemon.now)
        .unwrap();
    let second = bobs.try_recv().unwrap().accept();
    assert_ne!(second.arena, first.arena, "another life of it");
    assert_eq!(
        reason(daemon.core.return_arena(&alice, give_back, daemon.now)),
        Reason::StaleHandle
    );
    assert!(daves.try_recv().is_err());
    // Bob dies with the arena: it goes to the next in line, who does not take it.
    daemon.die(&bob);
    drop(daves.try_recv().unwrap());
    assert!(matches!(get(&alice, Duration::ZERO), Ok(Waited::Now(_))));
}

#[test]
fn a_named_arena_is_freed_by_its_last_holder_or_its_death() {
    let daemon = Daemon::start();
    let [alice, bob] = [0; 2].map(|_| daemon.caller(1000));
    let request = CreateArenaPool {
        name: PoolName::try_from("a").unwrap(),
        arenas: 2,
        arena_bytes: 4096,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    };
    let pool_id = daemon
        .core
        .create_arena_pool(&alice, request, daemon.now)
        .unwrap()
        .pool
        .pool_id;
    let request = GetArena {
        pool_id,
        request_id: RequestId::NONE,
        wait: Duration::ZERO,
    };
    let Waited::Now(arena) = daemon.core.get_arena(&alice, request, daemon.now).unwrap() else {
        panic!()
    };
    let name = ArenaName::try_from("batch/17").unwrap();
    let id = RequestId::NONE;
    let share = ShareArena {
        arena: arena.arena,
        name: name.clone(),
        request_id: id,
    };
    daemon.core.share_arena(&alice, share, daemon.now).unwrap();
    let attach = AttachArena {
        pool_id,
        name,
        access: Access::ReadWrite,
        request_id: id,
    };
    daemon
        .core
        .attach_arena(&bob, attach.clone(), daemon.now)
        .unwrap();
    daemon.die(&alice);
    daemon
        .core
        .write_bytes(&bob, arena.arena, 0, b"here")
        .unwrap();
    let detach = DetachArena {
        arena: arena.arena,
        request_id: id,
    };
    assert!(
        daemon
            .core
            .detach_arena(&bob, detach, daemon.now)
            .unwrap()
            .returned
    );
    assert_eq!(
        reason(daemon.core.attach_arena(&bob, attach, daemon.now)),
        Reason::NameNotFound
    );
    let stat = StatPool {
        name: PoolName::try_from("a").unwrap(),
    };
    let stat = daemon.core.stat_arena_pool(&bob, stat, daemon.now).unwrap();
    assert_eq!((stat.free, stat.named, stat.exclusive), (2, 0, 0));
}

#[test]
fn the_list_of_holders_tells_nothing_of_sessions_that_never_came() {
    let daemon = Daemon::start();
    let (mallory, bob) = (daemon.caller(1001), daemon.caller(1000));
    let pool_id = daemon.arena_pool(&mallory, "a", 2);
    let memory = daemon.map_arenas(&mallory, pool_id, 2);
    memory
        .try_get(bob.session.as_ref().unwrap().number, 0)
        .unwrap();
    memory
        .try_get(mallory.session.as_ref().unwrap().number, 0)
        .unwrap();
    let list = daemon
        .core
        .list_holders(&mallory, ListHolders { pool_id }, daemon.now)
        .unwrap();
    let holders: Vec<u32> = list
        .iter()
        .flat_map(|a| &a.holders)
        .map(|holder| holder.uid)
        .collect();
    assert_eq!((list.len(), holders), (2, vec![1001]));
}

#[test]
fn a_wait_that_is_tried_again_is_in_line_once() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool_id = daemon.arena_pool(&alice, "a", 1);
    let get = |caller: &Caller, id: u64| {
        let (request_id, wait) = (RequestId::new(id), Duration::from_secs(9));
        daemon.core.get_arena(
            caller,
            GetArena {
                pool_id,
                request_id,
                wait,
            },
            daemon.now,
        )
    };
    let Waited::Now(arena) = get(&alice, 1).unwrap() else {
        panic!()
    };
    let Waited::Now(again) = get(&alice, 1).unwrap() else {
        panic!()
    };
    assert_eq!(arena, again);
    let Waited::Queued(ticket, line) = get(&bob, 1).unwrap() else {
        panic!()
    };
    assert_eq!(reason(get(&bob, 1)), Reason::RequestInFlight);
    daemon.core.cancel_wait(pool_id, ticket);
    drop(line);
    let Waited::Queued(_, mut line) = get(&bob, 1).unwrap() else {
        panic!()
    };
    let give_back = ReturnArena {
        arena: arena.arena,
        request_id: RequestId::NONE,
    };
    daemon
        .core
        .return_arena(&alice, give_back, daemon.now)
        .unwrap();
    let granted = line.try_recv().unwrap().accept();
    let Waited::Now(retried) = get(&bob, 1).unwrap() else {
        panic!()
    };
    assert_eq!(granted, retried);
}

#[test]
fn the_name_of_an_overwritten_arena_is_forgotten_with_its_records() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool_id = daemon.arena_pool(&alice, "a", 1);
    let memory = daemon.map_arenas(&alice, pool_id, 1);
    let number = alice.session.as_ref().unwrap().number;
    let id = RequestId::NONE;
    let share = |name: &str| {
        let arena = memory.try_get(number, 0).unwrap();
        let name = ArenaName::try_from(name).unwrap();
        daemon.core.share_arena(
            &alice,
            ShareArena {
                arena,
                name,
                request_id: id,
            },
            daemon.now,
        )
    };
    let attach = |name: &str| {
        let (name, access) = (ArenaName::try_from(name).unwrap(), Access::ReadWrite);
        daemon.core.attach_arena(
            &alice,
            AttachArena {
                pool_id,
                name,
                access,
                request_id: id,
            },
            daemon.now,
        )
    };
    for round in 0..3 {
        let first = share("first").unwrap();
        let words = memory.words(0).unwrap();
        words.release_named(first.arena.generation()).unwrap();
        if round == 1 {
            assert_eq!(reason(attach("first")), Reason::NameNotFound);
        }
        let second = share("second").unwrap();
        assert_eq!(reason(attach("first")), Reason::NameNotFound);
        assert_eq!(attach("second").unwrap().arena, second.arena);
        let detach = DetachArena {
            arena: second.arena,
            request_id: id,
        };
        assert!(
            daemon
                .core
                .detach_arena(&alice, detach, daemon.now)
                .unwrap()
                .returned
        );
        assert_eq!(
            daemon.core.registry().by_id(pool_id).map(|_| ()).unwrap(),
            ()
        );
    }
}

//! Arenas: who gets one, how several hold one, and that nobody writes into the next one's life.

use std::thread;
use std::time::{Duration, Instant};

use goumem::blocking::ArenaPool;
use goumem::{Access, AccessError, ArenaPoolOptions, Error, Handle, Reason};
use goumem_proto::v1;
use harness::{PATIENCE, Puppet, TestDaemon, alone, call, eventually};

use crate::PUPPETS;

fn pool(daemon: &TestDaemon, arenas: u32) -> ArenaPool {
    let options = ArenaPoolOptions::new(arenas, 10_000);
    daemon.client().create_arena_pool("q", options).unwrap()
}

fn puppet(daemon: &TestDaemon, access: &str) -> Puppet {
    let mut puppet = PUPPETS.client();
    puppet.must(&format!("connect {}", daemon.socket().display()));
    puppet.must(&format!("open-arenas q {access}"));
    puppet
}

fn wait_for_waiters(pool: &ArenaPool, n: u32) {
    eventually(PATIENCE, "so many wait", || {
        pool.stat().unwrap().waiting == n
    });
}

#[test]
fn waiters_are_served_in_their_order_however_they_wait() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let arena = pool.get().unwrap();
    let (sender, served) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for turn in 0..8u32 {
        let sender = sender.clone();
        let id = pool.id().get();
        // Every other one waits by RPC, in a session of its own.
        threads.push(match turn % 2 {
            0 => {
                let pool = daemon.client().open_arena_pool("q").unwrap();
                thread::spawn(move || {
                    let arena = pool.get_timeout(PATIENCE).unwrap();
                    sender.send(turn).unwrap();
                    arena.return_arena().unwrap();
                })
            }
            _ => {
                let rpc = daemon.rpc();
                thread::spawn(move || {
                    let arena = rpc.get_arena(id, 30_000).unwrap();
                    sender.send(turn).unwrap();
                    rpc.return_arena(arena).unwrap();
                })
            }
        });
        wait_for_waiters(&pool, turn + 1);
    }
    // Nobody gets past those who wait.
    let newcomer = daemon.client().open_arena_pool("q").unwrap();
    assert!(matches!(newcomer.try_get(), Err(Error::NoFreeArena)));
    drop(arena);
    let order: Vec<_> = (0..8)
        .map(|_| served.recv_timeout(PATIENCE).unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    eventually(PATIENCE, "it is free in the end", || {
        newcomer.try_get().is_ok()
    });
}

#[test]
fn try_get_yields_to_those_who_wait() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let arena = pool.get().unwrap();
    let mut alice = puppet(&daemon, "rw");
    alice.tell("get q a 30000");
    wait_for_waiters(&pool, 1);
    // Stopped, it keeps its place.
    alice.signal(rustix::process::Signal::STOP);
    drop(arena);
    eventually(PATIENCE, "the arena is on its way to alice", || {
        pool.stat().unwrap().waiting == 0
    });
    assert!(matches!(pool.try_get(), Err(Error::NoFreeArena)));
    alice.signal(rustix::process::Signal::CONT);
    alice.reply().unwrap();
}

#[test]
fn deadline_ends_a_wait_neither_early_nor_late() {
    let _alone = alone();
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let arena = pool.get().unwrap();
    let wait = Duration::from_millis(150);
    let start = Instant::now();
    let error = pool.get_timeout(wait).unwrap_err();
    let took = start.elapsed();
    assert!(
        matches!(error, Error::TimedOut { waited } if waited == wait),
        "{error:?}"
    );
    assert!(
        took >= wait && took < wait + Duration::from_secs(1),
        "{took:?}"
    );
    assert_eq!(pool.stat().unwrap().waiting, 0, "and the line is left");

    let rpc = daemon.rpc();
    let start = Instant::now();
    let error = rpc.get_arena(pool.id().get(), 150).unwrap_err();
    let took = start.elapsed();
    assert_eq!(error.reason, Reason::DeadlineExceeded);
    assert!(
        took >= wait && took < wait + Duration::from_secs(1),
        "{took:?}"
    );
    // Not at all, when there is no time.
    let error = pool.get_timeout(Duration::ZERO).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DeadlineExceeded));
    assert_eq!(
        rpc.get_arena(pool.id().get(), 0).unwrap_err().reason,
        Reason::NoFreeArena
    );
    drop(arena);
    pool.get_timeout(Duration::ZERO).unwrap();
}

#[test]
fn waiter_that_loses_interest_is_passed_over() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let arena = pool.get().unwrap();
    let mut alice = puppet(&daemon, "rw");
    let mut bob = puppet(&daemon, "rw");
    alice.tell("get q a 100");
    wait_for_waiters(&pool, 1);
    bob.tell("get q b 30000");
    let error = alice.reply().unwrap_err();
    assert!(error.starts_with("DEADLINE_EXCEEDED"), "{error}");
    wait_for_waiters(&pool, 1);
    drop(arena);
    bob.reply().unwrap();
    let stat = pool.stat().unwrap();
    assert_eq!((stat.exclusive, stat.free), (1, 0));
}

#[test]
fn arena_is_shared_by_name_and_returned_by_its_last_holder() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 2);
    let (mut alice, mut bob) = (puppet(&daemon, "rw"), puppet(&daemon, "rw"));
    let got = alice.must("get q a 1000");
    alice.must("put a 1000 7");
    let named = alice.must("share-arena a batch/17");
    assert_eq!(got, named, "its handles stay good");
    assert_eq!(bob.must("attach q b batch/17 rw"), named);
    // Both fill it, one after the other.
    let second = bob.must("put b 1000 8");
    let third = alice.must("put a 1000 9");
    assert!(second != third);
    assert_eq!(alice.must("check a 0"), "3024", "three of 1008 bytes");

    let holders = pool.holders().unwrap();
    assert_eq!(holders.len(), 1);
    assert_eq!(
        holders[0].name.as_ref().map(|name| name.as_str()),
        Some("batch/17")
    );
    let pids: Vec<_> = holders[0].holders.iter().map(|holder| holder.pid).collect();
    assert!(pids.len() == 2 && pids.contains(&alice.pid()) && pids.contains(&bob.pid()));

    assert_eq!(alice.must("detach a"), "false");
    assert_eq!(pool.stat().unwrap().named, 1);
    bob.must("put b 1000 5");
    let error = alice.ask("attach q again none rw").unwrap_err();
    assert!(error.starts_with("NAME_NOT_FOUND"), "{error}");
    assert_eq!(bob.must("detach b"), "true", "the last one");
    let error = alice.ask("attach q again batch/17 rw").unwrap_err();
    assert!(error.starts_with("NAME_NOT_FOUND"), "{error}");
    let stat = pool.stat().unwrap();
    assert_eq!((stat.free, stat.used_bytes), (2, 0));
}

#[test]
fn name_is_one_arenas_alone() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 2);
    let (mut one, mut other) = (pool.get().unwrap(), pool.get().unwrap());
    one.share("x").unwrap();
    let error = other.share("x").unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NameExists));
    let error = one.share("y").unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ArenaShared));
    assert!(other.share("no name").unwrap_err().reason() == Some(Reason::InvalidField));
    assert!(!other.is_shared());
    drop(one);
    eventually(PATIENCE, "the name is free again", || {
        other.share("x").is_ok()
    });
}

#[test]
fn read_only_attach_reads_and_cannot_write() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let mut arena = pool.get().unwrap();
    arena
        .alloc_slice::<u8>(100)
        .unwrap()
        .write(&[7; 100])
        .unwrap();
    let place = arena.alloc::<u64>().unwrap();
    place.write(42).unwrap();
    let handle = place.handle();
    arena.share("x").unwrap();

    // In a pool that is mapped read-only, and in one that is not.
    let reader = daemon.client();
    for theirs in [
        reader.open_arena_pool_read_only("q"),
        reader.open_arena_pool("q"),
    ] {
        let theirs = theirs.unwrap();
        let attached = theirs.attach("x", Access::ReadOnly).unwrap();
        assert_eq!(attached.access(), Access::ReadOnly);
        let seen = attached.resolve::<u64>(handle).unwrap();
        assert_eq!(seen.read().unwrap(), 42);
        for error in [
            seen.write(1).unwrap_err(),
            attached.alloc::<u64>().unwrap_err(),
            attached.free(seen).unwrap_err(),
        ] {
            assert_eq!(error.reason(), Some(Reason::PermissionDenied), "{error}");
        }
        assert!(!attached.detach().unwrap());
    }
    // Nor by RPC.
    let rpc = daemon.rpc();
    let attach = v1::AttachArenaRequest {
        pool_id: pool.id().get(),
        name: "x".to_owned(),
        access: v1::Access::ReadOnly.into(),
        request_id: 0,
    };
    let attached = call!(rpc, arenas.attach(attach)).unwrap().arena.unwrap();
    assert_eq!(rpc.read(handle.into(), 0, 8).unwrap(), 42u64.to_ne_bytes());
    assert_eq!(
        rpc.write(handle.into(), 0, &[1]).unwrap_err().reason,
        Reason::NotOwner
    );
    let alloc = v1::ArenaAllocRequest {
        arena: Some(attached),
        size_bytes: 8,
        ..Default::default()
    };
    assert_eq!(
        call!(rpc, arenas.alloc(alloc)).unwrap_err().reason,
        Reason::NotOwner
    );
    assert_eq!(place_value(&pool, handle), 42);
}

/// What a handle into a named arena points at.
fn place_value(pool: &ArenaPool, handle: Handle) -> u64 {
    let attached = pool.attach("x", Access::ReadOnly).unwrap();
    let value = attached.resolve::<u64>(handle).unwrap().read().unwrap();
    // The session has it by its other guard as well, so it is not let go here.
    std::mem::forget(attached);
    value
}

#[test]
fn holder_of_an_earlier_life_can_neither_read_nor_bump_the_next() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let rpc = daemon.rpc();
    let id = pool.id().get();
    // By RPC, since the library does not let a program keep an arena that it has returned.
    let stale = rpc.get_arena(id, 0).unwrap();
    let alloc = |arena| {
        let request = v1::ArenaAllocRequest {
            arena: Some(arena),
            size_bytes: 100,
            ..Default::default()
        };
        call!(rpc, arenas.alloc(request)).map(|reply| reply.handle.unwrap())
    };
    let inside = alloc(stale).unwrap();
    rpc.return_arena(stale).unwrap();

    let arena = pool.get().unwrap();
    let place = arena.alloc::<u64>().unwrap();
    place.write(42).unwrap();
    let used = arena.used_bytes().unwrap();
    assert_eq!(alloc(stale).unwrap_err().reason, Reason::StaleHandle);
    assert_eq!(
        rpc.write(inside, 0, &[1; 8]).unwrap_err().reason,
        Reason::StaleHandle
    );
    assert_eq!(
        rpc.read(inside, 0, 8).unwrap_err().reason,
        Reason::StaleHandle
    );
    assert_eq!(
        rpc.return_arena(stale).unwrap_err().reason,
        Reason::StaleHandle
    );
    // Nor with the new life's handle, which is not its own.
    let theirs = arena.handle().into();
    assert_eq!(alloc(theirs).unwrap_err().reason, Reason::NotOwner);
    assert_eq!(
        rpc.return_arena(theirs).unwrap_err().reason,
        Reason::NotOwner
    );
    assert_eq!(
        rpc.write(place.handle().into(), 0, &[1])
            .unwrap_err()
            .reason,
        Reason::NotOwner
    );
    assert_eq!(arena.used_bytes().unwrap(), used);
    assert_eq!(place.read().unwrap(), 42);
}

#[test]
fn reset_makes_handles_stale_and_the_arena_empty() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let mut arena = pool.get().unwrap();
    let old = arena.handle();
    let inside = arena.alloc::<u64>().unwrap().handle();
    arena.reset().unwrap();
    assert_eq!(arena.used_bytes().unwrap(), 0);
    assert_ne!(arena.handle(), old);
    let again = arena.alloc::<u64>().unwrap();
    assert_eq!(again.handle().offset(), inside.offset(), "the same place");
    let error = arena.resolve::<u64>(inside).unwrap_err();
    assert!(error.is_stale(), "{error}");
    arena.share("x").unwrap();
    assert_eq!(
        arena.reset().unwrap_err().reason(),
        Some(Reason::ArenaShared)
    );
}

#[test]
fn full_arena_says_how_much_is_left() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let arena = pool.get().unwrap();
    assert_eq!(arena.size_bytes(), 10_000);
    arena.alloc_slice::<u8>(9_000).unwrap();
    let error = arena.alloc_slice::<u8>(2_000).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Access(AccessError::ArenaFull {
                free_bytes: 992,
                ..
            })
        ),
        "{error:?}"
    );
    arena.alloc_slice::<u8>(992).unwrap();
    assert_eq!(
        arena.alloc::<u8>().unwrap_err().reason(),
        Some(Reason::ArenaFull)
    );
}

#[test]
fn newest_allocation_comes_back_and_the_last_free_empties_the_arena() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let arena = pool.get().unwrap();
    let places: Vec<_> = (0..4)
        .map(|_| arena.alloc_slice::<u8>(100).unwrap())
        .collect();
    assert_eq!(arena.used_bytes().unwrap(), 448);
    assert_eq!(arena.free(places[3]).unwrap(), 336);
    assert_eq!(arena.free(places[0]).unwrap(), 336, "not the newest");
    assert_eq!(arena.free(places[2]).unwrap(), 224);
    assert_eq!(arena.free(places[1]).unwrap(), 0, "the last one alive");
}

#[test]
fn two_processes_bump_one_arena_and_nothing_overlaps() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let options = ArenaPoolOptions::new(1, 4 << 20);
    let pool = client.create_arena_pool("q", options).unwrap();
    let mut arena = pool.get().unwrap();
    arena.share("x").unwrap();
    let others = daemon.client().open_arena_pool("q").unwrap();
    let attached = others.attach("x", Access::ReadWrite).unwrap();
    let fill = |arena: &goumem::Arena, who: u64| -> Vec<(Handle, u64)> {
        (0..3000)
            .map(|i| {
                let place = arena.alloc_slice::<u64>(16).unwrap();
                place.write(&[who << 32 | i; 16]).unwrap();
                (place.handle(), who << 32 | i)
            })
            .collect()
    };
    let (mine, theirs) = thread::scope(|scope| {
        // An arena's guard goes to a thread, and is not shared by several.
        let theirs = scope.spawn(move || fill(&attached, 2));
        (fill(&arena, 1), theirs.join().unwrap())
    });
    for (handle, value) in mine.into_iter().chain(theirs) {
        let place = arena.resolve_slice::<u64>(handle, 16).unwrap();
        let mut words = [0; 16];
        place.copy_to(&mut words).unwrap();
        assert_eq!(words, [value; 16]);
    }
    assert_eq!(arena.used_bytes().unwrap(), 6000 * 128);
}

#[test]
fn thousands_of_gets_by_several_sessions_never_give_one_arena_twice() {
    let _alone = alone();
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 3);
    thread::scope(|scope| {
        for who in 1..=4u64 {
            let client = daemon.client();
            scope.spawn(move || {
                let pool = client.open_arena_pool("q").unwrap();
                for round in 0..300u64 {
                    let arena = pool.get_timeout(PATIENCE).unwrap();
                    let place = arena.alloc::<u64>().unwrap();
                    place.write(who << 32 | round).unwrap();
                    assert_eq!(arena.used_bytes().unwrap(), 16, "it came empty");
                    thread::yield_now();
                    assert_eq!(place.read().unwrap(), who << 32 | round);
                    arena.return_arena().unwrap();
                }
            });
        }
    });
    let stat = pool.stat().unwrap();
    assert_eq!((stat.free, stat.waiting), (3, 0));
}

#[test]
fn second_guard_of_one_session_keeps_a_named_arena() {
    let daemon = TestDaemon::start();
    let pool = pool(&daemon, 1);
    let mut arena = pool.get().unwrap();
    let place = arena.alloc::<u64>().unwrap().handle();
    arena.share("x").unwrap();
    let again = pool.attach("x", Access::ReadWrite).unwrap();
    arena.detach().unwrap();
    assert_eq!(pool.stat().unwrap().named, 1, "the session still holds it");
    again.resolve::<u64>(place).unwrap().write(1).unwrap();
    assert!(again.detach().unwrap());
    assert_eq!(pool.stat().unwrap().free, 1);
}

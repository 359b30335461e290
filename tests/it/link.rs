//! Connections that break while the daemon lives: the client connects again, resumes its session
//! and goes on, and whatever was under way happens once.

use std::thread;
use std::time::{Duration, Instant};

use goumem::blocking::{Client, Pool, wait};
use goumem::{Access, AllocError, ArenaPoolOptions, Error, PoolOptions};
use harness::{PATIENCE, Proxy, Rpc, TestDaemon, eventually};

mod restart;

const MIB: u64 = 1 << 20;
const PAGE_BYTES: u64 = 64 << 10;

/// A daemon, a client that reaches it by a proxy, and somebody who sees how things stand.
struct Scene {
    client: Client,
    proxy: Proxy,
    rpc: Rpc,
    daemon: TestDaemon,
}

fn scene() -> Scene {
    let daemon = TestDaemon::start();
    let proxy = Proxy::start(daemon.socket());
    Scene {
        client: proxy.client(),
        proxy,
        rpc: daemon.rpc(),
        daemon,
    }
}

impl Scene {
    fn pool(&self) -> Pool {
        self.client
            .create_pool("p", PoolOptions::new(64 * MIB))
            .unwrap()
    }

    /// Makes a call whose reply is lost with its connection, once `is_done` says that the daemon
    /// has done what was asked; returns what it comes to in the end.
    fn lose_reply<T: Send>(
        &self,
        call: impl FnOnce() -> T + Send,
        is_done: impl FnMut() -> bool,
    ) -> T {
        self.proxy.swallow_replies();
        thread::scope(|scope| {
            let calling = scope.spawn(call);
            eventually(PATIENCE, "the daemon does it", is_done);
            assert!(!calling.is_finished());
            self.proxy.cut();
            calling.join().unwrap()
        })
    }
}

#[test]
fn client_connects_again_by_itself_and_keeps_its_session() {
    let scene = scene();
    let pool = scene.pool();
    let mut block = pool.alloc_value(1_u64).unwrap();
    let (session, serial) = (scene.client.session(), scene.client.session_serial());
    for cut in 1..=5 {
        scene.proxy.cut();
        // Before anything is asked of it.
        let what = "another connection";
        eventually(PATIENCE, what, || scene.proxy.n_accepted() > cut);
        *block += 1;
        // A span each: what is at hand is not enough.
        drop(pool.alloc_bytes(2 << 20, 16).unwrap());
        pool.purge().unwrap();
    }
    assert_eq!(*block, 6);
    let sessions = scene.client.sessions().unwrap();
    let ours = sessions.iter().find(|info| info.session == session);
    assert!(ours.is_some_and(|ours| ours.serial == serial && ours.connected));
    assert_eq!(sessions.len(), 2);
}

#[test]
fn client_works_inside_its_lease_while_the_daemon_is_away() {
    let scene = scene();
    let pool = scene.pool();
    let shared = pool.alloc_value(5_u32).unwrap().share().unwrap();
    drop(pool.alloc::<u64>().unwrap());
    scene.proxy.isolate();
    for round in 0..100_000_u64 {
        let block = pool.try_alloc_value(round).unwrap();
        assert_eq!(*block, round);
    }
    assert_eq!(shared.read().unwrap(), 5);
    pool.free(shared.into_handle()).unwrap();
    let dry = loop {
        match pool.try_alloc::<[u8; 4096]>() {
            Ok(block) => std::mem::forget(block),
            Err(error) => break error,
        }
    };
    assert_eq!(dry, AllocError::NeedsSpan);
    // What needs the daemon waits for it.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.alloc::<[u8; 4096]>().map(drop));
        thread::sleep(Duration::from_millis(20)); // so that it mostly has begun; either is good
        assert!(!waiting.is_finished());
        scene.proxy.heal();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn calls_wait_for_the_daemon_up_to_their_deadline() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::start(daemon.socket());
    let builder = proxy.builder().call_deadline(Duration::from_millis(100));
    let client = builder.connect().unwrap();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let options = ArenaPoolOptions::new(1, 4096);
    let arenas = client.create_arena_pool("a", options).unwrap();
    let arena = arenas.get().unwrap();
    proxy.isolate();
    // A call that was on its way then has no answer; one that is made later is not sent.
    eventually(PATIENCE, "the client notices", || {
        match client.ping().unwrap_err() {
            Error::NoDaemon { socket, source } => {
                assert_eq!(socket, proxy.socket());
                !source.to_string().is_empty()
            }
            error => {
                assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
                false
            }
        }
    });
    let error = pool.alloc::<u64>().unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
    let error = arenas.get_timeout(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
    drop(arena);
    proxy.heal();
    eventually(PATIENCE, "it is connected again", || client.ping().is_ok());
    drop(pool.alloc::<u64>().unwrap());
    // A call that was sent may have happened.
    proxy.swallow_replies();
    let error = client.create_pool("q", PoolOptions::new(MIB)).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
    proxy.cut();
    eventually(PATIENCE, "it is connected again", || client.ping().is_ok());
}

/// It said the whole deadline of a call on top, whenever it gave up.
#[test]
fn wait_that_loses_its_daemon_says_how_long_it_waited() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::start(daemon.socket());
    let (client, other) = (proxy.client(), daemon.client());
    let arenas = client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 4096))
        .unwrap();
    let arena = arenas.get().unwrap();
    let stat = other.open_arena_pool("a").unwrap();
    let started = Instant::now();
    let error = thread::scope(|scope| {
        let waiting = scope.spawn(|| arenas.get_timeout(Duration::from_secs(2)).unwrap_err());
        eventually(PATIENCE, "it waits", || stat.stat().unwrap().waiting == 1);
        proxy.isolate();
        waiting.join().unwrap()
    });
    let Error::NoAnswer { waited } = error else {
        panic!("{error:?}");
    };
    assert!(waited <= started.elapsed(), "{waited:?}");
    drop(arena);
    proxy.heal();
    eventually(PATIENCE, "it is connected again", || client.ping().is_ok());
}

#[test]
fn lease_whose_reply_is_lost_happens_once() {
    let scene = scene();
    let pool = scene.pool();
    let leased = || scene.rpc.stat("p").leased_bytes;
    let block = scene
        .lose_reply(|| pool.alloc_bytes(2 << 20, 16), || leased() > 0)
        .unwrap();
    // It begins on a colour, a page more.
    assert_eq!(leased(), 2 * MIB + PAGE_BYTES);
    let more = scene.lose_reply(
        || pool.alloc_value(1_u64),
        || leased() > 2 * MIB + PAGE_BYTES,
    );
    assert_eq!(leased(), 2 * MIB + 2 * PAGE_BYTES);
    drop((block, more));
    // The return as well.
    let purged = scene.lose_reply(|| pool.purge(), || leased() == 0);
    purged.unwrap();
    assert_eq!(leased(), 0);
}

#[test]
fn pins_keeps_and_arenas_whose_replies_are_lost_happen_once() {
    let scene = scene();
    let pool = scene.pool();
    let stat = || scene.rpc.stat("p");
    let shared = pool.alloc_value(7_u64).unwrap().share().unwrap();
    let handle = shared.handle();
    let pin = scene.lose_reply(|| pool.pin(handle), || stat().pins == 1);
    assert_eq!(stat().pins, 1);
    let unpinned = scene.lose_reply(|| wait(pin.unwrap().unpin()), || stat().pins == 0);
    unpinned.unwrap();
    let kept = scene.lose_reply(|| wait(shared.keep()), || stat().kept_blocks == 1);
    assert_eq!(kept.unwrap(), handle);
    let published = scene.lose_reply(
        || pool.publish("seven", handle),
        || stat().named_blocks == 1,
    );
    published.unwrap();
    assert_eq!(pool.lookup("seven").unwrap(), handle);

    let options = ArenaPoolOptions::new(2, 4096);
    let arenas = scene.client.create_arena_pool("a", options).unwrap();
    let stat = || scene.rpc.arena_stat("a");
    let mut arena = arenas.get().unwrap();
    let shared = scene.lose_reply(|| arena.share("batch"), || stat().named == 1);
    shared.unwrap();
    let detached = scene.lose_reply(|| arena.detach(), || stat().named == 0);
    assert!(detached.unwrap());
    assert_eq!(stat().free, 2);
    let created = scene.lose_reply(
        || scene.client.create_pool("q", PoolOptions::new(MIB)),
        || scene.rpc.info().pools == 2,
    );
    created.unwrap();
}

#[test]
fn arena_waiter_asks_again_on_the_next_connection() {
    let scene = scene();
    let options = ArenaPoolOptions::new(1, 4096);
    let arenas = scene.client.create_arena_pool("a", options).unwrap();
    let theirs = scene.daemon.client().open_arena_pool("a").unwrap();
    let taken = theirs.get().unwrap();
    let n_waiting = || scene.rpc.arena_stat("a").waiting;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| arenas.get());
        for _ in 0..3 {
            eventually(PATIENCE, "it waits", || n_waiting() == 1);
            scene.proxy.isolate();
            eventually(PATIENCE, "its place is given up", || n_waiting() == 0);
            scene.proxy.heal();
        }
        eventually(PATIENCE, "it waits again", || n_waiting() == 1);
        drop(taken);
        waiting.join().unwrap().unwrap();
    });
    eventually(PATIENCE, "it is returned", || {
        scene.rpc.arena_stat("a").free == 1
    });
}

/// A campaign found an arena of a living session that nobody in it knew of: its wait was over
/// before the daemon that had granted it was heard.
#[test]
fn arena_whose_wait_ended_without_an_answer_goes_back() {
    let scene = scene();
    let options = ArenaPoolOptions::new(1, 4096);
    let arenas = scene.client.create_arena_pool("a", options).unwrap();
    let taken = scene.rpc.get_arena(arenas.id().get(), 0).unwrap();
    let stat = || scene.rpc.arena_stat("a");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| arenas.get_timeout(Duration::from_secs(4)));
        eventually(PATIENCE, "it waits", || stat().waiting == 1);
        scene.proxy.swallow_replies();
        scene.rpc.return_arena(taken).unwrap();
        eventually(PATIENCE, "it is granted", || stat().exclusive == 1);
        scene.proxy.isolate();
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
    });
    assert_eq!(stat().exclusive, 1);
    scene.proxy.heal();
    eventually(PATIENCE, "it is returned", || stat().free == 1);
    drop(arenas.try_get().unwrap());
}

/// The same for a share and an attach, whose arenas would be held until the session ends.
#[test]
fn arena_shared_or_attached_to_without_an_answer_is_let_go() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::start(daemon.socket());
    let (rpc, other) = (daemon.rpc(), daemon.client());
    let deadline = Duration::from_secs(2);
    let client = proxy.builder().call_deadline(deadline).connect().unwrap();
    let options = ArenaPoolOptions::new(2, 4096);
    let arenas = client.create_arena_pool("a", options).unwrap();
    let stat = || rpc.arena_stat("a");

    let mut arena = arenas.get().unwrap();
    proxy.swallow_replies();
    let error = arena.share("mine").unwrap_err();
    assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
    assert_eq!(stat().named, 1);
    drop(arena);
    proxy.cut();
    eventually(PATIENCE, "it is returned", || stat().free == 2);

    let theirs = other.open_arena_pool("a").unwrap();
    let mut shared = theirs.get().unwrap();
    shared.share("theirs").unwrap();
    let holders = || theirs.holders().unwrap()[0].holders.len();
    client.ping().unwrap();
    proxy.swallow_replies();
    let error = arenas.attach("theirs", Access::ReadWrite).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
    assert_eq!(holders(), 2);
    proxy.cut();
    eventually(PATIENCE, "it is detached from", || holders() == 1);
    // One that comes later is not undone by it.
    let attached = arenas.attach("theirs", Access::ReadWrite).unwrap();
    assert_eq!((holders(), attached.handle()), (2, shared.handle()));
}

#[test]
fn what_is_let_go_while_the_daemon_is_away_is_given_back_later() {
    let scene = scene();
    let pool = scene.pool();
    let arenas = scene
        .client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 4096))
        .unwrap();
    let shared = pool.alloc_value(1_u8).unwrap().share().unwrap();
    let pins: Vec<_> = (0..100)
        .map(|_| pool.pin(shared.handle()).unwrap())
        .collect();
    arenas.get().unwrap().share("batch").unwrap();
    let arena = arenas.attach("batch", Access::ReadWrite);
    assert_eq!(scene.rpc.stat("p").pins, 100);
    scene.proxy.isolate();
    drop((pins, arena));
    scene.proxy.heal();
    eventually(PATIENCE, "the pins are gone", || {
        scene.rpc.stat("p").pins == 0
    });
    eventually(PATIENCE, "the arena is returned", || {
        scene.rpc.arena_stat("a").free == 1
    });
}

#[test]
fn daemon_that_does_not_know_the_session_means_that_its_pools_are_lost() {
    let scene = scene();
    let pool = scene.pool();
    let arenas = scene
        .client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 4096))
        .unwrap();
    let arena = arenas.get().unwrap();
    let place = arena.alloc::<u64>().unwrap();
    let mut block = pool.alloc_value(1_u64).unwrap();
    let shared = pool.alloc_value(2_u64).unwrap().share().unwrap();
    scene.proxy.isolate();
    // Another daemon in its place, with nothing of what the first one had.
    let other = TestDaemon::start();
    scene.proxy.lead_to(other.socket());
    scene.proxy.heal();

    let error = pool.alloc_bytes(2 << 20, 16).unwrap_err();
    assert!(
        matches!(&error, Error::PoolLost { pool } if pool == "p"),
        "{error:?}"
    );
    let error = arenas.attach("batch", Access::ReadWrite).unwrap_err();
    assert!(
        matches!(&error, Error::PoolLost { pool } if pool == "a"),
        "{error:?}"
    );
    let error = scene.client.list_pools().unwrap_err();
    assert!(matches!(error, Error::SessionExpired), "{error:?}");
    // What is mapped is good, and what is at hand can be had.
    *block += 1;
    place.write(3).unwrap();
    assert_eq!(*block + shared.read().unwrap(), 4);
    assert_eq!(place.read().unwrap(), 3);
    drop((block, shared, arena));
    drop(pool.alloc::<u64>().unwrap());

    // A new client has nothing to do with it.
    let client = scene.proxy.client();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    assert_eq!(*pool.alloc_value(6_u8).unwrap(), 6);
    scene.client.close().unwrap();
}

#[test]
fn session_is_opened_although_the_reply_is_lost() {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let proxy = Proxy::start(daemon.socket());
    proxy.swallow_replies();
    thread::scope(|scope| {
        let opening = scope.spawn(|| proxy.client());
        eventually(PATIENCE, "it is opened", || rpc.info().sessions == 2);
        proxy.cut();
        let client = opening.join().unwrap();
        client.ping().unwrap();
        assert_eq!(rpc.info().sessions, 2, "one session for both calls");
    });
}

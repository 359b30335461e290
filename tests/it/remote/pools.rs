//! What a remote client can do with pools, blocks and arenas.

use goumem::ArenaPoolOptions;
use goumem::blocking::RemotePool;

use super::*;

fn start() -> (TestDaemon, RemoteClient) {
    let daemon = TestDaemon::start_with(|config| {
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
    });
    let client = connect(plainly(daemon.tcp().unwrap()).label("remote"));
    (daemon, client)
}

fn blocks(pool: &RemotePool) -> u64 {
    pool.stat().unwrap().blocks
}

#[test]
fn blocks_are_written_and_read_and_freed_when_they_are_dropped() {
    let (_daemon, client) = start();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let block = pool.alloc(1000).unwrap();
    assert_eq!(wait(block.read_all()).unwrap(), [0; 1000]);
    wait(block.write(500, vec![7; 500])).unwrap();
    assert_eq!(wait(block.read(499, 3)).unwrap(), [0, 7, 7]);
    assert!(wait(block.read(1000, 0)).unwrap().is_empty());
    for outcome in [
        wait(block.read(999, 2)).map(drop),
        wait(block.write(501, vec![1; 500])),
    ] {
        assert_eq!(outcome.unwrap_err().reason(), Some(Reason::OutOfRange));
    }
    assert_eq!(blocks(&pool), 1);
    let handle = block.handle();
    drop(block);
    eventually(PATIENCE, "the block is free", || blocks(&pool) == 0);
    assert!(pool.read(handle, 0, 1).unwrap_err().is_stale());
    // Freed by somebody else before: nobody hears of it.
    let block = pool.alloc(10).unwrap();
    pool.free(block.handle()).unwrap();
    assert!(wait(block.free()).unwrap_err().is_stale());
    client.close().unwrap();
    assert!(matches!(client.ping(), Err(Error::Closed)));
    assert!(matches!(client.close(), Err(Error::Closed)));
}

#[test]
fn blocks_go_from_hand_to_hand_between_remote_and_local_clients() {
    let (daemon, alice) = start();
    let mode = PoolOptions::new(MIB).mode(0o666);
    let pool = alice.create_pool("p", mode).unwrap();
    // To a client that maps the pool …
    let handle = pool
        .alloc_bytes(*b"to the local one")
        .unwrap()
        .into_handle();
    let local = daemon.client().open_pool("p").unwrap();
    let mut block = local.take_slice::<u8>(handle).unwrap();
    assert_eq!(&*block, b"to the local one");
    assert!(pool.read_all(handle).unwrap_err().is_stale());
    // … and back.
    block.copy_from_slice(b"to a remote one!");
    let shared = block.share().unwrap();
    let handle = shared.into_handle();
    let adopted = pool.adopt(handle).unwrap();
    assert_eq!(adopted.handle(), handle);
    assert_eq!(wait(adopted.read_all()).unwrap(), b"to a remote one!");
    let taken = pool.take(adopted.into_handle()).unwrap();
    assert!(pool.resolve(handle).unwrap_err().is_stale());
    assert_eq!(taken.size_bytes(), 16);
    wait(taken.free()).unwrap();
    assert_eq!(blocks(&pool), 0);
}

#[test]
fn kept_and_published_blocks_outlive_the_session() {
    let (daemon, alice) = start();
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let kept = wait(pool.alloc_bytes("kept").unwrap().keep()).unwrap();
    let first = wait(pool.alloc_bytes("first").unwrap().publish("name")).unwrap();
    let second = pool.alloc_bytes("second").unwrap();
    let exists = pool.publish("name", second.handle());
    assert!(matches!(exists, Err(Error::NameExists { .. })));
    let left = pool.alloc_bytes("left").unwrap().into_handle();
    let held = alice.close();
    assert!(
        matches!(held, Err(Error::BlocksOutstanding { n: 2 })),
        "{held:?}"
    );
    pool.publish_replacing("name", second.into_handle())
        .unwrap();
    assert!(pool.resolve(first).unwrap_err().is_stale());
    drop((pool, alice));
    let root = daemon.client();
    eventually(PATIENCE, "the session has ended", || {
        root.sessions().unwrap().len() == 1
    });
    let bob = connect(plainly(daemon.tcp().unwrap()));
    let pool = bob.open_pool("p").unwrap();
    assert!(pool.resolve(left).unwrap_err().is_stale());
    assert_eq!(pool.read_all(kept).unwrap(), b"kept");
    let found = pool.lookup("name").unwrap();
    assert_eq!((found.size_bytes, pool.kept().unwrap().len()), (6, 2));
    assert_eq!(pool.withdraw("name").unwrap(), found.handle);
    assert!(matches!(
        pool.lookup("name"),
        Err(Error::NameNotFound { .. })
    ));
}

#[test]
fn arenas_are_filled_reset_and_returned() {
    let (_daemon, client) = start();
    let options = ArenaPoolOptions::new(1, 4096);
    let pool = client.create_arena_pool("a", options).unwrap();
    let mut arena = pool.try_get().unwrap();
    assert_eq!(arena.size_bytes(), 4096);
    let none = pool.try_get();
    assert!(matches!(none, Err(Error::NoFreeArena)), "{none:?}");
    let short = Duration::from_millis(20);
    let late = pool.get_timeout(short);
    assert!(matches!(late, Err(Error::TimedOut { waited }) if waited == short));
    let place = wait(arena.alloc(100)).unwrap();
    wait(arena.write(place, 10, "in an arena")).unwrap();
    assert_eq!(wait(arena.read(place, 10, 11)).unwrap(), b"in an arena");
    let full = wait(arena.alloc(4096)).unwrap_err();
    assert_eq!(full.reason(), Some(Reason::ArenaFull));
    wait(arena.reset()).unwrap();
    assert!(wait(arena.read(place, 10, 11)).unwrap_err().is_stale());
    wait(arena.alloc(4096)).unwrap();
    // Whoever waits gets what is dropped.
    let next = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(PATIENCE));
        eventually(PATIENCE, "it waits", || pool.stat().unwrap().waiting == 1);
        drop(arena);
        waiting.join().unwrap().unwrap()
    });
    wait(next.return_arena()).unwrap();
    assert_eq!(pool.stat().unwrap().free, 1);
}

#[test]
fn looks_need_no_mapping_and_errors_are_those_of_any_client() {
    let (daemon, client) = start();
    client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let exists = client.create_pool("p", PoolOptions::new(MIB));
    assert!(matches!(exists, Err(Error::PoolExists { .. })));
    let found = client.open_or_create_pool("p", PoolOptions::new(MIB));
    assert_eq!(found.unwrap().info().capacity_bytes, MIB);
    assert_eq!(client.stat_pool("p").unwrap().blocks, 0);
    assert_eq!(client.info().unwrap().pools, 1);
    client
        .create_arena_pool("a", ArenaPoolOptions::new(2, 4096))
        .unwrap();
    assert_eq!(client.list_arena_pools().unwrap().len(), 1);
    assert_eq!(client.stat_arena_pool("a").unwrap().free, 2);
    client.destroy_arena_pool("a").unwrap();
    client.destroy_pool("p").unwrap();
    assert!(matches!(
        client.open_pool("p"),
        Err(Error::PoolNotFound { .. })
    ));
    assert!(matches!(client.open_pool("/"), Err(Error::Name { .. })));
    // To the daemon's user a remote session is one of many.
    let sessions = daemon.client().sessions().unwrap();
    let remote = sessions.iter().find(|session| !session.may_map).unwrap();
    assert_eq!(remote.label.as_str(), "remote");
    assert!(remote.command.as_ref().unwrap().starts_with("127.0.0.1:"));
}

//! A client of the library over kill -9 of its daemon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use goumem::blocking::{Client, Pool, wait};
use goumem::{Access, ArenaPoolOptions, Error, PoolOptions};
use goumem_shm::os::peer::PidFd;
use harness::{DaemonProcess, PATIENCE, Proxy, eventually};
use rustix::process::{Pid, Signal, kill_process};

use super::{MIB, PAGE_BYTES};
use crate::PUPPETS;

fn scene() -> (DaemonProcess, Client, Pool) {
    let daemon = DaemonProcess::start_kept(PUPPETS);
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(64 * MIB)).unwrap();
    (daemon, client, pool)
}

/// Kills a daemon, and starts another on what it leaves.
fn restart(mut daemon: DaemonProcess) -> DaemonProcess {
    daemon.kill();
    daemon.next(PUPPETS)
}

#[test]
fn client_keeps_everything_over_a_killed_daemon() {
    let (mut daemon, client, pool) = scene();
    let mut block = pool.alloc_value(1_u64).unwrap();
    let shared = pool.alloc_value(2_u64).unwrap().share().unwrap();
    let kept = pool.alloc_value(3_u64).unwrap().share().unwrap();
    let kept = wait(kept.keep()).unwrap();
    pool.publish("three", kept).unwrap();
    let pin = pool.pin(shared.handle()).unwrap();
    let arenas = client
        .create_arena_pool("a", ArenaPoolOptions::new(3, 4096))
        .unwrap();
    let alone = arenas.get().unwrap();
    let place = alone.alloc::<u64>().unwrap();
    place.write(4).unwrap();
    let mut named = arenas.get().unwrap();
    named.share("batch/17").unwrap();
    let serial = client.session_serial();

    daemon.kill();
    // As long as no other memory is needed, there is nothing to notice.
    for round in 0..100_000_u64 {
        *block = *pool.try_alloc_value(round).unwrap();
    }
    let handle = pool.try_alloc_value(5_u64).unwrap().share().unwrap();
    let taken = pool.take::<u64>(handle.into_handle()).unwrap();
    let daemon = daemon.next(PUPPETS);

    // Other memory: this waits until the client is connected again.
    let large = pool.alloc_bytes(2 << 20, 16).unwrap();
    assert_eq!(*block + *taken, 99_999 + 5);
    assert_eq!(shared.read().unwrap(), 2);
    assert_eq!(pool.lookup("three").unwrap(), kept);
    assert_eq!(pool.resolve::<u64>(kept).unwrap().read().unwrap(), 3);
    assert_eq!(place.read().unwrap(), 4);
    assert_eq!(pin.read::<u64>().unwrap(), 2);
    let again = arenas.attach("batch/17", Access::ReadWrite).unwrap();
    assert_eq!(again.handle(), named.handle());
    let sessions = client.sessions().unwrap();
    assert!(sessions.iter().any(|session| session.serial == serial));
    let rpc = daemon.rpc();
    let stat = rpc.stat("p");
    assert_eq!((stat.pins, stat.kept_blocks, stat.named_blocks), (1, 1, 1));
    let arena_stat = rpc.arena_stat("a");
    assert_eq!((arena_stat.exclusive, arena_stat.named), (1, 1));

    // And it can all be given back.
    pool.free(kept).unwrap();
    drop((block, taken, large, shared, pin, alone, named, again));
    eventually(PATIENCE, "the pin is gone", || rpc.stat("p").pins == 0);
    eventually(PATIENCE, "the arenas are free", || {
        rpc.arena_stat("a").free == 3
    });
    client.close().unwrap();
    assert_eq!(rpc.stat("p").leased_bytes, 0);
    assert_eq!(rpc.stat("p").blocks, 0);
}

#[test]
fn lease_in_flight_at_the_kill_happens_once() {
    let daemon = DaemonProcess::start_kept(PUPPETS);
    let proxy = Proxy::start(daemon.socket());
    let client = proxy.client();
    let pool = client.create_pool("p", PoolOptions::new(64 * MIB)).unwrap();
    let mut daemon = Some(daemon);
    let mut blocks = Vec::new();
    for n in 1..=5 {
        let rpc = daemon.as_ref().unwrap().rpc();
        let expected_bytes = n * (2 * MIB + PAGE_BYTES);
        proxy.swallow_replies();
        thread::scope(|scope| {
            let allocating = scope.spawn(|| pool.alloc_bytes(2 << 20, 16));
            // Granted, and nobody knows yet.
            eventually(PATIENCE, "the lease is granted", || {
                rpc.stat("p").leased_bytes == expected_bytes
            });
            daemon = daemon.take().map(restart);
            proxy.cut();
            blocks.push(allocating.join().unwrap().unwrap());
        });
        let rpc = daemon.as_ref().unwrap().rpc();
        assert_eq!(rpc.stat("p").leased_bytes, expected_bytes);
    }
    drop(blocks);
    client.close().unwrap();
    assert_eq!(daemon.unwrap().rpc().stat("p").leased_bytes, 0);
}

#[test]
fn arena_waiter_asks_the_next_daemon_again() {
    let (mut daemon, client, _) = scene();
    let arenas = client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 4096))
        .unwrap();
    let other = daemon.client();
    let theirs = other.open_arena_pool("a").unwrap();
    let taken = theirs.get().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| arenas.get());
        for _ in 0..3 {
            let rpc = daemon.rpc();
            eventually(PATIENCE, "it waits", || rpc.arena_stat("a").waiting == 1);
            daemon.kill();
            daemon = daemon.next(PUPPETS);
        }
        let rpc = daemon.rpc();
        eventually(PATIENCE, "it waits", || rpc.arena_stat("a").waiting == 1);
        drop(taken);
        waiting.join().unwrap().unwrap();
        eventually(PATIENCE, "it is free", || rpc.arena_stat("a").free == 1);
    });
}

#[test]
fn threads_that_work_while_the_daemon_is_killed_lose_and_leak_nothing() {
    let (mut daemon, client, pool) = scene();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=3_u8)
            .map(|fill| {
                let (pool, stop) = (&pool, &stop);
                scope.spawn(move || {
                    let mut rounds = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        // More than is at hand, of three sizes, some of them shared and pinned.
                        let mut blocks: Vec<_> = [100, 40_000, 1_500_000]
                            .into_iter()
                            .map(|bytes| pool.alloc_bytes(bytes, 16).unwrap())
                            .collect();
                        blocks.iter_mut().for_each(|block| block.fill(fill));
                        let shared = pool.alloc_value(fill).unwrap().share().unwrap();
                        drop(pool.pin(shared.handle()).unwrap());
                        assert_eq!(shared.read().unwrap(), fill);
                        assert!(blocks.iter().all(|block| block.iter().all(|&b| b == fill)));
                        drop((blocks, shared));
                        pool.purge().unwrap();
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..5 {
            // It has been at work for some calls.
            let rpc = daemon.rpc();
            eventually(PATIENCE, "they lease", || rpc.stat("p").leased_bytes > MIB);
            daemon.kill();
            daemon = daemon.next(PUPPETS);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 0);
        }
    });
    let rpc = daemon.rpc();
    eventually(PATIENCE, "the pins are gone", || rpc.stat("p").pins == 0);
    client.close().unwrap();
    let stat = rpc.stat("p");
    assert_eq!(
        (stat.leased_bytes, stat.blocks, stat.condemned_blocks),
        (0, 0, 0)
    );
}

#[test]
fn daemon_and_keeper_killed_together_are_a_typed_loss() {
    let (mut daemon, client, pool) = scene();
    let block = pool.alloc_value(1_u64).unwrap();
    let shared = pool.alloc_value(2_u64).unwrap().share().unwrap();
    // First the daemon, which would replace its keeper.
    let keeper = daemon.keeper().unwrap();
    daemon.kill();
    let process = PidFd::open(keeper).unwrap();
    kill_process(Pid::from_raw(keeper.cast_signed()).unwrap(), Signal::KILL).unwrap();
    eventually(PATIENCE, "the keeper is dead", || process.is_dead());
    let daemon = daemon.next(PUPPETS);

    let error = pool.alloc_bytes(2 << 20, 16).unwrap_err();
    assert!(matches!(error, Error::PoolLost { .. }), "{error:?}");
    let error = client.list_pools().unwrap_err();
    assert!(matches!(error, Error::SessionExpired), "{error:?}");
    assert_eq!(*block + shared.read().unwrap(), 3);
    drop((block, shared));
    // Another client begins anew.
    let other = daemon.client();
    let pool = other.create_pool("p", PoolOptions::new(MIB)).unwrap();
    assert_eq!(*pool.alloc_value(4_u8).unwrap(), 4);
    client.close().unwrap();
}

#[test]
fn token_in_another_process_is_refused_after_a_restart_as_before() {
    let (daemon, _client, pool) = scene();
    let rpc = daemon.rpc();
    let token: String = rpc.token.iter().map(|byte| format!("{byte:02x}")).collect();
    let steal = format!(
        "steal {} {token} {}",
        daemon.socket().display(),
        pool.id().get()
    );
    let mut mallory = PUPPETS.client();
    let refused_everywhere = |answers: String| {
        answers.split("; ").all(|answer| {
            let (_, answer) = answer.split_once('=').unwrap();
            answer == "BadToken" || answer.starts_with("SESSION_EXPIRED")
        })
    };
    assert!(refused_everywhere(mallory.must(&steal)));
    let _daemon = restart(daemon);
    assert!(refused_everywhere(mallory.must(&steal)));
}

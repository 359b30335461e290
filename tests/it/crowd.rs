//! Many clients on a small pool: what they keep for later is bounded, and goes to whoever needs
//! it now.

use std::thread;
use std::time::Duration;

use goumem::PoolOptions;
use goumem::blocking::{Client, Pool};
use harness::{PATIENCE, TestDaemon, alone, eventually, skip};
use rustix::process::{Resource, getrlimit};

use crate::PUPPETS;

const MIB: u64 = 1 << 20;
const PAGE_BYTES: u64 = 64 << 10;

const SESSIONS: usize = 1000;
/// A quarter of the sessions can have a span each.
const CAPACITY_PAGES: u64 = SESSIONS as u64 / 4;
/// Threads that work for the sessions.
const WORKERS: usize = 8;
/// What each end of a connection needs, and more.
const FDS_PER_SESSION: u64 = 10;

/// Runs `work` for every item, on a few threads.
fn for_all<T: Send, R: Send>(items: &mut [T], work: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(WORKERS);
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks_mut(share)
            .map(|items| scope.spawn(move || items.iter_mut().map(work).collect::<Vec<_>>()))
            .collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap());
        done.flatten().collect()
    })
}

#[test]
fn a_thousand_sessions_share_a_small_pool_and_nobody_starves() {
    let _alone = alone();
    let daemon = TestDaemon::start();
    if getrlimit(Resource::Nofile)
        .maximum
        .is_some_and(|max| max < FDS_PER_SESSION * SESSIONS as u64)
    {
        return skip(
            "a thousand sessions on a small pool",
            "too few file descriptors",
        );
    }
    let host = daemon.client();
    let options = PoolOptions::new(CAPACITY_PAGES * PAGE_BYTES);
    let mine = host.create_pool("small", options).unwrap();
    let mut nobody = vec![(); SESSIONS];
    let mut crowd: Vec<(Client, Pool)> = for_all(&mut nobody, |()| {
        let client = daemon.client();
        let pool = client.open_pool("small").unwrap();
        (client, pool)
    });
    // Each has a turn, and then keeps an empty span. So most turns need the span of another, who
    // does not use it.
    for round in 0..3_u64 {
        let sums = for_all(&mut crowd, |(_, pool)| *pool.alloc_value(round).unwrap());
        assert_eq!(sums.iter().sum::<u64>(), round * SESSIONS as u64);
    }
    // One needs nearly all of it at once, which the others have but do not use.
    let bytes = (CAPACITY_PAGES - 10) * PAGE_BYTES;
    let large = mine
        .alloc_bytes(usize::try_from(bytes).unwrap(), 16)
        .unwrap();
    assert_eq!(large.len() as u64, bytes);
    drop(large);
    for_all(&mut crowd, |(_, pool)| {
        drop(pool.alloc_value(1_u8).unwrap())
    });
    // What is in use is nobody else's: the pool is full, and says so.
    let held: Vec<_> = crowd
        .iter()
        .map_while(|(_, pool)| pool.alloc_value(2_u8).ok())
        .collect();
    assert_eq!(held.len() as u64, CAPACITY_PAGES);
    drop(held);
    for_all(&mut crowd, |(_, pool)| {
        drop(pool.alloc_value(3_u8).unwrap())
    });
}

#[test]
fn what_a_client_keeps_for_later_is_bounded() {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    for max_idle_bytes in [0, 3 * PAGE_BYTES, 10 * MIB] {
        let builder = Client::builder().socket(daemon.socket());
        let client = builder.max_idle_bytes(max_idle_bytes).connect().unwrap();
        let one = client
            .create_pool("one", PoolOptions::new(64 * MIB))
            .unwrap();
        let other = client
            .create_pool("other", PoolOptions::new(64 * MIB))
            .unwrap();
        let blocks: Vec<_> = [&one, &other]
            .into_iter()
            .flat_map(|pool| (0..300).map(|_| pool.alloc_bytes(40_000, 16).unwrap()))
            .collect();
        let leased = || rpc.stat("one").leased_bytes + rpc.stat("other").leased_bytes;
        assert!(leased() > 20 * MIB);
        drop(blocks);
        eventually(PATIENCE, "what is too much goes back", || {
            leased() <= max_idle_bytes
        });
        // And it works on.
        drop(one.alloc_bytes(40_000, 16).unwrap());
        drop((one, other));
        client.close().unwrap();
        for name in ["one", "other"] {
            daemon.client().destroy_pool(name).unwrap();
        }
    }
}

/// Returns how often a client's I/O thread has gone to sleep.
fn n_sleeps(pid: u32) -> u64 {
    let field = |status: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let io_threads = tasks.flatten().filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm == "goumem-io\n")
    });
    io_threads
        .filter_map(|task| field(&std::fs::read_to_string(task.path().join("status")).ok()?))
        .sum()
}

#[test]
fn idle_client_does_not_wake_up() {
    // Twice as long as the pause between two looks at a client that does something.
    const QUIET: Duration = Duration::from_secs(2);
    let daemon = TestDaemon::start();
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {}", 64 * MIB));
    for key in ["a", "b"] {
        alice.must(&format!("alloc p {key} 100000 1"));
    }
    alice.must("drop a");
    assert!(n_sleeps(alice.pid()) > 0);
    eventually(PATIENCE, "it is quiet with a block", || {
        let before = n_sleeps(alice.pid());
        thread::sleep(QUIET);
        n_sleeps(alice.pid()) == before
    });
    alice.must("drop b");
    // Back at a size of its own, and quiet for good.
    eventually(PATIENCE, "it is quiet without one", || {
        let before = n_sleeps(alice.pid());
        thread::sleep(2 * QUIET);
        n_sleeps(alice.pid()) == before
    });
}

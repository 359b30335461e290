//! Memory that is short, and memory that must come back.

use super::*;

/// ray#14182, boost/interprocess#106: SIGBUS when memory is short.
#[test]
fn full_pool_refuses_with_numbers_and_nothing_faults() {
    let daemon = TestDaemon::start();
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool small {}", 8 * MIB));
    let filled = alice.must("fill small 100000");
    let (n, error) = filled.split_once(' ').unwrap();
    assert!(
        n.parse::<u64>().unwrap() >= 8 * MIB / 100_000 * 3 / 4,
        "{filled}"
    );
    assert!(error.starts_with("POOL_EXHAUSTED"), "{error}");
    // Smaller ones too, to the last.
    let filled = alice.must("fill small 16");
    assert!(filled.contains("POOL_EXHAUSTED"), "{filled}");
    alice.must("drop-many");
    let filled = alice.must("fill small 500000");
    assert!(filled.contains("POOL_EXHAUSTED"), "{filled}");
    assert!(alice.is_alive());
}

#[test]
fn full_budget_refuses_with_numbers_and_nothing_faults() {
    let daemon = TestDaemon::start_with(|config| {
        config.limits.budget_bytes = Some(16 * MIB);
    });
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool wide {}", 64 * MIB));
    let filled = alice.must("fill wide 1000000");
    let (n, error) = filled.split_once(' ').unwrap();
    assert!((10..=16).contains(&n.parse().unwrap()), "{filled}");
    assert!(error.starts_with("BUDGET_EXHAUSTED"), "{error}");
    // A pool whose arenas do not fit is not made at all.
    let client = daemon.client();
    let options = ArenaPoolOptions::new(4, 8 * MIB);
    let error = client.create_arena_pool("arenas", options).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BudgetExhausted));
    assert!(client.list_arena_pools().unwrap().is_empty());
    alice.must("drop-many");
    let stat = client.info().unwrap();
    assert!(stat.committed_bytes <= 16 * MIB, "{stat:?}");
}

#[test]
fn named_pool_in_a_full_dev_shm_refuses_and_nothing_faults() {
    let setup = Setup {
        dev_shm_bytes: Some(16 * MIB),
        ..Setup::default()
    };
    let mut alice = match PUPPETS.embedded_with(&setup) {
        Ok(alice) => alice,
        Err(why) => return skip("SIGBUS on a /dev/shm of 16 MiB", &why),
    };
    alice.must(&format!("create-pool named {} backing=named", 64 * MIB));
    let filled = alice.must("fill named 1000000");
    let (n, error) = filled.split_once(' ').unwrap();
    assert!((8..=16).contains(&n.parse().unwrap()), "{filled}");
    assert!(error.starts_with("BUDGET_EXHAUSTED"), "{error}");
    alice.must("drop-many");
    let again = alice.must("fill named 1000000");
    assert_eq!(
        again.split_once(' ').unwrap().0,
        n,
        "what was freed can be had again"
    );
    assert!(alice.is_alive());
}

/// v6d-io/v6d#1620: memory was not returned to the OS.
#[test]
fn freed_memory_goes_back_to_the_os() {
    let _alone = alone();
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let available = client.info().unwrap().available_bytes;
    let total = if available > 4096 * MIB {
        1024 * MIB
    } else {
        256 * MIB
    };
    let baseline = client.info().unwrap().committed_bytes;
    let pool = client
        .create_pool("p", PoolOptions::new(total + 64 * MIB))
        .unwrap();
    let n_blocks = total / (16 * MIB);
    let blocks: Vec<_> = (0..n_blocks)
        .map(|_| pool.alloc_slice::<u64>(2 << 20).unwrap())
        .collect();
    // What the daemon says, and what the kernel says of the segment itself.
    let rpc = daemon.rpc();
    let (_, fds) = rpc.ask_for_memory(pool.id().get(), os::Access::ReadOnly);
    let data = fs::File::from(fds.into_iter().nth(1).unwrap());
    let on_file = || data.metadata().unwrap().blocks() * 512;
    assert!(on_file() >= total);
    assert!(client.info().unwrap().committed_bytes >= baseline + total);

    drop(blocks);
    pool.purge().unwrap();
    eventually(PATIENCE, "the segment has let go of its pages", || {
        on_file() < 8 * MIB
    });
    eventually(PATIENCE, "and the budget knows", || {
        client.info().unwrap().committed_bytes < baseline + 8 * MIB
    });
}

#[test]
fn freed_memory_goes_back_to_the_os_by_itself() {
    let daemon = TestDaemon::start_with(|config| {
        config.limits.purge_after = Duration::from_millis(50);
    });
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(64 * MIB)).unwrap();
    let large: Vec<_> = (0..8)
        .map(|_| pool.alloc_slice::<u8>(4 << 20).unwrap())
        .collect();
    let small: Vec<_> = (0..10_000)
        .map(|_| pool.alloc::<[u64; 32]>().unwrap())
        .collect();
    assert!(pool.stat().unwrap().committed_bytes >= 34 * MIB);
    drop((large, small));
    eventually(PATIENCE, "idle memory is given back unasked", || {
        // The client keeps a span of each class for the next use.
        pool.stat().unwrap().committed_bytes < 2 * MIB
    });
}

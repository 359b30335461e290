//! `map` of a real pool: what is held is drawn, and the numbers are the daemon's.

use goumem::{ArenaPoolOptions, PoolOptions};
use harness::TestDaemon;

use crate::run::goumemctl;

const MIB: u64 = 1 << 20;

#[test]
fn a_pool_is_drawn_with_who_holds_it() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client
        .create_pool("frames", PoolOptions::new(8 * MIB))
        .unwrap();
    let _block = pool.alloc_slice::<u8>(2 << 20).unwrap();
    let drawn = goumemctl(daemon.socket(), "map frames --width 64");
    assert_eq!((drawn.code, drawn.stderr.as_str()), (Some(0), ""));
    for text in ["AAAA", "...."] {
        assert!(drawn.stdout.contains(text), "{}", drawn.stdout);
    }
    assert!(drawn.stdout.contains(" test "), "{}", drawn.stdout);
    assert!(
        !drawn.stdout.contains('\u{1b}'),
        "no colours where there is no terminal"
    );

    let map = goumemctl(daemon.socket(), "map frames --by class -o json").json();
    let stat = client.stat_pool("frames").unwrap();
    assert_eq!(map["capacity_bytes"], 8 * MIB);
    assert_eq!(map["held_bytes"], stat.leased_bytes + stat.abandoned_bytes);
    assert_eq!(map["largest_free_bytes"], stat.largest_free_bytes);
    assert_eq!(map["shares"][0]["label"], "large blocks");
}

#[test]
fn arena_pools_are_drawn_too_and_others_are_not_found() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let arenas = client
        .create_arena_pool("batches", ArenaPoolOptions::new(8, 4096))
        .unwrap();
    let _arena = arenas.try_get().unwrap();
    let drawn = goumemctl(daemon.socket(), "map batches --by state");
    assert!(
        drawn.stdout.contains(".......") && drawn.stdout.contains("exclusive"),
        "{drawn:?}"
    );
    let none = goumemctl(daemon.socket(), "map none");
    assert_eq!(none.code, Some(3));
    assert!(none.stderr.contains("goumemctl pool ls"), "{none:?}");
}

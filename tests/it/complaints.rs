//! What users of shared-memory libraries complain of, each as a test that it does not happen
//! here. The numbers of the issue threads are in the names' comments.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use goumem::{AccessError, ArenaPoolOptions, Backing, Error, PoolOptions, Reason};
use goumem_proto::v1;
use goumem_shm::os;
use harness::{
    DaemonProcess, PATIENCE, Rpc, SOON, Setup, TestDaemon, abandoned_segments, alone, call,
    eventually, is_root, processes_with, skip,
};

use crate::PUPPETS;

mod first_run;
mod full;
mod messages;

const MIB: u64 = 1 << 20;

/// v6d-io/v6d#2072: 400 MiB of a dead client stayed in use until the daemon's restart.
#[test]
fn killed_client_with_400_mib_leaves_nothing_within_a_second() {
    let _alone = alone();
    let daemon = TestDaemon::start();
    let watcher = daemon.client();
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool big {}", 420 * MIB));
    for key in ["a", "b", "c", "d"] {
        alice.must(&format!("alloc big {key} {} 7", 100 * MIB));
    }
    // Two that others could see, and two that nobody knows of.
    let handle = alice.must("share a");
    alice.must("share b");
    let stat = watcher.stat_pool("big").unwrap();
    assert_eq!(stat.requested_bytes, 200 * MIB);
    assert!(stat.leased_bytes >= 400 * MIB, "{stat:?}");

    alice.kill_unreaped();
    let took = eventually(SOON, "what the dead client held is free", || {
        let stat = watcher.stat_pool("big").unwrap();
        (stat.used_bytes, stat.leased_bytes, stat.abandoned_bytes) == (0, 0, 0)
    });
    eventually(SOON, "and its memory is with the OS again", || {
        watcher.stat_pool("big").unwrap().committed_bytes == 0
    });
    println!("400 MiB came back in {took:?}");
    let pool = watcher.open_pool("big").unwrap();
    let error = pool
        .resolve_slice::<u8>(handle.parse().unwrap())
        .unwrap_err();
    assert!(error.is_stale(), "{error}");
    pool.alloc_slice::<u8>(400 << 20).unwrap();
}

/// CPython's multiprocessing, sglang#28089 and #30591, llm-d#364: SIGKILL of a process group
/// leaves segments, up to 124 000 files of them.
#[test]
fn killing_daemon_and_clients_a_hundred_times_leaves_no_memory() {
    let _alone = alone();
    for round in 0..50 {
        let name = format!("kill-{}-{round}", std::process::id());
        kill_a_round(&name, "memfd", round);
        eventually(PATIENCE, "nobody has the memfds", || {
            processes_with(&name).is_empty()
        });
    }
}

/// The same for segments that have a name, which the next daemon's start removes.
#[test]
fn named_segments_of_killed_daemons_are_gone_at_the_next_start() {
    let _alone = alone();
    let mut names = Vec::new();
    for round in 0..50 {
        names.push(kill_a_round("named", "named", round));
    }
    let next = TestDaemon::start();
    next.client().ping().unwrap();
    for name in &names {
        assert!(!PathBuf::from("/dev/shm").join(name).exists(), "{name}");
    }
    eventually(PATIENCE, "no segment is without a living daemon", || {
        abandoned_segments().is_empty()
    });
}

/// Starts a daemon and two clients that share a pool, and kills all of them, in an order that
/// depends on the round. Returns the segment's OS name, if it has one.
fn kill_a_round(pool: &str, backing: &str, round: usize) -> String {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let (mut alice, mut bob) = (PUPPETS.client(), PUPPETS.client());
    alice.must(&format!("connect {}", daemon.socket().display()));
    bob.tell(&format!("connect {}", daemon.socket().display()));
    let os_name = alice.must(&format!("create-pool {pool} {} backing={backing}", 4 * MIB));
    assert_eq!(os_name.is_empty(), backing == "memfd");
    alice.must(&format!("alloc {pool} a {MIB} 7"));
    let handle = alice.must("share a");
    bob.reply().unwrap();
    bob.must(&format!("open-pool {pool} rw"));
    bob.must(&format!("look {pool} {handle} 7"));
    bob.must(&format!("alloc {pool} b 100000 8"));
    let mut dying = [daemon.puppet(), &mut alice, &mut bob];
    dying.rotate_left(round % 3);
    for puppet in &mut dying {
        puppet.kill_unreaped();
    }
    for puppet in &mut dying {
        puppet.kill();
    }
    os_name
}

/// python/cpython#82300, #104291, #116849: a reader's exit destroys the writer's segment.
#[test]
fn fifty_readers_come_and_go_and_the_writers_data_stays() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("data", PoolOptions::new(MIB)).unwrap();
    let shared = pool
        .alloc_slice_from(&[42u8; 100_000])
        .unwrap()
        .share()
        .unwrap();
    let private = pool.alloc_slice_from(&[43u8; 1000]).unwrap();
    for _ in 0..5 {
        let mut readers: Vec<_> = (0..10).map(|_| PUPPETS.client()).collect();
        for reader in &mut readers {
            reader.tell(&format!("connect {}", daemon.socket().display()));
        }
        for reader in &mut readers {
            reader.reply().unwrap();
            reader.must("open-pool data ro");
            assert_eq!(
                reader.must(&format!("look data {} 42", shared.handle())),
                "100000"
            );
        }
        // One half ends in order, the other half does not.
        for (i, mut reader) in readers.into_iter().enumerate() {
            match i % 2 {
                0 => reader.quit(),
                _ => reader.kill(),
            }
        }
    }
    assert!(shared.read_slice().unwrap() == [42; 100_000]);
    assert!(*private == [43; 1000]);
    shared.write(&[44; 100_000]).unwrap();
    eventually(PATIENCE, "the readers' sessions have ended", || {
        client.info().unwrap().sessions == 1
    });
    assert!(shared.read_slice().unwrap() == [44; 100_000]);
}

/// v6d-io/v6d#1916: a deleted object's memory was reused under its reader.
#[test]
fn pinned_bytes_stay_until_the_pin_is_gone_whoever_frees_them() {
    let daemon = TestDaemon::start();
    let (owner, reader) = (daemon.client(), daemon.client());
    let pool = owner.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let theirs = reader.open_pool_read_only("p").unwrap();
    let shared = pool
        .alloc_slice_from(&[9u8; 5000])
        .unwrap()
        .share()
        .unwrap();
    let handle = shared.handle();
    let pin = theirs.pin(handle).unwrap();
    drop(shared);
    assert!(theirs.resolve_slice::<u8>(handle).unwrap_err().is_stale());

    // Whatever is allocated now, until there is no more, is somewhere else.
    let mut others = Vec::new();
    while let Ok(mut block) = pool.alloc_slice::<u8>(5000) {
        block.fill(1);
        others.push(block);
    }
    let mut bytes = [0u8; 5000];
    pin.copy_at(0, &mut bytes).unwrap();
    assert!(bytes == [9; 5000]);
    assert_eq!(pool.stat().unwrap().condemned_blocks, 1);

    drop(pin);
    eventually(PATIENCE, "the last pin's end frees the block", || {
        pool.stat().unwrap().condemned_blocks == 0
    });
    others.push(pool.alloc_slice::<u8>(5000).unwrap());
    assert!(pool.alloc_slice::<u8>(5000).is_err(), "one slot came back");
}

/// pytorch#973, #11201: one fd for each tensor.
#[test]
fn a_hundred_thousand_allocations_open_no_fd() {
    let daemon = TestDaemon::start();
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {}", 64 * MIB));
    alice.must("alloc-many p 10 100");
    let before = alice.must("fds");
    assert_eq!(alice.must("alloc-many p 99990 100"), "100000");
    assert_eq!(alice.must("fds"), before);
    alice.must("drop-many");
    assert_eq!(alice.must("fds"), before);
}

/// What the daemon's default backing is, so that the rows above are about it.
#[test]
fn memfd_is_what_one_gets_unasked() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    assert_eq!(pool.info().backing, Backing::Memfd);
}

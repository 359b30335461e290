//! What is left when a process dies: nothing of its own, everything of others. And that nobody
//! is taken for dead who is not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use goumem::blocking::Client;
use goumem::{ArenaPoolOptions, PoolOptions, Reason};
use harness::{
    DaemonProcess, PATIENCE, Puppet, SOON, Setup, TestDaemon, alone, eventually, is_root, skip,
};
use rustix::process::Signal;

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

fn puppet(daemon: &TestDaemon) -> Puppet {
    let mut puppet = PUPPETS.client();
    puppet.must(&format!("connect {}", daemon.socket().display()));
    puppet
}

fn is_empty(client: &Client, pool: &str) -> bool {
    let stat = client.stat_pool(pool).unwrap();
    (stat.blocks, stat.leased_bytes, stat.abandoned_bytes) == (0, 0, 0)
}

#[test]
fn death_is_seen_within_a_second_also_when_a_forked_child_holds_the_sockets() {
    let _alone = alone();
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let mut alice = puppet(&daemon);
    alice.must(&format!("create-pool p {MIB}"));
    alice.must("alloc p a 1000 7");
    alice.must("share a");
    // The child has every fd of its parent, the gRPC connection among them, and lives on.
    let child = alice.must("fork");
    assert!(!is_empty(&client, "p"));
    alice.kill_unreaped();
    eventually(SOON, "the dead parent's blocks are free", || {
        is_empty(&client, "p")
    });
    eventually(SOON, "and its session has ended", || {
        client.sessions().unwrap().len() == 1
    });
    assert!(
        PathBuf::from(format!("/proc/{child}")).exists(),
        "the child lives"
    );
}

#[test]
fn stopped_client_loses_nothing() {
    let daemon = TestDaemon::start_with(|config| {
        config.limits.purge_after = Duration::from_millis(10);
    });
    let client = daemon.client();
    let mut alice = puppet(&daemon);
    alice.must(&format!("create-pool p {}", 8 * MIB));
    alice.must("alloc p private 1000 7");
    alice.must("alloc p shared 200000 8");
    let handle = alice.must("share shared");
    alice.must("alloc-many p 200 300");
    alice.must("create-arenas q 2 4096");
    alice.must("get q arena 1000");
    alice.must("put arena 1000 9");
    alice.signal(Signal::STOP);

    // The daemon sweeps others, purges, and asks everybody for what they do not use.
    for _ in 0..10 {
        let mut bob = puppet(&daemon);
        bob.must("open-pool p rw");
        bob.must("open-arenas q rw");
        let filled = bob.must("fill p 100000");
        assert!(filled.contains("POOL_EXHAUSTED"), "{filled}");
        bob.must(&format!("look p {handle} 8"));
        bob.must("get q b 1000");
        bob.kill();
        eventually(PATIENCE, "bob's session has ended", || {
            client.sessions().unwrap().len() == 2
        });
        client.open_pool("p").unwrap().purge().unwrap();
    }

    assert!(alice.reply_within(Duration::ZERO).is_none());
    alice.signal(Signal::CONT);
    alice.must("check private 7");
    alice.must("check shared 8");
    assert_eq!(alice.must("check arena 9"), "1008");
    assert_eq!(alice.must("alloc-many p 10 300"), "210");
    alice.must("alloc p more 100000 3");
    alice.must("check more 3");
    assert_eq!(client.stat_pool("p").unwrap().blocks, 1);
    assert_eq!(client.stat_arena_pool("q").unwrap().exclusive, 1);
}

#[test]
fn arenas_of_the_dead_go_to_those_who_wait() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let mut alice = puppet(&daemon);
    alice.must("create-arenas q 2 4096");
    alice.must("get q a 1000");
    alice.must("get q b 1000");
    let named = alice.must("share-arena b team");
    // One waits over the mapping, one by RPC.
    let mut bob = puppet(&daemon);
    bob.must("open-arenas q rw");
    bob.tell("get q mine 30000");
    eventually(PATIENCE, "bob waits", || {
        client.stat_arena_pool("q").unwrap().waiting == 1
    });
    let rpc = daemon.rpc();
    let pool_id = client.open_arena_pool("q").unwrap().id().get();
    let waiting = std::thread::spawn(move || rpc.get_arena(pool_id, 30_000));
    eventually(PATIENCE, "two wait", || {
        client.stat_arena_pool("q").unwrap().waiting == 2
    });

    alice.kill_unreaped();
    let got = bob.reply().unwrap();
    let also = goumem::Handle::try_from(waiting.join().unwrap().unwrap())
        .unwrap()
        .to_string();
    assert!(
        got != also && got != named && also != named,
        "another life of each"
    );
    let stat = client.stat_arena_pool("q").unwrap();
    assert_eq!(
        (stat.free, stat.exclusive, stat.named, stat.waiting),
        (0, 2, 0, 0)
    );
}

#[test]
fn named_arena_lives_as_long_as_its_last_holder() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client
        .create_arena_pool("q", ArenaPoolOptions::new(1, 4096))
        .unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-arenas q rw");
    let mut bob = puppet(&daemon);
    bob.must("open-arenas q rw");
    alice.must("get q a 1000");
    alice.must("put a 100 7");
    alice.must("share-arena a team");
    bob.must("attach q b team rw");
    alice.kill();
    eventually(PATIENCE, "only bob holds it", || {
        let holders = pool.holders().unwrap();
        holders.len() == 1 && holders[0].holders.len() == 1
    });
    assert_eq!(bob.must("check b 7"), "112");
    bob.must("put b 100 8");
    bob.kill();
    eventually(SOON, "the last holder's death returns it", || {
        pool.stat().unwrap().free == 1
    });
    pool.try_get().unwrap();
}

#[test]
fn pins_of_the_dead_are_dropped() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let freed = pool.alloc_slice_from(&[1u8; 100]).unwrap().share().unwrap();
    let alive = pool.alloc_slice_from(&[2u8; 100]).unwrap().share().unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-pool p rw");
    alice.must(&format!("pin p a {}", freed.handle()));
    alice.must(&format!("pin p b {}", alive.handle()));
    drop(freed);
    alice.must("check a 1");
    let stat = pool.stat().unwrap();
    assert_eq!((stat.pins, stat.condemned_blocks), (2, 1));
    let error = pool.take_slice::<u8>(alive.handle()).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BlockPinned));

    alice.kill_unreaped();
    eventually(SOON, "pins go with their session", || {
        let stat = pool.stat().unwrap();
        (stat.pins, stat.condemned_blocks) == (0, 0)
    });
    pool.take_slice::<u8>(alive.into_handle()).unwrap();
}

#[test]
fn waits_of_the_dead_are_forgotten() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client
        .create_arena_pool("q", ArenaPoolOptions::new(1, 4096))
        .unwrap();
    let arena = pool.get().unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-arenas q rw");
    alice.tell("get q a 60000");
    eventually(PATIENCE, "alice waits", || {
        pool.stat().unwrap().waiting == 1
    });
    alice.kill_unreaped();
    eventually(SOON, "nobody waits", || pool.stat().unwrap().waiting == 0);
    drop(arena);
    pool.try_get().unwrap();
}

#[test]
fn kept_and_named_blocks_outlive_their_owner() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(4 * MIB)).unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-pool p rw");
    for (key, fill) in [("kept", 1), ("named", 2), ("gone", 3), ("given", 4)] {
        alice.must(&format!("alloc p {key} 1000 {fill}"));
        alice.must(&format!("share {key}"));
    }
    alice.must(&format!("alloc p large {} 5", 2 * MIB));
    alice.must("share large");
    let kept = alice.must("keep kept").parse().unwrap();
    alice.must("publish named answer");
    let large = alice.must("keep large").parse().unwrap();
    let given = alice.must("give given").parse().unwrap();
    alice.kill();
    eventually(PATIENCE, "three blocks are left", || {
        pool.stat().unwrap().blocks == 3
    });

    let filled = |handle, fill| {
        let bytes = pool.resolve_slice::<u8>(handle).unwrap();
        let mut copy = vec![0; bytes.len()];
        bytes.copy_to(&mut copy).unwrap();
        copy == vec![fill; copy.len()]
    };
    assert!(filled(kept, 1) && filled(large, 5));
    assert!(filled(pool.lookup("answer").unwrap(), 2));
    assert!(
        pool.resolve_slice::<u8>(given).unwrap_err().is_stale(),
        "nobody took it"
    );
    let stat = pool.stat().unwrap();
    assert_eq!((stat.kept_blocks, stat.named_blocks), (3, 1));
    assert!(stat.abandoned_bytes >= 2 * MIB, "{stat:?}");

    // Spans without a lessee go on to whoever needs one, and what lives in them stays.
    let more: Vec<_> = (0..500)
        .map(|_| pool.alloc_slice_from(&[9u8; 1000]).unwrap())
        .collect();
    assert!(filled(kept, 1) && filled(pool.lookup("answer").unwrap(), 2));
    drop(more);
    pool.free(kept).unwrap();
    pool.free(large).unwrap();
    let named = pool.withdraw("answer").unwrap();
    assert!(*pool.take_slice::<u8>(named).unwrap() == [2; 1000]);
    eventually(PATIENCE, "and all of it is free in the end", || {
        // Again and again: a span that was leased ahead of use may come after the first.
        pool.purge().unwrap();
        is_empty(&client, "p")
    });
}

#[test]
fn adopted_and_taken_blocks_belong_to_their_new_owner_when_the_old_one_dies() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    client.create_pool("p", PoolOptions::new(4 * MIB)).unwrap();
    let (mut alice, mut bob) = (puppet(&daemon), puppet(&daemon));
    alice.must("open-pool p rw");
    bob.must("open-pool p rw");
    for (key, bytes) in [("a", 1000), ("b", 1000), ("c", 2_000_000)] {
        alice.must(&format!("alloc p {key} {bytes} 7"));
        let handle = alice.must(&format!("share {key}"));
        bob.must(&match key {
            "a" => format!("adopt p {key} {handle}"),
            _ => format!("take p {key} {handle}"),
        });
    }
    alice.kill();
    eventually(PATIENCE, "alice's session has ended", || {
        client.sessions().unwrap().len() == 2
    });
    let stat = client.stat_pool("p").unwrap();
    assert_eq!((stat.blocks, stat.leased_bytes), (3, 0), "{stat:?}");
    for key in ["a", "b", "c"] {
        bob.must(&format!("check {key} 7"));
    }
    bob.must("drop b");
    bob.must("check a 7");
    bob.kill_unreaped();
    eventually(SOON, "what bob took over goes with bob", || {
        is_empty(&client, "p")
    });
}

#[test]
fn blocks_of_the_living_survive_in_the_spans_of_the_dead_and_the_reverse() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(4 * MIB)).unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-pool p rw");
    // Alice adopts a block in this client's span; her death frees it there.
    let mine = pool
        .alloc_slice_from(&[1u8; 500])
        .unwrap()
        .share()
        .unwrap()
        .into_handle();
    let beside = pool.alloc_slice_from(&[2u8; 500]).unwrap();
    alice.must(&format!("adopt p a {mine}"));
    alice.kill_unreaped();
    eventually(SOON, "her block is free", || {
        pool.stat().unwrap().blocks == 0
    });
    assert!(*beside == [2; 500]);
    assert!(pool.resolve_slice::<u8>(mine).unwrap_err().is_stale());
    // Its slot is this client's again.
    let all: Vec<_> = (0..300)
        .map(|_| pool.alloc_slice_from(&[3u8; 500]).unwrap())
        .collect();
    assert!(*beside == [2; 500]);
    drop((all, beside));
}

#[test]
fn killing_a_session_kills_its_process_and_takes_back_what_it_held() {
    let daemon = TestDaemon::start_for_everybody();
    let client = daemon.client();
    client
        .create_pool("p", PoolOptions::new(MIB).mode(0o666))
        .unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-pool p rw");
    alice.must("alloc p a 1000 7");
    let sessions = client.sessions().unwrap();
    let session = sessions
        .iter()
        .find(|session| session.pid == alice.pid())
        .unwrap();
    assert_eq!(session.label.as_str(), "puppet");

    let error = client
        .kill_session(session.session, Some(session.serial + 1))
        .unwrap_err();
    assert_eq!(
        error.reason(),
        Some(Reason::SessionNotFound),
        "another session's serial"
    );
    assert!(alice.is_alive());
    client
        .kill_session(session.session, Some(session.serial))
        .unwrap();
    eventually(SOON, "the process is dead", || !alice.is_alive());
    eventually(SOON, "and swept", || is_empty(&client, "p"));
    let error = client
        .kill_session(session.session, Some(session.serial))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::SessionNotFound));
}

#[test]
fn only_the_same_user_and_root_may_kill_or_see_a_session() {
    if !is_root() {
        return skip(
            "killing sessions of other users",
            "only root can become other users",
        );
    }
    let daemon = TestDaemon::start_for_everybody();
    let mut alice = puppet(&daemon);
    let mut carol = PUPPETS.client_with(&Setup::user(47_020, 47_020)).unwrap();
    carol.must(&format!("connect {}", daemon.socket().display()));
    let session = daemon
        .client()
        .sessions()
        .unwrap()
        .into_iter()
        .find(|session| session.pid == alice.pid())
        .unwrap();
    let error = carol.ask(&format!("kill {}", session.session)).unwrap_err();
    assert!(error.starts_with("PERMISSION_DENIED"), "{error}");
    assert!(alice.is_alive());
    assert_eq!(carol.must("sessions"), "1", "her own");
}

#[test]
fn forked_child_is_refused_by_name_and_frees_nothing() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-pool p rw");
    alice.must("alloc p a 1000 7");
    alice.must("alloc p b 1000 8");
    let handle = alice.must("share b");
    // One bit for each attempt that was not refused as it should be.
    assert_eq!(alice.must("fork-use p b"), "0");
    // The child has dropped its copy of the block, and the parent then its own.
    eventually(PATIENCE, "the parent's drop has freed it", || {
        pool.stat().unwrap().blocks == 0
    });
    assert!(
        pool.resolve_slice::<u8>(handle.parse().unwrap())
            .unwrap_err()
            .is_stale()
    );
    alice.must("check a 7");
    alice.must("alloc p c 1000 9");
    alice.must("check c 9");
}

#[test]
fn forked_child_lives_on_with_a_client_of_its_own_and_so_does_its_child() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(8 * MIB)).unwrap();
    let mut alice = puppet(&daemon);
    alice.must("open-pool p rw");
    alice.must("alloc p a 8 7");
    alice.must("alloc p b 1000 8");
    alice.must("share b");
    let before = pool.stat().unwrap();
    // One bit for each thing that was not as it should be.
    assert_eq!(alice.must("fork-live p b"), "0");
    // What the children had is free, and what the parent has is as it was.
    eventually(PATIENCE, "their sessions have ended", || {
        client.sessions().unwrap().len() == 2
    });
    let after = pool.stat().unwrap();
    assert_eq!(after.blocks, before.blocks);
    assert_eq!(after.leased_bytes, before.leased_bytes);
    alice.must("check a 7");
    alice.must("check b 8");
    alice.must("alloc p c 8 9");
    alice.must("check c 9");
    assert_eq!(alice.must("fork-live p b"), "0", "and once more");
    alice.must("check a 7");
}

/// K11, and the kernel's answer to an `fallocate` beyond a cgroup's limit: SIGKILL.
#[test]
fn daemon_in_a_small_cgroup_refuses_instead_of_being_killed() {
    let cgroup = match Cgroup::with_limit(64 * MIB) {
        Ok(cgroup) => cgroup,
        Err(why) => return skip("a daemon in a cgroup of 64 MiB", &why),
    };
    let setup = Setup {
        cgroup: Some(cgroup.0.clone()),
        ..Setup::default()
    };
    let started = DaemonProcess::start_with(PUPPETS, &setup, &["--reserve", "16MiB"]);
    let mut daemon = match started {
        Ok(daemon) => daemon,
        Err(why) => return skip("a daemon in a cgroup of 64 MiB", &why),
    };
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {}", 256 * MIB));
    for bytes in [MIB, 16 * MIB, 100_000] {
        let filled = alice.must(&format!("fill p {bytes}"));
        assert!(filled.contains("BUDGET_EXHAUSTED"), "{filled}");
    }
    let error = alice
        .ask(&format!("alloc p big {} 7", 128 * MIB))
        .unwrap_err();
    assert!(error.starts_with("BUDGET_EXHAUSTED"), "{error}");
    assert!(daemon.puppet().is_alive() && alice.is_alive());
    let info = daemon.client().info().unwrap();
    assert!(
        info.committed_bytes >= 16 * MIB,
        "some of it could be had: {info:?}"
    );
    alice.must("drop-many");
    let filled = alice.must(&format!("fill p {MIB}"));
    assert!(!filled.starts_with("0 "), "{filled}");
}

/// A memory cgroup, removed when it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn with_limit(bytes: u64) -> Result<Self, String> {
        let v1 = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes");
        let v2 = ("/sys/fs/cgroup", "memory.max");
        let (root, file) = if PathBuf::from(v1.0).is_dir() { v1 } else { v2 };
        let path = PathBuf::from(root).join(format!("goumem-test-{}", std::process::id()));
        let cgroup = Self(path);
        let made = fs::create_dir(&cgroup.0)
            .and_then(|()| fs::write(cgroup.0.join(file), bytes.to_string()));
        made.map_err(|error| format!("{}: {error}", cgroup.0.display()))?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can be removed when its last process has been reaped.
        let removed = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        if !std::thread::panicking() {
            eventually(PATIENCE, "the cgroup is empty", removed);
        } else {
            removed();
        }
    }
}

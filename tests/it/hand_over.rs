//! Blocks that go from process to process: by handle, through a pipe, while some of the processes
//! are killed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use goumem::{Handle, PoolOptions, Reason};
use harness::{PATIENCE, Puppet, Random, TestDaemon, alone, eventually};

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

fn puppet(daemon: &TestDaemon, pool: &str) -> Puppet {
    let mut puppet = PUPPETS.client();
    puppet.must(&format!("connect {}", daemon.socket().display()));
    puppet.must(&format!("open-pool {pool} rw"));
    puppet
}

/// Alice and Bob, in a process each, with a pool that they have open.
fn two_with_a_pool(daemon: &TestDaemon) -> (Puppet, Puppet) {
    daemon
        .client()
        .create_pool("p", PoolOptions::new(4 * MIB))
        .unwrap();
    (puppet(daemon, "p"), puppet(daemon, "p"))
}

#[test]
fn handle_that_came_through_a_pipe_names_the_same_bytes() {
    let daemon = TestDaemon::start();
    let (mut alice, mut bob) = two_with_a_pool(&daemon);
    for bytes in [1, 16, 1000, 70_000, 3_000_000] {
        alice.must(&format!("alloc p a {bytes} 7"));
        let handle = alice.must("share a");
        assert_eq!(handle.len(), 36, "{handle}");
        assert_eq!(bob.must(&format!("look p {handle} 7")), bytes.to_string());
        alice.must("drop a");
        let error = bob.ask(&format!("look p {handle} 7")).unwrap_err();
        assert!(error.starts_with("STALE_HANDLE"), "{error}");
    }
}

#[test]
fn take_makes_every_other_handle_stale_and_the_block_the_takers() {
    let daemon = TestDaemon::start();
    let (mut alice, mut bob) = two_with_a_pool(&daemon);
    alice.must("alloc p a 1000 7");
    alice.must("share a");
    let handle = alice.must("give a");
    bob.must(&format!("take p mine {handle}"));
    bob.must("check mine 7");
    for command in [
        "look p HANDLE 7",
        "take p x HANDLE",
        "adopt p x HANDLE",
        "free p HANDLE",
    ] {
        let error = alice.ask(&command.replace("HANDLE", &handle)).unwrap_err();
        assert!(error.starts_with("STALE_HANDLE"), "{command}: {error}");
    }
    // Bob can hand it on.
    let second = bob.must("share mine");
    assert_ne!(second, handle);
    alice.must(&format!("take p back {second}"));
    alice.must("check back 7");
}

#[test]
fn adopt_leaves_the_handle_good_and_changes_who_frees_it() {
    let daemon = TestDaemon::start();
    let (mut alice, mut bob) = two_with_a_pool(&daemon);
    alice.must("alloc p a 1000 7");
    alice.must("share a");
    let handle = alice.must("give a");
    bob.must(&format!("adopt p mine {handle}"));
    alice.must(&format!("look p {handle} 7"));
    alice.kill();
    let client = daemon.client();
    eventually(PATIENCE, "alice's session has ended", || {
        client.sessions().unwrap().len() == 2
    });
    bob.must(&format!("look p {handle} 7"));
    bob.must("drop mine");
    let error = bob.ask(&format!("look p {handle} 7")).unwrap_err();
    assert!(error.starts_with("STALE_HANDLE"), "{error}");
}

#[test]
fn second_free_is_told_from_the_first_and_changes_nothing() {
    let daemon = TestDaemon::start();
    let (mut alice, mut bob) = two_with_a_pool(&daemon);
    alice.must("alloc p a 1000 7");
    alice.must("alloc p beside 1000 8");
    alice.must("share a");
    let handle = alice.must("give a");
    bob.must(&format!("free p {handle}"));
    for puppet in [&mut alice, &mut bob] {
        let error = puppet.ask(&format!("free p {handle}")).unwrap_err();
        assert!(error.starts_with("DOUBLE_FREE"), "{error}");
    }
    // The slot's next tenant is not what the old handle frees.
    alice.must("alloc-many p 100 1000");
    alice.must("alloc p next 1000 9");
    alice.must("share next");
    let error = bob.ask(&format!("free p {handle}")).unwrap_err();
    assert!(
        error.starts_with("DOUBLE_FREE") || error.starts_with("STALE_HANDLE"),
        "{error}"
    );
    alice.must("check next 9");
    alice.must("check beside 8");
}

#[test]
fn slot_that_others_freed_is_the_owners_again() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let (alice, bob) = (daemon.client(), daemon.client());
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let theirs = bob.open_pool("p").unwrap();
    // Three times what the pool has room for goes from one to the other.
    for round in 0..30u64 {
        let handles: Vec<Handle> = (0..100u64)
            .map(|i| {
                let block = pool.alloc_value([round ^ i; 128]).unwrap();
                block.share().unwrap().into_handle()
            })
            .collect();
        for (i, handle) in handles.into_iter().enumerate() {
            match i % 3 {
                0 => theirs.free(handle).unwrap(),
                1 => drop(theirs.take::<[u64; 128]>(handle).unwrap()),
                _ => drop(theirs.adopt::<[u64; 128]>(handle).unwrap()),
            }
        }
    }
    assert_eq!(client.stat_pool("p").unwrap().blocks, 0);
}

#[test]
fn pool_that_is_destroyed_while_mapped_stays_for_those_who_have_it() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let baseline = client.info().unwrap().committed_bytes;
    let (mut alice, mut bob) = two_with_a_pool(&daemon);
    alice.must("alloc p a 1000 7");
    let handle = alice.must("share a");
    bob.must("alloc p b 100000 8");
    client.destroy_pool("p").unwrap();
    // Nothing new …
    let error = client.open_pool("p").unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PoolNotFound));
    let error = bob.ask("alloc p c 2000000 9").unwrap_err();
    assert!(error.starts_with("POOL_DESTROYED"), "{error}");
    // … and nothing lost.
    bob.must(&format!("look p {handle} 7"));
    bob.must("check b 8");
    alice.must("check a 7");
    bob.must(&format!("take p t {handle}"));
    bob.must("check t 7");
    assert!(client.info().unwrap().committed_bytes > baseline);
    alice.kill();
    bob.must("check t 7");
    bob.quit();
    eventually(
        PATIENCE,
        "its memory goes with the last who maps it",
        || client.info().unwrap().committed_bytes == baseline,
    );
}

/// Several processes allocate, hand over and free at random, and some of them are killed. Every
/// block is stamped with who wrote it and which one it is, and each holder looks at the stamp.
#[test]
fn nothing_overlaps_and_nothing_is_lost_while_processes_are_killed() {
    const WORKERS: usize = 4;
    let _alone = alone();
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(16 * MIB)).unwrap();
    let baseline = client.info().unwrap().committed_bytes;
    let empty_tables = pool.stat().unwrap().table_bytes;
    let mut team = Team {
        daemon: &daemon,
        random: Random::new(7),
        workers: Vec::new(),
        next_owner: 1,
        given: HashMap::new(),
        killed: Vec::new(),
        n_given: 0,
    };
    for _ in 0..WORKERS {
        team.hire();
    }
    let start = Instant::now();
    let mut next_kill = Duration::from_millis(100);
    while start.elapsed() < Duration::from_secs(5) {
        team.pass_on();
        if start.elapsed() > next_kill {
            next_kill = start.elapsed() + Duration::from_millis(100);
            team.kill_one();
            team.hire();
        }
    }
    let n_made = team.stop();
    println!(
        "{n_made} blocks by the survivors, {} handed over",
        team.n_given
    );
    assert!(team.n_given > 100 && n_made > 0, "nothing was tried");
    drop(team);

    eventually(PATIENCE, "every block came back", || {
        let stat = pool.stat().unwrap();
        (
            stat.blocks,
            stat.condemned_blocks,
            stat.abandoned_bytes,
            stat.leased_bytes,
        ) == (0, 0, 0, 0)
    });
    pool.purge().unwrap();
    let stat = pool.stat().unwrap();
    assert_eq!(
        (stat.used_bytes, stat.committed_bytes, stat.pins),
        (0, 0, 0),
        "{stat:?}"
    );
    // The tables of slot words stay, for the next one.
    let after = client.info().unwrap().committed_bytes;
    assert_eq!(after - baseline, stat.table_bytes - empty_tables);
    // All of the pool can be had in one piece.
    pool.alloc_slice::<u8>(usize::try_from(16 * MIB - MIB).unwrap())
        .unwrap();
}

/// The processes of the test, and what is between them.
struct Team<'a> {
    daemon: &'a TestDaemon,
    random: Random,
    workers: Vec<(u64, Puppet)>,
    next_owner: u64,
    /// Who gave a block away last.
    given: HashMap<(u64, u64), u64>,
    killed: Vec<u64>,
    n_given: usize,
}

impl Team<'_> {
    fn hire(&mut self) {
        let owner = self.next_owner;
        self.next_owner += 1;
        let socket = self.daemon.socket().to_str().unwrap();
        let number = owner.to_string();
        self.workers
            .push((owner, PUPPETS.churn(&[socket, "p", &number, &number])));
    }

    /// Passes on what was given, for a while.
    fn pass_on(&mut self) {
        for at in 0..self.workers.len() {
            for _ in 0..100 {
                let (giver, puppet) = &mut self.workers[at];
                let giver = *giver;
                let Some(line) = puppet.poll_line() else {
                    break;
                };
                self.hear(giver, &line);
            }
        }
    }

    fn hear(&mut self, from: u64, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["give", handle, owner, seq] => {
                let stamp = (owner.parse().unwrap(), seq.parse().unwrap());
                self.given.insert(stamp, from);
                self.n_given += 1;
                let to = self.random.index(self.workers.len());
                // One that was killed in between does not take it, and it stays its giver's.
                let _ = self.workers[to]
                    .1
                    .try_tell(&format!("take {handle} {owner} {seq}"));
            }
            ["stale", owner, seq] => {
                let giver = self.given[&(owner.parse().unwrap(), seq.parse().unwrap())];
                assert!(
                    self.killed.contains(&giver),
                    "{line}: {giver} was not killed"
                );
            }
            _ => panic!("process {from}: {line}"),
        }
    }

    fn kill_one(&mut self) {
        let at = self.random.index(self.workers.len());
        let (owner, mut puppet) = self.workers.swap_remove(at);
        // Before it dies, so that what it gave may be stale from now on.
        self.killed.push(owner);
        puppet.kill();
        while let Some(line) = puppet.poll_line() {
            assert!(!line.starts_with("bug"), "process {owner}: {line}");
        }
    }

    /// Has everybody free what is left; returns how many blocks they have made.
    fn stop(&mut self) -> u64 {
        for (_, puppet) in &mut self.workers {
            puppet.tell("stop");
        }
        let mut n_made = 0;
        for at in 0..self.workers.len() {
            loop {
                let (owner, puppet) = &mut self.workers[at];
                let (owner, line) = (*owner, puppet.next_line());
                if let Some(n) = line.strip_prefix("stopped ") {
                    n_made += n.parse::<u64>().unwrap();
                    break;
                }
                if !line.starts_with("give ") {
                    self.hear(owner, &line);
                }
            }
        }
        n_made
    }
}

//! Time that stands still for somebody, or jumps: nothing is taken from the living.

use std::path::Path;
use std::thread;
use std::{fs, io};

use harness::{DaemonProcess, PATIENCE, eventually};
use rustix::process::Signal;

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

#[test]
fn stopped_daemon_goes_on_where_it_was_and_takes_nothing_from_the_living() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {MIB}"));
    alice.must("create-arenas q 1 4096");
    alice.must("get q arena 1000");
    alice.must("alloc p private 1000 7");
    alice.must("alloc p shared 1000 8");
    alice.must("alloc p small 16 9");
    let handle = alice.must("share shared");
    let mut bob = PUPPETS.client();
    bob.must(&format!("connect {}", daemon.socket().display()));
    bob.must("open-pool p rw");

    daemon.puppet().signal(Signal::STOP);
    let pid = daemon.puppet().pid();
    eventually(PATIENCE, "the daemon stands still", || is_stopped(pid));
    // Alice works inside her lease, and both see what they share.
    for fill in 0..100 {
        alice.must(&format!("alloc p more-{fill} 16 {fill}"));
    }
    bob.must(&format!("look p {handle} 8"));
    // A call waits, and somebody dies meanwhile.
    let waiting = thread::spawn({
        let rpc = rpc.clone();
        move || rpc.info()
    });
    bob.kill();
    daemon.puppet().signal(Signal::CONT);

    let info = waiting.join().unwrap();
    assert_eq!(info.epoch, rpc.info().epoch, "the same daemon");
    eventually(PATIENCE, "the dead one's session is gone", || {
        rpc.info().sessions == 2
    });
    alice.must("check private 7");
    alice.must("check shared 8");
    alice.must("check more-99 99");
    assert_eq!(rpc.arena_stat("q").free, 0, "the arena is Alice's still");
    alice.must("put arena 100 9");
    daemon.is_well();
}

/// Nothing that decides who lives or what is reclaimed reads the clock that can jump: so a jump of
/// it means nothing. (The log's time stamps are made by the library for logs.)
#[test]
fn no_crate_of_the_product_reads_the_clock_that_jumps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut n_files = 0;
    for part in ["alloc", "shm", "proto", "daemon", "client"] {
        each_source(&root.join(part).join("src"), &mut |path, text| {
            n_files += 1;
            for word in [
                "SystemTime",
                "CLOCK_REALTIME",
                "ClockId::Realtime",
                "gettimeofday",
            ] {
                assert!(!text.contains(word), "{} reads {word}", path.display());
            }
        })
        .unwrap();
    }
    assert!(n_files > 100, "looked at {n_files} files only");
}

fn each_source(directory: &Path, look: &mut impl FnMut(&Path, &str)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            each_source(&path, look)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            look(&path, &fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

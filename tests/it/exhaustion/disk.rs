//! A disk with room for less than the pools want, so that it is full in the middle of a commit.

use std::fs;
use std::path::Path;

use super::*;

const DISK_BYTES: u64 = 8 * MIB;

/// What stands on a disk that only the daemon can see: `/proc/PID/root` leads there.
fn used_bytes(daemon: &mut DaemonProcess, disk: &Path) -> u64 {
    let pid = daemon.puppet().pid();
    let path = format!("/proc/{pid}/root{}", disk.display());
    let found = rustix::fs::statvfs(path).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

#[test]
fn full_disk_refuses_in_the_middle_of_a_commit_and_changes_nothing() {
    let disk = tempfile::Builder::new().prefix("gm").tempdir().unwrap();
    let setup = Setup {
        disk: Some((disk.path().to_owned(), DISK_BYTES)),
        ..Setup::default()
    };
    let data_dir = disk.path().join("data");
    let args = ["--data-dir", data_dir.to_str().unwrap()];
    let mut daemon = match DaemonProcess::start_with(PUPPETS, &setup, &args) {
        Ok(daemon) => daemon,
        Err(why) if !why.starts_with("cannot") => panic!("{why}"),
        Err(why) => return skip("ENOSPC on a disk of 8 MiB", &why),
    };
    let rpc = daemon.rpc();
    let pool = create(&rpc, "p", v1::Backing::File, 64 * MIB).unwrap();
    let kept = rpc.alloc(pool, MIB).unwrap();
    rpc.write(kept, 0, &[7; 4096]).unwrap();
    for size in [3 * MIB, 700_000, 60_000] {
        let mut blocks = Vec::new();
        // Half of such a block may fit, and must not stay.
        let (error, before) = loop {
            let before = (rpc.stat("p"), used_bytes(&mut daemon, disk.path()));
            match rpc.alloc(pool, size) {
                Ok(block) => blocks.push(block),
                Err(error) => break (error, before),
            }
        };
        assert_eq!(error.reason, Reason::BudgetExhausted, "{error}");
        assert!(error.number("requested_bytes").unwrap() >= size, "{error}");
        // Tables that were backed for it stay so, for the next; and it is said.
        let (mut stat, used) = (rpc.stat("p"), used_bytes(&mut daemon, disk.path()));
        let more_tables = stat.table_bytes - before.0.table_bytes;
        stat.table_bytes = before.0.table_bytes;
        assert_eq!(stat, before.0);
        let left = used.saturating_sub(before.1);
        assert!(left <= more_tables, "{left} bytes left on the disk");
        for block in blocks {
            rpc.free(block).unwrap();
        }
        let purge = v1::PurgePoolRequest {
            name: "p".to_owned(),
        };
        call!(rpc, pools.purge(purge)).unwrap();
    }
    assert_eq!(rpc.read(kept, 0, 4096).unwrap(), [7; 4096]);
    // A pool that does not fit leaves no file, and its name free.
    let filler = fs::File::create(format!(
        "/proc/{}/root{}/filler",
        daemon.puppet().pid(),
        disk.path().display()
    ));
    let free = DISK_BYTES - used_bytes(&mut daemon, disk.path());
    rustix::fs::fallocate(
        filler.unwrap(),
        rustix::fs::FallocateFlags::empty(),
        0,
        free,
    )
    .unwrap();
    let error = create(&rpc, "q", v1::Backing::File, MIB).unwrap_err();
    assert_eq!(error.reason, Reason::BudgetExhausted, "{error}");
    let pools = call!(rpc, pools.list(v1::ListPoolsRequest {}))
        .unwrap()
        .pools;
    assert_eq!(pools.len(), 1);
    // Memory of other kinds is there as before, and the name too.
    create(&rpc, "q", v1::Backing::Memfd, MIB).unwrap();
    daemon.is_well();
}

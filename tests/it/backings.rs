//! The same tests over memfd, named and file-backed pools, each for what the backing declares
//! ([`Promises`]), through a daemon.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use goumem::{ArenaPoolOptions, Backing, Handle, PoolOptions, Reason};
use goumem_proto::v1;
use goumem_shm::os::frame::MapStatus;
use goumem_shm::os::{self, BackingKind, Promises};
use harness::{DaemonProcess, PATIENCE, TestDaemon, abandoned_segments, call, eventually};

use crate::PUPPETS;

mod restart;

const MIB: u64 = 1 << 20;

/// Makes one test of each body for each backing.
macro_rules! for_each_backing {
    ($($body:ident)*) => {
        mod memfd {
            $(#[test] fn $body() { super::$body(super::Backing::Memfd) })*
        }
        mod named {
            $(#[test] fn $body() { super::$body(super::Backing::Named) })*
        }
        mod file {
            $(#[test] fn $body() { super::$body(super::Backing::File) })*
        }
    };
}

for_each_backing! {
    blocks_are_allocated_written_read_and_freed_by_rpc
    blocks_are_allocated_shared_taken_and_freed_over_the_mapping
    arenas_are_got_filled_shared_and_returned
    segment_is_sealed_where_promised_and_never_executable
    read_only_hand_over_cannot_be_written
    purge_returns_memory_and_clears_it
    flush_is_refused_unless_it_keeps_its_word
    kept_blocks_survive_a_restart_where_promised
    destroyed_pool_leaves_nothing_behind
    name_is_free_again_after_destroy
    daemon_that_ends_leaves_what_it_promised_and_nothing_else
}

fn kind(backing: Backing) -> BackingKind {
    match backing {
        Backing::Memfd => BackingKind::Memfd,
        Backing::Named => BackingKind::Named,
        Backing::File => BackingKind::File,
    }
}

fn promises(backing: Backing) -> Promises {
    kind(backing).backing().promises()
}

fn options(backing: Backing) -> PoolOptions {
    PoolOptions::new(8 * MIB).backing(backing)
}

/// CONTROL and DATA of a pool, as the fd socket hands them out.
fn segments(daemon: &TestDaemon, pool_id: u32, access: os::Access) -> [File; 2] {
    let (status, fds) = daemon.rpc().ask_for_memory(pool_id, access);
    assert_eq!(status, MapStatus::Ok);
    let fds: [OwnedFd; 2] = fds.try_into().unwrap();
    fds.map(File::from)
}

/// The files of a daemon's file-backed pools.
fn data_files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory.join("data")).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "goumemd.lock")
        .collect()
}

fn blocks_are_allocated_written_read_and_freed_by_rpc(backing: Backing) {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let create = v1::CreatePoolRequest {
        name: "p".to_owned(),
        capacity_bytes: 8 * MIB,
        backing: v1::Backing::from(backing).into(),
        ..Default::default()
    };
    let created = call!(rpc, pools.create(create)).unwrap();
    let pool = created.pool.unwrap();
    assert_eq!(pool.backing(), v1::Backing::from(backing));
    assert_eq!(!pool.os_name.is_empty(), backing == Backing::Named);
    for size in [1, 16, 1000, 70_000, 3_000_000] {
        let block = rpc.alloc(pool.pool_id, size).unwrap();
        let bytes: Vec<u8> = (0..size).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
        assert!(
            rpc.read(block, 0, 0).unwrap().iter().all(|&byte| byte == 0),
            "zeroed"
        );
        assert_eq!(rpc.write(block, 0, &bytes), Ok(size));
        assert!(rpc.read(block, 0, 0).unwrap() == bytes, "{size} bytes");
        assert_eq!(
            rpc.read(block, size - 1, 1).unwrap(),
            bytes[bytes.len() - 1..]
        );
        let stat = rpc.stat("p");
        assert_eq!((stat.blocks, stat.requested_bytes), (1, size));
        assert!(stat.used_bytes >= size && stat.committed_bytes >= stat.used_bytes);
        rpc.free(block).unwrap();
        assert_eq!(rpc.stat("p").blocks, 0);
        let reason = rpc.read(block, 0, 0).unwrap_err().reason;
        assert!(
            matches!(reason, Reason::StaleHandle | Reason::DoubleFree),
            "{reason}"
        );
    }
}

fn blocks_are_allocated_shared_taken_and_freed_over_the_mapping(backing: Backing) {
    let daemon = TestDaemon::start();
    let (alice, bob) = (daemon.client(), daemon.client());
    let pool = alice.create_pool("p", options(backing)).unwrap();
    let theirs = bob.open_pool("p").unwrap();
    let mut block = pool.alloc_slice::<u64>(100_000).unwrap();
    for (at, word) in block.iter_mut().enumerate() {
        *word = at as u64 * 3;
    }
    let small: Vec<_> = (0..500u64).map(|i| pool.alloc_value(i).unwrap()).collect();
    let handle = block.share().unwrap().into_handle();
    let mut taken = theirs.take_slice::<u64>(handle).unwrap();
    assert!(
        taken
            .iter()
            .enumerate()
            .all(|(at, &word)| word == at as u64 * 3)
    );
    taken[0] = 9;
    let shared = taken.share().unwrap();
    let mut words = [0; 2];
    pool.resolve_slice::<u64>(shared.handle())
        .unwrap()
        .copy_to(&mut words)
        .unwrap();
    assert_eq!(words, [9, 3]);
    assert!(pool.resolve_slice::<u64>(handle).unwrap_err().is_stale());
    assert!(
        small
            .iter()
            .enumerate()
            .all(|(at, number)| **number == at as u64)
    );
    pool.free(shared.into_handle()).unwrap();
    drop(small);
    let stat = pool.stat().unwrap();
    assert_eq!((stat.blocks, stat.sessions), (0, 2));
}

fn arenas_are_got_filled_shared_and_returned(backing: Backing) {
    let daemon = TestDaemon::start();
    let (alice, bob) = (daemon.client(), daemon.client());
    let options = ArenaPoolOptions::new(2, 100_000).backing(backing);
    let pool = alice.create_arena_pool("q", options).unwrap();
    let theirs = bob.open_arena_pool("q").unwrap();
    let mut arena = pool.get().unwrap();
    let place = arena.alloc_slice::<u32>(1000).unwrap();
    place.write(&[7; 1000]).unwrap();
    let handle = place.handle();
    arena.share("batch/1").unwrap();
    let attached = theirs.attach("batch/1", goumem::Access::ReadOnly).unwrap();
    let seen = attached.resolve_slice::<u32>(handle, 1000).unwrap();
    assert_eq!(seen.read_slice().unwrap(), [7; 1000]);
    assert!(!arena.detach().unwrap());
    assert!(
        attached.detach().unwrap(),
        "the last holder's detach returns it"
    );
    assert_eq!(pool.stat().unwrap().free, 2);
    // What was in it is not what the next holder's handles name.
    let again = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(
        again
            .iter()
            .all(|arena| arena.resolve_slice::<u32>(handle, 1000).is_err())
    );
}

fn segment_is_sealed_where_promised_and_never_executable(backing: Backing) {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", options(backing)).unwrap();
    let kept = pool.alloc_slice_from(&[1u8; 1000]).unwrap();
    let [control, data] = segments(&daemon, pool.id().get(), os::Access::ReadWrite);
    let length = data.metadata().unwrap().len();
    for segment in [&control, &data] {
        assert_eq!(
            segment.metadata().unwrap().mode() & 0o111,
            0,
            "no execute bits"
        );
        assert_eq!(
            segment.metadata().unwrap().mode() & 0o077,
            0,
            "for the owner alone"
        );
    }
    if promises(backing).sealed {
        for new_length in [0, length - 4096, length + 4096] {
            let error = data.set_len(new_length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
        let seals = rustix::fs::fcntl_get_seals(&data).unwrap();
        assert!(seals.contains(rustix::fs::SealFlags::SEAL), "{seals:?}");
        assert!(
            !seals.contains(rustix::fs::SealFlags::FUTURE_WRITE),
            "or nothing could be purged"
        );
    } else {
        // What is not promised is not pretended either. (A file of a tmpfs has the seal that
        // forbids more seals; a file on a disk has none.)
        let seals = rustix::fs::fcntl_get_seals(&data).unwrap_or(rustix::fs::SealFlags::empty());
        assert!(!seals.contains(rustix::fs::SealFlags::SHRINK), "{seals:?}");
    }
    assert!(*kept == [1; 1000]);
}

fn read_only_hand_over_cannot_be_written(backing: Backing) {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", options(backing)).unwrap();
    let [control, data] = segments(&daemon, pool.id().get(), os::Access::ReadOnly);
    for segment in [&control, &data] {
        assert!(segment.write_at(&[1], 0).is_err());
        assert!(segment.set_len(0).is_err());
    }
    // CONTROL is the daemon's to write, whatever was asked for.
    let [control, data] = segments(&daemon, pool.id().get(), os::Access::ReadWrite);
    assert!(control.write_at(&[1], 0).is_err());
    assert!(
        rustix::fs::fcntl_getfl(&data)
            .unwrap()
            .contains(rustix::fs::OFlags::RDWR)
    );
    // And a client that maps it so is refused before it can fault.
    let reader = daemon.client();
    let theirs = reader.open_pool_read_only("p").unwrap();
    let shared = pool.alloc_value(1u64).unwrap().share().unwrap();
    let view = theirs.resolve::<u64>(shared.handle()).unwrap();
    assert_eq!(
        view.write(2).unwrap_err().reason(),
        Some(Reason::PermissionDenied)
    );
    assert!(theirs.alloc::<u64>().is_err() && theirs.take::<u64>(shared.handle()).is_err());
    assert!(theirs.adopt::<u64>(shared.handle()).is_err());
    assert_eq!(view.read().unwrap(), 1);
}

fn purge_returns_memory_and_clears_it(backing: Backing) {
    assert!(promises(backing).punch);
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", options(backing)).unwrap();
    let [_, data] = segments(&daemon, pool.id().get(), os::Access::ReadOnly);
    let on_file = || data.metadata().unwrap().blocks() * 512;
    let mut block = pool.alloc_bytes(4 << 20, 4096).unwrap();
    block.fill(0x77);
    let handle = block.share().unwrap().into_handle();
    let offset = handle.offset().get();
    let mut byte = [0];
    data.read_exact_at(&mut byte, offset).unwrap();
    assert_eq!(byte, [0x77], "the offset of a handle is one in the segment");
    let before = on_file();
    pool.free(handle).unwrap();
    eventually(PATIENCE, "the pages are with the OS", || {
        pool.purge().unwrap();
        on_file() + 4 * MIB <= before
    });
    data.read_exact_at(&mut byte, offset).unwrap();
    assert_eq!(byte, [0]);
}

fn flush_is_refused_unless_it_keeps_its_word(backing: Backing) {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", options(backing)).unwrap();
    match promises(backing).survives_reboot {
        true => pool.flush().unwrap(),
        false => {
            let error = pool.flush().unwrap_err();
            assert_eq!(error.reason(), Some(Reason::BackingUnsupported), "{error}");
        }
    }
}

fn kept_blocks_survive_a_restart_where_promised(backing: Backing) {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let client = daemon.client();
    let pool = client.create_pool("p", options(backing)).unwrap();
    let mut kept: Vec<(Handle, u8)> = Vec::new();
    for (fill, len) in [(1u8, 100), (2, 5_000), (3, 2_000_000)] {
        let shared = pool
            .alloc_slice_from(&vec![fill; len])
            .unwrap()
            .share()
            .unwrap();
        kept.push((goumem::blocking::wait(shared.keep()).unwrap(), fill));
    }
    let named = pool.alloc_slice_from(&[4u8; 300]).unwrap().share().unwrap();
    goumem::blocking::wait(named.publish("answer")).unwrap();
    let lost = pool.alloc_slice_from(&[5u8; 300]).unwrap().share().unwrap();
    let lost_handle = lost.handle();
    let pin = pool.pin(kept[0].0).unwrap();
    let survives = promises(backing).survives_reboot;
    if survives {
        pool.flush().unwrap();
    }
    daemon.kill();
    // Blocks at hand stay good without a daemon.
    assert_eq!(lost.read_slice().unwrap(), [5; 300]);
    drop((pin, lost, pool, client));

    let daemon = daemon.next(PUPPETS);
    let client = daemon.client();
    if !survives {
        let error = client.open_pool("p").unwrap_err();
        return assert_eq!(error.reason(), Some(Reason::PoolNotFound));
    }
    let pool = client.open_pool("p").unwrap();
    let filled = |handle, fill: u8| {
        let view = pool.resolve_slice::<u8>(handle).unwrap();
        let mut bytes = vec![0; view.len()];
        view.copy_to(&mut bytes).unwrap();
        bytes == vec![fill; bytes.len()]
    };
    assert!(
        kept.iter().all(|&(handle, fill)| filled(handle, fill)),
        "handles stay good"
    );
    assert!(filled(pool.lookup("answer").unwrap(), 4));
    assert!(
        pool.resolve_slice::<u8>(lost_handle)
            .unwrap_err()
            .is_stale(),
        "it was not kept"
    );
    let stat = pool.stat().unwrap();
    assert_eq!(
        (stat.blocks, stat.kept_blocks, stat.named_blocks, stat.pins),
        (4, 4, 1, 0)
    );

    // It works on as any other, and the next restart finds what is kept by then.
    let more: Vec<_> = (0..200)
        .map(|_| pool.alloc_slice_from(&[6u8; 3000]).unwrap())
        .collect();
    assert!(kept.iter().all(|&(handle, fill)| filled(handle, fill)));
    assert!(more.iter().all(|block| **block == [6; 3000]));
    drop(more);
    pool.free(kept[2].0).unwrap();
    let named = pool.withdraw("answer").unwrap();
    assert!(*pool.take_slice::<u8>(named).unwrap() == [4; 300]);
    pool.flush().unwrap();
    drop((pool, client));
    let mut daemon = daemon;
    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let pool = daemon.client().open_pool("p").unwrap();
    assert_eq!(pool.stat().unwrap().blocks, 2);
    assert!(pool.resolve_slice::<u8>(kept[0].0).is_ok());
    assert!(pool.resolve_slice::<u8>(kept[2].0).unwrap_err().is_stale());
    assert_eq!(
        pool.lookup("answer").unwrap_err().reason(),
        Some(Reason::NameNotFound)
    );
}

fn destroyed_pool_leaves_nothing_behind(backing: Backing) {
    let daemon = TestDaemon::start();
    let (alice, bob) = (daemon.client(), daemon.client());
    let baseline = alice.info().unwrap().committed_bytes;
    let pool = alice.create_pool("p", options(backing)).unwrap();
    let arenas = ArenaPoolOptions::new(2, 4096).backing(backing);
    let arenas = alice.create_arena_pool("q", arenas).unwrap();
    let os_names: Vec<_> = [&pool.info().os_name, &arenas.info().os_name]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    assert_eq!(
        os_names.len(),
        if backing == Backing::Named { 2 } else { 0 }
    );
    let mut block = pool.alloc_slice::<u8>(100_000).unwrap();
    alice.destroy_pool("p").unwrap();
    alice.destroy_arena_pool("q").unwrap();
    for error in [
        bob.open_pool("p").unwrap_err(),
        bob.stat_pool("p").unwrap_err(),
    ] {
        assert_eq!(error.reason(), Some(Reason::PoolNotFound));
    }
    // Whoever maps it keeps what is there.
    block.fill(1);
    assert!(*block == [1; 100_000]);
    drop((block, pool, arenas, alice));
    eventually(PATIENCE, "the budget has it back", || {
        bob.info().unwrap().committed_bytes == baseline
    });
    assert_eq!(data_files(daemon.directory()), [""; 0]);
    for name in os_names {
        assert!(!Path::new("/dev/shm").join(&name).exists(), "{name}");
    }
}

fn name_is_free_again_after_destroy(backing: Backing) {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let first = client.create_pool("p", options(backing)).unwrap();
    let block = first
        .alloc_slice_from(&[1u8; 100])
        .unwrap()
        .share()
        .unwrap();
    client.destroy_pool("p").unwrap();
    let second = client.create_pool("p", options(backing)).unwrap();
    assert_ne!(first.id(), second.id(), "ids are not used again");
    let error = second.resolve_slice::<u8>(block.handle()).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::WrongPool));
    let other = second.alloc_slice_from(&[2u8; 100]).unwrap();
    assert_eq!(block.read_slice().unwrap(), [1; 100]);
    assert!(*other == [2; 100]);
}

fn daemon_that_ends_leaves_what_it_promised_and_nothing_else(backing: Backing) {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", options(backing)).unwrap();
    let os_name = pool.info().os_name.clone();
    drop((pool, client));
    let daemon = daemon.restart();
    let client = daemon.client();
    let survives = promises(backing).survives_reboot;
    assert_eq!(client.list_pools().unwrap().len(), usize::from(survives));
    let mode = |name: &String| {
        let path = daemon.directory().join("data").join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    let files = data_files(daemon.directory());
    assert_eq!(files.len(), if survives { 2 } else { 0 });
    assert!(files.iter().all(|name| mode(name) == 0o600));
    if let Some(name) = os_name {
        assert!(!Path::new("/dev/shm").join(name).exists());
        eventually(PATIENCE, "no segment is without a daemon", || {
            abandoned_segments().is_empty()
        });
    }
}

//! Writers that scribble over the tables of a pool while the daemon allocates, frees, sweeps and
//! counts in it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use goumem_alloc::{ArenaGeometry, PoolGeometry};
use goumem_proto::v1;
use goumem_shm::os::Access;
use harness::{Random, Rpc, call};

use super::*;

/// Writes random words into parts of a file until told to stop; returns how many.
fn scribble(data: &File, parts: &[Range<u64>], seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let part = &parts[random.index(parts.len())];
        // Most of what is in use lies at the beginning of each part.
        let near = random.below(4) > 0;
        let n_words = (part.end - part.start) / 8;
        let at = part.start + 8 * random.below(if near { n_words.min(512) } else { n_words });
        let word = match random.below(3) {
            // A living state, an owner that may be one, a generation that may be one.
            0 => random.below(8) << 20 | random.below(6) << 4 | random.below(16),
            1 => [0, u64::MAX, 1 << 63, 1 << 40][random.index(4)],
            _ => random.below(1 << 32) << 32 | random.below(1 << 32),
        };
        data.write_at(&word.to_ne_bytes(), at).unwrap();
        n += 1;
    }
    n
}

fn writable_data(rpc: &Rpc, pool_id: u32) -> File {
    let (_, fds) = rpc.ask_for_memory(pool_id, Access::ReadWrite);
    File::from(fds.into_iter().nth(1).unwrap())
}

/// Makes every kind of call; each is answered, by whatever it is.
fn use_somehow(rpc: &Rpc, pool: u32, arenas: u32) {
    let blocks: Vec<_> = [16, 700, 5000, 100_000]
        .into_iter()
        .filter_map(|size| rpc.alloc(pool, size).ok())
        .collect();
    for &block in &blocks {
        let on = v1::HandleRequest {
            handle: Some(block),
            request_id: 0,
        };
        drop(call!(*rpc, pools.resolve(on)));
        drop(call!(*rpc, pools.keep(on)));
        drop(call!(*rpc, pools.pin(on)));
        drop(rpc.write(block, 0, &[1; 16]));
        drop(call!(*rpc, pools.unpin(on)));
        drop(call!(*rpc, pools.take(on)));
        drop(rpc.free(block));
    }
    let lease = v1::LeaseRequest {
        pool_id: pool,
        size_class: 5,
        ..Default::default()
    };
    if let Ok(lease) = call!(*rpc, pools.lease(lease)) {
        let give_back = v1::ReturnSpansRequest {
            pool_id: pool,
            spans: lease.spans,
            request_id: 0,
        };
        drop(call!(*rpc, pools.return_spans(give_back)));
    }
    if let Ok(arena) = rpc.get_arena(arenas, 0) {
        let alloc = v1::ArenaAllocRequest {
            arena: Some(arena),
            size_bytes: 100,
            ..Default::default()
        };
        drop(call!(*rpc, arenas.alloc(alloc)));
        drop(rpc.return_arena(arena));
    }
    let stat = |name: &str| v1::StatPoolRequest {
        name: name.to_owned(),
    };
    drop(call!(*rpc, pools.stat(stat("p"))));
    drop(call!(*rpc, arenas.stat(stat("a"))));
    let purge = v1::PurgePoolRequest {
        name: "p".to_owned(),
    };
    drop(call!(*rpc, pools.purge(purge)));
    drop(call!(
        *rpc,
        pools.list_kept(v1::ListKeptRequest { pool_id: pool })
    ));
}

#[test]
fn random_words_in_slot_tables_and_arena_headers_spoil_their_own_pool_alone() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let (pool, arenas) = (
        rpc.create_pool("p", 8 * MIB),
        rpc.create_arena_pool("a", 4, 64 << 10),
    );
    let safe = rpc.create_pool("safe", MIB);
    let block = rpc.alloc(safe, 1000).unwrap();
    rpc.write(block, 0, &[7; 1000]).unwrap();
    let before = rpc.stat("safe");

    let geometry = PoolGeometry::new(8 * MIB, None).unwrap();
    let block_tables = [
        geometry.notes_range(),
        geometry.dense_slots_range(),
        geometry.dense_shapes_range(),
        geometry.fine_slots_range(),
        geometry.fine_shapes_range(),
        0..geometry.notes_range().start,
    ];
    let geometry = ArenaGeometry::new(4, 64 << 10).unwrap();
    let arena_tables = [
        geometry.slots_range(),
        geometry.arena_offset(0).get()..geometry.arena_offset(0).get() + 256,
        0..geometry.slots_range().start,
    ];
    let (blocks_data, arenas_data) = (writable_data(&rpc, pool), writable_data(&rpc, arenas));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scribblers = [
            scope.spawn(|| scribble(&blocks_data, &block_tables, 1, &stop)),
            scope.spawn(|| scribble(&arenas_data, &arena_tables, 2, &stop)),
        ];
        // However the calls below end, or the scope would wait for ever.
        let _stops = Stops(&stop);
        for _ in 0..4 {
            for _ in 0..10 {
                use_somehow(&daemon.rpc(), pool, arenas);
            }
            // Somebody who holds much of it dies in the middle of it.
            let mut mallory = PUPPETS.client();
            mallory.must(&format!("connect {}", daemon.socket().display()));
            // Her own library may believe nothing of what it finds either.
            if mallory.ask("open-pool p rw").is_ok() {
                drop(mallory.ask("alloc p block 5000 7"));
            }
            if mallory.ask("open-arenas a rw").is_ok() {
                drop(mallory.ask("get a arena 0"));
            }
            mallory.kill();
            others_are_served(daemon.socket());
        }
        stop.store(true, Ordering::Relaxed);
        let written: u64 = scribblers.map(|one| one.join().unwrap()).iter().sum();
        assert!(written > 1000, "only {written} words were written");
    });
    assert_eq!(rpc.read(block, 0, 0).unwrap(), [7; 1000]);
    assert_eq!(rpc.stat("safe"), before);
    // What is left of them can be given up.
    for (name, is_arenas) in [("p", false), ("a", true)] {
        let destroy = v1::DestroyPoolRequest {
            name: name.to_owned(),
            request_id: 0,
        };
        match is_arenas {
            true => call!(rpc, arenas.destroy(destroy)).map(drop).unwrap(),
            false => call!(rpc, pools.destroy(destroy)).map(drop).unwrap(),
        }
    }
    rpc.create_pool("p", MIB);
    daemon.is_well();
}

/// Stops the scribblers, also when the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

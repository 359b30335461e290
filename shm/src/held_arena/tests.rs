//! A held arena through its mappings: what it allocates, what others see of it, and when it is
//! refused.

use goumem_alloc::{ArenaGeometry, HandleKind};

use super::*;
use crate::header::PoolKind;
use crate::os::{MapPlan, Mapping, Segment};
use crate::sync::{AtomicU64, Ordering};
use crate::test_daemon::{ALICE, BOB, header, segment};

const ARENAS: u32 = 3;
const ARENA_BYTES: u64 = 10_000;

struct Keeper(ArenaMemory);

impl AsRef<ArenaMemory> for Keeper {
    fn as_ref(&self) -> &ArenaMemory {
        &self.0
    }
}

/// An arena pool, to be mapped by several processes.
struct Pool {
    control: Segment,
    data: Segment,
    geometry: ArenaGeometry,
}

impl Pool {
    fn new() -> Self {
        let geometry = ArenaGeometry::new(ARENAS, ARENA_BYTES).unwrap();
        let pool = Self {
            control: segment(geometry.control_bytes()),
            data: segment(geometry.data_bytes()),
            geometry,
        };
        let (control, data) = pool.mappings(crate::os::Access::ReadWrite);
        let header = header(PoolKind::Arenas, ARENAS, ARENA_BYTES);
        ArenaMemory::create(control, data, &header).unwrap();
        pool
    }

    fn map(&self) -> Arc<Keeper> {
        self.map_with(crate::os::Access::ReadWrite)
    }

    fn map_with(&self, access: crate::os::Access) -> Arc<Keeper> {
        let (control, data) = self.mappings(access);
        Arc::new(Keeper(ArenaMemory::open(control, data).unwrap().0))
    }

    fn mappings(&self, access: crate::os::Access) -> (Mapping, Mapping) {
        let control = MapPlan::whole(self.geometry.control_bytes());
        let data = crate::arena_memory::arena_data_plan(&self.geometry);
        (
            Mapping::map(&self.control, access, control).unwrap(),
            Mapping::map(&self.data, access, data).unwrap(),
        )
    }
}

fn stale(handle: Handle) -> AccessError {
    AccessError::Stale { handle }
}

#[test]
fn each_arena_is_had_once_from_where_the_search_begins() {
    let memory = Pool::new().map();
    let mut held: Vec<_> = [1, 1, 9]
        .map(|from| HeldArena::get(&memory, ALICE, from).unwrap())
        .into();
    let indices: Vec<u32> = held.iter().map(|arena| arena.bytes().index()).collect();
    assert_eq!(indices, [1, 2, 0]);
    assert!(HeldArena::get(&memory, BOB, 0).is_none());
    held[1].give_back().unwrap();
    assert_eq!(HeldArena::get(&memory, BOB, 0).unwrap().bytes().index(), 2);
}

#[test]
fn what_is_written_here_is_read_there_by_its_handle() {
    let pool = Pool::new();
    let (here, there) = (pool.map(), pool.map());
    let arena = HeldArena::get(&here, ALICE, 0).unwrap();
    let inside = arena.alloc(100, 64).unwrap();
    arena.bytes().write(inside, b"text").unwrap();
    let handle = arena.bytes().handle_of(inside);
    assert_eq!(handle.kind(), HandleKind::ArenaAllocation);
    assert_eq!(arena.bytes().inside_of(handle), Ok(inside));
    let mut copy = [0; 4];
    there.0.read(handle, 0, &mut copy).unwrap();
    assert_eq!(&copy, b"text");
    arena.bytes().read(inside, &mut copy).unwrap();
    assert_eq!(&copy, b"text");
    // From outside it looks fuller than it is, by a step at most, and never emptier.
    let used = there.0.used_bytes(arena.handle()).unwrap();
    assert!((100..=4096).contains(&used), "{used}");
    assert_eq!(arena.used_bytes(), Ok(112));
}

#[test]
fn arena_that_was_taken_back_is_refused_by_name_wherever_it_is_used() {
    let memory = Pool::new().map();
    let mut arena = HeldArena::get(&memory, ALICE, 0).unwrap();
    let inside = arena.alloc(16, 1).unwrap();
    let allocation = arena.bytes().handle_of(inside);
    memory.0.give_back(arena.handle(), ALICE).unwrap();
    let mut next = HeldArena::get(&memory, BOB, 0).unwrap();
    assert_eq!(next.alloc(16, 1), Ok(0));

    let gone = stale(arena.handle());
    assert_eq!(arena.alloc(5000, 1), Err(gone.clone()));
    assert_eq!(arena.used_bytes(), Err(gone.clone()));
    assert_eq!(arena.free(inside, 16), Err(gone.clone()));
    assert_eq!(arena.reset(), Err(gone.clone()));
    assert_eq!(arena.give_back(), Err(gone));
    arena.trim();
    let bytes = arena.bytes();
    let gone = stale(allocation);
    assert_eq!(bytes.read(inside, &mut [0]), Err(gone.clone()));
    assert_eq!(bytes.write(inside, &[0]), Err(gone.clone()));
    assert_eq!(
        bytes.atomics::<AtomicU64>(inside).map(drop),
        Err(gone.clone())
    );
    assert_eq!(bytes.inside_of(allocation), Err(gone));

    let life = next.handle().generation();
    let index = next.bytes().index();
    assert_eq!(memory.0.words(index).unwrap().used(life), 256, "one step");
    assert_eq!(next.alloc(16, 1), Ok(16));
    next.give_back().unwrap();
}

#[test]
fn reset_begins_anew_under_another_handle() {
    let memory = Pool::new().map();
    let mut arena = HeldArena::get(&memory, ALICE, 0).unwrap();
    let old = arena.handle();
    let inside = arena.alloc(6000, 1).unwrap();
    let allocation = arena.bytes().handle_of(inside);
    arena.reset().unwrap();
    assert!(arena.handle() != old && arena.handle().offset() == old.offset());
    for handle in [old, allocation] {
        assert_eq!(arena.bytes().inside_of(handle), Err(stale(handle)));
    }
    assert_eq!(arena.used_bytes(), Ok(0));
    assert_eq!(arena.alloc(6000, 1), Ok(0));
}

#[test]
fn shared_arena_is_bumped_behind_what_its_holder_allocated_and_freed_by_nobody() {
    let pool = Pool::new();
    let (here, there) = (pool.map(), pool.map());
    let mut arena = HeldArena::get(&here, ALICE, 0).unwrap();
    arena.alloc(16, 1).unwrap();
    arena.trim();
    here.0.share(arena.handle(), ALICE).unwrap();
    let other = HeldArena::of(&there, BOB, arena.handle(), true).unwrap();
    assert_eq!(other.alloc(16, 1), Ok(16));
    assert_eq!(arena.alloc(64, 64), Ok(64));
    assert_eq!(other.alloc(1, 1), Ok(128));
    assert_eq!(arena.free(64, 64), Ok(144));
    assert_eq!(other.used_bytes(), Ok(144));
    let shared = AccessError::Shared {
        handle: arena.handle(),
    };
    assert_eq!(arena.reset(), Err(shared.clone()));
    assert_eq!(arena.give_back(), Err(shared));
    let full = AccessError::ArenaFull {
        requested_bytes: ARENA_BYTES,
        free_bytes: ARENA_BYTES - 144,
    };
    assert_eq!(other.alloc(ARENA_BYTES, 1), Err(full));
}

#[test]
fn arena_got_by_the_daemon_is_bumped_behind_what_the_daemon_allocated() {
    let memory = Pool::new().map();
    let arena = memory.0.try_get(ALICE, 0).unwrap();
    let theirs = memory.0.alloc(arena, ALICE, 16, 1).unwrap();
    let not_owner = HeldArena::of(&memory, BOB, arena, true).map(drop);
    assert_eq!(
        not_owner,
        Err(AccessError::NotOwner {
            handle: arena,
            owner: ALICE
        })
    );
    let held = HeldArena::of(&memory, ALICE, arena, true).unwrap();
    assert_eq!(held.alloc(16, 1), Ok(16));
    // The last that the shared words know of, but not the last.
    memory.0.free(theirs, ALICE, 16).unwrap();
    assert_eq!(held.alloc(5000, 1), Ok(32));
    let next = memory.0.alloc(arena, ALICE, 16, 1).unwrap();
    assert!(next.offset().get() >= arena.offset().get() + 5032);
}

#[test]
fn sizes_and_alignments_are_refused_as_they_are_without_a_holder() {
    let memory = Pool::new().map();
    let arena = HeldArena::get(&memory, ALICE, 0).unwrap();
    assert_eq!(arena.alloc(0, 1), Err(AccessError::ZeroSize));
    for align in [3, 48, 8192, u64::MAX] {
        let refused = arena.alloc(5, align);
        assert!(matches!(refused, Err(AccessError::WrongLength { .. })));
    }
    for size in [ARENA_BYTES + 1, 1 << 36, u64::MAX] {
        let full = AccessError::ArenaFull {
            requested_bytes: size,
            free_bytes: ARENA_BYTES,
        };
        assert_eq!(arena.alloc(size, 1), Err(full));
    }
    for align in [0, 1, 16, 64, 4096] {
        let inside = arena.alloc(5, align).unwrap();
        assert!(inside.is_multiple_of(align.max(16)), "{inside} for {align}");
    }
}

#[test]
fn bytes_that_are_not_in_use_cannot_be_freed_and_a_range_ends_with_the_arena() {
    let memory = Pool::new().map();
    let arena = HeldArena::get(&memory, ALICE, 0).unwrap();
    let inside = arena.alloc(32, 1).unwrap();
    for size in [0, 33, u64::MAX] {
        let refused = arena.free(inside, size);
        assert!(matches!(refused, Err(AccessError::OutOfRange { .. })));
    }
    assert_eq!(arena.free(inside, 32), Ok(0));
    for at in [ARENA_BYTES, u64::MAX] {
        let refused = AccessError::OutOfRange {
            offset_bytes: at,
            length_bytes: 1,
            limit_bytes: ARENA_BYTES,
        };
        assert_eq!(arena.bytes().read(at, &mut [0]), Err(refused.clone()));
        assert_eq!(arena.bytes().write(at, &[0]), Err(refused));
    }
}

#[test]
fn atomics_of_an_allocation_are_seen_by_every_process() {
    let pool = Pool::new();
    let (here, there) = (pool.map(), pool.map());
    let arena = HeldArena::get(&here, ALICE, 0).unwrap();
    let inside = arena.alloc(8, 8).unwrap();
    let mine: &AtomicU64 = arena.bytes().atomics(inside).unwrap();
    mine.store(5, Ordering::Relaxed);
    let theirs: &AtomicU64 = there.0.atomics(arena.bytes().handle_of(inside), 0).unwrap();
    assert_eq!(theirs.load(Ordering::Relaxed), 5);
}

#[test]
fn read_only_mapping_reads_and_every_write_is_a_typed_error() {
    let pool = Pool::new();
    let (here, reader) = (pool.map(), pool.map_with(crate::os::Access::ReadOnly));
    assert!(HeldArena::get(&reader, BOB, 0).is_none());
    let mut arena = HeldArena::get(&here, ALICE, 0).unwrap();
    let inside = arena.alloc(16, 1).unwrap();
    arena.bytes().write(inside, b"text").unwrap();
    arena.trim();
    here.0.share(arena.handle(), ALICE).unwrap();
    let mut attached = HeldArena::of(&reader, BOB, arena.handle(), true).unwrap();
    let mut copy = [0; 4];
    attached.bytes().read(inside, &mut copy).unwrap();
    assert_eq!(&copy, b"text");
    assert_eq!(attached.used_bytes(), Ok(16));
    let refused = AccessError::ReadOnly {
        pool: reader.0.pool(),
    };
    assert_eq!(attached.alloc(16, 1), Err(refused.clone()));
    assert_eq!(attached.free(inside, 16), Err(refused.clone()));
    assert_eq!(attached.bytes().write(inside, b"x"), Err(refused.clone()));
    assert_eq!(attached.reset(), Err(refused.clone()));
    assert_eq!(attached.give_back(), Err(refused.clone()));
    let atomics = attached.bytes().atomics::<AtomicU64>(inside).map(drop);
    assert_eq!(atomics, Err(refused));
}

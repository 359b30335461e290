//! From a handle to an arena and its bytes: what is refused, and with which error; holders of
//! several processes; and what hostile words may do.

use goumem_alloc::GRAIN_BYTES;
use proptest::prelude::*;

use super::*;
use crate::arena::ArenaState;
use crate::os::Access;
use crate::sync::{AtomicU64, Ordering};
use crate::test_daemon::{ALICE, BOB, CAROL, header, segment};

const ARENAS: u32 = 3;
/// Not a multiple of 16, so that the last unit is short.
const ARENA_BYTES: u64 = 1000;

/// An arena pool as several processes see it.
struct Pool {
    control: crate::os::Segment,
    data: crate::os::Segment,
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
        let header = header(PoolKind::Arenas, ARENAS, ARENA_BYTES);
        let (control, data) = pool.mappings(Access::ReadWrite);
        ArenaMemory::create(control, data, &header).unwrap();
        pool
    }

    fn view(&self) -> ArenaMemory {
        self.view_with(Access::ReadWrite)
    }

    fn view_with(&self, access: Access) -> ArenaMemory {
        let (control, data) = self.mappings(access);
        ArenaMemory::open(control, data).unwrap().0
    }

    fn mappings(&self, access: Access) -> (Mapping, Mapping) {
        let control_plan = MapPlan::whole(self.geometry.control_bytes());
        (
            Mapping::map(&self.control, access, control_plan).unwrap(),
            Mapping::map(&self.data, access, arena_data_plan(&self.geometry)).unwrap(),
        )
    }
}

#[test]
fn each_arena_is_had_once_and_then_none_is_left() {
    let pool = Pool::new();
    let [alice, bob] = [pool.view(), pool.view()];
    let first = alice.try_get(ALICE, 2).unwrap();
    assert_eq!(alice.locate(first).unwrap().index, 2);
    let second = bob.try_get(BOB, 2).unwrap();
    assert_eq!(bob.locate(second).unwrap().index, 0);
    let third = bob.try_get(BOB, u32::MAX).unwrap();
    assert_eq!(bob.locate(third).unwrap().index, 1);
    assert_eq!(alice.try_get(ALICE, 0), None);
    alice.give_back(first, ALICE).unwrap();
    assert!(bob.try_get(CAROL, 0).is_some());
}

#[test]
fn returned_arena_and_everything_in_it_is_stale() {
    let pool = Pool::new();
    let [alice, bob] = [pool.view(), pool.view()];
    let arena = alice.try_get(ALICE, 0).unwrap();
    let allocation = alice.alloc(arena, ALICE, 100, 8).unwrap();
    alice.write(allocation, 0, b"text").unwrap();
    let mut copy = [0; 4];
    bob.read(allocation, 0, &mut copy).unwrap();
    assert_eq!(&copy, b"text");
    alice.give_back(arena, ALICE).unwrap();
    for handle in [arena, allocation] {
        let stale = AccessError::Stale { handle };
        assert_eq!(bob.read(handle, 0, &mut copy), Err(stale.clone()));
        assert_eq!(alice.write(handle, 0, b"x"), Err(stale.clone()));
        assert_eq!(alice.resolve(handle).map(|_| ()), Err(stale));
    }
    let stale = AccessError::Stale { handle: arena };
    assert_eq!(alice.give_back(arena, ALICE), Err(stale.clone()));
    assert_eq!(alice.reset(arena, ALICE), Err(stale.clone()));
    assert_eq!(alice.share(arena, ALICE), Err(stale.clone()));
    assert_eq!(alice.used_bytes(arena), Err(stale.clone()));
    assert_eq!(alice.alloc(arena, ALICE, 1, 1), Err(stale));
    let stale = AccessError::Stale { handle: allocation };
    assert_eq!(alice.free(allocation, ALICE, 100), Err(stale));
}

#[test]
fn exclusive_arena_is_bumped_freed_and_reset_by_its_holder_alone() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    let allocation = memory.alloc(arena, ALICE, 16, 1).unwrap();
    let not_owner = |handle| AccessError::NotOwner {
        handle,
        owner: ALICE,
    };
    assert_eq!(memory.alloc(arena, BOB, 16, 1), Err(not_owner(arena)));
    let freed = memory.free(allocation, BOB, 16);
    assert_eq!(freed, Err(not_owner(allocation)));
    assert_eq!(memory.give_back(arena, BOB), Err(not_owner(arena)));
    assert_eq!(memory.reset(arena, BOB), Err(not_owner(arena)));
    assert_eq!(memory.share(arena, BOB), Err(not_owner(arena)));
    assert_eq!(memory.used_bytes(arena), Ok(16));
}

#[test]
fn shared_arena_is_bumped_by_all_freed_by_none_and_reset_by_nobody() {
    let pool = Pool::new();
    let [alice, bob] = [pool.view(), pool.view()];
    let arena = alice.try_get(ALICE, 0).unwrap();
    alice.share(arena, ALICE).unwrap();
    let a = alice.alloc(arena, ALICE, 16, 1).unwrap();
    let b = bob.alloc(arena, BOB, 16, 1).unwrap();
    assert_ne!(a.offset(), b.offset());
    assert_eq!(bob.free(b, BOB, 16), Ok(32));
    assert_eq!(alice.free(b, ALICE, 16), Ok(32));
    let shared = AccessError::Shared { handle: arena };
    assert_eq!(alice.reset(arena, ALICE), Err(shared.clone()));
    assert_eq!(alice.give_back(arena, ALICE), Err(shared.clone()));
    assert_eq!(alice.share(arena, ALICE), Err(shared));
}

#[test]
fn last_unit_is_allocated_as_far_as_the_arena_goes_and_no_further() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    let full = |requested_bytes, free_bytes| AccessError::ArenaFull {
        requested_bytes,
        free_bytes,
    };
    for size in [ARENA_BYTES + 1, 1008, u64::MAX] {
        assert_eq!(
            memory.alloc(arena, ALICE, size, 1),
            Err(full(size, ARENA_BYTES))
        );
    }
    let all = memory.alloc(arena, ALICE, ARENA_BYTES, 1).unwrap();
    assert_eq!(memory.used_bytes(arena), Ok(ARENA_BYTES));
    assert_eq!(memory.write(all, 0, &[7; 1000]), Ok(()));
    assert_eq!(memory.alloc(arena, ALICE, 1, 1), Err(full(1, 0)));
    assert_eq!(memory.free(all, ALICE, ARENA_BYTES), Ok(0));
    memory.alloc(arena, ALICE, 992, 1).unwrap();
    assert_eq!(memory.alloc(arena, ALICE, 9, 1), Err(full(9, 8)));
    let tail = memory.alloc(arena, ALICE, 8, 8).unwrap();
    assert_eq!(memory.write(tail, 0, &[1; 8]), Ok(()));
}

#[test]
fn allocations_are_aligned_as_asked_for() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 1).unwrap();
    for align in [0, 1, 16, 64, 256] {
        let allocation = memory.alloc(arena, ALICE, 5, align).unwrap();
        let offset = allocation.offset().get();
        assert!(offset.is_multiple_of(align.max(GRAIN_BYTES)));
    }
    for align in [3, 48, 8192, u64::MAX] {
        let refused = memory.alloc(arena, ALICE, 5, align);
        assert!(matches!(refused, Err(AccessError::WrongLength { .. })));
    }
    assert_eq!(memory.alloc(arena, ALICE, 0, 1), Err(AccessError::ZeroSize));
}

#[test]
fn reset_gives_a_new_handle_and_makes_the_old_ones_stale() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    let allocation = memory.alloc(arena, ALICE, 100, 1).unwrap();
    let again = memory.reset(arena, ALICE).unwrap();
    assert_eq!(again.offset(), arena.offset());
    assert_eq!(memory.used_bytes(again), Ok(0));
    for handle in [arena, allocation] {
        let refused = memory.read(handle, 0, &mut [0]);
        assert_eq!(refused, Err(AccessError::Stale { handle }));
    }
    assert!(memory.alloc(again, ALICE, 100, 1).is_ok());
}

#[test]
fn free_of_bytes_that_are_not_in_use_is_refused() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    let allocation = memory.alloc(arena, ALICE, 32, 1).unwrap();
    for size in [0, 33, u64::MAX] {
        let refused = memory.free(allocation, ALICE, size);
        assert!(matches!(refused, Err(AccessError::OutOfRange { .. })));
    }
    assert_eq!(memory.free(allocation, ALICE, 32), Ok(0));
    let refused = memory.free(allocation, ALICE, 32);
    assert!(matches!(refused, Err(AccessError::OutOfRange { .. })));
}

#[test]
fn handle_of_another_pool_or_kind_is_refused_as_such() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    let allocation = memory.alloc(arena, ALICE, 32, 1).unwrap();
    let inner = memory.alloc(arena, ALICE, 32, 1).unwrap();
    let of = |pool, offset, kind| Handle::new(pool, arena.generation(), offset, kind);
    let foreign = of(PoolId::new(9).unwrap(), arena.offset(), HandleKind::Arena);
    let wrong_pool = AccessError::WrongPool {
        handle: foreign,
        expected: memory.pool(),
    };
    assert_eq!(memory.locate(foreign), Err(wrong_pool));
    for offset in [arena.offset(), Offset::new(0)] {
        let block = of(memory.pool(), offset, HandleKind::Block);
        let wrong_kind = AccessError::WrongKind {
            handle: block,
            expected: "arena",
        };
        assert_eq!(memory.locate(block), Err(wrong_kind));
    }
    for handle in [allocation, inner] {
        let wrong_kind = AccessError::WrongKind {
            handle,
            expected: "arena",
        };
        assert_eq!(memory.give_back(handle, ALICE), Err(wrong_kind.clone()));
        assert_eq!(memory.reset(handle, ALICE), Err(wrong_kind.clone()));
        assert_eq!(memory.share(handle, ALICE), Err(wrong_kind.clone()));
        assert_eq!(memory.alloc(handle, ALICE, 1, 1), Err(wrong_kind));
    }
    let refused = memory.free(arena, ALICE, 32);
    assert!(matches!(refused, Err(AccessError::WrongKind { .. })));
    let inside = of(memory.pool(), inner.offset(), HandleKind::Arena);
    assert_eq!(
        memory.locate(inside),
        Err(AccessError::Stale { handle: inside })
    );
    let end = Offset::new(memory.geometry().payload_range().end);
    let nowhere = of(memory.pool(), end, HandleKind::ArenaAllocation);
    assert_eq!(
        memory.locate(nowhere),
        Err(AccessError::Stale { handle: nowhere })
    );
}

#[test]
fn range_past_the_arenas_end_is_refused() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    memory.alloc(arena, ALICE, 32, 1).unwrap();
    let second = memory.alloc(arena, ALICE, 32, 1).unwrap();
    for offset in [ARENA_BYTES - 32, u64::MAX] {
        let refused = AccessError::OutOfRange {
            offset_bytes: offset,
            length_bytes: 1,
            limit_bytes: ARENA_BYTES - 32,
        };
        assert_eq!(memory.read(second, offset, &mut [0]), Err(refused.clone()));
        assert_eq!(memory.write(second, offset, &[0]), Err(refused));
    }
}

#[test]
fn atomics_in_an_arena_are_seen_by_every_process_and_must_be_aligned() {
    let pool = Pool::new();
    let [alice, bob] = [pool.view(), pool.view()];
    let arena = alice.try_get(ALICE, 0).unwrap();
    let counter = alice.alloc(arena, ALICE, 32, 1).unwrap();
    let mine: &AtomicU64 = alice.atomics(counter, 8).unwrap();
    mine.store(5, Ordering::Relaxed);
    let theirs: &AtomicU64 = bob.atomics(counter, 8).unwrap();
    assert_eq!(theirs.load(Ordering::Relaxed), 5);
    let refused = bob.atomics::<AtomicU64>(counter, 4).map(drop);
    assert!(matches!(refused, Err(AccessError::WrongLength { .. })));
    let refused = bob.atomics::<AtomicU64>(counter, ARENA_BYTES - 7).map(drop);
    assert!(matches!(refused, Err(AccessError::OutOfRange { .. })));
}

#[test]
fn read_only_view_reads_and_every_write_is_a_typed_error() {
    let pool = Pool::new();
    let memory = pool.view();
    let arena = memory.try_get(ALICE, 0).unwrap();
    let allocation = memory.alloc(arena, ALICE, 32, 1).unwrap();
    memory.write(allocation, 0, b"text").unwrap();
    let reader = pool.view_with(Access::ReadOnly);
    let mut copy = [0; 4];
    reader.read(allocation, 0, &mut copy).unwrap();
    assert_eq!(&copy, b"text");
    assert_eq!(reader.used_bytes(arena), Ok(32));
    let refused = AccessError::ReadOnly {
        pool: reader.pool(),
    };
    assert_eq!(reader.try_get(BOB, 1), None);
    assert_eq!(reader.give_back(arena, ALICE), Err(refused.clone()));
    assert_eq!(reader.reset(arena, ALICE), Err(refused.clone()));
    assert_eq!(reader.share(arena, ALICE), Err(refused.clone()));
    assert_eq!(reader.alloc(arena, ALICE, 1, 1), Err(refused.clone()));
    assert_eq!(reader.free(allocation, ALICE, 32), Err(refused.clone()));
    assert_eq!(reader.write(allocation, 0, b"x"), Err(refused.clone()));
    let atomics = reader.atomics::<AtomicU64>(allocation, 0).map(drop);
    assert_eq!(atomics, Err(refused));
    reader.set_waiters(true);
    assert!(!reader.seems_waited_for());
    memory.set_waiters(true);
    assert!(reader.seems_waited_for());
}

#[test]
fn arenas_and_records_outside_the_pool_do_not_exist() {
    let memory = Pool::new().view();
    assert!(memory.words(ARENAS - 1).is_some());
    assert!(memory.words(ARENAS).is_none());
    assert!(memory.record(goumem_alloc::MAX_RECORDS - 1).is_some());
    assert!(memory.record(goumem_alloc::MAX_RECORDS).is_none());
}

#[test]
fn segments_of_a_block_pool_are_refused() {
    let pool = Pool::new();
    for (kind, units) in [
        (PoolKind::Blocks, ARENAS),
        (PoolKind::Arenas, 0),
        (PoolKind::Arenas, 4000),
    ] {
        let (control, data) = pool.mappings(Access::ReadWrite);
        let refused =
            ArenaMemory::create(control, data, &header(kind, units, ARENA_BYTES)).map(drop);
        assert!(refused.is_err(), "{kind:?} of {units}");
    }
}

proptest! {
    #[test]
    fn no_bits_in_the_words_of_an_arena_make_anything_panic(
        words in prop::collection::vec(any::<u64>(), 3),
        held in prop::bool::weighted(0.7),
        waiters: u64,
        size in prop_oneof![1..2000u64, any::<u64>()],
        align in 0..13u32,
        inside in 0..63u64,
    ) {
        let pool = Pool::new();
        let memory = pool.view();
        let slot = memory.geometry().arena_slot_offset(1);
        let set = |at, bits| memory.data().atomic_u64(at).unwrap().store(bits, Ordering::Relaxed);
        let mut word = words[0];
        if held {
            word = word & !0xf_ffff | u64::from(ALICE.get()) << 4 | 4 << 1;
        }
        set(slot, word);
        // Often the cursor and the count of the very life that the word says.
        for (i, bits) in [(1, words[1]), (2, words[2])] {
            let life = (word >> 20 & 0xffff_ffff) << 32;
            set(slot + 8 * i, if bits & 1 == 0 { life | bits & 0xffff_ffff } else { bits });
        }
        set(WAITERS_OFFSET_BYTES, waiters);
        let generation = Generation::from_low_bits(word >> 20);
        let arena = memory.handle(1, generation);
        let end = memory.geometry().arena_offset(1).get() + ARENA_BYTES;
        if let Ok(allocation) = memory.alloc(arena, ALICE, size, 1 << align) {
            prop_assert!(allocation.offset().get() + size <= end);
            let _ = memory.free(allocation, ALICE, size);
        }
        let offset = Offset::new(memory.geometry().arena_offset(1).get() + inside * 16);
        let kind = HandleKind::ArenaAllocation;
        let inner = Handle::new(memory.pool(), generation, offset, kind);
        let _ = memory.free(inner, ALICE, size);
        let _ = memory.read(inner, 0, &mut [0; 64]);
        let _ = memory.write(inner, 0, &[0; 64]);
        let _ = memory.atomics::<AtomicU64>(inner, size).map(drop);
        if let Ok(used) = memory.used_bytes(arena) {
            prop_assert!(used <= ARENA_BYTES);
        }
        let _ = memory.share(arena, ALICE);
        let _ = memory.reset(arena, ALICE);
        let _ = memory.give_back(arena, ALICE);
        let _ = memory.somebody_waits();
        let words = memory.words(1).unwrap();
        words.sweep(ALICE);
        let _ = words.release_named(words.load().generation());
        words.force_free();
        prop_assert!(words.load().state() == Some(ArenaState::Free));
        if let Some(next) = memory.try_get(BOB, 1).filter(|got| got.offset() == arena.offset()) {
            let all = memory.alloc(next, BOB, ARENA_BYTES, 1).unwrap();
            prop_assert_eq!(all.offset(), next.offset());
        }
    }
}

//! What a holder bumps privately, beside others of its session who bump the shared cursor, and in
//! arenas whose words anybody may have written.

use goumem_alloc::SessionNumber;

use super::*;
use crate::arena::join;
use crate::sync::AtomicU64;
#[cfg(not(loom))]
use crate::sync::Ordering;

#[cfg(loom)]
mod loom_models;

const ALICE: SessionNumber = SessionNumber::new(7);
/// Not a multiple of 16, so that the last unit is short; more than two steps.
const LIMIT_BYTES: u64 = 2 * STEP_BYTES + 1000;
const LIMIT: Units = 575;

/// The words of an arena, of which Alice holds generation 0 privately.
struct Arena {
    word: AtomicU64,
    cursor: AtomicU64,
    live: AtomicU64,
}

impl Arena {
    fn new() -> Self {
        let [word, cursor, live] = [0, 0, 0].map(AtomicU64::new);
        let arena = Self { word, cursor, live };
        arena.words().claim_privately(ALICE).unwrap();
        arena
    }

    fn words(&self) -> ArenaWords<'_> {
        ArenaWords::new(&self.word, &self.cursor, &self.live)
    }

    /// An allocation by the shared words, as the daemon makes it for the session.
    fn alloc_by_rpc(&self, size: Units) -> Option<Units> {
        self.words().count_alloc(Generation::ZERO);
        let start = self.words().bump(Generation::ZERO, size, 1, LIMIT).ok();
        if start.is_none() {
            self.words().uncount_alloc(Generation::ZERO);
        }
        start
    }
}

fn alloc(bump: &PrivateBump, arena: &Arena, size: u64) -> Result<u64, ReserveRefusal> {
    bump.reserve_and_alloc(arena.words(), Generation::ZERO, size, 1)
}

#[cfg(not(loom))]
mod alone {
    use super::*;

    #[test]
    fn cursor_is_moved_once_for_many_allocations_and_never_behind_one() {
        let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
        assert_eq!(bump.alloc(64, 8), None, "nothing is reserved");
        for n in 0..LIMIT_BYTES / 64 {
            let start = bump
                .alloc(64, 8)
                .map_or_else(|| alloc(&bump, &arena, 64), Ok);
            assert_eq!(start, Ok(n * 64));
            let used_bytes = u64::from(arena.words().used(Generation::ZERO)) * GRAIN_BYTES;
            assert!(used_bytes >= (n + 1) * 64);
            assert!(used_bytes <= n / 64 * STEP_BYTES + STEP_BYTES);
        }
        let left_bytes = LIMIT_BYTES % 64;
        let full = Err(ReserveRefusal::Full(left_bytes));
        assert_eq!(alloc(&bump, &arena, 64), full);
        assert_eq!(alloc(&bump, &arena, u64::MAX), full);
    }

    #[test]
    fn last_unit_is_had_as_far_as_the_arena_goes() {
        for before in [LIMIT_BYTES - 8, LIMIT_BYTES - 1000] {
            let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
            assert_eq!(alloc(&bump, &arena, before), Ok(0));
            let rest = LIMIT_BYTES - before;
            let full = Err(ReserveRefusal::Full(rest));
            assert_eq!(alloc(&bump, &arena, rest + 1), full);
            assert_eq!(alloc(&bump, &arena, rest), Ok(before));
            assert_eq!(alloc(&bump, &arena, 1), Err(ReserveRefusal::Full(0)));
            bump.free(before, rest);
            assert_eq!(alloc(&bump, &arena, rest), Ok(before));
        }
    }

    #[test]
    fn what_no_arena_holds_is_refused() {
        let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
        assert_eq!(alloc(&bump, &arena, 16), Ok(0));
        for (size, align) in [(0, 1), (1, 3), (1, 8192), (u64::MAX, 1)] {
            assert_eq!(bump.alloc(size, align), None, "{size} at {align}");
        }
    }

    #[test]
    fn newest_comes_back_and_the_last_one_empties() {
        let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
        let [a, b, c] = [100, 50, 16].map(|size| alloc(&bump, &arena, size).unwrap());
        assert_eq!((a, b, c), (0, 112, 176));
        bump.free(c, 16);
        bump.free(a, 100);
        assert_eq!(bump.next(), 11, "an older one's bytes stay");
        bump.free(b, 50);
        assert_eq!(bump.next(), 0);
        assert_eq!(alloc(&bump, &arena, 1), Ok(0));
    }

    #[test]
    fn trimmed_cursor_says_what_is_in_use_and_the_next_bump_goes_on_there() {
        let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
        assert_eq!(alloc(&bump, &arena, 100), Ok(0));
        bump.trim(arena.words(), Generation::ZERO);
        assert_eq!(arena.words().used(Generation::ZERO), 7);
        assert_eq!(bump.alloc(1, 1), None);
        assert_eq!(alloc(&bump, &arena, 1), Ok(112));
    }

    #[test]
    fn others_of_the_session_get_other_bytes_and_never_empty_the_arena_under_the_holder() {
        let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
        assert_eq!(alloc(&bump, &arena, 16), Ok(0));
        let theirs = arena.alloc_by_rpc(1).unwrap();
        assert_eq!(theirs, 256, "behind what is reserved");
        bump.trim(arena.words(), Generation::ZERO);
        assert_eq!(arena.words().used(Generation::ZERO), 257, "they are behind");
        assert_eq!(alloc(&bump, &arena, 16), Ok(16));
        // Does not fit into the rest: what comes next lies behind theirs.
        assert_eq!(alloc(&bump, &arena, 4080), Ok(257 * 16));
        bump.free(16, 16);
        bump.free(0, 16);
        assert_eq!(alloc(&bump, &arena, 16), Ok(512 * 16));
        arena.words().free_newest(Generation::ZERO, theirs, 1);
        assert!(arena.words().used(Generation::ZERO) > 512);
    }

    #[test]
    fn reservation_of_an_ended_life_fails() {
        let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
        arena.words().give_back(Generation::ZERO, ALICE).unwrap();
        let before = arena.cursor.load(Ordering::Relaxed);
        assert_eq!(alloc(&bump, &arena, 16), Err(ReserveRefusal::Stale));
        bump.trim(arena.words(), Generation::ZERO);
        assert_eq!(arena.cursor.load(Ordering::Relaxed), before);
    }
}

#[cfg(not(loom))]
mod any_steps {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn allocations_alive_never_overlap_nor_leave_the_arena(
            steps in prop::collection::vec((0..8u8, 1..2000u64, 0..13u32), 1..80),
        ) {
            let (arena, bump) = (Arena::new(), PrivateBump::new(0, LIMIT_BYTES));
            let mut mine: Vec<(u64, u64)> = Vec::new();
            let mut theirs: Vec<(u64, u64)> = Vec::new();
            for (what, size, align) in steps {
                let pick = |n: usize| usize::try_from(size).unwrap() % n;
                let new = match what {
                    0 if !mine.is_empty() => {
                        let (start, size) = mine.swap_remove(pick(mine.len()));
                        bump.free(start, size);
                        continue;
                    }
                    1 if !mine.is_empty() => {
                        let (start, size) = mine.pop().unwrap();
                        bump.free(start, size);
                        continue;
                    }
                    2 => {
                        bump.trim(arena.words(), Generation::ZERO);
                        continue;
                    }
                    3 if !theirs.is_empty() => {
                        let (start, size) = theirs.swap_remove(pick(theirs.len()));
                        let units = |bytes: u64| Units::try_from(bytes / GRAIN_BYTES).unwrap();
                        arena.words().free_newest(Generation::ZERO, units(start), units(size));
                        continue;
                    }
                    4 => {
                        let size = Units::try_from(size.div_ceil(16)).unwrap();
                        arena.alloc_by_rpc(size).map(|start| (u64::from(start) * 16, u64::from(size) * 16))
                    }
                    _ => {
                        let align = 1 << align;
                        let start = bump.alloc(size, align);
                        let start = start.map_or_else(
                            || bump.reserve_and_alloc(arena.words(), Generation::ZERO, size, align),
                            Ok,
                        );
                        if let Ok(start) = start {
                            prop_assert!(start.is_multiple_of(align.max(16)));
                            prop_assert!(start + size <= LIMIT_BYTES);
                        }
                        start.ok().map(|start| (start, size))
                    }
                };
                let Some((start, size)) = new else { continue };
                let overlaps = |&(s, n): &(u64, u64)| s < start + size && start < s + n;
                prop_assert!(!mine.iter().chain(&theirs).any(overlaps));
                if what == 4 { &mut theirs } else { &mut mine }.push((start, size));
            }
        }

        #[test]
        fn no_words_make_anything_panic_or_an_allocation_leave_the_arena(
            cursors in prop::collection::vec(any::<u64>(), 6),
            this_life: bool,
            limit in prop_oneof![1..20_000u64, Just(MAX_ARENA_BYTES)],
            begins in any::<Units>(),
            sizes in prop::collection::vec(prop_oneof![1..9000u64, any::<u64>()], 6),
            align in 0..13u32,
        ) {
            let arena = Arena::new();
            let bump = PrivateBump::new(begins, limit);
            for (cursor, size) in cursors.into_iter().zip(sizes) {
                let life = u32::from(!this_life);
                arena.cursor.store(join(life, low32(cursor)), Ordering::Relaxed);
                let outcome =
                    bump.reserve_and_alloc(arena.words(), Generation::ZERO, size.max(1), 1 << align);
                if let Ok(start) = outcome {
                    prop_assert!(start.checked_add(size).is_some_and(|end| end <= limit));
                }
                bump.trim(arena.words(), Generation::ZERO);
                bump.free(size, cursor);
            }
        }
    }
}

//! Every transition of an arena's words and every refusal; what any bits at all may do; and, under
//! loom, the races.

use super::*;

#[cfg(loom)]
mod loom_models;

const ALICE: SessionNumber = SessionNumber::new(7);
const BOB: SessionNumber = SessionNumber::new(8);
/// Units in the arenas of these tests.
const LIMIT: Units = 64;

/// The words of one arena, as they lie in a new pool.
#[derive(Debug)]
struct Arena {
    word: AtomicU64,
    cursor: AtomicU64,
    live: AtomicU64,
}

impl Arena {
    fn new() -> Self {
        Self::of(0, 0, 0)
    }

    fn of(word: u64, cursor: u64, live: u64) -> Self {
        Self {
            word: AtomicU64::new(word),
            cursor: AtomicU64::new(cursor),
            live: AtomicU64::new(live),
        }
    }

    fn words(&self) -> ArenaWords<'_> {
        ArenaWords::new(&self.word, &self.cursor, &self.live)
    }
}

fn generation(n: u64) -> Generation {
    Generation::new(n).unwrap()
}

/// What `ArenaMemory::alloc` does for an exclusive holder.
fn alloc(words: ArenaWords<'_>, life: Generation, size: Units) -> Result<Units, Option<Units>> {
    words.count_alloc(life);
    let start = words.bump(life, size, 1, LIMIT);
    if start.is_err() {
        words.uncount_alloc(life);
    }
    start
}

#[cfg(not(loom))]
mod transitions {
    use super::*;

    fn held_by(arena: &Arena, owner: SessionNumber) -> Generation {
        arena.words().claim(owner).unwrap()
    }

    #[test]
    fn only_what_the_daemon_claimed_is_handed_over() {
        let arena = Arena::new();
        let words = arena.words();
        assert_eq!(
            words.hand_over(generation(0), ALICE),
            Err(ArenaRefusal::Stale)
        );
        let life = held_by(&arena, SessionNumber::DAEMON);
        words.hand_over(life, ALICE).unwrap();
        assert_eq!(words.load().owner(), ALICE);
        assert_eq!(
            words.hand_over(life, BOB),
            Err(ArenaRefusal::NotOwner(ALICE))
        );
        words.give_back(life, ALICE).unwrap();
        assert_eq!(words.hand_over(life, BOB), Err(ArenaRefusal::Stale));
    }

    #[test]
    fn zeroed_words_are_a_free_arena_in_its_first_life() {
        let arena = Arena::new();
        let word = arena.words().load();
        assert_eq!(word.state(), Some(ArenaState::Free));
        assert_eq!(word.generation(), Generation::ZERO);
        assert!(!word.is_held(Generation::ZERO));
    }

    #[test]
    fn claimed_arena_is_its_holders_alone() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let word = arena.words().load();
        assert_eq!(word.state(), Some(ArenaState::Exclusive));
        assert_eq!(word.owner(), ALICE);
        assert!(word.is_held(life));
        assert_eq!(arena.words().claim(BOB), None);
        assert_eq!(arena.words().claim(ALICE), None);
    }

    #[test]
    fn returned_arena_is_free_and_empty_in_its_next_life() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        alloc(arena.words(), life, 3).unwrap();
        assert_eq!(arena.words().give_back(life, ALICE), Ok(()));
        let word = arena.words().load();
        assert_eq!(word.state(), Some(ArenaState::Free));
        assert_eq!(word.generation(), life.next().unwrap());
        assert_eq!(arena.words().used(word.generation()), 0);
        assert!(!word.is_held(life));
        let next = held_by(&arena, BOB);
        assert_eq!(alloc(arena.words(), next, 1), Ok(0));
    }

    #[test]
    fn arena_is_returned_once_and_by_its_holder() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        assert_eq!(
            words.give_back(life, BOB),
            Err(ArenaRefusal::NotOwner(ALICE))
        );
        assert_eq!(words.give_back(life, ALICE), Ok(()));
        assert_eq!(words.give_back(life, ALICE), Err(ArenaRefusal::Stale));
    }

    #[test]
    fn named_arena_is_nobodys_to_return_reset_or_claim_until_it_is_released() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        assert_eq!(words.share(life, BOB), Err(ArenaRefusal::NotOwner(ALICE)));
        assert_eq!(words.release_named(life), Err(ArenaRefusal::Stale));
        assert_eq!(words.share(life, ALICE), Ok(()));
        assert!(words.load().is_held(life));
        assert_eq!(words.load().owner(), SessionNumber::NOBODY);
        assert_eq!(words.share(life, ALICE), Err(ArenaRefusal::Shared));
        assert_eq!(words.give_back(life, ALICE), Err(ArenaRefusal::Shared));
        assert_eq!(words.reset(life, ALICE), Err(ArenaRefusal::Shared));
        assert_eq!(words.claim(BOB), None);
        assert!(!words.sweep(ALICE));
        assert!(!words.sweep(SessionNumber::NOBODY));
        let later = life.next().unwrap();
        assert_eq!(words.release_named(later), Err(ArenaRefusal::Stale));
        assert_eq!(words.release_named(life), Ok(()));
        assert_eq!(words.claim(BOB), Some(later));
    }

    #[test]
    fn reset_empties_the_arena_and_makes_its_handles_stale() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        alloc(words, life, 5).unwrap();
        assert_eq!(words.reset(life, BOB), Err(ArenaRefusal::NotOwner(ALICE)));
        let raised = words.reset(life, ALICE).unwrap();
        assert_eq!(raised, life.next().unwrap());
        assert_eq!(words.load().owner(), ALICE);
        assert_eq!(words.used(raised), 0);
        assert_eq!(words.bump(life, 1, 1, LIMIT), Err(None));
        assert_eq!(words.reset(life, ALICE), Err(ArenaRefusal::Stale));
        assert_eq!(alloc(words, raised, 1), Ok(0));
    }

    #[test]
    fn sweep_returns_what_the_dead_session_held_alone() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        assert!(!arena.words().sweep(BOB));
        assert!(arena.words().sweep(ALICE));
        assert!(!arena.words().sweep(ALICE));
        assert_eq!(arena.words().claim(BOB), life.next());
    }

    #[test]
    fn sweep_repairs_a_return_or_reset_that_stopped_after_the_cursor() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        alloc(arena.words(), life, 5).unwrap();
        arena.words().empty_cursor(life, life.next().unwrap());
        assert_eq!(arena.words().bump(life, 1, 1, LIMIT), Err(None));
        assert!(arena.words().sweep(ALICE));
        let next = held_by(&arena, BOB);
        assert_eq!(alloc(arena.words(), next, 1), Ok(0));
    }

    #[test]
    fn arena_that_has_spent_its_generations_is_never_claimed_again() {
        let last = generation(Generation::MAX.get() - 1);
        let arena = Arena::of(
            ArenaSnapshot::pack(last, SessionNumber::NOBODY, ArenaState::Free).0,
            join(last.low32(), 0),
            0,
        );
        let life = held_by(&arena, ALICE);
        let raised = arena.words().reset(life, ALICE).unwrap();
        assert_eq!(raised, Generation::MAX);
        assert_eq!(
            arena.words().reset(raised, ALICE),
            Err(ArenaRefusal::GenerationsSpent)
        );
        assert_eq!(arena.words().give_back(raised, ALICE), Ok(()));
        assert_eq!(arena.words().load().state(), Some(ArenaState::Free));
        assert_eq!(arena.words().claim(BOB), None);
    }

    #[test]
    fn bump_aligns_and_says_how_much_is_left_when_full() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        assert_eq!(words.bump(life, 1, 1, LIMIT), Ok(0));
        assert_eq!(words.bump(life, 2, 8, LIMIT), Ok(8));
        assert_eq!(words.bump(life, 55, 1, LIMIT), Err(Some(54)));
        assert_eq!(words.bump(life, 54, 0, LIMIT), Ok(10));
        assert_eq!(words.bump(life, 1, 1, LIMIT), Err(Some(0)));
        assert_eq!(words.bump(life, Units::MAX, 1, LIMIT), Err(Some(0)));
        assert_eq!(words.used(life), LIMIT);
    }

    #[test]
    fn freed_newest_allocation_gives_its_bytes_back_and_an_older_one_does_not() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        for (size, start) in [(1, 0), (2, 1), (3, 3)] {
            assert_eq!(alloc(words, life, size), Ok(start));
        }
        words.free_newest(life, 1, 2);
        assert_eq!(words.used(life), 6);
        words.free_newest(life, 3, 3);
        assert_eq!(words.used(life), 3);
    }

    #[test]
    fn last_living_allocation_empties_the_arena_whichever_it_is() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        for start in 0..3 {
            assert_eq!(alloc(words, life, 1), Ok(start));
        }
        for start in [2, 1, 0] {
            words.free_newest(life, start, 1);
        }
        assert_eq!(words.used(life), 0);
        for start in 0..3 {
            assert_eq!(alloc(words, life, 1), Ok(start));
        }
        for start in [0, 2, 1] {
            words.free_newest(life, start, 1);
        }
        assert_eq!(words.used(life), 0);
    }

    #[test]
    fn failed_allocation_is_not_counted() {
        let arena = Arena::new();
        let life = held_by(&arena, ALICE);
        let words = arena.words();
        assert_eq!(alloc(words, life, 60), Ok(0));
        assert_eq!(alloc(words, life, 60), Err(Some(4)));
        words.free_newest(life, 0, 60);
        assert_eq!(words.used(life), 0);
    }

    #[test]
    fn holder_of_an_earlier_life_cannot_bump_or_free_in_the_next() {
        let arena = Arena::new();
        let words = arena.words();
        let old = held_by(&arena, ALICE);
        alloc(words, old, 2).unwrap();
        words.give_back(old, ALICE).unwrap();
        let life = held_by(&arena, BOB);
        assert_eq!(alloc(words, life, 2), Ok(0));
        assert_eq!(alloc(words, old, 1), Err(None));
        words.free_newest(old, 0, 2);
        assert_eq!(words.used(life), 2);
        assert_eq!(words.used(old), 0);
        // Of the count of the living nothing was taken either.
        assert_eq!(alloc(words, life, 1), Ok(2));
        words.free_newest(life, 2, 1);
        assert_eq!(words.used(life), 2);
    }

    #[test]
    fn forced_free_leaves_a_free_empty_arena_alone_and_frees_every_other() {
        let arena = Arena::new();
        arena.words().force_free();
        assert_eq!(arena.words().load().generation(), Generation::ZERO);
        let life = held_by(&arena, ALICE);
        alloc(arena.words(), life, 1).unwrap();
        arena.words().force_free();
        assert_eq!(arena.words().claim(BOB), life.next());
    }

    #[test]
    fn waiters_flag_reads_as_it_was_set() {
        let word = AtomicU64::new(0);
        let flag = WaitersFlag::new(&word);
        assert!(!flag.is_set());
        flag.set(true);
        assert!(flag.is_set());
        flag.set(false);
        assert!(!flag.is_set());
    }
}

#[cfg(not(loom))]
mod any_bits {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Hostile words: nothing panics, no allocation leaves the arena, no generation falls.
        #[test]
        fn no_words_make_a_transition_panic_or_an_allocation_leave_the_arena(
            word: u64,
            cursor: u64,
            live: u64,
            lives_agree: bool,
            held: bool,
            size in 1..=Units::MAX,
            which in 0..9u8,
        ) {
            let generation = ArenaSnapshot(word).generation();
            let word = if held {
                ArenaSnapshot::pack(generation, ALICE, ArenaState::Exclusive).0
            } else {
                word
            };
            let of_this_life = |bits: u64| join(generation.low32(), split(bits).1);
            let arena = if lives_agree {
                Arena::of(word, of_this_life(cursor), of_this_life(live))
            } else {
                Arena::of(word, cursor, live)
            };
            let words = arena.words();
            match which {
                0 => if let Some(life) = words.claim(ALICE) {
                    prop_assert_eq!(alloc(words, life, 1), Ok(0));
                },
                1 => if words.give_back(generation, ALICE).is_ok() {
                    prop_assert!(!words.load().is_held(generation));
                },
                2 => { let _ = words.share(generation, ALICE); },
                3 => { let _ = words.release_named(generation); },
                4 => { words.sweep(ALICE); },
                5 => words.force_free(),
                6 => if let Ok(life) = words.reset(generation, ALICE) {
                    prop_assert!(life > generation);
                },
                7 => if let Ok(start) = alloc(words, generation, size) {
                    prop_assert!(start.checked_add(size).is_some_and(|end| end <= LIMIT));
                },
                _ => words.free_newest(generation, split(cursor).1, size),
            }
            prop_assert!(words.load().generation() >= generation);
            let _ = words.used(generation);
        }

        #[test]
        fn allocations_of_one_life_never_overlap(
            steps in prop::collection::vec((any::<bool>(), 1..20u32, 0..3u32), 1..60)
        ) {
            let arena = Arena::new();
            let life = arena.words().claim(ALICE).unwrap();
            let mut living: Vec<(Units, Units)> = Vec::new();
            for (frees, size, align) in steps {
                if frees && !living.is_empty() {
                    let (start, size) = living.swap_remove(size as usize % living.len());
                    arena.words().free_newest(life, start, size);
                    if living.is_empty() {
                        prop_assert_eq!(arena.words().used(life), 0);
                    }
                    continue;
                }
                arena.words().count_alloc(life);
                match arena.words().bump(life, size, 1 << align, LIMIT) {
                    Ok(start) => {
                        prop_assert!(start.is_multiple_of(1 << align) && start + size <= LIMIT);
                        let overlaps = |&(s, n): &(Units, Units)| s < start + size && start < s + n;
                        prop_assert!(!living.iter().any(overlaps), "{start}+{size} in {living:?}");
                        living.push((start, size));
                    }
                    Err(left) => {
                        prop_assert!(left.unwrap() < size + (1 << align));
                        arena.words().uncount_alloc(life);
                    }
                }
            }
        }
    }
}

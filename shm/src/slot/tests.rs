//! Every transition of a slot word and every refusal, one claim each; what any bits at all may do;
//! and, under loom, the races.

use super::*;

#[cfg(loom)]
mod loom_models;

const ALICE: SessionNumber = SessionNumber::new(7);
const BOB: SessionNumber = SessionNumber::new(8);

fn generation(n: u64) -> Generation {
    Generation::new(n).unwrap()
}

/// A word of generation 5 that `owner` has exported.
fn shared_by(owner: SessionNumber) -> SlotWord {
    let word = SlotWord::new(generation(5));
    assert_eq!(word.export(owner), Ok(generation(5)));
    word
}

#[cfg(not(loom))]
mod transitions {
    use super::*;

    fn found(word: &SlotWord) -> (u64, SessionNumber, Option<SlotState>, bool) {
        let word = word.load();
        (
            word.generation().get(),
            word.owner(),
            word.state(),
            word.is_pinned(),
        )
    }

    const NOBODY: SessionNumber = SessionNumber::NOBODY;
    const FREE: Option<SlotState> = Some(SlotState::Free);
    const SHARED: Option<SlotState> = Some(SlotState::Shared);
    const KEPT: Option<SlotState> = Some(SlotState::Kept);
    const CONDEMNED: Option<SlotState> = Some(SlotState::Condemned);
    const TAKEN: Option<SlotState> = Some(SlotState::Taken);

    fn kept_by(owner: SessionNumber) -> SlotWord {
        let word = shared_by(owner);
        assert_eq!(word.keep(generation(5), owner), Ok(()));
        word
    }

    fn taken_by(owner: SessionNumber) -> SlotWord {
        let word = shared_by(owner);
        let (raised, _) = word.take_over(generation(5), owner).unwrap();
        assert_eq!(raised, generation(6));
        word
    }

    fn condemned() -> SlotWord {
        let word = shared_by(ALICE);
        word.pin(generation(5)).unwrap();
        assert_eq!(word.free(generation(5)), Ok(Freed::Condemned));
        word
    }

    #[test]
    fn new_word_is_free_and_no_handle_names_it() {
        let word = SlotWord::new(generation(5));
        assert_eq!(found(&word), (5, NOBODY, FREE, false));
        assert!(!word.load().is_live(generation(5)));
    }

    #[test]
    fn initialised_word_is_free_at_the_floor_whatever_it_was() {
        let word = condemned();
        word.initialise(generation(90));
        assert_eq!(found(&word), (90, NOBODY, FREE, false));
    }

    #[test]
    fn exported_block_is_shared_by_its_owner_in_the_generation_it_had() {
        let word = shared_by(ALICE);
        assert_eq!(found(&word), (5, ALICE, SHARED, false));
        assert!(word.load().is_live(generation(5)));
        assert!(!word.load().is_live(generation(4)));
        assert!(!word.load().is_live(generation(6)));
    }

    #[test]
    fn export_of_anything_but_a_free_word_is_refused_and_changes_nothing() {
        for word in [
            shared_by(ALICE),
            kept_by(ALICE),
            condemned(),
            taken_by(ALICE),
        ] {
            let before = word.load();
            assert_eq!(word.export(BOB), Err(SlotRefusal::Stale));
            assert_eq!(word.load(), before);
        }
    }

    #[test]
    fn slot_that_has_spent_its_generations_is_never_exported() {
        let word = SlotWord::new(Generation::MAX);
        assert_eq!(word.export(ALICE), Err(SlotRefusal::GenerationsSpent));
        assert_eq!(word.load().state(), FREE);
    }

    #[test]
    fn last_generation_can_be_exported_taken_once_and_freed() {
        let last = generation(Generation::MAX.get() - 1);
        let word = SlotWord::new(last);
        assert_eq!(word.export(ALICE), Ok(last));
        let (raised, _) = word.take(last, BOB).unwrap();
        assert_eq!(raised, Generation::MAX);
        assert_eq!(word.take(raised, ALICE), Err(SlotRefusal::GenerationsSpent));
        assert_eq!(word.free(raised), Ok(Freed::Free));
        assert_eq!(word.load().generation(), Generation::MAX);
        assert_eq!(word.free(raised), Err(SlotRefusal::Stale));
        assert_eq!(word.export(ALICE), Err(SlotRefusal::GenerationsSpent));
    }

    #[test]
    fn anyone_frees_a_shared_or_kept_block_and_its_handles_are_stale() {
        for word in [shared_by(ALICE), kept_by(ALICE)] {
            assert_eq!(word.free(generation(5)), Ok(Freed::Free));
            assert_eq!(found(&word), (6, NOBODY, FREE, false));
        }
    }

    #[test]
    fn second_free_is_a_double_free_until_the_slot_is_used_again() {
        let word = shared_by(ALICE);
        assert_eq!(word.free(generation(5)), Ok(Freed::Free));
        assert_eq!(word.free(generation(5)), Err(SlotRefusal::DoubleFree));
        assert_eq!(word.export(BOB), Ok(generation(6)));
        assert_eq!(word.free(generation(5)), Err(SlotRefusal::Stale));
        assert_eq!(found(&word), (6, BOB, SHARED, false));
    }

    #[test]
    fn second_free_of_a_condemned_block_is_a_double_free() {
        let word = condemned();
        assert_eq!(word.free(generation(5)), Err(SlotRefusal::DoubleFree));
        assert_eq!(word.free(generation(6)), Err(SlotRefusal::Stale));
    }

    #[test]
    fn free_of_what_was_never_exported_is_stale() {
        let word = SlotWord::new(generation(5));
        for other in [4, 5, 6, 1000] {
            let expected = if other == 4 {
                SlotRefusal::DoubleFree // as far as the word can tell
            } else {
                SlotRefusal::Stale
            };
            assert_eq!(word.free(generation(other)), Err(expected));
        }
    }

    #[test]
    fn free_of_a_pinned_block_condemns_it_and_the_last_unpin_frees_it() {
        let word = condemned();
        assert_eq!(found(&word), (6, NOBODY, CONDEMNED, true));
        assert_eq!(word.unpin(), Unpinned::Freed);
        assert_eq!(found(&word), (6, NOBODY, FREE, false));
    }

    #[test]
    fn kept_block_has_no_owner_and_is_not_swept() {
        let word = kept_by(ALICE);
        assert_eq!(found(&word), (5, NOBODY, KEPT, false));
        assert_eq!(word.sweep(ALICE), None);
        assert_eq!(word.sweep(NOBODY), None);
        assert_eq!(found(&word), (5, NOBODY, KEPT, false));
    }

    #[test]
    fn keeping_is_for_the_owner_and_may_be_repeated() {
        let word = shared_by(ALICE);
        assert_eq!(
            word.keep(generation(5), BOB),
            Err(SlotRefusal::NotOwner(ALICE))
        );
        assert_eq!(word.keep(generation(4), ALICE), Err(SlotRefusal::Stale));
        assert_eq!(word.keep(generation(5), ALICE), Ok(()));
        assert_eq!(word.keep(generation(5), BOB), Ok(()));
    }

    #[test]
    fn keeping_leaves_the_pin_alone() {
        let word = shared_by(ALICE);
        word.pin(generation(5)).unwrap();
        assert_eq!(word.keep(generation(5), ALICE), Ok(()));
        assert_eq!(found(&word), (5, NOBODY, KEPT, true));
    }

    #[test]
    fn adopted_block_changes_its_owner_and_not_its_handle() {
        for (word, before) in [
            (shared_by(ALICE), SlotState::Shared),
            (kept_by(ALICE), SlotState::Kept),
        ] {
            word.pin(generation(5)).unwrap();
            let seen = word.adopt(generation(5), BOB).unwrap();
            assert_eq!(seen.state(), Some(before));
            assert_eq!(found(&word), (5, BOB, SHARED, true));
        }
    }

    #[test]
    fn take_raises_the_generation_so_that_only_the_new_handle_is_good() {
        for (word, before) in [
            (shared_by(ALICE), SlotState::Shared),
            (kept_by(ALICE), SlotState::Kept),
        ] {
            let (raised, seen) = word.take(generation(5), BOB).unwrap();
            assert_eq!((raised, seen.state()), (generation(6), Some(before)));
            assert_eq!(found(&word), (6, BOB, SHARED, false));
            assert_eq!(word.free(generation(5)), Err(SlotRefusal::Stale));
            assert_eq!(word.free(generation(6)), Ok(Freed::Free));
        }
    }

    #[test]
    fn pinned_block_cannot_be_taken() {
        let word = shared_by(ALICE);
        word.pin(generation(5)).unwrap();
        assert_eq!(word.take(generation(5), BOB), Err(SlotRefusal::Pinned));
        assert_eq!(word.take_over(generation(5), BOB), Err(SlotRefusal::Pinned));
        assert_eq!(found(&word), (5, ALICE, SHARED, true));
    }

    #[test]
    fn block_taken_over_cannot_be_had_by_any_handle_not_even_a_guessed_one() {
        let word = taken_by(ALICE);
        assert_eq!(found(&word), (6, ALICE, TAKEN, false));
        for guess in [5, 6, 7] {
            let guess = generation(guess);
            assert!(!word.load().is_live(guess));
            assert!(word.free(guess).is_err());
            assert_eq!(word.pin(guess), Err(SlotRefusal::Stale));
            assert_eq!(word.keep(guess, ALICE), Err(SlotRefusal::Stale));
            assert_eq!(word.adopt(guess, BOB), Err(SlotRefusal::Stale));
            assert_eq!(word.take(guess, BOB), Err(SlotRefusal::Stale));
            assert_eq!(word.take_over(guess, BOB), Err(SlotRefusal::Stale));
        }
        assert_eq!(word.unpin(), Unpinned::Nothing);
        assert_eq!(found(&word), (6, ALICE, TAKEN, false));
    }

    #[test]
    fn block_taken_over_is_freed_by_its_holder_alone() {
        let word = taken_by(ALICE);
        assert_eq!(word.free_taken(BOB), Err(SlotRefusal::Stale));
        assert_eq!(word.free_taken(ALICE), Ok(Freed::Free));
        assert_eq!(found(&word), (7, NOBODY, FREE, false));
        assert_eq!(word.free_taken(ALICE), Err(SlotRefusal::Stale));
    }

    #[test]
    fn block_taken_over_is_exported_in_the_generation_no_handle_had() {
        let word = taken_by(ALICE);
        assert_eq!(word.export_taken(BOB, BOB), Err(SlotRefusal::Stale));
        assert_eq!(word.export_taken(ALICE, BOB), Ok(generation(6)));
        assert_eq!(found(&word), (6, BOB, SHARED, false));
        assert_eq!(word.export_taken(ALICE, BOB), Err(SlotRefusal::Stale));
    }

    #[test]
    fn only_living_blocks_are_pinned_adopted_and_taken() {
        for word in [SlotWord::new(generation(5)), condemned(), taken_by(ALICE)] {
            let before = word.load();
            for other in [4, 5, 6] {
                let other = generation(other);
                assert_eq!(word.pin(other), Err(SlotRefusal::Stale));
                assert_eq!(word.adopt(other, BOB), Err(SlotRefusal::Stale));
                assert_eq!(word.take(other, BOB), Err(SlotRefusal::Stale));
                assert_eq!(word.keep(other, ALICE), Err(SlotRefusal::Stale));
            }
            assert_eq!(word.load(), before);
        }
    }

    #[test]
    fn pin_and_unpin_of_a_living_block_leave_it_as_it_was() {
        for word in [shared_by(ALICE), kept_by(ALICE)] {
            let before = word.load();
            assert_eq!(word.pin(generation(5)), Ok(()));
            assert_eq!(word.pin(generation(5)), Ok(()));
            assert!(word.load().is_pinned());
            assert_eq!(word.unpin(), Unpinned::Alive);
            assert_eq!(word.load(), before);
            assert_eq!(word.unpin(), Unpinned::Nothing);
        }
    }

    #[test]
    fn unpin_does_not_write_a_word_that_belongs_to_an_agent_or_a_holder() {
        for state in [SlotState::Free, SlotState::Taken] {
            let forged = SlotSnapshot::pack(generation(5), NOBODY, state, true);
            let word = SlotWord(AtomicU64::new(forged.raw()));
            assert_eq!(word.unpin(), Unpinned::Nothing);
            assert_eq!(word.load(), forged);
        }
    }

    #[test]
    fn sweep_frees_what_the_dead_session_shared_or_held() {
        for word in [shared_by(ALICE), taken_by(ALICE)] {
            let before = word.load();
            assert_eq!(word.sweep(BOB), None);
            assert_eq!(word.load(), before);
            assert!(before.goes_with(ALICE) && !before.goes_with(BOB));
            assert_eq!(word.sweep(ALICE), Some(Freed::Free));
            assert_eq!(word.load().state(), FREE);
            assert_eq!(
                word.load().generation(),
                before.generation().next().unwrap()
            );
            assert_eq!(word.sweep(ALICE), None);
        }
    }

    #[test]
    fn sweep_condemns_a_pinned_block() {
        let word = shared_by(ALICE);
        word.pin(generation(5)).unwrap();
        assert_eq!(word.sweep(ALICE), Some(Freed::Condemned));
        assert_eq!(found(&word), (6, NOBODY, CONDEMNED, true));
    }

    #[test]
    fn adopted_block_survives_the_sweep_of_its_first_owner() {
        let word = shared_by(ALICE);
        word.adopt(generation(5), BOB).unwrap();
        assert_eq!(word.sweep(ALICE), None);
        assert_eq!(word.sweep(BOB), Some(Freed::Free));
    }

    #[test]
    fn forced_free_frees_every_word_and_raises_its_generation() {
        for word in [shared_by(ALICE), kept_by(ALICE), condemned(), taken_by(BOB)] {
            let before = word.load().generation();
            word.force_free();
            assert_eq!(word.load().state(), FREE);
            assert_eq!(word.load().generation(), before.next().unwrap());
            assert!(!word.load().is_pinned());
        }
    }

    #[test]
    fn sweep_and_forced_free_end_on_a_word_that_somebody_keeps_flipping() {
        let word = shared_by(ALICE);
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = word.0.fetch_xor(1, Ordering::Relaxed);
                }
            });
            for _ in 0..1000 {
                word.0
                    .store(shared_by(ALICE).load().raw(), Ordering::Relaxed);
                assert!(word.sweep(ALICE).is_some());
                assert!(!word.load().goes_with(ALICE));
                word.force_free();
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

#[cfg(not(loom))]
mod any_bits {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = SlotState> {
        prop_oneof![
            Just(SlotState::Free),
            Just(SlotState::Shared),
            Just(SlotState::Kept),
            Just(SlotState::Condemned),
            Just(SlotState::Taken),
        ]
    }

    proptest! {
        #[test]
        fn word_is_taken_apart_as_it_was_packed(
            n in 0..=Generation::MAX.get(),
            owner: u16,
            state in any_state(),
            pinned: bool,
        ) {
            let owner = SessionNumber::new(owner);
            let word = SlotSnapshot::pack(generation(n), owner, state, pinned);
            let again = SlotSnapshot::from_raw(word.raw());
            prop_assert_eq!(again.generation(), generation(n));
            prop_assert_eq!(again.owner(), owner);
            prop_assert_eq!(again.state(), Some(state));
            prop_assert_eq!(again.is_pinned(), pinned);
        }

        /// A hostile word, and a handle that fits it or not: nothing panics, a refusal changes
        /// nothing, and no transition takes a generation back.
        #[test]
        fn no_word_makes_a_transition_panic_or_a_generation_fall(
            raw: u64,
            fits: bool,
            guess: u64,
            session: u16,
            which in 0..11u8,
        ) {
            let word = SlotWord(AtomicU64::new(raw));
            let before = word.load();
            let handle = if fits {
                before.generation()
            } else {
                Generation::from_low_bits(guess)
            };
            let session = SessionNumber::new(session);
            let refused = match which {
                0 => word.export(session).is_err(),
                1 => word.free(handle).is_err(),
                2 => word.keep(handle, session).is_err(),
                3 => word.adopt(handle, session).is_err(),
                4 => word.take(handle, session).is_err(),
                5 => word.take_over(handle, session).is_err(),
                6 => word.pin(handle).is_err(),
                7 => word.unpin() == Unpinned::Nothing,
                8 => word.sweep(session).is_none(),
                9 => word.free_taken(session).is_err(),
                _ => {
                    word.force_free();
                    false
                }
            };
            let after = word.load();
            prop_assert!(!refused || after == before);
            prop_assert!(after.generation() >= before.generation());
            let _ = format!("{after:?}");
        }
    }
}

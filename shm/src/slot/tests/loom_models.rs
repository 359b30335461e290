//! The races on one slot word. Payload is a loom cell where the protocol promises exclusion, and
//! an atomic where a copy may race and is checked afterwards.
//!
//! Whoever only looks at a word is spawned, and the model's own thread exchanges it: loom 0.7 tells
//! races by the last access to an atomic (`last_dependent_access`), so an exchange whose thread has
//! loaded the word before is not known to race with those who looked earlier still, and the other
//! order is never tried. [`Reached`] says that what a model is about did come to pass.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64 as Payload, Ordering, fence};
use loom::thread;

use super::*;

mod mutants;

const CAROL: SessionNumber = SessionNumber::new(9);

/// Whether a model came past a place in any of its executions.
#[derive(Clone)]
struct Reached(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Reached {
    fn new() -> Self {
        Self(std::sync::Arc::default())
    }

    fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) {
        let reached = self.0.load(Ordering::Relaxed);
        assert!(reached, "no execution came past what the model is about");
    }
}

/// Runs two transitions of one word at once and returns what they said and what it says then.
fn race<A, B>(
    word: SlotWord,
    first: impl FnOnce(&SlotWord) -> A + Send + 'static,
    second: impl FnOnce(&SlotWord) -> B,
) -> (A, B, SlotSnapshot)
where
    A: Send + 'static,
{
    let word = Arc::new(word);
    let others = Arc::clone(&word);
    let thread = thread::spawn(move || first(&others));
    let second = second(&word);
    (thread.join().unwrap(), second, word.load())
}

/// What an agent does with an exported slot: hands it out again if its word is FREE.
fn is_ours_again(word: &SlotWord) -> bool {
    let is_free = word.load().state() == Some(SlotState::Free);
    if is_free {
        fence_before_reuse();
    }
    is_free
}

#[test]
fn payload_written_before_export_is_there_for_the_reader_and_read_before_reuse() {
    loom::model(|| {
        let shared = Arc::new((SlotWord::new(generation(5)), UnsafeCell::new(0u64)));
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload) = &*shared;
                if word.load().is_live(generation(5)) {
                    // SAFETY: whether anybody writes now is what loom checks.
                    payload.with(|value| assert_eq!(unsafe { *value }, 1));
                    assert_eq!(word.free(generation(5)), Ok(Freed::Free));
                }
            })
        };
        let (word, payload) = &*shared;
        // SAFETY: as above.
        payload.with_mut(|value| unsafe { *value = 1 });
        assert_eq!(word.export(ALICE), Ok(generation(5)));
        // The agent, which knows by its exported bit that the word was SHARED.
        if is_ours_again(word) {
            // SAFETY: as above.
            payload.with_mut(|value| unsafe { *value = 2 });
        }
        reader.join().unwrap();
    });
}

#[test]
fn payload_is_there_for_a_reader_who_learns_of_it_by_a_pin() {
    loom::model(|| {
        let shared = Arc::new((SlotWord::new(generation(5)), UnsafeCell::new(0u64)));
        let daemon = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.pin(generation(5)).is_ok())
        };
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload) = &*shared;
                if word.load().is_pinned() {
                    // SAFETY: whether anybody writes now is what loom checks.
                    payload.with(|value| assert_eq!(unsafe { *value }, 1));
                }
            })
        };
        let (word, payload) = &*shared;
        // SAFETY: as above.
        payload.with_mut(|value| unsafe { *value = 1 });
        assert_eq!(word.export(ALICE), Ok(generation(5)));
        daemon.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn of_two_frees_one_is_a_double_free() {
    loom::model(|| {
        let free = |word: &SlotWord| word.free(generation(5));
        let (a, b, after) = race(shared_by(ALICE), free, free);
        let outcomes = [a, b];
        assert!(outcomes.contains(&Ok(Freed::Free)), "{outcomes:?}");
        assert!(
            outcomes.contains(&Err(SlotRefusal::DoubleFree)),
            "{outcomes:?}"
        );
        assert_eq!(after.generation(), generation(6));
    });
}

#[test]
fn free_and_pin_and_unpin_free_the_block_once() {
    free_beside_a_pin(SlotWord::free);
}

fn free_beside_a_pin(free: fn(&SlotWord, Generation) -> Result<Freed, SlotRefusal>) {
    loom::model(move || {
        let pin_and_unpin = |word: &SlotWord| match word.pin(generation(5)) {
            Ok(()) => word.unpin(),
            Err(_) => Unpinned::Nothing,
        };
        let free = |word: &SlotWord| free(word, generation(5));
        let (unpinned, freed, after) = race(shared_by(ALICE), pin_and_unpin, free);
        match (freed, unpinned) {
            (Ok(Freed::Condemned), Unpinned::Freed)
            | (Ok(Freed::Free), Unpinned::Alive | Unpinned::Nothing) => {}
            outcomes => panic!("{outcomes:?}"),
        }
        assert_eq!(after.state(), Some(SlotState::Free));
        assert_eq!(after.generation(), generation(6));
        assert!(!after.is_pinned());
    });
}

#[test]
fn block_condemned_under_a_pin_is_reused_after_the_last_read_of_the_pinner() {
    let reused = Reached::new();
    let agents = reused.clone();
    loom::model(move || {
        let word = shared_by(ALICE);
        word.pin(generation(5)).unwrap();
        let shared = Arc::new((word, UnsafeCell::new(1u64)));
        let agent = {
            let (shared, agents) = (Arc::clone(&shared), agents.clone());
            thread::spawn(move || {
                let (word, payload) = &*shared;
                let freed = word.free(generation(5));
                if is_ours_again(word) {
                    if freed == Ok(Freed::Condemned) {
                        agents.note();
                    }
                    // SAFETY: whether anybody else is there now is what loom checks.
                    payload.with_mut(|value| unsafe { *value = 2 });
                }
            })
        };
        let (word, payload) = &*shared;
        // SAFETY: as above.
        payload.with(|value| assert_eq!(unsafe { *value }, 1));
        let _ = word.unpin();
        agent.join().unwrap();
    });
    reused.check();
}

#[test]
fn of_two_takes_one_has_the_block() {
    loom::model(|| {
        let (a, b, after) = race(
            shared_by(ALICE),
            |word| word.take_over(generation(5), BOB).is_ok(),
            |word| word.take_over(generation(5), CAROL).is_ok(),
        );
        assert!(a != b);
        assert_eq!(after.owner(), if a { BOB } else { CAROL });
        assert_eq!(after.generation(), generation(6));
    });
}

#[test]
fn take_and_free_have_one_winner() {
    loom::model(|| {
        let (taken, freed, after) = race(
            shared_by(ALICE),
            |word| word.take_over(generation(5), BOB).is_ok(),
            |word| word.free(generation(5)).is_ok(),
        );
        assert!(taken != freed);
        let expected = if taken {
            SlotState::Taken
        } else {
            SlotState::Free
        };
        assert_eq!(after.state(), Some(expected));
        assert_eq!(after.generation(), generation(6));
    });
}

#[test]
fn take_and_pin_have_one_winner() {
    loom::model(|| {
        let (taken, pinned, after) = race(
            shared_by(ALICE),
            |word| word.take_over(generation(5), BOB).is_ok(),
            |word| word.pin(generation(5)).is_ok(),
        );
        assert!(taken != pinned);
        assert_eq!(after.is_pinned(), pinned);
    });
}

#[test]
fn whoever_takes_a_block_over_sees_what_its_owner_wrote_and_owns_it_alone() {
    loom::model(|| {
        let shared = Arc::new((SlotWord::new(generation(5)), UnsafeCell::new(0u64)));
        let takers = [BOB, CAROL].map(|session| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload) = &*shared;
                if word.take_over(generation(5), session).is_ok() {
                    // SAFETY: whether anybody else is there now is what loom checks.
                    payload.with_mut(|value| assert_eq!(unsafe { value.replace(2) }, 1));
                }
            })
        });
        let (word, payload) = &*shared;
        // SAFETY: as above.
        payload.with_mut(|value| unsafe { *value = 1 });
        assert_eq!(word.export(ALICE), Ok(generation(5)));
        for taker in takers {
            taker.join().unwrap();
        }
    });
}

#[test]
fn sweep_and_free_free_the_block_once() {
    loom::model(|| {
        let (swept, freed, after) = race(
            shared_by(ALICE),
            |word| word.sweep(ALICE).is_some(),
            |word| word.free(generation(5)).is_ok(),
        );
        assert!(swept != freed);
        assert_eq!(after.generation(), generation(6));
    });
}

#[test]
fn sweep_and_take_over_have_one_winner() {
    loom::model(|| {
        let (swept, taken, after) = race(
            shared_by(ALICE),
            |word| word.sweep(ALICE).is_some(),
            |word| word.take_over(generation(5), BOB).is_ok(),
        );
        assert!(swept != taken);
        assert_eq!(after.goes_with(BOB), taken);
    });
}

#[test]
fn adopted_block_is_swept_with_its_new_owner_and_never_with_its_old_one() {
    loom::model(|| {
        let (adopted, swept, after) = race(
            shared_by(ALICE),
            |word| word.adopt(generation(5), BOB).is_ok(),
            |word| word.sweep(ALICE).is_some(),
        );
        assert!(adopted != swept);
        assert_eq!(after.goes_with(BOB), adopted);
    });
}

#[test]
fn keep_and_free_and_sweep_leave_a_block_kept_or_freed_once() {
    loom::model(|| {
        let word = Arc::new(shared_by(ALICE));
        let freeing = {
            let word = Arc::clone(&word);
            thread::spawn(move || word.free(generation(5)).is_ok())
        };
        let keeping = {
            let word = Arc::clone(&word);
            thread::spawn(move || word.keep(generation(5), ALICE).is_ok())
        };
        let swept = word.sweep(ALICE).is_some();
        let (freed, kept) = (freeing.join().unwrap(), keeping.join().unwrap());
        let after = word.load();
        assert!(!(freed && swept));
        if freed || swept {
            assert_eq!(after.state(), Some(SlotState::Free));
            assert_eq!(after.generation(), generation(6));
        } else {
            assert!(kept);
            assert_eq!(after.state(), Some(SlotState::Kept));
        }
    });
}

/// A reader copies, fences and looks again, as `PoolMemory::read` does; returns what it may use.
fn copy_out(word: &SlotWord, payload: &Payload) -> Option<u64> {
    if !word.load().is_live(generation(5)) {
        return None;
    }
    let copied = payload.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    word.load().is_live(generation(5)).then_some(copied)
}

#[test]
fn copy_that_passes_the_second_look_has_no_byte_of_the_next_life() {
    copy_beside_a_reuse(copy_out);
}

fn copy_beside_a_reuse(copy_out: fn(&SlotWord, &Payload) -> Option<u64>) {
    loom::model(move || {
        let shared = Arc::new((shared_by(ALICE), Payload::new(1)));
        let freer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.free(generation(5)).is_ok())
        };
        let agent = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload) = &*shared;
                if is_ours_again(word) {
                    payload.store(2, Ordering::Relaxed);
                }
            })
        };
        let (word, payload) = &*shared;
        assert!(matches!(copy_out(word, payload), None | Some(1)));
        freer.join().unwrap();
        agent.join().unwrap();
    });
}

#[test]
fn copy_that_passes_the_second_look_has_no_byte_of_whoever_took_the_block() {
    loom::model(|| {
        let shared = Arc::new((shared_by(ALICE), Payload::new(1)));
        let taker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload) = &*shared;
                word.take_over(generation(5), BOB).unwrap();
                payload.store(2, Ordering::Relaxed);
            })
        };
        let (word, payload) = &*shared;
        assert!(matches!(copy_out(word, payload), None | Some(1)));
        taker.join().unwrap();
    });
}

#[test]
fn handle_that_is_passed_on_names_the_block_and_all_that_was_written_to_it() {
    handle_is_passed_on(|word, pass_on| {
        let exported = word.export(ALICE).unwrap();
        pass_on(exported);
    });
}

/// Alice exports a block and passes its handle on; Bob reads the block and frees it.
fn handle_is_passed_on(export: fn(&SlotWord, &dyn Fn(Generation))) {
    loom::model(move || {
        let shared = Arc::new((
            SlotWord::new(generation(5)),
            UnsafeCell::new(0u64),
            Payload::new(0),
        ));
        let bob = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload, mail) = &*shared;
                let handle = mail.load(Ordering::Acquire);
                if handle == 0 {
                    return;
                }
                assert!(
                    word.load().is_live(generation(handle)),
                    "the handle is good"
                );
                // SAFETY: whether anybody writes now is what loom checks.
                payload.with(|value| assert_eq!(unsafe { *value }, 1));
                assert_eq!(word.free(generation(handle)), Ok(Freed::Free));
            })
        };
        let (word, payload, mail) = &*shared;
        // SAFETY: as above.
        payload.with_mut(|value| unsafe { *value = 1 });
        export(word, &|handle| mail.store(handle.get(), Ordering::Release));
        bob.join().unwrap();
    });
}

#[test]
fn block_exported_by_whoever_took_it_over_has_what_both_owners_wrote() {
    loom::model(|| {
        let word = shared_by(ALICE);
        let shared = Arc::new((word, UnsafeCell::new(0u64)));
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, payload) = &*shared;
                if word.load().is_live(generation(6)) {
                    // SAFETY: whether anybody writes now is what loom checks.
                    payload.with(|value| assert_eq!(unsafe { *value }, 2));
                }
            })
        };
        let (word, payload) = &*shared;
        word.take_over(generation(5), BOB).unwrap();
        // SAFETY: as above.
        payload.with_mut(|value| unsafe { *value = 2 });
        assert_eq!(word.export_taken(BOB, BOB), Ok(generation(6)));
        reader.join().unwrap();
    });
}

#[test]
fn block_freed_by_whoever_took_it_over_is_reused_after_them() {
    let reused = Reached::new();
    let agents = reused.clone();
    loom::model(move || {
        let shared = Arc::new((shared_by(ALICE), UnsafeCell::new(0u64)));
        let agent = {
            let (shared, agents) = (Arc::clone(&shared), agents.clone());
            thread::spawn(move || {
                let (word, payload) = &*shared;
                if is_ours_again(word) {
                    agents.note();
                    // SAFETY: whether anybody else is there now is what loom checks.
                    payload.with_mut(|value| assert_eq!(unsafe { value.replace(2) }, 1));
                }
            })
        };
        let (word, payload) = &*shared;
        word.take_over(generation(5), BOB).unwrap();
        // SAFETY: as above.
        payload.with_mut(|value| unsafe { *value = 1 });
        assert_eq!(word.free_taken(BOB), Ok(Freed::Free));
        agent.join().unwrap();
    });
    reused.check();
}

#[test]
fn of_export_and_sweep_of_a_block_taken_over_both_leave_one_block_or_none() {
    loom::model(|| {
        let word = shared_by(ALICE);
        word.take_over(generation(5), BOB).unwrap();
        let (exported, swept, after) = race(
            word,
            |word| word.export_taken(BOB, BOB).is_ok(),
            |word| word.sweep(BOB).is_some(),
        );
        assert!(swept, "it was Bob's all the time");
        let state = Some(SlotState::Free);
        assert_eq!((after.state(), after.generation()), (state, generation(7)));
        let _ = exported;
    });
}

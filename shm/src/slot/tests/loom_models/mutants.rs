//! Known ways to get a transition or a reader wrong, each of which a model must refuse.
//! docs/testing.md lists them.

use super::*;

#[test]
#[should_panic(expected = "the handle is good")]
fn export_by_a_late_plain_store() {
    handle_is_passed_on(|word, pass_on| {
        let found = word.load().generation();
        pass_on(found);
        let late = SlotSnapshot::pack(found, ALICE, SlotState::Shared, false);
        word.0.store(late.raw(), Ordering::Relaxed);
    });
}

#[test]
#[should_panic(expected = "Err(Stale)")]
fn mismatch_on_the_pin_bit_reported_as_stale() {
    free_beside_a_pin(|word, generation| {
        let found = word.load();
        if !found.is_live(generation) {
            return Err(SlotRefusal::Stale);
        }
        let (next, freed) = found.freed();
        word.0
            .compare_exchange(found.raw(), next.raw(), Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| freed)
            .map_err(|_| SlotRefusal::Stale)
    });
}

#[test]
#[should_panic(expected = "None | Some(1)")]
fn copy_out_that_does_not_look_twice() {
    copy_beside_a_reuse(|word, payload| {
        let lives = word.load().is_live(generation(5));
        lives.then(|| payload.load(Ordering::Relaxed))
    });
}

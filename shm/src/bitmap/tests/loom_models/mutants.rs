//! Known ways to feed the agent wrongly, each of which a model must refuse. docs/testing.md lists
//! them.

use super::*;

#[test]
#[should_panic(expected = "Causality violation")]
fn exported_bit_set_before_the_word() {
    exported_slot_comes_back(|span, slot| {
        let (word, bit) = span.exported.place(slot);
        word.set(bit);
        span.words[slot as usize].export(ALICE).unwrap()
    });
}

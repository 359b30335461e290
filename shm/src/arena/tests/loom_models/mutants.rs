//! Known ways to get an arena's words wrong, each of which a model must refuse. docs/testing.md
//! lists them.

use super::*;
use crate::sync::Ordering;

#[test]
#[should_panic(expected = "the next life is its holder's alone")]
fn arena_word_freed_before_its_cursor_is_reset() {
    let give_back: GiveBack = |words, _| {
        let next = words.load().next_life();
        words.word.store(next.0, Ordering::Release);
        let empty = join(next.generation().low32(), 0);
        words.cursor.store(empty, Ordering::Relaxed);
    };
    life_ends_beside_a_bump(give_back, alloc_one);
}

#[test]
#[should_panic(expected = "the next life is its holder's alone")]
fn exclusive_publish_by_plain_store() {
    let alloc_one: AllocOne = |words, life| {
        let (found, next) = split(words.cursor.load(Ordering::Relaxed));
        if found == life.low32() {
            words.cursor.store(join(found, next + 1), Ordering::Release);
        }
    };
    life_ends_beside_a_bump(give_back, alloc_one);
}

//! What the note promises beside the words: the flag is there before the owner it warns of, and a
//! hint may come too early or not at all and costs time only.

use goumem_alloc::{Generation, SessionNumber};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::slot::{SlotState, SlotWord, fence_before_reuse};

const ALICE: SessionNumber = SessionNumber::new(7);
const BOB: SessionNumber = SessionNumber::new(8);

/// A span of one block, which Alice has exported.
struct Span {
    note: PageNote,
    word: SlotWord,
    bytes: UnsafeCell<u64>,
}

impl Span {
    fn new() -> Arc<Self> {
        let word = SlotWord::new(Generation::ZERO);
        word.export(ALICE).unwrap();
        Arc::new(Self {
            note: PageNote(AtomicU64::new(0)),
            word,
            bytes: UnsafeCell::new(0),
        })
    }
}

/// Bob adopts the block while a sweep looks through the pool.
fn adopt_beside_a_look(adopt: fn(&Span)) {
    loom::model(move || {
        let span = Span::new();
        let sweep = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                let looks = span.word.load().owner() != BOB || span.note.holds_adopted();
                assert!(looks, "a sweep of Bob would not look here");
            })
        };
        adopt(&span);
        sweep.join().unwrap();
    });
}

#[test]
fn whoever_sees_an_adopted_block_sees_the_flag_of_its_span() {
    adopt_beside_a_look(|span| {
        span.note.set_holds_adopted();
        span.word.adopt(Generation::ZERO, BOB).unwrap();
    });
}

#[test]
fn block_is_had_once_whether_its_hint_comes_early_late_or_never() {
    for hints in [true, false] {
        loom::model(move || {
            let span = Span::new();
            let agent = {
                let span = Arc::clone(&span);
                thread::spawn(move || {
                    let mut agent = Agent::new(&span);
                    let early = agent.collect(false) + agent.collect(false);
                    (early, agent.seen_frees, agent.is_exported)
                })
            };
            // SAFETY: whether anybody else is there now is what loom checks.
            span.bytes.with_mut(|bytes| unsafe { *bytes += 1 });
            let _ = span.word.free(Generation::ZERO).unwrap();
            if hints {
                span.note.hint_free();
            }
            let (early, seen_frees, is_exported) = agent.join().unwrap();
            let mut agent = Agent {
                span: &span,
                seen_frees,
                is_exported,
            };
            assert_eq!(early + agent.collect(true), 1);
        });
    }
}

/// What `LeasedSpan::collect` does: the exported slot is re-read if the count has changed, or when
/// it looks thoroughly.
struct Agent<'a> {
    span: &'a Span,
    seen_frees: u64,
    is_exported: bool,
}

impl<'a> Agent<'a> {
    fn new(span: &'a Span) -> Self {
        Self {
            span,
            seen_frees: 0,
            is_exported: true,
        }
    }

    /// Returns how many blocks were to be had, and writes to them.
    fn collect(&mut self, thorough: bool) -> u32 {
        let frees = self.span.note.frees();
        if !thorough && frees == self.seen_frees {
            return 0;
        }
        self.seen_frees = frees;
        if !self.is_exported || self.span.word.load().state() != Some(SlotState::Free) {
            return 0;
        }
        self.is_exported = false;
        fence_before_reuse();
        // SAFETY: whether anybody else is there now is what loom checks.
        self.span.bytes.with_mut(|bytes| unsafe { *bytes += 1 });
        1
    }
}

mod mutants {
    use super::*;

    #[test]
    #[should_panic(expected = "a sweep of Bob would not look here")]
    fn adopt_with_the_flag_after_the_exchange() {
        adopt_beside_a_look(|span| {
            span.word.adopt(Generation::ZERO, BOB).unwrap();
            span.note.set_holds_adopted();
        });
    }
}

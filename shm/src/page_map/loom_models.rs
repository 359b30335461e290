//! A grant and its lessee: whoever sees the head entry sees the words of the new life.

use loom::sync::Arc;
use loom::thread;

use super::*;
use goumem_alloc::Generation;

use crate::slot::{SlotState, SlotWord};

const ALICE: SessionNumber = SessionNumber::new(7);

fn generation(n: u64) -> Generation {
    Generation::new(n).unwrap()
}

/// A page whose earlier life has left a word of generation 5, below its floor.
struct Page {
    entry: PageEntryWord,
    word: SlotWord,
}

const FLOOR: u64 = 9;

fn head() -> PageEntry {
    PageEntry::Head {
        class: SizeClass::from_index(35).unwrap(),
        lessee: ALICE,
        epoch: SpanEpoch::new(3).unwrap(),
        pages: PageCount::ONE,
    }
}

/// The daemon grants the page; Alice exports a block of it as soon as it is hers.
fn grant_and_export(grant: fn(&Page)) {
    loom::model(move || {
        let page = Arc::new(Page {
            entry: PageEntryWord(AtomicU64::new(0)),
            word: SlotWord::new(generation(5)),
        });
        let daemon = {
            let page = Arc::clone(&page);
            thread::spawn(move || grant(&page))
        };
        let exported =
            (page.entry.load() == Some(head())).then(|| page.word.export(ALICE).unwrap());
        daemon.join().unwrap();
        if let Some(exported) = exported {
            assert_eq!(exported, generation(FLOOR), "a handle of the new life");
            let word = page.word.load();
            let is_there = word.state() == Some(SlotState::Shared) && word.is_live(exported);
            assert!(is_there, "the block is still there");
        }
    });
}

#[test]
fn whoever_sees_a_grant_sees_the_words_of_the_new_life() {
    grant_and_export(|page| {
        page.word.initialise(generation(FLOOR));
        page.entry.publish(head());
    });
}

mod mutants {
    use super::*;

    #[test]
    #[should_panic(expected = "a handle of the new life")]
    fn words_initialised_after_the_head_commit() {
        grant_and_export(|page| {
            page.entry.publish(head());
            page.word.initialise(generation(FLOOR));
        });
    }
}

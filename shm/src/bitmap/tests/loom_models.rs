//! How other threads feed the agent. A loom cell stands for the bytes of a block.

use goumem_alloc::{Generation, SessionNumber};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::slot::{SlotState, SlotWord};

mod mutants;

const ALICE: SessionNumber = SessionNumber::new(7);

/// A span of two slots.
struct Span {
    remote: RemoteBits,
    exported: ExportedBits,
    words: [SlotWord; 2],
    bytes: [UnsafeCell<u64>; 2],
}

impl Span {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            remote: RemoteBits::new(2),
            exported: ExportedBits::new(2),
            words: [(); 2].map(|()| SlotWord::new(Generation::ZERO)),
            bytes: [(); 2].map(|()| UnsafeCell::new(0)),
        })
    }

    fn write(&self, slot: u32) {
        // SAFETY: whether anybody else is there now is what loom checks.
        self.bytes[slot as usize].with_mut(|bytes| unsafe { *bytes += 1 });
    }

    fn is_free(&self, slot: u32) -> bool {
        self.words[slot as usize].load().state() == Some(SlotState::Free)
    }

    /// What dropping a private block does.
    fn drop_block(&self, slot: u32) {
        let (word, bit) = self.remote.place(slot);
        word.set(bit);
    }

    /// What exporting a private block does.
    fn export_block(&self, slot: u32) -> Generation {
        let generation = self.words[slot as usize].export(ALICE).unwrap();
        let (word, bit) = self.exported.place(slot);
        word.set(bit);
        generation
    }

    /// Collects everything, and writes to every block that is to be had.
    fn collect_and_write(&self, free: &mut FreeBits) -> u32 {
        self.remote.collect(free);
        self.exported.collect(free, |slot| self.is_free(slot));
        let mut n = 0;
        while let Some(slot) = free.take() {
            self.write(slot);
            n += 1;
        }
        n
    }
}

#[test]
fn two_threads_drop_and_the_agent_has_each_slot_once_and_after_them() {
    loom::model(|| {
        let span = Span::new();
        let droppers = [0, 1].map(|slot| {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                span.write(slot);
                span.drop_block(slot);
            })
        });
        let mut free = FreeBits::none(2);
        let early = span.collect_and_write(&mut free);
        for dropper in droppers {
            dropper.join().unwrap();
        }
        assert_eq!(early + span.collect_and_write(&mut free), 2);
    });
}

#[test]
fn exported_slot_comes_back_once_it_is_freed_and_never_before() {
    exported_slot_comes_back(Span::export_block);
}

fn exported_slot_comes_back(export: fn(&Span, u32) -> Generation) {
    loom::model(move || {
        let span = Span::new();
        let exporter = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                span.write(0);
                let generation = export(&span, 0);
                // Whoever got the handle reads the block and frees it.
                span.write(0);
                let _ = span.words[0].free(generation).unwrap();
            })
        };
        let mut free = FreeBits::none(2);
        let early = span.collect_and_write(&mut free);
        exporter.join().unwrap();
        assert_eq!(early + span.collect_and_write(&mut free), 1);
    });
}

#[test]
fn slot_freed_by_another_process_before_its_bit_was_set_is_found_later() {
    loom::model(|| {
        let span = Span::new();
        let exporter = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                span.write(0);
                span.export_block(0);
            })
        };
        let freer = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                let word = &span.words[0];
                if word.load().is_live(Generation::ZERO) {
                    span.write(0);
                    let _ = word.free(Generation::ZERO).unwrap();
                }
            })
        };
        let mut free = FreeBits::none(2);
        let early = span.collect_and_write(&mut free);
        exporter.join().unwrap();
        freer.join().unwrap();
        let freed = span.is_free(0);
        let late = span.collect_and_write(&mut free);
        assert_eq!(early + late, u32::from(freed));
    });
}

#[test]
fn one_slot_dropped_while_another_is_exported_leaves_both_where_they_belong() {
    loom::model(|| {
        let span = Span::new();
        let dropper = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                span.write(0);
                span.drop_block(0);
            })
        };
        let exporter = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                span.write(1);
                span.export_block(1);
            })
        };
        let mut free = FreeBits::none(2);
        let early = span.collect_and_write(&mut free);
        dropper.join().unwrap();
        exporter.join().unwrap();
        assert_eq!(early + span.collect_and_write(&mut free), 1);
        assert_eq!(span.exported.count(), 1);
    });
}

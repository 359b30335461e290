//! What an agent hands out and takes back, and what several processes may do to one pool.

use std::collections::BTreeSet;
use std::thread;

use goumem_alloc::{Generation, Offset, PAGE_BYTES, Placement, TypeTag};

use super::*;
use crate::shape::Shape;
use crate::slot::Freed;
use crate::test_daemon::{ALICE, BOB, CAROL, TestDaemon};

mod processes;
mod taken;

const UNTYPED: TypeTag = TypeTag::UNTYPED;

fn class(size_bytes: u64) -> SizeClass {
    match SizeClass::for_layout(size_bytes, 1).unwrap() {
        Placement::Class(class) => class,
        Placement::Large { .. } => panic!("{size_bytes} bytes are large"),
    }
}

fn bytes(length_bytes: u64) -> Shape {
    Shape {
        type_tag: UNTYPED,
        length_bytes,
    }
}

fn drain(span: &mut LeasedSpan) -> Vec<RawBlock> {
    std::iter::from_fn(|| span.alloc()).collect()
}

fn slot_of(span: &LeasedSpan, block: &RawBlock) -> u32 {
    let SpanLease {
        first_page,
        pages,
        class,
        ..
    } = span.lease();
    let start = block.memory().geometry().page_offset(first_page).get();
    class.slot_of(block.offset().get() - start, pages).unwrap()
}

#[test]
fn span_hands_out_each_slot_once_aligned_and_inside_it() {
    for size in [
        16,
        48,
        64,
        100,
        1000,
        1024,
        5000,
        16 << 10,
        100_000,
        1 << 20,
    ] {
        let daemon = TestDaemon::new(64);
        let memory = daemon.view();
        let class = class(size);
        let mut span = daemon.lease(&memory, ALICE, class);
        let blocks = drain(&mut span);
        assert_eq!(blocks.len(), span.slots() as usize);
        let lease = span.lease();
        let start = memory.geometry().page_offset(lease.first_page).get();
        let mut end_of_last = start;
        let mut offsets: Vec<u64> = blocks.iter().map(|b| b.offset().get()).collect();
        offsets.sort_unstable();
        for offset in offsets {
            assert!(offset >= end_of_last && offset.is_multiple_of(16));
            end_of_last = offset + class.usable_bytes();
        }
        assert!(end_of_last <= start + lease.pages.bytes());
    }
}

#[test]
fn private_blocks_touch_no_shared_word() {
    let daemon = TestDaemon::new(8);
    let mut span = daemon.lease(&daemon.view(), ALICE, class(64));
    let blocks = drain(&mut span);
    drop(blocks);
    span.collect(true);
    let lease = span.lease();
    let fresh = |word: &crate::slot::SlotWord| word.load().raw() == 0;
    assert!(
        daemon
            .words(lease.first_page, lease.class, lease.pages)
            .words()
            .all(fresh)
    );
    assert_eq!(daemon.memory().note(lease.first_page).frees(), 0);
    assert!(span.is_empty());
}

#[test]
fn large_span_is_one_block_at_its_colour() {
    for (class, colour) in [(SizeClass::LARGE, 0), (SizeClass::LARGE_COLOURED, 128)] {
        let daemon = TestDaemon::new(32);
        let memory = daemon.view();
        let lease = daemon.grant(ALICE, class, PageCount::new(20)).unwrap();
        let mut span = LeasedSpan::attach(&memory, lease, ALICE, false).unwrap();
        let block = span.alloc().unwrap();
        assert!(span.alloc().is_none());
        let start = memory.geometry().page_offset(lease.first_page).get();
        assert_eq!(block.offset().get(), start + colour);
        assert_eq!(block.usable_bytes(), 20 * PAGE_BYTES - colour);
        let handle = block
            .export(ALICE, bytes(20 * PAGE_BYTES - colour))
            .unwrap();
        assert_eq!(memory.resolve(handle).unwrap().first_page, lease.first_page);
    }
}

#[test]
fn exported_block_comes_back_after_its_free_and_not_before() {
    let daemon = TestDaemon::new(8);
    let (memory, bob) = (daemon.view(), daemon.view());
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let block = span.alloc().unwrap();
    let offset = block.offset();
    let handle = block.export(ALICE, bytes(1000)).unwrap();
    let others = drain(&mut span);
    assert!(others.iter().all(|other| other.offset() != offset));
    span.collect(true);
    assert!(span.alloc().is_none());
    assert_eq!(bob.free(handle), Ok(Freed::Free));
    span.collect(false);
    assert_eq!(span.alloc().unwrap().offset(), offset);
}

#[test]
fn lost_hint_costs_a_thorough_look_and_nothing_else() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    let _others = drain(&mut span);
    let at = memory.locate(handle).unwrap();
    let _ = memory.slot(&at).free(handle.generation()).unwrap();
    span.collect(false);
    assert!(span.alloc().is_none());
    span.collect(true);
    assert!(span.alloc().is_some());
}

#[test]
fn freed_slot_is_reclaimed_alone_and_a_living_one_is_not() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let [a, b] = [(); 2].map(|()| span.alloc().unwrap());
    let [slot_a, slot_b] = [&a, &b].map(|block| slot_of(&span, block));
    let a = a.export(ALICE, bytes(8)).unwrap();
    let b = b.export(ALICE, bytes(8)).unwrap();
    let before = span.free_count();
    let _ = memory.free(a).unwrap();
    assert!(!span.reclaim(slot_b));
    assert!(span.reclaim(slot_a));
    assert!(!span.reclaim(slot_a));
    assert!(!span.reclaim(u32::MAX));
    assert_eq!(span.free_count(), before + 1);
    span.collect(true);
    assert_eq!(span.free_count(), before + 1);
    let _ = memory.free(b).unwrap();
}

#[test]
fn slot_that_was_never_exported_is_not_reclaimed_from_under_its_holder() {
    let daemon = TestDaemon::new(8);
    let mut span = daemon.lease(&daemon.view(), ALICE, class(1024));
    let block = span.alloc().unwrap();
    assert!(!span.reclaim(slot_of(&span, &block)));
}

#[test]
fn block_dropped_on_another_thread_comes_back_to_the_agent() {
    let daemon = TestDaemon::new(8);
    let mut span = daemon.lease(&daemon.view(), ALICE, class(48));
    let blocks = drain(&mut span);
    let n = blocks.len();
    thread::scope(|threads| {
        let mut blocks = blocks.into_iter();
        for _ in 0..4 {
            let share: Vec<RawBlock> = blocks.by_ref().take(n.div_ceil(4)).collect();
            threads.spawn(move || drop(share));
        }
        // The agent goes on meanwhile.
        while span.free_count() as usize + n / 2 < n {
            span.collect(false);
        }
    });
    span.collect(false);
    assert!(span.is_empty());
    let offsets: BTreeSet<u64> = drain(&mut span).iter().map(|b| b.offset().get()).collect();
    assert_eq!(offsets.len(), n);
}

#[test]
fn agent_may_go_while_other_threads_export_its_last_blocks() {
    for _ in 0..200 {
        let daemon = TestDaemon::new(8);
        let mut span = daemon.lease(&daemon.view(), ALICE, class(64 << 10));
        let blocks = drain(&mut span);
        let handles: Vec<_> = thread::scope(|threads| {
            let exporters: Vec<_> = blocks
                .into_iter()
                .map(|block| threads.spawn(move || block.export(ALICE, bytes(1)).unwrap()))
                .collect();
            let mut agent = Some(span);
            while let Some(span) = agent.take() {
                agent = span.abandon().err();
            }
            exporters.into_iter().map(|e| e.join().unwrap()).collect()
        });
        for handle in handles {
            assert_eq!(daemon.memory().free(handle), Ok(Freed::Free));
        }
    }
}

#[test]
fn span_is_detached_when_every_block_is_free() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let private = span.alloc().unwrap();
    let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    let span = span.detach().unwrap_err();
    drop(private);
    let span = span.detach().unwrap_err();
    assert_eq!(span.live_count(), 1);
    let _ = memory.free(handle).unwrap();
    let lease = span.detach().unwrap();
    assert_eq!(daemon.take_back(lease), Ok(()));
}

#[test]
fn span_is_abandoned_with_exported_blocks_and_not_with_private_ones() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let private = span.alloc().unwrap();
    let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    let span = span.abandon().unwrap_err();
    drop(private);
    let lease = span.abandon().unwrap();
    assert_eq!(daemon.take_back(lease), Err(1));
    assert!(memory.resolve(handle).is_ok());
}

#[test]
fn blocks_outlive_their_agent_and_keep_the_memory_mapped() {
    let daemon = TestDaemon::new(8);
    let mut block = {
        let memory = daemon.view();
        daemon.lease(&memory, ALICE, class(4096)).alloc().unwrap()
    };
    block.fill_zero(4096);
    let handle = block.export(ALICE, bytes(4096)).unwrap();
    let mut copy = [1; 4096];
    daemon.memory().read(handle, 0, &mut copy).unwrap();
    assert_eq!(copy, [0; 4096]);
}

#[test]
fn process_has_one_agent_for_a_span() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let lease = span.lease();
    let again = |survivors| LeasedSpan::attach(&memory, lease, ALICE, survivors).map(drop);
    assert!(matches!(again(false), Err(AccessError::Corrupt { .. })));
    assert!(matches!(again(true), Err(AccessError::Corrupt { .. })));
    let block = span.alloc().unwrap();
    drop(span);
    assert!(again(true).is_err(), "a private block of it lives");
    drop(block);
}

#[test]
fn lease_worked_on_before_is_read_even_if_called_new() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let exported = span.alloc().unwrap();
    let offset = exported.offset();
    let handle = exported.export(ALICE, bytes(8)).unwrap();
    let lease = span.abandon().unwrap();
    let mut span = LeasedSpan::attach(&memory, lease, ALICE, false).unwrap();
    assert_eq!(span.live_count(), 1);
    assert!(
        drain(&mut span)
            .iter()
            .all(|block| block.offset() != offset)
    );
    let _ = memory.free(handle).unwrap();
    span.collect(false);
    assert!(span.is_empty());
}

#[test]
fn lease_that_the_page_map_does_not_show_is_refused() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let lease = daemon.grant(ALICE, class(1024), PageCount::ONE).unwrap();
    let attach = |lease, session| LeasedSpan::attach(&memory, lease, session, true).map(drop);
    let elsewhere = |first_page| SpanLease {
        first_page: PageIndex::new(first_page),
        ..lease
    };
    for (lease, session) in [
        (lease, BOB),
        (lease, SessionNumber::NOBODY),
        (elsewhere(1), ALICE),
        (elsewhere(8), ALICE),
        (elsewhere(u32::MAX), ALICE),
        (
            SpanLease {
                epoch: lease.epoch.next(),
                ..lease
            },
            ALICE,
        ),
        (
            SpanLease {
                class: class(2048),
                ..lease
            },
            ALICE,
        ),
        (
            SpanLease {
                pages: PageCount::new(2),
                ..lease
            },
            ALICE,
        ),
    ] {
        let refused = attach(lease, session);
        assert!(
            matches!(refused, Err(AccessError::Corrupt { .. })),
            "{lease:?}"
        );
    }
    let read_only = daemon.read_only_view();
    let refused = LeasedSpan::attach(&read_only, lease, ALICE, false).map(drop);
    assert!(matches!(refused, Err(AccessError::ReadOnly { .. })));
    assert_eq!(attach(lease, ALICE), Ok(()));
}

#[test]
fn abandoned_span_belongs_to_nobody_until_it_is_leased_again() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    assert!(daemon.keep(handle, ALICE));
    std::mem::forget(span); // killed
    let abandoned = daemon.sweep(ALICE);
    let [first] = abandoned[..] else {
        panic!("{abandoned:?}")
    };
    let bob = daemon.view();
    let PageEntry::Head {
        class,
        epoch,
        pages,
        ..
    } = bob.entry(first).unwrap()
    else {
        panic!()
    };
    let ownerless = SpanLease {
        first_page: first,
        pages,
        class,
        epoch,
    };
    assert!(LeasedSpan::attach(&bob, ownerless, SessionNumber::NOBODY, true).is_err());
    let lease = daemon.grant_abandoned(first, BOB);
    let span = LeasedSpan::attach(&bob, lease, BOB, true).unwrap();
    assert_eq!(span.live_count(), 1);
    assert!(bob.resolve(handle).is_ok());
}

#[test]
fn shape_that_does_not_fit_the_block_is_refused_at_export() {
    let daemon = TestDaemon::new(8);
    let mut span = daemon.lease(&daemon.view(), ALICE, class(1024));
    let mut block = span.alloc().unwrap();
    for length in [0, 1025, u64::MAX] {
        let (same, error) = block.export(ALICE, bytes(length)).unwrap_err();
        let expected = AccessError::WrongLength {
            expected_bytes: length,
            found_bytes: 1024,
        };
        assert_eq!(error, expected);
        block = same;
    }
    assert!(block.export(ALICE, bytes(1024)).is_ok());
}

#[test]
fn block_whose_word_was_overwritten_is_given_back_by_export() {
    let daemon = TestDaemon::new(8);
    let mut span = daemon.lease(&daemon.view(), ALICE, class(1024));
    let block = span.alloc().unwrap();
    let at = daemon.memory().block_at(block.offset()).unwrap();
    let word = daemon.memory().slot(&at);
    let _ = word.export(BOB).unwrap();
    let (block, error) = block.export(ALICE, bytes(8)).unwrap_err();
    assert!(matches!(error, AccessError::Corrupt { .. }));
    word.initialise(Generation::MAX);
    let (block, error) = block.export(ALICE, bytes(8)).unwrap_err();
    assert!(matches!(error, AccessError::GenerationsSpent { .. }));
    drop(block);
    span.collect(true);
    assert!(span.is_empty());
}

#[test]
fn block_exported_for_another_session_is_found_by_its_sweep() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let handle = span.alloc().unwrap().export(BOB, bytes(8)).unwrap();
    assert!(memory.note(span.lease().first_page).holds_adopted());
    assert!(daemon.sweep(BOB).is_empty());
    assert_eq!(memory.resolve(handle), Err(AccessError::Stale { handle }));
    span.collect(false);
    assert!(span.is_empty());
}

#[test]
fn agents_and_blocks_may_move_between_threads_and_be_looked_at_by_several() {
    fn moves<T: Send + Sync + 'static>() {}
    moves::<LeasedSpan>();
    moves::<RawBlock>();
    moves::<TakenBlocks>();
    moves::<crate::OwnedBlock<u64>>();
    moves::<crate::OwnedBlock<[f32]>>();
    moves::<PoolMemory>();
    moves::<crate::ArenaMemory>();
}

#[test]
fn block_is_sixteen_bytes() {
    assert_eq!(size_of::<RawBlock>(), 16);
    assert_eq!(size_of::<Option<RawBlock>>(), 16);
}

#[test]
fn spans_of_every_class_keep_their_words_apart() {
    // A block of one class, freed; then the pages are granted as another class. No word of the
    // new span may answer to the old handle.
    let daemon = TestDaemon::new(64);
    let memory = daemon.view();
    let mut graveyard: Vec<goumem_alloc::Handle> = Vec::new();
    for class in SizeClass::all() {
        let mut span = daemon.lease(&memory, ALICE, class);
        let exported: Vec<_> = drain(&mut span)
            .into_iter()
            .take(70)
            .map(|block| block.export(ALICE, bytes(16)).unwrap())
            .collect();
        for &old in &graveyard {
            assert!(memory.free(old).is_err(), "{old} of another life");
        }
        for &handle in &exported {
            assert!(memory.resolve(handle).is_ok());
            assert_eq!(memory.free(handle), Ok(Freed::Free));
        }
        graveyard.extend(exported.iter().step_by(13));
        assert_eq!(daemon.take_back(span.detach().unwrap()), Ok(()));
    }
    let nowhere = Offset::new(memory.geometry().payload_range().start);
    assert!(memory.block_at(nowhere).is_none());
}

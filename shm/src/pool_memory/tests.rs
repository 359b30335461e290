//! From a handle to a block and its bytes: what is refused, and with which error; what hostile
//! words may do; and what a forked child may not.

use goumem_alloc::{MAX_RECORDS, Placement, SessionNumber, TypeTag};

use super::*;
use crate::LeasedSpan;
use crate::os::Access;
use crate::slot::{Freed, SlotState, Unpinned};
use crate::test_daemon::{ALICE, BOB, TestDaemon, header, segment};

mod forked;
mod hostile;
mod racing;

fn class(size_bytes: u64) -> SizeClass {
    match SizeClass::for_layout(size_bytes, 1).unwrap() {
        Placement::Class(class) => class,
        Placement::Large { .. } => panic!("{size_bytes} bytes are large"),
    }
}

fn shape_of(type_tag: TypeTag, length_bytes: u64) -> Shape {
    Shape {
        type_tag,
        length_bytes,
    }
}

fn bytes(length_bytes: u64) -> Shape {
    shape_of(TypeTag::UNTYPED, length_bytes)
}

/// A pool of which ALICE leases one span, with a block of `shape` exported from it.
fn pool_with(shape: Shape) -> (TestDaemon, LeasedSpan, Handle) {
    let daemon = TestDaemon::new(16);
    let mut span = daemon.lease(&daemon.view(), ALICE, class(shape.length_bytes));
    let handle = span.alloc().unwrap().export(ALICE, shape).unwrap();
    (daemon, span, handle)
}

#[test]
fn handle_names_the_same_block_in_every_process() {
    let (daemon, span, handle) = pool_with(bytes(700));
    for memory in [daemon.view(), daemon.read_only_view()] {
        let at = memory.resolve(handle).unwrap();
        assert_eq!(at.first_page, span.lease().first_page);
        assert_eq!((at.lessee, at.offset), (ALICE, handle.offset()));
        assert_eq!(at.usable_bytes(), class(700).usable_bytes());
        assert_eq!(memory.checked_shape(&at), Ok(bytes(700)));
    }
}

#[test]
fn every_block_of_every_class_is_found_by_its_start_and_by_no_other_offset() {
    for class in SizeClass::all() {
        let daemon = TestDaemon::new(64);
        let memory = daemon.memory();
        let pages = PageCount::new(class.span_pages().get());
        let lease = daemon.grant(ALICE, class, pages).unwrap();
        let start = memory.geometry().page_offset(lease.first_page).get();
        for slot in (0..class.slots(pages)).step_by(7) {
            let offset = start + class.offset_of_slot(slot);
            let at = memory.block_at(Offset::new(offset)).unwrap();
            assert_eq!((at.slot, at.class, at.pages), (slot, class, pages));
            assert!(memory.block_at(Offset::new(offset + 8)).is_none());
        }
        if !class.is_large() {
            let past_the_last = start + class.offset_of_slot(class.slots(pages));
            let at = memory.block_at(Offset::new(past_the_last));
            assert!(at.is_none(), "{class:?}: {at:?}");
        }
    }
}

#[test]
fn handle_of_another_pool_or_kind_is_refused_as_such() {
    let (daemon, _span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    let (generation, offset) = (handle.generation(), handle.offset());
    let other = PoolId::new(78).unwrap();
    let foreign = Handle::new(other, generation, offset, HandleKind::Block);
    let wrong_pool = AccessError::WrongPool {
        handle: foreign,
        expected: memory.pool(),
    };
    assert_eq!(memory.resolve(foreign), Err(wrong_pool.clone()));
    assert_eq!(memory.free(foreign), Err(wrong_pool));
    for kind in [HandleKind::Arena, HandleKind::ArenaAllocation] {
        let handle = Handle::new(memory.pool(), generation, offset, kind);
        let wrong_kind = AccessError::WrongKind {
            handle,
            expected: "block",
        };
        assert_eq!(memory.resolve(handle), Err(wrong_kind.clone()));
        assert_eq!(memory.read(handle, 0, &mut [0]), Err(wrong_kind));
    }
    assert!(memory.resolve(handle).is_ok());
}

#[test]
fn offsets_outside_the_spans_are_stale() {
    let (daemon, _span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    let payload = memory.geometry().payload_range();
    for offset in [
        0,
        16,
        payload.start - 16,
        handle.offset().get() + 16,
        payload.end - (1 << 16),
        payload.end,
        (1 << 52) - 16,
    ] {
        let handle = memory.handle(handle.generation(), Offset::new(offset));
        assert_eq!(memory.resolve(handle), Err(AccessError::Stale { handle }));
        assert_eq!(memory.free(handle), Err(AccessError::Stale { handle }));
    }
}

#[test]
fn private_block_is_not_named_by_a_guessed_handle() {
    let (daemon, mut span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    let private = span.alloc().unwrap();
    let guessed = memory.handle(handle.generation(), private.offset());
    assert_eq!(
        memory.free(guessed),
        Err(AccessError::Stale { handle: guessed })
    );
    assert!(memory.resolve(guessed).is_err());
    assert!(memory.write(guessed, 0, &[1]).is_err());
}

#[test]
fn bytes_written_are_the_bytes_read() {
    let (daemon, _span, handle) = pool_with(bytes(700));
    let [alice, bob] = [daemon.view(), daemon.view()];
    let text: Vec<u8> = (0..200).collect();
    alice.write(handle, 500, &text).unwrap();
    let mut copy = vec![0; 200];
    bob.read(handle, 500, &mut copy).unwrap();
    assert_eq!(copy, text);
    let value: u32 = bob.read_value(handle, 500).unwrap();
    assert_eq!(value, u32::from_ne_bytes([0, 1, 2, 3]));
    assert_eq!(bob.read(handle, 700, &mut []), Ok(()));
}

#[test]
fn range_past_the_length_is_refused_though_the_slot_is_longer() {
    let (daemon, _span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    for (offset_bytes, len) in [(0, 701), (700, 1), (699, 2), (u64::MAX, 1), (1 << 40, 0)] {
        let refused = AccessError::OutOfRange {
            offset_bytes,
            length_bytes: len as u64,
            limit_bytes: 700,
        };
        let mut into = vec![0; len];
        let read = memory.read(handle, offset_bytes, &mut into);
        assert_eq!(read, Err(refused.clone()));
        assert_eq!(memory.write(handle, offset_bytes, &into), Err(refused));
    }
}

#[test]
fn stale_handle_reads_and_writes_nothing() {
    let (daemon, mut span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    memory.write(handle, 0, b"before").unwrap();
    assert_eq!(memory.free(handle), Ok(Freed::Free));
    assert_eq!(memory.free(handle), Err(AccessError::DoubleFree { handle }));
    let stale = Err(AccessError::Stale { handle });
    let mut copy = *b"------";
    assert_eq!(memory.read(handle, 0, &mut copy), stale);
    assert_eq!(memory.write(handle, 0, b"after!"), stale);
    assert_eq!(&copy, b"------");
    span.collect(false);
    let again = span.alloc().unwrap().export(ALICE, bytes(700)).unwrap();
    assert_eq!(again.offset(), handle.offset());
    assert_eq!(memory.read(handle, 0, &mut copy), stale);
    assert_eq!(memory.free(handle), Err(AccessError::Stale { handle }));
    memory.read(again, 0, &mut copy).unwrap();
    assert_eq!(&copy, b"before");
}

#[test]
fn place_found_before_a_free_reads_as_stale_after_it() {
    let (daemon, mut span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    let at = memory.resolve(handle).unwrap();
    let _ = memory.free(handle).unwrap();
    span.collect(false);
    // The next life is shorter: its shape must not be taken for this one's.
    let next = span.alloc().unwrap().export(ALICE, bytes(4)).unwrap();
    let mut copy = [0; 700];
    let read = memory.read_resolved(&at, handle, 0, &mut copy);
    assert_eq!(read, Err(AccessError::Stale { handle }));
    let read = memory.read_resolved(&at, handle, 0, &mut copy[..4]);
    assert_eq!(read, Err(AccessError::Stale { handle }));
    assert!(memory.read(next, 0, &mut copy[..4]).is_ok());
}

#[test]
fn handle_of_an_earlier_life_of_the_page_is_stale_whatever_the_class_is_now() {
    let (daemon, span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    let at = memory.resolve(handle).unwrap();
    let _ = memory.free(handle).unwrap();
    daemon.take_back(span.detach().unwrap()).unwrap();
    let stale = Err(AccessError::Stale { handle });
    assert_eq!(memory.resolve(handle), stale.clone().map(|()| at));
    for size in [700, 16, 4096] {
        let mut span = daemon.lease(&memory, BOB, class(size));
        let exported: Vec<Handle> = std::iter::from_fn(|| span.alloc())
            .map(|block| block.export(BOB, bytes(size)).unwrap())
            .collect();
        assert_eq!(memory.resolve(handle), stale.clone().map(|()| at));
        assert!(memory.free(handle).is_err());
        let mut copy = [0; 4];
        assert_eq!(memory.read_resolved(&at, handle, 0, &mut copy), stale);
        for handle in exported {
            let _ = memory.free(handle).unwrap();
        }
        daemon.take_back(span.detach().unwrap()).unwrap();
    }
}

#[test]
fn pinned_bytes_are_read_after_the_free_and_left_alone_until_the_last_unpin() {
    let (daemon, mut span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    memory.write(handle, 0, b"pinned").unwrap();
    let at = memory.resolve(handle).unwrap();
    assert!(daemon.pin(handle));
    assert_eq!(memory.free(handle), Ok(Freed::Condemned));
    let mut copy = [0; 6];
    let stale = Err(AccessError::Stale { handle });
    assert_eq!(memory.read(handle, 0, &mut copy), stale);
    assert_eq!(memory.read_pinned(&at, 0, &mut copy), Ok(()));
    assert_eq!(&copy, b"pinned");
    assert!(matches!(
        memory.read_pinned(&at, 695, &mut copy),
        Err(AccessError::OutOfRange { .. })
    ));
    span.collect(true);
    let others: Vec<_> = std::iter::from_fn(|| span.alloc()).collect();
    assert!(others.iter().all(|block| block.offset() != handle.offset()));
    assert_eq!(daemon.unpin(handle), Unpinned::Freed);
    span.collect(false);
    assert_eq!(span.alloc().unwrap().offset(), handle.offset());
}

#[test]
fn adopted_block_lives_on_after_the_sweep_of_its_first_owner() {
    let (daemon, span, handle) = pool_with(bytes(700));
    let bob = daemon.view();
    assert_eq!(bob.adopt(handle, BOB), Ok(false));
    assert!(bob.note(span.lease().first_page).holds_adopted());
    std::mem::forget(span);
    assert_eq!(daemon.sweep(ALICE).len(), 1);
    assert!(bob.resolve(handle).is_ok());
    daemon.sweep(BOB);
    let stale = AccessError::Stale { handle };
    assert_eq!(bob.resolve(handle), Err(stale.clone()));
    assert_eq!(bob.adopt(handle, BOB), Err(stale));
}

#[test]
fn adopting_a_kept_block_says_that_a_record_stands() {
    let (daemon, _span, handle) = pool_with(bytes(700));
    assert!(daemon.keep(handle, ALICE));
    assert_eq!(daemon.view().adopt(handle, BOB), Ok(true));
}

#[test]
fn read_only_view_reads_and_every_write_is_a_typed_error() {
    let (daemon, _span, handle) = pool_with(bytes(8));
    daemon.view().write(handle, 0, b"readable").unwrap();
    let memory = daemon.read_only_view();
    let mut copy = [0; 8];
    memory.read(handle, 0, &mut copy).unwrap();
    assert_eq!(&copy, b"readable");
    let pool = memory.pool();
    let refused = AccessError::ReadOnly { pool };
    assert_eq!(memory.free(handle), Err(refused.clone()));
    assert_eq!(memory.adopt(handle, BOB), Err(refused.clone()));
    assert_eq!(memory.write(handle, 0, b"x"), Err(refused.clone()));
    let atomics = memory.atomics::<sync_types::AtomicU64>(handle);
    assert_eq!(atomics.map(drop), Err(refused));
}

/// The caller's own atomics, which are the same types as the crate's.
mod sync_types {
    pub(super) use crate::sync::{AtomicU32, AtomicU64};
}

#[test]
fn atomics_are_seen_by_every_process_and_only_as_what_the_block_holds() {
    use crate::ShmType;
    use crate::sync::Ordering;
    use sync_types::{AtomicU32, AtomicU64};

    let (daemon, _span, handle) = pool_with(shape_of(u64::TYPE_TAG, 16));
    let [alice, bob] = [daemon.view(), daemon.view()];
    let mine: &[AtomicU64; 2] = alice.atomics(handle).unwrap();
    mine[1].store(42, Ordering::Relaxed);
    let theirs: &[AtomicU64; 2] = bob.atomics(handle).unwrap();
    assert_eq!(theirs[1].load(Ordering::Relaxed), 42);
    let wrong = AccessError::WrongType {
        expected: u32::TYPE_TAG,
        found: u64::TYPE_TAG,
    };
    let refused = bob.atomics::<[AtomicU32; 4]>(handle).map(drop);
    assert_eq!(refused, Err(wrong));
    let wrong = AccessError::WrongLength {
        expected_bytes: 24,
        found_bytes: 16,
    };
    let refused = bob.atomics::<[AtomicU64; 3]>(handle).map(drop);
    assert_eq!(refused, Err(wrong));
    let _ = bob.free(handle).unwrap();
    let refused = bob.atomics::<[AtomicU64; 2]>(handle).map(drop);
    assert_eq!(refused, Err(AccessError::Stale { handle }));
}

#[test]
fn untyped_block_is_seen_as_any_atomics_of_its_length() {
    let (daemon, _span, handle) = pool_with(bytes(16));
    let memory = daemon.view();
    assert!(memory.atomics::<[sync_types::AtomicU64; 2]>(handle).is_ok());
    assert!(memory.atomics::<[sync_types::AtomicU32; 4]>(handle).is_ok());
}

#[test]
fn shape_longer_than_its_slot_or_empty_is_corrupt_and_not_believed() {
    let (daemon, _span, handle) = pool_with(bytes(700));
    let memory = daemon.view();
    let at = memory.resolve(handle).unwrap();
    for length in [0, at.usable_bytes() + 1, crate::shape::MAX_LENGTH_BYTES] {
        memory.shape(&at).store(bytes(length));
        let read = memory.read(handle, 0, &mut [0]);
        assert!(matches!(
            read,
            Err(AccessError::Corrupt {
                what: "shape word",
                ..
            })
        ));
        assert!(memory.write(handle, 0, &[0]).is_err());
    }
    assert_eq!(memory.free(handle), Ok(Freed::Free));
}

#[test]
fn pages_and_records_outside_the_pool_do_not_exist() {
    let daemon = TestDaemon::new(16);
    let memory = daemon.memory();
    for page in [16, 17, u32::MAX] {
        let page = PageIndex::new(page);
        assert!(memory.entry(page).is_none());
        assert!(memory.page_record(page).is_none());
        assert!(memory.slot_run(page, class(64), PageCount::ONE).is_none());
    }
    let first = PageIndex::new(0);
    assert!(memory.entry(first).is_some());
    for (class, pages) in [
        (class(64), 0),
        (class(64), 17),
        (class(1 << 20), 1),
        (SizeClass::LARGE, 0),
        (SizeClass::LARGE, u32::MAX),
    ] {
        let run = memory.slot_run(first, class, PageCount::new(pages));
        assert!(run.is_none(), "{class:?} of {pages} pages");
    }
    let long = TestDaemon::new(70);
    let run = |pages| {
        long.memory()
            .slot_run(first, class(64), PageCount::new(pages))
    };
    assert!(run(64).is_some());
    assert!(run(65).is_none(), "longer than any span that is cut");
    assert!(memory.record(MAX_RECORDS - 1).is_some());
    assert!(memory.record(MAX_RECORDS).is_none());
}

#[test]
fn slot_run_has_the_word_of_each_slot_where_the_place_has_it() {
    for class in SizeClass::all() {
        let daemon = TestDaemon::new(80);
        let memory = daemon.memory();
        // Not at page 0, whose run is not turned.
        let _pad = daemon
            .grant(ALICE, SizeClass::LARGE, PageCount::new(13))
            .unwrap();
        let lease = daemon.grant(ALICE, class, class.span_pages()).unwrap();
        let run = memory
            .slot_run(lease.first_page, class, lease.pages)
            .unwrap();
        let slots = class.slots(lease.pages);
        assert_eq!((run.len(), run.is_empty()), (slots as usize, false));
        let start = memory.geometry().page_offset(lease.first_page).get();
        for slot in (0..slots).step_by(5) {
            let offset = Offset::new(start + class.offset_of_slot(slot));
            let at = memory.block_at(offset).unwrap();
            assert!(std::ptr::eq(memory.slot(&at), run.word(slot)));
        }
    }
}

#[test]
fn segments_that_do_not_belong_together_are_refused() {
    let geometry = pool_geometry(2).unwrap();
    let control_plan = MapPlan::whole(geometry.control_bytes());
    let whole = |len_bytes, plan| {
        let segment = segment(len_bytes);
        Mapping::map(&segment, Access::ReadWrite, plan).unwrap()
    };
    let control = || whole(geometry.control_bytes(), control_plan.clone());
    let data = || whole(geometry.data_bytes(), data_plan(&geometry));
    let blocks = header(PoolKind::Blocks, 2, 0);
    let open = |control: Mapping, data: Mapping| PoolMemory::open(control, data).map(drop);

    let refused = open(control(), data());
    assert_eq!(refused, Err(SegmentRefusal::NotReady { magic: 0 }));

    let with = |for_control: &Header, for_data: &Header| {
        let (control, data) = (control(), data());
        write_header(&control, SegmentRole::Control, for_control).unwrap();
        write_header(&data, SegmentRole::Data, for_data).unwrap();
        open(control, data)
    };
    assert_eq!(with(&blocks, &blocks), Ok(()));
    let other_pool = Header {
        pool_id: PoolId::new(5).unwrap(),
        ..blocks.clone()
    };
    let arenas = Header {
        kind: PoolKind::Arenas,
        ..blocks.clone()
    };
    let corrupt = |refused| matches!(refused, Err(SegmentRefusal::Corrupt { .. }));
    assert!(corrupt(with(&blocks, &other_pool)));
    assert!(corrupt(with(&blocks, &arenas)));
    assert!(corrupt(with(&arenas, &arenas)));
    for units in [0, u32::MAX] {
        let header = Header {
            units,
            ..blocks.clone()
        };
        assert!(corrupt(with(&header, &blocks)));
    }
    let longer = Header {
        units: 40,
        ..blocks.clone()
    };
    let refused = with(&longer, &blocks);
    assert!(matches!(refused, Err(SegmentRefusal::Truncated { .. })));
    let refused = PoolMemory::open(whole(4096, MapPlan::whole(4096)), data()).map(drop);
    assert_eq!(refused, Err(SegmentRefusal::NotReady { magic: 0 }));
}

#[test]
fn swept_pool_is_as_good_as_new() {
    let (daemon, span, handle) = pool_with(bytes(700));
    std::mem::forget(span);
    assert!(daemon.sweep(ALICE).is_empty());
    assert_eq!(daemon.spans(), []);
    let at = daemon.memory().block_at(handle.offset());
    assert_eq!(at, None);
    let bob = daemon.view();
    let mut span = daemon.lease(&bob, BOB, class(700));
    let again = span.alloc().unwrap().export(BOB, bytes(700)).unwrap();
    assert_eq!(again.offset(), handle.offset());
    assert!(again.generation() > handle.generation());
    let state = bob.slot(&bob.resolve(again).unwrap()).load().state();
    assert_eq!(state, Some(SlotState::Shared));
    let session: SessionNumber = bob.resolve(again).unwrap().lessee;
    assert_eq!(session, BOB);
}

//! Typed blocks: what a reference is given to, and what survives the way through a handle.

use std::thread;

use goumem_alloc::SizeClass;

use super::*;
use crate::test_daemon::{ALICE, BOB, TestDaemon};
use crate::{LeasedSpan, ShmType, TakenBlocks};

/// A span of blocks of 1 KiB, and its daemon.
fn span() -> (TestDaemon, LeasedSpan) {
    span_of(SizeClass::from_index(19).unwrap())
}

fn span_of(class: SizeClass) -> (TestDaemon, LeasedSpan) {
    let daemon = TestDaemon::new(64);
    let span = daemon.lease(&daemon.view(), ALICE, class);
    (daemon, span)
}

#[test]
fn value_is_what_was_written_through_any_reference() {
    let (_daemon, mut span) = span();
    let mut block: OwnedBlock<u64> = OwnedBlock::new(span.alloc().unwrap()).unwrap();
    *block = 5;
    *block += 1;
    assert_eq!((*block, block.get()), (6, Ok(6)));
    block.set(&9);
    assert_eq!(*block, 9);
    let mut slice = OwnedBlock::<[f64]>::new_slice(span.alloc().unwrap(), 128).unwrap();
    slice.fill(0.5);
    assert_eq!(slice.len(), 128);
    assert!((slice.iter().sum::<f64>() - 64.0).abs() < f64::EPSILON);
}

#[test]
fn block_that_does_not_fit_the_type_is_refused_and_free_again() {
    let (_daemon, mut span) = span();
    let usable = span.alloc().unwrap().usable_bytes();
    let too_long = OwnedBlock::<[u64; 129]>::new(span.alloc().unwrap()).map(drop);
    let wrong = AccessError::WrongLength {
        expected_bytes: 129 * 8,
        found_bytes: usable,
    };
    assert_eq!(too_long, Err(wrong));
    for len in [129, usize::MAX] {
        let refused = OwnedBlock::<[u64]>::new_slice(span.alloc().unwrap(), len).map(drop);
        assert!(matches!(refused, Err(AccessError::WrongLength { .. })));
    }
    let empty = OwnedBlock::<[u64]>::new_slice(span.alloc().unwrap(), 0).map(drop);
    assert_eq!(empty, Err(AccessError::ZeroSize));
    let empty = OwnedBlock::<[u64; 0]>::new(span.alloc().unwrap()).map(drop);
    assert_eq!(empty, Err(AccessError::ZeroSize));
    span.collect(false);
    assert!(span.is_empty());
}

#[test]
fn value_that_is_none_of_its_type_is_an_error_and_not_a_value() {
    let (_daemon, mut span) = span();
    let mut bytes: OwnedBlock<u8> = OwnedBlock::new(span.alloc().unwrap()).unwrap();
    *bytes = 2;
    let block: OwnedBlock<bool> = OwnedBlock::new(bytes.into_raw()).unwrap();
    assert!(matches!(block.get(), Err(AccessError::Corrupt { .. })));
    let mut block = block;
    block.set(&true);
    assert_eq!(block.get(), Ok(true));
}

#[test]
fn block_handed_over_by_handle_has_its_bytes_type_and_length() {
    let (daemon, mut span) = span();
    let mut block = OwnedBlock::<[u32]>::new_slice(span.alloc().unwrap(), 5).unwrap();
    block.copy_from_slice(&[1, 2, 3, 4, 5]);
    let handle = block.export_slice(ALICE).unwrap();
    let bob = daemon.view();
    let taken = TakenBlocks::new(&bob, BOB).unwrap();
    let (raw, shape, _) = taken.take_over(handle).unwrap();
    assert_eq!((shape.type_tag, shape.length_bytes), (u32::TYPE_TAG, 20));
    let mut block = OwnedBlock::<[u32]>::new_slice(raw, 5).unwrap();
    assert_eq!(*block, [1, 2, 3, 4, 5]);
    block[0] = 10;
    let next = thread::spawn(move || block.export_slice(BOB).unwrap())
        .join()
        .unwrap();
    assert_eq!(daemon.view().read_value::<u32>(next, 0), Ok(10));
}

#[test]
fn refused_export_gives_the_typed_block_back() {
    let (daemon, mut span) = span();
    let mut block: OwnedBlock<u64> = OwnedBlock::new(span.alloc().unwrap()).unwrap();
    *block = 7;
    let offset = block.with_raw(|raw| raw.offset());
    let at = daemon.memory().block_at(offset).unwrap();
    let _ = daemon.memory().slot(&at).export(BOB).unwrap();
    let (block, error) = block.export(ALICE).unwrap_err();
    assert!(matches!(error, AccessError::Corrupt { .. }));
    assert_eq!(*block, 7);
    let slice = OwnedBlock::<[u8]>::new_slice(block.into_raw(), 3).unwrap();
    let (slice, _) = slice.export_slice(ALICE).unwrap_err();
    assert_eq!(slice.len(), 3);
}

#[test]
fn every_class_holds_values_aligned_to_a_grain_and_coloured_ones_to_two_lines() {
    for class in SizeClass::all().filter(|class| !class.is_large()) {
        let (_daemon, mut span) = span_of(class);
        let block: OwnedBlock<u128> = OwnedBlock::new(span.alloc().unwrap()).unwrap();
        let address = block.with_raw(|raw| raw.pointer().addr().get());
        assert!(address.is_multiple_of(16));
        if class.colour_bytes() > 0 {
            assert!(address.is_multiple_of(128));
        }
    }
}

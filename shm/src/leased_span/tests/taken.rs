//! Blocks taken over: whose they are, and what handles of them are worth.

use super::*;

#[test]
fn block_taken_over_is_its_takers_alone_until_it_is_dropped() {
    let daemon = TestDaemon::new(8);
    let (memory, bob) = (daemon.view(), daemon.view());
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let handle = span.alloc().unwrap().export(ALICE, bytes(700)).unwrap();
    let taken = TakenBlocks::new(&bob, BOB).unwrap();
    let (block, shape, was_kept) = taken.take_over(handle).unwrap();
    assert_eq!((shape, was_kept), (bytes(700), false));
    assert_eq!(
        (block.offset(), block.usable_bytes()),
        (handle.offset(), 1024)
    );
    // Neither the old handle nor a made-up one of the new generation can free it.
    let guessed = memory.handle(handle.generation().next().unwrap(), handle.offset());
    for handle in [handle, guessed] {
        assert!(memory.free(handle).is_err());
        assert!(memory.resolve(handle).is_err());
        assert!(taken.take_over(handle).is_err());
    }
    span.collect(true);
    let rest = drain(&mut span);
    assert!(rest.iter().all(|other| other.offset() != handle.offset()));
    drop(block);
    span.collect(false);
    assert_eq!(span.alloc().unwrap().offset(), handle.offset());
}

#[test]
fn block_taken_over_is_shared_again_with_a_shape_of_its_own() {
    let daemon = TestDaemon::new(8);
    let (memory, bob) = (daemon.view(), daemon.view());
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let first = span.alloc().unwrap().export(ALICE, bytes(700)).unwrap();
    assert!(daemon.keep(first, ALICE));
    let taken = TakenBlocks::new(&bob, BOB).unwrap();
    let (block, _, was_kept) = taken.take_over(first).unwrap();
    assert!(was_kept);
    drop(taken); // the block has a count of its own
    let second = block.export(CAROL, bytes(9)).unwrap();
    assert_eq!(second.offset(), first.offset());
    assert_eq!(second.generation(), first.generation().next().unwrap());
    let at = memory.resolve(second).unwrap();
    assert_eq!(memory.checked_shape(&at), Ok(bytes(9)));
    assert_eq!(memory.slot(&at).load().owner(), CAROL);
    daemon.sweep(CAROL);
    assert!(memory.resolve(second).is_err());
}

#[test]
fn stale_handle_is_stale_to_a_taker_whatever_the_shape_word_says() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    let at = memory.locate(handle).unwrap();
    let _ = memory.free(handle).unwrap();
    memory.shape(&at).store(bytes(0));
    let taken = TakenBlocks::new(&memory, ALICE).unwrap();
    let refused = taken.take_over(handle).map(drop);
    assert_eq!(refused, Err(AccessError::Stale { handle }));
    let mut byte = [0];
    let refused = memory.read_resolved(&at, handle, 0, &mut byte);
    assert_eq!(refused, Err(AccessError::Stale { handle }));
}

#[test]
fn pinned_block_is_not_taken_over_and_a_read_only_view_takes_nothing() {
    let daemon = TestDaemon::new(8);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    assert!(daemon.pin(handle));
    let taken = TakenBlocks::new(&memory, ALICE).unwrap();
    let refused = taken.take_over(handle).map(drop);
    assert_eq!(refused, Err(AccessError::Pinned { handle }));
    let refused = TakenBlocks::new(&daemon.read_only_view(), BOB).map(drop);
    assert!(matches!(refused, Err(AccessError::ReadOnly { .. })));
}

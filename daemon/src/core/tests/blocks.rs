//! Blocks by RPC, and leases.

use super::*;

#[test]
fn a_block_is_zeroed_readable_writable_and_stale_once_freed() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let first = daemon.alloc(&alice, pool, 100).unwrap();
    daemon
        .core
        .write_bytes(&alice, first, 0, &[7; 100])
        .unwrap();
    daemon.free(&alice, first).unwrap();
    assert_eq!(reason(daemon.free(&alice, first)), Reason::DoubleFree);
    let second = daemon.alloc(&alice, pool, 100).unwrap();
    let mut bytes = [1u8; 100];
    daemon
        .core
        .read_bytes(&alice, second, 0, &mut bytes)
        .unwrap();
    assert_eq!(bytes, [0; 100], "what the last owner wrote is not seen");
    assert_eq!(
        reason(daemon.core.read_bytes(&alice, first, 0, &mut bytes)),
        Reason::StaleHandle
    );
    assert_eq!(
        reason(daemon.core.write_bytes(&alice, second, 90, &[0; 11])),
        Reason::OutOfRange
    );
}

#[test]
fn a_full_pool_says_how_full_and_who_and_stays_as_it_was() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let _kept = daemon.alloc(&alice, pool, 600 << 10).unwrap();
    let before = daemon.stat(&alice, "p");
    let error = daemon.alloc(&alice, pool, 600 << 10).unwrap_err();
    let Error::PoolExhausted {
        requested_bytes,
        largest_free_bytes,
        capacity_bytes,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((requested_bytes, capacity_bytes), (600 << 10, MIB));
    assert!(
        largest_free_bytes > 0 && largest_free_bytes < 600 << 10,
        "{largest_free_bytes}"
    );
    assert_eq!(daemon.stat(&alice, "p"), before);
    assert!(
        daemon.alloc(&alice, pool, largest_free_bytes).is_ok(),
        "what it says is to be had"
    );
}

#[test]
fn capacity_is_given_back_to_whoever_asks_next_whatever_the_class() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 64 << 10);
    for size in [16, 4096, 60 << 10, 100, 64 << 10] {
        let handle = daemon
            .alloc(&alice, pool, size)
            .unwrap_or_else(|e| panic!("{size}: {e}"));
        daemon.free(&alice, handle).unwrap();
    }
}

#[test]
fn a_pinned_block_keeps_its_bytes_after_a_free_until_the_last_unpin() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let block = daemon.alloc(&alice, pool, 64).unwrap();
    daemon.core.pin(&bob, about(block), daemon.now).unwrap();
    daemon.core.pin(&bob, about(block), daemon.now).unwrap();
    assert_eq!(
        reason(daemon.core.take(&alice, about(block), daemon.now)),
        Reason::BlockPinned,
        "a pinned block is nobody's alone"
    );
    daemon.free(&alice, block).unwrap();
    assert_eq!(daemon.stat(&alice, "p").condemned_blocks, 1);
    assert_eq!(
        reason(daemon.core.resolve(&bob, about(block), daemon.now)),
        Reason::StaleHandle
    );
    daemon.core.unpin(&bob, about(block), daemon.now).unwrap();
    assert_eq!(daemon.stat(&alice, "p").condemned_blocks, 1);
    daemon.core.unpin(&bob, about(block), daemon.now).unwrap();
    assert_eq!(daemon.stat(&alice, "p").condemned_blocks, 0);
    assert_eq!(
        reason(daemon.core.unpin(&bob, about(block), daemon.now)),
        Reason::StaleHandle
    );
}

#[test]
fn a_lease_is_returned_once_in_its_own_epoch_by_its_own_session() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let class = SizeClass::from_index(0).unwrap();
    let spans = daemon.lease(&alice, pool, class).unwrap();
    let give_back = |caller: &Caller, spans: Vec<SpanInfo>| {
        let request = ReturnSpans {
            pool_id: pool,
            spans,
            request_id: RequestId::NONE,
        };
        daemon.core.return_spans(caller, request, daemon.now)
    };
    assert_eq!(reason(give_back(&bob, spans.clone())), Reason::StaleLease);
    let mut late = spans.clone();
    late[0].epoch += 1;
    assert_eq!(reason(give_back(&alice, late)), Reason::StaleLease);
    assert_eq!(give_back(&alice, spans.clone()).unwrap().returned, 1);
    assert_eq!(reason(give_back(&alice, spans)), Reason::StaleLease);
}

#[test]
fn realloc_keeps_the_contents_and_zeroes_what_is_new() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 8 * MIB);
    let block = daemon.alloc(&alice, pool, 100).unwrap();
    daemon
        .core
        .write_bytes(&alice, block, 0, &[9; 100])
        .unwrap();
    let realloc = |handle, size_bytes| {
        let request = Realloc {
            handle,
            size_bytes,
            request_id: RequestId::NONE,
        };
        daemon
            .core
            .realloc(&alice, request, daemon.now)
            .unwrap()
            .block
    };
    let same = realloc(block, 110);
    assert_eq!(same.handle, block, "it stays in its class");
    let grown = realloc(block, 2 * MIB);
    let mut bytes = vec![1; 2 << 20];
    daemon
        .core
        .read_bytes(&alice, grown.handle, 0, &mut bytes)
        .unwrap();
    assert!(bytes[..100].iter().all(|&b| b == 9) && bytes[100..].iter().all(|&b| b == 0));
    assert_eq!(
        reason(daemon.core.resolve(&alice, about(block), daemon.now)),
        Reason::StaleHandle
    );
    let shrunk = realloc(grown.handle, 50);
    assert_eq!(shrunk.size_bytes, 50);
    assert_eq!(daemon.stat(&alice, "p").blocks, 1);
}

#[test]
fn an_untyped_or_typed_block_says_its_type() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool_id = daemon.pool(&alice, "p", MIB);
    let spec = BlockSpec {
        type_tag: TypeTag::new(12).unwrap(),
        ..BlockSpec::new(8)
    };
    let request = Alloc {
        pool_id,
        spec,
        request_id: RequestId::NONE,
    };
    let block = daemon
        .core
        .alloc(&alice, request, daemon.now)
        .unwrap()
        .block;
    let found = daemon
        .core
        .resolve(&alice, about(block.handle), daemon.now)
        .unwrap();
    assert_eq!(found, block);
}

#[test]
fn a_large_block_gets_the_span_that_was_granted_for_it() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 32 * MIB);
    let memory = daemon.map(&alice, pool);
    for _ in 0..3 {
        let small = [0; 3].map(|_| daemon.alloc(&alice, pool, 2 * MIB).unwrap());
        for block in small {
            let _ = memory.free(block).unwrap();
        }
        // Three spans that are too short are known to be free by now.
        let large = daemon.alloc(&alice, pool, 5 * MIB).unwrap();
        let found = daemon
            .core
            .resolve(&alice, about(large), daemon.now)
            .unwrap();
        assert!(
            found.used_bytes < 6 * MIB && found.size_bytes == 5 * MIB,
            "{found:?}"
        );
        let exact = daemon.alloc(&alice, pool, 3 * MIB / 2).unwrap();
        let found = daemon
            .core
            .resolve(&alice, about(exact), daemon.now)
            .unwrap();
        assert!(found.used_bytes < 2 * MIB, "{found:?}");
        daemon.check();
        for block in [large, exact] {
            daemon.free(&alice, block).unwrap();
        }
    }
}

#[test]
fn a_reader_cannot_fill_the_record_table_with_pins() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1001));
    let request = CreatePool {
        mode: 0o644,
        ..create("p", MIB)
    };
    let pool = daemon
        .core
        .create_pool(&alice, request, daemon.now)
        .unwrap()
        .pool
        .pool_id;
    let block = daemon.alloc(&alice, pool, 64).unwrap();
    let refused = (0..100_000).find_map(|_| daemon.core.pin(&bob, about(block), daemon.now).err());
    assert_eq!(refused.unwrap().reason(), Reason::TooManyRecords);
    daemon.publish(&alice, block, "room").unwrap();
    daemon.die(&bob);
    daemon.free(&alice, block).unwrap();
    let stat = daemon.stat(&alice, "p");
    assert_eq!((stat.pins, stat.condemned_blocks, stat.blocks), (0, 0, 0));
    daemon.check();
}

#[test]
fn a_block_kept_in_two_lives_is_kept_and_listed_once() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let memory = daemon.map(&alice, pool);
    let first = daemon.alloc(&alice, pool, 900 << 10).unwrap();
    daemon.publish(&alice, first, "n").unwrap();
    let _ = memory.free(first).unwrap();
    // The pool has room for one: it is the same slot again.
    let second = daemon.alloc(&alice, pool, 900 << 10).unwrap();
    daemon.core.keep(&alice, about(second), daemon.now).unwrap();
    assert_eq!(
        reason(daemon.lookup(&alice, pool, "n")),
        Reason::NameNotFound
    );
    let kept = daemon
        .core
        .list_kept(&alice, ListKept { pool_id: pool }, daemon.now)
        .unwrap();
    assert_eq!(kept.len(), 1);
    daemon.check();
}

#[test]
fn a_kept_block_that_was_adopted_through_a_mapping_can_be_kept_again() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let memory = daemon.map(&bob, pool);
    let block = daemon.alloc(&alice, pool, 100).unwrap();
    daemon.core.keep(&alice, about(block), daemon.now).unwrap();
    // The daemon has not looked since: the record is still there.
    memory.adopt(block, bob.session().unwrap().number).unwrap();
    daemon.core.keep(&bob, about(block), daemon.now).unwrap();
    assert_eq!(daemon.stat(&alice, "p").kept_blocks, 1);
    daemon.die(&bob);
    let found = daemon.core.resolve(&alice, about(block), daemon.now);
    assert_eq!(found.unwrap().handle, block);
    daemon.check();
}

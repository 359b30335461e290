//! The heaps of all threads in a pool.

use std::thread;

use goumem_alloc::PageCount;

use super::*;
use crate::test_pool::{ALICE, TestPool};

struct Pool {
    pages: TestPool,
    heaps: Heaps,
}

impl Pool {
    fn new() -> Self {
        Self::with_heaps(Heaps::new(None, u64::MAX))
    }

    fn with_heaps(heaps: Heaps) -> Self {
        let pages = TestPool::new(64);
        Self { pages, heaps }
    }

    /// What the daemon and the client's I/O thread would do for this thread.
    fn lease_for_this_thread(&self, want: &Want) {
        let Placement::Class(class) = want.placement else {
            panic!("not a class: {want:?}");
        };
        let span = self.pages.lease(class, PageCount::ONE);
        let home = self.heaps.home().unwrap();
        self.heaps.add(home, vec![span]).unwrap();
    }

    fn alloc(&self, want: &Want) -> Result<RawBlock, AllocError> {
        let Placement::Class(class) = want.placement else {
            panic!("not a class: {want:?}");
        };
        let at_hand = self.heaps.alloc(class);
        at_hand.map_or_else(
            || self.heaps.alloc_elsewhere(want).map(|(block, _)| block),
            Ok,
        )
    }

    fn owned(&self) -> u64 {
        self.heaps.owned_count(&self.pages.memory, ALICE)
    }
}

/// A block of which a page has four.
fn want() -> Want {
    Want::new(16 << 10, 4096).unwrap()
}

#[test]
fn each_thread_has_a_heap_of_its_own() {
    let pool = Pool::new();
    assert_eq!(pool.alloc(&want()).unwrap_err(), AllocError::NeedsSpan);
    pool.lease_for_this_thread(&want());
    let _block = pool.alloc(&want()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let refusal = pool.alloc(&want()).unwrap_err();
            assert_eq!(refusal, AllocError::NeedsSpan, "the spans are another's");
        });
    });
    assert!(pool.alloc(&want()).is_ok());
}

#[test]
fn what_an_ended_thread_leaves_is_had_by_the_next_and_by_those_who_live() {
    let pool = Pool::new();
    let leave = || {
        pool.lease_for_this_thread(&want());
        pool.alloc(&want()).unwrap()
    };
    // Joined, so that its thread-locals are gone and not only its closure.
    let kept = thread::scope(|scope| scope.spawn(leave).join().unwrap());
    let n_heaps = || lock(&pool.heaps.shared).heaps.len();
    assert_eq!((n_heaps(), pool.owned()), (1, 1));
    thread::scope(|scope| {
        let next = scope.spawn(|| {
            let blocks: Vec<_> = std::iter::from_fn(|| pool.alloc(&want()).ok()).collect();
            assert_eq!(blocks.len(), 3, "the span's other blocks");
        });
        next.join().unwrap();
    });
    assert_eq!(n_heaps(), 1, "the heap was taken over");
    // This thread has a heap already when it runs out, and takes the span out of the other.
    let other = Want::new(8 << 10, 4096).unwrap();
    pool.lease_for_this_thread(&other);
    drop(kept);
    let blocks: Vec<_> = std::iter::from_fn(|| pool.alloc(&want()).ok()).collect();
    assert_eq!(blocks.len(), 4);
}

#[test]
fn nothing_is_given_out_while_refused_and_everything_after() {
    let pool = Pool::new();
    pool.lease_for_this_thread(&want());
    drop(pool.alloc(&want()).unwrap());
    pool.heaps.set_refuses(Some(AllocError::Closed));
    assert_eq!(pool.alloc(&want()).unwrap_err(), AllocError::Closed);
    assert_eq!(pool.heaps.while_open(|| ()), Err(AllocError::Closed));
    assert!(pool.heaps.home().is_err());
    pool.heaps.set_refuses(None);
    assert!(pool.alloc(&want()).is_ok());
    assert_eq!(pool.heaps.while_open(|| 1), Ok(1));
}

#[test]
fn a_walk_finds_the_idle_spans_of_every_thread() {
    let pool = Pool::new();
    pool.lease_for_this_thread(&want());
    let (go, gone) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel());
    thread::scope(|scope| {
        let (pool, wait, ready) = (&pool, go.1, gone.0);
        scope.spawn(move || {
            pool.lease_for_this_thread(&want());
            ready.send(()).unwrap();
            let _ = wait.recv();
        });
        gone.1.recv().unwrap();
        assert_eq!(pool.heaps.trim(Trim::everything()).leases.len(), 2);
        assert!(pool.heaps.is_empty());
        drop(go.0);
    });
}

#[test]
fn a_heap_leaves_its_pool_empty_and_serves_the_next() {
    let first = Pool::new();
    first.lease_for_this_thread(&want());
    let block = first.alloc(&want()).unwrap();
    let heap = first.heaps.home().unwrap();
    drop(first.heaps);
    // The block outlives the heap that it came from, and is freed into nothing.
    drop(block);
    let mut claim = heap.claim();
    let (local, _) = claim.split();
    assert!(local.is_empty() && local.pool == 0 && local.gate == 0);
    drop(claim);
    // Whichever number the next one gets: what this thread has under it has no spans.
    let second = Pool::new();
    assert_eq!(second.alloc(&want()).unwrap_err(), AllocError::NeedsSpan);
    second.lease_for_this_thread(&want());
    assert!(second.alloc(&want()).is_ok());
}

#[test]
fn threads_without_room_for_a_heap_share_one() {
    // As in a 65th pool.
    let crowded = Pool::with_heaps(Heaps::with_number(PoolNumber::none(), None, u64::MAX));
    crowded.lease_for_this_thread(&want());
    let block = crowded.alloc(&want()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| drop(crowded.alloc(&want()).unwrap()));
    });
    drop(block);
    assert_eq!(crowded.owned(), 0);
    assert_eq!(lock(&crowded.heaps.shared).heaps.len(), 1);
}

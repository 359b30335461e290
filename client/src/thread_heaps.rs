//! Which heap the calling thread has in which pool: an array of pointers by the pool's number in
//! this process, which costs a load. A thread owns the heaps in its array. When it ends, they stay
//! with their pools, and the next thread that comes there takes one over, spans and all.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use goumem_shm::os::fork::{self, Born};
use goumem_shm::sync::{AtomicU64, Ordering};

use crate::local_heap::{HeapAgent, LocalHeap};

/// Pools of one process whose blocks are allocated without a lock. In those beyond, every
/// allocation claims a heap that no thread owns.
const MAX_NUMBERS: usize = 64;

thread_local! {
    // Nothing in it is dropped, so it can be read without asking whether it still is there.
    static HEAPS: [Cell<Option<&'static HeapAgent>>; MAX_NUMBERS] =
        const { [const { Cell::new(None) }; MAX_NUMBERS] };
    static LEAVER: Leaver = const { Leaver };
}

/// Which numbers are taken, a bit each. No lock: one that another thread holds while this one forks
/// is held in the child for ever.
static NUMBERS: AtomicU64 = AtomicU64::new(0);
const _: () = assert!(MAX_NUMBERS == u64::BITS as usize);

/// Heaps of no pool and no thread, for the next that needs one: they are made for ever. A forked
/// child leaves its parent's alone, and their lock, which may be held there for ever; the line of
/// forks that comes back to it is a long one.
static VACANT: [Mutex<Vec<&'static HeapAgent>>; MAX_FORKS] =
    [const { Mutex::new(Vec::new()) }; MAX_FORKS];
const MAX_FORKS: usize = 256;

/// A pool's number in this process: nobody else's while it lives.
#[derive(Debug)]
pub(crate) struct PoolNumber {
    number: usize,
    born: Born,
}

impl PoolNumber {
    /// Takes the lowest number that is free, or one that no thread has a heap for.
    pub(crate) fn take() -> Self {
        let with_lowest = |taken: u64| Some(taken | taken.checked_add(1)?);
        // ORDERING: pairs with the Release in `drop`: heaps leave a pool before its number goes.
        let taken = NUMBERS.fetch_update(Ordering::Acquire, Ordering::Relaxed, with_lowest);
        let (Ok(taken) | Err(taken)) = taken;
        Self::of(taken.trailing_ones() as usize)
    }

    fn of(number: usize) -> Self {
        let born = Born::here();
        Self { number, born }
    }

    /// Returns a number under which threads have no heaps, as those past the 64th are.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::of(MAX_NUMBERS)
    }

    /// Returns the heap that the calling thread has under this number. It may be one of an
    /// earlier pool.
    #[inline]
    pub(crate) fn heap(&self) -> Option<&'static HeapAgent> {
        HEAPS.with(|heaps| heaps.get(self.number)?.get())
    }

    /// Returns the heap that the calling thread has under this number, or makes it the owner of
    /// one that `find` or else of a new one. `None` if this thread or number can have none.
    pub(crate) fn heap_or_own(
        &self,
        find: impl FnOnce() -> Option<&'static HeapAgent>,
    ) -> Option<&'static HeapAgent> {
        if let Some(heap) = self.heap() {
            return Some(heap);
        }
        // Not while the thread ends: nobody would give the heap up.
        if self.number >= MAX_NUMBERS || LEAVER.try_with(|_| ()).is_err() {
            return None;
        }
        let heap = find().unwrap_or_else(|| {
            let heap = vacant_heap();
            heap.own();
            heap
        });
        HEAPS.with(|heaps| heaps[self.number].set(Some(heap)));
        Some(heap)
    }
}

impl Drop for PoolNumber {
    fn drop(&mut self) {
        // A parent's numbers are not taken in its forked child.
        if self.number < MAX_NUMBERS && !self.born.is_elsewhere() {
            // ORDERING: pairs with the Acquire in `take`.
            NUMBERS.fetch_and(!(1 << self.number), Ordering::Release);
        }
    }
}

/// Has a forked child, whose one thread calls this before anything else, begin with no heap: those
/// that it inherits are its parent's.
pub(crate) fn forget() {
    NUMBERS.store(0, Ordering::Relaxed);
    HEAPS.with(|heaps| heaps.iter().for_each(|heap| heap.set(None)));
}

/// Returns a heap of no pool and no thread.
pub(crate) fn vacant_heap() -> &'static HeapAgent {
    let vacant = vacant_heaps().pop();
    vacant.unwrap_or_else(|| HeapAgent::leak(LocalHeap::new()))
}

/// Takes back a heap of no pool and no thread.
pub(crate) fn put_vacant(heap: &'static HeapAgent) {
    vacant_heaps().push(heap);
}

fn vacant_heaps() -> MutexGuard<'static, Vec<&'static HeapAgent>> {
    let heaps = &VACANT[fork::count() as usize % MAX_FORKS];
    heaps.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives up the calling thread's heaps when the thread ends.
#[derive(Debug)]
struct Leaver;

impl Drop for Leaver {
    fn drop(&mut self) {
        HEAPS.with(|heaps| {
            for heap in heaps.iter().filter_map(Cell::take) {
                let mut claim = heap.claim();
                claim.disown();
                let vacant = claim.split().0.pool == 0;
                drop(claim);
                if vacant {
                    put_vacant(heap);
                }
            }
        });
    }
}

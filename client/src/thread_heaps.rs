//! Which heap the calling thread has in which pool: an array of pointers by the pool's number in
//! this process, which costs a load. A thread owns the heaps in its array. When it ends, they stay
//! with their pools, and the next thread that comes there takes one over, spans and all.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use goumem_shm::os::fork;

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

/// Which numbers are taken, a bit each.
static NUMBERS: Mutex<u64> = Mutex::new(0);
const _: () = assert!(MAX_NUMBERS == u64::BITS as usize);

/// Heaps of no pool and no thread, for the next that needs one: they are made for ever.
static VACANT: Mutex<Vec<&'static HeapAgent>> = Mutex::new(Vec::new());

/// A pool's number in this process: nobody else's while it lives.
#[derive(Debug)]
pub(crate) struct PoolNumber(usize);

impl PoolNumber {
    /// Takes the lowest number that is free, or one that no thread has a heap for.
    pub(crate) fn take() -> Self {
        let mut taken = lock(&NUMBERS);
        let lowest = taken.trailing_ones();
        if lowest < u64::BITS {
            *taken |= 1 << lowest;
        }
        Self(lowest as usize)
    }

    /// Returns a number under which threads have no heaps, as those past the 64th are.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(MAX_NUMBERS)
    }

    /// Returns the heap that the calling thread has under this number. It may be one of an
    /// earlier pool.
    #[inline]
    pub(crate) fn heap(&self) -> Option<&'static HeapAgent> {
        HEAPS.with(|heaps| heaps.get(self.0)?.get())
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
        if self.0 >= MAX_NUMBERS || LEAVER.try_with(|_| ()).is_err() {
            return None;
        }
        let heap = find().unwrap_or_else(|| {
            let heap = vacant_heap();
            heap.own();
            heap
        });
        HEAPS.with(|heaps| heaps[self.0].set(Some(heap)));
        Some(heap)
    }
}

impl Drop for PoolNumber {
    fn drop(&mut self) {
        // In a forked child a lock may be held for ever, and nothing is given back there.
        if self.0 < MAX_NUMBERS && !fork::in_child_of_init() {
            *lock(&NUMBERS) &= !(1 << self.0);
        }
    }
}

/// Returns a heap of no pool and no thread.
pub(crate) fn vacant_heap() -> &'static HeapAgent {
    let vacant = lock(&VACANT).pop();
    vacant.unwrap_or_else(|| HeapAgent::leak(LocalHeap::new()))
}

/// Takes back a heap of no pool and no thread.
pub(crate) fn put_vacant(heap: &'static HeapAgent) {
    lock(&VACANT).push(heap);
}

/// Gives up the calling thread's heaps when the thread ends.
#[derive(Debug)]
struct Leaver;

impl Drop for Leaver {
    fn drop(&mut self) {
        if fork::in_child_of_init() {
            return;
        }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

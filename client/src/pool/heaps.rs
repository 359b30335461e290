//! The heaps of all threads in one pool, and the large spans, which belong to no thread.

use std::sync::Mutex;

use goumem_alloc::{Placement, SessionNumber, SizeClass};
use goumem_shm::os::fork::Born;
use goumem_shm::sync::{AtomicU64, Ordering};
use goumem_shm::{LeasedSpan, PoolMemory, RawBlock};

use crate::error::AllocError;
use crate::local_heap::large::LargeSpans;
use crate::local_heap::{HeapAgent, Trim};
use crate::pool::alloc::Want;
use crate::session::lock;
use crate::thread_heaps::{self, PoolNumber};

/// Keys are never used twice: a heap that served another pool is known by its key.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// Everything in a pool that this process may allocate from without asking.
#[derive(Debug)]
pub(super) struct Heaps {
    born: Born,
    number: PoolNumber,
    key: u64,
    shared: Mutex<SharedHeaps>,
}

/// What is reached under a lock. A heap may be claimed while it is held, not the other way round.
#[derive(Debug)]
struct SharedHeaps {
    /// Why nothing is given out, if so. All gates are closed then.
    refuses: Option<AllocError>,
    /// Those of living threads, and those that ended threads have left.
    heaps: Vec<&'static HeapAgent>,
    large: LargeSpans,
}

impl Heaps {
    pub(super) fn new(refuses: Option<AllocError>, max_idle_bytes: u64) -> Self {
        Self::with_number(PoolNumber::take(), refuses, max_idle_bytes)
    }

    fn with_number(number: PoolNumber, refuses: Option<AllocError>, max_idle_bytes: u64) -> Self {
        Self {
            born: Born::here(),
            number,
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            shared: Mutex::new(SharedHeaps {
                refuses,
                heaps: Vec::new(),
                large: LargeSpans::new(max_idle_bytes),
            }),
        }
    }

    /// Takes a block from the current span of the calling thread's heap.
    #[inline(always)]
    pub(super) fn alloc(&self, class: SizeClass) -> Option<RawBlock> {
        let mut turn = self.number.heap()?.enter()?;
        let (heap, right) = turn.split();
        if heap.gate == self.key {
            heap.alloc(right, class)
        } else {
            None
        }
    }

    /// Takes a block that is at hand anywhere in this process, but for the heaps of other threads
    /// that are alive. Returns the thread's heap with it if that is about to run out of the class.
    #[cold]
    pub(super) fn alloc_elsewhere(
        &self,
        want: &Want,
    ) -> Result<(RawBlock, Option<&'static HeapAgent>), AllocError> {
        let class = match want.placement {
            Placement::Class(class) => class,
            Placement::Large {
                class,
                pages,
                align_pages,
            } => {
                let mut shared = lock(&self.shared);
                if let Some(refusal) = shared.refuses {
                    return Err(refusal);
                }
                let block = shared.large.alloc(class, pages, align_pages);
                return block
                    .map(|block| (block, None))
                    .ok_or(AllocError::NeedsSpan);
            }
        };
        let home = self.home()?;
        if let Some((block, runs_dry)) = self.alloc_in(home, class) {
            return Ok((block, runs_dry.then_some(home)));
        }
        let span = self.take_from_ended(home, class);
        let span = span.ok_or(AllocError::NeedsSpan)?;
        self.add(home, vec![span])?;
        let found = self.alloc_in(home, class);
        found
            .map(|(block, _)| (block, None))
            .ok_or(AllocError::NeedsSpan)
    }

    /// Takes a block of a class from one heap. Returns whether that is about to run out of the
    /// class.
    pub(super) fn alloc_in(&self, heap: &HeapAgent, class: SizeClass) -> Option<(RawBlock, bool)> {
        let mut claim = heap.claim();
        let (heap, right) = claim.split();
        if heap.gate != self.key {
            return None;
        }
        let block = heap.alloc_elsewhere(right, class)?;
        Some((block, heap.runs_dry(right, class)))
    }

    /// Returns the calling thread's heap in this pool, which it now has if it had none. A thread
    /// that can have none shares the first that no thread owns.
    pub(super) fn home(&self) -> Result<&'static HeapAgent, AllocError> {
        let mut shared = lock(&self.shared);
        if let Some(refusal) = shared.refuses {
            return Err(refusal);
        }
        let own = || shared.heaps.iter().copied().find(|heap| heap.own());
        let heap = self.number.heap_or_own(own);
        let heap = heap.or_else(|| shared.heaps.iter().copied().find(|heap| !heap.has_owner()));
        Ok(self.admit(heap.unwrap_or_else(thread_heaps::vacant_heap), &mut shared))
    }

    /// Adds leased spans: to a heap of this pool, or to another if it has left the pool meanwhile.
    pub(super) fn add(
        &self,
        home: &'static HeapAgent,
        spans: Vec<LeasedSpan>,
    ) -> Result<(), AllocError> {
        let mut shared = lock(&self.shared);
        if let Some(refusal) = shared.refuses {
            return Err(refusal);
        }
        let still = shared.heaps.iter().any(|heap| std::ptr::eq(*heap, home));
        let home = if still {
            home
        } else {
            self.admit(thread_heaps::vacant_heap(), &mut shared)
        };
        let mut claim = home.claim();
        let (local, right) = claim.split();
        for span in spans {
            if span.lease().class.is_large() {
                shared.large.add(span);
            } else {
                local.add(right, span);
            }
        }
        Ok(())
    }

    /// Has a heap serve this pool, if it does not yet.
    fn admit(&self, heap: &'static HeapAgent, shared: &mut SharedHeaps) -> &'static HeapAgent {
        let mut claim = heap.claim();
        let (local, _) = claim.split();
        if local.pool != self.key {
            // Heaps leave a pool before it lets go of its number, so this one has no spans.
            (local.pool, local.gate) = (self.key, self.key);
            shared.heaps.push(heap);
        }
        heap
    }

    /// Returns how many spans to lease for a heap that has run out of a class.
    pub(super) fn wanted(&self, home: &HeapAgent, class: SizeClass) -> u32 {
        let mut claim = home.claim();
        claim.split().0.wanted(class)
    }

    /// Calls `act` while the session cannot end.
    ///
    /// # Errors
    /// Why nothing is given out any more.
    #[inline]
    pub(super) fn while_open<R>(&self, act: impl FnOnce() -> R) -> Result<R, AllocError> {
        if let Some(mut turn) = self.number.heap().and_then(HeapAgent::enter)
            && turn.split().0.gate == self.key
        {
            // Whoever closes the gates waits for this turn.
            return Ok(act());
        }
        if self.born.is_elsewhere() {
            return Err(AllocError::Forked);
        }
        let shared = lock(&self.shared);
        match shared.refuses {
            Some(refusal) => Err(refusal),
            None => Ok(act()),
        }
    }

    /// Refuses everything from now on, or allows it again.
    pub(super) fn set_refuses(&self, refuses: Option<AllocError>) {
        let mut shared = lock(&self.shared);
        shared.refuses = refuses;
        let gate = if refuses.is_some() { 0 } else { self.key };
        for heap in &shared.heaps {
            heap.claim().split().0.gate = gate;
        }
    }

    /// Walks through all heaps for spans to give back. Heaps without a thread keep none.
    pub(super) fn trim(&self, mut trim: Trim) -> Trim {
        let everything = trim.everything;
        let heaps = lock(&self.shared).heaps.clone();
        for heap in heaps {
            trim.restart();
            trim.everything = everything || !heap.has_owner();
            loop {
                let mut claim = heap.claim();
                let (local, right) = claim.split();
                if local.pool != self.key || local.trim(right, &mut trim) {
                    break;
                }
                drop(claim);
                std::thread::yield_now();
            }
        }
        trim.everything = everything;
        lock(&self.shared).large.trim(&mut trim);
        trim
    }

    /// Returns how many blocks of `owner` are alive in the spans of this session.
    pub(super) fn owned_count(&self, memory: &PoolMemory, owner: SessionNumber) -> u64 {
        let mut shared = lock(&self.shared);
        let large = shared.large.owned_count(memory, owner);
        let heaps = shared.heaps.iter().map(|heap| {
            let mut claim = heap.claim();
            let (local, right) = claim.split();
            local.owned_count(right, memory, owner)
        });
        large + heaps.sum::<u64>()
    }

    /// Returns whether no span is left.
    pub(super) fn is_empty(&self) -> bool {
        let shared = lock(&self.shared);
        let empty = |heap: &&HeapAgent| heap.claim().split().0.is_empty();
        shared.large.is_empty() && shared.heaps.iter().all(empty)
    }

    /// Takes a span with a free block from the heaps that ended threads have left.
    fn take_from_ended(&self, home: &HeapAgent, class: SizeClass) -> Option<LeasedSpan> {
        let shared = lock(&self.shared);
        let mut left = shared.heaps.iter().filter(|heap| !heap.has_owner());
        left.find_map(|heap| {
            if std::ptr::eq(*heap, home) {
                return None;
            }
            let mut claim = heap.claim();
            let (local, right) = claim.split();
            local.take_one(right, class)
        })
    }
}

impl Drop for Heaps {
    fn drop(&mut self) {
        // In a forked child the locks may be held for ever, and the heaps are the parent's.
        if self.born.is_elsewhere() {
            return;
        }
        // Before the number goes: a thread's heap under it must have no spans of this pool.
        let heaps = std::mem::take(&mut lock(&self.shared).heaps);
        for heap in heaps {
            let mut claim = heap.claim();
            let (local, right) = claim.split();
            (local.gate, local.pool) = (0, 0);
            let spans = local.take_all(right);
            let vacant = !claim.has_owner();
            drop(claim);
            if vacant {
                thread_heaps::put_vacant(heap);
            }
            drop(spans);
        }
    }
}

#[cfg(test)]
mod tests;

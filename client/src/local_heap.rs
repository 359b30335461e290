//! What a process may allocate from without asking: the spans it leases from one pool. This is
//! policy only (which span next, how many to lease, which to give back); which blocks of a span
//! are free is the span's own business.

use goumem_alloc::{PageCount, PageIndex, SessionNumber, SizeClass};
use goumem_shm::leased_span::SpanLease;
use goumem_shm::slot::SlotState;
use goumem_shm::{LeasedSpan, PoolMemory, RawBlock};

use crate::error::AllocError;

mod large;
#[cfg(test)]
mod tests;

use large::LargeSpans;

/// The most spans of a class in the first few leases: 1, 1, 2, 4, 8. Later a lease adds an eighth
/// to what the class has, so that a growing heap makes few calls, and at most an eighth of it is
/// idle.
const FIRST_SPANS: usize = 8;
const GROWTH_DIVISOR: usize = 8;
/// The most bytes of one lease: what a stopped client keeps from others is at most this much more
/// than what it uses.
const MAX_LEASE_BYTES: u64 = 32 << 20;
/// Spans looked at with the heap locked, some 50 ns each: an alloc on another thread waits that
/// long at most.
const SPANS_PER_SLICE: usize = 64;

/// The spans of one pool that this session leases.
#[derive(Debug)]
pub(crate) struct LocalHeap {
    /// Why nothing is given out, if so.
    pub(crate) refuses: Option<AllocError>,
    /// By class index.
    classes: Box<[ClassSpans]>,
    large: LargeSpans,
}

/// The spans of one class. Each has more than one block, but for the largest classes.
#[derive(Debug, Default)]
struct ClassSpans {
    spans: Vec<LeasedSpan>,
    /// Where the last block came from.
    current: usize,
}

/// A walk through a heap that looks for spans to give back. It goes in slices, between which the
/// heap is unlocked.
#[derive(Debug)]
pub(crate) struct Trim {
    /// What was found. The spans are no longer in the heap.
    pub(crate) leases: Vec<SpanLease>,
    /// Whether a later walk may find more.
    pub(crate) again: bool,
    everything: bool,
    class: usize,
    span: usize,
    kept: bool,
}

impl Trim {
    /// Leaves an empty span to each class, and a few large ones, for the next alloc.
    pub(crate) fn idle() -> Self {
        Self {
            leases: Vec::new(),
            again: false,
            everything: false,
            class: 0,
            span: 0,
            kept: false,
        }
    }

    /// Leaves no empty span.
    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::idle()
        }
    }
}

impl LocalHeap {
    /// Returns a heap without spans.
    pub(crate) fn new(refuses: Option<AllocError>) -> Self {
        let n_classes = SizeClass::all().filter(|class| !class.is_large()).count();
        Self {
            refuses,
            classes: (0..n_classes).map(|_| ClassSpans::default()).collect(),
            large: LargeSpans::default(),
        }
    }

    /// Takes a free block of a class that is not a large one.
    #[inline]
    pub(crate) fn alloc(&mut self, class: SizeClass) -> Option<RawBlock> {
        let spans = self.classes.get_mut(usize::from(class.index()))?;
        match spans.spans.get_mut(spans.current)?.alloc() {
            Some(block) => Some(block),
            None => spans.alloc_elsewhere(),
        }
    }

    /// Takes a cached span of its own for a block that needs `pages`.
    pub(crate) fn alloc_large(
        &mut self,
        class: SizeClass,
        pages: PageCount,
        align_pages: PageCount,
    ) -> Option<RawBlock> {
        self.large.alloc(class, pages, align_pages)
    }

    /// Returns how many spans to lease when a class has run out.
    pub(crate) fn wanted(&self, class: SizeClass) -> u32 {
        let n = self
            .classes
            .get(usize::from(class.index()))
            .map_or(0, |c| c.spans.len());
        let wanted = n.clamp(1, FIRST_SPANS).max(n / GROWTH_DIVISOR);
        let limit = (MAX_LEASE_BYTES / class.span_pages().bytes()).max(1);
        u32::try_from(limit.min(wanted as u64)).expect("at most 32 MiB in pages")
    }

    /// Adds a span that was leased.
    pub(crate) fn add(&mut self, span: LeasedSpan) {
        let class = span.lease().class;
        match self.classes.get_mut(usize::from(class.index())) {
            Some(spans) if !class.is_large() => {
                spans.current = spans.spans.len();
                spans.spans.push(span);
            }
            _ => self.large.add(span),
        }
    }

    /// Goes on with a walk; returns whether it is over.
    pub(crate) fn trim(&mut self, trim: &mut Trim) -> bool {
        let mut budget = SPANS_PER_SLICE;
        while let Some(spans) = self.classes.get_mut(trim.class) {
            while trim.span < spans.spans.len() {
                if budget == 0 {
                    return false;
                }
                budget -= 1;
                spans.trim_one(trim);
            }
            trim.class += 1;
            trim.span = 0;
            trim.kept = false;
        }
        self.large.trim(trim);
        true
    }

    /// Returns whether no span is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.large.is_empty() && self.classes.iter().all(|class| class.spans.is_empty())
    }

    /// Returns how many blocks of `owner` are alive: private ones and those it shared. Blocks of
    /// others (kept, taken, adopted) may lie in the same spans.
    pub(crate) fn owned_count(&mut self, memory: &PoolMemory, owner: SessionNumber) -> u64 {
        let classes = self
            .classes
            .iter_mut()
            .flat_map(|class| class.spans.iter_mut());
        classes
            .chain(self.large.spans_mut())
            .map(|span| {
                span.collect(true);
                let lease = span.lease();
                let words = memory.slot_run(lease.first_page, lease.class, lease.pages);
                let shared = words
                    .into_iter()
                    .flat_map(|run| run.words())
                    .filter(|word| {
                        let word = word.load();
                        word.state() == Some(SlotState::Shared) && word.owner() == owner
                    });
                u64::from(span.private_count()) + shared.count() as u64
            })
            .sum()
    }
}

impl ClassSpans {
    /// Looks through all spans, from the current one on: first at what this process freed and at
    /// the hints of others, then at every exported block's word, since a hint may be lost with
    /// the process that owed it.
    #[cold]
    fn alloc_elsewhere(&mut self) -> Option<RawBlock> {
        let n = self.spans.len();
        for thorough in [false, true] {
            for step in 0..n {
                let index = (self.current + step) % n;
                let span = &mut self.spans[index];
                span.collect(thorough);
                if let Some(block) = span.alloc() {
                    self.current = index;
                    return Some(block);
                }
            }
        }
        None
    }

    fn trim_one(&mut self, trim: &mut Trim) {
        let span = &mut self.spans[trim.span];
        span.collect(trim.everything);
        if !span.is_empty() {
            trim.again = true;
            trim.span += 1;
            return;
        }
        if !trim.everything && !trim.kept {
            trim.kept = true;
            trim.span += 1;
            return;
        }
        match self.spans.swap_remove(trim.span).detach() {
            Ok(lease) => trim.leases.push(lease),
            Err(span) => {
                self.spans.push(span);
                trim.span += 1;
            }
        }
        if self.current >= self.spans.len() {
            self.current = 0;
        }
    }
}

/// Returns whether a span's first page is a multiple of `align_pages`. The payload starts at a
/// multiple of 2 MiB, the largest alignment there is.
pub(crate) fn is_aligned(first: PageIndex, align_pages: PageCount) -> bool {
    first.get().is_multiple_of(align_pages.get().max(1))
}

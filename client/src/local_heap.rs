//! What one thread may allocate from without asking: its share of the spans that this session
//! leases from one pool. This is policy only (which span next, how many to lease, which to give
//! back); which blocks of a span are free is the span's own business.
//!
//! A span is the class's *current* one, or *available* (has a free block, as far as is known), or
//! set aside as full, until one of its blocks is freed: by this thread, which wakes it, or by
//! anybody else, which is seen when the class has run out.

use std::collections::VecDeque;

use goumem_alloc::{PageCount, PageIndex, SessionNumber, SizeClass};
use goumem_shm::leased_span::SpanLease;
use goumem_shm::slot::SlotState;
use goumem_shm::{Agent, BoundSpan, LeasedSpan, PoolMemory, RawBlock, Right};

pub(crate) mod large;
#[cfg(test)]
mod tests;

/// The most spans of a class in the first few leases: 1, 1, 2, 4, 8. Later a lease adds an eighth
/// to what the class has, so that a growing heap makes few calls, and at most an eighth of it is
/// idle.
const FIRST_SPANS: usize = 8;
const GROWTH_DIVISOR: usize = 8;
/// The most bytes of one lease: what a stopped client keeps from others is at most this much more
/// than what it uses.
const MAX_LEASE_BYTES: u64 = 32 << 20;
/// How many walks in a row must find a span without a block before it goes back, unless the client
/// keeps too much: a program that uses now a block more of a class, and now a block less, would
/// lease and return a span each time.
const RIPE_WALKS: u8 = 3;
/// Spans that a class has when it begins to lease the next before it has run out: below that it is
/// not known to grow.
const PREFETCH_SPANS: usize = 4;
/// Spans looked at in one turn, some 50 ns each: an alloc of the heap's thread waits that long at
/// most.
const SPANS_PER_SLICE: usize = 64;
/// Class indices have seven bits.
const N_CLASSES: usize = 128;

/// A heap, and whose turn it is there.
pub(crate) type HeapAgent = Agent<LocalHeap>;

/// The heap of one thread in one pool.
#[derive(Debug)]
pub(crate) struct LocalHeap {
    /// The key of the pool that it serves now; 0 while it serves none. What every alloc compares.
    pub(crate) gate: u64,
    /// The key of the pool that its spans are of; 0 for none.
    pub(crate) pool: u64,
    /// Where the next block of each class comes from, by class index.
    current: [Option<BoundSpan>; N_CLASSES],
    /// Everything else of a class, by class index.
    classes: Box<[ClassSpans]>,
    /// Scratch space.
    woken: Vec<u64>,
}

/// The spans of one class. Each has more than one block, but for the largest classes.
#[derive(Debug, Default)]
struct ClassSpans {
    /// By index, which is half of their key. Without the current one, and with gaps.
    spans: Vec<Option<BoundSpan>>,
    /// By index: how many walks in a row have found the span without a block.
    empty_walks: Vec<u8>,
    gaps: Vec<u32>,
    /// The index of the current one, if there is one.
    current: u32,
    /// Indices of spans that have a free block, as far as is known: the one that has waited
    /// longest is the next, as it has had most time for more of its blocks to be freed.
    available: VecDeque<u32>,
}

/// A walk through a heap that looks for spans to give back. It goes in slices, one turn each.
#[derive(Debug)]
pub(crate) struct Trim {
    /// What was found. The spans are no longer in the heap.
    pub(crate) leases: Vec<SpanLease>,
    /// Whether a later walk may find more.
    pub(crate) again: bool,
    pub(crate) everything: bool,
    /// Bytes of spans without a block that may still be kept.
    pub(crate) keep_bytes: u64,
    /// What was seen: a later walk that sees the same comes after nothing has happened, most
    /// likely.
    pub(crate) seen: Seen,
    class: usize,
    span: usize,
    kept: bool,
}

/// What a walk has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    spans: u64,
    free_blocks: u64,
}

impl Trim {
    /// Leaves an empty span to each class, and those that were in use not long ago: `keep_bytes` in
    /// all.
    pub(crate) fn idle(keep_bytes: u64) -> Self {
        Self {
            leases: Vec::new(),
            again: false,
            everything: false,
            keep_bytes,
            seen: Seen::default(),
            class: 0,
            span: 0,
            kept: false,
        }
    }

    /// Leaves no empty span.
    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::idle(0)
        }
    }

    /// Returns whether a span without a block may be kept.
    fn keep(&mut self, bytes: u64) -> bool {
        if self.everything || bytes > self.keep_bytes {
            return false;
        }
        self.keep_bytes -= bytes;
        true
    }

    /// Begins again at the first class, for another heap. What was found stays.
    pub(crate) fn restart(&mut self) {
        (self.class, self.span, self.kept) = (0, 0, false);
    }
}

impl LocalHeap {
    /// Returns a heap without spans, of no pool.
    pub(crate) fn new() -> Self {
        Self {
            gate: 0,
            pool: 0,
            current: [const { None }; N_CLASSES],
            classes: (0..N_CLASSES).map(|_| ClassSpans::default()).collect(),
            woken: Vec::new(),
        }
    }

    /// Takes the block of a class that was freed last, or one from the class's current span.
    #[inline]
    pub(crate) fn alloc(&mut self, right: Right<'_>, class: SizeClass) -> Option<RawBlock> {
        if let Some(block) = right.take_recent(class) {
            return Some(block);
        }
        let current = self.current.get_mut(usize::from(class.index()))?;
        current.as_mut()?.alloc(right)
    }

    /// As `alloc`, from whichever span has one: from those that are known to, then from those in
    /// which others have freed one, by the hints and at last by every exported block's word, since
    /// a hint may be lost with the process that owed it.
    #[cold]
    pub(crate) fn alloc_elsewhere(
        &mut self,
        right: Right<'_>,
        class: SizeClass,
    ) -> Option<RawBlock> {
        // Somebody may have come by since the heap was found without a block.
        if let Some(block) = self.alloc(right, class) {
            return Some(block);
        }
        let class = usize::from(class.index());
        loop {
            if let Some(current) = self.current[class].as_mut() {
                if let Some(block) = current.alloc(right) {
                    return Some(block);
                }
                self.put_current_aside(right, class);
            }
            let spans = &mut self.classes[class];
            let next = match spans.take_available(right) {
                Some(next) => next,
                None => {
                    self.take_woken(right);
                    let spans = &mut self.classes[class];
                    spans
                        .take_available(right)
                        .or_else(|| spans.search(right, false))
                        .or_else(|| spans.search(right, true))?
                }
            };
            self.current[class] = Some(next);
        }
    }

    /// Returns how many spans to lease when a class has run out.
    pub(crate) fn wanted(&self, class: SizeClass) -> u32 {
        let n = self.classes[usize::from(class.index())].count();
        let wanted = n.clamp(1, FIRST_SPANS).max(n / GROWTH_DIVISOR);
        let limit = (MAX_LEASE_BYTES / class.span_pages().bytes()).max(1);
        u32::try_from(limit.min(wanted as u64)).expect("at most 32 MiB in pages")
    }

    /// Adds a span.
    pub(crate) fn add(&mut self, right: Right<'_>, span: LeasedSpan) {
        let class = usize::from(span.lease().class.index());
        let spans = &mut self.classes[class];
        let index = spans.gaps.pop().unwrap_or_else(|| {
            spans.spans.push(None);
            spans.empty_walks.push(0);
            u32::try_from(spans.spans.len() - 1).expect("a pool has fewer than 2^32 pages")
        });
        let span = BoundSpan::bind(span, right, key(class, index));
        spans.spans[index as usize] = Some(span);
        spans.empty_walks[index as usize] = 0;
        spans.available.push_back(index);
    }

    /// Returns whether a class grows, and has begun with the last span that it has.
    pub(crate) fn runs_dry(&self, right: Right<'_>, class: SizeClass) -> bool {
        let index = usize::from(class.index());
        let spans = &self.classes[index];
        // A span that was full before is one of those that come back when their blocks are freed.
        let is_fresh = |span: &BoundSpan| {
            let lease = span.lease();
            span.free_count(right) + 1 >= lease.class.slots(lease.pages)
        };
        spans.available.is_empty()
            && spans.count() >= PREFETCH_SPANS
            && self.current[index].as_ref().is_some_and(is_fresh)
    }

    /// Takes out a span of a class that has a free block, for another heap.
    pub(crate) fn take_one(&mut self, right: Right<'_>, class: SizeClass) -> Option<LeasedSpan> {
        let class = usize::from(class.index());
        self.put_current_aside(right, class);
        self.take_woken(right);
        let spans = &mut self.classes[class];
        let span = spans
            .take_available(right)
            .or_else(|| spans.search(right, false))?;
        spans.gaps.push(spans.current);
        Some(span.unbind(right))
    }

    /// Takes out every span.
    pub(crate) fn take_all(&mut self, right: Right<'_>) -> Vec<LeasedSpan> {
        let mut all = Vec::new();
        for class in 0..N_CLASSES {
            self.put_current_aside(right, class);
            let spans = std::mem::take(&mut self.classes[class]);
            all.extend(spans.spans.into_iter().flatten().map(|s| s.unbind(right)));
        }
        all
    }

    /// Goes on with a walk; returns whether it is over.
    pub(crate) fn trim(&mut self, right: Right<'_>, trim: &mut Trim) -> bool {
        let mut budget = SPANS_PER_SLICE;
        while trim.class < N_CLASSES {
            if self.classes[trim.class].spans.is_empty() {
                trim.class += 1;
                continue;
            }
            self.put_current_aside(right, trim.class);
            let spans = &mut self.classes[trim.class];
            while trim.span < spans.spans.len() {
                if budget == 0 {
                    return false;
                }
                budget -= 1;
                spans.trim_one(right, trim);
                trim.span += 1;
            }
            trim.class += 1;
            trim.span = 0;
            trim.kept = false;
        }
        true
    }

    /// Returns whether no span is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.count() == 0)
    }

    /// Returns how many blocks of `owner` are alive: private ones and those it shared. Blocks of
    /// others (kept, taken, adopted) may lie in the same spans.
    pub(crate) fn owned_count(
        &mut self,
        right: Right<'_>,
        memory: &PoolMemory,
        owner: SessionNumber,
    ) -> u64 {
        let others = self.classes.iter_mut().flat_map(|class| &mut class.spans);
        self.current
            .iter_mut()
            .chain(others)
            .flatten()
            .map(|span| {
                span.collect(right, true);
                u64::from(span.private_count(right)) + shared_count(memory, span.lease(), owner)
            })
            .sum()
    }

    /// Puts the current span of a class among the others, and has it woken.
    fn put_current_aside(&mut self, right: Right<'_>, class: usize) {
        if let Some(mut span) = self.current[class].take() {
            let spans = &mut self.classes[class];
            if span.free_count(right) == 0 {
                span.set_aside(right);
            } else {
                spans.available.push_back(spans.current);
            }
            spans.spans[spans.current as usize] = Some(span);
        }
    }

    fn take_woken(&mut self, right: Right<'_>) {
        right.take_woken(&mut self.woken);
        for key in self.woken.drain(..) {
            let (class, index) = of_key(key);
            self.classes[class].available.push_back(index);
        }
    }
}

/// Returns how many blocks in a span `owner` shares.
pub(crate) fn shared_count(memory: &PoolMemory, lease: SpanLease, owner: SessionNumber) -> u64 {
    let words = memory.slot_run(lease.first_page, lease.class, lease.pages);
    let shared = words
        .into_iter()
        .flat_map(|run| run.words())
        .filter(|word| {
            let word = word.load();
            word.state() == Some(SlotState::Shared) && word.owner() == owner
        });
    shared.count() as u64
}

impl ClassSpans {
    fn count(&self) -> usize {
        self.spans.len() - self.gaps.len()
    }

    /// Takes out the next available span, to be the current one. What is no longer what it was
    /// listed as is passed over.
    fn take_available(&mut self, right: Right<'_>) -> Option<BoundSpan> {
        while let Some(index) = self.available.pop_front() {
            let place = self.spans.get_mut(index as usize);
            if let Some(place) = place
                && let Some(span) = place
            {
                if span.free_count(right) > 0 {
                    self.current = index;
                    return place.take();
                }
                span.set_aside(right);
            }
        }
        None
    }

    /// Looks at every span for what others have freed there.
    fn search(&mut self, right: Right<'_>, thorough: bool) -> Option<BoundSpan> {
        for (index, span) in (0..).zip(&mut self.spans) {
            if let Some(span) = span
                && span.collect(right, thorough) > 0
            {
                self.available.push_back(index);
            }
        }
        self.take_available(right)
    }

    fn trim_one(&mut self, right: Right<'_>, trim: &mut Trim) {
        let place = &mut self.spans[trim.span];
        let Some(span) = place else {
            return;
        };
        span.collect(right, trim.everything);
        trim.seen.spans += 1;
        trim.seen.free_blocks += u64::from(span.free_count(right));
        let empty_walks = &mut self.empty_walks[trim.span];
        if !span.is_empty(right) {
            *empty_walks = 0;
            trim.again = true;
            return;
        }
        *empty_walks = empty_walks.saturating_add(1);
        let bytes = span.lease().pages.bytes();
        let is_first = !std::mem::replace(&mut trim.kept, true);
        if (is_first || *empty_walks < RIPE_WALKS) && trim.keep(bytes) {
            trim.again |= !is_first;
            return;
        }
        let index = u32::try_from(trim.span).expect("indices have 32 bits");
        let Some(span) = place.take() else {
            return;
        };
        match span.unbind(right).detach() {
            Ok(lease) => {
                trim.leases.push(lease);
                self.gaps.push(index);
            }
            Err(span) => {
                let class = usize::from(span.lease().class.index());
                *place = Some(BoundSpan::bind(span, right, key(class, index)));
                self.available.push_back(index);
            }
        }
    }
}

/// What a span is called when it wakes: its class and its index there.
fn key(class: usize, index: u32) -> u64 {
    (class as u64) << 32 | u64::from(index)
}

fn of_key(key: u64) -> (usize, u32) {
    let class = usize::try_from(key >> 32).expect("class indices have seven bits");
    (class, u32::try_from(key & 0xffff_ffff).expect("masked"))
}

/// Returns whether a span's first page is a multiple of `align_pages`. The payload starts at a
/// multiple of 2 MiB, the largest alignment there is.
pub(crate) fn is_aligned(first: PageIndex, align_pages: PageCount) -> bool {
    first.get().is_multiple_of(align_pages.get().max(1))
}

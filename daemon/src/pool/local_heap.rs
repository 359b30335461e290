//! The daemon's own local heap: the spans it leases to itself for blocks that are allocated by
//! RPC. Policy only; which block is free is the business of [`LeasedSpan`].

use std::collections::{BTreeMap, BTreeSet};

use goumem_alloc::{PageIndex, SizeClass};
use goumem_shm::{LeasedSpan, RawBlock, SpanLease};

/// Spans by their first page, and per class those that may have a free block.
#[derive(Debug, Default)]
pub(crate) struct LocalHeap {
    spans: BTreeMap<PageIndex, LeasedSpan>,
    /// Whether a span may be empty: it is kept for the next block of its class, for a while.
    may_idle: bool,
    /// By class index, as far as there have been spans.
    classes: Vec<ClassSpans>,
}

#[derive(Debug, Default)]
struct ClassSpans {
    all: BTreeSet<PageIndex>,
    available: BTreeSet<PageIndex>,
    /// Calls for more spans since the class was last searched for freed blocks.
    misses: usize,
}

impl LocalHeap {
    /// Takes a free block of a class, or returns `None` when the heap needs another span.
    pub(crate) fn alloc(&mut self, class: SizeClass) -> Option<RawBlock> {
        let spans = self.classes.get_mut(usize::from(class.index()))?;
        if spans.available.is_empty() {
            // Blocks freed through a mapping only left a hint. Looking at every span each time
            // would make n allocations of one-block spans cost n²; so look as often as doubles.
            spans.misses += 1;
            if spans.misses >= spans.all.len() {
                spans.misses = 0;
                self.collect_class(class, false);
            }
        }
        let spans = self.classes.get_mut(usize::from(class.index()))?;
        while let Some(&first) = spans.available.first() {
            if let Some(span) = self.spans.get_mut(&first)
                && let Some(block) = span.alloc()
            {
                if span.free_count() == 0 {
                    spans.available.remove(&first);
                }
                return Some(block);
            }
            spans.available.remove(&first);
        }
        None
    }

    /// Takes a free block of one span.
    pub(crate) fn alloc_in(&mut self, first: PageIndex) -> Option<RawBlock> {
        let span = self.spans.get_mut(&first)?;
        let block = span.alloc();
        let class = usize::from(span.lease().class.index());
        if span.free_count() == 0
            && let Some(spans) = self.classes.get_mut(class)
        {
            spans.available.remove(&first);
        }
        block
    }

    /// Adds a span that was granted to the daemon.
    pub(crate) fn insert(&mut self, span: LeasedSpan) {
        let lease = span.lease();
        let class = usize::from(lease.class.index());
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, ClassSpans::default);
        }
        let spans = &mut self.classes[class];
        spans.all.insert(lease.first_page);
        spans.available.insert(lease.first_page);
        self.spans.insert(lease.first_page, span);
    }

    /// Notes that the block in `slot` of a span was freed by RPC. Returns the span's lease if it
    /// is empty now and another span of its class has room, so that it can be returned.
    pub(crate) fn freed(&mut self, first: PageIndex, slot: u32) -> Option<SpanLease> {
        let span = self.spans.get_mut(&first)?;
        span.reclaim(slot);
        let lease = span.lease();
        let empty = span.is_empty();
        let spans = self.classes.get_mut(usize::from(lease.class.index()))?;
        spans.available.insert(first);
        if empty && spans.available.len() == 1 && !lease.class.is_large() {
            self.may_idle = true;
            return None;
        }
        if empty { self.remove(first) } else { None }
    }

    /// Finds the blocks freed through mappings and takes out every span that is empty.
    pub(crate) fn take_empty(&mut self) -> Vec<SpanLease> {
        self.may_idle = false;
        let firsts: Vec<PageIndex> = self.spans.keys().copied().collect();
        for &first in &firsts {
            if let Some(span) = self.spans.get_mut(&first) {
                span.collect(true);
                if span.free_count() > 0
                    && let Some(spans) = self
                        .classes
                        .get_mut(usize::from(span.lease().class.index()))
                {
                    spans.available.insert(first);
                }
            }
        }
        firsts
            .into_iter()
            .filter_map(|first| self.remove(first))
            .collect()
    }

    /// Returns whether `take_empty` may find something.
    pub(crate) fn may_idle(&self) -> bool {
        self.may_idle
    }

    /// Takes a span out if every block of it is free.
    fn remove(&mut self, first: PageIndex) -> Option<SpanLease> {
        if !self.spans.get(&first)?.is_empty() {
            return None;
        }
        let class = usize::from(self.spans.get(&first)?.lease().class.index());
        match self.spans.remove(&first)?.detach() {
            Ok(lease) => {
                if let Some(spans) = self.classes.get_mut(class) {
                    spans.all.remove(&first);
                    spans.available.remove(&first);
                }
                Some(lease)
            }
            Err(span) => {
                self.spans.insert(first, span);
                None
            }
        }
    }

    fn collect_class(&mut self, class: SizeClass, thorough: bool) {
        let Some(spans) = self.classes.get_mut(usize::from(class.index())) else {
            return;
        };
        for first in &spans.all {
            if let Some(span) = self.spans.get_mut(first) {
                span.collect(thorough);
                if span.free_count() > 0 {
                    spans.available.insert(*first);
                }
            }
        }
    }
}

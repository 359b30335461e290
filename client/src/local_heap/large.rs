//! Spans that are one block each, of all threads of the process. Leasing one is a call and a commit
//! of its pages, so a few that were freed are kept for the next block of about their size.

use goumem_alloc::{PageCount, SessionNumber, SizeClass};
use goumem_shm::leased_span::SpanLease;
use goumem_shm::{LeasedSpan, PoolMemory, RawBlock};

use super::{RIPE_WALKS, Trim, is_aligned, shared_count};

/// The most spans kept, and the most bytes in them: enough for a loop over a few buffers of a
/// video frame or a tensor, and little beside what such a program uses.
const MAX_IDLE_SPANS: usize = 4;
const MAX_IDLE_BYTES: u64 = 64 << 20;
/// A block may take a span that is longer than it needs by a quarter: more would hide from the
/// pool's statistics what it is short of.
const MAX_EXCESS_DIVISOR: u32 = 4;

/// The large spans of a pool.
#[derive(Debug)]
pub(crate) struct LargeSpans {
    max_idle_bytes: u64,
    /// Last seen with a living block.
    busy: Vec<LeasedSpan>,
    /// Without one, the oldest first.
    idle: Vec<Idle>,
    /// Taken out of the two, to be returned.
    surplus: Vec<SpanLease>,
}

#[derive(Debug)]
struct Idle {
    span: LeasedSpan,
    /// How many walks have come by since.
    walks: u8,
}

impl LargeSpans {
    /// Returns none, of which at most so many bytes will be kept idle.
    pub(crate) fn new(max_idle_bytes: u64) -> Self {
        Self {
            max_idle_bytes: max_idle_bytes.min(MAX_IDLE_BYTES),
            busy: Vec::new(),
            idle: Vec::new(),
            surplus: Vec::new(),
        }
    }

    /// Adds a span, whose block is in use.
    pub(crate) fn add(&mut self, span: LeasedSpan) {
        self.busy.push(span);
    }

    /// Takes a cached span for a block that needs `pages`.
    pub(crate) fn alloc(
        &mut self,
        class: SizeClass,
        pages: PageCount,
        align_pages: PageCount,
    ) -> Option<RawBlock> {
        let longest = pages.get().saturating_add(pages.get() / MAX_EXCESS_DIVISOR);
        let fits = |lease: SpanLease| {
            lease.class == class
                && (pages.get()..=longest).contains(&lease.pages.get())
                && is_aligned(lease.first_page, align_pages)
        };
        self.collect(false);
        let shortest = |idle: &(usize, &Idle)| idle.1.span.lease().pages;
        let (found, _) = self
            .idle
            .iter()
            .enumerate()
            .filter(|(_, idle)| fits(idle.span.lease()))
            .min_by_key(shortest)?;
        let mut span = self.idle.remove(found).span;
        let block = span.alloc();
        self.busy.push(span);
        block
    }

    /// Moves the spans whose block is gone to the idle ones, and the oldest of these out when
    /// they are too many.
    fn collect(&mut self, thorough: bool) {
        let mut index = 0;
        while index < self.busy.len() {
            let span = &mut self.busy[index];
            span.collect(thorough);
            if span.is_empty() {
                let span = self.busy.swap_remove(index);
                self.idle.push(Idle { span, walks: 0 });
            } else {
                index += 1;
            }
        }
        while self.idle.len() > MAX_IDLE_SPANS || self.idle_bytes() > self.max_idle_bytes {
            self.give_up(0);
        }
    }

    /// Gives up what is idle; it goes on with `trim`.
    pub(crate) fn trim(&mut self, trim: &mut Trim) {
        self.collect(trim.everything);
        let mut index = 0;
        while index < self.idle.len() {
            let idle = &mut self.idle[index];
            idle.walks += 1;
            if idle.walks <= RIPE_WALKS && trim.keep(idle.span.lease().pages.bytes()) {
                index += 1;
            } else {
                self.give_up(index);
            }
        }
        trim.seen.spans += (self.busy.len() + self.idle.len()) as u64;
        trim.leases.append(&mut self.surplus);
        trim.again |= !self.busy.is_empty() || !self.idle.is_empty();
    }

    /// Returns whether no span is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.busy.is_empty() && self.idle.is_empty() && self.surplus.is_empty()
    }

    /// Returns how many blocks of `owner` are alive.
    pub(crate) fn owned_count(&mut self, memory: &PoolMemory, owner: SessionNumber) -> u64 {
        self.busy
            .iter_mut()
            .map(|span| {
                span.collect(true);
                u64::from(span.private_count()) + shared_count(memory, span.lease(), owner)
            })
            .sum()
    }

    fn give_up(&mut self, index: usize) {
        match self.idle.remove(index).span.detach() {
            Ok(lease) => self.surplus.push(lease),
            Err(span) => self.busy.push(span),
        }
    }

    fn idle_bytes(&self) -> u64 {
        self.idle
            .iter()
            .map(|idle| idle.span.lease().pages.bytes())
            .sum()
    }
}

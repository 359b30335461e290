//! Looking at a pool without changing it: how full it is and how much of that is whose, and what
//! each of its pages is. Words are counted in pieces, between which the lock is free, so that a
//! large pool can be looked at often and holds up nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use goumem_alloc::{Offset, PAGE_BYTES, PageCount, PageIndex, PageState, SessionNumber};
use goumem_proto::model::{
    BlockState, MapPool, MappedBlock, MappedSpan, PageRun, PoolMap, RunState,
};
use goumem_shm::pool_memory::BlockPlace;
use goumem_shm::records::RecordKind;
use goumem_shm::slot::{SlotSnapshot, SlotState};

use super::{Pool, PoolState, Span};

/// How many words are looked at before others get the lock: some 100 µs.
const WORDS_AT_A_TIME: u64 = 65_536;

/// How full a pool is, and how much of that is whose.
#[derive(Debug, Default)]
pub(crate) struct PoolCount {
    pub(crate) capacity_bytes: u64,
    pub(crate) committed_bytes: u64,
    pub(crate) table_bytes: u64,
    pub(crate) leased_bytes: u64,
    pub(crate) daemon_bytes: u64,
    pub(crate) abandoned_bytes: u64,
    pub(crate) free_committed_bytes: u64,
    pub(crate) largest_free_bytes: u64,
    /// The longest run of pages that could be granted, and all that could be.
    pub(crate) largest_run_bytes: u64,
    pub(crate) grantable_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) requested_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) kept_blocks: u64,
    pub(crate) named_blocks: u64,
    pub(crate) condemned_blocks: u64,
    pub(crate) pins: u64,
    pub(crate) leases: u64,
    pub(crate) destroying: bool,
    /// The sessions that map it.
    pub(crate) mapped_by: Vec<SessionNumber>,
    pub(crate) shares: BTreeMap<SessionNumber, Share>,
}

/// What one session holds of a pool.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    pub(crate) leased_bytes: u64,
    pub(crate) rpc_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) pins: u64,
}

/// Whose names a map may say: what it shows of other sessions is that there is somebody.
pub(crate) trait Sees {
    /// Returns the user of a session that the viewer may know of.
    fn user_of(&self, session: SessionNumber) -> Option<u32>;
}

impl Pool {
    /// Counts what is in the pool. Unlike `stat` it gives nothing back and drops nothing.
    pub(crate) fn count(&self) -> PoolCount {
        let mut count = self.count_without_words();
        let mut next = PageIndex::new(0);
        while let Some(reached) = self.count_piece(next, &mut count) {
            next = reached;
            // Who waits for the lock gets it: a mutex hands nothing over by itself.
            std::thread::yield_now();
        }
        count
    }

    /// Counts what one hold of the lock is enough for, and returns where to go on.
    fn count_piece(&self, from: PageIndex, count: &mut PoolCount) -> Option<PageIndex> {
        let state = self.lock();
        let mut words = 0;
        for (&first, &span) in state.spans.range(from..) {
            if words >= WORDS_AT_A_TIME {
                return Some(first);
            }
            words += 1 + u64::from(span.class.slots(span.pages));
            self.count_span(&state, first, span, count);
        }
        None
    }

    fn count_without_words(&self) -> PoolCount {
        let state = self.lock();
        let left = state.heap.quota_pages().get() - state.heap.granted_pages().get();
        let mut count = PoolCount {
            capacity_bytes: state.heap.quota_pages().bytes(),
            committed_bytes: state.heap.committed_pages().bytes(),
            table_bytes: state.data_tables.bytes() + state.control_tables.bytes(),
            free_committed_bytes: state.heap.free_committed_pages().bytes(),
            largest_free_bytes: self.largest_free_bytes(&state),
            largest_run_bytes: state.heap.largest_free_pages().bytes(),
            grantable_bytes: PageCount::new(left).bytes(),
            pins: state.records.pin_count() as u64,
            destroying: state.destroying,
            mapped_by: state.mapped_by.sessions(),
            ..PoolCount::default()
        };
        for session in state.records.pinners() {
            count.shares.entry(session).or_default().pins += 1;
        }
        count
    }

    fn count_span(&self, state: &PoolState, first: PageIndex, span: Span, count: &mut PoolCount) {
        let bytes = span.pages.bytes();
        match span.lessee {
            SessionNumber::NOBODY => count.abandoned_bytes += bytes,
            lessee => {
                count.leased_bytes += bytes;
                count.leases += 1;
                if lessee == SessionNumber::DAEMON {
                    count.daemon_bytes += bytes;
                } else {
                    count.shares.entry(lessee).or_default().leased_bytes += bytes;
                }
            }
        }
        self.each_block(first, span, |at, word, state_of| {
            if state_of == SlotState::Condemned {
                count.condemned_blocks += 1;
                return;
            }
            let used_bytes = used_bytes(span);
            count.blocks += 1;
            count.used_bytes += used_bytes;
            count.requested_bytes += self.length_of(&at);
            if state_of == SlotState::Kept {
                count.kept_blocks += 1;
                count.named_blocks += u64::from(self.name_of(state, &at, word).is_some());
            } else if state.mapped_by.may_hold(word.owner()) {
                // Words may name any session; those that never came here hold nothing.
                let share = count.shares.entry(word.owner()).or_default();
                share.blocks += 1;
                if span.lessee == SessionNumber::DAEMON {
                    share.rpc_bytes += used_bytes;
                }
            }
        });
    }

    /// Shows what each page is, from the page that the request names on, until the map is as long
    /// as it may be.
    pub(crate) fn map(&self, request: &MapPool, sees: &dyn Sees, now: Instant) -> PoolMap {
        let mut map = PoolMap {
            pool: self.info(),
            page_bytes: PAGE_BYTES,
            total_pages: self.memory.geometry().n_pages(),
            runs: Vec::new(),
            blocks: Vec::new(),
            next_page: None,
            truncated: false,
        };
        let mut next = request.first_page;
        while let Some(reached) = self.map_piece(next, request, sees, &mut map, now) {
            next = reached;
            // Who waits for the lock gets it: a mutex hands nothing over by itself.
            std::thread::yield_now();
        }
        map
    }

    /// Adds to the map what one hold of the lock is enough for, and returns where to go on.
    fn map_piece(
        &self,
        from: PageIndex,
        request: &MapPool,
        sees: &dyn Sees,
        map: &mut PoolMap,
        now: Instant,
    ) -> Option<PageIndex> {
        let state = self.lock();
        let mut words = 0;
        for (first, pages, page_state) in state.heap.runs_from(from) {
            if words >= WORDS_AT_A_TIME {
                return Some(first);
            }
            let span = match page_state {
                PageState::Granted => state.spans.get(&first).copied(),
                _ => None,
            };
            words += 1 + span.map_or(0, |span| u64::from(span.class.slots(span.pages)));
            let run = PageRun {
                first_page: first,
                pages,
                state: run_state(page_state, span),
                span: None,
            };
            if let Some(last) = map.runs.last_mut()
                && last.span.is_none()
                && span.is_none()
                && last.state == run.state
            {
                // Given back at different times, but the same to look at.
                last.pages = PageCount::new(last.pages.get() + pages.get());
                continue;
            }
            if map.runs.len() >= request.max_runs() {
                map.next_page = Some(first);
                map.truncated = true;
                return None;
            }
            let span =
                span.map(|span| self.map_span(&state, (first, span), request, sees, map, now));
            map.runs.push(PageRun { span, ..run });
        }
        None
    }

    fn map_span(
        &self,
        state: &PoolState,
        (first, span): (PageIndex, Span),
        request: &MapPool,
        sees: &dyn Sees,
        map: &mut PoolMap,
        now: Instant,
    ) -> MappedSpan {
        let uid = sees.user_of(span.lessee);
        let mut mapped = MappedSpan {
            size_class: span.class,
            block_bytes: used_bytes(span),
            slots: span.class.slots(span.pages),
            exported_blocks: 0,
            kept_blocks: 0,
            condemned_blocks: 0,
            pinned_blocks: 0,
            requested_bytes: 0,
            session: uid.map_or(SessionNumber::NOBODY, |_| span.lessee),
            uid: uid.unwrap_or(0),
            leased_for: span.leased_at.map(|at| {
                now.saturating_duration_since(at)
                    .max(Duration::from_millis(1))
            }),
        };
        self.each_block(first, span, |at, word, state_of| {
            mapped.pinned_blocks += u32::from(word.is_pinned());
            let length_bytes = self.length_of(&at);
            if state_of == SlotState::Condemned {
                mapped.condemned_blocks += 1;
            } else {
                mapped.exported_blocks += 1;
                mapped.requested_bytes += length_bytes;
                mapped.kept_blocks += u32::from(state_of == SlotState::Kept);
            }
            if map.blocks.len() >= request.max_blocks() {
                map.truncated = true;
                return;
            }
            let owner = word.owner();
            let known = state.mapped_by.may_hold(owner) && sees.user_of(owner).is_some();
            map.blocks.push(MappedBlock {
                handle: self.memory.handle(word.generation(), at.offset),
                state: block_state(state_of),
                size_bytes: length_bytes,
                used_bytes: used_bytes(span),
                type_tag: self.memory.shape(&at).load().type_tag,
                pinned: word.is_pinned(),
                session: if known { owner } else { SessionNumber::NOBODY },
                name: self.name_of(state, &at, word),
            });
        });
        mapped
    }

    /// Calls `look` for each block of a span that is not free, in order. A word that no transition
    /// writes is none.
    fn each_block(
        &self,
        first: PageIndex,
        span: Span,
        mut look: impl FnMut(BlockPlace, SlotSnapshot, SlotState),
    ) {
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
            return;
        };
        let start = self.memory.geometry().page_offset(first).get();
        for slot in 0..span.class.slots(span.pages) {
            let word = words.word(slot).load();
            let state = match word.state() {
                Some(SlotState::Free) | None => continue,
                Some(state) => state,
            };
            let at = BlockPlace {
                first_page: first,
                pages: span.pages,
                class: span.class,
                lessee: span.lessee,
                slot,
                offset: Offset::new(start + span.class.offset_of_slot(slot)),
            };
            look(at, word, state);
        }
    }

    /// Returns what was asked for, 0 where the shape word cannot be believed.
    fn length_of(&self, at: &BlockPlace) -> u64 {
        let shape = self.memory.checked_shape(at);
        shape.map_or(0, |shape| shape.length_bytes)
    }

    fn name_of(
        &self,
        state: &PoolState,
        at: &BlockPlace,
        word: SlotSnapshot,
    ) -> Option<goumem_proto::name::BlockName> {
        if word.state() != Some(SlotState::Kept) {
            return None;
        }
        let mut records = state.records.at(at.offset, RecordKind::Keep);
        let (_, record) = records.find(|(_, record)| record.generation == word.generation())?;
        record.name.parse().ok()
    }
}

/// What a block of the span takes of the pool.
fn used_bytes(span: Span) -> u64 {
    if span.class.is_large() {
        span.pages.bytes()
    } else {
        span.class.stride_bytes()
    }
}

fn run_state(state: PageState, span: Option<Span>) -> RunState {
    match (state, span.map(|span| span.lessee)) {
        (PageState::Free, _) => RunState::Free,
        (PageState::FreeCommitted, _) => RunState::FreeCommitted,
        (PageState::Granted, Some(SessionNumber::NOBODY)) => RunState::Abandoned,
        (PageState::Granted, Some(SessionNumber::DAEMON)) => RunState::Daemon,
        // In the middle of a span that was granted while the lock was free.
        (PageState::Granted, _) => RunState::Leased,
        (PageState::Retired, _) => RunState::Retired,
    }
}

fn block_state(state: SlotState) -> BlockState {
    match state {
        SlotState::Kept => BlockState::Kept,
        SlotState::Taken => BlockState::Taken,
        SlotState::Condemned => BlockState::Condemned,
        SlotState::Shared | SlotState::Free => BlockState::Shared,
    }
}

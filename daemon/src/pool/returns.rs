//! Taking spans back: the return sequence of docs/design.md, which one store commits, and giving
//! free memory back to the OS.

use std::time::Instant;

use goumem_alloc::{Generation, PageCount, PageIndex, SessionNumber, SizeClass};
use goumem_proto::model::ReturnSpans;
use goumem_shm::page_map::PageEntry;
use goumem_shm::root::RequestOp;
use goumem_shm::slot::SlotState;

use super::{Pool, PoolState, Span};
use crate::error::Error;
use crate::session::{Intent, Session};

/// How much is punched before others have their turn: a fraction of a millisecond's work.
const PURGE_TURN: PageCount = PageCount::new(64);

impl Pool {
    /// Takes leased spans back.
    ///
    /// # Errors
    /// `StaleLease`, `SpanInUse`; those before the offending span have been returned.
    pub fn return_spans(
        &self,
        session: &Session,
        request: &ReturnSpans,
        now: Instant,
    ) -> Result<u32, Error> {
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let cut_off = session.was_cut_off(request.request_id);
            let mut returned = 0;
            // All are checked before the first is returned: a refused call changes nothing.
            for span in &request.spans {
                let stale = Error::StaleLease {
                    first_page: span.first_page,
                    epoch: span.epoch,
                };
                let known = state.spans.get(&span.first_page).filter(|known| {
                    known.lessee == session.number && known.serial == session.serial
                });
                let same_epoch = self.epoch_of(span.first_page).get() == span.epoch;
                let Some(known) = known.filter(|_| same_epoch) else {
                    if cut_off {
                        // The first try, which was cut off, has returned it: nobody else can.
                        returned += 1;
                        continue;
                    }
                    return Err(stale);
                };
                let live = self.survivors(span.first_page, *known);
                if live > 0 {
                    return Err(Error::SpanInUse {
                        first_page: span.first_page,
                        live,
                    });
                }
            }
            let intent = Intent::of(RequestOp::ReturnSpans, self.id);
            session.intend(request.request_id, intent);
            for span in &request.spans {
                // A span that the call names twice is returned once.
                if state.spans.get(&span.first_page).is_some_and(|known| {
                    known.lessee == session.number && known.serial == session.serial
                }) && self.epoch_of(span.first_page).get() == span.epoch
                {
                    self.take_back(&mut state, span.first_page, Some(self.shared.millis(now)));
                    returned += 1;
                }
            }
            Ok(returned)
        })
    }

    /// The return sequence: floor → head FREE, epoch + 1 → the pages are free. With a time they
    /// stay committed for a while; without, they are punched at once. Every word is FREE.
    pub(super) fn take_back(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        idle_since_ms: Option<u64>,
    ) {
        let Some(span) = state.spans.remove(&first) else {
            return;
        };
        state.abandoned.remove(&first);
        let above = self
            .memory
            .slot_run(first, span.class, span.pages)
            .and_then(|words| {
                let highest = words.words().map(|word| word.load().generation()).max();
                // At the maximum no block could be exported any more.
                highest
                    .unwrap_or(Generation::ZERO)
                    .next()
                    .filter(|&floor| floor < Generation::MAX)
            });
        let epoch = self.epoch_of(first).next();
        if let Some(above) = above {
            for (_, record) in self.pages_of(first, span.pages) {
                record.set_floor(record.floor().max(above));
            }
        }
        // CRASH: floors raised without a return are harmless; after the head's store the span is
        // free, and interior entries without a head say nothing.
        let head = match above {
            Some(_) => PageEntry::Free { epoch },
            // The next life could not be told from this one: the pages are not granted again.
            None => PageEntry::Retired,
        };
        if let Some(entry) = self.memory.entry_word(first) {
            entry.publish(head);
        }
        for (page, _) in self.pages_of(first, span.pages).skip(1) {
            let epoch = self.epoch_of(page);
            if let Some(entry) = self.memory.entry_word(page) {
                entry.publish(if above.is_some() {
                    PageEntry::Free { epoch }
                } else {
                    head
                });
            }
        }
        if span.lessee != SessionNumber::DAEMON {
            self.shared.quotas.discharge(span.uid, span.pages.bytes());
        }
        self.discharge_blocks(state, first, span.pages);
        if above.is_none() {
            tracing::warn!(pool = %self.name, page = %first, "pages retired: generations spent");
            state.heap.give(first, span.pages, 0);
            if self.purge_run(state, first, span.pages) == 0 {
                state.stuck_bytes += span.pages.bytes();
            }
            let retired = state.heap.record_retired(first, span.pages);
            debug_assert!(retired, "what was given back just now is free");
            return;
        }
        match idle_since_ms {
            Some(since_ms) => {
                state.heap.give(first, span.pages, since_ms);
                for (page, _) in self.pages_of(first, span.pages) {
                    state.last_user.insert(page, span.serial);
                }
            }
            None => {
                state.heap.give(first, span.pages, 0);
                self.purge_run(state, first, span.pages);
            }
        }
    }

    /// Punches every run that has been free for that long, in turns.
    pub(super) fn purge_idle(&self, now_ms: u64, min_idle_ms: u64) -> u64 {
        let mut purged = 0;
        let mut from = PageIndex::new(0);
        loop {
            let mut state = self.lock_after_others();
            let run = state
                .heap
                .next_idle_run(from, PURGE_TURN, now_ms, min_idle_ms);
            let Some((first, pages)) = run else {
                return purged;
            };
            purged += self.purge_run(&mut state, first, pages);
            let Some(behind) = first.checked_add(pages) else {
                return purged;
            };
            from = behind;
        }
    }

    /// Punches a free committed run, and the table pages that only its spans used.
    pub(super) fn purge_run(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        pages: PageCount,
    ) -> u64 {
        let start = self.memory.geometry().page_offset(first).get();
        let range = start..start + pages.bytes();
        if let Err(error) = self.data.purge(range) {
            tracing::error!(pool = %self.name, %error, "could not purge free memory");
            return 0;
        }
        state.heap.mark_purged(first, pages);
        let mut released = pages.bytes();
        for (page, _) in self.pages_of(first, pages) {
            state.last_user.remove(&page);
        }
        // The fine tables have 32 KiB for each page, shared with no other: what lies between two
        // of these pages belongs to free pages too.
        let fine = SizeClass::from_index(0).unwrap_or(SizeClass::LARGE);
        let geometry = self.memory.geometry();
        for part in [
            geometry.slot_run(first, fine, pages),
            geometry.shape_run(first, fine, pages),
        ] {
            let runs = state.data_tables.remove_inside(&part);
            let (Some(start), Some(end)) = (runs.first(), runs.last()) else {
                continue;
            };
            match self.data.purge(start.start..end.end) {
                Ok(()) => released += runs.iter().map(|run| run.end - run.start).sum::<u64>(),
                Err(error) => {
                    tracing::error!(pool = %self.name, %error, "could not purge tables");
                    runs.iter().for_each(|run| state.data_tables.insert(run));
                }
            }
        }
        self.shared.budget.release(released);
        pages.bytes()
    }

    /// Looks everywhere for memory that is free but not known to be: the daemon's own empty
    /// spans, and abandoned ones whose last block was freed.
    pub(super) fn return_idle(&self, state: &mut PoolState) {
        for lease in state.local.take_empty() {
            self.take_back(state, lease.first_page, None);
        }
        let abandoned: Vec<PageIndex> = state.abandoned.iter().copied().collect();
        for first in abandoned {
            if let Some(span) = state.spans.get(&first).copied() {
                self.return_abandoned(state, first, span, None);
            }
        }
    }

    /// Takes an abandoned span back if its last block was freed.
    pub(super) fn return_abandoned(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        span: Span,
        idle_since_ms: Option<u64>,
    ) {
        let freed = self.reconcile(state, first, span);
        self.say_forged(first, freed);
        if self.survivors(first, span) == 0 {
            self.take_back(state, first, idle_since_ms);
        }
    }

    /// Returns how many words of a span are not FREE.
    pub(super) fn survivors(&self, first: PageIndex, span: Span) -> u64 {
        let run = self.memory.slot_run(first, span.class, span.pages);
        let alive = run.map_or(0, |words| {
            words
                .words()
                .filter(|word| word.load().state() != Some(SlotState::Free))
                .count()
        });
        alive as u64
    }
}

//! The page map of a pool that an earlier daemon served: its spans, in the order of their places,
//! and what a pool knows of all of them at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{
    OS_PAGE_BYTES, PageCount, PageHeap, PageIndex, Recorded, SessionNumber, WORD_BYTES,
};
use goumem_proto::model::Backing;
use goumem_shm::page_map::{PageEntry, SpanEpoch};

use super::{Owners, within};
use crate::error::Error;
use crate::pool::{Pool, PoolState, Span, TablePages};
use crate::session::Session;

/// A span of the page map, and its epoch.
pub(super) type FoundSpan = (PageIndex, Span, SpanEpoch);

/// What begins at a page.
enum Entry {
    Span(Span, SpanEpoch),
    /// A page that is out of use for good.
    Retired,
    /// A free page.
    Free,
    /// A page whose entry nobody can have written. It is free now.
    Odd,
}

/// Who the owners are, one after the other: spans in a row are often one session's.
struct Lessees<'a> {
    owners: Owners<'a>,
    last: Option<(SessionNumber, Option<Arc<Session>>)>,
}

impl Lessees<'_> {
    fn get(&mut self, number: SessionNumber) -> Option<&Session> {
        let last = match self.last.take() {
            Some(last) if last.0 == number => last,
            _ => (number, self.owners.get(number)),
        };
        self.last.insert(last).1.as_deref()
    }
}

impl Pool {
    /// Walks the heads of the page map. Returns the spans, and how many entries could not be.
    pub(super) fn recover_spans(
        &self,
        state: &mut PoolState,
        written: &[Range<u64>],
        owners: Owners<'_>,
    ) -> Result<(Vec<FoundSpan>, u32), Error> {
        let entries = self.memory.geometry().entries_range();
        let total = self.memory.geometry().n_pages().get();
        let page_at = |offset: u64| {
            let page = (offset - entries.start) / WORD_BYTES;
            u32::try_from(page).unwrap_or(total).min(total)
        };
        let mut lessees = Lessees { owners, last: None };
        let (mut found, mut retired, mut odd) = (Vec::new(), Vec::new(), 0);
        let mut next = 0;
        for run in within(written, &entries) {
            next = next.max(page_at(run.start));
            while next < page_at(run.end) {
                let page = PageIndex::new(next);
                next += match self.recover_page(page, &mut lessees) {
                    Entry::Span(span, epoch) => {
                        found.push((page, span, epoch));
                        span.pages.get()
                    }
                    Entry::Retired => {
                        retired.push(page);
                        1
                    }
                    Entry::Free => 1,
                    Entry::Odd => {
                        odd += 1;
                        1
                    }
                };
            }
        }
        let granted = found
            .iter()
            .map(|&(first, span, _)| (first, span.pages, Recorded::Granted));
        let retired = retired
            .into_iter()
            .map(|page| (page, PageCount::ONE, Recorded::Retired));
        let mut recorded: Vec<_> = granted.chain(retired).collect();
        recorded.sort_unstable_by_key(|&(first, ..)| first);
        let heap = PageHeap::from_page_map(self.memory.geometry().n_pages(), recorded);
        state.heap = heap.ok_or(Error::Invariant {
            what: "each span begins behind the one before it",
        })?;
        state.spans = found
            .iter()
            .map(|&(first, span, _)| (first, span))
            .collect();
        state.abandoned = found
            .iter()
            .filter(|(_, span, _)| span.lessee == SessionNumber::NOBODY)
            .map(|&(first, ..)| first)
            .collect();
        // All that is recorded now is given back if the pool cannot be had after all.
        let mut charged = BTreeMap::<u32, u64>::new();
        for (_, span, _) in &found {
            if span.lessee != SessionNumber::DAEMON {
                *charged.entry(span.uid).or_default() += span.pages.bytes();
            }
        }
        for (uid, bytes) in charged {
            self.shared.quotas.record(uid, bytes);
        }
        let bytes = found.iter().map(|(_, span, _)| span.pages.bytes()).sum();
        self.shared.budget.record(bytes);
        Ok((found, odd))
    }

    /// Takes over what begins at a page.
    fn recover_page(&self, page: PageIndex, lessees: &mut Lessees<'_>) -> Entry {
        match self.memory.entry(page) {
            Some(PageEntry::Head {
                class,
                lessee,
                epoch,
                pages,
            }) if self.memory.slot_run(page, class, pages).is_some() => {
                let (lessee, serial, uid) = match lessees.get(lessee) {
                    Some(session) => (lessee, session.serial, session.uid),
                    None if lessee == SessionNumber::DAEMON => (lessee, 0, 0),
                    None => (SessionNumber::NOBODY, 0, self.permissions.uid),
                };
                let span = Span {
                    pages,
                    class,
                    lessee,
                    serial,
                    uid,
                    leased_at: None,
                };
                Entry::Span(span, epoch)
            }
            Some(PageEntry::Retired) => Entry::Retired,
            Some(PageEntry::Free { .. }) => Entry::Free,
            found @ (Some(PageEntry::Head { .. } | PageEntry::Interior { .. }) | None) => {
                let epoch = self.epoch_of(page).next();
                if let Some(entry) = self.memory.entry_word(page) {
                    entry.publish(PageEntry::Free { epoch });
                }
                // A page whose head is free is free as well; a head that fits nowhere nobody wrote.
                if matches!(found, Some(PageEntry::Interior { .. })) {
                    return Entry::Free;
                }
                tracing::warn!(pool = %self.name, %page, "an entry that cannot be was freed");
                Entry::Odd
            }
        }
    }

    /// Backs the words of the spans, which are backed already, unless nobody wrote them.
    pub(super) fn back_tables(
        &self,
        state: &mut PoolState,
        found: &[FoundSpan],
        written: &[Range<u64>],
        owners: Owners<'_>,
        now: Instant,
    ) -> Result<(), Error> {
        let mut tables = Vec::new();
        let mut parts: [Range<u64>; 3] = [const { 0..0 }; 3];
        for &(first, span, _) in found {
            let of_span = self.data_tables_of(first, span.class, span.pages);
            for (part, range) in parts.iter_mut().zip(of_span) {
                // Spans in a row have their words in a row, on the same OS pages or the next.
                let next_page = part.end.next_multiple_of(OS_PAGE_BYTES);
                if (part.start..=next_page).contains(&range.start) {
                    part.end = part.end.max(range.end);
                } else {
                    tables.push(std::mem::replace(part, range));
                }
            }
        }
        tables.extend(parts);
        if owners.0.is_none() {
            // Nobody works on it, so the budget may refuse it.
            return self.commit_tables(state, &tables, &[], now);
        }
        let mut backed = TablePages::default();
        if self.backing != Backing::File {
            // What is in memory has memory. Of a file, a page that was written may have no place
            // on the disk yet.
            written.iter().for_each(|run| backed.insert(run));
        }
        for run in state.data_tables.missing(tables) {
            for run in backed.missing(std::iter::once(run.clone())) {
                let requested_bytes = run.end - run.start;
                self.data.commit(run).map_err(|source| Error::NoSpace {
                    requested_bytes,
                    source,
                })?;
            }
            self.shared.budget.record(run.end - run.start);
            state.data_tables.insert(&run);
        }
        Ok(())
    }

    pub(super) fn rewrite_entries(&self, first: PageIndex, span: Span, epoch: SpanEpoch) {
        // Written anew: a head inside of this span would be a second one over its pages.
        for (page, _) in self.pages_of(first, span.pages).skip(1) {
            let (class, epoch) = (span.class, self.epoch_of(page));
            if let (Some(entry), Some(back)) =
                (self.memory.entry_word(page), page.pages_since(first))
            {
                entry.publish(PageEntry::Interior { class, back, epoch });
            }
        }
        if span.lessee == SessionNumber::NOBODY {
            // Whose blocks are in it, only sweeps that look here find out.
            self.memory.note(first).set_holds_adopted();
            self.publish_head(first, span.class, span.pages, span.lessee, epoch.next());
        }
    }
}

//! A file-backed pool after a restart of the machine or the daemon: every session is gone, so
//! what is kept stays and the rest is free. CONTROL is read as outside data: what it cannot
//! vouch for is given up, never believed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use goumem_alloc::{Generation, OS_PAGE_BYTES, Offset, PageCount, PageIndex, SessionNumber};
use goumem_proto::name::BlockName;
use goumem_shm::page_map::{PageEntry, SpanEpoch};
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::slot::SlotState;

use super::{Pool, PoolParts, PoolState, Shared, Span};
use crate::error::Error;

/// Opens a pool again from its segments.
///
/// # Errors
/// `BudgetExhausted`, `NoSpace`; the files are left as they are.
pub(crate) fn recover(parts: PoolParts, shared: Arc<Shared>, now: Instant) -> Result<Pool, Error> {
    let capacity = parts.capacity_pages;
    let total = parts.memory.geometry().n_pages();
    // The page map may hold more than the quota allows now: quota last.
    let pool = Pool::new(
        PoolParts {
            capacity_pages: total,
            ..parts
        },
        shared,
    );
    {
        let mut state = pool.lock();
        let recovered = pool
            .commit_page_map(&mut state, now)
            .and_then(|()| pool.recover_records(&mut state, now))
            .and_then(|()| pool.recover_spans(&mut state, now));
        if let Err(error) = recovered {
            drop(state);
            pool.give_everything_back();
            return Err(error);
        }
        pool.purge_uncovered(&state);
        // A page map that nobody wrote may grant more than that: then no more is granted.
        let capacity = capacity.max(state.heap.granted_pages());
        let _ = state.heap.set_quota(capacity);
    }
    Ok(pool)
}

impl Pool {
    /// Backs what stands in the page map with memory: floors of free pages must not be lost to a
    /// punch. The rest stays sparse, as it was.
    fn commit_page_map(&self, state: &mut PoolState, now: Instant) -> Result<(), Error> {
        let geometry = self.memory.geometry();
        let step = usize::try_from(OS_PAGE_BYTES).unwrap_or(usize::MAX);
        let written = |&start: &u64| {
            let words = self.memory.control().atomic_slice_u64(start, step / 8);
            words.is_ok_and(|words| words.iter().any(|word| word.load(Ordering::Relaxed) != 0))
        };
        let written: Vec<_> = [geometry.entries_range(), geometry.page_records_range()]
            .into_iter()
            .flat_map(|range| range.step_by(step))
            .filter(written)
            .map(|start| start..start + OS_PAGE_BYTES)
            .collect();
        self.commit_tables(state, &[], &written, now)
    }

    /// Keeps the keep records whose block is alive; pins and holders died with their sessions.
    fn recover_records(&self, state: &mut PoolState, now: Instant) -> Result<(), Error> {
        for index in 0..goumem_alloc::MAX_RECORDS {
            let Some(slot) = self.memory.record(index) else {
                break;
            };
            let record = match slot.load() {
                Ok(None) => continue,
                Ok(Some(record)) => record,
                Err(commit) => {
                    tracing::warn!(pool = %self.name, index, commit, "unbelievable record dropped");
                    slot.clear();
                    continue;
                }
            };
            let named_twice = state.records.named(&record.name).is_some();
            let kept_twice = state
                .records
                .at(record.offset, RecordKind::Keep)
                .next()
                .is_some();
            let twice = named_twice || kept_twice;
            if record.kind != RecordKind::Keep || twice || !self.is_recoverable(&record) {
                slot.clear();
                continue;
            }
            let table = self.memory.geometry().records_range().start;
            let range = super::records::record_range(table, index);
            self.commit_tables(state, &[], &[range], now)?;
            state.records.insert(index, record);
        }
        Ok(())
    }

    /// Whether a keep record's name is one, and its block lies at the start of a slot and lives in
    /// that generation.
    fn is_recoverable(&self, record: &Record) -> bool {
        let nameable = record.name.is_empty() || BlockName::try_from(record.name.as_str()).is_ok();
        nameable
            && self.memory.block_at(record.offset).is_some_and(|at| {
                self.memory.slot(&at).load().is_live(record.generation)
                    && self.memory.checked_shape(&at).is_ok()
            })
    }

    /// Walks the heads of the page map: words without a record are freed, empty spans go.
    fn recover_spans(&self, state: &mut PoolState, now: Instant) -> Result<(), Error> {
        let keeps: HashMap<Offset, Generation> = state
            .records
            .of_kind(RecordKind::Keep)
            .map(|(_, record)| (record.offset, record.generation))
            .collect();
        let total = self.memory.geometry().n_pages();
        let mut page = PageIndex::new(0);
        while page.get() < total.get() {
            let next = match self.memory.entry(page) {
                Some(PageEntry::Head {
                    class,
                    epoch,
                    pages,
                    ..
                }) if self.memory.slot_run(page, class, pages).is_some()
                    && state.heap.record_alloc(page, pages) =>
                {
                    let uid = self.permissions.uid;
                    let span = Span {
                        pages,
                        class,
                        lessee: SessionNumber::NOBODY,
                        serial: 0,
                        uid,
                    };
                    self.shared.budget.record(pages.bytes());
                    self.shared.quotas.record(uid, pages.bytes());
                    self.recover_span(state, page, span, epoch, &keeps, now)?;
                    page.checked_add(pages)
                }
                Some(PageEntry::Retired) => {
                    // The page is above every span recorded so far, so nothing overlaps it.
                    let _ = state.heap.record_retired(page, PageCount::ONE);
                    page.checked_add(PageCount::ONE)
                }
                Some(PageEntry::Free { .. }) => page.checked_add(PageCount::ONE),
                Some(PageEntry::Head { .. } | PageEntry::Interior { .. }) | None => {
                    // A head that fits nowhere, or a page whose head is free: free as well.
                    let epoch = self.epoch_of(page).next();
                    if let Some(entry) = self.memory.entry_word(page) {
                        entry.publish(PageEntry::Free { epoch });
                    }
                    page.checked_add(PageCount::ONE)
                }
            };
            let Some(next) = next else { break };
            page = next;
        }
        Ok(())
    }

    fn recover_span(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        span: Span,
        epoch: SpanEpoch,
        keeps: &HashMap<Offset, Generation>,
        now: Instant,
    ) -> Result<(), Error> {
        let geometry = self.memory.geometry();
        let (data, control) = self.tables_of(first, span.class, span.pages);
        // Known before anything can fail, so that what was recorded is given back.
        state.spans.insert(first, span);
        state.abandoned.insert(first);
        self.commit_tables(state, &data, &control, now)?;
        // Written anew: a head inside of this span would be a second one over its pages.
        for (page, _) in self.pages_of(first, span.pages).skip(1) {
            let (class, epoch) = (span.class, self.epoch_of(page));
            if let (Some(entry), Some(back)) =
                (self.memory.entry_word(page), page.pages_since(first))
            {
                entry.publish(PageEntry::Interior { class, back, epoch });
            }
        }
        let epoch = epoch.next();
        self.publish_head(first, span.class, span.pages, SessionNumber::NOBODY, epoch);
        self.memory.note(first).reset();
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
            return Ok(());
        };
        let start = geometry.page_offset(first).get();
        for slot in 0..span.class.slots(span.pages) {
            let word = words.word(slot);
            let found = word.load();
            if found.state() == Some(SlotState::Free) {
                continue;
            }
            let offset = Offset::new(start + span.class.offset_of_slot(slot));
            match keeps.get(&offset) {
                Some(&generation) if found.is_live(generation) => {
                    // The record came first: redo the keep if the crash was between the two.
                    let _ = word.unpin();
                    let _ = word.keep(generation, found.owner());
                }
                _ => word.force_free(),
            }
        }
        if self.survivors(first, span) == 0 {
            self.take_back(state, first, None);
        }
        Ok(())
    }

    /// Punches what no span covers: a crash may have committed it for nobody.
    fn purge_uncovered(&self, state: &PoolState) {
        let payload = self.memory.geometry().payload_range();
        let mut from = payload.start;
        let covered = state.spans.iter().map(|(&first, span)| {
            let start = self.memory.geometry().page_offset(first).get();
            start..start + span.pages.bytes()
        });
        for covered in covered.chain(std::iter::once(payload.end..payload.end)) {
            if from < covered.start
                && let Err(error) = self.data.purge(from..covered.start)
            {
                tracing::warn!(pool = %self.name, %error, "could not purge uncovered memory");
            }
            from = covered.end;
        }
    }
}

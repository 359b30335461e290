//! The memory behind a span: payload and tables, committed within the budget before the span is
//! granted, and without what others left there.

use std::ops::Range;
use std::time::Instant;

use goumem_alloc::{
    ENTRY_BYTES, NOTE_BYTES, PAGE_RECORD_BYTES, PageCount, PageIndex, Reservation, SizeClass,
};

use super::span::Lessee;
use super::{Pool, PoolState};
use crate::error::Error;

impl Pool {
    /// The first part of the lease sequence: memory behind the pages and their tables.
    pub(super) fn back(
        &self,
        state: &mut PoolState,
        reservation: &Reservation,
        class: SizeClass,
        lessee: Lessee,
        now: Instant,
    ) -> Result<(), Error> {
        let (first, pages) = (reservation.first(), reservation.pages());
        if self.memory.slot_run(first, class, pages).is_none() {
            return Err(Error::Invariant {
                what: "reserved pages are in the pool",
            });
        }
        let data = self.data_tables_of(first, class, pages);
        let control = self.control_tables_of(first, pages);
        self.commit_tables(state, &data, &control, now)?;
        self.commit_payload(reservation, now)?;
        let hidden = self.hide_old_contents(state, first, pages, reservation.uncommitted(), lessee);
        hidden.inspect_err(|_| self.purge_payload(reservation.uncommitted()))
    }

    fn commit_payload(&self, reservation: &Reservation, now: Instant) -> Result<(), Error> {
        let bytes = reservation.uncommitted_pages().bytes();
        self.shared.budget.reserve(bytes, now)?;
        for (i, &(first, pages)) in reservation.uncommitted().iter().enumerate() {
            let start = self.memory.geometry().page_offset(first).get();
            if let Err(source) = self.data.commit(start..start + pages.bytes()) {
                self.shared.budget.release(bytes);
                // ENOSPC may leave part of a run committed: punch all that was tried.
                for &(first, pages) in reservation.uncommitted().iter().take(i + 1) {
                    let start = self.memory.geometry().page_offset(first).get();
                    let _ = self.data.purge(start..start + pages.bytes());
                }
                return Err(Error::NoSpace {
                    requested_bytes: bytes,
                    source,
                });
            }
        }
        Ok(())
    }

    /// Undoes `commit_payload`.
    fn purge_payload(&self, runs: &[(PageIndex, PageCount)]) {
        for &(first, pages) in runs {
            let start = self.memory.geometry().page_offset(first).get();
            let _ = self.data.purge(start..start + pages.bytes());
            self.shared.budget.release(pages.bytes());
        }
    }

    /// Zeroes pages that another session wrote last. The daemon zeroes block by block.
    fn hide_old_contents(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        pages: PageCount,
        fresh: &[(PageIndex, PageCount)],
        lessee: Lessee,
    ) -> Result<(), Error> {
        let is_fresh = |page: PageIndex| {
            fresh.iter().any(|&(run, len)| {
                page >= run && run.checked_add(len).is_some_and(|end| page < end)
            })
        };
        for (page, _) in self.pages_of(first, pages) {
            let last = state.last_user.remove(&page);
            if lessee.number.is_client() && !is_fresh(page) && last != Some(lessee.serial) {
                let start = self.memory.geometry().page_offset(page).get();
                self.memory
                    .data()
                    .fill_zero(start..start + PageCount::ONE.bytes())
                    .map_err(|e| Error::os("zero a page", e))?;
            }
        }
        Ok(())
    }

    /// The parts of DATA's tables that a span needs: its words and its note.
    pub(super) fn data_tables_of(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
    ) -> [Range<u64>; 3] {
        let geometry = self.memory.geometry();
        let note = geometry.note_offset(first);
        [
            geometry.slot_run(first, class, pages),
            geometry.shape_run(first, class, pages),
            note..note + NOTE_BYTES,
        ]
    }

    /// The parts of CONTROL's tables that a span needs: entries and records of its pages.
    fn control_tables_of(&self, first: PageIndex, pages: PageCount) -> [Range<u64>; 2] {
        let geometry = self.memory.geometry();
        let n = u64::from(pages.get());
        let entries = geometry.entry_offset(first);
        let records = geometry.page_record_offset(first);
        [
            entries..entries + n * ENTRY_BYTES,
            records..records + n * PAGE_RECORD_BYTES,
        ]
    }
}

//! Granting spans and taking them back: the two sequences of docs/design.md, "lease" and
//! "return". Each has one store that commits it.

use std::ops::Range;
use std::time::Instant;

use goumem_alloc::{
    ENTRY_BYTES, Generation, NOTE_BYTES, PAGE_RECORD_BYTES, PageCount, PageIndex, Reservation,
    ReserveError, SessionNumber, SizeClass,
};
use goumem_proto::model::{Holder, Lease, RequestId, ReturnSpans, SpanInfo, SpanSpec};
use goumem_shm::SpanLease;
use goumem_shm::page_map::{PageEntry, SpanEpoch};
use goumem_shm::slot::SlotState;

use super::{Pool, PoolState, Span};
use crate::error::Error;
use crate::permission;
use crate::session::{Caller, Session};

/// Who gets a span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lessee {
    pub(super) number: SessionNumber,
    pub(super) serial: u64,
    pub(super) uid: u32,
    pub(super) request_id: RequestId,
}

impl Lessee {
    /// The daemon itself, for blocks allocated by RPC: each is zeroed, and charged by itself.
    pub(super) const DAEMON: Self = Self {
        number: SessionNumber::DAEMON,
        serial: 0,
        uid: 0,
        request_id: RequestId::NONE,
    };
}

/// What span to grant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) class: SizeClass,
    /// The length to have.
    pub(super) pages: PageCount,
    /// The least that will do when the pool is nearly full.
    pub(super) min_pages: PageCount,
    pub(super) align_pages: PageCount,
    /// For the error.
    pub(super) requested_bytes: u64,
}

impl Want {
    /// A span of a class, for one block or more.
    pub(super) fn class(class: SizeClass) -> Self {
        Self {
            class,
            pages: class.span_pages(),
            min_pages: class.min_span_pages(),
            align_pages: PageCount::ONE,
            requested_bytes: class.usable_bytes(),
        }
    }
}

impl Pool {
    /// Leases spans to a session. At least one, or an error; fewer than asked for when the pool
    /// is nearly full.
    ///
    /// # Errors
    /// `SessionRequired`, `SessionExpired`, `PermissionDenied`, `NotLocal`, `PoolExhausted`,
    /// `QuotaExceeded`, `BudgetExhausted`, `NoSpace`.
    pub fn lease(
        &self,
        caller: &Caller,
        request: &Lease,
        now: Instant,
    ) -> Result<Vec<SpanInfo>, Error> {
        let session = caller.session()?;
        if !session.may_map {
            return Err(if caller.local { Error::ForeignPidNamespace } else { Error::NotLocal });
        }
        let want = match request.spec {
            SpanSpec::Class(class) => Want::class(class),
            SpanSpec::Large { size_bytes, align_bytes } => large(size_bytes, align_bytes)?,
        };
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            let lessee = Lessee {
                number: session.number,
                serial: session.serial,
                uid: session.uid,
                request_id: request.request_id,
            };
            let mut spans = Vec::new();
            while spans.len() < request.count as usize {
                match self.grant(&mut state, want, lessee, now) {
                    Ok((lease, survivors)) => spans.push(info(lease, survivors)),
                    Err(error) if spans.is_empty() => {
                        return Err(self.with_holders(&state, caller, error));
                    }
                    Err(_) => break,
                }
            }
            Ok(spans)
        })
    }

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
            // All are checked before the first is returned: a refused call changes nothing.
            for span in &request.spans {
                let stale =
                    Error::StaleLease { first_page: span.first_page, epoch: span.epoch };
                let known = state.spans.get(&span.first_page).filter(|known| {
                    known.lessee == session.number && known.serial == session.serial
                });
                let Some(known) = known else { return Err(stale) };
                if self.epoch_of(span.first_page).get() != span.epoch {
                    return Err(stale);
                }
                let live = self.survivors(span.first_page, *known);
                if live > 0 {
                    return Err(Error::SpanInUse { first_page: span.first_page, live });
                }
            }
            let mut returned = 0;
            for span in &request.spans {
                // A span that the call names twice is returned once.
                if state.spans.contains_key(&span.first_page) {
                    self.take_back(&mut state, span.first_page, Some(self.shared.millis(now)));
                    returned += 1;
                }
            }
            Ok(returned)
        })
    }

    /// Grants a span: an abandoned one of the class first, else a free run. Returns whether it
    /// comes with living blocks.
    pub(super) fn grant(
        &self,
        state: &mut PoolState,
        want: Want,
        lessee: Lessee,
        now: Instant,
    ) -> Result<(SpanLease, bool), Error> {
        if let Some(lease) = self.grant_abandoned(state, want, lessee)? {
            return Ok((lease, true));
        }
        let reservation = self.reserve(state, want)?;
        let bytes = reservation.pages().bytes();
        if lessee.number.is_client()
            && let Err(error) = self.shared.quotas.charge(lessee.uid, bytes)
        {
            state.heap.abort(reservation);
            return Err(error);
        }
        if let Err(error) = self.back(state, &reservation, want.class, lessee, now) {
            state.heap.abort(reservation);
            if lessee.number.is_client() {
                self.shared.quotas.discharge(lessee.uid, bytes);
            }
            return Err(error);
        }
        let (first, pages) = (reservation.first(), reservation.pages());
        state.heap.commit(reservation);
        Ok((self.publish_span(state, first, pages, want.class, lessee), false))
    }

    /// Finds free pages, after looking everywhere for what is free but not known to be.
    fn reserve(&self, state: &mut PoolState, want: Want) -> Result<Reservation, Error> {
        match state.heap.reserve(want.pages, want.align_pages) {
            Ok(reservation) => return Ok(reservation),
            Err(ReserveError::Invalid { .. }) => {
                return Err(Error::Invariant { what: "spans have pages" });
            }
            Err(ReserveError::Full { .. }) => {}
        }
        self.return_idle(state);
        let mut pages = want.pages;
        loop {
            if let Ok(reservation) = state.heap.reserve(pages, want.align_pages) {
                return Ok(reservation);
            }
            if pages <= want.min_pages {
                return Err(Error::PoolExhausted {
                    pool: self.name.to_string(),
                    requested_bytes: want.requested_bytes,
                    largest_free_bytes: self.largest_free_bytes(state),
                    granted_bytes: state.heap.granted_pages().bytes(),
                    capacity_bytes: state.heap.quota_pages().bytes(),
                    top_holders: Vec::new(),
                });
            }
            pages = PageCount::new((pages.get() / 2).max(want.min_pages.get()));
        }
    }

    /// The first part of the lease sequence: memory behind the pages and their tables.
    fn back(
        &self,
        state: &mut PoolState,
        reservation: &Reservation,
        class: SizeClass,
        lessee: Lessee,
        now: Instant,
    ) -> Result<(), Error> {
        let (first, pages) = (reservation.first(), reservation.pages());
        if self.memory.slot_run(first, class, pages).is_none() {
            return Err(Error::Invariant { what: "reserved pages are in the pool" });
        }
        let (data, control) = self.tables_of(first, class, pages);
        self.commit_tables(state, &data, &control, now)?;
        self.commit_payload(reservation, now)?;
        let hidden =
            self.hide_old_contents(state, first, pages, reservation.uncommitted(), lessee);
        hidden.inspect_err(|_| self.purge_payload(reservation.uncommitted()))
    }

    /// The second part: words := {floor, FREE} → interior entries → {uid, request id} → head
    /// entry.
    fn publish_span(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        pages: PageCount,
        class: SizeClass,
        lessee: Lessee,
    ) -> SpanLease {
        let floor = self.floor_of(first, pages);
        if let Some(words) = self.memory.slot_run(first, class, pages) {
            words.words().for_each(|word| word.initialise(floor));
        }
        self.memory.note(first).reset();
        for (page, _) in self.pages_of(first, pages).skip(1) {
            let epoch = self.epoch_of(page);
            if let (Some(entry), Some(back)) =
                (self.memory.entry_word(page), page.pages_since(first))
            {
                entry.publish(PageEntry::Interior { class, back, epoch });
            }
        }
        if let Some(record) = self.memory.page_record(first) {
            record.set_lease(lessee.request_id.get(), lessee.uid);
        }
        let epoch = self.epoch_of(first).next();
        self.publish_head(first, class, pages, lessee.number, epoch);
        let span =
            Span { pages, class, lessee: lessee.number, serial: lessee.serial, uid: lessee.uid };
        state.spans.insert(first, span);
        SpanLease { first_page: first, pages, class, epoch }
    }

    /// Leases an abandoned span of the class again: its living blocks stay.
    fn grant_abandoned(
        &self,
        state: &mut PoolState,
        want: Want,
        lessee: Lessee,
    ) -> Result<Option<SpanLease>, Error> {
        if want.class.is_large() {
            return Ok(None);
        }
        let free_slots = |first: &&PageIndex| {
            state.spans.get(first).is_some_and(|span| {
                span.class == want.class
                    && self.survivors(**first, *span) < u64::from(span.class.slots(span.pages))
            })
        };
        let Some(first) = state.abandoned.iter().find(free_slots).copied() else {
            return Ok(None);
        };
        let Some(span) = state.spans.get(&first).copied() else { return Ok(None) };
        if lessee.number.is_client() {
            self.shared.quotas.charge(lessee.uid, span.pages.bytes())?;
            // The span pays for its blocks now.
            self.discharge_blocks(state, first, span.pages);
        }
        let epoch = self.epoch_of(first).next();
        if let Some(record) = self.memory.page_record(first) {
            record.set_lease(lessee.request_id.get(), lessee.uid);
        }
        // Sweeps of the survivors' owners must look here, whoever leases the span.
        self.memory.note(first).set_holds_adopted();
        self.publish_head(first, span.class, span.pages, lessee.number, epoch);
        state.abandoned.remove(&first);
        let granted =
            Span { lessee: lessee.number, serial: lessee.serial, uid: lessee.uid, ..span };
        state.spans.insert(first, granted);
        Ok(Some(SpanLease { first_page: first, pages: span.pages, class: span.class, epoch }))
    }

    /// The return sequence: floor → head FREE, epoch + 1 → the pages are free. With a time they
    /// stay committed for a while; without, they are punched at once. Every word is FREE.
    pub(super) fn take_back(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        idle_since_ms: Option<u64>,
    ) {
        let Some(span) = state.spans.remove(&first) else { return };
        state.abandoned.remove(&first);
        let above = self.memory.slot_run(first, span.class, span.pages).and_then(|words| {
            let highest = words.words().map(|word| word.load().generation()).max();
            highest.unwrap_or(Generation::ZERO).next()
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
                entry.publish(if above.is_some() { PageEntry::Free { epoch } } else { head });
            }
        }
        if span.lessee.is_client() {
            self.shared.quotas.discharge(span.uid, span.pages.bytes());
        }
        self.discharge_blocks(state, first, span.pages);
        if above.is_none() {
            tracing::warn!(pool = %self.name, page = %first, "pages retired: generations spent");
            state.heap.retire(first, span.pages);
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
        // The fine tables have 32 KiB for each page, shared with no other.
        let fine = SizeClass::from_index(0).unwrap_or(SizeClass::LARGE);
        let one = PageCount::ONE;
        for (page, _) in self.pages_of(first, pages) {
            let geometry = self.memory.geometry();
            for run in [geometry.slot_run(page, fine, one), geometry.shape_run(page, fine, one)] {
                for run in state.data_tables.remove_inside(&run) {
                    match self.data.purge(run.clone()) {
                        Ok(()) => released += run.end - run.start,
                        Err(error) => {
                            tracing::error!(pool = %self.name, %error, "could not purge tables");
                            state.data_tables.insert(&run);
                        }
                    }
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
            let empty = state.spans.get(&first).is_some_and(|span| self.survivors(first, *span) == 0);
            if empty {
                self.take_back(state, first, None);
            }
        }
    }

    /// Returns how many words of a span are not FREE.
    pub(super) fn survivors(&self, first: PageIndex, span: Span) -> u64 {
        let run = self.memory.slot_run(first, span.class, span.pages);
        let alive = run.map_or(0, |words| {
            words.words().filter(|word| word.load().state() != Some(SlotState::Free)).count()
        });
        alive as u64
    }

    /// Returns the largest block an alloc could get now, in bytes.
    pub(super) fn largest_free_bytes(&self, state: &PoolState) -> u64 {
        let pages = state.heap.largest_free_pages();
        let of_class = SizeClass::all()
            .filter(|class| !class.is_large() && class.min_span_pages() <= pages)
            .map(SizeClass::usable_bytes)
            .max();
        let large = SizeClass::LARGE.usable_in(pages);
        if large > goumem_alloc::MAX_CLASS_BYTES { large } else { of_class.unwrap_or(0) }
    }

    /// Fills in who holds most, as far as the caller may know.
    pub(super) fn with_holders(&self, state: &PoolState, caller: &Caller, error: Error) -> Error {
        match error {
            Error::PoolExhausted {
                pool,
                requested_bytes,
                largest_free_bytes,
                granted_bytes,
                capacity_bytes,
                ..
            } => Error::PoolExhausted {
                pool,
                requested_bytes,
                largest_free_bytes,
                granted_bytes,
                capacity_bytes,
                top_holders: self.top_holders(state, caller),
            },
            other => other,
        }
    }

    /// Returns the sessions that hold most, the caller's own alone unless it owns the pool.
    pub(super) fn top_holders(&self, state: &PoolState, caller: &Caller) -> Vec<Holder> {
        const MOST: usize = 8;
        let sees_all = permission::owns(caller, &self.permissions);
        let mut holders: Vec<Holder> = Vec::new();
        for span in state.spans.values() {
            if !sees_all && span.uid != caller.uid {
                continue;
            }
            match holders.iter_mut().find(|holder| holder.session == span.lessee) {
                Some(holder) => holder.bytes += span.pages.bytes(),
                None => holders.push(Holder {
                    session: span.lessee,
                    uid: span.uid,
                    pid: 0,
                    bytes: span.pages.bytes(),
                }),
            }
        }
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
        holders.truncate(MOST);
        holders
    }

    pub(super) fn epoch_of(&self, page: PageIndex) -> SpanEpoch {
        match self.memory.entry(page) {
            Some(
                PageEntry::Free { epoch }
                | PageEntry::Head { epoch, .. }
                | PageEntry::Interior { epoch, .. },
            ) => epoch,
            Some(PageEntry::Retired) | None => SpanEpoch::ZERO,
        }
    }

    pub(super) fn publish_head(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
        lessee: SessionNumber,
        epoch: SpanEpoch,
    ) {
        if let Some(entry) = self.memory.entry_word(first) {
            entry.publish(PageEntry::Head { class, lessee, epoch, pages });
        }
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
                return Err(Error::NoSpace { requested_bytes: bytes, source });
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

    fn floor_of(&self, first: PageIndex, pages: PageCount) -> Generation {
        let floors = self.pages_of(first, pages).map(|(_, record)| record.floor());
        floors.max().unwrap_or(Generation::ZERO)
    }

    fn pages_of(
        &self,
        first: PageIndex,
        pages: PageCount,
    ) -> impl Iterator<Item = (PageIndex, goumem_shm::pool_memory::PageRecord<'_>)> {
        (0..pages.get()).filter_map(move |i| {
            let page = first.checked_add(PageCount::new(i))?;
            Some((page, self.memory.page_record(page)?))
        })
    }

    /// The table ranges that a span needs: its words in DATA, its entries in CONTROL.
    fn tables_of(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
    ) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let geometry = self.memory.geometry();
        let note = geometry.note_offset(first);
        let n = u64::from(pages.get());
        let entries = geometry.entry_offset(first);
        let records = geometry.page_record_offset(first);
        (
            vec![
                geometry.slot_run(first, class, pages),
                geometry.shape_run(first, class, pages),
                note..note + NOTE_BYTES,
            ],
            vec![
                entries..entries + n * ENTRY_BYTES,
                records..records + n * PAGE_RECORD_BYTES,
            ],
        )
    }
}

/// What span a block above the largest class needs.
pub(super) fn large(size_bytes: u64, align_bytes: u64) -> Result<Want, Error> {
    match SizeClass::for_layout(size_bytes, align_bytes) {
        Ok(goumem_alloc::Placement::Large { class, pages, align_pages }) => {
            Ok(Want { class, pages, min_pages: pages, align_pages, requested_bytes: size_bytes })
        }
        Ok(goumem_alloc::Placement::Class(class)) => Ok(Want::class(class)),
        Err(_) => Err(Error::Invariant { what: "sizes are checked at the edge" }),
    }
}

fn info(lease: SpanLease, survivors: bool) -> SpanInfo {
    SpanInfo {
        first_page: lease.first_page,
        pages: lease.pages,
        size_class: lease.class,
        epoch: lease.epoch.get(),
        survivors,
    }
}

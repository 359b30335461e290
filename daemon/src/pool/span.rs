//! Granting spans: the lease sequence of docs/design.md, which one store commits.

use std::time::Instant;

use goumem_alloc::{
    Generation, PageCount, PageIndex, Reservation, ReserveError, SessionNumber, SizeClass,
};
use goumem_proto::model::{Lease, RequestId, SpanInfo, SpanSpec};
use goumem_shm::SpanLease;
use goumem_shm::page_map::{PageEntry, SpanEpoch};

use super::{Pool, PoolState, Span};
use crate::error::Error;
use crate::session::Caller;

/// How many abandoned spans of a class a lease looks at, which reads all of their words, while the
/// pool has room without them.
const FEW_ABANDONED: usize = 4;

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
            return Err(if caller.local {
                Error::ForeignPidNamespace
            } else {
                Error::NotLocal
            });
        }
        let want = match request.spec {
            SpanSpec::Class(class) => Want::class(class),
            SpanSpec::Large {
                size_bytes,
                align_bytes,
            } => large(size_bytes, align_bytes)?,
        };
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            self.note_use(&mut state, session, now)?;
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

    /// Grants a span: an abandoned one of the class first, else a free run. Returns whether it
    /// comes with living blocks.
    pub(super) fn grant(
        &self,
        state: &mut PoolState,
        want: Want,
        lessee: Lessee,
        now: Instant,
    ) -> Result<(SpanLease, bool), Error> {
        if let Some(lease) = self.grant_abandoned(state, want, lessee, FEW_ABANDONED, now)? {
            return Ok((lease, true));
        }
        let reservation = match self.reserve(state, want) {
            Ok(reservation) => reservation,
            // Before anybody is told that the pool is full.
            Err(full) => {
                let abandoned = self.grant_abandoned(state, want, lessee, usize::MAX, now)?;
                return abandoned.map(|lease| (lease, true)).ok_or(full);
            }
        };
        let bytes = reservation.pages().bytes();
        if lessee.number.is_client()
            && let Err(error) = self.charge(state, lessee.uid, bytes)
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
        Ok((
            self.publish_span(state, (first, pages), want.class, lessee, now),
            false,
        ))
    }

    /// Finds free pages, after looking everywhere for what is free but not known to be.
    fn reserve(&self, state: &mut PoolState, want: Want) -> Result<Reservation, Error> {
        match state.heap.reserve(want.pages, want.align_pages) {
            Ok(reservation) => return Ok(reservation),
            Err(ReserveError::Invalid { .. }) => {
                return Err(Error::Invariant {
                    what: "spans have pages",
                });
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

    /// The second part: words := {floor, FREE} → interior entries → {uid, request id} → head
    /// entry.
    fn publish_span(
        &self,
        state: &mut PoolState,
        (first, pages): (PageIndex, PageCount),
        class: SizeClass,
        lessee: Lessee,
        now: Instant,
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
        let span = Span {
            pages,
            class,
            lessee: lessee.number,
            serial: lessee.serial,
            uid: lessee.uid,
            leased_at: Some(now),
        };
        state.spans.insert(first, span);
        SpanLease {
            first_page: first,
            pages,
            class,
            epoch,
        }
    }

    /// Leases an abandoned span of the class again: its living blocks stay.
    fn grant_abandoned(
        &self,
        state: &mut PoolState,
        want: Want,
        lessee: Lessee,
        look_at: usize,
        now: Instant,
    ) -> Result<Option<SpanLease>, Error> {
        if want.class.is_large() {
            return Ok(None);
        }
        let of_class = state
            .abandoned
            .iter()
            .filter_map(|&first| Some((first, *state.spans.get(&first)?)))
            .filter(|(_, span)| span.class == want.class);
        let found = of_class.take(look_at).find(|&(first, span)| {
            self.survivors(first, span) < u64::from(span.class.slots(span.pages))
        });
        let Some((first, span)) = found else {
            return Ok(None);
        };
        if lessee.number.is_client() {
            self.charge(state, lessee.uid, span.pages.bytes())?;
        } else {
            self.charge_survivors(state, first, span);
        }
        self.shared.quotas.discharge(span.uid, span.pages.bytes());
        let epoch = self.epoch_of(first).next();
        if let Some(record) = self.memory.page_record(first) {
            record.set_lease(lessee.request_id.get(), lessee.uid);
        }
        // Sweeps of the survivors' owners must look here, whoever leases the span.
        self.memory.note(first).set_holds_adopted();
        self.publish_head(first, span.class, span.pages, lessee.number, epoch);
        state.abandoned.remove(&first);
        let granted = Span {
            lessee: lessee.number,
            serial: lessee.serial,
            uid: lessee.uid,
            leased_at: Some(now),
            ..span
        };
        state.spans.insert(first, granted);
        Ok(Some(SpanLease {
            first_page: first,
            pages: span.pages,
            class: span.class,
            epoch,
        }))
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
            entry.publish(PageEntry::Head {
                class,
                lessee,
                epoch,
                pages,
            });
        }
    }

    fn floor_of(&self, first: PageIndex, pages: PageCount) -> Generation {
        let floors = self
            .pages_of(first, pages)
            .map(|(_, record)| record.floor());
        floors.max().unwrap_or(Generation::ZERO)
    }

    pub(super) fn pages_of(
        &self,
        first: PageIndex,
        pages: PageCount,
    ) -> impl Iterator<Item = (PageIndex, goumem_shm::pool_memory::PageRecord<'_>)> {
        (0..pages.get()).filter_map(move |i| {
            let page = first.checked_add(PageCount::new(i))?;
            Some((page, self.memory.page_record(page)?))
        })
    }
}

/// What span a block above the largest class needs.
pub(super) fn large(size_bytes: u64, align_bytes: u64) -> Result<Want, Error> {
    match SizeClass::for_layout(size_bytes, align_bytes) {
        Ok(goumem_alloc::Placement::Large {
            class,
            pages,
            align_pages,
        }) => Ok(Want {
            class,
            pages,
            min_pages: pages,
            align_pages,
            requested_bytes: size_bytes,
        }),
        Ok(goumem_alloc::Placement::Class(class)) => Ok(Want::class(class)),
        Err(_) => Err(Error::Invariant {
            what: "sizes are checked at the edge",
        }),
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

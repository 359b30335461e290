//! The page heap of one pool: which pages are granted, which are free, which have memory behind
//! them.
//!
//! It is arithmetic on page numbers; memory is somebody else's business. So a grant has two halves,
//! as in Rust Binder's `range_alloc`: [`PageHeap::reserve`] chooses the pages, the caller commits
//! the memory that [`Reservation::uncommitted`] lists, and then either [`PageHeap::commit`] grants
//! them or [`PageHeap::abort`] leaves everything as it was.
//!
//! ```text
//!          reserve              commit             retire
//!   free ──────────► reserved ──────────► granted ──────────► retired
//!    ▲ ▲    abort       │                    │
//!    │ └────────────────┘    give, discard   │
//!    └───────────────────────────────────────┘
//!
//!   recovery:  free ─ record_alloc ─► granted,  free ─ record_retired ─► retired;
//!              of a whole page map at once: from_page_map
//! ```
//!
//! Free pages are committed (given back with their memory) or not (never granted, discarded or
//! purged). Runs of pages in one state are the unit of everything, so that a pool of 2^24 pages
//! costs no more than one of 16, and each operation is logarithmic in the number of runs and linear
//! in those that it covers.
//!
//! **Placement**: the shortest stretch of committed free pages that holds the request; if none
//! does, the shortest free area, committed or not, at whichever end of it has fewer pages to
//! commit, the lower if equal. Short stretches first keep long ones whole, and committed pages first
//! keep the pool's memory small.

use crate::units::{MAX_POOL_PAGES, PageCount, PageIndex};

mod extents;
mod reservation;
mod runs;

use extents::Extents;
pub use reservation::{QuotaError, Reservation, ReserveError};
use runs::{Run, Runs, State};

/// What a page map says of pages that are not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// A granted span.
    Granted,
    /// Out of use for good.
    Retired,
}

/// What a page is, to those who only look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// Nobody's, without memory behind it: never granted, or purged.
    Free,
    /// Nobody's, with memory behind it.
    FreeCommitted,
    /// Part of a span, or about to be.
    Granted,
    /// Never to be granted again.
    Retired,
}

/// The pages of one pool.
///
/// # Invariants
///
/// Those that [`PageHeap::check`] asserts.
#[derive(Debug)]
pub struct PageHeap {
    total: u32,
    quota: u32,
    /// Reserved and granted pages.
    granted: u32,
    free_committed: u32,
    retired: u32,
    /// The truth; what follows is derived from it.
    runs: Runs,
    /// All free pages.
    free: Extents,
    /// The free pages that are committed, since whenever.
    committed: Extents,
}

impl PageHeap {
    /// Makes the heap of an empty pool of `total_pages`, of which `quota_pages` may be granted at
    /// one time.
    ///
    /// # Panics
    ///
    /// If `total_pages` is not 1 to [`MAX_POOL_PAGES`], or the quota is above it.
    #[must_use]
    pub fn new(total_pages: PageCount, quota_pages: PageCount) -> Self {
        let (total, quota) = (total_pages.get(), quota_pages.get());
        assert!((1..=MAX_POOL_PAGES).contains(&total) && quota <= total);
        let mut free = Extents::default();
        free.insert(0, total);
        Self {
            total,
            quota,
            granted: 0,
            free_committed: 0,
            retired: 0,
            runs: Runs::new(total),
            free,
            committed: Extents::default(),
        }
    }

    /// Makes the heap of a pool whose page map says this: runs by place, each granted or else
    /// retired. All of its pages may be granted. It costs less than recording run by run.
    ///
    /// The answer is no panic, since a page map is outside data: `None` means that runs overlap, are
    /// empty, not in order, or not in the pool.
    #[must_use]
    pub fn from_page_map(
        total_pages: PageCount,
        recorded: impl IntoIterator<Item = (PageIndex, PageCount, Recorded)>,
    ) -> Option<Self> {
        let mut heap = Self::new(total_pages, total_pages);
        let mut free = Extents::default();
        let mut runs = Vec::new();
        let mut next = 0;
        let mut gap = |runs: &mut Vec<Run>, first, end| {
            if first < end {
                free.insert(first, end - first);
                runs.push(Run {
                    first,
                    pages: end - first,
                    state: State::Uncommitted,
                });
            }
        };
        for (first, pages, recorded) in recorded {
            let (first, pages) = (first.get(), pages.get());
            let end = first.checked_add(pages).filter(|&end| end <= heap.total)?;
            if first < next || pages == 0 {
                return None;
            }
            gap(&mut runs, next, first);
            let (state, count) = match recorded {
                Recorded::Granted => (State::Granted, &mut heap.granted),
                Recorded::Retired => (State::Retired, &mut heap.retired),
            };
            *count += pages;
            runs.push(Run {
                first,
                pages,
                state,
            });
            next = end;
        }
        gap(&mut runs, next, heap.total);
        heap.runs = Runs::from_sorted(runs);
        heap.free = free;
        Some(heap)
    }

    /// Chooses `pages` free pages in a row, from a page that is a multiple of `align_pages`, a
    /// power of two. They count as granted from now on.
    ///
    /// # Errors
    ///
    /// [`ReserveError::Full`] and [`ReserveError::Invalid`].
    pub fn reserve(
        &mut self,
        pages: PageCount,
        align_pages: PageCount,
    ) -> Result<Reservation, ReserveError> {
        if pages == PageCount::ZERO || !align_pages.get().is_power_of_two() {
            return Err(ReserveError::Invalid {
                requested_pages: pages,
                align_pages,
            });
        }
        let within_quota = pages.get() <= self.quota - self.granted;
        let place = within_quota
            .then(|| self.place(pages.get(), align_pages.get()))
            .flatten();
        let Some(first) = place else {
            return Err(ReserveError::Full {
                requested_pages: pages,
                largest_free_pages: self.largest_free_pages(),
                quota_left_pages: PageCount::new(self.quota - self.granted),
            });
        };
        let before = self.occupy(Run {
            first,
            pages: pages.get(),
            state: State::Reserved,
        });
        Ok(Reservation::new(PageIndex::new(first), pages, before))
    }

    /// Grants reserved pages, which all have memory behind them now.
    ///
    /// # Panics
    ///
    /// If the reservation is another heap's.
    pub fn commit(&mut self, reservation: Reservation) {
        let (first, pages) = (reservation.first(), reservation.pages());
        self.expect_run(first, pages, State::Reserved);
        self.set(first, pages, State::Granted);
    }

    /// Takes a reservation back: every page is as it was before.
    ///
    /// # Panics
    ///
    /// If the reservation is another heap's.
    pub fn abort(&mut self, reservation: Reservation) {
        self.expect_run(reservation.first(), reservation.pages(), State::Reserved);
        self.granted -= reservation.pages().get();
        for run in reservation.into_before() {
            self.release(run);
        }
    }

    /// Takes back a granted run, its memory still behind it, at `now_ms` of the caller's clock.
    ///
    /// # Panics
    ///
    /// If the pages are not exactly one granted run.
    pub fn give(&mut self, first: PageIndex, pages: PageCount, now_ms: u64) {
        self.take_back(first, pages, State::Committed { since_ms: now_ms });
    }

    /// Takes back a granted run whose memory has been punched out.
    ///
    /// # Panics
    ///
    /// If the pages are not exactly one granted run.
    pub fn discard(&mut self, first: PageIndex, pages: PageCount) {
        self.take_back(first, pages, State::Uncommitted);
    }

    /// Takes a granted run, whose memory has been punched out, out of use for good.
    ///
    /// # Panics
    ///
    /// If the pages are not exactly one granted run.
    pub fn retire(&mut self, first: PageIndex, pages: PageCount) {
        self.expect_run(first, pages, State::Granted);
        self.granted -= pages.get();
        self.retired += pages.get();
        self.set(first, pages, State::Retired);
    }

    /// Notes that the memory of free committed pages, as [`Self::next_idle_run`] finds them, has been
    /// punched out. Nothing may be reserved between the two.
    ///
    /// # Panics
    ///
    /// If one of the pages is not free and committed.
    pub fn mark_purged(&mut self, first: PageIndex, pages: PageCount) {
        let known = pages > PageCount::ZERO && self.committed.contains(first.get(), pages.get());
        assert!(
            known,
            "pages {first} + {pages} are not all free and committed"
        );
        self.committed.remove(first.get(), pages.get());
        self.free_committed -= pages.get();
        self.set(first, pages, State::Uncommitted);
    }

    /// Changes how many pages may be granted at one time.
    ///
    /// # Errors
    ///
    /// [`QuotaError::BelowGranted`] and [`QuotaError::AboveTotal`].
    pub const fn set_quota(&mut self, pages: PageCount) -> Result<(), QuotaError> {
        if pages.get() < self.granted {
            return Err(QuotaError::BelowGranted {
                requested_pages: pages,
                granted_pages: self.granted_pages(),
            });
        }
        if pages.get() > self.total {
            return Err(QuotaError::AboveTotal {
                requested_pages: pages,
                total_pages: self.total_pages(),
            });
        }
        self.quota = pages.get();
        Ok(())
    }

    /// Puts a granted run read from a page map into the heap, and returns whether it could be
    /// there: in the pool, free so far and within the quota.
    ///
    /// The answer is no panic, since a page map is outside data: `false` means it is corrupt.
    #[must_use]
    pub fn record_alloc(&mut self, first: PageIndex, pages: PageCount) -> bool {
        let possible = self.is_free(first, pages) && pages.get() <= self.quota - self.granted;
        if possible {
            self.occupy(Run {
                first: first.get(),
                pages: pages.get(),
                state: State::Granted,
            });
        }
        possible
    }

    /// Puts a retired run read from a page map into the heap, and returns whether it could be
    /// there, as [`Self::record_alloc`]; retired pages use no quota.
    #[must_use]
    pub fn record_retired(&mut self, first: PageIndex, pages: PageCount) -> bool {
        let possible = self.is_free(first, pages);
        if possible {
            self.occupy(Run {
                first: first.get(),
                pages: pages.get(),
                state: State::Granted,
            });
            self.retire(first, pages);
        }
        possible
    }

    /// Returns the pages of the pool.
    #[must_use]
    pub const fn total_pages(&self) -> PageCount {
        PageCount::new(self.total)
    }

    /// Returns how many pages may be granted at one time.
    #[must_use]
    pub const fn quota_pages(&self) -> PageCount {
        PageCount::new(self.quota)
    }

    /// Returns how many pages are granted or reserved.
    #[must_use]
    pub const fn granted_pages(&self) -> PageCount {
        PageCount::new(self.granted)
    }

    /// Returns how many pages have memory behind them: granted ones, reserved ones (which are
    /// about to) and free committed ones.
    #[must_use]
    pub const fn committed_pages(&self) -> PageCount {
        PageCount::new(self.granted + self.free_committed)
    }

    /// Returns how many free pages have memory behind them.
    #[must_use]
    pub const fn free_committed_pages(&self) -> PageCount {
        PageCount::new(self.free_committed)
    }

    /// Returns how many pages are out of use for good.
    #[must_use]
    pub const fn retired_pages(&self) -> PageCount {
        PageCount::new(self.retired)
    }

    /// Returns the most pages in a row that could be granted now, within the quota.
    #[must_use]
    pub fn largest_free_pages(&self) -> PageCount {
        PageCount::new(self.free.longest().min(self.quota - self.granted))
    }

    /// Returns the first free committed run that was given back at least `min_idle_ms` before
    /// `now_ms`, as long as it can be up to `max_pages`: a candidate for a purge. It starts at
    /// `from` or behind it; one that only reaches across is passed over. Going on behind each comes
    /// to all of them once.
    #[must_use]
    pub fn next_idle_run(
        &self,
        from: PageIndex,
        max_pages: PageCount,
        now_ms: u64,
        min_idle_ms: u64,
    ) -> Option<(PageIndex, PageCount)> {
        let mut found: Option<(u32, u32)> = None;
        for run in self.runs.starting_in(from.get(), u32::MAX) {
            let is_idle = matches!(run.state, State::Committed { since_ms }
                if now_ms.saturating_sub(since_ms) >= min_idle_ms);
            found = match found {
                None if is_idle => Some((run.first, run.pages)),
                Some((first, pages)) if is_idle => Some((first, pages + run.pages)),
                Some(_) => break,
                None => None,
            };
            if found.is_some_and(|(_, pages)| pages >= max_pages.get()) {
                break;
            }
        }
        let (first, pages) = found?;
        let pages = PageCount::new(pages).min(max_pages);
        Some((PageIndex::new(first), pages))
    }

    /// Returns what every page from `page` on is, as runs of pages in one state, by place. The first
    /// begins at `page`, also if its run began before; no two granted runs are one.
    pub fn runs_from(
        &self,
        page: PageIndex,
    ) -> impl Iterator<Item = (PageIndex, PageCount, PageState)> {
        let start = page.get();
        let across = self.runs.at(start).filter(|run| run.first < start);
        let across = across.map(|run| Run {
            first: start,
            pages: run.end() - start,
            ..run
        });
        let runs = across
            .into_iter()
            .chain(self.runs.starting_in(start, u32::MAX));
        runs.map(|run| {
            let state = match run.state {
                State::Uncommitted => PageState::Free,
                State::Committed { .. } => PageState::FreeCommitted,
                State::Reserved | State::Granted => PageState::Granted,
                State::Retired => PageState::Retired,
            };
            (PageIndex::new(run.first), PageCount::new(run.pages), state)
        })
    }

    /// Asserts that runs cover the pool, free ones are as long as they can be, the extents and
    /// counts agree with them, and no more is granted than the quota allows. For tests and
    /// debugging: its cost is linear in the number of runs.
    ///
    /// # Panics
    ///
    /// If an invariant does not hold.
    pub fn check(&self) {
        let (mut free, mut committed) = (Extents::default(), Extents::default());
        let (mut granted, mut free_committed, mut retired) = (0, 0, 0);
        let mut before: Option<Run> = None;
        for run in self.runs.starting_in(0, u32::MAX) {
            assert!(run.pages > 0, "an empty run at {}", run.first);
            assert_eq!(
                run.first,
                before.map_or(0, Run::end),
                "runs with a gap or an overlap"
            );
            let split = run.state.is_free() && before.is_some_and(|it| it.state == run.state);
            assert!(!split, "equal free runs touch at {}", run.first);
            if run.state.is_free() {
                free.insert(run.first, run.pages);
            }
            match run.state {
                State::Uncommitted => {}
                State::Committed { .. } => {
                    free_committed += run.pages;
                    committed.insert(run.first, run.pages);
                }
                State::Reserved | State::Granted => granted += run.pages,
                State::Retired => retired += run.pages,
            }
            before = Some(run);
        }
        assert_eq!(
            before.map(Run::end),
            Some(self.total),
            "runs cover the pool"
        );
        assert_eq!(free, self.free, "free areas");
        assert_eq!(committed, self.committed, "committed free stretches");
        assert_eq!(
            (granted, free_committed, retired),
            (self.granted, self.free_committed, self.retired),
            "granted, free committed and retired pages"
        );
        assert!(granted <= self.quota && self.quota <= self.total, "quota");
    }

    /// Returns where a run is best placed; see the head of this file.
    fn place(&self, pages: u32, align_pages: u32) -> Option<u32> {
        if let Some((first, _)) = self.committed.best_fit(pages, align_pages) {
            return Some(first.next_multiple_of(align_pages));
        }
        let (first, length) = self.free.best_fit(pages, align_pages)?;
        let lowest = first.next_multiple_of(align_pages);
        let highest = first + length - pages;
        let highest = highest - highest % align_pages;
        let committed = |place| self.committed.overlap(place, pages);
        Some(if committed(highest) > committed(lowest) {
            highest
        } else {
            lowest
        })
    }

    /// Makes free pages reserved or granted, and returns what they were.
    fn occupy(&mut self, run: Run) -> Vec<Run> {
        let before = self.runs.replace(run);
        self.free.remove(run.first, run.pages);
        for old in before.iter().filter(|old| old.state != State::Uncommitted) {
            self.committed.remove(old.first, old.pages);
            self.free_committed -= old.pages;
        }
        self.granted += run.pages;
        before
    }

    /// Makes pages that are not free so.
    fn release(&mut self, run: Run) {
        self.runs.replace(run);
        self.free.insert(run.first, run.pages);
        if run.state != State::Uncommitted {
            self.committed.insert(run.first, run.pages);
            self.free_committed += run.pages;
        }
    }

    fn take_back(&mut self, first: PageIndex, pages: PageCount, state: State) {
        self.expect_run(first, pages, State::Granted);
        self.granted -= pages.get();
        self.release(Run {
            first: first.get(),
            pages: pages.get(),
            state,
        });
    }

    fn set(&mut self, first: PageIndex, pages: PageCount, state: State) {
        self.runs.replace(Run {
            first: first.get(),
            pages: pages.get(),
            state,
        });
    }

    fn is_free(&self, first: PageIndex, pages: PageCount) -> bool {
        pages > PageCount::ZERO
            && first.checked_add(pages).is_some()
            && self.free.contains(first.get(), pages.get())
    }

    /// Asserts that the caller's pages are exactly one run in `state`: page numbers that the
    /// caller computes are its own arithmetic, and going on with a wrong one would grant a page
    /// twice.
    fn expect_run(&self, first: PageIndex, pages: PageCount, state: State) {
        let run = Run {
            first: first.get(),
            pages: pages.get(),
            state,
        };
        assert!(
            self.runs.has(run),
            "pages {first} + {pages} are not one run that is {state:?}"
        );
    }
}

#[cfg(test)]
mod tests;

//! Pages on their way from free to granted, and why they may not get there.

use super::runs::{Run, State};
use crate::units::{PageCount, PageIndex};

/// Pages that are neither free nor granted yet. Hand it back to the heap that made it: one that is
/// dropped holds its pages for good.
#[must_use = "the pages stay reserved until it is committed or aborted"]
#[derive(Debug)]
pub struct Reservation {
    first: PageIndex,
    pages: PageCount,
    /// What the pages were before, by place.
    before: Vec<Run>,
    uncommitted: Vec<(PageIndex, PageCount)>,
}

impl Reservation {
    /// Returns the first page.
    #[must_use]
    pub const fn first(&self) -> PageIndex {
        self.first
    }

    /// Returns the number of pages.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        self.pages
    }

    /// Returns the runs that have no memory behind them yet, by place: the caller commits them.
    #[must_use]
    pub fn uncommitted(&self) -> &[(PageIndex, PageCount)] {
        &self.uncommitted
    }

    /// Returns how many pages have no memory behind them yet.
    #[must_use]
    pub fn uncommitted_pages(&self) -> PageCount {
        PageCount::new(self.uncommitted.iter().map(|(_, pages)| pages.get()).sum())
    }

    pub(super) fn new(first: PageIndex, pages: PageCount, before: Vec<Run>) -> Self {
        let uncommitted = before
            .iter()
            .filter(|run| run.state == State::Uncommitted)
            .map(|run| (PageIndex::new(run.first), PageCount::new(run.pages)))
            .collect();
        Self {
            first,
            pages,
            before,
            uncommitted,
        }
    }

    pub(super) fn into_before(self) -> Vec<Run> {
        self.before
    }
}

/// Why pages cannot be reserved. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReserveError {
    /// No free area is long enough, or the quota is used up.
    #[error(
        "no room for {requested_pages} pages: at most {largest_free_pages} in a row can be granted, \
         {quota_left_pages} of the quota are left"
    )]
    Full {
        /// What was asked for.
        requested_pages: PageCount,
        /// The most that a request without alignment would have been granted.
        largest_free_pages: PageCount,
        /// What the quota leaves.
        quota_left_pages: PageCount,
    },
    /// No pages were asked for, or an alignment that is not a power of two.
    #[error("{requested_pages} pages at a multiple of {align_pages} are not a run of pages")]
    Invalid {
        /// What was asked for.
        requested_pages: PageCount,
        /// The alignment asked for.
        align_pages: PageCount,
    },
}

/// Why a quota cannot be set. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuotaError {
    /// More is granted already.
    #[error("quota of {requested_pages} pages is below the {granted_pages} that are granted")]
    BelowGranted {
        /// The quota asked for.
        requested_pages: PageCount,
        /// What is granted or reserved.
        granted_pages: PageCount,
    },
    /// The pool does not have so many pages.
    #[error("quota of {requested_pages} pages is above the {total_pages} of the pool")]
    AboveTotal {
        /// The quota asked for.
        requested_pages: PageCount,
        /// The length of the pool.
        total_pages: PageCount,
    },
}

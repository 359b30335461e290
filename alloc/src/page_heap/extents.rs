//! A set of pages as its maximal runs, found by place and by length.

use std::collections::{BTreeMap, BTreeSet};

/// How many runs that may be too short once aligned are looked at before a surely long enough one
/// is taken: the bound on the cost of an aligned search that succeeds.
const LOOKS: usize = 32;

/// A set of pages, held as runs that do not touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Extents {
    /// First page → pages.
    by_first: BTreeMap<u32, u32>,
    /// The same runs as (pages, first page).
    by_pages: BTreeSet<(u32, u32)>,
}

impl Extents {
    /// Adds a run of pages, none of which may be in the set, and joins it to those beside it.
    pub(super) fn insert(&mut self, first: u32, pages: u32) {
        let (mut start, mut end) = (first, first + pages);
        if let Some((before, length)) = self.at_or_before(first)
            && before + length == first
        {
            self.drop_run(before, length);
            start = before;
        }
        if let Some(&length) = self.by_first.get(&end) {
            self.drop_run(end, length);
            end += length;
        }
        self.add_run(start, end - start);
    }

    /// Removes a run of pages, all of which must be in the set.
    pub(super) fn remove(&mut self, first: u32, pages: u32) {
        let (start, length) = self
            .covering(first, pages)
            .expect("removed pages are in the set");
        self.drop_run(start, length);
        if start < first {
            self.add_run(start, first - start);
        }
        let (end, length_end) = (first + pages, start + length);
        if end < length_end {
            self.add_run(end, length_end - end);
        }
    }

    /// Returns whether all pages of a run are in the set.
    pub(super) fn contains(&self, first: u32, pages: u32) -> bool {
        self.covering(first, pages).is_some()
    }

    /// Returns the shortest run that holds `pages` from a multiple of `align_pages` on, the first
    /// of equally long ones. (Of runs that only just hold it, the first 32 by length; a whole
    /// search is made before the answer is `None`.)
    pub(super) fn best_fit(&self, pages: u32, align_pages: u32) -> Option<(u32, u32)> {
        let long_enough = || self.by_pages.range((pages, 0)..);
        let surely = self.by_pages.range((pages + align_pages - 1, 0)..).next();
        long_enough()
            .take(LOOKS)
            .chain(surely)
            .chain(long_enough().skip(LOOKS))
            .find(|&&(length, first)| first.next_multiple_of(align_pages) + pages <= first + length)
            .map(|&(length, first)| (first, length))
    }

    /// Returns the length of the longest run, or 0.
    pub(super) fn longest(&self) -> u32 {
        self.by_pages.last().map_or(0, |&(pages, _)| pages)
    }

    /// Returns how many pages of a run are in the set.
    pub(super) fn overlap(&self, first: u32, pages: u32) -> u32 {
        let end = first + pages;
        let reaching_in = self.at_or_before(first).map_or(0, |(start, length)| {
            (start + length).min(end).saturating_sub(first)
        });
        let inside = self.by_first.range(first + 1..end.max(first + 1));
        reaching_in
            + inside
                .map(|(&start, &length)| length.min(end - start))
                .sum::<u32>()
    }

    fn at_or_before(&self, page: u32) -> Option<(u32, u32)> {
        self.by_first
            .range(..=page)
            .next_back()
            .map(|(&first, &pages)| (first, pages))
    }

    fn covering(&self, first: u32, pages: u32) -> Option<(u32, u32)> {
        self.at_or_before(first)
            .filter(|&(start, length)| first + pages <= start + length)
    }

    fn add_run(&mut self, first: u32, pages: u32) {
        self.by_first.insert(first, pages);
        self.by_pages.insert((pages, first));
    }

    fn drop_run(&mut self, first: u32, pages: u32) {
        self.by_first.remove(&first);
        self.by_pages.remove(&(pages, first));
    }
}

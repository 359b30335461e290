//! Which OS pages of a pool's tables (slot words, shapes, notes, page map, records) are backed by
//! memory. Neighbouring spans share some of them, so they are counted one by one, and committed
//! before the first word in them is written.

use std::collections::HashMap;
use std::ops::Range;

use goumem_alloc::OS_PAGE_BYTES;

/// A set of OS pages of one segment, sparse.
#[derive(Debug, Default)]
pub(crate) struct TablePages {
    /// 64 pages each.
    words: HashMap<u64, u64>,
    count: u64,
}

impl TablePages {
    /// Returns the runs of bytes in `ranges`, rounded out to OS pages, that are not in the set.
    pub(crate) fn missing(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let mut pages: Vec<u64> = ranges
            .into_iter()
            .flat_map(|range| os_pages(&range))
            .filter(|&p| !self.contains(p))
            .collect();
        pages.sort_unstable();
        pages.dedup();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in pages {
            let start = page * OS_PAGE_BYTES;
            match runs.last_mut() {
                Some(run) if run.end == start => run.end += OS_PAGE_BYTES,
                _ => runs.push(start..start + OS_PAGE_BYTES),
            }
        }
        runs
    }

    /// Adds every OS page of a run that `missing` returned.
    pub(crate) fn insert(&mut self, run: &Range<u64>) {
        for page in os_pages(run) {
            let word = self.words.entry(page / 64).or_default();
            let bit = 1 << (page % 64);
            if *word & bit == 0 {
                *word |= bit;
                self.count += 1;
            }
        }
    }

    /// Removes the OS pages wholly inside `range`; returns the runs that were in the set.
    pub(crate) fn remove_inside(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in range.start.div_ceil(OS_PAGE_BYTES)..range.end / OS_PAGE_BYTES {
            let Some(word) = self.words.get_mut(&(page / 64)) else {
                continue;
            };
            let bit = 1 << (page % 64);
            if *word & bit == 0 {
                continue;
            }
            *word &= !bit;
            if *word == 0 {
                self.words.remove(&(page / 64));
            }
            self.count -= 1;
            let start = page * OS_PAGE_BYTES;
            match runs.last_mut() {
                Some(run) if run.end == start => run.end += OS_PAGE_BYTES,
                _ => runs.push(start..start + OS_PAGE_BYTES),
            }
        }
        runs
    }

    /// Returns the bytes of the pages in the set.
    pub(crate) fn bytes(&self) -> u64 {
        self.count * OS_PAGE_BYTES
    }

    fn contains(&self, page: u64) -> bool {
        self.words
            .get(&(page / 64))
            .is_some_and(|word| word & (1 << (page % 64)) != 0)
    }
}

fn os_pages(range: &Range<u64>) -> Range<u64> {
    range.start / OS_PAGE_BYTES..range.end.div_ceil(OS_PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_os_pages_are_missing_once_and_counted_once() {
        let mut pages = TablePages::default();
        let missing = pages.missing([0..10, 4000..4100, 8192..8193]);
        assert_eq!(missing, vec![0..12288]);
        pages.insert(&missing[0]);
        assert_eq!(pages.bytes(), 12288);
        assert!(pages.missing(std::iter::once(100..9000)).is_empty());
        assert_eq!(
            pages.missing(std::iter::once(12287..12289)),
            vec![12288..16384]
        );
    }

    #[test]
    fn only_whole_pages_are_removed() {
        let mut pages = TablePages::default();
        pages.insert(&(0..16384));
        assert_eq!(pages.remove_inside(&(100..12288)), vec![4096..12288]);
        assert_eq!(pages.bytes(), 8192);
        assert!(pages.remove_inside(&(100..12288)).is_empty());
    }
}

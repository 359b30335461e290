//! Whether a pool holds together, and what it has taken from budget and quotas by its own tables.
//! For tests and the fuzzer.

use std::collections::BTreeMap;

use goumem_alloc::SessionNumber;
use goumem_shm::page_map::PageEntry;

use super::Pool;

impl Pool {
    /// Asserts every invariant.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check(&self) {
        let state = self.lock();
        state.heap.check();
        let granted: u32 = state.spans.values().map(|span| span.pages.get()).sum();
        assert_eq!(
            granted,
            state.heap.granted_pages().get(),
            "spans cover what is granted"
        );
        for (first, span) in &state.spans {
            let Some(PageEntry::Head {
                class,
                lessee,
                pages,
                ..
            }) = self.memory.entry(*first)
            else {
                panic!("span at {first} has no head entry");
            };
            assert_eq!(
                (class, lessee, pages),
                (span.class, span.lessee, span.pages)
            );
            assert_eq!(
                state.abandoned.contains(first),
                lessee == SessionNumber::NOBODY
            );
        }
    }

    /// Returns the bytes it has committed, and what it has charged to each user.
    pub(crate) fn accounts(&self) -> (u64, BTreeMap<u32, u64>) {
        let state = self.lock();
        let committed = state.heap.committed_pages().bytes()
            + state.stuck_bytes
            + state.data_tables.bytes()
            + state.control_tables.bytes();
        let mut charged = BTreeMap::new();
        for span in state
            .spans
            .values()
            .filter(|span| span.lessee != SessionNumber::DAEMON)
        {
            *charged.entry(span.uid).or_default() += span.pages.bytes();
        }
        for charge in state
            .charges
            .offsets()
            .filter_map(|offset| state.charges.get(offset))
        {
            *charged.entry(charge.uid).or_default() += charge.bytes;
        }
        (if state.dismantled { 0 } else { committed }, charged)
    }
}

//! What a pool has taken from budget and quotas, by its own tables, and whether what it has in
//! shared memory holds together: for tests that compare.

use super::*;

impl Pool {
    /// Makes CONTROL's header one that nobody writes.
    pub(crate) fn spoil_header(&self) {
        self.memory.control().copy_in(8, &[9; 8]).unwrap();
    }

    /// Returns where everything lies.
    pub(crate) fn geometry(&self) -> &goumem_alloc::PoolGeometry {
        self.memory.geometry()
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

#[cfg(crash)]
mod mutants;
#[cfg(crash)]
mod words;

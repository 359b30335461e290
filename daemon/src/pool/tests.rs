//! Whether what a pool has in shared memory holds together: for tests that compare.

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
}

#[cfg(crash)]
mod mutants;
#[cfg(crash)]
mod words;

//! What an arena pool has taken from budget and quotas by its own tables, for tests and the fuzzer.

use super::ArenaPool;

impl ArenaPool {
    /// Returns the bytes it has committed, and what it has charged to its owner.
    pub(crate) fn accounts(&self) -> (u64, u64) {
        let state = self.lock();
        (
            self.payload_bytes + state.data_table_bytes + state.tables.bytes(),
            self.payload_bytes,
        )
    }
}

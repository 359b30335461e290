//! The word of an arena pool that says whether somebody waits.

use crate::sync::{AtomicU64, Ordering, fence};

/// The pool-wide word by which the daemon says that somebody waits for an arena.
#[derive(Debug, Clone, Copy)]
pub struct WaitersFlag<'a>(&'a AtomicU64);

impl<'a> WaitersFlag<'a> {
    /// Returns the flag in that word.
    pub fn new(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// Says whether somebody waits. Who waits looks for a free arena once more afterwards.
    ///
    /// CRASH: a flag without waiters costs a call to the daemon.
    pub fn set(self, waiting: bool) {
        self.0.store(u64::from(waiting), Ordering::Relaxed);
        // ORDERING: SeqCst fence; pairs with the one in `is_set`.
        fence(Ordering::SeqCst);
    }

    /// Returns whether somebody waits. The caller has freed an arena before: either it sees the
    /// flag, or whoever set the flag sees the arena.
    pub fn is_set(self) -> bool {
        // ORDERING: SeqCst fence; pairs with the one in `set`: a store and then a load on both
        // sides, of which at least one must see the other's store.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) != 0
    }
}

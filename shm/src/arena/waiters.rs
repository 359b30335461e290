//! The word of an arena pool that says whether somebody waits.

use crate::sync::{AtomicU64, Ordering, fence};

/// The pool-wide word by which the daemon says that somebody waits for an arena.
#[derive(Debug, Clone, Copy)]
pub struct WaitersFlag<'a>(&'a AtomicU64);

impl<'a> WaitersFlag<'a> {
    /// Returns the flag in that word.
    #[inline]
    pub fn new(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// Says whether somebody waits. Who waits looks for a free arena once more afterwards.
    ///
    /// CRASH: a flag without waiters costs a call to the daemon.
    pub fn set(self, waiting: bool) {
        self.0.store(u64::from(waiting), Ordering::Relaxed);
        // ORDERING: SeqCst fence; pairs with the exchange and the load of `is_set`.
        fence(Ordering::SeqCst);
    }

    /// Returns whether somebody waits, for one who has given an arena back: either it sees the
    /// flag, or whoever set the flag sees the arena.
    #[inline]
    pub fn is_set(self) -> bool {
        #[cfg(loom)]
        fence(Ordering::SeqCst); // loom knows the total order of fences alone
        // ORDERING: SeqCst; pairs with the fence in `set`. A write and then a load on both sides,
        // of which at least one must see the other's write. Here the write is the SeqCst exchange
        // that freed the arena word, so that no fence is needed, which would take longer than both.
        self.0.load(Ordering::SeqCst) != 0
    }

    /// Returns whether somebody seems to wait: for one who will give way if so.
    #[inline]
    pub fn peek(self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

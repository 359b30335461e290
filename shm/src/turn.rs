//! A lock that leans to one thread: its owner takes and gives it back with plain stores, and
//! everybody else pays. The owner's turns come some hundred million times a second at best, those
//! of the others (who look for idle spans) about once.
//!
//! It is Dekker's: each side raises its flag, then looks at the other's. Between the two the owner
//! has a fence for the compiler only, and the others one for every processor that runs a thread of
//! this process, `membarrier(2)`. The technique is that of folly's `AsymmetricThreadFence` and of
//! biased locks in Java machines. Where the kernel has no `membarrier` the owner has no turns of
//! its own, and claims them like everybody else.

use crate::sync::{AtomicBool, Ordering, heavy_fence, light_fence};

/// The two flags. The others exclude each other by a mutex of the caller's.
#[derive(Debug)]
pub(crate) struct TurnFlags {
    /// The owner is at it.
    busy: AtomicBool,
    /// Somebody else is, or waits for the owner to end its turn; or the owner has no turns.
    claimed: AtomicBool,
    owner_has_turns: bool,
}

impl TurnFlags {
    /// Returns flags that are down. Unless `owner_has_turns`, the owner never begins one.
    pub(crate) fn new(owner_has_turns: bool) -> Self {
        Self {
            busy: AtomicBool::new(false),
            claimed: AtomicBool::new(!owner_has_turns),
            owner_has_turns,
        }
    }

    /// Begins a turn of the owner. Returns false while one is under way, the owner's own too.
    ///
    /// Only the owner calls this.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        if self.busy.load(Ordering::Relaxed) {
            return false;
        }
        self.busy.store(true, Ordering::Relaxed);
        // ORDERING: pairs with the heavy fence in `claim`: if this turn does not see the claim,
        // the claim sees the turn.
        light_fence();
        // ORDERING: Acquire; pairs with the Release in `unclaim`: what the other side did comes
        // before this turn.
        if self.claimed.load(Ordering::Acquire) {
            self.end();
            return false;
        }
        true
    }

    /// Ends a turn of the owner.
    #[inline]
    pub(crate) fn end(&self) {
        // ORDERING: pairs with the Acquire in `owner_is_out`: what was done in the turn comes
        // before what the other side does.
        self.busy.store(false, Ordering::Release);
    }

    /// Returns whether a turn of the owner is under way, if the owner asks.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Keeps the owner from beginning another turn. One at a time calls this, and then waits for
    /// `owner_is_out`. Without an owner nobody has to be told.
    pub(crate) fn claim(&self, has_owner: bool) {
        self.claimed.store(true, Ordering::Relaxed);
        if has_owner && self.owner_has_turns {
            // ORDERING: pairs with the light fence in `begin`.
            heavy_fence();
        }
    }

    /// Returns whether the owner's last turn has ended.
    pub(crate) fn owner_is_out(&self) -> bool {
        // ORDERING: pairs with the Release in `end`.
        !self.busy.load(Ordering::Acquire)
    }

    /// Lets the owner go on.
    pub(crate) fn unclaim(&self) {
        // ORDERING: pairs with the Acquire in `begin`.
        self.claimed.store(!self.owner_has_turns, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod tests {
    mod loom_models;
}

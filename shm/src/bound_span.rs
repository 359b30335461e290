//! A leased span in the heap of an [`Agent`](crate::agent::Agent): worked on in turns, so that its
//! owner's thread can free a block straight into the span, without having the span at hand.

use std::fmt;
use std::mem::ManuallyDrop;

use crate::agent::Right;
use crate::leased_span::{LeasedSpan, SpanLease};
use crate::raw_block::RawBlock;

/// A span that is bound to an agent.
///
/// Dropped instead of [unbound](Self::unbind), it is lost until the process ends: its blocks stay
/// good, and nobody allocates there.
///
/// # Invariants
/// The record of `span` names an agent. `span` is reached only with a [`Right`] at that agent, so
/// in a turn.
pub struct BoundSpan {
    span: ManuallyDrop<LeasedSpan>,
}

impl BoundSpan {
    /// Binds a span to the agent whose turn it is. `key` is what
    /// [`take_woken`](Right::take_woken) calls it.
    pub fn bind(mut span: LeasedSpan, right: Right<'_>, key: u64) -> Self {
        right.count_bound();
        let side = span.side_mut();
        side.key = key;
        side.set_aside = false;
        // From here on the owner's frees go straight into the side, in turns of their own.
        span.record().set_agent(Some(right.core()));
        // INVARIANT: the record names the agent.
        Self {
            span: ManuallyDrop::new(span),
        }
    }

    /// Unbinds it: it can go to another agent, or back to the daemon.
    ///
    /// # Panics
    /// In a turn at another agent than the span's.
    pub fn unbind(self, right: Right<'_>) -> LeasedSpan {
        self.check_flushed(right);
        let mut this = self;
        right.count_unbound(this.span.side_mut().key);
        this.span.record().set_agent(None);
        ManuallyDrop::into_inner(this.span)
    }

    /// Takes a free block, or returns `None` when none is at hand. Those that were freed last are
    /// had by [`take_recent`](Right::take_recent).
    ///
    /// # Panics
    /// As `unbind`.
    #[inline]
    pub fn alloc(&mut self, right: Right<'_>) -> Option<RawBlock> {
        self.check(right);
        self.span.alloc()
    }

    /// Finds slots that became free elsewhere, as [`LeasedSpan::collect`]; returns how many free
    /// slots are known then.
    ///
    /// # Panics
    /// As `unbind`.
    pub fn collect(&mut self, right: Right<'_>, thorough: bool) -> u32 {
        self.check_flushed(right);
        self.span.collect(thorough);
        self.span.free_count()
    }

    /// Has the key of the span told by [`take_woken`](Right::take_woken) once one of its blocks is
    /// freed on the owner's thread: nobody looks at it until then.
    ///
    /// # Panics
    /// As `unbind`.
    pub fn set_aside(&mut self, right: Right<'_>) {
        self.check_flushed(right);
        self.span.side_mut().set_aside = true;
    }

    /// Returns how many free slots are known.
    ///
    /// # Panics
    /// As `unbind`.
    pub fn free_count(&self, right: Right<'_>) -> u32 {
        self.check_flushed(right);
        self.span.free_count()
    }

    /// Returns whether every slot is known to be free.
    ///
    /// # Panics
    /// As `unbind`.
    pub fn is_empty(&self, right: Right<'_>) -> bool {
        self.free_count(right) == self.span.slots()
    }

    /// Returns how many private blocks there are, as [`LeasedSpan::private_count`].
    ///
    /// # Panics
    /// As `unbind`.
    pub fn private_count(&self, right: Right<'_>) -> u32 {
        self.check_flushed(right);
        self.span.private_count()
    }

    /// Returns the lease.
    pub fn lease(&self) -> SpanLease {
        self.span.lease()
    }

    /// As `check`, for those who want to know what is free: all of it is in the bitmap then.
    fn check_flushed(&self, right: Right<'_>) {
        self.check(right);
        right.flush_recent(self.span.lease().class);
    }

    #[inline]
    fn check(&self, right: Right<'_>) {
        assert!(
            self.span.record().is_bound_to(right.core()),
            "a span in the turn of another agent than its own"
        );
    }
}

impl fmt::Debug for BoundSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = self.span.lease();
        f.debug_struct("BoundSpan").field("lease", &lease).finish()
    }
}

#[cfg(test)]
mod tests;

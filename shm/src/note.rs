//! The page note: what processes tell the agent of a span beside its words. It lies at a place
//! that does not depend on the span's class, 128 bytes apart (two cache lines, since adjacent
//! lines are fetched in pairs), so that the frees of one span do not slow another's.

use crate::sync::{AtomicU64, Ordering, load_acquire};

/// Set before a block of the span gets an owner who is not the lessee.
const HOLDS_ADOPTED: u64 = 1 << 63;

/// The shared word of the first page of a span: `adopted:1 | frees:63`.
#[derive(Debug)]
#[repr(transparent)]
pub struct PageNote(AtomicU64);

impl PageNote {
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn from_atomic(word: &AtomicU64) -> &Self {
        // SAFETY:
        // - PageNote is repr(transparent) over AtomicU64;
        // - the lifetime of the result is that of the argument.
        unsafe { &*std::ptr::from_ref(word).cast::<Self>() }
    }

    /// Tells the agent that an exported block of the span was freed. Only a hint: the agent
    /// re-reads the words before it asks for another span.
    #[inline]
    pub fn hint_free(&self) {
        // ORDERING: Relaxed; pairs with nothing. The slot word carries the data.
        // CRASH: a missing hint costs the agent a re-read.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the count of frees hinted so far, modulo 2^63.
    #[inline]
    pub fn frees(&self) -> u64 {
        // ORDERING: Relaxed; the agent loads each word with Acquire afterwards.
        self.0.load(Ordering::Relaxed) & !HOLDS_ADOPTED
    }

    /// Marks that the span holds, or is about to hold, a block whose owner is not the lessee.
    /// It stays until the span is recycled.
    #[inline]
    pub fn set_holds_adopted(&self) {
        // Set once a lease, and asked for at each take: a load leaves the line where it is. Its
        // Acquire passes on the store of whoever set it.
        if self.holds_adopted() {
            return;
        }
        // ORDERING: Release; pairs with the Acquire in `holds_adopted`, through the slot word's
        // compare-exchange that follows this store.
        // CRASH: a flag without an adopted block is harmless.
        self.0.fetch_or(HOLDS_ADOPTED, Ordering::Release);
    }

    /// Returns whether a sweep must look into this span for a session that does not lease it.
    #[inline]
    pub fn holds_adopted(&self) -> bool {
        // ORDERING: pairs with the Release in `set_holds_adopted`.
        load_acquire(&self.0) & HOLDS_ADOPTED != 0
    }

    /// Clears the note of a span about to be granted.
    pub fn reset(&self) {
        // ORDERING: Relaxed; published by the head entry. CRASH: the span is not granted yet.
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn hints_are_counted_beside_the_flag_and_both_go_with_the_span() {
        let note = PageNote(AtomicU64::new(0));
        assert_eq!((note.frees(), note.holds_adopted()), (0, false));
        note.hint_free();
        note.set_holds_adopted();
        note.set_holds_adopted();
        note.hint_free();
        assert_eq!((note.frees(), note.holds_adopted()), (2, true));
        note.reset();
        assert_eq!((note.frees(), note.holds_adopted()), (0, false));
    }

    #[test]
    fn note_full_of_ones_is_read_and_counted_like_any_other() {
        let note = PageNote(AtomicU64::new(u64::MAX));
        assert!(note.holds_adopted());
        let before = note.frees();
        note.hint_free();
        assert_ne!(note.frees(), before);
    }
}

#[cfg(all(test, loom))]
mod loom_models;

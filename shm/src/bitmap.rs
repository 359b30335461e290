//! Which slots of a leased span are free: the private bitmap of the span's one agent, and the two
//! bitmaps by which other threads of the process tell the agent things. A bit per slot; nothing
//! here is shared with another process but the slot words that the caller looks at.
//!
//! ```text
//!            drop of a private block (any thread)        export (any thread)
//!                          │ give                             │ mark, after the word
//!                    ┌─────▼──────┐                     ┌─────▼──────┐
//!                    │ RemoteBits │                     │ExportedBits│  word FREE again?
//!                    └─────┬──────┘                     └─────┬──────┘
//!                          └────────────► FreeBits ◄──────────┘
//!                     the agent's collect: swap           the agent's collect: re-read
//! ```

use crate::slot::fence_before_reuse;
use crate::sync::{AtomicU64, Ordering};

const BITS: u32 = u64::BITS;

/// The agent's bitmap: a set bit is a free slot.
///
/// # Invariants
/// `count` bits are set, and none at or beyond the number of slots.
#[derive(Debug)]
pub(crate) struct FreeBits {
    words: Box<[u64]>,
    count: u32,
    /// The word in which the last search ended.
    search_from: usize,
}

impl FreeBits {
    /// Returns a bitmap of `slots` slots of which none is free.
    pub(crate) fn none(slots: u32) -> Self {
        Self {
            words: vec![0; n_words(slots)].into_boxed_slice(),
            count: 0,
            search_from: 0,
        }
    }

    /// Returns a bitmap of `slots` free slots.
    pub(crate) fn all(slots: u32) -> Self {
        let mut words = vec![u64::MAX; n_words(slots)].into_boxed_slice();
        if let (Some(last), beyond @ 1..) = (words.last_mut(), slots % BITS) {
            *last = (1 << beyond) - 1;
        }
        Self {
            words,
            count: slots,
            search_from: 0,
        }
    }

    /// Takes a free slot.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u32> {
        let word = self.words.get_mut(self.search_from)?;
        if *word == 0 {
            return self.search();
        }
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        // Of `count` set bits one was found, so it does not wrap.
        self.count = self.count.wrapping_sub(1);
        Some(slot_of(self.search_from, bit))
    }

    #[cold]
    fn search(&mut self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let (before, after) = self.words.split_at(self.search_from);
        let has_free = |word: &u64| *word != 0;
        self.search_from = match after.iter().position(has_free) {
            Some(further) => self.search_from + further,
            None => before.iter().position(has_free)?,
        };
        self.take()
    }

    /// Marks a slot free that was not. It is the next to be taken, or one near it: its bytes may
    /// still be in the processor's cache.
    #[inline]
    pub(crate) fn give(&mut self, slot: u32) {
        let (index, bit) = bit_of(slot);
        self.give_bits(index, bit);
        self.search_from = index;
    }

    #[inline]
    fn give_bits(&mut self, index: usize, bits: u64) {
        debug_assert_eq!(self.words[index] & bits, 0, "slots given twice");
        self.words[index] |= bits;
        self.count += bits.count_ones();
    }

    /// Returns how many slots are free.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

/// One word of bits that several threads set and the agent clears.
///
/// Its methods take `&self` of this type alone: the agent may let go of the whole bitmap as soon
/// as it sees the bit, so whoever sets it must not hold a reference to more.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct BitWord(AtomicU64);

impl BitWord {
    fn zero() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Sets a bit. The bitmap may be gone when this returns.
    #[inline]
    pub(crate) fn set(&self, bit: u64) {
        // ORDERING: pairs with the Acquire in `RemoteBits::collect` and `ExportedBits::collect`.
        // CRASH: process memory; it dies with the process. The slot's word was SHARED before, or
        // the block was never exported: both are found without the bit.
        self.0.fetch_or(bit, Ordering::Release);
    }
}

/// Slots whose private blocks were dropped, on any thread.
#[derive(Debug)]
pub(crate) struct RemoteBits(Box<[BitWord]>);

impl RemoteBits {
    /// Returns a bitmap of `slots` slots, all clear.
    pub(crate) fn new(slots: u32) -> Self {
        Self(bit_words(slots))
    }

    /// Returns the word of a slot and its bit in it: setting it gives the slot to the agent.
    #[inline]
    pub(crate) fn place(&self, slot: u32) -> (&BitWord, u64) {
        let (index, bit) = bit_of(slot);
        (&self.0[index], bit)
    }

    /// Moves every slot given so far to the agent's bitmap.
    pub(crate) fn collect(&self, free: &mut FreeBits) {
        for (index, word) in self.0.iter().enumerate() {
            // ORDERING: Relaxed, only a look whether the exchange is worth it.
            if word.0.load(Ordering::Relaxed) != 0 {
                // ORDERING: pairs with the Release in `BitWord::set`: what the last holders did
                // with the bytes comes before what the next ones do.
                free.give_bits(index, word.0.swap(0, Ordering::Acquire));
            }
        }
    }
}

/// Slots that were exported: of these alone the agent re-reads the slot words.
#[derive(Debug)]
pub(crate) struct ExportedBits(Box<[BitWord]>);

impl ExportedBits {
    /// Returns a bitmap of `slots` slots, all clear.
    pub(crate) fn new(slots: u32) -> Self {
        Self(bit_words(slots))
    }

    /// Returns the word of a slot and its bit in it. It is set after the slot word is SHARED: with
    /// the bit over a word that is still FREE the agent would take the slot for its own.
    #[inline]
    pub(crate) fn place(&self, slot: u32) -> (&BitWord, u64) {
        let (index, bit) = bit_of(slot);
        (&self.0[index], bit)
    }

    /// Moves the slots whose words `is_free` says are FREE to the agent's bitmap.
    pub(crate) fn collect(&self, free: &mut FreeBits, mut is_free: impl FnMut(u32) -> bool) {
        for (index, word) in self.0.iter().enumerate() {
            // ORDERING: pairs with the Release in `BitWord::set`: the slot word was SHARED before
            // the bit, so a FREE that is read now came after.
            let mut candidates = word.0.load(Ordering::Acquire);
            let mut freed = 0;
            while candidates != 0 {
                let bit = candidates & candidates.wrapping_neg();
                candidates &= !bit;
                if is_free(slot_of(index, bit.trailing_zeros())) {
                    freed |= bit;
                }
            }
            Self::reclaim_bits(word, index, freed, free);
        }
    }

    /// As `collect`, for one slot. Returns whether it became free.
    #[inline]
    pub(crate) fn collect_one(
        &self,
        slot: u32,
        free: &mut FreeBits,
        is_free: impl FnOnce(u32) -> bool,
    ) -> bool {
        let (index, bit) = bit_of(slot);
        let Some(word) = self.0.get(index) else {
            return false;
        };
        // ORDERING: as in `collect`.
        let became_free = word.0.load(Ordering::Acquire) & bit != 0 && is_free(slot);
        Self::reclaim_bits(word, index, if became_free { bit } else { 0 }, free);
        became_free
    }

    #[inline]
    fn reclaim_bits(word: &BitWord, index: usize, freed: u64, free: &mut FreeBits) {
        if freed != 0 {
            fence_before_reuse();
            // ORDERING: Relaxed. The next to set the bit has the slot from this agent.
            word.0.fetch_and(!freed, Ordering::Relaxed);
            free.give_bits(index, freed);
        }
    }

    /// Returns how many slots are marked.
    pub(crate) fn count(&self) -> u32 {
        let marked = |word: &BitWord| word.0.load(Ordering::Acquire).count_ones();
        self.0.iter().map(marked).sum()
    }
}

fn bit_words(slots: u32) -> Box<[BitWord]> {
    (0..n_words(slots)).map(|_| BitWord::zero()).collect()
}

const fn n_words(slots: u32) -> usize {
    slots.div_ceil(BITS) as usize
}

#[inline]
const fn bit_of(slot: u32) -> (usize, u64) {
    ((slot / BITS) as usize, 1 << (slot % BITS))
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a span has at most 2^18 slots, so 2^12 words"
)]
fn slot_of(index: usize, bit: u32) -> u32 {
    ((index as u32) << BITS.trailing_zeros()) | bit
}

#[cfg(test)]
mod tests;

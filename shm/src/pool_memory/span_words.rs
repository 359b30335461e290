//! Places and words of a span, as [`PoolMemory`](super::PoolMemory) gives them out.

use goumem_alloc::{Generation, Offset, PageCount, PageIndex, SessionNumber, SizeClass};

use crate::slot::SlotWord;
use crate::sync::{AtomicU64, Ordering};

/// Where a block lies, as the page map says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// The first page of its span.
    pub first_page: PageIndex,
    /// The span's length.
    pub pages: PageCount,
    /// Its class.
    pub class: SizeClass,
    /// Who leases the span.
    pub lessee: SessionNumber,
    /// Which slot of the span it is.
    pub slot: u32,
    /// Where its first byte lies in DATA.
    pub offset: Offset,
}

impl BlockPlace {
    /// Returns how many bytes the block has.
    #[inline]
    pub fn usable_bytes(&self) -> u64 {
        self.class.usable_in(self.pages)
    }
}

/// The slot words of a span.
#[derive(Debug, Clone, Copy)]
pub struct SlotRun<'a> {
    words: &'a [AtomicU64],
    /// The position of slot 0 in the run, which is below its length.
    rotation: usize,
}

impl<'a> SlotRun<'a> {
    /// Returns the run, unless it has no slots or slot 0 is in none of them.
    #[inline]
    pub(super) fn new(words: &'a [AtomicU64], rotation: usize) -> Option<Self> {
        (rotation < words.len()).then_some(Self { words, rotation })
    }

    /// Returns the word of `slot`.
    ///
    /// # Panics
    /// When the span has no such slot: slots are counted by the caller from the same class.
    #[inline]
    pub fn word(&self, slot: u32) -> &'a SlotWord {
        let n = self.words.len();
        let position = slot as usize + self.rotation;
        // Once around at most: a division would cost as much as the load.
        let position = if position < n { position } else { position - n };
        SlotWord::from_atomic(&self.words[position])
    }

    /// Returns every word, in an order that is not that of the slots.
    #[inline]
    pub fn words(&self) -> impl Iterator<Item = &'a SlotWord> + use<'a> {
        self.words.iter().map(SlotWord::from_atomic)
    }

    /// Returns how many slots there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Returns whether the span has no slots.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

/// The record that CONTROL keeps of a page beside its entry.
#[derive(Debug, Clone, Copy)]
pub struct PageRecord<'a>(pub(super) &'a [AtomicU64]);

impl PageRecord<'_> {
    /// Returns the generation floor: above every word the page has ever carried.
    pub fn floor(&self) -> Generation {
        Generation::from_low_bits(self.0[0].load(Ordering::Relaxed))
    }

    /// Raises the floor. It stands before the return of the span commits.
    ///
    /// CRASH: a floor raised without a return is harmless.
    pub fn set_floor(&self, floor: Generation) {
        self.0[0].store(floor.get(), Ordering::Relaxed);
    }

    /// Returns the request that leased the span, and the uid it is charged to.
    pub fn lease(&self) -> (u64, u32) {
        let uid = self.0[2].load(Ordering::Relaxed) & 0xffff_ffff;
        (
            self.0[1].load(Ordering::Relaxed),
            u32::try_from(uid).expect("masked"),
        )
    }

    /// Records who leases the span, before its head entry commits.
    ///
    /// CRASH: without the head entry it says nothing.
    pub fn set_lease(&self, request_id: u64, uid: u32) {
        self.0[1].store(request_id, Ordering::Relaxed);
        self.0[2].store(u64::from(uid), Ordering::Relaxed);
    }
}

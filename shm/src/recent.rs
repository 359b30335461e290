//! The blocks that a thread freed last, a few of each class: the next to be handed out. Their bytes
//! and their spans' records are still in the processor's cache, and neither slot nor bit has to be
//! worked out, which is most of what a pair of alloc and free costs otherwise. What glibc and
//! jemalloc call a thread cache.
//!
//! As far as their spans know, these blocks are in use: whoever looks at a span flushes its class
//! first.

use std::fmt;
use std::ptr::NonNull;

use crate::raw_block::SpanRecord;

/// How many blocks of a class: with fewer, a loop that frees some and then allocates some goes the
/// long way; more would be cold again.
const DEPTH: usize = 8;

/// A free block, and the span that it goes back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FreedBlock {
    pub(crate) pointer: NonNull<u8>,
    pub(crate) record: NonNull<SpanRecord>,
}

/// The last freed blocks of one class, the newest on top.
///
/// # Invariants
/// The first `len` places have a block.
pub(crate) struct Recent {
    len: usize,
    blocks: [Option<FreedBlock>; DEPTH],
}

// SAFETY: the blocks are nobody's, and their records are Send + Sync.
unsafe impl Send for Recent {}

impl Recent {
    pub(crate) const NONE: Self = Self {
        len: 0,
        blocks: [None; DEPTH],
    };

    /// Takes the block that was freed last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<FreedBlock> {
        let below = self.len.checked_sub(1)?;
        let block = *self.blocks.get(below)?;
        self.len = below;
        block
    }

    /// Puts a block on top; `false` when there is no room.
    #[inline]
    pub(crate) fn push(&mut self, block: FreedBlock) -> bool {
        match self.blocks.get_mut(self.len) {
            Some(place) => {
                *place = Some(block);
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Takes the older half out.
    pub(crate) fn take_older_half(&mut self) -> impl Iterator<Item = FreedBlock> + use<> {
        let older = self.len.div_ceil(2);
        let taken = self.blocks;
        self.blocks.rotate_left(older);
        self.len -= older;
        taken.into_iter().take(older).flatten()
    }

    /// Takes all of them out.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = FreedBlock> + use<> {
        let n = std::mem::take(&mut self.len);
        self.blocks.into_iter().take(n).flatten()
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("len", &self.len).finish()
    }
}

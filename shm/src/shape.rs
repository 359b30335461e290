//! The shape word: what a block was allocated as, in a cold table beside the slot words.
//!
//! ```text
//!  63                     40 39                                         0
//! ┌─────────────────────────┬────────────────────────────────────────────┐
//! │ element type tag : 24   │ length in bytes : 40                       │
//! └─────────────────────────┴────────────────────────────────────────────┘
//! ```
//!
//! It is written before the block is exported and checked against the class size by every
//! reader, since any writer of the pool may have spoilt it.

use goumem_alloc::TypeTag;

use crate::sync::{AtomicU64, Ordering};

const LENGTH_BITS: u32 = 40;
const LENGTH_MASK: u64 = (1 << LENGTH_BITS) - 1;

/// The element type and length of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// What the bytes are; `TypeTag::UNTYPED` fits every type.
    pub type_tag: TypeTag,
    /// Bytes asked for, up to 2^40 − 1.
    pub length_bytes: u64,
}

impl Shape {
    /// Returns the shape that the bits of a word say.
    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Self {
        let tag = u32::try_from(bits >> LENGTH_BITS).expect("24 bits are left after the shift");
        Self {
            type_tag: TypeTag::new(tag).expect("24 bits"),
            length_bytes: bits & LENGTH_MASK,
        }
    }
}

/// The longest block a shape word can describe, in bytes.
pub const MAX_LENGTH_BYTES: u64 = LENGTH_MASK;

/// The shared word that holds a [`Shape`].
#[derive(Debug)]
#[repr(transparent)]
pub struct ShapeWord(AtomicU64);

impl ShapeWord {
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn from_atomic(word: &AtomicU64) -> &Self {
        // SAFETY:
        // - ShapeWord is repr(transparent) over AtomicU64;
        // - the lifetime of the result is that of the argument.
        unsafe { &*std::ptr::from_ref(word).cast::<Self>() }
    }

    /// Writes the shape of a block that is not exported yet.
    ///
    /// CRASH: the slot word is still FREE, so nobody reads the shape.
    #[inline]
    pub fn store(&self, shape: Shape) {
        debug_assert!(
            shape.length_bytes <= MAX_LENGTH_BYTES,
            "lengths are checked at the edge"
        );
        let word =
            u64::from(shape.type_tag.get()) << LENGTH_BITS | shape.length_bytes & LENGTH_MASK;
        // ORDERING: Relaxed; pairs with nothing. The slot word's Release store publishes it.
        self.0.store(word, Ordering::Relaxed);
    }

    /// Returns the shape. Whoever uses the length checks it against the class first.
    #[inline]
    pub fn load(&self) -> Shape {
        Shape::from_bits(self.load_bits())
    }

    /// As `load`, still packed.
    #[inline]
    pub(crate) fn load_bits(&self) -> u64 {
        // ORDERING: Relaxed; the reader has loaded the slot word with Acquire.
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shape_reads_back_as_written(
            tag in 0..=TypeTag::MAX.get(),
            length_bytes in 0..=MAX_LENGTH_BYTES,
        ) {
            let word = ShapeWord(AtomicU64::new(0));
            let type_tag = TypeTag::new(tag).unwrap();
            let shape = Shape { type_tag, length_bytes };
            word.store(shape);
            prop_assert_eq!(word.load(), shape);
        }

        #[test]
        fn any_bits_are_a_shape(bits: u64) {
            let shape = ShapeWord(AtomicU64::new(bits)).load();
            prop_assert!(shape.length_bytes <= MAX_LENGTH_BYTES);
        }
    }
}

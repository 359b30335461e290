//! The handle: the 16-byte name of an exported block, an arena or an allocation in an arena.
//!
//! A handle is valid in every process and every language, and never an address. From the highest
//! bit of the first word to the lowest of the second:
//!
//! ```text
//! 127       96 95                  52 51                  4 3    0
//! ├── pool ───┼──── generation ──────┼──── offset / 16 ────┼ kind ┤
//!     32                44                     48              4
//! ├───────────── high ───────────┼──────────── low ──────────────┤
//! ```
//!
//! As text it is `gm1-` and 32 lower-case hexadecimal digits, high word first; as bytes it is the
//! same 128 bits big-endian.

use core::fmt;
use core::num::NonZeroU64;
use core::str::FromStr;

use crate::units::{GRAIN_BYTES, Generation, Offset, PoolId, low_u32};

/// What every text form begins with: goumem, format 1.
const PREFIX: &str = "gm1-";
/// Hexadecimal digits after the prefix.
const DIGITS: usize = 32;

const KIND_BITS: u32 = 4;
const GRAIN_BITS: u32 = 48;
const GENERATION_SHIFT: u32 = KIND_BITS + GRAIN_BITS;
const POOL_SHIFT: u32 = GENERATION_SHIFT + Generation::BITS;
const _: () = assert!(POOL_SHIFT + 32 == 128);

/// What a handle names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum HandleKind {
    /// A block of a pool.
    Block = 1,
    /// An arena of an arena pool.
    Arena = 2,
    /// An allocation inside an arena.
    ArenaAllocation = 3,
}

/// The copyable name of a block, an arena or an allocation in an arena, in every process.
///
/// # Invariants
///
/// The pool is not 0 and the kind is 1, 2 or 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    // Not 0, since the pool's number is its upper half: `Option<Handle>` is 16 bytes as well.
    high: NonZeroU64,
    low: u64,
}

const _: () = assert!(size_of::<Option<Handle>>() == 16);

impl Handle {
    /// Makes the handle of what lies at `offset` in `pool`.
    ///
    /// # Panics
    ///
    /// If `offset` is not a multiple of 16 or not below 2^52: no pool has a block there.
    #[inline]
    #[must_use]
    pub const fn new(
        pool: PoolId,
        generation: Generation,
        offset: Offset,
        kind: HandleKind,
    ) -> Self {
        let grains = offset.get() / GRAIN_BYTES;
        assert!(
            offset.get() & (GRAIN_BYTES - 1) == 0 && grains >> GRAIN_BITS == 0,
            "a handle's offset is a multiple of 16 below 2^52"
        );
        let bits = (pool.get() as u128) << POOL_SHIFT
            | (generation.get() as u128) << GENERATION_SHIFT
            | (grains as u128) << KIND_BITS
            | kind as u128;
        match NonZeroU64::new(high_half(bits)) {
            Some(high) => Self {
                high,
                low: low_half(bits),
            },
            None => unreachable!(), // a PoolId is not 0
        }
    }

    /// Returns the handle of the allocation that lies `inside_bytes` into the arena which this
    /// handle names.
    ///
    /// # Panics
    ///
    /// If that is not a multiple of 16, or does not end below 2^52.
    #[inline]
    #[must_use]
    pub const fn allocation_at(self, inside_bytes: u64) -> Self {
        const KIND: u64 = (1 << KIND_BITS) - 1;
        const OFFSET: u64 = (1 << GENERATION_SHIFT) - 1 - KIND;
        let limit_bytes = OFFSET - (self.low & OFFSET);
        assert!(
            inside_bytes & KIND == 0 && inside_bytes <= limit_bytes,
            "a handle's offset is a multiple of 16 below 2^52"
        );
        // An offset stands where it is in bytes, since a kind has as many bits as a grain.
        let low = (self.low & !KIND).wrapping_add(inside_bytes);
        Self {
            high: self.high,
            low: low | HandleKind::ArenaAllocation as u64,
        }
    }

    /// Makes a handle of its two words.
    ///
    /// # Errors
    ///
    /// [`HandleError::NoPool`] and [`HandleError::UnknownKind`]; every other bit pattern is a
    /// handle, if perhaps of nothing.
    pub const fn from_words(high: u64, low: u64) -> Result<Self, HandleError> {
        let Some(high) = NonZeroU64::new(high) else {
            return Err(HandleError::NoPool { high, low });
        };
        if high.get() >> 32 == 0 {
            return Err(HandleError::NoPool {
                high: high.get(),
                low,
            });
        }
        match low & 15 {
            1..=3 => Ok(Self { high, low }),
            _ => Err(HandleError::UnknownKind {
                high: high.get(),
                low,
            }),
        }
    }

    /// Makes a handle of its 16 bytes, big-endian.
    ///
    /// # Errors
    ///
    /// As [`Self::from_words`].
    pub const fn from_bytes(bytes: [u8; 16]) -> Result<Self, HandleError> {
        let bits = u128::from_be_bytes(bytes);
        Self::from_words(high_half(bits), low_half(bits))
    }

    /// Returns the two words, high first.
    #[inline]
    #[must_use]
    pub const fn to_words(self) -> (u64, u64) {
        (self.high.get(), self.low)
    }

    /// Returns the 16 bytes, big-endian.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.bits().to_be_bytes()
    }

    /// Returns the pool.
    #[inline]
    #[must_use]
    pub const fn pool(self) -> PoolId {
        match PoolId::new(low_u32(self.high.get() >> 32)) {
            Some(pool) => pool,
            None => unreachable!(), // checked when the handle was made
        }
    }

    /// Returns the generation that the slot must have for the handle to be good.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> Generation {
        Generation::from_low_bits(low_half(self.bits() >> GENERATION_SHIFT))
    }

    /// Returns the offset in the pool's DATA segment, a multiple of 16.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> Offset {
        Offset::new(((self.low >> KIND_BITS) & ((1 << GRAIN_BITS) - 1)) * GRAIN_BYTES)
    }

    /// Returns what the handle names.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> HandleKind {
        match self.low & 15 {
            1 => HandleKind::Block,
            2 => HandleKind::Arena,
            _ => HandleKind::ArenaAllocation,
        }
    }

    const fn bits(self) -> u128 {
        (self.high.get() as u128) << 64 | self.low as u128
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", self.bits())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Handle {
    type Err = HandleError;

    /// Reads the text form; the digits may be of either case, nothing else may differ.
    fn from_str(text: &str) -> Result<Self, HandleError> {
        let digits = text
            .strip_prefix(PREFIX)
            .ok_or(HandleError::Prefix)?
            .as_bytes();
        if digits.len() != DIGITS {
            return Err(HandleError::Length {
                digits: digits.len(),
            });
        }
        let mut bits = 0;
        for (position, &digit) in digits.iter().enumerate() {
            let value = char::from(digit)
                .to_digit(16)
                .ok_or(HandleError::Digit { position })?;
            bits = bits << 4 | u128::from(value);
        }
        Self::from_words(high_half(bits), low_half(bits))
    }
}

/// Why words, bytes or text are no handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandleError {
    /// The pool's number is 0.
    #[error("handle {high:016x}{low:016x} names no pool")]
    NoPool {
        /// The first word as it came.
        high: u64,
        /// The second word as it came.
        low: u64,
    },
    /// The kind is none of those known.
    #[error("handle {high:016x}{low:016x} has unknown kind {}", low & 15)]
    UnknownKind {
        /// The first word as it came.
        high: u64,
        /// The second word as it came; the kind is its low 4 bits.
        low: u64,
    },
    /// The text does not begin with `gm1-`.
    #[error("handle does not begin with {PREFIX}")]
    Prefix,
    /// The text has too few or too many digits.
    #[error("handle has {digits} characters after {PREFIX}, not {DIGITS}")]
    Length {
        /// Bytes after the prefix.
        digits: usize,
    },
    /// A character of the text is no hexadecimal digit.
    #[error("handle has no hexadecimal digit at position {position} after {PREFIX}")]
    Digit {
        /// Which byte after the prefix, from 0.
        position: usize,
    },
}

const fn high_half(bits: u128) -> u64 {
    (bits >> 64) as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low_half(bits: u128) -> u64 {
    bits as u64
}

#[cfg(test)]
mod tests;

//! Stamps: what is written over the whole of every block, so that each of its words says whose
//! block it is part of, which of theirs, and at which place of it.

use std::fmt;
use std::str::FromStr;

/// Who made a block, and which of their blocks it is. Also the block's name in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Stamp {
    /// A worker process; never 0, so that no word of a stamp is 0.
    pub(crate) owner: u16,
    /// 28 bits; goes round after that, when the block of that number is long gone.
    pub(crate) seq: u32,
}

const SEQ_BITS: u32 = 28;
const PLACE_BITS: u32 = 20;
/// The longest block whose words all differ.
pub(crate) const MAX_WORDS: usize = 1 << PLACE_BITS;

/// Odd numbers of Steele and Vigna's SplitMix64: multiplying by them is a permutation.
const FIRST_FACTOR: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND_FACTOR: u64 = 0x94d0_49bb_1331_11eb;

/// A block's word is not what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) expected: Stamp,
    /// Which word, and of how many.
    pub(crate) at: usize,
    pub(crate) words: usize,
    pub(crate) found: u64,
    /// How many words are wrong.
    pub(crate) wrong: usize,
}

impl Stamp {
    pub(crate) fn new(owner: u16, seq: u32) -> Self {
        Self {
            owner,
            seq: seq & ((1 << SEQ_BITS) - 1),
        }
    }

    /// Returns the word at a place of a block with this stamp. Neighbours share no byte, so a
    /// copy that is torn or out of place does not pass for another.
    #[inline]
    pub(crate) fn word(self, at: usize) -> u64 {
        let plain = u64::from(self.owner) << (SEQ_BITS + PLACE_BITS)
            | u64::from(self.seq) << PLACE_BITS
            | (at % MAX_WORDS) as u64;
        let mixed = plain.wrapping_mul(FIRST_FACTOR);
        (mixed ^ mixed >> 32).wrapping_mul(SECOND_FACTOR)
    }

    /// Returns whose word that would be, and which of the block.
    pub(crate) fn of(word: u64) -> (Self, u64) {
        const FIRST_INVERSE: u64 = inverse(FIRST_FACTOR);
        const SECOND_INVERSE: u64 = inverse(SECOND_FACTOR);
        let mixed = word.wrapping_mul(SECOND_INVERSE);
        let plain = (mixed ^ mixed >> 32).wrapping_mul(FIRST_INVERSE);
        let owner = u16::try_from(plain >> (SEQ_BITS + PLACE_BITS)).unwrap_or(0);
        let seq = u32::try_from(plain >> PLACE_BITS & ((1 << SEQ_BITS) - 1)).unwrap_or(0);
        (Self { owner, seq }, plain % MAX_WORDS as u64)
    }

    /// Stamps a block.
    pub(crate) fn write(self, block: &mut [u64]) {
        for (at, word) in block.iter_mut().enumerate() {
            *word = self.word(at);
        }
    }

    /// Looks at every word of a block that has this stamp.
    pub(crate) fn verify(self, words: &[u64]) -> Result<(), Mismatch> {
        let is_wrong = |&(at, &word): &(usize, &u64)| word != self.word(at);
        let Some((at, &found)) = words.iter().enumerate().find(is_wrong) else {
            return Ok(());
        };
        Err(Mismatch {
            expected: self,
            at,
            words: words.len(),
            found,
            wrong: words.iter().enumerate().filter(is_wrong).count(),
        })
    }
}

/// The number whose product with an odd one is 1 (Newton's iteration; each step doubles the bits
/// that are right, of which an odd number has three to begin with).
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.owner, self.seq)
    }
}

impl FromStr for Stamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (owner, seq) = text.split_once('.')?;
            Some(Self::new(owner.parse().ok()?, seq.parse().ok()?))
        };
        parse().ok_or_else(|| format!("no stamp: {text}"))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            expected,
            at,
            words,
            found,
            wrong,
        } = self;
        write!(f, "stamp {expected}: word {at} of {words} is {found:#x}")?;
        if *found == 0 {
            write!(f, " (zeroed)")?;
        } else {
            let (stamp, place) = Stamp::of(*found);
            write!(f, " (word {place} of stamp {stamp})")?;
        }
        write!(f, ", {wrong} words are wrong")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_says_whose_it_is() {
        for stamp in [
            Stamp::new(1, 0),
            Stamp::new(7, 123_456),
            Stamp::new(u16::MAX, u32::MAX),
        ] {
            for at in [0, 1, 77, MAX_WORDS - 1] {
                let word = stamp.word(at);
                assert_eq!(Stamp::of(word), (stamp, at as u64));
                assert_ne!(word, 0);
            }
            assert_eq!(stamp.to_string().parse(), Ok(stamp));
        }
        assert_eq!(Stamp::of(0).0.owner, 0);
    }

    #[test]
    fn any_foreign_word_is_found_and_told_apart() {
        let (mine, theirs) = (Stamp::new(3, 9), Stamp::new(4, 9));
        let mut block = vec![0; 1000];
        mine.write(&mut block);
        assert_eq!(mine.verify(&block), Ok(()));
        block[999] = theirs.word(5);
        let mismatch = mine.verify(&block).unwrap_err();
        assert_eq!((mismatch.at, mismatch.wrong), (999, 1));
        let text = mismatch.to_string();
        assert!(text.contains("stamp 3.9: word 999 of 1000"), "{text}");
        assert!(text.contains("word 5 of stamp 4.9"), "{text}");
        block[0] = 0;
        let text = mine.verify(&block).unwrap_err().to_string();
        assert!(
            text.contains("zeroed") && text.contains("2 words"),
            "{text}"
        );
        // A copy that is out of place is no copy.
        mine.write(&mut block);
        assert!(mine.verify(&block[1..]).is_err());
        assert!(theirs.verify(&block).is_err());
    }
}

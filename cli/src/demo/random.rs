//! Numbers that look random and are the same in every run: splitmix64 (Steele, Lea, Flood:
//! "Fast splittable pseudorandom number generators", OOPSLA 2014). Its state only counts, so that
//! the n-th number can be had at once.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns the upper half of the next number.
    pub(super) fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).expect("32 bits are left")
    }

    /// Returns a number below `bound`, which is above 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.next_u32() % bound
    }

    /// Returns the number from 1 to below 2 that matrix `n` is multiplied by.
    pub(super) fn factor(n: u64) -> f64 {
        let bits = Self::new(n.wrapping_mul(STEP)).next();
        f64::from_bits(1.0_f64.to_bits() | (bits >> 12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference_implementation() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn factors_lie_between_one_and_two_and_differ() {
        let factors: Vec<f64> = (0..1000).map(Random::factor).collect();
        assert!(factors.iter().all(|factor| (1.0..2.0).contains(factor)));
        assert!(factors.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

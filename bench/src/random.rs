//! Numbers that look random, the same for every contender, at a nanosecond each.

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Returns a generator that is like every other one of that `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `n`, which is at most 2^32.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let scaled = ((self.next() >> 32) * n as u64) >> 32;
        usize::try_from(scaled).expect("below n")
    }
}

/// Sizes from 16 bytes to 64 KiB whose logarithms are spread evenly.
#[derive(Debug, Clone)]
pub(crate) struct Sizes(Box<[u32; Self::COUNT]>);

impl Sizes {
    /// 4 KiB of them: they stay in the first cache.
    const COUNT: usize = 1024;
    const LEAST: f64 = 16.0;
    const DOUBLINGS: f64 = 12.0;

    pub(crate) fn new() -> Self {
        let mut sizes = Box::new([0; Self::COUNT]);
        for (size, n) in sizes.iter_mut().zip(0_u16..) {
            let at = (f64::from(n) + 0.5) / 1024.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "16 to 65 536"
            )]
            let bytes = (Self::LEAST * (Self::DOUBLINGS * at).exp2()) as u32;
            *size = bytes;
        }
        Self(sizes)
    }

    /// Returns one of them.
    pub(crate) fn pick(&self, random: &mut Random) -> usize {
        self.0[random.below(Self::COUNT)] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_below_the_bound_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[random.below(10)] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn each_doubling_of_the_size_is_as_likely() {
        let sizes = Sizes::new();
        let in_doubling = |n: u32| {
            let range = 16 << n..32 << n;
            sizes.0.iter().filter(|&size| range.contains(size)).count()
        };
        for n in 0..12 {
            assert!(
                (84..=87).contains(&in_doubling(n)),
                "{n}: {}",
                in_doubling(n)
            );
        }
        assert_eq!((0..12).map(in_doubling).sum::<usize>(), Sizes::COUNT);
    }
}

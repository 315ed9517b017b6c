//! A small deterministic generator: a run is repeated by its seed.

/// Spreads the bits of `x` over the word. A bijection; [`unmix`] is its inverse.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The `x` for which `mix(x)` is `y`.
pub fn unmix(mut y: u64) -> u64 {
    y = (y ^ (y >> 31) ^ (y >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    y = (y ^ (y >> 27) ^ (y >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    y ^ (y >> 30) ^ (y >> 60)
}

/// Pseudo-random numbers from a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound` (which must not be 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A size from 1 to `max`, each power of two as likely as any other.
    pub fn size(&mut self, max: usize) -> usize {
        let bits = u64::from(usize::BITS - max.leading_zeros());
        let shift = self.below(bits);
        let size = (1u64 << shift) + self.below(1u64 << shift);
        (size as usize).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmix_is_the_inverse_of_mix() {
        for x in [0, 1, 2, 77, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 63] {
            assert_eq!(unmix(mix(x)), x);
        }
    }

    #[test]
    fn sizes_stay_within_their_bounds() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            let size = random.size(1000);
            assert!((1..=1000).contains(&size));
        }
    }
}

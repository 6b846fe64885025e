//! The pseudo-random numbers that election timeouts are drawn from.
//!
//! Invariant: the sequence depends on the seed alone, so that a run can be repeated.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence of its own for each pair of seed and node.
    pub(crate) fn new(seed: u64, id: u64) -> Random {
        let mut random = Random(seed);
        let mixed = random.next() ^ id;
        Random(mixed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, bound)`; `bound` is small, so that the remainder is even enough.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_with_the_same_seed_draw_different_sequences_that_cover_the_range() {
        let draw = |id| {
            let mut random = Random::new(7, id);
            (0..200).map(|_| random.below(10)).collect::<Vec<u64>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!((0..10).all(|value| draw(3).contains(&value)));
    }
}

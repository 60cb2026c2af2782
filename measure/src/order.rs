//! Random orders for storing pages again and for loading them.

/// Returns `indices` in a random order. The same seed gives the same order.
///
/// ```
/// use measure::shuffled;
///
/// let order = shuffled(&[3, 5, 8], 1);
/// assert_eq!(order, shuffled(&[3, 5, 8], 1));
/// assert_eq!(order.iter().sum::<usize>(), 16);
/// ```
pub fn shuffled(indices: &[usize], seed: u64) -> Vec<usize> {
    let mut order = indices.to_vec();
    let mut random = SplitMix(seed);
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

/// Steele, Lea and Flood's `SplitMix64` generator of random numbers. Its field is the state, which
/// begins as the seed.
///
/// ```
/// use measure::SplitMix;
///
/// let mut random = SplitMix(7);
/// assert!((0..100).all(|_| random.below(6) < 6));
/// ```
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// Returns the next number.
    #[allow(clippy::should_implement_trait, reason = "an endless generator, so no Option")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, with a bias below `bound` / 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_comes_once_in_an_order_of_its_own() {
        let indices: Vec<usize> = (0..1000).map(|i| i * 3).collect();
        let (one, two) = (shuffled(&indices, 1), shuffled(&indices, 2));
        assert_eq!(one, shuffled(&indices, 1));
        assert_ne!(one, two);
        assert_ne!(one, indices);
        for mut order in [one, two] {
            order.sort_unstable();
            assert_eq!(order, indices);
        }
    }

    #[test]
    fn neighbours_do_not_stay_together() {
        let indices: Vec<usize> = (0..10_000).collect();
        let order = shuffled(&indices, 7);
        let kept = order.windows(2).filter(|w| w[1] == w[0] + 1).count();
        assert!(kept < 20, "{kept} pairs stayed neighbours");
        let first_half = order[..5000].iter().filter(|&&i| i < 5000).count();
        assert!((2300..2700).contains(&first_half), "{first_half}");
    }

    #[test]
    fn short_orders_are_no_trouble() {
        assert_eq!(shuffled(&[], 1), Vec::<usize>::new());
        assert_eq!(shuffled(&[9], 1), [9]);
    }
}

//! A set of taken numbers: a bitmap with summary levels. It finds the lowest free number in six steps,
//! however many numbers are taken.
//!
//! In level 0, bit `n` is set if number `n` is taken. In each level above, bit `n` is set if all bits of
//! word `n` of the level below are set. A word that does not exist counts as 0. So a level grows only when
//! a higher number is taken; then `try_reserve` doubles it.

use std::collections::TryReserveError;

/// Number of levels. Six suffice, because 64^6 exceeds 2^32, the number of `u32`s.
const LEVELS: usize = 6;

/// A set of numbers below 2^32.
///
/// ```
/// use zpool_base::bitmap::Bitmap;
///
/// let mut slots = Bitmap::default();
/// assert_eq!(slots.take(2)?, Some(0));
/// assert_eq!(slots.take(2)?, Some(1));
/// assert_eq!(slots.take(2)?, None);
/// assert!(slots.has(1) && !slots.has(2));
/// slots.clear(0);
/// assert_eq!(slots.lowest(), 0);
/// # Ok::<(), std::collections::TryReserveError>(())
/// ```
#[derive(Debug, Default)]
pub struct Bitmap {
    levels: [Vec<u64>; LEVELS],
    count: u64,
}

impl Bitmap {
    /// Returns the lowest free number, or 2^32 if all numbers are taken.
    pub fn lowest(&self) -> u64 {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let word = level.get(at as usize).copied().unwrap_or(0);
            at = at * 64 + u64::from(word.trailing_ones());
        }
        at
    }

    /// Takes the lowest free number and returns it. Returns `None` if all numbers below `capacity` are taken.
    ///
    /// # Errors
    /// The allocator's error if it refuses to grow a level. Then no number has been taken.
    pub fn take(&mut self, capacity: u64) -> Result<Option<u32>, TryReserveError> {
        if self.count == capacity {
            return Ok(None);
        }
        let lowest = self.lowest();
        let Some(number) = u32::try_from(lowest).ok().filter(|_| lowest < capacity) else {
            return Ok(None);
        };
        self.reserve(number)?;
        self.set(number);
        Ok(Some(number))
    }

    /// Reserves memory, so that `number` and every lower number can be taken without allocating.
    ///
    /// # Errors
    /// The allocator's error if it refuses to grow a level.
    pub fn reserve(&mut self, number: u32) -> Result<(), TryReserveError> {
        let mut word_of = number as usize;
        for level in &mut self.levels {
            word_of /= 64;
            level.try_reserve((word_of + 1).saturating_sub(level.len()))?;
        }
        Ok(())
    }

    /// Takes `number`, which must be free. Allocates if memory for it has not been reserved.
    pub fn set(&mut self, number: u32) {
        let mut bit_of = number as usize;
        for level in &mut self.levels {
            let place = bit_of / 64;
            if place >= level.len() {
                level.resize(place + 1, 0);
            }
            level[place] |= 1 << (bit_of % 64);
            if level[place] != u64::MAX {
                break;
            }
            bit_of = place;
        }
        self.count += 1;
    }

    /// Frees `number` and returns true. If it is already free, changes nothing and returns false.
    pub fn clear(&mut self, number: u32) -> bool {
        let mut bit_of = number as usize;
        for (height, level) in self.levels.iter_mut().enumerate() {
            let bit = 1 << (bit_of % 64);
            let Some(word) = level.get_mut(bit_of / 64).filter(|word| **word & bit != 0) else {
                return height > 0;
            };
            let was_full = *word == u64::MAX;
            *word &= !bit;
            if height == 0 {
                self.count -= 1;
            }
            if !was_full {
                break;
            }
            bit_of /= 64;
        }
        true
    }

    /// Returns whether `number` is taken.
    pub fn has(&self, number: u32) -> bool {
        let word = self.levels[0].get(number as usize / 64);
        word.is_some_and(|word| word >> (number % 64) & 1 != 0)
    }

    /// Returns how many numbers are taken.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the heap bytes of all levels.
    pub fn memory_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.capacity() * size_of::<u64>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::test_rng::Rng;
    use std::collections::BTreeSet;

    impl Bitmap {
        /// Makes the set that results from taking `count` numbers one after another.
        fn filled(count: u64) -> Bitmap {
            let mut bitmap = Bitmap { count, ..Bitmap::default() };
            let mut bits = count as usize;
            for level in &mut bitmap.levels {
                level.resize(bits / 64, u64::MAX);
                if bits % 64 > 0 {
                    level.push((1 << (bits % 64)) - 1);
                }
                bits /= 64;
            }
            bitmap
        }
    }

    #[test]
    fn follows_a_set_of_numbers() {
        let (capacity, steps) = if cfg!(miri) { (140, 420) } else { (9000, 60_000) };
        let (mut bitmap, mut rng) = (Bitmap::default(), Rng::new(1));
        let mut free: BTreeSet<u32> = (0..capacity).collect();
        for step in 0..steps {
            // First fills the set. Then takes and frees numbers at random.
            if step < steps / 3 || rng.below(1000) < 300 + 700 * (step % 7) / 7 {
                assert_eq!(bitmap.take(u64::from(capacity)).unwrap(), free.pop_first());
            } else {
                let slot = rng.below(capacity as usize) as u32;
                assert_eq!(bitmap.clear(slot), free.insert(slot));
            }
            assert_eq!(bitmap.count(), u64::from(capacity) - free.len() as u64);
        }
        for slot in 0..capacity {
            assert_eq!(bitmap.clear(slot), free.insert(slot));
        }
        assert_eq!((bitmap.count(), bitmap.clear(u32::MAX)), (0, false));
        let words = bitmap.levels.iter().flatten();
        assert_eq!(words.copied().max(), Some(0), "no summary is left behind");
    }

    #[test]
    fn filled_one_after_another_or_at_once_is_the_same() {
        let large: &[u64] =
            if cfg!(miri) { &[64 * 2 + 3] } else { &[64 * 64 - 1, 64 * 64, 64 * 64 + 70] };
        for count in [0, 1, 63, 64, 65].iter().chain(large).copied() {
            let mut one_by_one = Bitmap::default();
            (0..count).for_each(|n| assert_eq!(one_by_one.take(1 << 32), Ok(Some(n as u32))));
            let at_once = Bitmap::filled(count);
            for (one, other) in one_by_one.levels.iter().zip(&at_once.levels) {
                let ones = |level: &[u64]| level.iter().rev().skip_while(|w| **w == 0).count();
                assert_eq!(one[..ones(one)], other[..ones(other)], "{count}");
            }
        }
    }

    /// Frees and takes the first and the last number in turn. If the search scanned the 2^22 words between
    /// them each time, the test would never finish.
    #[test]
    #[cfg_attr(miri, ignore = "32 MiB of bitmap")]
    fn the_ends_of_a_full_device_are_found_without_a_walk_between_them() {
        let capacity = 1 << 28;
        let mut bitmap = Bitmap::filled(capacity);
        assert_eq!(bitmap.take(capacity), Ok(None));
        let (first, last) = (0, capacity as u32 - 1);
        for _ in 0..1 << 17 {
            assert!(bitmap.clear(last) && bitmap.clear(first));
            assert_eq!(bitmap.take(capacity), Ok(Some(first)));
            assert_eq!(bitmap.take(capacity), Ok(Some(last)));
            assert_eq!(bitmap.take(capacity), Ok(None));
        }
        assert!(bitmap.memory_bytes() as u64 >= capacity / 8);
    }

    #[test]
    fn a_full_top_is_the_end_of_the_largest_device() {
        let mut bitmap = Bitmap { count: (1 << 32) - 1, ..Bitmap::default() };
        bitmap.levels[LEVELS - 1] = vec![0b1111];
        assert_eq!(bitmap.take(1 << 32), Ok(None));
        bitmap.levels[LEVELS - 1] = vec![0];
        assert_eq!(bitmap.take(1 << 32), Ok(Some(0)));
    }
}

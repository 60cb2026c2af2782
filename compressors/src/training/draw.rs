//! Cheap random numbers: one sequence per thread for decisions on hot paths, and seeded sequences.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// An odd number whose multiples are spread evenly: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes the bits of a counter, so that each bit of the result depends on each bit of `x`.
#[inline]
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

/// Returns this thread's next number. It writes no memory that threads share, except in a thread's first call.
#[inline]
pub(super) fn of_this_thread() -> u64 {
    thread_local! {
        /// The position in the sequence; 0 before the first call.
        static POSITION: Cell<u64> = const { Cell::new(0) };
    }
    POSITION.with(|position| {
        let at = match position.get() {
            0 => first(),
            at => at,
        };
        position.set(at.wrapping_add(STEP));
        mix(at)
    })
}

/// Returns where the sequence of a thread begins. Threads begin at distant places.
#[cold]
fn first() -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    // Relaxed: the numbers only have to differ.
    mix(THREADS.fetch_add(1, Ordering::Relaxed)) | 1
}

/// A sequence that its seed determines.
#[derive(Debug, Clone)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Draws(mix(seed ^ STEP))
    }

    /// Returns a number below `limit`. The limit is at least 1.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(STEP);
        // The upper half of the product: evenly spread, up to a part in 2^32.
        ((u128::from(mix(self.0)) * limit as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{Draws, of_this_thread};

    #[test]
    fn numbers_spread_evenly() {
        let mut counts = [0_u32; 16];
        for _ in 0..16_000 {
            counts[(of_this_thread() >> 60) as usize] += 1;
        }
        // The standard deviation of each count is 31.
        assert!(counts.iter().all(|count| (840..1160).contains(count)), "{counts:?}");
        let mut draws = Draws::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[draws.below(10)] += 1;
        }
        assert!(counts.iter().all(|count| (840..1160).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_seed_determines_its_sequence() {
        let sequence = |seed| {
            let mut draws = Draws::new(seed);
            [draws.below(1000), draws.below(1000), draws.below(1000)]
        };
        assert_eq!(sequence(3), sequence(3));
        assert_ne!(sequence(3), sequence(4));
    }

    #[test]
    fn threads_have_sequences_of_their_own() {
        let mine: Vec<u64> = (0..100).map(|_| of_this_thread()).collect();
        let theirs = std::thread::spawn(|| (0..100).map(|_| of_this_thread()).collect::<Vec<_>>());
        let theirs = theirs.join().unwrap();
        assert!(mine.iter().all(|number| !theirs.contains(number)));
    }
}

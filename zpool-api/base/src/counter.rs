//! A number that threads change and read, and that publishes nothing.

use core::sync::atomic::{AtomicU64, Ordering};

/// A count, a figure or a setting. Every access is Relaxed: a reader learns the number and nothing about the
/// writer's other writes. Always std's atomic, not loom's, because no modelled protocol depends on it.
///
/// ```
/// let pages = zpool_base::counter::Counter::new(1);
/// pages.add(3);
/// pages.sub(2);
/// assert_eq!(pages.get(), 2);
/// ```
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter that starts at `n`.
    pub const fn new(n: u64) -> Self {
        Counter(AtomicU64::new(n))
    }

    /// Adds `n`. Wraps around.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed, here and in every method: the type's contract promises no more.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts `n` and returns the previous value. Wraps around below 0; if another thread adds the amount
    /// afterwards, the sum is right again.
    #[inline]
    pub fn sub(&self, n: u64) -> u64 {
        // Relaxed: as in `add`.
        self.0.fetch_sub(n, Ordering::Relaxed)
    }

    /// The current value.
    #[inline]
    pub fn get(&self) -> u64 {
        // Relaxed: as in `add`.
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the number to `n`.
    #[inline]
    pub fn set(&self, n: u64) {
        // Relaxed: as in `add`.
        self.0.store(n, Ordering::Relaxed);
    }

    /// Raises the number to `n` if it is smaller. Otherwise writes nothing, so that writers rarely contend.
    #[inline]
    pub fn raise(&self, n: u64) {
        if n > self.get() {
            // Relaxed: as in `add`.
            self.0.fetch_max(n, Ordering::Relaxed);
        }
    }

    /// Replaces the value by the one that `change` returns, and returns true. If `change` returns `None`,
    /// changes nothing and returns false. May call `change` several times.
    #[inline]
    pub fn change(&self, change: impl FnMut(u64) -> Option<u64>) -> bool {
        // Relaxed: as in `add`.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_up_and_down_and_is_raised_and_changed_where_that_says_something() {
        let counter = Counter::default();
        counter.add(5);
        assert_eq!(counter.sub(7), 5);
        assert_eq!(counter.get(), u64::MAX - 1);
        counter.set(3);
        for n in [2, 9, 4] {
            counter.raise(n);
        }
        assert_eq!(counter.get(), 9);
        assert!(counter.change(|n| n.checked_sub(9)) && !counter.change(|n| n.checked_sub(1)));
        assert_eq!(counter.get(), 0);
    }
}

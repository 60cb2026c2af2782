//! A number that threads change and read, but that orders no other memory access.

use core::sync::atomic::{AtomicU64, Ordering};

/// A count, a figure or a setting that threads share. Every access is Relaxed: a reader learns the number,
/// and nothing about other writes of the thread that wrote it. The atomic is always std's, not loom's,
/// because no protocol that loom checks depends on it.
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
    /// Makes a counter that starts at `n`.
    pub const fn new(n: u64) -> Self {
        Counter(AtomicU64::new(n))
    }

    /// Adds `n`. Wraps around at the top.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed, here and in every method: the type promises no order of memory accesses.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts `n` and returns the previous value. Wraps around below 0. If another thread adds the
    /// missing amount later, the number is right again.
    #[inline]
    pub fn sub(&self, n: u64) -> u64 {
        // Relaxed: as in `add`.
        self.0.fetch_sub(n, Ordering::Relaxed)
    }

    /// Returns the current value.
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

    /// Raises the number to `n` if it is smaller. Otherwise writes nothing, so that threads rarely contend
    /// for the cache line.
    #[inline]
    pub fn raise(&self, n: u64) {
        if n > self.get() {
            // Relaxed: as in `add`.
            self.0.fetch_max(n, Ordering::Relaxed);
        }
    }

    /// Replaces the value with the one that `change` returns for it, and returns true. If `change` returns
    /// `None`, changes nothing and returns false. May call `change` more than once.
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

//! Numbers that threads share and that order nothing: sums, limits and hints. Who reads one may find a value that is a
//! moment old.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A number, always read and changed with Relaxed ordering: it publishes nothing.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicUsize);

impl Number {
    pub(crate) const fn new(value: usize) -> Number {
        Number(AtomicUsize::new(value))
    }

    pub(crate) fn get(&self) -> usize {
        // Relaxed, here and below: see `Number`.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: usize) {
        // Relaxed: see `Number`.
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the value before and sets another one.
    pub(crate) fn swap(&self, value: usize) -> usize {
        // Relaxed: see `Number`.
        self.0.swap(value, Ordering::Relaxed)
    }

    /// Adds, and returns the sum. It wraps around.
    pub(crate) fn add(&self, more: usize) -> usize {
        // Relaxed: see `Number`.
        self.0.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
    }

    /// Subtracts, and returns the value before. It wraps around.
    pub(crate) fn sub(&self, less: usize) -> usize {
        // Relaxed: see `Number`.
        self.0.fetch_sub(less, Ordering::Relaxed)
    }

    /// Subtracts 1 if the number is not 0. Returns whether it did.
    pub(crate) fn take_one(&self) -> bool {
        let less = |value: usize| value.checked_sub(1);
        // Relaxed: see `Number`.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Sets the number to the greater of itself and `value`. Returns the value before.
    pub(crate) fn at_least(&self, value: usize) -> usize {
        // Relaxed: see `Number`.
        self.0.fetch_max(value, Ordering::Relaxed)
    }

    /// Returns the value, or 0 if more was subtracted than added so far, which another thread is about to add.
    pub(crate) fn not_negative(&self) -> usize {
        usize::try_from(self.get() as isize).unwrap_or(0)
    }
}

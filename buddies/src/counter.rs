//! Numbers for statistics and limits, each right by itself. No lock, and no data behind any.

// Always std's: a number that orders nothing.
use std::sync::atomic::{AtomicUsize, Ordering};

/// One such number.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicUsize);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        // Relaxed, here and below: a number that leads to no other data.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it was before. Wraps where others add later what is taken off here.
    pub(crate) fn sub(&self, n: usize) -> usize {
        // Relaxed: as in `add`.
        self.0.fetch_sub(n, Ordering::Relaxed)
    }

    pub(crate) fn get(&self) -> usize {
        // Relaxed: as in `add`.
        self.0.load(Ordering::Relaxed)
    }
}

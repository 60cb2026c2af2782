//! Notices that the values have changed since the last verdict.

/// Compares the ratio that new values compress to with a reference.
///
/// The running ratio weighs the latest values the most: what is `memory` bytes old has a weight of 1/e. A change in
/// either direction is drift: values that compress better than before may need no dictionary.
///
/// Its owner calls [`observe`](Self::observe) from time to time, with sums of its own counters or of a sample; it is
/// not meant for a hot path.
///
/// ```
/// use compressors::training::Drift;
///
/// // Values compress to a quarter; 20 % more or less than that is drift.
/// let mut drift = Drift::new(0.25, 20, 1 << 20);
/// drift.observe(2 << 20, 540_000);
/// assert!(!drift.drifted());
/// drift.observe(2 << 20, 1 << 20);
/// assert!(drift.drifted());
/// ```
#[derive(Debug, Clone)]
pub struct Drift {
    reference: f64,
    tolerance: f64,
    memory: f64,
    /// The weighted sums of what was observed.
    original: f64,
    compressed: f64,
}

impl Drift {
    /// Makes a detector. `reference` is the ratio at the last verdict, compressed by original bytes.
    /// `tolerance_percent` is how much the ratio may differ from it. `memory` is the number of original bytes after
    /// which an observation counts only 1/e, and the least number to decide on; it is at least 1.
    #[must_use]
    pub fn new(reference: f64, tolerance_percent: u32, memory: u64) -> Self {
        Drift {
            reference,
            tolerance: f64::from(tolerance_percent) / 100.0,
            memory: memory.max(1) as f64,
            original: 0.0,
            compressed: 0.0,
        }
    }

    /// Adds values of `original` bytes in all that compressed to `compressed` bytes.
    pub fn observe(&mut self, original: u64, compressed: u64) {
        let keep = (-(original as f64) / self.memory).exp();
        self.original = self.original * keep + original as f64;
        self.compressed = self.compressed * keep + compressed as f64;
    }

    /// Returns the running ratio, compressed by original bytes; `None` before it has observed enough.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        // The weighted sum of many small observations approaches `memory` from below.
        (self.original >= self.memory * 0.6).then(|| self.compressed / self.original)
    }

    /// Returns whether the running ratio differs from the reference by more than the tolerance.
    #[must_use]
    pub fn drifted(&self) -> bool {
        self.ratio()
            .is_some_and(|ratio| (ratio - self.reference).abs() > self.reference * self.tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::Drift;

    #[test]
    fn decides_on_enough_and_on_the_latest() {
        let mut drift = Drift::new(0.5, 10, 1_000_000);
        drift.observe(500_000, 500_000);
        assert_eq!((drift.ratio(), drift.drifted()), (None, false));
        // Many good values after the bad ones.
        for _ in 0..5000 {
            drift.observe(1000, 500);
        }
        assert!(!drift.drifted() && drift.ratio().is_some());
        // Values that compress much better are a change, too.
        for _ in 0..1000 {
            drift.observe(1000, 100);
        }
        assert!(drift.drifted());
        drift.observe(0, 0);
        assert!(drift.drifted());
    }
}

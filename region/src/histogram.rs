//! Times of faults, counted in classes of at most an eighth of their length.

use crate::number::Number;

/// Classes for each power of two.
const PARTS: usize = 8;
const CLASSES: usize = 40 * PARTS;

/// How many faults took how long.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    counts: Vec<u64>,
}

impl core::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("p999", &self.quantile(0.999))
            .finish()
    }
}

impl Histogram {
    /// Returns the number of faults.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the nanoseconds below which the share `q` of the faults stayed, 0 to 1, rounded up by at most an eighth; 0
    /// if there were none.
    ///
    /// ```
    /// let none = zswap_region::Histogram::default();
    /// assert_eq!((none.count(), none.quantile(0.999)), (0, 0));
    /// ```
    pub fn quantile(&self, q: f64) -> u64 {
        let all = self.count();
        let wanted = (q.clamp(0.0, 1.0) * all as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (class, count) in self.counts.iter().enumerate() {
            below += count;
            if *count > 0 && below >= wanted.min(all) {
                return upper_end(class);
            }
        }
        0
    }
}

/// The counters behind a [`Histogram`].
#[derive(Debug)]
pub(crate) struct Times([Number; CLASSES]);

impl Times {
    pub(crate) fn new() -> Times {
        Times([const { Number::new(0) }; CLASSES])
    }

    pub(crate) fn add(&self, nanoseconds: u64) {
        self.0[class(nanoseconds)].add(1);
    }

    pub(crate) fn snapshot(&self) -> Histogram {
        Histogram { counts: self.0.iter().map(|count| count.get() as u64).collect() }
    }
}

fn class(nanoseconds: u64) -> usize {
    let parts = PARTS as u64;
    if nanoseconds < parts {
        return nanoseconds as usize;
    }
    let power = nanoseconds.ilog2() - parts.ilog2();
    let class = u64::from(power) * parts + (nanoseconds >> power);
    (class as usize).min(CLASSES - 1)
}

fn upper_end(class: usize) -> u64 {
    if class < PARTS {
        return class as u64;
    }
    let power = class / PARTS - 1;
    ((class % PARTS + PARTS + 1) as u64) << power
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_a_class_that_ends_at_most_an_eighth_later() {
        for nanoseconds in (0..5000).chain([1 << 20, (1 << 30) + 12345, 1 << 39]) {
            let end = upper_end(class(nanoseconds));
            assert!(
                end >= nanoseconds && end - nanoseconds <= nanoseconds / 8 + 1,
                "{nanoseconds}: {end}"
            );
        }
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn quantiles_of_known_times() {
        let times = Times::new();
        (1..=1000).for_each(|n| times.add(n * 100));
        let seen = times.snapshot();
        assert_eq!(seen.count(), 1000);
        for (q, exact) in [(0.5, 50_000), (0.99, 99_000), (1.0, 100_000), (0.0, 100)] {
            let got = seen.quantile(q);
            assert!(got >= exact && got <= exact + exact / 7, "{q}: {got}");
        }
    }
}

//! Times of single operations, and their medians over rounds. Each operation is timed with one read of the
//! clock. The cost of that read is subtracted.

use std::time::{Duration, Instant};

/// What reading the clock adds to each measured interval.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time of an empty lap, in nanoseconds.
    pub cost: f64,
}

impl Clock {
    /// Measures the cost on this machine as the median of many empty laps.
    pub fn measure() -> Self {
        const LAPS: usize = 1 << 14;
        let mut laps = Laps::with_capacity(LAPS);
        laps.start();
        for _ in 0..LAPS {
            laps.lap();
        }
        laps.samples.sort_unstable();
        Clock { cost: permille(&laps.samples, 500) as f64 }
    }
}

/// A stopwatch on which the end of one interval is the start of the next.
///
/// ```
/// use std::time::Instant;
/// use measure::{Clock, Laps};
///
/// let clock = Clock::measure();
/// let mut laps = Laps::with_capacity(1000);
/// let begun = Instant::now();
/// laps.start();
/// for n in 0..1000u64 {
///     std::hint::black_box(n * n);
///     laps.lap();
/// }
/// let summary = laps.summary(clock, begun.elapsed()).expect("1000 laps were timed");
/// assert!(summary.p50 <= summary.p99);
/// ```
#[derive(Debug)]
pub struct Laps {
    samples: Vec<u64>,
    last: Instant,
}

impl Laps {
    /// Makes a stopwatch that takes `laps` laps without allocating or faulting in a page.
    pub fn with_capacity(laps: usize) -> Self {
        let mut samples = vec![1; laps];
        samples.clear();
        Laps { samples, last: Instant::now() }
    }

    /// Discards all laps and starts the first one.
    pub fn start(&mut self) {
        self.samples.clear();
        self.last = Instant::now();
    }

    /// Ends a lap, records its time and starts the next one.
    #[inline]
    pub fn lap(&mut self) {
        let now = Instant::now();
        self.samples.push(nanos(now - self.last));
        self.last = now;
    }

    /// Ends a lap without recording it and starts the next one.
    #[inline]
    pub fn skip(&mut self) {
        self.last = Instant::now();
    }

    /// Moves the laps of `other` into this stopwatch.
    pub fn absorb(&mut self, other: &mut Self) {
        self.samples.append(&mut other.samples);
    }

    /// Summarises the laps after subtracting the clock's cost from each. Returns `None` if no lap was recorded.
    /// `wall` is the time from the start of the first lap to the end of the last. It may be less than the sum of
    /// the laps, because laps of several stopwatches overlap.
    pub fn summary(&mut self, clock: Clock, wall: Duration) -> Option<Summary> {
        if self.samples.is_empty() {
            return None;
        }
        self.samples.sort_unstable();
        let less = |ns: u64| (ns as f64 - clock.cost).max(0.0);
        let laps = self.samples.len() as f64;
        let sum: f64 = self.samples.iter().map(|&ns| less(ns)).sum();
        Some(Summary {
            mean: sum / laps,
            p50: less(permille(&self.samples, 500)),
            p99: less(permille(&self.samples, 990)),
            p999: less(permille(&self.samples, 999)),
            per_second: laps / wall.as_secs_f64().max(1e-9),
        })
    }
}

/// Returns an interval in nanoseconds. Returns `u64::MAX` for an interval of more than five centuries.
fn nanos(interval: Duration) -> u64 {
    u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a percentile of the sorted `samples`, by nearest rank. `share` counts thousandths: 990 means the 99th
/// percentile. Returns 0 if there are no samples.
fn permille(samples: &[u64], share: usize) -> u64 {
    let rank = (samples.len() * share).div_ceil(1000).max(1);
    samples.get(rank - 1).copied().unwrap_or(0)
}

/// One round's times of one operation, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Summary {
    /// The arithmetic mean.
    pub mean: f64,
    /// The median: half of the operations took at most this.
    pub p50: f64,
    /// 99 % of the operations took at most this.
    pub p99: f64,
    /// 99.9 % of the operations took at most this.
    pub p999: f64,
    /// Operations per second of wall-clock time, over all threads.
    pub per_second: f64,
}

impl Summary {
    /// Converts times of operations on `unit` pages each into times per page.
    #[must_use]
    pub(crate) fn per_page(self, unit: usize) -> Self {
        let unit = unit as f64;
        Summary {
            mean: self.mean / unit,
            p50: self.p50 / unit,
            p99: self.p99 / unit,
            p999: self.p999 / unit,
            per_second: self.per_second * unit,
        }
    }
}

/// Medians over all rounds, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timing {
    /// The median of the rounds' means.
    pub mean: f64,
    /// The median of the rounds' medians.
    pub p50: f64,
    /// The median of the rounds' 99th percentiles.
    pub p99: f64,
    /// The median of the rounds' 99.9th percentiles.
    pub p999: f64,
    /// The mean of the fastest round.
    pub mean_least: f64,
    /// The mean of the slowest round.
    pub mean_most: f64,
    /// Operations per second of wall-clock time, over all threads.
    pub per_second: f64,
}

impl Timing {
    /// Returns the medians over `rounds`, or `None` if there are no rounds.
    ///
    /// ```
    /// use measure::{Summary, Timing};
    ///
    /// let round = |mean| Summary { mean, p50: mean, p99: mean, p999: mean, per_second: 1e9 / mean };
    /// let timing = Timing::over(&[round(120.0), round(100.0), round(110.0)]).expect("three rounds");
    /// assert_eq!((timing.mean, timing.mean_least, timing.mean_most), (110.0, 100.0, 120.0));
    /// ```
    pub fn over(rounds: &[Summary]) -> Option<Self> {
        let all = |part: fn(&Summary) -> f64| rounds.iter().map(part).collect::<Vec<_>>();
        let means = all(|s| s.mean);
        Some(Timing {
            mean: median(means.clone())?,
            p50: median(all(|s| s.p50))?,
            p99: median(all(|s| s.p99))?,
            p999: median(all(|s| s.p999))?,
            mean_least: means.iter().copied().fold(f64::INFINITY, f64::min),
            mean_most: means.iter().copied().fold(0.0, f64::max),
            per_second: median(all(|s| s.per_second))?,
        })
    }
}

/// Returns the middle value, or the mean of the two middle ones; `None` if `values` is empty.
///
/// ```
/// use measure::median;
///
/// assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
/// assert_eq!(median(vec![1.0, 2.0]), Some(1.5));
/// assert_eq!(median(vec![]), None);
/// ```
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get(values.len() / 2 - 1)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laps(samples: &[u64]) -> Laps {
        Laps { samples: samples.to_vec(), last: Instant::now() }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((permille(&hundred, 500), permille(&hundred, 990)), (50, 99));
        assert_eq!((permille(&[4, 9], 500), permille(&[4, 9], 990)), (4, 9));
        assert_eq!((permille(&[7], 500), permille(&[], 500)), (7, 0));
        let thousand: Vec<u64> = (1..=1000).collect();
        assert_eq!((permille(&thousand, 990), permille(&thousand, 999)), (990, 999));
    }

    #[test]
    fn the_clock_is_subtracted_from_mean_and_percentiles() {
        let clock = Clock { cost: 30.0 };
        let wall = Duration::from_millis(2);
        let summary = laps(&[130, 50, 90]).summary(clock, wall).unwrap();
        assert_eq!(
            summary,
            Summary { mean: 60.0, p50: 60.0, p99: 100.0, p999: 100.0, per_second: 1500.0 }
        );
        assert_eq!(laps(&[10]).summary(clock, wall).unwrap().mean, 0.0);
        assert_eq!(laps(&[]).summary(clock, wall), None);
    }

    #[test]
    fn only_laps_since_the_start_count_and_skipped_ones_do_not() {
        let clock = Clock { cost: 0.0 };
        let mut laps = laps(&[u64::MAX; 5]);
        laps.last = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
        laps.start();
        laps.lap();
        std::thread::sleep(Duration::from_millis(1));
        laps.skip();
        laps.lap();
        let mut other = Laps::with_capacity(1);
        other.start();
        other.lap();
        laps.absorb(&mut other);
        assert_eq!((laps.samples.len(), other.samples.len()), (3, 0));
        let summary = laps.summary(clock, Duration::from_secs(3)).unwrap();
        assert!(summary.p99 < 1e12, "{summary:?}");
        assert_eq!(summary.per_second, 1.0);
    }

    #[test]
    fn a_page_of_a_unit_takes_its_share() {
        let unit = Summary { mean: 64.0, p50: 32.0, p99: 96.0, p999: 128.0, per_second: 10.0 };
        let page = Summary { mean: 2.0, p50: 1.0, p99: 3.0, p999: 4.0, per_second: 320.0 };
        assert_eq!(unit.per_page(32), page);
    }

    #[test]
    fn medians_are_of_each_figure_on_its_own() {
        let round =
            |mean, p50, p99| Summary { mean, p50, p99, p999: p99 + 1.0, per_second: mean * 2.0 };
        let timing =
            Timing::over(&[round(3.0, 1.0, 9.0), round(1.0, 2.0, 7.0), round(2.0, 6.0, 8.0)]);
        assert_eq!(
            timing,
            Some(Timing {
                mean: 2.0,
                p50: 2.0,
                p99: 8.0,
                p999: 9.0,
                mean_least: 1.0,
                mean_most: 3.0,
                per_second: 4.0,
            })
        );
        assert_eq!(Timing::over(&[]), None);
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn the_clock_costs_something_and_not_much() {
        let cost = Clock::measure().cost;
        assert!((0.0..100_000.0).contains(&cost), "{cost}");
    }
}

//! Prints the table at the end, and decides whether the background compactor kept the pool as dense
//! as required.

use std::fmt::Write;

use measure::Summary;

use super::churn::Churned;
use super::mode::Mode;
use super::sample::Sample;

/// The limit for the pool bytes per compressed byte at the end of the run.
const MOST: f64 = 1.05;
/// The most by which the pool bytes per compressed byte may rise over the last half of the run. The
/// rise is that of the least-squares line through the samples, less twice its standard error: a
/// compactor that runs from time to time makes the values a sawtooth, so the line is uncertain.
const RISE: f64 = 0.001;

/// The summary of a mode's samples: pool bytes per compressed byte.
#[derive(Debug)]
struct Course {
    start: f64,
    middle: f64,
    end: f64,
    most: f64,
    /// The mean of the last half.
    mean: f64,
    /// By how much the least-squares line through the last half rises from its start to its end.
    rise: f64,
    /// The standard error of `rise`.
    error: f64,
}

impl Course {
    fn of(samples: &[Sample]) -> Option<Self> {
        let (first, last) = (samples.first()?, samples.last()?);
        let half: Vec<(f64, f64)> = samples
            .iter()
            .filter(|sample| 2 * sample.operations >= last.operations)
            .map(|sample| (sample.operations as f64, sample.pool_per_compressed))
            .collect();
        let span = half.last()?.0 - half.first()?.0;
        let (slope, error) = slope(&half);
        Some(Course {
            start: first.pool_per_compressed,
            middle: half.first()?.1,
            end: last.pool_per_compressed,
            most: samples.iter().map(|sample| sample.pool_per_compressed).fold(0.0, f64::max),
            mean: half.iter().map(|point| point.1).sum::<f64>() / half.len() as f64,
            rise: slope * span,
            error: error * span,
        })
    }

    fn holds(&self) -> bool {
        self.end <= MOST && self.rise - 2.0 * self.error <= RISE
    }
}

/// Returns the slope of the least-squares line through the points, and its standard error. Both are
/// 0 for fewer than three points.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let mean =
        |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let across: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let along: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if points.len() < 3 || along <= 0.0 {
        return (0.0, 0.0);
    }
    let slope = across / along;
    let off: f64 = points.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sum();
    (slope, (off / (points.len() - 2) as f64 / along).sqrt())
}

/// Returns the table, and whether the background mode stayed within the limits. The second is true
/// if that mode did not run.
pub(crate) fn render(churned: &[Churned]) -> (String, bool) {
    let mut text = String::from("\npool bytes per compressed byte\n");
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!(
        "{:<11} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>7} {:>9} {:>13} {:>9} {:>8} {:>8} {:>7}",
        "compaction",
        "start",
        "middle",
        "end",
        "most",
        "mean",
        "rise",
        "+-",
        "pages MiB",
        "compressed MiB",
        "meta B/pg",
        "runs",
        "MiB freed",
        "busy %"
    ));
    let mut holds = true;
    for Churned { mode, samples, .. } in churned {
        let (Some(course), Some(last)) = (Course::of(samples), samples.last()) else { continue };
        let least = samples.iter().map(|sample| sample.stored_pages).min().unwrap_or(0);
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        line(format_args!(
            "{:<11} {:>7.4} {:>7.4} {:>7.4} {:>7.4} {:>7.4} {:>+9.5} {:>7.5} {:>9.1} {:>13.1} {:>9.1} {:>8} {:>8.1} {:>7.2}",
            mode.name(),
            course.start,
            course.middle,
            course.end,
            course.most,
            course.mean,
            course.rise,
            course.error,
            mib(least * 4096),
            mib(last.compressed_bytes),
            last.metadata_bytes as f64 / last.stored_pages.max(1) as f64,
            last.compactions,
            mib(last.compacted_pages as usize * 4096),
            100.0 * last.compaction_seconds / last.seconds.max(1e-9),
        ));
        if *mode == Mode::Background {
            holds &= course.holds();
        }
    }
    line(format_args!(
        "mean: of the last half; rise: of the line through it, from end to end; +-: its standard error; pages: \
         the least stored at any sample, same-filled ones left out; the other columns: at the end"
    ));
    line(format_args!(
        "\n{:<11} {:>36} {:>36}",
        "ns", "store mean/p50/p99/p99.9", "load mean/p50/p99/p99.9"
    ));
    let four = |summary: &Option<Summary>| {
        summary.map_or_else(
            || "none".to_owned(),
            |s| format!("{:.0}/{:.0}/{:.0}/{:.0}", s.mean, s.p50, s.p99, s.p999),
        )
    };
    for Churned { mode, store, load, .. } in churned {
        line(format_args!("{:<11} {:>36} {:>36}", mode.name(), four(store), four(load)));
    }
    if churned.iter().any(|churned| churned.mode == Mode::Background) {
        let verdict = if holds { "held" } else { "MISSED" };
        line(format_args!(
            "\nin the background at most {MOST} at the end, rising by at most {RISE} beyond twice its error: {verdict}"
        ));
    }
    (text, holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ratio: impl Fn(u64) -> f64) -> Vec<Sample> {
        let sample = |n: u64| Sample {
            mode: Mode::Background,
            operations: n * 10,
            seconds: n as f64,
            stored_pages: 1000,
            same_filled_pages: 0,
            compressed_bytes: 1 << 20,
            pool_bytes: 1 << 20,
            metadata_bytes: 1,
            pool_per_compressed: ratio(n),
            compactions: 0,
            compacted_pages: 0,
            compaction_seconds: 0.0,
        };
        (0..=100).map(sample).collect()
    }

    #[test]
    fn the_rise_is_the_last_halfs_alone() {
        let course = Course::of(&samples(|n| 1.0 + n.min(50) as f64 / 1000.0)).unwrap();
        assert!(course.rise.abs() < 1e-9 && course.holds(), "{course:?}");
        assert_eq!((course.start, course.middle), (1.0, 1.05));
        let course = Course::of(&samples(|n| 1.0 + n.max(50) as f64 / 10_000.0)).unwrap();
        assert!((course.rise - 0.005).abs() < 1e-9 && !course.holds(), "{course:?}");
        assert!((course.mean - 1.0075).abs() < 1e-9, "{course:?}");
    }

    #[test]
    fn a_rise_that_is_lost_in_the_sawtooth_is_none() {
        let teeth = |n: u64| [0.02, 0.0][n as usize % 2];
        let rising =
            |rise: f64| Course::of(&samples(|n| 1.0 + teeth(n) + rise * n as f64 / 50.0)).unwrap();
        // The values are 0.01 above and below the line. For 51 points this gives an error of 0.01
        // times the root of 12 / 51.
        let course = rising(0.003);
        assert!((0.0045..0.0055).contains(&course.error) && course.holds(), "{course:?}");
        assert!(!rising(0.02).holds(), "{:?}", rising(0.02));
    }

    #[test]
    fn the_end_counts_and_not_the_most() {
        let held = |end: f64| {
            let course = Course::of(&samples(|n| if n == 100 { end } else { 1.08 })).unwrap();
            assert!(course.most >= 1.08);
            course.holds()
        };
        assert!(held(1.05) && !held(1.0501));
    }
}

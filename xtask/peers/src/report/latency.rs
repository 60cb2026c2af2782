//! Draws a chart of how long a store or a load takes: the median, the mean, and the 99th and 99.9th
//! percentiles.

use super::rows::{Row, Rows};
use super::theme;
use crate::error::Result;
use measure::chart::{self, Mark};
use measure::{Figures, Timing};

/// Draws the times that `part` selects. The contestant with the least mean comes first.
pub(super) fn draw(
    figures: &[&Figures],
    title: &str,
    method: &str,
    part: fn(&Figures) -> Option<Timing>,
) -> Result<String> {
    let mut timed: Vec<(&Figures, Timing)> =
        figures.iter().filter_map(|f| Some((*f, part(f)?))).collect();
    timed.sort_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let row = |(f, n): &(&Figures, Timing)| Row {
        label: f.name.to_string(),
        hue: theme::of_contestant(&f.name.contestant),
        values: vec![Some(n.p50), Some(n.mean), Some(n.p99), Some(n.p999)],
        note: chart::time(n.mean),
    };
    let marks = [
        (Mark::Dot, "median"),
        (Mark::Ring, "mean (also on the right)"),
        (Mark::Bar, "99 %"),
        (Mark::Square, "99.9 %"),
    ];
    Rows {
        title,
        method,
        marks: marks.map(|(mark, text)| (mark, text.to_owned())).to_vec(),
        hues: theme::key(timed.iter().map(|(f, _)| f.name.contestant.as_str())),
        told: chart::time,
        rows: timed.iter().map(row).collect(),
    }
    .draw()
}

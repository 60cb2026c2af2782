//! Draws a chart of the pages per second that all threads handle together, for each number of
//! threads.

use super::rows::{Row, Rows};
use super::theme;
use crate::error::Result;
use measure::chart::{self, Mark};
use measure::{Figures, Timing};

const MARKS: [Mark; 5] = [Mark::Dot, Mark::Ring, Mark::Diamond, Mark::Square, Mark::Bar];

/// Draws the rates that `part` selects. The contestant that is fastest with the most threads comes
/// first.
pub(super) fn draw(
    figures: &[Figures],
    threads: &[usize],
    title: &str,
    method: &str,
    part: fn(&Figures) -> Option<Timing>,
) -> Result<String> {
    let mut rows: Vec<Row> = Vec::new();
    for f in figures {
        if rows.iter().any(|row| row.label == f.name.to_string()) {
            continue;
        }
        let with = |threads: &usize| {
            let same = figures
                .iter()
                .find(|g| g.name.to_string() == f.name.to_string() && g.threads == *threads)?;
            part(same).map(|n| n.per_second).filter(|rate| *rate > 0.0)
        };
        let values: Vec<Option<f64>> = threads.iter().map(with).collect();
        let note = match (values.first().copied().flatten(), values.last().copied().flatten()) {
            (Some(first), Some(last)) if values.len() > 1 => format!("× {:.2}", last / first),
            _ => String::new(),
        };
        let hue = theme::of_contestant(&f.name.contestant);
        if values.iter().any(Option::is_some) {
            rows.push(Row { label: f.name.to_string(), hue, values, note });
        }
    }
    let most = |row: &Row| row.values.last().copied().flatten().unwrap_or(0.0);
    rows.sort_by(|a, b| most(b).total_cmp(&most(a)));
    let told = |n: &usize| if *n == 1 { "1 thread".to_owned() } else { format!("{n} threads") };
    Rows {
        title,
        method,
        marks: MARKS.iter().copied().cycle().zip(threads.iter().map(told)).collect(),
        hues: theme::key(figures.iter().map(|f| f.name.contestant.as_str())),
        told: chart::count,
        rows,
    }
    .draw()
}

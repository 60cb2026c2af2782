//! Pages a second of all threads together, for each thread count.

use super::axis;
use super::canvas::Mark;
use super::rows::{Row, Rows};
use super::theme;
use crate::error::Result;
use crate::figures::{Figures, Nanos};

const MARKS: [Mark; 5] = [Mark::Dot, Mark::Ring, Mark::Diamond, Mark::Square, Mark::Bar];

/// The one that does most with the most threads comes first.
pub(super) fn draw(
    figures: &[Figures],
    threads: &[usize],
    title: &str,
    method: &str,
    part: fn(&Figures) -> Option<Nanos>,
) -> Result<String> {
    let mut rows: Vec<Row> = Vec::new();
    for f in figures {
        if rows.iter().any(|row| row.label == f.name()) {
            continue;
        }
        let with = |threads: &usize| {
            let same = figures.iter().find(|g| g.name() == f.name() && g.threads == *threads)?;
            part(same).map(|n| n.per_second).filter(|rate| *rate > 0.0)
        };
        let values: Vec<Option<f64>> = threads.iter().map(with).collect();
        let note = match (values.first().copied().flatten(), values.last().copied().flatten()) {
            (Some(first), Some(last)) if values.len() > 1 => format!("× {:.2}", last / first),
            _ => String::new(),
        };
        let hue = theme::of_contestant(&f.contestant);
        if values.iter().any(Option::is_some) {
            rows.push(Row { label: f.name(), hue, values, note });
        }
    }
    let most = |row: &Row| row.values.last().copied().flatten().unwrap_or(0.0);
    rows.sort_by(|a, b| most(b).total_cmp(&most(a)));
    let told = |n: &usize| if *n == 1 { "1 thread".to_owned() } else { format!("{n} threads") };
    Rows {
        title,
        method,
        marks: MARKS.iter().copied().cycle().zip(threads.iter().map(told)).collect(),
        hues: theme::key(figures.iter().map(|f| f.contestant.as_str())),
        told: axis::count,
        rows,
    }
    .draw()
}

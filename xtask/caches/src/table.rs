//! The table of a set.

use std::collections::BTreeMap;

use crate::trace::TRACES;

/// The figures of a contestant, by their names.
pub(crate) type Figures = BTreeMap<String, Vec<f64>>;

/// A row: its title, the figure it is made of, the place in it, what divides it, and whether less is better.
const ROWS: [(&str, &str, usize, f64, bool); 14] = [
    ("items held", "held", 0, 1.0, false),
    ("values held, MiB", "held bytes", 0, 1_048_576.0, false),
    ("resident, MiB", "resident", 0, 1_048_576.0, true),
    ("after 75 % were removed, MiB", "freed", 0, 1_048_576.0, true),
    ("5 s later, MiB", "freed", 1, 1_048_576.0, true),
    ("get, mean µs", "get", 0, 1.0, true),
    ("get, p50", "get", 1, 1.0, true),
    ("get, p99", "get", 2, 1.0, true),
    ("get, p99.9", "get", 3, 1.0, true),
    ("insert, mean µs", "insert", 0, 1.0, true),
    ("insert, p50", "insert", 1, 1.0, true),
    ("insert, p99", "insert", 2, 1.0, true),
    ("insert, p99.9", "insert", 3, 1.0, true),
    ("two threads, 10 % inserts, µs a call", "two threads", 0, 1.0, true),
];

/// Writes the rows as a table in Markdown. The rows in which ours, the first column, is the furthest behind the best
/// of the others come first.
pub(crate) fn table(names: &[&str], figures: &[Figures]) -> String {
    let traces = TRACES.map(|name| (format!("hits, {name}, %"), name, 0, 1.0, false));
    let fixed = ROWS.map(|(title, name, at, by, less)| (title.to_owned(), name, at, by, less));
    let mut rows: Vec<(f64, String)> = fixed
        .into_iter()
        .chain(traces)
        .map(|(title, name, at, by, less)| {
            let of = |figures: &Figures| {
                figures.get(name).and_then(|numbers| numbers.get(at)).map_or(f64::NAN, |n| n / by)
            };
            let numbers: Vec<f64> = figures.iter().map(of).collect();
            let others = numbers.iter().skip(2).copied();
            let best = if less { others.reduce(f64::min) } else { others.reduce(f64::max) };
            let best = best.unwrap_or(f64::NAN);
            // Above 1: ours is better.
            let lead = if less { best / numbers[0] } else { numbers[0] / best };
            let cells: Vec<String> = numbers
                .iter()
                .map(|number| {
                    if *number >= 1000.0 { format!("{number:.0}") } else { format!("{number:.2}") }
                })
                .collect();
            (lead, format!("| {title} | {} | {lead:.2} |", cells.join(" | ")))
        })
        .collect();
    rows.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let head = format!("| | {} | ours × best other |", names.join(" | "));
    let line = format!("|---|{}", "---|".repeat(names.len() + 1));
    let rows = rows.into_iter().map(|(_, row)| row);
    std::iter::once(head).chain(std::iter::once(line)).chain(rows).collect::<Vec<_>>().join("\n")
}

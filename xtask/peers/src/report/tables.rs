//! Writes the run as Markdown tables: first the figures in which a rival does better, then all
//! figures.

use std::fmt::Write;

use super::aging::Mode;
use crate::table::{Loss, losses};
use measure::{Figures, Timing};

/// Returns the page bytes for each resident byte, metadata included. Returns `None` if the resident
/// bytes were not measured.
pub(super) fn density(f: &Figures) -> Option<f64> {
    let resident = f.memory.resident_bytes.filter(|&bytes| bytes > 0)?;
    Some(f.original_bytes() as f64 / resident as f64)
}

/// Returns the thread counts of the run, the least first.
pub(super) fn threads(figures: &[Figures]) -> Vec<usize> {
    let mut threads: Vec<usize> = figures.iter().map(|f| f.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    threads
}

pub(super) fn of_losses(figures: &[Figures]) -> String {
    let losses = losses(figures);
    let mut text = String::new();
    if losses.is_empty() {
        line(&mut text, "No rival does better in anything that was measured.");
        return text;
    }
    let head =
        ["figure (less is better)", "threads", "this project", "its", "rival", "its", "times"];
    table(&mut text, &head, losses.iter().map(of_loss));
    text
}

fn of_loss(loss: &Loss) -> Vec<String> {
    let Loss { ours, rival, threads, what, own, theirs } = loss;
    vec![
        (*what).to_owned(),
        threads.to_string(),
        ours.clone(),
        figure(*own),
        rival.clone(),
        figure(*theirs),
        format!("{:.2}", own / theirs),
    ]
}

/// Returns the number as text, with three decimals if it is below 100 and with none otherwise.
fn figure(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

/// Returns three tables for each thread count: the times of stores, the times of loads, and the
/// memory.
pub(super) fn of_figures(figures: &[Figures], method: &str) -> String {
    let mut text = String::new();
    for threads in threads(figures) {
        let told = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        let with: Vec<&Figures> = figures.iter().filter(|f| f.threads == threads).collect();
        line(&mut text, &format!("### {told}\n\n{method}\n"));
        for (what, part, ratio) in PARTS {
            let head = [
                *what,
                "mean ns",
                "least",
                "most",
                "p50",
                "p99",
                "p99.9",
                "times the codec",
                "1000 pages/s",
            ];
            let row = |f: &&Figures| part(f).map(|n| of_times(f, n, ratio(f)));
            table(&mut text, &head, with.iter().filter_map(row));
            line(&mut text, "");
        }
        let head = [
            "memory",
            "compressed bytes",
            "resident bytes",
            "metadata bytes",
            "page bytes per resident",
            "resident per compressed",
            "75 % freed",
            "and tidied up",
        ];
        let keepers = with.iter().filter(|f| f.memory.resident_bytes.is_some());
        table(&mut text, &head, keepers.map(|f| of_memory(f)));
        line(&mut text, "");
    }
    text
}

type Of<T> = fn(&Figures) -> Option<T>;

const PARTS: &[(&str, Of<Timing>, Of<f64>)] =
    &[("store", |f| f.store, |f| f.store_over_codec), ("load", |f| f.load, |f| f.load_over_codec)];

fn of_times(f: &Figures, n: Timing, ratio: Option<f64>) -> Vec<String> {
    let ns = |value: f64| format!("{value:.0}");
    vec![
        f.name.to_string(),
        ns(n.mean),
        ns(n.mean_least),
        ns(n.mean_most),
        ns(n.p50),
        ns(n.p99),
        ns(n.p999),
        number(ratio, 2),
        format!("{:.0}", n.per_second / 1000.0),
    ]
}

fn of_memory(f: &Figures) -> Vec<String> {
    let bytes = |bytes: Option<usize>| bytes.map_or_else(|| "–".to_owned(), |b| b.to_string());
    let freed = f.freed_per_compressed();
    vec![
        f.name.to_string(),
        bytes(f.memory.compressed_bytes),
        bytes(f.memory.resident_bytes),
        bytes(f.memory.metadata_bytes),
        number(density(f), 3),
        number(f.resident_per_compressed, 3),
        number(freed.map(|both| both.0), 3),
        number(freed.map(|both| both.1), 3),
    ]
}

/// Returns the table of an aging run, with a row for each mode of compaction.
pub(super) fn of_aging(modes: &[Mode]) -> String {
    let mut text = String::new();
    let head = [
        "compaction",
        "operations",
        "minutes",
        "pages at the end",
        "compressed MiB at the end",
        "pool per compressed at the end",
        "most in the last half",
        "drift over the last half",
    ];
    let row = |mode: &Mode| {
        let last = mode.samples.last()?;
        let most = mode.last_half().iter().map(|s| s.pool_per_compressed).reduce(f64::max);
        Some(vec![
            mode.name.clone(),
            last.operations.to_string(),
            format!("{:.1}", last.seconds / 60.0),
            last.stored_pages.to_string(),
            format!("{:.1}", last.compressed_bytes as f64 / f64::from(1 << 20)),
            format!("{:.4}", last.pool_per_compressed),
            number(most, 4),
            mode.drift().map_or_else(|| "–".to_owned(), |drift| format!("{drift:+.4}")),
        ])
    };
    table(&mut text, &head, modes.iter().filter_map(row));
    text
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// Writes a table. The first column is aligned to the left, the others to the right.
fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    line(text, &format!("| {} |", head.join(" | ")));
    line(text, &format!("|:--{}|", "|--:".repeat(head.len().saturating_sub(1))));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        line(text, &format!("| {} |", cells.join(" | ")));
    }
}

fn line(text: &mut String, what: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::figures;

    /// Returns the cells of the first row after the text `after` that begins with `name`.
    fn cells<'a>(text: &'a str, after: &str, name: &str) -> Vec<&'a str> {
        let (_, text) = text.split_once(after).unwrap();
        let start = format!("| {name} |");
        let row = text.lines().find(|line| line.starts_with(&start)).unwrap();
        row.trim_matches('|').split('|').map(str::trim).collect()
    }

    #[test]
    fn numbers_are_those_of_the_run() {
        let mut run = [
            figures("zswap-core/zsmalloc/lz4", 1, 110.0, 131_072),
            figures("zswap-core/zsmalloc/lz4", 2, 310.0, 131_072),
            figures("codec/zstd", 1, 900.0, 1),
        ];
        run[0].memory.metadata_bytes = Some(77);
        run[2].memory.resident_bytes = None;
        let text = of_figures(&run, "how");
        let name = "zswap-core/zsmalloc/lz4";
        let store = ["165", "110", "220", "165", "330", "495", "1.10", "6061"];
        assert_eq!(cells(&text, "| store |", name), [&[name][..], &store].concat());
        assert_eq!(cells(&text, "| load |", name)[1..5], ["41", "28", "55", "41"]);
        let memory = ["1000", "131072", "77", "2.000", "131.072", "524.288", "1.200"];
        assert_eq!(cells(&text, "| memory |", name), [&[name][..], &memory].concat());
        assert_eq!(cells(&text, "### 2 threads", name)[1], "465");
        assert_eq!(
            text.matches("| codec/zstd |").count(),
            2,
            "it keeps nothing, so it has no memory row"
        );
        assert_eq!(text.matches("\nhow\n").count(), 2);
    }

    #[test]
    fn losses_are_told_with_both_sides_or_not_at_all() {
        let ours = figures("zswap-core/zsmalloc/lz4", 1, 110.0, 1030);
        let text = of_losses(&[ours.clone(), figures("map-jemalloc/liblz4", 1, 55.0, 2000)]);
        let row = text.lines().nth(2).unwrap();
        for cell in ["zswap-core/zsmalloc/lz4", "map-jemalloc/liblz4", "| 2.00 |"] {
            assert!(row.contains(cell), "{row}");
        }
        assert!(!text.contains("resident per compressed byte"), "it is worse there:\n{text}");
        assert!(of_losses(&[ours]).starts_with("No rival does better"));
    }
}

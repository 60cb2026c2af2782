//! The report as a table for a reader: a heading, a line for each pair, and what the columns mean.

use std::fmt::Write;

use super::Heading;
use crate::error::one_line;
use crate::figures::Figures;
use crate::process::Facts;
use crate::timing::Timing;

/// A column: what stands above it, and what it says of a pair.
struct Column {
    /// The first line of the head, shared by neighbours that have the same.
    group: &'static str,
    name: &'static str,
    left: bool,
    cell: fn(&Figures) -> String,
}

impl Column {
    /// Whether it shares the head of its left neighbour, which belongs to `group`.
    fn joins(&self, group: &str) -> bool {
        !group.is_empty() && self.group == group
    }
}

const fn text(name: &'static str, cell: fn(&Figures) -> String) -> Column {
    Column { group: "", name, left: true, cell }
}

const fn number(group: &'static str, name: &'static str, cell: fn(&Figures) -> String) -> Column {
    Column { group, name, left: false, cell }
}

const COLUMNS: [Column; 16] = [
    text("zpool", |f| one_line(&f.zpool)),
    text("compressor", |f| one_line(&f.compressor)),
    number("", "ratio", |f| decimals(f.memory.ratio(), 2)),
    number("pool", "/compr", |f| decimals(f.memory.pool_per_compressed_byte(), 3)),
    number("meta", "/page", |f| decimals(f.memory.metadata_per_page(), 1)),
    number("", "refused", |f| f.memory.rejected.to_string()),
    number("store ns", "mean", |f| ns(f.store, |t| t.mean)),
    number("store ns", "p99", |f| ns(f.store, |t| t.p99)),
    number("store ns", "growing", |f| ns(f.grow, |t| t.mean)),
    number("load ns", "mean", |f| ns(f.load, |t| t.mean)),
    number("load ns", "p99", |f| ns(f.load, |t| t.p99)),
    number("bare codec ns", "compr", |f| ns(f.compress, |t| t.mean)),
    number("bare codec ns", "decompr", |f| ns(f.decompress, |t| t.mean)),
    number("x codec", "store", |f| decimals(f.store_over_codec, 2)),
    number("x codec", "load", |f| decimals(f.load_over_codec, 2)),
    number("", "equal", |f| if f.verified() { "yes".into() } else { "NO".into() }),
];

fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.places$}"))
}

fn ns(timing: Option<Timing>, part: fn(&Timing) -> f64) -> String {
    timing.map_or_else(|| "-".to_owned(), |t| format!("{:.0}", part(&t)))
}

/// The whole report, a newline at its end.
pub(crate) fn render(heading: &Heading, figures: &[Figures]) -> String {
    let mut out = head_line(heading);
    out.push('\n');
    if let Some(facts) = &heading.sampled {
        push_line(&mut out, &sample_line(heading, facts));
    }
    out.push('\n');
    push_rows(&mut out, figures);
    out.push('\n');
    out.push_str(&legend(heading, figures));
    for f in figures {
        let pair = one_line(&format!("{}/{}", f.zpool, f.compressor));
        if let Some(why) = &f.refusal {
            let _ = writeln!(
                out,
                "{pair} refused {} pages, the first since: {}",
                f.memory.rejected,
                one_line(why)
            );
        }
        if let Some(fault) = &f.fault {
            let _ = writeln!(out, "{pair} FAILED: {}", one_line(fault));
        }
    }
    out
}

fn head_line(heading: &Heading) -> String {
    let Heading { pages, same_filled, origin, threads, rounds, .. } = heading;
    let mib = *pages as f64 * zswap_core::PAGE_SIZE as f64 / f64::from(1 << 20);
    let percent = *same_filled as f64 * 100.0 / (*pages).max(1) as f64;
    format!(
        "{pages} pages ({mib:.1} MiB) of {}; {same_filled} same-filled ({percent:.1} %); \
         {threads} thread{}, {}",
        one_line(origin),
        if *threads == 1 { "" } else { "s" },
        match rounds {
            1 => "1 round".to_owned(),
            n => format!("medians of {n} rounds"),
        }
    )
}

fn sample_line(heading: &Heading, facts: &Facts) -> String {
    format!(
        "{} of its {} resident private pages outside of stacks; its {} thread{} stood still for {:.1} ms",
        heading.pages,
        facts.eligible_pages,
        facts.threads,
        if facts.threads == 1 { "" } else { "s" },
        facts.stopped.as_secs_f64() * 1e3,
    )
}

fn push_rows(out: &mut String, figures: &[Figures]) {
    let rows: Vec<Vec<String>> =
        figures.iter().map(|f| COLUMNS.iter().map(|c| (c.cell)(f)).collect()).collect();
    let widths: Vec<usize> = COLUMNS
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let cells = rows.iter().map(|row| row[i].chars().count());
            cells.max().unwrap_or(0).max(column.name.len())
        })
        .collect();

    let mut groups = String::new();
    let mut at = 0;
    while at < COLUMNS.len() {
        let group = COLUMNS[at].group;
        let end = at + 1 + COLUMNS[at + 1..].iter().take_while(|c| c.joins(group)).count();
        let inside: usize = (at + 1..end).map(|i| gap(i).len()).sum();
        let width = widths[at..end].iter().sum::<usize>() + inside;
        groups.push_str(gap(at));
        if end - at > 1 {
            let _ = write!(groups, "{:-^width$}", format!(" {group} "));
        } else {
            let _ = write!(groups, "{group:>width$}");
        }
        at = end;
    }
    push_line(out, &groups);
    let names: Vec<String> = COLUMNS.iter().map(|c| c.name.to_owned()).collect();
    for row in std::iter::once(&names).chain(&rows) {
        let mut line = String::new();
        for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(gap(i));
            let _ = match COLUMNS[i].left {
                true => write!(line, "{cell:<width$}"),
                false => write!(line, "{cell:>width$}"),
            };
        }
        push_line(out, &line);
    }
}

/// What stands before column `index`: more where a group of several begins or ends.
fn gap(index: usize) -> &'static str {
    let grouped = |i: usize| {
        let neighbours = [i.wrapping_sub(1), i + 1].map(|n| COLUMNS.get(n));
        neighbours.into_iter().flatten().any(|n| n.joins(COLUMNS[i].group))
    };
    if index == 0 {
        ""
    } else if COLUMNS[index].joins(COLUMNS[index - 1].group) {
        " "
    } else if grouped(index) || grouped(index - 1) {
        "  "
    } else {
        " "
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

/// Rounds on a quiet machine differ by less, percent.
const BUSY: f64 = 50.0;

fn legend(heading: &Heading, figures: &[Figures]) -> String {
    let clock = heading.clock_ns;
    let mut legend = format!(
        "\
ratio: page bytes over pool, metadata, contexts (their size is fixed: it tells on small sets) and refused pages.
pool/compr: resident pool bytes for each compressed byte. meta/page: metadata bytes for each page held.
store: every page again, in random order, over the full pool; growing: the first filling, page faults included; load: in
random order. Without same-filled pages; {clock:.0} ns for reading the clock subtracted from each operation.
bare codec: the same calls on the same pages in the same orders; x codec: the store's mean in multiples of it.
"
    );
    if let Some(spread) = spread(figures).filter(|_| heading.rounds > 1) {
        let busy = if spread > BUSY { ": something else was running" } else { "" };
        let _ =
            writeln!(legend, "Mean times of single rounds differ by up to {spread:.0} %{busy}.");
    }
    legend
}

/// By how many percent the slowest round's mean exceeds the quickest one's, at most.
fn spread(figures: &[Figures]) -> Option<f64> {
    let timings = figures.iter().flat_map(|f| [f.store, f.load, f.compress, f.decompress]);
    timings
        .flatten()
        .filter(|t| t.mean_range.0 > 0.0)
        .map(|t| (t.mean_range.1 / t.mean_range.0 - 1.0) * 100.0)
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples;

    fn lines() -> Vec<String> {
        let table = render(&examples::heading(), &examples::figures());
        table.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_heading_says_what_was_measured() {
        assert_eq!(
            lines()[0],
            "10 pages (0.0 MiB) of some.pages; 2 same-filled (20.0 %); 1 thread, 1 round"
        );
    }

    #[test]
    fn a_sample_says_how_long_its_process_stood_still() {
        let facts = examples::facts();
        let origin = facts.process();
        let heading = Heading { sampled: Some(facts), origin, ..examples::heading() };
        let table = render(&heading, &examples::figures());
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("of process 77 (a \\nname)"), "{}", lines[0]);
        assert_eq!(
            lines[1],
            "10 of its 1234 resident private pages outside of stacks; its 3 threads stood still \
             for 1.5 ms"
        );
        assert_eq!(lines[2], "");
    }

    #[test]
    fn each_pair_has_its_line_in_the_order_of_the_columns() {
        let lines = lines();
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            cells(&lines[3]),
            [
                "zpool",
                "compressor",
                "ratio",
                "/compr",
                "/page",
                "refused",
                "mean",
                "p99",
                "growing",
                "mean",
                "p99",
                "compr",
                "decompr",
                "store",
                "load",
                "equal"
            ]
        );
        assert_eq!(
            cells(&lines[4]),
            [
                "zbud", "lz4", "1.97", "1.536", "30.0", "1", "6600", "19800", "7000", "2310",
                "6930", "6000", "2100", "1.10", "1.10", "yes"
            ]
        );
        assert_eq!(cells(&lines[5])[..6], ["zbud", "own:k=v", "1.00", "-", "-", "10"]);
        assert_eq!(cells(&lines[5]).last().unwrap(), "NO");
        assert_eq!(lines[2].split_whitespace().next(), Some("pool"));
    }

    #[test]
    fn a_group_spans_its_columns() {
        let lines = lines();
        let (groups, names) = (&lines[2], &lines[3]);
        let span = |group: &str| {
            let at = groups.find(group).unwrap();
            let dash = |c| c == '-';
            let start = at - (groups[..at].len() - groups[..at].trim_end_matches(dash).len());
            let rest = &groups[at + group.len()..];
            let end = groups.len() - rest.trim_start_matches(dash).len();
            names[start..end].split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(span(" store ns "), ["mean", "p99", "growing"]);
        assert_eq!(span(" bare codec ns "), ["compr", "decompr"]);
        let end = |line: &str, what: &str| line.rfind(what).map(|at| at + what.len());
        assert_eq!(end(groups, "pool"), end(names, "/compr"));
    }

    #[test]
    fn refusals_and_faults_are_told_below() {
        let lines = lines();
        let last: Vec<&str> = lines.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(last[1], "zbud/lz4 refused 1 pages, the first since: page too large");
        assert_eq!(last[0], "zbud/own:k=v FAILED: page 3 came back changed");
    }

    #[test]
    fn the_spread_of_the_rounds_is_told() {
        let [mut figures, _] = examples::figures();
        let heading = Heading { rounds: 3, ..examples::heading() };
        let last = |figures: &Figures| {
            let legend = legend(&heading, std::slice::from_ref(figures));
            legend.lines().last().unwrap().to_owned()
        };
        if let Some(load) = &mut figures.load {
            load.mean_range = (2000.0, 2400.0);
        }
        assert_eq!(last(&figures), "Mean times of single rounds differ by up to 20 %.");
        if let Some(load) = &mut figures.load {
            load.mean_range.1 = 4000.0;
        }
        assert!(last(&figures).ends_with("up to 100 %: something else was running."));
    }

    #[test]
    fn no_line_is_wider_than_a_terminal_of_120() {
        let mut figures = examples::figures();
        for f in &mut figures {
            f.zpool = "zsmalloc".into();
            f.compressor = "deflate".into();
            let slow = |t: &mut Option<Timing>| {
                if let Some(t) = t {
                    (t.mean, t.p50, t.p99) = (123_456.0, 123_456.0, 234_567.0);
                }
            };
            for t in [&mut f.store, &mut f.grow, &mut f.load, &mut f.compress, &mut f.decompress] {
                slow(t);
            }
        }
        let table = render(&examples::heading(), &figures);
        for line in table.lines() {
            assert!(line.chars().count() <= 120, "{} in {line}", line.chars().count());
        }
    }
}

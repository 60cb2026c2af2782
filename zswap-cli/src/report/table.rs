//! The report as a table for readers: a heading, a line per pair, and an explanation of the columns.

use std::fmt::Write;

use super::Heading;
use crate::contest;
use crate::error::one_line;
use crate::look::{Look, Role};
use crate::process::Facts;
use crate::verdict::{self, Pick, Verdict};
use measure::{Figures, Timing};

/// A column: its head, and its text for a pair.
struct Column {
    /// When the terminal is too narrow, columns of lower rank are dropped first.
    rank: u8,
    /// The first line of the head, shared with neighbours of the same group.
    group: &'static str,
    name: &'static str,
    left: bool,
    cell: fn(&Figures) -> String,
}

impl Column {
    /// Returns whether the column shares its head with its left neighbour, whose group is `group`.
    fn joins(&self, group: &str) -> bool {
        !group.is_empty() && self.group == group
    }
}

/// The rank of columns that are always shown.
const KEPT: u8 = u8::MAX;

const fn text(name: &'static str, cell: fn(&Figures) -> String) -> Column {
    Column { rank: KEPT, group: "", name, left: true, cell }
}

const fn number(
    rank: u8,
    group: &'static str,
    name: &'static str,
    cell: fn(&Figures) -> String,
) -> Column {
    Column { rank, group, name, left: false, cell }
}

const COLUMNS: [Column; 18] = [
    text("zpool", |f| one_line(contest::zpool(f))),
    text("compressor", |f| one_line(&f.name.compressor)),
    number(KEPT, "", "ratio", |f| decimals(f.ratio(), 2)),
    number(8, "pool", "/compr", |f| decimals(f.pool_per_compressed(), 3)),
    number(6, "meta", "/page", |f| decimals(f.metadata_per_page(), 1)),
    number(5, "", "refused", |f| f.refused.to_string()),
    number(KEPT, "store ns", "mean", |f| ns(f.store, |t| t.mean)),
    number(3, "store ns", "p99", |f| ns(f.store, |t| t.p99)),
    number(2, "store ns", "growing", |f| ns(f.grow, |t| t.mean)),
    number(KEPT, "load ns", "mean", |f| ns(f.load, |t| t.mean)),
    number(4, "load ns", "p99", |f| ns(f.load, |t| t.p99)),
    number(0, "bare codec ns", "compr", |f| ns(f.compress, |t| t.mean)),
    number(1, "bare codec ns", "decompr", |f| ns(f.decompress, |t| t.mean)),
    number(9, "x codec", "store", |f| decimals(f.store_over_codec, 2)),
    number(10, "x codec", "load", |f| decimals(f.load_over_codec, 2)),
    number(7, THROUGHPUT, "store", |f| thousands(f.store)),
    number(7, THROUGHPUT, "load", |f| thousands(f.load)),
    number(KEPT, "", "equal", |f| if f.verified() { "yes".into() } else { "NO".into() }),
];

/// The head of columns that are shown only for several threads. For one thread they would repeat
/// the mean.
const THROUGHPUT: &str = "1000 pages/s";

fn thousands(timing: Option<Timing>) -> String {
    timing.map_or_else(|| "-".to_owned(), |t| format!("{:.0}", t.per_second / 1000.0))
}

fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.places$}"))
}

fn ns(timing: Option<Timing>, part: fn(&Timing) -> f64) -> String {
    timing.map_or_else(|| "-".to_owned(), |t| format!("{:.0}", part(&t)))
}

/// Renders the whole report, which ends with a newline.
pub(crate) fn render(
    heading: &Heading,
    figures: &[Figures],
    verdict: &Verdict,
    look: Look,
) -> String {
    let mut out = look.paragraph(&head_line(heading));
    if let Some(facts) = &heading.sampled {
        out.push_str(&look.paragraph(&sample_line(heading, facts)));
    }
    out.push('\n');
    push_rows(&mut out, heading, figures, verdict, look);
    out.push('\n');
    for line in legend(heading, figures).lines() {
        out.push_str(&look.paragraph(line));
    }
    for f in figures {
        let pair = name(f);
        if let Some(why) = &f.refusal {
            out.push_str(&look.paragraph(&format!(
                "{pair} refused {} pages, the first since: {}",
                f.refused,
                one_line(why)
            )));
        }
        if let Some(fault) = &f.fault {
            let line = look.paragraph(&format!("{pair} FAILED: {}", one_line(fault)));
            out.push_str(&look.paint(Role::Bad, line.trim_end()));
            out.push('\n');
        }
    }
    out.push('\n');
    out.push_str(&look.paragraph(&closing(figures, verdict)));
    out
}

fn name(figures: &Figures) -> String {
    one_line(&format!("{}/{}", contest::zpool(figures), figures.name.compressor))
}

/// Returns the paragraph that recommends pairs.
fn closing(figures: &[Figures], verdict: &Verdict) -> String {
    let Verdict { density, speed, both } = verdict;
    let figure = |question: &str, pair: &Figures| match question {
        "density" => format!("{} page bytes per byte of memory", decimals(pair.ratio(), 2)),
        "speed" => {
            let time = verdict::time(pair).map(|(ns, _)| ns / 1000.0);
            format!("{} µs for a store and a load", decimals(time, 2))
        }
        _ => "least memory times time".to_owned(),
    };
    let mut sentences = Vec::new();
    for (question, less, pick) in
        [("density", "less memory", density), ("speed", "less time", speed), ("both", "less", both)]
    {
        let Some(pick) = pick else { continue };
        let winner = &figures[pick.winner];
        let mut sentence =
            format!("For {question}: {}, {}", name(winner), figure(question, winner));
        match &pick.next {
            None => sentence.push_str(", with nothing to compare it with"),
            Some(next) => {
                let runner_up = name(&figures[next.pair]);
                sentence.push_str(&format!(", {:.1} % {less} than {runner_up}", next.margin));
                sentence.push_str(match next.clear {
                    Some(true) => "",
                    Some(false) => ", which is within what the rounds differ by",
                    None => "; one round does not tell whether that holds",
                });
            }
        }
        sentence.push('.');
        sentences.push(sentence);
    }
    if sentences.is_empty() {
        return "There is nothing to pick: no pair has figures.".to_owned();
    }
    sentences.join(" ")
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

/// Chooses the columns to show: all that are meaningful, or as many as fit the terminal.
fn columns(heading: &Heading, rows: &[Vec<String>], width: Option<usize>) -> Vec<usize> {
    let shown = |i: &usize| heading.threads > 1 || COLUMNS[*i].group != THROUGHPUT;
    let mut columns: Vec<usize> = (0..COLUMNS.len()).filter(shown).collect();
    let Some(width) = width else { return columns };
    while line_width(&columns, &widths(rows, &columns)) > width {
        let least = columns.iter().copied().min_by_key(|&i| COLUMNS[i].rank);
        match least.filter(|&i| COLUMNS[i].rank != KEPT) {
            Some(least) => columns.retain(|&i| COLUMNS[i].rank != COLUMNS[least].rank),
            None => break,
        }
    }
    columns
}

fn widths(rows: &[Vec<String>], columns: &[usize]) -> Vec<usize> {
    let width = |&i: &usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.max().unwrap_or(0).max(COLUMNS[i].name.len())
    };
    let mut widths: Vec<usize> = columns.iter().map(width).collect();
    // Widens columns whose head is wider than the text below it.
    for span in spans(columns) {
        let inside: usize = (span.start + 1..span.end).map(|at| gap(columns, at).len()).sum();
        let have = widths[span.clone()].iter().sum::<usize>() + inside;
        let group = COLUMNS[columns[span.start]].group;
        let need = group.len() + if span.len() > 1 { 2 } else { 0 };
        widths[span.start] += need.saturating_sub(have);
    }
    widths
}

fn line_width(columns: &[usize], widths: &[usize]) -> usize {
    widths.iter().sum::<usize>()
        + (0..columns.len()).map(|at| gap(columns, at).len()).sum::<usize>()
}

/// Returns the ranges of neighbouring columns that share a head. Together they cover each column once.
fn spans(columns: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut spans = Vec::new();
    let mut at = 0;
    while at < columns.len() {
        let group = COLUMNS[columns[at]].group;
        let more = columns[at + 1..].iter().take_while(|&&i| COLUMNS[i].joins(group)).count();
        spans.push(at..at + 1 + more);
        at += 1 + more;
    }
    spans
}

fn push_rows(
    out: &mut String,
    heading: &Heading,
    figures: &[Figures],
    verdict: &Verdict,
    look: Look,
) {
    let rows: Vec<Vec<String>> =
        figures.iter().map(|f| COLUMNS.iter().map(|c| (c.cell)(f)).collect()).collect();
    let columns = columns(heading, &rows, look.width);
    let widths = widths(&rows, &columns);

    let mut groups = String::new();
    for span in spans(&columns) {
        let group = COLUMNS[columns[span.start]].group;
        let inside: usize = (span.start + 1..span.end).map(|at| gap(&columns, at).len()).sum();
        let width = widths[span.clone()].iter().sum::<usize>() + inside;
        groups.push_str(gap(&columns, span.start));
        if span.len() > 1 {
            let _ = write!(groups, "{:-^width$}", format!(" {group} "));
        } else {
            let _ = write!(groups, "{group:>width$}");
        }
    }
    push_line(out, &look.paint(Role::Head, groups.trim_end()));
    let names: Vec<String> = COLUMNS.iter().map(|c| c.name.to_owned()).collect();
    push_line(out, &look.paint(Role::Head, &line(&names, &columns, &widths, |_, cell| cell)));
    let wins = |pick: &Option<Pick>, row| pick.as_ref().is_some_and(|pick| pick.winner == row);
    for (n, row) in rows.iter().enumerate() {
        let painted = |column: usize, cell: String| {
            let Column { group, name, .. } = COLUMNS[column];
            match (group, name) {
                ("", "ratio") if wins(&verdict.density, n) => look.paint(Role::Best, &cell),
                ("store ns" | "load ns", "mean") if wins(&verdict.speed, n) => {
                    look.paint(Role::Best, &cell)
                }
                ("", "equal") if !figures[n].verified() => look.paint(Role::Bad, &cell),
                _ => cell,
            }
        };
        push_line(out, &line(row, &columns, &widths, painted));
    }
}

/// Formats one line of cells, each padded to its column's width.
fn line(
    row: &[String],
    columns: &[usize],
    widths: &[usize],
    painted: impl Fn(usize, String) -> String,
) -> String {
    let mut line = String::new();
    for (at, (&i, &width)) in columns.iter().zip(widths).enumerate() {
        line.push_str(gap(columns, at));
        let cell = &row[i];
        let cell = match COLUMNS[i].left {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        };
        line.push_str(&painted(i, cell));
    }
    line
}

/// Returns the gap before the column at position `at`. It is wider where a group of several columns
/// begins or ends.
fn gap(columns: &[usize], at: usize) -> &'static str {
    let joined = |a: usize, b: usize| match (columns.get(a), columns.get(b)) {
        (Some(&a), Some(&b)) => COLUMNS[b].joins(COLUMNS[a].group),
        _ => false,
    };
    if at == 0 {
        ""
    } else if joined(at - 1, at) {
        " "
    } else if joined(at, at + 1) || at > 1 && joined(at - 2, at - 1) {
        "  "
    } else {
        " "
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

/// On a quiet machine rounds differ by less than this many percent.
const BUSY: f64 = 50.0;

fn legend(heading: &Heading, figures: &[Figures]) -> String {
    let clock = heading.clock_ns;
    let mut legend = format!(
        "\
ratio: page bytes over pool, metadata, contexts (of fixed size, so they matter for small sets) and refused pages.
pool/compr: resident pool bytes per compressed byte. meta/page: metadata bytes per page held.
store: every page again, in random order, over the full pool; growing: the first filling, page faults included; load: in random order. Without same-filled pages; {clock:.0} ns for reading the clock subtracted from each operation.
bare codec: the same calls on the same pages in the same orders; x codec: the store's mean in multiples of it.
"
    );
    if heading.threads > 1 {
        let _ = writeln!(
            legend,
            "{} threads share the pages of one store; times are of single calls, {THROUGHPUT} of all \
             threads together.",
            heading.threads
        );
    }
    if let Some(spread) = spread(figures).filter(|_| heading.rounds > 1) {
        let busy = if spread > BUSY { ": something else was running" } else { "" };
        let _ =
            writeln!(legend, "Mean times of single rounds differ by up to {spread:.0} %{busy}.");
    }
    legend
}

/// Returns the largest difference between rounds, over the times of stores, loads and the codec: by how
/// many percent the mean of the slowest round exceeds the mean of the fastest. Returns `None` if nothing
/// was timed.
fn spread(figures: &[Figures]) -> Option<f64> {
    let timings = figures.iter().flat_map(|f| [f.store, f.load, f.compress, f.decompress]);
    timings
        .flatten()
        .filter(|t| t.mean_least > 0.0)
        .map(|t| (t.mean_most / t.mean_least - 1.0) * 100.0)
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples;

    fn table(heading: &Heading, figures: &[Figures], look: Look) -> String {
        render(heading, figures, &Verdict::of(figures, heading.rounds, heading.threads), look)
    }

    fn lines() -> Vec<String> {
        let table = table(&examples::heading(), &examples::figures(), Look::PLAIN);
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
        let table = table(&heading, &examples::figures(), Look::PLAIN);
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
        let before = lines.iter().rposition(String::is_empty).unwrap();
        let last: Vec<&str> = lines[..before].iter().rev().take(2).map(String::as_str).collect();
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
            (load.mean_least, load.mean_most) = (2000.0, 2400.0);
        }
        assert_eq!(last(&figures), "Mean times of single rounds differ by up to 20 %.");
        if let Some(load) = &mut figures.load {
            load.mean_most = 4000.0;
        }
        assert!(last(&figures).ends_with("up to 100 %: something else was running."));
    }

    #[test]
    fn no_line_is_wider_than_a_terminal_of_120() {
        let mut figures = examples::figures();
        for f in &mut figures {
            f.name.zpool = Some("zsmalloc".into());
            f.name.compressor = "deflate".into();
            let slow = |t: &mut Option<Timing>| {
                if let Some(t) = t {
                    (t.mean, t.p50, t.p99) = (123_456.0, 123_456.0, 234_567.0);
                }
            };
            for t in [&mut f.store, &mut f.grow, &mut f.load, &mut f.compress, &mut f.decompress] {
                slow(t);
            }
        }
        for width in [120, 100, 80, 60] {
            let look = Look { width: Some(width), color: false };
            for threads in [1, 8] {
                let table = table(&Heading { threads, ..examples::heading() }, &figures, look);
                for line in table.lines() {
                    let columns = line.chars().count();
                    assert!(columns <= width, "{columns} of {width} in {line}");
                }
                for kept in ["123456", " ratio", "equal", " NO"] {
                    assert!(table.contains(kept), "{kept} is not in\n{table}");
                }
            }
        }
        let whole = table(&examples::heading(), &figures, Look::PLAIN);
        assert!(whole.lines().take(7).all(|line| line.chars().count() <= 120), "{whole}");
        assert!(!whole.contains(THROUGHPUT));
        let threads = Heading { threads: 2, ..examples::heading() };
        assert!(table(&threads, &figures, Look::PLAIN).contains(THROUGHPUT));
    }

    #[test]
    fn the_closing_paragraph_picks_and_says_by_how_much() {
        let figures = examples::figures();
        let one = closing(&figures, &Verdict::of(&figures, 1, 1));
        assert_eq!(
            one,
            "For density: zbud/lz4, 1.97 page bytes per byte of memory, with nothing to compare it \
             with. For speed: zbud/lz4, 8.91 µs for a store and a load, with nothing to compare it \
             with. For both: zbud/lz4, least memory times time, with nothing to compare it with."
        );
        assert!(closing(&figures[1..], &Verdict::default()).starts_with("There is nothing"));
        let mut slower = figures[0].clone();
        slower.name.compressor = "slow".into();
        if let Some(pool) = &mut slower.memory.pool {
            pool.pool_bytes *= 2;
        }
        for t in [&mut slower.store, &mut slower.load].into_iter().flatten() {
            (t.mean, t.mean_least, t.mean_most) = (t.mean * 2.0, t.mean * 1.9, t.mean * 2.1);
        }
        let two = [figures[0].clone(), slower];
        let text = closing(&two, &Verdict::of(&two, 3, 1));
        assert!(text.contains("37.2 % less memory than zbud/slow. "), "{text}");
        assert!(text.contains("50.0 % less time than zbud/slow. "), "{text}");
        assert!(text.contains("68.6 % less than zbud/slow."), "{text}");
        let text = closing(&two, &Verdict::of(&two, 1, 1));
        assert!(text.contains("than zbud/slow; one round does not tell"), "{text}");
        let mut close = two.clone();
        if let Some(t) = &mut close[1].store {
            t.mean_least = 1.0;
        }
        let text = closing(&close, &Verdict::of(&close, 3, 1));
        assert!(text.contains("less time than zbud/slow, which is within"), "{text}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let (heading, figures) = (examples::heading(), examples::figures());
        let colored = table(&heading, &figures, Look { color: true, ..Look::PLAIN });
        let plain = table(&heading, &figures, Look::PLAIN);
        assert_eq!(anstream::adapter::strip_str(&colored).to_string(), plain);
        assert!(colored.contains("\u{1b}[") && !plain.contains('\u{1b}'));
        let failed = colored.lines().find(|line| line.contains("FAILED")).unwrap();
        assert!(failed.contains("\u{1b}[31m"), "{failed:?}");
    }
}

//! Prints a run as text: first the figures in which a rival does better, then all figures.

use std::fmt::Write;

use measure::{Figures, Timing};

use crate::contestants::Entry;
use crate::machine::Machine;

/// A figure in which this project is compared with a rival: its name, and how it is computed. Less
/// is better.
struct Measure {
    what: &'static str,
    of: fn(&Figures) -> Option<f64>,
}

const MEASURES: &[Measure] = &[
    Measure { what: "store, mean ns", of: |f| f.store.map(|n| n.mean) },
    Measure { what: "store, p99.9 ns", of: |f| f.store.map(|n| n.p999) },
    Measure { what: "load, mean ns", of: |f| f.load.map(|n| n.mean) },
    Measure { what: "load, p99.9 ns", of: |f| f.load.map(|n| n.p999) },
    Measure { what: "ns from store to store, all threads", of: |f| each(f.store?.per_second) },
    Measure { what: "ns from load to load, all threads", of: |f| each(f.load?.per_second) },
    Measure { what: "resident per compressed byte", of: |f| f.resident_per_compressed },
    Measure {
        what: "the same after 75 % freed and tidied up",
        of: |f| f.freed_per_compressed().map(|both| both.1),
    },
];

fn each(per_second: f64) -> Option<f64> {
    (per_second > 0.0).then(|| 1e9 / per_second)
}

/// A figure in which a rival does better.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Loss {
    pub(crate) ours: String,
    pub(crate) rival: String,
    pub(crate) threads: usize,
    pub(crate) what: &'static str,
    pub(crate) own: f64,
    pub(crate) theirs: f64,
}

/// Compares each rival with this project's contestants that stand beside it, for the same thread
/// count. Returns every figure in which the rival does better. The greatest ratio comes first.
pub(crate) fn losses(figures: &[Figures]) -> Vec<Loss> {
    let mut all = Vec::new();
    for rival in figures {
        let Ok(entry) = Entry::find(&rival.name.to_string()) else { continue };
        for ours in entry.beside() {
            let beside = figures
                .iter()
                .find(|f| f.name.to_string() == ours.name() && f.threads == rival.threads);
            let Some(beside) = beside else { continue };
            for measure in MEASURES {
                let Some((own, theirs)) = (measure.of)(beside).zip((measure.of)(rival)) else {
                    continue;
                };
                if own > theirs {
                    all.push(Loss {
                        ours: ours.name(),
                        rival: rival.name.to_string(),
                        threads: rival.threads,
                        what: measure.what,
                        own,
                        theirs,
                    });
                }
            }
        }
    }
    all.sort_by(|a, b| (b.own / b.theirs).total_cmp(&(a.own / a.theirs)));
    all
}

pub(crate) fn render(
    figures: &[Figures],
    origin: &str,
    rounds: usize,
    machine: &Machine,
) -> String {
    let mut text = String::new();
    let say = &mut text;
    line(say, format_args!("{origin}; same-filled pages left out; medians of {rounds} rounds"));
    line(
        say,
        format_args!(
            "{}, {} processors, {} MiB, kernel {}",
            machine.processor, machine.processors, machine.memory_mib, machine.kernel
        ),
    );
    line(say, format_args!(""));
    let losses = losses(figures);
    if losses.is_empty() {
        line(say, format_args!("No rival does better in anything that was measured."));
    } else {
        line(say, format_args!("Where a rival does better:"));
    }
    for loss in losses {
        let Loss { ours, rival, threads, what, own, theirs } = loss;
        let times = own / theirs;
        line(
            say,
            format_args!(
                "  {what}, {threads} threads: {own:.5} of {ours}, {theirs:.5} of {rival} ({times:.2} x)"
            ),
        );
    }
    let widest = figures.iter().map(|f| f.name.to_string().len()).max().unwrap_or(0);
    let mut threads: Vec<usize> = figures.iter().map(|f| f.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    for threads in threads {
        line(say, format_args!(""));
        line(
            say,
            format_args!(
                "{:widest$} | {:>7} {:>7} {:>7} {:>7} {:>6} {:>7} | {:>7} {:>7} {:>7} {:>7} {:>6} {:>7} | {:>6} {:>6} {:>6}",
                format!("threads: {threads}"),
                "store",
                "p50",
                "p99",
                "p99.9",
                "/codec",
                "k/s",
                "load",
                "p50",
                "p99",
                "p99.9",
                "/codec",
                "k/s",
                "B/B",
                "-75 %",
                "tidied"
            ),
        );
        for f in figures.iter().filter(|f| f.threads == threads) {
            let ns = |n: Option<Timing>, ratio: Option<f64>| match n {
                Some(n) => format!(
                    "{:>7.0} {:>7.0} {:>7.0} {:>7.0} {} {:>7.0}",
                    n.mean,
                    n.p50,
                    n.p99,
                    n.p999,
                    number(ratio, 2),
                    n.per_second / 1000.0
                ),
                None => format!("{:>46}", "-"),
            };
            let freed = f.freed_per_compressed();
            line(
                say,
                format_args!(
                    "{:widest$} | {} | {} | {} {} {}",
                    f.name.to_string(),
                    ns(f.store, f.store_over_codec),
                    ns(f.load, f.load_over_codec),
                    number(f.resident_per_compressed, 3),
                    number(freed.map(|both| both.0), 3),
                    number(freed.map(|both| both.1), 3),
                ),
            );
        }
    }
    line(say, format_args!(""));
    text
}

/// Returns the number, or a dash for none, in six columns.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| format!("{:>6}", "-"), |value| format!("{value:>6.digits$}"))
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::figures;

    #[test]
    fn what_a_rival_does_better_comes_first_and_the_worst_of_it_before_the_rest() {
        let run = [
            figures("zswap-core/zsmalloc/lz4", 1, 110.0, 1030),
            figures("map-system/liblz4", 1, 100.0, 1200),
            figures("map-jemalloc/liblz4", 1, 55.0, 1010),
            figures("map-mimalloc/liblz4", 2, 10.0, 10),
        ];
        let losses = losses(&run);
        assert!(losses.windows(2).all(|w| w[0].own / w[0].theirs >= w[1].own / w[1].theirs));
        assert_eq!(losses[0].rival, "map-jemalloc/liblz4");
        assert!((losses[0].own / losses[0].theirs - 2.0).abs() < 1e-9);
        let memory: Vec<&str> = losses
            .iter()
            .filter(|l| l.what == "resident per compressed byte")
            .map(|l| l.rival.as_str())
            .collect();
        assert_eq!(memory, ["map-jemalloc/liblz4"], "another thread count is another contest");

        let text = render(&run, "some.pages", 3, &Machine::default());
        let better = text.find("Where a rival does better").unwrap();
        assert!(better < text.find("threads: 1 ").unwrap(), "{text}");
        assert!(text.contains("map-mimalloc/liblz4"), "{text}");
    }

    #[test]
    fn without_a_loss_it_says_so() {
        let run = [
            figures("zswap-core/zsmalloc/lz4", 1, 110.0, 1030),
            figures("map-system/liblz4", 1, 200.0, 1200),
        ];
        let text = render(&run, "some.pages", 3, &Machine::default());
        assert!(text.contains("No rival does better"), "{text}");
    }
}

//! The report as JSON: one array with one object per pair.

use serde::Serialize;

use super::Heading;
use crate::contest;
use crate::process::Facts;
use crate::trial::{Backing, DeviceLoads};
use crate::verdict::Verdict;
use measure::{Figures, Timing};

/// One pair. Sizes are in bytes, times in nanoseconds; `null` means not measured.
#[derive(Serialize)]
struct Pair<'a> {
    zpool: &'a str,
    compressor: &'a str,
    source: &'a str,
    sample: Option<Sample<'a>>,
    pages: usize,
    same_filled: usize,
    stored: usize,
    rejected: usize,
    incompressible: usize,
    original_bytes: usize,
    compressed_bytes: usize,
    pool_bytes: usize,
    metadata_bytes: usize,
    context_bytes: usize,
    ratio: Option<f64>,
    pool_bytes_per_compressed_byte: Option<f64>,
    metadata_bytes_per_page: Option<f64>,
    threads: usize,
    rounds: u32,
    clock_ns: f64,
    verified: bool,
    store_ns: Times,
    store_grow_ns: Times,
    load_ns: Times,
    codec_compress_ns: Option<f64>,
    codec_decompress_ns: Option<f64>,
    store_over_codec: Option<f64>,
    load_over_codec: Option<f64>,
    first_refusal: Option<&'a str>,
    fault: Option<&'a str>,
    /// The trial of `--backing`, which only the first pair has.
    written_back_pages: Option<u64>,
    device_bytes_written: Option<u64>,
    device_bytes_read: Option<u64>,
    write_amplification: Option<f64>,
    device_load_ns: DeviceTimes,
    device_fault: Option<&'a str>,
    /// The questions for which this pair is the one to pick.
    picked_for: Vec<Picked<'a>>,
}

/// A question to which this pair is the answer.
#[derive(Serialize)]
struct Picked<'a> {
    question: &'a str,
    next_zpool: Option<&'a str>,
    next_compressor: Option<&'a str>,
    margin_percent: Option<f64>,
    /// Whether the difference to the next pair is clear, as `verdict.rs` defines it. Null if there is
    /// no next pair, and, for `speed` and `both`, after a single round.
    clear: Option<bool>,
}

fn picked<'a>(pair: usize, figures: &'a [Figures], verdict: &Verdict) -> Vec<Picked<'a>> {
    let answers = verdict.answers().into_iter();
    let won = answers.filter_map(|(question, pick)| Some((question, pick?)));
    won.filter(|(_, pick)| pick.winner == pair)
        .map(|(question, pick)| {
            let next = pick.next.as_ref();
            Picked {
                question,
                next_zpool: next.map(|next| contest::zpool(&figures[next.pair])),
                next_compressor: next.map(|next| figures[next.pair].name.compressor.as_str()),
                margin_percent: next.map(|next| rounded(next.margin, 10.0)),
                clear: next.and_then(|next| next.clear),
            }
        })
        .collect()
}

/// How the pages were sampled from a running process.
#[derive(Serialize)]
struct Sample<'a> {
    pid: i32,
    comm: &'a str,
    eligible_pages: u64,
    threads: usize,
    stopped_ms: f64,
}

impl<'a> From<&'a Facts> for Sample<'a> {
    fn from(facts: &'a Facts) -> Self {
        Sample {
            pid: facts.pid,
            comm: &facts.comm,
            eligible_pages: facts.eligible_pages,
            threads: facts.threads,
            stopped_ms: rounded(facts.stopped.as_secs_f64() * 1e3, 1e3),
        }
    }
}

#[derive(Serialize)]
struct Times {
    mean: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
    /// Operations per second, over all threads.
    per_second: Option<f64>,
    /// The mean of the fastest round; null after one round.
    mean_low: Option<f64>,
    /// The mean of the slowest round; null after one round.
    mean_high: Option<f64>,
}

impl Times {
    fn new(timing: Option<Timing>, rounds: u32) -> Self {
        let ns = |part: fn(Timing) -> f64| timing.map(|t| rounded(part(t), 10.0));
        Times {
            mean: ns(|t| t.mean),
            p50: ns(|t| t.p50),
            p99: ns(|t| t.p99),
            per_second: timing.map(|t| rounded(t.per_second, 1.0)),
            mean_low: ns(|t| t.mean_least).filter(|_| rounds > 1),
            mean_high: ns(|t| t.mean_most).filter(|_| rounds > 1),
        }
    }
}

/// Loads of pages that were on the device at that moment.
#[derive(Serialize)]
struct DeviceTimes {
    mean: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
}

impl DeviceTimes {
    fn new(loads: Option<DeviceLoads>) -> Self {
        let ns = |part: fn(DeviceLoads) -> f64| loads.map(|loads| rounded(part(loads), 10.0));
        DeviceTimes { mean: ns(|l| l.mean), p50: ns(|l| l.p50), p99: ns(|l| l.p99) }
    }
}

/// Rounds `value` to a multiple of `1 / parts`. More digits would look more exact than they are.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// Renders the whole report, which ends with a newline. `backing` is the trial of the first pair, if there
/// was one.
pub(crate) fn render(
    heading: &Heading,
    figures: &[Figures],
    verdict: &Verdict,
    backing: Option<&Backing>,
) -> String {
    let picked = |n| picked(n, figures, verdict);
    let of_pair = |n| backing.filter(|_| n == 0);
    let pairs: Vec<Pair<'_>> =
        figures.iter().enumerate().map(|(n, f)| pair(heading, f, of_pair(n), picked(n))).collect();
    // Never fails: only keys that are not strings and failing writers cause errors here.
    let mut text = serde_json::to_string_pretty(&pairs).unwrap_or_default();
    text.push('\n');
    text
}

fn pair<'a>(
    heading: &'a Heading,
    figures: &'a Figures,
    backing: Option<&'a Backing>,
    picked_for: Vec<Picked<'a>>,
) -> Pair<'a> {
    let (memory, pool) = (&figures.memory, figures.pool());
    let quotient = |value: Option<f64>| value.map(|v| rounded(v, 1e4));
    let mean = |timing: Option<Timing>| Times::new(timing, heading.rounds).mean;
    Pair {
        zpool: contest::zpool(figures),
        compressor: &figures.name.compressor,
        source: &heading.origin,
        sample: heading.sampled.as_ref().map(Sample::from),
        pages: figures.pages,
        same_filled: pool.same_filled,
        stored: pool.stored(),
        rejected: figures.refused,
        incompressible: pool.incompressible,
        original_bytes: figures.original_bytes(),
        compressed_bytes: memory.compressed_bytes.unwrap_or(0),
        pool_bytes: pool.pool_bytes,
        metadata_bytes: memory.metadata_bytes.unwrap_or(0),
        context_bytes: pool.context_bytes,
        ratio: quotient(figures.ratio()),
        pool_bytes_per_compressed_byte: quotient(figures.pool_per_compressed()),
        metadata_bytes_per_page: quotient(figures.metadata_per_page()),
        threads: heading.threads,
        rounds: heading.rounds,
        clock_ns: rounded(heading.clock_ns, 10.0),
        verified: figures.verified(),
        store_ns: Times::new(figures.store, heading.rounds),
        store_grow_ns: Times::new(figures.grow, heading.rounds),
        load_ns: Times::new(figures.load, heading.rounds),
        codec_compress_ns: mean(figures.compress),
        codec_decompress_ns: mean(figures.decompress),
        store_over_codec: quotient(figures.store_over_codec),
        load_over_codec: quotient(figures.load_over_codec),
        first_refusal: figures.refusal.as_deref(),
        fault: figures.fault.as_deref(),
        written_back_pages: backing.map(|b| b.written_back_pages),
        device_bytes_written: backing.map(|b| b.device_bytes_written),
        device_bytes_read: backing.map(|b| b.device_bytes_read),
        write_amplification: quotient(backing.and_then(|b| b.write_amplification)),
        device_load_ns: DeviceTimes::new(backing.and_then(|b| b.device_loads)),
        device_fault: backing.and_then(|b| b.fault.as_deref()),
        picked_for,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples;
    use serde_json::{Value, json};

    fn report(heading: &Heading) -> Value {
        let figures = examples::figures();
        let verdict = Verdict::of(&figures, heading.rounds, heading.threads);
        serde_json::from_str(&render(heading, &figures, &verdict, None)).unwrap()
    }

    #[test]
    fn figures_are_where_their_names_say() {
        let report = report(&examples::heading());
        let good = &report[0];
        let ns = |mean: f64| {
            json!({"mean": mean, "p50": mean - 10.0, "p99": mean * 3.0,
                   "per_second": (1e9 / mean).round(), "mean_low": null, "mean_high": null})
        };
        for (key, value) in [
            ("zpool", json!("zbud")),
            ("compressor", json!("lz4")),
            ("source", json!("some.pages")),
            ("sample", json!(null)),
            ("pages", json!(10)),
            ("same_filled", json!(2)),
            ("stored", json!(7)),
            ("rejected", json!(1)),
            ("incompressible", json!(1)),
            ("original_bytes", json!(40_960)),
            ("compressed_bytes", json!(8000)),
            ("pool_bytes", json!(12_288)),
            ("metadata_bytes", json!(270)),
            ("context_bytes", json!(4096)),
            ("ratio", json!(1.974)),
            ("pool_bytes_per_compressed_byte", json!(1.536)),
            ("metadata_bytes_per_page", json!(30.0)),
            ("threads", json!(1)),
            ("rounds", json!(1)),
            ("clock_ns", json!(20.0)),
            ("verified", json!(true)),
            ("store_ns", ns(6600.0)),
            ("store_grow_ns", ns(7000.0)),
            ("load_ns", ns(2310.0)),
            ("codec_compress_ns", json!(6000.0)),
            ("codec_decompress_ns", json!(2100.0)),
            ("store_over_codec", json!(1.1)),
            ("load_over_codec", json!(1.1)),
            ("first_refusal", json!("page too large")),
            ("fault", json!(null)),
            ("written_back_pages", json!(null)),
            ("device_bytes_written", json!(null)),
            ("device_bytes_read", json!(null)),
            ("write_amplification", json!(null)),
            ("device_load_ns", json!({"mean": null, "p50": null, "p99": null})),
            ("device_fault", json!(null)),
            ("picked_for", {
                let alone = |question| {
                    json!({"question": question, "next_zpool": null, "next_compressor": null,
                           "margin_percent": null, "clear": null})
                };
                json!([alone("density"), alone("speed"), alone("both")])
            }),
        ] {
            assert_eq!(good[key], value, "{key}");
        }
        assert_eq!(good.as_object().unwrap().len(), 37);
    }

    #[test]
    fn the_trial_of_a_device_is_in_the_first_pair() {
        let (heading, figures) = (examples::heading(), examples::figures());
        let verdict = Verdict::of(&figures, heading.rounds, heading.threads);
        let text = render(&heading, &figures, &verdict, Some(&Backing::example()));
        let report: Value = serde_json::from_str(&text).unwrap();
        for (key, value) in [
            ("written_back_pages", json!(6)),
            ("device_bytes_written", json!(5100)),
            ("device_bytes_read", json!(4100)),
            ("write_amplification", json!(1.02)),
            ("device_load_ns", json!({"mean": 2100.0, "p50": 2000.0, "p99": 9000.0})),
            ("device_fault", json!("page 3 came back changed")),
        ] {
            assert_eq!(report[0][key], value, "{key}");
        }
        assert_eq!(report[0]["fault"], json!(null));
        assert_eq!(report[1]["written_back_pages"], json!(null));
    }

    #[test]
    fn several_rounds_have_a_range() {
        let report = report(&Heading { rounds: 2, ..examples::heading() });
        assert_eq!(report[0]["load_ns"]["mean_low"], json!(2310.0));
    }

    #[test]
    fn a_sample_tells_of_its_process() {
        let heading = Heading { sampled: Some(examples::facts()), ..examples::heading() };
        let report = report(&heading);
        let expect = json!({"pid": 77, "comm": "a \nname", "eligible_pages": 1234, "threads": 3,
                            "stopped_ms": 1.5});
        assert_eq!(report[0]["sample"], expect);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let report = report(&examples::heading());
        let bad = &report[1];
        assert_eq!(bad["verified"], json!(false));
        assert_eq!(bad["fault"], json!("page 3 came back changed"));
        assert_eq!(bad["load_ns"]["mean"], json!(null));
        assert_eq!(bad["codec_compress_ns"], json!(null));
        assert_eq!(bad["pool_bytes_per_compressed_byte"], json!(null));
    }
}

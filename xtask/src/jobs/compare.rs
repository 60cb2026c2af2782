//! Runs `zswap compare` over the built-in sample and checks the JSON that it prints. Then runs its
//! trials of switching and writeback.

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::text;

const COUNTS: &[&str] = &[
    "pages",
    "same_filled",
    "stored",
    "rejected",
    "original_bytes",
    "compressed_bytes",
    "pool_bytes",
    "metadata_bytes",
    "threads",
];
const DISTRIBUTIONS: &[&str] = &["store_ns", "store_grow_ns", "load_ns"];
const CODEC_TIMES: &[&str] = &["codec_compress_ns", "codec_decompress_ns"];
const PAGE_SIZE: u64 = 4096;

pub(crate) fn run() -> Result<()> {
    check(&Cmd::line("cargo run --release -p zswap-cli -- compare --rounds 1 --json"), None)?;
    let file = format!("zswap-compare-backing-{}", std::process::id());
    let backing = std::env::temp_dir().join(file).display().to_string();
    // Pages that are only copied do not fit into the pool.
    let cmd = Cmd::line(
        "cargo run --release -p zswap-cli -- compare --rounds 1 --json --zpool zsmalloc --compressor null",
    );
    let cmd = cmd.args(["--max-pool-mib", "1", "--backing", &backing]);
    conclude(problems(&report(&cmd)?, None, true))?;
    // The trials of switching and writeback. They fail if a page comes back changed.
    Cmd::line(
        "cargo run --release -p zswap-cli -- compare --rounds 1 --threads 2 --compressor null,lz4",
    )
    .args(["--switch", "--max-pool-mib", "1", "--backing"])
    .arg(backing)
    .run()
}

/// Runs `cmd`, which must be a `zswap compare --json`, and checks every object that it prints. If
/// `compressor` is given, every object must name that compressor.
pub(crate) fn check(cmd: &Cmd, compressor: Option<&str>) -> Result<()> {
    conclude(problems(&report(cmd)?, compressor, false))
}

/// Runs `cmd` and returns the JSON that it prints.
fn report(cmd: &Cmd) -> Result<Value> {
    let output = cmd.capture()?;
    serde_json::from_str(&output).map_err(|source| Error::Json { command: cmd.to_string(), source })
}

/// Prints the problems, or that there are none. `found` is the number of pairs, or the problems.
fn conclude(found: std::result::Result<usize, Vec<String>>) -> Result<()> {
    match found {
        Ok(pairs) => {
            println!("compare: {pairs} pairs, every page verified");
            Ok(())
        }
        Err(problems) => {
            problems.iter().for_each(|problem| println!("compare: {problem}"));
            Err(Error::Findings { job: "compare", findings: problems.len() })
        }
    }
}

/// Returns the number of pairs of a report, or its problems, one line each. If `backed`, the first pair
/// must have the figures of a store with a device.
fn problems(
    report: &Value,
    compressor: Option<&str>,
    backed: bool,
) -> std::result::Result<usize, Vec<String>> {
    let Some(pairs) = report.as_array() else {
        return Err(vec!["the report is not a JSON array; print one object a pair".to_owned()]);
    };
    let Some(first) = pairs.first() else {
        return Err(vec![
            "the report is empty; it must hold every zpool and compressor".to_owned(),
        ]);
    };
    let mut found = if backed { device_problems(first) } else { Vec::new() };
    for pair in pairs {
        let name = format!("{}/{}", text(&pair["zpool"]), text(&pair["compressor"]));
        found.extend(pair_problems(pair, compressor).into_iter().map(|p| format!("{name}: {p}")));
    }
    if found.is_empty() { Ok(pairs.len()) } else { Err(found) }
}

/// Returns the problems of the figures of `--backing`.
fn device_problems(first: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["written_back_pages", "device_bytes_written", "device_bytes_read"] {
        if first[key].as_u64().unwrap_or_default() == 0 {
            found.push(format!("`{key}` of the first pair must be a whole number above 0"));
        }
    }
    let at_least = |value: &Value, least: f64| value.as_f64().is_some_and(|value| value >= least);
    if !at_least(&first["write_amplification"], 1.0) {
        found.push("`write_amplification` must be at least 1".to_owned());
    }
    for part in ["mean", "p50", "p99"] {
        if !at_least(&first["device_load_ns"][part], f64::MIN_POSITIVE) {
            found.push(format!("`device_load_ns.{part}` must be a time in ns"));
        }
    }
    if !first["device_fault"].is_null() {
        found.push("`device_fault` must be null: a page came back changed".to_owned());
    }
    found
}

fn pair_problems(pair: &Value, compressor: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    let mut need = |ok: bool, what: String| {
        if !ok {
            found.push(what);
        }
    };
    for key in ["zpool", "compressor"] {
        need(!text(&pair[key]).is_empty(), format!("`{key}` must be a name"));
    }
    for &key in COUNTS {
        need(pair[key].is_u64(), format!("`{key}` must be a whole number"));
    }
    // A backend may refuse every page of a codec that does not compress. Then no store was timed,
    // and the times may be 0.
    let floor = if pair["stored"] == 0 { 0.0 } else { f64::MIN_POSITIVE };
    let timed = |value: &Value| value.as_f64().is_some_and(|v| v >= floor);
    for &key in DISTRIBUTIONS {
        for part in ["mean", "p50", "p99"] {
            need(timed(&pair[key][part]), format!("`{key}.{part}` must be a time in ns"));
        }
    }
    for &key in CODEC_TIMES {
        need(timed(&pair[key]), format!("`{key}` must be a time in ns"));
    }
    need(pair["verified"] == true, "`verified` must be true: a page came back changed".to_owned());
    if let Some(name) = compressor {
        need(pair["compressor"] == name, format!("`compressor` must be {name}, as requested"));
    }
    let count = |key: &str| pair[key].as_u64().unwrap_or_default();
    need(count("pages") > 0, "`pages` must not be zero: nothing was measured".to_owned());
    need(
        count("pages") == count("same_filled") + count("stored") + count("rejected"),
        "`pages` must be `same_filled` + `stored` + `rejected`".to_owned(),
    );
    need(
        count("original_bytes") == count("pages") * PAGE_SIZE,
        format!("`original_bytes` must be `pages` x {PAGE_SIZE}"),
    );
    need(
        count("pool_bytes") >= count("compressed_bytes"),
        "`pool_bytes` must hold at least `compressed_bytes`".to_owned(),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pair() -> Value {
        let ns = json!({"mean": 10.5, "p50": 9, "p99": 30});
        json!({
            "zpool": "zbud", "compressor": "lz4", "pages": 10, "same_filled": 2, "stored": 7,
            "rejected": 1, "original_bytes": 40960, "compressed_bytes": 9000,
            "pool_bytes": 16384, "metadata_bytes": 80, "threads": 1, "verified": true,
            "store_ns": ns, "store_grow_ns": ns, "load_ns": ns,
            "codec_compress_ns": 8.5, "codec_decompress_ns": 3,
        })
    }

    /// Sets `key` to `value` in a good report of one pair. Returns the problems of that report.
    fn with(key: &str, value: Value) -> Vec<String> {
        let mut pair = pair();
        pair[key] = value;
        found(&json!([pair]), None)
    }

    fn found(report: &Value, compressor: Option<&str>) -> Vec<String> {
        problems(report, compressor, false).err().unwrap_or_default()
    }

    #[test]
    fn a_good_report_has_no_problem() {
        assert_eq!(problems(&json!([pair()]), Some("lz4"), false), Ok(1));
    }

    #[test]
    fn every_key_is_asked_for() {
        let all = pair();
        for key in all.as_object().unwrap().keys() {
            let mut short = all.clone();
            short.as_object_mut().unwrap().remove(key);
            let found = found(&json!([short]), None);
            assert!(found.iter().any(|p| p.contains(&format!("`{key}"))), "{key}: {found:?}");
        }
    }

    #[test]
    fn wrong_values_are_seen() {
        assert!(with("verified", json!(false))[0].contains("verified"));
        assert!(with("rejected", json!(2))[0].contains("`same_filled` + `stored`"));
        assert!(with("store_ns", json!({"mean": 1, "p50": 1}))[0].contains("store_ns.p99"));
        assert!(with("codec_compress_ns", json!(0))[0].contains("codec_compress_ns"));
        assert!(with("pool_bytes", json!(1))[0].contains("pool_bytes"));
        assert!(with("original_bytes", json!(1))[0].contains("original_bytes"));
    }

    #[test]
    fn an_empty_or_shapeless_report_is_a_problem() {
        assert_eq!(found(&json!([]), None).len(), 1);
        assert_eq!(found(&json!({}), None).len(), 1);
    }

    #[test]
    fn another_compressor_than_asked_is_a_problem() {
        assert_eq!(found(&json!([pair()]), Some("lzo")).len(), 1);
    }

    #[test]
    fn the_figures_of_a_device_are_asked_for() {
        let mut first = json!({"written_back_pages": 3, "device_bytes_written": 5000,
            "device_bytes_read": 4000, "write_amplification": 1.03, "device_fault": null,
            "device_load_ns": {"mean": 900, "p50": 800, "p99": 2000}});
        assert_eq!(device_problems(&first), Vec::<String>::new());
        first["device_fault"] = json!("page 3 came back changed");
        first["write_amplification"] = json!(0.5);
        first["device_load_ns"]["p99"] = json!(0);
        first["device_bytes_read"] = json!(null);
        assert_eq!(device_problems(&first).len(), 4);
        assert_eq!(problems(&json!([pair()]), None, true).unwrap_err().len(), 7);
    }
}

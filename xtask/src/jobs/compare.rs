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
    // The trials of switching and writeback. They fail if a page comes back changed.
    let file = format!("zswap-compare-backing-{}", std::process::id());
    Cmd::line(
        "cargo run --release -p zswap-cli -- compare --rounds 1 --threads 2 --compressor null,lz4",
    )
    .args(["--switch", "--max-pool-mib", "1", "--backing"])
    .arg(std::env::temp_dir().join(file).display().to_string())
    .run()
}

/// Runs `cmd`, which must be a `zswap compare --json`, and checks every object that it prints. If
/// `compressor` is given, every object must name that compressor.
pub(crate) fn check(cmd: &Cmd, compressor: Option<&str>) -> Result<()> {
    let output = cmd.capture()?;
    let value: Value = serde_json::from_str(&output)
        .map_err(|source| Error::Json { command: cmd.to_string(), source })?;
    let problems = problems(&value, compressor);
    for problem in &problems {
        println!("compare: {problem}");
    }
    if problems.is_empty() {
        println!("compare: {} pairs, every page verified", value.as_array().map_or(0, Vec::len));
        Ok(())
    } else {
        Err(Error::Findings { job: "compare", findings: problems.len() })
    }
}

/// Returns the problems of a report, one line each.
fn problems(report: &Value, compressor: Option<&str>) -> Vec<String> {
    let Some(pairs) = report.as_array() else {
        return vec!["the report is not a JSON array; print one object a pair".to_owned()];
    };
    if pairs.is_empty() {
        return vec!["the report is empty; it must hold every zpool and compressor".to_owned()];
    }
    let mut found = Vec::new();
    for pair in pairs {
        let name = format!("{}/{}", text(&pair["zpool"]), text(&pair["compressor"]));
        found.extend(pair_problems(pair, compressor).into_iter().map(|p| format!("{name}: {p}")));
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
        problems(&json!([pair]), None)
    }

    #[test]
    fn a_good_report_has_no_problem() {
        assert_eq!(problems(&json!([pair()]), Some("lz4")), Vec::<String>::new());
    }

    #[test]
    fn every_key_is_asked_for() {
        let all = pair();
        for key in all.as_object().unwrap().keys() {
            let mut short = all.clone();
            short.as_object_mut().unwrap().remove(key);
            let found = problems(&json!([short]), None);
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
        assert_eq!(problems(&json!([]), None).len(), 1);
        assert_eq!(problems(&json!({}), None).len(), 1);
    }

    #[test]
    fn another_compressor_than_asked_is_a_problem() {
        assert_eq!(problems(&json!([pair()]), Some("lzo")).len(), 1);
    }
}

//! Runs the criterion benches on real pages. At the end prints a table of the times, in nanoseconds
//! and as multiples of a mutex pair: one lock and one unlock of a mutex.
//!
//! Times in nanoseconds differ between machines and from one minute to the next. Multiples of a
//! mutex pair in the same run can be compared. No other thread uses the mutex.
//!
//! With `--writeback`, `--tenants`, `--region` or `--caches` runs one of those benches instead, which print their own
//! tables.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::{caches, peers};
use crate::workspace::Workspace;

/// The bench of the mutex pair. The table shows all times as multiples of its time.
const UNIT: &str = "mutex pair";
/// The folder with real pages, relative to the workspace root.
const CORPUS: &str = "../shared/corpus";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Instead of the criterion benches, compare this project with the bare codec, maps of boxed
    /// blocks, other codecs, and the kernel's zram and zswap where the system has them and permits
    /// it. The results where a rival does better come first.
    #[arg(long, conflicts_with = "smoke", group = "instead")]
    peers: bool,
    /// Instead of the criterion benches, compare codecs with liblz4, in turns in one process: their
    /// sizes, and how much faster they compress and decompress. The results are shown for each file
    /// of pages and for all files together. NAMES are separated by commas.
    #[arg(long, value_name = "NAMES", num_args = 0..=1, default_missing_value = "lz4,lz4hc,zstd")]
    #[arg(conflicts_with_all = ["smoke", "filter"], group = "instead")]
    codec: Option<String>,
    /// Instead of the criterion benches, measure what writing pages back to a device costs, and loading
    /// them: bytes, processor time, speed, and how much cleaning writes. Each figure stands beside what
    /// it is compared with in the same run. Needs a corpus, or --pages.
    #[arg(long, conflicts_with_all = ["smoke", "filter", "quick", "json"], group = "instead")]
    writeback: bool,
    /// Instead of the criterion benches, measure what the loads and stores of one tenant of a store cost while
    /// another floods it: in an area of its own, in another store, and in the same area.
    #[arg(long, conflicts_with_all = ["smoke", "filter", "quick", "json"], group = "instead")]
    tenants: bool,
    /// Instead of the criterion benches, measure what a region costs: its faults and evictions beside the
    /// bare codec and the least that a fault can cost; a load that does not fit in memory, beside the
    /// kernel's swap on zram in a memory cgroup and a mapped file, which need root; and its tables.
    /// Linux only.
    #[arg(long, conflicts_with_all = ["smoke", "json"], group = "instead")]
    region: bool,
    /// Instead of the criterion benches, compare zswap-cache with other caches whose values are compressed with
    /// zstd, at equal growth of the resident set. Fetches three sets of JSON once, which needs Python's pip and npm
    /// (`apt-get install -y python3-pip npm`). Linux only.
    #[arg(long, conflicts_with_all = ["smoke", "filter", "json", "pages"], group = "instead")]
    caches: bool,
    /// With --writeback or --tenants: the seconds for each measurement. Default: 5, or 10.
    #[arg(long, value_name = "N", requires = "instead", conflicts_with_all = ["region", "caches"])]
    seconds: Option<u32>,
    /// With --writeback: a folder on disk for the device's file. Default: the system's folder for
    /// temporary files.
    #[arg(long, value_name = "DIR", requires = "writeback")]
    dir: Option<PathBuf>,
    /// With --peers or --codec: write the results to FILE as JSON, one object for each contestant
    /// and thread count, or for each codec and file.
    #[arg(long, value_name = "FILE", requires = "instead")]
    json: Option<PathBuf>,
    /// Take about a tenth of the time, for a first impression.
    #[arg(long)]
    quick: bool,
    /// Run each bench once without timing it, to see whether it works.
    #[arg(long, conflicts_with = "quick")]
    pub(crate) smoke: bool,
    /// Run only the benches with TEXT in their name, and the mutex pair. With --peers or --region, run
    /// only the contestants with TEXT in their name.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Use the pages of these .zst files of raw 4096-byte pages. Default: the corpus beside the
    /// checkout if there is one, else the small sample in the binary.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pages: Vec<PathBuf>,
}

impl Args {
    /// Returns the arguments that CI uses.
    pub(crate) fn smoke() -> Self {
        Args { smoke: true, ..Args::default() }
    }

    /// Returns the arguments that run the contestants of `xtask/peers` and write their figures to
    /// `json`.
    pub(crate) fn whole_system(json: PathBuf) -> Self {
        Args { peers: true, json: Some(json), ..Args::default() }
    }
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    if let Some(codecs) = &args.codec {
        let files = pages(ws, &args.pages);
        return peers::codecs(ws, codecs, args.quick, args.json.as_deref(), &files);
    }
    if args.peers {
        let (filter, json) = (args.filter.as_deref(), args.json.as_ref());
        let run = peers::Run { quick: args.quick, filter, json, pages: pages(ws, &args.pages) };
        return peers::measure(ws, &run);
    }
    if args.region {
        return peers::region(ws, args.quick, args.filter.as_deref(), &pages(ws, &args.pages));
    }
    if args.caches {
        return caches::measure(ws, args.quick);
    }
    if args.writeback {
        return writeback(ws, args);
    }
    if args.tenants {
        return tenants(ws, args);
    }
    let home = PathBuf::from(ws.target_dir("xtask-bench"));
    if home.exists() {
        let failed = |source| Error::Read { path: home.clone(), source };
        fs::remove_dir_all(&home).map_err(failed)?;
    }
    let files = pages(ws, &args.pages);
    let mut bench = Cmd::line("cargo bench -p zswap-cli --bench pages --")
        .env("CRITERION_HOME", home.display().to_string());
    if files.is_empty() {
        println!("bench: pages: the built-in sample");
    } else {
        let joined = std::env::join_paths(&files)
            .map_err(|source| Error::PagesPath { reason: source.to_string() })?;
        println!("bench: pages: {}", joined.to_string_lossy());
        bench = bench.env("ZSWAP_BENCH_PAGES", joined.to_string_lossy());
    }
    if args.smoke {
        return bench.arg("--test").run();
    }
    if args.quick {
        bench = bench.args(["--warm-up-time", "0.3", "--measurement-time", "0.5"]);
    }
    if let Some(filter) = &args.filter {
        // Criterion takes the filter as a regular expression.
        bench = bench.arg(format!("^{UNIT}$|{}", escaped(filter)));
    }
    bench.run()?;
    let mut times = Vec::new();
    collect(&home, &mut times)?;
    print!("{}", table(times)?);
    Ok(())
}

/// Runs the bench of two tenants.
fn tenants(ws: &Workspace, args: &Args) -> Result<()> {
    let mut bench = Cmd::line("cargo bench -p zswap-cli --bench tenants --");
    if let Some(seconds) = args.seconds {
        bench = bench.args(["--seconds", &seconds.to_string()]);
    }
    // Last, since it takes any number of files.
    bench.arg("--pages").args(peers::whole(&pages(ws, &args.pages))).run()
}

/// Runs the bench of writeback.
fn writeback(ws: &Workspace, args: &Args) -> Result<()> {
    let files = peers::whole(&pages(ws, &args.pages));
    if files.is_empty() {
        // A device must hold many segments before cleaning means anything.
        let why = format!(
            "there are no pages in {CORPUS}, and the built-in sample is too small to fill a \
                           device; give files of pages with --pages"
        );
        return Err(Error::NotRun { why });
    }
    if let Some(dir) = &args.dir {
        fs::read_dir(dir).map_err(|source| Error::Read { path: dir.clone(), source })?;
    }
    let mut bench = Cmd::line("cargo bench -p zswap-cli --bench writeback --");
    if let Some(seconds) = args.seconds {
        bench = bench.args(["--seconds", &seconds.to_string()]);
    }
    if let Some(dir) = &args.dir {
        bench = bench.arg("--dir").arg(dir.display().to_string());
    }
    // Last, since it takes any number of files.
    bench.arg("--pages").args(files).run()
}

/// Returns `given`, or the files of the corpus if `given` is empty. Returns nothing if there is no
/// corpus, either.
pub(crate) fn pages(ws: &Workspace, given: &[PathBuf]) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let corpus = fs::read_dir(ws.root().join(CORPUS)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = corpus
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".pages.zst"))
        .collect();
    files.sort();
    files
}

/// Returns a regular expression that matches `text` literally.
fn escaped(text: &str) -> String {
    let special = |c: char| !c.is_alphanumeric() && !c.is_whitespace() && c != '/' && c != '_';
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// A bench's name and its mean time in nanoseconds.
type Time = (String, f64);

/// Reads the times that criterion wrote in this run, and adds them to `times`. Criterion writes a
/// folder `new` for each bench.
fn collect(folder: &Path, times: &mut Vec<Time>) -> Result<()> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.ends_with("new") {
            let name = json(&path.join("benchmark.json"))?;
            let estimates = json(&path.join("estimates.json"))?;
            let mean = estimates["mean"]["point_estimate"].as_f64();
            match (name["full_id"].as_str(), mean) {
                (Some(name), Some(mean)) => times.push((name.to_owned(), mean)),
                _ => return Err(Error::Shape { command: "cargo bench".into(), key: "mean" }),
            }
        } else if path.is_dir() {
            collect(&path, times)?;
        }
    }
    Ok(())
}

fn json(path: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|source| Error::Json { command: "cargo bench".to_owned(), source })
}

fn table(mut times: Vec<Time>) -> Result<String> {
    let unit = times.iter().find(|(name, _)| name == UNIT).map(|(_, ns)| *ns);
    let Some(unit) = unit.filter(|_| times.len() > 1) else {
        return Err(Error::NothingRan { krate: "zswap-cli".to_owned(), what: "bench" });
    };
    times.sort_by(|a, b| a.0.cmp(&b.0));
    let width = times.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut table = format!("\n{:<width$} {:>10} {:>12}\n", "mean of", "ns", "mutex pairs");
    for (name, ns) in times {
        table.push_str(&format!("{name:<width$} {ns:>10.1} {:>12.2}\n", ns / unit));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_mutex_pairs_and_needs_one() {
        let times = vec![("b".to_owned(), 30.0), (UNIT.to_owned(), 10.0), ("a".to_owned(), 5.0)];
        let table = table(times.clone()).unwrap();
        let rows: Vec<Vec<&str>> =
            table.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["a", "5.0", "0.50"]);
        assert_eq!(rows[1], ["b", "30.0", "3.00"]);
        assert!(super::table(times[..1].to_vec()).is_err());
        assert!(super::table(times[1..2].to_vec()).is_err(), "nothing but the unit ran");
    }

    #[test]
    fn a_filter_is_taken_as_it_stands() {
        assert_eq!(escaped("zstd:level=-1/load(x)"), r"zstd\:level\=\-1/load\(x\)");
    }

    #[test]
    fn what_criterion_wrote_is_found_at_any_depth() {
        let home = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let new = home.join("a/b/new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("benchmark.json"), r#"{"full_id": "a/b"}"#).unwrap();
        fs::write(new.join("estimates.json"), r#"{"mean": {"point_estimate": 7.5}}"#).unwrap();
        let mut times = Vec::new();
        collect(&home, &mut times).unwrap();
        assert_eq!(times, [("a/b".to_owned(), 7.5)]);
        fs::write(new.join("estimates.json"), "{}").unwrap();
        assert!(collect(&home, &mut times).is_err());
        fs::remove_dir_all(&home).unwrap();
    }
}

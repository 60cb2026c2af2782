//! Tests how dense a store stays while the kinds and sizes of its pages drift. Pages are read,
//! overwritten, dropped and stored again. The pool bytes per compressed byte are recorded
//! throughout. There are three modes: without compaction, with compaction on demand, and with the
//! background compactor.
//!
//! The modes run at the same time, each with its own threads and store: the verdict is about
//! density, not speed. Every page that is read is compared in full.

mod churn;
mod content;
mod join;
mod mode;
mod sample;
mod verdict;
pub(crate) mod zipf;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use measure::PageSet;

use self::churn::{Churned, Plan};
use self::content::Contents;
use self::mode::Mode;
use self::sample::Sample;
use crate::error::{Error, Result};

/// The greatest number of bytes to read from the files.
const LIMIT: u64 = 4 << 30;
const OPERATIONS: u64 = 100_000_000;
const QUICK_OPERATIONS: u64 = 1_000_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do only a million operations in each mode.
    #[arg(long)]
    quick: bool,
    /// The number of operations in each mode. Default: 100 million, or a million with --quick.
    #[arg(long, value_name = "N", conflicts_with = "quick")]
    operations: Option<u64>,
    /// The number of threads in each mode.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Run only these modes, separated by commas. Default: all three.
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    modes: Vec<Mode>,
    #[arg(long, default_value = "zsmalloc")]
    zpool: String,
    #[arg(long, default_value = "lz4")]
    compressor: String,
    /// Write the samples to FILE, each as a JSON object on its own line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Files of raw pages. A file whose name ends in .zst is decompressed first. Default: the
    /// built-in sample.
    files: Vec<PathBuf>,
}

/// Runs the modes and prints the verdict. Returns false if the background compactor did not keep
/// the pool as dense as required. After a quick run always returns true.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let contents = {
        let set = PageSet::load(&args.files, LIMIT)?;
        println!("pages: {}", set.origin());
        Contents::new(&set)?
    };
    let short = if args.quick { QUICK_OPERATIONS } else { OPERATIONS };
    let plan = Plan {
        operations: args.operations.unwrap_or(short).max(1),
        threads: args.threads.max(1),
        zpool: args.zpool.clone(),
        compressor: args.compressor.clone(),
    };
    let modes = if args.modes.is_empty() { Mode::ALL.to_vec() } else { args.modes.clone() };
    let churned = thread::scope(|scope| {
        let start = |&mode| {
            let (plan, contents) = (&plan, &contents);
            scope.spawn(move || churn::run(mode, plan, contents))
        };
        let running: Vec<_> = modes.iter().map(start).collect();
        running.into_iter().map(join::join).collect::<Result<Vec<Churned>>>()
    })?;
    if let Some(path) = &args.json {
        let samples = churned.iter().flat_map(|churned| &churned.samples);
        write(path, samples).map_err(|reason| Error::System {
            what: "cannot write",
            path: path.display().to_string(),
            reason,
        })?;
    }
    let (text, holds) = verdict::render(&churned);
    print!("{text}");
    // A quick run goes through the same drift in a hundredth of the operations. So its verdict is
    // printed but does not count.
    Ok(holds || args.quick)
}

fn write<'a>(path: &Path, samples: impl Iterator<Item = &'a Sample>) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for sample in samples {
        serde_json::to_writer(&mut file, sample)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}
